//! One history of groups: who comes and goes, what members say, what happens to them, and the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use slim::entropy::SeededEntropy;
use slim::error::Error;
use slim::limits;
use slim::name::{channel_ids, Name};
use slim::node::Value;
use slim::session::{
    Direction, Event, Item, Kind, Mls, OpId, Payload, ReceivedMessage, Retry, SessionConfig,
    SessionKey,
};

use crate::history::Outcome;
use crate::network::{end, roll, App, Network};
use crate::world::IN_CLEAR;

const SECOND: Duration = Duration::from_secs(1);
/// Steps of one round of faults, at most.
const STEPS: usize = 30;
/// What a scheduled end of an operation may be late by, when nothing was paused.
const SLACK: Duration = Duration::from_secs(2);

/// A group. Its first seat is the moderator's.
struct Group {
    id: u32,
    config: SessionConfig,
    channels: [Name; 2],
    seats: Vec<Seat>,
    /// Invitations that have no answer yet.
    invited: BTreeMap<OpId, (Name, Instant)>,
    /// Those that were given up, and when: the newcomer may have been let in, and find that out later.
    given_up: Vec<(Name, Instant, Instant)>,
    /// When somebody of such a name was invited last.
    last_invited: Vec<(Name, Instant)>,
    /// The moderator's close succeeded: these were told.
    told: Vec<Name>,
}

/// A session of an app in a group: a new one each time that it comes.
struct Seat {
    app: usize,
    life: u32,
    key: SessionKey,
    me: Name,
    direction: Direction,
    /// The invitation that it came from was sent at this time, or later.
    invited: Instant,
    /// At the latest, if that was one of several.
    invited_last: Instant,
    /// When it was seen to be there.
    accepted: Instant,
    /// Its application closed it.
    closed: bool,
    /// It is over.
    ended: bool,
    /// Its application has gone away for a while.
    away: bool,
    /// That was confirmed at this time, and it has not asked to come back since.
    away_since: Option<Instant>,
    published: Vec<Published>,
    /// What has come from each seat: numbers.
    received: BTreeMap<usize, BTreeSet<usize>>,
    /// What it was told of the others: online or not.
    online: BTreeMap<Name, bool>,
    /// Who left, as it was told, and when this was seen.
    left: Vec<(Instant, Name)>,
    /// Names that began anew since the last look: what was said of them may be of before.
    anew: Vec<Name>,
    /// Seats of those: nothing more may come from them.
    gone: BTreeSet<usize>,
    /// Messages and payload bytes that were published, less the room that came back.
    out: (usize, usize),
}

struct Published {
    /// To one member alone.
    to: Option<Name>,
    /// Who was online, as the sender saw it.
    expected: Vec<Name>,
    start: Instant,
    /// All was well: everybody must get it.
    must: bool,
    outcome: Option<bool>,
    end: Option<Instant>,
    /// How many links had been broken before.
    breaks: u32,
}

/// What a call was for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Invite { target: Name },
    Remove { target: Name },
    Away { seat: usize, away: bool },
    Publish { seat: usize, number: usize },
    Close { seat: usize, members: Vec<Name> },
}

struct Call {
    process: usize,
    group: usize,
    op: OpId,
    what: What,
    /// It must succeed.
    sure: bool,
    start: Instant,
    bound: Duration,
    /// Time in which somebody got none, before it.
    frozen: Duration,
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Restart(usize),
    Resume(usize),
    Speak,
    Room { group: usize, seat: usize },
}

/// One history in progress.
pub struct Groups {
    net: Network,
    dice: SeededEntropy,
    groups: Vec<Group>,
    calls: Vec<Call>,
    later: Vec<(Instant, Undo)>,
    /// A link was silent that may have been ended for its age meanwhile: what was on it may come
    /// after what went another way.
    stale: bool,
    /// A link is silent, or was since it was calm last: what is on it comes when it speaks.
    silent: bool,
    calm: Option<Instant>,
    steps: u64,
    /// How groups are encrypted.
    mls: Option<Mls>,
    /// A replay tells what happens.
    telling: bool,
}

impl Groups {
    /// The network that a seed chooses.
    pub fn new(seed: u64) -> Groups {
        let mut dice = SeededEntropy::new(seed ^ 0x6a0b);
        let net = Network::new(seed, &mut dice);
        Groups::in_network(net, dice)
    }

    /// A network whose groups are encrypted.
    pub fn encrypted(seed: u64) -> Groups {
        let mut dice = SeededEntropy::new(seed ^ 0x315);
        let mut net = Network::with_real_identities(seed, &mut dice);
        net.world.secret = Some(IN_CLEAR);
        Groups { mls: Some(Mls::default()), ..Groups::in_network(net, dice) }
    }

    fn in_network(net: Network, dice: SeededEntropy) -> Groups {
        Groups {
            net,
            dice,
            groups: Vec::new(),
            calls: Vec::new(),
            later: Vec::new(),
            stale: false,
            silent: false,
            calm: None,
            steps: 0,
            mls: None,
            telling: std::env::var_os("SLIM_SIM_SEED").is_some(),
        }
    }

    /// Runs it to its end. A promise that does not hold panics.
    pub fn run(mut self) -> Outcome {
        for (at, app) in self.net.apps.iter().enumerate() {
            let host = &self.net.hosts[app.host];
            let (process, node) = (host.process, host.node);
            self.tell(|| format!("app {at} is {} in process {process} at node {node:?}", app.full));
        }
        self.rest();
        self.begin();
        for _ in 0..3 {
            self.calm = None;
            for _ in 0..5 + self.roll(STEPS) {
                self.act();
                let pause = self.millis(120);
                self.advance(pause);
            }
            self.rest();
        }
        self.finish();
        Outcome { steps: self.steps, digest: self.net.world.digest }
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        if self.telling {
            eprintln!("{:>9.3} {}", self.net.world.time().as_secs_f64(), text());
        }
    }

    fn roll(&mut self, below: usize) -> usize {
        roll(&mut self.dice, below)
    }

