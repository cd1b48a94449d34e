//! The side that was invited (spec 03 section 6).

use std::time::Instant;

use super::credentials::Credentials;
use super::encryption::Encryption;
use super::moderator::leave_reply;
use super::{config, SessionConfig};
use super::{
    roster, Channels, Context, Direction, Event, Incoming, Kind, Mls, Outgoing, Output, Phase,
    Retry, Role, Session,
};
use crate::error::Error;
use crate::limits;
use crate::name::{channel_ids, Name};
use crate::router::ConnectionId;
use crate::wire::{
    self, CommandPayloadType, Empty, GroupUpdateOp, JoinReplyPayload, JoinRequestPayload,
    ParticipantState, SessionMessageType,
};

/// What only a participant knows.
#[derive(Debug)]
pub(super) struct Participant {
    moderator: Name,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The invitation is answered, the welcome has not come.
    Joining {
        reply: Outgoing,
        until: Instant,
    },
    /// The welcome has come; it is confirmed when the channels of the group are subscribed.
    Entering {
        ack: Outgoing,
        over: ConnectionId,
    },
    Joined,
}

impl Participant {
    pub(super) fn moderator(&self) -> &Name {
        &self.moderator
    }

    pub(super) fn has_joined(&self) -> bool {
        matches!(self.state, State::Joined)
    }

    pub(super) fn joining_until(&self) -> Option<Instant> {
        match &self.state {
            State::Joining { until, .. } => Some(*until),
            State::Entering { .. } | State::Joined => None,
        }
    }
}

impl Session {
    /// Accepts an invitation that has been verified: it is of this identity. `Err` says why it cannot
    /// be.
    pub(crate) fn invited(
        id: u32,
        me: Name,
        kind: Kind,
        direction: Direction,
        message: &Incoming,
        (credentials, moderator_subject): (&Credentials, &str),
        cx: &mut Context<'_>,
    ) -> Result<Session, String> {
        let Some(CommandPayloadType::JoinRequest(request)) = message.command() else {
            return Err("a JOIN_REQUEST without its payload".to_owned());
        };
        let JoinRequestPayload { timer_settings, mls_settings, .. } = request;
        let channels = match kind {
            Kind::Group => Some(channels(request)?),
            Kind::PointToPoint if request.channel.is_some() || request.control.is_some() => {
                return Err("channels in an invitation to two".to_owned());
            }
            Kind::PointToPoint => None,
        };
        let config = SessionConfig {
            kind,
            reliable: timer_settings.map(Retry::from_wire),
            anycast: false,
            direction,
            mls: mls_settings.map(Mls::from_wire),
            metadata: config::visible(message.metadata.clone()),
        };
        let mut encryption =
            config.mls.map(|mls| Encryption::new(credentials, moderator_subject, mls));
        let key_package = match &mut encryption {
            Some(encryption) => Some(encryption.apply(cx).map_err(|error| error.to_string())?),
            None => None,
        };
        let payload = CommandPayloadType::JoinReply(JoinReplyPayload {
            key_package,
            participant: Some(roster::describe(&me, direction, true)),
        });
        let moderator = message.source.clone();
        let reply = Outgoing::answer(message, SessionMessageType::JoinReply, payload);
        let retry = config.control_retry();
        // The moderator gives up after this; a welcome may be on its way for one more try.
        let wait = retry.total().saturating_add(retry.interval).min(limits::WELCOME_WAIT);
        let until = cx.now.mono + wait;
        let state = State::Joining { reply: reply.clone(), until };
        let destination = match &channels {
            Some(channels) => channels.data.with_id(crate::name::NameId::NULL),
            None => moderator.clone(),
        };
        let role = Role::Participant(Participant { moderator, state });
        let mut session = Session::new(id, config, me, destination, role, cx.now);
        session.via = Some(message.connection);
        session.channels = channels;
        session.encryption = encryption;
        session.out.push(Output::Send(reply));
        Ok(session)
    }

    /// Whether the channels are those that a moderator of this identity makes.
    pub(crate) fn has_channels_of(&self, subject: &str) -> bool {
        self.channels.as_ref().is_none_or(|channels| {
            channel_ids(subject, &channels.data) == (channels.data.id(), channels.control.id())
        })
    }

    pub(super) fn participant(&mut self) -> Option<&mut Participant> {
        match &mut self.role {
            Role::Participant(participant) => Some(participant),
            Role::Moderator(_) => None,
        }
    }

