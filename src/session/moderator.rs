//! The side that opened a session: it finds, invites, welcomes and removes members, one task at a
//! time (spec 03 section 5).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::app::About;
use super::credentials::Credentials;
use super::encryption::RejoinRequest;
use super::request::Answer;
use super::{roster, SessionConfig};
use super::{
    Channels, Context, Event, Incoming, Kind, OpId, Outgoing, Output, Phase, Role, Session,
};
use crate::error::Error;
use crate::limits;
use crate::name::Name;
use crate::router::ConnectionId;
use crate::wire::{
    CommandPayloadType, Empty, GroupClosePayload, GroupUpdateOp, GroupUpdatePayload,
    GroupWelcomePayload, JoinRequestPayload, MlsPayload, Participant, SessionMessageType,
};

/// What only the moderator knows.
#[derive(Debug, Default)]
pub(super) struct Moderator {
    pub(super) current: Option<Task>,
    pub(super) waiting: VecDeque<Task>,
    /// Tasks are being begun.
    beginning: bool,
    /// Changes that members have not confirmed, since they could not be reached.
    pub(super) missed: BTreeMap<Name, VecDeque<Change>>,
    /// Who left while such members of an encrypted group could not be reached, with the last change of
    /// each that says so: they may have come again.
    pub(super) left: BTreeMap<Name, BTreeMap<Name, Change>>,
    /// What the current task has told, or tells.
    told: Option<Change>,
    /// Who was removed, but did not confirm it: should they be heard of, they are told again.
    unconfirmed: BTreeSet<Name>,
}

/// Something that changes who takes part, or tells who does.
#[derive(Debug)]
pub(super) struct Task {
    /// Who is told how it ends.
    pub(super) op: Option<OpId>,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    /// Bring somebody in.
    Add { target: Name, step: Step },
    /// Take somebody out: first the others are told, then whoever is removed.
    Remove { target: Name, member: Option<Name>, update: Option<u32>, leave: Option<u32> },
    /// Tell the others that somebody is gone.
    Tell { change: Change, update: Option<u32> },
    /// Tell one member what it has missed.
    CatchUp { member: Name, change: Option<Change>, update: Option<u32> },
    /// Give a member that has lost the encryption the present keys.
    Rejoin { member: Name, request: RejoinRequest },
    /// Give our own place in the encrypted group a new token.
    Refresh,
}

/// How far an invitation has come: what is waited for.
#[derive(Debug)]
pub(super) enum Step {
    Queued,
    Discovery(u32),
    /// The group's channels are being subscribed.
    Channels(Name, ConnectionId),
    Join(u32, Name),
    /// The newcomer's answer to the welcome, and those of the others to the news.
    Welcome {
        peer: Name,
        welcome: Option<u32>,
        update: Option<u32>,
    },
}

/// A member came or went. It has the same number whenever it is told: whoever knows it already does
/// nothing but confirm it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) op: GroupUpdateOp,
    pub(super) participant: Participant,
    pub(super) name: Name,
    pub(super) message_id: u32,
    /// What the members of an encrypted session do to their keys.
    pub(super) mls: Option<MlsPayload>,
}

impl Session {
    /// Opens a session; for a point-to-point session the peer is looked for at once, and `op` is
    /// answered when it has joined.
    pub(crate) fn open(
        id: u32,
        config: SessionConfig,
        me: Name,
        credentials: &Credentials,
        destination: Name,
        op: Option<OpId>,
        cx: &mut Context<'_>,
    ) -> Session {
        let role = Role::Moderator(Moderator::default());
        let subject = credentials.subject();
        let mut session = Session::new(id, config, me, destination.clone(), role, cx.now);
        session.encrypt(credentials, &subject);
        match session.config.kind {
            Kind::PointToPoint => session.add_task(destination, op, cx),
            Kind::Group => {
                session.channels = Some(Channels::new(&subject, &destination));
                session.done(op, Ok(()));
            }
        }
        session
    }

    /// Invites somebody into a group; `op` is answered when it has joined and everybody knows.
    pub(crate) fn invite(&mut self, target: Name, op: Option<OpId>, cx: &mut Context<'_>) {
        match self.may_change("invite", &target) {
            Ok(()) => self.add_task(target, op, cx),
            Err(error) => self.done(op, Err(error)),
        }
    }

    /// Removes somebody from a group; `op` is answered when everybody knows.
    pub(crate) fn remove(&mut self, target: Name, op: Option<OpId>, cx: &mut Context<'_>) {
        match self.may_change("remove", &target) {
            Ok(()) => {
                let work = Work::Remove { target, member: None, update: None, leave: None };
                self.enqueue(Task { op, work }, cx);
            }
            Err(error) => self.done(op, Err(error)),
        }
    }

