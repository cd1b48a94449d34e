//! Groups of our own, and a recorded one of the published implementation. Numbers in names are
//! those of the checklist in spec 05.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::Engine as _;
use openmls::prelude::{CredentialType, Extensions, HpkePrivateKey, KeyPackageBundle};
use openmls_traits::storage::StorageProvider;
use serde_json::{json, Value};

use super::*;
use crate::entropy::SeededEntropy;
use crate::identity::{Claims, SharedSecret, SharedSecretVerifier, SigningKey};

const SECRET: &str = "a secret of at least 32 characters";

fn at(secs: u64) -> Now {
    Now { mono: Instant::now(), unix: Duration::from_secs(secs) }
}

fn system_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// One app and its part in a group.
struct Peer {
    provider: Box<dyn identity::Provider>,
    verifier: Box<dyn Verifier>,
    entropy: SeededEntropy,
    now: Now,
    virtual_time: bool,
    group: Option<Group>,
}

impl Peer {
    fn new(name: &str) -> Peer {
        let seed = name.bytes().fold(0u64, |seed, byte| seed.wrapping_mul(257) + u64::from(byte));
        let mut entropy = SeededEntropy::new(seed);
        let provider = SharedSecret::new(name, SECRET, &mut entropy).unwrap();
        Peer {
            provider: Box::new(provider),
            verifier: Box::new(SharedSecretVerifier::new(SECRET).unwrap()),
            entropy,
            now: at(1_800_000_000),
            virtual_time: true,
            group: None,
        }
    }

    fn with(name: &str, provider: impl identity::Provider + 'static) -> Peer {
        Peer { provider: Box::new(provider), ..Peer::new(name) }
    }

    fn parts(&mut self) -> (Option<&mut Group>, Context<'_>) {
        let cx = Context {
            now: self.now,
            virtual_time: self.virtual_time,
            entropy: &mut self.entropy,
            provider: &mut *self.provider,
            verifier: &mut *self.verifier,
        };
        (self.group.as_mut(), cx)
    }

    fn with_group<T>(&mut self, act: impl FnOnce(&mut Group, &mut Context<'_>) -> T) -> T {
        let (group, mut cx) = self.parts();
        act(group.expect("a group"), &mut cx)
    }

    fn subject(&self) -> String {
        self.provider.subject().to_owned()
    }

    fn create(&mut self) {
        self.group = Some(Group::create(&mut self.parts().1).unwrap());
    }

    fn candidate(&mut self) -> Candidate {
        Candidate::new(&mut self.parts().1).unwrap()
    }

    fn join(&mut self, candidate: &Candidate, welcome: &[u8], from: &str) -> Result<(), Error> {
        self.group = Some(candidate.join(welcome, from, &mut self.parts().1)?);
        Ok(())
    }

    fn add(&mut self, candidate: &Candidate) -> Result<Commit, Error> {
        self.with_group(|group, cx| group.add(candidate.key_package(), cx))
    }

    fn refused(&mut self, key_package: &[u8]) -> Error {
        self.with_group(|group, cx| group.add(key_package, cx)).map(|_| ()).unwrap_err()
    }

    fn refresh(&mut self) -> Vec<u8> {
        self.with_group(Group::refresh).unwrap().commit
    }

    fn seal(&mut self, text: &str) -> Vec<u8> {
        self.with_group(|group, cx| group.seal(text.as_bytes(), b"aad".to_vec(), cx)).unwrap()
    }

    fn open(&mut self, message: &[u8]) -> Result<Opened, Error> {
        self.with_group(|group, cx| group.open(message, cx))
    }

    fn process(&mut self, commit: &[u8], from: &str) -> Result<Applied, Error> {
        self.with_group(|group, cx| group.process(commit, from, cx))
    }

    fn epoch(&self) -> u64 {
        self.view().epoch()
    }

    fn view(&self) -> &Group {
        self.group.as_ref().unwrap()
    }

    /// What it is as a member.
    fn member(&self) -> Member {
        self.view().own().unwrap().clone()
    }
}

/// A whole group; number 0 is the moderator.
struct Peers(Vec<Peer>);

impl Peers {
    fn new(size: usize) -> Peers {
        Peers::named("peer", size)
    }

    fn named(name: &str, size: usize) -> Peers {
        let mut peers = Peers(Vec::new());
        for number in 0..size {
            peers.take_in(Peer::new(&format!("{name}{number}")));
        }
        peers
    }

    fn moderator(&self) -> String {
        self.0[0].subject()
    }

    fn take_in(&mut self, mut peer: Peer) {
        if self.0.is_empty() {
            peer.create();
        } else {
            let from = self.moderator();
            let candidate = peer.candidate();
            let added = self.0[0].add(&candidate).unwrap();
            self.spread(&added.commit);
            peer.join(&candidate, &added.welcome.unwrap(), &from).unwrap();
        }
        self.0.push(peer);
    }

    /// A commit of the moderator, to all others that have a group.
    fn spread(&mut self, commit: &[u8]) {
        let from = self.moderator();
        for peer in &mut self.0[1..] {
            if peer.group.as_ref().is_some_and(Group::is_member) {
                peer.process(commit, &from).unwrap();
            }
        }
    }

    fn remove(&mut self, number: usize) -> Peer {
        let subject = self.0[number].subject();
        let commit = self.0[0].with_group(|group, cx| group.remove(&subject, cx)).unwrap();
        assert!(commit.welcome.is_none());
        self.spread(&commit.commit);
        self.0.remove(number)
    }

    fn later(&mut self, by: Duration) {
        self.0.iter_mut().for_each(|peer| peer.now = peer.now.after(by));
    }

