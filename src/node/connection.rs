//! Connections: dialling, coming up, loss, dialling again (spec 01 sections 1.5 and 6).

use std::time::{Duration, Instant};

use super::{Node, Output, Timer, TransportId, Value};
use crate::clock::Now;
use crate::config::{ClientConfig, ConnectionType};
use crate::error::{Error, Result};
use crate::limits;
use crate::link::{CloseReason, DialConfig, Event, Link, LinkConfig};
use crate::router::{ConnectionId, ConnectionKind};
use crate::session::app::App;
use crate::session::OpId;
use crate::wire::{FrameKind, LinkConnectionType};

/// A connection to another node or app. One that we dialled lives until it is closed, whatever
/// becomes of its transports.
pub(super) struct Connection {
    /// The one that is used, or is to be.
    pub(super) transport: Option<TransportId>,
    dialled: Option<Dialled>,
    up: bool,
}

/// What is known about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its number.
    pub id: ConnectionId,
    /// What the other side is treated as; `None` before it was up.
    pub kind: Option<ConnectionKind>,
    /// Whether it can be used now.
    pub up: bool,
    /// Where it was dialled; `None` if it came from outside.
    pub endpoint: Option<String>,
}

impl Connection {
    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    pub(super) fn is_dialled(&self) -> bool {
        self.dialled.is_some()
    }
}

/// What a connection that we dialled needs to be made again.
struct Dialled {
    config: ClientConfig,
    link_id: String,
    /// Attempts that failed since it was last up for more than a moment.
    failures: u64,
    up_since: Option<Instant>,
    /// The link of now: it may have taken the place of another.
    link_since: Option<Instant>,
    retry_at: Option<Instant>,
    /// To take the place of a link that its acceptor will end before long: being made.
    successor: Option<TransportId>,
    /// The link whose place was taken, as long as it has not ended: until then nothing goes over the
    /// new one, so that nothing overtakes anything.
    predecessor: Option<TransportId>,
    /// The call that waits for it to come up the first time.
    waiting: Option<(OpId, Option<Instant>)>,
    last_error: Option<String>,
}

impl Dialled {
    /// The pause before the next attempt: none after what lasted since then.
    fn pause(&mut self, since: Option<Instant>, random: u32, now: Now) -> Option<Duration> {
        if since.is_some_and(|since| now.mono >= since + limits::STABLE_LINK) {
            self.failures = 0;
            return Some(Duration::ZERO);
        }
        self.failures += 1;
        self.config.backoff.delay(self.failures, random)
    }
}

