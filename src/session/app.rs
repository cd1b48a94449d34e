//! One app: its names, its identity, its sessions.
//!
//! Every message that leaves is given its header, token and signatures here; every control message
//! that arrives is verified here before a session sees it (spec 03 section 3, spec 04 section 7).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::anycast::Anycast;
use super::credentials::Credentials;
use super::Output as SessionOutput;
use super::{AppId, Fields, Losses, Session, SessionConfig, SessionKey};
use super::{Context, Direction, Incoming, Item, Kind, OpId, Outgoing, Payload, Route};
use crate::clock::{Now, Timers};
use crate::entropy::Entropy;
use crate::error::Error;
use crate::identity::{
    self, check_source, sign_control, verify_control, Binding, Provider, Verified, Verifier,
};
use crate::limits;
use crate::name::{app_id, EncodedName, Name};
use crate::router::ConnectionId;
use crate::wire::canonical::publish_aad;
use crate::wire::{
    CommandPayloadType, ContentType, Empty, Message, MessageType, Publish, SessionHeader,
    SessionMessageType, SessionType, SlimHeader,
};

/// What an app wants of its node.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send this.
    Send { message: Box<Message>, about: About, route: Route },
    /// Subscribe the channels of a group, here and over this connection. Each is answered by
    /// [`App::handle_channel`], with the ticket.
    Join { session: SessionKey, channels: [Name; 2], connection: ConnectionId, ticket: u32 },
    /// The session does not need the channels any more.
    Leave { session: SessionKey, channels: [Name; 2] },
    /// A call is answered.
    Done(OpId, Result<(), Error>),
    /// Somebody opened a session to this app.
    NewSession(SessionKey, Fields),
    /// For the application.
    Item(SessionKey, Item),
    /// There is room for more publishes.
    Credit { session: SessionKey, messages: usize, bytes: usize },
    /// How often the keys of an encrypted session have changed.
    Epoch(SessionKey, Option<u64>),
    /// The session is over; its handle may still give out what has arrived.
    Ended(SessionKey, String),
}

/// Which message of which session it is, should it find nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// `None`: an answer without a session.
    pub(crate) session: Option<SessionKey>,
    pub(crate) kind: SessionMessageType,
    pub(crate) message_id: u32,
    /// A best-effort publish of so many payload bytes.
    pub(crate) credit: Option<usize>,
    /// Should it be lost, it or what it answers is sent again.
    pub(crate) comes_again: bool,
    /// It must not leave as it is, but encrypted.
    pub(crate) sealed: bool,
}

/// One app.
pub(crate) struct App {
    id: AppId,
    name: Name,
    version: String,
    pub(super) credentials: Credentials,
    /// Which way data goes in sessions that others open.
    direction: Direction,
    /// Names that the app answers to, besides its own.
    aliases: BTreeSet<[u64; 3]>,
    pub(super) sessions: HashMap<u32, Entry>,
    /// Sessions with any instance. Their numbers are on no wire.
    pub(super) anycasts: HashMap<u32, Anycast>,
    pub(super) by_number: HashMap<u64, u32>,
    next_number: u64,
    pub(super) timers: Timers<u32>,
    answered: VecDeque<Answered>,
    ended: VecDeque<EndedSession>,
    /// Of sessions that are over.
    losses: Losses,
    pub(super) outputs: VecDeque<Output>,
}

pub(super) struct Entry {
    pub(super) session: Session,
    key: SessionKey,
    /// The session with any instance that it belongs to.
    parent: Option<u32>,
    seen: Seen,
    /// How often its keys had changed, as was last said.
    epoch: Option<u64>,
}

/// A discovery request that was answered.
struct Answered {
    source: EncodedName,
    session_id: u32,
    message_id: u32,
    first: Instant,
    last: Instant,
    /// The invitation has come: the answer must not be repeated (DESIGN decision 11).
    joined: bool,
}

/// A session that is over, and its last answer, should that have been lost.
struct EndedSession {
    session_id: u32,
    session_type: SessionType,
    me: Name,
    reply: Outgoing,
    asked_by: SessionMessageType,
    until: Instant,
}

