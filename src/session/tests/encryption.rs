//! Encrypted sessions. Numbers in names are those of the checklists of spec 03 and spec 05.

use super::super::encryption::Rejoins;
use super::defects::recorded;
use super::groups::{fanout, life_of, nth, update, Crowd, ALL as ALL_OF_GROUPS, MODERATOR};
use super::*;
use crate::wire::{GroupUpdateOp, Publish};

fn publish_of(message: &mut Message) -> &mut Publish {
    match &mut message.message_type {
        Some(MessageType::Publish(publish)) => publish,
        other => panic!("{other:?}"),
    }
}

fn blob(message: &Message) -> Vec<u8> {
    let mut message = message.clone();
    let content = publish_of(&mut message).msg.take().unwrap().content_type.unwrap();
    let ContentType::AppPayload(payload) = content else { panic!("{content:?}") };
    payload.blob.to_vec()
}

fn set_blob(message: &mut Message, blob: &[u8]) {
    let content = publish_of(message).msg.as_mut().unwrap().content_type.as_mut().unwrap();
    let ContentType::AppPayload(payload) = content else { panic!("{content:?}") };
    payload.blob = blob.to_vec().into();
}

fn command(message: &Message) -> CommandPayloadType {
    let mut message = message.clone();
    match publish_of(&mut message).msg.take().unwrap().content_type.unwrap() {
        ContentType::CommandPayload(command) => command.command_payload_type.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Four who are all in an encrypted group.
fn together(reliable: bool) -> Crowd {
    let mut crowd = four(reliable);
    for at in 1..4 {
        assert_eq!(crowd.invite(at), Ok(()), "{at}");
    }
    crowd
}

fn four(reliable: bool) -> Crowd {
    let mut crowd = Crowd::sealed(&["o/n/ann", "o/n/bob", "o/n/cid", "o/n/dan"]);
    crowd.open(reliable);
    crowd
}

impl Crowd {
    fn epoch(&self, at: usize) -> Option<u64> {
        self.apps[at].fields(self.sessions[at].expect("a session")).unwrap().epoch
    }

    /// The others were told that somebody has got new keys.
    fn has_told_of_new_keys(&self) -> bool {
        let rejoins =
            |m: &Message| kind(m) == T::GroupUpdate && update(m).op == GroupUpdateOp::Rejoin as i32;
        self.sent.iter().any(|(_, message)| rejoins(message))
    }

    /// This one is heard by all.
    fn say_three(&mut self, at: usize) {
        for text in ["one", "two", "three"] {
            let op = self.publish(at, text);
            assert_eq!(self.result(op), Ok(()));
        }
    }

    /// They know each other, have the same keys, and hear each other.
    fn are_whole(&mut self, members: &[usize], what: &str) {
        self.agree(members, what);
        self.same_epoch(members, what);
        self.talk(members, what);
    }

    fn same_epoch(&self, members: &[usize], what: &str) {
        let epoch = self.epoch(members[0]);
        for at in members {
            assert_eq!(self.epoch(*at), epoch, "{what}: {at}");
            assert_eq!(self.seen[*at].epoch, epoch, "{what}: {at} was told");
        }
    }
}

#[test]
fn spec03_06_the_messages_that_carry_keys() {
    let mut pair = Pair::sealed();
    pair.mls = Some(Mls { header_check: 70 });
    let (ours, theirs) = pair.open(true);
    let CommandPayloadType::JoinRequest(join) = command(&recorded(&pair, 0, T::JoinRequest)) else {
        panic!()
    };
    assert_eq!(join.mls_settings.unwrap().header_integrity_validation_percent, 70);
    let CommandPayloadType::JoinReply(reply) = command(&recorded(&pair, 1, T::JoinReply)) else {
        panic!()
    };
    assert_eq!(reply.key_package.unwrap()[..4], [0, 1, 0, 5]);
    let CommandPayloadType::GroupWelcome(welcome) = command(&recorded(&pair, 0, T::GroupWelcome))
    else {
        panic!()
    };
    let welcome = welcome.mls.unwrap();
    assert_eq!((welcome.commit_id, &welcome.mls_content[..4]), (1, &[0, 1, 0, 3][..]));
    assert_eq!(pair.count(0, T::GroupUpdate), 0);
    for (at, key) in [(0, ours), (1, theirs)] {
        let fields = pair.apps[at].fields(key).unwrap();
        assert_eq!((fields.mls, fields.epoch), (Some(Mls { header_check: 70 }), Some(1)));
    }
    pair.still_works(ours, theirs);
    // The sender is proved, and there is no such proof without encryption.
    assert!(pair.seen[1].received[0].identity.starts_with("o/n/alice_"));
    assert!(pair.seen[0].received[0].identity.starts_with("o/n/bob_"));
}

#[test]
fn the_loss_or_repetition_of_any_one_message_is_repaired() {
    for (copies, what) in [(0, "lost"), (2, "twice")] {
        each_kind(|kind, closer| {
            let what = format!("{kind:?} {what}, closed by {closer}");
            conversation_of(Pair::sealed(), first(kind, copies), closer, &what)
        });
    }
    conversation_of(Pair::sealed(), Box::new(|_, _| 2), 0, "everything twice");
}

#[test]
fn spec03_30_a_changed_header_is_noticed_as_often_as_it_is_compared() {
    type Damage = (&'static str, fn(&mut Message));
    let changes: [Damage; 5] = [
        ("destination", |m| {
            let name = header(m).source.clone();
            header(m).destination = name;
        }),
        ("identity", |m| header(m).identity.push('x')),
        ("kind", |m| {
            publish_of(m).session.as_mut().unwrap().session_message_type = T::RtxReply as i32;
        }),
        ("number", |m| publish_of(m).session.as_mut().unwrap().message_id = 3),
        ("payload type", |m| {
            let content = publish_of(m).msg.as_mut().unwrap().content_type.as_mut().unwrap();
            let ContentType::AppPayload(payload) = content else { panic!() };
            payload.payload_type = "image/png".to_owned();
        }),
    ];
    let is_taken = |percent: u32, change: fn(&mut Message)| {
        let mut pair = Pair::sealed();
        pair.mls = Some(Mls { header_check: percent });
        let (ours, _) = pair.open(true);
        pair.publish(0, ours, "first");
        pair.copies = Box::new(|_, message| usize::from(kind(message) != T::Msg));
        pair.publish(0, ours, "second");
        let mut message = pair.sent.iter().rfind(|(_, m)| kind(m) == T::Msg).unwrap().1.clone();
        change(&mut message);
        let acks = pair.count(1, T::MsgAck);
        pair.inject(1, message);
        pair.count(1, T::MsgAck) > acks
    };
    for (what, change) in changes {
        for percent in [100, 0] {
            assert_eq!(is_taken(percent, change), percent == 0, "{what} at {percent}");
        }
    }
    // These two say whose message it is; with others it is none of this session.
    let others: [Damage; 2] = [
        ("type of session", |m| {
            let session = publish_of(m).session.as_mut().unwrap();
            session.session_type = SessionType::Multicast as i32;
        }),
        ("session", |m| publish_of(m).session.as_mut().unwrap().session_id ^= 1),
    ];
    for (what, change) in others {
        for percent in [100, 0] {
            assert!(!is_taken(percent, change), "{what} at {percent}");
        }
    }
}

#[test]
fn spec03_30_a_changed_source_is_noticed_where_headers_are_compared() {
    for (binding, percent) in
        [(Binding::Off, 100), (Binding::Off, 0), (Binding::Enforce, 100), (Binding::Enforce, 0)]
    {
        let names = ["o/n/ann", "o/n/bob", "o/n/cid"];
        let mut crowd = Crowd::sealed_with(&names, &crate::protocol_version(), binding);
        crowd.mls = Some(Mls { header_check: percent });
        crowd.open(true);
        assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
        crowd.copies = Box::new(|_, _, m| usize::from(kind(m) != T::Msg));
        crowd.publish(1, "I am Bob");
        let (_, mut message) = crowd.sent.iter().rfind(|(_, m)| kind(m) == T::Msg).unwrap().clone();
        header(&mut message).source = Some(crowd.names[2].to_wire());
        crowd.with(0, |app, cx| app.handle_message(message, ConnectionId(9), cx));
        // Where names are not checked either, nothing stands against it but the comparison.
        let taken = !crowd.seen[0].messages.is_empty();
        let wanted = binding == Binding::Off && percent == 0;
        assert_eq!(taken, wanted, "{binding:?} at {percent}");
    }
}

#[test]
fn some_headers_are_compared() {
    let mut pair = Pair::sealed();
    pair.mls = Some(Mls { header_check: 50 });
    let (ours, _) = pair.open(false);
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::Msg));
    for n in 0..100 {
        pair.publish(0, ours, &n.to_string());
    }
    let sent = pair.sent.clone();
    for (_, mut message) in sent.into_iter().filter(|(_, m)| kind(m) == T::Msg) {
        header(&mut message).identity.push('x');
        pair.inject(1, message);
    }
    let taken = pair.seen[1].messages.len();
    assert!((20..80).contains(&taken), "{taken} of 100");
}

#[test]
fn spec03_31_what_comes_in_clear_is_dropped() {
    let mut pair = Pair::sealed();
    let (ours, theirs) = pair.open(true);
    pair.publish(0, ours, "first");
    let acks = pair.count(1, T::MsgAck);
    for wanted in [T::Msg, T::RtxReply] {
        for blob in [&b"plain"[..], b"", &[0, 1, 0, 2], &[0, 1, 0, 2, 9, 9, 9]] {
            for error in [None, Some(true)] {
                let mut message = recorded(&pair, 0, T::Msg);
                let session = publish_of(&mut message).session.as_mut().unwrap();
                (session.message_id, session.session_message_type) = (2, wanted as i32);
                header(&mut message).error = error;
                set_blob(&mut message, blob);
                pair.inject(1, message);
            }
        }
    }
    assert_eq!((pair.seen[1].messages.len(), pair.count(1, T::MsgAck)), (1, acks));
    assert!(pair.seen[1].events.is_empty(), "nor is anything lost: {:?}", pair.seen[1].events);
    assert_eq!(pair.apps[1].losses().unreadable, 2 * 4 * 2, "each is counted");
    pair.still_works(ours, theirs);
}

#[test]
fn spec03_23_a_repeated_ciphertext_is_not_acked_but_a_message_that_is_sent_again_is() {
    let mut pair = Pair::sealed();
    let (ours, _) = pair.open(true);
    pair.copies = first(T::Msg, 2);
    pair.publish(0, ours, "once");
    assert_eq!((pair.count(1, T::MsgAck), pair.seen[1].messages.len()), (1, 1));
    pair.copies = first(T::MsgAck, 0);
    let op = pair.publish(0, ours, "twice");
    pair.run(2 * T);
    assert_eq!(pair.done[&op].1, Ok(()));
    assert_eq!((pair.count(1, T::MsgAck), pair.seen[1].messages.len()), (3, 2));
    let sent: Vec<Vec<u8>> =
        pair.sent.iter().filter(|(_, m)| kind(m) == T::Msg).map(|(_, m)| blob(m)).collect();
    assert_eq!(sent.len(), 3);
    assert_ne!(sent[1], sent[2], "sealed again");
}

#[test]
fn spec03_24_the_news_that_a_message_is_lost_is_sealed_too() {
    let mut pair = Pair::sealed();
    let (ours, theirs) = pair.open(true);
    pair.publish(0, ours, "first");
    // One so long is not kept for those who did not get it.
    pair.copies = Box::new(|at, message| {
        usize::from(at == 1 || kind(message) != T::Msg || message_id(message) != 2)
    });
    pair.publish(0, ours, &"x".repeat(limits::UNDELIVERED_BYTES + 1));
    pair.run(5 * T);
    pair.copies = Box::new(|_, _| 1);
    pair.run(2 * limits::HEARTBEAT);
    // A node takes the flag away.
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::RtxReply));
    pair.publish(0, ours, "third");
    let mut reply = recorded(&pair, 0, T::RtxReply);
    assert!(!blob(&reply).is_empty());
    assert_eq!(header(&mut reply).error.take(), Some(true));
    pair.inject(1, reply);
    let source = pair.names[0].clone();
    let lost = Event::MessageLost { source, message_id: 2 };
    assert!(pair.seen[1].events.contains(&lost), "{:?}", pair.seen[1].events);
    assert_eq!(pair.seen[1].messages, ["first", "third"]);
    pair.copies = Box::new(|_, _| 1);
    pair.still_works(ours, theirs);
}

