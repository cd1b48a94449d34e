//! The C interface, used from C: each program in `tests/capi` is compiled, linked with the library
//! that was just built, and run, also under valgrind where that is there. Its first lines say what
//! it shows. `SLIM_SOAK=1` has some of them do more.
#![cfg(target_os = "linux")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Programs end in a few seconds; under valgrind, on a busy machine, or with SLIM_SOAK it takes
/// longer.
const TIMEOUT_SECS: &str = "600";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A directory with the library under the names that a linker and a loader look for.
fn library() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        // Cargo puts it beside the test programs; what lies one level higher may be older.
        let built = std::env::current_exe().unwrap().with_file_name("libslim.so");
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("capi");
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["libslim.so", "libslim.so.0"] {
            let _ = std::fs::remove_file(dir.join(name));
            std::os::unix::fs::symlink(&built, dir.join(name)).unwrap();
        }
        dir
    })
}

fn compile(name: &str) -> PathBuf {
    let (dir, program) = (library(), library().join(name));
    let status = Command::new("cc")
        .args(["-std=c11", "-g", "-O1", "-pthread"])
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"])
        .arg("-I")
        .arg(root().join("include"))
        .arg(root().join(format!("tests/capi/{name}.c")))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(dir)
        .args(["-lslim", &format!("-Wl,-rpath,{}", dir.display())])
        .status()
        .expect("cc");
    assert!(status.success(), "tests/capi/{name}.c does not compile");
    program
}

/// What a command, whose first words are given, printed; it ended with this status.
fn output(command: &[&str], wanted: i32) -> Output {
    let mut started = Command::new("timeout");
    started.args(["--kill-after=5", TIMEOUT_SECS]).args(command).env_remove("SLIM_LOG");
    // Cargo's has a directory where an older library may be.
    started.env("LD_LIBRARY_PATH", library());
    if command[0] == "valgrind" {
        started.env_remove("SLIM_SOAK").env("SLIM_TEST_SLOWNESS", "50");
    } else {
        started.env("SLIM_TEST_SLOWNESS", "4");
    }
    let said = started.output().expect("timeout");
    let code = said.status.code();
    assert_ne!(code, Some(124), "hung, and was killed after {TIMEOUT_SECS} s: {command:?}");
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(code, Some(wanted), "{command:?}: {}\n{text}", said.status);
    said
}

/// Says it also when all is well, which what is printed with macros does not.
fn left_out(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

fn has_valgrind() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = Command::new("valgrind").arg("--version").output().is_ok();
        if !found {
            left_out("valgrind is not there: the C programs run without it");
        }
        found
    })
}

/// Runs a program in both ways; nothing is printed when all is well.
fn run_with(program: &Path, arguments: &[&str], wanted: i32) {
    let program = program.to_str().unwrap();
    let quiet = |said: Output| {
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(text.is_empty(), "{program} {arguments:?} printed {text}");
    };
    quiet(output(&[&[program], arguments].concat(), wanted));
    if has_valgrind() {
        let valgrind = [
            "valgrind",
            "--error-exitcode=9",
            "--leak-check=full",
            "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite",
            "-q",
        ];
        quiet(output(&[&valgrind[..], &[program], arguments].concat(), wanted));
    }
}

fn run(name: &str) {
    run_with(&compile(name), &[], 0);
}

#[test]
fn null_pointers() {
    run("nulls");
}

#[test]
fn statuses() {
    // Releases have no bug to be provoked.
    let arguments: &[&str] = if cfg!(debug_assertions) { &["bug"] } else { &[] };
    run_with(&compile("statuses"), arguments, 0);
}

#[test]
fn options() {
    run("options");
}

#[test]
fn lifetimes() {
    run("lifetimes");
}

#[test]
fn descriptors() {
    run("descriptor");
}

#[test]
fn operations() {
    run("op");
}

#[test]
fn events() {
    run("events");
}

#[test]
fn group() {
    run("group");
}

#[test]
fn fork() {
    run("fork");
}

#[test]
fn spec05_20_encryption() {
    run("encryption");
}

#[test]
fn signals() {
    run("signals");
}

#[test]
fn log() {
    run("log");
}

/// Checklist of 08, item 20.
#[test]
fn a_program_may_end_with_a_live_node() {
    let program = compile("exits");
    for way in ["return", "exit", "_exit", "thread"] {
        run_with(&program, &[way], 7);
    }
}

/// Checklist of 08, item 4.
#[test]
fn macros() {
    let source = read("tests/capi/macros.c");
    for line in read("include/slim.h").lines() {
        let Some(rest) = line.strip_prefix("#define SLIM_") else { continue };
        let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
        let used = source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = format!("SLIM_{name}");
        assert!(name == "SLIM_H" || used.clone().any(|word| word == name), "{name} is not used");
    }
    let program = compile("macros");
    let printed = output(&[program.to_str().unwrap()], 0).stdout;
    assert_eq!(String::from_utf8(printed).unwrap().trim_end(), env!("CARGO_PKG_VERSION"));
}

