//! Sessions with any instance of a service: each message finds its own (DESIGN decision 4).

use super::groups::Crowd;
use super::*;

const CLIENT: usize = 0;

/// A client, and so many instances of one service.
struct Service {
    crowd: Crowd,
    session: SessionKey,
}

impl Service {
    fn new(instances: usize, reliable: bool) -> Service {
        let mut names = vec!["o/n/client"];
        names.resize(1 + instances, "o/n/service");
        let mut crowd = Crowd::new(&names);
        let config = SessionConfig { anycast: true, ..config(reliable) };
        let (op, to) = (crowd.op(), Name::parse("o/n/service").unwrap());
        let session = crowd.with(CLIENT, |app, cx| app.open(config, &to, op, cx)).unwrap();
        assert_eq!(crowd.done[&op].1, Ok(()));
        Service { crowd, session }
    }

    fn publish(&mut self, text: &str) -> OpId {
        let (op, session) = (self.crowd.op(), self.session);
        let payload = Payload::new(text.as_bytes().to_vec(), "", BTreeMap::new());
        self.crowd.with(CLIENT, |app, cx| app.publish(session, payload, Some(op), cx));
        op
    }

    fn close(&mut self) -> OpId {
        let (op, session) = (self.crowd.op(), self.session);
        self.crowd.with(CLIENT, |app, cx| app.close(session, Some(op), cx));
        op
    }

    /// What all instances have got, in any order.
    fn got(&self) -> Vec<String> {
        let all = self.crowd.seen[1..].iter().flat_map(|seen| seen.messages.clone());
        let mut all: Vec<String> = all.collect();
        all.sort();
        all
    }

    fn is_idle(&self) -> bool {
        self.crowd.apps.iter().all(App::is_idle)
    }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:04}")).collect()
}

#[test]
fn messages_reach_all_instances_and_their_answers_come_back() {
    for reliable in [true, false] {
        let mut service = Service::new(2, reliable);
        let texts = numbered(20);
        let ops: Vec<OpId> = texts.iter().map(|text| service.publish(text)).collect();
        for op in ops {
            assert_eq!(service.crowd.result(op), Ok(()));
        }
        service.crowd.run(T);
        assert_eq!(service.got(), texts, "each once");
        for instance in [1, 2] {
            let got = service.crowd.seen[instance].messages.len();
            assert!((5..=15).contains(&got), "{instance}: {got}");
            for key in service.crowd.seen[instance].accepted.clone() {
                let op = service.crowd.op();
                let payload = Payload::new(b"answer".to_vec(), "", BTreeMap::new());
                service.crowd.with(instance, |app, cx| app.publish(key, payload, Some(op), cx));
            }
        }
        assert_eq!(service.crowd.seen[CLIENT].messages.len(), 20);
        // Whoever answered can be answered.
        let to = service.crowd.names[2].clone();
        let (op, session) = (service.crowd.op(), service.session);
        let payload = Payload::new(b"thanks".to_vec(), "", BTreeMap::new());
        service.crowd.with(CLIENT, |app, cx| app.publish_to(session, &to, payload, Some(op), cx));
        assert_eq!(service.crowd.result(op), Ok(()));
        assert_eq!(service.crowd.seen[2].messages.last().unwrap(), "thanks");
        assert_eq!(service.crowd.seen[CLIENT].credit.0, 21);
        let op = service.close();
        assert_eq!(service.crowd.result(op), Ok(()));
        service.crowd.run(2 * limits::CLOSE_GRACE);
        assert!(service.is_idle());
    }
}

#[test]
fn a_burst_arrives_once_through_a_bounded_number_of_sessions() {
    for reliable in [true, false] {
        let mut service = Service::new(2, reliable);
        let texts = numbered(1000);
        let ops: Vec<OpId> = texts.iter().map(|text| service.publish(text)).collect();
        for _ in 0..60 {
            assert!(service.crowd.apps[CLIENT].sessions() <= 1 + limits::ANYCAST_FLOWS);
            service.crowd.run(Duration::from_secs(1));
        }
        assert!(ops.iter().all(|op| service.crowd.done[op].1 == Ok(())), "{reliable}");
        assert_eq!(service.got(), texts);
        assert_eq!(service.crowd.seen[CLIENT].credit, (1000, 4000));
        // Nothing is kept for long.
        service.crowd.run(2 * limits::ANYCAST_IDLE);
        assert_eq!(service.crowd.apps[CLIENT].sessions(), 1);
        for instance in [1, 2] {
            assert!(!service.crowd.seen[instance].accepted.is_empty());
            assert_eq!(service.crowd.apps[instance].sessions(), 0, "of receiver {instance}");
            assert!(service.crowd.apps[instance].is_idle(), "receiver {instance}");
        }
    }
}

#[test]
fn there_are_so_many_sessions_at_once_and_the_next_message_waits() {
    let mut service = Service::new(1, true);
    service.crowd.copies = Box::new(|_, _, message| usize::from(kind(message) != T::MsgAck));
    for text in numbered(limits::ANYCAST_FLOWS) {
        service.publish(&text);
    }
    assert_eq!(service.crowd.seen[1].messages.len(), limits::ANYCAST_FLOWS, "at the limit");
    let last = service.publish("one more");
    assert_eq!(service.crowd.seen[1].messages.len(), limits::ANYCAST_FLOWS);
    service.crowd.copies = Box::new(|_, _, _| 1);
    assert_eq!(service.crowd.result(last), Ok(()));
}

