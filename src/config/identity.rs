//! How an app proves who it is, and how it checks others (spec 04 section 8.2).

use std::fmt;

use serde_json::Value;

use super::object::{parse, Object};
use super::Error;

/// How an app proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum ProviderConfig {
    /// By a secret that all parties share.
    SharedSecret {
        /// First part of the identity string; `None`: the app's name.
        id: Option<String>,
        /// The secret, at least 32 bytes.
        secret: String,
    },
}

/// How an app checks others.
#[derive(Clone, PartialEq, Eq)]
pub enum VerifierConfig {
    /// By a secret that all parties share.
    SharedSecret {
        /// The secret, at least 32 bytes.
        secret: String,
    },
}

/// Both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// How the app proves who it is.
    pub provider: ProviderConfig,
    /// How it checks others.
    pub verifier: VerifierConfig,
}

impl IdentityConfig {
    /// One secret for both.
    pub fn shared_secret(secret: &str) -> IdentityConfig {
        IdentityConfig {
            provider: ProviderConfig::SharedSecret { id: None, secret: secret.to_owned() },
            verifier: VerifierConfig::SharedSecret { secret: secret.to_owned() },
        }
    }

    /// Reads an object with `provider` and `verifier`.
    pub fn from_json(text: &str) -> Result<IdentityConfig, Error> {
        let map = parse(text)?;
        let object = Object::new("", &map, &["provider", "verifier"])?;
        let (id, secret) = read(&object, "provider")?;
        let (_, checked) = read(&object, "verifier")?;
        Ok(IdentityConfig {
            provider: ProviderConfig::SharedSecret { id, secret },
            verifier: VerifierConfig::SharedSecret { secret: checked },
        })
    }
}

fn read(object: &Object<'_>, key: &str) -> Result<(Option<String>, String), Error> {
    let kind = object.get(key).and_then(|part| part.get("type")).and_then(Value::as_str);
    match kind {
        Some("shared_secret") => {
            let part = object.object(key, &["type", "id", "data"])?;
            let part = part.ok_or_else(|| Error::Missing(object.path_of(key)))?;
            let id = part.string("id")?.map(str::to_owned);
            Ok((id, part.required_string("data")?.to_owned()))
        }
        Some("jwt") => Err(object.unsupported(key, "a JWT identity")),
        Some("static_jwt") => Err(object.unsupported(key, "a JWT from a file")),
        Some("spire") => Err(object.unsupported(key, "SPIRE")),
        Some("oidc") => Err(object.unsupported(key, "OIDC")),
        None if object.get(key).is_none() => Err(Error::Missing(object.path_of(key))),
        // The value itself may hold a secret, so only the type is named.
        other => Err(Error::Value {
            path: format!("{}.type", object.path_of(key)),
            value: format!("{:?}", other.unwrap_or("nothing")),
            problem: "shared_secret is expected",
        }),
    }
}

impl fmt::Debug for ProviderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProviderConfig::SharedSecret { id, .. } = self;
        f.debug_struct("SharedSecret").field("id", id).finish_non_exhaustive()
    }
}

impl fmt::Debug for VerifierConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecret").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_and_never_printed() {
        let part = r#"{"type": "shared_secret", "id": "me", "data": "hush hush"}"#;
        let text = format!(r#"{{"provider": {part}, "verifier": {part}}}"#);
        let config = IdentityConfig::from_json(&text).unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        let number = text.replace(r#""hush hush""#, "77777777");
        let error = IdentityConfig::from_json(&number).unwrap_err().to_string();
        assert!(error.contains("provider.data") && !error.contains("7777"), "{error}");
        let error = IdentityConfig::from_json(r#""hush hush""#).unwrap_err().to_string();
        assert!(error.contains("a string is not an object"), "{error}");
        let wrong = text.replace("shared_secret", "hush hush");
        let error = IdentityConfig::from_json(&wrong).unwrap_err().to_string();
        assert!(error.contains("provider.type"), "{error}");
        for kind in ["jwt", "static_jwt", "spire", "oidc"] {
            let error = IdentityConfig::from_json(&text.replace("shared_secret", kind));
            assert!(matches!(error, Err(Error::Unsupported { .. })), "{kind}");
        }
        assert_eq!(IdentityConfig::from_json("{}"), Err(Error::Missing("provider".to_owned())));
    }
}
