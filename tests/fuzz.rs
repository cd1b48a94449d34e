//! The fuzz targets on everything that fuzzers were started from (the recorded vectors) and have
//! found (`tests/fuzz/corpus`). `make fuzz` looks for more; with SLIM_FUZZ_SEEDS=FOLDER the seeds
//! are written there for it.

#[path = "fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message as _;
use serde_json::Value;
use slim::grpc;
use slim::http2::Connection;
use slim::wire::{Message, MessageType};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn target(name: &str) -> targets::Target {
    let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no target {name}")).1
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = read.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Every text of hexadecimal digits under the keys `wanted` of a JSON value, as bytes.
fn hex_values(value: &Value, wanted: &[&str], found: &mut Vec<Vec<u8>>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().filter(|_| wanted.contains(&key.as_str())) {
                    Some(text) => found.extend(hex(text)),
                    None => hex_values(value, wanted, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| hex_values(item, wanted, found)),
        _ => {}
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// All JSON of the vectors under `folder`, lines of traces included.
fn vectors(folder: &str) -> Vec<(String, Vec<Value>)> {
    let mut all = Vec::new();
    for path in files(&root().join("tests/vectors").join(folder)) {
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_owned();
        let name = path.file_stem().and_then(|e| e.to_str()).unwrap_or("").to_owned();
        let read = || std::fs::read_to_string(&path).unwrap();
        match kind.as_str() {
            "json" => all.push((name, vec![serde_json::from_str(&read()).unwrap()])),
            "jsonl" => {
                let text = read();
                let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
                all.push((name, lines.collect()));
            }
            _ => {}
        }
    }
    all
}

/// Recorded messages, each kind and length once.
fn recorded_messages() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for folder in ["session", "routing", "transport", "identity"] {
        for (_, values) in vectors(folder) {
            let keys = ["hex", "message", "message_hex", "negotiation_request"];
            values.iter().for_each(|value| hex_values(value, &keys, &mut found));
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|bytes| {
        let decoded = Message::decode(&bytes[..]);
        decoded.is_ok_and(|message| {
            let kind = match &message.message_type {
                Some(MessageType::Publish(publish)) => {
                    publish.session.as_ref().map(|s| (s.session_type, s.session_message_type))
                }
                _ => None,
            };
            seen.insert((kind, bytes.len()))
        })
    });
    found
}

/// What Alice's side of a recorded conversation sends, addressed to the app of the target.
fn recorded_conversations() -> Vec<Vec<u8>> {
    let bob = targets::app_name().to_wire();
    let mut all = Vec::new();
    for (_, lines) in vectors("session") {
        let mut input = Vec::new();
        for line in lines.iter().filter(|line| line["link"] == "alice->node") {
            let bytes = line["hex"].as_str().and_then(hex).expect("a recorded message");
            let mut message = Message::decode(&bytes[..]).expect("a recorded message");
            match &mut message.message_type {
                Some(MessageType::Publish(publish)) => {
                    if let Some(header) = &mut publish.header {
                        header.destination = Some(bob.clone());
                    }
                }
                Some(MessageType::Subscribe(_)) => {}
                _ => continue,
            }
            let bytes = message.encode_to_vec();
            input.push(0);
            input.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
            input.extend_from_slice(&bytes);
            if input.len() > 8192 {
                break;
            }
            // Now and then half a second passes, or the app answers, or opens a session itself.
            match input.len() % 7 {
                0 => input.push(129),
                1 => input.push(192),
                2 => input.push(199),
                _ => {}
            }
        }
        all.push(input);
    }
    all
}

/// The messages of which it is recorded what a node makes of them (spec 02 checklist 8), for the
/// target: each alone, and all in a row.
fn recorded_verdicts() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for (_, values) in vectors("routing") {
        values.iter().for_each(|value| hex_values(&value["validate"], &["hex"], &mut found));
    }
    let told =
        |bytes: &Vec<u8>| [&[0][..], &(bytes.len() as u16).to_le_bytes(), &bytes[..]].concat();
    let mut all: Vec<Vec<u8>> = found.iter().map(told).collect();
    all.push(all.concat());
    all
}

fn in_frames(messages: &[&[u8]]) -> Vec<u8> {
    let mut stream = Vec::new();
    for bytes in messages {
        let mark = grpc::begin_message(&mut stream);
        stream.extend_from_slice(bytes);
        grpc::end_message(&mut stream, mark);
    }
    stream
}

/// What both sides of an HTTP/2 connection write: negotiation, such a message, and an end.
fn on_http2(message: &[u8], end: bool) -> [Vec<u8>; 2] {
    let head = grpc::request_head("http", "h:1", "seed", &[]);
    let head: Vec<(&str, &str)> = head.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let (mut client, mut server) = (Connection::client(&head), Connection::server());
    let (mut to_server, mut to_client) = (vec![0, 1], vec![1, 1]);
    for round in 0..4 {
        match round {
            1 => server.respond(&grpc::response_head(), false),
            2 => {
                client.send(&in_frames(&[&targets::negotiation(false), message]));
                server.send(&in_frames(&[&targets::negotiation(true), message]));
            }
            3 if end => {
                client.finish(None);
                let trailers = grpc::status_trailers(0, "");
                let trailers: Vec<_> = trailers.iter().map(|(a, b)| (&a[..], &b[..])).collect();
                server.finish(Some(&trailers));
            }
            _ => client.ping(*b"12345678"),
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        client.write_output(&mut a, 1 << 20).unwrap();
        server.receive(&a, &mut Vec::new()).unwrap();
        server.write_output(&mut b, 1 << 20).unwrap();
        client.receive(&b, &mut Vec::new()).unwrap();
        to_server.extend(a);
        to_client.extend(b);
    }
    [to_server, to_client]
}

/// What fuzzers of a target start from.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let tagged = |tag: u8, text: &str| [&[tag], text.as_bytes()].concat();
    match target {
        "message" | "view" => recorded_messages(),
        "node" => recorded_conversations().into_iter().chain(recorded_verdicts()).collect(),
        "grpc" => {
            let messages = recorded_messages();
            let short: Vec<&[u8]> = messages.iter().take(3).map(|m| &m[..]).collect();
            vec![[vec![1], in_frames(&short)].concat(), tagged(2, "caf\u{e9} 100%25 %zz")]
        }
        "http2" => {
            let messages = recorded_messages();
            let publish = messages.iter().find(|m| m.first() == Some(&0x1a)).unwrap();
            [true, false].iter().flat_map(|end| on_http2(publish, *end)).collect()
        }
        "name" => {
            let mut found: Vec<Vec<u8>> =
                ["org/ns/app", "NULL_COMPONENT", " a / b/c /NULL_COMPONENT"]
                    .iter()
                    .map(|text| text.as_bytes().to_vec())
                    .collect();
            found.push(b"org/ns/app/8c09d3ab-1f80-4d1c-8b0a-0c0de5ca1ab1".to_vec());
            for (_, values) in vectors("routing") {
                let keys = ["name_message_hex", "name_id_message_hex"];
                values.iter().for_each(|value| hex_values(value, &keys, &mut found));
            }
            found
        }
        "token" => {
            let mut found = Vec::new();
            for (_, values) in vectors("identity") {
                for token in values.iter().filter_map(|v| v["tokens"].as_array()).flatten() {
                    let Some(text) = token["token"].as_str() else { continue };
                    found.push(tagged(0, text));
                    let signed = text.rsplit_once(':').map_or(text, |(message, _)| message);
                    let secs = targets::UNIX_SECS.to_string();
                    found.push(tagged(1, &signed.replace("1760000000", &secs)));
                }
                values.iter().for_each(|value| {
                    let mut keys = Vec::new();
                    hex_values(value, &["public_hex"], &mut keys);
                    found
                        .extend(keys.into_iter().map(|key| [vec![2], key, vec![0x30, 6]].concat()));
                });
            }
            found
        }
        "config" => vec![
            tagged(0, "http://127.0.0.1:46357"),
            tagged(0, "[::1]:46357"),
            tagged(0, CLIENT),
            tagged(1, "127.0.0.1:0"),
            tagged(1, SERVER),
            tagged(2, r#"{"node_id": "n", "domain_name": "d", "default_gateway": "off"}"#),
            tagged(3, IDENTITY),
            tagged(4, NODE),
            tagged(
                4,
                &format!(
                    r#"{{"services": {{"slim/0": {{"dataplane": {{"servers": [{SERVER}],
                "clients": [{CLIENT}]}}}}}}}}"#
                ),
            ),
        ],
        other => panic!("no seeds for {other}"),
    }
}

