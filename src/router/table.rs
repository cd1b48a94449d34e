//! The subscription table: which connections want messages to which names (spec 02 sections 5.3
//! and 6).
//!
//! `prefix (three hashes) -> id -> connections by kind`, and per prefix the union of all ids for
//! messages without an id. It knows nothing of links, acks or time.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{ConnectionId, ConnectionKind};
use crate::limits;
use crate::name::{EncodedName, NameId};

/// In which order kinds are tried when one of several receivers is to be found.
pub type Preference = [ConnectionKind; 4];

/// A message to one receiver goes to an app of this node if there is one, else to a directly
/// connected app, else to another node (DESIGN decision 15).
pub const NEAREST_FIRST: Preference =
    [ConnectionKind::Local, ConnectionKind::Edge, ConnectionKind::Peer, ConnectionKind::Remote];

/// The subscription table.
#[derive(Debug)]
pub struct Table {
    preference: Preference,
    prefixes: HashMap<[u64; 3], Prefix>,
    records: HashMap<ConnectionId, Record>,
}

/// Why a name leads to a connection. One name may for several reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The other side subscribed it under this number.
    Subscribed(u64),
    /// This side set a route.
    Route,
}

/// What one connection has subscribed.
#[derive(Debug, Default)]
struct Record {
    /// Its names (three hashes, then the id) with the reasons for each.
    names: HashMap<[u64; 3], HashMap<NameId, HashSet<Reason>>>,
    /// Subscriptions in all of it, routes left out.
    count: usize,
}

impl Default for Table {
    fn default() -> Table {
        Table::new(NEAREST_FIRST)
    }
}

impl Table {
    /// An empty table that tries kinds in this order.
    pub fn new(preference: Preference) -> Table {
        Table { preference, prefixes: HashMap::new(), records: HashMap::new() }
    }

    /// Adds a subscription or a route. `true`: this is the first connection of its kind for the name.
    ///
    /// Fails when the connection has [`limits::SUBSCRIPTIONS`] subscriptions.
    pub fn subscribe(
        &mut self,
        connection: ConnectionId,
        kind: ConnectionKind,
        name: EncodedName,
        reason: Reason,
    ) -> Result<bool, TableError> {
        let counts = usize::from(reason != Reason::Route);
        let record = self.records.entry(connection).or_default();
        let full = record.count + counts > limits::SUBSCRIPTIONS;
        if full && !record.has(name, reason) {
            return Err(TableError::TooManySubscriptions);
        }
        let reasons = record.names.entry(name.components).or_default().entry(name.id).or_default();
        let known = !reasons.is_empty();
        record.count += if reasons.insert(reason) { counts } else { 0 };
        if known {
            return Ok(false);
        }
        let prefix = self.prefixes.entry(name.components).or_default();
        prefix.all.add(connection, kind);
        Ok(prefix.ids.entry(name.id).or_default().add(connection, kind))
    }

    /// Takes a subscription or a route back. `true`: no connection of its kind is left for the name.
    pub fn unsubscribe(
        &mut self,
        connection: ConnectionId,
        kind: ConnectionKind,
        name: EncodedName,
        reason: Reason,
    ) -> Result<bool, TableError> {
        let prefix = self.prefixes.get(&name.components).ok_or(TableError::SubscriptionNotFound)?;
        if !prefix.ids.contains_key(&name.id) {
            return Err(TableError::IdNotFound(name.id));
        }
        let unknown = match reason {
            Reason::Subscribed(number) => TableError::SubscriptionIdNotFound(number),
            Reason::Route => TableError::RouteNotFound,
        };
        let record = self.records.get_mut(&connection).ok_or_else(|| unknown.clone())?;
        let names = record.names.get_mut(&name.components).ok_or_else(|| unknown.clone())?;
        let reasons = names.get_mut(&name.id).ok_or_else(|| unknown.clone())?;
        if !reasons.remove(&reason) {
            return Err(unknown);
        }
        record.count -= usize::from(reason != Reason::Route);
        if !reasons.is_empty() {
            return Ok(false);
        }
        names.remove(&name.id);
        let last_id = names.is_empty();
        if last_id {
            record.names.remove(&name.components);
        }
        if record.names.is_empty() {
            self.records.remove(&connection);
        }
        Ok(self.forget(connection, kind, name, last_id))
    }

