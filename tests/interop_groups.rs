//! Groups whose members are our programs and the published implementation (the wheel), in every
//! place: node, moderator, participant. Both read the same words and say the same lines.

#[path = "interop/support.rs"]
mod support;

use std::time::{Duration, Instant};

use support::Who::{Ours, Wheel};
use support::{slim, wheel, Node, Process, Turn, Who, PATIENCE, SECRET};

const ROOM: &str = "org/ns/room";

/// How a group is made.
#[derive(Clone, Copy)]
struct Setting<'a> {
    node: &'a Node,
    reliable: bool,
    binding: &'a str,
    /// Milliseconds between two tries, and how often.
    retry: (u32, u32),
}

impl<'a> Setting<'a> {
    fn new(node: &'a Node) -> Setting<'a> {
        Setting { node, reliable: true, binding: "", retry: (1000, 5) }
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
        command.args(["--local", name, "--slim", &self.node.endpoint(), "--reply"]);
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
        process.wait_for("ready", |line| line.starts_with("! ready"));
        Member { name: name.to_owned(), process }
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
        let process = Process::start_listening(name, &mut command);
        for name in invites {
            process.wait_for("an invitation", |line| line == format!("! invited {name}"));
        }
        Member { name: name.to_owned(), process }
    }
}

struct Member {
    name: String,
    process: Process,
}

impl Member {
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

    /// Who takes part, as it sees it: names without ids, and whether they are online.
    fn participants(&mut self) -> Vec<String> {
        let before = self.process.len();
        self.process.tell("participants");
        let mut found = self.process.wait_after(before, "participants", |lines| {
            let head = lines.iter().position(|line| line.ends_with(" participants"))?;
            let count = lines[head].split(' ').nth(1)?.parse().ok()?;
            let them = lines[head + 1..].iter().filter(|line| is_participant(line));
            let them: Vec<String> = them.take(count).map(|line| without_id(line)).collect();
            (them.len() == count).then_some(them)
        });
        found.sort();
        found
    }

    fn got(&self, line: &str) -> usize {
        self.process.lines().iter().filter(|known| *known == line).count()
    }
}

fn is_participant(line: &str) -> bool {
    line.starts_with("! org/") && (line.ends_with(" online") || line.ends_with(" offline"))
}

/// "! org/ns/p1/ID online" without its mark and id.
fn without_id(line: &str) -> String {
    let (name, state) = line[2..].split_once(' ').unwrap();
    format!("{} {state}", name.rsplit_once('/').unwrap().0)
}

/// A group: the moderator first.
struct Group {
    members: Vec<Member>,
}

impl Group {
    /// Everybody publishes; all others get it once, and answer its sender alone.
    fn talk(&mut self, members: &[usize], text: &str) {
        for from in members {
            let said = format!("{text} from {from}");
            self.members[*from].tell(&said, "delivered");
            let line = format!("{} > {said}", self.members[*from].name);
            for (at, member) in self.members.iter().enumerate() {
                if members.contains(&at) && at != *from {
                    member.process.wait_for(&line, |known| known == line);
                    let name = &member.name;
                    let answer = format!("{name} > {said} from {name}");
                    let sender = &self.members[*from].process;
                    sender.wait_for(&answer, |known| known == answer);
                }
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

    /// One of them sees these, sooner or later.
    fn sees(&mut self, at: usize, states: &[(usize, &str)]) {
        let words =
            states.iter().map(|(other, state)| format!("{} {state}", self.members[*other].name));
        let mut expected: Vec<String> = words.collect();
        expected.sort();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.members[at].participants();
            if found == expected {
                return;
            }
            let name = &self.members[at].name;
            assert!(Instant::now() < deadline, "{name} sees {found:?}, not {expected:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until these are out of the group.
    fn over(&self, before: &[(usize, usize)]) {
        for (at, before) in before {
            self.members[*at].process.wait_after(*before, "the end of the session", |lines| {
                let over = ["! session over", "! removed by", "! closed by"];
                let is_over = |line: &String| over.iter().any(|start| line.starts_with(start));
                lines.iter().any(is_over).then_some(())
            });
        }
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

/// The life of a group of four: they are invited, everybody talks, one is removed, invited again,
/// another leaves, the moderator closes.
fn life(node: Who, moderator: Who, participants: [Who; 3], reliable: bool, binding: &str) {
    let _turn = Turn::take();
    let node = Node::start(node, binding);
    let setting = Setting { reliable, binding, ..Setting::new(&node) };
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
            $(#[test] fn $name() { life($node, $moderator, [$($participant),*], true, ""); })*
        }
        mod best_effort {
            use super::*;
            $(#[test] fn $name() { life($node, $moderator, [$($participant),*], false, ""); })*
        }
        mod enforced_binding {
            use super::*;
            $(#[test] fn $name() {
                life($node, $moderator, [$($participant),*], true, "enforce");
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
