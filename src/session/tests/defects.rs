//! Defects of the published implementation (spec 03 section 18, by their numbers) that concern
//! point-to-point sessions: they are absent here. Those that need a network are tested in
//! `tests/world.rs`, 15's gaps in `receiver.rs`.

use super::*;
use crate::wire::{Content, ContentType};

/// The first message of a kind from this side.
pub(super) fn recorded(pair: &Pair, from: usize, wanted: T) -> Message {
    let mut sent = pair.sent.iter().filter(|(at, _)| *at == from);
    sent.find(|(_, message)| kind(message) == wanted).expect("sent before").1.clone()
}

/// A recorded message with another number, signed again: not a repetition.
pub(super) fn again(message: &Message, message_id: u32) -> Message {
    let mut message = message.clone();
    if let Some(MessageType::Publish(publish)) = &mut message.message_type {
        publish.session.as_mut().unwrap().message_id = message_id;
    }
    let subject = if source(&message) == "alice" { "o/n/alice_x" } else { "o/n/bob_x" };
    sign_as(&mut message, subject);
    message
}

fn source(message: &Message) -> &str {
    match &message.message_type {
        Some(MessageType::Publish(publish)) => {
            let name = publish.header.as_ref().unwrap().source.as_ref().unwrap();
            match name.str_name.as_ref().unwrap().str_component_2.as_str() {
                "alice" => "alice",
                _ => "bob",
            }
        }
        other => panic!("{other:?}"),
    }
}

impl Pair {
    pub(super) fn inject(&mut self, to: usize, message: Message) {
        self.with(to, |app, cx| app.handle_message(message, ConnectionId(9), cx));
    }

    /// Both directions still work.
    pub(super) fn still_works(&mut self, ours: SessionKey, theirs: SessionKey) {
        for (at, key) in [(0, ours), (1, theirs)] {
            let op = self.publish(at, key, "still here");
            self.run(2 * T);
            assert_eq!(self.done[&op].1, Ok(()));
            assert_eq!(self.seen[1 - at].messages.last().unwrap(), "still here");
        }
    }
}

#[test]
fn defect_2_late_replies_are_ignored() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    for wanted in [T::DiscoveryReply, T::JoinReply] {
        let reply = recorded(&pair, 1, wanted);
        // As it was, and under a number that belongs to nothing.
        for message in [reply.clone(), again(&reply, 77), again(&reply, 1)] {
            let before = pair.sent.len();
            pair.inject(0, message);
            assert_eq!(pair.sent.len(), before, "{wanted:?} was answered");
        }
    }
    pair.still_works(ours, theirs);
}

#[test]
fn defect_2_a_reply_after_the_invitation_failed_is_ignored() {
    let mut pair = Pair::new();
    pair.copies = Box::new(|at, _| usize::from(at == 0));
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    let _ = pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
    pair.run(10 * T);
    assert!(matches!(pair.done[&op].1, Err(Error::NoRoute(_))));
    let before = pair.sent.len();
    let reply = recorded(&pair, 1, T::DiscoveryReply);
    pair.inject(0, reply);
    pair.run(10 * T);
    assert_eq!(pair.sent.len(), before);
    assert!(pair.apps[0].is_idle());
}

#[test]
fn defect_3_only_the_first_discovery_reply_counts() {
    let mut pair = Pair::new();
    pair.copies = first(T::DiscoveryReply, 2);
    let (ours, theirs) = pair.open(true);
    assert_eq!(pair.count(0, T::JoinRequest), 1);
    pair.still_works(ours, theirs);
}

#[test]
fn defect_5_what_is_published_before_anybody_is_there_is_sent_at_once_and_in_order() {
    for (reliable, sealed) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut pair = if sealed { Pair::sealed() } else { Pair::new() };
        pair.copies = first(T::JoinRequest, 0);
        let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
        let config = SessionConfig { mls: pair.mls, ..config(reliable) };
        let ours = pair.with(0, |app, cx| app.open(config, &to, op, cx)).unwrap();
        let ops: Vec<OpId> = (0..5).map(|n| pair.publish(0, ours, &n.to_string())).collect();
        assert_eq!(pair.count(0, T::Msg), 0, "nobody is there");
        pair.run(Duration::from_millis(1100));
        assert_eq!(pair.seen[1].messages, ["0", "1", "2", "3", "4"]);
        assert_eq!(pair.count(0, T::Msg), 5, "once each, none by a timer");
        for op in ops {
            assert_eq!(pair.done[&op].1, Ok(()));
        }
    }
}

#[test]
fn defect_6_a_lost_join_reply_is_sent_again() {
    let mut pair = Pair::new();
    pair.copies = first(T::JoinReply, 0);
    let (ours, theirs) = pair.open(true);
    assert_eq!((pair.count(0, T::JoinRequest), pair.count(1, T::JoinReply)), (2, 2));
    pair.still_works(ours, theirs);
}

