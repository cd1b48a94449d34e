//! What `make install` puts into a system: the examples are built against it with nothing but
//! `pkg-config slim`, shared and static, and talk; `make uninstall` leaves nothing.
#![cfg(target_os = "linux")]

#[path = "interop/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{node, root, Process, SECRET};

/// Runs a command that must succeed; gives what it printed, both streams.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?}:\n{text}");
    text
}

fn make() -> Command {
    let mut command = Command::new("make");
    // Not those of a `make test` that runs this.
    for name in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DESTDIR", "PREFIX"] {
        command.env_remove(name);
    }
    command.args(["-s", "-C"]);
    command
}

/// Where it was installed. It is large, so it goes with the test.
struct Installed(PathBuf);

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn files(under: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path.display().to_string()),
        }
    }
    found.sort();
    found
}

#[test]
fn a20_installed_is_enough_for_shared_and_static_programs() {
    let dir = Installed(Path::new(env!("CARGO_TARGET_TMPDIR")).join("install"));
    let _ = std::fs::remove_dir_all(&dir.0);
    let (built, dest) = (dir.0.join("built"), dir.0.join("dest"));
    std::fs::create_dir_all(&built).unwrap();
    let deps = std::env::current_exe().unwrap();
    for name in ["libslim.so", "libslim.a"] {
        std::os::unix::fs::symlink(deps.with_file_name(name), built.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_slim"), built.join("slim")).unwrap();
    let place = |command: &mut Command| {
        command
            .arg(root())
            .arg(format!("BUILT={}", built.display()))
            .arg(format!("DESTDIR={}", dest.display()))
            .arg("PREFIX=/opt/slim");
    };
    let mut install = make();
    place(&mut install);
    run(install.arg("install"));

    let prefix = dest.join("opt/slim");
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        "bin/slim".to_owned(),
        "include/slim.h".to_owned(),
        "lib/libslim.a".to_owned(),
        "lib/libslim.so".to_owned(),
        "lib/libslim.so.0".to_owned(),
        format!("lib/libslim.so.{version}"),
        "lib/pkgconfig/slim.pc".to_owned(),
        "share/doc/slim/slim-config.md".to_owned(),
    ];
    let expected: Vec<String> =
        expected.iter().map(|name| prefix.join(name).display().to_string()).collect();
    assert_eq!(files(&prefix), expected);
    let link = |name: &str| std::fs::read_link(prefix.join("lib").join(name)).unwrap();
    assert_eq!(link("libslim.so"), Path::new("libslim.so.0"));
    assert_eq!(link("libslim.so.0"), PathBuf::from(format!("libslim.so.{version}")));

    let with_package = |command: &mut Command| {
        command
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
            .env("PKG_CONFIG_SYSROOT_DIR", &dest);
    };
    let mut modversion = Command::new("pkg-config");
    with_package(&mut modversion);
    assert_eq!(run(modversion.args(["--modversion", "slim"])).trim(), version);

    let (_node, port) = node(&mut Command::new(prefix.join("bin/slim")));
    let endpoint = format!("http://127.0.0.1:{port}");
    for (kind, setting) in [("shared", "STATIC="), ("static", "STATIC=1")] {
        let out = dir.0.join(kind);
        std::fs::create_dir_all(&out).unwrap();
        let hello = out.join("hello");
        let mut build = make();
        with_package(&mut build);
        build.arg(root().join("ffi-examples/c")).arg(format!("OUT={}", out.display()));
        run(build.arg(setting).arg(&hello));
        let needed = run(Command::new("readelf").arg("-d").arg(&hello));
        assert_eq!(needed.contains("libslim.so.0"), kind == "shared", "{needed}");

        let name = format!("org/install/{kind}");
        let start = |arguments: &[&str]| {
            let mut command = Command::new(&hello);
            Process::start("hello", command.args(arguments).env("SLIM_SHARED_SECRET", SECRET))
        };
        let mut receiver = start(&["receive", &endpoint, &name]);
        receiver.wait_for("start", |line| line.contains("waiting as"));
        let mut sender = start(&["send", &endpoint, "org/install/sender", &name]);
        sender.expect_success();
        receiver.expect_success();
        assert_eq!(sender.output(), "hello yourself");
    }

    let mut uninstall = make();
    place(&mut uninstall);
    run(uninstall.arg("uninstall"));
    assert_eq!(files(&prefix), [] as [String; 0]);
}

#[test]
fn a20_a_static_library_needs_what_slim_pc_says() {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty.a");
    let source = library.with_extension("rs");
    std::fs::write(&source, "").unwrap();
    let said = run(Command::new("rustc")
        .args(["--crate-type", "staticlib", "--print", "native-static-libs", "-o"])
        .arg(&library)
        .arg(&source));
    let wanted = said.split_once("native-static-libs: ").expect("rustc names them").1;
    let package = std::fs::read_to_string(root().join("include/slim.pc.in")).unwrap();
    let private = package.split_once("Libs.private: ").unwrap().1;
    assert_eq!(private.lines().next(), wanted.lines().next().map(str::trim));
}

/// What `make` leaves in target/release, stripped, as packagers do.
#[test]
fn the_stripped_library_has_at_most_6_mb() {
    let built = root().join("target/release/libslim.so");
    if !built.exists() {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "`make test` builds a release first"
        );
        return eprintln!("target/release/libslim.so is not there: its size is not looked at");
    }
    let stripped = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stripped.so");
    run(Command::new("strip").arg("-o").arg(&stripped).arg(built));
    let size = std::fs::metadata(&stripped).unwrap().len();
    assert!(size <= 6_000_000, "{size} bytes");
    // It is what was meant.
    assert!(size > 500_000, "{size} bytes");
    std::fs::remove_file(stripped).unwrap();
}