impl Node {
    /// All connections.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let info = |(id, connection): (&ConnectionId, &Connection)| ConnectionInfo {
            id: *id,
            kind: self.router.kind(*id),
            up: connection.up,
            endpoint: connection.dialled.as_ref().map(|d| d.config.endpoint.text.clone()),
        };
        self.connections.iter().map(info).collect()
    }

    /// Dials another node. `op` is answered when the link is usable, when trying on makes no
    /// sense, or at `deadline`. A link that is lost later is made again under the same number.
    pub fn connect(&mut self, config: ClientConfig, op: OpId, deadline: Option<Instant>) {
        let id = self.router.number();
        let link_id = config.link_id.clone().unwrap_or_else(|| self.entropy.uuid_v4());
        let dialled = Dialled {
            config,
            link_id,
            failures: 0,
            up_since: None,
            link_since: None,
            retry_at: None,
            successor: None,
            predecessor: None,
            waiting: Some((op, deadline)),
            last_error: None,
        };
        let connection = Connection { transport: None, dialled: Some(dialled), up: false };
        self.connections.insert(id, connection);
        self.dial(id);
        self.arm(id);
    }

    /// Closes a connection for good; its routes and subscriptions are forgotten.
    pub fn disconnect(&mut self, id: ConnectionId, now: Now) -> Result<()> {
        let Some(connection) = self.connections.get(&id) else {
            return Err(Error::NotFound(format!("connection not found: {id}")));
        };
        let dialled = connection.dialled.as_ref();
        let others = dialled.map_or([None; 2], |dialled| [dialled.successor, dialled.predecessor]);
        let (transport, stopping) = (connection.transport, self.stopping);
        let transports: Vec<TransportId> =
            others.into_iter().chain([transport]).flatten().collect();
        for transport in &transports {
            match self.link(*transport) {
                Some(link) if stopping => link.drain("the node stops"),
                Some(link) => link.close("closed by this side"),
                None => self.close_transport(*transport),
            }
        }
        self.forget(id, &CloseReason::last("the connection was closed"), now);
        for transport in transports {
            self.after_link(transport, now);
        }
        self.settle(now);
        Ok(())
    }

    /// A byte stream that we asked for is ready.
    pub fn handle_connected(&mut self, transport: TransportId, now: Now) {
        let Some(connection) = self.transports.get(&transport).and_then(|t| t.connection) else {
            return;
        };
        let Some(dialled) =
            self.connections.get(&connection).and_then(|connection| connection.dialled.as_ref())
        else {
            return;
        };
        let config = &dialled.config;
        let (ping_after, ping_timeout) = match &config.keepalive {
            Some(keepalive) => (keepalive.http2_keepalive, keepalive.timeout),
            None => Default::default(),
        };
        let link = LinkConfig {
            identity: self.options.identity.clone(),
            require_header_mac: config.require_header_mac,
            negotiation_timeout: limits::NEGOTIATION_TIMEOUT,
            ping_after,
            ping_timeout,
            age: None,
            stuck_timeout: self.options.stuck_receiver_timeout,
        };
        let dial = DialConfig {
            link_id: dialled.link_id.clone(),
            connection_type: match config.connection_type {
                ConnectionType::Edge => LinkConnectionType::Edge,
                ConnectionType::Remote => LinkConnectionType::Remote,
            },
            scheme: "http".to_owned(),
            authority: config.endpoint.authority(),
            headers: config.headers.clone(),
            response_timeout: match config.request_timeout {
                Duration::ZERO => limits::RESPONSE_HEAD_TIMEOUT,
                limit => limit,
            },
        };
        let link = Link::dial(link, dial, now, &mut *self.entropy);
        if let Some(entry) = self.transports.get_mut(&transport) {
            entry.link = Some(link);
        }
        self.after_link(transport, now);
    }

    /// A byte stream that we asked for could not be made.
    pub fn handle_connect_failed(&mut self, transport: TransportId, cause: &str, now: Now) {
        let Some(gone) = self.transports.remove(&transport) else { return };
        if let Some(id) = gone.connection {
            self.lost(id, transport, CloseReason::retry(cause), now);
        }
    }

    fn dial(&mut self, id: ConnectionId) {
        let transport = self.new_transport(None, Some(id));
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(dialled) = &mut connection.dialled else { return };
        match connection.up {
            true => dialled.successor = Some(transport),
            false => connection.transport = Some(transport),
        }
        dialled.retry_at = None;
        let config = &dialled.config;
        self.outputs.push_back(Output::Dial {
            transport,
            host: config.endpoint.host.clone(),
            port: config.endpoint.port,
            timeout: Some(config.connect_timeout).filter(|limit| !limit.is_zero()),
            keepalive: config.keepalive.as_ref().map(|keepalive| keepalive.tcp_keepalive),
            failures: dialled.failures,
        });
    }

    fn arm(&mut self, id: ConnectionId) {
        let dialled = self.connections.get(&id).and_then(|c| c.dialled.as_ref());
        let at = dialled.and_then(|dialled| {
            let deadline = dialled.waiting.and_then(|(_, deadline)| deadline);
            dialled.retry_at.into_iter().chain(deadline).min()
        });
        self.timers.set(Timer::Connection(id), at);
    }

    /// The time to dial again has come, or the caller's time is over.
    pub(super) fn connection_due(&mut self, id: ConnectionId, now: Now) {
        let Some(dialled) = self.connections.get_mut(&id).and_then(|c| c.dialled.as_mut()) else {
            return;
        };
        if let Some((op, Some(deadline))) = dialled.waiting {
            if deadline <= now.mono {
                let endpoint = &dialled.config.endpoint.text;
                let error = match &dialled.last_error {
                    Some(cause) => Error::Connect(format!("cannot connect to {endpoint}: {cause}")),
                    None => Error::Timeout(format!("connecting to {endpoint}")),
                };
                dialled.waiting = None;
                self.done(Some(op), Err(error));
                let _ = self.disconnect(id, now);
                return;
            }
        }
        if dialled.retry_at.is_some_and(|at| at <= now.mono) {
            self.dial(id);
        }
        self.arm(id);
    }

    /// An acceptor will end our link before long: another is made beside it, to take its place.
    fn replace_link(&mut self, id: ConnectionId, transport: TransportId, now: Now) {
        let random = self.entropy.next_u32();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(dialled) = &mut connection.dialled else { return };
        let busy = dialled.successor.is_some()
            || dialled.predecessor.is_some()
            || dialled.retry_at.is_some();
        if connection.transport != Some(transport) || busy {
            return;
        }
        log::info!("connection {id}: its node will end the link, a new one is made");
        // However long the connection has lasted: nodes that send away at once are asked in peace.
        let since = dialled.link_since;
        dialled.retry_at = dialled.pause(since, random, now).map(|pause| now.mono + pause);
        self.arm(id);
    }

    /// A link that is up is used: at once, or when the one before it has ended.
    fn take_over(&mut self, id: ConnectionId, now: Now) {
        let Some(Connection { transport: Some(transport), up: true, dialled: Some(dialled) }) =
            self.connections.get(&id)
        else {
            return;
        };
        let (transport, waits) = (*transport, dialled.predecessor);
        let Some(link) = self.link(transport) else { return };
        link.hold_back(waits.is_some(), now);
        self.mark_dirty(transport);
        let Some(old) = waits else { return self.replay_subscriptions(id, now) };
        if let Some(link) = self.link(old) {
            link.retire(now);
            let at = link.poll_timeout();
            self.timers.set(Timer::Transport(old), at);
            self.mark_dirty(old);
        }
    }

    /// Does what a link says after it was given something.
    pub(super) fn after_link(&mut self, transport: TransportId, now: Now) {
        self.after_fed(transport, &[], now);
    }

    /// The same after it was fed these bytes: frames are in them.
    pub(super) fn after_fed(&mut self, transport: TransportId, fed: &[u8], now: Now) {
        self.mark_dirty(transport);
        self.link_events(transport, fed, now);
        self.settle(now);
    }

    /// What a link says; it may say something whenever it was asked for output, too.
    pub(super) fn link_events(&mut self, transport: TransportId, fed: &[u8], now: Now) {
        while let Some(event) = self
            .transports
            .get_mut(&transport)
            .and_then(|t| t.link.as_mut())
            .and_then(Link::poll_output)
        {
            let connection = self.transports.get(&transport).and_then(|t| t.connection);
            match (event, connection) {
                (Event::Up { connection_type, node_id }, _) => {
                    self.link_up(transport, connection_type, &node_id, now);
                }
                (Event::Frame { body, parsed }, Some(from)) => {
                    let bytes = body.of(fed);
                    let frame = parsed.on(bytes);
                    let replaced = self.transport_of(from) != Some(transport);
                    match frame.kind() {
                        // What is subscribed over a link that ends is not worth an answer.
                        FrameKind::Subscribe | FrameKind::Unsubscribe if replaced => {}
                        _ => self.on_frame(from, frame, bytes.len(), now),
                    }
                }
                (Event::Frame { .. }, None) => {}
                (Event::Leaving, Some(id)) => self.replace_link(id, transport, now),
                (Event::Leaving, None) => {}
                (Event::Taken(origin, bytes), _) => self.taken(origin, bytes, now),
                (Event::Closed(reason), _) => return self.link_closed(transport, reason, now),
            }
        }
        let Some(entry) = self.transports.get(&transport) else { return };
        match (&entry.link, entry.lingers) {
            (Some(link), true) if !link.lingers() => self.close_transport(transport),
            (_, true) => {}
            (link, false) => {
                let at = link.as_ref().and_then(Link::poll_timeout);
                self.timers.set(Timer::Transport(transport), at);
            }
        }
    }

    fn link_up(
        &mut self,
        transport: TransportId,
        connection_type: LinkConnectionType,
        node_id: &str,
        now: Now,
    ) {
        let kind = match connection_type {
            LinkConnectionType::Edge => ConnectionKind::Edge,
            LinkConnectionType::Remote => ConnectionKind::Remote,
            LinkConnectionType::Peer => ConnectionKind::Peer,
        };
        let Some(entry) = self.transports.get_mut(&transport) else { return };
        let Some(id) = entry.connection else {
            let id = self.router.connect(kind);
            entry.connection = Some(id);
            let connection = Connection { transport: Some(transport), dialled: None, up: true };
            self.connections.insert(id, connection);
            return log::info!("connection {id}: accepted from node {node_id:?} ({kind:?})");
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let was_up = std::mem::replace(&mut connection.up, true);
        let Some(dialled) = &mut connection.dialled else { return };
        if dialled.successor == Some(transport) {
            dialled.successor = None;
            dialled.predecessor = connection.transport.replace(transport);
        }
        dialled.last_error = None;
        dialled.up_since = dialled.up_since.filter(|_| was_up).or(Some(now.mono));
        dialled.link_since = Some(now.mono);
        self.router.attach(
            id,
            match dialled.config.connection_type {
                ConnectionType::Edge => ConnectionKind::Edge,
                ConnectionType::Remote => ConnectionKind::Remote,
            },
        );
        let waiting = dialled.waiting.take();
        log::info!("connection {id}: up, to node {node_id:?} at {}", dialled.config.endpoint.text);
        self.arm(id);
        match waiting {
            Some((op, _)) => {
                self.done(Some(op), Ok(Value::Connection(id)));
                self.each_app(now, |app| app.handle_other_connection(id));
            }
            None if was_up => self.router.forget_subscriptions(id),
            None => self.tell_apps(id, true, now),
        }
        self.take_over(id, now);
    }

    /// A link is over: its transport is closed, what depends on it told.
    fn link_closed(&mut self, transport: TransportId, reason: CloseReason, now: Now) {
        let connection = self.transports.get(&transport).and_then(|t| t.connection);
        log::info!(
            "connection {}: closed: {reason}",
            connection.map_or("not yet negotiated".to_owned(), |id| id.to_string())
        );
        let entry = self.transports.get_mut(&transport);
        let link = entry.as_ref().and_then(|entry| entry.link.as_ref());
        let handed_over = link.is_some_and(Link::is_handed_over);
        match entry.filter(|t| t.link.as_ref().is_some_and(Link::lingers)) {
            Some(entry) => {
                entry.lingers = true;
                entry.connection = None;
                // A node that ends waits for its peers as long as its driver lets it.
                let until = (!self.stopping).then(|| now.mono + limits::LINGER);
                self.timers.set(Timer::Transport(transport), until);
            }
            _ => self.close_transport(transport),
        }
        if let Some(id) = connection {
            if handed_over {
                self.handed_over = Some(now.mono);
                // Its sessions go on over another, and will see which.
                self.each_app(now, |app| app.handle_handed_over(id));
            }
            self.lost(id, transport, reason, now);
        }
    }

    /// Whether somebody may be about to subscribe over a link that takes the place of another: the next
    /// try to find it may succeed.
    pub(super) fn hands_over(&self, now: Now) -> bool {
        self.handed_over.is_some_and(|at| now.mono < at + limits::HANDOVER)
    }

    pub(super) fn close_transport(&mut self, transport: TransportId) {
        self.timers.set(Timer::Transport(transport), None);
        let Some(mut gone) = self.transports.remove(&transport) else { return };
        let bytes = gone.link.as_mut().map(|link| link.rest().to_vec()).unwrap_or_default();
        self.outputs.push_back(Output::Close { transport, bytes });
    }

    /// A connection has lost a transport.
    fn lost(&mut self, id: ConnectionId, transport: TransportId, reason: CloseReason, now: Now) {
        let random = self.entropy.next_u32();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(dialled) = &mut connection.dialled else {
            return self.forget(id, &reason, now);
        };
        if dialled.successor == Some(transport) {
            dialled.successor = None;
            // What it was to replace is still there.
            dialled.retry_at = dialled.pause(None, random, now).map(|pause| now.mono + pause);
            return self.arm(id);
        }
        if dialled.predecessor == Some(transport) {
            dialled.predecessor = None;
            return self.take_over(id, now);
        }
        if connection.transport != Some(transport) {
            return; // replaced before
        }
        // The successor, if one is being made, is waited for.
        connection.transport = dialled.successor.take();
        let was_up = std::mem::replace(&mut connection.up, false);
        dialled.last_error = Some(reason.text.clone());
        if connection.transport.is_some() {
            // Should that fail, the next is made at once.
        } else if reason.retry {
            // The first attempt after a loss is made at once, unless it had only just come up.
            let since = dialled.up_since.take();
            let Some(pause) = dialled.pause(since, random, now) else {
                return self.forget(id, &reason, now);
            };
            dialled.retry_at = Some(now.mono + pause);
            log::info!("connection {id}: {reason}; dialling again in {pause:?}");
        } else {
            return self.forget(id, &reason, now);
        }
        self.arm(id);
        // What the other side had subscribed it will subscribe anew.
        self.router.forget_subscriptions(id);
        if was_up {
            self.tell_apps(id, false, now);
        }
    }

    /// Forgets a connection for good.
    fn forget(&mut self, id: ConnectionId, reason: &CloseReason, now: Now) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.timers.set(Timer::Connection(id), None);
        self.router.disconnect(id);
        self.forget_subscriptions(id, &reason.text, now);
        if let Some(Dialled { waiting: Some((op, _)), config, .. }) = connection.dialled {
            let endpoint = &config.endpoint.text;
            let text = format!("cannot connect to {endpoint}: {reason}");
            let error = match reason.is_authentication {
                true => Error::Auth(text),
                false => Error::Connect(text),
            };
            self.done(Some(op), Err(error));
        }
        self.tell_apps(id, false, now);
        self.each_app(now, |app| app.handle_gone(id));
        let other = self.connections.iter().find(|(_, c)| c.is_dialled() && c.is_up());
        if let Some(other) = other.map(|(other, _)| *other) {
            self.each_app(now, |app| app.handle_other_connection(other));
        }
    }

    /// Apps are told that a connection was lost or is back.
    fn tell_apps(&mut self, id: ConnectionId, up: bool, now: Now) {
        self.each_app(now, |app| app.handle_connection(id, up));
    }

    fn each_app(&mut self, now: Now, act: impl Fn(&mut App)) {
        for app in self.apps.keys().copied().collect::<Vec<_>>() {
            self.with_app(app, now, |app, _| act(app));
        }
    }
}
