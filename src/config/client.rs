//! How to reach another node (spec 01 sections 3.1 and 4.1).

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::object::{parse, Object, HIDDEN};
use super::Error;

pub(super) const KEYS: [&str; 18] = [
    "endpoint",
    "origin",
    "server_name",
    "compression",
    "rate_limit",
    "tls",
    "keepalive",
    "proxy",
    "connect_timeout",
    "request_timeout",
    "buffer_size",
    "headers",
    "auth",
    "backoff",
    "metadata",
    "link_id",
    "require_header_mac",
    "connection_type",
];

/// Keys of `tls`, the published implementation's current and older ones (DESIGN decision 14).
pub(super) const TLS_KEYS: [&str; 15] = [
    "insecure",
    "insecure_skip_verify",
    "ca_source",
    "include_system_ca_certs_pool",
    "source",
    "tls_version",
    "reload_interval",
    "client_ca",
    "reload_client_ca_file",
    "ca_file",
    "ca_pem",
    "cert_file",
    "key_file",
    "client_ca_file",
    "server_name",
];

pub(super) const KEEPALIVE: [&str; 4] =
    ["tcp_keepalive", "http2_keepalive", "timeout", "keep_alive_while_idle"];
pub(super) const BACKOFF: [&str; 7] =
    ["type", "interval", "max_attempts", "base", "factor", "max_delay", "jitter"];

const TLS: &str = "TLS";

/// Where a node is: a host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As it was written.
    pub text: String,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// Reads `http://host:port`, or `host:port` where that is allowed.
    fn parse(text: &str, path: &str, scheme_required: bool) -> Result<Endpoint, Error> {
        let bad =
            |problem| Error::Value { path: path.to_owned(), value: format!("{text:?}"), problem };
        let unsupported = |feature| Error::Unsupported { path: path.to_owned(), feature };
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err(unsupported("TLS (https)")),
            Some(("ws" | "wss", _)) => return Err(unsupported("WebSocket")),
            Some(("unix", _)) => return Err(unsupported("a unix socket")),
            Some(_) => return Err(bad("invalid endpoint scheme, http:// is expected")),
            None if scheme_required => {
                return Err(bad("invalid endpoint scheme, http:// is expected"));
            }
            None => text,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        if let Some((_, host)) = authority.rsplit_once('@') {
            // What stands before it may be a password.
            return Err(Error::Value {
                path: path.to_owned(),
                value: format!("{:?}", format!("...@{host}")),
                problem: "user names in endpoints are not accepted",
            });
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(|| bad("a ']' is missing"))?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(bad("this is no IPv6 address"));
                }
                (host, after.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() || (host.contains(':') && !authority.starts_with('[')) {
            return Err(bad("a host is expected, IPv6 addresses in brackets"));
        }
        let port = match port {
            None => 80,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(bad("the port is not a number from 1 to 65535")),
            },
        };
        Ok(Endpoint { text: text.to_owned(), host: host.to_owned(), port })
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What the other side is to take us for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionType {
    /// A node of another deployment.
    Remote,
    /// An app, or a node that dials up. The default.
    Edge,
}

/// Signs of life on a connection without traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// TCP's own probes begin after this time of silence. Default 60 s.
    pub tcp_keepalive: Duration,
    /// A PING is sent after this time of silence. Default 60 s.
    pub http2_keepalive: Duration,
    /// And must be answered in this time. Default 10 s.
    pub timeout: Duration,
    /// Also without a stream. A connection of ours always has one.
    pub keep_alive_while_idle: bool,
}

/// How long to wait between attempts to connect (spec 01 section 6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// Always the same time.
    Fixed {
        /// That time.
        interval: Duration,
        /// So many further attempts after the first.
        max_attempts: u64,
    },
    /// Growing times: `base^k * factor` milliseconds.
    Exponential {
        /// The base.
        base: u64,
        /// The factor, in milliseconds.
        factor: u64,
        /// No pause is longer.
        max_delay: Duration,
        /// So many further attempts after the first.
        max_attempts: u64,
        /// Each pause is shortened at random.
        jitter: bool,
    },
}

