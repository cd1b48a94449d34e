//! Whole networks in one test: node cores, links as byte queues that are split at random places,
//! one virtual clock, one seed. No sockets, no threads, no real time.

#![allow(dead_code)]

pub mod tap;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use slim::clock::Now;
use slim::config::ClientConfig;
use slim::entropy::{Entropy, SeededEntropy};
use slim::error::Error;
use slim::identity::test_identity::{TestIdentity, TestVerifier};
use slim::identity::Provider as _;
use slim::identity::{Binding, SharedSecret, SharedSecretVerifier};
use slim::link::Identity;
use slim::name::Name;
use slim::node::{AcceptOptions, Node, NodeOptions, Output, TransportId, Value};
use slim::router::{ConnectionId, Gateway};
use slim::session::{AppId, Event, Fields, Item, OpId, Payload, Retry, SessionConfig, SessionKey};
use tap::Tap;
use twox_hash::XxHash64;

pub const SECRET: &str = "a secret of at least 32 characters";

/// A process: a node, and what its program has seen.
pub struct Process {
    pub node: Node,
    pub name: String,
    pub up: bool,
    /// It runs, but gets no time: it reads nothing, and no timer fires.
    pub paused: bool,
    pub apps: BTreeMap<AppId, Name>,
    /// The identity strings of these apps.
    pub subjects: BTreeMap<AppId, String>,
    pub accepted: VecDeque<(SessionKey, Fields)>,
    pub messages: HashMap<SessionKey, Vec<String>>,
    pub events: HashMap<SessionKey, Vec<Event>>,
    /// Both, as they came, where the world keeps items.
    pub items: HashMap<SessionKey, Vec<Item>>,
    pub ended: HashMap<SessionKey, String>,
    pub credit: HashMap<SessionKey, (usize, usize)>,
    pub done: HashMap<OpId, (Duration, Result<Value, Error>)>,
    seed: u64,
}

/// One direction of a byte stream.
struct Pipe {
    to: (usize, TransportId),
    from: (usize, TransportId),
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// The stream ends after this.
    end: Option<Instant>,
    /// The reader does not read: nothing arrives, and soon nothing more can be written.
    stalled: bool,
    /// When the last bytes on the way arrive: none overtakes another.
    last: Instant,
    tap: Tap,
    link: String,
}

/// How often a message goes on over a link: 0 loses it, 2 doubles it.
pub type Copies = Box<dyn FnMut(&str, &slim::wire::Message) -> usize>;

/// Ends every payload where the world looks for it on all links.
pub const IN_CLEAR: &str = "Is this in clear?";

/// The network.
pub struct World {
    pub now: Now,
    start: Instant,
    pub entropy: SeededEntropy,
    pub processes: Vec<Process>,
    pipes: Vec<Pipe>,
    next_op: u64,
    /// Every message that was put on a link: link, message.
    pub trace: Vec<(String, slim::wire::Message)>,
    /// Every chunk of bytes takes this long,
    pub delay: Duration,
    /// and up to this much longer.
    pub jitter: Duration,
    /// Of everything that was put on a link, in order.
    pub digest: u64,
    real_identities: bool,
    record: bool,
    /// What the sockets on both ends of a link hold together.
    pub capacity: usize,
    /// How links are accepted from now on.
    pub accept: AcceptOptions,
    /// Links that these processes dial do not grow old.
    pub ageless: BTreeSet<usize>,
    /// Items are kept as they come, not as messages and events.
    pub keep_items: bool,
    /// Every link has somebody on it who loses and doubles messages. Set before the first link.
    pub copies: Option<Copies>,
    /// What must not be on any link.
    pub secret: Option<&'static str>,
}