impl App {
    /// An app called `name`; its id is derived from its identity.
    pub(crate) fn new(
        id: AppId,
        name: &Name,
        version: &str,
        provider: Box<dyn Provider>,
        verifier: Box<dyn Verifier>,
        binding: Binding,
    ) -> App {
        App {
            id,
            name: name.with_id(app_id(provider.subject())),
            version: version.to_owned(),
            credentials: Credentials::new(provider, verifier, binding),
            direction: Direction::Both,
            aliases: BTreeSet::new(),
            sessions: HashMap::new(),
            anycasts: HashMap::new(),
            by_number: HashMap::new(),
            next_number: 0,
            timers: Timers::default(),
            answered: VecDeque::new(),
            ended: VecDeque::new(),
            losses: Losses::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The app's full name.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// A token for a subscription.
    pub(crate) fn token(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
    ) -> Result<String, identity::Error> {
        Ok(self.credentials.lock().provider.token(now, entropy)?.to_string())
    }

    /// The app answers to another name from now on.
    pub(crate) fn add_alias(&mut self, name: &Name) {
        self.aliases.insert(name.components());
    }

    /// The app does not answer to a name any more.
    pub(crate) fn remove_alias(&mut self, name: &Name) {
        self.aliases.remove(&name.components());
    }

    /// The clock is not the system's.
    pub(crate) fn set_virtual_time(&mut self) {
        self.credentials.lock().virtual_time = true;
    }

    /// Which way data goes in sessions that others open from now on.
    pub(crate) fn set_direction(&mut self, direction: Direction) {
        self.direction = direction;
    }

    /// Opens a session. `op` is answered when it is ready, or has failed.
    pub(crate) fn open(
        &mut self,
        config: SessionConfig,
        destination: &Name,
        op: OpId,
        cx: &mut Context<'_>,
    ) -> Result<SessionKey, Error> {
        config.check()?;
        if *destination == self.name {
            let text = format!("{destination} is this app itself: a session needs another one");
            return Err(Error::InvalidArgument(text));
        }
        if self.sessions.len() >= limits::SESSIONS {
            let text = format!("the app has {} sessions, its limit", limits::SESSIONS);
            return Err(Error::Limit(text));
        }
        let id = self.new_session_id(cx);
        if config.anycast {
            return self.open_anycast(id, config, destination, op);
        }
        let (me, destination) = (self.name.clone(), destination.clone());
        let session = Session::open(id, config, me, &self.credentials, destination, Some(op), cx);
        let key = self.insert(session, None);
        self.settle(id);
        Ok(key)
    }

    pub(super) fn new_session_id(&self, cx: &mut Context<'_>) -> u32 {
        loop {
            let id = cx.entropy.next_u32();
            let known = self.sessions.contains_key(&id) || self.anycasts.contains_key(&id);
            // The last thousand numbers are reserved (spec 03 section 1).
            if id <= u32::MAX - 1000 && !known {
                return id;
            }
        }
    }

    /// What is known about a session.
    pub(crate) fn fields(&self, key: SessionKey) -> Option<Fields> {
        self.anycast_fields(key).or_else(|| Some(self.entry(key)?.session.fields()))
    }

    /// Who takes part in a session besides this app, and who of them can be reached.
    pub(crate) fn participants(&self, key: SessionKey) -> Option<Vec<(Name, bool)>> {
        self.anycast_participants(key).or_else(|| Some(self.entry(key)?.session.participants()))
    }

    /// How many sessions it has.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len() + self.anycasts.len()
    }

    /// Publishes a message.
    pub(crate) fn publish(
        &mut self,
        key: SessionKey,
        payload: Payload,
        op: Option<OpId>,
        cx: &mut Context<'_>,
    ) {
        if !self.publish_anycast(key, &payload, op, cx)
            && self.with(key, |session| session.publish(payload, op, cx)).is_none()
        {
            self.done_closed(op);
        }
    }

    /// Publishes a message to one member of a group.
    pub(crate) fn publish_to(
        &mut self,
        key: SessionKey,
        member: &Name,
        payload: Payload,
        op: Option<OpId>,
        cx: &mut Context<'_>,
    ) {
        if !self.answer_anycast(key, member, &payload, op, cx)
            && self.with(key, |session| session.publish_to(member, payload, op, cx)).is_none()
        {
            self.done_closed(op);
        }
    }

    /// Does something with a session; where it is over, or has no members, `op` is told so.
    pub(crate) fn act(
        &mut self,
        key: SessionKey,
        op: Option<OpId>,
        act: impl FnOnce(&mut Session),
    ) {
        if let Some(fields) = self.anycast_fields(key) {
            let text = format!(
                "a session with any instance of {} has no members, and cannot be suspended",
                fields.destination
            );
            let error = Error::NotAllowed(text);
            return self.outputs.extend(op.map(|op| Output::Done(op, Err(error))));
        }
        if self.with(key, act).is_none() {
            self.done_closed(op);
        }
    }

    /// A channel of a session's group is subscribed over a connection, or is not.
    pub(crate) fn handle_channel(
        &mut self,
        key: SessionKey,
        connection: ConnectionId,
        ticket: u32,
        result: Result<(), Error>,
        cx: &mut Context<'_>,
    ) {
        self.with(key, |session| session.handle_channel(connection, ticket, result, cx));
    }

    /// Closes a session.
    pub(crate) fn close(&mut self, key: SessionKey, op: Option<OpId>, cx: &mut Context<'_>) {
        if !self.close_anycast(key, op, cx)
            && self.with(key, |session| session.close(op, cx)).is_none()
        {
            self.done_closed(op);
        }
    }

    /// Whether the application wants a session's events.
    pub(crate) fn set_events(&mut self, key: SessionKey, events: bool) {
        if !self.set_anycast_events(key, events) {
            self.with(key, |session| session.set_events(events));
        }
    }

    /// A session's inbox is full, or has room again.
    pub(crate) fn set_inbox_full(&mut self, key: SessionKey, full: bool, cx: &Context<'_>) {
        if !self.set_anycast_full(key, full, cx) {
            self.with(key, |session| session.set_inbox_full(full, cx.now.mono));
        }
    }

    /// Ends all sessions at once, telling the peers but not waiting for them.
    pub(crate) fn shut_down(&mut self, cx: &mut Context<'_>) {
        let ids: Vec<u32> = self.sessions.keys().copied().collect();
        for id in ids {
            if let Some(entry) = self.sessions.get_mut(&id) {
                entry.session.leave("the app is closed", cx);
            }
            self.settle(id);
        }
        self.shut_down_anycasts();
    }

    /// The best-effort publish of a session has left.
    pub(crate) fn handle_taken(&mut self, key: SessionKey, bytes: usize, cx: &mut Context<'_>) {
        self.with(key, |session| session.handle_taken(bytes));
        self.drive_anycasts(cx);
    }

    /// A message of ours found nobody.
    pub(crate) fn handle_no_match(&mut self, about: &About, text: &str, cx: &mut Context<'_>) {
        let Some(key) = about.session else { return };
        self.with(key, |session| session.handle_no_match(about, text, cx));
        self.drive_anycasts(cx);
    }

    /// A connection was lost or is back.
    pub(crate) fn handle_connection(&mut self, connection: ConnectionId, up: bool) {
        self.each_session(|session| session.handle_connection(connection, up));
    }

    /// A connection is gone for good.
    pub(crate) fn handle_gone(&mut self, connection: ConnectionId) {
        self.each_session(|session| session.handle_gone(connection));
    }

    /// Another connection, which this side dialled, can take the place of one that is gone.
    pub(crate) fn handle_other_connection(&mut self, connection: ConnectionId) {
        self.each_session(|session| session.handle_other_connection(connection));
    }

    fn each_session(&mut self, act: impl Fn(&mut Session)) {
        let ids: Vec<u32> = self.sessions.keys().copied().collect();
        for id in ids {
            if let Some(entry) = self.sessions.get_mut(&id) {
                act(&mut entry.session);
            }
            self.settle(id);
        }
    }

    /// What came over this connection will come over another: nobody was without one.
    pub(crate) fn handle_handed_over(&mut self, connection: ConnectionId) {
        for entry in self.sessions.values_mut() {
            entry.session.handle_handed_over(connection);
        }
    }

    /// When [`App::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first()
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        while let Some(id) = self.timers.pop_due(cx.now.mono) {
            if let Some(entry) = self.sessions.get_mut(&id) {
                entry.session.handle_timeout(cx);
            }
            self.settle(id);
            self.drive_anycast(id, cx);
        }
        self.drive_anycasts(cx);
    }