const CLIENT: &str = r#"{"endpoint": "http://node.example:46357", "tls": {"insecure": true},
    "connection_type": "remote", "link_id": "x", "headers": {"A": "b"}, "connect_timeout": "1s 5ms",
    "backoff": {"type": "exponential", "base": 100, "factor": 2, "max_delay": "10s", "jitter": true,
    "max_attempts": 5}, "keepalive": {"tcp_keepalive": "60s", "http2_keepalive": "60s",
    "timeout": "10s"}, "require_header_mac": false, "metadata": {"a": [1, -1.5e3, null]}}"#;
const SERVER: &str = r#"{"endpoint": "[::1]:46357", "tls": {"insecure": true}, "auth": "none",
    "keepalive": {"time": "2h", "timeout": "20s", "max_connection_idle": "1d"},
    "negotiation_timeout_secs": 7, "http2_only": true, "max_frame_size": 4}"#;
const IDENTITY: &str = r#"{"provider": {"type": "shared_secret", "id": "me", "data": "s"},
    "verifier": {"type": "shared_secret", "data": "s"}}"#;
const NODE: &str = "
tracing: {log_level: debug, filters: [a]}
runtime: {drain_timeout: 1m 30s}
services:
  slim/0:
    node_id: ${file:/i}
    dataplane:
      servers:
        - &s
          endpoint: ${env:AB}
          tls: {insecure: true}
        - *s
      clients: [{endpoint: 'http://h:1', backoff: {type: fixed_interval, interval: 2s}}]
";

#[test]
fn what_fuzzers_start_from() {
    for (name, _) in targets::TARGETS {
        let (seeds, run) = (seeds(name), target(name));
        assert!(seeds.len() > 1, "{name} has no seeds");
        for seed in &seeds {
            run(seed);
        }
        if let Some(folder) = std::env::var_os("SLIM_FUZZ_SEEDS") {
            let folder = Path::new(&folder).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for (at, seed) in seeds.iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{at}")), seed).unwrap();
            }
        }
    }
}

#[test]
fn what_fuzzers_have_found() {
    for (name, _) in targets::TARGETS {
        let inputs = files(&root().join("tests/fuzz/corpus").join(name));
        assert!(!inputs.is_empty(), "{name}: nothing is committed");
        for input in inputs {
            // The name of the last file is in the output when a target panics.
            println!("{}", input.display());
            target(name)(&std::fs::read(&input).unwrap());
        }
    }
}