impl Default for Backoff {
    /// Two seconds, for ever.
    fn default() -> Backoff {
        Backoff::Fixed { interval: Duration::from_secs(2), max_attempts: u64::MAX }
    }
}

impl Backoff {
    /// The pause after so many failures in a row (at least 1), or `None` to give up.
    pub fn delay(&self, failures: u64, random: u32) -> Option<Duration> {
        match self {
            Backoff::Fixed { interval, max_attempts } => {
                (failures <= *max_attempts).then_some(*interval)
            }
            Backoff::Exponential { base, factor, max_delay, max_attempts, jitter } => {
                if failures > *max_attempts {
                    return None;
                }
                let power = base.saturating_pow(u32::try_from(failures).unwrap_or(u32::MAX));
                let delay = Duration::from_millis(power.saturating_mul(*factor)).min(*max_delay);
                let share = f64::from(random) / f64::from(u32::MAX);
                Some(if *jitter { delay.mul_f64(share) } else { delay })
            }
        }
    }
}

/// How to reach another node.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Further headers of the request; names are sent in lower case.
    pub headers: Vec<(String, String)>,
    /// A limit for one attempt to connect; zero: none.
    pub connect_timeout: Duration,
    /// A limit for the response head of the request; zero:
    /// [`limits::RESPONSE_HEAD_TIMEOUT`](crate::limits::RESPONSE_HEAD_TIMEOUT).
    pub request_timeout: Duration,
    /// Signs of life; `None`: none of our own.
    pub keepalive: Option<Keepalive>,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Names the link; `None`: a random UUID.
    pub link_id: Option<String>,
    /// Refuse nodes that cannot sign headers, and unsigned messages. Default true.
    pub require_header_mac: bool,
    /// What the other side is to take us for.
    pub connection_type: ConnectionType,
}

impl ClientConfig {
    /// Reads a JSON object, or an endpoint (`http://host:port`, also `host:port`).
    pub fn parse(text: &str) -> Result<ClientConfig, Error> {
        match text.trim_start().starts_with('{') {
            true => ClientConfig::from_json(text),
            false => ClientConfig::insecure(text.trim(), "endpoint", false),
        }
    }

    /// Reads a JSON object.
    pub fn from_json(text: &str) -> Result<ClientConfig, Error> {
        let map = parse(text)?;
        ClientConfig::read(&Object::new("", &map, &KEYS)?)
    }

    /// The defaults for an endpoint, without TLS. It stands at `path`.
    fn insecure(endpoint: &str, path: &str, scheme_required: bool) -> Result<ClientConfig, Error> {
        Ok(ClientConfig {
            endpoint: Endpoint::parse(endpoint, path, scheme_required)?,
            headers: Vec::new(),
            connect_timeout: Duration::ZERO,
            request_timeout: Duration::ZERO,
            keepalive: None,
            backoff: Backoff::default(),
            link_id: None,
            require_header_mac: true,
            connection_type: ConnectionType::Edge,
        })
    }

    /// Reads one entry of a node's file.
    #[cfg(feature = "cli")]
    pub(super) fn read_at(path: &str, value: &Value) -> Result<ClientConfig, Error> {
        ClientConfig::read(&Object::of_value(path, value, &KEYS)?)
    }

    fn read(object: &Object<'_>) -> Result<ClientConfig, Error> {
        let endpoint = object.required_string("endpoint")?;
        let mut config = ClientConfig::insecure(endpoint, &object.path_of("endpoint"), true)?;
        for key in ["compression", "rate_limit", "origin", "server_name"] {
            object.string(key)?;
        }
        object.number("buffer_size")?;
        object.ignored_object("metadata")?;
        read_tls(object, false)?;
        read_auth(object)?;
        if let Some(proxy) = object.get("proxy") {
            if proxy.get("url").is_some_and(|url| !url.is_null()) {
                return Err(object.unsupported("proxy.url", "a proxy"));
            }
            object.ignored_object("proxy")?;
        }
        config.headers = read_headers(object)?;
        config.connect_timeout = object.duration("connect_timeout", Duration::ZERO)?;
        config.request_timeout = object.duration("request_timeout", Duration::ZERO)?;
        config.keepalive = read_keepalive(object)?;
        config.backoff = read_backoff(object)?;
        config.link_id = object.string("link_id")?.map(str::to_owned);
        if config.link_id.as_deref() == Some("") {
            return Err(object.error("link_id", "it must not be empty"));
        }
        config.require_header_mac = object.boolean("require_header_mac", true)?;
        config.connection_type = match object.string("connection_type")? {
            None | Some("edge") => ConnectionType::Edge,
            Some("remote") => ConnectionType::Remote,
            Some("peer") => return Err(object.unsupported("connection_type", "peer")),
            Some(_) => {
                return Err(object.error("connection_type", "edge or remote is expected"));
            }
        };
        Ok(config)
    }
}