    /// Whether this side may change who takes part, now.
    fn may_change(&self, what: &str, target: &Name) -> Result<(), Error> {
        self.fields().check_moderator(what, target)?;
        if !self.is_open() {
            return Err(Error::closed("session"));
        }
        let waiting = self.waiting_changes();
        if waiting >= limits::WAITING_CHANGES {
            return Err(Error::Limit(format!(
                "cannot {what} {target} now: {waiting} invitations and removals wait for those before \
                 them, the limit of a group"
            )));
        }
        if *target == self.me {
            let text = format!("{target} is this app itself: it is in the group");
            return Err(Error::InvalidArgument(text));
        }
        self.check_here()
    }

    /// The time of whoever waits for an invitation or a removal is over. An invitation that has not
    /// come to its end is taken back, and answered with [`Error::Timeout`]; a removal goes on.
    pub(crate) fn cancel(&mut self, op: OpId, cx: &mut Context<'_>) {
        let invitation = |task: &Task| task.op == Some(op) && matches!(task.work, Work::Add { .. });
        let taken_back = || Error::Timeout("waiting for somebody to join".to_owned());
        let Some(moderator) = self.moderator() else { return };
        if moderator.current.as_ref().is_some_and(invitation) {
            return self.abort_add(taken_back(), cx);
        }
        if let Some(at) = moderator.waiting.iter().position(invitation) {
            moderator.waiting.remove(at);
            self.done(Some(op), Err(taken_back()));
        }
    }

    pub(super) fn moderator(&mut self) -> Option<&mut Moderator> {
        match &mut self.role {
            Role::Moderator(moderator) => Some(moderator),
            Role::Participant(_) => None,
        }
    }

    pub(super) fn current(&mut self) -> Option<&mut Work> {
        Some(&mut self.moderator()?.current.as_mut()?.work)
    }

    /// Whether anything is being changed.
    pub(super) fn has_tasks(&self) -> bool {
        match &self.role {
            Role::Moderator(m) => m.current.is_some() || !m.waiting.is_empty(),
            Role::Participant(_) => false,
        }
    }

    /// Invitations and removals that wait for those before them.
    fn waiting_changes(&self) -> usize {
        let Role::Moderator(moderator) = &self.role else { return 0 };
        let change = |task: &&Task| matches!(task.work, Work::Add { .. } | Work::Remove { .. });
        moderator.waiting.iter().filter(change).count()
    }

    fn add_task(&mut self, target: Name, op: Option<OpId>, cx: &mut Context<'_>) {
        let work = Work::Add { target, step: Step::Queued };
        self.enqueue(Task { op, work }, cx);
    }

    pub(super) fn enqueue(&mut self, task: Task, cx: &mut Context<'_>) {
        if let Some(moderator) = self.moderator() {
            moderator.waiting.push_back(task);
            self.next_task(cx);
        }
    }

    /// Begins what waits, until something has to be waited for. A task that is over at once comes back
    /// here: the loop goes on with the next one.
    pub(super) fn next_task(&mut self, cx: &mut Context<'_>) {
        let Some(moderator) = self.moderator() else { return };
        if std::mem::replace(&mut moderator.beginning, true) {
            return;
        }
        while self.take_task() {
            self.begin_task(cx);
        }
        if let Some(moderator) = self.moderator() {
            moderator.beginning = false;
        }
    }

    /// The task that has waited longest is the current one, if there is none.
    fn take_task(&mut self) -> bool {
        let open = self.is_open();
        let Some(moderator) = self.moderator() else { return false };
        if moderator.current.is_some() || !open {
            return false;
        }
        moderator.current = moderator.waiting.pop_front();
        moderator.current.is_some()
    }

    fn begin_task(&mut self, cx: &mut Context<'_>) {
        let Some(work) = self.current() else { return };
        match work {
            Work::Add { target, .. } => {
                let target = target.clone();
                self.begin_add(&target, cx);
            }
            Work::Remove { target, .. } => {
                let target = target.clone();
                self.begin_remove(&target, cx);
            }
            Work::Tell { change, .. } => {
                let mut change = change.clone();
                match self.commit_removal(&mut change, cx) {
                    Ok(()) => self.tell(&change, cx),
                    Err(error) => {
                        let name = &change.name;
                        self.lost_track(&format!("the keys of {name} could not be taken: {error}"));
                        self.task_done(Ok(()), cx);
                    }
                }
            }
            Work::CatchUp { .. } => self.catch_up(cx),
            Work::Rejoin { member, request } => {
                let (member, request) = (member.clone(), request.clone());
                self.begin_rejoin(&member, &request, cx);
            }
            Work::Refresh => self.begin_refresh(cx),
        }
    }

    /// The current task is to tell the others of a change from now on.
    pub(super) fn tell(&mut self, change: &Change, cx: &mut Context<'_>) {
        let id = self.tell_others(change, cx);
        match (id, self.current()) {
            (Some(_), Some(work)) => *work = Work::Tell { change: change.clone(), update: id },
            _ => self.task_done(Ok(()), cx),
        }
    }

    /// The current task is over, and the next one's turn comes.
    pub(super) fn task_done(&mut self, result: Result<(), Error>, cx: &mut Context<'_>) {
        if let Some(task) = self.moderator().and_then(|moderator| moderator.current.take()) {
            self.done(task.op, result);
        }
        self.next_task(cx);
    }

