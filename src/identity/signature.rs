//! The key pair of an identity, and signatures by others.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, ECDH_P256};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    EcdsaKeyPair, KeyPair, UnparsedPublicKey, ECDSA_P256_SHA256_ASN1,
    ECDSA_P256_SHA256_ASN1_SIGNING, ED25519,
};

use super::Error;
use crate::entropy::Entropy;

/// A P-256 key pair. Its signatures are not deterministic.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: Vec<u8>,
}

impl SigningKey {
    /// A fresh pair.
    pub fn generate(entropy: &mut dyn Entropy) -> SigningKey {
        loop {
            let mut private = [0; 32];
            entropy.fill(&mut private);
            // One in 2^32 draws is not below the order of the curve.
            if let Ok(key) = SigningKey::from_private(&private) {
                return key;
            }
        }
    }

    /// The pair that belongs to a private key of 32 bytes.
    pub fn from_private(private: &[u8; 32]) -> Result<SigningKey, Error> {
        let bad = |_| Error::Crypto("importing a P-256 key");
        let public = PrivateKey::from_private_key(&ECDH_P256, private)
            .map_err(bad)?
            .compute_public_key()
            .map_err(|_| Error::Crypto("computing a P-256 public key"))?;
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair =
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public.as_ref())
                .map_err(bad)?;
        let public = pair.public_key().as_ref().to_vec();
        Ok(SigningKey { pair, public })
    }

    /// The public half: an uncompressed point of 65 bytes.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// ECDSA with SHA-256, in DER.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| Error::Crypto("signing"))?.as_ref().to_vec())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// Checks a signature; the kind follows from the length of the key (spec 04 section 2).
pub fn verify_signature(public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), Error> {
    let verdict = match public_key.len() {
        65 | 33 => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key).verify(message, signature)
        }
        32 => UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature),
        len => return Err(Error::KeyLength(len)),
    };
    verdict.map_err(|_| Error::BadSignature("message"))
}
