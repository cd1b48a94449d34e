//! Who is there: heartbeats, silence, coming back (spec 03 section 8).

use super::{Context, Event, Outgoing, Output, Session};
use crate::limits;
use crate::name::Name;
use crate::wire::{CommandPayloadType, HeartbeatPayload, SessionMessageType};

/// The epoch in heartbeats of sessions without MLS.
const NO_EPOCH: u64 = u64::MAX;

impl Session {
    /// A member was heard of, whatever it said.
    pub(super) fn heard(&mut self, name: &Name, cx: &Context<'_>) {
        if self.roster.heard(name, cx.now.mono) {
            self.event(Event::PeerOnline(name.clone()));
            self.flush_kept(cx);
        }
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
        if !self.has_joined() {
            return;
        }
        for name in self.roster.silent() {
            self.went_offline(&name);
        }
        let nobody = !self.roster.iter().any(|(_, member)| member.online);
        if std::mem::take(&mut self.spoke) && !nobody {
            return;
        }
        for name in self.roster.names().cloned().collect::<Vec<_>>() {
            let id = cx.message_id();
            let payload = CommandPayloadType::Heartbeat(HeartbeatPayload { epoch: NO_EPOCH });
            let kind = SessionMessageType::Heartbeat;
            self.out.push(Output::Send(Outgoing::control(kind, &name, id, payload)));
        }
    }
}