    fn begin_add(&mut self, target: &Name, cx: &mut Context<'_>) {
        let known = self.roster.meant_by(target);
        if let (Kind::Group, [first, ..]) = (self.config.kind, &known[..]) {
            let text = format!(
                "participant already in group: {target} (as {first}; another instance is invited \
                 by its full name)"
            );
            return self.add_failed(Error::Exists(text), cx);
        }
        if self.roster.is_full() {
            let limit = limits::MEMBERS;
            let text =
                format!("cannot invite {target}: the group has {limit} other members, its limit");
            return self.add_failed(Error::Limit(text), cx);
        }
        // Whoever was to leave before and may not know it would not answer.
        for name in self.unconfirmed(target) {
            self.send_away(&name, cx);
        }
        let id = cx.message_id();
        let request = CommandPayloadType::DiscoveryRequest(Empty {});
        let message = Outgoing::control(SessionMessageType::DiscoveryRequest, target, id, request);
        self.set_step(Step::Discovery(id));
        self.request(message, [], cx);
    }

    /// DISCOVERY_REPLY or JOIN_REPLY. Only the answer that the current step waits for counts:
    /// late, second and foreign ones are ignored.
    pub(super) fn on_reply(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let Some(Work::Add { target, step }) = self.current() else {
            return;
        };
        match (&*step, message.kind) {
            (Step::Discovery(id), SessionMessageType::DiscoveryReply)
                if *id == message.message_id =>
            {
                if !is_instance_of(&message.source, target) {
                    let target = target.clone();
                    return log::warn!(
                        "session {}: {} answered for {target}, which is not its name",
                        self.id,
                        message.source
                    );
                }
                self.on_found(message, cx);
            }
            (Step::Join(id, peer), SessionMessageType::JoinReply)
                if *id == message.message_id && *peer == message.source =>
            {
                self.on_joined(message, cx);
            }
            _ => log::debug!("session {}: an unexpected {:?}", self.id, message.kind),
        }
    }

    fn on_found(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        self.requests.cancel(message.message_id);
        self.via = Some(message.connection);
        let peer = message.source.clone();
        if let Some(moderator) = self.moderator() {
            moderator.unconfirmed.remove(&peer);
        }
        if let Err(error) = self.found_group(cx) {
            return self.add_failed(error.into(), cx);
        }
        if self.join_channels(message.connection) {
            self.send_join(peer, message.connection, cx);
        } else {
            self.set_step(Step::Channels(peer, message.connection));
        }
    }

    /// The channels are subscribed over a connection, or could not be.
    pub(super) fn moderator_joined(
        &mut self,
        connection: ConnectionId,
        result: Result<(), Error>,
        cx: &mut Context<'_>,
    ) {
        let Some(Work::Add { step: Step::Channels(peer, over), .. }) = self.current() else {
            return;
        };
        if *over != connection {
            return;
        }
        let peer = peer.clone();
        match result {
            Ok(()) => self.send_join(peer, connection, cx),
            Err(error) => self.add_failed(error, cx),
        }
    }

    fn send_join(&mut self, peer: Name, via: ConnectionId, cx: &mut Context<'_>) {
        let id = cx.message_id();
        let channels = self.channels.as_ref();
        let payload = CommandPayloadType::JoinRequest(JoinRequestPayload {
            timer_settings: self.config.reliable.map(super::Retry::to_wire),
            channel: channels.map(|channels| channels.data.to_wire()),
            control: channels.map(|channels| channels.control.to_wire()),
            mls_settings: self.config.mls.map(super::Mls::to_wire),
        });
        let mut join = Outgoing::control(SessionMessageType::JoinRequest, &peer, id, payload);
        join.metadata = self.config.metadata.clone();
        join.via = Some(via);
        self.set_step(Step::Join(id, peer.clone()));
        self.request(join, [peer], cx);
    }

    fn on_joined(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let Some(CommandPayloadType::JoinReply(reply)) = message.command() else {
            return log::warn!("session {}: a JOIN_REPLY without its payload", self.id);
        };
        let participant = reply.participant.as_ref();
        let named = participant.and_then(|p| Name::from_wire(p.name.as_ref()?));
        if named.as_ref() != Some(&message.source) {
            return log::warn!("session {}: a JOIN_REPLY that names somebody else", self.id);
        }
        let Some(participant) = participant.filter(|p| p.settings.is_some()) else {
            return log::warn!("session {}: a JOIN_REPLY without settings", self.id);
        };
        self.requests.cancel(message.message_id);
        let peer = message.source.clone();
        let (commit, invitation) = match self.admit(&peer, reply.key_package.as_deref(), cx) {
            Ok(keys) => keys,
            Err(error) => return self.abort_add(error, cx),
        };
        self.roster.add(participant, true);
        self.roster.heard(&peer, Some(message.connection), cx.now.mono);
        // Then the news, then the welcome, back to back (spec 03 section 5).
        let op = GroupUpdateOp::Add;
        let (participant, name, message_id) = (participant.clone(), peer.clone(), cx.message_id());
        let change = Change { op, participant, name, message_id, mls: commit };
        let update = self.tell_others(&change, cx);
        let id = cx.message_id();
        let welcome = GroupWelcomePayload { participants: self.everybody(), mls: invitation };
        let payload = CommandPayloadType::GroupWelcome(welcome);
        let message = Outgoing::control(SessionMessageType::GroupWelcome, &peer, id, payload);
        self.set_step(Step::Welcome { peer: peer.clone(), welcome: Some(id), update });
        self.request(message, [peer], cx);
    }

