//! The loop itself, and the handle by which the program's threads reach it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::fork::{self, Ours};
use super::inbox::may_wait;
use super::resolve::{resolve, system, Resolver};
use super::socket::{Attempt, Progress, Socket, State, WoundUp};
use super::wakeup::{Wakeup, WAKER};
use super::{Answer, AppShared, Command, Completion, OpSlot, Reply, SessionShared, Timeout};
use crate::clock::Now;
use crate::config::ServerConfig;
use crate::error::{Error, Result};
use crate::limits;
use crate::mls;
use crate::node::{AcceptOptions, Node, Output, TransportId, Value};
use crate::session::{AppId, OpId, SessionKey};

/// What the program's threads and the loop share.
pub(crate) struct Shared {
    commands: Sender<Command>,
    waker: Wakeup,
    /// A wake-up is on its way: no other is needed. Both sides exchange it, so that each exchange
    /// sees what came before the one whose value it reads: whoever finds it set has sent a command
    /// that the loop sees when it clears it; whoever finds it clear wakes the loop.
    awake: AtomicBool,
    /// The loop is to end.
    stop: AtomicBool,
    stopped: Arc<OpSlot>,
    /// Why the loop has ended, if it was not asked to.
    death: OnceLock<Error>,
    /// The process that has the loop.
    generation: u32,
}

impl Shared {
    fn new(commands: Sender<Command>, waker: Wakeup) -> Shared {
        let (awake, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let (stopped, death) = (OpSlot::new(), OnceLock::new());
        let generation = fork::generation();
        Shared { commands, waker, awake, stop, stopped, death, generation }
    }

    /// Asks something of the loop.
    pub(crate) fn send(&self, command: Command) -> Result<()> {
        if self.is_elsewhere() {
            return Err(Error::Forked);
        }
        self.commands.send(command).map_err(|_| self.end())?;
        if !self.awake.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
        Ok(())
    }

    /// In a child of fork() there is no loop, and its descriptors may be somebody else's.
    fn is_elsewhere(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Asks the loop to end. Does nothing that a signal handler may not do.
    pub(crate) fn stop(&self) {
        if self.is_elsewhere() {
            return;
        }
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Asks something and waits for the answer.
    pub(crate) fn call(
        &self,
        command: impl FnOnce(Answer) -> Command,
        timeout: Timeout,
        what: &str,
    ) -> Result<Reply> {
        // Before anything is done that nobody could be told of.
        may_wait(timeout, what)?;
        let slot = OpSlot::new();
        self.send(command(Answer(Arc::clone(&slot))))?;
        match slot.wait(timeout, what) {
            // It may have been on its way when the loop died.
            Err(Error::Closed(_)) if self.death.get().is_some() => Err(self.end()),
            result => result,
        }
    }

    /// Why nothing can be asked of the loop any more.
    fn end(&self) -> Error {
        self.death.get().cloned().unwrap_or_else(|| Error::closed("node"))
    }

    /// Waits until the loop has ended.
    pub(crate) fn wait_stopped(&self, timeout: Timeout) -> Result<()> {
        self.stopped.wait(timeout, "waiting for the node to stop").map(drop)
    }
}

/// The thread of a loop ends: whoever waits for that is told, however it ends.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.stopped.finish(match self.0.death.get() {
            None => Ok(Reply::Nothing),
            Some(error) => Err(error.clone()),
        });
    }
}

/// A running loop. Dropping the handle stops it.
pub(crate) struct NodeHandle {
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl NodeHandle {
    /// Starts the thread of a node.
    pub(crate) fn start(node: Node) -> Result<NodeHandle> {
        NodeHandle::start_with(node, system())
    }

    fn start_with(node: Node, resolver: Resolver) -> Result<NodeHandle> {
        let io = |error: std::io::Error| Error::Io(format!("starting the node: {error}"));
        fork::install();
        let poll = Ours::open(Poll::new).map_err(io)?;
        let waker = Wakeup::new(poll.registry()).map_err(io)?;
        let (commands, receiver) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared::new(commands, waker));
        let ended = Ended(Arc::clone(&shared));
        let mut event_loop = EventLoop::new(node, poll, receiver, Arc::clone(&shared), resolver);
        let work = move || {
            let ended = ended;
            if catch_unwind(AssertUnwindSafe(|| event_loop.run())).is_err() {
                let text = "a bug in libslim was caught: the node is dead".to_owned();
                // Nobody else sets it.
                let _ = event_loop.shared.death.set(Error::Internal(text));
            }
            let error = event_loop.shared.end();
            event_loop.abandon(&error);
            drop(event_loop);
            drop(ended);
        };
        let thread = std::thread::Builder::new().name("slim-io".to_owned());
        let thread = without_signals(|| thread.spawn(|| mls::work_alone(work)));
        Ok(NodeHandle { shared, thread: Mutex::new(Some(thread.map_err(io)?)) })
    }