    /// The next thing that the app wants.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A Publish for this app arrived.
    pub(crate) fn handle_message(
        &mut self,
        message: Message,
        connection: ConnectionId,
        cx: &mut Context<'_>,
    ) {
        let Some((header, incoming)) = read(&message, connection) else {
            return log::debug!("a malformed session message was dropped");
        };
        if let Some(what) = too_large(&message) {
            return log::warn!("a message of {} was dropped: {what}", incoming.source);
        }
        let id = header.session_id;
        if let Some(entry) = self.sessions.get(&id) {
            let kind = if entry.session.kind() == Kind::PointToPoint {
                SessionType::PointToPoint
            } else {
                SessionType::Multicast
            };
            if header.session_type != kind as i32 {
                return log::debug!("session {id}: another type of session, dropped");
            }
            if !self.is_invited_anew(id, &message, &incoming, cx) {
                return self.handle_in_session(id, message, incoming, cx);
            }
        }
        match incoming.kind {
            SessionMessageType::DiscoveryRequest => {
                self.on_discovery(&message, header, &incoming, cx);
            }
            SessionMessageType::JoinRequest => self.on_invitation(message, header, incoming, cx),
            _ => self.on_unknown_session(id, &incoming, cx.now.mono),
        }
    }

    /// The moderator of a group looks for this very instance, though it is in the group: it was
    /// removed and could not be told. What is left of the old session ends, so that it can be
    /// answered.
    fn is_invited_anew(
        &mut self,
        id: u32,
        message: &Message,
        incoming: &Incoming,
        cx: &mut Context<'_>,
    ) -> bool {
        let (kind, source) = (incoming.kind, &incoming.source);
        let Some(Entry { session, .. }) = self.sessions.get(&id) else { return false };
        let moderator = session.moderator_name();
        if kind != SessionMessageType::DiscoveryRequest
            || session.kind() != Kind::Group
            || moderator != source
            || moderator == session.me()
            || incoming.destination.id() != self.name.id()
            || self.knows_discovery(id, incoming)
            || self.verify(message, source, cx.now).is_err()
        {
            return false;
        }
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.session.end("removed by the moderator", None);
        }
        self.settle(id);
        true
    }

    fn knows_discovery(&self, session_id: u32, incoming: &Incoming) -> bool {
        let wanted = (incoming.source.encoded(), session_id, incoming.message_id);
        self.answered.iter().any(|a| (a.source, a.session_id, a.message_id) == wanted)
    }

    fn handle_in_session(
        &mut self,
        id: u32,
        message: Message,
        mut incoming: Incoming,
        cx: &mut Context<'_>,
    ) {
        let control = incoming.kind.is_control();
        if control {
            if let Err(error) = self.verify(&message, &incoming.source, cx.now) {
                let (kind, source) = (incoming.kind, &incoming.source);
                return log::warn!("session {id}: {kind:?} from {source} was dropped: {error}");
            }
        }
        let Some(entry) = self.sessions.get_mut(&id) else {
            return;
        };
        if entry.session.is_encrypted() && is_sealed(incoming.kind) {
            let Some(MessageType::Publish(publish)) = &message.message_type else { return };
            incoming.aad = publish_aad(publish).unwrap_or_default();
        }
        if control {
            let moderator = entry.session.moderator_name();
            let foreign = for_moderator_only(incoming.kind) && incoming.source != *moderator;
            // To the moderator, members say these: they leave, or have been removed.
            let leaving = matches!(
                incoming.kind,
                SessionMessageType::LeaveRequest | SessionMessageType::LeaveReply
            ) && *moderator == *entry.session.me();
            if foreign && !leaving && self.credentials.lock().binding != Binding::Off {
                return log::warn!(
                    "session {id}: {:?} from {}, who is not the moderator, was dropped",
                    incoming.kind,
                    incoming.source
                );
            }
            // What is answered may be asked again: the answer was lost. All else counts once.
            incoming.repeated = entry.seen.contains(&incoming);
            if incoming.repeated && !is_answered_again(incoming.kind) {
                return log::debug!("session {id}: a repeated {:?}", incoming.kind);
            }
        }
        let this = control.then(|| (incoming.source.clone(), incoming.kind, incoming.message_id));
        let party = control && entry.session.is_party(&incoming.source);
        incoming.take_body(message);
        let taken = entry.session.handle_message(incoming, cx);
        // What was not taken may come again; strangers change nothing.
        if let Some((source, kind, message_id)) = this.filter(|_| taken) {
            if party || entry.session.is_party(&source) {
                let moderator = entry.session.moderator_name().encoded();
                entry.seen.insert(source.encoded(), (kind, message_id), moderator);
            }
        }
        let parent = entry.parent;
        self.settle(id);
        if let Some(parent) = parent {
            self.drive_anycast(parent, cx);
        }
    }

    /// Who is there? Answered without a session (spec 03 section 2).
    fn on_discovery(
        &mut self,
        message: &Message,
        header: SessionHeader,
        incoming: &Incoming,
        cx: &mut Context<'_>,
    ) {
        let session_type = SessionType::try_from(header.session_type);
        let session_type = session_type.unwrap_or(SessionType::Unspecified);
        if !self.is_for_us(&incoming.destination) || session_type == SessionType::Unspecified {
            return log::debug!("a discovery of {} was dropped", incoming.destination);
        }
        if let Err(error) = self.verify(message, &incoming.source, cx.now) {
            let source = &incoming.source;
            return log::warn!("a discovery request of {source} was dropped: {error}");
        }
        if !self.may_answer(header, incoming, cx.now.mono) {
            return log::debug!("a repeated discovery request was not answered again");
        }
        let reply = Outgoing::control(
            SessionMessageType::DiscoveryReply,
            &incoming.source,
            incoming.message_id,
            CommandPayloadType::DiscoveryReply(Empty {}),
        );
        let me = incoming.destination.with_id(self.name.id());
        let sent = Envelope { me, session_id: header.session_id, session_type };
        self.send(&sent, reply, Some(incoming.connection));
    }

    /// A published moderator does not survive a second answer while it waits for the join, so a
    /// repetition is answered only if our first answer seems to be lost (DESIGN decision 11).
    fn may_answer(&mut self, header: SessionHeader, incoming: &Incoming, now: Instant) -> bool {
        self.answered.retain(|a| a.first + limits::DISCOVERY_MEMO_TIME > now);
        let (source, session_id) = (incoming.source.encoded(), header.session_id);
        let message_id = incoming.message_id;
        let known = self
            .answered
            .iter_mut()
            .find(|a| (a.source, a.session_id, a.message_id) == (source, session_id, message_id));
        if let Some(answered) = known {
            let again = !answered.joined && answered.last + limits::DISCOVERY_REPEAT <= now;
            if again {
                answered.last = now;
            }
            return again;
        }
        if self.answered.len() == limits::DISCOVERY_MEMO {
            self.answered.pop_front();
        }
        let (first, last, joined) = (now, now, false);
        self.answered.push_back(Answered { source, session_id, message_id, first, last, joined });
        true
    }

    fn on_invitation(
        &mut self,
        message: Message,
        header: SessionHeader,
        mut incoming: Incoming,
        cx: &mut Context<'_>,
    ) {
        let id = header.session_id;
        let exact = incoming.destination.id() == self.name.id();
        if !self.is_for_us(&incoming.destination) || !exact {
            return log::debug!("an invitation of {} was dropped", incoming.destination);
        }
        let verified = match self.verify(&message, &incoming.source, cx.now) {
            Ok(verified) => verified,
            Err(error) => {
                return log::warn!("an invitation of {} was dropped: {error}", incoming.source);
            }
        };
        let kind = match SessionType::try_from(header.session_type) {
            Ok(SessionType::PointToPoint) => Kind::PointToPoint,
            Ok(SessionType::Multicast) => Kind::Group,
            _ => return log::debug!("an invitation to no kind of session was dropped"),
        };
        if self.sessions.len() >= limits::SESSIONS {
            return log::warn!("an invitation was dropped: the app has too many sessions");
        }
        let source = incoming.source.encoded();
        for answered in self.answered.iter_mut() {
            answered.joined |= answered.source == source && answered.session_id == id;
        }
        let ours = is_ours(&message);
        incoming.take_body(message);
        let (me, direction) = (incoming.destination.clone(), self.direction);
        let subject = &verified.claims.subject;
        let invited =
            Session::invited(id, me, kind, direction, &incoming, (&self.credentials, subject), cx)
                .and_then(|session| self.check_channels(session, &verified));
        match invited {
            Ok(mut session) => {
                if !ours {
                    session.spare_moderator();
                }
                let key = self.insert(session, None);
                log::debug!("session {id} ({key}): invited by {}", incoming.source);
                if let Some(entry) = self.sessions.get_mut(&id) {
                    let this = (incoming.kind, incoming.message_id);
                    entry.seen.insert(source, this, source);
                }
                self.settle(id);
            }
            Err(why) => {
                log::warn!("an invitation of {} was dropped: {why}", incoming.source);
            }
        }
    }

    /// The channels of a group have the ids that its moderator's identity gives them.
    fn check_channels(&self, session: Session, verified: &Verified) -> Result<Session, String> {
        let binding = self.credentials.lock().binding;
        if binding == Binding::Off || session.has_channels_of(&verified.claims.subject) {
            return Ok(session);
        }
        let text = "the channels of the group are not those of its moderator".to_owned();
        if binding == Binding::Warn {
            log::warn!("identity binding: {}: {text}", session.moderator_name());
            return Ok(session);
        }
        Err(text)
    }

    /// The last answer of an ended session was lost.
    fn on_unknown_session(&mut self, id: u32, incoming: &Incoming, now: Instant) {
        self.ended.retain(|ended| ended.until > now);
        let found = self.ended.iter().find(|ended| {
            ended.session_id == id
                && ended.asked_by == incoming.kind
                && ended.reply.message_id == incoming.message_id
                && ended.reply.to == incoming.source
        });
        match found {
            Some(ended) => {
                let (me, session_type) = (ended.me.clone(), ended.session_type);
                let (sent, reply) =
                    (Envelope { me, session_id: id, session_type }, ended.reply.clone());
                self.send(&sent, reply, Some(incoming.connection));
            }
            None => log::debug!("session {id} is not known: {:?} dropped", incoming.kind),
        }
    }

    /// Whether a message to `name` is for this app.
    fn is_for_us(&self, name: &Name) -> bool {
        let components = name.components();
        let ours = components == self.name.components() || self.aliases.contains(&components);
        ours && (name.id().is_null() || name.id() == self.name.id())
    }

    /// Checks the token, both signatures and the binding of a control message.
    fn verify(
        &mut self,
        message: &Message,
        sender: &Name,
        now: Now,
    ) -> Result<Verified, identity::Error> {
        let mut credentials = self.credentials.lock();
        let verified = verify_control(message, &mut *credentials.verifier, now)?;
        let mut result = Ok(());
        if !verified.payload_signed {
            result = Err(identity::Error::PayloadNotSigned);
        }
        let source = check_source(message, &verified.claims);
        match credentials.binding {
            Binding::Off => {}
            Binding::Warn => {
                for error in [source.err(), result.err()].into_iter().flatten() {
                    log::warn!("identity binding: {sender}: {error}");
                }
            }
            Binding::Default => {
                source?;
                if let Err(error) = result {
                    log::warn!("identity binding: {sender}: {error}");
                }
            }
            Binding::Enforce => {
                source?;
                result?;
            }
        }
        Ok(verified)
    }

    pub(super) fn insert(&mut self, session: Session, parent: Option<u32>) -> SessionKey {
        let id = session.id();
        let key = self.new_key(id);
        self.sessions
            .insert(id, Entry { session, key, parent, seen: Seen::default(), epoch: None });
        key
    }

    pub(super) fn new_key(&mut self, id: u32) -> SessionKey {
        let key = SessionKey { app: self.id, number: self.next_number };
        self.next_number += 1;
        self.by_number.insert(key.number, id);
        key
    }

    fn entry(&self, key: SessionKey) -> Option<&Entry> {
        self.sessions.get(self.by_number.get(&key.number)?)
    }

    /// Does something with a session, then carries out what it wants.
    fn with<R>(&mut self, key: SessionKey, act: impl FnOnce(&mut Session) -> R) -> Option<R> {
        let id = *self.by_number.get(&key.number)?;
        let result = act(&mut self.sessions.get_mut(&id)?.session);
        self.settle(id);
        Some(result)
    }

    pub(super) fn done_closed(&mut self, op: Option<OpId>) {
        let error = Error::Closed("session already closed".to_owned());
        self.outputs.extend(op.map(|op| Output::Done(op, Err(error))));
    }

    /// Queues what a session wants, sets its timer anew, and forgets it if it is over.
    ///
    /// Messages are signed later, by [`App::finish`].
    pub(super) fn settle(&mut self, id: u32) {
        let Some(entry) = self.sessions.get_mut(&id) else {
            return;
        };
        let key = entry.key;
        let mut last_reply = None;
        let mut parent = entry.parent.and_then(|parent| self.anycasts.get_mut(&parent));
        let epoch = entry.session.epoch();
        if std::mem::replace(&mut entry.epoch, epoch) != epoch && parent.is_none() {
            self.outputs.push_back(Output::Epoch(key, epoch));
        }
        for output in entry.session.take_outputs() {
            self.outputs.push_back(match output {
                SessionOutput::Send(outgoing) => {
                    let sent = Envelope {
                        me: entry.session.me().clone(),
                        session_id: id,
                        session_type: entry.session.kind().to_wire(),
                    };
                    let mut about = outgoing.about(Some(key));
                    about.sealed = entry.session.is_encrypted() && is_sealed(outgoing.kind);
                    let route = entry.session.route(&outgoing);
                    let message = Box::new(sent.message(outgoing, &self.version));
                    Output::Send { message, about, route }
                }
                SessionOutput::Join { connection, ticket } => {
                    let Some(channels) = entry.session.channels() else { continue };
                    Output::Join { session: key, channels, connection, ticket }
                }
                SessionOutput::Leave => {
                    let Some(channels) = entry.session.channels() else { continue };
                    Output::Leave { session: key, channels }
                }
                output if entry.parent.is_some() => {
                    let anycast = parent.as_deref_mut();
                    self.outputs.extend(anycast.and_then(|parent| parent.translate(id, output)));
                    continue;
                }
                SessionOutput::Item(item) => Output::Item(key, item),
                SessionOutput::Done(op, result) => Output::Done(op, result),
                SessionOutput::Accepted => Output::NewSession(key, entry.session.fields()),
                SessionOutput::Credit { messages, bytes } => {
                    Output::Credit { session: key, messages, bytes }
                }
                SessionOutput::Ended { reason, reply } => {
                    last_reply = reply;
                    Output::Ended(key, reason)
                }
            });
        }
        if !entry.session.has_ended() {
            return self.timers.set(id, entry.session.poll_timeout());
        }
        self.timers.set(id, None);
        let Some(entry) = self.sessions.remove(&id) else {
            return;
        };
        self.by_number.remove(&key.number);
        self.losses.add(entry.session.losses());
        if let Some(reply) = last_reply {
            self.remember_end(&entry.session, reply);
        }
    }

    fn remember_end(&mut self, session: &Session, reply: Outgoing) {
        let asked_by = match reply.kind {
            SessionMessageType::LeaveReply => SessionMessageType::LeaveRequest,
            _ => SessionMessageType::GroupClose,
        };
        if self.ended.len() == limits::ENDED_SESSIONS {
            self.ended.pop_front();
        }
        let (session_id, me) = (session.id(), session.me().clone());
        let session_type = session.kind().to_wire();
        // Counted from the session's next look at its members, at most ten seconds ahead.
        let until = session.next_look() + limits::ENDED_SESSION_TIME;
        let ended = EndedSession { session_id, session_type, me, reply, asked_by, until };
        self.ended.push_back(ended);
    }

    fn send(&mut self, sent: &Envelope, outgoing: Outgoing, via: Option<ConnectionId>) {
        let about = outgoing.about(None);
        let message = Box::new(sent.message(outgoing, &self.version));
        let route = via.map_or(Route::Any, Route::Over);
        self.outputs.push_back(Output::Send { message, about, route });
    }

    /// Gives a message its token; a control message its two signatures; data of an encrypted
    /// session its encryption, for which it must be there still.
    pub(crate) fn finish(
        &mut self,
        message: &mut Message,
        about: &About,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let token = self.credentials.lock().provider.token(cx.now, cx.entropy)?;
        let Some(MessageType::Publish(publish)) = &mut message.message_type else {
            return Ok(());
        };
        if let Some(header) = &mut publish.header {
            header.identity = token.to_string();
        }
        if about.sealed {
            let id = about.session.and_then(|key| self.by_number.get(&key.number)).copied();
            let entry = id.and_then(|id| Some((id, self.sessions.get_mut(&id)?)));
            let (id, entry) = entry.ok_or_else(|| Error::closed("session"))?;
            entry.session.seal(publish, cx)?;
            self.settle(id);
            return Ok(());
        }
        let kind =
            publish.session.map_or(SessionMessageType::Unspecified, |s| s.session_message_type());
        if kind.is_control() {
            sign_control(message, &*self.credentials.lock().provider)?;
        }
        Ok(())
    }

    /// Messages that its sessions lost or could not open, so far.
    pub(crate) fn losses(&self) -> Losses {
        let mut losses = self.losses;
        self.sessions.values().for_each(|entry| losses.add(entry.session.losses()));
        losses
    }

    /// Whether nothing is left of any session.
    pub(crate) fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && self.anycasts.is_empty()
            && self.timers.is_empty()
            && self.by_number.is_empty()
    }
}