    /// Everybody reads everybody, and all see the same.
    fn check(&mut self) {
        let (epoch, members) = (self.0[0].epoch(), self.0.len());
        for sender in 0..members {
            let text = format!("{sender} in {epoch}");
            let message = self.0[sender].seal(&text);
            let subject = self.0[sender].subject();
            for receiver in 0..members {
                if receiver == sender {
                    assert_eq!(self.0[receiver].open(&message), Err(Error::Own));
                    continue;
                }
                let opened = self.0[receiver].open(&message).unwrap();
                assert_eq!(opened.plaintext, text.as_bytes());
                assert_eq!(opened.aad, b"aad");
                assert_eq!(*opened.subject, *subject);
                let known = self.0[receiver].view().members();
                assert!(known.iter().any(|m| m.leaf == opened.leaf && m.token == opened.token));
            }
        }
        for peer in &self.0 {
            assert_eq!(peer.epoch(), epoch);
            assert_eq!(peer.view().members(), self.0[0].view().members());
            assert_eq!(peer.view().members().len(), members);
            assert_eq!(*peer.member().subject, *peer.subject());
            assert_eq!(peer.view().storage.len(), 1, "only the keys of this epoch are kept");
        }
    }

    /// The key to which others encrypt for the moderator: a path changes it.
    fn moderators_key(&self) -> Vec<u8> {
        self.0[0].view().group.members().next().unwrap().encryption_key
    }
}

/// An identity with a given token and key.
struct Fixed {
    subject: String,
    token: Arc<str>,
    key: FixedKey,
}

enum FixedKey {
    P256(SigningKey),
    Ed25519(Ed25519KeyPair),
}

impl Fixed {
    /// A token that really belongs to this key.
    fn new(subject: &str, key: FixedKey, issued: u64) -> Fixed {
        let mut fixed = Fixed { subject: subject.to_owned(), token: "".into(), key };
        let key = STANDARD.encode(identity::Provider::public_key(&fixed));
        let claims = URL_SAFE_NO_PAD.encode(format!("{{\"pubkey\":\"{key}\"}}"));
        let text = format!("{subject}:{issued}:bm9uY2U:{claims}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
        fixed.token = format!("{text}:{mac}").into();
        fixed
    }

    fn public_key(&self) -> Vec<u8> {
        identity::Provider::public_key(self).to_vec()
    }
}

fn p256(seed: u64) -> FixedKey {
    FixedKey::P256(SigningKey::generate(&mut SeededEntropy::new(seed)))
}

impl identity::Provider for Fixed {
    fn subject(&self) -> &str {
        &self.subject
    }

    fn public_key(&self) -> &[u8] {
        match &self.key {
            FixedKey::P256(key) => key.public_key(),
            FixedKey::Ed25519(key) => key.public_key().as_ref(),
        }
    }