    /// The invitation once more: our answer was lost. After the welcome it means nothing, and a
    /// published moderator would not survive a second answer (DESIGN decision 11).
    pub(super) fn on_join_request(&mut self, message: &Incoming) {
        let Some(participant) = self.participant() else {
            return;
        };
        if let State::Joining { reply, .. } = &participant.state {
            if participant.moderator == message.source && reply.message_id == message.message_id {
                let again = reply.clone();
                self.out.push(Output::Send(again));
            }
        }
    }

    /// The moderator lets us in. `false`: it cannot be.
    pub(super) fn on_welcome(&mut self, message: &Incoming, cx: &mut Context<'_>) -> bool {
        let id = self.id;
        let Some(participant) = self.participant() else {
            return false;
        };
        let Some(CommandPayloadType::GroupWelcome(welcome)) = message.command() else {
            log::warn!("session {id}: a GROUP_WELCOME without its payload");
            return false;
        };
        // This side is one of them.
        if welcome.participants.len() > limits::MEMBERS + 1 {
            log::warn!("session {id}: a GROUP_WELCOME to more than {} members", limits::MEMBERS);
            return false;
        }
        let ack = Outgoing::group_ack(message);
        match participant.state {
            State::Joining { .. } => {
                if let Err(error) = self.enter_encryption(welcome.mls.as_ref(), cx) {
                    log::warn!("session {}: the welcome was refused: {error}", self.id);
                    return false;
                }
                let over = message.connection;
                if let Some(participant) = self.participant() {
                    participant.state = State::Entering { ack, over };
                }
                self.meet(&welcome.participants);
                if self.join_channels(over) {
                    self.participant_joined(over, Ok(()), cx);
                }
            }
            State::Entering { .. } => {}
            State::Joined => self.out.push(Output::Send(ack)),
        }
        true
    }

    /// Takes in those who are there already.
    fn meet(&mut self, participants: &[wire::Participant]) {
        let (me, moderator) = (self.me.clone(), self.moderator_name().clone());
        for member in participants {
            let name = member.name.as_ref().and_then(Name::from_wire);
            // Two take part. Others would be sent our heartbeats, and our data.
            if self.config.kind == Kind::PointToPoint
                && name.as_ref().is_some_and(|name| *name != me && *name != moderator)
            {
                log::warn!("session {}: the welcome names a third party", self.id);
                continue;
            }
            if name.as_ref() != Some(&me) && self.roster.add(member, false).is_none() {
                log::warn!("session {}: a malformed member in the welcome", self.id);
            }
        }
        for name in self.roster.names().cloned().collect::<Vec<_>>() {
            self.roster.set_ready(&name);
        }
    }

    /// The channels are subscribed over a connection, or could not be. If it is the one that the welcome
    /// came over, nothing of the group is missed from now on, and the moderator may know.
    pub(super) fn participant_joined(
        &mut self,
        connection: ConnectionId,
        result: Result<(), Error>,
        cx: &mut Context<'_>,
    ) {
        let Some(participant) = self.participant() else { return };
        let State::Entering { ack, over } = &participant.state else { return };
        if *over != connection {
            return;
        }
        if let Err(error) = result {
            return self.end(&format!("the group cannot be entered: {error}"), None);
        }
        let ack = ack.clone();
        participant.state = State::Joined;
        self.out.push(Output::Send(ack));
        self.out.push(Output::Accepted);
        self.flush_kept(cx);
    }

    /// Somebody came or went, or keys have changed. `false`: it is neither taken nor confirmed.
    pub(super) fn on_group_update(&mut self, message: Incoming, cx: &mut Context<'_>) -> bool {
        // One that comes before our welcome is confirmed will come again. Between two nothing changes,
        // except keys.
        let means_something = self.config.kind == Kind::Group || self.is_encrypted();
        if !means_something || !self.participant().is_some_and(|p| p.has_joined()) {
            return false;
        }
        match self.is_encrypted() {
            true => self.on_commit(message, cx),
            false => self.take_update(&message, !message.repeated, cx),
        }
    }

    /// Confirms a change, and takes it over if it is `new`.
    pub(super) fn take_update(
        &mut self,
        message: &Incoming,
        new: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(CommandPayloadType::GroupUpdate(update)) = message.command() else {
            log::warn!("session {}: a GROUP_UPDATE without its payload", self.id);
            return false;
        };
        if new && self.config.kind == Kind::Group {
            if let Err(why) = self.apply(update, cx) {
                log::warn!("session {}: a GROUP_UPDATE that cannot be followed: {why}", self.id);
                return false;
            }
        }
        self.out.push(Output::Send(Outgoing::group_ack(message)));
        true
    }