/// What all messages of a session have in common.
struct Envelope {
    me: Name,
    session_id: u32,
    session_type: SessionType,
}

impl Envelope {
    fn message(&self, outgoing: Outgoing, version: &str) -> Message {
        let header = SlimHeader {
            source: Some(self.me.to_wire()),
            destination: Some(outgoing.to.to_wire()),
            fanout: outgoing.fanout,
            version: version.to_owned(),
            ttl: limits::TTL,
            error: outgoing.error.then_some(true),
            ..SlimHeader::default()
        };
        let session = SessionHeader {
            session_type: self.session_type as i32,
            session_message_type: outgoing.kind as i32,
            session_id: self.session_id,
            message_id: outgoing.message_id,
        };
        let publish =
            Publish { header: Some(header), session: Some(session), msg: Some(outgoing.content) };
        Message { message_type: Some(MessageType::Publish(publish)), metadata: outgoing.metadata }
    }
}

/// Reads the headers of a Publish; what it carries stays in it for [`Incoming::take_body`]. `None`:
/// something is missing.
fn read(message: &Message, connection: ConnectionId) -> Option<(SessionHeader, Incoming)> {
    let Some(MessageType::Publish(publish)) = &message.message_type else {
        return None;
    };
    let header = publish.header.as_ref()?;
    let session = publish.session?;
    let incoming = Incoming {
        kind: SessionMessageType::try_from(session.session_message_type).ok()?,
        source: Name::from_wire(header.source.as_ref()?)?,
        destination: Name::from_wire(header.destination.as_ref()?)?,
        message_id: session.message_id,
        metadata: BTreeMap::new(),
        content: None,
        error: header.error.is_some(),
        connection,
        repeated: false,
        aad: Vec::new(),
    };
    Some((session, incoming))
}

