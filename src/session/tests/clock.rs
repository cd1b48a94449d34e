//! The clock of the world is put forward or back while sessions are open (spec 04 section 1): timers do
//! not notice, tokens are minted anew, and old ones are judged by the rules.

use super::*;
use crate::identity::{SharedSecret, SharedSecretVerifier};

const HOUR: i64 = 3600;
const SECRET: &str = "a secret of at least 32 characters";

/// With real tokens, which say when they were issued.
fn pair() -> Pair {
    let mut entropy = SeededEntropy::new(2);
    Pair::with_identities(Binding::Enforce, |name| {
        let provider = SharedSecret::new(name, SECRET, &mut entropy).unwrap();
        (Box::new(provider), Box::new(SharedSecretVerifier::new(SECRET).unwrap()))
    })
}

fn both(pair: &mut Pair, sessions: (SessionKey, SessionKey)) {
    for (at, key) in [(0, sessions.0), (1, sessions.1)] {
        let op = pair.publish(at, key, "through");
        pair.run(T);
        assert_eq!(pair.done[&op].1, Ok(()));
        assert_eq!(pair.seen[1 - at].messages.last().unwrap(), "through");
    }
}

#[test]
fn a_clock_that_jumps_for_all_disturbs_no_session() {
    for jump in [HOUR, -HOUR, HOUR + 1, -HOUR - 1, 24 * HOUR] {
        let mut pair = pair();
        let sessions = pair.open(true);
        both(&mut pair, sessions);
        let last_token =
            |pair: &mut Pair| header(&mut pair.sent.last_mut().unwrap().1).identity.clone();
        let before = last_token(&mut pair);
        pair.ahead = [jump; 2];
        both(&mut pair, sessions);
        assert_ne!(last_token(&mut pair), before, "minted anew");
        pair.run(Duration::from_secs(60));
        assert!(pair.seen.iter().all(|seen| seen.events.is_empty()), "{jump}: heartbeats count");
        assert!(pair.count(0, T::Heartbeat) > 3);
        let close = pair.close(0, sessions.0);
        assert_eq!(pair.done[&close].1, Ok(()), "{jump}");
        assert!(pair.apps.iter().all(App::is_idle));
    }
}

#[test]
fn a_clock_that_jumps_during_the_handshake_is_overcome_by_the_next_try() {
    for jump in [HOUR + 1, -HOUR - 1] {
        for lost in [T::DiscoveryRequest, T::DiscoveryReply, T::JoinReply, T::GroupAck] {
            let mut pair = pair();
            pair.copies = first(lost, 0);
            let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
            pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
            assert!(!pair.done.contains_key(&op));
            pair.ahead = [jump; 2];
            pair.run(2 * T);
            assert_eq!(pair.done[&op].1, Ok(()), "{jump} {lost:?}");
        }
    }
}

#[test]
fn what_was_on_its_way_when_the_clock_jumped_is_judged_by_its_age() {
    // An hour old is good, a second more is not; five seconds in the future are good, six are not.
    for (jump, good) in [(HOUR, true), (HOUR + 1, false), (-5, true), (-6, false)] {
        let mut pair = pair();
        pair.copies = Box::new(|_, _| 0);
        let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
        pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
        let request = pair.sent[0].1.clone();
        pair.ahead = [jump; 2];
        pair.with(1, |app, cx| app.handle_message(request, ConnectionId(9), cx));
        assert_eq!(pair.count(1, T::DiscoveryReply), usize::from(good), "{jump}");
    }
}

#[test]
fn one_clock_that_is_wrong_ends_what_it_must_and_nothing_hangs() {
    for jump in [HOUR + 60, -HOUR - 60] {
        let mut pair = pair();
        let sessions = pair.open(true);
        pair.ahead = [jump, 0];
        // Data is not proved by tokens.
        both(&mut pair, sessions);
        // Heartbeats are, in both directions.
        pair.run(Duration::from_secs(40));
        for seen in &pair.seen {
            assert!(matches!(seen.events[..], [Event::PeerOffline(_)]), "{jump}");
        }
        let publish = pair.publish(0, sessions.0, "to nobody");
        pair.run(5 * T);
        assert!(matches!(pair.done[&publish].1, Err(Error::Undelivered(_))));
        let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
        pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
        pair.run(5 * T);
        assert!(matches!(pair.done[&op].1, Err(Error::NoRoute(_))));
        // Put right, all is well again.
        pair.ahead = [0; 2];
        pair.run(Duration::from_secs(11));
        for seen in &pair.seen {
            assert!(matches!(seen.events[1..], [Event::PeerOnline(_)]), "{jump}");
        }
        both(&mut pair, sessions);
        // Put wrong once more, the goodbye is not believed; it ends all the same.
        pair.ahead = [jump, 0];
        let close = pair.close(0, sessions.0);
        pair.run(5 * T);
        assert!(matches!(pair.done[&close].1, Err(Error::Undelivered(_))));
        assert!(pair.apps[0].is_idle());
    }
}
