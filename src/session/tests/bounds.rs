//! What peers may cost: sizes, times, memory.

use super::defects::{again, recorded};
use super::*;
use crate::name::{app_id, NameId};

/// Opens a session that nothing answers.
fn try_to_open(pair: &mut Pair, config: SessionConfig) -> Result<SessionKey, Error> {
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    pair.with(0, |app, cx| app.open(config, &to, op, cx))
}

/// Has Bob asked for the discovery of `session`, and says whether he answered.
fn discovered(pair: &mut Pair, request: &Message, session: u32) -> bool {
    let mut message = request.clone();
    if let Some(MessageType::Publish(publish)) = &mut message.message_type {
        publish.session.as_mut().unwrap().session_id = session;
    }
    sign_as(&mut message, "o/n/alice_x");
    let before = pair.count(1, T::DiscoveryReply);
    pair.inject(1, message);
    pair.count(1, T::DiscoveryReply) > before
}

/// Alice's discovery request, which was lost, and Bob's first answer to it in session 0.
fn a_discovery() -> (Pair, Message) {
    let mut pair = Pair::new();
    pair.copies = Box::new(|_, _| 0);
    try_to_open(&mut pair, config(true)).unwrap();
    let request = recorded(&pair, 0, T::DiscoveryRequest);
    assert!(discovered(&mut pair, &request, 0));
    (pair, request)
}

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
fn best_effort_at_a_full_inbox_is_dropped_and_counted() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(false);
    pair.publish(0, ours, "before");
    pair.with(1, |app, cx| app.set_inbox_full(theirs, true, cx));
    for n in 0..5 {
        pair.publish(0, ours, &n.to_string());
    }
    assert_eq!(pair.apps[1].losses(), Losses { lost: 5, unreadable: 0 });
    pair.with(1, |app, cx| app.set_inbox_full(theirs, false, cx));
    pair.publish(0, ours, "after");
    assert_eq!(pair.seen[1].messages, ["before", "after"]);
    // What was counted stays when the session is over.
    pair.close(0, ours);
    assert_eq!(pair.apps[1].sessions(), 0);
    assert_eq!(pair.apps[1].losses().lost, 5);
    assert_eq!(pair.apps[0].losses(), Losses::default());
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

#[test]
fn a_member_is_offline_after_so_many_silent_looks() {
    let mut pair = Pair::new();
    pair.open(true);
    pair.run(limits::HEARTBEAT / 2);
    pair.copies = Box::new(|from, _| usize::from(from == 0));
    pair.run((limits::MISSED_HEARTBEATS - 1) * limits::HEARTBEAT);
    assert_eq!(pair.seen[0].events, [], "at the limit");
    pair.run(limits::HEARTBEAT);
    assert_eq!(pair.seen[0].events, [Event::PeerOffline(pair.names[1].clone())]);
}

#[test]
fn a_message_is_repeated_as_often_as_the_defaults_say() {
    let mut pair = Pair::new();
    let ours = try_to_open(&mut pair, SessionConfig::default()).unwrap();
    pair.copies = Box::new(|_, _| 0);
    let publish = pair.publish(0, ours, "into the void");
    let tick = Duration::from_millis(1);
    let whole = (limits::MAX_RETRIES + 1) * limits::RETRY_INTERVAL;
    pair.run(whole - tick);
    assert_eq!(pair.count(0, T::Msg), 1 + limits::MAX_RETRIES as usize);
    assert!(!pair.done.contains_key(&publish));
    pair.run(tick);
    assert!(matches!(pair.done[&publish].1, Err(Error::Undelivered(_))));
    assert_eq!(pair.count(0, T::Msg), 1 + limits::MAX_RETRIES as usize);
}

#[test]
fn an_app_has_so_many_sessions_and_no_more() {
    let mut pair = Pair::new();
    pair.open(true);
    let request = recorded(&pair, 0, T::DiscoveryRequest);
    let join = recorded(&pair, 0, T::JoinRequest);
    let to = Name::parse("o/n/nobody").unwrap();
    // Bob has one already.
    for _ in 1..limits::SESSIONS {
        let mut cx = Context { now: pair.now, entropy: &mut pair.entropy };
        pair.apps[1].open(config(true), &to, OpId(0), &mut cx).unwrap();
        while pair.apps[1].poll_output().is_some() {}
    }
    assert_eq!(pair.apps[1].sessions(), limits::SESSIONS);
    let mut cx = Context { now: pair.now, entropy: &mut pair.entropy };
    let refused = pair.apps[1].open(config(true), &to, OpId(0), &mut cx);
    let text = format!("the app has {} sessions, its limit", limits::SESSIONS);
    assert_eq!(refused, Err(Error::Limit(text)));
    // Nor is an invitation accepted.
    assert!(discovered(&mut pair, &request, 5));
    let mut another = join.clone();
    if let Some(MessageType::Publish(publish)) = &mut another.message_type {
        publish.session.as_mut().unwrap().session_id = 5;
    }
    sign_as(&mut another, "o/n/alice_x");
    let before = pair.count(1, T::JoinReply);
    pair.inject(1, another);
    assert_eq!((pair.count(1, T::JoinReply), pair.apps[1].sessions()), (before, limits::SESSIONS));
}

