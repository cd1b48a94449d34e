//! Identity by a secret that all parties share (spec 04 section 1).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::Engine as _;

use super::{Claims, Error, Provider, SigningKey, Verifier};
use crate::clock::Now;
use crate::entropy::Entropy;
use crate::limits;

/// A secret must have this many bytes.
pub const MIN_SECRET_BYTES: usize = 32;
/// A token is valid for so many seconds.
const VALIDITY_SECS: u64 = 3600;
/// The issuer's clock may be ahead by so many seconds.
const SKEW_SECS: u64 = 5;
/// We give out the same token for so long.
const TOKEN_REUSE: Duration = Duration::from_secs(60);

/// Proves membership in the circle of those who know the secret.
pub struct SharedSecret {
    secret: hmac::Key,
    subject: String,
    key: SigningKey,
    claims: String,
    token: Option<(Duration, Arc<str>)>,
}

impl SharedSecret {
    /// An identity of its own: `base_id`, eight random characters, and a fresh key pair.
    pub fn new(
        base_id: &str,
        secret: &str,
        entropy: &mut dyn Entropy,
    ) -> Result<SharedSecret, Error> {
        let secret = secret_key(secret)?;
        if base_id.is_empty() || base_id.contains(|c: char| c == ':' || c.is_whitespace()) {
            return Err(Error::BadId(base_id.to_owned()));
        }
        let subject = format!("{base_id}_{}", entropy.alphanumeric(8));
        let key = SigningKey::generate(entropy);
        let claims = format!("{{\"pubkey\":\"{}\"}}", STANDARD.encode(key.public_key()));
        let claims = URL_SAFE_NO_PAD.encode(claims);
        Ok(SharedSecret { secret, subject, key, claims, token: None })
    }
}

impl Provider for SharedSecret {
    fn subject(&self) -> &str {
        &self.subject
    }

    fn public_key(&self) -> &[u8] {
        self.key.public_key()
    }

    fn token(&mut self, now: Now, entropy: &mut dyn Entropy) -> Result<Arc<str>, Error> {
        if let Some((issued, token)) = &self.token {
            if now.unix >= *issued && now.unix - *issued < TOKEN_REUSE {
                return Ok(Arc::clone(token));
            }
        }
        let mut nonce = [0; 12];
        entropy.fill(&mut nonce);
        let nonce = URL_SAFE_NO_PAD.encode(nonce);
        let text = format!("{}:{}:{nonce}:{}", self.subject, now.unix_secs(), self.claims);
        let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&self.secret, text.as_bytes()));
        let token: Arc<str> = format!("{text}:{mac}").into();
        self.token = Some((now.unix, Arc::clone(&token)));
        Ok(token)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.key.sign(message)
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedSecret of {:?}", self.subject)
    }
}

/// Checks that others know the secret.
pub struct SharedSecretVerifier {
    secret: hmac::Key,
    /// Tokens that were found good. Bounded; cleared when full.
    good: HashMap<String, (u64, Claims)>,
}

impl SharedSecretVerifier {
    /// A verifier for this secret.
    pub fn new(secret: &str) -> Result<SharedSecretVerifier, Error> {
        Ok(SharedSecretVerifier { secret: secret_key(secret)?, good: HashMap::new() })
    }

    fn read(&self, token: &str) -> Result<(u64, Claims), Error> {
        let (message, _) = token.rsplit_once(':').ok_or(Error::Malformed("no ':' in it"))?;
        let mut parts = message.splitn(4, ':');
        let (Some(subject), Some(issued), Some(_), Some(claims)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Malformed("it does not have five parts"));
        };
        let issued = issued.parse().map_err(|_| Error::Malformed("its time is no number"))?;
        let expires = Duration::from_secs(u64::saturating_add(issued, VALIDITY_SECS));
        let public_key = public_key(claims)?;
        let subject = subject.to_owned();
        Ok((issued, Claims { subject, issuer: None, public_key, expires }))
    }

    /// The order of the checks is the published one (spec 04 section 1.2).
    fn check(&self, token: &str, now: Now, validity_secs: u64) -> Result<(), Error> {
        let (message, mac) = token.rsplit_once(':').ok_or(Error::Malformed("no ':' in it"))?;
        let parts: Vec<&str> = message.splitn(4, ':').collect();
        let [_, issued, _, claims] = parts[..] else {
            return Err(Error::Malformed("it does not have five parts"));
        };
        if claims.contains(':') {
            return Err(Error::Malformed("it has more than five parts"));
        }
        let issued = issued.parse().map_err(|_| Error::Malformed("its time is no number"))?;
        check_time(issued, now, validity_secs)?;
        if mac.len() != 43 {
            return Err(Error::Malformed("its MAC is not 43 characters long"));
        }
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| Error::Base64("MAC"))?;
        hmac::verify(&self.secret, message.as_bytes(), &mac).map_err(|_| Error::WrongSecret)
    }

    fn verify_within(
        &mut self,
        token: &str,
        now: Now,
        validity_secs: u64,
    ) -> Result<Claims, Error> {
        if let Some((issued, claims)) = self.good.get(token) {
            check_time(*issued, now, validity_secs)?;
            return Ok(claims.clone());
        }
        self.check(token, now, validity_secs)?;
        let (issued, claims) = self.read(token)?;
        if self.good.len() == limits::VERIFIED_TOKENS {
            self.good.clear();
        }
        self.good.insert(token.to_owned(), (issued, claims.clone()));
        Ok(claims)
    }
}