    /// The numbers under which the other side of a connection subscribed a name.
    pub fn subscription_ids(
        &self,
        connection: ConnectionId,
        name: EncodedName,
    ) -> impl Iterator<Item = u64> + '_ {
        self.records
            .get(&connection)
            .and_then(|record| record.names.get(&name.components)?.get(&name.id))
            .into_iter()
            .flatten()
            .filter_map(|reason| match reason {
                Reason::Subscribed(number) => Some(*number),
                Reason::Route => None,
            })
    }

    /// Forgets what the other side of a connection subscribed; routes stay.
    pub fn drop_subscriptions(&mut self, connection: ConnectionId, kind: ConnectionKind) {
        let routes: Vec<EncodedName> = match self.records.get(&connection) {
            Some(record) => record
                .each()
                .filter(|(_, reasons)| reasons.contains(&Reason::Route))
                .map(|(name, _)| name)
                .collect(),
            None => return,
        };
        self.drop_connection(connection, kind);
        for name in routes {
            // Routes are not limited.
            let _ = self.subscribe(connection, kind, name, Reason::Route);
        }
    }

    /// Forgets everything of a connection; the names that it had are returned.
    pub fn drop_connection(
        &mut self,
        connection: ConnectionId,
        kind: ConnectionKind,
    ) -> Vec<EncodedName> {
        let record = self.records.remove(&connection).unwrap_or_default();
        let mut lost: Vec<EncodedName> = record.each().map(|(name, _)| name).collect();
        lost.sort();
        for name in &lost {
            self.forget(connection, kind, *name, true);
        }
        lost
    }

    /// Who gets a message to `name` that came from `from`: at most one connection if `fanout` is
    /// 1, else all; never `from` itself. `accept` says which kinds may be used.
    pub fn matches(
        &mut self,
        name: EncodedName,
        fanout: u32,
        from: ConnectionId,
        accept: impl Fn(ConnectionKind) -> bool,
        found: &mut Vec<ConnectionId>,
    ) {
        let preference = self.preference;
        let Some(prefix) = self.prefixes.get_mut(&name.components) else {
            return;
        };
        let slot = if name.id.is_null() {
            &mut prefix.all
        } else {
            match prefix.ids.get_mut(&name.id) {
                Some(slot) => slot,
                None => return,
            }
        };
        let kinds = preference.into_iter().filter(|kind| accept(*kind));
        if fanout == 1 {
            let one_cursor = name.id.is_null();
            found.extend(slot.one(kinds, from, one_cursor));
        } else {
            slot.all(kinds, from, found);
        }
    }

    /// Number of names that somebody subscribed.
    pub fn len(&self) -> usize {
        self.prefixes.values().map(|prefix| prefix.ids.len()).sum()
    }

    /// Whether nobody subscribed anything.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty() && self.records.is_empty()
    }

    /// Removes a connection from a name's slot, and from the union if `everywhere`.
    fn forget(
        &mut self,
        connection: ConnectionId,
        kind: ConnectionKind,
        name: EncodedName,
        everywhere: bool,
    ) -> bool {
        let Some(prefix) = self.prefixes.get_mut(&name.components) else {
            return false;
        };
        if everywhere {
            prefix.all.remove(connection, kind);
        }
        let Some(slot) = prefix.ids.get_mut(&name.id) else {
            return false;
        };
        let last = slot.remove(connection, kind);
        if slot.is_empty() {
            prefix.ids.remove(&name.id);
        }
        if prefix.ids.is_empty() {
            self.prefixes.remove(&name.components);
        }
        last
    }
}