    /// All who take part, this side first.
    fn everybody(&self) -> Vec<Participant> {
        let me = roster::describe(&self.me, self.config.direction, true);
        std::iter::once(me).chain(self.roster.describe()).collect()
    }

    /// Tells all members but the one concerned. Those who cannot be reached are told later. `None`:
    /// nobody has to answer.
    fn tell_others(&mut self, change: &Change, cx: &mut Context<'_>) -> Option<u32> {
        // Between two only keys change.
        let control = match &self.channels {
            Some(channels) => channels.control.clone(),
            None if change.op == GroupUpdateOp::Rejoin => self.roster.names().next()?.clone(),
            None => return None,
        };
        let encrypted = self.is_encrypted();
        if let Some(moderator) = self.moderator() {
            moderator.told = Some(change.clone());
            // Whoever has missed something of the same one before does not need to know it any more;
            // unless keys changed with it.
            let missed = moderator.missed.values_mut().filter(|_| !encrypted);
            for missed in missed {
                missed.retain(|known| known.name != change.name);
            }
        }
        let told = |name: &Name| *name != change.name || change.op == GroupUpdateOp::Rejoin;
        let others = self.roster.iter().filter(|(name, _)| told(name));
        let (online, offline): (Vec<_>, Vec<_>) = others.partition(|(_, member)| member.online);
        let names = |members: Vec<(&Name, _)>| -> Vec<Name> {
            members.into_iter().map(|(name, _)| name.clone()).collect()
        };
        let (online, offline) = (names(online), names(offline));
        if online.is_empty() && offline.is_empty() {
            return None;
        }
        self.missed_by(offline, change);
        let mut message = self.update(change, &control);
        if self.channels.is_some() {
            message.fanout = limits::FANOUT_ALL;
        }
        let id = message.message_id;
        if online.is_empty() {
            self.out.push(Output::Send(message));
            return None;
        }
        self.request(message, online, cx);
        Some(id)
    }

    pub(super) fn update(&self, change: &Change, to: &Name) -> Outgoing {
        let mut participants = self.everybody();
        if change.op == GroupUpdateOp::Remove {
            // The list still has whoever goes.
            participants.push(change.participant.clone());
        }
        // It may be told late: whether the newcomer is there is said as it is now.
        let member = self.roster.get(&change.name).filter(|_| change.op == GroupUpdateOp::Add);
        let now = member.map(|member| member.describe(&change.name));
        let payload = CommandPayloadType::GroupUpdate(GroupUpdatePayload {
            op: change.op as i32,
            participant: Some(now.unwrap_or_else(|| change.participant.clone())),
            participants,
            mls: change.mls.clone(),
        });
        Outgoing::control(SessionMessageType::GroupUpdate, to, change.message_id, payload)
    }

    /// These members have not confirmed a change: they are told when they are heard of again.
    fn missed_by(&mut self, names: Vec<Name>, change: &Change) {
        let (id, encrypted) = (self.id, self.is_encrypted());
        let Some(moderator) = self.moderator() else { return };
        for name in names {
            let missed = moderator.missed.entry(name.clone()).or_default();
            if encrypted && missed.len() == limits::MLS_MISSED_COMMITS {
                // It will find that it cannot follow, and asks for the present keys.
                missed.clear();
            }
            if encrypted && change.op == GroupUpdateOp::Remove {
                let left = moderator.left.entry(name.clone()).or_default();
                if left.len() < limits::MISSED_UPDATES || left.contains_key(&change.name) {
                    // It is told when it has later keys: the number of the commit is enough.
                    let mut change = change.clone();
                    change.mls.iter_mut().for_each(|mls| mls.mls_content.clear());
                    left.insert(change.name.clone(), change);
                }
            }
            missed.retain(|known| encrypted || known.name != change.name);
            if missed.len() == limits::MISSED_UPDATES {
                log::warn!("session {id}: {name} has missed too much, and will not learn it all");
                missed.pop_front();
            }
            missed.push_back(change.clone());
        }
    }

    /// A member is back: it is told what it has missed.
    pub(super) fn moderator_heard(&mut self, name: &Name, cx: &mut Context<'_>) {
        let Some(moderator) = self.moderator() else { return };
        if !moderator.missed.contains_key(name) {
            return;
        }
        let ours =
            |task: &Task| matches!(&task.work, Work::CatchUp { member, .. } if member == name);
        if moderator.current.iter().chain(&moderator.waiting).any(ours) {
            return;
        }
        let work = Work::CatchUp { member: name.clone(), change: None, update: None };
        self.enqueue(Task { op: None, work }, cx);
    }

