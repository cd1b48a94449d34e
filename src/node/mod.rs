//! The core as one machine: links, the router, and the apps with their sessions.
//!
//! A node may be dialled, dial others, and carry local apps, all at once. It is fed the bytes of
//! transports (sockets, in a running node; queues, in a test), calls, and time; it hands out
//! [`Output`]s, and bytes for transports that are [`dirty`](Node::next_dirty).

mod connection;
mod delivery;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::clock::{Now, Timers};
use crate::config::ServerConfig;
use crate::entropy::Entropy;
use crate::error::{Error, Result};
use crate::identity::{Binding, Provider, Verifier};
use crate::limits;
use crate::link::{Age, Identity, Link, LinkConfig, Origin};
use crate::name::Name;
use crate::router::{ConnectionId, ConnectionKind, Gateway, Router};
use crate::session::app::{App, Output as AppOutput};
use crate::session::{
    AppId, Context, Direction, Fields, Item, Losses, OpId, Payload, SessionConfig, SessionKey,
};
use connection::Connection;
pub use connection::ConnectionInfo;
use subscription::Subscriptions;

/// Number of a byte stream between two nodes. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransportId(pub u64);

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// How it introduces itself.
    pub identity: Identity,
    /// Which connection takes what local apps send to unknown names.
    pub gateway: Gateway,
    /// What happens to messages that do not fit their sender's identity.
    pub binding: Binding,
    /// A link that takes nothing for this long, while data waits, is stuck: one to an app is cut, to
    /// one between nodes nothing is forwarded until it moves again.
    pub stuck_receiver_timeout: Duration,
    /// The clock that comes with calls is not the system's: the keys of encrypted sessions are then
    /// valid at any time.
    pub virtual_time: bool,
}

/// How links that are dialled from outside behave: those of one listener.
#[derive(Clone, Copy, Debug)]
pub struct AcceptOptions {
    /// Refuse links without a key and unsigned messages.
    pub require_header_mac: bool,
    /// How long the negotiation may take.
    pub negotiation_timeout: Duration,
    /// A PING is sent after this time of silence.
    pub ping_after: Duration,
    /// And must be answered in this time.
    pub ping_timeout: Duration,
    /// How old they may become.
    pub age: Option<Age>,
}

impl From<&ServerConfig> for AcceptOptions {
    fn from(config: &ServerConfig) -> AcceptOptions {
        let keepalive = &config.keepalive;
        AcceptOptions {
            require_header_mac: config.require_header_mac,
            negotiation_timeout: config.negotiation_timeout,
            ping_after: keepalive.time,
            ping_timeout: keepalive.timeout,
            age: Some(Age {
                limit: keepalive.max_connection_age,
                grace: keepalive.max_connection_age_grace,
            }),
        }
    }
}

/// What a node wants of the world.
#[derive(Debug)]
pub enum Output {
    /// Connect a byte stream to this endpoint; answered by [`Node::handle_connected`] or
    /// [`Node::handle_connect_failed`].
    Dial {
        /// Names the byte stream.
        transport: TransportId,
        /// A literal address or a name.
        host: String,
        /// The TCP port.
        port: u16,
        /// A limit for one attempt, if there is one.
        timeout: Option<Duration>,
        /// Silence after which TCP itself is to ask whether the peer lives; `None`: never.
        keepalive: Option<Duration>,
        /// Attempts that failed before: one of several addresses may be dead though it can be
        /// connected to, so each attempt begins with another.
        failures: u64,
    },
    /// Write what the transport still has, then close it. The node has forgotten it.
    Close {
        /// Which.
        transport: TransportId,
        /// The last bytes for the peer.
        bytes: Vec<u8>,
    },
    /// A call is answered.
    Done(OpId, Result<Value>),
    /// Somebody opened a session to an app.
    NewSession(SessionKey, Fields),
    /// Something for a session's application.
    Item(SessionKey, Item),
    /// There is room for more publishes in a session.
    Credit {
        /// Which.
        session: SessionKey,
        /// So many messages.
        messages: usize,
        /// So many bytes.
        bytes: usize,
    },
    /// How often the keys of an encrypted session have changed.
    Epoch(SessionKey, Option<u64>),
    /// A session is over, for a reason in words.
    Ended(SessionKey, String),
}