#[test]
fn marks_that_a_node_can_set_do_not_change_what_a_message_is() {
    let mut crowd = together(true);
    crowd.publish(1, "first");
    crowd.copies = Box::new(|_, to, m| usize::from(to != 0 || kind(m) == T::MsgAck));
    crowd.publish(1, "");
    crowd.publish(1, "third");
    let sent: Vec<Message> =
        crowd.sent.iter().filter(|(_, m)| kind(m) == T::Msg).map(|(_, m)| m.clone()).collect();
    // As if it was for Ann alone, and before the one that it follows.
    let mut third = sent[2].clone();
    third.metadata.insert("PUBLISH_TO".to_owned(), "TRUE".to_owned());
    crowd.with(0, |app, cx| app.handle_message(third, ConnectionId(9), cx));
    assert_eq!(crowd.seen[0].messages, ["first"], "it waits for its turn");
    // As if it was lost.
    let (_, mut reply) = crowd.sent.iter().rfind(|(_, m)| kind(m) == T::RtxReply).unwrap().clone();
    header(&mut reply).error = Some(true);
    crowd.with(0, |app, cx| app.handle_message(reply, ConnectionId(9), cx));
    assert_eq!(crowd.seen[0].messages, ["first", "", "third"]);
    assert!(crowd.seen[0].received.iter().all(|message| !message.is_reply));
    assert!(crowd.seen[0].events.iter().all(|e| !matches!(e, Event::MessageLost { .. })));
    // As if it was for everybody.
    crowd.copies = Box::new(|_, _, m| usize::from(kind(m) != T::Msg));
    crowd.publish_to(1, 0, "for you");
    let (_, mut message) = crowd.sent.iter().rfind(|(_, m)| kind(m) == T::Msg).unwrap().clone();
    assert!(message.metadata.remove("PUBLISH_TO").is_some());
    crowd.with(0, |app, cx| app.handle_message(message, ConnectionId(9), cx));
    let received = crowd.seen[0].received.last().unwrap();
    assert!(received.is_reply && &received.payload[..] == b"for you");
}

#[test]
fn being_asked_for_what_was_not_sent_uses_no_keys_up() {
    for reliable in [true, false] {
        let mut pair = Pair::sealed();
        let (ours, theirs) = pair.open(reliable);
        pair.publish(0, ours, "first");
        let mut request = recorded(&pair, 0, T::Msg);
        let (source, destination) =
            (header(&mut request).source.clone(), header(&mut request).destination.clone());
        (header(&mut request).source, header(&mut request).destination) = (destination, source);
        for id in [400, u32::MAX, 0].into_iter().chain((!reliable).then_some(1)) {
            let session = publish_of(&mut request).session.as_mut().unwrap();
            (session.message_id, session.session_message_type) = (id, T::RtxRequest as i32);
            pair.inject(0, request.clone());
        }
        assert_eq!(pair.count(0, T::RtxReply), 0);
        if reliable {
            pair.still_works(ours, theirs);
        }
    }
}

