//! End-to-end encryption: MLS (RFC 9420) as SLIM uses it (spec 05). OpenMLS is behind it and seen
//! nowhere else.
//!
//! A [`Group`] is one member's view of one session's group. Whoever leads the session, the
//! moderator, creates it, adds and removes members; each of these is a commit that all others
//! process. Who wants in makes a key package ([`Candidate`]) and gets a welcome. What travels are
//! whole `MLSMessage`s, as bytes; how and when is the session's affair. Nothing here knows of
//! commit ids, retransmission or names.
//!
//! **Who is who.** A leaf's credential is an identity token. It is checked with the app's
//! [`Verifier`] when it enters the tree, and the key that it names must be the leaf's; after that
//! the leaf counts, not the token's age: groups do not end with their tokens (spec 05 section 7).
//! One identity has at most one leaf.
//!
//! **Time and randomness** come in with the [`Context`], with three exceptions. OpenMLS compares
//! the lifetimes of key packages with the system's clock when a member is added
//! ([`Context::virtual_time`] is for simulations). It notes the system's time with each epoch, and
//! does not use it. aws-lc draws the randomness inside signatures itself.
//!
//! **Threads.** None is started. rayon, which OpenMLS uses, is confined to the calling thread, so a
//! forked child may go on. A thread whose whole work is done with [`work_alone`] leaves nothing behind;
//! of each other thread that ever calls in here, a few kilobytes of rayon's stay until the process
//! ends.

mod error;
mod hpke;
mod provider;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openmls::prelude::{
    BasicCredential, Capabilities, ContentType, Credential, CredentialWithKey, DeserializeBytes,
    GroupId, KeyPackage, LeafNode, LeafNodeIndex, LeafNodeParameters, Lifetime, MlsGroup,
    MlsGroupCreateConfig, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut,
    ProcessedMessage, ProcessedMessageContent, Proposal, ProtocolMessage, ProtocolVersion, Sender,
    SenderRatchetConfiguration, StagedCommit, StagedWelcome, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY,
};
use openmls_traits::OpenMlsProvider;

pub use error::Error;
pub use provider::work_alone;
use provider::{suite, IdentitySigner, Provider};
use storage::Storage;

use crate::clock::Now;
use crate::entropy::Entropy;
use crate::identity::{self, Verifier};
use crate::limits;

/// A key package is valid from so long before it was made.
const BACKDATED_SECS: u64 = 60;
/// And for so long.
const LIFETIME_SECS: u64 = 365 * 24 * 3600;
/// Plaintexts are padded to multiples of this.
const PADDING: usize = 32;
const GROUP_ID_LEN: usize = 32;

/// What an operation borrows of its app.
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// The clock of `now` is not the system's: key packages are then valid for ever.
    pub virtual_time: bool,
    /// Randomness.
    pub entropy: &'a mut dyn Entropy,
    /// Who we are.
    pub provider: &'a mut dyn identity::Provider,
    /// Who others are.
    pub verifier: &'a mut dyn Verifier,
}

impl Context<'_> {
    /// A token of ours, as a credential with our key.
    fn credential(&mut self) -> Result<(Arc<str>, CredentialWithKey), Error> {
        let token = self.provider.token(self.now, self.entropy)?;
        let credential = BasicCredential::new(token.as_bytes().to_vec()).into();
        let signature_key = self.provider.public_key().to_vec().into();
        Ok((token, CredentialWithKey { credential, signature_key }))
    }

    /// Ourselves. We need not be able to check our own tokens.
    fn own(&mut self, token: Arc<str>) -> Known {
        let expires = self.verifier.verify(&token, self.now).ok().map(|claims| claims.expires);
        Known { token, subject: self.provider.subject().into(), expires }
    }

    fn lifetime(&self, backdated_secs: u64) -> Lifetime {
        if self.virtual_time {
            return Lifetime::init(0, u64::MAX);
        }
        let not_before = self.now.unix_secs().saturating_sub(backdated_secs);
        Lifetime::init(not_before, not_before.saturating_add(LIFETIME_SECS))
    }

    /// Looks at a leaf that enters our tree.
    fn admit(&mut self, leaf: &LeafNode) -> Result<Known, Error> {
        let token = token(leaf.credential())?;
        let claims = self.verifier.verify(&token, self.now)?;
        Known::new(token, claims, leaf.signature_key().as_slice())
    }

    /// Looks at a leaf of a tree that we enter: it may be there for long.
    fn recognize(&mut self, member: &openmls::prelude::Member) -> Result<Known, Error> {
        let token = token(&member.credential)?;
        let claims = self.verifier.verify_once_valid(&token, self.now)?;
        Known::new(token, claims, &member.signature_key)
    }
}

