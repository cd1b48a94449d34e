//! What threads of the program ask of the loop, and how they get their answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::inbox::{deadline_after, wait};
use super::readiness::Readiness;
use super::{Inbox, Timeout};
use crate::config::{ClientConfig, ServerConfig};
use crate::error::{Error, Result};
use crate::identity::{Provider, Verifier};
use crate::limits;
use crate::name::Name;
use crate::node::{ConnectionInfo, Stats};
use crate::router::ConnectionId;
use crate::session::{AppId, Direction, Fields, Item, Payload, SessionConfig, SessionKey};

/// A call. Each is answered through its slot.
pub(crate) enum Command {
    Listen(Box<ServerConfig>, Answer),
    Connect(Box<ClientConfig>, Option<Instant>, Answer),
    Disconnect(ConnectionId, Answer),
    NewApp(Name, Box<dyn Provider>, Box<dyn Verifier>, Answer),
    RemoveApp(AppId),
    Subscribe(AppId, Name, ConnectionId, Answer),
    Unsubscribe(AppId, Name, ConnectionId, Answer),
    SetRoute(Name, ConnectionId, Answer),
    RemoveRoute(Name, ConnectionId, Answer),
    /// The first slot gets the session, the second the end of its opening.
    Open(AppId, Box<SessionConfig>, Name, bool, Answer, Answer),
    SetEvents(SessionKey, bool),
    /// A full inbox has room again.
    InboxHasRoom(SessionKey),
    Publish(SessionKey, Payload, Completion),
    /// To one member of a group.
    PublishTo(SessionKey, Name, Payload, Completion),
    Invite(SessionKey, Name, Answer),
    Remove(SessionKey, Name, Answer),
    /// Nobody waits at this slot any more: an invitation is taken back.
    Cancel(SessionKey, Arc<OpSlot>),
    /// Go away from a group for a while, or come back.
    SetAway(SessionKey, bool, Answer),
    SetDirection(AppId, Direction),
    CloseSession(SessionKey, Option<Answer>),
    Participants(SessionKey, Answer),
    Stats(Answer),
    /// End, within this time; the answer, if one is wanted, says whether all was written.
    Stop(Duration, Option<Answer>),
}

/// Who is told that an operation has ended. Whatever happens to it, they are told.
pub(crate) enum Completion {
    /// Whoever waits at the slot.
    Slot(Answer),
    /// The session counts its publishes, for flushing; somebody may wait for this one, too.
    Publish(Counted, Option<Answer>),
}

impl Completion {
    pub(crate) fn finish(self, result: Result<Reply>) {
        match self {
            Completion::Slot(answer) => answer.finish(result),
            Completion::Publish(counted, answer) => {
                counted.finish(result.as_ref().err().cloned());
                if let Some(answer) = answer {
                    answer.finish(result);
                }
            }
        }
    }
}

/// Why something was never answered.
fn unanswered() -> Error {
    match std::thread::panicking() {
        true => Error::Internal("a bug in libslim was caught: the node is dead".to_owned()),
        false => Error::closed("node"),
    }
}

/// The duty to answer a call. Dropping it answers that the node is closed, or
/// has died.
pub(crate) struct Answer(pub(crate) Arc<OpSlot>);

impl Answer {
    pub(crate) fn finish(self, result: Result<Reply>) {
        self.0.finish(result);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.finish(Err(unanswered()));
    }
}

/// The duty to count a publish as ended.
pub(crate) struct Counted {
    session: Option<Arc<SessionShared>>,
    number: u64,
}

impl Counted {
    pub(crate) fn new(session: &Arc<SessionShared>, number: u64) -> Counted {
        Counted { session: Some(Arc::clone(session)), number }
    }

    fn finish(mut self, error: Option<Error>) {
        if let Some(session) = self.session.take() {
            session.room.finished(self.number, error);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.room.finished(self.number, Some(unanswered()));
        }
    }
}

/// What a call gives.
#[derive(Clone)]
pub(crate) enum Reply {
    Nothing,
    Connection(ConnectionId),
    Port(u16),
    App(Arc<AppShared>),
    Session(Arc<SessionShared>),
    Participants(Vec<(Name, bool)>),
    Stats(Stats, Vec<ConnectionInfo>),
}

/// Where one answer is waited for.
pub(crate) struct OpSlot {
    state: Mutex<OpState>,
    finished: Condvar,
}