impl Record {
    fn has(&self, name: EncodedName, reason: Reason) -> bool {
        let reasons = self.names.get(&name.components).and_then(|names| names.get(&name.id));
        reasons.is_some_and(|reasons| reasons.contains(&reason))
    }

    fn each(&self) -> impl Iterator<Item = (EncodedName, &HashSet<Reason>)> {
        self.names.iter().flat_map(|(components, ids)| {
            let name = |id: &NameId| EncodedName { components: *components, id: *id };
            ids.iter().map(move |(id, reasons)| (name(id), reasons))
        })
    }
}

/// All that is known under three hashes.
#[derive(Debug, Default)]
struct Prefix {
    ids: HashMap<NameId, Slot>,
    /// Every connection of the prefix once, whatever ids it has.
    all: Slot,
}

/// Connections by kind, each once, in the order of arrival.
#[derive(Debug, Default)]
struct Slot {
    lists: [Vec<ConnectionId>; 4],
    /// Where the next choice among several starts: one for each kind, and one for all.
    cursors: [usize; 5],
}

impl Slot {
    fn add(&mut self, connection: ConnectionId, kind: ConnectionKind) -> bool {
        let list = &mut self.lists[kind as usize];
        let first = list.is_empty();
        if !list.contains(&connection) {
            list.push(connection);
        }
        first
    }

    fn remove(&mut self, connection: ConnectionId, kind: ConnectionKind) -> bool {
        let list = &mut self.lists[kind as usize];
        match list.iter().position(|c| *c == connection) {
            Some(at) => {
                list.swap_remove(at);
                list.is_empty()
            }
            None => false,
        }
    }

    fn is_empty(&self) -> bool {
        self.lists.iter().all(Vec::is_empty)
    }

    fn one(
        &mut self,
        kinds: impl Iterator<Item = ConnectionKind>,
        from: ConnectionId,
        one_cursor: bool,
    ) -> Option<ConnectionId> {
        let mut shared = None;
        for kind in kinds {
            let list = &self.lists[kind as usize];
            if list.is_empty() {
                continue;
            }
            let cursor = &mut self.cursors[if one_cursor { 4 } else { kind as usize }];
            let start = match shared {
                Some(start) if one_cursor => start,
                _ => {
                    let start = *cursor;
                    *cursor = cursor.wrapping_add(1);
                    shared = Some(start);
                    start
                }
            };
            let order = (0..list.len()).map(|k| list[start.wrapping_add(k) % list.len()]);
            if let Some(found) = order.into_iter().find(|c| *c != from) {
                return Some(found);
            }
        }
        None
    }

    fn all(
        &self,
        kinds: impl Iterator<Item = ConnectionKind>,
        from: ConnectionId,
        found: &mut Vec<ConnectionId>,
    ) {
        for kind in kinds {
            found.extend(self.lists[kind as usize].iter().copied().filter(|c| *c != from));
        }
    }
}

/// Why a subscription could not be taken back; the texts are the wire's (spec 02 section 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Nobody subscribed anything under the three hashes.
    SubscriptionNotFound,
    /// Nobody subscribed this id.
    IdNotFound(NameId),
    /// This connection did not subscribe the name under this number.
    SubscriptionIdNotFound(u64),
    /// No route leads this name over this connection. Ours alone.
    RouteNotFound,
    /// This connection has as many subscriptions as it may have. Ours alone.
    TooManySubscriptions,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::SubscriptionNotFound => f.write_str("subscription not found"),
            TableError::IdNotFound(id) => write!(f, "id not found: {id}"),
            TableError::SubscriptionIdNotFound(id) => {
                write!(f, "subscription id not found: {id}")
            }
            TableError::RouteNotFound => f.write_str("no such route"),
            TableError::TooManySubscriptions => {
                write!(f, "the connection has {} subscriptions, no more", limits::SUBSCRIPTIONS)
            }
        }
    }
}

impl std::error::Error for TableError {}