    fn apply(
        &mut self,
        update: &wire::GroupUpdatePayload,
        cx: &mut Context<'_>,
    ) -> Result<(), &'static str> {
        let member = update.participant.as_ref().ok_or("nobody is named")?;
        let name = member.name.as_ref().and_then(Name::from_wire).ok_or("nobody is named")?;
        let op = GroupUpdateOp::try_from(update.op).map_err(|_| "an unknown change")?;
        if name == self.me {
            return Ok(());
        }
        match op {
            GroupUpdateOp::Add => {
                if member.settings.is_none() {
                    return Err("a member without settings");
                }
                // One who is known has left, which was not heard, and has come again.
                self.member_left(&name, cx);
                self.roster.add(member, true).ok_or("too many members")?;
                self.roster.set_ready(&name);
                self.flush_kept(cx);
            }
            GroupUpdateOp::Remove => self.member_left(&name, cx),
            GroupUpdateOp::Rejoin => self.has_keys(&name, cx),
        }
        Ok(())
    }

    pub(super) fn member_left(&mut self, name: &Name, cx: &mut Context<'_>) {
        if self.roster.get(name).is_some() {
            self.forget_member(name, cx);
            self.event(Event::PeerLeft(name.clone()));
        }
    }

    /// A member goes away for a while, or is back (spec 03 section 7.7). `false`: it is not known, yet.
    pub(super) fn on_participant_state(
        &mut self,
        message: &Incoming,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(CommandPayloadType::UpdateParticipantState(update)) = message.command() else {
            log::warn!("session {}: no new state in {:?}", self.id, message.kind);
            return false;
        };
        let name = update.participant.as_ref().and_then(Name::from_wire);
        if name.as_ref() != Some(&message.source) || self.roster.get(&message.source).is_none() {
            let source = &message.source;
            log::warn!("session {}: a state of somebody else from {source}", self.id);
            return false;
        }
        let away = update.new_state == ParticipantState::Offline as i32;
        if !away && self.epoch().is_some_and(|epoch| update.epoch < epoch) {
            // It is back when it has the present keys.
            self.roster.set_coming(&message.source);
            let nack = CommandPayloadType::GroupNack(Empty {});
            let nack = Outgoing::answer(message, SessionMessageType::GroupNack, nack);
            self.out.push(Output::Send(nack));
            return false;
        }
        // First the answer: what was kept for it comes when it is here.
        self.out.push(Output::Send(Outgoing::group_ack(message)));
        if !message.repeated {
            self.set_away(&message.source, away, cx);
        }
        true
    }

    /// Somebody leaves: a participant (then this is the moderator), or we are removed.
    pub(super) fn on_leave_request(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        match self.role {
            Role::Moderator(_) => self.on_leaving(message, cx),
            Role::Participant(_) => {
                let reply = leave_reply(message);
                self.out.push(Output::Send(reply.clone()));
                self.end("removed by the moderator", Some(reply));
            }
        }
    }

    pub(super) fn on_group_close(&mut self, message: &Incoming) {
        if self.participant().is_none() {
            return;
        }
        let reply = Outgoing::group_ack(message);
        self.out.push(Output::Send(reply.clone()));
        self.end("closed by the moderator", Some(reply));
    }

    /// An invitation that no welcome follows is forgotten.
    pub(super) fn participant_timeout(&mut self, cx: &Context<'_>) {
        let now = cx.now.mono;
        let late = self.participant().and_then(|p| p.joining_until()).is_some_and(|at| at <= now);
        if late && !matches!(self.phase, Phase::Ended) {
            self.end("no welcome followed the invitation", None);
        }
    }
}

/// The channels that an invitation names: two instances of one name.
fn channels(request: &JoinRequestPayload) -> Result<Channels, String> {
    let read = |name: &Option<wire::Name>| {
        let name = name.as_ref().and_then(Name::from_wire);
        name.filter(|name| !name.id().is_null())
    };
    let (Some(data), Some(control)) = (read(&request.channel), read(&request.control)) else {
        return Err("an invitation to a group without its channels".to_owned());
    };
    if data.components() != control.components() || data.id() == control.id() {
        return Err(format!("{data} and {control} are not the channels of one group"));
    }
    Ok(Channels::named(data, control))
}