/// What of a message is larger than anybody could mean.
fn too_large(message: &Message) -> Option<&'static str> {
    let Some(MessageType::Publish(publish)) = &message.message_type else {
        return None;
    };
    let token = publish.header.as_ref().map_or(0, |header| header.identity.len());
    let payload_type = match publish.msg.as_ref().and_then(|msg| msg.content_type.as_ref()) {
        Some(ContentType::AppPayload(payload)) => payload.payload_type.len(),
        _ => 0,
    };
    let texts = message.metadata.iter().map(|(key, value)| key.len().max(value.len()));
    let longest = texts.chain([payload_type]).max().unwrap_or(0);
    if token > limits::TOKEN_LEN {
        Some("its token is too long")
    } else if message.metadata.len() > limits::PEER_METADATA_ENTRIES {
        Some("it has too many pairs of metadata")
    } else if longest > limits::METADATA_TEXT {
        Some("a text in its metadata, or its payload type, is too long")
    } else {
        None
    }
}

/// Messages that only the moderator may send (spec 03 section 3.4).
fn for_moderator_only(kind: SessionMessageType) -> bool {
    use SessionMessageType as T;
    matches!(
        kind,
        T::JoinRequest
            | T::GroupWelcome
            | T::GroupUpdate
            | T::LeaveRequest
            | T::GroupClose
            | T::LeaveReply
            | T::RejoinReply
    )
}