/// A recorded ciphertext as if it was of another epoch.
fn of_epoch(message: &Message, epoch: u64) -> Message {
    let mut sealed = blob(message);
    // After version, wire format and group id.
    let at = 4 + 1 + usize::from(sealed[4]);
    sealed[at..at + 8].copy_from_slice(&epoch.to_be_bytes());
    let mut message = message.clone();
    set_blob(&mut message, &sealed);
    message
}

#[test]
fn forged_epochs_are_believed_less_and_less() {
    let mut crowd = together(true);
    crowd.publish(0, "genuine");
    let (_, message) = crowd.sent.iter().rfind(|(_, m)| kind(m) == T::Msg).unwrap().clone();
    let hour = 360;
    for n in 0..hour {
        let forged = of_epoch(&message, 1000 + n);
        crowd.with(1, |app, cx| app.handle_message(forged, ConnectionId(9), cx));
        crowd.run(Duration::from_secs(10));
    }
    // And one for the age of its token.
    let requests = crowd.count(1, T::RejoinRequest);
    assert!((2..=10).contains(&requests), "{requests}");
    crowd.same_epoch(&[0, 1, 2, 3], "after an hour");
    // In the end they are believed so rarely.
    let longest = limits::MLS_COMMIT_WAIT * (1 << limits::MLS_DOUBTS);
    assert_eq!(longest, Duration::from_secs(1536));
    let before = crowd.count(1, T::RejoinRequest);
    for n in 0..4 * longest.as_secs() / 10 {
        let forged = of_epoch(&message, 10_000 + n);
        crowd.with(1, |app, cx| app.handle_message(forged, ConnectionId(9), cx));
        crowd.run(Duration::from_secs(10));
    }
    // And three for the age of its token.
    let asked = crowd.count(1, T::RejoinRequest) - before;
    assert!((3..=8).contains(&asked), "{asked}");
    let requests = crowd.count(1, T::RejoinRequest);
    // What a member says itself is believed at once.
    crowd.copies = Box::new(|_, to, m| usize::from(to != 1 || kind(m) != T::GroupUpdate));
    let _ = crowd.remove(3);
    crowd.run(4 * limits::HEARTBEAT);
    assert!(crowd.count(1, T::RejoinRequest) > requests);
    crowd.same_epoch(&[0, 1, 2], "rejoined");
    crowd.talk(&[0, 1, 2], "rejoined");
}

#[test]
fn what_is_played_again_changes_no_keys() {
    let mut pair = Pair::sealed();
    let (ours, theirs) = pair.open(false);
    pair.publish(0, ours, "old");
    let old = recorded(&pair, 0, T::Msg);
    for n in 0..=limits::MLS_SKIPPED_MESSAGES {
        pair.publish(0, ours, &n.to_string());
    }
    let epoch = |pair: &Pair| pair.apps[0].fields(ours).unwrap().epoch;
    let before = epoch(&pair);
    pair.inject(1, old);
    pair.run(2 * limits::MLS_REJOIN_PAUSE);
    assert_eq!((epoch(&pair), pair.apps[1].losses().unreadable), (before, 1));
    // What was out of reach is so for ever, but new keys are there already.
    lose(&mut pair, 0, ours, limits::MLS_SKIPPED_MESSAGES as usize + 1);
    pair.publish(0, ours, "out of reach");
    let (_, far) = pair.sent.iter().rfind(|(_, m)| kind(m) == T::Msg).unwrap().clone();
    pair.run(2 * T);
    let renewed = epoch(&pair);
    assert!(renewed > before);
    for _ in 0..3 {
        pair.inject(1, far.clone());
        pair.run(2 * limits::MLS_REJOIN_PAUSE);
    }
    assert_eq!(epoch(&pair), renewed);
    assert_eq!(pair.apps[1].fields(theirs).unwrap().epoch, renewed);
}

#[test]
fn new_keys_that_overtake_old_news_bring_them_along() {
    let mut crowd = Crowd::sealed(&["o/n/ann", "o/n/bob", "o/n/cid", "o/n/dan", "o/n/eve"]);
    crowd.open(true);
    for at in 1..4 {
        assert_eq!(crowd.invite(at), Ok(()), "{at}");
    }
    crowd.say_three(3);
    crowd.copies = Box::new(|from, to, _| usize::from(from != 1 && to != 1));
    crowd.run(70 * T);
    assert_eq!((crowd.remove(3), crowd.invite(3)), (Ok(()), Ok(())));
    // The moderator is busy with one who does not answer when Bob is heard of again, and asks. The
    // news that comes with the keys is lost once.
    let mut lost = 1;
    crowd.copies = Box::new(move |from, to, m| {
        if to == 4 || from == 4 {
            return 0;
        }
        let update = from == 0 && to == 1 && kind(m) == T::GroupUpdate;
        let news = update && update_of_return(m) && fanout(m) == 1;
        let this = news && lost > 0;
        lost -= usize::from(this);
        usize::from(!update || (update_of_return(m) && !this))
    });
    for _ in 0..10 {
        crowd.invite_start(4);
    }
    crowd.run(120 * T);
    assert!(crowd.count(1, T::RejoinRequest) > 0);
    let op = crowd.publish(3, "anew");
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(crowd.seen[1].messages.last().unwrap(), "anew");
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(60 * T);
    crowd.are_whole(&[0, 1, 2, 3], "back");
}

#[test]
fn the_news_that_goes_with_new_keys_is_told_until_it_is_known() {
    let mut crowd = together(true);
    crowd.say_three(3);
    crowd.copies = Box::new(|from, to, _| usize::from(from != 1 && to != 1));
    crowd.run(70 * T);
    for _ in 0..limits::MLS_MISSED_COMMITS {
        assert_eq!((crowd.remove(3), crowd.invite(3)), (Ok(()), Ok(())));
    }
    // Bob gets new keys twice, and both times nothing before and after them.
    for _ in 0..2 {
        let (replies, mut cut) = (crowd.count(0, T::RejoinReply), false);
        crowd.copies = Box::new(move |from, to, m| {
            let silent = cut && (from == 1 || to == 1);
            cut |= to == 1 && kind(m) == T::RejoinReply;
            usize::from(!silent && (to != 1 || kind(m) != T::GroupUpdate))
        });
        while crowd.count(0, T::RejoinReply) == replies {
            crowd.run(T);
        }
        crowd.run(70 * T);
        for _ in 0..limits::MLS_MISSED_COMMITS {
            assert_eq!((crowd.remove(2), crowd.invite(2)), (Ok(()), Ok(())));
        }
    }
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(100 * T);
    let op = crowd.publish(3, "anew");
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(crowd.seen[1].messages.last().unwrap(), "anew");
    crowd.are_whole(&[0, 1, 2, 3], "back");
}