/// What a call gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing but success.
    Nothing,
    /// A connection.
    Connection(ConnectionId),
}

/// What a node holds at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections, those that are being made again included; local apps are not.
    pub connections: usize,
    /// Connections that can be used now.
    pub up: usize,
    /// Byte streams, those that linger after their end included.
    pub transports: usize,
    /// Names that somebody subscribed, local apps included.
    pub names: usize,
    /// Subscriptions of local apps at other nodes.
    pub subscriptions: usize,
    /// Of these, not acknowledged yet.
    pub unacknowledged: usize,
    /// Sessions of local apps.
    pub sessions: usize,
    /// Messages on their way to several links.
    pub fanouts: usize,
    /// Bytes that wait for peers.
    pub backlog: usize,
    /// Bytes of messages that peers may not replace by new ones yet, because they wait for others.
    pub held: usize,
    /// Messages that could not be forwarded, since the beginning.
    pub dropped: u64,
    /// Messages of encrypted sessions of local apps that were dropped because they could not be
    /// opened, or were not encrypted.
    pub unreadable: u64,
    /// Messages that sessions of local apps lost, as a sender or a receiver: best-effort ones for which
    /// the inbox had no room (each as often as it came, and not looked into) or for which this node knew
    /// nobody, and reliable ones that their receiver gave up.
    pub lost: u64,
}

/// One node.
pub struct Node {
    options: NodeOptions,
    entropy: Box<dyn Entropy>,
    router: Router,
    connections: BTreeMap<ConnectionId, Connection>,
    transports: BTreeMap<TransportId, Transport>,
    apps: BTreeMap<AppId, Local>,
    app_of: BTreeMap<ConnectionId, AppId>,
    subscriptions: Subscriptions,
    timers: Timers<Timer>,
    dirty: VecDeque<TransportId>,
    outputs: VecDeque<Output>,
    next_transport: u64,
    next_app: u64,
    dropped: u64,
    /// Of apps that have gone.
    losses: Losses,
    /// When a link ended last since another took its place.
    handed_over: Option<Instant>,
    stopping: bool,
    /// Messages on their way to several links.
    fanouts: BTreeMap<u64, Fanout>,
    next_fanout: u64,
}

/// A message on its way to several links.
struct Fanout {
    source: TransportId,
    len: usize,
    /// Links that have not taken it yet.
    missing: usize,
}

/// A byte stream.
struct Transport {
    /// `None` while it is being connected.
    link: Option<Link>,
    /// `None` for an accepted one before its negotiation.
    connection: Option<ConnectionId>,
    dirty: bool,
    /// Its link is over; it stays for a moment, so that the peer can read the end.
    lingers: bool,
}

/// An app of this node.
struct Local {
    app: App,
    connection: ConnectionId,
}

/// Things that want to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    Transport(TransportId),
    Connection(ConnectionId),
    App(AppId),
    Subscription(u64),
}

impl Node {
    /// A node without links or apps.
    pub fn new(options: NodeOptions, mut entropy: Box<dyn Entropy>) -> Node {
        Node {
            router: Router::new(options.gateway),
            subscriptions: Subscriptions::new(&mut *entropy),
            options,
            entropy,
            connections: BTreeMap::new(),
            transports: BTreeMap::new(),
            apps: BTreeMap::new(),
            app_of: BTreeMap::new(),
            timers: Timers::default(),
            dirty: VecDeque::new(),
            outputs: VecDeque::new(),
            next_transport: 0,
            next_app: 0,
            dropped: 0,
            losses: Losses::default(),
            handed_over: None,
            stopping: false,
            fanouts: BTreeMap::new(),
            next_fanout: 0,
        }
    }

