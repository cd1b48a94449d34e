//! One history: a network, what its programs do, what happens to it, and the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use slim::entropy::{Entropy, SeededEntropy};
use slim::error::Error;
use slim::limits;
use slim::name::Name;
use slim::node::{Stats, Value};
use slim::router::ConnectionId;
use slim::session::{AppId, Event, Mls, OpId, Retry, SessionConfig, SessionKey};

use crate::network::end;
use crate::world::{World, IN_CLEAR};

const SECOND: Duration = Duration::from_secs(1);
/// Steps of one round of faults, at most.
const STEPS: u64 = 30;
/// What a scheduled end of an operation may be late by, when nothing was paused.
const SLACK: Duration = Duration::from_secs(2);

/// What a history comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Things done.
    pub steps: u64,
    /// Of all bytes on all links.
    pub digest: u64,
}

/// A program with one app.
struct Client {
    process: usize,
    name: String,
    /// Which of the routing nodes it uses; none where it shares the process of one.
    node: Option<usize>,
    app: AppId,
    full: Name,
    connection: Option<ConnectionId>,
    alias: bool,
    /// Counts the aliases that were given up.
    aliases: u32,
    /// Counts deaths: what an earlier life began is not expected to end.
    life: u32,
    dead: bool,
}

/// A session, seen from both ends.
struct Talk {
    id: u32,
    config: SessionConfig,
    /// The opener, and whoever was found.
    ends: [Option<End>; 2],
    /// The opener was told that it is ready.
    ready: bool,
    /// It was opened under an alias of this client, the so many-th.
    alias: Option<(usize, u32)>,
}

struct End {
    client: usize,
    life: u32,
    key: SessionKey,
    /// It was closed, from here or from there.
    ended: bool,
    /// The application closed it, so what was on its way to it does not count.
    closed: bool,
    online: bool,
    /// Nothing was said of it yet: it may have gone before anybody wanted to know.
    unsaid: bool,
    connected: bool,
    /// When it last gave up messages of the other: it acknowledges none of these any more.
    gave_up: Option<Instant>,
    /// When the other was last taken for gone.
    went: Option<Instant>,
    published: Vec<Published>,
    /// Numbers of the other's messages that have come.
    received: BTreeSet<usize>,
    /// Messages and payload bytes that were published, less the room that came back.
    out: (usize, usize),
}

struct Published {
    /// To a peer that was there, with no trouble that it could not survive.
    must: bool,
    outcome: Option<bool>,
    /// How many links had been broken before.
    breaks: u32,
}

/// What a call was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Connect(usize),
    Uplink(usize),
    Subscribe,
    Open(usize),
    Publish { talk: usize, side: usize, number: usize, online: bool },
    Close { talk: usize, sure: bool },
}

struct Call {
    process: usize,
    client: Option<(usize, u32)>,
    op: OpId,
    what: What,
    start: Instant,
    bound: Duration,
    /// Time in which somebody got none, before it.
    frozen: Duration,
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Restart(usize),
    Rebirth(usize),
    Resume(usize),
    Speak,
    Room { talk: usize, side: usize },
}

/// One history in progress.
pub struct History {
    world: World,
    dice: SeededEntropy,
    nodes: Vec<usize>,
    /// How each node reaches the other one, and the names that it has set a route for.
    uplinks: Vec<(Option<ConnectionId>, BTreeSet<Name>)>,
    clients: Vec<Client>,
    talks: Vec<Talk>,
    calls: Vec<Call>,
    later: Vec<(Instant, Undo)>,
    /// Time in which somebody got none.
    frozen: Duration,
    breaks: u32,
    /// A link was silent that may have been ended for its age meanwhile, or had another beside it: what
    /// was on it may come after what went another way.
    stale: bool,
    calm: Option<Instant>,
    steps: u64,
    /// How sessions are encrypted.
    mls: Option<Mls>,
    /// A replay tells what happens.
    telling: bool,
}

impl History {
    /// The network that a seed chooses.
    pub fn new(seed: u64) -> History {
        History::in_world(World::new(seed), seed)
    }

    /// A network whose sessions are encrypted.
    pub fn encrypted(seed: u64) -> History {
        let mut world = World::new(seed).with_real_identities();
        world.secret = Some(IN_CLEAR);
        History { mls: Some(Mls::default()), ..History::in_world(world, seed) }
    }

