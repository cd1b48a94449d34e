//! Sessions (spec 03): who takes part, how they join and leave, and how data gets through.
//!
//! `app` owns the sessions of one app, proves who it is and checks who others are. A `Session`
//! is one conversation: a role (`moderator` or `participant`), a roster, control requests that
//! wait for answers, and the two halves of the data (`sender`, `receiver`). Point-to-point
//! sessions and groups are the same machine. In an encrypted session (`encryption`) data is opened
//! when it is taken, and sealed when it leaves.
//!
//! Nothing here knows of links or threads: messages, calls and time come in, outputs go out.

mod anycast;
pub(crate) mod app;
mod arrived;
mod channel;
mod config;
mod credentials;
mod data;
mod encryption;
mod liveness;
mod moderator;
mod participant;
mod presence;
mod receiver;
mod request;
mod roster;
mod sender;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use config::{check_metadata, check_metadata_len};
pub use config::{Direction, Kind, Mls, Retry, SessionConfig};

use crate::clock::Now;
use crate::entropy::Entropy;
use crate::error::Error;
use crate::limits;
use crate::name::{EncodedName, Name};
use crate::router::ConnectionId;
use crate::wire::{
    CommandPayload, CommandPayloadType, Content, ContentType, Empty, Message, MessageType,
    SessionMessageType,
};
use app::About;
use arrived::Arrived;
use channel::Channels;
use encryption::Encryption;
use moderator::Moderator;
use participant::Participant;
use presence::Presence;
use prost::bytes::Bytes;
use receiver::Receiver;
use request::{Due, Requests};
use roster::Roster;
use sender::Sender;

/// Number of an app in its node. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(pub u64);

/// A session of a local app. Never reused, other than the number that the session has on the
/// wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Whose.
    pub app: AppId,
    /// Which.
    pub number: u64,
}

/// Number of a call that is answered later. Chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// What an application publishes. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload(Arc<PayloadParts>);

#[derive(Debug, Default, PartialEq, Eq)]
struct PayloadParts {
    payload_type: String,
    metadata: BTreeMap<String, String>,
    blob: Bytes,
}

impl Payload {
    /// A payload, what it is ("" reads as "msg"), and the pairs that travel with it.
    pub fn new(
        blob: impl Into<Bytes>,
        payload_type: &str,
        metadata: BTreeMap<String, String>,
    ) -> Payload {
        let payload_type = if payload_type.is_empty() { "msg" } else { payload_type };
        let payload_type = payload_type.to_owned();
        Payload(Arc::new(PayloadParts { payload_type, metadata, blob: blob.into() }))
    }

    /// Length of the bytes.
    pub fn len(&self) -> usize {
        self.0.blob.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.blob.is_empty()
    }
}

/// A message for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Full name of the sender.
    pub source: Name,
    /// The name that it was sent to.
    pub destination: Name,
    /// What the sender says that the payload is.
    pub payload_type: String,
    /// Pairs that travelled with it, without the protocol's own.
    pub metadata: BTreeMap<String, String>,
    /// The payload.
    pub payload: Bytes,
    /// The sender's identity string, proved by its keys in an encrypted session; else empty.
    pub identity: String,
    /// The connection that it came over.
    pub connection: ConnectionId,
    /// Sent to this member of a group alone.
    pub is_reply: bool,
    /// The sender's number for it.
    pub message_id: u32,
}

/// Something that happened to a session, besides messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member does not answer any more.
    PeerOffline(Name),
    /// It is back.
    PeerOnline(Name),
    /// A member left.
    PeerLeft(Name),
    /// The connection that the session uses is gone; it is being made again.
    ConnectionLost(ConnectionId),
    /// It is back, or the peer is heard of over this other one.
    ConnectionBack(ConnectionId),
    /// A message of this member cannot be had any more.
    MessageLost {
        /// The sender.
        source: Name,
        /// Its number for the message.
        message_id: u32,
    },
    /// This side does not follow an encrypted session any more: what others send cannot be read, or
    /// what it sends is not accepted. Why, and what to do, in words.
    EncryptionLost(String),
    /// The session is over; for a reason in words.
    Closed(String),
}

/// What comes out of a session for its application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message.
    Message(Box<ReceivedMessage>),
    /// Something else.
    Event(Event),
}