#[test]
fn who_asks_for_keys_all_the_time_gets_them_from_time_to_time() {
    let mut crowd = together(true);
    crowd.copies = Box::new(|_, to, m| usize::from(to != 1 || kind(m) != T::GroupUpdate));
    let _ = crowd.remove(3);
    while crowd.count(0, T::RejoinReply) == 0 {
        crowd.run(T / 4);
    }
    let (_, request) =
        crowd.sent.iter().rfind(|(_, m)| kind(m) == T::RejoinRequest).unwrap().clone();
    let replies = crowd.count(0, T::RejoinReply);
    let ask = |crowd: &mut Crowd, message_id| {
        let mut request = request.clone();
        publish_of(&mut request).session.as_mut().unwrap().message_id = message_id;
        request.metadata.clear();
        let about = Outgoing::control(
            T::Heartbeat,
            &crowd.names[0],
            1,
            CommandPayloadType::GroupAck(Empty {}),
        );
        crowd.with(1, |app, cx| app.finish(&mut request, &about.about(None), cx).unwrap());
        crowd.with(0, |app, cx| app.handle_message(request, ConnectionId(9), cx));
    };
    crowd.copies = Box::new(|_, _, _| 1);
    ask(&mut crowd, 4711);
    assert_eq!(crowd.count(0, T::RejoinReply), replies, "too soon");
    crowd.run(limits::MLS_REJOIN_GAP);
    ask(&mut crowd, 4711);
    assert_eq!(crowd.count(0, T::RejoinReply), replies + 1, "the same once more");

    // Where the session does not remember a request any more, it still does.
    let now = Instant::now();
    let mut rejoins = Rejoins::new(now);
    (0..limits::MLS_REJOINS as u32).for_each(|id| rejoins.note(id, now));
    assert!(rejoins.knows(0));
    rejoins.note(99, now);
    assert!(!rejoins.knows(0) && rejoins.knows(1) && rejoins.knows(99));
}

#[test]
fn spec03_40_closing_with_pending_data_sends_nothing_in_clear() {
    for closer in [0, 1] {
        let mut pair = Pair::sealed();
        let sessions = pair.open(true);
        let sessions = [sessions.0, sessions.1];
        // Whatever is sent is checked to be sealed.
        pair.copies = Box::new(|_, message| usize::from(kind(message) != T::Msg));
        let publish = pair.publish(closer, sessions[closer], "pending");
        let close = pair.close(closer, sessions[closer]);
        pair.run(2 * T);
        pair.copies = Box::new(|_, _| 1);
        pair.run(6 * T);
        assert_eq!((&pair.done[&publish].1, &pair.done[&close].1), (&Ok(()), &Ok(())));
        assert!(pair.count(closer, T::Msg) > 2);
        assert_eq!(pair.seen[1 - closer].messages, ["pending"]);
    }
}

#[test]
fn what_is_sent_by_a_session_that_is_over_stays_here() {
    let mut pair = Pair::sealed();
    let (ours, _) = pair.open(true);
    let payload = Payload::new(&b"secret"[..], "", BTreeMap::new());
    let mut cx = Context { now: pair.now, entropy: &mut pair.entropy };
    pair.apps[0].publish(ours, payload, None, &mut cx);
    pair.apps[0].shut_down(&mut cx);
    let mut refused = 0;
    while let Some(output) = pair.apps[0].poll_output() {
        let Output::Send { mut message, about, .. } = output else { continue };
        let result = pair.apps[0].finish(&mut message, &about, &mut cx);
        assert_eq!(result.is_err(), kind(&message) == T::Msg);
        refused += usize::from(result.is_err());
    }
    assert_eq!(refused, 1);
}

#[test]
fn a_full_inbox_opens_nothing() {
    let mut pair = Pair::sealed();
    let (ours, theirs) = pair.open(true);
    let full = |pair: &mut Pair, full| {
        pair.with(1, |app, cx| app.set_inbox_full(theirs, full, cx));
    };
    full(&mut pair, true);
    pair.publish(0, ours, "later");
    let message = recorded(&pair, 0, T::Msg);
    assert_eq!(pair.count(1, T::MsgAck), 0);
    full(&mut pair, false);
    // It was not opened, so the very same can be.
    pair.inject(1, message);
    assert_eq!(pair.seen[1].messages, ["later"]);
}

/// So many messages of one side are lost.
fn lose(pair: &mut Pair, from: usize, session: SessionKey, messages: usize) {
    pair.copies = Box::new(move |at, m| usize::from(at != from || kind(m) != T::Msg));
    for n in 0..messages {
        pair.publish(from, session, &n.to_string());
    }
    pair.run(6 * T);
    pair.copies = Box::new(|_, _| 1);
}

#[test]
fn spec05_9_what_is_out_of_reach_brings_new_keys() {
    for from in [0, 1] {
        for (lost, reached) in
            [(limits::MLS_SKIPPED_MESSAGES, true), (limits::MLS_SKIPPED_MESSAGES + 1, false)]
        {
            let mut pair = Pair::sealed();
            let sessions = pair.open(false);
            let sessions = [sessions.0, sessions.1];
            lose(&mut pair, from, sessions[from], lost as usize);
            pair.publish(from, sessions[from], "after");
            assert_eq!(pair.seen[1 - from].messages.len(), usize::from(reached), "{lost}");
            assert_eq!(pair.apps[1 - from].losses().unreadable, u64::from(!reached));
            pair.run(2 * T);
            pair.publish(from, sessions[from], "readable");
            assert_eq!(pair.seen[1 - from].messages.last().unwrap(), "readable");
        }
    }
}

#[test]
fn who_repeats_in_vain_renews_the_keys_before_they_are_out_of_reach() {
    // All tries together would be out of reach.
    let messages = limits::MLS_UNHEARD_MESSAGES / 2;
    assert!(messages * 4 > limits::MLS_SKIPPED_MESSAGES);
    for from in [0, 1] {
        let mut pair = Pair::sealed();
        let sessions = pair.open(true);
        let sessions = [sessions.0, sessions.1];
        let before = pair.apps[0].fields(sessions[0]).unwrap().epoch;
        lose(&mut pair, from, sessions[from], messages as usize);
        pair.run(2 * limits::HEARTBEAT);
        assert!(pair.apps[0].fields(sessions[0]).unwrap().epoch > before);
        let op = pair.publish(from, sessions[from], "after");
        pair.run(8 * T);
        assert_eq!(pair.done[&op].1, Ok(()), "{from}");
        assert_eq!(pair.apps[1 - from].losses().unreadable, 0, "{from}");
    }
    // And not where it is heard, however often.
    let mut pair = Pair::sealed();
    let (ours, _) = pair.open(true);
    let before = pair.apps[0].fields(ours).unwrap().epoch;
    for n in 0..limits::MLS_UNHEARD_MESSAGES {
        pair.copies = first(T::Msg, 0);
        pair.publish(0, ours, &n.to_string());
        pair.run(T);
    }
    assert_eq!(pair.apps[0].fields(ours).unwrap().epoch, before);
}

#[test]
fn who_was_away_while_too_much_was_said_can_read_what_follows() {
    for from in [0, 2] {
        let mut crowd = together(false);
        let before = crowd.epoch(0);
        for n in 0..limits::MLS_UNHEARD_MESSAGES - 1 {
            crowd.publish(from, &n.to_string());
        }
        assert_eq!(crowd.set_away(1, true), Ok(()));
        assert_eq!(crowd.set_away(1, false), Ok(()));
        assert_eq!(crowd.epoch(0), before, "it has heard that");
        assert_eq!(crowd.set_away(1, true), Ok(()));
        for n in 0..limits::MLS_SKIPPED_MESSAGES + 1 {
            crowd.publish(from, &n.to_string());
        }
        assert_eq!(crowd.set_away(1, false), Ok(()));
        crowd.run(T);
        assert!(crowd.epoch(0) > before);
        crowd.publish(from, "after");
        assert_eq!(crowd.seen[1].messages.last().unwrap(), "after");
        assert_eq!(crowd.apps[1].losses().unreadable, 0);
    }
}

#[test]
fn what_goes_to_one_member_does_not_get_the_others_out_of_reach() {
    let mut crowd = four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    for from in [0, 1] {
        let before = crowd.epoch(0);
        for n in 1..limits::MLS_UNHEARD_MESSAGES {
            crowd.publish_to(from, 1 - from, &n.to_string());
        }
        assert_eq!(crowd.epoch(0), before, "{from}");
        for n in 0..limits::MLS_SKIPPED_MESSAGES {
            crowd.publish_to(from, 1 - from, &n.to_string());
        }
        crowd.run(limits::MLS_REJOIN_PAUSE);
        assert!(crowd.epoch(0) > before, "{from}");
        crowd.same_epoch(&[0, 1, 2], "renewed");
        crowd.publish(from, "for all");
        assert_eq!(crowd.seen[2].messages.last().unwrap(), "for all");
        assert_eq!(crowd.apps[2].losses().unreadable, 0);
    }
}