impl World {
    pub fn new(seed: u64) -> World {
        let start = Instant::now();
        let unix = Duration::from_secs(1_800_000_000);
        World {
            now: Now { mono: start, unix },
            start,
            entropy: SeededEntropy::new(seed),
            processes: Vec::new(),
            pipes: Vec::new(),
            next_op: 0,
            trace: Vec::new(),
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
            digest: 0,
            real_identities: false,
            record: false,
            capacity: 256 * 1024,
            accept: AcceptOptions {
                require_header_mac: true,
                negotiation_timeout: Duration::from_secs(5),
                ping_after: Duration::from_secs(120),
                ping_timeout: Duration::from_secs(20),
                age: None,
            },
            ageless: BTreeSet::new(),
            keep_items: false,
            copies: None,
            secret: None,
        }
    }

    /// Real keys and signatures; without this, identities are the cheap ones for tests.
    pub fn with_real_identities(mut self) -> World {
        self.real_identities = true;
        self
    }

    /// Keeps every message that goes over a link.
    pub fn with_trace(mut self) -> World {
        self.record = true;
        self
    }

    /// Virtual time since the beginning.
    pub fn time(&self) -> Duration {
        self.now.mono - self.start
    }

    /// The moment in which it began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// The number that a session has on the wire.
    pub fn id(&self, process: usize, key: SessionKey) -> Option<u32> {
        self.processes[process].node.session(key).map(|fields| fields.id)
    }

    /// Starts a process with a node in it.
    pub fn process(&mut self, name: &str) -> usize {
        let seed = self.entropy.next_u64();
        self.processes.push(Process {
            node: new_node(name, seed),
            name: name.to_owned(),
            up: true,
            paused: false,
            apps: BTreeMap::new(),
            subjects: BTreeMap::new(),
            accepted: VecDeque::new(),
            messages: HashMap::new(),
            events: HashMap::new(),
            items: HashMap::new(),
            ended: HashMap::new(),
            credit: HashMap::new(),
            done: HashMap::new(),
            seed,
        });
        self.processes.len() - 1
    }

    pub fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    pub fn app(&mut self, process: usize, name: &str) -> AppId {
        self.app_with_secret(process, name, SECRET)
    }

    pub fn app_with_secret(&mut self, process: usize, name: &str, secret: &str) -> AppId {
        let parsed = Name::parse(name).unwrap();
        let entropy = &mut self.entropy;
        let node = &mut self.processes[process].node;
        let (id, full) = if self.real_identities {
            let provider = SharedSecret::new(name, secret, entropy).unwrap();
            let verifier = SharedSecretVerifier::new(secret).unwrap();
            let subject = provider.subject().to_owned();
            let (id, full) = node.add_app(&parsed, Box::new(provider), Box::new(verifier));
            self.processes[process].subjects.insert(id, subject);
            (id, full)
        } else {
            let subject = format!("{name}_{}", entropy.alphanumeric(8));
            let identity = TestIdentity(subject.clone());
            let (id, full) = node.add_app(&parsed, Box::new(identity), Box::new(TestVerifier));
            self.processes[process].subjects.insert(id, subject);
            (id, full)
        };
        self.processes[process].apps.insert(id, full);
        id
    }

    pub fn name(&self, process: usize, app: AppId) -> Name {
        self.processes[process].apps[&app].clone()
    }

    /// Connects one process to another and waits for the link.
    pub fn connect(&mut self, from: usize, to: usize) -> ConnectionId {
        let op = self.connect_start(from, to, None);
        match self.finish(from, op) {
            Ok(Value::Connection(id)) => id,
            other => panic!("connect: {other:?}"),
        }
    }

    pub fn connect_start(&mut self, from: usize, to: usize, limit: Option<Duration>) -> OpId {
        self.dial_start(from, to, "", limit)
    }