/// What is known about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Its number on the wire.
    pub id: u32,
    /// With whom.
    pub kind: Kind,
    /// Acknowledged delivery, and its timers.
    pub reliable: Option<Retry>,
    /// This side opened it.
    pub initiator: bool,
    /// This side's full name.
    pub source: Name,
    /// The peer's name, as given by whoever opened the session, or its full name.
    pub destination: Name,
    /// The pairs that it was opened with.
    pub metadata: BTreeMap<String, String>,
    /// Whether and how it is encrypted.
    pub mls: Option<Mls>,
    /// How often the keys of an encrypted session had changed when this was asked; `None`: it has
    /// no keys yet, or is with any instance of a name, each of which has keys of its own.
    pub epoch: Option<u64>,
}

impl Fields {
    /// Whether this side may invite and remove; `what` it wants, and whom.
    pub(crate) fn check_moderator(&self, what: &str, name: &Name) -> Result<(), Error> {
        match (self.kind, self.initiator) {
            (Kind::PointToPoint, _) => {
                let (peer, to) = (&self.destination, if what == "invite" { "to" } else { "from" });
                Err(Error::NotAllowed(format!(
                    "cannot {what} participant {to} point-to-point session: {name}; it is with {peer}"
                )))
            }
            (Kind::Group, false) => Err(Error::NotAllowed(format!(
                "only initiator can modify participants: cannot {what} {name}"
            ))),
            (Kind::Group, true) => Ok(()),
        }
    }
}

/// What a session wants of its app.
#[derive(Debug)]
pub(crate) enum Output {
    /// Sign and send this.
    Send(Outgoing),
    /// For the application.
    Item(Item),
    /// A call is answered.
    Done(OpId, Result<(), Error>),
    /// An invited session may be given to the application.
    Accepted,
    /// There is room for more publishes.
    Credit { messages: usize, bytes: usize },
    /// Subscribe the channels of the group over this connection; each answer comes with the ticket.
    Join { connection: ConnectionId, ticket: u32 },
    /// Give the channels up, wherever they are subscribed.
    Leave,
    /// The session is over and can be forgotten; the last reply, should it be asked for again.
    Ended { reason: String, reply: Option<Outgoing> },
}

/// A session message before it is signed.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) kind: SessionMessageType,
    pub(crate) to: Name,
    pub(crate) message_id: u32,
    pub(crate) fanout: u32,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) content: Content,
    /// Marks an RTX_REPLY without a message.
    pub(crate) error: bool,
    /// A best-effort publish: payload bytes to give back when it has left.
    pub(crate) credit: Option<usize>,
    /// Should it be lost, it or what it answers is sent again.
    pub(crate) comes_again: bool,
    /// The connection that what it answers came over.
    pub(crate) via: Option<ConnectionId>,
}

impl Outgoing {
    /// A control message.
    pub(crate) fn control(
        kind: SessionMessageType,
        to: &Name,
        message_id: u32,
        payload: CommandPayloadType,
    ) -> Outgoing {
        let command = CommandPayload { command_payload_type: Some(payload) };
        let content = Content { content_type: Some(ContentType::CommandPayload(command)) };
        Outgoing {
            kind,
            to: to.clone(),
            message_id,
            fanout: 1,
            metadata: BTreeMap::new(),
            content,
            error: false,
            credit: None,
            comes_again: kind == SessionMessageType::Heartbeat,
            via: None,
        }
    }

    /// What its sender needs to know, should it find nobody.
    pub(crate) fn about(&self, session: Option<SessionKey>) -> About {
        let (kind, message_id, credit) = (self.kind, self.message_id, self.credit);
        let comes_again = self.comes_again;
        About { session, kind, message_id, credit, comes_again, sealed: false }
    }

    /// The answer to a message, over the connection that it came over.
    fn answer(of: &Incoming, kind: SessionMessageType, payload: CommandPayloadType) -> Outgoing {
        let answer = Outgoing::control(kind, &of.source, of.message_id, payload);
        Outgoing { via: Some(of.connection), ..answer }
    }

    /// The GROUP_ACK of a message.
    fn group_ack(of: &Incoming) -> Outgoing {
        let ack = CommandPayloadType::GroupAck(Empty {});
        Outgoing::answer(of, SessionMessageType::GroupAck, ack)
    }
}