    fn millis(&mut self, below: usize) -> Duration {
        Duration::from_millis(self.roll(below) as u64)
    }

    fn now(&self) -> Instant {
        self.net.world.now.mono
    }

    // What programs do, and what happens to them.

    /// A group, and most of the others in it.
    fn begin(&mut self) {
        let Some(group) = self.open() else { return };
        for app in 0..self.net.apps.len() {
            if self.roll(4) > 0 {
                self.invite(group, app, true);
            }
        }
        self.advance(3 * SECOND);
    }

    fn act(&mut self) {
        self.steps += 1;
        match self.roll(100) {
            0..=34 => {
                let many = 1 + self.roll(10);
                self.publish_some(many, false);
            }
            35 => self.publish_some(2 * limits::SENDER_WINDOW, false),
            36..=39 => self.publish_some(3, true),
            40..=51 => {
                let (group, app) = (self.any_group(), self.roll(self.net.apps.len()));
                if let Some(group) = group {
                    let exact = self.roll(2) == 0;
                    self.invite(group, app, exact);
                }
            }
            52..=56 => self.remove_any(),
            57..=59 => {
                if let Some((group, seat)) = self.any_seat() {
                    // Moderators end theirs more seldom.
                    if seat > 0 || self.roll(4) == 0 {
                        self.close(group, seat, false);
                    }
                }
            }
            60..=63 => {
                if let Some((group, seat)) = self.any_seat() {
                    let away = !self.groups[group].seats[seat].away;
                    self.set_away(group, seat, away, false);
                }
            }
            64..=65 => drop(self.open()),
            66..=70 => {
                let time = self.millis(3000);
                self.advance(time);
            }
            71..=74 => {
                let time = self.millis(30_000);
                self.advance(time);
            }
            75..=79 => self.break_link(),
            80..=81 => {
                let process = self.any_process();
                self.tell(|| format!("cut {process}"));
                self.net.breaks += 1;
                self.net.world.cut(process);
            }
            82..=83 => {
                let at = self.roll(self.net.nodes.len());
                let node = self.net.nodes[at];
                self.kill(node);
            }
            84..=86 => {
                let host = self.roll(self.net.hosts.len());
                let process = self.net.hosts[host].process;
                if !self.net.nodes.contains(&process) {
                    self.kill(process);
                }
            }
            87..=88 => {
                let process = self.any_process();
                self.tell(|| format!("pause {process}"));
                self.net.world.processes[process].paused = true;
                self.undo_within(20_000, Undo::Resume(process));
            }
            89..=90 => {
                let link = self.roll(1000);
                self.tell(|| format!("silence {link}"));
                self.net.world.silence(Some(link));
                self.stale |= self.net.world.accept.age.is_some() || self.net.nodes.len() > 1;
                self.silent = true;
                self.undo_within(40_000, Undo::Speak);
            }
            91..=92 => {
                if let Some((group, seat)) = self.any_seat() {
                    self.set_full(group, seat, true);
                    self.undo_within(5000, Undo::Room { group, seat });
                }
            }
            93..=94 => {
                self.net.world.delay = self.millis(200);
                self.net.world.jitter = self.millis(200);
                let (delay, jitter) = (self.net.world.delay, self.net.world.jitter);
                self.tell(|| format!("delay {delay:?} {jitter:?}"));
            }
            95 => {
                let app = self.roll(self.net.apps.len());
                if self.net.apps[app].up {
                    self.absorb();
                    self.tell(|| format!("replace app {app}"));
                    self.net.replace_app(app);
                }
            }
            96 => {
                let host = self.roll(self.net.hosts.len());
                if self.net.hosts[host].up {
                    self.tell(|| format!("reconnect host {host}"));
                    self.net.reconnect(host);
                }
            }
            97..=98 => self.cancel_any(),
            _ => {
                let jump = Duration::from_secs(self.roll(7200) as u64);
                let unix = self.net.world.now.unix;
                // Tokens from the future are refused; those of an hour ago are only renewed.
                let back = self.roll(2) == 0 && self.mls.is_none();
                self.net.world.now.unix = if back { unix - jump } else { unix + jump };
            }
        }
        self.absorb();
    }

    fn any_process(&mut self) -> usize {
        let process = self.roll(self.net.world.processes.len());
        match self.net.world.processes[process].up {
            true => process,
            false => self.net.nodes[0],
        }
    }

