//! Groups whose members are our programs and the published implementation (the wheel), in every
//! place: node, moderator, participant. Both read the same words and say the same lines.

#[path = "interop/support.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slim::api::{self, App, Event, Item, Kind, Mls, PublishOptions, Retry, SessionOptions};
use slim::clock::Now;
use slim::entropy::Entropy;
use slim::error::Error;
use slim::identity::{self, Claims, Provider, SharedSecret, SharedSecretVerifier, Verifier};
use support::Who::{Ours, Wheel};
use support::{
    app, connected_app, connected_app_with, heard, identity, is_over, next_message, say, slim,
    verifier, wheel, Node, Process, Turn, Who, PATIENCE, SECRET,
};

const ROOM: &str = "org/ns/room";

/// How a group is made.
#[derive(Clone, Copy)]
struct Setting<'a> {
    node: &'a Node,
    reliable: bool,
    /// Encrypted.
    mls: bool,
    binding: &'a str,
    /// Everybody answers what is said to all.
    reply: bool,
    /// Milliseconds between two tries, and how often.
    retry: (u32, u32),
}

impl<'a> Setting<'a> {
    fn new(node: &'a Node) -> Setting<'a> {
        let (reliable, mls, binding, reply, retry) = (true, false, "", true, (1000, 5));
        Setting { node, reliable, mls, binding, reply, retry }
    }

    fn command(&self, who: Who, name: &str) -> std::process::Command {
        let mut command = match who {
            Ours => slim(),
            Wheel => wheel("member"),
        };
        match who {
            Ours => command.args(["group", "--shared-secret", SECRET]),
            Wheel => command.args(["--seconds", "300"]),
        };
        command.args(["--local", name, "--slim", &self.node.endpoint()]);
        command.args(self.reply.then_some("--reply"));
        command.env("SLIM_IDENTITY_BINDING", self.binding);
        command
    }

    /// Starts a participant, and waits until it can be invited.
    fn participant(&self, who: Who, name: &str) -> Member {
        self.participant_with(who, name, &[])
    }

    fn participant_with(&self, who: Who, name: &str, more: &[&str]) -> Member {
        let mut command = self.command(who, name);
        if who == Ours {
            command.arg("--stay");
        }
        let process = Process::start_listening(name, command.args(more));
        Member::new(name, process)
    }

    /// Starts a moderator that invites these.
    fn moderator(&self, who: Who, name: &str, invites: &[&str]) -> Member {
        let mut command = self.command(who, name);
        command.args(["--remote", ROOM]);
        for name in invites {
            command.args(["--invites", name]);
        }
        let (interval, retries) = (self.retry.0.to_string(), self.retry.1.to_string());
        match (who, self.reliable) {
            (Ours, false) => command.arg("--best-effort"),
            (Wheel, false) => command.args(["--retries", "0"]),
            (_, true) => command.args(["--interval-ms", &interval, "--retries", &retries]),
        };
        if self.mls {
            command.arg(if who == Ours { "--enable-mls" } else { "--mls" });
        }
        let process = Process::start_listening(name, &mut command);
        for name in invites {
            process.wait_for("an invitation", |line| line == format!("! invited {name}"));
        }
        Member::new(name, process)
    }
}

struct Member {
    name: String,
    /// With its id.
    full: String,
    process: Process,
}

impl Member {
    /// A program that is ready, and has said what its full name is.
    fn new(name: &str, process: Process) -> Member {
        let ready = process.wait_for("ready", |line| line.starts_with("! ready"));
        let full = ready["! ready ".len()..].to_owned();
        assert!(full.starts_with(name) && full.len() > name.len() + 30, "{full}");
        Member { name: name.to_owned(), full, process }
    }

    /// Tells it something and waits for what it says when that is done.
    fn tell(&mut self, line: &str, done: &str) {
        let before = self.process.len();
        self.process.tell(line);
        self.said_after(before, done);
    }

    fn said_after(&self, before: usize, part: &str) {
        let what = format!("{part:?} after line {before}");
        self.process.wait_after(before, &what, |lines| {
            lines.iter().any(|line| line.contains(part)).then_some(())
        });
    }

    /// Who takes part, as it sees it: full names, and whether they are online. Whoever was just let in
    /// again may have to be asked again: it has its session, but its program did not take it yet.
    fn participants(&mut self) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let before = self.process.len();
            self.process.tell("participants");
            let found = self.process.wait_after(before, "participants", |lines| {
                if lines.iter().any(|line| line.contains("failed: participants")) {
                    return Some(None);
                }
                let head = lines.iter().position(|line| line.ends_with(" participants"))?;
                let count = lines[head].split(' ').nth(1)?.parse().ok()?;
                let them = lines[head + 1..].iter().filter(|line| is_participant(line));
                let them: Vec<String> = them.take(count).map(|line| line[2..].to_owned()).collect();
                (them.len() == count).then_some(Some(them))
            });
            if let Some(mut them) = found {
                them.sort();
                return them;
            }
            assert!(Instant::now() < until, "{}", self.process.output());
        }
    }

    fn got(&self, line: &str) -> usize {
        self.process.lines().iter().filter(|known| *known == line).count()
    }

    /// What it got from somebody, in the order in which it came.
    fn got_from(&self, name: &str) -> Vec<String> {
        let from = format!("{name} > ");
        let lines = self.process.lines();
        lines.iter().filter_map(|line| line.strip_prefix(&from)).map(str::to_owned).collect()
    }

    /// Waits until it has got so many more messages from somebody.
    fn gets_from(&self, before: usize, name: &str, count: usize) {
        let from = format!("{name} > ");
        self.process.wait_after(before, &format!("{count} messages from {name}"), |lines| {
            (lines.iter().filter(|line| line.starts_with(&from)).count() >= count).then_some(())
        });
    }

    /// Waits until it is out of the group.
    fn is_out(&self, before: usize) {
        self.process.wait_after(before, "the end of the session", |lines| {
            let over = ["! session over", "! removed by", "! closed by"];
            let is_over = |line: &String| over.iter().any(|start| line.starts_with(start));
            lines.iter().any(is_over).then_some(())
        });
    }
}

fn is_participant(line: &str) -> bool {
    line.starts_with("! org/") && (line.ends_with(" online") || line.ends_with(" offline"))
}

/// A group: the moderator first.
struct Group {
    members: Vec<Member>,
}

impl Group {
    /// Everybody publishes, and all others get it.
    fn say(&mut self, members: &[usize], text: &str) {
        for from in members {
            let said = format!("{text} from {from}");
            self.members[*from].tell(&said, "delivered");
            let line = format!("{} > {said}", self.members[*from].name);
            for at in members.iter().filter(|at| *at != from) {
                self.members[*at].process.wait_for(&line, |known| known == line);
            }
        }
    }

    /// Everybody publishes, all others get it, and answer its sender alone.
    fn talk(&mut self, members: &[usize], text: &str) {
        self.say(members, text);
        for from in members {
            for at in members.iter().filter(|at| *at != from) {
                let name = &self.members[*at].name;
                let answer = format!("{name} > {text} from {from} from {name}");
                self.members[*from].process.wait_for(&answer, |known| known == answer);
            }
        }
    }