/// A session message that arrived, checked.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) kind: SessionMessageType,
    pub(crate) source: Name,
    pub(crate) destination: Name,
    pub(crate) message_id: u32,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) content: Option<ContentType>,
    pub(crate) error: bool,
    pub(crate) connection: ConnectionId,
    /// It was here before: it is answered again, but means nothing new.
    pub(crate) repeated: bool,
    /// What is encrypted has its header with it: this is what that must be.
    pub(crate) aad: Vec<u8>,
}

impl Incoming {
    /// Takes what the message carries.
    fn take_body(&mut self, message: Message) {
        self.metadata = message.metadata;
        if let Some(MessageType::Publish(publish)) = message.message_type {
            self.content = publish.msg.and_then(|content| content.content_type);
        }
    }

    /// Whether it says what its payload is.
    fn has_type(&self) -> bool {
        match &self.content {
            Some(ContentType::AppPayload(payload)) => !payload.payload_type.is_empty(),
            _ => false,
        }
    }

    fn command(&self) -> Option<&CommandPayloadType> {
        match self.content.as_ref()? {
            ContentType::CommandPayload(command) => command.command_payload_type.as_ref(),
            ContentType::AppPayload(_) => None,
        }
    }
}

/// Time and randomness for one call.
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) entropy: &'a mut dyn Entropy,
}

impl Context<'_> {
    /// A number for a control message: random, and never 0 (spec 03 pitfall 19).
    fn message_id(&mut self) -> u32 {
        loop {
            match self.entropy.next_u32() {
                0 => continue,
                id => return id,
            }
        }
    }
}

/// Which way a message leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// As the table says.
    Any,
    /// Over this connection while it can be used, else as the table says.
    Over(ConnectionId),
    /// As the table says; where it knows nobody, over this connection if others are behind it.
    Towards(ConnectionId),
    /// To everybody here who subscribed, and over each of these connections.
    Channel(Vec<ConnectionId>),
}

/// This side's part in a session.
#[derive(Debug)]
enum Role {
    Moderator(Moderator),
    Participant(Participant),
}

/// How far a session has come.
#[derive(Debug)]
enum Phase {
    Open,
    /// No new publishes; what is unacknowledged is waited for.
    Draining {
        ops: Vec<OpId>,
        until: Instant,
    },
    /// The peers have been told.
    Closing {
        ops: Vec<OpId>,
        until: Instant,
        message_id: u32,
    },
    Ended,
}

/// One conversation.
#[derive(Debug)]
pub(crate) struct Session {
    id: u32,
    config: SessionConfig,
    me: Name,
    /// As given by whoever opened the session; for the invited side the moderator.
    destination: Name,
    role: Role,
    phase: Phase,
    roster: Roster,
    /// Those of a group.
    channels: Option<Channels>,
    /// Of an encrypted session.
    encryption: Option<Encryption>,
    presence: Presence,
    requests: Requests,
    sender: Sender,
    /// In a reliable session.
    receivers: BTreeMap<EncodedName, Receiver>,
    /// In a best-effort session.
    arrived: BTreeMap<EncodedName, Arrived>,
    /// Next look at who was silent.
    look: Instant,
    /// Something was sent to everybody since the last look.
    spoke: bool,
    /// Whether the application wants events.
    events: bool,
    /// The application's inbox takes no more messages.
    inbox_full_since: Option<Instant>,
    lost: u64,
    via: Option<ConnectionId>,
    /// That connection was lost, and nothing was heard over another one.
    is_cut: bool,
    out: Vec<Output>,
}

/// Messages that did not reach whom they were for, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// There was no room, nobody was there, or they were given up.
    pub(crate) lost: u64,
    /// They could not be opened.
    pub(crate) unreadable: u64,
}

impl Losses {
    pub(crate) fn add(&mut self, more: Losses) {
        self.lost += more.lost;
        self.unreadable += more.unreadable;
    }
}

impl Session {
    fn new(
        id: u32,
        config: SessionConfig,
        me: Name,
        destination: Name,
        role: Role,
        now: Now,
    ) -> Session {
        Session {
            id,
            me,
            destination,
            role,
            phase: Phase::Open,
            roster: Roster::default(),
            channels: None,
            encryption: None,
            presence: Presence::default(),
            requests: Requests::default(),
            sender: Sender::new(config.reliable),
            receivers: BTreeMap::new(),
            arrived: BTreeMap::new(),
            look: now.mono + limits::HEARTBEAT,
            spoke: false,
            events: false,
            inbox_full_since: None,
            lost: 0,
            via: None,
            is_cut: false,
            out: Vec::new(),
            config,
        }
    }