    fn in_world(world: World, seed: u64) -> History {
        let mut history = History {
            world,
            dice: SeededEntropy::new(seed ^ 0x51a1),
            nodes: Vec::new(),
            uplinks: Vec::new(),
            clients: Vec::new(),
            talks: Vec::new(),
            calls: Vec::new(),
            later: Vec::new(),
            frozen: Duration::ZERO,
            breaks: 0,
            stale: false,
            calm: None,
            steps: 0,
            mls: None,
            telling: std::env::var_os("SLIM_SIM_SEED").is_some(),
        };
        // Links that grow old are replaced, which is no fault.
        let mut ages = SeededEntropy::new(seed ^ 0xa6e);
        if ages.next_u32().is_multiple_of(3) {
            let limit = Duration::from_secs(2 + ages.next_u64() % 20);
            let grace = Duration::from_secs(2 + ages.next_u64() % 5);
            history.world.accept.age = Some(slim::link::Age { limit, grace });
        }
        for n in 0..1 + history.roll(2) {
            let node = history.world.process(&format!("node{n}"));
            history.nodes.push(node);
            history.uplinks.push(Default::default());
        }
        history.link_nodes(0);
        history.link_nodes(1);
        let twins = history.roll(3) == 0;
        for n in 0..3 + history.roll(2) as usize {
            let name = match (twins, n) {
                (true, 0 | 1) => "org/ns/twin".to_owned(),
                _ => format!("org/ns/app{n}"),
            };
            let node = history.roll(history.nodes.len() as u64) as usize;
            let shares = history.roll(8) == 0;
            let process = match shares {
                true => history.nodes[node],
                false => history.world.process(&format!("client{n}")),
            };
            let app = history.world.app(process, &name);
            let full = history.world.name(process, app);
            history.clients.push(Client {
                process,
                name,
                node: (!shares).then_some(node),
                app,
                full,
                connection: None,
                alias: false,
                aliases: 0,
                life: 0,
                dead: false,
            });
            history.connect(n);
        }
        history
    }

