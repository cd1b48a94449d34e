//! Subscriptions: those of others in our table, and those of our apps at other nodes, with their
//! acknowledgements (spec 01 section 7, spec 02 section 6).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::connection::Connection;
use super::{Node, Timer, Value};
use crate::clock::Now;
use crate::entropy::Entropy;
use crate::error::{Error, Result};
use crate::limits;
use crate::link::Origin;
use crate::name::{EncodedName, Name};
use crate::router::{ConnectionId, ConnectionKind};
use crate::session::{AppId, OpId, SessionKey};
use crate::wire::{
    Frame, FrameKind, Message, MessageType, SlimHeader, Subscribe, SubscriptionAck, Unsubscribe,
};

/// What apps of this node have subscribed elsewhere.
pub(super) struct Subscriptions {
    /// By the number that they have on the wire now; it changes when a connection is made again.
    by_id: BTreeMap<u64, Subscription>,
    next_id: u64,
    /// The channels of groups, and the sessions of the app that need them.
    channels: BTreeMap<(AppId, EncodedName), BTreeSet<SessionKey>>,
}

struct Subscription {
    app: AppId,
    name: Name,
    connection: ConnectionId,
    /// Of a group, not of the app.
    channel: bool,
    /// Taking it back, not asking for it.
    leaving: bool,
    /// Asked for, not yet answered.
    waiting: Option<Waiting>,
    acknowledged: bool,
}

struct Waiting {
    tries_left: u32,
    due: Instant,
    /// Who waits, until then.
    ops: Vec<Waiter>,
    until: Instant,
    /// The token that it went out with: it is repeated byte for byte (spec 01 section 7.2).
    identity: Option<String>,
}

/// Who waits for an acknowledgement.
#[derive(Clone, Copy)]
enum Waiter {
    Call(OpId),
    /// A session that enters a group over this connection.
    Session {
        key: SessionKey,
        connection: ConnectionId,
        ticket: u32,
    },
}

impl Subscription {
    /// Nobody waits any more: those who did.
    fn take_ops(&mut self) -> Vec<Waiter> {
        self.waiting.take().map(|waiting| waiting.ops).unwrap_or_default()
    }
}

impl Subscriptions {
    /// Numbers start anywhere: they must differ from those of other nodes.
    pub(super) fn new(entropy: &mut dyn Entropy) -> Subscriptions {
        let (by_id, channels) = (BTreeMap::new(), BTreeMap::new());
        Subscriptions { by_id, channels, next_id: entropy.next_u64() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.by_id.values().filter(|subscription| subscription.waiting.is_some()).count()
    }

    fn new_id(&mut self) -> u64 {
        self.next_id = self.next_id.wrapping_add(1).max(1);
        self.next_id
    }

    fn find(&self, app: AppId, name: &Name, connection: ConnectionId) -> Option<u64> {
        let found = self.by_id.iter().find(|(_, s)| {
            s.app == app && s.name == *name && s.connection == connection && !s.leaving
        });
        found.map(|(id, _)| *id)
    }
}

impl Node {
    /// Somebody wants messages to a name, or no longer wants them.
    pub(super) fn on_subscription(&mut self, from: ConnectionId, frame: &Frame<'_>, now: Now) {
        let Some(name) = frame.destination() else { return };
        let id = frame.subscription_id();
        let result = match frame.kind() {
            FrameKind::Subscribe => self.router.subscribe(from, name, id),
            _ => self.router.unsubscribe(from, name, id),
        };
        log::debug!("connection {from}: {:?} {name} number {id}: {result:?}", frame.kind());
        if id == 0 {
            return;
        }
        let error = result.err().map(|error| error.to_string());
        let ack = SubscriptionAck {
            subscription_id: id,
            success: error.is_none(),
            error: error.unwrap_or_default(),
        };
        let Some(transport) = self.transport_of(from) else { return };
        if let Some(link) = self.link(transport) {
            link.send_ack(ack, now);
            self.mark_dirty(transport);
        }
    }

    /// Asks for messages to `name` over a connection, on behalf of an app. `op` is answered by the
    /// acknowledgement.
    pub fn subscribe(
        &mut self,
        app: AppId,
        name: &Name,
        connection: ConnectionId,
        op: OpId,
        now: Now,
    ) -> Result<()> {
        self.check_connection(connection)?;
        let local = self.apps.get_mut(&app).ok_or_else(|| Error::closed("app"))?;
        let name = name.with_id(local.app.name().id());
        local.app.add_alias(&name);
        let from = local.connection;
        // Known to the router as long as the app is there.
        let _ = self.router.subscribe(from, name.encoded(), 0);
        if let Some(id) = self.subscriptions.find(app, &name, connection) {
            self.subscribe_again(id, Waiter::Call(op), now);
            return Ok(());
        }
        self.start_subscription(app, name, connection, false, vec![Waiter::Call(op)], now);
        self.settle(now);
        Ok(())
    }

