//! What OpenMLS needs of its surroundings: cryptography from aws-lc, randomness from the app's
//! [`Entropy`], signatures by the app's identity, and a place for keys.
//!
//! Suites 1 (X25519, Ed25519) and 2 (P-256, ECDSA), which is what others use (spec 05 section 1).
//! Randomness is injected but for that in signatures, which aws-lc draws itself.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use openmls::prelude::SecretVLBytes;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::random::OpenMlsRand;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeAeadType, HpkeCiphertext,
    HpkeConfig, HpkeKdfType, HpkeKemType, HpkeKeyPair, KemOutput, SignatureScheme,
};
use openmls_traits::OpenMlsProvider;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::hpke::{self, Kem};
use super::storage::Storage;
use crate::entropy::Entropy;
use crate::identity;

/// X25519, Ed25519; AES-128-GCM, SHA-256.
const SUITE_1: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
/// P-256, ECDSA; AES-128-GCM, SHA-256.
const SUITE_2: Ciphersuite = Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256;

thread_local! {
    /// OpenMLS computes paths with rayon, whose pool of threads would outlive the call and hang a
    /// forked child (spec 05 section 12). A thread that belongs to a pool of its own, with nobody
    /// else in it, computes alone. `None`: the caller is a thread of another pool, which does.
    static ALONE: Option<ThreadPool> =
        ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().ok();
}

/// Does the whole work of a thread, alone in this sense. Nothing of rayon's is left of it when it
/// ends, other than of threads that come to this without.
pub fn work_alone(work: impl FnOnce() + Send + 'static) {
    let mut worker = None;
    let pool = ThreadPoolBuilder::new()
        .num_threads(1)
        .panic_handler(|_| ())
        .spawn_handler(|thread| {
            worker = Some(thread);
            Ok(())
        })
        .build();
    match (pool, worker) {
        (Ok(pool), Some(worker)) => {
            pool.spawn(work);
            // It ends with what it has to do.
            drop(pool);
            worker.run();
        }
        _ => work(),
    }
}

/// Borrowed for one operation.
pub(super) struct Provider<'a> {
    crypto: Crypto<'a>,
    storage: &'a Storage,
}

impl<'a> Provider<'a> {
    pub(super) fn new(storage: &'a Storage, entropy: &'a mut dyn Entropy) -> Provider<'a> {
        ALONE.with(|_| ());
        Provider { crypto: Crypto { entropy: Mutex::new(entropy) }, storage }
    }
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = Crypto<'a>;
    type RandProvider = Crypto<'a>;
    type StorageProvider = Storage;

    fn storage(&self) -> &Storage {
        self.storage
    }

    fn crypto(&self) -> &Crypto<'a> {
        &self.crypto
    }

    fn rand(&self) -> &Crypto<'a> {
        &self.crypto
    }
}

/// Cryptography and randomness. OpenMLS wants to share it between threads; there are none.
pub(super) struct Crypto<'a> {
    entropy: Mutex<&'a mut dyn Entropy>,
}

impl Crypto<'_> {
    fn fill(&self, bytes: &mut [u8]) {
        self.entropy.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
    }
}

impl OpenMlsRand for Crypto<'_> {
    type Error = Infallible;

    fn random_array<const N: usize>(&self) -> Result<[u8; N], Infallible> {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        Ok(bytes)
    }

    fn random_vec(&self, len: usize) -> Result<Vec<u8>, Infallible> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        Ok(bytes)
    }
}

