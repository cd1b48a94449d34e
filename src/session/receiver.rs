//! The receiving half of one sender's data: order, duplicates, gaps (spec 03 section 9).

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::arrived::ArrivedDirect;
use super::{ReceivedMessage, Retry};
use crate::limits;

/// Sequence numbers wrap here.
const MODULUS: u32 = 0x8000_0000;

/// Whoever is silent for longer is offline.
const PATIENCE: Duration = limits::HEARTBEAT.saturating_mul(limits::MISSED_HEARTBEATS);

/// What arrived under a number.
#[derive(Debug)]
pub(super) enum Arrival {
    /// The message.
    Message(Box<ReceivedMessage>),
    /// The sender does not have it any more.
    Lost,
}

impl Arrival {
    /// What it takes to keep it.
    fn bytes(&self) -> usize {
        match self {
            Arrival::Message(message) => {
                let pairs = message.metadata.iter().map(|(key, value)| key.len() + value.len());
                message.payload.len() + message.payload_type.len() + pairs.sum::<usize>()
            }
            Arrival::Lost => 0,
        }
    }
}

/// What a receiver says.
#[derive(Debug)]
pub(super) enum Output {
    /// Give this to the application.
    Deliver(Box<ReceivedMessage>),
    /// Tell the application that the message of this number is lost.
    Lost(u32),
    /// Ask the sender for this number.
    Request(u32),
}

/// How a message was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is, or was already, in its place: acknowledge it.
    Taken,
    /// It is too far ahead to be kept: say nothing, and it will come again.
    OutOfWindow,
    /// Too many bytes wait behind the gap: likewise.
    NoRoom,
    /// It comes after the application was told that it is lost: an acknowledgement would be a lie.
    TooLate,
}

/// The receiving half of one sender's data in a reliable session.
#[derive(Debug)]
pub(super) struct Receiver {
    retry: Retry,
    /// Whatever arrives next begins the stream, or goes on with it where some of it was not followed.
    joining: bool,
    /// It did.
    begun: Option<Begun>,
    /// Something was followed.
    followed: bool,
    /// The number that was delivered last.
    last: u32,
    /// What arrived after a gap, by number.
    ahead: BTreeMap<u32, Arrival>,
    /// The bytes in `ahead`.
    bytes: usize,
    wanted: BTreeMap<u32, Wanted>,
    /// The numbers that were given up last; a sender cannot repeat more.
    lost: VecDeque<u32>,
    /// Numbers of the last messages to this member alone, should they come again.
    direct: ArrivedDirect,
}

/// A stream that began, or went on, in its middle.
#[derive(Debug)]
struct Begun {
    /// The number that was delivered before, if there was one.
    before: Option<u32>,
    /// The first one.
    first: u32,
    when: Instant,
}

#[derive(Debug)]
struct Wanted {
    due: Instant,
    tries_left: u32,
}

impl Receiver {
    /// A receiver that expects number 1 first.
    pub(super) fn new(retry: Retry) -> Receiver {
        Receiver {
            retry,
            joining: false,
            begun: None,
            followed: true,
            last: 0,
            ahead: BTreeMap::new(),
            bytes: 0,
            wanted: BTreeMap::new(),
            lost: VecDeque::new(),
            direct: ArrivedDirect::default(),
        }
    }

    /// A receiver that does not know where the sender is: the first number begins the stream.
    pub(super) fn joining(retry: Retry) -> Receiver {
        Receiver { joining: true, followed: false, ..Receiver::new(retry) }
    }

    /// Whether a message to this member alone was not here before.
    pub(super) fn is_new(&mut self, id: u32) -> bool {
        self.direct.is_new(id)
    }

    /// What waits behind gaps, in bytes.
    pub(super) fn waiting(&self) -> usize {
        self.bytes
    }

    /// Whether a number is the one that is expected next.
    pub(super) fn is_next(&self, id: u32) -> bool {
        !self.joining && self.distance(id) == 1
    }