    /// What is known about it.
    pub(crate) fn fields(&self) -> Fields {
        Fields {
            id: self.id,
            kind: self.config.kind,
            reliable: self.config.reliable,
            initiator: matches!(self.role, Role::Moderator(_)),
            source: self.me.clone(),
            destination: self.destination.clone(),
            metadata: self.config.metadata.clone(),
            mls: self.config.mls,
            epoch: self.epoch(),
        }
    }

    /// The others who take part, and who of them can be reached.
    pub(crate) fn participants(&self) -> Vec<(Name, bool)> {
        self.roster.iter().map(|(name, member)| (name.clone(), member.online)).collect()
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn kind(&self) -> Kind {
        self.config.kind
    }

    pub(crate) fn me(&self) -> &Name {
        &self.me
    }

    /// Which way a message goes: to a channel everywhere where the group is, to anybody else over
    /// the connection that it was last heard over. Where others of a group are says nothing about
    /// where somebody is who was not heard yet.
    pub(crate) fn route(&self, message: &Outgoing) -> Route {
        let to = &message.to;
        if let Some(channels) = self.channels.as_ref().filter(|c| c.names().contains(&to)) {
            return Route::Channel(channels.connections());
        }
        let heard = match self.config.kind {
            Kind::PointToPoint => self.via,
            Kind::Group => self.roster.get(to).and_then(|member| member.via).or(message.via),
        };
        match (heard, self.via) {
            (Some(connection), _) => Route::Over(connection),
            (None, Some(connection)) => Route::Towards(connection),
            (None, None) => Route::Any,
        }
    }

    /// The names of the group's channels.
    pub(crate) fn channels(&self) -> Option<[Name; 2]> {
        self.channels.as_ref().map(|channels| channels.names().map(Name::clone))
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// When the members are looked at next.
    pub(crate) fn next_look(&self) -> Instant {
        self.look
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Whether the application wants events. Should the connection be lost at the moment, that is the
    /// first: its return would be news of nothing.
    pub(crate) fn set_events(&mut self, events: bool) {
        let before = std::mem::replace(&mut self.events, events);
        if let (false, true, Some(connection)) = (before, self.is_cut, self.via) {
            self.event(Event::ConnectionLost(connection));
        }
    }

    /// The application's inbox is full, or has room again. While it is full a reliable message is not
    /// taken: it comes again; nor is one asked for. A best-effort one is dropped and counted.
    pub(crate) fn set_inbox_full(&mut self, full: bool, now: Instant) {
        if full {
            self.inbox_full_since.get_or_insert(now);
        } else if let Some(since) = self.inbox_full_since.take() {
            let paused = now.saturating_duration_since(since);
            self.receivers.values_mut().for_each(|receiver| receiver.resume(paused));
        }
    }

    /// Hands out what the session wants.
    pub(crate) fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// Who may send the moderator's messages.
    pub(crate) fn moderator_name(&self) -> &Name {
        match &self.role {
            Role::Moderator(_) => &self.me,
            Role::Participant(participant) => participant.moderator(),
        }
    }

    /// A message of this session arrived. Control messages have been verified. `false`: it was not
    /// taken, and is no repetition when it comes again.
    pub(crate) fn handle_message(&mut self, message: Incoming, cx: &mut Context<'_>) -> bool {
        if self.has_ended() || (self.is_away() && !self.is_taken_while_away(message.kind)) {
            return false;
        }
        if self.roster.get(&message.source).is_some() {
            // Data is not signed: it may not lead a session to another connection.
            if message.kind.is_control() || self.is_cut || self.via.is_none() {
                self.via = Some(message.connection);
            }
            if std::mem::take(&mut self.is_cut) {
                self.event(Event::ConnectionBack(message.connection));
            }
            self.heard(&message, cx);
        } else if message.kind.is_control() {
            self.on_stranger(&message, cx);
        }
        let taken = self.take(message, cx);
        // Whoever was waited for may have left.
        self.go_on_closing(cx);
        taken
    }

    /// What a member that is away has to know all the same: who is in the group, and whether it is still
    /// there; a moderator, who is to be told something. The published implementation takes less.
    fn is_taken_while_away(&self, kind: SessionMessageType) -> bool {
        use SessionMessageType as T;
        match kind {
            T::MsgAck
            | T::RtxRequest
            | T::GroupAck
            | T::GroupNack
            | T::GroupUpdate
            | T::GroupWelcome
            | T::GroupClose
            | T::LeaveRequest
            | T::LeaveReply
            | T::RejoinRequest
            | T::RejoinReply
            | T::UpdateParticipantState => true,
            T::Heartbeat => matches!(self.role, Role::Moderator(_)),
            _ => false,
        }
    }

    fn take(&mut self, message: Incoming, cx: &mut Context<'_>) -> bool {
        use SessionMessageType as T;
        match message.kind {
            T::Msg => self.on_msg(message, cx),
            T::MsgAck => self.on_ack(&message),
            T::RtxRequest => self.on_rtx_request(&message),
            T::GroupNack => self.on_group_nack(&message, cx),
            T::RejoinRequest => return self.on_rejoin_request(&message, cx),
            T::RejoinReply => return self.on_rejoin_reply(&message, cx),
            T::RtxReply => self.on_rtx_reply(message, cx),
            T::DiscoveryReply | T::JoinReply => self.on_reply(&message, cx),
            T::JoinRequest => self.on_join_request(&message),
            T::GroupWelcome => return self.on_welcome(&message, cx),
            T::GroupAck => self.on_group_ack(&message, cx),
            T::GroupUpdate => return self.on_group_update(message, cx),
            T::LeaveRequest => self.on_leave_request(&message, cx),
            T::LeaveReply => self.on_leave_reply(&message, cx),
            T::GroupClose => self.on_group_close(&message),
            T::UpdateParticipantState => return self.on_participant_state(&message, cx),
            T::Heartbeat => self.on_heartbeat(&message, cx),
            T::GroupProposal | T::DiscoveryRequest | T::Unspecified => {
                log::debug!("session {}: {:?} means nothing here", self.id, message.kind);
            }
        }
        true
    }

    /// Whether somebody takes part, or is the moderator that invited this side.
    pub(crate) fn is_party(&self, name: &Name) -> bool {
        self.moderator_name() == name || self.roster.get(name).is_some()
    }

    /// Publishes a message. With `op` the outcome is reported.
    pub(crate) fn publish(&mut self, payload: Payload, op: Option<OpId>, cx: &mut Context<'_>) {
        if let Err(error) = self.may_publish() {
            return self.refuse(&payload, op, error);
        }
        let mut out = Vec::new();
        self.sender.publish(payload, op, self.roster.audience(), cx.now.mono, &mut out);
        self.handle_sender(out);
    }

    /// Publishes to one member of a group. In a point-to-point session there is only one.
    pub(crate) fn publish_to(
        &mut self,
        member: &Name,
        payload: Payload,
        op: Option<OpId>,
        cx: &mut Context<'_>,
    ) {
        if self.config.kind == Kind::PointToPoint {
            return self.publish(payload, op, cx);
        }
        let known = match self.roster.get(member) {
            Some(found) if !found.receives() => {
                Err(Error::NotAllowed(format!("{member} takes no messages: it only sends")))
            }
            Some(_) => self.may_publish(),
            None => Err(Error::NotFound(format!("participant not found in group: {member}"))),
        };
        if let Err(error) = known {
            return self.refuse(&payload, op, error);
        }
        let id = data::direct_id(cx);
        let mut out = Vec::new();
        self.sender.publish_to(id, member, payload, op, cx.now.mono, &mut out);
        self.handle_sender(out);
    }

    fn may_publish(&self) -> Result<(), Error> {
        if !self.is_open() {
            return Err(Error::closed("session"));
        }
        if !self.config.direction.sends() {
            let text = "session sender is shutdown, cannot send messages: this side only receives";
            return Err(Error::NotAllowed(text.to_owned()));
        }
        self.check_keys()?;
        self.check_here()
    }

    fn refuse(&mut self, payload: &Payload, op: Option<OpId>, error: Error) {
        let (messages, bytes) = (1, payload.len());
        self.out.push(Output::Credit { messages, bytes });
        self.done(op, Err(error));
    }

    /// Ends the session from this side: what is unacknowledged is waited for, then the peers are
    /// told.
    pub(crate) fn close(&mut self, op: Option<OpId>, cx: &mut Context<'_>) {
        match &mut self.phase {
            Phase::Open => {
                let until = cx.now.mono + limits::CLOSE_GRACE;
                self.phase = Phase::Draining { ops: op.into_iter().collect(), until };
                self.abort_tasks();
                self.go_on_closing(cx);
            }
            Phase::Draining { ops, .. } | Phase::Closing { ops, .. } => ops.extend(op),
            Phase::Ended => self.done(op, Err(Error::closed("session"))),
        }
    }

    /// When [`Session::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let closing = match &self.phase {
            Phase::Open => None,
            Phase::Draining { until, .. } | Phase::Closing { until, .. } => Some(*until),
            Phase::Ended => return None,
        };
        let role = match &self.role {
            Role::Moderator(_) => None,
            Role::Participant(participant) => participant.joining_until(),
        };
        let taking = self.inbox_full_since.is_none();
        let receivers =
            self.receivers.values().filter(|_| taking).filter_map(Receiver::poll_timeout);
        let keys = self.encryption.as_ref().and_then(Encryption::poll_timeout);
        let timers =
            [self.requests.poll_timeout(), self.sender.poll_timeout(), closing, role, keys];
        timers.into_iter().flatten().chain(receivers).chain([self.look]).min()
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        while let Some(due) = self.requests.next_due(cx.now.mono) {
            match due {
                Due::Again { message, missing } => {
                    let message = Outgoing { comes_again: true, ..message };
                    self.send_again(message, missing);
                }
                Due::GivenUp { message_id, silent } => {
                    self.on_request_over(message_id, silent.into_iter().collect(), cx);
                }
            }
        }
        if self.has_ended() {
            return;
        }
        self.data_timeout(cx);
        if self.look <= cx.now.mono {
            self.look_around(cx);
        }
        self.encryption_timeout(cx);
        let cut = match &self.phase {
            Phase::Draining { until, .. } | Phase::Closing { until, .. } => *until <= cx.now.mono,
            Phase::Open | Phase::Ended => false,
        };
        if cut {
            self.give_up_closing(cx);
        } else {
            self.participant_timeout(cx);
            self.go_on_closing(cx);
        }
    }

    fn send_again(&mut self, message: Outgoing, missing: Vec<Name>) {
        if message.kind != SessionMessageType::GroupClose || self.config.kind != Kind::Group {
            return self.out.push(Output::Send(message));
        }
        // Whoever has heard it does not listen to the channel any more; the answer may be lost.
        for to in missing {
            self.out.push(Output::Send(Outgoing { to, fanout: 1, ..message.clone() }));
        }
    }

    /// A message of ours could not be routed to anybody: nobody is known under the name, now.
    pub(crate) fn handle_no_match(&mut self, message: &About, text: &str, cx: &mut Context<'_>) {
        if let Some(credit) = message.credit {
            self.lost += 1;
            self.out.push(Output::Credit { messages: 1, bytes: credit });
        }
        self.moderator_no_match(message, text, cx);
    }

    /// Messages that were lost or could not be opened, so far.
    pub(crate) fn losses(&self) -> Losses {
        let unreadable = self.encryption.as_ref().map_or(0, Encryption::unreadable);
        Losses { lost: self.lost, unreadable }
    }

    /// The best-effort publish of so many payload bytes has left.
    pub(crate) fn handle_taken(&mut self, bytes: usize) {
        self.out.push(Output::Credit { messages: 1, bytes });
    }

    /// Says that a connection was lost or is back, if it is the one that the session uses.
    pub(crate) fn handle_connection(&mut self, connection: ConnectionId, up: bool) {
        if self.via == Some(connection) && self.is_cut == up {
            let event = match up {
                true => Event::ConnectionBack(connection),
                false => Event::ConnectionLost(connection),
            };
            self.is_cut = !up;
            self.event(event);
        }
    }

    /// The connection is replaced by another, which is not known yet.
    pub(crate) fn handle_handed_over(&mut self, connection: ConnectionId) {
        if self.via == Some(connection) {
            self.via = None;
        }
    }

    /// Ends the session at once: the peers are told, but not waited for.
    pub(crate) fn leave(&mut self, reason: &str, cx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Open | Phase::Draining { .. }) {
            self.abort_tasks();
            self.say_goodbye(cx);
        }
        if !self.roster.is_empty() {
            self.closed_unconfirmed();
        }
        self.end(reason, None);
    }