fn token(credential: &Credential) -> Result<Arc<str>, Error> {
    let basic = BasicCredential::try_from(credential.clone());
    let basic = basic.map_err(|_| Error::Malformed("basic credential"))?;
    match std::str::from_utf8(basic.identity()) {
        Ok(token) if token.len() <= limits::TOKEN_LEN => Ok(token.into()),
        _ => Err(Error::Malformed("credential with a token")),
    }
}

/// A token that was found good, with the right key.
#[derive(Clone)]
struct Known {
    token: Arc<str>,
    subject: Arc<str>,
    expires: Option<Duration>,
}

impl Known {
    fn new(token: Arc<str>, claims: identity::Claims, key: &[u8]) -> Result<Known, Error> {
        match claims.public_key == key {
            true => {
                Ok(Known { token, subject: claims.subject.into(), expires: Some(claims.expires) })
            }
            false => Err(Error::OtherKey(claims.subject)),
        }
    }
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its place in the tree. Others may get it when it has left.
    pub leaf: u32,
    /// Its identity string.
    pub subject: Arc<str>,
    /// The token that its leaf carries. May have expired.
    pub token: Arc<str>,
    /// When the token expires, since the UNIX epoch; the published implementation takes nothing
    /// from this member after that. `None`: our own, and we cannot read it.
    pub expires: Option<Duration>,
    /// The key that it signs with.
    pub signature_key: Vec<u8>,
}

/// What the moderator sends after a change; it has happened in its own group already.
#[derive(Clone, Debug)]
pub struct Commit {
    /// For all other members.
    pub commit: Vec<u8>,
    /// For who was added.
    pub welcome: Option<Vec<u8>>,
}

/// What a commit has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The identities of new members.
    pub added: Vec<Arc<str>>,
    /// The identities of former members.
    pub removed: Vec<Arc<str>>,
}

/// A message that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What was sealed.
    pub plaintext: Vec<u8>,
    /// What was sealed with it and travelled in clear.
    pub aad: Vec<u8>,
    /// The sender's identity string.
    pub subject: Arc<str>,
    /// The token that the sender's leaf carried.
    pub token: Arc<str>,
    /// The sender's place in the tree, in the message's epoch.
    pub leaf: u32,
}

/// Who has made a key package and waits to be welcomed.
pub struct Candidate {
    key_package: Vec<u8>,
    storage: Storage,
}

impl Candidate {
    /// Makes a key package, with a new token (an old one would count as old for others).
    pub fn new(cx: &mut Context<'_>) -> Result<Candidate, Error> {
        let suite = suite(cx.provider.public_key())?;
        let (_, credential) = cx.credential()?;
        let lifetime = cx.lifetime(BACKDATED_SECS);
        let storage = Storage::default();
        let bundle = {
            let provider = Provider::new(&storage, &mut *cx.entropy);
            KeyPackage::builder()
                .key_package_lifetime(lifetime)
                .leaf_node_capabilities(Capabilities::for_provider(provider.crypto()))
                .build(suite, &provider, &IdentitySigner(&*cx.provider), credential)
                .map_err(error::invalid)?
        };
        let key_package = bytes(&bundle.into_key_package().into())?;
        Ok(Candidate { key_package, storage })
    }

    /// What the moderator gets.
    pub fn key_package(&self) -> &[u8] {
        &self.key_package
    }

    /// Enters the group that `moderator` leads. May be tried again with another welcome if this
    /// one was refused.
    pub fn join(
        &self,
        welcome: &[u8],
        moderator: &str,
        cx: &mut Context<'_>,
    ) -> Result<Group, Error> {
        let MlsMessageBodyIn::Welcome(welcome) = body(welcome, "welcome")? else {
            return Err(Error::Malformed("welcome"));
        };
        // OpenMLS deletes the key package first and looks at the rest of the welcome then.
        let storage = self.storage.clone();
        let staged = {
            let provider = Provider::new(&storage, &mut *cx.entropy);
            StagedWelcome::build_from_welcome(&provider, &join_config(), welcome)
                .map_err(error::welcome)?
                .skip_lifetime_validation()
                .replace_old_group()
                .build()
                .map_err(error::welcome)?
        };
        let mut roster = Vec::new();
        for member in staged.members() {
            let known = match member.index == staged.own_leaf_index() {
                true => cx.own(token(&member.credential)?),
                false => cx.recognize(&member)?,
            };
            roster.push(known.at(member.index, member.signature_key));
        }
        check_unique(roster.iter().map(|member| &member.subject))?;
        let sender = staged.welcome_sender_index().u32();
        check_moderator(roster.iter().find(|member| member.leaf == sender), moderator)?;
        let group = staged
            .into_group(&Provider::new(&storage, &mut *cx.entropy))
            .map_err(error::welcome)?;
        Ok(Group::new(group, storage, roster))
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Candidate")
    }
}