    /// Somebody dialled us: the byte stream is ready.
    pub fn accept(&mut self, options: AcceptOptions, now: Now) -> TransportId {
        let config = LinkConfig {
            identity: self.options.identity.clone(),
            require_header_mac: options.require_header_mac,
            negotiation_timeout: options.negotiation_timeout,
            ping_after: options.ping_after,
            ping_timeout: options.ping_timeout,
            age: options.age,
            stuck_timeout: self.options.stuck_receiver_timeout,
        };
        let id = self.new_transport(Some(Link::accept(config, now)), None);
        match self.stopping {
            true => self.close_transport(id),
            false => self.after_link(id, now),
        }
        id
    }

    /// Bytes arrived on a transport.
    pub fn handle_bytes(&mut self, transport: TransportId, bytes: &[u8], now: Now) {
        // One HTTP/2 chunk at a time, so that what it brought is routed before more is read.
        for chunk in bytes.chunks(limits::HTTP2_FEED) {
            let Some(link) = self.transports.get_mut(&transport).and_then(|t| t.link.as_mut())
            else {
                return;
            };
            link.handle_bytes(chunk, now, &mut *self.entropy);
            self.after_fed(transport, chunk, now);
        }
    }

    /// Whether a transport that was asked for is still wanted.
    pub fn wants(&self, transport: TransportId) -> bool {
        self.transports.contains_key(&transport)
    }

    /// A transport has ended or failed.
    pub fn handle_disconnected(&mut self, transport: TransportId, cause: &str, now: Now) {
        if let Some(link) = self.link(transport) {
            link.handle_disconnect(cause);
            self.after_link(transport, now);
        }
        if self.transports.get(&transport).is_some_and(|t| t.lingers) {
            self.close_transport(transport);
        }
    }

    /// A transport that has bytes to write, each once until it has been asked for them.
    pub fn next_dirty(&mut self) -> Option<TransportId> {
        while let Some(id) = self.dirty.pop_front() {
            if let Some(transport) = self.transports.get_mut(&id) {
                transport.dirty = false;
                return Some(id);
            }
        }
        None
    }

    /// The bytes that a transport should write now; empty when there are none.
    pub fn output(&mut self, transport: TransportId) -> &[u8] {
        match self.link(transport) {
            Some(link) => link.output(),
            None => &[],
        }
    }

    /// Whether the peer waits until the kernel has acknowledged what it wrote.
    pub(crate) fn waits_for_acknowledgement(&mut self, transport: TransportId) -> bool {
        self.link(transport).is_some_and(|link| !link.peer_writes_at_once())
    }

    /// So many of them were written.
    pub fn wrote(&mut self, transport: TransportId, len: usize, now: Now) {
        if let Some(link) = self.link(transport) {
            link.wrote(len, now);
            self.link_events(transport, &[], now);
            self.settle(now);
            self.close_if_drained(transport, now);
        }
    }

