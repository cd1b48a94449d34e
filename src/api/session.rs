//! A conversation.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::app::parse_name;
use super::node::unexpected;
use super::{Direction, Fields, Item, Kind, Message, Mls, Op, Retry, Timeout};
use crate::driver::{
    check_size, may_wait, Answer, AppShared, Command, Completion, Counted, OpSlot, Reply,
    SessionShared, Shared,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::session::{check_metadata, Payload, SessionConfig};

/// How to open a session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// With one peer, or with everybody who is invited.
    pub kind: Kind,
    /// Acknowledged and ordered delivery, sent again as this says; `None`: best effort.
    pub reliable: Option<Retry>,
    /// Each message goes to any one instance of the service, each time found anew; what they answer
    /// comes out of one inbox. Off: all go to the instance that was found first.
    pub anycast: bool,
    /// Which way data goes at this side.
    pub direction: Direction,
    /// Encrypted end to end, from member to member: nodes on the way see who talks to whom, but not
    /// what. `None`: not encrypted.
    pub mls: Option<Mls>,
    /// Pairs that the peer sees with the session.
    pub metadata: BTreeMap<String, String>,
    /// Whether events come out of the session's inbox.
    pub events: bool,
}

impl Default for SessionOptions {
    /// Point to point, reliable: ten retries, one second apart.
    fn default() -> SessionOptions {
        let SessionConfig { kind, reliable, anycast, direction, mls, metadata } =
            SessionConfig::default();
        SessionOptions { kind, reliable, anycast, direction, mls, metadata, events: false }
    }
}

impl SessionOptions {
    /// The defaults, but best effort: nothing is acknowledged or sent again.
    pub fn best_effort() -> SessionOptions {
        SessionOptions { reliable: None, ..SessionOptions::default() }
    }

    pub(super) fn config(&self) -> Result<SessionConfig> {
        let SessionOptions { kind, reliable, anycast, direction, mls, metadata, .. } = self.clone();
        let config = SessionConfig { kind, reliable, anycast, direction, mls, metadata };
        config.check()?;
        Ok(config)
    }
}

/// What goes with a message.
#[derive(Clone, Debug, Default)]
pub struct PublishOptions {
    /// What the payload is; "" is sent as "msg".
    pub payload_type: String,
    /// Pairs that travel with the message.
    pub metadata: BTreeMap<String, String>,
}

/// A conversation. Dropping it closes it without waiting for the peer.
pub struct Session {
    node: Arc<Shared>,
    app: Arc<AppShared>,
    shared: Arc<SessionShared>,
}

/// Somebody who takes part in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participant {
    /// Its full name.
    pub name: Name,
    /// Whether it can be reached, as far as is known.
    pub online: bool,
}

impl Session {
    pub(super) fn new(
        node: &Arc<Shared>,
        app: &Arc<AppShared>,
        shared: Arc<SessionShared>,
    ) -> Session {
        Session { node: Arc::clone(node), app: Arc::clone(app), shared }
    }

    /// What is known about the session.
    pub fn fields(&self) -> Fields {
        Fields { epoch: self.shared.epoch(), ..self.shared.fields.clone() }
    }

    /// Hands a message to the session; it is copied. Returns when it is in the send queue, not when
    /// it has arrived: see [`Session::flush`] and [`Session::publish_start`]. While the queue is
    /// full the call waits.
    pub fn publish(
        &self,
        payload: &[u8],
        options: &PublishOptions,
        timeout: Timeout,
    ) -> Result<()> {
        let payload = self.prepare(payload, options)?;
        let number = self.shared.room.take(payload.len(), timeout)?;
        let completion = Completion::Publish(Counted::new(&self.shared, number), None);
        self.node.send(Command::Publish(self.shared.key, payload, completion))
    }

    /// Publishes without waiting: the operation ends when every receiver has acknowledged the
    /// message, or with [`Error::Undelivered`]. [`Error::Limit`]: the queue is full.
    pub fn publish_start(&self, payload: &[u8], options: &PublishOptions) -> Result<Op> {
        let key = self.shared.key;
        self.start(payload, options, |payload, completion| {
            Command::Publish(key, payload, completion)
        })
    }