    /// A group whose moderator can be asked.
    fn any_group(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.groups.len()).filter(|g| self.is_open(*g, 0)).collect();
        let at = self.roll(open.len());
        open.get(at).copied()
    }

    /// A seat whose application can use it.
    fn any_seat(&mut self) -> Option<(usize, usize)> {
        let all = self.groups.iter().enumerate();
        let open: Vec<(usize, usize)> = all
            .flat_map(|(group, g)| (0..g.seats.len()).map(move |seat| (group, seat)))
            .filter(|(group, seat)| self.is_open(*group, *seat))
            .collect();
        let at = self.roll(open.len());
        open.get(at).copied()
    }

    fn is_open(&self, group: usize, seat: usize) -> bool {
        let seat = &self.groups[group].seats[seat];
        self.lives(seat) && !seat.ended && !seat.closed
    }

    fn lives(&self, seat: &Seat) -> bool {
        let app = &self.net.apps[seat.app];
        app.life == seat.life && app.up
    }

    fn undo_within(&mut self, millis: usize, undo: Undo) {
        let at = self.now() + self.millis(millis);
        self.later.push((at, undo));
    }

    fn break_link(&mut self) {
        let link = self.roll(1000);
        self.tell(|| format!("break link {link}"));
        self.net.breaks += 1;
        self.net.world.break_link(link);
    }

    fn kill(&mut self, process: usize) {
        if self.net.world.processes[process].up {
            self.absorb();
            self.tell(|| format!("kill {process}"));
            self.net.kill(process);
            self.calls.retain(|call| call.process != process);
            self.undo_within(8000, Undo::Restart(process));
        }
    }

    fn open(&mut self) -> Option<usize> {
        let app = self.roll(self.net.apps.len());
        let room = self.roll(2);
        let interval = Duration::from_millis(100 + self.roll(900) as u64);
        let max_retries = self.roll(8) as u32;
        let reliable = (self.roll(4) > 0).then_some(Retry { interval, max_retries });
        if !self.net.apps[app].up {
            return None;
        }
        let direction = self.net.apps[app].direction;
        let config = SessionConfig {
            kind: Kind::Group,
            reliable,
            direction,
            mls: self.mls,
            ..SessionConfig::default()
        };
        let name = format!("org/ns/room{room}");
        let App { id, life, ref full, ref subject, .. } = self.net.apps[app];
        let name_of_group = Name::parse(&name).unwrap();
        let (data, control) = channel_ids(subject, &name_of_group);
        let channels = [data, control].map(|id| name_of_group.with_id(id));
        let me = full.clone();
        let (process, _) = self.net.process_mut(app);
        let (key, op) = self.net.world.open_start(process, id, &name, config.clone());
        assert_eq!(self.net.world.finish(process, op), Ok(Value::Nothing));
        let group = self.groups.len();
        self.tell(|| format!("app {app} opens group {group} as {name}: {reliable:?}"));
        let seat = Seat::new(app, life, key, me, direction, self.now(), self.now());
        self.groups.push(Group {
            id: self.net.world.id(process, key).unwrap(),
            config,
            channels,
            seats: vec![seat],
            invited: BTreeMap::new(),
            given_up: Vec::new(),
            last_invited: Vec::new(),
            told: Vec::new(),
        });
        self.set_routes();
        Some(group)
    }

    /// How long one change of a group may take.
    fn change(&self, group: usize) -> Duration {
        3 * self.groups[group].retry().total() + limits::SUBSCRIPTION_WAIT
    }

    /// How long a change may take when it is asked for now: those before it come first, and what
    /// members have to be told meanwhile.
    fn change_bound(&self, group: usize) -> Duration {
        let change = |call: &&Call| {
            call.group == group && matches!(call.what, What::Invite { .. } | What::Remove { .. })
        };
        let before = self.calls.iter().filter(change).count();
        self.change(group) * (1 + before + 2 * self.groups[group].seats.len()) as u32
    }

    fn call(
        &mut self,
        group: usize,
        seat: usize,
        op: OpId,
        what: What,
        sure: bool,
        bound: Duration,
    ) {
        let (process, _) = self.net.process_mut(self.groups[group].seats[seat].app);
        let start = self.now();
        self.net.world.settle();
        let frozen = self.net.frozen;
        self.calls.push(Call { process, group, op, what, sure, start, bound, frozen });
    }

    /// The moderator invites an app: this very one, or any of its name.
    fn invite(&mut self, group: usize, app: usize, exact: bool) {
        let full = self.net.apps[app].full.clone();
        let target = match exact {
            true => full,
            false => Name::parse(&full.service()).unwrap(),
        };
        self.invite_name(group, target, false);
    }

    fn invite_name(&mut self, group: usize, target: Name, sure: bool) {
        self.tell(|| format!("group {group}: invite {target}"));
        let (op, now) = (self.net.world.op(), self.net.world.now);
        let (bound, what) = (self.change_bound(group), What::Invite { target: target.clone() });
        let (app, key) = (self.groups[group].seats[0].app, self.groups[group].seats[0].key);
        self.groups[group].invited.insert(op, (target.clone(), now.mono));
        self.groups[group].last_invited.push((target.clone(), now.mono));
        self.begins_anew(group, &target);
        self.net.process_mut(app).1.node.invite(key, target, Some(op), now);
        self.call(group, 0, op, what, sure, bound);
    }

    fn remove_any(&mut self) {
        let Some(group) = self.any_group() else { return };
        let view = self.view(group, 0);
        let app = self.roll(self.net.apps.len());
        let target = match (self.roll(8), view.keys().nth(self.roll(view.len()))) {
            (1.., Some(name)) => name.clone(),
            _ => self.net.apps[app].full.clone(),
        };
        let target = match self.roll(2) {
            0 => target,
            _ => Name::parse(&target.service()).unwrap(),
        };
        self.remove(group, target, false);
    }

    fn remove(&mut self, group: usize, target: Name, sure: bool) {
        self.tell(|| format!("group {group}: remove {target}"));
        let (op, now) = (self.net.world.op(), self.net.world.now);
        let (bound, what) = (self.change_bound(group), What::Remove { target: target.clone() });
        let (app, key) = (self.groups[group].seats[0].app, self.groups[group].seats[0].key);
        self.net.process_mut(app).1.node.remove(key, target, Some(op), now);
        self.call(group, 0, op, what, sure, bound);
    }

    /// Nobody waits for an invitation or a removal any more: an invitation is taken back, a removal goes
    /// on, and each has its answer in time.
    fn cancel_any(&mut self) {
        let change = |call: &Call| matches!(call.what, What::Invite { .. } | What::Remove { .. });
        let open: Vec<usize> =
            (0..self.calls.len()).filter(|at| change(&self.calls[*at])).collect();
        let Some(&at) = open.get(self.roll(open.len())) else { return };
        let Call { group, op, ref what, .. } = self.calls[at];
        self.tell(|| format!("group {group}: cancel {what:?}"));
        let now = self.now();
        self.groups[group].give_up(op, now);
        let (app, key) = (self.groups[group].seats[0].app, self.groups[group].seats[0].key);
        let now = self.net.world.now;
        self.net.process_mut(app).1.node.cancel(key, op, now);
        self.net.world.settle();
    }

    fn set_away(&mut self, group: usize, seat: usize, away: bool, sure: bool) {
        self.tell(|| format!("seat {group}.{seat}: away: {away}"));
        self.groups[group].seats[seat].away_since = None;
        let (op, now) = (self.net.world.op(), self.net.world.now);
        let (app, key) = (self.groups[group].seats[seat].app, self.groups[group].seats[seat].key);
        self.net.process_mut(app).1.node.set_away(key, away, Some(op), now);
        let bound = self.groups[group].retry().total();
        self.call(group, seat, op, What::Away { seat, away }, sure, bound);
    }

    fn close(&mut self, group: usize, seat: usize, sure: bool) {
        self.tell(|| format!("close seat {group}.{seat}"));
        let members = match seat {
            0 => self.view(group, 0).into_keys().collect(),
            _ => Vec::new(),
        };
        let state = &mut self.groups[group].seats[seat];
        state.closed = true;
        let (app, key) = (state.app, state.key);
        for _ in 0..1 + self.roll(4) / 3 {
            let (op, now) = (self.net.world.op(), self.net.world.now);
            self.net.process_mut(app).1.node.close_session(key, Some(op), now);
            // The second may find it closed.
            let what = What::Close { seat, members: members.clone() };
            self.call(group, seat, op, what, sure, limits::CLOSE_GRACE);
        }
    }

    fn publish_some(&mut self, many: usize, direct: bool) {
        let Some((group, seat)) = self.any_seat() else { return };
        self.tell(|| format!("seat {group}.{seat}: publish {many}, direct: {direct}"));
        for _ in 0..many {
            let large = self.roll(50) == 0;
            let len = self.roll(if large { 100_000 } else { 300 });
            let view = self.view(group, seat);
            let to = match direct {
                false => None,
                true => match view.keys().nth(self.roll(view.len())) {
                    Some(name) => Some(name.clone()),
                    None => return,
                },
            };
            if !self.publish(group, seat, to, len, false) {
                return;
            }
        }
    }

    /// Publishes one message, if there is room. It begins with group, seat and number.
    fn publish(
        &mut self,
        group: usize,
        seat: usize,
        to: Option<Name>,
        len: usize,
        must: bool,
    ) -> bool {
        let window = match self.groups[group].config.reliable {
            Some(_) => limits::SENDER_WINDOW,
            None => limits::BEST_EFFORT_MESSAGES,
        };
        let bound = self.groups[group].retry().total() * 3;
        let view = self.view(group, seat);
        let coming: Vec<&Name> = match seat {
            // Whom it is inviting a moderator sees before that one is ready.
            0 => self.groups[group].invited.values().map(|(name, _)| name).collect(),
            _ => Vec::new(),
        };
        let ready = |name: &Name| !coming.iter().any(|coming| means(coming, name));
        let expected = match &to {
            Some(name) => vec![name.clone()],
            None => {
                let online = view.iter().filter(|(name, online)| **online && ready(name));
                online.map(|(name, _)| name.clone()).collect()
            }
        };
        let (now, breaks) = (self.net.world.now, self.net.breaks);
        let state = &mut self.groups[group].seats[seat];
        if state.out.0 >= window || state.out.1 >= limits::SESSION_BYTES {
            return false;
        }
        let number = state.published.len();
        let mut text = format!("{group}.{seat}.{number}.");
        text.push_str(&"x".repeat(len));
        if self.mls.is_some() {
            text.push_str(IN_CLEAR);
        }
        state.out.0 += 1;
        state.out.1 += text.len();
        let (start, outcome, end) = (now.mono, None, None);
        let to_one = to.clone();
        state.published.push(Published { to, expected, start, must, outcome, end, breaks });
        let (app, key) = (state.app, state.key);
        let payload = Payload::new(text.into_bytes(), "", BTreeMap::new());
        let op = self.net.world.op();
        let node = &mut self.net.process_mut(app).1.node;
        match to_one {
            Some(name) => node.publish_to(key, &name, payload, Some(op), now),
            None => node.publish(key, payload, Some(op), now),
        }
        self.call(group, seat, op, What::Publish { seat, number }, must, bound);
        true
    }

    fn set_full(&mut self, group: usize, seat: usize, full: bool) {
        if !self.is_open(group, seat) {
            return;
        }
        self.tell(|| format!("inbox of seat {group}.{seat} full: {full}"));
        let (app, key) = (self.groups[group].seats[seat].app, self.groups[group].seats[seat].key);
        let now = self.net.world.now;
        self.net.process_mut(app).1.node.set_inbox_full(key, full, now);
        self.net.world.settle();
    }

    /// Who else is in a group, as a seat sees it, and who of them is online.
    fn view(&self, group: usize, seat: usize) -> BTreeMap<Name, bool> {
        let seat = &self.groups[group].seats[seat];
        let found = self.net.process(seat.app).node.participants(seat.key);
        found.unwrap_or_default().into_iter().collect()
    }

    // Time, and the end of faults.

    fn advance(&mut self, time: Duration) {
        let end = self.now() + time;
        // Who sets routes sees at once that a link is new, as long as links break.
        let breaks = self.net.nodes.len() == 2 && self.calm.is_none();
        let most = if breaks { SECOND / 10 } else { time };
        loop {
            let next = self.later.iter().map(|(at, _)| *at).min().filter(|at| *at < end);
            let step = next.unwrap_or(end).saturating_duration_since(self.now()).min(most);
            let frozen = self.net.world.processes.iter().any(|process| process.paused);
            self.net.frozen += if frozen { step } else { Duration::ZERO };
            self.net.world.run(step);
            self.absorb();
            let now = self.now();
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
            Undo::Restart(process) => self.net.restart(process),
            Undo::Resume(process) => self.net.world.processes[process].paused = false,
            Undo::Speak => self.net.world.silence(None),
            Undo::Room { group, seat } => self.set_full(group, seat, false),
        }
        self.absorb();
    }

    /// The faults stop: everything settles within a minute, and works.
    fn rest(&mut self) {
        for (_, undo) in std::mem::take(&mut self.later) {
            self.undo(undo);
        }
        self.net.world.delay = Duration::from_millis(1 + self.roll(5) as u64);
        self.net.world.jitter = self.millis(5);
        let until = self.now() + 60 * SECOND;
        while !self.net.has_settled() {
            assert!(self.now() < until, "not settled: {:?}", self.net.all_stats());
            self.advance(SECOND / 10);
        }
        self.tell(|| "calm".to_owned());
        self.calm = Some(self.now());
        for group in 0..self.groups.len() {
            for seat in 0..self.groups[group].seats.len() {
                if self.groups[group].seats[seat].away
                    && self.roll(3) > 0
                    && self.is_open(group, seat)
                {
                    self.set_away(group, seat, false, false);
                }
            }
        }
        // What was begun comes to its end; whoever was taken for gone is heard of again.
        while !self.calls.is_empty() {
            self.advance(SECOND);
        }
        // Whoever hears last of a member that is dead, when it is found itself, misses it last.
        self.advance(4 * limits::HEARTBEAT + 2 * SECOND);
        if self.mls.is_some() {
            // Whoever asked for keys in vain asks again.
            self.advance(limits::MLS_REJOIN_PAUSE + 2 * limits::HEARTBEAT);
        }
        self.silent = false;
        self.everything_agrees();
        self.everybody_talks();
        self.membership_works();
        self.everything_agrees();
    }

    fn outlasts_links(&self, group: usize) -> bool {
        self.net.world.outlasts_links(self.groups[group].config.reliable)
    }

    /// Everybody who is in a group with its moderator.
    fn members(&self, group: usize) -> Vec<usize> {
        if !self.is_open(group, 0) {
            return Vec::new();
        }
        let view = self.view(group, 0);
        let g = &self.groups[group];
        let there = |seat: &usize| {
            *seat == 0 || (self.is_open(group, *seat) && view.contains_key(&g.seats[*seat].me))
        };
        (0..g.seats.len()).filter(there).collect()
    }

    /// Members agree about who is in, and who of them is there; whoever is out knows it.
    fn everything_agrees(&self) {
        for (at, group) in self.groups.iter().enumerate() {
            for (n, seat) in group.seats.iter().enumerate() {
                if self.is_open(at, n) {
                    assert!(!group.told.contains(&seat.me), "seat {at}.{n} was told of the end");
                    let waiting = seat.published.iter().filter(|p| p.outcome.is_none()).count();
                    assert_eq!(waiting, 0, "seat {at}.{n}: calls without an answer");
                    assert_eq!(seat.out, (0, 0), "seat {at}.{n}: room never came back");
                }
            }
            if !self.is_open(at, 0) {
                continue;
            }
            let members = self.members(at);
            let there = |name: &Name| {
                let seat = members.iter().find(|n| group.seats[**n].me == *name);
                seat.is_some_and(|n| !group.seats[*n].away)
            };
            let moderator = &group.seats[0];
            let names = self.view(at, 0).into_keys().chain([moderator.me.clone()]);
            let truth: BTreeMap<Name, bool> = names.map(|n| (n.clone(), there(&n))).collect();
            for (n, seat) in group.seats.iter().enumerate().filter(|(n, _)| self.is_open(at, *n)) {
                // Who is away says nothing by which it could be found, and hears nobody who is to be
                // told: that happens when it is back.
                if seat.away || moderator.away {
                    continue;
                }
                assert!(members.contains(&n), "seat {at}.{n} is out and does not know");
                let epoch = |seat: &Seat| {
                    self.net.process(seat.app).node.session(seat.key).and_then(|it| it.epoch)
                };
                assert_eq!(epoch(seat), epoch(moderator), "keys of seat {at}.{n}");
                let mut view = self.view(at, n);
                view.insert(seat.me.clone(), true);
                for (name, online) in &mut view {
                    // Heartbeats that are lost with replaced links may be three of one member.
                    *online |= self.net.world.accept.age.is_some() && there(name);
                }
                assert_eq!(view, truth, "as seat {at}.{n} sees it");
            }
        }
    }

    /// Where nothing is acknowledged nobody knows of a member that it has missed too much of one
    /// sender to read more of it. It finds out with the next message, which it loses, and gets new keys.
    fn find_lost_keys(&mut self) {
        let mut found = false;
        for group in 0..self.groups.len() {
            let config = &self.groups[group].config;
            if config.mls.is_none() || config.reliable.is_some() {
                continue;
            }
            for seat in self.members(group) {
                let state = &self.groups[group].seats[seat];
                let many = state.published.len() >= limits::MLS_UNHEARD_MESSAGES as usize;
                if many && state.direction.sends() && !state.away {
                    found |= self.publish(group, seat, None, 10, false);
                }
            }
        }
        if found {
            self.advance(limits::MLS_REJOIN_PAUSE + 2 * SECOND);
        }
    }

    /// Everybody publishes, to all and to one, and everybody gets it.
    fn everybody_talks(&mut self) {
        self.find_lost_keys();
        for group in 0..self.groups.len() {
            for seat in self.members(group) {
                let state = &self.groups[group].seats[seat];
                if state.away || !state.direction.sends() {
                    continue;
                }
                let able = |seat: &&Seat| seat.direction.receives() && !seat.away;
                let others = self.members(group).into_iter().filter(|n| *n != seat);
                let takers: Vec<Name> = others
                    .map(|n| &self.groups[group].seats[n])
                    .filter(able)
                    .map(|seat| seat.me.clone())
                    .collect();
                if takers.is_empty() {
                    continue;
                }
                // Whoever has just come back may not know yet who of the others is there.
                let g = &self.groups[group];
                let present =
                    self.members(group).into_iter().filter(|n| *n != seat && !g.seats[*n].away);
                let present: BTreeSet<Name> = present.map(|n| g.seats[n].me.clone()).collect();
                let view = self.view(group, seat).into_iter().filter(|(_, online)| *online);
                let known = present == view.map(|(name, _)| name).collect();
                let must = known && self.outlasts_links(group);
                let to = takers[self.roll(takers.len())].clone();
                assert!(self.publish(group, seat, None, 10, must), "no room after rest");
                assert!(self.publish(group, seat, Some(to), 10, must), "no room after rest");
            }
        }
        self.advance(2 * SECOND);
        for (at, group) in self.groups.iter().enumerate() {
            let reliable = group.config.reliable.is_some();
            for (n, seat) in group.seats.iter().enumerate() {
                for (number, published) in seat.published.iter().enumerate() {
                    let success = published.outcome == Some(true) && reliable;
                    if published.must || success {
                        let missing = self.missing(at, n, published, number);
                        assert!(missing.is_empty(), "{at}.{n}.{number} is missing at {missing:?}");
                    }
                }
            }
        }
    }

    /// Somebody comes, goes, or goes away for a while, and it works.
    fn membership_works(&mut self) {
        let Some(group) = self.any_group() else { return };
        let sure = self.outlasts_links(group);
        let members = self.members(group);
        let present: Vec<usize> =
            members.iter().copied().filter(|n| !self.groups[group].seats[*n].away).collect();
        let away = self.groups[group].seats[0].away;
        let someone = present[1.min(present.len())..].to_vec();
        let someone = someone.get(self.roll(someone.len())).copied();
        match self.roll(5) {
            _ if away => self.set_away(group, 0, false, sure),
            0 | 1 => {
                let roster = self.view(group, 0);
                let app = self.roll(self.net.apps.len());
                let full = self.net.apps[app].full.clone();
                let alike = |other: &Name| other.components() == full.components();
                if !roster.keys().any(alike) && !alike(&self.groups[group].seats[0].me) {
                    let name = if self.roll(2) == 0 {
                        full.clone()
                    } else {
                        Name::parse(&full.service()).unwrap()
                    };
                    // A message of a published moderator to any of a name may go to somebody dead.
                    self.invite_name(group, name, sure);
                }
            }
            2 => {
                if let Some(seat) = someone {
                    let name = self.groups[group].seats[seat].me.clone();
                    self.remove(group, name, sure);
                }
            }
            3 => {
                if let Some(seat) = someone {
                    self.close(group, seat, sure);
                }
            }
            _ => {
                if let Some(seat) = someone {
                    self.set_away(group, seat, true, sure);
                }
            }
        }
        while !self.calls.is_empty() {
            self.advance(SECOND);
        }
        self.advance(SECOND);
        self.everybody_talks();
        // Whoever is back has to hear of the others, or to miss them.
        self.advance(3 * limits::HEARTBEAT);
    }

    /// Everything is closed, and nothing is left.
    fn finish(&mut self) {
        for group in 0..self.groups.len() {
            for seat in 0..self.groups[group].seats.len() {
                if self.roll(3) > 0 && self.is_open(group, seat) {
                    let sure = seat == 0 && self.outlasts_links(group) && {
                        let members = self.members(group);
                        self.view(group, 0).len() + 1 == members.len()
                    };
                    self.close(group, seat, sure);
                    self.advance(SECOND / 10);
                }
            }
        }
        for group in 0..self.groups.len() {
            for seat in (0..self.groups[group].seats.len()).rev() {
                if self.is_open(group, seat) {
                    self.close(group, seat, false);
                }
            }
        }
        self.advance(limits::CLOSE_GRACE + 11 * SECOND);
        assert!(self.calls.is_empty(), "never answered: {:?}", self.calls[0].what);
        for (at, group) in self.groups.iter().enumerate() {
            for (n, seat) in group.seats.iter().enumerate().filter(|(_, seat)| self.lives(seat)) {
                assert!(seat.ended, "seat {at}.{n} is still there");
            }
        }
        let until = self.now() + 20 * SECOND;
        while self.net.replaces_links() && self.now() < until {
            self.advance(SECOND / 100);
        }
        self.net.check_tables();
        end(&mut self.net.world);
    }

    // What programs see.

    fn absorb(&mut self) {
        self.net.absorb();
        self.accept();
        for group in 0..self.groups.len() {
            for seat in 0..self.groups[group].seats.len() {
                self.absorb_seat(group, seat);
            }
        }
        for call in std::mem::take(&mut self.calls) {
            match self.net.world.processes[call.process].done.remove(&call.op) {
                Some((at, result)) => self.answered(&call, at, result),
                None => {
                    let waited = self.now() - call.start;
                    let bound = call.bound + SLACK + self.net.frozen - call.frozen;
                    assert!(waited <= bound, "{:?} has no answer after {waited:?}", call.what);
                    self.calls.push(call);
                }
            }
        }
        self.set_routes();
    }

    /// The channels of groups that somebody is in have routes.
    fn set_routes(&mut self) {
        let there = |seat: &Seat| self.lives(seat) && !seat.ended;
        let used = self.groups.iter().filter(|group| group.seats.iter().any(there));
        let channels = used.flat_map(|group| group.channels.iter().cloned()).collect();
        self.net.set_routes(&channels);
    }

    fn accept(&mut self) {
        for at in 0..self.net.world.processes.len() {
            while let Some((key, fields)) = self.net.world.processes[at].accepted.pop_front() {
                let group = self.groups.iter().position(|group| group.id == fields.id);
                let group = group.expect("a session that nobody opened");
                let is = |app: &App| self.net.hosts[app.host].process == at && app.id == key.app;
                let app = self.net.apps.iter().position(is).expect("an app");
                let App { life, ref full, direction, .. } = self.net.apps[app];
                assert_eq!(fields.source, *full);
                let g = &self.groups[group];
                for seat in g.seats.iter().filter(|seat| seat.me == *full && self.lives(seat)) {
                    let ended = self.net.world.processes[at].ended.contains_key(&seat.key);
                    assert!(seat.ended || ended, "{full} is in group {group} twice");
                }
                let open = g.invited.values().filter(|(name, _)| means(name, full));
                let late = |over: &Instant| *over + self.change(group) >= self.now();
                let given_up =
                    g.given_up.iter().filter(|(name, _, over)| means(name, full) && late(over));
                let last = g.last_invited.iter().rfind(|(name, _)| means(name, full));
                let open =
                    open.map(|(_, start)| *start).chain(given_up.map(|(_, start, _)| *start));
                let invited = open.min().or(last.map(|(_, at)| *at));
                let invited = invited.expect("somebody whom nobody invited");
                let invited_last = last.map_or(invited, |(_, at)| *at);
                self.tell(|| format!("app {app} is seat {group}.{}", g.seats.len()));
                let full = full.clone();
                self.begins_anew(group, &full);
                let seat = Seat::new(app, life, key, full, direction, invited, self.now());
                let seat = Seat { invited_last, ..seat };
                self.groups[group].seats.push(seat);
                let now = self.net.world.now;
                self.net.world.processes[at].node.set_events(key, true, now);
            }
        }
    }

    /// A moderator is not told when it removes somebody, or when an invitation fails: whoever is
    /// invited again may be said to be offline again.
    fn begins_anew(&mut self, group: usize, name: &Name) {
        let moderator = &mut self.groups[group].seats[0];
        moderator.anew.push(name.clone());
        moderator.online.retain(|known, _| !means(name, known));
    }

    fn absorb_seat(&mut self, group: usize, at: usize) {
        let seat = &self.groups[group].seats[at];
        if !self.lives(seat) {
            return;
        }
        let (app, key) = (seat.app, seat.key);
        let (_, process) = self.net.process_mut(app);
        let items = process.items.remove(&key).unwrap_or_default();
        let credit = process.credit.remove(&key).unwrap_or_default();
        let ended = process.ended.remove(&key);
        for item in items {
            match item {
                Item::Message(message) => self.received(group, at, &message),
                Item::Event(event) => {
                    self.tell(|| format!("seat {group}.{at}: {event:?}"));
                    self.happened(group, at, event);
                }
            }
        }
        let seat = &mut self.groups[group].seats[at];
        for name in std::mem::take(&mut seat.anew) {
            seat.online.retain(|known, _| !means(&name, known));
        }
        seat.out.0 = seat.out.0.checked_sub(credit.0).expect("room that was never taken");
        seat.out.1 = seat.out.1.checked_sub(credit.1).expect("room that was never taken");
        if let Some(reason) = ended {
            seat.ended = true;
            self.tell(|| format!("seat {group}.{at} is over: {reason}"));
        }
    }

    fn received(&mut self, group: usize, at: usize, message: &ReceivedMessage) {
        let text = String::from_utf8_lossy(&message.payload);
        let parts: Vec<usize> = text.split('.').take(3).map(|n| n.parse().unwrap()).collect();
        let [g, from, number] = parts[..] else { panic!("{text}") };
        let text = format!("{g}.{from}.{number} at seat {group}.{at}");
        assert_eq!(g, group, "{text}: a message in a foreign session");
        assert_ne!(from, at, "{text}: one's own message");
        let all = &self.groups[group];
        let (sender, seat) = (&all.seats[from], &all.seats[at]);
        assert_eq!(message.source, sender.me, "{text}");
        assert!(seat.direction.receives(), "{text}: it wants nothing");
        let published = &sender.published[number];
        let proved = if self.mls.is_some() { &self.net.apps[sender.app].subject } else { "" };
        // A later life of the app has another identity.
        assert!(message.identity == proved || !self.lives(sender), "{text}: {}", message.identity);
        assert_eq!(message.is_reply, published.to.is_some(), "{text}");
        assert!(published.to.as_ref().is_none_or(|to| *to == seat.me), "{text}: not for this one");
        // Everybody in the group had acknowledged it, and then this one was invited.
        let reliable = all.config.reliable.is_some();
        // What is still on one of two ways between the nodes comes a little later.
        let had = published.end.is_some_and(|end| end + SECOND / 10 < seat.invited);
        let over = published.outcome == Some(true) && had;
        assert!(!over || !reliable || self.silent, "{text}: older than its membership");
        let calm = self.calm.is_some_and(|calm| calm <= published.start);
        let old = calm && published.start + SECOND < seat.invited;
        assert!(!old, "{text}: older than its membership");
        assert!(!seat.gone.contains(&from), "{text}: from somebody who had left");
        let away = seat.away_since.is_some_and(|since| since < published.start);
        assert!(!away, "{text}: published while this one was away");
        let before = seat.received.get(&from);
        let twice = before.is_some_and(|seen| seen.contains(&number));
        assert!(!twice, "{text}: twice");
        // Without acknowledgements, what is still on an old connection may come after what is sent
        // over a new one.
        let to_all = |n: &&usize| sender.published[**n].to.is_none();
        let last = before.and_then(|seen| seen.iter().rfind(to_all)).copied();
        let one_way =
            |last: usize| !self.stale && sender.published[last].breaks == published.breaks;
        let late = last.is_some_and(|last| last > number && (reliable || one_way(last)));
        assert!(!late || published.to.is_some(), "{text}: out of order, after {last:?}");
        let seat = &mut self.groups[group].seats[at];
        seat.received.entry(from).or_default().insert(number);
    }

    fn happened(&mut self, group: usize, at: usize, event: Event) {
        let now = self.now();
        let all = &mut self.groups[group];
        let gone: Vec<usize> = match &event {
            Event::PeerLeft(name) => {
                // Late news may be of an earlier life of somebody who is here again.
                let over = |seat: &Seat| seat.ended || seat.closed;
                let known = all.seats[at].received.keys();
                let its = |from: &usize| all.seats[*from].me == *name && over(&all.seats[*from]);
                known.copied().filter(its).collect()
            }
            _ => Vec::new(),
        };
        let seat = &mut all.seats[at];
        match event {
            Event::PeerOffline(name) => {
                let before = seat.online.insert(name, false);
                assert_ne!(before, Some(false), "seat {group}.{at}: offline twice");
            }
            Event::PeerOnline(name) => {
                let before = seat.online.insert(name, true);
                assert_ne!(before, Some(true), "seat {group}.{at}: online twice");
            }
            Event::PeerLeft(name) => {
                seat.online.remove(&name);
                seat.left.push((now, name));
                seat.gone.extend(gone);
            }
            Event::ConnectionLost(_)
            | Event::ConnectionBack(_)
            | Event::MessageLost { .. }
            | Event::EncryptionLost(_)
            | Event::Closed(_) => {}
        }
    }

    /// Those who should have a message and have not, without a reason.
    fn missing(&self, group: usize, at: usize, published: &Published, number: usize) -> Vec<Name> {
        let all = &self.groups[group];
        let sender = &all.seats[at];
        let view = self.view(group, at);
        // The invitation may have waited behind the removal.
        let new = |seat: &Seat| seat.accepted >= published.start;
        let old = |seat: &Seat| seat.accepted < published.start && seat.ended;
        let missing = |name: &&Name| {
            let mut seats = all.seats.iter().filter(|seat| seat.me == **name);
            // Whoever has left since then was not waited for any longer. Who came back later
            // had left.
            let left = !view.contains_key(name)
                || sender.left.iter().any(|(when, gone)| *when >= published.start && gone == *name)
                || seats.clone().any(|seat| seat.invited_last >= published.start)
                || (seats.clone().any(new) && seats.clone().any(old));
            // A process that died may have taken what it had acknowledged with it.
            let excused = |seat: &Seat| {
                let got = seat.received.get(&at).is_some_and(|seen| seen.contains(&number));
                got || !self.lives(seat) || !seat.direction.receives()
            };
            !left && !seats.any(excused)
        };
        published.expected.iter().filter(missing).cloned().collect()
    }

    fn answered(&mut self, call: &Call, at: Duration, result: Result<Value, Error>) {
        let fine = matches!(result, Ok(_) | Err(Error::NotAllowed(_)));
        if !fine || !matches!(call.what, What::Publish { .. }) {
            self.tell(|| format!("group {}: {:?}: {result:?}", call.group, call.what));
        }
        let end = self.net.world.start() + at;
        let took = end.saturating_duration_since(call.start);
        let bound = call.bound + SLACK + self.net.frozen - call.frozen;
        assert!(took <= bound, "{:?} took {took:?}: {result:?}", call.what);
        let closed = matches!(result, Err(Error::Closed(_)));
        let fine =
            result.is_ok() || !call.sure || (closed && matches!(call.what, What::Close { .. }));
        assert!(fine, "group {}: {:?}: {result:?}", call.group, call.what);
        let group = &mut self.groups[call.group];
        match &call.what {
            What::Invite { target } => {
                match result.is_ok() {
                    true => drop(group.invited.remove(&call.op)),
                    false => group.give_up(call.op, end),
                }
                let came = |seat: &Seat| means(target, &seat.me) && seat.accepted >= call.start;
                let came = group.seats.iter().any(came);
                assert!(came || result.is_err(), "{target} is in, and does not know");
            }
            What::Remove { target } => {
                // Whoever confirmed it has ended, unless it was leaving by itself.
                let there = |seat: &&Seat| {
                    let open = self.lives(seat) && !seat.ended && !seat.closed;
                    open && means(target, &seat.me) && seat.accepted < call.start
                };
                let seats = &self.groups[call.group].seats[1..];
                // Where several have the name, another of them may have been meant: one that is over.
                let over =
                    |seat: &Seat| seat.ended && means(target, &seat.me) && target != &seat.me;
                let another = seats.iter().any(over);
                let there = seats.iter().find(there).map(|seat| &seat.me);
                let there = there.filter(|_| result.is_ok() && !another);
                assert!(there.is_none(), "{there:?} is out, and does not know");
            }
            What::Away { seat, away } => {
                // Who is back may still wait for keys.
                if matches!(result, Ok(_) | Err(Error::Mls(_))) {
                    group.seats[*seat].away = *away;
                    group.seats[*seat].away_since = away.then_some(end);
                }
            }
            What::Close { seat: 0, members } if result.is_ok() => group.told = members.clone(),
            What::Close { .. } => {}
            What::Publish { seat, number } => {
                let published = &mut group.seats[*seat].published[*number];
                published.outcome = Some(result.is_ok());
                published.end = Some(end);
                let reliable = group.config.reliable.is_some();
                let state = &self.groups[call.group].seats[*seat];
                let published = &state.published[*number];
                match result {
                    Ok(_) if reliable => {
                        // What is acknowledged may wait behind a gap for a while.
                        let owed = self.missing(call.group, *seat, published, *number);
                        let state = &mut self.groups[call.group].seats[*seat];
                        state.published[*number].expected = owed;
                    }
                    // Whoever has lost its place in an encrypted group gets another.
                    Err(Error::Mls(_)) if self.mls.is_some() => {}
                    Ok(_) | Err(Error::Undelivered(_) | Error::Closed(_)) => {}
                    // It is away, or going away; or it may not publish at all.
                    Err(Error::NotAllowed(_)) => {}
                    Err(Error::NotFound(_)) if published.to.is_some() => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

/// Whether a name stands for an app.
fn means(name: &Name, full: &Name) -> bool {
    name.components() == full.components() && (name.id().is_null() || name == full)
}

impl Group {
    /// An invitation has come to nothing, as far as the moderator knows.
    fn give_up(&mut self, op: OpId, now: Instant) {
        let invitation = self.invited.remove(&op);
        self.given_up.extend(invitation.map(|(target, start)| (target, start, now)));
    }

    /// The timers of its control messages.
    fn retry(&self) -> Retry {
        self.config.reliable.unwrap_or_default()
    }
}

impl Seat {
    fn new(
        app: usize,
        life: u32,
        key: SessionKey,
        me: Name,
        direction: Direction,
        invited: Instant,
        accepted: Instant,
    ) -> Seat {
        Seat {
            app,
            life,
            key,
            me,
            direction,
            invited,
            invited_last: invited,
            accepted,
            closed: false,
            ended: false,
            away: false,
            away_since: None,
            published: Vec::new(),
            received: BTreeMap::new(),
            online: BTreeMap::new(),
            left: Vec::new(),
            anew: Vec::new(),
            gone: BTreeSet::new(),
            out: (0, 0),
        }
    }
}