    /// A session needs the channels of a group: here, and from the node at the other side of a
    /// connection that this side dialled. Who dials us subscribes what it wants itself.
    pub(super) fn join(
        &mut self,
        key: SessionKey,
        channels: [Name; 2],
        connection: ConnectionId,
        ticket: u32,
        now: Now,
    ) {
        let Some(local) = self.apps.get(&key.app).map(|local| local.connection) else { return };
        for name in channels {
            let users = self.subscriptions.channels.entry((key.app, name.encoded()));
            users.or_default().insert(key);
            let waiter = Waiter::Session { key, connection, ticket };
            let here = self.router.subscribe(local, name.encoded(), 0);
            let outside = self.subscribes_over(connection);
            match (here, self.subscriptions.find(key.app, &name, connection)) {
                (Err(error), _) => {
                    let error = Error::Limit(error.to_string());
                    self.answer(vec![waiter], &Err(error), now);
                }
                (Ok(()), _) if !outside => self.answer(vec![waiter], &Ok(()), now),
                (Ok(()), Some(id)) => self.subscribe_again(id, waiter, now),
                (Ok(()), None) => {
                    let waiters = vec![waiter];
                    self.start_subscription(key.app, name, connection, true, waiters, now);
                }
            }
        }
    }

    /// Where apps of this node have subscribed a channel.
    pub(super) fn channel_connections(&self, name: EncodedName) -> Vec<ConnectionId> {
        let all = self.subscriptions.by_id.values();
        let its = all.filter(|s| s.channel && !s.leaving && s.name.encoded() == name);
        its.map(|subscription| subscription.connection).collect()
    }

    /// Whether the other side of a connection knows what this side wants only when it is told.
    pub(super) fn subscribes_over(&self, connection: ConnectionId) -> bool {
        let dialled = self.connections.get(&connection).is_some_and(Connection::is_dialled);
        dialled || self.router.kind(connection) == Some(ConnectionKind::Remote)
    }

    /// A session does not need the channels of a group any more; other sessions may.
    pub(super) fn leave(&mut self, key: SessionKey, channels: [Name; 2], now: Now) {
        for name in channels {
            let place = (key.app, name.encoded());
            let Some(users) = self.subscriptions.channels.get_mut(&place) else { continue };
            users.remove(&key);
            if !users.is_empty() {
                continue;
            }
            self.subscriptions.channels.remove(&place);
            if let Some(local) = self.apps.get(&key.app) {
                // It may have been refused.
                let _ = self.router.unsubscribe(local.connection, name.encoded(), 0);
            }
            let subscribed =
                |s: &Subscription| s.app == key.app && s.name == name && s.channel && !s.leaving;
            for id in self.subscriptions_of(subscribed) {
                self.take_back(id, None, now);
            }
        }
    }

    /// Takes a subscription back.
    pub fn unsubscribe(
        &mut self,
        app: AppId,
        name: &Name,
        connection: ConnectionId,
        op: OpId,
        now: Now,
    ) -> Result<()> {
        self.check_connection(connection)?;
        let local = self.apps.get_mut(&app).ok_or_else(|| Error::closed("app"))?;
        let name = name.with_id(local.app.name().id());
        let Some(id) = self.subscriptions.find(app, &name, connection) else {
            return Err(Error::NotFound(format!("subscription not found: {name}")));
        };
        self.take_back(id, Some(op), now);
        self.drop_alias(app, &name);
        self.settle(now);
        Ok(())
    }

    /// An app does not answer to a name any more that it has subscribed nowhere; to its own it
    /// always does.
    fn drop_alias(&mut self, app: AppId, name: &Name) {
        let wanted = |s: &Subscription| s.app == app && s.name == *name && !s.leaving;
        let Some(local) = self.apps.get_mut(&app) else { return };
        if name != local.app.name() && !self.subscriptions.by_id.values().any(wanted) {
            local.app.remove_alias(name);
            // It may have been given up before.
            let _ = self.router.unsubscribe(local.connection, name.encoded(), 0);
        }
    }

    /// Messages of local apps to `name` go over this connection from now on (spec 02 section 7).
    pub fn set_route(&mut self, name: &Name, connection: ConnectionId) -> Result<()> {
        self.check_connection(connection)?;
        let result = self.router.set_route(connection, name.encoded());
        result.map_err(|error| Error::NotFound(error.to_string()))
    }

    /// Takes a route back.
    pub fn remove_route(&mut self, name: &Name, connection: ConnectionId) -> Result<()> {
        self.check_connection(connection)?;
        let result = self.router.remove_route(connection, name.encoded());
        result.map_err(|error| Error::NotFound(format!("{error}: route to {name}")))
    }

