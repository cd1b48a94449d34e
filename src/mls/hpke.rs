//! HPKE in base mode, one message at a time (RFC 9180): DHKEM(P-256) and DHKEM(X25519), both with
//! HKDF-SHA256 and AES-128-GCM. Nothing else occurs in the cipher suites that we have.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::{aead, hmac};
use openmls_traits::types::CryptoError;

const HKDF_SHA256: [u8; 2] = [0, 1];
const AES_128_GCM: [u8; 2] = [0, 1];
const KEY_LEN: usize = 16;
const NONCE_LEN: usize = 12;
/// All hashes, shared secrets and private keys here.
const SECRET_LEN: usize = 32;
/// What HKDF can give at most.
const EXPANDED_LEN: usize = 255 * SECRET_LEN;

/// How a secret is agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kem {
    P256,
    X25519,
}

/// A private key and what others see of it.
pub(super) struct KeyPair {
    pub(super) private: [u8; SECRET_LEN],
    pub(super) public: Vec<u8>,
}

impl Kem {
    fn id(self) -> [u8; 2] {
        match self {
            Kem::P256 => [0x00, 0x10],
            Kem::X25519 => [0x00, 0x20],
        }
    }

    fn agreement(self) -> &'static agreement::Algorithm {
        match self {
            Kem::P256 => &agreement::ECDH_P256,
            Kem::X25519 => &agreement::X25519,
        }
    }

    /// The text that binds each derived secret to the KEM.
    fn suite_id(self) -> [u8; 5] {
        let [high, low] = self.id();
        [b'K', b'E', b'M', high, low]
    }

    /// The text that binds each derived secret to KEM, KDF and AEAD.
    fn whole_suite_id(self) -> Vec<u8> {
        [b"HPKE", &self.id()[..], &HKDF_SHA256, &AES_128_GCM].concat()
    }

    /// `DeriveKeyPair` of RFC 9180 section 7.1.3.
    pub(super) fn derive_key_pair(self, material: &[u8]) -> Result<KeyPair, CryptoError> {
        let suite = self.suite_id();
        let secret = labeled_extract(&suite, &[], b"dkp_prk", material);
        if self == Kem::X25519 {
            let private = labeled_expand(&suite, &secret, b"sk", &[], SECRET_LEN)?;
            return self.key_pair(&private);
        }
        // One candidate in 2^32 is not below the order of the curve.
        for counter in 0..=u8::MAX {
            let candidate = labeled_expand(&suite, &secret, b"candidate", &[counter], SECRET_LEN)?;
            if let Ok(pair) = self.key_pair(&candidate) {
                return Ok(pair);
            }
        }
        Err(CryptoError::CryptoLibraryError)
    }

    fn key_pair(self, private: &[u8]) -> Result<KeyPair, CryptoError> {
        let key = self.private_key(private)?;
        let public = key.compute_public_key().map_err(|_| CryptoError::CryptoLibraryError)?;
        let private = private.try_into().map_err(|_| CryptoError::InvalidLength)?;
        Ok(KeyPair { private, public: public.as_ref().to_vec() })
    }

    /// Other implementations leave the leading zeros of P-256 keys out (spec 05 section 1).
    fn private_key(self, private: &[u8]) -> Result<PrivateKey, CryptoError> {
        let mut padded = [0; SECRET_LEN];
        let start = match (self, SECRET_LEN.checked_sub(private.len())) {
            (Kem::P256, Some(start)) => start,
            (Kem::X25519, Some(0)) => 0,
            _ => return Err(CryptoError::InvalidLength),
        };
        padded[start..].copy_from_slice(private);
        PrivateKey::from_private_key(self.agreement(), &padded)
            .map_err(|_| CryptoError::CryptoLibraryError)
    }

    /// The shared secret of our key and another's; `context` is both public keys.
    fn agree(
        self,
        private: &PrivateKey,
        public: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        // A compressed point would be another encoding of the same key, in `context` too.
        let shape = match self {
            Kem::P256 => public.len() == 65 && public[0] == 4,
            Kem::X25519 => public.len() == 32,
        };
        if !shape {
            return Err(CryptoError::InvalidPublicKey);
        }
        let peer = UnparsedPublicKey::new(self.agreement(), public);
        agreement::agree(private, peer, CryptoError::InvalidPublicKey, |shared| {
            if shared.iter().all(|byte| *byte == 0) {
                return Err(CryptoError::InvalidPublicKey);
            }
            let suite = self.suite_id();
            let secret = labeled_extract(&suite, &[], b"eae_prk", shared);
            labeled_expand(&suite, &secret, b"shared_secret", context, SECRET_LEN)
        })
    }

    /// The key and the nonce of the first message.
    fn schedule(self, shared: &[u8], info: &[u8]) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        const BASE_MODE: [u8; 1] = [0];
        let suite = self.whole_suite_id();
        let psk_id_hash = labeled_extract(&suite, &[], b"psk_id_hash", &[]);
        let info_hash = labeled_extract(&suite, &[], b"info_hash", info);
        let context = [&BASE_MODE, psk_id_hash.as_ref(), info_hash.as_ref()].concat();
        let secret = labeled_extract(&suite, shared, b"secret", &[]);
        let key = labeled_expand(&suite, &secret, b"key", &context, KEY_LEN)?;
        let nonce = labeled_expand(&suite, &secret, b"base_nonce", &context, NONCE_LEN)?;
        Ok((key, nonce))
    }

    /// Encrypts to a public key; `ephemeral` is fresh randomness. Gives the encapsulated key and
    /// the ciphertext.
    pub(super) fn seal(
        self,
        ephemeral: &[u8; SECRET_LEN],
        public: &[u8],
        info: &[u8],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        let own = self.derive_key_pair(ephemeral)?;
        let context = [&own.public, public].concat();
        let shared = self.agree(&self.private_key(&own.private)?, public, &context)?;
        let (key, nonce) = self.schedule(&shared, info)?;
        Ok((own.public, aead_seal(&key, &nonce, aad, plaintext)?))
    }

    /// Decrypts what was encrypted to the public half of `private`.
    pub(super) fn open(
        self,
        encapsulated: &[u8],
        private: &[u8],
        info: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let private = self.private_key(private)?;
        let public = private.compute_public_key().map_err(|_| CryptoError::CryptoLibraryError)?;
        let context = [encapsulated, public.as_ref()].concat();
        let shared = self.agree(&private, encapsulated, &context)?;
        let (key, nonce) = self.schedule(&shared, info)?;
        aead_open(&key, &nonce, aad, ciphertext).map_err(|_| CryptoError::HpkeDecryptionError)
    }
}

