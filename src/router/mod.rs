//! Routing: connections, the subscription table, the choice of targets for a frame, and the
//! default gateway (spec 02 sections 3 to 6).
//!
//! It decides; the node carries out. It never sees payloads, keys or time.

mod table;

use std::collections::BTreeMap;
use std::fmt;

pub use table::{Preference, Reason, Table, TableError, NEAREST_FIRST};

use crate::name::EncodedName;

/// Number of a connection, also of a local app's. Never reused in one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is on the other side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum ConnectionKind {
    /// An app in this process.
    Local = 0,
    /// A node of another deployment.
    Remote = 1,
    /// A replica of this node.
    Peer = 2,
    /// An app, or a node that dialled up: a leaf.
    Edge = 3,
}

/// Which connection takes what local apps send to names that nobody subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// The only Edge connection, if there is exactly one.
    Auto,
    /// This one, while it is there.
    Pinned(ConnectionId),
    /// None.
    Off,
}

/// Connections and routes of one node.
#[derive(Debug)]
pub struct Router {
    table: Table,
    kinds: BTreeMap<ConnectionId, ConnectionKind>,
    gateway: Gateway,
    next: u64,
}

impl Router {
    /// A router without connections.
    pub fn new(gateway: Gateway) -> Router {
        Router { table: Table::default(), kinds: BTreeMap::new(), gateway, next: 0 }
    }

    /// A number for a connection that is not there yet: nothing is routed to it before
    /// [`Router::attach`].
    pub fn number(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        id
    }

    /// Takes a numbered connection in. One that is known already stays as it is.
    pub fn attach(&mut self, id: ConnectionId, kind: ConnectionKind) {
        self.kinds.entry(id).or_insert(kind);
    }

    /// Takes a connection in and numbers it.
    pub fn connect(&mut self, kind: ConnectionKind) -> ConnectionId {
        let id = self.number();
        self.attach(id, kind);
        id
    }

    /// What is on the other side of a connection.
    pub fn kind(&self, connection: ConnectionId) -> Option<ConnectionKind> {
        self.kinds.get(&connection).copied()
    }

    /// Forgets a connection and its routes. Nobody is told (spec 02 section 9.1).
    pub fn disconnect(&mut self, connection: ConnectionId) {
        if let Some(kind) = self.kinds.remove(&connection) {
            self.table.drop_connection(connection, kind);
        }
    }

    /// Forgets what the other side of a connection has subscribed: its link is gone. Routes stay.
    pub fn forget_subscriptions(&mut self, connection: ConnectionId) {
        if let Some(kind) = self.kind(connection) {
            self.table.drop_subscriptions(connection, kind);
        }
    }

    /// Messages to `name` go to `connection` because this side wants it so, whatever the other side
    /// subscribes. Set again, it is the same route.
    pub fn set_route(
        &mut self,
        connection: ConnectionId,
        name: EncodedName,
    ) -> Result<(), RouteError> {
        let kind = self.kind(connection).ok_or(RouteError::ConnectionNotFound(connection))?;
        self.table.subscribe(connection, kind, name, Reason::Route)?;
        Ok(())
    }

    /// Takes a route back; what the other side subscribed stays.
    pub fn remove_route(
        &mut self,
        connection: ConnectionId,
        name: EncodedName,
    ) -> Result<(), RouteError> {
        let kind = self.kind(connection).ok_or(RouteError::ConnectionNotFound(connection))?;
        self.table.unsubscribe(connection, kind, name, Reason::Route)?;
        Ok(())
    }

    /// Messages to `name` may go to `connection` from now on: its other side subscribed it.
    pub fn subscribe(
        &mut self,
        connection: ConnectionId,
        name: EncodedName,
        subscription_id: u64,
    ) -> Result<(), RouteError> {
        let kind = self.kind(connection).ok_or(RouteError::ConnectionNotFound(connection))?;
        self.table.subscribe(connection, kind, name, Reason::Subscribed(subscription_id))?;
        Ok(())
    }

    /// Takes a subscription back. A name that was only ever subscribed under number 0 (what a
    /// published client does after a reconnect) is given up under any number.
    pub fn unsubscribe(
        &mut self,
        connection: ConnectionId,
        name: EncodedName,
        subscription_id: u64,
    ) -> Result<(), RouteError> {
        let kind = self.kind(connection).ok_or(RouteError::ConnectionNotFound(connection))?;
        let mut ids = self.table.subscription_ids(connection, name);
        let replayed = ids.next() == Some(0) && ids.next().is_none();
        drop(ids);
        let id = if replayed { 0 } else { subscription_id };
        self.table.unsubscribe(connection, kind, name, Reason::Subscribed(id))?;
        Ok(())
    }

    /// Finds the targets of a frame to `name` that came from `from`.
    pub fn route(
        &mut self,
        name: EncodedName,
        fanout: u32,
        from: ConnectionId,
        targets: &mut Vec<ConnectionId>,
    ) {
        self.subscribers(name, fanout, from, targets);
        let local = self.kind(from) == Some(ConnectionKind::Local);
        if targets.is_empty() && local {
            targets.extend(self.default_gateway());
        }
    }

    /// Finds those who subscribed `name`, and nobody else.
    pub fn subscribers(
        &mut self,
        name: EncodedName,
        fanout: u32,
        from: ConnectionId,
        targets: &mut Vec<ConnectionId>,
    ) {
        self.table.matches(name, fanout, from, |_| true, targets);
    }

    /// Sets which connection takes what nobody subscribed.
    pub fn set_gateway(&mut self, gateway: Gateway) {
        self.gateway = gateway;
    }

    /// Where local apps' messages to unknown names go (spec 02 section 5.4).
    fn default_gateway(&self) -> Option<ConnectionId> {
        let is_edge = |kind: &ConnectionKind| *kind == ConnectionKind::Edge;
        match self.gateway {
            Gateway::Off => None,
            Gateway::Pinned(id) => self.kinds.get(&id).filter(|k| is_edge(k)).map(|_| id),
            Gateway::Auto => {
                let mut edges = self.kinds.iter().filter(|(_, kind)| is_edge(kind));
                match (edges.next(), edges.next()) {
                    (Some((id, _)), None) => Some(*id),
                    _ => None,
                }
            }
        }
    }

    /// Number of connections, local apps included.
    pub fn connections(&self) -> usize {
        self.kinds.len()
    }

    /// Number of names that somebody subscribed.
    pub fn names(&self) -> usize {
        self.table.len()
    }
}

/// Why a route could not be changed; the texts are the wire's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// There is no such connection.
    ConnectionNotFound(ConnectionId),
    /// There is no such subscription.
    Table(TableError),
}

impl From<TableError> for RouteError {
    fn from(error: TableError) -> RouteError {
        RouteError::Table(error)
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteError::ConnectionNotFound(id) => write!(f, "connection not found: {id}"),
            RouteError::Table(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RouteError {}

#[cfg(test)]
mod tests;