/// The values of headers may be tokens: only names are printed.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ClientConfig")
            .field("endpoint", &self.endpoint)
            .field("headers", &headers)
            .field("connection_type", &self.connection_type)
            .field("link_id", &self.link_id)
            .finish_non_exhaustive()
    }
}

/// What cannot stand in a request is refused here: nghttp2 would only drop the stream.
fn read_headers(object: &Object<'_>) -> Result<Vec<(String, String)>, Error> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let mut headers = object.strings("headers")?;
    for (name, value) in &mut headers {
        let bad = |problem| Error::Value {
            path: format!("{}.{name}", object.path_of("headers")),
            value: HIDDEN.to_owned(),
            problem,
        };
        if name.is_empty() || !name.chars().all(token) {
            return Err(bad("the key is not the name of an HTTP header"));
        }
        if !value.chars().all(|c| matches!(c, '\t' | ' '..='~')) {
            return Err(bad("a header has printable ASCII only, no line break either"));
        }
        name.make_ascii_lowercase();
    }
    Ok(headers)
}

/// `tls` may only say that there is none. On a server it must say so.
pub(super) fn read_tls(object: &Object<'_>, server: bool) -> Result<(), Error> {
    let Some(tls) = object.object("tls", &TLS_KEYS)? else {
        return match server {
            true => Err(object.unsupported("tls", "TLS (missing server cert or key)")),
            false => Ok(()),
        };
    };
    for key in TLS_KEYS {
        let none = tls.get(key).and_then(|v| v.get("type")).and_then(Value::as_str) == Some("none");
        let harmless = matches!(key, "insecure" | "include_system_ca_certs_pool" | "tls_version");
        if tls.get(key).is_some() && !harmless && !none {
            return Err(tls.unsupported(key, TLS));
        }
    }
    if !tls.boolean("insecure", false)? && server {
        return Err(tls.unsupported("insecure", "TLS (missing server cert or key)"));
    }
    Ok(())
}

pub(super) fn read_auth(object: &Object<'_>) -> Result<(), Error> {
    match object.get("auth") {
        None => Ok(()),
        Some(Value::String(text)) if text == "none" => Ok(()),
        Some(Value::Object(map)) if map.get("type").and_then(Value::as_str) == Some("none") => {
            Ok(())
        }
        Some(_) => Err(object.unsupported("auth", "authentication of connections")),
    }
}

fn read_keepalive(object: &Object<'_>) -> Result<Option<Keepalive>, Error> {
    let Some(keepalive) = object.object("keepalive", &KEEPALIVE)? else { return Ok(None) };
    Ok(Some(Keepalive {
        tcp_keepalive: keepalive.positive("tcp_keepalive", Duration::from_secs(60))?,
        http2_keepalive: keepalive.positive("http2_keepalive", Duration::from_secs(60))?,
        timeout: keepalive.positive("timeout", Duration::from_secs(10))?,
        keep_alive_while_idle: keepalive.boolean("keep_alive_while_idle", false)?,
    }))
}

