//! The side that opened a session: it finds, invites and welcomes members, one task at a time
//! (spec 03 section 5).

use std::collections::VecDeque;

use super::app::About;
use super::request::Answer;
use super::{roster, SessionConfig};
use super::{Context, Event, Incoming, Kind, OpId, Outgoing, Output, Phase, Role, Session};
use crate::error::Error;
use crate::limits;
use crate::name::Name;
use crate::wire::{
    CommandPayloadType, Empty, GroupClosePayload, GroupWelcomePayload, JoinRequestPayload,
    SessionMessageType,
};

/// What only the moderator knows.
#[derive(Debug, Default)]
pub(super) struct Moderator {
    current: Option<Task>,
    waiting: VecDeque<Task>,
}

/// Something that changes who takes part.
#[derive(Debug)]
enum Task {
    Add { target: Name, op: Option<OpId>, step: Step },
}

/// How far an invitation has come: the message that waits for an answer.
#[derive(Debug)]
enum Step {
    Queued,
    Discovery(u32),
    Join(u32, Name),
    Welcome(u32, Name),
}

impl Session {
    /// Opens a session; for a point-to-point session the peer is looked for at once, and `op` is
    /// answered when it has joined.
    pub(crate) fn open(
        id: u32,
        config: SessionConfig,
        me: Name,
        destination: Name,
        op: OpId,
        cx: &mut Context<'_>,
    ) -> Session {
        let role = Role::Moderator(Moderator::default());
        let mut session = Session::new(id, config, me, destination.clone(), role, cx.now);
        match session.config.kind {
            Kind::PointToPoint => session.add_task(destination, Some(op), cx),
            Kind::Group => session.done(Some(op), Ok(())),
        }
        session
    }

    fn moderator(&mut self) -> Option<&mut Moderator> {
        match &mut self.role {
            Role::Moderator(moderator) => Some(moderator),
            Role::Participant(_) => None,
        }
    }

    fn add_task(&mut self, target: Name, op: Option<OpId>, cx: &mut Context<'_>) {
        if let Some(moderator) = self.moderator() {
            moderator.waiting.push_back(Task::Add { target, op, step: Step::Queued });
            self.next_task(cx);
        }
    }

    fn next_task(&mut self, cx: &mut Context<'_>) {
        let Some(moderator) = self.moderator() else {
            return;
        };
        if moderator.current.is_some() {
            return;
        }
        let Some(Task::Add { target, op, .. }) = moderator.waiting.pop_front() else {
            return;
        };
        let id = cx.message_id();
        let request = CommandPayloadType::DiscoveryRequest(Empty {});
        let message = Outgoing::control(SessionMessageType::DiscoveryRequest, &target, id, request);
        moderator.current = Some(Task::Add { target, op, step: Step::Discovery(id) });
        self.request(message, [], cx);
    }

