//! Numbers that are none, answers that nobody asked for, closing that is cut.

use super::defects::{again, recorded};
use super::*;

/// A recorded message as another kind.
fn as_kind(message: &Message, kind: T, message_id: u32) -> Message {
    let mut message = message.clone();
    if let Some(MessageType::Publish(publish)) = &mut message.message_type {
        publish.session.as_mut().unwrap().session_message_type = kind as i32;
    }
    again(&message, message_id)
}

#[test]
fn a_data_number_that_is_none_is_dropped_and_the_session_ends() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    pair.publish(0, ours, "1");
    let message = recorded(&pair, 0, T::Msg);
    for id in [1 << 31, 1 << 31 | 2, u32::MAX] {
        pair.inject(1, again(&message, id));
    }
    assert_eq!((pair.seen[1].messages.len(), pair.count(1, T::MsgAck)), (1, 1));
    let close = pair.close(1, theirs);
    assert_eq!(pair.done[&close].1, Ok(()));
    assert!(pair.apps.iter().all(App::is_idle));
}

#[test]
fn only_what_was_asked_for_can_be_lost() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.publish(0, ours, "1");
    let mut lost = as_kind(&recorded(&pair, 0, T::Msg), T::RtxReply, 2);
    header(&mut lost).error = Some(true);
    pair.inject(1, lost.clone());
    assert!(pair.seen[1].events.is_empty());
    pair.publish(0, ours, "2");
    assert_eq!(pair.seen[1].messages, ["1", "2"]);
    // Asked for, it is.
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::RtxReply));
    let message = recorded(&pair, 0, T::Msg);
    pair.inject(1, again(&message, 4));
    assert_eq!(pair.count(1, T::RtxRequest), 1);
    pair.inject(1, as_kind(&lost, T::RtxReply, 3));
    assert!(matches!(pair.seen[1].events[..], [Event::MessageLost { message_id: 3, .. }]));
    assert_eq!(pair.seen[1].messages, ["1", "2", "1"]);
}

#[test]
fn a_group_ack_answers_a_welcome_or_a_goodbye_and_nothing_else() {
    for (lost, request) in
        [(T::DiscoveryReply, T::DiscoveryRequest), (T::JoinReply, T::JoinRequest)]
    {
        // A whole session first, for an ack of Bob's to forge from.
        let mut pair = Pair::new();
        pair.copies = Box::new(move |_, message| usize::from(kind(message) != lost));
        let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
        pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
        let id = message_id(&recorded(&pair, 0, request));
        let mut ack = as_kind(&recorded(&pair, 1, lost), T::GroupAck, id);
        if let Some(MessageType::Publish(publish)) = &mut ack.message_type {
            let payload = CommandPayloadType::GroupAck(Empty {});
            let command = CommandPayload { command_payload_type: Some(payload) };
            publish.msg =
                Some(Content { content_type: Some(ContentType::CommandPayload(command)) });
        }
        sign_as(&mut ack, "o/n/bob_x");
        pair.inject(0, ack);
        // It was no answer: the request goes on, and fails for its own reason.
        pair.run(5 * T);
        let text = pair.done[&op].1.as_ref().unwrap_err().to_string();
        assert!(text.contains("no answer to the"), "{text}");
        assert_eq!(pair.count(0, request), 4);
    }
}

#[test]
fn data_does_not_lead_a_session_to_another_connection() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    pair.publish(0, ours, "1");
    let via = |pair: &mut Pair| {
        pair.publish(1, theirs, "which way?");
        let at = pair.sent.iter().rposition(|(at, m)| *at == 1 && kind(m) == T::Msg).unwrap();
        pair.routes[at].0
    };
    assert_eq!(via(&mut pair), Some(ConnectionId(9)));
    let from = |pair: &mut Pair, message, connection| {
        pair.with(1, |app, cx| app.handle_message(message, ConnectionId(connection), cx));
    };
    let message = recorded(&pair, 0, T::Msg);
    from(&mut pair, again(&message, 2), 10);
    assert_eq!(via(&mut pair), Some(ConnectionId(9)), "data is not signed");
    pair.run(limits::HEARTBEAT * 2);
    let heartbeat = recorded(&pair, 0, T::Heartbeat);
    from(&mut pair, again(&heartbeat, 4711), 10);
    assert_eq!(via(&mut pair), Some(ConnectionId(10)), "control messages are");
    // What is cut may go any way.
    pair.with(1, |app, _| app.handle_connection(ConnectionId(10), false));
    from(&mut pair, again(&message, 3), 11);
    assert_eq!(via(&mut pair), Some(ConnectionId(11)));
}

