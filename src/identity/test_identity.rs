//! An identity without cryptography, so that simulations can run thousands of sessions a second.
//! Never for real use: anybody can forge it.

use std::sync::Arc;
use std::time::Duration;

use twox_hash::XxHash3_128;

use super::{Claims, Error, Provider, Verifier};
use crate::clock::Now;
use crate::entropy::Entropy;

/// Says who it is, without proof.
#[derive(Debug)]
pub struct TestIdentity(pub String);

/// Believes it.
#[derive(Debug)]
pub struct TestVerifier;

impl Provider for TestIdentity {
    fn subject(&self) -> &str {
        &self.0
    }

    fn public_key(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn token(&mut self, now: Now, _: &mut dyn Entropy) -> Result<Arc<str>, Error> {
        Ok(format!("test:{}:{}", self.0, now.unix_secs() / 60 * 60).into())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(sign(&self.0, message))
    }
}

impl Verifier for TestVerifier {
    fn verify(&mut self, token: &str, _: Now) -> Result<Claims, Error> {
        let rest = token.strip_prefix("test:").ok_or(Error::Malformed("not a test token"))?;
        let (subject, issued) = rest.rsplit_once(':').ok_or(Error::Malformed("no time"))?;
        let issued: u64 = issued.parse().map_err(|_| Error::Malformed("no time"))?;
        Ok(Claims {
            subject: subject.to_owned(),
            issuer: None,
            public_key: subject.as_bytes().to_vec(),
            expires: Duration::from_secs(issued + 3600),
        })
    }

    fn verify_signature(
        &self,
        claims: &Claims,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        match signature == sign(&claims.subject, message) {
            true => Ok(()),
            false => Err(Error::BadSignature("message")),
        }
    }
}

fn sign(subject: &str, message: &[u8]) -> Vec<u8> {
    XxHash3_128::oneshot(&[subject.as_bytes(), message].concat()).to_be_bytes().to_vec()
}
