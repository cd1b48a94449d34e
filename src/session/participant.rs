//! The side that was invited (spec 03 section 6).

use std::time::Instant;

use super::moderator::leave_reply;
use super::request::Answer;
use super::{config, SessionConfig};
use super::{roster, Context, Incoming, Kind, Outgoing, Output, Phase, Retry, Role, Session};
use crate::limits;
use crate::name::Name;
use crate::wire::{CommandPayloadType, JoinReplyPayload, JoinRequestPayload, SessionMessageType};

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
            State::Joined => None,
        }
    }
}

impl Session {
    /// Accepts an invitation that has been verified. `Err` says why it cannot be.
    pub(crate) fn invited(
        id: u32,
        me: Name,
        message: &Incoming,
        cx: &mut Context<'_>,
    ) -> Result<Session, &'static str> {
        let Some(CommandPayloadType::JoinRequest(request)) = message.command() else {
            return Err("a JOIN_REQUEST without its payload");
        };
        let JoinRequestPayload { timer_settings, channel, control, mls_settings } = request;
        if channel.is_some() || control.is_some() {
            return Err("groups are not supported yet");
        }
        if mls_settings.is_some() {
            return Err("MLS is not supported yet");
        }
        let config = SessionConfig {
            kind: Kind::PointToPoint,
            reliable: timer_settings.map(Retry::from_wire),
            metadata: config::visible(message.metadata.clone()),
        };
        let payload = CommandPayloadType::JoinReply(JoinReplyPayload {
            key_package: None,
            participant: Some(roster::describe(&me, true, true)),
        });
        let moderator = message.source.clone();
        let kind = SessionMessageType::JoinReply;
        let reply = Outgoing::control(kind, &moderator, message.message_id, payload);
        let retry = config.control_retry();
        // The moderator gives up after this; a welcome may be on its way for one more try.
        let wait = retry.total().saturating_add(retry.interval).min(limits::WELCOME_WAIT);
        let until = cx.now.mono + wait;
        let state = State::Joining { reply: reply.clone(), until };
        let role = Role::Participant(Participant { moderator: moderator.clone(), state });
        let mut session = Session::new(id, config, me, moderator, role, cx.now);
        session.via = Some(message.connection);
        session.out.push(Output::Send(reply));
        Ok(session)
    }

    fn participant(&mut self) -> Option<&mut Participant> {
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

    pub(super) fn on_welcome(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let me = self.me.clone();
        let Some(participant) = self.participant() else {
            return;
        };
        let Some(CommandPayloadType::GroupWelcome(welcome)) = message.command() else {
            return log::warn!("session {}: a GROUP_WELCOME without its payload", self.id);
        };
        let first = !participant.has_joined();
        participant.state = State::Joined;
        if first {
            let moderator = participant.moderator.clone();
            for member in &welcome.participants {
                let name = member.name.as_ref().and_then(Name::from_wire);
                // Two take part. Others would be sent our heartbeats, and our data.
                if self.config.kind == Kind::PointToPoint
                    && name.as_ref().is_some_and(|name| *name != me && *name != moderator)
                {
                    log::warn!("session {}: the welcome names a third party", self.id);
                    continue;
                }
                if name.as_ref() != Some(&me) && self.roster.add(member).is_none() {
                    log::warn!("session {}: a malformed member in the welcome", self.id);
                }
            }
            for name in self.roster.names().cloned().collect::<Vec<_>>() {
                self.roster.set_ready(&name);
            }
        }
        self.out.push(Output::Send(Outgoing::group_ack(message)));
        if first {
            self.out.push(Output::Accepted);
            self.flush_kept(cx);
        }
    }

    /// Somebody leaves: a participant (then this is the moderator), or we are removed.
    pub(super) fn on_leave_request(&mut self, message: &Incoming) {
        match self.role {
            Role::Moderator(_) => {
                if self.roster.get(&message.source).is_some() {
                    self.on_leaving(message);
                }
            }
            Role::Participant(_) => {
                let reply = leave_reply(message);
                self.out.push(Output::Send(reply.clone()));
                self.end("removed by the moderator", Some(reply));
            }
        }
    }

    pub(super) fn on_leave_reply(&mut self, message: &Incoming) {
        if self.requests.answer(message.message_id, &message.source) == Answer::Complete {
            self.on_goodbye_answered(message.message_id, &[]);
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