    fn catch_up(&mut self, cx: &mut Context<'_>) {
        let Some(moderator) = self.moderator() else { return };
        let Some(Task { work: Work::CatchUp { member, change, update }, .. }) =
            &mut moderator.current
        else {
            return;
        };
        let member = member.clone();
        let next = moderator.missed.get_mut(&member).and_then(VecDeque::pop_front);
        (*change, *update) = (next.clone(), None);
        let Some(next) = next else {
            moderator.missed.remove(&member);
            self.tell_who_left(&member, cx);
            return self.task_done(Ok(()), cx);
        };
        moderator.told = Some(next.clone());
        let message = self.update(&next, &member);
        let id = message.message_id;
        self.request(message, [member], cx);
        if let Some(Work::CatchUp { update, .. }) = self.current() {
            *update = Some(id);
        }
    }

    /// A member does not need what it has missed any more.
    pub(super) fn abort_catching_up(&mut self, member: &Name, cx: &mut Context<'_>) {
        let Some(moderator) = self.moderator() else { return };
        moderator.missed.remove(member);
        // One that waits would find nothing, and forget who has left.
        moderator.waiting.retain(
            |task| !matches!(&task.work, Work::CatchUp { member: known, .. } if known == member),
        );
        match self.current() {
            Some(Work::CatchUp { member: known, update, .. }) if known == member => {
                let update = update.take();
                update.into_iter().for_each(|id| self.requests.cancel(id));
                self.task_done(Ok(()), cx);
            }
            _ => {}
        }
    }

    /// Whoever is not in the group any more, but does not know it, is told. Not if it answers to being
    /// invited again: what it was in is over then.
    pub(super) fn on_stranger(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        use SessionMessageType as T;
        let (open, name) = (self.is_open(), &message.source);
        if matches!(message.kind, T::DiscoveryReply | T::JoinReply | T::LeaveReply) {
            return;
        }
        let Some(moderator) = self.moderator() else { return };
        if open && moderator.unconfirmed.contains(name) {
            self.send_away(name, cx);
        }
    }

    /// Those of this name who are out of the group and have not confirmed it.
    fn unconfirmed(&self, target: &Name) -> Vec<Name> {
        let Role::Moderator(moderator) = &self.role else { return Vec::new() };
        moderator.unconfirmed.iter().filter(|name| is_instance_of(name, target)).cloned().collect()
    }

    /// Whoever is out of the group, or was to be let in, is told to leave. Should that be lost, its next
    /// sign of life, or the next invitation, brings another.
    fn send_away(&mut self, name: &Name, cx: &mut Context<'_>) {
        let leave = leave_request(name, cx.message_id());
        self.out.push(Output::Send(leave));
    }

    /// Somebody confirms something; or says that it has heard it, but other keys than ours.
    pub(super) fn on_group_ack(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        self.on_keys_confirmed(&message.source, message.message_id);
        self.on_answer(message, cx);
    }

    /// An answer that completes what was asked means that it is over; one of several does not.
    fn on_answer(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let id = message.message_id;
        let kind = match message.kind {
            SessionMessageType::GroupNack => SessionMessageType::GroupAck,
            kind => kind,
        };
        match self.requests.answer(id, kind, &message.source) {
            Answer::Complete => self.on_request_over(id, Vec::new(), cx),
            Answer::Partial => {}
            Answer::Unexpected => {
                self.knows(&message.source, id);
                log::debug!("session {}: an unexpected {kind:?}", self.id);
            }
        }
    }

    /// A member that could not be reached, as far as was known, confirms a change all the same. It will
    /// not be heard again: its second answer has the same number.
    fn knows(&mut self, member: &Name, id: u32) {
        let missed = self.moderator().and_then(|moderator| moderator.missed.get_mut(member));
        if let Some(missed) = missed {
            missed.retain(|change| change.message_id != id);
        }
    }