#[test]
fn who_cannot_do_mls_is_not_let_in() {
    let mut pair = Pair::sealed();
    let mut copy = None;
    pair.copies = Box::new(move |_, message| {
        copy.get_or_insert_with(|| message.clone());
        usize::from(kind(message) != T::JoinReply)
    });
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    let config = SessionConfig { mls: pair.mls, ..config(true) };
    pair.with(0, |app, cx| app.open(config, &to, op, cx)).unwrap();
    let mut reply = recorded(&pair, 1, T::JoinReply);
    let content = publish_of(&mut reply).msg.as_mut().unwrap().content_type.as_mut().unwrap();
    if let ContentType::CommandPayload(CommandPayload {
        command_payload_type: Some(CommandPayloadType::JoinReply(reply)),
    }) = content
    {
        reply.key_package = None;
    }
    let mut cx = Context { now: pair.now, entropy: &mut pair.entropy };
    let about = Outgoing::control(T::Heartbeat, &to, 1, CommandPayloadType::GroupAck(Empty {}));
    reply.metadata.clear();
    pair.apps[1].finish(&mut reply, &about.about(None), &mut cx).unwrap();
    pair.inject(0, reply);
    let Err(Error::Mls(text)) = &pair.done[&op].1 else { panic!("{:?}", pair.done[&op]) };
    assert!(text.contains("o/n/bob") && text.contains("cannot do MLS"), "{text}");
}

#[test]
fn the_life_of_an_encrypted_group() {
    for reliable in [true, false] {
        life_of(four(reliable), Box::new(|_, _, _| 1), reliable, "encrypted");
    }
    life_of(four(true), Box::new(|_, _, _| 2), true, "everything twice");
}

#[test]
fn spec03_16_the_loss_of_any_one_message_in_an_encrypted_group_is_repaired() {
    for lost in ALL_OF_GROUPS {
        for n in [1, 2, 4, 7] {
            let what = format!("{lost:?} number {n} lost");
            let crowd = life_of(four(true), nth(lost, n, 0), true, &what);
            assert!(n > 1 || crowd.sent.iter().any(|(_, m)| kind(m) == lost), "no {lost:?}");
        }
    }
}

#[test]
fn what_is_published_before_anybody_is_in_is_sealed_for_the_first_member() {
    for reliable in [true, false] {
        let mut crowd = four(reliable);
        let ops = ["0", "1", "2"].map(|text| crowd.publish(0, text));
        assert_eq!(crowd.count(0, T::Msg), 0, "nobody is there");
        assert_eq!(crowd.invite(1), Ok(()));
        for op in ops {
            assert_eq!(crowd.result(op), Ok(()));
        }
        assert_eq!(crowd.seen[1].messages, ["0", "1", "2"]);
        assert_eq!((crowd.count(0, T::Msg), crowd.apps[1].losses().unreadable), (3, 0));
    }
}