fn labeled_extract(suite: &[u8], salt: &[u8], label: &[u8], material: &[u8]) -> hmac::Tag {
    extract(salt, &[b"HPKE-v1", suite, label, material])
}

fn labeled_expand(
    suite: &[u8],
    secret: &hmac::Tag,
    label: &[u8],
    info: &[u8],
    len: usize,
) -> Result<Vec<u8>, CryptoError> {
    let len_text = u16::try_from(len).map_err(|_| CryptoError::HkdfOutputLengthInvalid)?;
    let info = [&len_text.to_be_bytes()[..], b"HPKE-v1", suite, label, info];
    expand(secret.as_ref(), &info, len)
}

/// HKDF-Extract with SHA-256; the material is given in pieces.
pub(super) fn extract(salt: &[u8], material: &[&[u8]]) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
    let mut context = hmac::Context::with_key(&key);
    material.iter().for_each(|piece| context.update(piece));
    context.sign()
}

/// HKDF-Expand with SHA-256; `info` is given in pieces.
pub(super) fn expand(secret: &[u8], info: &[&[u8]], len: usize) -> Result<Vec<u8>, CryptoError> {
    if len > EXPANDED_LEN {
        return Err(CryptoError::HkdfOutputLengthInvalid);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut expanded = Vec::with_capacity(len.next_multiple_of(SECRET_LEN));
    let mut block: Option<hmac::Tag> = None;
    for counter in 1..=u8::MAX {
        if expanded.len() >= len {
            break;
        }
        let mut context = hmac::Context::with_key(&key);
        if let Some(block) = &block {
            context.update(block.as_ref());
        }
        info.iter().for_each(|piece| context.update(piece));
        context.update(&[counter]);
        expanded.extend_from_slice(block.insert(context.sign()).as_ref());
    }
    expanded.truncate(len);
    Ok(expanded)
}

fn aead_key(key: &[u8], nonce: &[u8]) -> Result<(aead::LessSafeKey, aead::Nonce), CryptoError> {
    let bad = |_| CryptoError::InvalidLength;
    let key = aead::UnboundKey::new(&aead::AES_128_GCM, key).map_err(bad)?;
    let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(bad)?;
    Ok((aead::LessSafeKey::new(key), nonce))
}

/// AES-128-GCM; the tag stands at the end.
pub(super) fn aead_seal(
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let (key, nonce) = aead_key(key, nonce)?;
    let mut text = Vec::with_capacity(plaintext.len() + aead::AES_128_GCM.tag_len());
    text.extend_from_slice(plaintext);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut text)
        .map_err(|_| CryptoError::CryptoLibraryError)?;
    Ok(text)
}