fn read_backoff(object: &Object<'_>) -> Result<Backoff, Error> {
    let Some(backoff) = object.object("backoff", &BACKOFF)? else { return Ok(Backoff::default()) };
    let max_attempts = backoff.number("max_attempts")?.unwrap_or(u64::MAX);
    match backoff.required_string("type")? {
        "fixed_interval" => {
            let interval = backoff.duration("interval", Duration::from_secs(1))?;
            Ok(Backoff::Fixed { interval, max_attempts })
        }
        "exponential" => Ok(Backoff::Exponential {
            base: backoff.number("base")?.unwrap_or(100),
            factor: backoff.number("factor")?.unwrap_or(1),
            max_delay: backoff.duration("max_delay", Duration::from_secs(1))?,
            max_attempts,
            jitter: backoff.boolean("jitter", false)?,
        }),
        _ => Err(backoff.error("type", "fixed_interval or exponential is expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec01_25_endpoints_of_clients() {
        for (text, host, port, authority) in [
            ("http://127.0.0.1:46357", "127.0.0.1", 46357, "127.0.0.1:46357"),
            ("http://[::1]:5", "::1", 5, "[::1]:5"),
            ("http://node.example/", "node.example", 80, "node.example:80"),
            ("localhost:7", "localhost", 7, "localhost:7"),
        ] {
            let config = ClientConfig::parse(text).unwrap();
            assert_eq!((config.endpoint.host.as_str(), config.endpoint.port), (host, port));
            assert_eq!(config.endpoint.authority(), authority);
        }
        for text in [
            "",
            "http://",
            "http://:1",
            "http://h:0",
            "http://h:65536",
            "http://[::1:5",
            "ftp://h:1",
            "::1:5",
            "http://[zz]:1",
        ] {
            let error = ClientConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        let error = ClientConfig::parse("http://user:secret@h:1").unwrap_err().to_string();
        assert!(error.contains("user names") && error.contains("@h:1"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        let error = ClientConfig::parse("http://user@h\n:1").unwrap_err().to_string();
        assert!(error.contains(r"@h\n:1"), "{error}");
        for text in ["https://h:1", "ws://h:1", "unix:///x"] {
            let error = ClientConfig::parse(text).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        }
        let error = ClientConfig::from_json(r#"{"endpoint": "h:1"}"#).unwrap_err().to_string();
        assert!(error.contains("invalid endpoint scheme") && error.contains("h:1"), "{error}");
    }

    #[test]
    fn spec01_26_the_configuration_of_the_seeds_parses_with_the_documented_defaults() {
        let text = r#"{"endpoint": "http://127.0.0.1:46357", "tls": {"insecure": true}}"#;
        let config = ClientConfig::parse(text).unwrap();
        assert_eq!(config, ClientConfig::parse("http://127.0.0.1:46357").unwrap());
        let expected = ClientConfig {
            endpoint: Endpoint {
                text: "http://127.0.0.1:46357".to_owned(),
                host: "127.0.0.1".to_owned(),
                port: 46357,
            },
            headers: Vec::new(),
            connect_timeout: Duration::ZERO,
            request_timeout: Duration::ZERO,
            keepalive: None,
            backoff: Backoff::Fixed { interval: Duration::from_secs(2), max_attempts: u64::MAX },
            link_id: None,
            require_header_mac: true,
            connection_type: ConnectionType::Edge,
        };
        assert!(config == expected, "{config:?}");
        assert_eq!(config.backoff.delay(u64::MAX, 0), Some(Duration::from_secs(2)));
        // Of a backoff that is given, in part.
        let backoff = |kind: &str| {
            let text = format!(r#"{{"endpoint": "http://h:1", "backoff": {{"type": "{kind}"}}}}"#);
            ClientConfig::parse(&text).unwrap().backoff
        };
        let (second, max_attempts) = (Duration::from_secs(1), u64::MAX);
        assert_eq!(backoff("fixed_interval"), Backoff::Fixed { interval: second, max_attempts });
        let expected = Backoff::Exponential {
            base: 100,
            factor: 1,
            max_delay: second,
            max_attempts,
            jitter: false,
        };
        assert_eq!(backoff("exponential"), expected);
    }

    #[test]
    fn spec01_4_keepalive_and_timeouts_of_a_client() {
        let read = |text: &str| {
            ClientConfig::from_json(&format!(r#"{{"endpoint": "http://h:1", {text}}}"#)).unwrap()
        };
        let config = read(r#""keepalive": {}, "request_timeout": "3s", "connect_timeout": "2s""#);
        assert_eq!((config.connect_timeout.as_secs(), config.request_timeout.as_secs()), (2, 3));
        let secs = Duration::from_secs;
        let expected = Keepalive {
            tcp_keepalive: secs(60),
            http2_keepalive: secs(60),
            timeout: secs(10),
            keep_alive_while_idle: false,
        };
        assert_eq!(config.keepalive, Some(expected));
        let given = r#""keepalive": {"tcp_keepalive": "1s", "http2_keepalive": "2s",
            "timeout": "3s", "keep_alive_while_idle": true}"#;
        let expected = Keepalive {
            tcp_keepalive: secs(1),
            http2_keepalive: secs(2),
            timeout: secs(3),
            keep_alive_while_idle: true,
        };
        assert_eq!(read(given).keepalive, Some(expected));
    }

    #[test]
    fn tokens_in_headers_are_never_printed() {
        let read = |value: &str| {
            let text = r#"{"endpoint": "http://h:1", "headers": {"Authorization": VALUE}}"#;
            ClientConfig::from_json(&text.replace("VALUE", value))
        };
        let config = read(r#""Bearer hush""#).unwrap();
        assert_eq!(config.headers, [("authorization".to_owned(), "Bearer hush".to_owned())]);
        let text = format!("{config:?}");
        assert!(text.contains("authorization") && !text.contains("hush"), "{text}");
        for value in [r#""Bearer hush\n""#, r#"["hush"]"#, r#"{"hush": "hush"}"#] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains("headers") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn what_is_not_known_or_not_there_yet_is_named() {
        let error = |extra: &str| {
            let text = format!(r#"{{"endpoint": "http://h:1", {extra}}}"#);
            ClientConfig::from_json(&text).unwrap_err().to_string()
        };
        assert_eq!(error(r#""endpont": 1"#), r#"unknown key "endpont", did you mean "endpoint"?"#);
        let text = error(r#""tls": {"ca_fil": ""}"#);
        assert_eq!(text, r#"unknown key "tls.ca_fil", did you mean "ca_file"?"#);
        for (extra, part) in [
            (r#""tls": {"ca_file": "x"}"#, "tls.ca_file"),
            (r#""tls": {"source": {"type": "file"}}"#, "tls.source"),
            (r#""auth": {"type": "basic"}"#, "auth"),
            (r#""proxy": {"url": "http://p"}"#, "proxy.url"),
            (r#""connection_type": "peer""#, "peer"),
            (r#""connection_type": "pear""#, "pear"),
            (r#""connect_timeout": 5"#, "connect_timeout"),
            (r#""backoff": {"type": "linear"}"#, "linear"),
            (r#""headers": {"a": 1}"#, "headers"),
            (r#""headers": {":path": "/"}"#, ":path"),
            (r#""headers": {"": "x"}"#, "headers"),
            (r#""headers": {"a": "b\nc"}"#, "printable"),
            (r#""keepalive": {"timeout": "0s"}"#, "keepalive.timeout"),
            (r#""link_id": """#, "link_id"),
        ] {
            assert!(error(extra).contains(part), "{}", error(extra));
        }
        assert!(ClientConfig::from_json("{").unwrap_err().to_string().contains("JSON"));
        assert_eq!(ClientConfig::from_json("{}"), Err(Error::Missing("endpoint".to_owned())));
    }

    #[test]
    fn spec01_17_pauses_between_attempts() {
        let fixed = Backoff::Fixed { interval: Duration::from_secs(3), max_attempts: 2 };
        let secs = |n| fixed.delay(n, 0).map(|d| d.as_secs());
        assert_eq!((secs(1), secs(2), secs(3)), (Some(3), Some(3), None));
        let exponential = |jitter| Backoff::Exponential {
            base: 10,
            factor: 1,
            max_delay: Duration::from_secs(5),
            max_attempts: 100,
            jitter,
        };
        let millis = |n| exponential(false).delay(n, 0).map(|d| d.as_millis());
        assert_eq!((millis(1), millis(2), millis(3)), (Some(10), Some(100), Some(1000)));
        assert_eq!(millis(90), Some(5000));
        assert_eq!(exponential(true).delay(3, 0), Some(Duration::ZERO));
    }
}
