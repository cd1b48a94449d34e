//! Messages to any instance of a service: each is a point-to-point session of its own, with whichever
//! instance is found for it (DESIGN decision 4).
//!
//! To the application it is one session: what the instances answer comes out of one inbox. A session
//! behind it is a flow. It is kept for a while, in case its instance has something to say.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::app::{App, Output};
use super::{Context, Event, Fields, Item, OpId, Payload, Session, SessionConfig, SessionKey};
use super::{Kind, Output as SessionOutput};
use crate::error::Error;
use crate::limits;
use crate::name::Name;

/// A session with any instance.
pub(super) struct Anycast {
    key: SessionKey,
    fields: Fields,
    config: SessionConfig,
    events: bool,
    inbox_full: bool,
    /// By the number of the session.
    flows: BTreeMap<u32, Flow>,
    waiting: VecDeque<Waiting>,
    /// When an instance took a message last.
    served: Option<Instant>,
    closing: Option<Closing>,
}

/// One message and the session that it has.
struct Flow {
    /// Room that its message and the answers to its instance still take: messages and bytes.
    room: (usize, usize),
    /// Its message was acknowledged, answered, or has failed.
    settled: bool,
    /// Something happened since `last`.
    touched: bool,
    last: Instant,
    closing: bool,
}

/// A message for which there is no session yet.
struct Waiting {
    payload: Payload,
    op: Option<OpId>,
    since: Instant,
}

struct Closing {
    ops: Vec<OpId>,
    until: Instant,
}

impl Anycast {
    /// When the message that has waited longest is given up: nobody took any for so long.
    fn patience(&self) -> Option<Instant> {
        let first = self.waiting.front()?.since;
        let served = self.served.map_or(first, |served| served.max(first));
        Some(served + self.config.control_retry().total())
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let flows = self.flows.values().filter(|flow| !flow.closing);
        let idle = flows.map(|flow| self.idle_at(flow, now)).min();
        let until = self.closing.as_ref().map(|closing| closing.until);
        [idle, self.patience(), until].into_iter().flatten().min()
    }

    /// When a flow may be closed.
    fn idle_at(&self, flow: &Flow, now: Instant) -> Instant {
        match flow.settled {
            true if self.needed() == 0 => flow.last + limits::ANYCAST_IDLE,
            true => flow.last + self.pause(),
            // Its own timers end it.
            false => now + limits::ANYCAST_IDLE,
        }
    }

    /// How many flows have to be closed for messages that wait.
    fn needed(&self) -> usize {
        let free = limits::ANYCAST_FLOWS.saturating_sub(self.flows.len());
        let ending = self.flows.values().filter(|flow| flow.closing).count();
        self.waiting.len().saturating_sub(free + ending)
    }

    /// How long after its message a flow is kept though others wait: a best-effort message may be on
    /// its way still.
    fn pause(&self) -> Duration {
        match self.config.reliable {
            Some(_) => Duration::ZERO,
            None => limits::ANYCAST_PAUSE,
        }
    }
}

impl Anycast {
    /// What a flow's session wants of the application is given out as if it were of the one session
    /// that the application knows.
    pub(super) fn translate(&mut self, id: u32, output: SessionOutput) -> Option<Output> {
        let session = self.key;
        let flow = self.flows.get_mut(&id)?;
        flow.touched = true;
        match output {
            SessionOutput::Item(Item::Message(message)) => {
                flow.settled = true;
                Some(Output::Item(session, Item::Message(message)))
            }
            SessionOutput::Item(item @ Item::Event(Event::MessageLost { .. })) if self.events => {
                Some(Output::Item(session, item))
            }
            SessionOutput::Done(op, result) => {
                flow.settled = true;
                // The session of a message that nobody took ends with it.
                let result = result.map_err(|error| match error {
                    Error::Closed(text) => Error::Undelivered(text),
                    other => other,
                });
                Some(Output::Done(op, result))
            }
            SessionOutput::Credit { messages, bytes } => {
                flow.settled = true;
                flow.room.0 = flow.room.0.saturating_sub(messages);
                flow.room.1 = flow.room.1.saturating_sub(bytes);
                Some(Output::Credit { session, messages, bytes })
            }
            SessionOutput::Ended { .. } => {
                // What it took and did not give back comes back with its end.
                let (messages, bytes) = self.flows.remove(&id)?.room;
                (messages > 0 || bytes > 0).then_some(Output::Credit { session, messages, bytes })
            }
            _ => None,
        }
    }
}