    /// Answers the sender of `message`, and nobody else, without waiting: see
    /// [`Session::publish_start`].
    pub fn publish_to_start(
        &self,
        message: &Message,
        payload: &[u8],
        options: &PublishOptions,
    ) -> Result<Op> {
        let (key, to) = (self.shared.key, message.source.clone());
        self.start(payload, options, |payload, completion| {
            Command::PublishTo(key, to, payload, completion)
        })
    }

    fn start(
        &self,
        payload: &[u8],
        options: &PublishOptions,
        command: impl FnOnce(Payload, Completion) -> Command,
    ) -> Result<Op> {
        let payload = self.prepare(payload, options)?;
        let full = |error| match error {
            Error::Timeout(_) => Error::Limit("the session's send queue is full".to_owned()),
            other => other,
        };
        let room = &self.shared.room;
        let number = room.take(payload.len(), Some(Duration::ZERO)).map_err(full)?;
        let slot = OpSlot::new();
        let answer = Some(Answer(Arc::clone(&slot)));
        let completion = Completion::Publish(Counted::new(&self.shared, number), answer);
        self.node.send(command(payload, completion))?;
        Ok(Op::new(slot, &self.app, "waiting for the message to be acknowledged"))
    }

    /// Answers the sender of `message`, and nobody else. In a point-to-point session that is the
    /// peer. A member that has left meanwhile: [`Session::flush`] says so.
    pub fn publish_to(
        &self,
        message: &Message,
        payload: &[u8],
        options: &PublishOptions,
        timeout: Timeout,
    ) -> Result<()> {
        let payload = self.prepare(payload, options)?;
        let number = self.shared.room.take(payload.len(), timeout)?;
        let completion = Completion::Publish(Counted::new(&self.shared, number), None);
        let (key, to) = (self.shared.key, message.source.clone());
        self.node.send(Command::PublishTo(key, to, payload, completion))
    }

    /// Invites the app called `name` (any instance) or exactly `name/ID` into the group, and waits
    /// until it has joined and the others know. If the time runs out first, the invitation is taken
    /// back.
    ///
    /// [`Error::Exists`]: it is in the group. [`Error::NotAllowed`]: this is no group, or this side
    /// is not its moderator. [`Error::NoRoute`]: nobody valid answered. [`Error::Limit`]: the group
    /// has as many members, or as many changes that wait, as it may have.
    pub fn invite(&self, name: &str, timeout: Timeout) -> Result<()> {
        may_wait(timeout, "waiting for somebody to join the group")?;
        let (slot, op) = self.invite_slot(name)?;
        let mut result = op.wait(timeout);
        if let Err(Error::Timeout(_)) = result {
            self.node.send(Command::Cancel(self.shared.key, slot))?;
            // It may have ended in the same moment: the loop says so at once. A log callback, which
            // must not wait, does not learn it.
            if may_wait(None, "").is_ok() {
                result = op.wait(None);
            }
        }
        match result {
            Err(Error::Timeout(_)) => {
                Err(Error::Timeout(format!("waiting for {name} to join the group")))
            }
            other => other,
        }
    }

    /// Invites without waiting: the operation ends when [`Session::invite`] would have returned.
    /// Several invitations are carried out in their order.
    pub fn invite_start(&self, name: &str) -> Result<Op> {
        Ok(self.invite_slot(name)?.1)
    }

    fn invite_slot(&self, name: &str) -> Result<(Arc<OpSlot>, Op)> {
        let name = parse_name(name)?;
        self.shared.fields.check_moderator("invite", &name)?;
        let slot = OpSlot::new();
        let answer = Answer(Arc::clone(&slot));
        self.node.send(Command::Invite(self.shared.key, name, answer))?;
        let op = Op::new(Arc::clone(&slot), &self.app, "waiting for somebody to join the group");
        Ok((slot, op))
    }

    /// Removes a participant from the group and waits until it and the others know. `name` without
    /// an id means the only instance of that name.
    ///
    /// [`Error::NotFound`]: nobody of that name is in the group. [`Error::InvalidArgument`]: several
    /// are. [`Error::Undelivered`]: it is out, but did not confirm it. [`Error::Limit`]: too many
    /// changes wait.
    pub fn remove(&self, name: &str, timeout: Timeout) -> Result<()> {
        may_wait(timeout, "waiting for somebody to leave the group")?;
        match self.remove_start(name)?.wait(timeout) {
            Err(Error::Timeout(_)) => {
                Err(Error::Timeout(format!("waiting for {name} to leave the group")))
            }
            other => other,
        }
    }