/// What compiled programs rely on. `SLIM_WRITE_LAYOUT=1` records it anew.
#[test]
#[cfg(target_pointer_width = "64")]
fn layout() {
    let (header, source) = (read("include/slim.h"), read("tests/capi/layout.c"));
    let code = || header.lines().filter(|line| !line.trim_start().starts_with("//"));
    for line in code() {
        // Fields, and constants of enums.
        let field = line.strip_prefix("    ").and_then(|line| line.strip_suffix(';'));
        let field = field.and_then(|line| line.rsplit([' ', '*']).next());
        let constant = line.strip_prefix("    SLIM_").and_then(|line| line.split_once(" = "));
        let wanted = match (field, constant) {
            (Some(field), _) if !field.contains(')') => format!(", {field});"),
            (_, Some((constant, _))) => format!("NUMBER(SLIM_{constant});"),
            _ => continue,
        };
        assert!(source.contains(&wanted), "tests/capi/layout.c does not have {wanted}");
    }
    let program = compile("layout");
    let printed = output(&[program.to_str().unwrap()], 0).stdout;
    let printed = String::from_utf8(printed).unwrap();
    if std::env::var_os("SLIM_WRITE_LAYOUT").is_some() {
        std::fs::write(root().join("tests/capi/layout.txt"), &printed).unwrap();
    }
    assert_eq!(printed, read("tests/capi/layout.txt"), "the layout has changed");
    // What `abi` compares, where its tools are, has the same structs with the same fields.
    let recorded = read("tests/capi/libslim.abi");
    for line in printed.lines() {
        let mut words = line.split_whitespace();
        let (name, number) = (words.next().unwrap(), words.next().unwrap());
        let wanted = match (line.starts_with("slim_"), line.starts_with("    ")) {
            (true, _) if name == "slim_status" => "enum-decl".to_owned(),
            (true, _) => format!("size-in-bits='{}'", 8 * number.parse::<usize>().unwrap()),
            (_, true) => String::new(),
            _ => continue,
        };
        let named = |line: &str| line.contains(&format!("name='{name}'")) && line.contains(&wanted);
        assert!(recorded.lines().any(named), "tests/capi/libslim.abi is out of date: {line}");
    }
}

/// Lists of all functions and statuses are complete.
#[test]
fn nothing_of_the_header_is_left_out() {
    let tests = |program: &str| read(&format!("tests/capi/{program}.c"));
    let (nulls, fork, statuses) =
        (tests("nulls"), tests("fork") + &read("tests/capi/check.h"), tests("statuses"));
    // These take no handle.
    let free = ["version", "version_number", "build_info", "status_name", "last_error", "log_set"];
    for name in declared() {
        if free.iter().any(|free| name == format!("slim_{free}")) {
            continue;
        }
        assert!(nulls.contains(&format!("{name}(")), "nulls.c does not call {name}");
        assert!(fork.contains(&format!("{name}(")), "fork.c does not call {name}");
    }
    for line in read("include/slim.h").lines() {
        let status = line.trim().split_once(" = ").map(|(name, _)| name);
        let status = status.filter(|name| *name == "SLIM_OK" || name.starts_with("SLIM_ERR_"));
        let listed = status.is_none_or(|name| statuses.contains(&format!("NAMED({name})")));
        assert!(listed, "statuses.c does not have {status:?}");
    }
}

/// A library in C with the functions and types of a header, which do nothing. `abidw` finds in our
/// own only what Rust says of its types, and that of all crates.
fn stand_in(name: &str, header: &str) -> PathBuf {
    let dir = library().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let code = without_comments(header);
    let mut source = "#include \"slim.h\"\n".to_owned();
    for declared in code.split("\nSLIM_API").skip(1) {
        let declared = declared.split(';').next().unwrap();
        source += &format!("{} {{ __builtin_trap(); }}\n", declared.replace("SLIM_CHECKED", ""));
    }
    std::fs::write(dir.join("slim.h"), header).unwrap();
    std::fs::write(dir.join("slim.c"), source).unwrap();
    let mut cc = Command::new("cc");
    cc.current_dir(&dir).args(["-g", "-O0", "-shared", "-fPIC", "-Wl,-soname,libslim.so.0"]);
    let status = cc.args(["-o", "libslim.so", "slim.c"]).status().expect("cc");
    assert!(status.success(), "{name}: the header's functions do not compile");
    dir.join("libslim.so")
}

