//! The two names of a group: its data and its control channel, and where they are subscribed.

use std::collections::BTreeMap;

use super::{Output, Role, Session};
use crate::error::Error;
use crate::name::{channel_ids, Name};
use crate::router::ConnectionId;

/// The channels of a group.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) data: Name,
    pub(super) control: Name,
    /// Over which connections messages to them come, and how many subscriptions of each are not
    /// acknowledged yet.
    joined: BTreeMap<ConnectionId, Subscribed>,
    next_ticket: u32,
    /// A connection that they were subscribed over is gone for good, or they could not be.
    cut: bool,
}

#[derive(Debug)]
struct Subscribed {
    /// Tells the answers to the last request from those to earlier ones.
    ticket: u32,
    missing: usize,
    /// The connection is gone, which is seen when all answers are there.
    gone: bool,
}

impl Channels {
    /// Those that a moderator with this identity string makes for `group`.
    pub(super) fn new(subject: &str, group: &Name) -> Channels {
        let (data, control) = channel_ids(subject, group);
        Channels::named(group.with_id(data), group.with_id(control))
    }

    /// Those that an invitation names.
    pub(super) fn named(data: Name, control: Name) -> Channels {
        Channels { data, control, joined: BTreeMap::new(), next_ticket: 0, cut: false }
    }

    /// Both names.
    pub(super) fn names(&self) -> [&Name; 2] {
        [&self.data, &self.control]
    }

    /// Where messages to them are sent.
    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        self.joined.keys().copied().collect()
    }

    /// Whether both are subscribed over a connection, and that was confirmed.
    pub(super) fn is_joined(&self, connection: ConnectionId) -> bool {
        self.joined.get(&connection).is_some_and(|subscribed| subscribed.missing == 0)
    }

    /// They are to be subscribed over a connection: the number under which the answers come.
    fn join(&mut self, connection: ConnectionId) -> u32 {
        let (ticket, missing) = (self.next_ticket, self.names().len());
        self.next_ticket += 1;
        self.joined.insert(connection, Subscribed { ticket, missing, gone: false });
        ticket
    }

    /// One of them is subscribed. `true`: that was the last one.
    fn confirmed(&mut self, connection: ConnectionId, ticket: u32) -> bool {
        match self.joined.get_mut(&connection).filter(|s| s.ticket == ticket && s.missing > 0) {
            Some(subscribed) => {
                subscribed.missing -= 1;
                subscribed.missing == 0
            }
            None => false,
        }
    }

    fn is_waiting(&self, connection: ConnectionId, ticket: u32) -> bool {
        self.joined.get(&connection).is_some_and(|s| s.ticket == ticket && s.missing > 0)
    }
}

impl Session {
    /// Subscribes the channels over a connection. `true`: they are subscribed already.
    pub(super) fn join_channels(&mut self, connection: ConnectionId) -> bool {
        let Some(channels) = &mut self.channels else { return true };
        if channels.is_joined(connection) {
            return true;
        }
        let ticket = channels.join(connection);
        self.out.push(Output::Join { connection, ticket });
        false
    }

    /// A subscription of a channel was confirmed, or was not.
    pub(crate) fn handle_channel(
        &mut self,
        connection: ConnectionId,
        ticket: u32,
        result: Result<(), Error>,
        cx: &mut super::Context<'_>,
    ) {
        let Some(channels) = &mut self.channels else { return };
        if !channels.is_waiting(connection, ticket) {
            return;
        }
        let result = match result {
            Ok(()) if !channels.confirmed(connection, ticket) => return,
            other => other,
        };
        let gone = channels.joined.get(&connection).is_some_and(|subscribed| subscribed.gone);
        if gone || result.is_err() {
            channels.joined.remove(&connection);
            // Another is to take its place.
            channels.cut = true;
        }
        if self.has_ended() {
            return;
        }
        match &self.role {
            Role::Moderator(_) => self.moderator_joined(connection, result, cx),
            Role::Participant(_) => self.participant_joined(connection, result, cx),
        }
    }

    /// A connection is gone for good.
    pub(crate) fn handle_gone(&mut self, connection: ConnectionId) {
        let Some(channels) = &mut self.channels else { return };
        match channels.joined.get_mut(&connection) {
            // Somebody waits for the answers, and they come.
            Some(subscribed) if subscribed.missing > 0 => subscribed.gone = true,
            Some(_) => {
                channels.joined.remove(&connection);
                channels.cut = true;
            }
            None => {}
        }
    }

    /// There is another connection. Where one is gone that the group was joined over, it is joined
    /// over this one.
    pub(crate) fn handle_other_connection(&mut self, connection: ConnectionId) {
        let stays = self.is_open() || matches!(self.role, Role::Moderator(_));
        let cut = |channels: &mut Channels| std::mem::take(&mut channels.cut);
        if stays && !self.has_ended() && self.channels.as_mut().is_some_and(cut) {
            self.join_channels(connection);
        }
    }

    /// A member was heard over a connection: the group is there, too.
    pub(super) fn follow_to(&mut self, connection: ConnectionId) {
        let Some(channels) = &self.channels else { return };
        // Another app here is heard over no link: where one was lost, the next one counts all the same.
        let follows = channels.cut || !channels.joined.is_empty();
        if follows && !channels.joined.contains_key(&connection) && self.is_open() {
            self.join_channels(connection);
        }
    }
}