    /// Removes without waiting: the operation ends when [`Session::remove`] would have returned.
    pub fn remove_start(&self, name: &str) -> Result<Op> {
        let name = parse_name(name)?;
        self.shared.fields.check_moderator("remove", &name)?;
        let slot = OpSlot::new();
        let answer = Answer(Arc::clone(&slot));
        self.node.send(Command::Remove(self.shared.key, name, answer))?;
        Ok(Op::new(slot, &self.app, "waiting for somebody to leave the group"))
    }

    /// Goes away from the group for a while: the others see this side offline and do not wait for
    /// its acknowledgements; what is published meanwhile is not received, unless it is
    /// still on its way at the return.
    pub fn suspend(&self, timeout: Timeout) -> Result<()> {
        let key = self.shared.key;
        let command = |answer| Command::SetAway(key, true, answer);
        self.node.call(command, timeout, "waiting for the session to be suspended").map(drop)
    }

    /// Comes back after [`Session::suspend`].
    pub fn rejoin(&self, timeout: Timeout) -> Result<()> {
        let key = self.shared.key;
        let command = |answer| Command::SetAway(key, false, answer);
        self.node.call(command, timeout, "waiting to be back in the session").map(drop)
    }

    /// Waits until everything published before the call is acknowledged or given up.
    /// [`Error::Undelivered`]: at least one message since the last flush was not acknowledged.
    pub fn flush(&self, timeout: Timeout) -> Result<()> {
        self.shared.room.flush(timeout)
    }

    /// Waits for the next message, or event where those were asked for. What arrived before the
    /// session was closed is still given out.
    pub fn receive(&self, timeout: Timeout) -> Result<Item> {
        let item = self.shared.inbox.pop(timeout, "receive timeout waiting for message")?;
        if self.shared.level.remove(&item) {
            // A node that is closed brings no more messages.
            let _ = self.node.send(Command::InboxHasRoom(self.shared.key));
        }
        Ok(item)
    }

    /// Whether events come out of the session's inbox from now on.
    pub fn set_events(&self, events: bool) -> Result<()> {
        self.node.send(Command::SetEvents(self.shared.key, events))
    }

    /// A descriptor that is readable while [`Session::receive`] has something to give, or the session
    /// is closed. The rules of [`App::descriptor`](super::App::descriptor) apply.
    pub fn descriptor(&self) -> Result<RawFd> {
        self.shared.inbox.descriptor()
    }

    /// Who takes part, this side first.
    pub fn participants(&self, timeout: Timeout) -> Result<Vec<Participant>> {
        let key = self.shared.key;
        let command = |answer| Command::Participants(key, answer);
        match self.node.call(command, timeout, "asking who takes part")? {
            Reply::Participants(others) => {
                let own = Participant { name: self.shared.fields.source.clone(), online: true };
                let others = others.into_iter().map(|(name, online)| Participant { name, online });
                Ok(std::iter::once(own).chain(others).collect())
            }
            _ => Err(unexpected()),
        }
    }

    /// Ends the session: what was published is waited for, then the peer is told.
    ///
    /// [`Error::Undelivered`]: the session is closed, but the peer did not confirm it.
    /// [`Error::Timeout`]: closing goes on.
    pub fn close(&self, timeout: Timeout) -> Result<()> {
        let key = self.shared.key;
        let command = |answer| Command::CloseSession(key, Some(answer));
        self.node.call(command, timeout, "waiting for the session to close").map(drop)
    }

    fn prepare(&self, payload: &[u8], options: &PublishOptions) -> Result<Payload> {
        check_metadata(&options.metadata)?;
        check_size(payload.len(), &options.payload_type, &options.metadata)?;
        let copy = payload.to_vec();
        Ok(Payload::new(copy, &options.payload_type, options.metadata.clone()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A node that is closed has closed its sessions.
        let _ = self.node.send(Command::CloseSession(self.shared.key, None));
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session {} with {}", self.shared.fields.id, self.shared.fields.destination)
    }
}
