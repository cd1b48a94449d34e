//! Data of a session: what the sender and the receivers decide, put into messages (spec 03
//! section 9).

use std::collections::BTreeMap;

use super::receiver::{self, Arrival, Receiver, Verdict};
use super::sender::{self, Outcome};
use super::{config, Context, Event, Incoming, Item, Kind, Outgoing, Output, Payload};
use super::{ReceivedMessage, Session};
use crate::error::Error;
use crate::limits;
use crate::name::Name;
use crate::wire::{ApplicationPayload, Content, ContentType, SessionMessageType};

/// Marks a message to one member of a group.
const PUBLISH_TO: &str = "PUBLISH_TO";

/// A number for such a message: not one of the sequence, nor the last of all.
pub(super) fn direct_id(cx: &mut Context<'_>) -> u32 {
    loop {
        match cx.entropy.next_u32() | sender::DIRECT {
            u32::MAX => continue,
            id => return id,
        }
    }
}

impl Session {
    pub(super) fn on_msg(&mut self, message: Incoming, cx: &mut Context<'_>) {
        if self.roster.get(&message.source).is_none() || !self.may_receive() {
            return log::debug!("session {}: data from a non-member was dropped", self.id);
        }
        if self.inbox_full_since.is_some() {
            self.lost += u64::from(self.config.reliable.is_none());
            return log::debug!("session {}: the inbox is full", self.id);
        }
        let (source, message_id) = (message.source.clone(), message.message_id);
        let Some(received) = self.received(message, cx) else { return };
        if self.config.reliable.is_none() {
            // Over two paths it comes twice.
            if self.arrived.entry(source.encoded()).or_default().is_new(message_id) {
                self.out.push(Output::Item(Item::Message(Box::new(received))));
            }
            return;
        }
        if received.is_reply {
            return self.on_direct(received);
        }
        let arrival = Arrival::Message(Box::new(received));
        self.arrive(&source, message_id, arrival, true, cx);
    }

    /// A message to this member alone: it stands outside of the sequence.
    fn on_direct(&mut self, received: ReceivedMessage) {
        let id = received.message_id;
        let mut ack = empty_payload(SessionMessageType::MsgAck, &received.source, id);
        ack.metadata.insert(PUBLISH_TO.to_owned(), "TRUE".to_owned());
        self.out.push(Output::Send(ack));
        if self.receiver(&received.source).is_some_and(|receiver| receiver.is_new(id)) {
            self.out.push(Output::Item(Item::Message(Box::new(received))));
        }
    }

    /// What comes from this member. The data of a point-to-point peer, and of whoever came after
    /// us, begins with number 1.
    fn receiver(&mut self, source: &Name) -> Option<&mut Receiver> {
        let retry = self.config.reliable?;
        let whole = self.config.kind == Kind::PointToPoint
            || self.roster.get(source).is_some_and(|member| member.newer);
        Some(self.receivers.entry(source.encoded()).or_insert_with(|| match whole {
            true => Receiver::new(retry),
            false => Receiver::joining(retry),
        }))
    }

    /// Bytes that may wait behind gaps besides those that do already, of whatever sender. What comes in
    /// order needs none.
    fn room_after_gaps(&self, source: &Name, id: u32) -> usize {
        let receiver = self.receivers.get(&source.encoded());
        if receiver.is_some_and(|receiver| receiver.is_next(id)) {
            return 0;
        }
        let waiting: usize = self.receivers.values().map(Receiver::waiting).sum();
        limits::GAP_BYTES.saturating_sub(waiting)
    }

    /// A member is gone: what it had sent before is given out.
    pub(super) fn drop_receiver(&mut self, source: &Name) {
        self.arrived.remove(&source.encoded());
        if let Some(mut receiver) = self.receivers.remove(&source.encoded()) {
            let mut out = Vec::new();
            receiver.finish(&mut out);
            self.handle_receiver(source, out);
        }
    }

    pub(super) fn on_rtx_reply(&mut self, message: Incoming, cx: &mut Context<'_>) {
        let known = self.roster.get(&message.source).is_some() && self.may_receive();
        if !known || self.config.reliable.is_none() || self.inbox_full_since.is_some() {
            return;
        }
        let (source, message_id) = (message.source.clone(), message.message_id);
        let (lost, typed) = (message.error, message.has_type());
        if lost && !self.is_encrypted() {
            return self.arrive(&source, message_id, Arrival::Lost, false, cx);
        }
        // Where it can be, the news is authentic, too. A node may set the flag, or take it away; but
        // nothing else has no payload, and no type.
        let Some(received) = self.received(message, cx) else {
            return;
        };
        if self.is_encrypted() && received.payload.is_empty() && !typed {
            return self.arrive(&source, message_id, Arrival::Lost, false, cx);
        }
        // The published implementation does not acknowledge this. We do, so that a sender of ours
        // knows that the message arrived; others ignore an ack that they do not wait for.
        self.arrive(&source, message_id, Arrival::Message(Box::new(received)), true, cx);
    }