    /// When [`Node::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.mono) {
            match timer {
                Timer::Transport(id) if self.transports.get(&id).is_some_and(|t| t.lingers) => {
                    self.close_transport(id);
                }
                Timer::Transport(id) => {
                    if let Some(link) = self.link(id) {
                        link.handle_timeout(now);
                        self.after_link(id, now);
                    }
                }
                Timer::Connection(id) => self.connection_due(id, now),
                Timer::App(id) => self.with_app(id, now, |app, cx| app.handle_timeout(cx)),
                Timer::Subscription(id) => self.subscription_due(id, now),
            }
        }
        self.settle(now);
    }

    /// The next thing that the node wants.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Adds an app; its full name is returned with its number.
    pub fn add_app(
        &mut self,
        name: &Name,
        provider: Box<dyn Provider>,
        verifier: Box<dyn Verifier>,
    ) -> (AppId, Name) {
        let id = AppId(self.next_app);
        self.next_app += 1;
        let version = &self.options.identity.version;
        let mut app = App::new(id, name, version, provider, verifier, self.options.binding);
        if self.options.virtual_time {
            app.set_virtual_time();
        }
        let full = app.name().clone();
        let connection = self.router.connect(ConnectionKind::Local);
        // A connection that was just made is known to the router.
        let _ = self.router.subscribe(connection, full.encoded(), 0);
        self.apps.insert(id, Local { app, connection });
        self.app_of.insert(connection, id);
        (id, full)
    }

    /// Closes an app: its sessions end without waiting for their peers, its names are given up.
    pub fn remove_app(&mut self, app: AppId, now: Now) {
        self.with_app(app, now, |app, cx| app.shut_down(cx));
        self.settle(now);
        self.forget_app_subscriptions(app, now);
        self.settle(now);
        if let Some(local) = self.apps.remove(&app) {
            self.losses.add(local.app.losses());
            self.router.disconnect(local.connection);
            self.app_of.remove(&local.connection);
            self.timers.set(Timer::App(app), None);
        }
    }

    /// Opens a session. `op` is answered when it is ready.
    pub fn open_session(
        &mut self,
        app: AppId,
        config: SessionConfig,
        destination: &Name,
        op: OpId,
        now: Now,
    ) -> Result<(SessionKey, Fields)> {
        let Node { apps, entropy, .. } = self;
        let app_id = app;
        let app = &mut apps.get_mut(&app).ok_or_else(|| Error::closed("app"))?.app;
        let mut cx = Context { now, entropy: &mut **entropy };
        let key = app.open(config, destination, op, &mut cx)?;
        let fields = app.fields(key).ok_or_else(|| Error::closed("session"))?;
        self.after_app(app_id);
        self.settle(now);
        Ok((key, fields))
    }

    /// What is known about a session, while it is there.
    pub fn session(&self, session: SessionKey) -> Option<Fields> {
        self.apps.get(&session.app)?.app.fields(session)
    }

    /// Who takes part in a session besides its app, and who of them can be reached.
    pub fn participants(&self, session: SessionKey) -> Option<Vec<(Name, bool)>> {
        self.apps.get(&session.app)?.app.participants(session)
    }

    /// Publishes a message; with `op` its outcome is reported.
    pub fn publish(&mut self, session: SessionKey, payload: Payload, op: Option<OpId>, now: Now) {
        self.with_session(session, op, now, |app, cx| app.publish(session, payload, op, cx));
    }

    /// Publishes a message to one member of a group; with `op` its outcome is reported.
    pub fn publish_to(
        &mut self,
        session: SessionKey,
        member: &Name,
        payload: Payload,
        op: Option<OpId>,
        now: Now,
    ) {
        self.with_session(session, op, now, |app, cx| {
            app.publish_to(session, member, payload, op, cx);
        });
    }

    /// Invites somebody into a group. `op` is answered when it has joined and everybody knows.
    pub fn invite(&mut self, session: SessionKey, name: Name, op: Option<OpId>, now: Now) {
        self.with_session(session, op, now, |app, cx| {
            app.act(session, op, |session| session.invite(name, op, cx));
        });
    }

    /// Removes somebody from a group. `op` is answered when everybody knows.
    pub fn remove(&mut self, session: SessionKey, name: Name, op: Option<OpId>, now: Now) {
        self.with_session(session, op, now, |app, cx| {
            app.act(session, op, |session| session.remove(name, op, cx));
        });
    }

    /// Goes away from a group for a while, or comes back. `op` is answered when everybody knows.
    pub fn set_away(&mut self, session: SessionKey, away: bool, op: Option<OpId>, now: Now) {
        self.with_session(session, op, now, |app, cx| {
            app.act(session, op, |session| session.set_presence(away, op, cx));
        });
    }

    /// Nobody waits for an invitation or removal any more; an invitation is taken back.
    pub fn cancel(&mut self, session: SessionKey, op: OpId, now: Now) {
        self.with_session(session, None, now, |app, cx| {
            app.act(session, None, |session| session.cancel(op, cx));
        });
    }

    /// Which way data goes in sessions that others open to an app from now on.
    pub fn set_direction(&mut self, app: AppId, direction: Direction, now: Now) {
        self.with_app(app, now, |app, _| app.set_direction(direction));
    }

    /// Closes a session.
    pub fn close_session(&mut self, session: SessionKey, op: Option<OpId>, now: Now) {
        self.with_session(session, op, now, |app, cx| app.close(session, op, cx));
    }

    /// Whether a session's events are wanted.
    pub fn set_events(&mut self, session: SessionKey, events: bool, now: Now) {
        self.with_session(session, None, now, |app, _| app.set_events(session, events));
    }

    /// The inbox of a session's application is full, or has room again.
    pub fn set_inbox_full(&mut self, session: SessionKey, full: bool, now: Now) {
        let act = |app: &mut App, cx: &mut Context<'_>| app.set_inbox_full(session, full, cx);
        self.with_session(session, None, now, act);
    }

    /// Ends everything: sessions, links. A transport is closed when its peer has taken what is queued
    /// for it, or when the peer closes it; it is for the driver to lose patience. What
    /// [`Output::Close`] carries should still be written.
    pub fn shut_down(&mut self, now: Now) {
        self.stopping = true;
        for app in self.apps.keys().copied().collect::<Vec<_>>() {
            self.remove_app(app, now);
        }
        for connection in self.connections.keys().copied().collect::<Vec<_>>() {
            let _ = self.disconnect(connection, now);
        }
        for id in self.transports.keys().copied().collect::<Vec<_>>() {
            match self.link(id) {
                Some(link) => {
                    link.drain("the node stops");
                    self.after_link(id, now);
                }
                None => self.close_transport(id),
            }
            self.close_if_drained(id, now);
        }
        self.settle(now);
    }

    /// When the node ends, a transport goes as soon as everything is written; one that was accepted
    /// when its peer hangs up, or soon: who finds the end of the connection together with that of the
    /// stream may not look at the latter.
    fn close_if_drained(&mut self, id: TransportId, now: Now) {
        let transport = self.transports.get(&id).filter(|t| self.stopping && t.lingers);
        let link = transport.and_then(|t| t.link.as_ref()).filter(|link| link.is_drained());
        let Some(dialled) = link.map(Link::is_dialled) else { return };
        let timer = Timer::Transport(id);
        if dialled {
            self.close_transport(id);
        } else if !self.timers.is_set(timer) {
            self.timers.set(timer, Some(now.mono + limits::LINGER));
        }
    }

    /// Whether nothing is left: no links, sessions, routes but those of apps to themselves, or
    /// timers.
    pub fn is_idle(&self) -> bool {
        self.transports.is_empty()
            && self.connections.is_empty()
            && self.subscriptions.len() == 0
            && self.fanouts.is_empty()
            && self.router.connections() == self.apps.len()
            && self.router.names() == self.apps.len()
            && self.apps.values().all(|local| local.app.is_idle())
            && self.timers.is_empty()
    }

    fn with_session(
        &mut self,
        session: SessionKey,
        op: Option<OpId>,
        now: Now,
        act: impl FnOnce(&mut App, &mut Context<'_>),
    ) {
        if self.apps.contains_key(&session.app) {
            self.with_app(session.app, now, act);
            self.settle(now);
        } else if let Some(op) = op {
            self.outputs.push_back(Output::Done(op, Err(Error::closed("app"))));
        }
    }

    fn with_app(&mut self, id: AppId, now: Now, act: impl FnOnce(&mut App, &mut Context<'_>)) {
        let Node { apps, entropy, .. } = self;
        if let Some(local) = apps.get_mut(&id) {
            act(&mut local.app, &mut Context { now, entropy: &mut **entropy });
            self.after_app(id);
        }
    }

    fn after_app(&mut self, id: AppId) {
        if let Some(local) = self.apps.get(&id) {
            self.timers.set(Timer::App(id), local.app.poll_timeout());
        }
    }

    fn new_transport(
        &mut self,
        link: Option<Link>,
        connection: Option<ConnectionId>,
    ) -> TransportId {
        let id = TransportId(self.next_transport);
        self.next_transport += 1;
        self.transports.insert(id, Transport { link, connection, dirty: false, lingers: false });
        id
    }

    /// The link of a transport, once that is connected.
    fn link(&mut self, id: TransportId) -> Option<&mut Link> {
        self.transports.get_mut(&id)?.link.as_mut()
    }

    /// The transport that a connection has now.
    fn transport_of(&self, id: ConnectionId) -> Option<TransportId> {
        self.connections.get(&id)?.transport
    }

    fn mark_dirty(&mut self, id: TransportId) {
        if let Some(transport) = self.transports.get_mut(&id) {
            if !std::mem::replace(&mut transport.dirty, true) {
                self.dirty.push_back(id);
            }
        }
    }

    fn done(&mut self, op: Option<OpId>, result: Result<Value>) {
        self.outputs.extend(op.map(|op| Output::Done(op, result)));
    }

    /// Gives credit back for bytes that have left a link.
    fn taken(&mut self, origin: Origin, bytes: usize, now: Now) {
        match origin {
            Origin::Own | Origin::Link | Origin::Repeat => {}
            Origin::Publish(session, bytes) => {
                self.with_app(session.app, now, |app, cx| app.handle_taken(session, bytes, cx));
            }
            Origin::Transit(source) => self.release(TransportId(source), bytes),
            Origin::Fanout(id) => {
                let Some(fanout) = self.fanouts.get_mut(&id) else { return };
                fanout.missing -= 1;
                if fanout.missing == 0 {
                    let (source, len) = (fanout.source, fanout.len);
                    self.fanouts.remove(&id);
                    self.release(source, len);
                }
            }
        }
    }

    /// The link that a message came over may be sent more.
    fn release(&mut self, source: TransportId, len: usize) {
        if let Some(link) = self.link(source) {
            link.release(len);
            self.mark_dirty(source);
        }
    }

    /// What it holds.
    pub fn stats(&self) -> Stats {
        let links = || self.transports.values().filter_map(|t| t.link.as_ref());
        let mut losses = self.losses;
        self.apps.values().for_each(|local| losses.add(local.app.losses()));
        Stats {
            connections: self.connections.len(),
            up: self.connections.values().filter(|c| c.is_up()).count(),
            transports: self.transports.len(),
            names: self.router.names(),
            subscriptions: self.subscriptions.len(),
            unacknowledged: self.subscriptions.unacknowledged(),
            sessions: self.apps.values().map(|local| local.app.sessions()).sum(),
            fanouts: self.fanouts.len(),
            backlog: links().map(Link::backlog).sum(),
            held: links().map(Link::held).sum(),
            dropped: self.dropped,
            unreadable: losses.unreadable,
            lost: losses.lost,
        }
    }
}

impl From<AppOutput> for Option<Output> {
    /// What an app says to its application; `None` for what the node itself has to do.
    fn from(output: AppOutput) -> Option<Output> {
        Some(match output {
            AppOutput::Send { .. } | AppOutput::Join { .. } | AppOutput::Leave { .. } => {
                return None
            }
            AppOutput::Done(op, result) => Output::Done(op, result.map(|()| Value::Nothing)),
            AppOutput::NewSession(key, fields) => Output::NewSession(key, fields),
            AppOutput::Item(key, item) => Output::Item(key, item),
            AppOutput::Credit { session, messages, bytes } => {
                Output::Credit { session, messages, bytes }
            }
            AppOutput::Epoch(key, epoch) => Output::Epoch(key, epoch),
            AppOutput::Ended(key, reason) => Output::Ended(key, reason),
        })
    }
}
