//! How to listen (spec 01 sections 3.1 and 4.2).

use std::net::SocketAddr;
use std::time::Duration;

use super::client::{read_auth, read_tls};
use super::object::{parse, Object};
use super::Error;
use crate::limits;

const KEYS: [&str; 15] = [
    "endpoint",
    "tls",
    "http2_only",
    "max_frame_size",
    "max_concurrent_streams",
    "max_header_list_size",
    "read_buffer_size",
    "write_buffer_size",
    "keepalive",
    "auth",
    "metadata",
    "require_header_mac",
    "negotiation_timeout_secs",
    "link_hmac_timeout_secs",
    "link_hmac_poll_interval_ms",
];

/// When silent clients are asked whether they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKeepalive {
    /// A PING is sent after this time of silence. Default 2 minutes.
    pub time: Duration,
    /// And must be answered in this time. Default 20 s.
    pub timeout: Duration,
}

impl Default for ServerKeepalive {
    fn default() -> ServerKeepalive {
        ServerKeepalive { time: Duration::from_secs(120), timeout: Duration::from_secs(20) }
    }
}

/// How to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// As it was written.
    pub endpoint: String,
    /// The address to bind.
    pub address: SocketAddr,
    /// Refuse links without a key and unsigned messages. Default true.
    pub require_header_mac: bool,
    /// How long a client may take to negotiate. Default 5 s.
    pub negotiation_timeout: Duration,
    /// When silent clients are asked whether they live.
    pub keepalive: ServerKeepalive,
}

impl ServerConfig {
    /// Reads a JSON object, or an address (`127.0.0.1:46357`, `[::1]:0`).
    pub fn parse(text: &str) -> Result<ServerConfig, Error> {
        match text.trim_start().starts_with('{') {
            true => ServerConfig::from_json(text),
            false => ServerConfig::insecure(text.trim()),
        }
    }

    /// Reads a JSON object.
    pub fn from_json(text: &str) -> Result<ServerConfig, Error> {
        let map = parse(text)?;
        ServerConfig::read(&Object::new("", &map, &KEYS)?)
    }

    fn insecure(endpoint: &str) -> Result<ServerConfig, Error> {
        let unsupported =
            |feature| Err(Error::Unsupported { path: "endpoint".to_owned(), feature });
        match endpoint.split_once("://").map(|(scheme, _)| scheme) {
            Some("unix") => return unsupported("a unix socket"),
            Some("ws" | "wss") => return unsupported("WebSocket"),
            _ => {}
        }
        let address = endpoint.parse().map_err(|_| Error::Value {
            path: "endpoint".to_owned(),
            value: format!("{endpoint:?}"),
            problem: "endpoint parse error, a numeric address like 127.0.0.1:46357 is expected",
        })?;
        Ok(ServerConfig {
            endpoint: endpoint.to_owned(),
            address,
            require_header_mac: true,
            negotiation_timeout: limits::NEGOTIATION_TIMEOUT,
            keepalive: ServerKeepalive::default(),
        })
    }

    /// Reads one entry of a node's file.
    #[cfg(feature = "cli")]
    pub(super) fn read_at(path: &str, value: &serde_json::Value) -> Result<ServerConfig, Error> {
        match value {
            serde_json::Value::Object(map) => ServerConfig::read(&Object::new(path, map, &KEYS)?),
            other => Err(Error::Value {
                path: path.to_owned(),
                value: other.to_string(),
                problem: "an object is expected",
            }),
        }
    }

    fn read(object: &Object<'_>) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::insecure(object.required_string("endpoint")?)?;
        read_tls(object, true)?;
        read_auth(object)?;
        object.boolean("http2_only", true)?;
        object.ignored_object("metadata")?;
        for key in [
            "max_frame_size",
            "max_concurrent_streams",
            "max_header_list_size",
            "read_buffer_size",
            "write_buffer_size",
            "link_hmac_poll_interval_ms",
        ] {
            object.number(key)?;
        }
        config.require_header_mac = object.boolean("require_header_mac", true)?;
        for key in ["negotiation_timeout_secs", "link_hmac_timeout_secs"] {
            match object.number(key)? {
                Some(0) => return Err(object.error(key, "at least 1 is expected")),
                Some(secs) => config.negotiation_timeout = Duration::from_secs(secs.min(3600)),
                None => {}
            }
        }
        let keys = [
            "max_connection_idle",
            "max_connection_age",
            "max_connection_age_grace",
            "time",
            "timeout",
        ];
        if let Some(keepalive) = object.object("keepalive", &keys)? {
            for key in keys {
                keepalive.duration(key, Duration::ZERO)?;
            }
            let default = ServerKeepalive::default();
            config.keepalive = ServerKeepalive {
                time: keepalive.duration("time", default.time)?,
                timeout: keepalive.duration("timeout", default.timeout)?,
            };
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numeric() {
        for text in ["127.0.0.1:0", "[::1]:46357", "0.0.0.0:1"] {
            assert_eq!(ServerConfig::parse(text).unwrap().endpoint, text);
        }
        for text in ["localhost:1", "127.0.0.1", "http://127.0.0.1:1", ""] {
            let error = ServerConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains("endpoint parse error") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_json_server_must_say_that_it_has_no_tls() {
        let good = r#"{"endpoint": "127.0.0.1:0", "tls": {"insecure": true},
            "keepalive": {"time": "5s"}, "negotiation_timeout_secs": 2}"#;
        let config = ServerConfig::parse(good).unwrap();
        assert_eq!(config.keepalive.time, Duration::from_secs(5));
        assert_eq!(config.negotiation_timeout, Duration::from_secs(2));
        for tls in ["", r#", "tls": {}"#, r#", "tls": {"insecure": false}"#] {
            let text = format!(r#"{{"endpoint": "127.0.0.1:0"{tls}}}"#);
            let error = ServerConfig::parse(&text).unwrap_err().to_string();
            assert!(error.contains("missing server cert or key"), "{error}");
        }
    }
}