    /// Runs it to its end. A promise that does not hold panics.
    pub fn run(mut self) -> Outcome {
        self.rest();
        for _ in 0..3 {
            self.calm = None;
            for _ in 0..5 + self.roll(STEPS) {
                self.act();
                let pause = self.roll(120);
                self.advance(Duration::from_millis(pause));
            }
            self.rest();
        }
        self.finish();
        Outcome { steps: self.steps, digest: self.world.digest }
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        if self.telling {
            eprintln!("{:>9.3} {}", self.world.time().as_secs_f64(), text());
        }
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.dice.next_u64() % below.max(1)
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.roll(below))
    }

    // What programs do, and what happens to them.

    fn act(&mut self) {
        self.steps += 1;
        match self.roll(100) {
            0..=49 => {
                let many = 1 + self.roll(10) as usize;
                self.publish_some(many);
            }
            50..=53 => self.publish_some(2 * limits::SENDER_WINDOW),
            54..=59 => {
                let time = self.millis(3000);
                self.advance(time);
            }
            60..=62 => {
                let time = self.millis(30_000);
                self.advance(time);
            }
            63..=67 => {
                let link = self.roll(1000) as usize;
                self.break_link(link);
            }
            68..=69 => {
                let process = self.any_process();
                self.tell(|| format!("cut {process}"));
                self.breaks += 1;
                self.world.cut(process);
            }
            70..=71 => self.kill_node(),
            72..=73 => self.kill_client(),
            74..=76 => {
                let process = self.any_process();
                self.tell(|| format!("pause {process}"));
                self.world.processes[process].paused = true;
                self.undo_within(20_000, Undo::Resume(process));
            }
            77..=79 => {
                let link = self.roll(1000) as usize;
                self.tell(|| format!("silence {link}"));
                self.world.silence(Some(link));
                self.stale |= self.world.accept.age.is_some() || self.nodes.len() > 1;
                self.undo_within(40_000, Undo::Speak);
            }
            80..=82 => {
                if let Some((talk, side)) = self.any_end() {
                    self.set_full(talk, side, true);
                    self.undo_within(5000, Undo::Room { talk, side });
                }
            }
            83..=85 => {
                self.world.delay = self.millis(200);
                self.world.jitter = self.millis(200);
                self.tell(|| format!("delay {:?} {:?}", self.world.delay, self.world.jitter));
            }
            86..=89 => drop(self.open()),
            90..=92 => {
                if let Some((talk, side)) = self.any_end() {
                    self.close(talk, side);
                }
            }
            93 => self.replace_app(),
            94..=95 => self.reconnect(),
            96..=97 => self.toggle_alias(),
            _ => {
                let jump = Duration::from_secs(self.roll(7200));
                let unix = self.world.now.unix;
                // Tokens from the future are refused; those of an hour ago are only renewed.
                let back = self.roll(2) == 0 && self.mls.is_none();
                self.world.now.unix = if back { unix - jump } else { unix + jump };
            }
        }
        self.absorb();
    }

    fn any_process(&mut self) -> usize {
        let process = self.roll(self.world.processes.len() as u64) as usize;
        if self.world.processes[process].up {
            process
        } else {
            self.nodes[0]
        }
    }

    fn any_client(&mut self) -> Option<usize> {
        let client = self.roll(self.clients.len() as u64) as usize;
        (!self.clients[client].dead).then_some(client)
    }

    /// An end that its application can use.
    fn any_end(&mut self) -> Option<(usize, usize)> {
        let open: Vec<(usize, usize)> = (0..self.talks.len())
            .flat_map(|talk| [(talk, 0), (talk, 1)])
            .filter(|(talk, side)| self.is_open(*talk, *side))
            .collect();
        let at = self.roll(open.len() as u64) as usize;
        open.get(at).copied()
    }

    fn is_open(&self, talk: usize, side: usize) -> bool {
        self.talks[talk].ends[side]
            .as_ref()
            .is_some_and(|end| !end.ended && !end.closed && self.lives(end))
    }

    /// Both ends are there, and reach each other under the names that they know.
    fn is_whole(&self, talk: usize) -> bool {
        let kept = |(c, alias): (usize, u32)| self.clients[c].aliases == alias;
        self.talks[talk].ready
            && self.talks[talk].alias.is_none_or(kept)
            && self.is_open(talk, 0)
            && self.is_open(talk, 1)
    }

    fn lives(&self, end: &End) -> bool {
        let client = &self.clients[end.client];
        client.life == end.life && !client.dead
    }

    fn break_link(&mut self, link: usize) {
        self.tell(|| format!("break link {link}"));
        self.breaks += 1;
        self.world.break_link(link);
    }

    fn undo_within(&mut self, millis: u64, undo: Undo) {
        let at = self.world.now.mono + self.millis(millis);
        self.later.push((at, undo));
    }

    fn kill_node(&mut self) {
        let at = self.roll(self.nodes.len() as u64) as usize;
        let node = self.nodes[at];
        if self.world.processes[node].up {
            self.died(node);
            self.undo_within(8000, Undo::Restart(node));
        }
    }

    fn kill_client(&mut self) {
        let Some(client) = self.any_client() else { return };
        let process = self.clients[client].process;
        if !self.nodes.contains(&process) {
            self.died(process);
            self.undo_within(8000, Undo::Rebirth(client));
        }
    }

    /// A process dies, and its apps with it.
    fn died(&mut self, process: usize) {
        self.absorb();
        self.tell(|| format!("kill {process}"));
        self.breaks += 1;
        self.world.kill(process);
        for client in self.clients.iter_mut().filter(|client| client.process == process) {
            client.dead = true;
            client.life += 1;
            client.connection = None;
        }
        if let Some(at) = self.nodes.iter().position(|node| *node == process) {
            if let Some(uplink) = self.uplinks.get_mut(at) {
                *uplink = Default::default();
            }
        }
        self.calls.retain(|call| call.process != process);
    }

    /// A client starts again, under the same name.
    fn rebirth(&mut self, client: usize) {
        let Client { process, node, .. } = self.clients[client];
        if node.is_some() && !self.world.processes[process].up {
            self.world.restart(process);
        }
        self.new_app(client);
    }

    fn new_app(&mut self, client: usize) {
        let Client { process, ref name, .. } = self.clients[client];
        let name = name.clone();
        let app = self.world.app(process, &name);
        let full = self.world.name(process, app);
        self.drop_alias(client);
        let client_state = &mut self.clients[client];
        client_state.app = app;
        client_state.full = full;
        client_state.dead = false;
        match client_state.connection {
            Some(_) => self.subscribe(client, &name),
            // It subscribes when the connection is there.
            None if self.calls.iter().any(|call| call.what == What::Connect(client)) => {}
            None => self.connect(client),
        }
    }

    /// An app is closed, and another one of the same name takes its place in its process.
    fn replace_app(&mut self) {
        let Some(client) = self.any_client() else { return };
        self.absorb();
        self.tell(|| format!("replace the app of client {client}"));
        let Client { process, app, .. } = self.clients[client];
        let now = self.world.now;
        self.world.processes[process].node.remove_app(app, now);
        self.world.settle();
        self.absorb();
        let state = &mut self.clients[client];
        state.life += 1;
        self.new_app(client);
    }

    fn connect(&mut self, client: usize) {
        let Client { process, node, .. } = self.clients[client];
        self.clients[client].connection = None;
        if let Some(node) = node {
            let op = self.world.connect_start(process, self.nodes[node], None);
            // There is no bound: it tries until it can. Rest demands that it could.
            self.call(client, op, What::Connect(client), Duration::MAX);
        }
    }

    /// The connection is closed, and another one made.
    fn reconnect(&mut self) {
        let Some(client) = self.any_client() else { return };
        if let Some(connection) = self.clients[client].connection {
            self.tell(|| format!("reconnect client {client}"));
            self.breaks += 1;
            let now = self.world.now;
            let process = self.clients[client].process;
            self.world.processes[process].node.disconnect(connection, now).unwrap();
            self.world.settle();
            self.drop_alias(client);
            self.connect(client);
        }
    }

    fn subscribe(&mut self, client: usize, name: &str) {
        let Client { process, app, connection, .. } = self.clients[client];
        let Some(connection) = connection else { return };
        let (op, now) = (self.world.op(), self.world.now);
        let name = Name::parse(name).unwrap();
        let node = &mut self.world.processes[process].node;
        node.subscribe(app, &name, connection, op, now).unwrap();
        self.world.settle();
        self.call(client, op, What::Subscribe, limits::SUBSCRIPTION_WAIT);
    }

    fn drop_alias(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.aliases += u32::from(std::mem::take(&mut client.alias));
    }

    fn toggle_alias(&mut self) {
        let Some(client) = self.any_client() else { return };
        let Client { process, app, connection, alias, .. } = self.clients[client];
        let Some(connection) = connection else { return };
        let alias_name = format!("org/alias/app{client}");
        if alias {
            self.drop_alias(client);
        } else {
            self.clients[client].alias = true;
        }
        self.tell(|| format!("alias of client {client}: {}", !alias));
        if !alias {
            return self.subscribe(client, &alias_name);
        }
        let (op, now) = (self.world.op(), self.world.now);
        let name = Name::parse(&alias_name).unwrap();
        let node = &mut self.world.processes[process].node;
        node.unsubscribe(app, &name, connection, op, now).unwrap();
        self.world.settle();
        self.call(client, op, What::Subscribe, limits::SUBSCRIPTION_WAIT);
    }

    /// A node dials the other one, as a link between nodes.
    fn link_nodes(&mut self, at: usize) {
        if let [a, b] = self.nodes[..] {
            let (from, to) = if at == 0 { (a, b) } else { (b, a) };
            self.uplinks[at] = Default::default();
            let op = self.world.dial_start(from, to, r#", "connection_type": "remote""#, None);
            let start = self.world.now.mono;
            let (what, bound) = (What::Uplink(at), Duration::MAX);
            let frozen = self.frozen;
            self.calls.push(Call { process: from, client: None, op, what, start, bound, frozen });
        }
    }

    /// Each node has a route to every name at the other one: what a control plane does.
    fn set_routes(&mut self) {
        for at in 0..self.uplinks.len() {
            let node = self.nodes[at];
            let Some(connection) = self.uplinks[at].0 else { continue };
            if !self.world.processes[node].up {
                continue;
            }
            let there = |c: &&Client| c.node.map_or(c.process, |n| self.nodes[n]) != node;
            let mut wanted = BTreeSet::new();
            for (n, client) in self.clients.iter().enumerate().filter(|(_, c)| there(c) && !c.dead)
            {
                wanted.insert(client.full.clone());
                if client.alias {
                    let alias = Name::parse(&format!("org/alias/app{n}")).unwrap();
                    wanted.insert(alias.with_id(client.full.id()));
                }
            }
            let known = std::mem::replace(&mut self.uplinks[at].1, wanted.clone());
            let core = &mut self.world.processes[node].node;
            for name in wanted.difference(&known) {
                core.set_route(name, connection).unwrap();
            }
            for name in known.difference(&wanted) {
                core.remove_route(name, connection).unwrap();
            }
        }
    }

    fn call(&mut self, client: usize, op: OpId, what: What, bound: Duration) {
        let Client { process, life, .. } = self.clients[client];
        let start = self.world.now.mono;
        let (client, frozen) = (Some((client, life)), self.frozen);
        self.calls.push(Call { process, client, op, what, start, bound, frozen });
    }

    /// Opens a session from anybody to anybody.
    fn open(&mut self) -> Option<usize> {
        let (from, to) = (self.any_client()?, self.any_client()?);
        let target = &self.clients[to];
        let target_alias = target.alias.then_some((to, target.aliases));
        let name = match target.alias {
            true => format!("org/alias/app{to}"),
            false => target.name.clone(),
        };
        if from == to || self.clients[from].name == name && self.roll(2) == 0 {
            return None;
        }
        let interval = Duration::from_millis(100 + self.roll(900));
        let max_retries = self.roll(8) as u32;
        let reliable = (self.roll(4) > 0).then_some(Retry { interval, max_retries });
        let config = SessionConfig { reliable, mls: self.mls, ..SessionConfig::default() };
        let Client { process, app, life, .. } = self.clients[from];
        self.tell(|| {
            format!("client {from} opens talk {} to {to} as {name}: {reliable:?}", self.talks.len())
        });
        let (key, op) = self.world.open_start(process, app, &name, config.clone());
        let id = self.world.id(process, key);
        let talk = self.talks.len();
        // A process that is killed at once has no number of it any more.
        let id = id.unwrap_or(u32::MAX);
        let ends = [Some(End::new(from, life, key)), None];
        let alias = target_alias;
        self.talks.push(Talk { id, config, ends, ready: false, alias });
        let retry = self.talks[talk].retry();
        self.call(from, op, What::Open(talk), 3 * retry.total());
        Some(talk)
    }

    fn close(&mut self, talk: usize, side: usize) {
        // A goodbye without a second try, or its answer, may be lost with a replaced link.
        let sure = self.is_whole(talk) && self.calm.is_some() && self.outlasts_links(talk);
        let Some(end) = &mut self.talks[talk].ends[side] else { return };
        end.closed = true;
        let key = end.key;
        self.tell(|| format!("close talk {talk}.{side} ({key})"));
        let Some(end) = &self.talks[talk].ends[side] else { return };
        let (client, key) = (end.client, end.key);
        let process = self.clients[client].process;
        for _ in 0..1 + self.roll(4) / 3 {
            let op = self.world.close(process, key);
            // The second may find it closed.
            self.call(client, op, What::Close { talk, sure }, limits::CLOSE_GRACE);
        }
    }

    fn publish_some(&mut self, many: usize) {
        let Some((talk, side)) = self.any_end() else { return };
        self.tell(|| format!("publish {many} in talk {talk}.{side}"));
        for _ in 0..many {
            let large = self.roll(50) == 0;
            let len = self.roll(if large { 100_000 } else { 300 }) as usize;
            if !self.publish(talk, side, len) {
                return;
            }
        }
    }

    fn outlasts_links(&self, talk: usize) -> bool {
        self.world.outlasts_links(self.talks[talk].config.reliable)
    }

    /// Publishes one message, if there is room. It begins with talk, side and number.
    fn publish(&mut self, talk: usize, side: usize, len: usize) -> bool {
        let window = match self.talks[talk].config.reliable {
            Some(_) => limits::SENDER_WINDOW,
            None => limits::BEST_EFFORT_MESSAGES,
        };
        let bound = self.talks[talk].retry().total() * 3;
        let must = self.is_whole(talk) && self.calm.is_some() && self.outlasts_links(talk);
        let acked = self.talks[talk].config.reliable.is_some();
        let Some(end) = &mut self.talks[talk].ends[side] else { return false };
        if end.out.0 >= window || end.out.1 >= limits::SESSION_BYTES {
            return false;
        }
        let number = end.published.len();
        // Where nothing is acknowledged, the first that is out of reach may be lost for new keys.
        let in_reach = number < limits::MLS_SKIPPED_MESSAGES as usize;
        let must = must && (self.mls.is_none() || acked || in_reach);
        let mut text = format!("{talk}.{side}.{number}.");
        text.push_str(&"x".repeat(len));
        if self.mls.is_some() {
            text.push_str(IN_CLEAR);
        }
        end.out.0 += 1;
        end.out.1 += text.len();
        end.published.push(Published { must, outcome: None, breaks: self.breaks });
        let (client, key, online) = (end.client, end.key, end.online);
        let process = self.clients[client].process;
        let op = self.world.publish(process, key, &text);
        self.call(client, op, What::Publish { talk, side, number, online }, bound);
        true
    }

    fn set_full(&mut self, talk: usize, side: usize, full: bool) {
        if !self.is_open(talk, side) {
            return;
        }
        let Some(end) = &self.talks[talk].ends[side] else { return };
        self.tell(|| format!("inbox of talk {talk}.{side} full: {full}"));
        let (process, key, now) = (self.clients[end.client].process, end.key, self.world.now);
        self.world.processes[process].node.set_inbox_full(key, full, now);
        self.world.settle();
    }

    // Time, and the end of faults.

    fn advance(&mut self, time: Duration) {
        let end = self.world.now.mono + time;
        loop {
            let next = self.later.iter().map(|(at, _)| *at).min().filter(|at| *at < end);
            let step = next.unwrap_or(end).saturating_duration_since(self.world.now.mono);
            let frozen = self.world.processes.iter().any(|process| process.paused);
            self.frozen += if frozen { step } else { Duration::ZERO };
            self.world.run(step);
            self.absorb();
            let now = self.world.now.mono;
            let (due, later): (Vec<_>, _) =
                std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
            self.later = later;
            for (_, undo) in due {
                self.undo(undo);
            }
            if now >= end {
                return;
            }
        }
    }

    fn undo(&mut self, undo: Undo) {
        self.tell(|| format!("{undo:?}"));
        match undo {
            Undo::Restart(node) if !self.world.processes[node].up => {
                self.world.restart(node);
                let at = self.nodes.iter().position(|n| *n == node).unwrap();
                self.link_nodes(at);
                let here: Vec<usize> = (0..self.clients.len())
                    .filter(|client| self.clients[*client].process == node)
                    .collect();
                for client in here {
                    self.rebirth(client);
                }
            }
            Undo::Rebirth(client) if self.clients[client].dead => self.rebirth(client),
            Undo::Restart(_) | Undo::Rebirth(_) => {}
            Undo::Resume(process) => self.world.processes[process].paused = false,
            Undo::Speak => self.world.silence(None),
            Undo::Room { talk, side } => self.set_full(talk, side, false),
        }
        self.absorb();
    }

    /// The faults stop: everything settles within a minute, and works.
    fn rest(&mut self) {
        let mut thaws = false;
        for (_, undo) in std::mem::take(&mut self.later) {
            thaws |= matches!(undo, Undo::Resume(_));
            self.undo(undo);
        }
        self.world.delay = Duration::from_millis(1 + self.roll(5));
        self.world.jitter = self.millis(5);
        let until = self.world.now.mono + 60 * SECOND;
        if thaws {
            // What stood still has yet to find out which of its links have ended meanwhile.
            self.advance(SECOND / 10);
        }
        while !self.has_settled() {
            assert!(self.world.now.mono < until, "not settled: {:?}", self.all_stats());
            self.advance(SECOND / 10);
        }
        self.tell(|| "calm".to_owned());
        self.calm = Some(self.world.now.mono);
        // Whoever was taken for gone is heard of again.
        self.advance(3 * limits::HEARTBEAT + SECOND);
        self.everything_works();
        self.a_broken_link_costs_nothing();
        let until = self.world.now.mono + 20 * SECOND;
        while self.replaces_links() && self.world.now.mono < until {
            self.advance(SECOND / 100);
        }
        self.check_tables();
    }

    /// Whether a link is there twice, for a moment: an old one and what takes its place.
    fn replaces_links(&self) -> bool {
        let clients = self.clients.iter().filter(|client| client.node.is_some()).count();
        let links = clients + if self.nodes.len() == 2 { 2 } else { 0 };
        let stats = self.all_stats();
        let found = |count: fn(&Stats) -> usize| stats.iter().map(|(_, s)| count(s)).sum::<usize>();
        found(|s| s.transports) != 2 * links
            || found(|s| s.connections) != 2 * links
            || found(|s| s.unacknowledged) > 0
    }

    /// A link breaks under a full window. Messages that are repeated for longer than it takes to
    /// dial again arrive.
    fn a_broken_link_costs_nothing(&mut self) {
        let long = |retry: Retry| retry.interval * retry.max_retries > 2 * SECOND;
        let patient = |talk: &Talk| talk.config.reliable.is_some_and(long);
        let talks: Vec<usize> = (0..self.talks.len())
            .filter(|talk| self.is_whole(*talk) && patient(&self.talks[*talk]))
            .collect();
        let Some(&talk) = talks.get(self.roll(talks.len() as u64) as usize) else { return };
        let side = self.roll(2) as usize;
        while self.publish(talk, side, 10) {}
        let (pause, link) = (self.millis(10), self.roll(1000) as usize);
        self.advance(pause);
        self.break_link(link);
        self.advance(20 * SECOND);
        self.everything_works();
    }

    fn sessions(&self) -> usize {
        self.all_stats().iter().map(|(_, stats)| stats.sessions).sum()
    }

    fn all_stats(&self) -> Vec<(&str, Stats)> {
        let stats = |p: &crate::world::Process| p.node.stats();
        self.world.processes.iter().map(|p| (p.name.as_str(), stats(p))).collect()
    }

    fn has_settled(&self) -> bool {
        let connected = |c: &Client| c.node.is_none() || c.connection.is_some();
        // Routes are set at once after that.
        let linked = self.nodes.len() == 1 || self.uplinks.iter().all(|u| u.0.is_some());
        linked
            && self.clients.iter().all(connected)
            && self.world.processes.iter().all(|process| {
                let stats = process.node.stats();
                stats.up == stats.connections && stats.unacknowledged == 0
            })
    }

    /// Sessions that both ends still have carry messages; new ones can be opened.
    fn everything_works(&mut self) {
        if let Some(talk) = self.open() {
            self.advance(2 * SECOND);
            let ready = self.talks[talk].ready || !self.outlasts_links(talk);
            assert!(ready, "a new session is not ready in two seconds");
        }
        for talk in 0..self.talks.len() {
            if self.is_whole(talk) {
                for side in [0, 1] {
                    assert!(self.publish(talk, side, 10), "talk {talk}: no room after rest");
                }
            }
        }
        self.advance(2 * SECOND);
        for (at, talk) in self.talks.iter().enumerate() {
            for side in [0, 1] {
                self.check_end(at, talk, side);
            }
        }
    }

    /// What must hold for one end when everything is at rest.
    fn check_end(&self, at: usize, talk: &Talk, side: usize) {
        let Some(end) = &talk.ends[side] else { return };
        let other = talk.ends[1 - side].as_ref();
        let both = self.is_whole(at);
        if self.is_open(at, side) && talk.ready {
            let waiting = end.published.iter().filter(|p| p.outcome.is_none()).count();
            let (messages, bytes) = end.out;
            assert!(
                waiting > 0 || (messages, bytes) == (0, 0),
                "talk {at}.{side}: room for {messages} messages, {bytes} bytes never came back"
            );
            if both {
                assert_eq!(waiting, 0, "talk {at}.{side}: calls without an answer");
                assert_eq!(
                    self.epoch(end),
                    self.epoch(talk.ends[1 - side].as_ref().unwrap()),
                    "talk {at}: keys"
                );
                // What is lost with a replaced link may be the last try of a short one.
                let online = end.online || !self.outlasts_links(at);
                assert!(online && end.connected, "talk {at}.{side}: events say otherwise");
            }
        }
        // What its peer was told to have arrived has: unless the application did not want it.
        let Some(other) = other.filter(|other| !other.closed && self.lives(other)) else { return };
        for (number, published) in end.published.iter().enumerate() {
            let arrived = other.received.contains(&number);
            let promised = published.outcome == Some(true) && talk.config.reliable.is_some();
            assert!(arrived || !promised, "talk {at}.{side}.{number}: success, but not delivered");
            assert!(arrived || !published.must, "talk {at}.{side}.{number}: lost in calm");
        }
    }

    /// How often the keys have changed, as one end sees it.
    fn epoch(&self, end: &End) -> Option<u64> {
        let node = &self.world.processes[self.clients[end.client].process].node;
        node.session(end.key).expect("a session").epoch
    }

    /// Tables hold what they must, and no more.
    fn check_tables(&self) {
        let mut expected: BTreeMap<usize, Stats> = BTreeMap::new();
        let mut names: BTreeMap<usize, usize> = BTreeMap::new();
        for client in &self.clients {
            let mine = 1 + usize::from(client.alias);
            *names.entry(client.process).or_default() += mine;
            let here = expected.entry(client.process).or_default();
            let Some(node) = client.node else { continue };
            here.connections += 1;
            here.up += 1;
            here.transports += 1;
            here.subscriptions += mine;
            let node = self.nodes[node];
            *names.entry(node).or_default() += mine;
            let there = expected.entry(node).or_default();
            there.connections += 1;
            there.up += 1;
            there.transports += 1;
        }
        if let [a, b] = self.nodes[..] {
            let all = [a, b].map(|node| names.get(&node).copied().unwrap_or_default());
            for node in [a, b] {
                names.insert(node, all[0] + all[1]);
                let here = expected.entry(node).or_default();
                here.connections += 2;
                here.up += 2;
                here.transports += 2;
            }
        }
        for end in self.talks.iter().flat_map(|talk| talk.ends.iter().flatten()) {
            if !end.ended && self.lives(end) {
                let process = self.clients[end.client].process;
                expected.entry(process).or_default().sessions += 1;
            }
        }
        for (at, process) in self.world.processes.iter().enumerate() {
            let found = Stats { dropped: 0, unreadable: 0, lost: 0, ..process.node.stats() };
            let mut expected = expected.remove(&at).unwrap_or_default();
            expected.names = names.remove(&at).unwrap_or_default();
            // The world sees a session that is being joined only when it is.
            let joining = found.sessions >= expected.sessions;
            expected.sessions = if joining { found.sessions } else { expected.sessions };
            assert_eq!(found, expected, "{}", process.name);
        }
    }

    /// Everything is closed, and nothing is left.
    fn finish(&mut self) {
        for talk in 0..self.talks.len() {
            let side = self.roll(2) as usize;
            for side in [side, 1 - side] {
                if self.is_open(talk, side) {
                    self.close(talk, side);
                    self.advance(SECOND / 10);
                }
            }
        }
        self.advance(limits::CLOSE_GRACE + 11 * SECOND);
        assert!(self.calls.is_empty(), "never answered: {:?}", self.calls[0].what);
        // Whoever was invited by somebody who died waits for the welcome.
        let until = self.world.now.mono + limits::WELCOME_WAIT;
        while self.sessions() > 0 && self.world.now.mono < until {
            self.advance(SECOND);
        }
        assert_eq!(self.sessions(), 0, "sessions that nobody has: {:?}", self.all_stats());
        end(&mut self.world);
    }

    // What programs see.

    fn absorb(&mut self) {
        self.accept();
        for talk in 0..self.talks.len() {
            for side in [0, 1] {
                self.absorb_end(talk, side);
            }
        }
        let calls = std::mem::take(&mut self.calls);
        for call in calls {
            let lives = call.client.is_none_or(|(c, life)| self.clients[c].life == life);
            match self.world.processes[call.process].done.remove(&call.op) {
                Some((at, result)) => self.answered(&call, at, result),
                // Calls on an app that was closed are answered, too; those of the dead are not.
                None => {
                    let waited = self.world.now.mono - call.start;
                    let bound = call.bound.saturating_add(SLACK + self.frozen - call.frozen);
                    assert!(waited <= bound, "{:?} has no answer after {waited:?}", call.what);
                    if lives || !self.clients[call.client.unwrap().0].dead {
                        self.calls.push(call);
                    }
                }
            }
        }
        self.set_routes();
    }

    fn accept(&mut self) {
        for at in 0..self.world.processes.len() {
            while let Some((key, fields)) = self.world.processes[at].accepted.pop_front() {
                let talk = self.talks.iter().position(|talk| talk.id == fields.id);
                let talk = talk.expect("a session that nobody opened");
                let is = |c: &Client| c.process == at && c.app == key.app;
                let client = self.clients.iter().position(is).expect("an app");
                let end = End::new(client, self.clients[client].life, key);
                let before = self.talks[talk].ends[1].replace(end);
                assert!(before.is_none(), "talk {talk} was accepted twice");
                let now = self.world.now;
                self.world.processes[at].node.set_events(key, true, now);
            }
        }
    }

    fn absorb_end(&mut self, at: usize, side: usize) {
        let Some(end) = self.talks[at].ends[side].as_ref().filter(|end| self.lives(end)) else {
            return;
        };
        let (key, process) = (end.key, self.clients[end.client].process);
        let process = &mut self.world.processes[process];
        let messages = process.messages.remove(&key).unwrap_or_default();
        let events = process.events.remove(&key).unwrap_or_default();
        let credit = process.credit.remove(&key).unwrap_or_default();
        let ended = process.ended.contains_key(&key);
        let reliable = self.talks[at].config.reliable.is_some();
        let stale = self.stale;
        let other = self.talks[at].ends[1 - side].iter().flat_map(|end| &end.published);
        let theirs: Vec<u32> = match messages.is_empty() {
            true => Vec::new(),
            false => other.map(|published| published.breaks).collect(),
        };
        let Some(end) = &mut self.talks[at].ends[side] else { return };
        for text in messages {
            let parts: Vec<usize> = text.split('.').take(3).map(|n| n.parse().unwrap()).collect();
            let [talk, from, number] = parts[..] else { panic!("{text}") };
            assert_eq!((talk, from), (at, 1 - side), "a message in a foreign session");
            // Without acknowledgements, what is still on an old connection may come after what is
            // sent over a new one.
            let last = end.received.last().copied().filter(|last| *last > number);
            let one_way = |last: usize| !stale && theirs[last] == theirs[number];
            let late = last.is_some_and(|last| reliable || one_way(last));
            assert!(!late, "{text:.20}: out of order");
            assert!(end.received.insert(number), "{text:.20}: twice");
        }
        let (mut seen, now) = (Vec::new(), self.world.now.mono);
        for event in events {
            seen.push(format!("{event:?}"));
            let news = match event {
                Event::PeerOffline(_) => {
                    end.unsaid = false;
                    end.went = Some(now);
                    std::mem::replace(&mut end.online, false)
                }
                Event::PeerOnline(_) => {
                    let unsaid = std::mem::take(&mut end.unsaid);
                    !std::mem::replace(&mut end.online, true) || unsaid
                }
                Event::ConnectionLost(_) => std::mem::replace(&mut end.connected, false),
                Event::ConnectionBack(_) => !std::mem::replace(&mut end.connected, true),
                Event::Closed(_) => !end.ended,
                Event::MessageLost { .. } => {
                    end.gave_up = Some(now);
                    true
                }
                Event::PeerLeft(_) | Event::EncryptionLost(_) => true,
            };
            assert!(news, "talk {at}.{side}: twice: {seen:?}");
        }
        end.out.0 = end.out.0.checked_sub(credit.0).expect("room that was never taken");
        end.out.1 = end.out.1.checked_sub(credit.1).expect("room that was never taken");
        end.ended |= ended;
        for event in seen {
            self.tell(|| format!("talk {at}.{side}: {event}"));
        }
    }

    fn answered(&mut self, call: &Call, at: Duration, result: Result<Value, Error>) {
        if !matches!(result, Ok(Value::Nothing)) {
            self.tell(|| format!("{:?}: {result:?} at {at:?}", call.what));
        }
        let took = (self.world.start() + at).saturating_duration_since(call.start);
        let bound = call.bound.saturating_add(SLACK + self.frozen - call.frozen);
        assert!(took <= bound, "{:?} took {took:?}: {result:?}", call.what);
        match call.what {
            What::Connect(client) => {
                if let Ok(Value::Connection(connection)) = result {
                    self.clients[client].connection = Some(connection);
                    let name = self.clients[client].name.clone();
                    self.subscribe(client, &name);
                }
            }
            What::Uplink(at) => {
                if let Ok(Value::Connection(connection)) = result {
                    self.uplinks[at].0 = Some(connection);
                }
            }
            What::Subscribe => {}
            What::Open(talk) => self.talks[talk].ready = result.is_ok(),
            What::Publish { talk, side, number, online } => {
                let retry = self.talks[talk].retry();
                let both = self.is_whole(talk);
                let ended = self.world.start() + at;
                let quiet = self.calm.is_some_and(|calm| calm + retry.interval + SECOND <= ended);
                if let Err(error) = &result {
                    let other = self.talks[talk].ends[1 - side].as_ref();
                    let gave_up = other.and_then(|end| end.gave_up) >= Some(call.start);
                    // Heartbeats are not repeated: one that is lost with a replaced link, and little was
                    // published before, and who is there is taken for gone, long before the last try.
                    let went = self.talks[talk].ends[side].as_ref().and_then(|end| end.went);
                    let unheard = self.world.accept.age.is_some()
                        && went >= Some(call.start)
                        && took < retry.total();
                    let unsure = gave_up || unheard || !self.outlasts_links(talk);
                    let excused = !quiet || !both || !online || unsure;
                    assert!(excused, "talk {talk}.{side}.{number}: {error}, without a reason");
                    let fits = matches!(error, Error::Undelivered(_) | Error::Closed(_));
                    assert!(fits, "{error}");
                }
                let end = self.talks[talk].ends[side].as_mut().expect("who published");
                end.published[number].outcome = Some(result.is_ok());
            }
            What::Close { talk, sure } => {
                let fine = result.is_ok() || matches!(result, Err(Error::Closed(_))) || !sure;
                assert!(fine, "closing talk {talk}: {:?}", result.err());
            }
        }
    }
}

impl Talk {
    /// The retries of its messages, and of its control messages.
    fn retry(&self) -> Retry {
        self.config.reliable.unwrap_or_default()
    }
}

impl End {
    fn new(client: usize, life: u32, key: SessionKey) -> End {
        End {
            client,
            life,
            key,
            ended: false,
            closed: false,
            online: true,
            unsaid: true,
            connected: true,
            gave_up: None,
            went: None,
            published: Vec::new(),
            received: BTreeSet::new(),
            out: (0, 0),
        }
    }
}