    /// DISCOVERY_REPLY or JOIN_REPLY. Only the answer that the current step waits for counts:
    /// late, second and foreign ones are ignored.
    pub(super) fn on_reply(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let Role::Moderator(moderator) = &self.role else {
            return;
        };
        let Some(Task::Add { target, step, .. }) = &moderator.current else {
            return;
        };
        match (step, message.kind) {
            (Step::Discovery(id), SessionMessageType::DiscoveryReply)
                if *id == message.message_id =>
            {
                if !is_instance_of(&message.source, target) {
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
        let id = cx.message_id();
        let payload = CommandPayloadType::JoinRequest(JoinRequestPayload {
            timer_settings: self.config.reliable.map(super::Retry::to_wire),
            channel: None,
            control: None,
            mls_settings: None,
        });
        let mut join = Outgoing::control(SessionMessageType::JoinRequest, &peer, id, payload);
        join.metadata = self.config.metadata.clone();
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
        if participant.and_then(|p| self.roster.add(p)).is_none() {
            return log::warn!("session {}: a JOIN_REPLY without settings", self.id);
        }
        self.requests.cancel(message.message_id);
        let peer = message.source.clone();
        let mut participants = vec![roster::describe(&self.me, true, true)];
        let others = self.roster.iter();
        participants
            .extend(others.map(|(name, m)| roster::describe(name, m.receives_data, m.online)));
        let id = cx.message_id();
        let welcome = GroupWelcomePayload { participants, mls: None };
        let payload = CommandPayloadType::GroupWelcome(welcome);
        let message = Outgoing::control(SessionMessageType::GroupWelcome, &peer, id, payload);
        self.set_step(Step::Welcome(id, peer.clone()));
        self.request(message, [peer], cx);
    }

    pub(super) fn on_group_ack(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let id = message.message_id;
        if !self.waits_for_ack(id, &message.source) {
            return log::debug!("session {}: an unexpected GROUP_ACK", self.id);
        }
        if self.requests.answer(id, &message.source) != Answer::Complete {
            return;
        }
        if self.on_goodbye_answered(id, &[]) {
            return;
        }
        let Some(moderator) = self.moderator() else {
            return;
        };
        if let Some(Task::Add { op, step: Step::Welcome(_, peer), .. }) = moderator.current.take() {
            self.roster.set_ready(&peer);
            self.done(op, Ok(()));
            self.flush_kept(cx);
            self.next_task(cx);
        }
    }

    /// Whether a GROUP_ACK is the answer to our welcome or goodbye. Other requests are answered by
    /// other messages.
    fn waits_for_ack(&self, id: u32, from: &Name) -> bool {
        if matches!(&self.phase, Phase::Closing { message_id, .. } if *message_id == id) {
            return true;
        }
        let Role::Moderator(Moderator { current: Some(Task::Add { step, .. }), .. }) = &self.role
        else {
            return false;
        };
        matches!(step, Step::Welcome(ours, peer) if *ours == id && peer == from)
    }

    fn set_step(&mut self, next: Step) {
        if let Some(Task::Add { step, .. }) =
            self.moderator().and_then(|moderator| moderator.current.as_mut())
        {
            *step = next;
        }
    }

    /// Nobody answered a request in all its tries.
    pub(super) fn on_request_given_up(&mut self, message_id: u32, silent: Vec<Name>) {
        if self.on_goodbye_answered(message_id, &silent) {
            return;
        }
        let Some(moderator) = self.moderator() else {
            return;
        };
        let Some(Task::Add { target, op, step }) = moderator.current.take() else {
            return;
        };
        let stage = match step {
            Step::Queued => "before it was sent",
            Step::Discovery(_) => "to the discovery request",
            Step::Join(..) => "to the join request",
            Step::Welcome(..) => "to the welcome",
        };
        let text = format!(
            "failed to add participant to session: nobody valid answered for {target} (no such \
             app, or another secret): no answer {stage}, message send retries exhausted for \
             id={message_id}"
        );
        self.add_failed(op, Error::NoRoute(text));
    }

    /// Our discovery request has nowhere to go: no connection, and no such app here.
    pub(super) fn moderator_no_match(&mut self, message: &About, text: &str) {
        let Some(moderator) = self.moderator() else {
            return;
        };
        let ours = matches!(
            &moderator.current,
            Some(Task::Add { step: Step::Discovery(id), .. }) if *id == message.message_id
        );
        if !ours || message.kind != SessionMessageType::DiscoveryRequest {
            return;
        }
        if let Some(Task::Add { target, op, .. }) = moderator.current.take() {
            self.requests.cancel(message.message_id);
            let text =
                format!("failed to add participant to session: no route to {target}: {text}");
            self.add_failed(op, Error::NoRoute(text));
        }
    }

    fn add_failed(&mut self, op: Option<OpId>, error: Error) {
        let reason = error.to_string();
        self.done(op, Err(error));
        if self.config.kind == Kind::PointToPoint {
            self.end(&reason, None);
        }
    }

    /// Open invitations end with the session.
    pub(super) fn abort_tasks(&mut self) {
        let Some(moderator) = self.moderator() else {
            return;
        };
        let tasks = moderator.current.take().into_iter().chain(moderator.waiting.drain(..));
        for Task::Add { op, step, .. } in tasks.collect::<Vec<_>>() {
            if let Step::Discovery(id) | Step::Join(id, _) | Step::Welcome(id, _) = step {
                self.requests.cancel(id);
            }
            self.done(op, Err(Error::closed("session")));
        }
    }

    /// Tells the peers that the session ends, those that are thought to be gone as well: they may
    /// be wrongly so. `None`: there is nobody to tell.
    pub(super) fn say_goodbye(&mut self, cx: &mut Context<'_>) -> Option<u32> {
        let id = cx.message_id();
        let (message, answers) = match &self.role {
            Role::Moderator(_) => {
                let others: Vec<Name> = self.roster.names().cloned().collect();
                let peer = others.first()?;
                let mut participants: Vec<_> = others.iter().map(Name::to_wire).collect();
                participants.push(self.me.to_wire());
                let close = CommandPayloadType::GroupClose(GroupClosePayload { participants });
                let kind = SessionMessageType::GroupClose;
                let mut message = Outgoing::control(kind, peer, id, close);
                message.fanout = limits::FANOUT_ALL;
                (message, others)
            }
            Role::Participant(participant) => {
                let moderator = participant.moderator().clone();
                let leave = CommandPayloadType::LeaveRequest(Empty {});
                let kind = SessionMessageType::LeaveRequest;
                let mut message = Outgoing::control(kind, &moderator, id, leave);
                message.metadata.insert("LEAVING_SESSION".to_owned(), "TRUE".to_owned());
                (message, vec![moderator])
            }
        };
        self.request(message, answers, cx);
        Some(id)
    }

    /// A participant leaves.
    pub(super) fn on_leaving(&mut self, message: &Incoming) {
        let reply = leave_reply(message);
        self.out.push(Output::Send(reply.clone()));
        self.event(Event::PeerLeft(message.source.clone()));
        if self.config.kind == Kind::PointToPoint {
            self.end(&format!("participant disconnected: {}", message.source), Some(reply));
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
        !matches!(self.phase, Phase::Ended)
            && match &self.role {
                Role::Moderator(_) => true,
                Role::Participant(participant) => participant.has_joined(),
            }
    }
}

/// The answer to a LEAVE_REQUEST.
pub(super) fn leave_reply(message: &Incoming) -> Outgoing {
    let reply = CommandPayloadType::LeaveReply(Empty {});
    Outgoing::control(SessionMessageType::LeaveReply, &message.source, message.message_id, reply)
}

/// Whether an app of this full name may answer for `target`.
fn is_instance_of(full: &Name, target: &Name) -> bool {
    full.components() == target.components() && (target.id().is_null() || target == full)
}
