//! Who takes part in a session, and who of them can be reached.
//!
//! Members are known by their full name with id, so two instances of one service are two members
//! (DESIGN decision 12).

use std::collections::BTreeMap;
use std::time::Instant;

use crate::limits;
use crate::name::{EncodedName, Name};
use crate::wire::{Participant, ParticipantSettings, ParticipantState};

/// Another member of the session.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// It takes messages and acknowledges them.
    pub(super) receives_data: bool,
    /// It can be reached, as far as we know.
    pub(super) online: bool,
    /// It has confirmed its welcome: data may be sent to it.
    pub(super) ready: bool,
    /// Looks at it since something was heard.
    silent: u32,
    /// When something was heard last.
    heard: Option<Instant>,
}

/// The other members of a session.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<Name, Member>,
}

impl Roster {
    /// Takes a member in, as it describes itself. `None` if the description is malformed.
    pub(super) fn add(&mut self, participant: &Participant) -> Option<Name> {
        let name = Name::from_wire(participant.name.as_ref()?)?;
        let settings = participant.settings.as_ref()?;
        let online = participant.status == ParticipantState::Online as i32;
        let receives_data = settings.receives_data;
        let member = Member { receives_data, online, ready: false, silent: 0, heard: None };
        self.members.insert(name.clone(), member);
        Some(name)
    }

    /// The member of this name.
    pub(super) fn get(&self, name: &Name) -> Option<&Member> {
        self.members.get(name)
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

    /// Those from whom a message sent now is to be acknowledged.
    pub(super) fn receivers(&self) -> impl Iterator<Item = &Name> {
        let able = |member: &Member| member.online && member.ready && member.receives_data;
        self.members.iter().filter(move |(_, member)| able(member)).map(|(name, _)| name)
    }

    /// Something was heard of a member. `true`: it was offline and is back.
    pub(super) fn heard(&mut self, name: &Name, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(name) else {
            return false;
        };
        member.silent = 0;
        member.heard = Some(now);
        !std::mem::replace(&mut member.online, true)
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

    /// A member has confirmed its welcome.
    pub(super) fn set_ready(&mut self, name: &Name) {
        if let Some(member) = self.members.get_mut(name) {
            member.ready = true;
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
}

/// How a member describes itself on the wire.
pub(super) fn describe(name: &Name, receives_data: bool, online: bool) -> Participant {
    let status = if online { ParticipantState::Online } else { ParticipantState::Offline };
    Participant {
        name: Some(name.to_wire()),
        settings: Some(ParticipantSettings { sends_data: true, receives_data }),
        status: status as i32,
    }
}
