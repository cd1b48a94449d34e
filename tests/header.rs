//! The C header: what is committed is what cbindgen makes of `src/ffi`, and C and C++ compilers
//! take it. `SLIM_WRITE_HEADER=1` (`make header`) writes it instead of comparing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn generate() -> String {
    let config = cbindgen::Config::from_file(root().join("include/cbindgen.toml")).unwrap();
    // It follows the `mod` lines of this file, in their order.
    let builder =
        cbindgen::Builder::new().with_config(config).with_src(root().join("src/ffi/mod.rs"));
    let mut bytes = Vec::new();
    builder.generate().expect("src/ffi parses").write(&mut bytes);
    // The safety section is for Rust readers: for C the header itself is the promise.
    let text = String::from_utf8(bytes).unwrap();
    let text = text.replace("//\n// # Safety\n// As the header says.\n", "");
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn committed_header_is_the_generated_one() {
    let (path, text) = (root().join("include/slim.h"), generate());
    if std::env::var_os("SLIM_WRITE_HEADER").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "include/slim.h is out of date: run `make header`");
    assert!(text.is_ascii());
}

#[test]
fn every_function_is_declared_once() {
    let header = std::fs::read_to_string(root().join("include/slim.h")).unwrap();
    let code = header.lines().filter(|line| !line.trim_start().starts_with("//"));
    let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
    let called = words.iter().filter_map(|word| word.split_once('('));
    let mut names: Vec<&str> = called.map(|(name, _)| name.trim_start_matches('*')).collect();
    // The comment at the top speaks of `slim_..._free()`.
    names.retain(|name| name.starts_with("slim_") && !name.contains('.'));
    names.sort_unstable();
    assert!(names.len() > 20, "{names:?}");
    let mut source = Vec::new();
    for file in std::fs::read_dir(root().join("src/ffi")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let after = text.split("extern \"C\" fn ").skip(1);
        source.extend(after.map(|rest| rest.split('(').next().unwrap().to_owned()));
    }
    source.sort();
    assert_eq!(names, source);
}

/// Checklist of 08, item 3.
#[test]
fn lines_are_short_and_ascii() {
    let header = std::fs::read_to_string(root().join("include/slim.h")).unwrap();
    assert!(header.is_ascii());
    for line in header.lines() {
        assert!(line.len() <= 100 && !line.contains('\t'), "{line}");
    }
}

/// Checklist of 08, item 3: alone, and twice in one unit.
#[test]
fn compilers_take_the_header() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let use_it = "int main(void) {\n\
        slim_session_options a = SLIM_SESSION_OPTIONS_INIT;\n\
        slim_publish_options b = SLIM_PUBLISH_OPTIONS_INIT;\n\
        slim_session_fields c = SLIM_SESSION_FIELDS_INIT;\n\
        slim_message_fields d = SLIM_MESSAGE_FIELDS_INIT;\n\
        int e[] = {SLIM_VERSION_NUMBER, SLIM_VERSION_AT_LEAST(0, 0, 0), SLIM_WAIT_FOREVER};\n\
        return a.size && b.size && c.size && d.size && e[1] ? 0 : (int)sizeof SLIM_VERSION;\n}\n";
    let c = ["c99", "c11", "c2x"];
    let cpp = ["c++11", "c++14", "c++17", "c++20"];
    for (compiler, standards, extension) in
        [("cc", &c[..], "c"), ("clang", &c, "c"), ("c++", &cpp, "cc"), ("clang++", &cpp, "cc")]
    {
        if Command::new(compiler).arg("--version").output().is_err() {
            assert_ne!(compiler, "cc", "no C compiler");
            // Said also when all is well.
            let _ = writeln!(std::io::stderr(), "{compiler} is not there: the header is not tried");
            continue;
        }
        for (standard, times) in standards.iter().flat_map(|one| [(one, 1), (one, 2)]) {
            let file = dir.join(format!("header_{compiler}_{standard}_{times}.{extension}"));
            std::fs::write(&file, "#include \"slim.h\"\n".repeat(times) + use_it).unwrap();
            let status = Command::new(compiler)
                .arg(format!("-std={standard}"))
                .args(["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"])
                .arg("-fsyntax-only")
                .arg("-I")
                .arg(root().join("include"))
                .arg(&file)
                .status()
                .unwrap();
            assert!(status.success(), "{compiler} -std={standard}, included {times} times");
        }
    }
}
