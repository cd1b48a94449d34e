//! Rules about the tree that a reader should be able to rely on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

/// A file without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let tests = ["mod tests {", "pub(crate) mod tests {"].map(|m| format!("#[cfg(test)]\n{m}"));
    let end = tests.iter().filter_map(|tests| text.find(tests)).min();
    text[..end.unwrap_or(text.len())].to_owned()
}

#[test]
fn the_core_reads_nothing_of_the_world_by_itself() {
    let words = [
        "std::net",
        "mio::",
        "std::thread",
        "thread::",
        "Instant::now",
        "SystemTime",
        "std::env",
        "env::var",
        "std::fs",
        "std::io",
        "File::",
    ];
    let folders = ["wire", "http2", "link", "router", "session", "identity", "mls", "node"];
    let mut files: Vec<PathBuf> =
        folders.iter().flat_map(|f| rust_files(&root().join("src").join(f))).collect();
    files.push(root().join("src/grpc.rs"));
    files.push(root().join("src/name.rs"));
    for file in files.iter().filter(|f| !is_test(f)) {
        for word in words {
            assert!(!code(file).contains(word), "{} has {word}", file.display());
        }
    }
}

#[test]
fn unsafe_stands_only_where_c_is_called() {
    for file in rust_files(&root().join("src")) {
        let name = file.strip_prefix(root().join("src")).unwrap().to_owned();
        let allowed = [
            "ffi",
            "http2",
            "bin/slim/node.rs",
            "bin/slim/ending.rs",
            "driver/event_loop.rs",
            "driver/fork.rs",
            "driver/socket.rs",
            "driver/wakeup.rs",
            "logging.rs",
        ];
        if allowed.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        assert!(!code(&file).contains("unsafe {"), "{}", name.display());
    }
}

#[test]
fn no_shortcuts_in_the_library() {
    let words = ["todo!(", "unimplemented!(", "dbg!(", ".unwrap()", "panic!("];
    for file in rust_files(&root().join("src")) {
        if is_test(&file) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not say what it is for", file.display());
        for word in words {
            assert!(!code(&file).contains(word), "{} has {word}", file.display());
        }
    }
    for file in rust_files(&root().join("src/bin")) {
        // It panics when nobody reads any more; eprintln! has the same letters.
        assert!(!code(&file).contains("println!("), "{} prints by itself", file.display());
    }
}

/// The words that stand in brackets and quotes: in `src/config` these are the keys.
fn listed(path: &Path) -> BTreeSet<String> {
    let starts = |line: &str, with| line.trim_start().starts_with(with);
    let text = code(path);
    let lines = text.lines().filter(|line| !starts(line, "//") && !starts(line, "#["));
    let mut text: String = lines.fold(String::new(), |text, line| text + line + "\n");
    for quoted in ["'['", "']'", "'\"'", "\\\""] {
        text = text.replace(quoted, "");
    }
    let in_key = |c| matches!(c, 'a'..='z' | '0'..='9' | '_');
    let (mut found, mut open) = (BTreeSet::new(), 0);
    for (at, piece) in text.split('"').enumerate() {
        if at % 2 == 0 {
            open += piece.matches('[').count();
            open -= piece.matches(']').count();
        } else if open > 0 && piece.chars().all(in_key) {
            found.insert(piece.to_owned());
        }
    }
    found
}

#[test]
fn every_key_of_the_configuration_is_documented_and_no_other() {
    let text = std::fs::read_to_string(root().join("include/slim-config.md")).unwrap();
    for (file, sections) in [
        ("node", &["Node"][..]),
        ("server", &["Server"]),
        ("client", &["Client", "TLS"]),
        ("identity", &["Identity"]),
    ] {
        let parts = text.split("\n## ").filter(|part| sections.iter().any(|s| part.starts_with(s)));
        let rows = parts.flat_map(|part| part.lines().filter_map(|l| l.strip_prefix("| `")));
        let documented: BTreeSet<String> =
            rows.map(|row| row.split('`').next().unwrap().to_owned()).collect();
        let path = root().join("src/config").join(file).with_extension("rs");
        let known = listed(&path);
        assert!(known.len() > 2, "{file}: {known:?}");
        assert_eq!(known, documented, "src/config/{file}.rs and include/slim-config.md");
    }
}

/// Lines of `cargo tree`: everything that is linked in, or makes what is.
fn tree(format: &str) -> Vec<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "-e", "normal", "--prefix", "none", "--no-dedupe", "--offline"])
        .args(["--features", "cli", "--format", format])
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    assert!(tree.contains("mio v"), "cargo tree gave nothing");
    let mut lines: Vec<String> =
        tree.lines().map(|line| line.replace(" (proc-macro)", "")).collect();
    lines.sort();
    lines.dedup();
    lines
}

#[test]
fn no_async_runtime_in_the_tree() {
    for line in tree("{p}") {
        let name = line.split(' ').next().unwrap();
        let runtime = ["tokio", "async-std", "smol"].contains(&name) || name.starts_with("futures");
        assert!(!runtime, "{line}");
    }
}

/// With SLIM_WRITE_THIRD_PARTY it is written anew.
#[test]
fn third_party_lists_what_is_linked_in() {
    const HEAD: &str = "crate                    version          licence\n";
    let path = root().join("THIRD-PARTY");
    let text = std::fs::read_to_string(&path).unwrap();
    let (words, listed) = text.split_once(HEAD).expect("the table");
    let mut lines = Vec::new();
    for line in tree("{p}|{l}") {
        let (package, licence) = line.split_once('|').unwrap();
        let (name, version) = package.split_once(" v").unwrap();
        assert!(!licence.is_empty(), "{name} has no licence");
        // Ours stands with its folder.
        if !version.contains(' ') {
            lines.push(format!("{name:<24} {version:<16} {licence}\n"));
        }
    }
    if std::env::var_os("SLIM_WRITE_THIRD_PARTY").is_some() {
        std::fs::write(path, format!("{words}{HEAD}{}", lines.concat())).unwrap();
    } else {
        assert_eq!(listed, lines.concat(), "make third-party");
    }
}

#[test]
fn every_limit_is_tested_by_its_name() {
    let limits = std::fs::read_to_string(root().join("src/limits.rs")).unwrap();
    let names: Vec<&str> = limits
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    assert!(names.len() > 50, "{names:?}");
    let mut tests = String::new();
    for file in rust_files(&root().join("tests")) {
        if !file.ends_with("tests/tidy.rs") {
            tests.push_str(&std::fs::read_to_string(file).unwrap());
        }
    }
    for file in rust_files(&root().join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        tests.push_str(match is_test(&file) {
            true => &text,
            false => &text[code(&file).len()..],
        });
    }
    // What stands in a string names nothing.
    let tests: String = tests.lines().filter(|line| !line.contains("\"limits::")).collect();
    for name in names {
        let path = format!("limits::{name}");
        let whole = |rest: &str| !rest.starts_with(|c: char| c == '_' || c.is_alphanumeric());
        let named = tests.split(&path).skip(1).any(whole);
        assert!(named, "{name}: no test names it");
    }
}
