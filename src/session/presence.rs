//! Going away from a group for a while, and coming back: the member stays in it (spec 03 section
//! 7.7).

use super::{Context, Kind, OpId, Outgoing, Phase, Session};
use crate::error::Error;
use crate::limits;
use crate::name::Name;
use crate::wire::{
    CommandPayloadType, ParticipantState, SessionMessageType, UpdateParticipantStatePayload,
};

/// Whether this side takes part at the moment.
#[derive(Debug, Default)]
pub(super) struct Presence {
    away: bool,
    changing: Option<Changing>,
}

/// The others are being told.
#[derive(Debug)]
struct Changing {
    away: bool,
    message_id: u32,
    op: Option<OpId>,
}

impl Session {
    /// Goes away, or comes back. `op` is answered when everybody who can be reached knows.
    pub(crate) fn set_presence(&mut self, away: bool, op: Option<OpId>, cx: &mut Context<'_>) {
        if let Err(error) = self.may_change_presence(away) {
            return self.done(op, Err(error));
        }
        let Some(control) = self.channels.as_ref().map(|channels| channels.control.clone()) else {
            return;
        };
        if !away {
            // What came meanwhile is not asked for.
            self.roster.follow_anew();
        }
        let message_id = cx.message_id();
        let state = if away { ParticipantState::Offline } else { ParticipantState::Online };
        let payload = CommandPayloadType::UpdateParticipantState(UpdateParticipantStatePayload {
            participant: Some(self.me.to_wire()),
            new_state: state as i32,
            epoch: self.epoch().unwrap_or(0),
        });
        let kind = SessionMessageType::UpdateParticipantState;
        let mut message = Outgoing::control(kind, &control, message_id, payload);
        message.fanout = limits::FANOUT_ALL;
        let online = self.roster.iter().filter(|(_, member)| member.online);
        let online: Vec<Name> = online.map(|(name, _)| name.clone()).collect();
        let alone = online.is_empty();
        self.presence.changing = Some(Changing { away, message_id, op });
        self.request(message, online, cx);
        if alone {
            self.requests.cancel(message_id);
            self.on_presence_told(message_id);
        }
    }

    fn may_change_presence(&self, away: bool) -> Result<(), Error> {
        let what = if away { "suspend" } else { "rejoin" };
        if self.config.kind == Kind::PointToPoint {
            let text = format!("cannot {what} a point-to-point session");
            return Err(Error::NotAllowed(text));
        }
        if !matches!(self.phase, Phase::Open) {
            return Err(Error::closed("session"));
        }
        if self.presence.changing.is_some() || self.has_tasks() {
            let text = format!("cannot {what} the session now: something else is being changed");
            return Err(Error::NotAllowed(text));
        }
        if self.presence.away == away {
            let text = format!("cannot {what} the session: it is {}", self.presence.words());
            return Err(Error::NotAllowed(text));
        }
        Ok(())
    }

    /// Everybody knows, or cannot be reached.
    pub(super) fn on_presence_told(&mut self, message_id: u32) -> bool {
        let changing = self.presence.changing.take_if(|c| c.message_id == message_id);
        let Some(Changing { away, op, .. }) = changing else {
            return false;
        };
        self.presence.away = away;
        if away {
            self.pause_receivers();
        } else if self.is_rejoining() {
            self.done_with_keys(op);
            return true;
        }
        self.done(op, Ok(()));
        true
    }

    /// Whether the others are being told with this message that this side is back.
    pub(super) fn is_changing_presence(&self, message_id: u32) -> bool {
        self.presence.changing.as_ref().is_some_and(|c| c.message_id == message_id && !c.away)
    }

    /// The session ends.
    pub(super) fn abort_presence(&mut self) {
        if let Some(changing) = self.presence.changing.take() {
            self.done(changing.op, Err(Error::closed("session")));
        }
        self.abort_rejoin();
    }

    /// Whether nothing is taken. Whoever has said that it is back is here: what others have kept for
    /// it comes at once.
    pub(super) fn is_away(&self) -> bool {
        let coming = self.presence.changing.as_ref().is_some_and(|changing| !changing.away);
        self.presence.away && !coming
    }

    /// Whether this side is away, or the others are being told that it will be: a sign of life would
    /// take that back.
    pub(super) fn is_going(&self) -> bool {
        self.presence.away || self.presence.changing.as_ref().is_some_and(|c| c.away)
    }

    /// Whether this side takes part at the moment.
    pub(super) fn check_here(&self) -> Result<(), Error> {
        match self.is_going() {
            true => Err(Error::NotAllowed("the session is suspended".to_owned())),
            false => Ok(()),
        }
    }

    /// Another member says that it goes away or is back.
    pub(super) fn set_away(&mut self, name: &Name, away: bool, cx: &mut Context<'_>) {
        self.roster.set_away(name, away);
        if away && self.config.reliable.is_none() {
            // It could hear all that until now.
            self.was_heard(name);
        }
        match away {
            true => self.went_offline(name),
            false => self.is_back(name, cx),
        }
    }
}

impl Presence {
    fn words(&self) -> &'static str {
        if self.away {
            "suspended"
        } else {
            "not suspended"
        }
    }
}
