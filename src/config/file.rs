//! The file of a node, as the published node reads it (spec 01 section 4.3, spec 02 section 14):
//! logging, the time for draining, and one service with its servers and clients.
//!
//! Where the published node ignores a key that it does not know, this is an error here.

use std::collections::HashMap;
use std::time::Duration;

use log::LevelFilter;
use serde_json::{Map, Value};
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::{ScanError, Yaml, YamlLoader};

use super::object::Object;
use super::{ClientConfig, Error, NodeConfig, ServerConfig};
use crate::limits;

const FILE: [&str; 3] = ["tracing", "runtime", "services"];
const TRACING: [&str; 5] =
    ["log_level", "display_thread_names", "display_thread_ids", "filters", "opentelemetry"];
const RUNTIME: [&str; 3] = ["n_cores", "thread_name", "drain_timeout"];
const DATAPLANE: [&str; 4] = ["enforce_pqc", "servers", "clients", "outbound_clients"];
const OPENTELEMETRY: [&str; 6] =
    ["enabled", "grpc", "service_name", "service_version", "environment", "metrics_interval_secs"];
const SERVICE: [&str; 8] = [
    "node_id",
    "domain_name",
    "auth",
    "default_gateway",
    "stuck_receiver_timeout",
    "peers",
    "dataplane",
    "controller",
];

/// What `${env:NAME}` and `${file:PATH}` stand for. The cause of a failure is in words.
pub trait Substitutes {
    /// The value of an environment variable.
    fn variable(&mut self, name: &str) -> Result<String, String>;
    /// What a file holds.
    fn file(&mut self, path: &str) -> Result<String, String>;
}

/// A node as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFile {
    /// How much is logged where `SLIM_LOG` does not say it. Default info.
    pub log_level: LevelFilter,
    /// How long ending may take. Default 10 s.
    pub drain_timeout: Duration,
    /// How the node behaves.
    pub node: NodeConfig,
    /// Where it listens, in this order.
    pub servers: Vec<ServerConfig>,
    /// Whom it connects to, in this order.
    pub clients: Vec<ClientConfig>,
}

impl NodeFile {
    /// Reads YAML, of which JSON is a part. A string that is nothing but `${env:NAME}` or
    /// `${file:PATH}` is replaced; the result is a string.
    ///
    /// # Errors
    ///
    /// What is wrong, with its place; a file above [`limits::CONFIG_BYTES`] or
    /// [`limits::CONFIG_DEPTH`], its aliases counted as what they stand for.
    pub fn parse(text: &str, substitutes: &mut dyn Substitutes) -> Result<NodeFile, Error> {
        let broken = |cause: String| Error::File(format!("not a YAML configuration: {cause}"));
        let scan = |error: ScanError| broken(error.to_string());
        check_size(text).map_err(scan)?.map_err(broken)?;
        let documents = YamlLoader::load_from_str(text).map_err(scan)?;
        let [document] = &documents[..] else {
            return Err(broken(format!("it has {} documents, one is expected", documents.len())));
        };
        match to_json("", document, substitutes)? {
            Value::Object(map) => NodeFile::read(&map),
            _ => Err(broken("it is not a mapping".to_owned())),
        }
    }

    fn read(map: &Map<String, Value>) -> Result<NodeFile, Error> {
        let root = Object::new("", map, &FILE)?;
        let log_level = read_tracing(&root)?;
        let mut drain_timeout = Duration::from_secs(10);
        if let Some(runtime) = root.object("runtime", &RUNTIME)? {
            runtime.number("n_cores")?;
            runtime.string("thread_name")?;
            drain_timeout = runtime.duration("drain_timeout", drain_timeout)?;
        }
        let services = match root.get("services") {
            Some(Value::Object(services)) => services,
            Some(_) => return Err(root.error("services", "a mapping is expected")),
            None => return Err(Error::Missing("services".to_owned())),
        };
        let mut names = services.keys();
        let (Some(name), rest) = (names.next(), names.next()) else {
            return Err(root.error("services", "at least one service is expected"));
        };
        if rest.is_some() {
            return Err(root.unsupported("services", "more than one service in a file"));
        }
        if !is_service(name) {
            return Err(Error::Value {
                path: "services".to_owned(),
                value: format!("{name:?}"),
                problem: "a service is called kind/name, like slim/0",
            });
        }
        let services = Object::of_names("services", services);
        let Some(service) = services.object(name, &SERVICE)? else {
            return Err(Error::Missing(format!("services.{name}.dataplane")));
        };
        read_service(&service, log_level, drain_timeout)
    }
}

