//! How to listen (spec 01 sections 3.1 and 4.2).

use std::net::SocketAddr;
use std::time::Duration;

use super::client::{read_auth, read_tls};
use super::object::{parse, Object};
use super::Error;
use crate::limits;

pub(super) const KEYS: [&str; 15] = [
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

pub(super) const KEEPALIVE: [&str; 5] =
    ["max_connection_idle", "max_connection_age", "max_connection_age_grace", "time", "timeout"];

/// When silent clients are asked whether they live, and how old links become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKeepalive {
    /// A PING is sent after this time of silence. Default 2 minutes.
    pub time: Duration,
    /// And must be answered in this time. Default 20 s.
    pub timeout: Duration,
    /// Without effect, as in the published node: a connection always has its stream. Default 1 h.
    pub max_connection_idle: Duration,
    /// A connection may become so old, then its end is announced. Default 2 h.
    pub max_connection_age: Duration,
    /// And comes after so much more time. Default 5 min.
    pub max_connection_age_grace: Duration,
}

impl Default for ServerKeepalive {
    fn default() -> ServerKeepalive {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        ServerKeepalive {
            time: minutes(2),
            timeout: Duration::from_secs(20),
            max_connection_idle: minutes(60),
            max_connection_age: minutes(120),
            max_connection_age_grace: minutes(5),
        }
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
            false => ServerConfig::insecure(text.trim(), "endpoint"),
        }
    }

    /// Reads a JSON object.
    pub fn from_json(text: &str) -> Result<ServerConfig, Error> {
        let map = parse(text)?;
        ServerConfig::read(&Object::new("", &map, &KEYS)?)
    }

    /// The defaults for an address, without TLS. It stands at `path`.
    fn insecure(endpoint: &str, path: &str) -> Result<ServerConfig, Error> {
        let unsupported = |feature| Err(Error::Unsupported { path: path.to_owned(), feature });
        match endpoint.split_once("://").map(|(scheme, _)| scheme) {
            Some("unix") => return unsupported("a unix socket"),
            Some("ws" | "wss") => return unsupported("WebSocket"),
            _ => {}
        }
        let address = endpoint.parse().map_err(|_| Error::Value {
            path: path.to_owned(),
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
        ServerConfig::read(&Object::of_value(path, value, &KEYS)?)
    }

    fn read(object: &Object<'_>) -> Result<ServerConfig, Error> {
        let endpoint = object.required_string("endpoint")?;
        let mut config = ServerConfig::insecure(endpoint, &object.path_of("endpoint"))?;
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
                Some(secs @ 1..=3600) => config.negotiation_timeout = Duration::from_secs(secs),
                Some(_) => return Err(object.error(key, "1 to 3600 seconds are expected")),
                None => {}
            }
        }
        if let Some(keepalive) = object.object("keepalive", &KEEPALIVE)? {
            let default = ServerKeepalive::default();
            config.keepalive = ServerKeepalive {
                time: keepalive.positive("time", default.time)?,
                timeout: keepalive.positive("timeout", default.timeout)?,
                max_connection_idle: keepalive
                    .positive("max_connection_idle", default.max_connection_idle)?,
                max_connection_age: keepalive
                    .positive("max_connection_age", default.max_connection_age)?,
                max_connection_age_grace: keepalive
                    .duration("max_connection_age_grace", default.max_connection_age_grace)?,
            };
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec01_25_addresses_of_servers_are_numeric() {
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
        let secs = Duration::from_secs;
        let ages = r#"{"endpoint": "127.0.0.1:0", "tls": {"insecure": true}, "keepalive":
            {"max_connection_idle": "1s", "max_connection_age": "2s",
             "max_connection_age_grace": "0s", "timeout": "4s"}}"#;
        let expected = ServerKeepalive {
            time: secs(120),
            timeout: secs(4),
            max_connection_idle: secs(1),
            max_connection_age: secs(2),
            max_connection_age_grace: secs(0),
        };
        assert_eq!(ServerConfig::parse(ages).unwrap().keepalive, expected);
        for (from, to, part) in [
            (r#""2s""#, r#""0s""#, "keepalive.max_connection_age"),
            (r#""4s""#, "4", "keepalive.timeout"),
            (r#""timeout": "4s""#, r#""time": "0s""#, "keepalive.time"),
            (r#""tls""#, r#""negotiation_timeout_secs": 3601, "tls""#, "3601"),
            (r#""tls""#, r#""negotiation_timeout_secs": 0, "tls""#, "1 to 3600"),
        ] {
            let error = ServerConfig::parse(&ages.replace(from, to));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for tls in ["", r#", "tls": {}"#, r#", "tls": {"insecure": false}"#] {
            let text = format!(r#"{{"endpoint": "127.0.0.1:0"{tls}}}"#);
            let error = ServerConfig::parse(&text).unwrap_err().to_string();
            assert!(error.contains("missing server cert or key"), "{error}");
        }
    }
}