impl App {
    /// Opens a session with any instance of a service: nothing is sent before the first message.
    pub(super) fn open_anycast(
        &mut self,
        id: u32,
        config: SessionConfig,
        destination: &Name,
        op: OpId,
    ) -> Result<SessionKey, Error> {
        if config.kind == Kind::Group {
            let text = format!("{destination} is a group: its members are not any instances");
            return Err(Error::InvalidArgument(text));
        }
        let fields = Fields {
            id,
            kind: config.kind,
            reliable: config.reliable,
            initiator: true,
            source: self.name().clone(),
            destination: destination.clone(),
            metadata: config.metadata.clone(),
            mls: config.mls,
            epoch: None,
        };
        let key = self.new_key(id);
        let anycast = Anycast {
            key,
            fields,
            config,
            events: false,
            inbox_full: false,
            flows: BTreeMap::new(),
            waiting: VecDeque::new(),
            served: None,
            closing: None,
        };
        self.anycasts.insert(id, anycast);
        self.outputs.push_back(Output::Done(op, Ok(())));
        Ok(key)
    }

    pub(super) fn anycast(&mut self, key: SessionKey) -> Option<&mut Anycast> {
        self.anycasts.get_mut(self.by_number.get(&key.number)?)
    }

    pub(super) fn anycast_fields(&self, key: SessionKey) -> Option<Fields> {
        Some(self.anycasts.get(self.by_number.get(&key.number)?)?.fields.clone())
    }

    /// The instances that there are sessions with.
    pub(super) fn anycast_participants(&self, key: SessionKey) -> Option<Vec<(Name, bool)>> {
        let anycast = self.anycasts.get(self.by_number.get(&key.number)?)?;
        let sessions = anycast.flows.keys().filter_map(|id| self.sessions.get(id));
        let all = sessions.flat_map(|entry| entry.session.participants());
        let mut found: BTreeMap<Name, bool> = BTreeMap::new();
        all.for_each(|(name, online)| *found.entry(name).or_default() |= online);
        Some(found.into_iter().collect())
    }

    /// Publishes to any instance. `false`: it is no session of this kind.
    pub(super) fn publish_anycast(
        &mut self,
        key: SessionKey,
        payload: &Payload,
        op: Option<OpId>,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(anycast) = self.anycast(key) else { return false };
        if anycast.closing.is_some() {
            let (messages, bytes) = (1, payload.len());
            self.outputs.push_back(Output::Credit { session: key, messages, bytes });
            self.done_closed(op);
            return true;
        }
        let waiting = Waiting { payload: payload.clone(), op, since: cx.now.mono };
        anycast.waiting.push_back(waiting);
        let id = anycast.fields.id;
        self.drive_anycast(id, cx);
        true
    }

    /// Answers an instance: over the last session that there is with it.
    pub(super) fn answer_anycast(
        &mut self,
        key: SessionKey,
        to: &Name,
        payload: &Payload,
        op: Option<OpId>,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(anycast) = self.anycast(key) else { return false };
        let open: Vec<u32> =
            anycast.flows.iter().filter(|(_, flow)| !flow.closing).map(|(id, _)| *id).collect();
        let with = |id: &&u32| {
            let session = self.sessions.get(id).map(|entry| &entry.session);
            session.is_some_and(|session| session.participants().iter().any(|(n, _)| n == to))
        };
        match open.iter().rev().find(with) {
            Some(&id) => {
                let flow = self.anycast(key).and_then(|anycast| anycast.flows.get_mut(&id));
                if let Some(flow) = flow {
                    flow.room.0 += 1;
                    flow.room.1 += payload.len();
                }
                if let Some(entry) = self.sessions.get_mut(&id) {
                    entry.session.publish(payload.clone(), op, cx);
                }
                self.settle(id);
                self.drive_anycast_of(id, cx);
            }
            None => {
                let text = format!("{to} is not in the session any more: it cannot be answered");
                self.outputs.extend(op.map(|op| Output::Done(op, Err(Error::NotFound(text)))));
                let (messages, bytes) = (1, payload.len());
                self.outputs.push_back(Output::Credit { session: key, messages, bytes });
            }
        }
        true
    }