/// The loader copies what an alias stands for and works recursively: both are bounded before.
fn check_size(text: &str) -> Result<Result<(), String>, ScanError> {
    let too_large = || Ok(Err(format!("it is larger than {} bytes", limits::CONFIG_BYTES)));
    let mut parser = Parser::new_from_str(text);
    let (mut sizes, mut open, mut total) = (HashMap::new(), Vec::new(), 0_usize);
    loop {
        let before = total;
        match parser.next_token()?.0 {
            Event::StreamEnd => return Ok(Ok(())),
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                open.push((anchor, before));
                total += 1;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((anchor, start)) = open.pop() {
                    sizes.insert(anchor, total - start);
                }
            }
            Event::Scalar(value, _, anchor, _) => {
                total += 1 + value.len();
                sizes.insert(anchor, total - before);
            }
            // An alias to what it stands in is none.
            Event::Alias(anchor) => total += sizes.get(&anchor).copied().unwrap_or(1),
            _ => {}
        }
        if total > limits::CONFIG_BYTES {
            return too_large();
        }
        if open.len() > limits::CONFIG_DEPTH {
            return Ok(Err(format!("it is nested more than {} deep", limits::CONFIG_DEPTH)));
        }
    }
}

fn read_tracing(root: &Object<'_>) -> Result<LevelFilter, Error> {
    let Some(tracing) = root.object("tracing", &TRACING)? else { return Ok(LevelFilter::Info) };
    tracing.boolean("display_thread_names", true)?;
    tracing.boolean("display_thread_ids", false)?;
    if tracing.list("filters")?.iter().any(|(_, filter)| !filter.is_string()) {
        return Err(tracing.error("filters", "a list of strings is expected"));
    }
    if let Some(telemetry) = tracing.object("opentelemetry", &OPENTELEMETRY)? {
        if telemetry.boolean("enabled", false)? {
            return Err(telemetry.unsupported("enabled", "OpenTelemetry"));
        }
    }
    match tracing.string("log_level")?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("info") => Ok(LevelFilter::Info),
        Some("trace") => Ok(LevelFilter::Trace),
        Some("debug") => Ok(LevelFilter::Debug),
        Some("warn") => Ok(LevelFilter::Warn),
        Some("error") => Ok(LevelFilter::Error),
        Some(_) => Err(tracing.error("log_level", "trace, debug, info, warn or error is expected")),
    }
}

fn read_service(
    service: &Object<'_>,
    log_level: LevelFilter,
    drain_timeout: Duration,
) -> Result<NodeFile, Error> {
    for (key, feature) in [("auth", "authentication of nodes"), ("peers", "peers")] {
        if service.get(key).is_some() {
            return Err(service.unsupported(key, feature));
        }
    }
    if let Some(controller) = service.object("controller", &DATAPLANE)? {
        for key in ["servers", "clients", "outbound_clients"] {
            if !controller.list(key)?.is_empty() {
                return Err(controller.unsupported(key, "the control plane"));
            }
        }
        no_pqc(&controller)?;
    }
    let node = NodeConfig::read(service)?;
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    if let Some(dataplane) = service.object("dataplane", &DATAPLANE)? {
        no_pqc(&dataplane)?;
        for (path, server) in dataplane.list("servers")? {
            servers.push(ServerConfig::read_at(&path, server)?);
        }
        for (path, client) in dataplane.list("clients")? {
            clients.push(ClientConfig::read_at(&path, client)?);
        }
        // The published node reads them here and does nothing with them.
        if !dataplane.list("outbound_clients")?.is_empty() {
            return Err(dataplane.unsupported("outbound_clients", "the control plane"));
        }
    }
    if servers.is_empty() && clients.is_empty() {
        return Err(service.error("dataplane", "no server or client configured"));
    }
    Ok(NodeFile { log_level, drain_timeout, node, servers, clients })
}