#[test]
fn spec05_7_a_message_that_crosses_a_commit_is_read() {
    let mut crowd = four(true);
    for at in [1, 2] {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    // Bob's message is on its way while Dan is invited.
    crowd.copies = Box::new(|from, _, message| usize::from(from != 1 || kind(message) != T::Msg));
    let op = crowd.publish(1, "crossing");
    let (_, message) = crowd.sent.iter().rfind(|(_, m)| kind(m) == T::Msg).unwrap().clone();
    crowd.copies = Box::new(|from, _, message| {
        usize::from(from != 1 || !matches!(kind(message), T::Msg | T::RtxReply))
    });
    assert_eq!(crowd.invite(3), Ok(()));
    assert_eq!(crowd.epoch(2), Some(3));
    for to in [0, 2, 3] {
        let message = message.clone();
        crowd.with(to, |app, cx| app.handle_message(message, ConnectionId(9), cx));
    }
    assert_eq!(crowd.seen[0].messages, ["crossing"]);
    assert_eq!(crowd.seen[2].messages, ["crossing"]);
    assert!(crowd.seen[3].messages.is_empty(), "it was not there when that was sent");
    assert_eq!(crowd.result(op), Ok(()));
}

#[test]
fn a_message_that_overtakes_its_commit_waits_for_it() {
    let mut crowd = four(true);
    for at in [1, 2] {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    crowd.copies =
        Box::new(|_, to, message| usize::from(to != 1 || kind(message) != T::GroupUpdate));
    let invited = crowd.invite_start(3);
    let published = crowd.publish(0, "early");
    assert_eq!((crowd.epoch(0), crowd.epoch(1)), (Some(3), Some(2)));
    assert!(crowd.seen[1].messages.is_empty());
    assert_eq!(crowd.seen[2].messages, ["early"]);
    crowd.copies = Box::new(|_, _, message| usize::from(kind(message) != T::Msg));
    assert_eq!(crowd.result(invited), Ok(()));
    assert_eq!(crowd.seen[1].messages, ["early"], "it was not sent again");
    assert_eq!(crowd.result(published), Ok(()));
}

#[test]
fn what_is_kept_of_epochs_to_come_is_bounded() {
    let mut crowd = four(false);
    for at in [1, 2] {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    crowd.copies =
        Box::new(|_, to, message| usize::from(to != 1 || kind(message) != T::GroupUpdate));
    crowd.invite_start(3);
    for n in 0..limits::MLS_EARLY_MESSAGES + 5 {
        crowd.publish(0, &n.to_string());
    }
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(3 * T);
    assert_eq!(crowd.seen[1].messages.len(), limits::MLS_EARLY_MESSAGES);

    // And in bytes: what goes over does not come.
    let mut crowd = four(false);
    for at in [1, 2] {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    crowd.copies =
        Box::new(|_, to, message| usize::from(to != 1 || kind(message) != T::GroupUpdate));
    crowd.invite_start(3);
    let large = "x".repeat(limits::MLS_EARLY_BYTES / 2);
    for _ in 0..3 {
        crowd.publish(0, &large);
    }
    crowd.publish(0, "small");
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(3 * T);
    let got: Vec<usize> = crowd.seen[1].messages.iter().map(String::len).collect();
    assert_eq!(got, [large.len(), 5], "sealed, two are more than there is room for");
    // Nor for ever.
    let mut crowd = four(false);
    for at in [1, 2] {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    crowd.copies = Box::new(|_, to, message| {
        usize::from(to != 1 || !matches!(kind(message), T::GroupUpdate | T::RejoinReply))
    });
    crowd.invite_start(3);
    crowd.publish(0, "too early");
    crowd.run(limits::MLS_EARLY_TIME + T);
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(100 * T);
    crowd.same_epoch(&[0, 1, 2, 3], "at last");
    assert!(crowd.seen[1].messages.is_empty());
}

#[test]
fn spec05_8_commits_out_of_order_are_applied_in_order() {
    let mut crowd = Crowd::sealed(&["o/n/ann", "o/n/bob", "o/n/cid", "o/n/dan", "o/n/eve"]);
    crowd.open(true);
    for at in 1..=4 {
        crowd.copies =
            Box::new(|_, to, message| usize::from(to != 1 || kind(message) != T::GroupUpdate));
        crowd.invite_start(at);
        if at == 1 {
            continue;
        }
        // Without Bob's confirmation nothing would go on.
        crowd.run(5 * T);
    }
    assert_eq!((crowd.epoch(0), crowd.epoch(1)), (Some(4), Some(1)));
    let commits: Vec<Message> = crowd
        .sent
        .iter()
        .filter(|(_, m)| kind(m) == T::GroupUpdate)
        .map(|(_, m)| m.clone())
        .collect();
    let numbered = |wanted: u32| {
        let found = commits.iter().find(|m| update(m).mls.unwrap().commit_id == wanted);
        found.unwrap().clone()
    };
    assert_eq!(fanout(&numbered(3)), limits::FANOUT_ALL);
    let acks = crowd.count(1, T::GroupAck);
    for (number, epoch) in [(3, 1), (3, 1), (2, 3), (2, 3), (4, 4)] {
        let message = numbered(number);
        crowd.with(1, |app, cx| app.handle_message(message, ConnectionId(9), cx));
        assert_eq!(crowd.epoch(1), Some(epoch), "after {number}");
    }
    // Each was confirmed when it was applied; what came again, again.
    assert_eq!(crowd.count(1, T::GroupAck) - acks, 4);
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(60 * T);
    assert_eq!(crowd.count(1, T::RejoinRequest), 0);
    crowd.are_whole(&[0, 1, 2, 3, 4], "in the end");
}

/// Bob does not hear of one or more changes.
fn deaf(missed: usize) -> Crowd {
    let mut crowd = together(true);
    crowd.copies = Box::new(|from, to, _| usize::from(from != 1 && to != 1));
    crowd.run(70 * T);
    for _ in 0..missed {
        assert_eq!(crowd.remove(3), Ok(()));
        assert_eq!(crowd.invite(3), Ok(()));
    }
    crowd
}

#[test]
fn who_missed_a_few_commits_is_told_them() {
    let mut crowd = deaf(2);
    crowd.copies = Box::new(|_, _, message| {
        usize::from(kind(message) != T::Heartbeat || message_id(message) == 0)
    });
    let rejoined = crowd.count(1, T::RejoinRequest);
    let op = crowd.publish(1, "I am back");
    crowd.run(30 * T);
    assert!(crowd.done.contains_key(&op));
    assert_eq!(crowd.count(1, T::RejoinRequest), rejoined, "it could follow");
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(30 * T);
    crowd.are_whole(&[0, 1, 2, 3], "told");
}

#[test]
fn spec05_8_who_missed_too_many_commits_gets_new_keys() {
    let mut crowd = deaf(limits::MLS_MISSED_COMMITS / 2 + 1);
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(60 * T);
    assert_eq!(crowd.count(1, T::RejoinRequest), 1);
    assert!(crowd.has_told_of_new_keys());
    crowd.are_whole(&[0, 1, 2, 3], "back");
}

#[test]
fn defect_13_who_got_new_keys_is_waited_for_again() {
    let mut crowd = deaf(limits::MLS_MISSED_COMMITS / 2 + 1);
    assert!(crowd.others(2).contains(&(1, false)));
    // Cid hears of Bob only from the moderator.
    crowd.copies = Box::new(|from, to, _| usize::from((from, to) != (1, 2)));
    while !crowd.has_told_of_new_keys() {
        crowd.run(T / 4);
    }
    assert!(crowd.others(2).contains(&(1, true)));
    let op = crowd.publish(2, "to Bob, too");
    let error = crowd.result(op).unwrap_err();
    assert!(matches!(error, Error::Undelivered(_)), "{error}");
    assert!(error.to_string().contains(&crowd.names[1].to_string()), "{error}");
    assert!(crowd.seen[1].messages.contains(&"to Bob, too".to_owned()), "only its ack is lost");
}

#[test]
fn spec03_17_a_doubled_message_of_a_rejoin_breaks_nothing() {
    // By a heartbeat of a later epoch, and by a return that is refused.
    let of_heartbeats = [T::RejoinRequest, T::RejoinReply, T::GroupUpdate, T::GroupAck];
    for doubled in of_heartbeats.map(Some).into_iter().chain([None]) {
        let mut crowd = deaf(limits::MLS_MISSED_COMMITS / 2 + 1);
        crowd.copies = twice(doubled);
        crowd.run(60 * T);
        assert!(doubled.is_none_or(|kind| (0..4).any(|at| crowd.count(at, kind) > 0)));
        crowd.copies = Box::new(|_, _, _| 1);
        crowd.run(25 * T);
        crowd.are_whole(&[0, 1, 2, 3], &format!("{doubled:?}"));
    }
    let of_returns = [T::UpdateParticipantState, T::GroupNack, T::RejoinRequest, T::RejoinReply];
    for doubled in of_returns.map(Some).into_iter().chain([None]) {
        let mut crowd = together(true);
        assert_eq!(crowd.set_away(2, true), Ok(()));
        crowd.copies = Box::new(|_, to, _| usize::from(to != 2));
        assert_eq!(crowd.remove(3), Ok(()));
        crowd.copies = twice(doubled);
        assert_eq!(crowd.set_away(2, false), Ok(()));
        assert!(doubled.is_none_or(|kind| (0..3).any(|at| crowd.count(at, kind) > 0)));
        crowd.copies = Box::new(|_, _, _| 1);
        crowd.run(25 * T);
        crowd.are_whole(&[0, 1, 2], &format!("{doubled:?}"));
    }
}

/// All messages of a kind, or all of any, come twice.
fn twice(wanted: Option<T>) -> super::groups::Copies {
    Box::new(move |_, _, message| 1 + usize::from(wanted.is_none_or(|it| it == kind(message))))
}

#[test]
fn who_left_and_came_again_meanwhile_counts_anew() {
    for missed in [1, limits::MLS_MISSED_COMMITS] {
        let mut crowd = together(true);
        crowd.say_three(3);
        crowd.copies = Box::new(|from, to, _| usize::from(from != 1 && to != 1));
        crowd.run(70 * T);
        for _ in 0..missed {
            assert_eq!(crowd.remove(3), Ok(()));
            assert_eq!(crowd.invite(3), Ok(()));
        }
        // It is not told what it has missed, and asks for new keys.
        crowd.copies = Box::new(move |from, to, m| {
            let update = from == 0 && to == 1 && kind(m) == T::GroupUpdate;
            usize::from(!update || update_of_return(m))
        });
        crowd.run(40 * T);
        assert!(crowd.count(1, T::RejoinRequest) > 0);
        crowd.copies = Box::new(|_, _, _| 1);
        crowd.run(60 * T);
        crowd.are_whole(&[0, 1, 2, 3], "back");
    }
}

/// What follows a rejoin: that somebody has left meanwhile, or is back.
fn update_of_return(message: &Message) -> bool {
    let update = update(message);
    update.op != GroupUpdateOp::Add as i32 && fanout(message) == 1
        || update.op == GroupUpdateOp::Rejoin as i32
}

#[test]
fn commits_that_came_too_early_are_bounded() {
    let mut crowd = Crowd::sealed(&["o/n/ann", "o/n/bob", "o/n/cid", "o/n/dan"]);
    crowd.open(true);
    for at in [1, 2] {
        assert_eq!(crowd.invite(at), Ok(()));
    }
    crowd.copies = Box::new(|from, to, m| {
        let kept =
            (to == 1 && kind(m) == T::GroupUpdate) || (from == 1 && kind(m) == T::RejoinRequest);
        usize::from(!kept)
    });
    for _ in 0..limits::MLS_EARLY_COMMITS / 2 + 2 {
        crowd.invite_start(3);
        crowd.run(5 * T);
        assert!(crowd.done.len() > 2);
        let _ = crowd.remove(3);
    }
    let commits: Vec<Message> = crowd
        .sent
        .iter()
        .filter(|(_, m)| kind(m) == T::GroupUpdate)
        .map(|(_, m)| m.clone())
        .collect();
    let number = |m: &Message| update(m).mls.unwrap().commit_id;
    let acks = crowd.count(1, T::GroupAck);
    let first = 3;
    for wanted in first + 1..=first + limits::MLS_EARLY_COMMITS as u32 + 1 {
        let message = commits.iter().find(|m| number(m) == wanted).unwrap().clone();
        crowd.with(1, |app, cx| app.handle_message(message, ConnectionId(9), cx));
    }
    let message = commits.iter().find(|m| number(m) == first).unwrap().clone();
    crowd.with(1, |app, cx| app.handle_message(message, ConnectionId(9), cx));
    assert_eq!(crowd.count(1, T::GroupAck) - acks, limits::MLS_EARLY_COMMITS + 1);
    assert_eq!(crowd.epoch(1), Some(2 + 1 + limits::MLS_EARLY_COMMITS as u64));
}

#[test]
fn a_missing_commit_is_waited_for() {
    let mut crowd = four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    let (_, mut ahead) =
        crowd.sent.iter().rfind(|(_, m)| kind(m) == T::GroupUpdate).unwrap().clone();
    let requests = crowd.count(1, T::RejoinRequest);
    let content = publish_of(&mut ahead).msg.as_mut().unwrap().content_type.as_mut().unwrap();
    if let ContentType::CommandPayload(CommandPayload {
        command_payload_type: Some(CommandPayloadType::GroupUpdate(update)),
    }) = content
    {
        update.mls.as_mut().unwrap().commit_id += 2;
    }
    publish_of(&mut ahead).session.as_mut().unwrap().message_id = 4711;
    ahead.metadata.clear();
    let about =
        Outgoing::control(T::Heartbeat, &crowd.names[0], 1, CommandPayloadType::GroupAck(Empty {}));
    let about = about.about(None);
    crowd.with(0, |app, cx| app.finish(&mut ahead, &about, cx).unwrap());
    crowd.with(1, |app, cx| app.handle_message(ahead, ConnectionId(9), cx));
    crowd.run(limits::MLS_COMMIT_WAIT - Duration::from_millis(1));
    assert_eq!(crowd.count(1, T::RejoinRequest), requests);
    crowd.run(Duration::from_millis(1));
    assert_eq!(crowd.count(1, T::RejoinRequest), requests + 1);
}

#[test]
fn spec05_12_a_newcomer_from_the_future_is_taken_in_when_its_time_has_come() {
    let mut crowd = Crowd::sealed(&["o/n/ann", "o/n/bob", "o/n/cid", "o/n/dan"]);
    // Ann may believe everybody, but Bob not Dan.
    crowd.ahead = vec![0, -4, 0, 4];
    crowd.open(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    let acks = crowd.count(1, T::GroupAck);
    assert_eq!(crowd.invite(3), Ok(()));
    assert_eq!((crowd.epoch(0), crowd.epoch(1)), (Some(3), Some(2)));
    crowd.run(Duration::from_secs(9));
    assert_eq!(crowd.epoch(1), Some(3));
    assert!(crowd.count(1, T::GroupAck) > acks);
    assert_eq!(crowd.count(1, T::RejoinRequest), 0);
    crowd.run(2 * limits::HEARTBEAT);
    crowd.agree(&[0, 1, 2, 3], "in time");
    crowd.talk(&[0, 1, 2, 3], "in time");
}

#[test]
fn spec03_36_who_comes_back_to_new_keys_gets_them() {
    let mut crowd = together(true);
    assert_eq!(crowd.set_away(2, true), Ok(()));
    // It hears nothing, as one of the published implementation.
    crowd.copies = Box::new(|_, to, _| usize::from(to != 2));
    assert_eq!(crowd.remove(3), Ok(()));
    crowd.copies = Box::new(|_, _, _| 1);
    let begun = crowd.now.mono;
    assert_eq!(crowd.set_away(2, false), Ok(()));
    assert!(crowd.count(0, T::GroupNack) > 0);
    assert_eq!((crowd.count(2, T::RejoinRequest), crowd.count(0, T::RejoinReply)), (1, 1));
    assert!(crowd.now.mono - begun <= T, "at once");
    crowd.same_epoch(&[0, 1, 2], "back");
    crowd.run(25 * T);
    crowd.agree(&[0, 1, 2], "back");
    crowd.talk(&[0, 1, 2], "back");
    // The moderator goes on.
    assert_eq!(crowd.invite(3), Ok(()));
    crowd.talk(&[0, 1, 2, 3], "and on");
}

#[test]
fn spec03_37_a_later_epoch_in_a_heartbeat_leads_to_one_request_for_keys() {
    let mut crowd = together(true);
    crowd.copies = Box::new(|_, to, m| usize::from(to != 1 || kind(m) != T::GroupUpdate));
    let _ = crowd.remove(3);
    crowd.run(4 * limits::HEARTBEAT);
    assert_eq!(crowd.count(1, T::RejoinRequest), 1);
    crowd.same_epoch(&[0, 1, 2], "rejoined");
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(2 * limits::HEARTBEAT);
    crowd.agree(&[0, 1, 2], "rejoined");
    crowd.talk(&[0, 1, 2], "rejoined");
}

#[test]
fn a_lost_answer_to_a_request_for_keys_is_given_again_and_a_lost_group_is_told() {
    let mut crowd = together(true);
    crowd.copies = Box::new(|_, to, m| usize::from(to != 1 || kind(m) != T::GroupUpdate));
    let _ = crowd.remove(3);
    let mut lost = 1;
    crowd.copies = Box::new(move |_, to, m| {
        let this = to == 1 && kind(m) == T::RejoinReply && lost > 0;
        lost -= usize::from(this);
        usize::from(!this && (to != 1 || kind(m) != T::GroupUpdate))
    });
    crowd.run(4 * limits::HEARTBEAT);
    assert_eq!((crowd.count(1, T::RejoinRequest), crowd.count(0, T::RejoinReply)), (2, 2));
    crowd.same_epoch(&[0, 1, 2], "rejoined");
    assert_eq!(crowd.epoch(0), Some(5), "one commit");

    // The moderator is gone for Bob.
    let mut crowd = together(true);
    crowd.copies = Box::new(|_, to, m| usize::from(to != 1 || kind(m) != T::GroupUpdate));
    let _ = crowd.remove(3);
    crowd.copies = Box::new(|_, to, m| {
        usize::from(to != 1 || !matches!(kind(m), T::GroupUpdate | T::RejoinReply))
    });
    crowd.run(2 * limits::MLS_REJOIN_PAUSE);
    let told: Vec<&Event> = crowd.seen[1]
        .events
        .iter()
        .filter(
            |event| matches!(event, Event::EncryptionLost(text) if text.contains("invited again")),
        )
        .collect();
    assert_eq!(told.len(), 1, "{:?}", crowd.seen[1].events);
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(2 * limits::MLS_REJOIN_PAUSE);
    crowd.same_epoch(&[0, 1, 2], "healed");
    crowd.talk(&[0, 1, 2], "healed");
}

#[test]
fn spec03_33_heartbeats_tell_the_epoch() {
    let mut crowd = together(true);
    crowd.run(3 * limits::HEARTBEAT);
    for at in 0..4 {
        let (_, beat) =
            crowd.sent.iter().rfind(|(from, m)| *from == at && kind(m) == T::Heartbeat).unwrap();
        let CommandPayloadType::Heartbeat(beat) = command(beat) else { panic!() };
        assert_eq!(beat.epoch, 3);
    }
}

#[test]
fn spec05_15_two_talk_for_hours_and_still_invite_and_remove() {
    let mut crowd = four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    for hour in 1..=3 {
        crowd.run(Duration::from_secs(3700));
        crowd.same_epoch(&[0, 1, 2], "after hours");
        crowd.talk(&[0, 1, 2], &format!("hour {hour}"));
        assert_eq!(crowd.invite(3), Ok(()), "hour {hour}");
        crowd.talk(&[0, 1, 2, 3], &format!("hour {hour}, four"));
        assert_eq!(crowd.remove(3), Ok(()), "hour {hour}");
        crowd.run(2 * T);
    }
}

#[test]
fn every_place_has_a_token_that_is_young_enough() {
    let mut crowd = four(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    let before = crowd.epoch(0).unwrap();
    // Tokens live for an hour: two thirds of it are less than the limit. Up to an eighth earlier, not
    // all at once.
    assert!(limits::MLS_REFRESH > Duration::from_secs(2400));
    crowd.run(Duration::from_secs(2400 - 300 - 10));
    assert_eq!(crowd.epoch(0), Some(before));
    crowd.run(Duration::from_secs(320));
    assert_eq!(crowd.count(0, T::RejoinReply), 2, "both asked");
    assert_eq!(crowd.epoch(0), Some(before + 3), "and the moderator did it itself");
    crowd.same_epoch(&[0, 1, 2], "refreshed");
    let own = crowd.sent.iter().filter(|(_, m)| kind(m) == T::GroupUpdate).filter(|(_, m)| {
        let name = update(m).participant.unwrap().name.unwrap();
        Name::from_wire(&name).as_ref() == Some(&crowd.names[MODERATOR])
    });
    assert_eq!(own.count(), 1);
    crowd.talk(&[0, 1, 2], "refreshed");

    let mut pair = Pair::sealed();
    let (ours, theirs) = pair.open(true);
    pair.run(Duration::from_secs(2 * 3600));
    let epoch = pair.apps[0].fields(ours).unwrap().epoch;
    assert!(epoch > Some(4), "{epoch:?}");
    assert_eq!(pair.apps[1].fields(theirs).unwrap().epoch, epoch);
    pair.still_works(ours, theirs);
}

#[test]
fn a_published_moderator_is_spared_until_the_token_has_expired() {
    let mut crowd = Crowd::sealed_by(&["o/n/ann", "o/n/bob", "o/n/cid"], "3.4.6");
    crowd.open(true);
    assert_eq!((crowd.invite(1), crowd.invite(2)), (Ok(()), Ok(())));
    crowd.run(Duration::from_secs(3590));
    assert!(!crowd.seen[1].events.iter().any(|e| matches!(e, Event::EncryptionLost(_))));
    crowd.run(Duration::from_secs(20));
    for at in [1, 2] {
        assert_eq!(crowd.count(at, T::RejoinRequest), 0);
        let told =
            |e: &&Event| matches!(e, Event::EncryptionLost(text) if text.contains("expired"));
        assert_eq!(crowd.seen[at].events.iter().filter(told).count(), 1);
    }
    // Whoever could not follow at all still asks.
    crowd.copies = Box::new(|_, to, m| usize::from(to != 1 || kind(m) != T::GroupUpdate));
    let _ = crowd.remove(2);
    crowd.run(4 * limits::HEARTBEAT);
    assert_eq!(crowd.count(1, T::RejoinRequest), 1);
}

#[test]
fn who_leaves_while_another_comes_is_out_of_the_keys_too() {
    let mut crowd = four(true);
    assert_eq!(crowd.invite(1), Ok(()));
    crowd.copies = Box::new(|_, _, m| usize::from(kind(m) != T::DiscoveryReply));
    let op = crowd.invite_start(2);
    assert_eq!(crowd.close(1), Ok(()));
    crowd.copies = Box::new(|_, _, _| 1);
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(crowd.invite(1), Ok(()), "again");
    crowd.talk(&[0, 1, 2], "again");
}

#[test]
fn a_moderator_that_is_away_gives_new_keys() {
    let mut crowd = together(true);
    crowd.copies = Box::new(|_, to, m| usize::from(to != 1 || kind(m) != T::GroupUpdate));
    let _ = crowd.remove(3);
    assert_eq!(crowd.set_away(0, true), Ok(()));
    crowd.copies = Box::new(|_, _, _| 1);
    crowd.run(2 * limits::MLS_REJOIN_PAUSE);
    crowd.same_epoch(&[0, 1, 2], "away");
    assert_eq!(crowd.others(1), [(0, false), (2, true)]);
    assert_eq!(crowd.set_away(0, false), Ok(()));
    crowd.run(25 * T);
    crowd.talk(&[0, 1, 2], "back");
}

#[test]
fn who_goes_away_while_it_gets_new_keys_stays_away() {
    let mut crowd = together(true);
    crowd.copies = Box::new(|_, to, m| {
        usize::from(to != 0 || kind(m) != T::RejoinRequest)
            * usize::from(to != 1 || kind(m) != T::GroupUpdate)
    });
    let _ = crowd.remove(3);
    crowd.run(2 * limits::HEARTBEAT);
    assert!(crowd.count(1, T::RejoinRequest) > 0);
    crowd.copies = Box::new(|_, to, m| usize::from(to != 0 || kind(m) != T::RejoinRequest));
    let before = crowd.count(1, T::RejoinRequest);
    crowd.run(limits::MLS_REJOIN_PAUSE);
    while crowd.count(1, T::RejoinRequest) == before {
        crowd.run(T);
    }
    let (_, request) =
        crowd.sent.iter().rfind(|(_, m)| kind(m) == T::RejoinRequest).unwrap().clone();
    assert_eq!(crowd.set_away(1, true), Ok(()));
    crowd.with(0, |app, cx| app.handle_message(request, ConnectionId(9), cx));
    crowd.run(4 * T);
    assert_eq!(crowd.others(0), [(1, false), (2, true)]);
    assert_eq!(crowd.others(2), [(0, true), (1, false)]);
    crowd.copies = Box::new(|_, _, _| 1);
    assert_eq!(crowd.set_away(1, false), Ok(()));
    crowd.run(25 * T);
    crowd.are_whole(&[0, 1, 2], "back");
}

#[test]
fn spec03_11_53_commits_are_counted_also_where_nobody_hears_them() {
    let mut crowd = four(true);
    assert_eq!((crowd.invite(1), crowd.remove(1), crowd.invite(2)), (Ok(()), Ok(()), Ok(())));
    let welcomes: Vec<u32> = crowd
        .sent
        .iter()
        .filter(|(_, m)| kind(m) == T::GroupWelcome)
        .map(|(_, m)| match command(m) {
            CommandPayloadType::GroupWelcome(welcome) => welcome.mls.unwrap().commit_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(welcomes, [1, 3]);
    crowd.talk(&[0, 2], "two");
}

#[test]
fn who_was_removed_reads_nothing_of_what_follows() {
    let mut crowd = together(true);
    // Dan does not hear that it is removed.
    crowd.copies = Box::new(|_, to, m| {
        usize::from(to != 3 || !matches!(kind(m), T::GroupUpdate | T::LeaveRequest))
    });
    assert!(matches!(crowd.remove(3), Err(Error::Undelivered(_))));
    let op = crowd.publish(0, "without Dan");
    assert_eq!(crowd.result(op), Ok(()));
    assert_eq!(crowd.seen[1].messages, ["without Dan"]);
    assert!(crowd.seen[3].messages.is_empty());
}

#[test]
fn spec05_10_a_member_cannot_speak_for_another() {
    let mut crowd = together(true);
    crowd.copies = Box::new(|_, _, m| usize::from(kind(m) != T::Msg));
    crowd.publish(1, "I am Bob");
    let (_, mut message) = crowd.sent.iter().rfind(|(_, m)| kind(m) == T::Msg).unwrap().clone();
    // Somebody on the way, or Bob himself, says that it is Cid's.
    header(&mut message).source = Some(crowd.names[2].to_wire());
    crowd.with(0, |app, cx| app.handle_message(message, ConnectionId(9), cx));
    assert!(crowd.seen[0].messages.is_empty());
}