impl Known {
    fn at(self, leaf: LeafNodeIndex, signature_key: Vec<u8>) -> Member {
        let Known { token, subject, expires } = self;
        Member { leaf: leaf.u32(), subject, token, expires, signature_key }
    }
}

/// An encrypted group, as one member sees it.
pub struct Group {
    group: MlsGroup,
    storage: Storage,
    /// Who is in the tree, by leaf.
    roster: Vec<Member>,
    /// Who was there in epochs whose messages can still be opened, with the last of these epochs.
    departed: VecDeque<(u64, Member)>,
    /// The epoch that we came in: we have no keys of earlier ones.
    since: u64,
}

impl Group {
    fn new(group: MlsGroup, storage: Storage, roster: Vec<Member>) -> Group {
        let since = group.epoch().as_u64();
        Group { group, storage, roster, departed: VecDeque::new(), since }
    }

    /// A group of one: the moderator.
    pub fn create(cx: &mut Context<'_>) -> Result<Group, Error> {
        let suite = suite(cx.provider.public_key())?;
        let (token, credential) = cx.credential()?;
        let lifetime = cx.lifetime(0);
        let mut id = [0; GROUP_ID_LEN];
        cx.entropy.fill(&mut id);
        let storage = Storage::default();
        let group = {
            let provider = Provider::new(&storage, &mut *cx.entropy);
            let config = MlsGroupCreateConfig::builder()
                .ciphersuite(suite)
                .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
                .use_ratchet_tree_extension(true)
                .max_past_epochs(limits::MLS_PAST_EPOCHS)
                .sender_ratchet_configuration(ratchet())
                .padding_size(PADDING)
                .capabilities(Capabilities::for_provider(provider.crypto()))
                .lifetime(lifetime)
                .build();
            let (signer, id) = (IdentitySigner(&*cx.provider), GroupId::from_slice(&id));
            MlsGroup::new_with_group_id(&provider, &signer, &config, id, credential)
                .map_err(error::invalid)?
        };
        let own = cx.own(token).at(group.own_leaf_index(), cx.provider.public_key().to_vec());
        Ok(Group::new(group, storage, vec![own]))
    }

    /// How many commits it has seen.
    pub fn epoch(&self) -> u64 {
        self.group.epoch().as_u64()
    }

    /// Whether we are (still) in it.
    pub fn is_member(&self) -> bool {
        self.group.is_active()
    }

    /// Who is in it, by leaf; we too.
    pub fn members(&self) -> &[Member] {
        &self.roster
    }

    /// Ourselves.
    pub fn own(&self) -> Option<&Member> {
        self.at(self.group.own_leaf_index())
    }

    fn at(&self, leaf: LeafNodeIndex) -> Option<&Member> {
        let at = self.roster.binary_search_by_key(&leaf.u32(), |member| member.leaf).ok()?;
        self.roster.get(at)
    }

    fn named(&self, subject: &str) -> Result<LeafNodeIndex, Error> {
        let member = self.roster.iter().find(|member| &*member.subject == subject);
        let member = member.ok_or_else(|| Error::UnknownMember(subject.to_owned()))?;
        Ok(LeafNodeIndex::new(member.leaf))
    }

    /// Whose key package it is, if it is a good one.
    pub fn subject_of(&self, key_package: &[u8], cx: &mut Context<'_>) -> Result<Arc<str>, Error> {
        Ok(self.look_at(key_package, cx)?.1.subject)
    }

    /// Takes in who made this key package.
    pub fn add(&mut self, key_package: &[u8], cx: &mut Context<'_>) -> Result<Commit, Error> {
        let (key_package, newcomer) = self.look_at(key_package, cx)?;
        if self.named(&newcomer.subject).is_ok() {
            return Err(Error::DuplicateSubject(newcomer.subject.to_string()));
        }
        self.commit(Change { add: Some(key_package), ..Change::default() }, Some(newcomer), cx)
    }