fn no_pqc(object: &Object<'_>) -> Result<(), Error> {
    match object.boolean("enforce_pqc", false)? {
        true => Err(object.unsupported("enforce_pqc", "PQC")),
        false => Ok(()),
    }
}

/// `kind/name` (spec 02 section 14.2).
fn is_service(name: &str) -> bool {
    let Some((kind, name)) = name.split_once('/') else { return false };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    kind.starts_with(|c: char| c.is_ascii_alphabetic())
        && kind.len() <= 63
        && kind.chars().all(word)
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn to_json(path: &str, yaml: &Yaml, substitutes: &mut dyn Substitutes) -> Result<Value, Error> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(value) => Value::Bool(*value),
        Yaml::Integer(value) => Value::from(*value),
        Yaml::Real(text) => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Value::from(value),
            _ => return Err(Error::File(format!("{path:?} is {text}, not a number"))),
        },
        Yaml::String(text) => Value::String(substitute(path, text, substitutes)?),
        Yaml::Array(items) => {
            let item = |(at, item)| to_json(&format!("{path}[{at}]"), item, substitutes);
            Value::Array(items.iter().enumerate().map(item).collect::<Result<_, _>>()?)
        }
        Yaml::Hash(pairs) => {
            let mut map = Map::new();
            for (key, value) in pairs {
                let Yaml::String(key) = key else {
                    let text = format!("{path:?} has the key {key:?}, a string is expected");
                    return Err(Error::File(text));
                };
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                map.insert(key.clone(), to_json(&inner, value, substitutes)?);
            }
            Value::Object(map)
        }
        Yaml::Alias(_) | Yaml::BadValue => {
            return Err(Error::File(format!("{path:?} is not a value")));
        }
    })
}

