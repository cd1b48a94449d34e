//! Who takes part in a session, and who of them can be reached.
//!
//! Members are known by their full name with id, so two instances of one service are two members
//! (DESIGN decision 12).

use std::collections::BTreeMap;
use std::time::Instant;

use super::sender::Audience;
use super::Direction;
use crate::limits;
use crate::name::{EncodedName, Name};
use crate::router::ConnectionId;
use crate::wire::{Participant, ParticipantSettings, ParticipantState};

/// Another member of the session.
#[derive(Clone, Debug)]
pub(super) struct Member {
    direction: Direction,
    /// It can be reached, as far as we know.
    pub(super) online: bool,
    /// It said itself that it is away: only it can say that it is back.
    pub(super) away: bool,
    /// It has said so, but gets new keys first.
    coming: bool,
    /// It has confirmed its welcome: data may be sent to it.
    pub(super) ready: bool,
    /// It came after this side: its data begins with number 1.
    pub(super) newer: bool,
    /// The connection that it was heard over last.
    pub(super) via: Option<ConnectionId>,
    /// Looks at it since something was heard.
    silent: u32,
    /// When something was heard last.
    heard: Option<Instant>,
}

impl Member {
    /// Whether it takes what is published.
    pub(super) fn receives(&self) -> bool {
        self.direction.receives()
    }

    /// How it is described to others.
    pub(super) fn describe(&self, name: &Name) -> Participant {
        describe(name, self.direction, self.online)
    }
}

/// The other members of a session.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<Name, Member>,
}

impl Roster {
    /// Takes a member in, as it describes itself; one that is known stays as it is. `newer`: it came
    /// after this side. `None` if the description is malformed, or there are too many.
    pub(super) fn add(&mut self, participant: &Participant, newer: bool) -> Option<Name> {
        let name = Name::from_wire(participant.name.as_ref()?)?;
        let settings = participant.settings.as_ref()?;
        if self.is_full() && !self.members.contains_key(&name) {
            return None;
        }
        let online = participant.status == ParticipantState::Online as i32;
        self.members.entry(name.clone()).or_insert_with(|| Member {
            direction: Direction::from_wire(*settings),
            online,
            away: false,
            coming: false,
            ready: false,
            newer,
            via: None,
            silent: 0,
            heard: None,
        });
        Some(name)
    }

    /// A member is gone. `false`: there was none of this name.
    pub(super) fn remove(&mut self, name: &Name) -> bool {
        self.members.remove(name).is_some()
    }

    /// The member of this name.
    pub(super) fn get(&self, name: &Name) -> Option<&Member> {
        self.members.get(name)
    }

    /// Those who are meant by a name: an instance, or all instances of a service.
    pub(super) fn meant_by(&self, name: &Name) -> Vec<Name> {
        let exact = !name.id().is_null();
        let meant = |known: &&Name| match exact {
            true => *known == name,
            false => known.components() == name.components(),
        };
        self.names().filter(meant).cloned().collect()
    }

    /// The full name that has this encoded form.
    pub(super) fn named(&self, name: EncodedName) -> Option<&Name> {
        self.members.keys().find(|known| known.encoded() == name)
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.members.keys()
    }

    /// All members.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Member)> {
        self.members.iter()
    }

    /// There are as many members as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.members.len() >= limits::MEMBERS
    }

    /// Nobody else takes part.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whom a message sent now is for.
    pub(super) fn audience(&self) -> Audience {
        let able = |member: &Member| member.ready && member.direction.receives();
        let able = self.members.iter().filter(|(_, member)| able(member));
        Audience(able.map(|(name, member)| (name.clone(), member.online)).collect())
    }

    /// Something was heard of a member, over this connection if it was proved to come from there.
    /// `true`: it was offline and is back.
    pub(super) fn heard(&mut self, name: &Name, via: Option<ConnectionId>, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(name) else {
            return false;
        };
        member.silent = 0;
        member.heard = Some(now);
        member.via = via.or(member.via);
        !member.away && !std::mem::replace(&mut member.online, true)
    }

    /// Whether something was heard of a member after this moment.
    pub(super) fn heard_since(&self, name: &Name, moment: Instant) -> bool {
        self.members.get(name).and_then(|member| member.heard).is_some_and(|heard| heard > moment)
    }

    /// A member does not answer. `true`: that is news.
    pub(super) fn set_offline(&mut self, name: &Name) -> bool {
        match self.members.get_mut(name) {
            Some(member) => std::mem::replace(&mut member.online, false),
            None => false,
        }
    }

    /// A member is back. `true`: that is news.
    pub(super) fn set_online(&mut self, name: &Name) -> bool {
        match self.members.get_mut(name) {
            Some(member) => {
                member.silent = 0;
                !std::mem::replace(&mut member.online, true)
            }
            None => false,
        }
    }

    /// A member says that it is away, or back.
    pub(super) fn set_away(&mut self, name: &Name, away: bool) {
        if let Some(member) = self.members.get_mut(name) {
            (member.away, member.coming) = (away, false);
        }
    }

    /// A member says that it is back, but has to get new keys first.
    pub(super) fn set_coming(&mut self, name: &Name) {
        if let Some(member) = self.members.get_mut(name) {
            member.coming = true;
        }
    }

    /// Whether a member that gets new keys is back with them: not if it has gone away since it asked.
    pub(super) fn is_back_with_keys(&self, name: &Name) -> bool {
        self.members.get(name).is_some_and(|member| !member.away || member.coming)
    }

    /// A member has confirmed its welcome.
    pub(super) fn set_ready(&mut self, name: &Name) {
        if let Some(member) = self.members.get_mut(name) {
            member.ready = true;
        }
    }

    /// Whatever this member sends next begins a stream.
    pub(super) fn follow_from_now(&mut self, name: &Name) {
        if let Some(member) = self.members.get_mut(name) {
            member.newer = false;
        }
    }

    /// Whatever the members send next begins a stream: what came before was not followed.
    pub(super) fn follow_anew(&mut self) {
        for member in self.members.values_mut() {
            member.newer = false;
            member.silent = 0;
        }
    }

    /// Counts one look at everybody; those who have been silent for too long are returned.
    pub(super) fn silent(&mut self) -> Vec<Name> {
        let mut gone = Vec::new();
        for (name, member) in self.members.iter_mut().filter(|(_, member)| member.online) {
            member.silent += 1;
            if member.silent >= limits::MISSED_HEARTBEATS {
                gone.push(name.clone());
            }
        }
        gone
    }

    /// How the members are described to others.
    pub(super) fn describe(&self) -> Vec<Participant> {
        self.iter().map(|(name, member)| member.describe(name)).collect()
    }
}

/// How a member describes itself on the wire.
pub(super) fn describe(name: &Name, direction: Direction, online: bool) -> Participant {
    let status = if online { ParticipantState::Online } else { ParticipantState::Offline };
    let (sends_data, receives_data) = (direction.sends(), direction.receives());
    Participant {
        name: Some(name.to_wire()),
        settings: Some(ParticipantSettings { sends_data, receives_data }),
        status: status as i32,
    }
}