    /// Removes a member.
    pub fn remove(&mut self, subject: &str, cx: &mut Context<'_>) -> Result<Commit, Error> {
        let leaf = self.named(subject)?;
        self.commit(Change { remove: Some(leaf), ..Change::default() }, None, cx)
    }

    /// Takes a member in anew that had lost the group, in one commit: its old leaf goes.
    pub fn swap(&mut self, key_package: &[u8], cx: &mut Context<'_>) -> Result<Commit, Error> {
        let (key_package, newcomer) = self.look_at(key_package, cx)?;
        let leaf = self.named(&newcomer.subject)?;
        let key = key_package.leaf_node().signature_key().as_slice();
        // Whoever knows the secret can make a token for any identity, but not sign with its key.
        if self.at(leaf).is_none_or(|member| member.signature_key != key) {
            return Err(Error::OtherKey(newcomer.subject.to_string()));
        }
        let change = Change { add: Some(key_package), remove: Some(leaf), ..Change::default() };
        self.commit(change, Some(newcomer), cx)
    }

    /// Gives our own leaf a new token, before others find the old one too old.
    pub fn refresh(&mut self, cx: &mut Context<'_>) -> Result<Commit, Error> {
        let (token, credential) = cx.credential()?;
        let own = cx.own(token);
        let leaf = LeafNodeParameters::builder().with_credential_with_key(credential).build();
        self.commit(Change { refresh: Some(leaf), ..Change::default() }, Some(own), cx)
    }

    /// Checks a key package.
    fn look_at(
        &self,
        key_package: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(KeyPackage, Known), Error> {
        let MlsMessageBodyIn::KeyPackage(unverified) = body(key_package, "key package")? else {
            return Err(Error::Malformed("key package"));
        };
        // With a suite that we do not know the signature could not be checked.
        let suite = key_package.get(6..8).map_or(0, |it| u16::from_be_bytes([it[0], it[1]]));
        if suite != u16::from(self.group.ciphersuite()) {
            return Err(Error::Suite(suite));
        }
        let key_package = unverified
            .validate(
                Provider::new(&self.storage, &mut *cx.entropy).crypto(),
                ProtocolVersion::Mls10,
            )
            .map_err(error::key_package)?;
        let newcomer = cx.admit(key_package.leaf_node())?;
        Ok((key_package, newcomer))
    }

    fn commit(
        &mut self,
        change: Change,
        newcomer: Option<Known>,
        cx: &mut Context<'_>,
    ) -> Result<Commit, Error> {
        if !self.is_member() {
            return Err(Error::Removed);
        }
        let messages = self.commit_at_once(change, cx);
        if messages.is_err() {
            self.group.clear_pending_commit(&self.storage).map_err(error::invalid)?;
        }
        let messages = messages?;
        self.take_roster(newcomer.as_slice());
        Ok(messages)
    }

    fn commit_at_once(&mut self, change: Change, cx: &mut Context<'_>) -> Result<Commit, Error> {
        let provider = Provider::new(&self.storage, &mut *cx.entropy);
        let mut builder = self.group.commit_builder();
        if let Some(leaf) = change.refresh {
            builder = builder.leaf_node_parameters(leaf);
        }
        // A welcome needs the tree; nobody needs the description of the group that goes with it.
        let bundle = builder
            .propose_adds(change.add)
            .propose_removals(change.remove)
            .load_psks(provider.storage())
            .map_err(error::invalid)?
            .use_ratchet_tree_extension(true)
            .create_group_info(false)
            .build(provider.rand(), provider.crypto(), &IdentitySigner(&*cx.provider), |_| true)
            .map_err(error::commit)?
            .stage_commit(&provider)
            .map_err(error::invalid)?;
        let welcome = bundle.to_welcome_msg().as_ref().map(bytes).transpose()?;
        let commit = bytes(bundle.commit())?;
        self.group.merge_pending_commit(&provider).map_err(error::invalid)?;
        Ok(Commit { commit, welcome })
    }

    /// Applies a commit of the moderator. The commit that removes us is applied, too.
    pub fn process(
        &mut self,
        commit: &[u8],
        moderator: &str,
        cx: &mut Context<'_>,
    ) -> Result<Applied, Error> {
        let message = self.parse(commit, ContentType::Commit)?;
        if message.epoch() != self.group.epoch() {
            return Err(Error::PastEpoch(message.epoch().as_u64()));
        }
        let processed = self.process_message(message, cx)?;
        let Sender::Member(committer) = *processed.sender() else {
            return Err(Error::Forbidden("a sender from outside"));
        };
        check_moderator(self.at(committer), moderator)?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(Error::Malformed("commit"));
        };
        let newcomers = newcomers(&staged, cx)?;
        let removed: Vec<Arc<str>> = staged
            .remove_proposals()
            .filter_map(|proposal| self.at(proposal.remove_proposal().removed()))
            .map(|member| Arc::clone(&member.subject))
            .collect();
        let added: Vec<Arc<str>> =
            newcomers.iter().map(|known| Arc::clone(&known.subject)).collect();
        let stay = self.roster.iter().map(|member| &member.subject);
        check_unique(stay.filter(|subject| !removed.contains(subject)).chain(&added))?;
        let refreshed = self.refreshed(&staged, committer, cx)?;
        let provider = Provider::new(&self.storage, &mut *cx.entropy);
        self.group.merge_staged_commit(&provider, *staged).map_err(error::invalid)?;
        let known: Vec<Known> = newcomers.into_iter().chain(refreshed).collect();
        self.take_roster(&known);
        Ok(Applied { added, removed })
    }