#[test]
fn answered_discoveries_are_remembered_up_to_a_number() {
    let (mut pair, request) = a_discovery();
    for other in 1..limits::DISCOVERY_MEMO as u32 {
        assert!(discovered(&mut pair, &request, other));
    }
    assert!(!discovered(&mut pair, &request, 0), "at the limit");
    assert!(discovered(&mut pair, &request, limits::DISCOVERY_MEMO as u32));
    assert!(discovered(&mut pair, &request, 0), "the oldest is forgotten for another");
}

#[test]
fn an_answered_discovery_is_remembered_for_a_time() {
    let tick = Duration::from_millis(1);
    let mut pair = Pair::new();
    pair.open(true);
    let request = recorded(&pair, 0, T::DiscoveryRequest);
    let Some(MessageType::Publish(publish)) = &request.message_type else { panic!() };
    // The session itself would take the request: it ends.
    let session = publish.session.unwrap().session_id;
    pair.apps[1].shut_down(&mut Context { now: pair.now, entropy: &mut pair.entropy });
    pair.settle();
    let at = |pair: &mut Pair, after: Duration| pair.now = pair.start.after(after);
    at(&mut pair, limits::DISCOVERY_MEMO_TIME - tick);
    assert!(!discovered(&mut pair, &request, session), "it has been invited");
    at(&mut pair, limits::DISCOVERY_MEMO_TIME);
    assert!(discovered(&mut pair, &request, session), "forgotten");
}

#[test]
fn a_discovery_is_answered_again_after_a_while() {
    let tick = Duration::from_millis(1);
    let (mut pair, request) = a_discovery();
    pair.now = pair.now.after(limits::DISCOVERY_REPEAT - tick);
    assert!(!discovered(&mut pair, &request, 0));
    pair.now = pair.now.after(tick);
    assert!(discovered(&mut pair, &request, 0));
    pair.now = pair.now.after(limits::DISCOVERY_REPEAT - tick);
    assert!(!discovered(&mut pair, &request, 0), "counted from the last answer");
}

#[test]
fn strangers_do_not_push_out_what_members_sent() {
    let mut pair = Pair::new();
    pair.open(true);
    pair.run(Duration::from_secs(25));
    let heartbeat = recorded(&pair, 1, T::Heartbeat);
    pair.copies = Box::new(|from, _| usize::from(from == 0));
    pair.run(Duration::from_secs(30));
    assert!(matches!(pair.seen[0].events[..], [Event::PeerOffline(_)]));
    for n in 0..=limits::SEEN_CONTROL_SENDERS {
        let mut message = heartbeat.clone();
        let subject = format!("stranger{n}");
        let name = Name::parse("o/n/stranger").unwrap().with_id(app_id(&subject));
        header(&mut message).source = Some(name.to_wire());
        header(&mut message).identity = format!("test:{subject}:1800000000");
        sign_as(&mut message, &subject);
        pair.inject(0, message);
    }
    pair.inject(0, heartbeat);
    assert_eq!(pair.seen[0].events.len(), 1, "it was seen before");
}

/// Alice opens a session and closes it: her goodbye, should its answer have been lost.
fn a_goodbye(pair: &mut Pair) -> Message {
    let (ours, _) = pair.open(true);
    let before = pair.sent.len();
    pair.close(0, ours);
    let goodbye = pair.sent[before..].iter().find(|(_, m)| kind(m) == T::GroupClose);
    goodbye.unwrap().1.clone()
}

fn answered_again(pair: &mut Pair, goodbye: &Message) -> bool {
    let before = pair.count(1, T::GroupAck);
    pair.inject(1, goodbye.clone());
    pair.count(1, T::GroupAck) > before
}

#[test]
fn the_last_answers_of_so_many_sessions_are_kept() {
    let mut pair = Pair::new();
    // `open` lets time pass: here none may.
    let goodbyes: Vec<Message> = (0..=limits::ENDED_SESSIONS)
        .map(|_| {
            pair.now = pair.start;
            a_goodbye(&mut pair)
        })
        .collect();
    pair.now = pair.start;
    assert!(answered_again(&mut pair, &goodbyes[1]), "at the limit");
    assert!(!answered_again(&mut pair, &goodbyes[0]), "the oldest is forgotten for another");
}

#[test]
fn the_last_answer_of_a_session_is_kept_for_a_time() {
    let tick = Duration::from_millis(1);
    let mut pair = Pair::new();
    let goodbye = a_goodbye(&mut pair);
    // Counted from the next look of a session that began with the pair.
    let until = limits::HEARTBEAT + limits::ENDED_SESSION_TIME;
    pair.now = pair.start.after(until - tick);
    assert!(answered_again(&mut pair, &goodbye));
    pair.now = pair.start.after(until);
    assert!(!answered_again(&mut pair, &goodbye));
}
