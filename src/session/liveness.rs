//! Who is there: heartbeats, silence, coming back (spec 03 section 8).

use super::{Context, Event, Incoming, Kind, Outgoing, Output, Session};
use crate::limits;
use crate::name::Name;
use crate::wire::{CommandPayloadType, HeartbeatPayload, SessionMessageType};

/// The epoch in heartbeats of sessions without MLS.
pub(super) const NO_EPOCH: u64 = u64::MAX;

impl Session {
    /// A member was heard of, whatever it said.
    pub(super) fn heard(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let name = &message.source;
        if message.kind == SessionMessageType::Heartbeat {
            self.roster.set_away(name, false);
        }
        if message.kind.is_control() {
            self.follow_to(message.connection);
        }
        // Data is not signed: it leads to no other connection.
        let via = message.kind.is_control().then_some(message.connection);
        if self.roster.heard(name, via, cx.now.mono) {
            self.came_back(name, cx);
        }
    }

    /// A member says that it is back.
    pub(super) fn is_back(&mut self, name: &Name, cx: &mut Context<'_>) {
        if self.roster.set_online(name) {
            self.came_back(name, cx);
        }
    }

    fn came_back(&mut self, name: &Name, cx: &mut Context<'_>) {
        self.event(Event::PeerOnline(name.clone()));
        // It may have missed that this side is there.
        self.spoke &= self.config.kind == Kind::PointToPoint;
        self.check_reach_of(name, cx);
        self.flush_kept(cx);
        self.moderator_heard(name, cx);
    }

    /// A member does not answer.
    pub(super) fn went_offline(&mut self, name: &Name) {
        if !self.roster.set_offline(name) {
            return;
        }
        self.event(Event::PeerOffline(name.clone()));
        let mut out = Vec::new();
        self.sender.offline(name, &mut out);
        self.handle_sender(out);
    }

    /// Every ten seconds: who was silent for too long, and a sign of life of our own.
    pub(super) fn look_around(&mut self, cx: &mut Context<'_>) {
        self.look = cx.now.mono + limits::HEARTBEAT;
        if !self.has_joined() || self.is_going() {
            return;
        }
        for name in self.roster.silent() {
            self.went_offline(&name);
        }
        self.check_reach(cx);
        let nobody = !self.roster.iter().any(|(_, member)| member.online);
        if std::mem::take(&mut self.spoke) && !nobody {
            return;
        }
        let (to, fanout) = match &self.channels {
            Some(channels) => (Some(&channels.control), limits::FANOUT_ALL),
            None => (self.roster.names().next(), 1),
        };
        let Some(to) = to else { return };
        let id = cx.message_id();
        let payload = CommandPayloadType::Heartbeat(HeartbeatPayload {
            epoch: self.epoch().unwrap_or(NO_EPOCH),
        });
        let mut heartbeat = Outgoing::control(SessionMessageType::Heartbeat, to, id, payload);
        heartbeat.fanout = fanout;
        self.out.push(Output::Send(heartbeat));
    }
}