    /// Nobody got anything twice, or what was not meant for it. `talks`: what was said, among whom.
    fn check(&self, talks: &[(&str, &[usize])]) {
        for (at, member) in self.members.iter().enumerate() {
            for (text, members) in talks {
                for from in 0..self.members.len() {
                    let said = format!("{text} from {from}");
                    let line = format!("{} > {said}", self.members[from].name);
                    let talked = members.contains(&from) && members.contains(&at);
                    let expected = usize::from(talked && from != at);
                    assert_eq!(member.got(&line), expected, "{line}, to {}", member.name);
                    for other in &self.members {
                        let answer = format!("{} > {said} from {}", other.name, other.name);
                        let to_it = talked && from == at && other.name != member.name;
                        if !to_it {
                            assert_eq!(member.got(&answer), 0, "{answer}, to {}", member.name);
                        } else {
                            assert!(member.got(&answer) <= 1, "{answer}, twice");
                        }
                    }
                }
            }
        }
    }

    /// These agree about who takes part, sooner or later.
    fn agree(&mut self, members: &[usize]) {
        let states: Vec<(usize, &str)> = members.iter().map(|at| (*at, "online")).collect();
        for at in members {
            self.sees(*at, &states);
        }
    }

    /// One of them sees these, sooner or later. What it says of itself does not count: a wheel that
    /// was away calls itself offline for ever.
    fn sees(&mut self, at: usize, states: &[(usize, &str)]) {
        let others = states.iter().filter(|(other, _)| *other != at);
        let words = others.map(|(other, state)| format!("{} {state}", self.members[*other].full));
        let mut expected: Vec<String> = words.collect();
        expected.sort();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let member = &mut self.members[at];
            let own = format!("{} ", member.full);
            let mut found = member.participants();
            assert!(found.iter().any(|line| line.starts_with(&own)), "{own} is not there");
            found.retain(|line| !line.starts_with(&own));
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{own}sees {found:?}, not {expected:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until these are out of the group.
    fn over(&self, before: &[(usize, usize)]) {
        before.iter().for_each(|(at, before)| self.members[*at].is_out(*before));
    }

    fn lens(&self, members: &[usize]) -> Vec<(usize, usize)> {
        members.iter().map(|at| (*at, self.members[*at].process.len())).collect()
    }
}

/// Four, of whom the first invites the next two.
fn three_of_four(setting: &Setting<'_>, moderator: Who, participants: [Who; 3]) -> Group {
    let names = ["org/ns/p1", "org/ns/p2", "org/ns/p3"];
    let waiting = participants.iter().zip(names);
    let waiting: Vec<Member> = waiting.map(|(who, name)| setting.participant(*who, name)).collect();
    let mut members = vec![setting.moderator(moderator, "org/ns/mod", &names[..2])];
    members.extend(waiting);
    Group { members }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Reliable,
    BestEffort,
    Mls,
}

/// The life of a group of four: they are invited, everybody talks, one is removed, invited again,
/// another leaves, the moderator closes.
fn life(node: Who, moderator: Who, participants: [Who; 3], mode: Mode, binding: &str) {
    let _turn = Turn::take();
    let node = Node::start(node, binding);
    let (reliable, mls) = (mode != Mode::BestEffort, mode == Mode::Mls);
    let setting = Setting { reliable, mls, binding, ..Setting::new(&node) };
    let mut group = three_of_four(&setting, moderator, participants);
    group.talk(&[0, 1, 2], "one");
    group.members[0].tell("invite org/ns/p3", "invited org/ns/p3");
    group.agree(&[0, 1, 2, 3]);
    group.talk(&[0, 1, 2, 3], "two");

    let before = group.lens(&[2]);
    group.members[0].tell("remove org/ns/p2", "removed org/ns/p2");
    group.over(&before);
    group.agree(&[0, 1, 3]);
    group.talk(&[0, 1, 3], "three");

    group.members[0].tell("invite org/ns/p2", "invited org/ns/p2");
    group.agree(&[0, 1, 2, 3]);
    group.talk(&[0, 1, 2, 3], "four");

    group.members[3].tell("leave", "session closed by this side");
    group.agree(&[0, 1, 2]);
    group.talk(&[0, 1, 2], "five");

    let before = group.lens(&[1, 2]);
    group.members[0].process.tell("exit");
    group.over(&before);
    group.members[0].process.expect_success();
    group.check(&[
        ("one", &[0, 1, 2]),
        ("two", &[0, 1, 2, 3]),
        ("three", &[0, 1, 3]),
        ("four", &[0, 1, 2, 3]),
        ("five", &[0, 1, 2]),
    ]);
}

/// The cells, one test each.
macro_rules! cells {
    ($($name:ident: $node:ident, $moderator:ident, [$($participant:ident),*];)*) => {
        mod reliable {
            use super::*;
            $(#[test] fn $name() { life($node, $moderator, [$($participant),*], Mode::Reliable, ""); })*
        }
        mod best_effort {
            use super::*;
            $(#[test] fn $name() { life($node, $moderator, [$($participant),*], Mode::BestEffort, ""); })*
        }
        mod enforced_binding {
            use super::*;
            $(#[test] fn $name() {
                life($node, $moderator, [$($participant),*], Mode::Reliable, "enforce");
            })*
        }
        mod encrypted {
            use super::*;
            $(#[test] fn $name() {
                life($node, $moderator, [$($participant),*], Mode::Mls, "enforce");
            })*
        }
    };
}

cells! {
    //                               node   moderator participants
    node_ours_ours_invites_wheels:   Ours,  Ours,  [Wheel, Wheel, Wheel];
    node_ours_wheel_invites_ours:    Ours,  Wheel, [Ours, Ours, Ours];
    node_ours_ours_invites_both:     Ours,  Ours,  [Ours, Wheel, Wheel];
    node_ours_wheel_invites_both:    Ours,  Wheel, [Wheel, Ours, Ours];
    node_ours_ours_invites_ours:     Ours,  Ours,  [Ours, Ours, Ours];
    node_wheel_ours_invites_wheels:  Wheel, Ours,  [Wheel, Wheel, Wheel];
    node_wheel_wheel_invites_ours:   Wheel, Wheel, [Ours, Ours, Ours];
    node_wheel_ours_invites_both:    Wheel, Ours,  [Ours, Wheel, Wheel];
    node_wheel_wheel_invites_both:   Wheel, Wheel, [Wheel, Ours, Ours];
    node_wheel_ours_invites_ours:    Wheel, Ours,  [Ours, Ours, Ours];
}

/// Four who are all in the group.
fn four(setting: &Setting<'_>, moderator: Who, participants: [Who; 3]) -> Group {
    let mut group = three_of_four(setting, moderator, participants);
    group.members[0].tell("invite org/ns/p3", "invited org/ns/p3");
    group.agree(&[0, 1, 2, 3]);
    group
}

/// One goes away and comes back: everybody sees it. Ours gets nothing of what was said meanwhile; a
/// wheel asks for what it has missed of those whom it heard before, and gets it.
fn soft_close(node: Who, moderator: Who, participants: [Who; 3], who: usize, mls: bool) {
    let _turn = Turn::take();
    let node = Node::start(node, "");
    let setting = Setting { mls, ..Setting::new(&node) };
    let mut group = four(&setting, moderator, participants);
    let others: Vec<usize> = (0..4).filter(|at| *at != who).collect();
    let kind = [moderator, participants[0], participants[1], participants[2]][who];
    for round in 1..=2 {
        group.members[who].tell("suspend", "! suspended");
        let state = |at: usize| if at == who { "offline" } else { "online" };
        let seen: Vec<(usize, &str)> = (0..4).map(|at| (at, state(at))).collect();
        for at in &others {
            group.sees(*at, &seen);
        }
        let (gone, back) = (format!("gone {round}"), format!("back {round}"));
        group.talk(&others, &gone);
        if kind == Ours {
            // One more turn, in which it reads what it is not to hear.
            group.members[who].participants();
        }
        group.members[who].tell("rejoin", "! back");
        group.agree(&[0, 1, 2, 3]);
        group.talk(&[0, 1, 2, 3], &back);
        group.check(&[(&back, &[0, 1, 2, 3])]);
        if kind == Ours {
            group.check(&[(&gone, &others)]);
        } else {
            for from in &others {
                let line = format!("{} > {gone} from {from}", group.members[*from].name);
                let expected = usize::from(round > 1);
                assert_eq!(group.members[who].got(&line), expected, "{line}");
            }
        }
    }
    assert!(group.members.iter().all(|member| member.process.count("lost") == 0));
}

#[test]
fn spec03_35_a_wheel_goes_away_and_comes_back() {
    soft_close(Ours, Ours, [Wheel, Ours, Wheel], 1, false);
    soft_close(Wheel, Wheel, [Wheel, Ours, Ours], 1, false);
}

#[test]
fn spec03_35_ours_goes_away_and_comes_back() {
    soft_close(Ours, Wheel, [Ours, Wheel, Ours], 1, false);
    soft_close(Wheel, Ours, [Ours, Wheel, Wheel], 1, false);
}

#[test]
fn spec03_35_a_moderator_goes_away_and_comes_back() {
    soft_close(Ours, Ours, [Wheel, Ours, Wheel], 0, false);
    soft_close(Ours, Wheel, [Ours, Wheel, Ours], 0, false);
}

/// Members that only send or only receive: nobody waits for an acknowledgement of the first, and the
/// second says nothing.
#[test]
fn spec03_29_wheels_that_only_send_or_only_receive() {
    let _turn = Turn::take();
    let node = Node::start(Ours, "");
    // A publish that waited for one acknowledgement too many would take 20 s.
    let setting = Setting { retry: (2000, 9), ..Setting::new(&node) };
    let sends = setting.participant_with(Wheel, "org/ns/p1", &["--direction", "SEND"]);
    let receives = setting.participant_with(Wheel, "org/ns/p2", &["--direction", "RECV"]);
    let both = setting.participant(Ours, "org/ns/p3");
    let invites = ["org/ns/p1", "org/ns/p2", "org/ns/p3"];
    let moderator = setting.moderator(Ours, "org/ns/mod", &invites);
    let mut group = Group { members: vec![moderator, sends, receives, both] };
    group.agree(&[0, 1, 2, 3]);
    let begun = Instant::now();
    for (from, name) in [(0, "mod"), (1, "p1"), (3, "p3")] {
        let said = format!("from {from}");
        group.members[from].tell(&said, "delivered");
        for at in [0, 2, 3].into_iter().filter(|at| *at != from) {
            let line = format!("org/ns/{name} > {said}");
            group.members[at].process.wait_for(&line, |known| known == line);
        }
        let line = format!("org/ns/{name} > {said}");
        assert_eq!(group.members[1].got(&line), 0);
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "an acknowledgement was waited for");
    group.members[2].tell("nothing", "cannot send messages");
    assert!(group.members.iter().all(|member| member.got("org/ns/p2 > nothing") == 0));
}

/// One dies while the others talk: they get everything, a publish of ours says who did not, and all
/// see who is gone.
fn killed(node: Who, moderator: Who, participants: [Who; 3], dies: usize, mls: bool) {
    let _turn = Turn::take();
    let node = Node::start(node, "");
    let setting = Setting { retry: (300, 4), mls, ..Setting::new(&node) };
    let mut group = four(&setting, moderator, participants);
    let who = [moderator, participants[0], participants[1], participants[2]];
    group.talk(&[0, 1, 2, 3], "all");
    group.members[dies].process.kill();
    let rest: Vec<usize> = (0..4).filter(|at| *at != dies).collect();
    let state = |at: usize| if at == dies { "offline" } else { "online" };
    let seen: Vec<(usize, &str)> = (0..4).map(|at| (at, state(at))).collect();
    for from in &rest {
        let said = format!("who is there, from {from}");
        // The published one calls this delivered.
        let end = match who[*from] {
            Ours => format!("not acknowledged by {}", group.members[dies].name),
            Wheel => "delivered".to_owned(),
        };
        group.members[*from].tell(&said, &end);
        let line = format!("{} > {said}", group.members[*from].name);
        for at in rest.iter().filter(|at| *at != from) {
            group.members[*at].process.wait_for(&line, |known| known == line);
            assert_eq!(group.members[*at].got(&line), 1);
        }
        group.sees(*from, &seen);
    }
    // Now that they know nobody waits for it.
    group.talk(&rest, "rest");
    if dies != 0 {
        let name = group.members[dies].name.clone();
        group.members[0].process.tell(&format!("remove {name}"));
        group.agree(&rest);
    }
}

#[test]
fn c29_a_wheel_is_killed() {
    killed(Ours, Ours, [Wheel, Ours, Wheel], 1, false);
    killed(Wheel, Wheel, [Wheel, Ours, Ours], 1, false);
}

#[test]
fn c29_ours_is_killed() {
    killed(Ours, Wheel, [Ours, Wheel, Ours], 1, false);
    killed(Wheel, Ours, [Ours, Wheel, Wheel], 1, false);
}

#[test]
fn c29_the_moderator_is_killed() {
    killed(Ours, Ours, [Wheel, Ours, Wheel], 0, false);
    killed(Ours, Wheel, [Ours, Wheel, Ours], 0, false);
}

/// The node goes and comes back: the group goes on.
fn node_restarts(node: Who, moderator: Who, participants: [Who; 3], mls: bool) {
    let _turn = Turn::take();
    let mut started = Node::start(node, "");
    let port = started.port;
    let setting = Setting { mls, ..Setting::new(&started) };
    let mut group = four(&setting, moderator, participants);
    group.talk(&[0, 1, 2, 3], "before");
    match node {
        // A wheel whose next attempt is reset by a dying node never makes another.
        Ours => {
            started.process.signal("-TERM");
            started.process.expect_success();
        }
        Wheel => started.process.kill(),
    }
    std::thread::sleep(Duration::from_millis(500));
    let node = Node::on_port(node, "", port);
    // Best told by what arrives: each says something until all others have heard it.
    group.agree(&[0, 1, 2, 3]);
    for from in 0..4 {
        let deadline = Instant::now() + PATIENCE;
        let line = format!("{} > are you back?", group.members[from].name);
        while (0..4).any(|at| at != from && group.members[at].got(&line) == 0) {
            assert!(Instant::now() < deadline, "{line} does not arrive");
            group.members[from].process.tell("are you back?");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    group.agree(&[0, 1, 2, 3]);
    group.talk(&[0, 1, 2, 3], "after");
    group.members[0].tell("remove org/ns/p2", "removed org/ns/p2");
    group.agree(&[0, 1, 3]);
    group.check(&[("before", &[0, 1, 2, 3]), ("after", &[0, 1, 2, 3])]);
    drop(node);
}

#[test]
fn c18_a_group_survives_a_restart_of_our_node() {
    node_restarts(Ours, Ours, [Ours, Wheel, Wheel], false);
    node_restarts(Ours, Wheel, [Wheel, Ours, Ours], false);
}

#[test]
fn c18_a_group_survives_a_restart_of_the_wheels_node() {
    // Ours alone: see above.
    node_restarts(Wheel, Ours, [Ours, Ours, Ours], false);
}

/// What cannot be done says why, and the group goes on.
#[test]
fn c27_invitations_that_come_to_nothing() {
    let _turn = Turn::take();
    let node = Node::start(Ours, "");
    let setting = Setting { retry: (200, 4), ..Setting::new(&node) };
    let mut group = three_of_four(&setting, Ours, [Wheel, Ours, Wheel]);
    let secret = "quite another secret of 32 or more bytes";
    let _stranger = setting.participant_with(Wheel, "org/ns/stranger", &["--secret", secret]);
    for (at, line, answer) in [
        (0, "invite org/ns/p1", "participant already in group: org/ns/p1"),
        (0, "invite org/ns/mod", "nobody valid answered for org/ns/mod"),
        (0, "invite org/ns/nobody", "nobody valid answered for org/ns/nobody"),
        (0, "invite org/ns/stranger", "nobody valid answered for org/ns/stranger"),
        (0, "invite org/ns", "org/ns"),
        (0, "remove org/ns/nobody", "participant not found in group: org/ns/nobody"),
        (1, "invite org/ns/p3", "only initiator can modify participants"),
        (2, "invite org/ns/p3", "only initiator can modify participants"),
        (2, "remove org/ns/p1", "only initiator can modify participants"),
    ] {
        let begun = Instant::now();
        group.members[at].tell(line, answer);
        assert!(begun.elapsed() < Duration::from_secs(3), "{line}: {:?}", begun.elapsed());
    }
    group.agree(&[0, 1, 2]);
    group.members[0].tell("invite org/ns/p3", "invited org/ns/p3");
    group.agree(&[0, 1, 2, 3]);
    group.talk(&[0, 1, 2, 3], "fine");
}

/// Two instances of one service in one group of ours: wheels, too, know members by their full names.
#[test]
fn defect_10_two_instances_of_one_service_are_two_members() {
    let _turn = Turn::take();
    let node = Node::start(Ours, "");
    let setting = Setting::new(&node);
    let names = ["org/ns/p1", "org/ns/p1", "org/ns/p2", "org/ns/p3"];
    let waiting = [Wheel, Wheel, Wheel, Ours].iter().zip(names);
    let waiting: Vec<Member> = waiting.map(|(who, name)| setting.participant(*who, name)).collect();
    let mut members = vec![setting.moderator(Ours, "org/ns/mod", &["org/ns/p2", "org/ns/p3"])];
    members.extend(waiting);
    for at in [1, 2] {
        let name = members[at].full.clone();
        members[0].tell(&format!("invite {name}"), &format!("invited {name}"));
    }
    let mut group = Group { members };
    group.agree(&[0, 1, 2, 3, 4]);
    let counts = |group: &Group, members: &[usize], text: &str| {
        for from in members {
            for to in members.iter().filter(|to| *to != from) {
                let line = format!("{} > {text} from {from}", group.members[*from].name);
                group.members[*to].process.wait_for(&line, |known| known == line);
                assert_eq!(group.members[*to].got(&line), 1, "{line}, to {to}");
            }
        }
    };
    for from in 0..5 {
        group.members[from].tell(&format!("one from {from}"), "delivered");
    }
    counts(&group, &[0, 1, 2, 3, 4], "one");
    // The name alone means both of them.
    group.members[0].tell("remove org/ns/p1", "org/ns/p1 means 2 participants");
    let before = group.lens(&[1]);
    let name = group.members[1].full.clone();
    group.members[0].tell(&format!("remove {name}"), &format!("removed {name}"));
    group.over(&before);
    group.agree(&[0, 2, 3, 4]);
    for from in [0, 2, 3, 4] {
        group.members[from].tell(&format!("two from {from}"), "delivered");
    }
    counts(&group, &[0, 2, 3, 4], "two");
    group.members[0].tell("remove org/ns/p1", "removed org/ns/p1");
    group.agree(&[0, 3, 4]);
}

/// Two instances of one service: by its name alone one of them is invited, whichever the node picks,
/// and not the other. The other one comes by its full name: into the same group, or, as a published
/// moderator has one member of a name, into another one.
fn the_name_alone_invites_one(moderator: Who, participants: Who) {
    let _turn = Turn::take();
    let node = Node::start(Ours, "");
    let setting = Setting { reply: false, ..Setting::new(&node) };
    let waiting = [(); 2].map(|()| setting.participant(participants, "org/ns/p1"));
    let mut members = vec![setting.moderator(moderator, "org/ns/mod", &["org/ns/p1"])];
    members.extend(waiting);
    let mut group = Group { members };
    let found = group.members[0].participants();
    assert_eq!(found.len(), 2, "{found:?}");
    let is_in = |at: &usize| found.contains(&format!("{} online", group.members[*at].full));
    let came: Vec<usize> = [1, 2].into_iter().filter(is_in).collect();
    let [first] = came[..] else { panic!("{came:?} of {found:?}") };
    let second = 3 - first;
    group.agree(&[0, first]);
    group.say(&[0, first], "one");
    let sessions = |group: &Group| group.members[second].process.count("! session ");
    assert_eq!(sessions(&group), 0, "it was not invited");

    let name = group.members[second].full.clone();
    let members = match moderator {
        Ours => {
            group.members[0].tell(&format!("invite {name}"), &format!("invited {name}"));
            vec![0, 1, 2]
        }
        Wheel => {
            group.members.push(setting.moderator(moderator, "org/ns/other", &[&name]));
            group.agree(&[0, first]);
            vec![3, second]
        }
    };
    group.agree(&members);
    group.say(&members, "two");
    assert_eq!(sessions(&group), 1);
    let talks: [(&str, &[usize]); 2] = [("one", &[0, first]), ("two", &members)];
    for (text, talked) in talks {
        for (at, from) in
            (0..group.members.len()).flat_map(|at| talked.iter().map(move |n| (at, n)))
        {
            let line = format!("{} > {text} from {from}", group.members[*from].name);
            let expected = usize::from(talked.contains(&at) && at != *from);
            assert_eq!(group.members[at].got(&line), expected, "{line}, to {at}");
        }
    }
}

#[test]
fn spec03_19_a_published_moderator_invites_one_of_two_of_ours_by_the_name_alone() {
    the_name_alone_invites_one(Wheel, Ours);
}

#[test]
fn spec03_19_our_moderator_invites_one_of_two_wheels_by_the_name_alone() {
    the_name_alone_invites_one(Ours, Wheel);
}

#[test]
fn spec03_35_in_an_encrypted_group_one_goes_away_and_comes_back() {
    soft_close(Ours, Ours, [Wheel, Ours, Wheel], 1, true);
    soft_close(Ours, Wheel, [Ours, Wheel, Ours], 1, true);
}

#[test]
fn c29_one_of_an_encrypted_group_is_killed() {
    killed(Ours, Ours, [Wheel, Ours, Wheel], 1, true);
    killed(Ours, Wheel, [Ours, Wheel, Ours], 1, true);
}

#[test]
fn c18_an_encrypted_group_survives_a_restart_of_the_node() {
    node_restarts(Ours, Ours, [Ours, Wheel, Wheel], true);
    node_restarts(Ours, Wheel, [Wheel, Ours, Ours], true);
}

/// One is away while the keys of the group change, and comes back to the new ones.
fn stale(moderator: Who, participants: [Who; 3]) {
    let _turn = Turn::take();
    let node = Node::start(Ours, "enforce");
    // A wheel that was not away takes nobody back: it would not answer (defect 13).
    let reply = participants[2] == Ours;
    let talk = if reply { Group::talk } else { Group::say };
    let setting = Setting { mls: true, binding: "enforce", reply, ..Setting::new(&node) };
    let mut group = four(&setting, moderator, participants);
    talk(&mut group, &[0, 1, 2, 3], "before");
    group.members[1].tell("suspend", "! suspended");
    group.members[0].tell("remove org/ns/p2", "removed org/ns/p2");
    group.members[1].tell("rejoin", "! back");
    group.agree(&[0, 1, 3]);
    talk(&mut group, &[0, 1, 3], "back");
    if moderator == Ours {
        // The published moderator is stuck now.
        group.members[0].tell("invite org/ns/p2", "invited org/ns/p2");
        group.agree(&[0, 1, 2, 3]);
        // A wheel has not heard that p2 had left, and takes its first messages for repetitions.
        match participants[0] {
            Wheel => talk(&mut group, &[0, 1, 3], "after"),
            Ours => talk(&mut group, &[0, 1, 2, 3], "after"),
        }
    }
    group.check(&[("before", &[0, 1, 2, 3]), ("back", &[0, 1, 3])]);
}

#[test]
fn spec05_6_a_wheel_comes_back_to_new_keys() {
    stale(Ours, [Wheel, Ours, Ours]);
}

#[test]
fn spec05_6_ours_comes_back_to_new_keys() {
    stale(Wheel, [Ours, Wheel, Ours]);
    stale(Ours, [Ours, Wheel, Ours]);
}

#[test]
fn spec05_6_a_wheel_follows_who_comes_back_to_new_keys() {
    stale(Ours, [Ours, Ours, Wheel]);
    stale(Ours, [Wheel, Ours, Wheel]);
    stale(Wheel, [Ours, Wheel, Wheel]);
}

/// Three are invited at once, one under another name of its own; the last to be removed leaves a
/// group, and the last to leave does not.
fn at_once_and_to_the_last_with_our_moderator(mls: bool) {
    let node = Node::start(Ours, "enforce");
    let setting = Setting { mls, binding: "enforce", reply: false, ..Setting::new(&node) };
    let mut one = setting.participant_with(Wheel, "org/ns/p1", &["--alias", "org/ns/alias"]);
    let mut two = setting.participant(Wheel, "org/ns/p2");
    let three = setting.participant(Wheel, "org/ns/p3");
    let (_here, ann) = app("org/ns/ann", &node, Box::new(identity("org/ns/ann")));
    let options = SessionOptions { mls: mls.then(Mls::default), ..sealed(Kind::Group) };
    let room = ann.open(&options, ROOM, Some(PATIENCE)).unwrap();
    let names = ["org/ns/alias", "org/ns/p2", "org/ns/p3"];
    let invited = names.map(|name| room.invite_start(name).unwrap());
    invited.iter().for_each(|op| op.wait(Some(PATIENCE)).unwrap());
    let alias = one.full.replace("org/ns/p1", "org/ns/alias");
    let participants = room.participants(Some(PATIENCE)).unwrap();
    let mut found: Vec<String> = participants.iter().map(|one| one.name.to_string()).collect();
    let mut expected =
        vec![alias.clone(), ann.name().to_string(), two.full.clone(), three.full.clone()];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    say(&room, "hello").unwrap();
    [&one, &two, &three].iter().for_each(|wheel| wheel.gets_from(0, "org/ns/ann", 1));
    one.tell("from one", "delivered");
    assert_eq!(next_message(&room).source.to_string(), alias);
    two.gets_from(0, "org/ns/alias", 1);
    for name in names.iter().rev() {
        room.remove(name, Some(PATIENCE)).unwrap();
    }
    [&one, &two, &three].iter().for_each(|wheel| wheel.is_out(0));
    let before = two.process.len();
    room.invite("org/ns/p2", Some(PATIENCE)).unwrap();
    say(&room, "you again").unwrap();
    two.gets_from(before, "org/ns/ann", 1);
    two.tell("leave", "session closed by this side");
    is_over(&room);
}

/// The same with a published moderator, and with ours invited.
fn at_once_and_to_the_last_with_a_published_moderator(mls: bool) {
    let node = Node::start(Ours, "enforce");
    let setting = Setting { mls, binding: "enforce", reply: false, ..Setting::new(&node) };
    let apps = ["org/ns/ann", "org/ns/bob", "org/ns/carol"]
        .map(|name| connected_app(name, &node, Box::new(identity(name))));
    let [(_, ann, connection), (_, bob, _), (_, carol, _)] = &apps;
    ann.subscribe("org/ns/alias", *connection, Some(PATIENCE)).unwrap();
    let mut moderator = setting.moderator(Wheel, "org/ns/mod", &[]);
    moderator.tell("invite org/ns/alias org/ns/bob org/ns/carol", "invited org/ns/carol");
    let [one, two, three] = [ann, bob, carol].map(|app| app.accept(true, Some(PATIENCE)).unwrap());
    let alias = ann.name().to_string().replace("org/ns/ann", "org/ns/alias");
    let participants = moderator.participants();
    assert!(participants.contains(&format!("{alias} online")), "{participants:?}");
    assert_eq!(participants.len(), 4, "{participants:?}");
    moderator.tell("hello", "delivered");
    [&one, &two, &three].iter().for_each(|session| heard(session, "hello"));
    say(&one, "from one").unwrap();
    moderator.gets_from(0, "org/ns/alias", 1);
    assert_eq!(next_message(&two).source.to_string(), alias);
    for name in ["org/ns/carol", "org/ns/bob", "org/ns/alias"] {
        moderator.tell(&format!("remove {name}"), &format!("removed {name}"));
    }
    [&one, &two].iter().for_each(|session| is_over(session));
    moderator.tell("invite org/ns/bob", "invited org/ns/bob");
    let again = bob.accept(true, Some(PATIENCE)).unwrap();
    moderator.tell("you again", "delivered");
    heard(&again, "you again");
    let before = moderator.process.len();
    again.close(Some(PATIENCE)).unwrap();
    moderator.is_out(before);
}

#[test]
fn spec03_9_13_18_at_once_under_another_name_and_to_the_last() {
    let _turn = Turn::take();
    for mls in [false, true] {
        at_once_and_to_the_last_with_our_moderator(mls);
        at_once_and_to_the_last_with_a_published_moderator(mls);
    }
}

/// A wheel and one of ours talk to all without a pause while the moderator invites others and
/// removes them: whoever stays gets everything, once and in order.
fn crossing(moderator: Who, reliable: bool) {
    let _turn = Turn::take();
    let node = Node::start(Ours, "enforce");
    let setting = Setting { reliable, mls: true, binding: "enforce", ..Setting::new(&node) };
    let setting = Setting { reply: false, ..setting };
    let names = ["org/ns/wheel", "org/ns/bob"];
    let mut wheel = setting.participant_with(Wheel, names[0], &["--no-wait"]);
    let guests = [(Wheel, "org/ns/p1"), (Ours, "org/ns/p2")];
    let guests = guests.map(|(who, name)| setting.participant(who, name));
    let (_here, bob) = app(names[1], &node, Box::new(identity(names[1])));
    let mut moderator = setting.moderator(moderator, "org/ns/mod", &names);
    let bob = bob.accept(true, Some(PATIENCE)).unwrap();

    // So many messages of each are on their way at once.
    let ahead = 4;
    let (mut said, mut ops, mut heard) = (Vec::new(), Vec::new(), Vec::new());
    let guest_book = || {
        for guest in guests.iter().chain(&guests) {
            let before = guest.process.len();
            moderator.tell(&format!("invite {}", guest.name), &format!("invited {}", guest.name));
            names.iter().for_each(|name| guest.gets_from(before, name, 2 * ahead));
            moderator.tell(&format!("remove {}", guest.name), &format!("removed {}", guest.name));
            guest.is_out(before);
            let before = moderator.process.len();
            names.iter().for_each(|name| moderator.gets_from(before, name, 2 * ahead));
        }
    };
    thread::scope(|scope| {
        let guests = scope.spawn(guest_book);
        let mut left = ahead;
        while left > 0 {
            if guests.is_finished() {
                left -= 1;
            } else {
                let text = said.len().to_string();
                wheel.process.tell(&text);
                let op = bob.publish_start(text.as_bytes(), &PublishOptions::default());
                ops.push(op.unwrap());
                said.push(text);
            }
            let there = said.len().saturating_sub(left);
            while heard.len() < there {
                match bob.receive(Some(PATIENCE)).unwrap() {
                    Item::Message(message) => {
                        assert_eq!(message.source.service(), names[0]);
                        heard.push(String::from_utf8(message.payload.to_vec()).unwrap());
                    }
                    Item::Event(Event::PeerLeft(_)) => {}
                    Item::Event(event) => panic!("{event:?}"),
                }
            }
            wheel.gets_from(0, names[1], there);
        }
    });
    // A guest that has gone is nobody's loss.
    ops.into_iter().for_each(|op| op.wait(Some(PATIENCE)).unwrap());
    for name in names {
        moderator.gets_from(0, name, said.len());
        assert_eq!(moderator.got_from(name), said, "{name} to the moderator");
    }
    assert_eq!(wheel.got_from(names[1]), said);
    assert_eq!(heard, said);
}

#[test]
fn spec05_7_messages_cross_the_commits_of_our_moderator() {
    crossing(Ours, true);
    crossing(Ours, false);
}

#[test]
fn spec05_7_messages_cross_the_commits_of_a_wheel() {
    crossing(Wheel, true);
    crossing(Wheel, false);
}

/// An identity whose tokens are old already when they are made.
struct Aged {
    identity: SharedSecret,
    age: Duration,
    /// From now on they are not.
    young: Arc<AtomicBool>,
}

impl Aged {
    /// An hour old but for the rest.
    fn new(name: &str) -> Aged {
        let age = Duration::from_secs(3600) - rest();
        Aged { identity: identity(name), age, young: Arc::default() }
    }
}

impl Provider for Aged {
    fn subject(&self) -> &str {
        self.identity.subject()
    }

    fn public_key(&self) -> &[u8] {
        self.identity.public_key()
    }

    fn token(&mut self, now: Now, entropy: &mut dyn Entropy) -> Result<Arc<str>, identity::Error> {
        // One of another time, lest the last one is given out again.
        self.identity.token(Now { unix: Duration::ZERO, ..now }, entropy)?;
        let age = if self.young.load(Ordering::Relaxed) { Duration::ZERO } else { self.age };
        self.identity.token(Now { unix: now.unix - age, ..now }, entropy)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, identity::Error> {
        self.identity.sign(message)
    }
}

/// How long such a token is still good for. A published member joins with nothing younger in the
/// group: it needs its time for that.
fn rest() -> Duration {
    match std::env::var_os("SLIM_SOAK") {
        Some(_) => Duration::from_secs(100),
        None => Duration::from_secs(20),
    }
}

/// One who takes every token for one that lives for ever.
struct Believing(SharedSecretVerifier);

impl Verifier for Believing {
    fn verify(&mut self, token: &str, now: Now) -> Result<Claims, identity::Error> {
        self.verify_once_valid(token, now)
    }

    fn verify_once_valid(&mut self, token: &str, now: Now) -> Result<Claims, identity::Error> {
        let claims = self.0.verify_once_valid(token, now)?;
        Ok(Claims { expires: Duration::from_secs(u64::MAX), ..claims })
    }
}

/// Whoever takes its own token for one that lives for ever does not renew its place: this one stands
/// for a published member that has been in a group for an hour but for the rest.
fn never_renewed(name: &str, node: &Node) -> (api::Node, App) {
    let believing = Box::new(Believing(verifier()));
    let (here, app, _) = connected_app_with(name, node, Box::new(Aged::new(name)), believing);
    (here, app)
}

/// When such a token has been too old for a while: at 3,610 seconds, and with `SLIM_SOAK` at 3,705.
fn long_past() -> Duration {
    match std::env::var_os("SLIM_SOAK") {
        Some(_) => rest() * 2 + Duration::from_secs(5),
        None => rest() * 3 / 2,
    }
}

/// An app in this process whose tokens are an hour old but for the rest.
fn aged(name: &str, node: &Node) -> (api::Node, App) {
    app(name, node, Box::new(Aged::new(name)))
}

fn sealed(kind: Kind) -> SessionOptions {
    SessionOptions { kind, mls: Some(Mls::default()), events: true, ..SessionOptions::default() }
}

/// Our moderator and our member, both with old tokens, and published members.
fn an_hour_under_our_moderator() {
    let node = Node::start(Ours, "enforce");
    let setting = Setting { mls: true, binding: "enforce", ..Setting::new(&node) };
    let mut wheels: Vec<Member> =
        ["org/ns/w1", "org/ns/w2"].iter().map(|name| setting.participant(Wheel, name)).collect();
    let (_b, bob) = aged("org/ns/bob", &node);
    let (_a, ann) = aged("org/ns/ann", &node);
    let ours = ann.open(&sealed(Kind::Group), ROOM, Some(PATIENCE)).unwrap();
    for name in ["org/ns/w1", "org/ns/bob"] {
        ours.invite(name, Some(PATIENCE)).unwrap();
    }
    let theirs = bob.accept(true, Some(PATIENCE)).unwrap();
    let begun = Instant::now();
    let talk = |wheels: &mut [Member], text: &str, others: &[usize]| {
        say(&ours, &format!("{text} of ann")).unwrap();
        say(&theirs, &format!("{text} of bob")).unwrap();
        heard(&theirs, &format!("{text} of ann"));
        heard(&ours, &format!("{text} of bob"));
        for at in others {
            for line in ["ann", "bob"].map(|who| format!("org/ns/{who} > {text} of {who}")) {
                wheels[*at].process.wait_for(&line, |known| known == line);
            }
            wheels[*at].tell(&format!("{text} of {at}"), "delivered");
            heard(&ours, &format!("{text} of {at}"));
            heard(&theirs, &format!("{text} of {at}"));
        }
    };
    talk(&mut wheels, "young", &[0]);
    // Until the tokens that all came in with are long past.
    let mut said = 0;
    while begun.elapsed() < long_past() {
        talk(&mut wheels, &format!("{said} on the way"), &[0]);
        said += 1;
        thread::sleep(rest() / 10);
    }
    ours.invite("org/ns/w2", Some(PATIENCE)).unwrap();
    talk(&mut wheels, "old", &[0, 1]);
    ours.remove("org/ns/w1", Some(PATIENCE)).unwrap();
    talk(&mut wheels, "last", &[1]);
}

/// Our member in a published moderator's group.
fn an_hour_under_a_published_moderator() {
    let node = Node::start(Ours, "enforce");
    let setting = Setting { mls: true, binding: "enforce", ..Setting::new(&node) };
    let (_b, bob) = aged("org/ns/bob", &node);
    let begun = Instant::now();
    let mut moderator = setting.moderator(Wheel, "org/ns/mod", &["org/ns/bob"]);
    let theirs = bob.accept(true, Some(PATIENCE)).unwrap();
    say(&theirs, "young").unwrap();
    let line = "org/ns/bob > young";
    moderator.process.wait_for(line, |known| known == line);
    // It is told when its token has expired, and not before.
    let told = loop {
        match theirs.receive(Some(PATIENCE + rest())) {
            Ok(Item::Event(Event::EncryptionLost(text))) => break text,
            Ok(_) => {}
            Err(error) => panic!("not told: {error}"),
        }
    };
    assert!(told.contains("expired"), "{told}");
    assert!(begun.elapsed() + Duration::from_secs(2) > rest(), "{:?}", begun.elapsed());
    // What it says is not believed any more, to the second; what it hears is.
    thread::sleep(Duration::from_secs(2));
    moderator.tell("from mod", "delivered");
    heard(&theirs, "from mod");
    let refused = say(&theirs, "old");
    assert!(matches!(refused, Err(Error::Undelivered(_))), "{refused:?}");
    assert_eq!(moderator.got("org/ns/bob > old"), 0);
}

/// Our side of a session with a published peer, whoever opened it.
fn an_hour_between_two(initiator: Who) {
    let node = Node::start(Ours, "enforce");
    let identity = Aged::new("org/ns/ann");
    let young = Arc::clone(&identity.young);
    let (_a, ann) = app("org/ns/ann", &node, Box::new(identity));
    let endpoint = node.endpoint();
    let mut command = wheel(if initiator == Ours { "echo" } else { "send" });
    command.args(["--local", "org/ns/peer", "--slim", &endpoint, "--seconds", "300", "--mls"]);
    command.env("SLIM_IDENTITY_BINDING", "enforce");
    let every = rest() / 10;
    // One at once, and one more than it takes.
    let count = long_past().as_secs() / every.as_secs() + 2;
    let (times, seconds) = (count.to_string(), every.as_secs().to_string());
    match initiator {
        Ours => command.arg("--reply"),
        Wheel => {
            command.args(["--remote", "org/ns/ann", "--reply"]);
            command.args(["--count", &times, "--every", &seconds])
        }
    };
    let mut peer = Process::start("peer", &mut command);
    peer.wait_for("ready", |line| line.contains("ready"));
    let begun = match initiator {
        Ours => {
            let session = ann.open(&sealed(Kind::PointToPoint), "org/ns/peer", Some(PATIENCE));
            let session = session.unwrap();
            let begun = Instant::now();
            let mut said = 0;
            while begun.elapsed() < long_past() {
                say(&session, &format!("{said}")).unwrap();
                heard(&session, &format!("{said} from upstream"));
                said += 1;
                thread::sleep(every);
            }
            begun
        }
        Wheel => {
            let session = ann.accept(true, Some(PATIENCE)).unwrap();
            let begun = Instant::now();
            // A published initiator renews a place once only, so that it matters how old its new
            // token is.
            young.store(true, Ordering::Relaxed);
            for _ in 0..count {
                heard(&session, "hello");
                say(&session, "and to you").unwrap();
            }
            peer.expect_success();
            let replies = format!("\"replies\": {count}");
            assert!(peer.output().contains(&replies), "{}", peer.output());
            begun
        }
    };
    assert!(begun.elapsed() > long_past(), "{:?}", begun.elapsed());
}

/// A session that a published peer opened, until the token with which ours renewed its place has
/// expired as well: that peer does not answer a second request.
fn twice_under_a_published_initiator() {
    let node = Node::start(Ours, "enforce");
    let (_a, ann) = aged("org/ns/ann", &node);
    let endpoint = node.endpoint();
    let mut command = wheel("send");
    command.args(["--local", "org/ns/peer", "--slim", &endpoint, "--mls", "--remote"]);
    command.args(["org/ns/ann", "--count", "2", "--every", "280"]);
    let peer = Process::start("peer", command.env("SLIM_IDENTITY_BINDING", "enforce"));
    let session = ann.accept(true, Some(PATIENCE)).unwrap();
    let begun = Instant::now();
    let mut last = Duration::ZERO;
    let refused = loop {
        if let Err(error) = say(&session, "still here") {
            break error;
        }
        last = begun.elapsed();
        assert!(last < 2 * rest(), "{last:?}, {}", peer.output());
        thread::sleep(Duration::from_secs(1));
    };
    assert!(matches!(refused, Error::Undelivered(_)), "{refused:?}");
    assert!(last > rest() * 5 / 4, "{last:?}");
    loop {
        match session.receive(Some(PATIENCE)) {
            Ok(Item::Event(Event::EncryptionLost(why))) if why.contains("request for") => break,
            Ok(_) => {}
            Err(error) => panic!("not told: {error}"),
        }
    }
}

/// Tokens that are almost an hour old when their owners join.
#[test]
fn spec05_16_after_an_hour() {
    all_at_once(vec![
        Box::new(an_hour_under_our_moderator),
        Box::new(an_hour_under_a_published_moderator),
        Box::new(|| an_hour_between_two(Ours)),
        Box::new(|| an_hour_between_two(Wheel)),
        Box::new(twice_under_a_published_initiator),
    ]);
}

/// A member that came in an hour ago and never renewed its place, in a group of our moderator with
/// published members that came in with younger tokens: no published member can come in until it is
/// removed, and when it is removed they do not follow at once.
fn the_oldest_under_our_moderator(invites: bool) {
    let node = Node::start(Ours, "enforce");
    let setting = Setting { mls: true, binding: "enforce", reply: false, ..Setting::new(&node) };
    let mut w1 = setting.participant(Wheel, "org/ns/w1");
    let w2 = setting.participant(Wheel, "org/ns/w2");
    let (_o, old) = never_renewed("org/ns/old", &node);
    let [(_b, bob), (_c, carol), (_a, ann)] = ["org/ns/bob", "org/ns/carol", "org/ns/ann"]
        .map(|name| app(name, &node, Box::new(identity(name))));
    // Longer than it takes until whoever could not come in sends its first heartbeat: 10 seconds.
    let reliable = Some(Retry { interval: Duration::from_secs(1), max_retries: 20 });
    let options = SessionOptions { reliable, ..sealed(Kind::Group) };
    let ours = ann.open(&options, ROOM, Some(PATIENCE)).unwrap();
    for name in ["org/ns/w1", "org/ns/bob", "org/ns/old"] {
        ours.invite(name, Some(PATIENCE)).unwrap();
    }
    let bobs = bob.accept(true, Some(PATIENCE)).unwrap();
    let theirs = old.accept(true, Some(PATIENCE)).unwrap();
    let begun = Instant::now();
    let hears = |wheel: &Member, line: &str| {
        wheel.process.wait_for(line, |known| known == line);
    };
    say(&theirs, "young").unwrap();
    hears(&w1, "org/ns/old > young");
    heard(&ours, "young");
    thread::sleep(long_past().saturating_sub(begun.elapsed()));

    // Only published members refuse what it says, and it hears all.
    say(&ours, "to the old").unwrap();
    hears(&w1, "org/ns/ann > to the old");
    heard(&theirs, "to the old");
    w1.tell("also to the old", "delivered");
    heard(&theirs, "also to the old");
    let refused = theirs.publish_start(b"from the old", &PublishOptions::default()).unwrap();
    heard(&ours, "from the old");
    // Ours come and go, and a published member follows.
    ours.invite("org/ns/carol", Some(PATIENCE)).unwrap();
    let carols = carol.accept(true, Some(PATIENCE)).unwrap();
    say(&carols, "from carol").unwrap();
    hears(&w1, "org/ns/carol > from carol");
    ours.remove("org/ns/carol", Some(PATIENCE)).unwrap();
    say(&ours, "without carol").unwrap();
    hears(&w1, "org/ns/ann > without carol");

    if invites {
        let nobody = ours.invite("org/ns/w2", Some(PATIENCE));
        let told = matches!(&nobody, Err(Error::NoRoute(why)) if why.contains("the welcome"));
        assert!(told, "{nobody:?}");
        w2.is_out(0);
        // The epoch in its heartbeats is the highest there is. So the other has asked for new keys,
        // and does not get in again either.
        let lost = "failed to process rejoin welcome";
        w1.process.wait_for(lost, |line| line.contains(lost));
        let alone = say(&ours, "nobody there");
        assert!(
            matches!(&alone, Err(Error::Undelivered(why)) if why.contains(&w1.full)),
            "{alone:?}"
        );
        let refused = refused.wait(Some(PATIENCE));
        assert!(matches!(&refused, Err(Error::Undelivered(_))), "{refused:?}");
    }
    let removing = Instant::now();
    ours.remove("org/ns/old", Some(PATIENCE)).unwrap();
    // Who follows confirms it at once.
    assert!(invites || removing.elapsed() > Duration::from_secs(10), "{:?}", removing.elapsed());
    while !matches!(theirs.receive(Some(PATIENCE)).unwrap(), Item::Event(Event::Closed(_))) {}
    // It asks for new keys when it hears of the others' epoch. Its own token is young enough.
    let until = Instant::now() + PATIENCE;
    while w1.got("org/ns/ann > again") == 0 {
        assert!(Instant::now() < until, "{}", w1.process.output());
        let _ = say(&ours, "again");
    }
    assert_eq!(w1.got("org/ns/old > from the old"), 0);
    ours.invite("org/ns/w2", Some(PATIENCE)).unwrap();
    say(&bobs, "all together").unwrap();
    [&w1, &w2].iter().for_each(|wheel| hears(wheel, "org/ns/bob > all together"));
    // It may wait for the old one's answer: the change that it refused is not told again.
    w1.process.tell("and from w1");
    hears(&w2, "org/ns/w1 > and from w1");
    heard(&ours, "and from w1");
}

/// A member that came in an hour ago, in a group of a published moderator with a younger token: ours
/// are spared there, and do not renew theirs.
fn the_oldest_under_a_published_moderator() {
    let node = Node::start(Ours, "enforce");
    let setting = Setting { mls: true, binding: "enforce", reply: false, ..Setting::new(&node) };
    let w1 = setting.participant(Wheel, "org/ns/w1");
    let w2 = setting.participant(Wheel, "org/ns/w2");
    let (_b, bob) = aged("org/ns/bob", &node);
    let mut moderator = setting.moderator(Wheel, "org/ns/mod", &["org/ns/w1", "org/ns/bob"]);
    let theirs = bob.accept(true, Some(PATIENCE)).unwrap();
    say(&theirs, "young").unwrap();
    thread::sleep(long_past());

    let cannot = |moderator: &mut Member, line: &str| {
        let before = moderator.process.len();
        moderator.process.tell(line);
        let failed = format!("! failed: {line}");
        moderator.process.wait_after(before, &failed, |lines| {
            let at = lines.iter().position(|line| line.starts_with(&failed))?;
            lines[at..].iter().any(|line| line.contains("token invalid")).then_some(())
        });
    };
    cannot(&mut moderator, "invite org/ns/w2");
    assert_eq!(w2.process.count("! session"), 0);
    // It takes it off its list, and not out of the group: it still reads what is said.
    cannot(&mut moderator, "remove org/ns/bob");
    let participants = moderator.participants();
    assert_eq!(participants.len(), 2, "{participants:?}");
    moderator.tell("removed?", "delivered");
    heard(&theirs, "removed?");
    // One with a younger token can be removed. The other hears no more after that, and is told.
    moderator.tell("remove org/ns/w1", "removed org/ns/w1");
    w1.is_out(0);
    moderator.process.tell("alone");
    loop {
        match theirs.receive(Some(2 * PATIENCE)) {
            Ok(Item::Event(Event::EncryptionLost(why))) if why.contains("request for") => break,
            Ok(Item::Event(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The place of one member is an hour old, and those of the others are not.
#[test]
fn spec05_16_after_an_hour_of_one() {
    all_at_once(vec![
        Box::new(|| the_oldest_under_our_moderator(true)),
        Box::new(|| the_oldest_under_our_moderator(false)),
        Box::new(the_oldest_under_a_published_moderator),
    ]);
}

/// What is waited for overlaps; but not that of two tests, whose wheels would be too many at once.
fn all_at_once(cases: Vec<Box<dyn Fn() + Send>>) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|case| scope.spawn(case)).collect();
        let failed = running.into_iter().filter_map(|case| case.join().err());
        assert_eq!(failed.count(), 0, "above");
    });
}
