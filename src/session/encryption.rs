//! The encryption of a session (spec 03 section 12, spec 05 sections 3 to 7): which message carries
//! which object of its MLS group, in which order commits are applied, and what happens to a member
//! that misses one.
//!
//! The group itself is in `mls`. Each change of who takes part, and each new token of a member, is a
//! commit of the moderator, with a number. The others apply commits in the order of their numbers,
//! and confirm what they have applied; whoever cannot, asks the moderator for the present keys: it
//! rejoins. Data is opened before anything else is done with it, and sealed when it leaves. Nothing
//! leaves in clear, and nothing that comes in clear is taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::credentials::Credentials;
use super::liveness::NO_EPOCH;
use super::moderator::{Change, Task, Work};
use super::roster::{self, Member};
use super::{Context, Event, Incoming, Kind, Mls, OpId, Outgoing, Output, Role, Session};
use crate::error::Error;
use crate::identity::Binding;
use crate::limits;
use crate::mls::{self, Candidate, Commit, Group};
use crate::name::{app_id, Name};
use crate::router::ConnectionId;
use crate::wire::canonical::publish_aad;
use crate::wire::{
    CommandPayloadType, ContentType, GroupUpdateOp, GroupUpdatePayload, MlsPayload, Publish,
    RejoinReplyPayload, RejoinRequestPayload, SessionMessageType,
};

/// The encryption of one session at this side.
pub(super) struct Encryption {
    credentials: Credentials,
    settings: Mls,
    /// The moderator's identity string.
    moderator: Arc<str>,
    /// The moderator is of the published implementation, which changes nothing in a group any more
    /// after a member has got new keys (spec 03 section 18).
    fragile: bool,
    /// We have asked to be let in, or in again.
    candidate: Option<Candidate>,
    group: Option<Group>,
    /// Number of the last commit that we made or applied.
    last_commit: u32,
    /// At the moderator: the identities of the members.
    subjects: BTreeMap<Name, Arc<str>>,
    /// At the moderator: the last answer to each member that rejoined, until it is confirmed.
    answers: BTreeMap<Name, Outgoing>,
    /// At the moderator: how often each member rejoins.
    rejoined: BTreeMap<Name, Rejoins>,
    /// GROUP_UPDATEs whose commits cannot be applied yet, by number.
    early: BTreeMap<u32, Incoming>,
    /// When to try the first of them again: a clock was ahead.
    again: Option<Instant>,
    /// Data of epochs to come.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// The latest epoch that a member said to be in.
    heard: u64,
    /// We are behind, and ask for new keys at this time unless we catch up.
    behind: Option<Instant>,
    /// That is only known from data, whose epoch anybody can write.
    hearsay: bool,
    /// So many times in a row that was not true.
    doubts: u32,
    /// The last commit that we knew when we asked for new keys last.
    asked_after: u32,
    /// Our open REJOIN_REQUEST.
    request: Option<u32>,
    /// Not before this we ask again.
    pause: Option<Instant>,
    /// The roster is to be taken from the next news of our own return.
    roster_due: bool,
    /// Commits that we did not apply, since we had got new keys, and do not know the news of.
    jumped: BTreeSet<u32>,
    /// Calls that are answered when we have the keys.
    ops: Vec<OpId>,
    /// When our own place in the group wants a new token.
    refresh: Option<Instant>,
    /// The application was told that we do not follow, for these reasons.
    told: BTreeSet<String>,
    /// Data that could not be opened.
    refused: u64,
    /// Messages that were sealed with the present keys.
    sealed: u32,
    /// How many that were when a member acknowledged something last.
    acked: BTreeMap<Name, u32>,
}

/// Data that waits for its keys.
#[derive(Debug)]
struct Held {
    message: Incoming,
    epoch: u64,
    len: usize,
    until: Instant,
}

/// What a member sends that has lost the keys.
#[derive(Clone, Debug)]
pub(super) struct RejoinRequest {
    message_id: u32,
    key_package: Vec<u8>,
    via: ConnectionId,
}

/// When one member rejoined last, and the numbers of its last requests: each changes the keys of all.
pub(super) struct Rejoins {
    last: Instant,
    ids: VecDeque<u32>,
}

impl Rejoins {
    pub(super) fn new(now: Instant) -> Rejoins {
        Rejoins { last: now, ids: VecDeque::new() }
    }

    pub(super) fn knows(&self, message_id: u32) -> bool {
        self.ids.contains(&message_id)
    }

    pub(super) fn note(&mut self, message_id: u32, now: Instant) {
        self.last = now;
        if self.ids.len() == limits::MLS_REJOINS {
            self.ids.pop_front();
        }
        self.ids.push_back(message_id);
    }
}

/// Commit and welcome, for the others and for a newcomer.
type Keys = (Option<MlsPayload>, Option<MlsPayload>);