    /// Asks the loop to end; returns at once.
    pub(crate) fn stop(&self) {
        self.shared.stop();
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.shared.is_elsewhere() {
            std::mem::forget(thread);
        } else if let Some(thread) = thread {
            // Its log callback may have dropped the handle. Its panics were caught inside.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Does something with all signals blocked. Threads that it starts keep them blocked from their
/// first moment: signals belong to the program's own threads.
fn without_signals<T>(act: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are written before they are read.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = act();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

struct Listener {
    socket: Ours<TcpListener>,
    options: AcceptOptions,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.socket.shut_down();
    }
}

type Resolved = (Attempt, std::result::Result<Vec<SocketAddr>, String>);

/// The node ends: when at the latest, and who wants to know whether all was written.
struct Stopping {
    until: Instant,
    answers: Vec<Answer>,
}

struct EventLoop {
    node: Node,
    poll: Ours<Poll>,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    resolver: Resolver,
    resolved: (Sender<Resolved>, Receiver<Resolved>),
    sockets: HashMap<TransportId, Socket>,
    listeners: HashMap<Token, Listener>,
    next_listener: usize,
    apps: HashMap<AppId, Arc<AppShared>>,
    sessions: HashMap<SessionKey, Arc<SessionShared>>,
    ops: HashMap<OpId, Completion>,
    next_op: u64,
    /// Sockets that have something to read, each once: those that had their share of a turn stay
    /// for the next, since the kernel will not say so again.
    to_read: Vec<TransportId>,
    buffer: Vec<u8>,
    stopping: Option<Stopping>,
    /// There may be something to accept: it is tried then, from each listener once a turn.
    accept_again: Option<Instant>,
}

impl EventLoop {
    fn new(
        node: Node,
        poll: Ours<Poll>,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
        resolver: Resolver,
    ) -> EventLoop {
        EventLoop {
            node,
            poll,
            commands,
            shared,
            resolver,
            resolved: crossbeam_channel::unbounded(),
            sockets: HashMap::new(),
            listeners: HashMap::new(),
            next_listener: 0,
            apps: HashMap::new(),
            sessions: HashMap::new(),
            ops: HashMap::new(),
            next_op: 0,
            to_read: Vec::new(),
            buffer: vec![0; limits::READ_BUDGET],
            stopping: None,
            accept_again: None,
        }
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let now = self.turn(&mut events);
            let Some(stopping) = &self.stopping else { continue };
            if self.sockets.is_empty() || stopping.until <= now.mono {
                return self.finish_stopping();
            }
        }
    }

    /// Waits for something and does what there is to do: of each socket at most its share.
    fn turn(&mut self, events: &mut Events) -> Now {
        let timeout = self.timeout();
        if let Err(error) = self.poll.poll(events, timeout) {
            if error.kind() != std::io::ErrorKind::Interrupted {
                log::error!("waiting for sockets failed: {error}");
            }
        }
        let now = now();
        if events.iter().any(|event| event.token() == WAKER) {
            // Before the commands are looked at: what is sent after that wakes the next turn.
            self.shared.waker.drain();
        }
        self.take_commands(now);
        if self.shared.stop.load(Ordering::Acquire) && self.stopping.is_none() {
            self.stop(limits::LINGER, None, now);
        }
        for event in &*events {
            self.on_event(event, now);
        }
        self.read_all(now);
        self.check_deadlines(now);
        if self.accept_again.is_some_and(|at| at <= now.mono) {
            self.accept_again = None;
            for token in self.listeners.keys().copied().collect::<Vec<_>>() {
                self.accept(token, now);
            }
        }
        self.node.handle_timeout(now);
        self.carry_out(now);
        now
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.to_read.is_empty() {
            return Some(Duration::ZERO);
        }
        let sockets = self.sockets.values().filter_map(Socket::deadline);
        let next = self
            .node
            .poll_timeout()
            .into_iter()
            .chain(self.stopping.as_ref().map(|stopping| stopping.until))
            .chain(self.accept_again)
            .chain(sockets)
            .min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Does everything that the core wants but writing.
    fn hand_out(&mut self, now: Now) {
        while let Some(output) = self.node.poll_output() {
            self.on_output(output, now);
        }
    }

    /// Does everything that the core wants, and writes what links have to say.
    fn carry_out(&mut self, now: Now) {
        loop {
            self.hand_out(now);
            match self.node.next_dirty() {
                Some(transport) => self.flush(transport, now),
                None => return,
            }
        }
    }

    fn on_event(&mut self, event: &mio::event::Event, now: Now) {
        let token = event.token();
        if token == WAKER {
            return;
        }
        if self.listeners.contains_key(&token) {
            self.accept_again = Some(now.mono);
            return;
        }
        let Some(number) = (token.0 / 2).checked_sub(1).filter(|_| token.0.is_multiple_of(2))
        else {
            return; // a listener that is gone
        };
        let transport = TransportId(number as u64);
        let Some(socket) = self.sockets.get_mut(&transport) else { return };
        socket.hangup |= event.is_read_closed() || event.is_error();
        let room = !socket.writable && event.is_writable();
        socket.writable |= room;
        match socket.state {
            State::Connecting { .. } => self.finish_connecting(transport, now),
            State::Open => {
                if room {
                    self.flush(transport, now);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.read_later(transport);
                }
            }
            State::Closing { .. } => self.read_later(transport),
        }
    }

    /// Has a socket read after this turn's events, or in the next turn; once, however often it was
    /// asked for.
    fn read_later(&mut self, transport: TransportId) {
        if let Some(socket) = self.sockets.get_mut(&transport) {
            if !std::mem::replace(&mut socket.to_read, true) {
                self.to_read.push(transport);
            }
        }
    }

    /// Reads each socket that has something, once. What they bring for one link is written together,
    /// but not more than [`limits::READ_BUDGET`] bytes are read before something is written.
    fn read_all(&mut self, now: Now) {
        let transports = std::mem::take(&mut self.to_read);
        let mut read = 0;
        for transport in &transports {
            read += self.read(*transport, now);
            self.hand_out(now);
            if read >= limits::READ_BUDGET {
                self.carry_out(now);
                read = 0;
            }
        }
        self.carry_out(now);
        for transport in &transports {
            // After writing: what was written to the peer has acknowledged already.
            if self.node.waits_for_acknowledgement(*transport) {
                if let Some(socket) = self.sockets.get(transport) {
                    socket.acknowledge_at_once();
                }
            }
        }
    }

    /// Reads a socket once: at most [`limits::READ_BUDGET`] bytes; how many it were.
    fn read(&mut self, transport: TransportId, now: Now) -> usize {
        let Some(socket) = self.sockets.get_mut(&transport) else { return 0 };
        socket.to_read = false;
        match socket.state {
            State::Connecting { .. } => return 0,
            State::Open => {}
            State::Closing { .. } => {
                self.wind_up(transport);
                return 0;
            }
        }
        match socket.read(&mut self.buffer) {
            Progress::Bytes(len) => {
                let more = len == self.buffer.len() || socket.hangup;
                self.node.handle_bytes(transport, &self.buffer[..len], now);
                if more {
                    self.read_later(transport);
                }
                len
            }
            Progress::Blocked => 0,
            Progress::Ended(cause) => {
                socket.hangup = true;
                self.node.handle_disconnected(transport, &cause, now);
                0
            }
        }
    }

    fn flush(&mut self, transport: TransportId, now: Now) {
        loop {
            let Some(socket) = self.sockets.get_mut(&transport) else { return };
            if !socket.writable || !matches!(socket.state, State::Open) {
                return;
            }
            let bytes = self.node.output(transport);
            if bytes.is_empty() {
                // Looking for output may have brought news.
                return self.node.wrote(transport, 0, now);
            }
            match socket.write(bytes) {
                Progress::Bytes(len) => self.node.wrote(transport, len, now),
                Progress::Blocked => return,
                Progress::Ended(cause) => {
                    socket.hangup = true;
                    return self.node.handle_disconnected(transport, &cause, now);
                }
            }
        }
    }

    fn accept(&mut self, token: Token, now: Now) {
        for _ in 0..limits::ACCEPT_BUDGET {
            let Some(listener) = self.listeners.get(&token) else { return };
            let options = listener.options;
            match Ours::open(|| listener.socket.accept().map(|(stream, _)| stream)) {
                Ok(stream) => {
                    let transport = self.node.accept(options, now);
                    self.add_socket(transport, Socket::new(stream, State::Open), now);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors: the kernel keeps the connection in its queue, and will
                    // not say so again.
                    self.accept_again = Some(now.mono + limits::ACCEPT_RETRY);

                    return log::error!("a connection could not be accepted: {error}");
                }
            }
        }
        self.accept_again = Some(now.mono);
    }

    fn add_socket(&mut self, transport: TransportId, mut socket: Socket, now: Now) {
        let token = Token((transport.0 as usize + 1) * 2);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut *socket.stream, token, interest) {
            let cause = error.to_string();
            return match socket.state {
                State::Connecting { .. } => {
                    self.node.handle_connect_failed(transport, &cause, now);
                }
                State::Open | State::Closing { .. } => {
                    self.node.handle_disconnected(transport, &cause, now);
                }
            };
        }
        self.sockets.insert(transport, socket);
    }

    fn dial(&mut self, attempt: Attempt, host: String, port: u16, now: Now) {
        if let Ok(ip) = host.parse::<IpAddr>() {
            let others = VecDeque::from([SocketAddr::new(ip, port)]);
            return self.try_next(attempt, others, "no address", now);
        }
        let (sender, shared) = (self.resolved.0.clone(), Arc::clone(&self.shared));
        let answer = move |found| {
            // A loop that has ended does not want to know.
            let _ = sender.send((attempt, found));
            shared.waker.wake();
        };
        if let Err(error) = resolve(&self.resolver, host, port, answer) {
            self.node.handle_connect_failed(attempt.transport, &error.to_string(), now);
        }
    }

    /// Tries one address after the other.
    fn try_next(
        &mut self,
        attempt: Attempt,
        mut others: VecDeque<SocketAddr>,
        last_error: &str,
        now: Now,
    ) {
        let Attempt { transport, deadline, .. } = attempt;
        if !self.node.wants(transport) {
            return; // closed while its name was looked up
        }
        let mut cause = last_error.to_owned();
        if deadline.is_some_and(|deadline| deadline <= now.mono) {
            return self.node.handle_connect_failed(transport, &cause, now);
        }
        while let Some(address) = others.pop_front() {
            match Ours::open(|| TcpStream::connect(address)) {
                Ok(stream) => {
                    let until = attempt_until(now.mono, deadline, others.len());
                    let socket = Socket::new(stream, State::Connecting { until, attempt, others });
                    if let Some(silence) = attempt.keepalive {
                        socket.keep_alive(silence);
                    }
                    return self.add_socket(transport, socket, now);
                }
                Err(error) => cause = format!("{address}: {error}"),
            }
        }
        self.node.handle_connect_failed(transport, &cause, now);
    }

    fn finish_connecting(&mut self, transport: TransportId, now: Now) {
        let Some(socket) = self.sockets.get_mut(&transport) else { return };
        let failed = match socket.stream.take_error() {
            Ok(None) => None,
            Ok(Some(error)) | Err(error) => Some(error.to_string()),
        };
        if failed.is_none() && socket.stream.peer_addr().is_err() && !socket.hangup {
            return; // not yet
        }
        match failed {
            None => {
                socket.state = State::Open;
                self.node.handle_connected(transport, now);
                self.carry_out(now);
            }
            Some(cause) => self.connecting_failed(transport, &cause, now),
        }
    }

    fn connecting_failed(&mut self, transport: TransportId, cause: &str, now: Now) {
        let Some(mut socket) = self.sockets.remove(&transport) else { return };
        // It was registered when it was added.
        let _ = self.poll.registry().deregister(&mut *socket.stream);
        let state = std::mem::replace(&mut socket.state, State::Open);
        if let State::Connecting { attempt, others, .. } = state {
            self.try_next(attempt, others, cause, now);
        }
    }

    fn wind_up(&mut self, transport: TransportId) {
        let Some(socket) = self.sockets.get_mut(&transport) else { return };
        match socket.wind_up(&mut self.buffer) {
            WoundUp::Done => self.remove_socket(transport),
            WoundUp::Waiting => {}
            WoundUp::OutOfBudget => self.read_later(transport),
        }
    }

    fn remove_socket(&mut self, transport: TransportId) {
        if let Some(mut socket) = self.sockets.remove(&transport) {
            // It was registered when it was added.
            let _ = self.poll.registry().deregister(&mut *socket.stream);
        }
    }

    fn check_deadlines(&mut self, now: Now) {
        let due = |socket: &Socket| socket.deadline().is_some_and(|at| at <= now.mono);
        let late: Vec<TransportId> =
            self.sockets.iter().filter(|(_, socket)| due(socket)).map(|(id, _)| *id).collect();
        for transport in late {
            match self.sockets.get(&transport).map(|socket| &socket.state) {
                Some(State::Connecting { .. }) => {
                    self.connecting_failed(transport, "no answer within connect_timeout", now);
                }
                _ => self.remove_socket(transport),
            }
        }
    }

    fn take_commands(&mut self, now: Now) {
        // The flag first: a command that arrives from now on wakes us again. Not a plain store, which
        // would not see the commands of those who found it set.
        self.shared.awake.swap(false, Ordering::AcqRel);
        while let Ok((attempt, found)) = self.resolved.1.try_recv() {
            match found {
                Ok(mut found) => {
                    let first = attempt.failures % found.len().max(1) as u64;
                    found.rotate_left(first as usize);
                    self.try_next(attempt, found.into(), "no address", now);
                }
                Err(cause) => self.node.handle_connect_failed(attempt.transport, &cause, now),
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.on_command(command, now);
        }
    }

    fn on_command(&mut self, command: Command, now: Now) {
        if self.stopping.is_some() && !matches!(command, Command::Stop(..)) {
            return; // whoever waits for an answer is told that the node is closed
        }
        match command {
            Command::Listen(config, slot) => slot.finish(self.listen(&config).map(Reply::Port)),
            Command::Connect(config, deadline, slot) => {
                let op = self.new_op(Completion::Slot(slot));
                self.node.connect(*config, op, deadline);
            }
            Command::Disconnect(connection, slot) => {
                let result = self.node.disconnect(connection, now);
                slot.finish(result.map(|()| Reply::Nothing));
            }
            Command::NewApp(name, provider, verifier, slot) => {
                let (id, name) = self.node.add_app(&name, provider, verifier);
                let app = AppShared::new(id, name);
                self.apps.insert(id, Arc::clone(&app));
                slot.finish(Ok(Reply::App(app)));
            }
            Command::RemoveApp(app) => {
                self.node.remove_app(app, now);
                if let Some(app) = self.apps.remove(&app) {
                    app.close(&Error::closed("app"));
                }
            }
            Command::Subscribe(app, name, connection, slot) => {
                self.start(slot, |node, op| node.subscribe(app, &name, connection, op, now));
            }
            Command::Unsubscribe(app, name, connection, slot) => {
                self.start(slot, |node, op| node.unsubscribe(app, &name, connection, op, now));
            }
            Command::SetRoute(name, connection, slot) => {
                slot.finish(self.node.set_route(&name, connection).map(|()| Reply::Nothing));
            }
            Command::RemoveRoute(name, connection, slot) => {
                slot.finish(self.node.remove_route(&name, connection).map(|()| Reply::Nothing));
            }
            Command::Open(app, config, name, events, created, opened) => {
                let op = self.new_op(Completion::Slot(opened));
                match self.node.open_session(app, *config, &name, op, now) {
                    Ok((key, fields)) => {
                        let session = SessionShared::new(key, fields);
                        self.sessions.insert(key, Arc::clone(&session));
                        self.node.set_events(key, events, now);
                        created.finish(Ok(Reply::Session(session)));
                    }
                    Err(error) => {
                        self.ops.remove(&op);
                        created.finish(Err(error));
                    }
                }
            }
            Command::InboxHasRoom(session) => self.node.set_inbox_full(session, false, now),
            Command::SetEvents(session, events) => self.node.set_events(session, events, now),
            Command::Publish(session, payload, completion) => {
                let op = self.new_op(completion);
                self.node.publish(session, payload, Some(op), now);
            }
            Command::PublishTo(session, member, payload, completion) => {
                let op = self.new_op(completion);
                self.node.publish_to(session, &member, payload, Some(op), now);
            }
            Command::Invite(session, name, slot) => {
                let op = self.new_op(Completion::Slot(slot));
                self.node.invite(session, name, Some(op), now);
            }
            Command::Remove(session, name, slot) => {
                let op = self.new_op(Completion::Slot(slot));
                self.node.remove(session, name, Some(op), now);
            }
            Command::Cancel(session, slot) => {
                let waits = |completion: &Completion| match completion {
                    Completion::Slot(answer) => Arc::ptr_eq(&answer.0, &slot),
                    Completion::Publish(..) => false,
                };
                let found = self.ops.iter().find(|(_, completion)| waits(completion));
                if let Some(op) = found.map(|(op, _)| *op) {
                    self.node.cancel(session, op, now);
                }
            }
            Command::SetAway(session, away, slot) => {
                let op = self.new_op(Completion::Slot(slot));
                self.node.set_away(session, away, Some(op), now);
            }
            Command::SetDirection(app, direction) => self.node.set_direction(app, direction, now),
            Command::CloseSession(session, slot) => {
                if let Some(session) = self.sessions.get(&session) {
                    // Closing takes its time; what is published meanwhile would go nowhere.
                    session.room.close(Error::closed("session"));
                }
                let op = slot.map(|slot| self.new_op(Completion::Slot(slot)));
                self.node.close_session(session, op, now);
            }
            Command::Participants(session, slot) => {
                let found = self.node.participants(session).map(Reply::Participants);
                slot.finish(found.ok_or_else(|| Error::closed("session")));
            }
            Command::Stats(slot) => {
                // For tests of what a bug does, which C cannot make.
                #[cfg(debug_assertions)]
                assert_ne!(std::env::var("SLIM_TEST_BUG").as_deref(), Ok("stats"), "as asked for");
                slot.finish(Ok(Reply::Stats(self.node.stats(), self.node.connections())));
            }
            Command::Stop(limit, answer) => self.stop(limit, answer, now),
        }
    }

    fn new_op(&mut self, completion: Completion) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(op, completion);
        op
    }

    /// Starts an operation that may fail at once.
    fn start(&mut self, slot: Answer, act: impl FnOnce(&mut Node, OpId) -> Result<()>) {
        let op = self.new_op(Completion::Slot(slot));
        if let Err(error) = act(&mut self.node, op) {
            if let Some(completion) = self.ops.remove(&op) {
                completion.finish(Err(error));
            }
        }
    }

    fn listen(&mut self, config: &ServerConfig) -> Result<u16> {
        let endpoint = &config.endpoint;
        let io = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                Error::Exists(format!("cannot listen on {endpoint}: {error}"))
            }
            _ => Error::Io(format!("cannot listen on {endpoint}: {error}")),
        };
        let mut socket = Ours::open(|| TcpListener::bind(config.address)).map_err(io)?;
        let port = socket.local_addr().map_err(io)?.port();
        let token = Token(self.next_listener * 2 + 1);
        self.next_listener += 1;
        self.poll.registry().register(&mut *socket, token, Interest::READABLE).map_err(io)?;
        let options = AcceptOptions::from(config);
        self.listeners.insert(token, Listener { socket, options });
        log::info!("listening on {}:{port}", config.address.ip());
        Ok(port)
    }