    /// The same with more of a configuration, in JSON.
    pub fn dial_start(
        &mut self,
        from: usize,
        to: usize,
        more: &str,
        limit: Option<Duration>,
    ) -> OpId {
        let op = self.op();
        let host = &self.processes[to].name;
        let json = format!(r#"{{"endpoint": "http://{host}:1"{more}}}"#);
        let config = ClientConfig::parse(&json).unwrap();
        let deadline = limit.map(|limit| self.now.mono + limit);
        self.processes[from].node.connect(config, op, deadline);
        self.settle();
        op
    }

    /// Connects, and subscribes an app's own name.
    pub fn attach(&mut self, process: usize, app: AppId, to: usize) -> ConnectionId {
        let connection = self.connect(process, to);
        self.subscribe(process, app, connection);
        connection
    }

    pub fn subscribe(&mut self, process: usize, app: AppId, connection: ConnectionId) {
        let op = self.op();
        let name = self.name(process, app);
        let node = &mut self.processes[process].node;
        node.subscribe(app, &name, connection, op, self.now).unwrap();
        assert_eq!(self.finish(process, op), Ok(Value::Nothing));
    }

    pub fn open_start(
        &mut self,
        process: usize,
        app: AppId,
        to: &str,
        config: SessionConfig,
    ) -> (SessionKey, OpId) {
        let op = self.op();
        let name = Name::parse(to).unwrap();
        let node = &mut self.processes[process].node;
        let (key, _) = node.open_session(app, config, &name, op, self.now).unwrap();
        node.set_events(key, true, self.now);
        self.settle();
        (key, op)
    }

    /// Opens a session and waits until the peer has it, too: both ends.
    pub fn open(
        &mut self,
        (process, app): (usize, AppId),
        at: usize,
        to: &str,
        config: SessionConfig,
    ) -> (SessionKey, SessionKey) {
        let (key, op) = self.open_start(process, app, to, config);
        assert_eq!(self.finish(process, op), Ok(Value::Nothing));
        let (theirs, _) = self.processes[at].accepted.pop_front().expect("accepted");
        self.processes[at].node.set_events(theirs, true, self.now);
        (key, theirs)
    }

    pub fn publish(&mut self, process: usize, session: SessionKey, text: &str) -> OpId {
        self.publish_with(process, session, text, "", &[])
    }

    pub fn publish_with(
        &mut self,
        process: usize,
        session: SessionKey,
        text: &str,
        payload_type: &str,
        pairs: &[(&str, &str)],
    ) -> OpId {
        let op = self.op();
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let metadata = pairs.iter().map(own).collect();
        let payload = Payload::new(text.as_bytes().to_vec(), payload_type, metadata);
        self.processes[process].node.publish(session, payload, Some(op), self.now);
        self.settle();
        op
    }

    pub fn close(&mut self, process: usize, session: SessionKey) -> OpId {
        let op = self.op();
        self.processes[process].node.close_session(session, Some(op), self.now);
        self.settle();
        op
    }

    /// Runs until an operation has ended, at most ten virtual minutes.
    pub fn finish(&mut self, process: usize, op: OpId) -> Result<Value, Error> {
        let ended = |world: &World| world.processes[process].done.contains_key(&op);
        assert!(self.run_until(Duration::from_secs(600), ended), "{op:?} does not end");
        self.processes[process].done[&op].1.clone()
    }

    /// How long after the beginning an operation ended.
    pub fn ended_at(&self, process: usize, op: OpId) -> Duration {
        self.processes[process].done[&op].0
    }

    pub fn messages(&self, process: usize, session: SessionKey) -> &[String] {
        self.processes[process].messages.get(&session).map_or(&[], Vec::as_slice)
    }

    pub fn events(&self, process: usize, session: SessionKey) -> &[Event] {
        self.processes[process].events.get(&session).map_or(&[], Vec::as_slice)
    }

    /// Lets this much virtual time pass.
    /// Whether a message that is repeated so arrives whatever happens to links for their age. One that is
    /// replaced gives nothing for a moment: what is not repeated may be lost. At the next try it may be
    /// the link of the other side.
    pub fn outlasts_links(&self, reliable: Option<Retry>) -> bool {
        let lasts =
            |r: Retry| r.max_retries > 1 && r.interval * r.max_retries > Duration::from_millis(500);
        self.accept.age.is_none() || reliable.is_some_and(lasts)
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until something is true; `false` if it is not within `limit`.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now.mono + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let Some(next) = self.next_event().filter(|at| *at <= end) else {
                let rest = end.saturating_duration_since(self.now.mono);
                self.now = self.now.after(rest);
                return false;
            };
            let step = next.saturating_duration_since(self.now.mono);
            self.now = self.now.after(step);
            self.deliver();
            for process in self.processes.iter_mut().filter(|p| p.up && !p.paused) {
                process.node.handle_timeout(self.now);
            }
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let arrivals = self
            .pipes
            .iter()
            .filter(|pipe| !pipe.stalled && !self.processes[pipe.to.0].paused)
            .filter_map(|pipe| pipe.queue.front().map(|(at, _)| *at).or(pipe.end));
        let running = self.processes.iter().filter(|p| p.up && !p.paused);
        let timers = running.filter_map(|p| p.node.poll_timeout());
        arrivals.chain(timers).min()
    }

    fn deliver(&mut self) {
        let mut at = 0;
        while at < self.pipes.len() {
            let pipe = &mut self.pipes[at];
            let (process, transport) = pipe.to;
            if pipe.stalled || self.processes[process].paused {
                at += 1;
                continue;
            }
            let due = pipe.queue.front().is_some_and(|(when, _)| *when <= self.now.mono);
            if due {
                let (_, bytes) = pipe.queue.pop_front().unwrap();
                let writer = pipe.from;
                self.processes[process].node.handle_bytes(transport, &bytes, self.now);
                self.flush(writer.0, writer.1);
                self.settle();
                continue;
            }
            if pipe.queue.is_empty() && pipe.end.is_some_and(|end| end <= self.now.mono) {
                self.pipes.swap_remove(at);
                let cause = "the peer closed the connection";
                self.processes[process].node.handle_disconnected(transport, cause, self.now);
                self.settle();
                continue;
            }
            at += 1;
        }
    }

    /// Carries out what nodes want, and moves their bytes onto the links.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for at in 0..self.processes.len() {
                while let Some(output) = self.processes[at].node.poll_output() {
                    moved = true;
                    self.on_output(at, output);
                }
                while let Some(transport) = self.processes[at].node.next_dirty() {
                    moved |= self.flush(at, transport);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn flush(&mut self, at: usize, transport: TransportId) -> bool {
        let mut moved = false;
        loop {
            let pipe = self.pipes.iter().find(|pipe| pipe.from == (at, transport));
            let waiting: usize =
                pipe.map_or(0, |pipe| pipe.queue.iter().map(|(_, bytes)| bytes.len()).sum());
            // A socket takes what it has room for, once a third of it is free.
            if waiting > self.capacity / 3 * 2 {
                return moved;
            }
            let output = self.processes[at].node.output(transport);
            let mut bytes = output[..output.len().min(self.capacity - waiting)].to_vec();
            if bytes.len() > 1000 && self.entropy.next_u32().is_multiple_of(8) {
                let half = bytes.len() / 2;
                bytes.truncate(half + self.entropy.next_u32() as usize % half);
            }
            let len = bytes.len();
            self.processes[at].node.wrote(transport, len, self.now);
            if len == 0 {
                return moved;
            }
            moved = true;
            self.put((at, transport), &bytes);
        }
    }

    /// Puts bytes on a link, split at random places.
    fn put(&mut self, from: (usize, TransportId), bytes: &[u8]) {
        let Some(at) = self.pipes.iter().position(|p| p.from == from && p.end.is_none()) else {
            return;
        };
        let World { pipes, trace, copies, record, .. } = self;
        let Pipe { tap, link, .. } = &mut pipes[at];
        let filtered = (*record || copies.is_some()).then(|| {
            tap.pass(bytes, |message| {
                if *record {
                    tap::check_names(message);
                    trace.push((link.clone(), message.clone()));
                }
                copies.as_mut().map_or(1, |copies| copies(link, message))
            })
        });
        // What is only listened to goes on as it is.
        let filtered = filtered.filter(|_| copies.is_some());
        let mut bytes = filtered.as_deref().unwrap_or(bytes);
        self.digest = XxHash64::oneshot(self.digest, bytes);
        if let Some(secret) = self.secret {
            let clear = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!clear, "in clear on {}", self.pipes[at].link);
        }
        let jitter = self.jitter.as_micros() as u64;
        while !bytes.is_empty() {
            let late = Duration::from_micros(self.entropy.next_u64() % (jitter + 1));
            let when = (self.now.mono + self.delay + late).max(self.pipes[at].last);
            self.pipes[at].last = when;
            let most = if self.entropy.next_u32().is_multiple_of(8) { 40 } else { 20_000 };
            let len = (self.entropy.next_u32() as usize % most + 1).min(bytes.len());
            let (chunk, rest) = bytes.split_at(len);
            self.pipes[at].queue.push_back((when, chunk.to_vec()));
            bytes = rest;
        }
    }

    fn on_output(&mut self, at: usize, output: Output) {
        let keep_items = self.keep_items;
        let process = &mut self.processes[at];
        match output {
            Output::Dial { transport, host, .. } => self.dial(at, transport, &host),
            Output::Close { transport, bytes } => {
                self.put((at, transport), &bytes);
                // What comes the other way reaches nobody.
                self.pipes.retain(|pipe| pipe.to != (at, transport));
                for pipe in self.pipes.iter_mut().filter(|pipe| pipe.from == (at, transport)) {
                    let when = (self.now.mono + self.delay).max(pipe.last);
                    pipe.end.get_or_insert(when);
                }
            }
            Output::Done(op, result) => {
                let time = self.now.mono - self.start;
                let before = process.done.insert(op, (time, result));
                assert!(before.is_none(), "{op:?} ended twice");
            }
            Output::NewSession(key, fields) => process.accepted.push_back((key, fields)),
            Output::Item(key, item) if keep_items => {
                assert!(!process.ended.contains_key(&key), "{key}: {item:?} after the end");
                process.items.entry(key).or_default().push(item);
            }
            Output::Item(key, Item::Message(message)) => {
                assert!(!process.ended.contains_key(&key), "{key}: a message after the end");
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                process.messages.entry(key).or_default().push(text);
            }
            Output::Item(key, Item::Event(event)) => {
                process.events.entry(key).or_default().push(event);
            }
            Output::Credit { session, messages, bytes } => {
                let credit = process.credit.entry(session).or_default();
                credit.0 += messages;
                credit.1 += bytes;
            }
            Output::Epoch(..) => {}
            Output::Ended(key, reason) => {
                process.ended.insert(key, reason);
            }
        }
    }

    fn dial(&mut self, from: usize, transport: TransportId, host: &str) {
        let to = self.processes.iter().position(|p| p.name == host && p.up);
        let Some(to) = to else {
            let node = &mut self.processes[from].node;
            return node.handle_connect_failed(transport, "connection refused", self.now);
        };
        let age = self.accept.age.filter(|_| !self.ageless.contains(&from));
        let accept = AcceptOptions { age, ..self.accept };
        let theirs = self.processes[to].node.accept(accept, self.now);
        let (a, b) = ((from, transport), (to, theirs));
        for (from, to) in [(a, b), (b, a)] {
            let (source, target) = (&self.processes[from.0].name, &self.processes[to.0].name);
            let link = format!("{source}->{target}");
            let tap = Tap::new(from == a);
            self.pipes.push(Pipe {
                to,
                from,
                queue: VecDeque::new(),
                end: None,
                stalled: false,
                last: self.now.mono,
                tap,
                link,
            });
        }
        self.processes[from].node.handle_connected(transport, self.now);
    }

    /// Cuts every link of a process: what is under way is lost.
    pub fn cut(&mut self, process: usize) {
        let cut: Vec<(usize, TransportId)> = self
            .pipes
            .iter()
            .filter(|pipe| pipe.to.0 == process || pipe.from.0 == process)
            .map(|pipe| pipe.to)
            .collect();
        self.pipes.retain(|pipe| pipe.to.0 != process && pipe.from.0 != process);
        for (at, transport) in cut {
            if self.processes[at].up {
                self.processes[at].node.handle_disconnected(transport, "cut", self.now);
            }
        }
        self.settle();
    }

    /// A process stops reading, or goes on.
    pub fn stall(&mut self, process: usize, stalled: bool) {
        for pipe in self.pipes.iter_mut().filter(|pipe| pipe.to.0 == process) {
            pipe.stalled = stalled;
        }
    }

    /// Breaks one link, chosen by number: what is under way is lost.
    pub fn break_link(&mut self, number: usize) {
        if self.pipes.is_empty() {
            return;
        }
        let (a, b) =
            (self.pipes[number % self.pipes.len()].from, self.pipes[number % self.pipes.len()].to);
        self.pipes.retain(|pipe| ![pipe.from, pipe.to].contains(&a));
        for (at, transport) in [a, b] {
            self.processes[at].node.handle_disconnected(transport, "cut", self.now);
        }
        self.settle();
    }

    /// One direction of a link, chosen by number, falls silent, or all speak again.
    pub fn silence(&mut self, number: Option<usize>) {
        match number {
            Some(number) if !self.pipes.is_empty() => {
                let at = number % self.pipes.len();
                self.pipes[at].stalled = true;
            }
            Some(_) => {}
            None => self.pipes.iter_mut().for_each(|pipe| pipe.stalled = false),
        }
    }

    /// What is on one link waits, or goes on.
    pub fn hold(&mut self, link: &str, held: bool) {
        for pipe in self.pipes.iter_mut().filter(|pipe| pipe.link == link) {
            pipe.stalled = held;
        }
    }

    /// Puts bytes on a link that its writer did not write.
    pub fn inject(&mut self, link: &str, bytes: &[u8]) {
        let pipe = self.pipes.iter_mut().find(|pipe| pipe.link == link).expect("a link");
        pipe.last = pipe.last.max(self.now.mono + self.delay);
        pipe.queue.push_back((pipe.last, bytes.to_vec()));
    }

    /// Kills a process: it says nothing, its memory is gone.
    pub fn kill(&mut self, process: usize) {
        self.processes[process].up = false;
        self.processes[process].paused = false;
        self.cut(process);
        let dead = &mut self.processes[process];
        dead.node = new_node(&dead.name, dead.seed);
        dead.apps.clear();
        dead.subjects.clear();
        dead.items.clear();
        // The next life counts sessions from the beginning.
        dead.accepted.clear();
        dead.messages.clear();
        dead.events.clear();
        dead.credit.clear();
        dead.ended.clear();
    }

    /// Starts a killed process again, as a node without apps.
    pub fn restart(&mut self, process: usize) {
        let seed = self.entropy.next_u64();
        let process = &mut self.processes[process];
        process.node = new_node(&process.name, seed);
        process.up = true;
    }
}

fn new_node(name: &str, seed: u64) -> Node {
    let options = NodeOptions {
        identity: Identity {
            version: slim::protocol_version(),
            node_id: format!("node-{name}"),
            deployment_name: String::new(),
        },
        gateway: Gateway::Auto,
        binding: Binding::Enforce,
        stuck_receiver_timeout: slim::limits::STUCK_RECEIVER_TIMEOUT,
        virtual_time: true,
    };
    Node::new(options, Box::new(SeededEntropy::new(seed)))
}