    /// A request was answered by everybody, or given up: these did not answer.
    pub(super) fn on_request_over(&mut self, id: u32, silent: Vec<Name>, cx: &mut Context<'_>) {
        if self.on_goodbye_answered(id, &silent)
            || self.on_presence_told(id)
            || self.on_rejoin_given_up(id, cx.now.mono)
        {
            return;
        }
        let all = silent.is_empty();
        let Some(work) = self.current() else { return };
        match work {
            Work::Add { target, step } => {
                let stage = match step {
                    Step::Discovery(ours) if *ours == id => "to the discovery request",
                    Step::Join(ours, _) if *ours == id => "to the join request",
                    Step::Welcome { peer, welcome, .. } if *welcome == Some(id) => {
                        *welcome = None;
                        if all {
                            let peer = peer.clone();
                            self.roster.set_ready(&peer);
                            self.flush_kept(cx);
                            return self.finish_add(cx);
                        }
                        "to the welcome"
                    }
                    Step::Welcome { update, .. } if *update == Some(id) => {
                        *update = None;
                        self.unreached(silent);
                        return self.finish_add(cx);
                    }
                    _ => return,
                };
                let text = format!(
                    "failed to add participant to session: nobody valid answered for {target} \
                     (no such app, or another secret): no answer {stage}, message send retries \
                     exhausted for id={id}"
                );
                self.abort_add(Error::NoRoute(text), cx);
            }
            Work::Remove { update, .. } if *update == Some(id) => {
                *update = None;
                self.unreached(silent);
                self.send_leave(cx);
            }
            Work::Remove { leave, member, .. } if *leave == Some(id) => {
                let Some(member) = member.clone() else { return };
                if all {
                    return self.task_done(Ok(()), cx);
                }
                self.keep_unconfirmed(member.clone());
                let text = format!(
                    "failed to remove participant from session: {member} is out of the group, but \
                     did not confirm it: message send retries exhausted for id={id}"
                );
                self.task_done(Err(Error::Undelivered(text)), cx);
            }
            Work::Tell { update, .. } if *update == Some(id) => {
                *update = None;
                self.unreached(silent);
                self.task_done(Ok(()), cx);
            }
            Work::CatchUp { update, .. } if *update == Some(id) => {
                *update = None;
                if all {
                    return self.catch_up(cx);
                }
                self.unreached(silent);
                self.task_done(Ok(()), cx);
            }
            _ => {}
        }
    }

    /// These members have not confirmed the change that the current task is about.
    fn unreached(&mut self, silent: Vec<Name>) {
        for name in &silent {
            self.went_offline(name);
        }
        let Some(moderator) = self.moderator() else { return };
        let Some(change) = moderator.told.clone() else { return };
        if let Some(Task { work: Work::CatchUp { .. }, .. }) = &moderator.current {
            // It comes before what was missed since.
            for name in silent {
                moderator.missed.entry(name).or_default().push_front(change.clone());
            }
        } else {
            self.missed_by(silent, &change);
        }
    }

    /// The newcomer is in when it has said so and everybody else knows, or cannot be reached.
    fn finish_add(&mut self, cx: &mut Context<'_>) {
        if let Some(Work::Add { step: Step::Welcome { welcome: None, update: None, .. }, .. }) =
            self.current()
        {
            self.task_done(Ok(()), cx);
        }
    }

    fn set_step(&mut self, next: Step) {
        if let Some(Work::Add { step, .. }) = self.current() {
            *step = next;
        }
    }

    /// The current invitation comes to nothing. Whoever was let in already is out again; whoever may
    /// wait for its welcome is told to leave: a published one would wait for ever, and would not answer
    /// another invitation.
    fn abort_add(&mut self, error: Error, cx: &mut Context<'_>) {
        let Some(Work::Add { step, .. }) = self.current() else { return };
        let (requests, peer) = match step {
            Step::Discovery(id) => ([Some(*id), None], None),
            Step::Join(id, peer) => ([Some(*id), None], Some(peer.clone())),
            Step::Welcome { peer, welcome, update } => ([*welcome, *update], Some(peer.clone())),
            Step::Queued | Step::Channels(..) => ([None, None], None),
        };
        for id in requests.into_iter().flatten() {
            self.requests.cancel(id);
        }
        if let (Some(peer), Kind::Group) = (peer, self.config.kind) {
            self.keep_unconfirmed(peer.clone());
            self.send_away(&peer, cx);
            if self.roster.get(&peer).is_some() {
                self.forget_member(&peer, cx);
                self.tell_gone(peer, cx);
            }
        }
        self.add_failed(error, cx);
    }

    /// The others have to learn that somebody is gone, before anything else changes.
    fn tell_gone(&mut self, name: Name, cx: &mut Context<'_>) {
        let work = Work::Tell { change: Change::gone(&name, cx), update: None };
        if let Some(moderator) = self.moderator() {
            moderator.waiting.push_front(Task { op: None, work });
        }
    }

    fn keep_unconfirmed(&mut self, name: Name) {
        if let Some(moderator) = self.moderator() {
            if moderator.unconfirmed.len() == limits::UNCONFIRMED_REMOVALS {
                moderator.unconfirmed.pop_first();
            }
            moderator.unconfirmed.insert(name);
        }
    }

    /// Our discovery request has nowhere to go: no connection, and no such app here.
    pub(super) fn moderator_no_match(&mut self, message: &About, text: &str, cx: &mut Context<'_>) {
        let Some(Work::Add { target, step: Step::Discovery(id) }) = self.current() else {
            return;
        };
        if *id != message.message_id || message.kind != SessionMessageType::DiscoveryRequest {
            return;
        }
        let text = format!("failed to add participant to session: no route to {target}: {text}");
        self.requests.cancel(message.message_id);
        self.add_failed(Error::NoRoute(text), cx);
    }

    fn add_failed(&mut self, error: Error, cx: &mut Context<'_>) {
        let reason = error.to_string();
        self.task_done(Err(error), cx);
        if self.config.kind == Kind::PointToPoint {
            self.end(&reason, None);
        }
    }