    /// Closes the session: what waits is sent first.
    pub(super) fn close_anycast(
        &mut self,
        key: SessionKey,
        op: Option<OpId>,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(anycast) = self.anycast(key) else { return false };
        let until = cx.now.mono + limits::CLOSE_GRACE;
        let closing = anycast.closing.get_or_insert(Closing { ops: Vec::new(), until });
        closing.ops.extend(op);
        let id = anycast.fields.id;
        self.drive_anycast(id, cx);
        true
    }

    pub(super) fn set_anycast_events(&mut self, key: SessionKey, events: bool) -> bool {
        self.anycast(key).map(|anycast| anycast.events = events).is_some()
    }

    pub(super) fn set_anycast_full(
        &mut self,
        key: SessionKey,
        full: bool,
        cx: &Context<'_>,
    ) -> bool {
        let Some(anycast) = self.anycast(key) else { return false };
        anycast.inbox_full = full;
        for id in anycast.flows.keys().copied().collect::<Vec<_>>() {
            if let Some(entry) = self.sessions.get_mut(&id) {
                entry.session.set_inbox_full(full, cx.now.mono);
            }
            self.settle(id);
        }
        true
    }

    /// The app ends.
    pub(super) fn shut_down_anycasts(&mut self) {
        for id in self.anycasts.keys().copied().collect::<Vec<_>>() {
            self.end_anycast(id, "the app is closed");
        }
    }

    /// Goes on with the session that a flow belongs to.
    pub(super) fn drive_anycast_of(&mut self, flow: u32, cx: &mut Context<'_>) {
        let found = self.anycasts.iter().find(|(_, anycast)| anycast.flows.contains_key(&flow));
        if let Some(id) = found.map(|(id, _)| *id) {
            self.drive_anycast(id, cx);
        }
    }

    /// Goes on with all such sessions: one of their flows may have ended.
    pub(super) fn drive_anycasts(&mut self, cx: &mut Context<'_>) {
        for id in self.anycasts.keys().copied().collect::<Vec<_>>() {
            self.drive_anycast(id, cx);
        }
    }

    /// Sends what waits, closes what is idle, gives up what took too long.
    pub(super) fn drive_anycast(&mut self, id: u32, cx: &mut Context<'_>) {
        let now = cx.now.mono;
        let Some(anycast) = self.anycasts.get_mut(&id) else { return };
        for flow in anycast.flows.values_mut().filter(|flow| flow.touched) {
            (flow.touched, flow.last) = (false, now);
            if flow.settled {
                anycast.served = Some(now);
            }
        }
        self.give_up_waiting(id, now);
        self.close_idle(id, cx);
        self.begin_flows(id, cx);
        let Some(anycast) = self.anycasts.get_mut(&id) else { return };
        if let Some(closing) = &anycast.closing {
            let late = closing.until <= now;
            if late || (anycast.flows.is_empty() && anycast.waiting.is_empty()) {
                let reason = if late { "it took too long to close" } else { "closed by this side" };
                return self.end_anycast(id, reason);
            }
        }
        let at = anycast.poll_timeout(now);
        self.timers.set(id, at);
    }