#[test]
fn a_session_is_kept_for_answers_and_closed_when_it_is_idle() {
    let tick = Duration::from_millis(1);
    let mut service = Service::new(1, true);
    service.publish("hello");
    service.crowd.run(limits::ANYCAST_IDLE - tick);
    assert_eq!(service.crowd.apps[CLIENT].sessions(), 2);
    service.crowd.run(tick);
    assert_eq!(service.crowd.apps[CLIENT].sessions(), 1);
    assert_eq!(service.crowd.seen[1].ended.len(), 1);
}

#[test]
fn a_best_effort_message_has_a_moment_to_arrive_before_its_session_is_closed_for_others() {
    let tick = Duration::from_millis(1);
    let mut service = Service::new(1, false);
    for text in numbered(limits::ANYCAST_FLOWS + 1) {
        service.publish(&text);
    }
    service.crowd.run(limits::ANYCAST_PAUSE - tick);
    assert_eq!(service.got().len(), limits::ANYCAST_FLOWS);
    service.crowd.run(tick);
    assert_eq!(service.got().len(), limits::ANYCAST_FLOWS + 1);
}

#[test]
fn where_nobody_is_all_are_undelivered_in_time() {
    for reliable in [true, false] {
        let mut service = Service::new(0, reliable);
        let ops: Vec<OpId> = numbered(1000).iter().map(|text| service.publish(text)).collect();
        let whole = match reliable {
            true => 4 * T,
            false => Retry::default().total(),
        };
        service.crowd.run(whole);
        for op in ops {
            let (ended, result) = &service.crowd.done[&op];
            assert!(*ended <= whole);
            let Err(Error::Undelivered(text)) = result else { panic!("{result:?}") };
            assert!(text.contains("o/n/service"), "{text}");
        }
        assert_eq!(service.crowd.seen[CLIENT].credit, (1000, 4000));
        assert_eq!(service.crowd.apps[CLIENT].sessions(), 1);
        let op = service.close();
        assert_eq!(service.crowd.done[&op].1, Ok(()));
        assert!(service.is_idle());
    }
}

#[test]
fn closing_sends_what_waits() {
    let mut service = Service::new(2, true);
    let ops: Vec<OpId> = numbered(200).iter().map(|text| service.publish(text)).collect();
    let close = service.close();
    let late = service.publish("too late");
    assert!(matches!(service.crowd.done[&late].1, Err(Error::Closed(_))));
    assert_eq!(service.crowd.result(close), Ok(()));
    assert!(ops.iter().all(|op| service.crowd.done[op].1 == Ok(())));
    assert_eq!(service.got(), numbered(200));
    assert_eq!(service.crowd.seen[CLIENT].ended.len(), 1);
    service.crowd.run(2 * limits::CLOSE_GRACE);
    assert!(service.is_idle());
}

#[test]
fn closing_is_bounded_though_nobody_answers_any_more() {
    let mut service = Service::new(1, true);
    let op = service.publish("hello");
    assert_eq!(service.crowd.result(op), Ok(()));
    service.crowd.copies = Box::new(|_, _, _| 0);
    let lost = service.publish("lost");
    let close = service.close();
    service.crowd.run(limits::CLOSE_GRACE);
    assert!(matches!(service.crowd.done[&lost].1, Err(Error::Undelivered(_))));
    assert_eq!(service.crowd.done[&close].1, Ok(()));
    assert!(service.crowd.apps[CLIENT].is_idle());
}

/// A message, and an answer to whoever took it; the acknowledgement of one of them is lost. Then the
/// instance leaves.
fn room_after_the_end(unacked: &'static str) -> (usize, usize) {
    let mut service = Service::new(1, true);
    service.crowd.copies = Box::new(move |_, _, message| {
        let number = if unacked == "hello" { 1 } else { 2 };
        usize::from(kind(message) != T::MsgAck || message_id(message) != number)
    });
    service.publish("hello");
    let (op, session) = (service.crowd.op(), service.session);
    let to = service.crowd.names[1].clone();
    let payload = Payload::new(b"thanks".to_vec(), "", BTreeMap::new());
    service.crowd.with(CLIENT, |app, cx| app.publish_to(session, &to, payload, Some(op), cx));
    assert_eq!(service.crowd.seen[1].messages, ["hello", "thanks"]);
    let theirs = service.crowd.seen[1].accepted[0];
    service.crowd.with(1, |app, cx| app.close(theirs, None, cx));
    service.crowd.run(T);
    assert_eq!(service.crowd.apps[CLIENT].sessions(), 1, "that flow is over");
    service.crowd.seen[CLIENT].credit
}

#[test]
fn all_room_comes_back_when_an_instance_leaves_unacknowledged() {
    assert_eq!(room_after_the_end("thanks"), (2, 11), "the answer");
    assert_eq!(room_after_the_end("hello"), (2, 11), "the message, but not the answer");
}

#[test]
fn members_and_suspension_are_not_for_any_instances() {
    let mut service = Service::new(1, true);
    for suspend in [true, false] {
        let (op, session) = (service.crowd.op(), service.session);
        service.crowd.with(CLIENT, |app, cx| {
            app.act(session, Some(op), |session| session.set_presence(suspend, Some(op), cx));
        });
        let result = service.crowd.done[&op].1.clone();
        let Err(Error::NotAllowed(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("o/n/service"), "{text}");
    }
}

#[test]
fn a_group_is_no_service() {
    let mut crowd = Crowd::new(&["o/n/client"]);
    let config = SessionConfig { anycast: true, kind: Kind::Group, ..config(true) };
    let (op, to) = (crowd.op(), Name::parse("o/n/group").unwrap());
    let refused = crowd.with(CLIENT, |app, cx| app.open(config, &to, op, cx));
    assert!(matches!(refused, Err(Error::InvalidArgument(text)) if text.contains("o/n/group")));
}