    fn token(&mut self, _: Now, _: &mut dyn Entropy) -> Result<Arc<str>, identity::Error> {
        Ok(Arc::clone(&self.token))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, identity::Error> {
        match &self.key {
            FixedKey::P256(key) => key.sign(message),
            FixedKey::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

/// Believes what it is told to believe.
#[derive(Default)]
struct Gullible(HashMap<String, Claims>);

impl Gullible {
    fn believe(&mut self, token: &str, subject: &str, public_key: &[u8]) {
        let (subject, public_key) = (subject.to_owned(), public_key.to_vec());
        let claims = Claims { subject, issuer: None, public_key, expires: Duration::MAX };
        self.0.insert(token.to_owned(), claims);
    }
}

impl Verifier for Gullible {
    fn verify(&mut self, token: &str, _: Now) -> Result<Claims, identity::Error> {
        self.0.get(token).cloned().ok_or(identity::Error::Malformed("unknown"))
    }
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap_or_else(|| panic!("no string: {text}"));
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The recorded member `name`, with the private keys of its key package in place. `None`: the key
/// package is not valid now. OpenMLS asks the system's clock.
fn recorded(vectors: &Value, name: &str) -> Option<(Peer, Candidate)> {
    let mut private = [0; 32];
    let signing = hex(&vectors[name]["signature_secret_key"]);
    private[32 - signing.len()..].copy_from_slice(&signing);
    let key = SigningKey::from_private(&private).unwrap();
    assert_eq!(key.public_key(), hex(&vectors[name]["signature_public_key"]));
    let key_package = hex(&vectors[format!("{name}_key_package")]);
    let MlsMessageBodyIn::KeyPackage(unverified) = body(&key_package, "key package").unwrap()
    else {
        panic!("no key package");
    };
    let token = token(&unverified.unverified_credential().credential).unwrap();
    let issued = token.split(':').nth(1).unwrap().parse().unwrap();
    let subject = vectors[name]["sub"].as_str().unwrap().to_owned();
    let mut peer = Peer::with(name, Fixed { subject, token, key: FixedKey::P256(key) });
    let secret = vectors["shared_secret"].as_str().unwrap();
    peer.verifier = Box::new(SharedSecretVerifier::new(secret).unwrap());
    peer.now = at(issued);
    let storage = Storage::default();
    let (verified, reference) = {
        let provider = Provider::new(&storage, &mut peer.entropy);
        let verified = unverified.validate(provider.crypto(), ProtocolVersion::Mls10);
        let verified = match verified.map_err(error::key_package) {
            Err(Error::NotYetValid(_) | Error::Expired(_)) => return None,
            verified => verified.unwrap(),
        };
        let reference = verified.hash_ref(provider.crypto()).unwrap();
        (verified, reference)
    };
    let private = |key: &str| HpkePrivateKey::from(hex(&vectors[format!("{name}_{key}")]));
    let bundle: KeyPackageBundle = serde_json::from_value(json!({
        "key_package": verified,
        "private_init_key": private("init_key"),
        "private_encryption_key": { "key": private("leaf_key") },
    }))
    .unwrap();
    storage.write_key_package(&reference, &bundle).unwrap();
    Some((peer, Candidate { key_package, storage }))
}

#[test]
fn spec05_1_a_recorded_conversation_of_the_published_implementation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/mls/upstream-p256.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (Some((mut joiner, candidate)), Some((mut third, thirds_candidate))) =
        (recorded(&vectors, "joiner"), recorded(&vectors, "third"))
    else {
        let why = "not replayed: the recorded key packages are not valid at the system's time";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        return eprintln!("{why}");
    };
    let moderator = vectors["moderator"]["sub"].as_str().unwrap();
    let mut thirds_messages = 0;
    for step in vectors["steps"].as_array().unwrap() {
        let message = hex(&step["msg"]);
        match step["do"].as_str().unwrap() {
            "welcome" => {
                joiner.join(&candidate, &message, moderator).unwrap();
                assert_eq!(joiner.epoch(), vectors["epoch_after_welcome"].as_u64().unwrap());
            }
            "app" => {
                let opened = joiner.open(&message).unwrap();
                assert_eq!(opened.plaintext, hex(&step["plaintext"]));
                assert_eq!(opened.aad, hex(&step["aad"]));
                assert_eq!(joiner.open(&message), Err(Error::Repeated));
                if third.group.is_some() && third.epoch() == joiner.epoch() {
                    match opened.subject.starts_with("third") {
                        true => assert_eq!(third.open(&message), Err(Error::Own)),
                        false => assert_eq!(third.open(&message).unwrap(), opened),
                    }
                    thirds_messages += 1;
                }
            }
            "commit" => {
                let applied = joiner.process(&message, moderator).unwrap();
                let what = step["what"].as_str().unwrap();
                let expected = match what.split([' ', ':']).next().unwrap() {
                    "add" => (1, 0),
                    "rejoin" => (1, 1),
                    "remove" => (0, 1),
                    other => panic!("{other}"),
                };
                assert_eq!((applied.added.len(), applied.removed.len()), expected, "{what}");
                if step["welcome_for_third"].is_string() {
                    let welcome = hex(&step["welcome_for_third"]);
                    third.join(&thirds_candidate, &welcome, moderator).unwrap();
                }
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(thirds_messages, 2);
    let exporter = &vectors["exporter"];
    assert_eq!(joiner.epoch(), exporter["epoch"].as_u64().unwrap());
    joiner.with_group(|group, cx| {
        let provider = Provider::new(&group.storage, &mut *cx.entropy);
        let (label, context) = (exporter["label"].as_str().unwrap(), hex(&exporter["context"]));
        let len = exporter["len"].as_u64().unwrap() as usize;
        let secret = group.group.export_secret(provider.crypto(), label, &context, len).unwrap();
        assert_eq!(secret, hex(&exporter["secret"]));
    });
}

#[test]
fn spec05_2_a_key_package_says_what_the_published_one_says() {
    let mut peer = Peer { virtual_time: false, ..Peer::new("peer") };
    let now = system_secs();
    peer.now = at(now);
    let said = peer.provider.token(peer.now, &mut peer.entropy).unwrap();
    let seed = peer.entropy.clone();
    let candidate = peer.candidate();
    assert_eq!(candidate.key_package()[..8], [0, 1, 0, 5, 0, 1, 0, 2]);
    let MlsMessageBodyIn::KeyPackage(read) = body(candidate.key_package(), "").unwrap() else {
        panic!("no key package");
    };
    let read = {
        let provider = Provider::new(&candidate.storage, &mut peer.entropy);
        read.validate(provider.crypto(), ProtocolVersion::Mls10).unwrap()
    };
    let lifetime = read.life_time();
    assert_eq!((lifetime.not_before(), lifetime.not_after()), (now - 60, now - 60 + 31_536_000));
    assert_eq!(read.hpke_init_key().as_slice().len(), 65);
    assert!(read.extensions().iter().next().is_none());
    let leaf = read.leaf_node();
    assert_eq!(leaf.signature_key().as_slice(), peer.provider.public_key());
    assert_eq!(token(leaf.credential()).unwrap(), said);
    assert!(leaf.extensions().iter().next().is_none());
    let capabilities = leaf.capabilities();
    let suites: Vec<u16> = capabilities.ciphersuites().iter().map(|suite| suite.value()).collect();
    assert_eq!(suites, [2, 1], "what we have");
    assert_eq!(capabilities.versions(), [ProtocolVersion::Mls10]);
    assert_eq!(capabilities.credentials(), [CredentialType::Basic]);
    assert!(capabilities.extensions().is_empty() && capabilities.proposals().is_empty());
    // The same randomness gives the same keys. Only signatures differ.
    peer.entropy = seed;
    let again = peer.candidate();
    assert_eq!(again.key_package()[8..75], candidate.key_package()[8..75]);
    assert_eq!(again.storage.len(), 1);
}

/// Nodes hand their sessions from thread to thread.
const _: () = {
    const fn may_move<T: Send>() {}
    may_move::<(Group, Candidate)>();
};

#[test]
fn groups_of_two_to_four_in_all_operations() {
    for size in 2..=4 {
        let mut peers = Peers::new(size);
        peers.check();
        assert_eq!(peers.0[0].epoch(), size as u64 - 1);
        // spec05_4: an addition has no path.
        let key = peers.moderators_key();
        peers.take_in(Peer::new("late"));
        assert_eq!(peers.moderators_key(), key);
        peers.check();
        // A new token for the moderator's leaf, in time.
        peers.later(Duration::from_secs(3000));
        let before = peers.0[0].member();
        let commit = peers.0[0].refresh();
        peers.spread(&commit);
        let own = peers.0[0].member();
        assert_eq!((own.leaf, &own.subject), (before.leaf, &before.subject));
        assert_eq!(own.expires.unwrap() - before.expires.unwrap(), Duration::from_secs(3000));
        assert_ne!(peers.moderators_key(), key);
        peers.check();
        // spec05_6: a member that lost everything comes back in one commit, to its old place.
        let leaf = peers.0[1].member().leaf;
        let candidate = peers.0[1].candidate();
        peers.0[1].group = None;
        let epoch = peers.0[0].epoch();
        let commit =
            peers.0[0].with_group(|group, cx| group.swap(candidate.key_package(), cx)).unwrap();
        peers.spread(&commit.commit);
        let from = peers.moderator();
        peers.0[1].join(&candidate, &commit.welcome.unwrap(), &from).unwrap();
        assert_eq!(peers.0[0].epoch(), epoch + 1);
        assert_eq!(peers.0[1].member().leaf, leaf);
        peers.check();
        // spec05_5
        let mut gone = peers.remove(1);
        assert!(!gone.view().is_member());
        let message = peers.0[0].seal("without you");
        assert_eq!(gone.open(&message), Err(Error::Removed));
        gone.with_group(|group, cx| {
            assert_eq!(group.seal(b"me?", Vec::new(), cx), Err(Error::Removed));
            assert_eq!(group.refresh(cx).map(|_| ()), Err(Error::Removed));
        });
        peers.check();
        // It may be taken in again, and then only reads what comes then.
        gone.group = None;
        let past = peers.0[0].epoch();
        peers.take_in(gone);
        let number = peers.0.len() - 1;
        assert_eq!(peers.0[number].open(&message), Err(Error::PastEpoch(past)));
        peers.check();
        while peers.0.len() > 1 {
            peers.remove(peers.0.len() - 1);
            peers.check();
        }
    }
}

#[test]
fn spec05_7_messages_cross_commits() {
    let mut peers = Peers::new(3);
    let from = peers.moderator();
    let epoch = peers.0[0].epoch();
    let before = peers.0[1].seal("before");
    let of_the_removed = peers.0[2].seal("before I go");
    let mut removed = peers.remove(2);
    // spec05_5: who is gone is still heard, with its name.
    let opened = peers.0[1].open(&of_the_removed).unwrap();
    assert_eq!(*opened.subject, *removed.subject());
    // Its place in the tree goes to somebody else.
    peers.take_in(Peer::new("heir"));
    let opened = peers.0[0].open(&of_the_removed).unwrap();
    assert_eq!(*opened.subject, *removed.subject());
    let heir = peers.0[2].seal("me now");
    let heard = peers.0[0].open(&heir).unwrap();
    assert_eq!(heard.leaf, opened.leaf);
    assert_eq!(*heard.subject, *peers.0[2].subject());
    assert_eq!(removed.process(&[], &from), Err(Error::Removed));
    assert_eq!(peers.0[0].open(&before).unwrap().plaintext, b"before");
    // Of an epoch to come: it opens when its commit is there.
    let subject = peers.0[2].subject();
    let commit = peers.0[0].with_group(|group, cx| group.remove(&subject, cx)).unwrap();
    let early = peers.0[0].seal("early");
    assert_eq!(peers.0[1].open(&early), Err(Error::FutureEpoch(epoch + 3)));
    peers.0[1].process(&commit.commit, &from).unwrap();
    assert_eq!(peers.0[1].open(&early).unwrap().plaintext, b"early");
}

#[test]
fn keys_of_past_epochs_are_kept_for_a_while() {
    let mut peers = Peers::new(2);
    let kept = limits::MLS_PAST_EPOCHS;
    let first = peers.0[1].epoch();
    let messages: Vec<Vec<u8>> = (0..2).map(|_| peers.0[1].seal("old")).collect();
    for _ in 0..kept {
        let commit = peers.0[0].refresh();
        peers.spread(&commit);
    }
    assert_eq!(peers.0[0].open(&messages[0]).unwrap().plaintext, b"old");
    let commit = peers.0[0].refresh();
    peers.spread(&commit);
    assert_eq!(peers.0[0].open(&messages[1]), Err(Error::PastEpoch(first)));
    // However many tokens come and go, only those of the last epochs are remembered.
    for _ in 0..10 {
        peers.later(Duration::from_secs(61));
        let commit = peers.0[0].refresh();
        peers.spread(&commit);
    }
    assert!(peers.0.iter().all(|peer| peer.view().departed.len() == kept));
    peers.check();
}

#[test]
fn spec05_8_commits_count_in_their_order_only() {
    let mut peers = Peers::new(2);
    let from = peers.moderator();
    let commits: Vec<Vec<u8>> = (0..3).map(|_| peers.0[0].refresh()).collect();
    let epoch = peers.0[1].epoch();
    assert_eq!(peers.0[1].process(&commits[1], &from), Err(Error::FutureEpoch(epoch + 1)));
    assert_eq!(peers.0[1].process(&commits[2], &from), Err(Error::FutureEpoch(epoch + 2)));
    assert_eq!(peers.0[1].epoch(), epoch);
    peers.0[1].process(&commits[0], &from).unwrap();
    assert_eq!(peers.0[1].process(&commits[0], &from), Err(Error::PastEpoch(epoch)));
    peers.0[1].process(&commits[1], &from).unwrap();
    peers.0[1].process(&commits[2], &from).unwrap();
    assert_eq!(peers.0[0].process(&commits[2], &from), Err(Error::PastEpoch(epoch + 2)));
    peers.check();
}

#[test]
fn spec05_9_lost_late_repeated_and_forged_messages() {
    let mut peers = Peers::new(2);
    let far = limits::MLS_SKIPPED_MESSAGES as usize;
    let mut messages: Vec<Vec<u8>> =
        (0..2 * far + 3).map(|n| peers.0[0].seal(&n.to_string())).collect();
    let receiver = &mut peers.0[1];
    // One more than may be lost, then just as many.
    assert_eq!(receiver.open(&messages[far + 1]), Err(Error::OutOfReach));
    assert_eq!(receiver.open(&messages[far]).unwrap().plaintext, far.to_string().as_bytes());
    // All that it overtook may still come but for the very first, in any order, once.
    for n in (2..far).step_by(7).chain([1]) {
        assert_eq!(receiver.open(&messages[n]).unwrap().plaintext, n.to_string().as_bytes());
        assert_eq!(receiver.open(&messages[n]), Err(Error::Repeated));
    }
    assert_eq!(receiver.open(&messages[0]), Err(Error::Outdated));
    // A forged copy does not use the key up.
    let genuine = messages[far + 1].clone();
    let last = messages[far + 1].len() - 1;
    messages[far + 1][last] ^= 1;
    assert!(matches!(receiver.open(&messages[far + 1]), Err(Error::Invalid(_))));
    receiver.open(&genuine).unwrap();
    // What is too late for its key.
    receiver.open(&messages[2 * far + 2]).unwrap();
    assert_eq!(receiver.open(&messages[3]), Err(Error::Outdated));
    receiver.open(&messages[2 * far + 1]).unwrap();
}

#[test]
fn spec05_13_nobody_is_in_a_group_twice() {
    let mut peers = Peers::new(2);
    let epoch = peers.0[0].epoch();
    // The same app again.
    let twice = peers.0[1].candidate();
    let duplicate = Error::DuplicateSubject(peers.0[1].subject());
    assert_eq!(peers.0[0].refused(twice.key_package()), duplicate);
    // The identity of a member, with a key of its own; and the moderator's.
    let issued = peers.0[0].now.unix_secs();
    for number in [0, 1] {
        let subject = peers.0[number].subject();
        let candidate = Peer::with("twin", Fixed::new(&subject, p256(99), issued)).candidate();
        let refused = peers.0[0].refused(candidate.key_package());
        assert_eq!(refused, Error::DuplicateSubject(subject.clone()));
        // Nor does it get the place of the one that is there.
        let taken = peers.0[0].with_group(|group, cx| group.swap(candidate.key_package(), cx));
        assert_eq!(taken.map(|_| ()), Err(Error::OtherKey(subject)));
    }
    // The key of a member, with an identity of its own.
    let first = Peer::with("first", Fixed::new("first", p256(98), issued)).candidate();
    let second = Peer::with("second", Fixed::new("second", p256(98), issued)).candidate();
    peers.0[0].add(&first).unwrap();
    assert_eq!(peers.0[0].refused(second.key_package()), Error::DuplicateKey);
    // Whom there is not cannot come back, and cannot go.
    let stranger = Peer::new("stranger").candidate();
    peers.0[0].with_group(|group, cx| {
        let refused = group.swap(stranger.key_package(), cx).map(|_| ());
        assert!(matches!(refused, Err(Error::UnknownMember(_))), "{refused:?}");
        let refused = group.remove("nobody", cx).map(|_| ());
        assert_eq!(refused, Err(Error::UnknownMember("nobody".to_owned())));
        let own = group.own().unwrap().subject.to_string();
        assert!(matches!(group.remove(&own, cx), Err(Error::Invalid(_))));
    });
    assert_eq!(peers.0[0].epoch(), epoch + 1);
}

/// What a moderator that does not look needs to let `others` and `late` in.
fn careless(peers: &mut Peers, late: &mut Peer) -> Gullible {
    let mut gullible = Gullible::default();
    for member in peers.0[0].view().members() {
        gullible.believe(&member.token, &member.subject, &member.signature_key);
    }
    let token = late.provider.token(late.now, &mut late.entropy).unwrap();
    gullible.believe(&token, &late.subject(), late.provider.public_key());
    gullible
}

#[test]
fn spec05_14_a_token_belongs_to_the_key_of_its_leaf() {
    let issued = Peer::new("any").now.unix_secs();
    let token = Fixed::new("honest", p256(1), issued).token;
    let thief = Fixed { subject: "honest".to_owned(), token: token.clone(), key: p256(2) };
    let key = thief.public_key();
    let mut peers = Peers::new(2);
    let from = peers.moderator();
    let candidate = Peer::with("thief", thief).candidate();
    let other_key = Error::OtherKey("honest".to_owned());
    assert_eq!(peers.0[0].refused(candidate.key_package()), other_key);
    // A moderator that does not look: the others do, and who is welcomed into such a group.
    let mut late = Peer::new("late");
    let lates_candidate = late.candidate();
    let mut gullible = careless(&mut peers, &mut late);
    gullible.believe(&token, "honest", &key);
    peers.0[0].verifier = Box::new(gullible);
    let added = peers.0[0].add(&candidate).unwrap();
    let epoch = peers.0[1].epoch();
    assert_eq!(peers.0[1].process(&added.commit, &from), Err(other_key.clone()));
    assert_eq!(peers.0[1].epoch(), epoch);
    let welcome = peers.0[0].add(&lates_candidate).unwrap().welcome.unwrap();
    assert_eq!(late.join(&lates_candidate, &welcome, &from), Err(other_key));
}

#[test]
fn others_see_to_it_that_nobody_is_twice_in_a_group() {
    let mut peers = Peers::new(2);
    let (from, subject) = (peers.moderator(), peers.0[1].subject());
    let twin = Fixed::new(&subject, p256(5), peers.0[0].now.unix_secs());
    let mut late = Peer::new("late");
    let lates_candidate = late.candidate();
    let mut gullible = careless(&mut peers, &mut late);
    gullible.believe(&twin.token, "somebody else", &twin.public_key());
    peers.0[0].verifier = Box::new(gullible);
    let candidate = Peer::with("twin", twin).candidate();
    let added = peers.0[0].add(&candidate).unwrap();
    let epoch = peers.0[1].epoch();
    let duplicate = Error::DuplicateSubject(subject);
    assert_eq!(peers.0[1].process(&added.commit, &from), Err(duplicate.clone()));
    assert_eq!(peers.0[1].epoch(), epoch);
    let welcome = peers.0[0].add(&lates_candidate).unwrap().welcome.unwrap();
    assert_eq!(late.join(&lates_candidate, &welcome, &from), Err(duplicate));
}

#[test]
fn spec05_15_groups_outlive_their_tokens() {
    let mut peers = Peers::new(3);
    let mut old = Peer::new("old");
    let old_candidate = old.candidate();
    let hour = Duration::from_secs(4000);
    peers.later(hour);
    peers.check();
    // All leaves have expired: who comes now finds them so, and does not mind.
    let mut late = Peer::new("late");
    late.now = late.now.after(hour);
    peers.take_in(late);
    peers.check();
    let mut back = peers.remove(1);
    peers.check();
    back.group = None;
    peers.take_in(back);
    peers.check();
    // What enters must be valid.
    let expired = Error::Identity(identity::Error::Expired(4000));
    assert_eq!(peers.0[0].refused(old_candidate.key_package()), expired);
    // Also with a moderator whose clock stands still.
    let from = peers.moderator();
    peers.0[0].now = old.now;
    let added = peers.0[0].add(&old_candidate).unwrap();
    assert_eq!(peers.0[1].process(&added.commit, &from), Err(expired));
}

/// A group of two for whom it is now.
fn two_by_the_systems_clock(now: u64) -> (Peer, Peer) {
    let real = |name: &str| Peer { virtual_time: false, now: at(now), ..Peer::new(name) };
    let (mut moderator, mut member) = (real("moderator"), real("member"));
    moderator.create();
    let candidate = member.candidate();
    let welcome = moderator.add(&candidate).unwrap().welcome.unwrap();
    member.join(&candidate, &welcome, &moderator.subject()).unwrap();
    (moderator, member)
}

#[test]
fn spec05_11_12_a_key_package_from_the_future_is_good_later() {
    let now = system_secs();
    let (mut moderator, mut member) = two_by_the_systems_clock(now);
    let from = moderator.subject();
    // Tokens are stricter than that; this one is right.
    let ahead = |secs: i64| {
        let mut peer = Peer::with("ahead", Fixed::new("ahead", p256(7), now));
        peer.virtual_time = false;
        peer.now = at(now.saturating_add_signed(secs));
        peer.candidate()
    };
    for (secs, least, most) in [(60 + 30, 20, 30), (60 + 150, 140, 150)] {
        let error = moderator.refused(ahead(secs).key_package());
        let Error::NotYetValid(wait) = error else { panic!("{error}") };
        assert!((least..=most).contains(&wait), "{wait}");
        assert_eq!(error.heals_after(), Some(Duration::from_secs(wait)));
        assert!(error.to_string().contains(&format!("{wait} seconds")), "{error}");
    }
    let error = moderator.refused(ahead(-365 * 24 * 3600).key_package());
    assert!(matches!(error, Error::Expired(60..=80)), "{error:?}");
    assert_eq!(error.heals_after(), None);
    let longest = limits::MLS_CLOCK_WAIT.as_secs();
    assert_eq!(Error::NotYetValid(longest).heals_after(), Some(limits::MLS_CLOCK_WAIT));
    for secs in [longest + 1, u64::MAX] {
        assert_eq!(Error::NotYetValid(secs).heals_after(), None, "nobody waits so long");
        assert_eq!(Error::Identity(identity::Error::NotYetValid(secs)).heals_after(), None);
    }
    // It is admitted as soon as its time has come, which is also when others apply the commit.
    let candidate = ahead(60 + 2);
    let added = loop {
        match moderator.add(&candidate) {
            Err(Error::NotYetValid(_)) => std::thread::sleep(Duration::from_millis(50)),
            added => break added.unwrap(),
        }
    };
    member.process(&added.commit, &from).unwrap();
    assert_eq!(member.epoch(), moderator.epoch());
    // A token from too far ahead also says how long.
    let early = Peer::with("early", Fixed::new("early", p256(8), now + 30)).candidate();
    let error = moderator.refused(early.key_package());
    assert_eq!(error.heals_after(), Some(Duration::from_secs(30)));
}

#[test]
fn spec05_12_a_commit_with_a_token_from_the_future_is_good_later() {
    let mut peers = Peers::new(3);
    let from = peers.moderator();
    // The moderator's token is old enough for a new one to be made.
    peers.later(Duration::from_secs(61));
    // The clock of one member is behind, by half a minute; all others are right.
    let behind = peers.0[1].now;
    peers.later(Duration::from_secs(30));
    let mut late = Peer::new("late");
    late.now = peers.0[0].now;
    let candidate = late.candidate();
    let added = peers.0[0].add(&candidate).unwrap();
    late.join(&candidate, &added.welcome.unwrap(), &from).unwrap();
    // The token of a newcomer, and a new one of the moderator.
    let commits = [added.commit, peers.0[0].refresh()];
    late.process(&commits[1], &from).unwrap();
    for commit in commits {
        peers.0[2].process(&commit, &from).unwrap();
        let (epoch, members) = (peers.0[1].epoch(), peers.0[1].view().members().to_vec());
        for wait in [30, 10] {
            peers.0[1].now = behind.after(Duration::from_secs(30 - wait));
            let error = peers.0[1].process(&commit, &from).unwrap_err();
            assert_eq!(error, Error::Identity(identity::Error::NotYetValid(wait)));
            assert_eq!(error.heals_after(), Some(Duration::from_secs(wait)));
            // The group is as it was.
            assert_eq!((peers.0[1].epoch(), peers.0[1].view().members()), (epoch, &members[..]));
        }
        peers.0[1].now = behind.after(Duration::from_secs(30));
        peers.0[1].process(&commit, &from).unwrap();
        assert_eq!(peers.0[1].view().members(), peers.0[2].view().members());
        assert_eq!(peers.0[1].epoch(), epoch + 1);
    }
    peers.0.push(late);
    peers.check();
}

/// OpenMLS compares lifetimes with the system's clock, which all of a test share. So a commit
/// cannot come before its key package is good here; but it may come after that has ended.
#[test]
fn a_commit_with_a_key_package_that_has_ended_changes_nothing() {
    let now = system_secs();
    let (mut moderator, mut member) = two_by_the_systems_clock(now);
    let from = moderator.subject();
    let mut old = Peer::with("old", Fixed::new("old", p256(7), now));
    old.virtual_time = false;
    let ends = system_secs() + 5;
    old.now = at(ends + BACKDATED_SECS - LIFETIME_SECS);
    let candidate = old.candidate();
    let added = moderator.add(&candidate).unwrap();
    while system_secs() <= ends {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (epoch, members) = (member.epoch(), member.view().members().to_vec());
    let error = member.process(&added.commit, &from).unwrap_err();
    assert!(matches!(error, Error::Expired(1..)), "{error:?}");
    assert_eq!(error.heals_after(), None);
    assert_eq!((member.epoch(), member.view().members()), (epoch, &members[..]));
    // It is not that the commit is bad: nor does the moderator take in who comes so late.
    assert!(matches!(moderator.refused(candidate.key_package()), Error::Expired(1..)));
    // What comes in its stead is taken.
    let message = member.seal("still here");
    assert_eq!(moderator.open(&message).unwrap().plaintext, b"still here");
}

#[test]
fn only_the_moderator_changes_a_group() {
    let mut peers = Peers::new(3);
    let (from, second) = (peers.moderator(), peers.0[1].subject());
    let epoch = peers.0[2].epoch();
    let not_moderator = Error::NotModerator(second.clone());
    let mut late = Peer::new("late");
    let candidate = late.candidate();
    let commit = peers.0[1].add(&candidate).unwrap();
    assert_eq!(peers.0[2].process(&commit.commit, &from), Err(not_moderator.clone()));
    assert_eq!(peers.0[2].epoch(), epoch);
    let welcome = commit.welcome.unwrap();
    assert_eq!(late.join(&candidate, &welcome, &from), Err(not_moderator));
    // Nothing is used up by that.
    late.join(&candidate, &welcome, &second).unwrap();
    // The moderator may only do what moderators do.
    let commit = {
        let (group, cx) = peers.0[0].parts();
        let group = group.unwrap();
        let provider = Provider::new(&group.storage, cx.entropy);
        let commit = group
            .group
            .commit_builder()
            .propose_group_context_extensions(Extensions::empty())
            .unwrap()
            .load_psks(provider.storage())
            .unwrap()
            .build(provider.rand(), provider.crypto(), &IdentitySigner(cx.provider), |_| true)
            .unwrap()
            .stage_commit(&provider)
            .unwrap();
        bytes(commit.commit()).unwrap()
    };
    let refused = peers.0[2].process(&commit, &from);
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    assert_eq!(peers.0[2].epoch(), epoch);
}

#[test]
fn a_member_stays_who_it_is() {
    let mut peers = Peers(Vec::new());
    let issued = Peer::new("any").now.unix_secs();
    peers.take_in(Peer::with("one", Fixed::new("one", p256(3), issued)));
    peers.take_in(Peer::new("member"));
    let epoch = peers.0[1].epoch();
    peers.0[0].provider = Box::new(Fixed::new("two", p256(3), issued));
    let commit = peers.0[0].refresh();
    let (expected, found) = ("one".to_owned(), "two".to_owned());
    let refused = peers.0[1].process(&commit, "one");
    assert_eq!(refused, Err(Error::OtherSubject { expected, found }));
    assert_eq!(peers.0[1].epoch(), epoch);
}

#[test]
fn groups_of_suite_1_and_no_mixed_ones() {
    let issued = Peer::new("any").now.unix_secs();
    let edwards = |name: &str, seed: u8| {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        Peer::with(name, Fixed::new(name, FixedKey::Ed25519(key), issued))
    };
    let mut peers = Peers(Vec::new());
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        peers.take_in(edwards(name, seed));
    }
    peers.check();
    let commit = peers.0[0].refresh();
    peers.spread(&commit);
    peers.remove(1);
    peers.check();
    let candidate = Peer::new("other").candidate();
    assert_eq!(peers.0[0].refused(candidate.key_package()), Error::Suite(2));
    let candidate = edwards("four", 4).candidate();
    assert_eq!(Peers::new(1).0[0].refused(candidate.key_package()), Error::Suite(1));
    let mut nobody = Peer::with("x", identity::test_identity::TestIdentity("x".to_owned()));
    let refused = Candidate::new(&mut nobody.parts().1).map(|_| ());
    assert_eq!(refused, Err(Error::Identity(identity::Error::KeyLength(1))));
}

#[test]
fn messages_of_other_kinds_and_groups() {
    let mut peers = Peers::new(2);
    let mut others = Peers::named("other", 3);
    let from = peers.moderator();
    let candidate = Peer::new("candidate").candidate();
    let added = peers.0[0].add(&candidate).unwrap();
    let message = peers.0[0].seal("text");
    let commit = added.commit;
    let welcome = added.welcome.unwrap();
    let key_package = candidate.key_package();
    let member = &mut peers.0[1];
    for other in [&message[..], &welcome, key_package, b"plain text", b""] {
        assert_eq!(member.process(other, &from), Err(Error::Malformed("commit")));
    }
    for other in [&commit[..], &welcome, key_package, b"plain text", b""] {
        assert_eq!(member.open(other), Err(Error::Malformed("application message")));
    }
    for other in [&message[..], &commit, key_package, b"plain text", b""] {
        let refused = candidate.join(other, &from, &mut member.parts().1).map(|_| ());
        assert_eq!(refused, Err(Error::Malformed("welcome")));
    }
    // A bare key package is refused, and so is one with something behind it.
    let longer = [key_package, b"x"].concat();
    for other in [&message[..], &commit, &welcome, &key_package[4..], &longer, b""] {
        assert_eq!(peers.0[0].refused(other), Error::Malformed("key package"));
    }
    let message = others.0[0].seal("text");
    assert_eq!(peers.0[1].open(&message), Err(Error::OtherGroup));
    let commit = others.0[0].refresh();
    assert_eq!(peers.0[1].process(&commit, &from), Err(Error::OtherGroup));
    let other = Peer::new("other").candidate();
    let refused = other.join(&welcome, &from, &mut peers.0[1].parts().1).map(|_| ());
    assert_eq!(refused, Err(Error::OtherKeyPackage));
}

#[test]
fn lengths_are_hidden_and_any_length_is_sealed() {
    let mut peers = Peers::new(2);
    let mut len = |len: usize| {
        let message = peers.0[0].seal(&"x".repeat(len));
        assert_eq!(peers.0[1].open(&message).unwrap().plaintext.len(), len);
        message.len()
    };
    // Signatures differ by two bytes, and are padded with the text.
    let shortest = len(0);
    assert!((1..8).all(|n| len(n).abs_diff(shortest) <= PADDING));
    assert!(len(4 * 1024 * 1024) > 4 * 1024 * 1024);
}

/// What a hostile network makes of a message.
fn mutate(message: &[u8], entropy: &mut SeededEntropy) -> Vec<u8> {
    let mut bytes = message.to_vec();
    let at = entropy.next_u32() as usize % bytes.len();
    match entropy.next_u32() % 6 {
        0..=2 => bytes[at] ^= 1 << (entropy.next_u32() % 8),
        3 => bytes[at] = bytes[at].wrapping_add(1 + (entropy.next_u32() % 255) as u8),
        4 => bytes.truncate(at),
        _ => {
            let to = entropy.next_u32() as usize % bytes.len();
            bytes.copy_within(at.., to.min(at));
            bytes.insert(at, entropy.next_u32() as u8);
        }
    }
    bytes
}

/// 10,000 in each run of the tests, a million with SLIM_SOAK.
#[test]
fn spec05_19_mutated_objects_change_nothing() {
    let rounds = if std::env::var_os("SLIM_SOAK").is_some() { 250_000 } else { 2_500 };
    let mut peers = Peers::new(3);
    let from = peers.moderator();
    let mut entropy = SeededEntropy::new(7);
    let mut newcomer = Peer::new("newcomer");
    let candidate = newcomer.candidate();
    let message = peers.0[0].seal("the genuine one");
    let removed = peers.0[2].subject();
    let epoch = peers.0[0].epoch();
    for _ in 0..rounds {
        let mutated = mutate(candidate.key_package(), &mut entropy);
        peers.0[0].refused(&mutated);
        assert_eq!(peers.0[0].epoch(), epoch);
        let mutated = mutate(&message, &mut entropy);
        assert!(peers.0[1].open(&mutated).is_err(), "{mutated:?}");
    }
    let commit = peers.0[0].with_group(|group, cx| group.remove(&removed, cx)).unwrap().commit;
    for _ in 0..rounds {
        let mutated = mutate(&commit, &mut entropy);
        assert!(peers.0[1].process(&mutated, &from).is_err(), "{mutated:?}");
        assert_eq!(peers.0[1].epoch(), epoch);
    }
    // Its group is as it was: the genuine ones are taken.
    assert_eq!(peers.0[1].open(&message).unwrap().plaintext, b"the genuine one");
    peers.spread(&commit);
    peers.0.pop();
    peers.check();
    let added = peers.0[0].add(&candidate).unwrap();
    let welcome = added.welcome.unwrap();
    for _ in 0..rounds {
        let mutated = mutate(&welcome, &mut entropy);
        assert!(newcomer.join(&candidate, &mutated, &from).is_err(), "{mutated:?}");
    }
    peers.spread(&added.commit);
    newcomer.join(&candidate, &welcome, &from).unwrap();
    peers.0.push(newcomer);
    peers.check();
}

#[test]
fn errors_and_groups_tell_no_secrets() {
    let mut peers = Peers::new(2);
    let candidate = Peer::new("candidate").candidate();
    let text = format!("{candidate:?} {:?}", peers.0[0].view());
    assert_eq!(text, "Candidate Group of 2 in epoch 1");
    let token = peers.0[1].member().token;
    let message = peers.0[1].seal("text");
    for at in 0..message.len() {
        let mut mutated = message.clone();
        mutated[at] ^= 4;
        let error = peers.0[0].open(&mutated).unwrap_err().to_string();
        assert!(error.len() < 200 && !error.contains(&*token), "{error}");
    }
}

/// The same 1 KiB with OpenMLS alone and with [`Group`], in turn. `--ignored`, in a release build.
#[test]
#[ignore]
fn sealing_and_opening_cost_little_more_than_openmls_alone() {
    fn bare_seal(peer: &mut Peer, plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
        peer.with_group(|group, cx| {
            let provider = Provider::new(&group.storage, &mut *cx.entropy);
            let signer = IdentitySigner(&*cx.provider);
            group.group.set_aad(aad.to_vec());
            let message = group.group.create_message(&provider, &signer, plaintext).unwrap();
            message.to_bytes().unwrap()
        })
    }

    fn bare_open(peer: &mut Peer, message: &[u8]) -> Vec<u8> {
        peer.with_group(|group, cx| {
            let provider = Provider::new(&group.storage, &mut *cx.entropy);
            let message = MlsMessageIn::tls_deserialize_exact_bytes(message).unwrap();
            let message = message.try_into_protocol_message().unwrap();
            let processed = group.group.process_message(&provider, message).unwrap();
            match processed.into_content() {
                ProcessedMessageContent::ApplicationMessage(content) => content.into_bytes(),
                other => panic!("{other:?}"),
            }
        })
    }

    fn timed<T>(times: &mut Vec<Duration>, act: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = act();
        times.push(begun.elapsed());
        done
    }

    let (plaintext, aad) = ([7; 1024], [8; 400]);
    let mut pairs = [Peers::new(2), Peers::new(2)];
    // Sealing and opening, alone and with all that is ours.
    let mut times: [[Vec<Duration>; 2]; 2] = Default::default();
    for _ in 0..3000 {
        let [bare, ours] = &mut pairs;
        let [bare_times, our_times] = &mut times;
        let (one, two) = bare.0.split_at_mut(1);
        let sealed = timed(&mut bare_times[0], || bare_seal(&mut one[0], &plaintext, &aad));
        let opened = timed(&mut bare_times[1], || bare_open(&mut two[0], &sealed));
        assert_eq!(opened, plaintext);
        let (one, two) = ours.0.split_at_mut(1);
        let sealed = timed(&mut our_times[0], || {
            one[0].with_group(|group, cx| group.seal(&plaintext, aad.to_vec(), cx)).unwrap()
        });
        let opened = timed(&mut our_times[1], || two[0].open(&sealed).unwrap());
        assert_eq!((&opened.plaintext[..], &opened.aad[..]), (&plaintext[..], &aad[..]));
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    let [bare, ours] = times.map(|[mut seal, mut open]| (median(&mut seal), median(&mut open)));
    println!("OpenMLS alone: seal {:.1} us, open {:.1} us", bare.0, bare.1);
    println!("ours: seal {:.1} us, open {:.1} us", ours.0, ours.1);
    assert!(ours.0 + ours.1 <= (bare.0 + bare.1) * 1.5);
}