    fn arrive(
        &mut self,
        source: &Name,
        message_id: u32,
        arrival: Arrival,
        ack: bool,
        cx: &mut Context<'_>,
    ) {
        let room = self.room_after_gaps(source, message_id);
        let Some(receiver) = self.receiver(source) else { return };
        let mut out = Vec::new();
        let verdict = receiver.arrive(message_id, arrival, room, cx.now.mono, &mut out);
        match verdict {
            Verdict::Taken if ack => {
                let empty = empty_payload(SessionMessageType::MsgAck, source, message_id);
                self.out.push(Output::Send(empty));
            }
            Verdict::Taken => {}
            Verdict::OutOfWindow | Verdict::NoRoom | Verdict::TooLate => {
                log::debug!("session {}: number {message_id} was not taken: {verdict:?}", self.id);
            }
        }
        self.handle_receiver(source, out);
    }

    pub(super) fn on_ack(&mut self, message: &Incoming) {
        let mut out = Vec::new();
        self.was_heard(&message.source);
        self.sender.acked(message.message_id, &message.source, &mut out);
        self.handle_sender(out);
    }

    pub(super) fn on_rtx_request(&mut self, message: &Incoming) {
        let (to, id) = (&message.source, message.message_id);
        // What was not sent yet is not lost, and where nothing is repeated nobody asks.
        let sent = self.config.reliable.is_some() && self.sender.has_sent(id);
        if self.roster.get(to).is_none() || !sent {
            return log::debug!("session {}: {to} asks for {id}, which was not sent", self.id);
        }
        let reply = match self.sender.requested(id, to) {
            Some(payload) => self.data(SessionMessageType::RtxReply, to, id, &payload),
            None => {
                let mut reply = empty_payload(SessionMessageType::RtxReply, to, id);
                reply.error = true;
                reply
            }
        };
        self.out.push(Output::Send(reply));
    }

    pub(super) fn data_timeout(&mut self, cx: &mut Context<'_>) {
        let mut out = Vec::new();
        self.sender.handle_timeout(cx.now.mono, &mut out);
        self.handle_sender(out);
        if self.inbox_full_since.is_some() {
            return;
        }
        let due = |r: &Receiver| r.poll_timeout().is_some_and(|at| at <= cx.now.mono);
        let sources: Vec<_> =
            self.receivers.iter().filter(|(_, r)| due(r)).map(|(source, _)| *source).collect();
        for source in sources {
            let found = self.roster.named(source).cloned();
            let (Some(name), Some(receiver)) = (found, self.receivers.get_mut(&source)) else {
                self.receivers.remove(&source);
                continue;
            };
            let mut out = Vec::new();
            receiver.handle_timeout(cx.now.mono, &mut out);
            self.handle_receiver(&name, out);
        }
    }

    /// This side goes away for a while: what was acknowledged and waited behind gaps is given out. What
    /// comes then is not followed.
    pub(super) fn pause_receivers(&mut self) {
        for (source, mut receiver) in std::mem::take(&mut self.receivers) {
            let Some(name) = self.roster.named(source).cloned() else { continue };
            let mut out = Vec::new();
            receiver.pause(&mut out);
            self.receivers.insert(source, receiver);
            self.handle_receiver(&name, out);
        }
    }

    /// The session ends: what was acknowledged and waited behind gaps is given out.
    pub(super) fn finish_receivers(&mut self) {
        for (source, mut receiver) in std::mem::take(&mut self.receivers) {
            let Some(name) = self.roster.named(source).cloned() else { continue };
            let mut out = Vec::new();
            receiver.finish(&mut out);
            self.handle_receiver(&name, out);
        }
    }

    /// Somebody is there to send to.
    pub(super) fn flush_kept(&mut self, cx: &Context<'_>) {
        let mut out = Vec::new();
        self.sender.flush_kept(&self.roster.audience(), cx.now.mono, &mut out);
        self.handle_sender(out);
    }