impl Encryption {
    /// The encryption of a session that this identity leads.
    pub(super) fn new(credentials: &Credentials, moderator: &str, settings: Mls) -> Encryption {
        Encryption {
            credentials: credentials.clone(),
            settings,
            moderator: moderator.into(),
            fragile: false,
            candidate: None,
            group: None,
            last_commit: 0,
            subjects: BTreeMap::new(),
            answers: BTreeMap::new(),
            rejoined: BTreeMap::new(),
            early: BTreeMap::new(),
            again: None,
            held: VecDeque::new(),
            held_bytes: 0,
            heard: 0,
            behind: None,
            hearsay: false,
            doubts: 0,
            asked_after: 0,
            request: None,
            pause: None,
            roster_due: false,
            jumped: BTreeSet::new(),
            ops: Vec::new(),
            refresh: None,
            told: BTreeSet::new(),
            refused: 0,
            sealed: 0,
            acked: BTreeMap::new(),
        }
    }

    /// Makes a key package.
    pub(super) fn apply(&mut self, cx: &mut Context<'_>) -> Result<Vec<u8>, mls::Error> {
        let candidate = Candidate::new(&mut self.credentials.lock().mls(cx))?;
        let key_package = candidate.key_package().to_vec();
        self.candidate = Some(candidate);
        Ok(key_package)
    }

    /// Enters the group with a welcome.
    fn join(&mut self, welcome: &MlsPayload, cx: &mut Context<'_>) -> Result<(), mls::Error> {
        let Some(candidate) = &self.candidate else { return Err(mls::Error::OtherKeyPackage) };
        let mut parts = self.credentials.lock();
        let group = candidate.join(&welcome.mls_content, &self.moderator, &mut parts.mls(cx))?;
        drop(parts);
        self.candidate = None;
        self.last_commit = welcome.commit_id;
        self.found(group, cx);
        Ok(())
    }

    fn found(&mut self, group: Group, cx: &mut Context<'_>) {
        self.heard = group.epoch();
        self.begin_epoch();
        self.group = Some(group);
        self.refresh_later(cx);
    }

    /// The keys are new: messages are counted from the beginning.
    fn begin_epoch(&mut self) {
        self.sealed = 0;
        self.acked.clear();
    }

    /// Our own place has a new token. Members of one age shall not all come at once for another.
    fn refresh_later(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let own = self.group.as_ref().and_then(Group::own);
        let life = own.and_then(|own| own.expires).map(|at| at.saturating_sub(now.unix));
        let life =
            life.map_or(limits::MLS_REFRESH, |life| life.min(2 * limits::MLS_REFRESH) * 2 / 3);
        let life = life.clamp(limits::HEARTBEAT, limits::MLS_REFRESH);
        let early = life / 8 * (cx.entropy.next_u32() % 16) / 16;
        self.refresh = Some(now.mono + life - early);
    }

    fn with_group<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Group, &mut mls::Context<'_>) -> Result<T, mls::Error>,
    ) -> Result<T, mls::Error> {
        let group = self.group.as_mut().ok_or(mls::Error::Removed)?;
        act(group, &mut self.credentials.lock().mls(cx))
    }

    /// Changes the group, as its moderator.
    fn commit(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Group, &mut mls::Context<'_>) -> Result<Commit, mls::Error>,
    ) -> Result<Keys, mls::Error> {
        let Commit { commit, welcome } = self.with_group(cx, act)?;
        self.last_commit += 1;
        self.begin_epoch();
        let commit_id = self.last_commit;
        let numbered = |mls_content| MlsPayload { commit_id, mls_content };
        Ok((Some(numbered(commit)), welcome.map(numbered)))
    }

    fn epoch(&self) -> Option<u64> {
        self.group.as_ref().map(Group::epoch)
    }

    /// Whether a name may be that of an identity.
    fn check_name(&self, name: &Name, subject: &str) -> Result<(), Error> {
        if name.id() == app_id(subject) {
            return Ok(());
        }
        let text = format!("{name} is not the name of {subject:?}, whose keys it uses");
        match self.credentials.lock().binding {
            Binding::Off => Ok(()),
            Binding::Warn => {
                log::warn!("identity binding: {text}");
                Ok(())
            }
            Binding::Default | Binding::Enforce => Err(Error::Auth(text)),
        }
    }

    /// Opens what a message carries; gives it with the sender's identity string.
    fn open(
        &mut self,
        message: &Incoming,
        sealed: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(Vec<u8>, String), mls::Error> {
        let opened = self.with_group(cx, |group, cx| group.open(sealed, cx))?;
        let percent = self.settings.header_check;
        if (percent >= 100 || cx.entropy.next_u32() % 100 < percent) && opened.aad != message.aad {
            return Err(mls::Error::Invalid("its header is another than its sender's".to_owned()));
        }
        if let Err(error) = self.check_name(&message.source, &opened.subject) {
            return Err(mls::Error::Invalid(error.to_string()));
        }
        Ok((opened.plaintext, opened.subject.to_string()))
    }

    /// Keeps a message until its keys are here, if there is room for all of it.
    fn hold(&mut self, message: Incoming, epoch: u64, sealed: usize, now: Instant) {
        let texts = message.metadata.iter().map(|(key, value)| key.len() + value.len());
        let len = sealed + message.aad.len() + texts.sum::<usize>();
        if self.held.len() < limits::MLS_EARLY_MESSAGES
            && self.held_bytes + len <= limits::MLS_EARLY_BYTES
        {
            self.held_bytes += len;
            let until = now + limits::MLS_EARLY_TIME;
            self.held.push_back(Held { message, epoch, len, until });
        } else {
            self.refused += 1;
        }
    }

    /// We are behind, and ask for new keys after a while.
    fn fall_behind(&mut self, wait: Duration, now: Instant) {
        if self.request.is_none() {
            let at = self.pause.map_or(now, |pause| pause.max(now)) + wait;
            self.behind = Some(self.behind.map_or(at, |behind| behind.min(at)));
            self.hearsay = false;
        }
    }

    /// Data says that we are behind. The more often that was not true, the longer we wait for the
    /// missing commit, or for a word of a member.
    fn doubt(&mut self, now: Instant) {
        if self.behind.is_none() && self.request.is_none() {
            let wait = limits::MLS_COMMIT_WAIT.saturating_mul(1 << self.doubts);
            self.fall_behind(wait, now);
            self.hearsay = true;
        }
    }

    /// We have got new keys: whether a commit was missing, besides the one that let us in again.
    fn has_missed(&mut self, missed: bool) {
        match missed {
            true => self.doubts = 0,
            false if self.hearsay => self.doubts = (self.doubts + 1).min(limits::MLS_DOUBTS),
            false => {}
        }
        self.hearsay = false;
    }

    /// When something has to be done.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let held = self.held.front().map(|held| held.until);
        [self.behind, self.again, self.refresh, held].into_iter().flatten().min()
    }

    /// Data that could not be opened, so far.
    pub(super) fn unreadable(&self) -> u64 {
        self.refused
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encryption after commit {} ({:?})", self.last_commit, self.group)
    }
}