impl OpenMlsCrypto for Crypto<'_> {
    fn supports(&self, suite: Ciphersuite) -> Result<(), CryptoError> {
        match suite {
            SUITE_1 | SUITE_2 => Ok(()),
            _ => Err(CryptoError::UnsupportedCiphersuite),
        }
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        vec![SUITE_2, SUITE_1]
    }

    fn hkdf_extract(
        &self,
        hash: HashType,
        salt: &[u8],
        material: &[u8],
    ) -> Result<SecretVLBytes, CryptoError> {
        sha256(hash)?;
        Ok(hpke::extract(salt, &[material]).as_ref().into())
    }

    /// HKDF's extraction is an HMAC, and the other way round.
    fn hmac(
        &self,
        hash: HashType,
        key: &[u8],
        message: &[u8],
    ) -> Result<SecretVLBytes, CryptoError> {
        self.hkdf_extract(hash, key, message)
    }

    fn hkdf_expand(
        &self,
        hash: HashType,
        secret: &[u8],
        info: &[u8],
        len: usize,
    ) -> Result<SecretVLBytes, CryptoError> {
        sha256(hash)?;
        Ok(hpke::expand(secret, &[info], len)?.into())
    }

    fn hash(&self, hash: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        sha256(hash)?;
        Ok(digest::digest(&digest::SHA256, data).as_ref().to_vec())
    }

    fn aead_encrypt(
        &self,
        aead: AeadType,
        key: &[u8],
        data: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        aes_128_gcm(aead)?;
        hpke::aead_seal(key, nonce, aad, data)
    }

    fn aead_decrypt(
        &self,
        aead: AeadType,
        key: &[u8],
        ciphertext: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        aes_128_gcm(aead)?;
        hpke::aead_open(key, nonce, aad, ciphertext)
    }

    /// The keys that sign are those of identities; OpenMLS makes none.
    fn signature_key_gen(&self, _: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        Err(CryptoError::UnsupportedSignatureScheme)
    }

    fn verify_signature(
        &self,
        scheme: SignatureScheme,
        data: &[u8],
        public_key: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        if Some(scheme) != signature_scheme(public_key) {
            return Err(CryptoError::InvalidPublicKey);
        }
        identity::verify_signature(public_key, data, signature)
            .map_err(|_| CryptoError::InvalidSignature)
    }

    /// [`IdentitySigner`] does.
    fn sign(&self, _: SignatureScheme, _: &[u8], _: &[u8]) -> Result<Vec<u8>, CryptoError> {
        Err(CryptoError::UnsupportedSignatureScheme)
    }

    fn hpke_seal(
        &self,
        config: HpkeConfig,
        public_key: &[u8],
        info: &[u8],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        let mut ephemeral = [0; 32];
        self.fill(&mut ephemeral);
        let sealed = kem(&config)?.seal(&ephemeral, public_key, info, aad, plaintext)?;
        Ok(HpkeCiphertext { kem_output: sealed.0.into(), ciphertext: sealed.1.into() })
    }

    fn hpke_open(
        &self,
        config: HpkeConfig,
        input: &HpkeCiphertext,
        private_key: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let (encapsulated, ciphertext) = (input.kem_output.as_slice(), input.ciphertext.as_slice());
        kem(&config)?.open(encapsulated, private_key, info, aad, ciphertext)
    }

    /// Only for joining from outside, which nobody does.
    fn hpke_setup_sender_and_export(
        &self,
        _: HpkeConfig,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        Err(CryptoError::ExporterError)
    }

    /// Only for joining from outside, which nobody does.
    fn hpke_setup_receiver_and_export(
        &self,
        _: HpkeConfig,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        Err(CryptoError::ExporterError)
    }

    fn derive_hpke_keypair(
        &self,
        config: HpkeConfig,
        material: &[u8],
    ) -> Result<HpkeKeyPair, CryptoError> {
        let pair = kem(&config)?.derive_key_pair(material)?;
        Ok(HpkeKeyPair { private: pair.private.to_vec().into(), public: pair.public })
    }
}

fn sha256(hash: HashType) -> Result<(), CryptoError> {
    match hash {
        HashType::Sha2_256 => Ok(()),
        _ => Err(CryptoError::UnsupportedHashAlgorithm),
    }
}

fn aes_128_gcm(aead: AeadType) -> Result<(), CryptoError> {
    match aead {
        AeadType::Aes128Gcm => Ok(()),
        _ => Err(CryptoError::UnsupportedAeadAlgorithm),
    }
}

fn kem(config: &HpkeConfig) -> Result<Kem, CryptoError> {
    match config {
        HpkeConfig(kem, HpkeKdfType::HkdfSha256, HpkeAeadType::AesGcm128) => match kem {
            HpkeKemType::DhKemP256 => Ok(Kem::P256),
            HpkeKemType::DhKem25519 => Ok(Kem::X25519),
            _ => Err(CryptoError::UnsupportedCiphersuite),
        },
        _ => Err(CryptoError::UnsupportedCiphersuite),
    }
}

/// The kind of a key follows from its length.
fn signature_scheme(public_key: &[u8]) -> Option<SignatureScheme> {
    match public_key.len() {
        65 => Some(SignatureScheme::ECDSA_SECP256R1_SHA256),
        32 => Some(SignatureScheme::ED25519),
        _ => None,
    }
}

/// The suite that goes with an identity's key.
pub(super) fn suite(public_key: &[u8]) -> Result<Ciphersuite, identity::Error> {
    match signature_scheme(public_key) {
        Some(SignatureScheme::ED25519) => Ok(SUITE_1),
        Some(_) => Ok(SUITE_2),
        None => Err(identity::Error::KeyLength(public_key.len())),
    }
}

/// Signs with the key of the app's identity.
pub(super) struct IdentitySigner<'a>(pub(super) &'a dyn identity::Provider);

impl Signer for IdentitySigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        self.0.sign(payload).map_err(|_| SignerError::SigningError)
    }

    fn signature_scheme(&self) -> SignatureScheme {
        signature_scheme(self.0.public_key()).unwrap_or(SignatureScheme::ECDSA_SECP256R1_SHA256)
    }
}