    fn on_output(&mut self, output: Output, now: Now) {
        match output {
            Output::Dial { transport, host, port, timeout, keepalive, failures } => {
                let deadline = timeout.map(|limit| now.mono + limit);
                let attempt = Attempt { transport, deadline, keepalive, failures };
                self.dial(attempt, host, port, now);
            }
            Output::Close { transport, bytes } => {
                if let Some(socket) = self.sockets.get_mut(&transport) {
                    let deadline = now.mono + limits::LINGER;
                    socket.state = State::Closing { bytes, deadline };
                    self.wind_up(transport);
                }
            }
            Output::Done(op, result) => {
                if let Some(completion) = self.ops.remove(&op) {
                    completion.finish(result.map(|value| match value {
                        Value::Nothing => Reply::Nothing,
                        Value::Connection(id) => Reply::Connection(id),
                    }));
                }
            }
            Output::NewSession(key, fields) => {
                let session = SessionShared::new(key, fields);
                self.sessions.insert(key, Arc::clone(&session));
                let Some(app) = self.apps.get(&key.app) else { return };
                if app.invitations.len() < limits::INVITATIONS {
                    return app.invitations.push(session);
                }
                // Nobody accepts: the peer is told at once, instead of talking to nobody.
                log::warn!("a session was refused: {} wait to be accepted", limits::INVITATIONS);
                self.node.close_session(key, None, now);
            }
            Output::Item(key, item) => {
                if let Some(session) = self.sessions.get(&key) {
                    let full = session.level.add(&item);
                    session.inbox.push(item);
                    if full {
                        self.node.set_inbox_full(key, true, now);
                    }
                }
            }
            Output::Credit { session, messages, bytes } => {
                if let Some(session) = self.sessions.get(&session) {
                    session.room.give(messages, bytes);
                }
            }
            Output::Epoch(key, epoch) => {
                if let Some(session) = self.sessions.get(&key) {
                    session.set_epoch(epoch);
                }
            }
            Output::Ended(key, reason) => {
                if let Some(session) = self.sessions.remove(&key) {
                    session.close(Error::Closed(format!("session closed: {reason}")));
                }
            }
        }
    }