    fn check_connection(&self, connection: ConnectionId) -> Result<()> {
        match self.connections.contains_key(&connection) {
            true => Ok(()),
            false => Err(Error::NotFound(format!("connection not found: {connection}"))),
        }
    }

    fn start_subscription(
        &mut self,
        app: AppId,
        name: Name,
        connection: ConnectionId,
        channel: bool,
        ops: Vec<Waiter>,
        now: Now,
    ) {
        let id = self.subscriptions.new_id();
        let subscription = Subscription {
            app,
            name,
            connection,
            channel,
            leaving: false,
            waiting: None,
            acknowledged: false,
        };
        self.subscriptions.by_id.insert(id, subscription);
        self.ask(id, ops, now);
    }

    /// Somebody asks for what was asked for before: there is an answer, or one is waited for, or it
    /// is asked for again.
    fn subscribe_again(&mut self, id: u64, op: Waiter, now: Now) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id) else { return };
        match &mut subscription.waiting {
            _ if subscription.acknowledged => self.answer(vec![op], &Ok(()), now),
            Some(waiting) => {
                waiting.ops.push(op);
                waiting.until = now.mono + limits::SUBSCRIPTION_WAIT;
                self.arm_subscription(id);
            }
            None => self.ask(id, vec![op], now),
        }
    }

    fn take_back(&mut self, id: u64, op: Option<OpId>, now: Now) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id) else { return };
        subscription.leaving = true;
        let before = subscription.take_ops();
        let (name, connection) = (&subscription.name, subscription.connection);
        let text = format!("the subscription of {name} was taken back before its acknowledgement");
        self.answer(before, &Err(Error::Closed(text)), now);
        if self.connections.get(&connection).is_some_and(|c| c.is_up()) {
            return self.ask(id, op.map(Waiter::Call).into_iter().collect(), now);
        }
        // The other node has forgotten it with the link.
        self.subscriptions.by_id.remove(&id);
        self.timers.set(Timer::Subscription(id), None);
        self.done(op, Ok(Value::Nothing));
    }

    /// Those who waited for an acknowledgement are told.
    fn answer(&mut self, waiters: Vec<Waiter>, result: &Result<()>, now: Now) {
        for waiter in waiters {
            let result = result.clone();
            match waiter {
                Waiter::Call(op) => self.done(Some(op), result.map(|()| Value::Nothing)),
                Waiter::Session { key, connection, ticket } => {
                    self.with_app(key.app, now, |app, cx| {
                        app.handle_channel(key, connection, ticket, result, cx);
                    });
                }
            }
        }
    }

    /// Sends a request and waits for its ack.
    fn ask(&mut self, id: u64, ops: Vec<Waiter>, now: Now) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id) else { return };
        let waiting = Waiting {
            tries_left: limits::SUBSCRIPTION_RETRIES,
            due: now.mono + limits::SUBSCRIPTION_RETRY,
            ops,
            until: now.mono + limits::SUBSCRIPTION_WAIT,
            identity: None,
        };
        subscription.waiting = Some(waiting);
        self.send_subscription(id, now);
        self.arm_subscription(id);
    }

    fn arm_subscription(&mut self, id: u64) {
        let waiting = self.subscriptions.by_id.get(&id).and_then(|s| s.waiting.as_ref());
        let at = waiting.map(|w| if w.ops.is_empty() { w.due } else { w.due.min(w.until) });
        self.timers.set(Timer::Subscription(id), at);
    }

    fn send_subscription(&mut self, id: u64, now: Now) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id) else { return };
        let (connection, leaving) = (subscription.connection, subscription.leaving);
        let name = subscription.name.clone();
        let Some(local) = self.apps.get_mut(&subscription.app) else { return };
        let before = subscription.waiting.as_ref().and_then(|waiting| waiting.identity.clone());
        let identity = match before {
            Some(token) => Ok(token),
            // Those of channels carry none (spec 03 section 2).
            None if subscription.channel => Ok(String::new()),
            None => local.app.token(now, &mut *self.entropy),
        };
        let identity = match identity {
            Ok(token) => token,
            Err(error) => return log::error!("no token for a subscription: {error}"),
        };
        if let Some(waiting) = &mut subscription.waiting {
            waiting.identity = Some(identity.clone());
        }
        let from = local.connection;
        let header = Some(SlimHeader {
            source: Some(local.app.name().to_wire()),
            destination: Some(name.to_wire()),
            identity,
            fanout: 1,
            version: self.options.identity.version.clone(),
            ttl: limits::TTL,
            ..SlimHeader::default()
        });
        let message_type = Some(match leaving {
            false => MessageType::Subscribe(Subscribe { header, subscription_id: id }),
            true => MessageType::Unsubscribe(Unsubscribe { header, subscription_id: id }),
        });
        let mut frame = Frame::new(Box::new(Message { message_type, ..Message::default() }));
        let Some(transport) = self.transport_of(connection) else { return };
        if let Some(link) = self.link(transport) {
            // A link that is down gets it when it is up again.
            let limit = limits::MAX_SENT_MESSAGE;
            let _ = link.send(&mut frame, Some(from.0), Origin::Link, limit, now);
            self.mark_dirty(transport);
        }
    }

    /// An answer to one of our requests; unknown ones mean nothing.
    pub(super) fn on_subscription_ack(&mut self, from: ConnectionId, frame: &Frame<'_>, now: Now) {
        let Some(ack) = frame.subscription_ack() else { return };
        let id = ack.subscription_id;
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id) else { return };
        if subscription.connection != from {
            return;
        }
        let ops = subscription.take_ops();
        subscription.acknowledged = ack.success;
        let result = match ack.success {
            true => Ok(()),
            false => {
                let (name, error) = (&subscription.name, &ack.error);
                let what = if subscription.leaving { "unsubscription" } else { "subscription" };
                let text = format!("the node refused the {what} of {name}: {error}");
                log::warn!("connection {from}: {text}");
                Err(Error::Protocol(text))
            }
        };
        if subscription.leaving || !ack.success {
            if let Some(Subscription { app, name, channel: false, .. }) =
                self.subscriptions.by_id.remove(&id)
            {
                self.drop_alias(app, &name);
            }
        }
        self.arm_subscription(id);
        self.answer(ops, &result, now);
    }

    /// A request is due to be repeated, or its caller has waited long enough.
    pub(super) fn subscription_due(&mut self, id: u64, now: Now) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id) else { return };
        let Some(waiting) = &mut subscription.waiting else { return };
        let (again, name) = (waiting.due <= now.mono, subscription.name.clone());
        let mut late = Vec::new();
        if waiting.until <= now.mono {
            late = std::mem::take(&mut waiting.ops);
        }
        let given_up = again && waiting.tries_left == 0;
        if given_up {
            late.append(&mut waiting.ops);
            subscription.waiting = None;
            log::warn!("the subscription of {name} was never acknowledged");
        } else if again {
            waiting.tries_left -= 1;
            waiting.due = now.mono + limits::SUBSCRIPTION_RETRY;
            self.send_subscription(id, now);
        }
        if given_up && self.subscriptions.by_id.get(&id).is_some_and(|s| s.leaving) {
            self.subscriptions.by_id.remove(&id);
        }
        self.arm_subscription(id);
        let text = format!("waiting for the acknowledgement of {name}: ack timed out");
        self.answer(late, &Err(Error::Timeout(text)), now);
    }

    /// A connection is up again: everything that was subscribed over it is subscribed anew, under
    /// fresh numbers (spec 01 section 6.2).
    pub(super) fn replay_subscriptions(&mut self, connection: ConnectionId, now: Now) {
        let ids: Vec<u64> = self.subscriptions_of(|s| s.connection == connection);
        for id in ids {
            let Some(mut subscription) = self.subscriptions.by_id.remove(&id) else { continue };
            self.timers.set(Timer::Subscription(id), None);
            let ops = subscription.take_ops();
            if subscription.leaving {
                // The other node has forgotten it with the old link.
                self.answer(ops, &Ok(()), now);
                continue;
            }
            let Subscription { app, name, channel, .. } = subscription;
            self.start_subscription(app, name, connection, channel, ops, now);
        }
    }

    /// A connection is gone for good.
    pub(super) fn forget_subscriptions(&mut self, connection: ConnectionId, cause: &str, now: Now) {
        for id in self.subscriptions_of(|s| s.connection == connection) {
            self.timers.set(Timer::Subscription(id), None);
            let Some(mut gone) = self.subscriptions.by_id.remove(&id) else { continue };
            if !gone.channel {
                self.drop_alias(gone.app, &gone.name);
            }
            let ops = gone.take_ops();
            let text = format!("connection not found: {connection} ({cause})");
            self.answer(ops, &Err(Error::NotFound(text)), now);
        }
    }

    /// An app goes: its names are given up where the other nodes can be reached.
    pub(super) fn forget_app_subscriptions(&mut self, app: AppId, now: Now) {
        for id in self.subscriptions_of(|s| s.app == app) {
            if let Some(subscription) = self.subscriptions.by_id.get_mut(&id) {
                subscription.leaving = true;
                let ops = subscription.take_ops();
                self.answer(ops, &Err(Error::closed("app")), now);
            }
            self.send_subscription(id, now);
            self.subscriptions.by_id.remove(&id);
            self.timers.set(Timer::Subscription(id), None);
        }
    }

    fn subscriptions_of(&self, which: impl Fn(&Subscription) -> bool) -> Vec<u64> {
        self.subscriptions.by_id.iter().filter(|(_, s)| which(s)).map(|(id, _)| *id).collect()
    }
}