    /// A message, or the news that there is none, arrived under `id`. `room`: bytes that may wait behind
    /// gaps besides those that do already.
    pub(super) fn arrive(
        &mut self,
        id: u32,
        arrival: Arrival,
        room: usize,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> Verdict {
        if id >= MODULUS {
            return Verdict::OutOfWindow; // no number of a stream
        }
        if self.joining && matches!(arrival, Arrival::Message(_)) {
            self.begin(id, now);
        }
        let distance = self.distance(id);
        if distance == 0 || distance > MODULUS / 2 {
            let lost = self.lost.contains(&id) || self.is_missed(id, now);
            return if lost { Verdict::TooLate } else { Verdict::Taken };
        }
        if distance > limits::RECEIVER_WINDOW {
            // What is asked for may still come, and this will come again.
            let lost = matches!(arrival, Arrival::Lost);
            if !self.wanted.is_empty() || lost || distance > limits::RECEIVER_JUMP {
                return Verdict::OutOfWindow;
            }
            self.skip(distance - limits::RECEIVER_WINDOW, out);
        }
        let bytes = arrival.bytes();
        let room = room.min(limits::RECEIVER_BYTES.saturating_sub(self.bytes));
        if self.distance(id) > 1 && bytes > room {
            return Verdict::NoRoom;
        }
        // That a message is lost is news only where it was asked for.
        if self.wanted.remove(&id).is_none() && matches!(arrival, Arrival::Lost) {
            return Verdict::OutOfWindow;
        }
        self.keep(id, arrival);
        self.deliver(out);
        self.ask_for_gaps(id, now, out);
        Verdict::Taken
    }

    /// Whatever is sent for a while is not followed; what waited behind gaps is given out.
    pub(super) fn pause(&mut self, out: &mut Vec<Output>) {
        self.finish(out);
        self.begun = None;
        self.joining = true;
    }

    /// The stream begins with this number; or goes on with it, if it is no old one.
    fn begin(&mut self, id: u32, now: Instant) {
        let before = Some(self.last).filter(|_| self.followed);
        let distance = self.distance(id);
        if before.is_some() && (distance == 0 || distance > MODULUS / 2) {
            return;
        }
        self.joining = false;
        self.followed = true;
        self.last = id.wrapping_sub(1) & (MODULUS - 1);
        self.begun = Some(Begun { before, first: id, when: now });
    }

    /// Whether a message is older than the stream, and was not here. Its sender learns that it was not
    /// delivered; one that has not finished with it after all its tries, and the time in which it would
    /// be missed if it had stood still, is a published one, which would repeat it for ever.
    fn is_missed(&self, id: u32, now: Instant) -> bool {
        let Some(Begun { before, first, when }) = self.begun else { return false };
        let after =
            |a: u32, b: u32| (1..=MODULUS / 2).contains(&(a.wrapping_sub(b) & (MODULUS - 1)));
        after(first, id)
            && before.is_none_or(|before| after(id, before))
            && now < when + self.retry.total().saturating_add(PATIENCE)
    }

    /// When [`Receiver::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.wanted.values().map(|wanted| wanted.due).min()
    }