    /// Nobody took anything for so long: nobody is there.
    fn give_up_waiting(&mut self, id: u32, now: Instant) {
        while let Some(anycast) = self.anycasts.get_mut(&id) {
            if anycast.patience().is_none_or(|at| at > now) {
                return;
            }
            let Some(Waiting { payload, op, .. }) = anycast.waiting.pop_front() else { return };
            let (session, bytes) = (anycast.key, payload.len());
            let text = format!("nobody was there to take it: {}", anycast.fields.destination);
            let lost = Err(Error::Undelivered(text));
            self.outputs.extend(op.map(|op| Output::Done(op, lost)));
            self.outputs.push_back(Output::Credit { session, messages: 1, bytes });
        }
    }

    /// Closes the flows that are idle for too long, and the longest idle ones where others wait.
    fn close_idle(&mut self, id: u32, cx: &mut Context<'_>) {
        let now = cx.now.mono;
        let Some(anycast) = self.anycasts.get_mut(&id) else { return };
        let over = anycast.closing.is_some() && anycast.waiting.is_empty();
        let needed = if over { usize::MAX } else { anycast.needed() };
        let pause = anycast.pause();
        let idle = anycast.flows.iter().filter(|(_, flow)| flow.settled && !flow.closing);
        let mut idle: Vec<(Instant, u32)> = idle.map(|(id, flow)| (flow.last, *id)).collect();
        idle.sort();
        let mut closed = Vec::new();
        for (last, flow) in idle {
            let wanted = closed.len() < needed && (over || last + pause <= now);
            if wanted || last + limits::ANYCAST_IDLE <= now {
                closed.push(flow);
            }
        }
        for flow in &closed {
            if let Some(flow) = anycast.flows.get_mut(flow) {
                flow.closing = true;
            }
        }
        for flow in closed {
            if let Some(entry) = self.sessions.get_mut(&flow) {
                entry.session.close(None, cx);
            }
            self.settle(flow);
        }
    }

    /// A session for each message that waits, as many as there may be.
    fn begin_flows(&mut self, parent: u32, cx: &mut Context<'_>) {
        loop {
            let id = self.new_session_id(cx);
            let Some(anycast) = self.anycasts.get_mut(&parent) else { return };
            if anycast.flows.len() >= limits::ANYCAST_FLOWS {
                return;
            }
            let Some(Waiting { payload, op, .. }) = anycast.waiting.pop_front() else { return };
            let (config, full) = (anycast.config.clone(), anycast.inbox_full);
            let destination = anycast.fields.destination.clone();
            let (room, last) = ((1, payload.len()), cx.now.mono);
            let flow = Flow { room, settled: false, touched: false, last, closing: false };
            anycast.flows.insert(id, flow);
            let (me, credentials) = (self.name().clone(), &self.credentials);
            let mut session = Session::open(id, config, me, credentials, destination, None, cx);
            session.set_events(true);
            session.set_inbox_full(full, cx.now.mono);
            session.publish(payload, op, cx);
            self.insert(session, Some(parent));
            self.settle(id);
        }
    }

    fn end_anycast(&mut self, id: u32, reason: &str) {
        let flows = self.anycasts.get(&id).map(|anycast| anycast.flows.keys().copied());
        for flow in flows.into_iter().flatten().collect::<Vec<_>>() {
            if let Some(entry) = self.sessions.get_mut(&flow) {
                entry.session.end(reason, None);
            }
            self.settle(flow);
        }
        let Some(anycast) = self.anycasts.remove(&id) else { return };
        self.timers.set(id, None);
        self.by_number.remove(&anycast.key.number);
        for waiting in anycast.waiting {
            let error = Error::Closed(format!("session closed: {reason}"));
            self.outputs.extend(waiting.op.map(|op| Output::Done(op, Err(error))));
        }
        if anycast.events {
            let event = Event::Closed(reason.to_owned());
            self.outputs.push_back(Output::Item(anycast.key, Item::Event(event)));
        }
        self.outputs.push_back(Output::Ended(anycast.key, reason.to_owned()));
        for op in anycast.closing.into_iter().flat_map(|closing| closing.ops) {
            self.outputs.push_back(Output::Done(op, Ok(())));
        }
    }
}