    fn begin_remove(&mut self, target: &Name, cx: &mut Context<'_>) {
        let meant = self.roster.meant_by(target);
        let [name] = &meant[..] else {
            let error = match meant.is_empty() {
                true => Error::NotFound(format!("participant not found in group: {target}")),
                false => Error::InvalidArgument(format!(
                    "{target} means {} participants: {}",
                    meant.len(),
                    list(&meant)
                )),
            };
            return self.task_done(Err(error), cx);
        };
        let name = name.clone();
        let mut change = Change::gone(&name, cx);
        if let Some(member) = self.roster.get(&name) {
            change.participant = member.describe(&name);
        }
        if let Err(error) = self.commit_removal(&mut change, cx) {
            let text = format!("failed to remove participant from session: {name}: {error}");
            return self.task_done(Err(Error::Mls(text)), cx);
        }
        // Out at once: what is published from now on is not for it.
        self.forget_member(&name, cx);
        let id = self.tell_others(&change, cx);
        if let Some(Work::Remove { member, update, .. }) = self.current() {
            (*member, *update) = (Some(name), id);
        }
        if id.is_none() {
            self.send_leave(cx);
        }
    }

    fn send_leave(&mut self, cx: &mut Context<'_>) {
        let id = cx.message_id();
        let Some(Work::Remove { member: Some(member), leave, .. }) = self.current() else {
            return;
        };
        *leave = Some(id);
        let member = member.clone();
        self.request(leave_request(&member, id), [member], cx);
    }

    /// LEAVE_REPLY: to a removal, or to our own leaving.
    pub(super) fn on_leave_reply(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        if let Some(moderator) = self.moderator() {
            moderator.unconfirmed.remove(&message.source);
        }
        self.on_answer(message, cx);
    }

    /// Open invitations end with the session.
    pub(super) fn abort_tasks(&mut self) {
        self.requests.cancel_all();
        self.abort_presence();
        let Some(moderator) = self.moderator() else {
            return;
        };
        let tasks = moderator.current.take().into_iter().chain(moderator.waiting.drain(..));
        for Task { op, work } in tasks.collect::<Vec<_>>() {
            // Whoever was to leave, or to come, has to learn of the end as well.
            match work {
                Work::Remove { member: Some(name), .. }
                | Work::Add { step: Step::Join(_, name), .. }
                    if self.config.kind == Kind::Group =>
                {
                    self.keep_unconfirmed(name);
                }
                _ => {}
            }
            self.done(op, Err(Error::closed("session")));
        }
    }

    /// Tells the peers that the session ends, those that are thought to be gone as well: they may
    /// be wrongly so. Whoever was removed and did not confirm it is told, too, but not waited for.
    /// `None`: nobody has to answer.
    pub(super) fn say_goodbye(&mut self, cx: &mut Context<'_>) -> Option<u32> {
        let id = cx.message_id();
        let (message, answers) = match &self.role {
            Role::Moderator(moderator) => {
                let others: Vec<Name> = self.roster.names().cloned().collect();
                let mut participants: Vec<_> = others.iter().map(Name::to_wire).collect();
                participants.push(self.me.to_wire());
                let close = CommandPayloadType::GroupClose(GroupClosePayload { participants });
                let kind = SessionMessageType::GroupClose;
                for name in &moderator.unconfirmed {
                    let close = Outgoing::control(kind, name, id, close.clone());
                    self.out.push(Output::Send(close));
                }
                let first = others.first()?;
                let to = self.channels.as_ref().map_or(first, |channels| &channels.control);
                let mut message = Outgoing::control(kind, to, id, close);
                message.fanout = limits::FANOUT_ALL;
                (message, others)
            }
            Role::Participant(participant) => {
                let moderator = participant.moderator().clone();
                let mut message = leave_request(&moderator, id);
                message.metadata.insert("LEAVING_SESSION".to_owned(), "TRUE".to_owned());
                // First the channels are given up (spec 03 section 7.5).
                self.leave_channels();
                (message, vec![moderator])
            }
        };
        self.request(message, answers, cx);
        Some(id)
    }

    /// A participant leaves. Asked again, it is answered again: the answer was lost.
    pub(super) fn on_leaving(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let reply = leave_reply(message);
        self.out.push(Output::Send(reply.clone()));
        if message.repeated {
            // It may have come again since.
            return;
        }
        let name = message.source.clone();
        // Whoever is being let in has not confirmed anything by leaving.
        let coming = matches!(
            self.current(),
            Some(Work::Add { step: Step::Welcome { peer, .. }, .. }) if *peer == name
        );
        if !coming {
            self.on_removed_leaves(&name, cx);
        }
        if self.roster.get(&name).is_none() {
            return;
        }
        self.drop_receiver(&name);
        self.event(Event::PeerLeft(name.clone()));
        let reason = format!("participant disconnected: {name}");
        if self.config.kind == Kind::PointToPoint {
            return self.end(&reason, Some(reply));
        }
        if coming {
            let text = format!("failed to add participant to session: {name} left at once");
            return self.abort_add(Error::NoRoute(text), cx);
        }
        self.forget_member(&name, cx);
        let coming = |task: &Task| matches!(task.work, Work::Add { .. });
        let alone = self.roster.is_empty() && self.is_open();
        let Some(moderator) = self.moderator() else { return };
        if alone && !moderator.current.iter().chain(&moderator.waiting).any(coming) {
            return self.end(&reason, Some(reply));
        }
        // Its keys go, also where nobody has to be told.
        if !self.roster.is_empty() || self.is_encrypted() {
            self.tell_gone(name, cx);
            self.next_task(cx);
        }
    }