#[test]
fn a_close_that_is_cut_says_who_did_not_confirm_it() {
    for is_busy in [false, true] {
        let mut pair = Pair::new();
        let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
        let reliable = Some(Retry { interval: Duration::from_secs(40), max_retries: 10 });
        let config = SessionConfig { reliable, ..SessionConfig::default() };
        let ours = pair.with(0, |app, cx| app.open(config, &to, op, cx)).unwrap();
        pair.copies = Box::new(|_, _| 0);
        let publish = is_busy.then(|| pair.publish(0, ours, "not acknowledged"));
        let begun = pair.now.mono - pair.start.mono;
        let close = pair.close(0, ours);
        pair.run(limits::CLOSE_GRACE * 2);
        let (ended, result) = &pair.done[&close];
        let bob = pair.names[1].to_string();
        assert!(matches!(result, Err(Error::Undelivered(text)) if text.contains(&bob)));
        // Silence is noticed after 30 s: who is busy, is no longer.
        assert_eq!(*ended - begun, limits::CLOSE_GRACE);
        assert!(publish.is_none_or(|op| pair.done[&op].1.is_err()));
        assert!(pair.count(0, T::GroupClose) > 0, "told at least once");
        assert!(pair.apps[0].is_idle());
    }
}

#[test]
fn a_welcome_is_waited_for_only_so_long() {
    let mut pair = Pair::new();
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::GroupWelcome));
    let reliable = Some(Retry { interval: limits::MAX_RETRY_INTERVAL, max_retries: 1000 });
    let config = SessionConfig { reliable, ..SessionConfig::default() };
    pair.with(0, |app, cx| app.open(config, &to, op, cx)).unwrap();
    pair.run(limits::WELCOME_WAIT - Duration::from_millis(1));
    assert!(!pair.apps[1].is_idle());
    pair.run(Duration::from_millis(1));
    assert!(pair.apps[1].is_idle());
}

#[test]
fn what_comes_again_by_itself_is_marked_and_what_is_published_is_not() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.copies = Box::new(|_, message| {
        let data = [T::Msg, T::RtxReply].contains(&kind(message));
        usize::from(!data || message_id(message) != 1)
    });
    for text in ["1", "2"] {
        pair.publish(0, ours, text);
    }
    pair.run(Duration::from_secs(15));
    pair.copies = Box::new(|_, _| 0);
    pair.close(0, ours);
    pair.run(2 * T);
    let mut seen = BTreeMap::<(usize, T, u32), Vec<bool>>::new();
    for ((from, message), (_, again)) in pair.sent.iter().zip(&pair.routes) {
        seen.entry((*from, kind(message), message_id(message))).or_default().push(*again);
    }
    for ((from, kind, id), again) in seen {
        let (first, rest) = again.split_first().unwrap();
        let always = [T::MsgAck, T::RtxRequest, T::RtxReply, T::Heartbeat].contains(&kind);
        assert_eq!(*first, always, "{kind:?} {id} of {from}");
        assert!(rest.iter().all(|again| *again), "repetitions of {kind:?} {id} of {from}");
    }
    for (from, kind) in [(0, T::RtxReply), (1, T::RtxRequest), (1, T::Heartbeat)] {
        assert!(pair.count(from, kind) > 0, "{kind:?}");
    }
    assert_eq!((pair.count(0, T::Msg), pair.count(0, T::GroupClose)), (5, 3));
}

#[test]
fn whoever_asks_for_events_later_hears_of_the_loss_before_the_return() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    pair.with(1, |app, _| app.set_events(theirs, false));
    pair.with(1, |app, _| app.handle_connection(ConnectionId(9), false));
    assert!(pair.seen[1].events.is_empty());
    for _ in 0..2 {
        pair.with(1, |app, _| app.set_events(theirs, true));
    }
    pair.publish(0, ours, "back again");
    let connection = ConnectionId(9);
    let expected = [Event::ConnectionLost(connection), Event::ConnectionBack(connection)];
    assert_eq!(pair.seen[1].events, expected);
}