/// Both sides.
impl Session {
    /// Encrypts a session that was just made, if its config says so.
    pub(super) fn encrypt(&mut self, credentials: &Credentials, moderator: &str) {
        let settings = self.config.mls;
        self.encryption = settings.map(|mls| Encryption::new(credentials, moderator, mls));
    }

    /// The moderator does not survive that a member gets new keys.
    pub(crate) fn spare_moderator(&mut self) {
        let group = self.config.kind == Kind::Group;
        if let Some(encryption) = self.encryption.as_mut().filter(|_| group) {
            encryption.fragile = true;
        }
    }

    /// Whether nothing may leave in clear.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encryption.is_some()
    }

    /// How often the keys have changed.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.encryption.as_ref()?.epoch()
    }

    /// Whether what is published now can be read by others.
    pub(super) fn check_keys(&self) -> Result<(), Error> {
        let group = self.encryption.as_ref().and_then(|encryption| encryption.group.as_ref());
        match group.is_none_or(Group::is_member) {
            true => Ok(()),
            false => Err(mls::Error::Removed.into()),
        }
    }

    /// Encrypts what a message carries. Its header is as it will be sent.
    pub(crate) fn seal(
        &mut self,
        publish: &mut Publish,
        cx: &mut Context<'_>,
    ) -> Result<(), mls::Error> {
        let Some(encryption) = &mut self.encryption else { return Ok(()) };
        let aad = publish_aad(publish).ok_or(mls::Error::Malformed("header"))?;
        let content = publish.msg.as_mut().and_then(|content| content.content_type.as_mut());
        let Some(ContentType::AppPayload(payload)) = content else {
            return Err(mls::Error::Malformed("payload"));
        };
        let sealed = encryption.with_group(cx, |group, cx| group.seal(&payload.blob, aad, cx))?;
        payload.blob = sealed.into();
        encryption.sealed = encryption.sealed.saturating_add(1);
        if encryption.sealed.is_multiple_of(limits::MLS_UNHEARD_MESSAGES / 8) {
            self.check_reach(cx);
        }
        Ok(())
    }

    /// A member has opened something that was sealed not long ago, or could have.
    pub(super) fn was_heard(&mut self, name: &Name) {
        // Acknowledgements are not signed: anybody can send one.
        let member = self.roster.get(name).is_some();
        if let Some(encryption) = self.encryption.as_mut().filter(|_| member) {
            encryption.acked.insert(name.clone(), encryption.sealed);
        }
    }

    /// Whoever has not opened anything for so long that the next message would be out of its reach
    /// needs other keys. Where nothing is acknowledged, nobody knows that of those who are there.
    pub(super) fn check_reach(&mut self, cx: &mut Context<'_>) {
        let there = self.roster.iter().filter(|(_, m)| m.online && m.receives());
        let unheard = there.map(|(name, _)| name).any(|name| self.is_unheard(name));
        if unheard && self.config.reliable.is_some() {
            self.renew(cx);
        }
    }

    /// The same for one who could hear nothing for a while.
    pub(super) fn check_reach_of(&mut self, name: &Name, cx: &mut Context<'_>) {
        let fragile = self.encryption.as_ref().is_some_and(|encryption| encryption.fragile);
        let receives = self.roster.get(name).is_some_and(Member::receives);
        // Where nobody can get new keys it may still read the next messages.
        if receives && !fragile && self.is_unheard(name) {
            self.renew(cx);
        }
    }

    fn is_unheard(&self, name: &Name) -> bool {
        self.encryption.as_ref().is_some_and(|encryption| {
            let acked = encryption.acked.get(name).copied().unwrap_or(0);
            encryption.sealed.saturating_sub(acked) >= limits::MLS_UNHEARD_MESSAGES
        })
    }

    /// Opens what a message carries, and says whose it is. In a session that is not encrypted that is
    /// as it came, and nobody's. `None`: it is not taken, or not yet.
    pub(super) fn open_sealed(
        &mut self,
        mut message: Incoming,
        cx: &mut Context<'_>,
    ) -> Option<(Incoming, String)> {
        let Some(encryption) = &mut self.encryption else {
            return Some((message, String::new()));
        };
        let sealed = match &message.content {
            Some(ContentType::AppPayload(payload)) => payload.blob.clone(),
            _ => return None,
        };
        match encryption.open(&message, &sealed, cx) {
            Ok((plaintext, subject)) => {
                if let Some(ContentType::AppPayload(payload)) = &mut message.content {
                    payload.blob = plaintext.into();
                }
                return Some((message, subject));
            }
            Err(mls::Error::FutureEpoch(epoch)) => {
                encryption.hold(message, epoch, sealed.len(), cx.now.mono);
                // Anybody can write such a number; where asking does harm, a signed one is waited for.
                if !encryption.fragile {
                    self.heard_epoch(epoch, false, cx);
                }
            }
            Err(error) => {
                encryption.refused += 1;
                let source = &message.source;
                log::debug!("session {}: data of {source} was dropped: {error}", self.id);
                if error == mls::Error::OutOfReach {
                    self.renew(cx);
                }
            }
        }
        None
    }

    /// A member has got new keys.
    pub(super) fn has_keys(&mut self, name: &Name, cx: &mut Context<'_>) {
        if self.config.kind == Kind::Group && self.roster.is_back_with_keys(name) {
            self.set_away(name, false, cx);
        }
    }

    /// So much of one sender was missed, or could be, that its keys cannot be computed: all get new
    /// ones.
    fn renew(&mut self, cx: &mut Context<'_>) {
        match &self.role {
            Role::Moderator(_) => self.refresh_now(cx),
            Role::Participant(_) => match &mut self.encryption {
                Some(encryption) if !encryption.fragile => {
                    encryption.fall_behind(Duration::ZERO, cx.now.mono);
                }
                _ => self.lost_track("too many messages of one member were missed"),
            },
        }
    }

    /// Another member is in this epoch; `signed`: it says so itself. Should that be ahead of us, a
    /// commit is missing.
    fn heard_epoch(&mut self, epoch: u64, signed: bool, cx: &Context<'_>) {
        let participant = matches!(self.role, Role::Participant(_));
        let Some(encryption) = &mut self.encryption else { return };
        if participant && encryption.epoch().is_some_and(|own| own < epoch) {
            if !signed {
                return encryption.doubt(cx.now.mono);
            }
            encryption.heard = encryption.heard.max(epoch);
            encryption.fall_behind(limits::MLS_COMMIT_WAIT, cx.now.mono);
        }
    }

    pub(super) fn on_heartbeat(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        let Some(CommandPayloadType::Heartbeat(heartbeat)) = message.command() else { return };
        let member = self.roster.get(&message.source).is_some();
        if member && heartbeat.epoch != NO_EPOCH && self.has_joined() {
            self.heard_epoch(heartbeat.epoch, true, cx);
        }
    }

    /// Time has passed.
    pub(super) fn encryption_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.mono;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        // Who is away gets new keys when it is back; a moderator gives them all the time.
        let away = self.is_going() && matches!(self.role, Role::Participant(_));
        let open = self.is_open() && self.has_joined() && !away;
        let Some(encryption) = &mut self.encryption else { return };
        while encryption.held.front().is_some_and(|held| held.until <= now) {
            if let Some(held) = encryption.held.pop_front() {
                encryption.held_bytes -= held.len;
                encryption.refused += 1;
            }
        }
        if due(encryption.again) {
            encryption.again = None;
            self.apply_early(cx);
        }
        let Some(encryption) = &mut self.encryption else { return };
        let (behind, refresh) = (due(encryption.behind), due(encryption.refresh));
        if behind {
            encryption.behind = None;
            encryption.hearsay &= open;
        }
        if refresh {
            let again = if open { limits::MLS_REFRESH } else { limits::HEARTBEAT };
            encryption.refresh = Some(now + again);
        }
        match &self.role {
            Role::Moderator(_) if refresh && open => self.refresh_now(cx),
            Role::Participant(_) if behind && open => self.rejoin(cx),
            Role::Participant(_) if refresh && open => self.refresh_place(cx),
            _ => {}
        }
    }
}