    /// The committer's new token, if it has one. A commit with the old one may come at any age.
    fn refreshed(
        &self,
        staged: &StagedCommit,
        committer: LeafNodeIndex,
        cx: &mut Context<'_>,
    ) -> Result<Option<Known>, Error> {
        let (Some(leaf), Some(old)) = (staged.update_path_leaf_node(), self.at(committer)) else {
            return Ok(None);
        };
        let same_key = leaf.signature_key().as_slice() == old.signature_key;
        if same_key && token(leaf.credential())? == old.token {
            return Ok(None);
        }
        let known = cx.admit(leaf)?;
        if known.subject != old.subject {
            let (expected, found) = (old.subject.to_string(), known.subject.to_string());
            return Err(Error::OtherSubject { expected, found });
        }
        Ok(Some(known))
    }

    /// Looks at the tree after a commit; `known` are the tokens that it has brought.
    fn take_roster(&mut self, known: &[Known]) {
        let epoch = self.epoch();
        let old = std::mem::take(&mut self.roster);
        for member in self.group.members() {
            let Ok(token) = token(&member.credential) else { continue };
            let (key, leaf) = (member.signature_key, member.index.u32());
            let at = old.binary_search_by_key(&leaf, |member| member.leaf).ok();
            match at.and_then(|at| old.get(at)).filter(|old| old.token == token) {
                Some(same) => self.roster.push(Member { signature_key: key, ..same.clone() }),
                None => {
                    let known = known.iter().find(|known| known.token == token);
                    self.roster.extend(known.map(|known| known.clone().at(member.index, key)));
                }
            }
        }
        let gone = old.into_iter().filter(|old| {
            self.at(LeafNodeIndex::new(old.leaf)).is_none_or(|new| new.token != old.token)
        });
        let gone: Vec<_> = gone.map(|member| (epoch.saturating_sub(1), member)).collect();
        self.departed.extend(gone);
        let oldest = epoch.saturating_sub(limits::MLS_PAST_EPOCHS as u64);
        self.departed.retain(|(last, _)| *last >= oldest);
    }