/// Checklist of 08, item 26: no type and no function has changed in a way that a compiled program
/// would notice, and none is new. `SLIM_WRITE_LAYOUT=1` records them anew.
#[test]
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
fn abi() {
    if Command::new("abidiff").arg("--version").output().is_err() {
        return left_out("abidiff is not there: the recorded ABI is not compared");
    }
    let header = read("include/slim.h");
    let recorded = root().join("tests/capi/libslim.abi");
    let ours = stand_in("abi", &header);
    assert_eq!(exported(&ours), declared());
    if std::env::var_os("SLIM_WRITE_LAYOUT").is_some() {
        let paths = ["--no-corpus-path", "--no-comp-dir-path", "--no-show-locs"];
        let mut abidw = Command::new("abidw");
        abidw.args(paths).arg("--out-file").arg(&recorded).arg(&ours);
        assert!(abidw.status().unwrap().success());
    }
    let differs = |library: &Path| {
        let mut abidiff = Command::new("abidiff");
        let said = abidiff.args(["--no-show-locs"]).arg(&recorded).arg(library).output().unwrap();
        (said.status.code().unwrap(), String::from_utf8_lossy(&said.stdout).into_owned())
    };
    assert_eq!(differs(&ours), (0, String::new()));
    // And it would be noticed: bit 2 says that something differs, bit 0 that it went wrong.
    for (what, from, to) in [
        ("a field", "    int32_t max_retries;", "    int64_t max_retries;"),
        (
            "an order",
            "    int32_t kind;\n    int32_t delivery;",
            "    int32_t delivery;\n    int32_t kind;",
        ),
        ("a parameter", "uint64_t *connection);", "uint32_t *connection);"),
        ("a number", "SLIM_ERR_TIMEOUT = -4,", "SLIM_ERR_TIMEOUT = -40,"),
        ("a function", "SLIM_API void slim_op_free(slim_op *op);", ""),
    ] {
        let plain = without_comments(&header);
        assert!(plain.contains(from), "the header has no {from:?}");
        let changed = plain.replacen(from, to, 1);
        let (code, text) = differs(&stand_in("abi-changed", &changed));
        assert!(code & 4 != 0 && code & 3 == 0, "{what}: {code} {text}");
    }
}

fn without_comments(header: &str) -> String {
    let code = header.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.map(|line| format!("{line}\n")).collect()
}

/// The functions that the header declares.
fn declared() -> Vec<String> {
    let header = read("include/slim.h");
    let code = header.lines().filter(|line| !line.trim_start().starts_with(['/', '*']));
    let words: Vec<&str> = code.flat_map(str::split_whitespace).collect();
    let called = words.iter().filter_map(|word| word.split_once('('));
    let names = called.map(|(name, _)| name.trim_start_matches('*').to_owned());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("slim_")).collect();
    names.sort_unstable();
    names
}

fn tool(command: &[&str]) -> String {
    let said = Command::new(command[0]).args(&command[1..]).output();
    let said = said.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(said.status.success(), "{command:?}");
    String::from_utf8(said.stdout).unwrap()
}

/// The functions that a library exports.
fn exported(library: &Path) -> Vec<String> {
    let listed = tool(&["nm", "-D", "--defined-only", library.to_str().unwrap()]);
    let names = listed.lines().filter_map(|line| line.split_whitespace().nth(2));
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// Checklist of 08, item 2.
#[test]
fn the_library_exports_the_functions_of_the_header() {
    let exported = exported(&library().join("libslim.so"));
    assert!(exported.len() > 40, "{exported:?}");
    assert_eq!(exported, declared());
}

/// Checklist of 08, item 2.
#[test]
fn the_library_says_what_it_needs() {
    let path = library().join("libslim.so");
    let listed = tool(&["readelf", "-dW", path.to_str().unwrap()]);
    let (mut needed, mut soname, mut flags) = (Vec::new(), "", Vec::new());
    for line in listed.lines() {
        let value = || line.split(['[', ']']).nth(1).unwrap_or_default();
        match line.split(['(', ')']).nth(1) {
            Some("NEEDED") => needed.push(value()),
            Some("SONAME") => soname = value(),
            Some("FLAGS" | "FLAGS_1") => flags.extend(line.split_whitespace().skip(2)),
            Some("RPATH" | "RUNPATH") => panic!("{line}"),
            _ => {}
        }
    }
    assert_eq!(soname, "libslim.so.0");
    for library in needed {
        let known = ["libc.so.", "libgcc_s.so.", "libm.so.", "ld-linux"];
        assert!(known.iter().any(|known| library.starts_with(known)), "{library} is needed, too");
    }
    for flag in ["NODELETE", "NOW"] {
        assert!(flags.contains(&flag), "{flag} is not among {flags:?}");
    }
}