/// The moderator's side.
impl Session {
    /// Begins the group, with this side alone in it.
    pub(super) fn found_group(&mut self, cx: &mut Context<'_>) -> Result<(), mls::Error> {
        let Some(encryption) = &mut self.encryption else { return Ok(()) };
        if encryption.group.is_none() {
            let group = Group::create(&mut encryption.credentials.lock().mls(cx))?;
            encryption.found(group, cx);
        }
        Ok(())
    }

    /// Takes a newcomer into the group.
    pub(super) fn admit(
        &mut self,
        peer: &Name,
        key_package: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) -> Result<Keys, Error> {
        let Some(encryption) = &mut self.encryption else { return Ok((None, None)) };
        let failed = |why: String| {
            Error::Mls(format!("failed to add participant to session: {peer}: {why}"))
        };
        let key_package =
            key_package.ok_or_else(|| failed("it cannot do MLS: it has no keys".to_owned()))?;
        let subject = encryption.with_group(cx, |group, cx| group.subject_of(key_package, cx));
        let subject = subject.map_err(|error| failed(error.to_string()))?;
        encryption.check_name(peer, &subject).map_err(|error| failed(error.to_string()))?;
        let keys = encryption.commit(cx, |group, cx| group.add(key_package, cx));
        let keys = keys.map_err(|error| failed(error.to_string()))?;
        encryption.subjects.insert(peer.clone(), subject);
        Ok(keys)
    }