    /// Encrypts for the others. `aad` is authenticated and travels in clear.
    pub fn seal(
        &mut self,
        plaintext: &[u8],
        aad: Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Result<Vec<u8>, Error> {
        if !self.is_member() {
            return Err(Error::Removed);
        }
        let provider = Provider::new(&self.storage, &mut *cx.entropy);
        self.group.set_aad(aad);
        let message = self
            .group
            .create_message(&provider, &IdentitySigner(&*cx.provider), plaintext)
            .map_err(error::invalid)?;
        bytes(&message)
    }

    /// Decrypts what another member has sealed, in this epoch or one of the last. A message can be
    /// opened once; a forged one does no harm.
    pub fn open(&mut self, message: &[u8], cx: &mut Context<'_>) -> Result<Opened, Error> {
        let message = self.parse(message, ContentType::Application)?;
        let epoch = message.epoch().as_u64();
        let oldest = self.epoch().saturating_sub(limits::MLS_PAST_EPOCHS as u64);
        if epoch < oldest.max(self.since) {
            return Err(Error::PastEpoch(epoch));
        }
        let processed = match self.process_message(message, cx) {
            // Other keys than those of that time are here already.
            Err(Error::OutOfReach) if epoch < self.epoch() => Err(Error::PastEpoch(epoch)),
            processed => processed,
        }?;
        let Sender::Member(leaf) = *processed.sender() else {
            return Err(Error::Forbidden("a sender from outside"));
        };
        if matches!(processed.content(), ProcessedMessageContent::OwnPrivateMessage) {
            return Err(Error::Own);
        }
        let token = token(processed.credential())?;
        let departed = self.departed.iter().map(|(_, member)| member);
        let subject = self
            .at(leaf)
            .into_iter()
            .chain(departed)
            .find(|member| member.leaf == leaf.u32() && member.token == token)
            .map(|member| Arc::clone(&member.subject))
            .ok_or_else(|| Error::UnknownMember(format!("leaf {}", leaf.u32())))?;
        let aad = processed.aad().to_vec();
        let ProcessedMessageContent::ApplicationMessage(content) = processed.into_content() else {
            return Err(Error::Malformed("application message"));
        };
        Ok(Opened { plaintext: content.into_bytes(), aad, subject, token, leaf: leaf.u32() })
    }

    fn process_message(
        &mut self,
        message: ProtocolMessage,
        cx: &mut Context<'_>,
    ) -> Result<ProcessedMessage, Error> {
        let provider = Provider::new(&self.storage, &mut *cx.entropy);
        self.group.process_message(&provider, message).map_err(error::message)
    }

    /// A message of this group and kind, of no later epoch.
    fn parse(&self, message: &[u8], kind: ContentType) -> Result<ProtocolMessage, Error> {
        let what = match kind {
            ContentType::Commit => "commit",
            _ => "application message",
        };
        if !self.is_member() {
            return Err(Error::Removed);
        }
        let message = match body(message, what)? {
            MlsMessageBodyIn::PublicMessage(message) => ProtocolMessage::from(message),
            MlsMessageBodyIn::PrivateMessage(message) => ProtocolMessage::from(message),
            _ => return Err(Error::Malformed(what)),
        };
        if message.content_type() != kind {
            return Err(Error::Malformed(what));
        }
        if message.group_id() != self.group.group_id() {
            return Err(Error::OtherGroup);
        }
        if message.epoch() > self.group.epoch() {
            return Err(Error::FutureEpoch(message.epoch().as_u64()));
        }
        Ok(message)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group of {} in epoch {}", self.roster.len(), self.epoch())
    }
}

/// What a commit does.
#[derive(Default)]
struct Change {
    add: Option<KeyPackage>,
    remove: Option<LeafNodeIndex>,
    refresh: Option<LeafNodeParameters>,
}

/// Whom a commit adds. What it may do besides is removing.
fn newcomers(staged: &StagedCommit, cx: &mut Context<'_>) -> Result<Vec<Known>, Error> {
    let mut newcomers = Vec::new();
    for proposal in staged.queued_proposals() {
        match proposal.proposal() {
            Proposal::Add(add) => newcomers.push(cx.admit(add.key_package().leaf_node())?),
            Proposal::Remove(_) => (),
            _ => return Err(Error::Forbidden("a proposal that is none of ours")),
        }
    }
    Ok(newcomers)
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(true)
        .max_past_epochs(limits::MLS_PAST_EPOCHS)
        .sender_ratchet_configuration(ratchet())
        .padding_size(PADDING)
        .build()
}

fn ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(limits::MLS_SKIPPED_MESSAGES, limits::MLS_SKIPPED_MESSAGES)
}

fn body(message: &[u8], what: &'static str) -> Result<MlsMessageBodyIn, Error> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(message);
    message.map(MlsMessageIn::extract).map_err(|_| Error::Malformed(what))
}

fn bytes(message: &MlsMessageOut) -> Result<Vec<u8>, Error> {
    message.to_bytes().map_err(error::invalid)
}

fn check_moderator(member: Option<&Member>, moderator: &str) -> Result<(), Error> {
    match member {
        Some(member) if &*member.subject == moderator => Ok(()),
        Some(member) => Err(Error::NotModerator(member.subject.to_string())),
        None => Err(Error::NotModerator(String::new())),
    }
}

fn check_unique<'a>(subjects: impl Iterator<Item = &'a Arc<str>>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for subject in subjects {
        if !seen.insert(subject) {
            return Err(Error::DuplicateSubject(subject.to_string()));
        }
    }
    Ok(())
}