#[derive(Default)]
struct OpState {
    result: Option<Result<Reply>>,
    /// Lists on which a number is to be put when there is an answer.
    watchers: Vec<(Arc<AppShared>, u64)>,
}

impl OpSlot {
    pub(crate) fn new() -> Arc<OpSlot> {
        Arc::new(OpSlot { state: Mutex::default(), finished: Condvar::new() })
    }

    /// The answer. Only the first one counts.
    pub(crate) fn finish(&self, result: Result<Reply>) {
        let mut state = self.lock();
        state.result.get_or_insert(result);
        let watchers = std::mem::take(&mut state.watchers);
        // Whoever has waited for the answer finds the numbers on the lists.
        for (app, tag) in &watchers {
            app.done.push(*tag);
        }
        drop(state);
        self.finished.notify_all();
    }

    /// Puts `tag` on the app's list when there is an answer; at once if there is one already.
    pub(crate) fn notify(&self, app: &Arc<AppShared>, tag: u64) {
        let mut state = self.lock();
        match &state.result {
            Some(_) => app.done.push(tag),
            None => state.watchers.push((Arc::clone(app), tag)),
        }
    }

    /// Waits for the answer; `what` says for what.
    pub(crate) fn wait(&self, timeout: Timeout, what: &str) -> Result<Reply> {
        let deadline = deadline_after(timeout);
        let mut guard = self.lock();
        loop {
            if let Some(result) = &guard.result {
                return result.clone();
            }
            guard = wait(&self.finished, guard, deadline, what)?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the loop and the handles of an app share.
pub(crate) struct AppShared {
    pub(crate) id: AppId,
    pub(crate) name: Name,
    /// Sessions that others opened.
    pub(crate) invitations: Inbox<Arc<SessionShared>>,
    /// The numbers of operations that have ended, where that was asked for.
    pub(crate) done: Inbox<u64>,
}

impl AppShared {
    pub(crate) fn new(id: AppId, name: Name) -> Arc<AppShared> {
        let readiness = Arc::new(Readiness::new());
        let (invitations, done) = (Inbox::new(&readiness, 1), Inbox::new(&readiness, 2));
        Arc::new(AppShared { id, name, invitations, done })
    }

    /// Ends every wait.
    pub(crate) fn close(&self, error: &Error) {
        self.invitations.close(error.clone());
        self.done.close(error.clone());
    }
}

/// No number of changes.
const NO_KEYS: u64 = u64::MAX;

/// What the loop and the handles of a session share.
pub(crate) struct SessionShared {
    pub(crate) key: SessionKey,
    /// As they were when the session began.
    pub(crate) fields: Fields,
    /// How often the keys have changed; [`NO_KEYS`] before there are any.
    epoch: AtomicU64,
    pub(crate) inbox: Inbox<Item>,
    pub(crate) level: Level,
    pub(crate) room: Room,
}

/// How full the inbox of a session is.
#[derive(Default)]
pub(crate) struct Level {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    full: AtomicBool,
}

impl Level {
    /// An item goes in. `true`: now it is full.
    pub(crate) fn add(&self, item: &Item) -> bool {
        let bytes = weight(item);
        let messages = self.messages.fetch_add(1, Ordering::AcqRel) + 1;
        let bytes = self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let full = messages >= limits::INBOX_MESSAGES || bytes >= limits::INBOX_BYTES;
        full && !self.full.swap(true, Ordering::AcqRel)
    }

    /// An item was taken out. `true`: it was full, and has room again.
    pub(crate) fn remove(&self, item: &Item) -> bool {
        let bytes = weight(item);
        let messages = self.messages.fetch_sub(1, Ordering::AcqRel) - 1;
        let bytes = self.bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        let room = messages <= limits::INBOX_MESSAGES / 2 && bytes <= limits::INBOX_BYTES / 2;
        room && self.full.load(Ordering::Acquire) && self.full.swap(false, Ordering::AcqRel)
    }
}

fn weight(item: &Item) -> usize {
    match item {
        Item::Message(message) => message.payload.len(),
        Item::Event(_) => 0,
    }
}

impl SessionShared {
    pub(crate) fn new(key: SessionKey, fields: Fields) -> Arc<SessionShared> {
        let messages = match fields.reliable {
            Some(_) => limits::SENDER_WINDOW,
            None => limits::BEST_EFFORT_MESSAGES,
        };
        Arc::new(SessionShared {
            key,
            epoch: AtomicU64::new(fields.epoch.unwrap_or(NO_KEYS)),
            fields,
            inbox: Inbox::new(&Arc::new(Readiness::new()), 1),
            level: Level::default(),
            room: Room::new(messages),
        })
    }

    pub(crate) fn set_epoch(&self, epoch: Option<u64>) {
        self.epoch.store(epoch.unwrap_or(NO_KEYS), Ordering::Release);
    }

    pub(crate) fn epoch(&self) -> Option<u64> {
        Some(self.epoch.load(Ordering::Acquire)).filter(|epoch| *epoch != NO_KEYS)
    }

    /// Ends every wait.
    pub(crate) fn close(&self, error: Error) {
        self.room.close(error.clone());
        self.inbox.close(error);
    }
}

/// How much a session may still publish, and how its publishes end.
pub(crate) struct Room {
    state: Mutex<RoomState>,
    changed: Condvar,
}

struct RoomState {
    messages: usize,
    bytes: usize,
    /// How many were ever published, and of the last of them whether they have ended.
    published: u64,
    ended: VecDeque<bool>,
    failed: Option<Error>,
    closed: Option<Error>,
}

impl RoomState {
    /// The number of the oldest publish that has not ended.
    fn oldest(&self) -> u64 {
        self.published - self.ended.len() as u64
    }
}

impl Room {
    fn new(messages: usize) -> Room {
        let state = RoomState {
            messages,
            bytes: limits::SESSION_BYTES,
            published: 0,
            ended: VecDeque::new(),
            failed: None,
            closed: None,
        };
        Room { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for room for one message, and takes it. Gives its number.
    pub(crate) fn take(&self, bytes: usize, timeout: Timeout) -> Result<u64> {
        let deadline = deadline_after(timeout);
        let mut state = self.lock();
        loop {
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            // One message always fits when nothing else waits.
            if state.messages > 0 && (bytes <= state.bytes || state.bytes == limits::SESSION_BYTES)
            {
                state.messages -= 1;
                state.bytes = state.bytes.saturating_sub(bytes);
                state.published += 1;
                state.ended.push_back(false);
                return Ok(state.published - 1);
            }
            state = wait(&self.changed, state, deadline, "waiting for room to publish")?;
        }
    }

    /// There is room for more.
    pub(crate) fn give(&self, messages: usize, bytes: usize) {
        let mut state = self.lock();
        state.messages += messages;
        state.bytes = (state.bytes + bytes).min(limits::SESSION_BYTES);
        drop(state);
        self.changed.notify_all();
    }

    /// A publish has ended.
    fn finished(&self, number: u64, error: Option<Error>) {
        let mut state = self.lock();
        let at = number.wrapping_sub(state.oldest()) as usize;
        if let Some(ended) = state.ended.get_mut(at) {
            *ended = true;
        }
        while state.ended.front() == Some(&true) {
            state.ended.pop_front();
        }
        if let Some(error) = error {
            state.failed.get_or_insert(error);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until everything published so far has ended.
    pub(crate) fn flush(&self, timeout: Timeout) -> Result<()> {
        let deadline = deadline_after(timeout);
        let mut state = self.lock();
        let target = state.published;
        while state.oldest() < target {
            state = wait(&self.changed, state, deadline, "waiting for acknowledgements")?;
        }
        match state.failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Nothing more is published.
    pub(crate) fn close(&self, error: Error) {
        let mut state = self.lock();
        state.closed.get_or_insert(error);
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that a message will fit, before it is queued.
pub(crate) fn check_size(
    len: usize,
    payload_type: &str,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    if payload_type.len() > limits::METADATA_TEXT {
        let (len, limit) = (payload_type.len(), limits::METADATA_TEXT);
        return Err(Error::TooLarge { what: "a payload type", len, limit });
    }
    let pairs: usize = metadata.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
    let total = len + payload_type.len() + pairs;
    let limit = limits::MAX_SENT_MESSAGE - limits::MESSAGE_OVERHEAD;
    match total <= limit {
        true => Ok(()),
        false => Err(Error::TooLarge { what: "a message", len: total, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Event, Kind, ReceivedMessage, Retry};

    fn message(len: usize) -> Item {
        let name = Name::parse("org/ns/app").unwrap();
        Item::Message(Box::new(ReceivedMessage {
            source: name.clone(),
            destination: name,
            payload_type: String::new(),
            metadata: BTreeMap::new(),
            payload: vec![0; len].into(),
            identity: String::new(),
            connection: ConnectionId(0),
            is_reply: false,
            message_id: 0,
        }))
    }

    #[test]
    fn an_inbox_is_full_at_its_limits_and_has_room_at_half_of_them() {
        let level = Level::default();
        let event = Item::Event(Event::ConnectionBack(ConnectionId(0)));
        for _ in 1..limits::INBOX_MESSAGES {
            assert!(!level.add(&event));
        }
        assert!(level.add(&event), "full, said once");
        assert!(!level.add(&event));
        for _ in 0..limits::INBOX_MESSAGES / 2 {
            assert!(!level.remove(&event));
        }
        assert!(level.remove(&event), "room, said once");
        assert!(!level.remove(&event));

        let level = Level::default();
        assert!(!level.add(&message(limits::INBOX_BYTES - 1)));
        assert!(!level.add(&message(0)));
        assert!(level.add(&message(1)));
    }

    fn session(reliable: Option<Retry>) -> Arc<SessionShared> {
        let name = Name::parse("org/ns/app").unwrap();
        let fields = Fields {
            id: 1,
            kind: Kind::PointToPoint,
            reliable,
            initiator: true,
            source: name.clone(),
            destination: name,
            metadata: BTreeMap::new(),
            mls: None,
            epoch: None,
        };
        SessionShared::new(SessionKey { app: AppId(0), number: 1 }, fields)
    }

    #[test]
    fn a_session_has_room_for_so_many_messages_and_no_more() {
        let now = Some(Duration::ZERO);
        for (reliable, most) in [
            (Some(Retry::default()), limits::SENDER_WINDOW as u64),
            (None, limits::BEST_EFFORT_MESSAGES as u64),
        ] {
            let room = &session(reliable).room;
            for number in 0..most {
                assert_eq!(room.take(1, now), Ok(number));
            }
            assert!(matches!(room.take(0, now), Err(Error::Timeout(_))), "{reliable:?}");
            room.give(1, 1);
            assert_eq!(room.take(1, now), Ok(most));
            assert!(matches!(room.take(0, now), Err(Error::Timeout(_))), "{reliable:?}");
        }
    }

    #[test]
    fn a_session_has_room_for_so_many_bytes_or_for_one_message_of_any_length() {
        let (now, most) = (Some(Duration::ZERO), limits::SESSION_BYTES);
        let room = Room::new(10);
        assert_eq!(room.take(1, now), Ok(0));
        assert!(matches!(room.take(most, now), Err(Error::Timeout(_))), "one byte too many");
        assert_eq!(room.take(most - 1, now), Ok(1));
        assert!(matches!(room.take(1, now), Err(Error::Timeout(_))), "all are taken");
        room.give(1, 1);
        assert!(matches!(room.take(2, now), Err(Error::Timeout(_))));
        assert_eq!(room.take(1, now), Ok(2));
        room.give(2, most);
        // Alone, it need not fit; and what it gives back is no more than there was.
        for number in [3, 4] {
            assert_eq!(room.take(most + 1, now), Ok(number));
            assert!(matches!(room.take(1, now), Err(Error::Timeout(_))));
            room.give(1, most + 1);
        }
        assert_eq!(room.take(most, now), Ok(5));
        assert!(matches!(room.take(1, now), Err(Error::Timeout(_))));
    }

    #[test]
    fn a_flush_waits_for_what_was_published_before_it_whatever_ends_first() {
        let (room, now) = (Room::new(4), Some(Duration::ZERO));
        let numbers = [room.take(1, now), room.take(1, now), room.take(1, now)];
        assert_eq!(numbers, [Ok(0), Ok(1), Ok(2)]);
        room.finished(2, None);
        room.finished(1, None);
        assert!(matches!(room.flush(now), Err(Error::Timeout(_))), "the first has not ended");
        let lost = Error::Undelivered("lost".to_owned());
        room.finished(0, Some(lost.clone()));
        assert_eq!(room.flush(now), Err(lost));
        assert_eq!(room.flush(now), Ok(()), "said once");
        assert_eq!(room.take(1, now), Ok(3));
        room.finished(3, None);
        assert_eq!(room.flush(now), Ok(()));
    }
}