    /// Time has passed: asks again, or gives up.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut given_up = Vec::new();
        for (id, wanted) in self.wanted.iter_mut().filter(|(_, wanted)| wanted.due <= now) {
            if wanted.tries_left == 0 {
                given_up.push(*id);
                continue;
            }
            wanted.tries_left -= 1;
            wanted.due = now + self.retry.interval;
            out.push(Output::Request(*id));
        }
        for id in given_up {
            self.wanted.remove(&id);
            self.keep(id, Arrival::Lost);
        }
        self.deliver(out);
    }

    /// Nothing more will come: gives out what waited behind gaps, since it was acknowledged.
    pub(super) fn finish(&mut self, out: &mut Vec<Output>) {
        self.wanted.clear();
        while !self.ahead.is_empty() {
            let next = self.next(self.last);
            self.keep(next, Arrival::Lost);
            self.deliver(out);
        }
    }

    /// Time stood still for so long: nothing was taken, so nothing could be answered.
    pub(super) fn resume(&mut self, paused: Duration) {
        for wanted in self.wanted.values_mut() {
            wanted.due += paused;
            // The answer to the last request may have come meanwhile.
            wanted.tries_left = wanted.tries_left.max(1);
        }
    }

    fn keep(&mut self, id: u32, arrival: Arrival) {
        if let Entry::Vacant(place) = self.ahead.entry(id) {
            self.bytes += arrival.bytes();
            place.insert(arrival);
        }
    }

    /// How far `id` is after the last one delivered.
    fn distance(&self, id: u32) -> u32 {
        id.wrapping_sub(self.last) & (MODULUS - 1)
    }

    fn next(&self, id: u32) -> u32 {
        (id + 1) & (MODULUS - 1)
    }

    fn deliver(&mut self, out: &mut Vec<Output>) {
        while let Some(arrival) = self.ahead.remove(&self.next(self.last)) {
            self.last = self.next(self.last);
            self.wanted.remove(&self.last);
            self.bytes -= arrival.bytes();
            match arrival {
                Arrival::Message(message) => out.push(Output::Deliver(message)),
                Arrival::Lost => self.lose(out),
            }
        }
    }

    /// The sender is so far ahead that it cannot have the next numbers any more.
    fn skip(&mut self, numbers: u32, out: &mut Vec<Output>) {
        let told = numbers.min(limits::RECEIVER_WINDOW);
        self.last = (self.last + (numbers - told)) & (MODULUS - 1);
        for _ in 0..told {
            self.last = self.next(self.last);
            self.lose(out);
        }
    }

    /// The number that is next is given up.
    fn lose(&mut self, out: &mut Vec<Output>) {
        if self.lost.len() == limits::RECEIVER_WINDOW as usize {
            self.lost.pop_front();
        }
        self.lost.push_back(self.last);
        out.push(Output::Lost(self.last));
    }

    /// Asks for every number before `id` that is neither here nor asked for.
    fn ask_for_gaps(&mut self, id: u32, now: Instant, out: &mut Vec<Output>) {
        let mut at = self.next(self.last);
        while self.distance(at) < self.distance(id) && self.distance(id) <= MODULUS / 2 {
            if !self.ahead.contains_key(&at) && !self.wanted.contains_key(&at) {
                let due = now + self.retry.interval;
                self.wanted.insert(at, Wanted { due, tries_left: self.retry.max_retries });
                out.push(Output::Request(at));
            }
            at = self.next(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::router::ConnectionId;

    const RETRY: Retry = Retry { interval: Duration::from_secs(1), max_retries: 1 };

    fn numbered(message_id: u32) -> ReceivedMessage {
        ReceivedMessage {
            source: Name::parse("o/n/s").unwrap(),
            destination: Name::parse("o/n/d").unwrap(),
            payload_type: "msg".to_owned(),
            metadata: Default::default(),
            payload: Default::default(),
            identity: String::new(),
            connection: ConnectionId(0),
            is_reply: false,
            message_id,
        }
    }

    fn arrive(receiver: &mut Receiver, id: u32, now: Instant) -> (Verdict, Vec<String>) {
        let mut out = Vec::new();
        let message = Arrival::Message(Box::new(numbered(id)));
        let verdict = receiver.arrive(id, message, usize::MAX, now, &mut out);
        (verdict, out.iter().map(show).collect())
    }

    /// The message of this number has so many bytes of payload.
    fn arrive_long(receiver: &mut Receiver, id: u32, len: usize) -> Verdict {
        let payload = vec![0; len].into();
        let message = Box::new(ReceivedMessage { payload, ..numbered(id) });
        arrive_into(receiver, id, message, usize::MAX)
    }

    fn arrive_into(
        receiver: &mut Receiver,
        id: u32,
        message: Box<ReceivedMessage>,
        room: usize,
    ) -> Verdict {
        let message = Arrival::Message(message);
        receiver.arrive(id, message, room, Instant::now(), &mut Vec::new())
    }

    fn show(output: &Output) -> String {
        match output {
            Output::Deliver(message) => format!("deliver {}", message.message_id),
            Output::Lost(id) => format!("lost {id}"),
            Output::Request(id) => format!("request {id}"),
        }
    }

    #[test]
    fn the_first_message_is_number_1() {
        let (mut receiver, now) = (Receiver::new(RETRY), Instant::now());
        assert_eq!(arrive(&mut receiver, 2, now).1, ["request 1"]);
        assert_eq!(arrive(&mut receiver, 1, now).1, ["deliver 1", "deliver 2"]);
        assert_eq!(arrive(&mut receiver, 1, now), (Verdict::Taken, vec![]));
        assert_eq!(receiver.poll_timeout(), None);
    }

    #[test]
    fn a_gap_is_asked_for_again_then_lost() {
        let (mut receiver, start) = (Receiver::new(RETRY), Instant::now());
        assert_eq!(arrive(&mut receiver, 3, start).1, ["request 1", "request 2"]);
        let mut out = Vec::new();
        receiver.handle_timeout(start + Duration::from_secs(1), &mut out);
        assert_eq!(out.iter().map(show).collect::<Vec<_>>(), ["request 1", "request 2"]);
        out.clear();
        receiver.arrive(1, Arrival::Lost, usize::MAX, start, &mut out);
        receiver.handle_timeout(start + Duration::from_secs(2), &mut out);
        let seen: Vec<_> = out.iter().map(show).collect();
        assert_eq!(seen, ["lost 1", "lost 2", "deliver 3"]);
        // Were it acknowledged now, its sender would be told that it was delivered.
        assert_eq!(arrive(&mut receiver, 2, start), (Verdict::TooLate, vec![]));
        assert_eq!(arrive(&mut receiver, 3, start), (Verdict::Taken, vec![]));
    }

    #[test]
    fn what_is_older_than_the_stream_is_not_acknowledged() {
        let (mut receiver, now) = (Receiver::joining(RETRY), Instant::now());
        assert_eq!(arrive(&mut receiver, 7, now).1, ["deliver 7"]);
        assert_eq!(arrive(&mut receiver, 6, now), (Verdict::TooLate, vec![]));
        assert_eq!(arrive(&mut receiver, 7, now), (Verdict::Taken, vec![]));
        // Who asks even then is no sender of ours.
        let most = RETRY.total() + PATIENCE;
        let early = now + most - Duration::from_millis(1);
        assert_eq!(arrive(&mut receiver, 6, early).0, Verdict::TooLate);
        assert_eq!(arrive(&mut receiver, 6, now + most).0, Verdict::Taken);
    }

    #[test]
    fn a_stream_goes_on_after_a_pause() {
        let (mut receiver, now) = (Receiver::new(RETRY), Instant::now());
        arrive(&mut receiver, 1, now);
        arrive(&mut receiver, 3, now);
        let mut out = Vec::new();
        receiver.pause(&mut out);
        assert_eq!(out.iter().map(show).collect::<Vec<_>>(), ["lost 2", "deliver 3"]);
        // An old one does not begin anything, and is not delivered twice.
        assert_eq!(arrive(&mut receiver, 3, now), (Verdict::Taken, vec![]));
        assert_eq!(arrive(&mut receiver, 6, now).1, ["deliver 6"]);
        assert_eq!(arrive(&mut receiver, 5, now), (Verdict::TooLate, vec![]));
        assert_eq!(arrive(&mut receiver, 2, now), (Verdict::TooLate, vec![]));
        assert_eq!(arrive(&mut receiver, 1, now), (Verdict::Taken, vec![]));
        assert_eq!(arrive(&mut receiver, 7, now).1, ["deliver 7"]);
    }

    #[test]
    fn what_waits_behind_a_gap_is_given_out_in_the_end() {
        let (mut receiver, now) = (Receiver::new(RETRY), Instant::now());
        receiver.last = 0x7fff_fffd;
        arrive(&mut receiver, 0x7fff_ffff, now);
        arrive(&mut receiver, 1, now);
        let mut out = Vec::new();
        receiver.finish(&mut out);
        let seen: Vec<_> = out.iter().map(show).collect();
        assert_eq!(seen, ["lost 2147483646", "deliver 2147483647", "lost 0", "deliver 1"]);
        assert_eq!(receiver.poll_timeout(), None);
    }

    #[test]
    fn numbers_wrap_to_0() {
        let (mut receiver, now) = (Receiver::new(RETRY), Instant::now());
        receiver.last = 0x7fff_fffe;
        assert_eq!(arrive(&mut receiver, 0, now).1, ["request 2147483647"]);
        assert_eq!(arrive(&mut receiver, 0x7fff_ffff, now).1, ["deliver 2147483647", "deliver 0"]);
        assert_eq!(arrive(&mut receiver, 0x7fff_ffff, now).1, [""; 0]);
        assert_eq!(arrive(&mut receiver, 1, now).1, ["deliver 1"]);
    }

    #[test]
    fn defect_15_a_gap_of_any_width_costs_no_more_than_a_window() {
        let (mut receiver, now) = (Receiver::new(RETRY), Instant::now());
        let window = limits::RECEIVER_WINDOW as usize;
        for id in [limits::RECEIVER_JUMP + 1, 1 << 30, MODULUS | 5, u32::MAX] {
            assert_eq!(arrive(&mut receiver, id, now), (Verdict::OutOfWindow, vec![]), "{id}");
        }
        let (verdict, said) = arrive(&mut receiver, limits::RECEIVER_JUMP, now);
        assert_eq!(verdict, Verdict::Taken);
        let count = |what| said.iter().filter(|text| text.starts_with(what)).count();
        assert_eq!((count("lost"), count("request")), (window, window - 1));
        assert_eq!((receiver.ahead.len(), receiver.wanted.len()), (1, window - 1));
    }

    #[test]
    fn what_waits_behind_a_gap_is_bounded_in_bytes() {
        let (mut receiver, room) = (Receiver::new(RETRY), limits::RECEIVER_BYTES);
        // The text "msg" says what each of them is.
        assert_eq!(arrive_long(&mut receiver, 2, room - 10 - 3), Verdict::Taken);
        assert_eq!(arrive_long(&mut receiver, 3, 10 - 3), Verdict::Taken, "at the limit");
        assert_eq!(arrive_long(&mut receiver, 4, 0), Verdict::NoRoom, "past it");
        assert_eq!((receiver.bytes, receiver.ahead.len()), (room, 2));
        // What closes the gap is always taken, and makes room.
        assert_eq!(arrive_long(&mut receiver, 1, 100), Verdict::Taken);
        assert_eq!((receiver.bytes, receiver.last), (0, 3));
        assert_eq!(arrive_long(&mut receiver, 5, room - 3), Verdict::Taken);
        assert_eq!(arrive_long(&mut receiver, 4, 0), Verdict::Taken);
        // One byte more than the whole room, alone.
        assert_eq!(arrive_long(&mut receiver, 7, room - 2), Verdict::NoRoom);
        assert_eq!(arrive_long(&mut receiver, 6, room - 2), Verdict::Taken);
    }

    #[test]
    fn others_may_have_taken_the_room() {
        let mut receiver = Receiver::new(RETRY);
        let message = |id| Box::new(ReceivedMessage { payload: vec![0; 7].into(), ..numbered(id) });
        assert_eq!(arrive_into(&mut receiver, 3, message(3), 9), Verdict::NoRoom);
        assert_eq!(arrive_into(&mut receiver, 3, message(3), 10), Verdict::Taken);
        assert_eq!(arrive_into(&mut receiver, 1, message(1), 0), Verdict::Taken, "in order");
        assert_eq!(
            arrive_into(&mut receiver, 2, message(2), 0),
            Verdict::Taken,
            "it closes the gap"
        );
        assert_eq!((receiver.waiting(), receiver.last), (0, 3));
    }

    #[test]
    fn an_answer_that_finds_no_room_is_asked_for_again() {
        let (mut receiver, now) = (Receiver::new(RETRY), Instant::now());
        arrive_long(&mut receiver, 4, limits::RECEIVER_BYTES - 3);
        assert_eq!(arrive_long(&mut receiver, 2, 0), Verdict::NoRoom);
        let mut out = Vec::new();
        receiver.handle_timeout(now + 2 * RETRY.interval, &mut out);
        assert_eq!(
            out.iter().map(show).collect::<Vec<_>>(),
            ["request 1", "request 2", "request 3"]
        );
    }

    #[test]
    fn a_sender_that_gave_up_a_whole_window_is_followed() {
        let window = limits::RECEIVER_WINDOW;
        let (mut receiver, now) = (Receiver::new(RETRY), Instant::now());
        // At the edge everything before may still come; one further, number 1 is lost.
        assert_eq!(arrive(&mut receiver, window, now).1[0], "request 1");
        let (mut receiver, now) = (Receiver::new(RETRY), now);
        let said = arrive(&mut receiver, window + 1, now).1;
        assert_eq!(said[..2], ["lost 1", "request 2"]);
        // While something is asked for, nothing is skipped.
        assert_eq!(arrive(&mut receiver, window + 2, now), (Verdict::OutOfWindow, vec![]));
        receiver.handle_timeout(now + Duration::from_secs(1), &mut Vec::new());
        receiver.handle_timeout(now + Duration::from_secs(2), &mut Vec::new());
        assert_eq!(arrive(&mut receiver, window + 2, now).1, [format!("deliver {}", window + 2)]);
    }
}