#[test]
fn defect_6_lost_acks_are_sent_again_and_deliver_nothing_twice() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.copies = first(T::MsgAck, 0);
    let op = pair.publish(0, ours, "once");
    pair.run(2 * T);
    assert_eq!(pair.done[&op].1, Ok(()));
    assert_eq!((pair.count(0, T::Msg), pair.count(1, T::MsgAck)), (2, 2));
    assert_eq!(pair.seen[1].messages, ["once"]);
}

#[test]
fn defect_8_who_comes_back_is_sent_nothing_again() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(true);
    pair.publish(0, ours, "before");
    pair.copies = Box::new(|_, _| 0);
    pair.run(Duration::from_secs(40));
    assert!(matches!(pair.seen[0].events[..], [Event::PeerOffline(_)]));
    pair.copies = Box::new(|_, _| 1);
    pair.run(Duration::from_secs(11));
    assert!(matches!(pair.seen[0].events[1..], [Event::PeerOnline(_)]));
    let sent = pair.count(0, T::Msg);
    pair.run(Duration::from_secs(11));
    assert_eq!((sent, pair.count(0, T::Msg)), (1, 1));
    pair.still_works(ours, theirs);
    assert_eq!(pair.seen[1].messages, ["before", "still here"]);
}

#[test]
fn defect_12_a_publish_that_nobody_acknowledged_is_not_called_delivered() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.copies = Box::new(|_, message| usize::from(kind(message) != T::MsgAck));
    let op = pair.publish(0, ours, "arrives, but who knows");
    pair.run(5 * T);
    let text = pair.done[&op].1.as_ref().unwrap_err().to_string();
    assert!(text.contains("not acknowledged by o/n/bob/"), "{text}");
    assert_eq!(pair.seen[1].messages, ["arrives, but who knows"]);
}

#[test]
fn defect_14_the_close_goes_to_the_full_name() {
    let mut pair = Pair::new();
    let (ours, _) = pair.open(true);
    pair.close(0, ours);
    let mut close = recorded(&pair, 0, T::GroupClose);
    let bob = pair.names[1].to_wire();
    assert_eq!(header(&mut close).destination.as_ref(), Some(&bob));
    assert_eq!(header(&mut close).fanout, limits::FANOUT_ALL);
}

#[test]
fn defect_15_an_invitation_to_a_session_that_exists_changes_nothing() {
    for binding in [Binding::Off, Binding::Warn, Binding::Default, Binding::Enforce] {
        let mut pair = Pair::with_binding(binding);
        let (ours, theirs) = pair.open(true);
        // From the moderator itself, under a fresh number: a published one may be confused so.
        let join = recorded(&pair, 0, T::JoinRequest);
        let before = pair.sent.len();
        pair.inject(1, again(&join, 4242));
        assert_eq!(pair.sent.len(), before, "{binding:?}: answered");
        // From somebody else who knows the session's number.
        let mut foreign = join;
        let mallory =
            Name::parse("o/n/mallory").unwrap().with_id(crate::name::app_id("o/n/mallory_x"));
        header(&mut foreign).source = Some(mallory.to_wire());
        header(&mut foreign).identity = "test:o/n/mallory_x:1800000000".to_owned();
        sign_as(&mut foreign, "o/n/mallory_x");
        pair.inject(1, foreign);
        assert_eq!(pair.sent.len(), before, "{binding:?}: answered");
        assert_eq!(pair.seen[1].accepted.len(), 1, "{binding:?}");
        pair.still_works(ours, theirs);
    }
}

#[test]
fn an_answer_to_a_foreign_request_of_ours_is_not_taken() {
    // The right number and session, but not from whom it was asked.
    let mut pair = Pair::new();
    pair.copies = Box::new(|at, message| usize::from(at == 0 || kind(message) != T::JoinReply));
    let (op, to) = (pair.op(), Name::parse("o/n/bob").unwrap());
    pair.with(0, |app, cx| app.open(config(true), &to, op, cx)).unwrap();
    let mut reply = recorded(&pair, 1, T::JoinReply);
    let mallory = Name::parse("o/n/mallory").unwrap().with_id(crate::name::app_id("o/n/mallory_x"));
    header(&mut reply).source = Some(mallory.to_wire());
    header(&mut reply).identity = "test:o/n/mallory_x:1800000000".to_owned();
    if let Some(MessageType::Publish(publish)) = &mut reply.message_type {
        let payload = CommandPayloadType::JoinReply(crate::wire::JoinReplyPayload {
            key_package: None,
            participant: Some(super::super::roster::describe(&mallory, Direction::Both, true)),
        });
        let command = CommandPayload { command_payload_type: Some(payload) };
        publish.msg = Some(Content { content_type: Some(ContentType::CommandPayload(command)) });
    }
    sign_as(&mut reply, "o/n/mallory_x");
    pair.inject(0, reply);
    assert_eq!(pair.count(0, T::GroupWelcome), 0);
    pair.run(10 * T);
    assert!(matches!(pair.done[&op].1, Err(Error::NoRoute(_))));
}