    fn event(&mut self, event: Event) {
        log::debug!("session {}: {event:?}", self.id);
        if self.events {
            self.out.push(Output::Item(Item::Event(event)));
        }
    }

    fn done(&mut self, op: Option<OpId>, result: Result<(), Error>) {
        self.out.extend(op.map(|op| Output::Done(op, result)));
    }

    /// Sends a control message that somebody has to answer.
    fn request(
        &mut self,
        message: Outgoing,
        answers: impl IntoIterator<Item = Name>,
        cx: &Context<'_>,
    ) {
        self.spoke |= self.is_for_everybody(&message.to);
        self.out.push(Output::Send(message.clone()));
        self.requests.open(message, answers, self.config.control_retry(), cx.now.mono);
    }

    /// What is sent to this name is a sign of life for all the others.
    fn is_for_everybody(&self, to: &Name) -> bool {
        self.channels.as_ref().is_none_or(|channels| channels.names().contains(&to))
    }

    /// The channels are given up.
    fn leave_channels(&mut self) {
        if self.channels.is_some() {
            self.out.push(Output::Leave);
        }
    }

    /// Draining is over once every publish is finished; then the peers are told.
    fn go_on_closing(&mut self, cx: &mut Context<'_>) {
        let Phase::Draining { ops, until } = &mut self.phase else {
            return;
        };
        // Where nobody ever joined, nobody can be waited for.
        if self.sender.is_busy() && self.roster.names().next().is_some() {
            return;
        }
        let (ops, until) = (std::mem::take(ops), *until);
        match self.say_goodbye(cx) {
            Some(message_id) => self.phase = Phase::Closing { ops, until, message_id },
            None => {
                self.phase = Phase::Draining { ops, until };
                self.end("closed by this side", None);
            }
        }
    }