/// Messages whose answer is sent again when they come again.
fn is_answered_again(kind: SessionMessageType) -> bool {
    use SessionMessageType as T;
    matches!(
        kind,
        T::JoinRequest
            | T::GroupWelcome
            | T::GroupUpdate
            | T::GroupClose
            | T::LeaveRequest
            | T::UpdateParticipantState
            | T::RejoinRequest
    )
}

/// Whether a message is of this implementation, as it says.
fn is_ours(message: &Message) -> bool {
    let Some(MessageType::Publish(publish)) = &message.message_type else { return false };
    publish.header.as_ref().is_some_and(|header| crate::is_ours(&header.version))
}

/// What is encrypted where anything is.
fn is_sealed(kind: SessionMessageType) -> bool {
    matches!(kind, SessionMessageType::Msg | SessionMessageType::RtxReply)
}

/// Control messages that a session has taken from those who take part, by sender, kind and number
/// (DESIGN decision 11). Heartbeats are among them: a recorded one would bring a dead member back. A
/// sender's last thousand take longer than a token is valid.
#[derive(Default)]
struct Seen {
    senders: VecDeque<SeenFrom>,
}

/// What one sender sent, and in which order.
struct SeenFrom {
    source: EncodedName,
    known: HashSet<(SessionMessageType, u32)>,
    order: VecDeque<(SessionMessageType, u32)>,
}

