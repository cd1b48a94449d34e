//! The simulator: whole networks in virtual time, and what must hold whatever happens to them.
//!
//! A seed chooses the network (one node or two, apps with or without a process of their own), the
//! sessions and what becomes of them, and the faults. Three rounds of faults are each followed by
//! rest, in which everything must settle and work. What is checked all the time and at the end:
//!
//! 1. A publish of a reliable session that succeeds has been delivered; nothing is delivered twice.
//!    One that fails had a reason: without trouble in its time it must succeed.
//! 2. Messages of one sender come in their order.
//! 3. They come out of the session that they were published in, and of no other.
//! 4. Every operation ends within its bound, with one answer.
//! 5. Room for publishes comes back, all of it.
//! 6. Once the faults stop, connections, subscriptions and sessions settle within a minute.
//! 7. Tables hold what they must and no more; after all sessions are closed, apps hold nothing, and after
//!    the end of the nodes nothing is left.
//! 8. The same seed gives the same bytes on every link.
//!
//! Groups have histories of their own, with these promises:
//!
//! 9. A publish of a reliable group that succeeds has been delivered to every member that was online as
//!    the sender saw it, or that member has left since; nothing is delivered twice.
//! 10. Nothing is delivered to an app that is not in the group, or was invited when the message had
//!     reached everybody; nothing of a member that has left, as the receiver was told.
//! 11. Who confirmed its removal, or the end of the group, is out; who was welcomed is in. In the end,
//!     whoever is out knows it, and members agree about who is in and who of them is there.
//!
//! Encrypted histories of either kind keep the same promises, and two more (with real identities,
//! whose signatures are not chosen by the seed: a replay may differ in lengths):
//!
//! 12. No payload is on any link, and each is received as its sender's (this in groups).
//! 13. In the end, those who talk have the same keys.
//!
//! `SLIM_SIM_SEEDS=n` runs n seeds (of encrypted ones n / 50), `SLIM_SIM_FIRST=n` begins with another one than 0,
//! `SLIM_SIM_GO_ON=1` does not stop at one that fails; `SLIM_SIM_SEED=n` replays one. Seeds that ever
//! failed stand in `sim/seeds.txt` and `sim/group_seeds.txt` and run first.

#[path = "sim/groups.rs"]
mod groups;
#[path = "sim/history.rs"]
mod history;
#[path = "sim/network.rs"]
mod network;
#[path = "world/mod.rs"]
mod world;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use groups::Groups;
use history::{History, Outcome};

/// Seeds of a run that is not told otherwise.
const SEEDS: u64 = 2000;
/// Encrypted groups cost real cryptography: one of so many.
const ENCRYPTED: u64 = 50;

#[test]
fn every_history_keeps_the_promises() {
    run(include_str!("sim/seeds.txt"), 1, &|seed| History::new(seed).run());
}

#[test]
fn every_encrypted_history_keeps_the_promises() {
    run("", ENCRYPTED, &|seed| History::encrypted(seed).run());
}

#[test]
fn every_history_of_groups_keeps_the_promises() {
    run(include_str!("sim/group_seeds.txt"), 1, &|seed| Groups::new(seed).run());
}

#[test]
fn every_history_of_encrypted_groups_keeps_the_promises() {
    let seeds = include_str!("sim/encrypted_seeds.txt");
    run(seeds, ENCRYPTED, &|seed| Groups::encrypted(seed).run());
}

/// Runs the histories of the seeds that ever failed, and of one in so many others.
fn run(committed: &str, one_of: u64, history: &(dyn Fn(u64) -> Outcome + Sync)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let committed = committed.lines().filter(|line| !line.starts_with('#'));
    let committed = committed.map(|line| line.trim().parse().expect("a seed"));
    let first = number("SLIM_SIM_FIRST").unwrap_or(0);
    let seeds: Vec<u64> = match number("SLIM_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let many = number("SLIM_SIM_SEEDS").unwrap_or(SEEDS).div_ceil(one_of);
            committed.chain(first..first + many).collect()
        }
    };
    let (next, steps, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    let goes_on = std::env::var_os("SLIM_SIM_GO_ON").is_some();
    let worker = || {
        while goes_on || !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed) as usize;
            let Some(&seed) = seeds.get(at) else { return };
            match catch_unwind(AssertUnwindSafe(|| history(seed))) {
                Ok(outcome) => drop(steps.fetch_add(outcome.steps, Ordering::Relaxed)),
                Err(_) => {
                    eprintln!("seed={seed}: replay with SLIM_SIM_SEED={seed}, then add it to the seeds in tests/sim");
                    failed.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    assert!(!failed.into_inner(), "a seed failed");
    eprintln!("seeds={} steps={} in {:?}", seeds.len(), steps.into_inner(), start.elapsed());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in 0..5 {
        assert_eq!(History::new(seed).run(), History::new(seed).run(), "seed {seed}");
        assert_eq!(Groups::new(seed).run(), Groups::new(seed).run(), "seed {seed}");
    }
}