    /// Takes whoever is gone out of the group.
    pub(super) fn commit_removal(
        &mut self,
        change: &mut Change,
        cx: &mut Context<'_>,
    ) -> Result<(), mls::Error> {
        let Some(encryption) = &mut self.encryption else { return Ok(()) };
        if change.op != GroupUpdateOp::Remove {
            return Ok(());
        }
        encryption.answers.remove(&change.name);
        encryption.rejoined.remove(&change.name);
        let Some(subject) = encryption.subjects.get(&change.name).cloned() else { return Ok(()) };
        let keys = encryption.commit(cx, |group, cx| group.remove(&subject, cx))?;
        // Only now: what failed can be tried again.
        encryption.subjects.remove(&change.name);
        change.mls = keys.0;
        Ok(())
    }

    /// A member needs the present keys. `false`: not now, it may ask again.
    pub(super) fn on_rejoin_request(&mut self, message: &Incoming, cx: &mut Context<'_>) -> bool {
        let Some(CommandPayloadType::RejoinRequest(request)) = message.command() else {
            return false;
        };
        let name = request.participant.as_ref().and_then(Name::from_wire);
        let source = &message.source;
        if name.as_ref() != Some(source) || self.roster.get(source).is_none() || !self.is_open() {
            log::warn!("session {}: {source} cannot rejoin", self.id);
            return false;
        }
        let (Some(encryption), Role::Moderator(_)) = (&self.encryption, &self.role) else {
            return false;
        };
        let before = encryption.rejoined.get(source);
        if message.repeated || before.is_some_and(|before| before.knows(message.message_id)) {
            // The answer was lost, or it is being worked on.
            let answer =
                encryption.answers.get(source).filter(|a| a.message_id == message.message_id);
            let answer = answer.cloned().map(Output::Send);
            self.out.extend(answer);
            return true;
        }
        // Each changes the keys of all.
        if before.is_some_and(|before| cx.now.mono < before.last + limits::MLS_REJOIN_GAP) {
            log::debug!("session {}: {source} rejoins too often", self.id);
            return false;
        }
        let (message_id, via) = (message.message_id, message.connection);
        let key_package = request.key_package.clone();
        let request = RejoinRequest { message_id, key_package, via };
        let member = source.clone();
        self.abort_catching_up(&member, cx);
        let Some(moderator) = self.moderator() else { return false };
        moderator.waiting.retain(
            |task| !matches!(&task.work, Work::Rejoin { member: known, .. } if *known == member),
        );
        self.enqueue(Task { op: None, work: Work::Rejoin { member, request } }, cx);
        true
    }

    /// A member has got its present keys, or the news that goes with them.
    pub(super) fn on_keys_confirmed(&mut self, member: &Name, message_id: u32) {
        let Some(encryption) = &mut self.encryption else { return };
        if encryption.answers.get(member).is_some_and(|answer| answer.message_id == message_id) {
            encryption.answers.remove(member);
        }
        let Some(moderator) = self.moderator() else { return };
        if let Some(left) = moderator.left.get_mut(member) {
            left.retain(|_, change| change.message_id != message_id);
            if left.is_empty() {
                moderator.left.remove(member);
            }
        }
    }

    pub(super) fn begin_rejoin(
        &mut self,
        member: &Name,
        request: &RejoinRequest,
        cx: &mut Context<'_>,
    ) {
        let (change, reply) = match self.swap(member, request, cx) {
            Ok(done) => done,
            Err(error) => {
                log::warn!("session {}: {member} cannot rejoin: {error}", self.id);
                return self.task_done(Ok(()), cx);
            }
        };
        self.out.push(Output::Send(reply));
        if let Some(moderator) = self.moderator() {
            moderator.missed.remove(member);
        }
        // Before it can read anything of those who have come again since.
        self.tell_who_left(member, cx);
        self.has_keys(member, cx);
        self.tell(&change, cx);
    }

    /// Tells a member who had left, and has come again, while it could not be reached. Until it
    /// confirms that, it is told with whatever else it is told then.
    pub(super) fn tell_who_left(&mut self, member: &Name, cx: &mut Context<'_>) {
        let left = self.moderator().and_then(|moderator| moderator.left.remove(member));
        let Some(mut left) = left else { return };
        for (name, change) in &mut left {
            if self.roster.get(name).is_some() {
                change.message_id = cx.message_id();
                let update = self.update(change, member);
                self.request(update, [member.clone()], cx);
            }
        }
        if let Some(moderator) = self.moderator() {
            moderator.left.insert(member.clone(), left);
        }
    }

