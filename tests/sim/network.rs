//! The network under groups: one routing node or two with a link between them, and hosts with one
//! app or two that use them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use slim::entropy::{Entropy, SeededEntropy};
use slim::limits;
use slim::name::Name;
use slim::node::{Stats, Value};
use slim::router::{ConnectionId, ConnectionKind};
use slim::session::{AppId, Direction, OpId};

use crate::world::{Process, World};

/// A process with apps.
pub struct Host {
    pub process: usize,
    /// Which of the routing nodes it uses; none where its process is one.
    pub node: Option<usize>,
    pub up: bool,
    connection: Option<ConnectionId>,
    dialling: Option<OpId>,
}

/// An app, in all its lives.
pub struct App {
    pub host: usize,
    pub name: String,
    pub direction: Direction,
    /// In this life.
    pub id: AppId,
    pub full: Name,
    pub subject: String,
    /// Counts deaths: what an earlier life began is not expected to end.
    pub life: u32,
    pub up: bool,
}

/// All of them.
pub struct Network {
    pub world: World,
    pub nodes: Vec<usize>,
    pub hosts: Vec<Host>,
    pub apps: Vec<App>,
    /// How the first node reaches the second one.
    uplink: (Option<OpId>, Option<ConnectionId>),
    /// What each node has a route for, over this connection to the other one.
    routes: Vec<(Option<ConnectionId>, BTreeSet<Name>)>,
    /// Subscriptions that have no answer yet, since when, and the time before in which somebody got
    /// none.
    asked: Vec<(usize, OpId, Instant, Duration)>,
    /// Time in which somebody got none.
    pub frozen: Duration,
    /// How many links have been broken.
    pub breaks: u32,
}

/// All sessions are over. Every process ends the connections that it made, and keeps its apps: these hold
/// nothing any more. Then it ends, and nothing is left.
pub fn end(world: &mut World) {
    let now = world.now;
    for Process { node, .. } in &mut world.processes {
        let dialled = node.connections().into_iter().filter(|info| info.endpoint.is_some());
        dialled.for_each(|info| node.disconnect(info.id, now).unwrap());
    }
    all_idle(world, "with its apps");
    let now = world.now;
    world.processes.iter_mut().for_each(|process| process.node.shut_down(now));
    all_idle(world, "after its end");
}

fn all_idle(world: &mut World, what: &str) {
    world.run(Duration::from_secs(10));
    for process in &world.processes {
        let (name, stats) = (&process.name, process.node.stats());
        assert!(process.node.is_idle(), "{name} still holds something {what}: {stats:?}");
    }
}

pub fn roll(dice: &mut SeededEntropy, below: usize) -> usize {
    (dice.next_u64() % below.max(1) as u64) as usize
}

impl Network {
    /// The network that the dice choose.
    pub fn new(seed: u64, dice: &mut SeededEntropy) -> Network {
        Network::in_world(World::new(seed), dice)
    }

    /// The same, of apps with real identities.
    pub fn with_real_identities(seed: u64, dice: &mut SeededEntropy) -> Network {
        Network::in_world(World::new(seed).with_real_identities(), dice)
    }

    fn in_world(world: World, dice: &mut SeededEntropy) -> Network {
        let mut network = Network {
            world,
            nodes: Vec::new(),
            hosts: Vec::new(),
            apps: Vec::new(),
            uplink: (None, None),
            routes: Vec::new(),
            asked: Vec::new(),
            frozen: Duration::ZERO,
            breaks: 0,
        };
        network.world.keep_items = true;
        // Links that grow old are replaced, which is no fault.
        if roll(dice, 3) == 0 {
            let limit = Duration::from_secs(2 + roll(dice, 20) as u64);
            let grace = Duration::from_secs(2 + roll(dice, 5) as u64);
            network.world.accept.age = Some(slim::link::Age { limit, grace });
        }
        for n in 0..1 + roll(dice, 2) {
            let node = network.world.process(&format!("node{n}"));
            network.nodes.push(node);
            network.routes.push(Default::default());
        }
        network.link_nodes();
        let twins = roll(dice, 3) == 0;
        while network.apps.len() < 4 || (network.apps.len() < 6 && roll(dice, 2) == 0) {
            let node = roll(dice, network.nodes.len());
            let shares = roll(dice, 8) == 0;
            let process = match shares {
                true => network.nodes[node],
                false => network.world.process(&format!("host{}", network.hosts.len())),
            };
            let (node, up) = ((!shares).then_some(node), true);
            network.hosts.push(Host { process, node, up, connection: None, dialling: None });
            let host = network.hosts.len() - 1;
            for _ in 0..1 + roll(dice, 4) / 3 {
                let at = network.apps.len();
                let name = match (twins, at) {
                    (true, 0 | 1) => "org/ns/twin".to_owned(),
                    _ => format!("org/ns/app{at}"),
                };
                let all = [Direction::SendOnly, Direction::ReceiveOnly, Direction::Neither];
                let direction = all.get(roll(dice, 20)).copied().unwrap_or_default();
                network.add_app(App {
                    host,
                    name,
                    direction,
                    id: AppId(0),
                    full: Name::parse("org/ns/nobody").unwrap(),
                    subject: String::new(),
                    life: 0,
                    up: false,
                });
            }
            network.dial(host);
        }
        network
    }

