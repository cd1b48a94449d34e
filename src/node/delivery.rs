//! What happens to a frame: routed to links and local apps, or dropped (spec 02 sections 4, 5).

use std::collections::VecDeque;

use super::{Fanout, Node, Output, Timer, Transport, TransportId};
use crate::clock::Now;
use crate::error::Error;
use crate::limits;
use crate::link::Origin;
use crate::router::{ConnectionId, ConnectionKind};
use crate::session::app::{About, Output as AppOutput};
use crate::session::{AppId, Context, Route};
use crate::wire::{Frame, FrameKind, Message, SessionMessageType};

impl Node {
    /// A frame arrived over a link, with the right MAC.
    pub(super) fn on_frame(
        &mut self,
        from: ConnectionId,
        mut frame: Frame<'_>,
        len: usize,
        now: Now,
    ) {
        if let Err(error) = frame.validate() {
            self.dropped += 1;
            return log::debug!("connection {from}: dropped: {error}");
        }
        if frame.kind() == FrameKind::SubscriptionAck {
            return self.on_subscription_ack(from, &frame, now);
        }
        if !frame.count_hop() {
            self.dropped += 1;
            return log::debug!("connection {from}: dropped: message TTL expired");
        }
        match frame.kind() {
            FrameKind::Publish => self.forward(from, frame, len, now),
            FrameKind::Subscribe | FrameKind::Unsubscribe => {
                self.on_subscription(from, &frame, now);
            }
            FrameKind::SubscriptionAck | FrameKind::Link | FrameKind::Empty => {}
        }
    }

    /// Sends a frame from a link to everybody who wants it. Nobody is told if that is nobody.
    ///
    /// The window that the message used is given back to its sender when every link took it.
    fn forward(&mut self, from: ConnectionId, mut frame: Frame<'_>, len: usize, now: Now) {
        let Some(destination) = frame.destination() else { return };
        let mut targets = Vec::new();
        self.router.route(destination, frame.fanout(), from, &mut targets);
        let mut locals = Vec::new();
        targets.retain(|target| match self.app_of.get(target) {
            Some(app) => {
                locals.push(*app);
                false
            }
            None => true,
        });
        let Some(source) = self.transport_of(from) else { return };
        if let [target] = targets[..] {
            let origin = Origin::Transit(source.0);
            if let Some(len) = self.send_to(target, &mut frame, from, origin, now) {
                self.hold(source, len);
            }
        } else if !targets.is_empty() {
            let id = self.next_fanout;
            self.next_fanout += 1;
            let mut missing = 0;
            for target in targets {
                let origin = Origin::Fanout(id);
                missing +=
                    usize::from(self.send_to(target, &mut frame, from, origin, now).is_some());
            }
            if missing > 0 {
                self.fanouts.insert(id, Fanout { source, len, missing });
                self.hold(source, len);
            }
        }
        self.deliver(&locals, from, frame, now);
    }

    fn hold(&mut self, source: TransportId, len: usize) {
        if let Some(link) = self.link(source) {
            link.hold(len);
        }
    }

    fn deliver(&mut self, apps: &[AppId], from: ConnectionId, frame: Frame<'_>, now: Now) {
        let Some((last, others)) = apps.split_last() else { return };
        let message = match frame.into_message() {
            Ok(message) => message,
            Err(error) => {
                self.dropped += 1;
                return log::error!("connection {from}: dropped: {error}");
            }
        };
        for app in others {
            let copy = message.clone();
            self.with_app(*app, now, |app, cx| app.handle_message(copy, from, cx));
        }
        self.with_app(*last, now, |app, cx| app.handle_message(message, from, cx));
    }

    /// Puts a frame into a link's buffer, and gives its length there. `None`: it was dropped.
    fn send_to(
        &mut self,
        target: ConnectionId,
        frame: &mut Frame<'_>,
        from: ConnectionId,
        origin: Origin,
        now: Now,
    ) -> Option<usize> {
        let transport = self.connections.get(&target).and_then(|c| c.transport);
        let link = transport
            .and_then(|id| self.transports.get_mut(&id))
            .and_then(|transport: &mut Transport| transport.link.as_mut());
        let (Some(id), Some(link)) = (transport, link) else {
            log::debug!("connection {target} is down: a message was dropped");
            return None;
        };
        let waiting = link.backlog();
        let limit = match origin {
            // Windows bound this, unless senders come back on new links again and again.
            Origin::Transit(_) | Origin::Fanout(_) if waiting > limits::TRANSIT_BACKLOG => {
                self.dropped += 1;
                log::warn!("connection {target}: dropped: too much waits for it already");
                return None;
            }
            Origin::Transit(_) | Origin::Fanout(_) => limits::MAX_RECEIVED_MESSAGE,
            Origin::Own | Origin::Link | Origin::Repeat | Origin::Publish(..) => {
                limits::MAX_SENT_MESSAGE
            }
        };
        let result = link.send(frame, Some(from.0), origin, limit, now);
        let len = link.backlog() - waiting;
        let at = link.poll_timeout();
        self.timers.set(Timer::Transport(id), at);
        self.mark_dirty(id);
        match result {
            Ok(()) => Some(len),
            Err(error) => {
                self.dropped += 1;
                log::warn!("connection {target}: dropped: {error}");
                None
            }
        }
    }

