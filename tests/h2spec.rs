//! h2spec, the conformance suite of HTTP/2, against `slim node`.
//!
//! What it holds against us stands in [`FAILURES`], each with its reason: a new failure, and one
//! that does not fail any more, both fail this test. `make test` builds h2spec where Go is there;
//! elsewhere one line says that it was left out, except with `CI=true`, where that is a failure.

#[path = "interop/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::Command;

use support::{root, Process};

/// The published node passes 136 with the first path (spec 08 section 4.1).
const MUST_PASS: usize = 136;

/// Cases that fail, as `package/number`.
const FAILURES: &[(&str, &str)] = &[
    (
        "generic/2/2",
        "wants DATA in the answer; ours is trailers alone, as gRPC has it. The published node fails \
         it, too",
    ),
    ("generic/2/3", "the same"),
    (
        "http2/5.3.1/2",
        "PRIORITY of a stream that depends on itself: an error in RFC 7540; RFC 9113 section 5.3.2 \
         has no priorities any more, and nghttp2 does not look at them",
    ),
    (
        "http2/6.9.1/3",
        "a stream's window above 2^31-1: nghttp2 ends the connection (GOAWAY FLOW_CONTROL_ERROR) \
         where RST_STREAM is expected. RFC 9113 section 5.4.1 allows it, and a connection of ours \
         has no other stream",
    ),
];

/// Cases that fail or not, by what arrives together.
const UNDECIDED: &[(&str, &str)] = &[
    (
        "generic/3.4/1",
        "wants a PING answered after RST_STREAM: a link ends with its stream and its connection \
         with the link, so that a PING is answered only when it comes with the RST_STREAM",
    ),
    ("generic/2/4", "the same"),
    ("http2/7/2", "the same"),
];

/// Cases that h2spec skips: it wants a response with content.
const SKIPPED: &[&str] = &["http2/6.5.3/1", "http2/6.9.1/1", "http2/6.9.2/1", "http2/6.9.2/2"];

/// A path that is refused, and a link that is opened and never negotiates; with what fails there
/// besides.
const PATHS: &[(&str, &[(&str, &str)])] = &[
    ("/", &[]),
    (
        slim::grpc::PATH,
        &[(
            "generic/2/5",
            "wants a PING answered after the stream has ended: our GOAWAY follows the end of a link, \
             since one connection is one link, and then there is nothing left to answer for",
        )],
    ),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Passed,
    Skipped,
    Failed,
}

#[test]
fn h2spec_finds_what_is_listed_and_nothing_else() {
    let program = root().join("target/h2spec/h2spec");
    if !program.exists() {
        let text = "h2spec is not there (`make test` builds it where Go is installed): left out";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
        return eprintln!("{text}");
    }
    let (node, port) = support::node(&mut support::slim());
    std::thread::scope(|scope| {
        for (at, (path, besides)) in PATHS.iter().enumerate() {
            let mut command = Command::new(&program);
            let report = root().join(format!("target/h2spec/{}-{at}.xml", std::process::id()));
            command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-P", path]);
            // A refused peer has 2 s to leave; h2spec waits longer than that for the end.
            command.args(["-o", "4", "-j"]).arg(&report);
            scope.spawn(move || {
                let mut h2spec = Process::start("h2spec", &mut command);
                // It exits with 1 when a case fails.
                h2spec.wait();
                let text = std::fs::read_to_string(&report).unwrap();
                std::fs::remove_file(&report).unwrap();
                check(path, besides, &outcomes(&text), &h2spec.output());
            });
        }
    });
    drop(node);
}

fn check(path: &str, besides: &[(&str, &str)], outcomes: &BTreeMap<String, Outcome>, output: &str) {
    let with = |wanted| -> Vec<&str> {
        let found = outcomes.iter().filter(|(_, outcome)| **outcome == wanted);
        found.map(|(case, _)| case.as_str()).collect()
    };
    let mut expected: Vec<&str> = FAILURES.iter().chain(besides).map(|(case, _)| *case).collect();
    expected.sort_unstable();
    let mut failed = with(Outcome::Failed);
    failed.retain(|case| UNDECIDED.iter().all(|(undecided, _)| undecided != case));
    assert_eq!(failed, expected, "failures with {path}\n{output}");
    assert_eq!(with(Outcome::Skipped), SKIPPED, "skipped with {path}\n{output}");
    let passed = with(Outcome::Passed).len();
    let enough = passed >= MUST_PASS || path != PATHS[0].0;
    assert!(enough, "{passed} of {} passed with {path}\n{output}", outcomes.len());
    eprintln!("h2spec {path}: {passed} of {} passed", outcomes.len());
}

/// Reads h2spec's report (JUnit's form): cases are numbered in each package.
fn outcomes(report: &str) -> BTreeMap<String, Outcome> {
    let mut found = BTreeMap::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for case in report.split("<testcase ").skip(1) {
        let package = case.split('"').nth(1).unwrap();
        let body = case.split("</testcase>").next().unwrap();
        let number = numbers.entry(package).or_default();
        *number += 1;
        let outcome = match (body.contains("<error>"), body.contains("<skipped>")) {
            (true, _) => Outcome::Failed,
            (_, true) => Outcome::Skipped,
            _ => Outcome::Passed,
        };
        assert!(!body.contains("<failure"), "{body}");
        found.insert(format!("{package}/{number}"), outcome);
    }
    found
}