    /// Gives a member a new place instead of its old one, in one commit.
    fn swap(
        &mut self,
        member: &Name,
        request: &RejoinRequest,
        cx: &mut Context<'_>,
    ) -> Result<(Change, Outgoing), Error> {
        let known = self.roster.get(member).map(|known| known.describe(member));
        let participant = known.ok_or_else(|| Error::NotFound(format!("{member} has left")))?;
        let encryption = self.encryption.as_mut().ok_or_else(|| Error::closed("session"))?;
        let package = &request.key_package;
        let subject = encryption.with_group(cx, |group, cx| group.subject_of(package, cx))?;
        if encryption.subjects.get(member) != Some(&subject) {
            return Err(Error::Auth(format!("its keys are those of {subject:?}")));
        }
        let (commit, welcome) = encryption.commit(cx, |group, cx| group.swap(package, cx))?;
        let MlsPayload { commit_id, mls_content } = welcome.unwrap_or_default();
        let reply = RejoinReplyPayload { commit_id, mls_content };
        let reply = Outgoing {
            via: Some(request.via),
            ..Outgoing::control(
                SessionMessageType::RejoinReply,
                member,
                request.message_id,
                CommandPayloadType::RejoinReply(reply),
            )
        };
        encryption.answers.insert(member.clone(), reply.clone());
        let rejoins = encryption.rejoined.entry(member.clone());
        rejoins.or_insert_with(|| Rejoins::new(cx.now.mono)).note(request.message_id, cx.now.mono);
        let (op, name, message_id) = (GroupUpdateOp::Rejoin, member.clone(), cx.message_id());
        Ok((Change { op, participant, name, message_id, mls: commit }, reply))
    }

    /// Our own token grows old: the group is given a new one, after what is being changed now.
    fn refresh_now(&mut self, cx: &mut Context<'_>) {
        let Some(moderator) = self.moderator() else { return };
        let tasks = moderator.current.iter().chain(&moderator.waiting);
        if tasks.filter(|task| matches!(task.work, Work::Refresh)).count() == 0 {
            self.enqueue(Task { op: None, work: Work::Refresh }, cx);
        }
    }

    pub(super) fn begin_refresh(&mut self, cx: &mut Context<'_>) {
        let Some(encryption) = &mut self.encryption else { return self.task_done(Ok(()), cx) };
        let keys = encryption.commit(cx, Group::refresh);
        encryption.refresh_later(cx);
        match keys {
            Ok((commit, _)) => {
                let participant = roster::describe(&self.me, self.config.direction, true);
                let (op, name, message_id) =
                    (GroupUpdateOp::Rejoin, self.me.clone(), cx.message_id());
                self.tell(&Change { op, participant, name, message_id, mls: commit }, cx);
            }
            Err(error) => {
                self.lost_track(&format!("this side's keys could not be renewed: {error}"));
                self.task_done(Ok(()), cx);
            }
        }
    }
}

/// The others' side.
impl Session {
    /// Enters the group with the welcome.
    pub(super) fn enter_encryption(
        &mut self,
        welcome: Option<&MlsPayload>,
        cx: &mut Context<'_>,
    ) -> Result<(), mls::Error> {
        let Some(encryption) = &mut self.encryption else { return Ok(()) };
        encryption.join(welcome.ok_or(mls::Error::Malformed("welcome"))?, cx)
    }

    /// A GROUP_UPDATE with a commit. Confirmed when it is applied. `false`: it is not, or not yet.
    pub(super) fn on_commit(&mut self, message: Incoming, cx: &mut Context<'_>) -> bool {
        let Some((update, commit)) = update_of(&message) else {
            log::warn!("session {}: a GROUP_UPDATE without a commit", self.id);
            return false;
        };
        let (number, about_us) = (commit.commit_id, self.is_own_return(update));
        let Some(encryption) = &mut self.encryption else { return false };
        let last = encryption.last_commit;
        if number <= last {
            if about_us && number == last {
                self.take_roster(update, cx);
            }
            self.hear_of_jumped(&message);
            return self.take_update(&message, false, cx);
        }
        // What brings us back comes first, as an answer to us: this comes again.
        if about_us {
            return false;
        }
        let next = number - last == 1;
        if next || encryption.early.len() < limits::MLS_EARLY_COMMITS {
            encryption.early.insert(number, message);
        }
        match next {
            true => self.apply_early(cx),
            false => {
                let now = cx.now.mono;
                encryption.fall_behind(limits::MLS_COMMIT_WAIT, now);
            }
        }
        self.encryption.as_ref().is_some_and(|encryption| encryption.last_commit >= number)
    }

    /// News of a time in which we could not follow. A member that left then, and is here, has come
    /// again, and counts its messages anew.
    fn hear_of_jumped(&mut self, message: &Incoming) {
        let (Some((update, commit)), Some(encryption)) = (update_of(message), &mut self.encryption)
        else {
            return;
        };
        let jumped = encryption.jumped.remove(&commit.commit_id);
        if !jumped || update.op != GroupUpdateOp::Remove as i32 {
            return;
        }
        let name = update.participant.as_ref().and_then(|p| Name::from_wire(p.name.as_ref()?));
        if let Some(name) = name {
            self.drop_receiver(&name);
            self.roster.follow_from_now(&name);
        }
    }