/// The other way round.
pub(super) fn aead_open(
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let (key, nonce) = aead_key(key, nonce)?;
    let mut text = ciphertext.to_vec();
    let len = key
        .open_in_place(nonce, aead::Aad::from(aad), &mut text)
        .map_err(|_| CryptoError::AeadDecryptionError)?
        .len();
    text.truncate(len);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect()
    }

    struct Vector {
        kem: Kem,
        /// Seed, private and public key of the sender for this one message.
        sender: [&'static str; 3],
        /// The same of the receiver.
        receiver: [&'static str; 3],
        ciphertext: &'static str,
    }

    /// RFC 9180 appendices A.1.1 and A.3.1.
    const VECTORS: [Vector; 2] = [
        Vector {
            kem: Kem::X25519,
            sender: [
                "7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234",
                "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
                "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
            ],
            receiver: [
                "6db9df30aa07dd42ee5e8181afdb977e538f5e1fec8a06223f33f7013e525037",
                "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
                "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d",
            ],
            ciphertext: "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9\
                         6d8770ac83d07bea87e13c512a",
        },
        Vector {
            kem: Kem::P256,
            sender: [
                "4270e54ffd08d79d5928020af4686d8f6b7d35dbe470265f1f5aa22816ce860e",
                "4995788ef4b9d6132b249ce59a77281493eb39af373d236a1fe415cb0c2d7beb",
                "04a92719c6195d5085104f469a8b9814d5838ff72b60501e2c4466e5e67b325ac9\
                 8536d7b61a1af4b78e5b7f951c0900be863c403ce65c9bfcb9382657222d18c4",
            ],
            receiver: [
                "668b37171f1072f3cf12ea8a236a45df23fc13b82af3609ad1e354f6ef817550",
                "f3ce7fdae57e1a310d87f1ebbde6f328be0a99cdbcadf4d6589cf29de4b8ffd2",
                "04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a82\
                 6a779b4cf969b8a0e539c7f62fb3d30ad6aa8f80e30f1d128aafd68a2ce72ea0",
            ],
            ciphertext: "5ad590bb8baa577f8619db35a36311226a896e7342a6d836d8b7bcd2f20b6c7f\
                         9076ac232e3ab2523f39513434",
        },
    ];

    const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
    const AAD: &str = "436f756e742d30";
    const PLAINTEXT: &str = "4265617574792069732074727574682c20747275746820626561757479";

    #[test]
    fn spec05_19_hpke_is_that_of_rfc_9180() {
        for Vector { kem, sender, receiver, ciphertext } in VECTORS {
            for [seed, private, public] in [sender, receiver] {
                let pair = kem.derive_key_pair(&hex(seed)).unwrap();
                assert_eq!(pair.private.to_vec(), hex(private), "{kem:?}");
                assert_eq!(pair.public, hex(public), "{kem:?}");
            }
            let (info, aad, plaintext) = (hex(INFO), hex(AAD), hex(PLAINTEXT));
            let seed = hex(sender[0]).try_into().unwrap();
            let sealed = kem.seal(&seed, &hex(receiver[2]), &info, &aad, &plaintext).unwrap();
            assert_eq!(sealed, (hex(sender[2]), hex(ciphertext)), "{kem:?}");
            let open = |encapsulated: &[u8], ciphertext: &[u8]| {
                kem.open(encapsulated, &hex(receiver[1]), &info, &aad, ciphertext)
            };
            assert_eq!(open(&sealed.0, &sealed.1).unwrap(), plaintext);
            for at in 0..sealed.1.len() {
                let mut other = sealed.1.clone();
                other[at] ^= 1;
                assert_eq!(open(&sealed.0, &other), Err(CryptoError::HpkeDecryptionError));
            }
        }
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let seed = [7; 32];
        let mut not_on_the_curve = hex(VECTORS[1].receiver[2]);
        not_on_the_curve[64] ^= 1;
        let mut compressed = hex(VECTORS[1].receiver[2]);
        compressed.truncate(33);
        compressed[0] = 2;
        for public in [&[][..], &[4], &[0; 65], &not_on_the_curve, &compressed, &[0; 32]] {
            let sealed = Kem::P256.seal(&seed, public, &[], &[], &[]);
            assert_eq!(sealed, Err(CryptoError::InvalidPublicKey), "{public:?}");
        }
        // Zero, a point of small order: the secret would be known to all.
        for public in [&[][..], &[0; 32], &[1; 31], &[4; 65]] {
            let sealed = Kem::X25519.seal(&seed, public, &[], &[], &[]);
            assert_eq!(sealed, Err(CryptoError::InvalidPublicKey), "{public:?}");
        }
        for private in [&[][..], &[0; 32], &[0xff; 32], &[1; 33]] {
            assert!(Kem::P256.private_key(private).is_err(), "{private:?}");
        }
        assert!(Kem::P256.private_key(&[1; 31]).is_ok(), "a leading zero was left out");
        assert!(Kem::X25519.private_key(&[1; 31]).is_err());
    }

    /// RFC 5869 appendices A.1 and A.3.
    #[test]
    fn hkdf_is_that_of_rfc_5869() {
        let material = [0x0b; 22];
        let secret = extract(&hex("000102030405060708090a0b0c"), &[&material[..5], &material[5..]]);
        let info = hex("f0f1f2f3f4f5f6f7f8f9");
        let expanded = expand(secret.as_ref(), &[&info[..4], &info[4..]], 42).unwrap();
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf\
                        34007208d5b887185865";
        assert_eq!(expanded, hex(expected));
        let secret = extract(&[], &[&material]);
        let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d\
                        9d201395faa4b61a96c8";
        assert_eq!(expand(secret.as_ref(), &[], 42).unwrap(), hex(expected));
        for (len, good) in [(0, true), (EXPANDED_LEN, true), (EXPANDED_LEN + 1, false)] {
            let expanded = expand(secret.as_ref(), &[], len);
            assert_eq!(expanded.is_ok_and(|expanded| expanded.len() == len), good, "{len}");
        }
    }
}