    /// Does what apps want, until nobody wants anything more: messages between local apps may
    /// cause others.
    pub(super) fn settle(&mut self, now: Now) {
        let mut local: VecDeque<(AppId, ConnectionId, Message)> = VecDeque::new();
        loop {
            let mut idle = true;
            for id in self.apps.keys().copied().collect::<Vec<_>>() {
                while let Some(output) = self.apps.get_mut(&id).and_then(|l| l.app.poll_output()) {
                    idle = false;
                    match output {
                        AppOutput::Send { message, about, route } => {
                            self.send_from_app(id, message, about, route, &mut local, now);
                        }
                        AppOutput::Join { session, channels, connection, ticket } => {
                            self.join(session, channels, connection, ticket, now);
                        }
                        AppOutput::Leave { session, channels } => {
                            self.leave(session, channels, now);
                        }
                        other => self.outputs.extend(Option::<Output>::from(other)),
                    }
                }
            }
            while let Some((app, from, message)) = local.pop_front() {
                idle = false;
                self.with_app(app, now, |app, cx| app.handle_message(message, from, cx));
            }
            if idle {
                return;
            }
        }
    }

    fn send_from_app(
        &mut self,
        id: AppId,
        mut message: Box<Message>,
        about: About,
        route: Route,
        local: &mut VecDeque<(AppId, ConnectionId, Message)>,
        now: Now,
    ) {
        let Node { apps, entropy, .. } = self;
        let Some(sender) = apps.get_mut(&id) else { return };
        let mut cx = Context { now, entropy: &mut **entropy };
        if let Err(error) = sender.app.finish(&mut message, &about, &mut cx) {
            // What is encrypted ends with its session.
            let level = match error {
                Error::Closed(_) => log::Level::Debug,
                _ => log::Level::Error,
            };
            log::log!(level, "a message could not be signed or encrypted: {error}");
            let text = format!("it could not be signed or encrypted: {error}");
            return self.with_app(id, now, |app, cx| app.handle_no_match(&about, &text, cx));
        }
        let from = sender.connection;
        let mut frame = Frame::new(message);
        let Some(destination) = frame.destination() else { return };
        let mut targets = Vec::new();
        match route {
            Route::Over(via) if self.is_usable(via) => targets.push(via),
            Route::Over(_) | Route::Any => {
                self.router.route(destination, frame.fanout(), from, &mut targets);
            }
            Route::Towards(via) => {
                self.router.route(destination, frame.fanout(), from, &mut targets);
                if targets.is_empty() && self.connections.contains_key(&via) {
                    targets.push(via);
                }
            }
            Route::Channel(mut connections) => {
                if !connections.iter().any(|connection| self.subscribes_over(*connection)) {
                    // It came into the group by an app of this node, which knows where the group is.
                    connections = self.channel_connections(destination);
                }
                self.router.subscribers(destination, frame.fanout(), from, &mut targets);
                for connection in connections {
                    // Apps of this node, and those that dialled it, are among the subscribers.
                    if self.subscribes_over(connection) && !targets.contains(&connection) {
                        targets.push(connection);
                    }
                }
            }
        }
        if targets.is_empty() {
            if about.kind == SessionMessageType::DiscoveryRequest && self.hands_over(now) {
                return log::debug!(
                    "nobody is known as {destination} now: a link is being replaced"
                );
            }
            let text = format!("message processing error: no matching found for {destination}");
            return self.with_app(id, now, |app, cx| app.handle_no_match(&about, &text, cx));
        }
        let origin = match (about.session, about.credit) {
            (Some(session), Some(bytes)) => Origin::Publish(session, bytes),
            _ if about.comes_again => Origin::Repeat,
            _ => Origin::Link,
        };
        if about.comes_again {
            targets.retain(|target| !self.is_backed_up(*target));
        }
        let mut on_its_way = false;
        for target in targets {
            match self.app_of.get(&target) {
                Some(app) => {
                    local.extend(frame.clone().into_message().map(|message| (*app, from, message)));
                }
                // Its room comes back once, with the first link that takes it.
                None if on_its_way => {
                    self.send_to(target, &mut frame, from, Origin::Link, now);
                }
                None => on_its_way = self.send_to(target, &mut frame, from, origin, now).is_some(),
            }
        }
        if !on_its_way {
            self.taken(origin, 0, now);
        }
    }

    /// Whether so much of what comes again by itself waits for a link that no more need be added.
    fn is_backed_up(&self, connection: ConnectionId) -> bool {
        let transport = self.transport_of(connection);
        let link = transport.and_then(|id| self.transports.get(&id)?.link.as_ref());
        link.is_some_and(|link| link.repeats() > limits::REPEAT_BACKLOG)
    }

    /// Whether something can be sent over a connection that a message came from.
    fn is_usable(&self, connection: ConnectionId) -> bool {
        match self.router.kind(connection) {
            Some(ConnectionKind::Local) => self.app_of.contains_key(&connection),
            Some(_) => self.connections.contains_key(&connection),
            None => false,
        }
    }
}