fn substitute(path: &str, text: &str, substitutes: &mut dyn Substitutes) -> Result<String, Error> {
    let whole = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let Some(inner) = whole.filter(|inner| !inner.contains("${")) else {
        // The published node would take it as it stands, which nobody can mean.
        return match text.contains("${env:") || text.contains("${file:") {
            true => {
                Err(Error::File(format!("{path:?} is {text:?}: only a whole value is replaced")))
            }
            false => Ok(text.to_owned()),
        };
    };
    let result = match inner.split_once(':') {
        Some(("env", name)) => substitutes.variable(name),
        Some(("file", name)) => substitutes.file(name),
        _ => Err("only env and file are known, like ${env:NAME} or ${file:PATH}".to_owned()),
    };
    result.map_err(|cause| Error::File(format!("{path:?} is {text:?}: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Substitutes for Fixed {
        fn variable(&mut self, name: &str) -> Result<String, String> {
            match name {
                "ADDRESS" => Ok("127.0.0.1:0".to_owned()),
                _ => Err("the environment variable is not set".to_owned()),
            }
        }

        fn file(&mut self, path: &str) -> Result<String, String> {
            match path {
                "/id" => Ok("from a file".to_owned()),
                _ => Err("no such file".to_owned()),
            }
        }
    }

    fn parse(text: &str) -> Result<NodeFile, Error> {
        NodeFile::parse(text, &mut Fixed)
    }

    /// What the published node's documents show, with all that it can say here.
    const FULL: &str = r#"
tracing:
  log_level: debug
  display_thread_names: true
  display_thread_ids: true
  filters: [slim_service=debug]
runtime:
  n_cores: 0
  thread_name: "slim-data-plane"
  drain_timeout: 1m 30s
services:
  slim/0:
    node_id: ${file:/id}
    domain_name: test
    default_gateway: "off"
    dataplane:
      enforce_pqc: false
      servers:
        - endpoint: ${env:ADDRESS}
          metadata: {local_endpoint: "127.0.0.1"}
          tls: {insecure: true}
          keepalive: {time: 5s, timeout: 2s}
      clients:
        - endpoint: "http://127.0.0.1:46357"
          tls: {insecure: true}
          connection_type: remote
          backoff: {type: exponential, base: 100, max_delay: 10s, jitter: true}
    controller:
      servers: []
      clients: []
"#;

    #[test]
    fn spec02_14_the_published_nodes_file_is_understood() {
        let file = parse(FULL).unwrap();
        assert_eq!(file.log_level, LevelFilter::Debug);
        assert_eq!(file.drain_timeout, Duration::from_secs(90));
        assert_eq!(file.node.node_id.as_deref(), Some("from a file"));
        assert_eq!(file.node.domain_name, "test");
        assert_eq!(file.servers[0].endpoint, "127.0.0.1:0");
        assert_eq!(file.servers[0].keepalive.time, Duration::from_secs(5));
        assert_eq!(file.clients[0].endpoint.port, 46357);
        let smallest = "services: {slim/0: {dataplane: {servers: [{endpoint: \"0.0.0.0:46357\", \
                        tls: {insecure: true}}]}}}";
        let file = parse(smallest).unwrap();
        assert_eq!((file.log_level, file.drain_timeout.as_secs()), (LevelFilter::Info, 10));
    }

    /// The whole file as JSON, which is YAML, and the same through `${..}` of every kind.
    #[test]
    fn yaml_and_json_are_read_alike() {
        let json = r#"{"services": {"slim/0": {"node_id": "from a file", "dataplane": {"servers":
            [{"endpoint": "127.0.0.1:0", "tls": {"insecure": true},
              "keepalive": {"max_connection_age": "1h"}}]}}}}"#;
        let yaml = "services:\n  slim/0:\n    node_id: ${file:/id}\n    controller: {}\n    \
                    peers: null\n    dataplane:\n      servers:\n      - &server\n        \
                    endpoint: ${env:ADDRESS}\n        tls: {insecure: true}\n        \
                    keepalive: {max_connection_age: 1h}\n";
        let file = parse(yaml).unwrap();
        assert_eq!(file, parse(json).unwrap());
        assert_eq!(file.servers[0].keepalive.max_connection_age, Duration::from_secs(3600));
        let one = ServerConfig::from_json(
            r#"{"endpoint": "127.0.0.1:0", "tls": {"insecure": true},
                "keepalive": {"max_connection_age": "1h"}}"#,
        );
        assert_eq!(file.servers, [one.unwrap()]);
    }

    #[test]
    fn size_depth_and_aliases_are_bounded() {
        let with = |id: &str| parse(&FULL.replace("${file:/id}", id));
        let limit = limits::CONFIG_BYTES;
        let error = with(&"x".repeat(limit)).unwrap_err().to_string();
        assert!(error.contains(&limit.to_string()), "{error}");
        assert!(with(&"x".repeat(limit - FULL.len())).is_ok());
        // Ten times ten times ten ...
        let mut bomb = String::from("a: &a0 xxxxxxxxxx\n");
        for level in 1..30 {
            let of = format!("*a{},", level - 1).repeat(10);
            bomb.push_str(&format!("b{level}: &a{level} [{of}]\n"));
        }
        let error = parse(&bomb).unwrap_err().to_string();
        assert!(error.contains("larger than"), "{error}");
        let nested = |depth| parse(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
        let error = |depth| nested(depth).unwrap_err().to_string();
        assert!(error(limits::CONFIG_DEPTH).contains("not a mapping"));
        assert!(error(limits::CONFIG_DEPTH + 1).contains("nested more than"));
        assert!(error(1_000_000).contains("not a YAML configuration"));
        // An alias to what it stands in.
        assert!(parse("services: &a {slim/0: *a}").is_err());
    }

    /// Every place of a file, and the keys that it may have.
    fn places() -> Vec<(&'static str, &'static [&'static str])> {
        use super::super::{client, server};
        vec![
            ("", &FILE),
            ("tracing", &TRACING),
            ("tracing.opentelemetry", &OPENTELEMETRY),
            ("runtime", &RUNTIME),
            ("services", &["KIND/NAME"]),
            ("services.KIND/NAME", &SERVICE),
            ("services.KIND/NAME.dataplane", &DATAPLANE),
            ("services.KIND/NAME.controller", &DATAPLANE),
            ("servers", &server::KEYS),
            ("servers.keepalive", &server::KEEPALIVE),
            ("servers.tls", &client::TLS_KEYS),
            ("clients", &client::KEYS),
            ("clients.keepalive", &client::KEEPALIVE),
            ("clients.backoff", &client::BACKOFF),
            ("clients.tls", &client::TLS_KEYS),
        ]
    }

    /// What stands between backquotes.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    #[test]
    fn the_document_has_every_key_and_no_other() {
        let document = include_str!("../../docs/node-config.md");
        let (tables, objects) = document.split_once("## Objects in them").unwrap();
        let (mut section, mut words, mut keys) = ("", HashMap::new(), Vec::new());
        for line in tables.lines() {
            section = match line {
                "## Servers" => "servers",
                "## Clients" => "clients",
                _ => section,
            };
            let Some(row) = line.strip_prefix("| `") else { continue };
            let split = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            let of: &mut Vec<&str> = words.entry(section).or_default();
            of.extend(quoted(&line[2..]).flat_map(|text| text.split(split)));
            // `.x` is beside the key before it; first in a row, it is a key of the service.
            let (first, _) = row.split_once(" | ").unwrap();
            let mut beside = "services.KIND/NAME".to_owned();
            for key in first.split('`').step_by(2) {
                let key = key.trim_end_matches("[]");
                let key = match key.strip_prefix('.') {
                    Some(rest) => format!("{beside}.{rest}"),
                    None if section.is_empty() => key.to_owned(),
                    None => format!("{section}.{key}"),
                };
                beside = key.rsplit_once('.').unwrap().0.to_owned();
                keys.push(key);
            }
        }
        for row in objects.lines().filter(|line| line.starts_with("| `")) {
            let (places, keys) = row[2..].split_once(" | ").unwrap();
            for place in quoted(places) {
                words.entry(place).or_default().extend(quoted(keys));
            }
        }
        assert!(keys.len() > 40, "{keys:?}");
        for key in &keys {
            let (place, last) = key.rsplit_once('.').unwrap();
            let known =
                places().iter().any(|(known, keys)| *known == place && keys.contains(&last));
            assert!(known, "{key} is in the document, but nothing reads it");
        }
        for (place, keys) in places() {
            let section = place.split('.').next().filter(|first| words.contains_key(first));
            let short = place.rsplit('.').next().unwrap();
            for key in keys {
                let there = [section.unwrap_or(""), place, short]
                    .iter()
                    .any(|at| words.get(at).is_some_and(|words| words.contains(key)));
                assert!(there || place == "services", "{place}.{key} is not in the document");
            }
        }
    }

    /// What the published node has and this one does not (spec 02 section 14.2), by name.
    #[test]
    fn spec02_14_what_does_not_exist_is_refused_by_name() {
        let server = |rest: &str| {
            format!("dataplane: {{servers: [{{endpoint: '127.0.0.1:0', tls: {{insecure: true}}, {rest}}}]}}")
        };
        let client =
            |rest: &str| format!("dataplane: {{clients: [{{endpoint: 'http://h:1', {rest}}}]}}");
        let good = server("");
        let mut refused = vec![
            (format!("auth: {{type: shared_secret, secret: hush}}, {good}"), "auth"),
            (format!("peers: {{topology: full_mesh}}, {good}"), "peers"),
            (format!("controller: {{servers: [{{}}]}}, {good}"), "controller.servers"),
            (format!("controller: {{clients: [{{}}]}}, {good}"), "controller.clients"),
            (format!("controller: {{outbound_clients: [{{}}]}}, {good}"), "outbound_clients"),
            (format!("controller: {{enforce_pqc: true}}, {good}"), "controller.enforce_pqc"),
            (good.replace("servers", "enforce_pqc: true, servers"), "dataplane.enforce_pqc"),
            (server("auth: {type: spire}"), "servers[0].auth"),
            (client("connection_type: peer"), "clients[0].connection_type"),
            (client("proxy: {url: 'http://p', password: hush}"), "clients[0].proxy.url"),
        ];
        for kind in ["basic", "jwt", "oidc", "spire"] {
            let auth = format!("auth: {{type: {kind}, password: hush}}");
            refused.push((server(&auth), "servers[0].auth"));
            refused.push((client(&auth), "clients[0].auth"));
        }
        for key in ["insecure_skip_verify", "source", "ca_source", "client_ca", "reload_interval"] {
            let text = client(&format!("tls: {{{key}: {{type: file, key: hush}}}}"));
            refused.push((text, "clients[0].tls"));
            let text = good.replace("insecure: true", &format!("insecure: true, {key}: hush"));
            refused.push((text, "servers[0].tls"));
        }
        for endpoint in ["unix:///x", "ws://h:1", "wss://h:1"] {
            refused.push((good.replace("127.0.0.1:0", endpoint), "servers[0].endpoint"));
            refused.push((client("").replace("http://h:1", endpoint), "clients[0].endpoint"));
        }
        refused.push((client("").replace("http:", "https:"), "clients[0].endpoint"));
        for (service, place) in refused {
            let text = format!("services: {{slim/0: {{{service}}}}}");
            let error = parse(&text).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{text}: {error:?}");
            let error = error.to_string();
            assert!(error.contains(place) && error.contains("not supported yet"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
        let telemetry = "{opentelemetry: {enabled: true, grpc: {endpoint: 'http://h:1'}}}";
        let text = format!("tracing: {telemetry}\nservices: {{slim/0: {{{good}}}}}");
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("tracing.opentelemetry.enabled"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (from, to, parts) in [
            ("drain_timeout", "drain_timout", &["runtime.drain_timout", "\"drain_timeout\""][..]),
            ("connection_type", "conection_type", &["clients[0].conection_type"]),
            ("log_level: debug", "log_level: loud", &["tracing.log_level", "loud"]),
            ("1m 30s", "90", &["runtime.drain_timeout", "90"]),
            ("slim/0:", "slim:", &["\"slim\"", "kind/name"]),
            ("${env:ADDRESS}", "${env:NOPE}", &["servers[0].endpoint", "NOPE", "not set"]),
            ("${file:/id}", "${file:/nope}", &["node_id", "/nope", "no such file"]),
            ("${file:/id}", "${vault:x}", &["vault", "only env and file"]),
            ("tls: {insecure: true}\n          keep", "tls: {}\n          keep", &["TLS"]),
            ("enforce_pqc: false", "enforce_pqc: true", &["enforce_pqc", "PQC"]),
            ("controller:\n      servers: []", "controller:\n      servers: [{}]", &["control"]),
            ("default_gateway: \"off\"", "default_gateway: \"on\"", &["default_gateway", "\"on\""]),
            ("    node_id", "    peers: {}\n    node_id", &["peers"]),
            ("slim/0:", "slim/1: {}\n  slim/0:", &["services", "more than one"]),
            ("runtime:", "runtime: [", &["not a YAML configuration"]),
            ("n_cores: 0", "n_cores: 0\n  n_cores: 1", &["n_cores", "not a YAML"]),
            ("n_cores: 0", "n_cores: .inf", &["runtime.n_cores", ".inf"]),
            ("n_cores: 0", "n_cores: 1.5", &["runtime.n_cores", "1.5"]),
            ("${env:ADDRESS}", "x${env:ADDRESS}", &["servers[0].endpoint", "only a whole value"]),
            ("${env:ADDRESS}", "${env:A}:${env:B}", &["servers[0].endpoint", "only a whole"]),
            ("filters: [slim", "filters: [5, slim", &["tracing.filters", "strings"]),
            ("  filters", "  opentelemetry: {enabled: true}\n  filters", &["telemetry.enabled"]),
            ("  filters", "  opentelemetry: {enabld: 1}\n  filters", &["enabld", "\"enabled\""]),
            (
                "      clients:\n        -",
                "      outbound_clients:\n        -",
                &["dataplane.outbound_clients", "control plane"],
            ),
            ("controller:", "controller:\n      enforce_pqc: true", &["controller.enforce", "PQC"]),
            (
                "    node_id",
                "    auth: {type: shared_secret, secret: hush}\n    node_id",
                &["auth"],
            ),
            (
                "          keepalive",
                "          tsl: {}\n          keepalive",
                &["services.slim/0.dataplane.servers[0].tsl", "\"tls\""],
            ),
        ] {
            assert!(FULL.contains(from), "{from}");
            let error = parse(&FULL.replacen(from, to, 1)).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{to}: {error}");
            }
            assert!(!error.contains("hush"), "{error}");
        }
        for (text, part) in [
            ("", "0 documents"),
            ("5", "not a mapping"),
            ("services: {}", "at least one"),
            ("tracing: {}", "\"services\" is missing"),
            ("services: {slim/0: {dataplane: {}}}", "no server or client configured"),
            ("services: {slim/0: {5: 6}}", "a string is expected"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
