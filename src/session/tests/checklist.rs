//! Items of the checklist of spec 03 section 20, by their numbers, that nothing else shows.

use super::defects::{again, recorded};
use super::*;

#[test]
fn spec03_6_the_invited_side_takes_over_kind_timers_and_metadata() {
    for reliable in [true, false] {
        let mut pair = Pair::new();
        let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
        let metadata = [("k".to_owned(), "v".to_owned())].into();
        let config = SessionConfig { metadata, ..config(reliable) };
        let ours = pair.with(0, |app, cx| app.open(config.clone(), &to, op, cx)).unwrap();
        let theirs = pair.seen[1].accepted[0];
        let (a, b) = (pair.apps[0].fields(ours).unwrap(), pair.apps[1].fields(theirs).unwrap());
        assert_eq!((a.id, a.kind, a.reliable), (b.id, b.kind, b.reliable));
        assert_eq!((b.reliable, b.metadata), (config.reliable, config.metadata));
        assert_eq!((a.source, b.destination), (pair.names[0].clone(), pair.names[0].clone()));
        assert!(a.initiator && !b.initiator);
    }
}

#[test]
fn spec03_22_a_lost_last_message_is_sent_again_after_the_interval_to_the_full_name() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.publish(0, ours, "1");
    pair.copies = first(T::Msg, 0);
    let op = pair.publish(0, ours, "2");
    pair.run(T - Duration::from_millis(1));
    assert!(!pair.done.contains_key(&op));
    pair.run(Duration::from_millis(1));
    assert_eq!((&pair.done[&op].1, pair.count(0, T::Msg)), (&Ok(()), 3));
    let repeated = |(at, m): &&mut (usize, Message)| *at == 0 && kind(m) == T::Msg;
    let (_, repeated) = pair.sent.iter_mut().rfind(repeated).unwrap();
    let to = header(repeated).destination.as_ref().and_then(Name::from_wire);
    assert_eq!(to, Some(pair.names[1].clone()));
    assert_eq!(pair.seen[1].messages, ["1", "2"]);
}

#[test]
fn spec03_23_a_duplicate_is_acked_again_and_delivered_once() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.copies = first(T::Msg, 2);
    pair.publish(0, ours, "once");
    assert_eq!(
        (pair.count(1, T::MsgAck), &pair.seen[1].messages[..]),
        (2, &["once".to_owned()][..])
    );
}

#[test]
fn spec03_27_best_effort_is_delivered_as_it_arrives() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(false);
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::Msg));
    for text in ["1", "2", "3"] {
        pair.publish(0, ours, text);
    }
    let is_data = |(_, m): &&(usize, Message)| kind(m) == T::Msg;
    let sent: Vec<Message> = pair.sent.iter().filter(is_data).map(|(_, m)| m.clone()).collect();
    for at in [2, 0, 1] {
        pair.inject(1, sent[at].clone());
    }
    assert_eq!(pair.seen[1].messages, ["3", "1", "2"]);
    assert_eq!(pair.count(1, T::MsgAck), 0);
}

#[test]
fn spec03_34_38_a_replayed_heartbeat_does_not_bring_a_dead_peer_back() {
    let mut pair = Pair::new();
    pair.open(true);
    pair.run(Duration::from_secs(25));
    let heartbeat = recorded(&pair, 1, T::Heartbeat);
    pair.copies = Box::new(|from, _| usize::from(from == 0));
    pair.run(Duration::from_secs(30));
    assert!(matches!(pair.seen[0].events[..], [Event::PeerOffline(_)]), "within 30 s");
    pair.inject(0, heartbeat.clone());
    assert_eq!(pair.seen[0].events.len(), 1, "seen before");
    pair.inject(0, again(&heartbeat, 4711));
    assert!(matches!(pair.seen[0].events[1..], [Event::PeerOnline(_)]), "a new one");
}

#[test]
fn spec03_38_repeated_requests_are_answered_again_without_effect() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    let welcome = recorded(&pair, 0, T::GroupWelcome);
    for n in 2..5 {
        pair.inject(1, welcome.clone());
        assert_eq!((pair.count(1, T::GroupAck), pair.seen[1].accepted.len()), (n, 1));
    }
    pair.still_works(ours, theirs);
    for (closer, request, reply) in
        [(0, T::GroupClose, T::GroupAck), (1, T::LeaveRequest, T::LeaveReply)]
    {
        let mut pair = Pair::new();
        let sessions = pair.open(true);
        pair.close(closer, [sessions.0, sessions.1][closer]);
        let (request, before) = (recorded(&pair, closer, request), pair.count(1 - closer, reply));
        pair.inject(1 - closer, request);
        assert_eq!(pair.count(1 - closer, reply), before + 1, "{reply:?}");
        assert_eq!(pair.seen[1 - closer].ended.len(), 1);
        assert!(pair.apps.iter().all(App::is_idle));
    }
}

#[test]
fn spec03_42_a_closed_session_refuses_every_call() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    pair.close(0, ours);
    for (at, key) in [(0, ours), (1, theirs)] {
        let calls = [pair.publish(at, key, "late"), pair.close(at, key)];
        for op in calls {
            let text = pair.done[&op].1.as_ref().unwrap_err().to_string();
            assert!(text.contains("session already closed"), "{text}");
        }
        assert!(pair.apps[at].fields(key).is_none());
    }
}

#[test]
fn spec03_45_what_a_received_message_says_and_what_nobody_can_forge() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.publish(0, ours, "x");
    let mut message = again(&recorded(&pair, 0, T::Msg), 2);
    for key in ["slim-peer-subject", "slim-payload-sig", "PUBLISH_TO", "traceparent", "mine"] {
        message.metadata.insert(key.to_owned(), "forged".to_owned());
    }
    if let Some(MessageType::Publish(publish)) = &mut message.message_type {
        let content = publish.msg.as_mut().unwrap().content_type.as_mut().unwrap();
        let ContentType::AppPayload(payload) = content else { panic!() };
        payload.payload_type.clear();
    }
    pair.inject(1, message);
    let expected = ReceivedMessage {
        source: pair.names[0].clone(),
        destination: pair.names[1].clone(),
        payload_type: "msg".to_owned(),
        metadata: [("mine".to_owned(), "forged".to_owned())].into(),
        payload: b"x"[..].into(),
        identity: String::new(),
        connection: ConnectionId(9),
        is_reply: false,
        message_id: 2,
    };
    assert_eq!(pair.seen[1].received.last(), Some(&expected));
}