    fn is_own_return(&self, update: &GroupUpdatePayload) -> bool {
        let name = update.participant.as_ref().and_then(|p| Name::from_wire(p.name.as_ref()?));
        update.op == GroupUpdateOp::Rejoin as i32 && name.as_ref() == Some(&self.me)
    }

    /// Applies the commits whose turn it is.
    fn apply_early(&mut self, cx: &mut Context<'_>) {
        let (mut applied, mut stuck, mut refused) = (false, false, None);
        while let Some(encryption) = &mut self.encryption {
            let Some(number) = encryption.last_commit.checked_add(1) else { break };
            let Some(message) = encryption.early.remove(&number) else { break };
            let Some((update, commit)) = update_of(&message) else { break };
            let moderator = Arc::clone(&encryption.moderator);
            let result = encryption
                .with_group(cx, |group, cx| group.process(&commit.mls_content, &moderator, cx));
            let Err(error) = result else {
                encryption.last_commit = number;
                encryption.begin_epoch();
                applied = true;
                self.take_roster(update, cx);
                self.take_update(&message, true, cx);
                continue;
            };
            stuck = true;
            match error.heals_after() {
                Some(wait) => {
                    encryption.again = Some(cx.now.mono + wait);
                    encryption.early.insert(number, message);
                }
                None => refused = Some((number, error)),
            }
            break;
        }
        if applied || !stuck {
            self.catch_up_with_data(cx);
        }
        if let (Some((number, error)), Some(encryption)) = (refused, &mut self.encryption) {
            log::warn!("session {}: commit {number} was refused: {error}", self.id);
            encryption.fall_behind(Duration::ZERO, cx.now.mono);
        }
    }

    /// There are new keys: what waited for them is taken.
    fn catch_up_with_data(&mut self, cx: &mut Context<'_>) {
        let Some(encryption) = &mut self.encryption else { return };
        let epoch = encryption.epoch();
        if encryption.early.is_empty() && epoch >= Some(encryption.heard) {
            (encryption.behind, encryption.hearsay) = (None, false);
        }
        let held = std::mem::take(&mut encryption.held);
        let (ready, early): (Vec<Held>, Vec<Held>) =
            held.into_iter().partition(|held| Some(held.epoch) <= epoch);
        encryption.held_bytes = early.iter().map(|held| held.len).sum();
        encryption.held = early.into();
        if !encryption.held.is_empty() && !encryption.fragile {
            encryption.doubt(cx.now.mono);
        }
        for held in ready {
            self.handle_message(held.message, cx);
        }
    }

    /// Asks the moderator for the present keys, and gives our own place a new token with it.
    fn rejoin(&mut self, cx: &mut Context<'_>) {
        let (me, moderator) = (self.me.clone(), self.moderator_name().clone());
        let message_id = cx.message_id();
        let Some(encryption) = &mut self.encryption else { return };
        if encryption.request.is_some() {
            return;
        }
        let key_package = match encryption.apply(cx) {
            Ok(key_package) => key_package,
            Err(error) => {
                return self.lost_track(&format!("this side's keys could not be renewed: {error}"));
            }
        };
        log::debug!("session {}: asks for new keys", self.id);
        encryption.request = Some(message_id);
        encryption.asked_after = encryption.last_commit;
        encryption.behind = None;
        encryption.pause = Some(cx.now.mono + limits::MLS_REJOIN_PAUSE);
        let payload = RejoinRequestPayload { participant: Some(me.to_wire()), key_package };
        let payload = CommandPayloadType::RejoinRequest(payload);
        let kind = SessionMessageType::RejoinRequest;
        let request = Outgoing::control(kind, &moderator, message_id, payload);
        self.request(request, [moderator], cx);
    }

    /// Our own token grows old. New keys bring a new one, where that does no harm.
    fn refresh_place(&mut self, cx: &mut Context<'_>) {
        let Some(encryption) = &mut self.encryption else { return };
        if !encryption.fragile {
            encryption.hearsay = false;
            return self.rejoin(cx);
        }
        let own = encryption.group.as_ref().and_then(Group::own);
        match own.and_then(|own| own.expires).map(|at| at.saturating_sub(cx.now.unix)) {
            Some(left) if !left.is_zero() => {
                encryption.refresh = Some(cx.now.mono + left.min(limits::MLS_REFRESH));
            }
            _ => {
                let why = "the token of this side has expired, and the moderator cannot renew it";
                self.lost_track(why);
            }
        }
    }

    /// Whether we wait for new keys.
    pub(super) fn is_rejoining(&self) -> bool {
        self.encryption.as_ref().is_some_and(|encryption| encryption.request.is_some())
    }

    /// A call is answered when the keys are here.
    pub(super) fn done_with_keys(&mut self, op: Option<OpId>) {
        if let Some(encryption) = &mut self.encryption {
            encryption.ops.extend(op);
        }
    }