    pub(super) fn handle_sender(&mut self, outputs: Vec<sender::Output>) {
        for output in outputs {
            match output {
                sender::Output::Transmit { message_id, payload, to } => {
                    let repeated = to.is_some();
                    let Some(to) = to.or_else(|| self.data_destination()) else {
                        continue;
                    };
                    self.spoke |= self.is_for_everybody(&to);
                    let mut message = self.data(SessionMessageType::Msg, &to, message_id, &payload);
                    message.comes_again = repeated && self.config.reliable.is_some();
                    if self.config.reliable.is_none() {
                        message.credit = Some(payload.len());
                    }
                    self.out.push(Output::Send(message));
                }
                sender::Output::Finished { op, outcome } => {
                    let result = self.publish_result(outcome);
                    self.done(op, result);
                }
                sender::Output::Credit { messages, bytes } => {
                    self.out.push(Output::Credit { messages, bytes });
                }
                sender::Output::Silent { name, since } => {
                    // Whoever said something since then is there: this message alone is lost.
                    if !self.roster.heard_since(&name, since) {
                        self.went_offline(&name);
                    }
                }
            }
        }
    }

    fn handle_receiver(&mut self, source: &Name, outputs: Vec<receiver::Output>) {
        for output in outputs {
            match output {
                receiver::Output::Deliver(message) => {
                    self.out.push(Output::Item(Item::Message(message)));
                }
                receiver::Output::Lost(message_id) => {
                    self.lost += 1;
                    self.event(Event::MessageLost { source: source.clone(), message_id });
                }
                receiver::Output::Request(id) => {
                    let request = empty_payload(SessionMessageType::RtxRequest, source, id);
                    self.out.push(Output::Send(request));
                }
            }
        }
    }

    /// Where data for everybody goes.
    fn data_destination(&self) -> Option<Name> {
        match self.config.kind {
            Kind::PointToPoint => self.roster.names().next().cloned(),
            Kind::Group => self.channels.as_ref().map(|channels| channels.data.clone()),
        }
    }

    /// A message with a payload. In a group it may go to everybody, or to one member alone.
    fn data(
        &self,
        kind: SessionMessageType,
        to: &Name,
        message_id: u32,
        payload: &Payload,
    ) -> Outgoing {
        let mut message = data(kind, to, message_id, payload);
        if message_id & sender::DIRECT != 0 {
            message.metadata.insert(PUBLISH_TO.to_owned(), "TRUE".to_owned());
        } else if self.config.kind == Kind::Group {
            message.fanout = limits::FANOUT_ALL;
        }
        message
    }

    fn publish_result(&self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Delivered => Ok(()),
            Outcome::Undelivered(silent) if silent.is_empty() => {
                let text = format!("nobody was there to take it: {}", self.destination);
                Err(Error::Undelivered(text))
            }
            Outcome::Undelivered(silent) => {
                let names: Vec<String> = silent.iter().map(Name::to_string).collect();
                Err(Error::Undelivered(format!("not acknowledged by {}", names.join(", "))))
            }
        }
    }

    fn received(&mut self, message: Incoming, cx: &mut Context<'_>) -> Option<ReceivedMessage> {
        let (message, identity) = self.open_sealed(message, cx)?;
        let Some(ContentType::AppPayload(ApplicationPayload { payload_type, blob })) =
            message.content
        else {
            log::debug!("session {}: data without a payload was dropped", self.id);
            return None;
        };
        // The number is authentic in an encrypted session; the mark in the metadata never is.
        let group = self.config.kind == Kind::Group;
        let is_reply = group && message.message_id & sender::DIRECT != 0;
        Some(ReceivedMessage {
            source: message.source,
            destination: message.destination,
            payload_type: if payload_type.is_empty() { "msg".to_owned() } else { payload_type },
            metadata: config::visible(message.metadata),
            payload: blob,
            identity,
            connection: message.connection,
            is_reply,
            message_id: message.message_id,
        })
    }
}

/// A message with a payload.
fn data(kind: SessionMessageType, to: &Name, message_id: u32, payload: &Payload) -> Outgoing {
    let parts = &payload.0;
    let (payload_type, blob) = (parts.payload_type.clone(), parts.blob.clone());
    let content = ContentType::AppPayload(ApplicationPayload { payload_type, blob });
    Outgoing {
        kind,
        to: to.clone(),
        message_id,
        fanout: 1,
        metadata: parts.metadata.clone(),
        content: Content { content_type: Some(content) },
        error: false,
        credit: None,
        comes_again: kind == SessionMessageType::RtxReply,
        via: None,
    }
}

/// An ack or a request: a payload without anything in it.
fn empty_payload(kind: SessionMessageType, to: &Name, message_id: u32) -> Outgoing {
    let content = ContentType::AppPayload(ApplicationPayload::default());
    Outgoing {
        kind,
        to: to.clone(),
        message_id,
        fanout: 1,
        metadata: BTreeMap::new(),
        content: Content { content_type: Some(content) },
        error: false,
        credit: None,
        comes_again: true,
        via: None,
    }
}