    fn add_app(&mut self, app: App) {
        self.apps.push(app);
        self.start_app(self.apps.len() - 1);
    }

    fn process_of(&self, app: usize) -> usize {
        self.hosts[self.apps[app].host].process
    }

    /// The process that an app is in.
    pub fn process(&self, app: usize) -> &Process {
        &self.world.processes[self.process_of(app)]
    }

    /// The same, and the number of its process.
    pub fn process_mut(&mut self, app: usize) -> (usize, &mut Process) {
        let process = self.process_of(app);
        (process, &mut self.world.processes[process])
    }

    /// An app begins another life in its process.
    fn start_app(&mut self, at: usize) {
        let process = self.process_of(at);
        let id = self.world.app(process, &self.apps[at].name.clone());
        let full = self.world.name(process, id);
        let subject = self.world.processes[process].subjects[&id].clone();
        let (direction, now) = (self.apps[at].direction, self.world.now);
        self.world.processes[process].node.set_direction(id, direction, now);
        let app = &mut self.apps[at];
        (app.id, app.full, app.subject, app.up) = (id, full, subject, true);
        self.subscribe(at);
    }

    /// An app asks for its own name, if there is a connection: else when there is.
    fn subscribe(&mut self, at: usize) {
        let App { host, ref full, id, .. } = self.apps[at];
        let Host { process, connection: Some(connection), .. } = self.hosts[host] else { return };
        let (op, now) = (self.world.op(), self.world.now);
        let node = &mut self.world.processes[process].node;
        node.subscribe(id, full, connection, op, now).unwrap();
        self.world.settle();
        self.asked.push((process, op, now.mono, self.frozen));
    }

    fn dial(&mut self, host: usize) {
        let Host { process, node: Some(node), .. } = self.hosts[host] else { return };
        let op = self.world.connect_start(process, self.nodes[node], None);
        self.hosts[host].connection = None;
        self.hosts[host].dialling = Some(op);
    }

    /// The first node dials the second one. The ends of this link are not replaced: who sets routes
    /// would come too late.
    fn link_nodes(&mut self) {
        if let [first, second] = self.nodes[..] {
            self.world.ageless.insert(first);
            let remote = r#", "connection_type": "remote""#;
            self.uplink = (Some(self.world.dial_start(first, second, remote, None)), None);
        }
    }

    /// Takes in what has been answered; nothing may wait longer than it should.
    pub fn absorb(&mut self) {
        for host in 0..self.hosts.len() {
            let Host { process, dialling: Some(op), .. } = self.hosts[host] else { continue };
            let Some((_, result)) = self.world.processes[process].done.remove(&op) else {
                continue;
            };
            self.hosts[host].dialling = None;
            let Ok(Value::Connection(connection)) = result else { continue };
            self.hosts[host].connection = Some(connection);
            for app in 0..self.apps.len() {
                if self.apps[app].host == host && self.apps[app].up {
                    self.subscribe(app);
                }
            }
        }
        if let (Some(op), _) = self.uplink {
            let done = self.world.processes[self.nodes[0]].done.remove(&op);
            if let Some((_, Ok(Value::Connection(connection)))) = done {
                self.uplink = (None, Some(connection));
            }
        }
        let World { processes, now, .. } = &mut self.world;
        let frozen = self.frozen;
        self.asked.retain(|(process, op, start, before)| {
            let bound = limits::SUBSCRIPTION_WAIT + Duration::from_secs(2) + frozen - *before;
            let waits = processes[*process].done.remove(op).is_none();
            assert!(!waits || now.mono - *start <= bound, "a subscription has no answer");
            waits
        });
    }