    /// We have come back, but the keys have changed meanwhile.
    pub(super) fn on_group_nack(&mut self, message: &Incoming, cx: &mut Context<'_>) {
        if self.encryption.is_none() || !matches!(self.role, Role::Participant(_)) {
            return;
        }
        if self.is_changing_presence(message.message_id) {
            if let Some(encryption) = &mut self.encryption {
                encryption.hearsay = false;
            }
            self.rejoin(cx);
            self.on_group_ack(message, cx);
        }
    }

    /// The present keys. `false`: they are refused, and may come again, and better.
    pub(super) fn on_rejoin_reply(&mut self, message: &Incoming, cx: &mut Context<'_>) -> bool {
        let Some(CommandPayloadType::RejoinReply(reply)) = message.command() else { return false };
        let Some(encryption) = &mut self.encryption else { return false };
        if encryption.request != Some(message.message_id) {
            log::debug!("session {}: a late {:?}", self.id, message.kind);
            return false;
        }
        let RejoinReplyPayload { commit_id, mls_content } = reply.clone();
        let before = encryption.last_commit;
        if let Err(error) = encryption.join(&MlsPayload { commit_id, mls_content }, cx) {
            log::warn!("session {}: the welcome was refused: {error}", self.id);
            return false;
        }
        encryption.has_missed(commit_id.saturating_sub(encryption.asked_after) > 1);
        let later = encryption.early.split_off(&commit_id.saturating_add(1));
        let jumped = std::mem::replace(&mut encryption.early, later);
        let first = commit_id.saturating_sub(limits::MISSED_UPDATES as u32);
        encryption.jumped.extend((before.max(first)..=commit_id).skip(1));
        encryption.jumped.retain(|number| *number > first);
        (encryption.request, encryption.behind) = (None, None);
        encryption.told.clear();
        encryption.roster_due = true;
        let ops = std::mem::take(&mut encryption.ops);
        jumped.values().for_each(|update| self.hear_of_jumped(update));
        self.requests.cancel(message.message_id);
        self.out.push(Output::Send(Outgoing::group_ack(message)));
        for op in ops {
            self.done(Some(op), Ok(()));
        }
        self.apply_early(cx);
        true
    }

    /// Nobody answers our request for new keys. `false`: it was none.
    pub(super) fn on_rejoin_given_up(&mut self, message_id: u32, now: Instant) -> bool {
        let Some(encryption) = &mut self.encryption else { return false };
        if encryption.request != Some(message_id) {
            return false;
        }
        encryption.request = None;
        encryption.fall_behind(Duration::ZERO, now);
        let text = "rejoin failed: epoch mismatch: the moderator does not answer";
        for op in std::mem::take(&mut encryption.ops) {
            self.done(Some(op), Err(Error::Mls(text.to_owned())));
        }
        self.lost_track("the moderator does not answer the request for new keys");
        true
    }

    /// The session ends.
    pub(super) fn abort_rejoin(&mut self) {
        let Some(encryption) = &mut self.encryption else { return };
        encryption.request = None;
        for op in std::mem::take(&mut encryption.ops) {
            self.done(Some(op), Err(Error::closed("session")));
        }
    }

    /// The application learns that this side does not follow; once for each reason.
    pub(super) fn lost_track(&mut self, why: &str) {
        let Some(encryption) = &mut self.encryption else { return };
        if encryption.told.insert(why.to_owned()) {
            let text = format!(
                "{why}; others may not be understood, or not understand this side: leave the \
                 session and be invited again, or open a new one"
            );
            log::warn!("session {}: {text}", self.id);
            self.event(Event::EncryptionLost(text));
        }
    }

    /// What happened while we could not follow: the first news after that says who is here now.
    fn take_roster(&mut self, update: &GroupUpdatePayload, cx: &mut Context<'_>) {
        let due = self.encryption.as_mut().map(|encryption| &mut encryption.roster_due);
        if !due.is_some_and(std::mem::take) {
            return;
        }
        let named = |p: &crate::wire::Participant| p.name.as_ref().and_then(Name::from_wire);
        let participants = &update.participants;
        let here: Vec<Name> = participants.iter().filter_map(named).collect();
        let known: Vec<Name> = self.roster.names().cloned().collect();
        // Whoever this is about comes or goes with it.
        let about = update.participant.as_ref().and_then(named);
        let about = about.filter(|_| update.op != GroupUpdateOp::Rejoin as i32);
        for gone in known.iter().filter(|name| !here.contains(name)) {
            self.member_left(gone, cx);
        }
        for member in participants {
            let Some(name) = named(member) else { continue };
            if name == self.me || Some(&name) == about.as_ref() {
                continue;
            }
            if self.config.kind == Kind::Group && self.roster.add(member, false).is_some() {
                self.roster.set_ready(&name);
            }
        }
        self.flush_kept(cx);
    }
}

/// What a GROUP_UPDATE says, and its commit.
fn update_of(message: &Incoming) -> Option<(&GroupUpdatePayload, &MlsPayload)> {
    match message.command()? {
        CommandPayloadType::GroupUpdate(update) => Some((update, update.mls.as_ref()?)),
        _ => None,
    }
}