    /// Closing took too long: the peers are told, if they were not, and the caller learns that it is
    /// not certain that they know.
    fn give_up_closing(&mut self, cx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Draining { .. }) {
            self.say_goodbye(cx);
        }
        self.closed_unconfirmed();
        self.end("the session took too long to close", None);
    }

    /// Whoever closed the session learns that nobody has confirmed it.
    fn closed_unconfirmed(&mut self) {
        let names: Vec<Name> = self.roster.names().cloned().collect();
        self.closed_unconfirmed_by(&moderator::list(&names));
    }

    /// Whoever closed the session learns who did not confirm it.
    fn closed_unconfirmed_by(&mut self, names: &str) {
        if let Phase::Draining { ops, .. } | Phase::Closing { ops, .. } = &mut self.phase {
            for op in std::mem::take(ops) {
                let text = format!("the session is closed, but {names} did not confirm it");
                self.done(Some(op), Err(Error::Undelivered(text)));
            }
        }
    }

    /// Everybody knows, or nobody answers: the end.
    fn on_goodbye_answered(&mut self, message_id: u32, silent: &[Name]) -> bool {
        if !matches!(self.phase, Phase::Closing { message_id: ours, .. } if ours == message_id) {
            return false;
        }
        if !silent.is_empty() {
            self.closed_unconfirmed_by(&moderator::list(silent));
        }
        self.end("closed by this side", None);
        true
    }

    /// The end: every open call is answered. Those that closed the session succeed.
    fn end(&mut self, reason: &str, reply: Option<Outgoing>) {
        let closers = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Open => Vec::new(),
            Phase::Draining { ops, .. } | Phase::Closing { ops, .. } => ops,
            Phase::Ended => return,
        };
        self.abort_tasks();
        self.finish_receivers();
        for op in self.sender.abandon() {
            self.done(Some(op), Err(Error::Closed(format!("session closed: {reason}"))));
        }
        self.event(Event::Closed(reason.to_owned()));
        self.leave_channels();
        // First the end, then the answers: whoever closed the session finds it closed.
        self.out.push(Output::Ended { reason: reason.to_owned(), reply });
        for op in closers {
            self.done(Some(op), Ok(()));
        }
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.app.0, self.number)
    }
}

#[cfg(test)]
mod tests;