impl Seen {
    /// Whether it was here before.
    fn contains(&self, message: &Incoming) -> bool {
        let (source, this) = (message.source.encoded(), (message.kind, message.message_id));
        let sender = self.senders.iter().find(|sender| sender.source == source);
        sender.is_some_and(|sender| sender.known.contains(&this))
    }

    /// Remembers it, if need be in the place of what is older: of this sender, or of another that was
    /// silent for longest. Those of the moderator stay.
    fn insert(
        &mut self,
        source: EncodedName,
        this: (SessionMessageType, u32),
        moderator: EncodedName,
    ) {
        let at = self.senders.iter().position(|sender| sender.source == source);
        let mut sender = at.and_then(|at| self.senders.remove(at)).unwrap_or_else(|| SeenFrom {
            source,
            known: HashSet::new(),
            order: VecDeque::new(),
        });
        if sender.known.insert(this) {
            sender.order.push_back(this);
        }
        if sender.order.len() > limits::SEEN_CONTROL_MESSAGES {
            if let Some(oldest) = sender.order.pop_front() {
                sender.known.remove(&oldest);
            }
        }
        if self.senders.len() == limits::SEEN_CONTROL_SENDERS {
            let oldest = self.senders.iter().position(|other| other.source != moderator);
            oldest.and_then(|oldest| self.senders.remove(oldest));
        }
        self.senders.push_back(sender);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(from: u128, message_id: u32) -> Incoming {
        let source = Name::new(["o", "n", "s"], crate::name::NameId(from));
        Incoming {
            kind: SessionMessageType::Heartbeat,
            destination: source.clone(),
            source,
            message_id,
            metadata: Default::default(),
            content: None,
            error: false,
            connection: ConnectionId(0),
            repeated: false,
            aad: Vec::new(),
        }
    }

    const MODERATOR: u128 = 1000;

    impl Seen {
        /// `true`: it is new.
        fn see(&mut self, message: &Incoming) -> bool {
            let new = !self.contains(message);
            let moderator = heartbeat(MODERATOR, 0).source.encoded();
            let this = (message.kind, message.message_id);
            self.insert(message.source.encoded(), this, moderator);
            new
        }
    }

    #[test]
    fn spec03_39_what_was_seen_is_bounded() {
        let mut seen = Seen::default();
        let most = limits::SEEN_CONTROL_MESSAGES as u32;
        assert!((1..=most).all(|id| seen.see(&heartbeat(1, id))));
        assert!(!seen.see(&heartbeat(1, 1)), "at the limit");
        let other = SessionMessageType::GroupAck;
        assert!(seen.see(&Incoming { kind: other, ..heartbeat(1, 2) }), "another kind");
        assert!(seen.see(&heartbeat(1, 1)), "the oldest is forgotten for it");
        assert_eq!(seen.senders[0].order.len(), limits::SEEN_CONTROL_MESSAGES);
        assert_eq!(seen.senders[0].known.len(), limits::SEEN_CONTROL_MESSAGES);

        let mut seen = Seen::default();
        let most = limits::SEEN_CONTROL_SENDERS as u128;
        assert!((1..=most).all(|from| seen.see(&heartbeat(from, 1))));
        assert!(!seen.see(&heartbeat(1, 1)), "at the limit; and heard last, now");
        assert!(seen.see(&heartbeat(most + 1, 1)));
        assert_eq!(seen.senders.len(), limits::SEEN_CONTROL_SENDERS);
        assert!(!seen.see(&heartbeat(1, 1)));
        assert!(seen.see(&heartbeat(2, 1)), "who was silent longest is forgotten");
    }

    #[test]
    fn what_the_moderator_sent_is_not_forgotten_for_others() {
        let mut seen = Seen::default();
        seen.see(&heartbeat(MODERATOR, 1));
        let most = limits::SEEN_CONTROL_SENDERS as u128;
        assert!((1..=2 * most).all(|from| seen.see(&heartbeat(from % MODERATOR, 1))));
        assert_eq!(seen.senders.len(), limits::SEEN_CONTROL_SENDERS);
        assert!(!seen.see(&heartbeat(MODERATOR, 1)));
    }
}