    /// The end: the listeners first, so that clients which come back are refused and try again.
    /// Called again, it does nothing but answer at the end.
    fn stop(&mut self, limit: Duration, answer: Option<Answer>, now: Now) {
        if let Some(stopping) = &mut self.stopping {
            return stopping.answers.extend(answer);
        }
        let until = now.mono + limit;
        self.stopping = Some(Stopping { until, answers: answer.into_iter().collect() });
        for (_, mut listener) in self.listeners.drain() {
            // It was registered when it was added.
            let _ = self.poll.registry().deregister(&mut *listener.socket);
        }
        self.node.shut_down(now);
        self.carry_out(now);
    }

    fn finish_stopping(&mut self) {
        let left = self.sockets.values().filter(|socket| socket.has_unwritten()).count();
        for answer in self.stopping.take().into_iter().flat_map(|stopping| stopping.answers) {
            answer.finish(match left {
                0 => Ok(Reply::Nothing),
                _ => Err(Error::Timeout(format!("draining, peers that did not take all: {left}"))),
            });
        }
    }

    /// Ends every wait with this error.
    fn abandon(&mut self, error: &Error) {
        for (_, completion) in self.ops.drain() {
            completion.finish(Err(error.clone()));
        }
        for (_, session) in self.sessions.drain() {
            session.close(error.clone());
        }
        for (_, app) in self.apps.drain() {
            app.close(error);
        }
    }
}