impl Verifier for SharedSecretVerifier {
    fn verify(&mut self, token: &str, now: Now) -> Result<Claims, Error> {
        self.verify_within(token, now, VALIDITY_SECS)
    }

    fn verify_once_valid(&mut self, token: &str, now: Now) -> Result<Claims, Error> {
        self.verify_within(token, now, u64::MAX)
    }
}

impl fmt::Debug for SharedSecretVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecretVerifier")
    }
}

fn secret_key(secret: &str) -> Result<hmac::Key, Error> {
    match secret.len() {
        len if len < MIN_SECRET_BYTES => Err(Error::SecretTooShort(len)),
        _ => Ok(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())),
    }
}

fn check_time(issued: u64, now: Now, validity_secs: u64) -> Result<(), Error> {
    let now = now.unix_secs();
    if issued > now && issued - now > SKEW_SECS {
        return Err(Error::NotYetValid(issued - now));
    }
    if now.saturating_sub(issued) > validity_secs {
        return Err(Error::Expired(now - issued));
    }
    Ok(())
}

/// Reads the key out of the claims (spec 04 section 5).
fn public_key(claims: &str) -> Result<Vec<u8>, Error> {
    if claims.is_empty() {
        return Err(Error::NoPublicKey);
    }
    let json = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Error::Base64("claims"))?;
    let json: serde_json::Value =
        serde_json::from_slice(&json).map_err(|e| Error::Json(e.to_string()))?;
    let key = json
        .get("pubkey")
        .or_else(|| json.get("custom_claims").and_then(|custom| custom.get("pubkey")))
        .and_then(|key| key.as_str())
        .ok_or(Error::NoPublicKey)?;
    STANDARD.decode(key).map_err(|_| Error::Base64("public key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use std::time::Instant;

    const SECRET: &str = "a secret of at least 32 characters";

    fn at(secs: u64) -> Now {
        Now { mono: Instant::now(), unix: Duration::from_secs(secs) }
    }

    #[test]
    fn tokens_are_accepted_from_5_seconds_ahead_to_an_hour_old() {
        let mut entropy = SeededEntropy::new(1);
        let mut provider = SharedSecret::new("o/n/s", SECRET, &mut entropy).unwrap();
        let token = provider.token(at(10_000), &mut entropy).unwrap();
        for (now, good) in [(9_994, false), (9_995, true), (13_600, true), (13_601, false)] {
            // Twice: the second time from the memory.
            let mut verifier = SharedSecretVerifier::new(SECRET).unwrap();
            let _ = verifier.verify(&token, at(10_000));
            assert_eq!(verifier.verify(&token, at(now)).is_ok(), good, "{now}");
            let mut fresh = SharedSecretVerifier::new(SECRET).unwrap();
            assert_eq!(fresh.verify(&token, at(now)).is_ok(), good, "{now}");
            // Who was let in may stay, but nobody comes from the future.
            assert_eq!(fresh.verify_once_valid(&token, at(now)).is_ok(), now >= 9_995, "{now}");
            assert_eq!(fresh.verify(&token, at(now)).is_ok(), good, "{now}");
        }
        let claims = SharedSecretVerifier::new(SECRET).unwrap().verify(&token, at(10_000)).unwrap();
        assert_eq!(
            (claims.subject.as_str(), &claims.public_key[..]),
            (provider.subject(), provider.public_key())
        );
    }

    #[test]
    fn a_token_is_reused_for_a_minute_and_not_across_a_clock_that_went_back() {
        let mut entropy = SeededEntropy::new(1);
        let mut provider = SharedSecret::new("o/n/s", SECRET, &mut entropy).unwrap();
        let first = provider.token(at(1000), &mut entropy).unwrap();
        assert_eq!(provider.token(at(1059), &mut entropy).unwrap(), first);
        let second = provider.token(at(1060), &mut entropy).unwrap();
        assert_ne!(second, first);
        assert_ne!(provider.token(at(900), &mut entropy).unwrap(), second);
    }

    #[test]
    fn c06_short_secrets_are_refused_with_the_minimum() {
        for (len, good) in [(0, false), (6, false), (31, false), (32, true), (10_000, true)] {
            let result = SharedSecretVerifier::new(&"s".repeat(len));
            assert_eq!(result.is_ok(), good, "{len}");
            if let Err(error) = result {
                let text = error.to_string();
                assert!(text.contains("too short") && text.contains("32"), "{text}");
            }
        }
        assert!(SharedSecretVerifier::new(&"é".repeat(16)).is_ok(), "bytes count, not letters");
    }

    #[test]
    fn memory_of_good_tokens_is_bounded_and_nothing_secret_is_printed() {
        let mut entropy = SeededEntropy::new(1);
        let mut verifier = SharedSecretVerifier::new(SECRET).unwrap();
        let mut provider = SharedSecret::new("o/n/s", SECRET, &mut entropy).unwrap();
        for n in 0..=limits::VERIFIED_TOKENS as u64 {
            let token = provider.token(at(1_000 + 60 * n), &mut entropy).unwrap();
            verifier.verify(&token, at(1_000 + 60 * n)).unwrap();
            // All are remembered up to the limit; one more begins anew.
            let remembered = if n < limits::VERIFIED_TOKENS as u64 { n + 1 } else { 1 };
            assert_eq!(verifier.good.len() as u64, remembered);
        }
        assert!(!format!("{provider:?}{verifier:?}").contains("secret of"));
    }
}