    /// Whoever is being removed leaves by itself: it has not to be asked any more.
    fn on_removed_leaves(&mut self, name: &Name, cx: &mut Context<'_>) {
        let Some(moderator) = self.moderator() else { return };
        moderator.unconfirmed.remove(name);
        let told = moderator.told.clone();
        let Some(task) = &mut moderator.current else { return };
        if let (Work::Remove { member: Some(member), update, .. }, Some(change)) =
            (&task.work, told)
        {
            if member == name && update.is_some() {
                task.work = Work::Tell { change, update: *update };
            }
        }
        for id in self.requests.without(name) {
            self.on_request_over(id, Vec::new(), cx);
        }
    }

    /// A member is out of the session: nothing more is expected of it.
    pub(super) fn forget_member(&mut self, name: &Name, cx: &mut Context<'_>) {
        if !self.roster.remove(name) {
            return;
        }
        if let Some(moderator) = self.moderator() {
            moderator.missed.remove(name);
            moderator.left.remove(name);
        }
        self.drop_receiver(name);
        let mut out = Vec::new();
        self.sender.left(name, &mut out);
        self.handle_sender(out);
        for id in self.requests.without(name) {
            self.on_request_over(id, Vec::new(), cx);
        }
    }

    /// Whether the handshake has put somebody into the session.
    pub(super) fn has_joined(&self) -> bool {
        match &self.role {
            Role::Moderator(_) => self.roster.iter().any(|(_, member)| member.ready),
            Role::Participant(participant) => participant.has_joined(),
        }
    }

    /// Whether data may be given to the application.
    pub(super) fn may_receive(&self) -> bool {
        self.config.direction.receives()
            && !self.is_away()
            && !matches!(self.phase, Phase::Ended)
            && match &self.role {
                Role::Moderator(_) => true,
                Role::Participant(participant) => participant.has_joined(),
            }
    }
}

#[cfg(test)]
impl Session {
    /// One member misses so many changes: how many of them are kept.
    pub(super) fn miss_for_tests(&mut self, count: usize, cx: &mut Context<'_>) -> usize {
        let member = self.roster.names().next().expect("a member").clone();
        for n in 0..count {
            let gone = Name::new(["o", "n", "gone"], crate::name::NameId(n as u128));
            let change = Change::gone(&gone, cx);
            self.missed_by(vec![member.clone()], &change);
        }
        self.moderator().expect("the moderator").missed[&member].len()
    }

    /// So many members are there that do not exist.
    pub(super) fn fill_for_tests(&mut self, count: usize) {
        for n in 0..count {
            let name = Name::new(["o", "n", "silent"], crate::name::NameId(n as u128));
            let member = roster::describe(&name, super::Direction::Both, false);
            self.roster.add(&member, true).expect("room for it");
        }
    }

    /// So many removals are not confirmed: how many are remembered.
    pub(super) fn forget_for_tests(&mut self, count: usize) -> usize {
        for n in 0..count {
            let gone = Name::new(["o", "n", "gone"], crate::name::NameId(n as u128));
            self.keep_unconfirmed(gone);
        }
        self.moderator().expect("the moderator").unconfirmed.len()
    }
}

impl Change {
    /// Somebody is gone. What it did with data does not matter any more.
    fn gone(name: &Name, cx: &mut Context<'_>) -> Change {
        let participant = roster::describe(name, super::Direction::Both, true);
        let (op, message_id) = (GroupUpdateOp::Remove, cx.message_id());
        Change { op, participant, name: name.clone(), message_id, mls: None }
    }
}

/// The answer to a LEAVE_REQUEST.
pub(super) fn leave_reply(message: &Incoming) -> Outgoing {
    let reply = CommandPayloadType::LeaveReply(Empty {});
    Outgoing::answer(message, SessionMessageType::LeaveReply, reply)
}

fn leave_request(to: &Name, id: u32) -> Outgoing {
    let leave = CommandPayloadType::LeaveRequest(Empty {});
    Outgoing::control(SessionMessageType::LeaveRequest, to, id, leave)
}

/// Names, in words.
pub(super) fn list(names: &[Name]) -> String {
    names.iter().map(Name::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether an app of this full name may answer for `target`.
fn is_instance_of(full: &Name, target: &Name) -> bool {
    full.components() == target.components() && (target.id().is_null() || target == full)
}