/// How long one of several addresses may take: its share of the time, so that a dead one leaves some
/// to the others. The last has all that is left.
fn attempt_until(now: Instant, deadline: Option<Instant>, others: usize) -> Option<Instant> {
    match (deadline, others) {
        (deadline, 0) => deadline,
        (None, _) => Some(now + limits::ADDRESS_ATTEMPT),
        (Some(deadline), others) => {
            let share = deadline.saturating_duration_since(now) / (others as u32 + 1);
            Some(now + share.min(limits::ADDRESS_ATTEMPT))
        }
    }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono: Instant::now(), unix }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_address_of_a_name_has_its_share_of_the_time() {
        let (start, second) = (Instant::now(), std::time::Duration::from_secs(1));
        let most = limits::ADDRESS_ATTEMPT;
        let limit = Some(start + 2 * second);
        assert_eq!(attempt_until(start, limit, 1), Some(start + second));
        assert_eq!(attempt_until(start + second, limit, 0), limit);
        assert_eq!(attempt_until(start, None, 0), None);
        assert_eq!(attempt_until(start, None, 3), Some(start + most));
        assert_eq!(attempt_until(start, Some(start + 100 * most), 3), Some(start + most));
    }

    fn node(id: &str) -> Node {
        let options = crate::node::NodeOptions {
            identity: crate::link::Identity {
                version: crate::protocol_version(),
                node_id: id.to_owned(),
                deployment_name: String::new(),
            },
            gateway: crate::router::Gateway::Off,
            binding: crate::identity::Binding::parse(None),
            stuck_receiver_timeout: limits::STUCK_RECEIVER_TIMEOUT,
            virtual_time: false,
        };
        Node::new(options, Box::new(crate::entropy::SystemEntropy))
    }

    /// An address at which connecting takes for ever: its queue is full, and nobody accepts.
    fn hole() -> (Vec<std::net::TcpStream>, SocketAddr, std::net::TcpListener) {
        use std::os::fd::AsRawFd;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let address = listener.local_addr().unwrap();
        let short = Duration::from_millis(100);
        let connect = || std::net::TcpStream::connect_timeout(&address, short).ok();
        (std::iter::from_fn(connect).collect(), address, listener)
    }

    /// A node of its own that listens, and its port.
    fn listening() -> (NodeHandle, u16) {
        let theirs = NodeHandle::start(node("theirs")).unwrap();
        let server = Box::new(ServerConfig::parse("127.0.0.1:0").unwrap());
        let listen = |answer| Command::Listen(server, answer);
        let patience = Some(Duration::from_secs(20));
        match theirs.shared.call(listen, patience, "listening").unwrap() {
            Reply::Port(port) => (theirs, port),
            _ => panic!("no port"),
        }
    }

    /// One dead address that refuses, one that does not answer, then the one that lives; on
    /// connecting and on every loss.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_addresses_of_a_name_are_tried_in_turn_and_again_after_a_loss() {
        let patience = Some(Duration::from_secs(20));
        let refuses = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (_full, hole, _hole) = hole();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let lives = Arc::new(Mutex::new(listener.local_addr().unwrap()));
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (count, last) = (Arc::clone(&asked), Arc::clone(&lives));
        let resolver: Resolver = Arc::new(move |host, port| {
            assert_eq!((host, port), ("several.test", 1));
            count.fetch_add(1, Ordering::SeqCst);
            Ok(vec![refuses, hole, *last.lock().unwrap()])
        });
        let handle = NodeHandle::start_with(node("ours"), resolver).unwrap();
        let json = r#"{"endpoint": "http://several.test:1", "connect_timeout": "600ms",
            "backoff": {"type": "fixed_interval", "interval": "10ms"}}"#;
        let config = Box::new(crate::config::ClientConfig::parse(json).unwrap());
        let slot = OpSlot::new();
        let answer = Answer(Arc::clone(&slot));
        handle.shared.send(Command::Connect(config, None, answer)).unwrap();
        // Whatever is accepted there is dropped, so that the node comes again and again.
        for round in 1..=3 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut preface = [0; 24];
            std::io::Read::read_exact(&mut stream, &mut preface).unwrap();
            assert_eq!(&preface[..3], b"PRI");
            assert!(asked.load(Ordering::SeqCst) >= round, "asked anew each time");
        }
        // And it comes up when the last of them behaves.
        let (_theirs, port) = listening();
        lives.lock().unwrap().set_port(port);
        drop(listener);
        slot.wait(patience, "connecting").unwrap();
    }

    /// An address where something else listens is not tried first for ever.
    #[test]
    fn the_addresses_of_a_name_take_turns_at_being_the_first() {
        let patience = Some(Duration::from_secs(20));
        let (_theirs, port) = listening();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let wrong = other.local_addr().unwrap();
        std::thread::spawn(move || {
            // Whoever comes is hung up on.
            other.incoming().for_each(drop);
        });
        let right = SocketAddr::new(wrong.ip(), port);
        let resolver: Resolver = Arc::new(move |_, _| Ok(vec![wrong, right]));
        let handle = NodeHandle::start_with(node("ours"), resolver).unwrap();
        let json = r#"{"endpoint": "http://several.test:1",
            "backoff": {"type": "fixed_interval", "interval": "10ms"}}"#;
        let config = Box::new(crate::config::ClientConfig::parse(json).unwrap());
        let connect = |answer| Command::Connect(config, None, answer);
        handle.shared.call(connect, patience, "connecting").unwrap();
    }

    #[test]
    fn a_dialled_socket_asks_by_itself_as_its_configuration_wants() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (keepalive, expected) in [(r#", "keepalive": {"tcp_keepalive": "45s"}"#, 1), ("", 0)] {
            let mut event_loop = event_loop();
            let endpoint = listener.local_addr().unwrap();
            let json = format!(r#"{{"endpoint": "http://{endpoint}"{keepalive}}}"#);
            let config = crate::config::ClientConfig::parse(&json).unwrap();
            event_loop.node.connect(config, OpId(0), None);
            event_loop.carry_out(now());
            let socket = event_loop.sockets.values().next().unwrap();
            let level = libc::SOL_SOCKET;
            let found = super::super::socket::tests::option(socket, level, libc::SO_KEEPALIVE);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn sessions_that_nobody_accepts_end_at_their_limit() {
        let mut event_loop = event_loop();
        let secret = "a secret of at least 32 characters";
        let entropy = &mut crate::entropy::SystemEntropy;
        let provider = crate::identity::SharedSecret::new("org/ns/app", secret, entropy).unwrap();
        let verifier = crate::identity::SharedSecretVerifier::new(secret).unwrap();
        let name = crate::name::Name::parse("org/ns/app").unwrap();
        let slot = OpSlot::new();
        let answer = Answer(Arc::clone(&slot));
        let new = Command::NewApp(name, Box::new(provider), Box::new(verifier), answer);
        event_loop.on_command(new, now());
        let Reply::App(app) = slot.wait(None, "an app").unwrap() else { panic!("no app") };
        let peer = crate::name::Name::parse("org/ns/peer").unwrap();
        let config = crate::session::SessionConfig::default();
        let (_, fields) =
            event_loop.node.open_session(app.id, config, &peer, OpId(0), now()).unwrap();
        for number in 1..=limits::INVITATIONS as u64 + 1 {
            let key = SessionKey { app: app.id, number };
            event_loop.on_output(Output::NewSession(key, fields.clone()), now());
        }
        assert_eq!(app.invitations.len(), limits::INVITATIONS);
    }

    fn event_loop() -> EventLoop {
        let poll = Ours::open(Poll::new).unwrap();
        let waker = Wakeup::new(poll.registry()).unwrap();
        let (commands, receiver) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared::new(commands, waker));
        EventLoop::new(node("node"), poll, receiver, shared, system())
    }

    #[test]
    fn a_turn_accepts_no_more_than_its_share_from_one_listener() {
        let mut event_loop = event_loop();
        let port = event_loop.listen(&ServerConfig::parse("127.0.0.1:0").unwrap()).unwrap();
        let connect = |_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _clients: Vec<_> = (0..=limits::ACCEPT_BUDGET).map(connect).collect();
        let mut events = Events::with_capacity(16);
        event_loop.turn(&mut events);
        assert_eq!(event_loop.sockets.len(), limits::ACCEPT_BUDGET);
        assert_eq!(event_loop.timeout(), Some(Duration::ZERO), "there may be more");
        while event_loop.sockets.len() <= limits::ACCEPT_BUDGET {
            event_loop.turn(&mut events);
        }
        event_loop.turn(&mut events);
        assert!(event_loop.accept_again.is_none());
    }

    /// An identity with a bug.
    struct Faulty;

    impl crate::identity::Provider for Faulty {
        fn subject(&self) -> &str {
            "faulty"
        }

        fn public_key(&self) -> &[u8] {
            &[]
        }

        fn token(
            &mut self,
            _: Now,
            _: &mut dyn crate::entropy::Entropy,
        ) -> std::result::Result<Arc<str>, crate::identity::Error> {
            panic!("a bug that this test put here")
        }

        fn sign(&self, _: &[u8]) -> std::result::Result<Vec<u8>, crate::identity::Error> {
            Ok(Vec::new())
        }
    }

    /// Checklist of 08, item 18.
    #[test]
    fn a_bug_in_the_loop_ends_every_call_and_nothing_hangs() {
        let handle = NodeHandle::start(node("node")).unwrap();
        let secret = "a secret that is long enough to be taken";
        let new_app = |name: &str| {
            let verifier = crate::identity::SharedSecretVerifier::new(secret).unwrap();
            let name = crate::name::Name::parse(name).unwrap();
            let command =
                |answer| Command::NewApp(name, Box::new(Faulty), Box::new(verifier), answer);
            match handle.shared.call(command, None, "making an app").unwrap() {
                Reply::App(app) => app,
                _ => unreachable!(),
            }
        };
        let (app, other) = (new_app("org/ns/faulty"), new_app("org/ns/other"));
        let waiting = std::thread::spawn(move || other.invitations.pop(None, "a session").err());
        let open = |created| {
            let name = crate::name::Name::parse("org/ns/nobody").unwrap();
            let opened = Answer(OpSlot::new());
            Command::Open(app.id, Box::default(), name, false, created, opened)
        };
        let error = handle.shared.call(open, None, "opening").err();
        assert!(matches!(error, Some(Error::Internal(_))), "{error:?}");
        let error = waiting.join().unwrap();
        assert!(matches!(error, Some(Error::Internal(_))), "{error:?}");
        let error = handle.shared.call(Command::Stats, None, "asking").err();
        assert!(matches!(error, Some(Error::Internal(_))), "{error:?}");
        let error = handle.shared.wait_stopped(None).err();
        assert!(matches!(error, Some(Error::Internal(_))), "{error:?}");
    }

    /// A link that never stops sending is read in shares, turn by turn, however often the kernel
    /// says that there is more.
    #[test]
    fn a_turn_takes_no_more_than_its_share_from_one_link() {
        let mut event_loop = event_loop();

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let options = AcceptOptions::from(&ServerConfig::parse("127.0.0.1:0").unwrap());
        let transport = event_loop.node.accept(options, now());
        let ours = Ours::open(|| Ok(TcpStream::from_std(ours))).unwrap();
        let ours = Socket::new(ours, State::Open);
        event_loop.add_socket(transport, ours, now());

        // Far more than the kernel holds, so that it says again and again that there is more.
        let pings = 200 * limits::READ_BUDGET / 17;
        let flood = std::thread::spawn(move || {
            peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
            // Answers to PINGs that were never sent mean nothing.
            let pong = [0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            peer.write_all(&pong.repeat(pings)).unwrap();
            peer
        });
        let mut events = Events::with_capacity(16);
        let (mut turns, mut before) = (0, 0);
        while before < (33 + pings * 17) as u64 {
            event_loop.turn(&mut events);
            turns += 1;
            let after = event_loop.sockets[&transport].bytes_read;
            assert!(after - before <= limits::READ_BUDGET as u64, "turn {turns}: {before} {after}");
            before = after;
        }
        drop(flood.join().unwrap());
        assert!(turns >= 5);
    }
}