    /// Each node has a route to every app at the other one, and to the channels: what a control
    /// plane does.
    pub fn set_routes(&mut self, channels: &BTreeSet<Name>) {
        if self.nodes.len() < 2 {
            return;
        }
        for at in 0..2 {
            let node = self.nodes[at];
            let core = &mut self.world.processes[node].node;
            let connection = match at {
                0 => self.uplink.1,
                _ => {
                    let accepted = core.connections().into_iter().filter(|info| {
                        info.kind == Some(ConnectionKind::Remote) && info.endpoint.is_none()
                    });
                    accepted.map(|info| info.id).max()
                }
            };
            let Some(connection) = connection.filter(|_| self.world.processes[node].up) else {
                self.routes[at] = (None, BTreeSet::new());
                continue;
            };
            let mut wanted = channels.clone();
            for app in self.apps.iter().filter(|app| app.up) {
                let host = &self.hosts[app.host];
                if host.node.map_or(host.process, |n| self.nodes[n]) != node {
                    wanted.insert(app.full.clone());
                }
            }
            let (over, known) = &mut self.routes[at];
            if *over != Some(connection) {
                (*over, *known) = (Some(connection), BTreeSet::new());
            }
            let core = &mut self.world.processes[node].node;
            for name in wanted.difference(known) {
                core.set_route(name, connection).unwrap();
            }
            for name in known.difference(&wanted) {
                core.remove_route(name, connection).unwrap();
            }
            *known = wanted;
        }
    }

    /// A process dies, and its apps with it.
    pub fn kill(&mut self, process: usize) {
        self.breaks += 1;
        self.world.kill(process);
        self.asked.retain(|(at, ..)| *at != process);
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            if host.process == process {
                (host.up, host.connection, host.dialling) = (false, None, None);
                for app in self.apps.iter_mut().filter(|app| app.host == at) {
                    app.up = false;
                    app.life += 1;
                }
            }
        }
        if let Some(at) = self.nodes.iter().position(|node| *node == process) {
            self.routes[at] = (None, BTreeSet::new());
            if at == 0 {
                self.uplink = (None, None);
            }
        }
    }

    /// A dead process starts again, with its apps.
    pub fn restart(&mut self, process: usize) {
        if self.world.processes[process].up {
            return;
        }
        self.world.restart(process);
        if self.nodes[0] == process {
            self.link_nodes();
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].process == process {
                self.hosts[host].up = true;
                for app in 0..self.apps.len() {
                    if self.apps[app].host == host {
                        self.start_app(app);
                    }
                }
                self.dial(host);
            }
        }
    }

    /// An app is closed, and another one of the same name takes its place.
    pub fn replace_app(&mut self, at: usize) {
        let (id, now) = (self.apps[at].id, self.world.now);
        self.process_mut(at).1.node.remove_app(id, now);
        self.world.settle();
        self.apps[at].life += 1;
        self.start_app(at);
    }

    /// A host closes its connection and makes another one.
    pub fn reconnect(&mut self, host: usize) {
        let Host { process, connection: Some(connection), .. } = self.hosts[host] else { return };
        self.breaks += 1;
        let now = self.world.now;
        self.world.processes[process].node.disconnect(connection, now).unwrap();
        self.world.settle();
        self.dial(host);
    }

    /// Everything that should be connected is, and everything that was asked for is answered.
    pub fn has_settled(&self) -> bool {
        let connected = |host: &Host| host.node.is_none() || host.connection.is_some();
        let linked = self.nodes.len() == 1 || self.uplink.1.is_some();
        linked
            && self.hosts.iter().all(connected)
            && self.world.processes.iter().all(|process| {
                let stats = process.node.stats();
                stats.up == stats.connections && stats.unacknowledged == 0
            })
    }

    /// Whether a link is there twice, for a moment: an old one and what takes its place.
    pub fn replaces_links(&self) -> bool {
        let hosts = self.hosts.iter().filter(|host| host.node.is_some()).count();
        let ends = 2 * (hosts + self.nodes.len() - 1);
        let stats = self.all_stats();
        let found = |count: fn(&Stats) -> usize| stats.iter().map(|(_, s)| count(s)).sum::<usize>();
        found(|s| s.transports) != ends
            || found(|s| s.connections) != ends
            || found(|s| s.unacknowledged) > 0
    }

    pub fn all_stats(&self) -> Vec<(&str, Stats)> {
        self.world.processes.iter().map(|p| (p.name.as_str(), p.node.stats())).collect()
    }

    /// With no session anywhere, tables hold the names of apps, and routes to them.
    pub fn check_tables(&self) {
        for (at, process) in self.world.processes.iter().enumerate() {
            let (mut names, mut subscriptions) = (0, 0);
            for app in &self.apps {
                let host = &self.hosts[app.host];
                let node = host.node.map(|n| self.nodes[n]);
                names += usize::from(host.process == at || self.nodes.contains(&at));
                subscriptions += usize::from(host.process == at && node.is_some());
            }
            let stats = process.node.stats();
            let found = (stats.sessions, stats.names, stats.subscriptions);
            assert_eq!(found, (0, names, subscriptions), "{}: {stats:?}", process.name);
        }
    }
}
