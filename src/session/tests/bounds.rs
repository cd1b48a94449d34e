//! What peers may cost: sizes, times, memory.

use super::defects::{again, recorded};
use super::*;
use crate::name::{app_id, NameId};

#[test]
fn a_full_inbox_asks_for_nothing_and_loses_nothing() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    // Number 1 and the answers to the requests for it are lost.
    pair.copies = Box::new(|_, message| {
        let first = [T::Msg, T::RtxReply].contains(&kind(message)) && message_id(message) == 1;
        usize::from(!first)
    });
    pair.publish(0, ours, "1");
    pair.publish(0, ours, "2");
    pair.run(T / 2);
    let asked = pair.count(1, T::RtxRequest);
    assert_eq!(asked, 1);
    pair.with(1, |app, cx| app.set_inbox_full(theirs, true, cx));
    pair.copies = Box::new(|_, _| 1);
    // Its requests would be due; it is woken for heartbeats alone.
    let next = pair.apps[1].poll_timeout().unwrap();
    assert!(next > pair.now.mono + 3 * T);
    pair.run(Duration::from_secs(25));
    assert_eq!((pair.count(1, T::RtxRequest), pair.count(1, T::MsgAck)), (asked, 1));
    pair.with(1, |app, cx| app.set_inbox_full(theirs, false, cx));
    assert!(pair.seen[1].messages.is_empty());
    pair.run(T);
    assert_eq!(pair.seen[1].messages, ["1", "2"]);
    assert!(pair.seen[1].events.is_empty(), "nothing is lost");
}

#[test]
fn the_last_request_is_made_again_after_the_inbox_was_full() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    pair.copies = Box::new(|_, message| {
        let first = [T::Msg, T::RtxReply].contains(&kind(message)) && message_id(message) == 1;
        usize::from(!first)
    });
    pair.publish(0, ours, "1");
    pair.publish(0, ours, "2");
    // All requests but the answer to the last are over.
    pair.run(3 * T + T / 2);
    assert_eq!(pair.count(1, T::RtxRequest), 4);
    pair.with(1, |app, cx| app.set_inbox_full(theirs, true, cx));
    pair.run(4 * T);
    pair.copies = Box::new(|_, _| 1);
    pair.with(1, |app, cx| app.set_inbox_full(theirs, false, cx));
    pair.run(T);
    assert_eq!(pair.seen[1].messages, ["1", "2"]);
}

#[test]
fn the_timers_of_an_invitation_are_kept_within_bounds() {
    let mut pair = Pair::new();
    let retry = Retry { interval: Duration::from_millis(1), max_retries: u32::MAX };
    let config = SessionConfig { reliable: Some(retry), ..SessionConfig::default() };
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    pair.with(0, |app, cx| app.open(config, &to, op, cx)).unwrap();
    let theirs = pair.seen[1].accepted[0];
    let fields = pair.apps[1].fields(theirs).unwrap();
    let (interval, max_retries) = (limits::PEER_RETRY_INTERVAL, limits::PEER_MAX_RETRIES);
    assert_eq!(fields.reliable, Some(Retry { interval, max_retries }));
    pair.copies = Box::new(|_, _| 0);
    let (begun, publish) =
        (pair.now.mono - pair.start.mono, pair.publish(1, theirs, "into the void"));
    pair.run(Duration::from_secs(11));
    let (ended, result) = &pair.done[&publish];
    assert!(matches!(result, Err(Error::Undelivered(_))));
    assert_eq!(*ended - begun, (max_retries + 1) * interval);
}

#[test]
fn metadata_of_peers_is_bounded() {
    let pairs = |n: usize, len: usize| {
        move |message: &mut Message| {
            // One pair is the signature.
            message.metadata.extend((1..n).map(|n| (format!("{n:04}"), "v".repeat(len))));
            sign_as(message, "o/n/alice_x");
            assert_eq!(message.metadata.len(), n);
        }
    };
    let (most, longest) = (limits::PEER_METADATA_ENTRIES, limits::METADATA_TEXT);
    assert!(forged(pairs(most, 1), T::DiscoveryRequest));
    assert!(!forged(pairs(most + 1, 1), T::DiscoveryRequest));
    assert!(forged(pairs(2, longest), T::DiscoveryRequest));
    assert!(!forged(pairs(2, longest + 1), T::DiscoveryRequest));
}

#[test]
fn tokens_of_peers_are_bounded() {
    let token = |len: usize| {
        move |message: &mut Message| {
            let frame = "test::1800000000".len();
            let subject = "s".repeat(len - frame);
            let header = header(message);
            header.identity = format!("test:{subject}:1800000000");
            assert_eq!(header.identity.len(), len);
            let source = Name::parse("o/n/alice").unwrap().with_id(app_id(&subject));
            header.source = Some(source.to_wire());
            sign_as(message, &subject);
        }
    };
    assert!(forged(token(limits::TOKEN_LEN), T::JoinRequest));
    assert!(!forged(token(limits::TOKEN_LEN + 1), T::JoinRequest));
}

#[test]
fn names_of_peers_are_bounded() {
    let name = |len: usize| {
        move |message: &mut Message| {
            let name = Name::new(["o", "n", &"s".repeat(len - 2)], app_id("o/n/alice_x"));
            header(message).source = Some(name.to_wire());
            sign_as(message, "o/n/alice_x");
        }
    };
    assert!(forged(name(limits::NAME_LEN), T::JoinRequest));
    assert!(!forged(name(limits::NAME_LEN + 1), T::JoinRequest));
    let member = |len: usize| Name::new(["o", "n", &"s".repeat(len - 2)], NameId(1)).to_wire();
    assert!(Name::from_wire(&member(limits::NAME_LEN)).is_some());
    assert!(Name::from_wire(&member(limits::NAME_LEN + 1)).is_none());
}

#[test]
fn payload_types_of_peers_are_bounded() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.publish(0, ours, "x");
    let message = recorded(&pair, 0, T::Msg);
    for (id, len) in [(2, limits::METADATA_TEXT), (3, limits::METADATA_TEXT + 1)] {
        let mut message = again(&message, id);
        if let Some(MessageType::Publish(publish)) = &mut message.message_type {
            let content = publish.msg.as_mut().unwrap().content_type.as_mut().unwrap();
            let ContentType::AppPayload(payload) = content else { panic!() };
            payload.payload_type = "t".repeat(len);
        }
        pair.inject(1, message);
    }
    assert_eq!((pair.seen[1].messages.len(), pair.count(1, T::MsgAck)), (2, 2));
}
