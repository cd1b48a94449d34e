//! Hostile peers over real sockets against `slim node`: each attack gets its answer, memory and
//! descriptors of the node return to where they were, and two apps that talk through it meanwhile
//! lose nothing and hardly notice.
//!
//! [`ATTACKS`] is the table of attacks, answers, and where each limit comes from (specs 01, 02 and
//! 06 section 3.5; nghttp2's own limits as set in `src/http2/session.rs`).

#[path = "hostile/bystanders.rs"]
mod bystanders;
#[path = "hostile/peer.rs"]
mod peer;
#[path = "interop/support.rs"]
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bystanders::{Pair, Target, MEMORY_TOLERANCE_KIB, PATIENCE};
use peer::*;
use slim::api::{PublishOptions, SessionOptions};
use slim::limits;

/// One kind of hostility.
struct Attack {
    name: &'static str,
    /// Does it once and says in words what the node answered.
    run: fn(u16) -> String,
    answer: &'static str,
    /// Whose limit it is.
    limit: &'static str,
}

const ATTACKS: &[Attack] = &[
    Attack {
        name: "garbage",
        run: |port| {
            let mut peer = Peer::silent(port);
            peer.raw(&[0xa5; 64 * 1024]);
            peer.answer()
        },
        answer: "closed",
        limit: "nghttp2: not the client preface; no GOAWAY for what is not HTTP/2",
    },
    Attack {
        name: "an HTTP/1.1 request",
        run: |port| {
            let mut peer = Peer::silent(port);
            peer.raw(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n");
            peer.answer()
        },
        answer: "closed",
        limit: "the same; as the published node, which sends its SETTINGS (01 section 1.1)",
    },
    Attack {
        name: "SETTINGS that nobody reads the answers of",
        run: |port| flood(port, &frame(SETTINGS, 0, 0, &[]), 8 << 20),
        answer: "GOAWAY 11, closed",
        limit: "limits::OUTBOUND_ACKS = 1000, counted by nghttp2 (06 section 3.5)",
    },
    Attack {
        name: "PING that nobody reads the answers of",
        run: |port| flood(port, &frame(PING, 0, 0, &[7; 8]), 12 << 20),
        answer: "GOAWAY 11, closed",
        limit: "limits::OUTBOUND_ACKS = 1000, counted by nghttp2 (06 section 3.5)",
    },
    Attack {
        name: "rapid reset: streams opened and reset beside the first",
        run: |port| {
            let mut peer = Peer::negotiated(port);
            for stream in (3..1003).step_by(2) {
                let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                let open = frame(HEADERS, END_HEADERS, stream, &request_block());
                if !peer.raw(&[open, reset].concat()) {
                    break;
                }
            }
            peer.answer()
        },
        answer: "GOAWAY 11, closed",
        limit: "limits::REFUSED_STREAMS = 100 (06 section 3.5), or nghttp2's rate of \
                limits::STREAM_RESETS",
    },
    Attack {
        name: "RST_STREAM of the one stream",
        run: |port| after_negotiation(port, &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]).repeat(50)),
        answer: "closed",
        limit: "the link is over with its stream (01 section 1.4)",
    },
    Attack {
        name: "empty DATA",
        run: |port| after_negotiation(port, &frame(DATA, 0, 1, &[]).repeat(100_000)),
        answer: "GOAWAY 11, closed",
        limit:
            "limits::GLITCHES = 1000 at once and 33 a second, counted by nghttp2 (06 section 3.5 \
                says 100)",
    },
    Attack {
        name: "CONTINUATION without end",
        run: |port| {
            let mut peer = Peer::silent(port);
            let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
            bytes.extend(frame(HEADERS, 0, 1, &request_block()));
            bytes.extend(frame(CONTINUATION, 0, 1, &field("a", "b")).repeat(100_000));
            peer.raw(&bytes);
            peer.answer()
        },
        answer: "GOAWAY 11, closed",
        limit: "limits::CONTINUATIONS = 8 (06 section 3.5)",
    },
    Attack {
        name: "a header list of 17 KiB",
        run: |port| {
            let mut peer = Peer::silent(port);
            let block = [request_block(), field("fill", &"x".repeat(15 * 1024))].concat();
            let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
            bytes.extend(frame(HEADERS, 0, 1, &block));
            bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &field("more", &"x".repeat(2048))));
            peer.raw(&bytes);
            peer.answer()
        },
        answer: "GOAWAY 11, closed",
        limit: "limits::MAX_HEADER_LIST = 16 KiB (01 section 1.3)",
    },
    Attack {
        name: "a header bomb: 4 KB once, then a byte for each repetition",
        run: |port| {
            let mut peer = Peer::silent(port);
            let mut block = request_block();
            block.push(0x40); // into the dynamic table
            block.extend_from_slice(&field("bomb", &"x".repeat(3900))[1..]);
            block.extend([0x80 | 62; 10_000]);
            let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
            bytes.extend(frame(HEADERS, END_HEADERS, 1, &block));
            peer.raw(&bytes);
            peer.answer()
        },
        answer: "GOAWAY 11, closed",
        limit: "limits::MAX_HEADER_LIST = 16 KiB",
    },
    Attack {
        name: "a message of 4 GiB is announced",
        run: |port| {
            after_negotiation(
                port,
                &frame(DATA, 0, 1, &[&prefix(u32::MAX)[..], &[0; 8000]].concat()),
            )
        },
        answer: "grpc-status 0, closed",
        limit: "limits::MAX_RECEIVED_MESSAGE = 4 MiB; answered as in 01 section 1.4",
    },
    Attack {
        name: "a message that is one byte too long",
        run: |port| {
            let mut peer = Peer::negotiated(port);
            let len = limits::MAX_RECEIVED_MESSAGE + 1;
            // As much as the window allows, since no more is granted.
            let part = [&prefix(len as u32)[..], &[0; 900_000]].concat();
            peer.send_bytes(&part);
            peer.answer()
        },
        answer: "grpc-status 0, closed",
        limit: "limits::MAX_RECEIVED_MESSAGE = 4 MiB (01 section 1.2)",
    },
    Attack {
        name: "the longest message, all but its last byte",
        run: |port| {
            let mut peer = Peer::negotiated(port);
            let len = limits::MAX_RECEIVED_MESSAGE as u32;
            peer.send_bytes(&[&prefix(len)[..], &vec![0; len as usize - 1]].concat());
            // The window was granted: the node has all of it.
            "taken".to_owned()
        },
        answer: "taken",
        limit: "held while the link lives: limits::MAX_RECEIVED_MESSAGE = 4 MiB",
    },
    Attack {
        name: "a link, then garbage in its place",
        run: |port| after_negotiation(port, &[0xff; 64 * 1024]),
        answer: "GOAWAY 6, closed",
        limit: "SETTINGS_MAX_FRAME_SIZE, checked by nghttp2",
    },
    Attack {
        name: "a link, then a message that is none",
        run: |port| {
            after_negotiation(port, &frame(DATA, 0, 1, &[&prefix(64)[..], &[0xff; 64]].concat()))
        },
        answer: "grpc-status 0, closed",
        limit: "undecodable protobuf (01 section 1.2)",
    },
    Attack {
        name: "the connection's window above 2^31-1",
        run: |port| after_negotiation(port, &frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        answer: "GOAWAY 3, closed",
        limit: "RFC 9113 section 6.9.1, by nghttp2",
    },
    Attack {
        name: "the stream's window above 2^31-1",
        run: |port| after_negotiation(port, &frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])),
        answer: "GOAWAY 3, closed",
        limit: "RFC 9113 section 6.9.1; nghttp2 ends the connection, not the stream",
    },
    Attack {
        name: "messages before the negotiation",
        run: |port| {
            let mut peer = Peer::requested(port);
            peer.raw(&in_data(&subscribe(&name("early", 1), 5)).repeat(1000));
            peer.answer()
        },
        answer: "grpc-status 0, closed",
        limit: "the first message is no negotiation (01 section 5.2)",
    },
    Attack {
        name: "a negotiation again and again",
        run: |port| {
            let mut peer = Peer::negotiated(port);
            let exchange = slim::link::key::KeyExchange::from_private([7; 32]).unwrap();
            peer.raw(&in_data(&negotiation("another", &exchange)).repeat(1000));
            peer.subscribe(&name("again", 1));
            "the link goes on".to_owned()
        },
        answer: "the link goes on",
        limit: "ignored (01 checklist 27, DESIGN decision 16)",
    },
    Attack {
        name: "MACs flipped",
        run: |port| {
            let (mut victim, wanted) = (Peer::negotiated(port), name("forged", 1));
            victim.subscribe(&wanted);
            let mut peer = Peer::negotiated(port);
            let bad = [subscribe(&name("forged", 2), 5), publish(&wanted, 100)];
            let bad = bad.map(|message| in_data(&flipped(peer.signed(message))));
            peer.raw(&bad.concat().repeat(1000));
            peer.subscribe(&name("forged", 3));
            // None of them has arrived; what is signed does.
            victim.subscribe(&name("forged", 4));
            peer.send_signed(publish(&wanted, 10));
            let arrived = victim.message();
            assert_eq!(arrived.metadata, publish(&wanted, 10).metadata, "{arrived:?}");
            "the link goes on".to_owned()
        },
        answer: "the link goes on",
        limit: "dropped without an answer (01 section 5.5)",
    },
    Attack {
        name: "messages to nobody, as fast as they go",
        run: |port| {
            let mut peer = Peer::negotiated(port);
            let lost = in_data(&peer.signed(publish(&name("nobody", 1), 1000)));
            peer.raw(&lost.repeat(600));
            peer.subscribe(&name("heard", 1));
            "the link goes on".to_owned()
        },
        answer: "the link goes on",
        limit: "dropped without an answer (02 section 5.1)",
    },
    Attack {
        name: "subscriptions whose acknowledgements nobody reads",
        run: |port| {
            let mut peer = Peer::negotiated(port);
            let wanted = (0..3000)
                .flat_map(|id| in_data(&peer.signed(subscribe(&name("wanted", id), id + 1))));
            let wanted: Vec<u8> = wanted.collect();
            peer.raw(&wanted);
            drop(peer);
            "gone".to_owned()
        },
        answer: "gone",
        limit:
            "limits::SUBSCRIPTIONS = 65,536 and limits::WAITING_ACKS = 64 KiB of one link; gone \
                with it (02 section 9.1)",
    },
];

/// What the node answers to these bytes on a link that is up.
fn after_negotiation(port: u16, bytes: &[u8]) -> String {
    let mut peer = Peer::negotiated(port);
    peer.raw(bytes);
    peer.answer()
}

/// So many bytes of a frame that must be answered, before any answer is read.
fn flood(port: u16, frame: &[u8], bytes: usize) -> String {
    let mut peer = Peer::negotiated(port);
    let part = frame.repeat(64 * 1024 / frame.len());
    for _ in 0..bytes / part.len() {
        if !peer.raw(&part) {
            break;
        }
    }
    peer.answer()
}

/// Two cores: one test at a time, or they measure each other.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attacks a node that a pair talks through; what is wrong is said in the error.
fn withstand(
    target: &Target,
    pair: &mut Pair,
    attack: &(dyn Fn() + Sync),
) -> Result<String, String> {
    // Once before, so that what is only ever allocated once is not counted.
    attack();
    let before = target.usage();
    let text = pair.undisturbed(attack)?;
    target.settle(before.descriptors)?;
    let after = target.usage();
    if after.memory_kib > before.memory_kib + MEMORY_TOLERANCE_KIB {
        return Err(format!("{} KiB before, {} KiB after", before.memory_kib, after.memory_kib));
    }
    Ok(format!("{text}, {} KiB, then {} KiB", before.memory_kib, after.memory_kib))
}

#[test]
fn attacks_are_answered_and_disturb_nobody() {
    let _turn = turn();
    let target = Target::start();
    let mut pair = Pair::connect(&target);
    let start = target.usage();
    let mut wrong = Vec::new();
    // One alone: SLIM_HOSTILE=part of its name.
    let chosen = std::env::var("SLIM_HOSTILE").unwrap_or_default();
    for attack in ATTACKS.iter().filter(|attack| attack.name.contains(&chosen)) {
        let once = || {
            let answer = (attack.run)(target.port);
            assert_eq!(answer, attack.answer, "{} ({})", attack.name, attack.limit);
        };
        let result = withstand(&target, &mut pair, &once).and_then(|text| {
            // The pair is all that is left.
            target.settle(start.descriptors).map(|()| text)
        });
        eprintln!("{}: {}: {result:?}", attack.name, attack.answer);
        if let Err(text) = result {
            wrong.push(format!("{}: {text}", attack.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// 500 connections that say nothing, or begin and go silent. Each has its time: 10 s to ask for a
/// link, 5 s to negotiate (01 section 5.1, 06 section 3.5); links stay, and answer pings.
#[test]
fn silence_is_ended_in_its_time() {
    let _turn = turn();
    let target = Target::start();
    let mut pair = Pair::connect(&target);
    let before = target.usage();
    let quiet = pair.usual();
    let start = Instant::now();
    let begun = |bytes: &[u8]| {
        let mut peer = Peer::silent(target.port);
        assert!(peer.raw(bytes));
        peer
    };
    let mut groups: Vec<(&str, Duration, Vec<Peer>)> = vec![
        ("nothing", limits::REQUEST_TIMEOUT, (0..100).map(|_| begun(&[])).collect()),
        (
            "half a preface",
            limits::REQUEST_TIMEOUT,
            (0..100).map(|_| begun(&PREFACE[..12])).collect(),
        ),
        ("no request", limits::REQUEST_TIMEOUT, {
            let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
            (0..100).map(|_| begun(&bytes)).collect()
        }),
        ("no negotiation", limits::NEGOTIATION_TIMEOUT, {
            (0..100).map(|_| Peer::requested(target.port)).collect()
        }),
    ];
    let links: Vec<Peer> = (0..100).map(|_| Peer::negotiated(target.port)).collect();
    let opened = start.elapsed();
    let all = target.usage();
    assert_eq!(all.descriptors, before.descriptors + 500);
    let each = all.memory_kib.saturating_sub(before.memory_kib) / 500;
    assert!(each <= 64, "{each} KiB for each connection");
    pair.notices_little(quiet);

    // The shorter time first.
    groups.reverse();
    for (what, time, peers) in groups {
        for peer in peers {
            let answer = peer.answer();
            let expected = match what {
                "no negotiation" => "grpc-status 0, closed",
                _ => "closed",
            };
            assert_eq!(answer, expected, "{what}");
        }
        let took = start.elapsed();
        // A refused peer has some time to leave.
        let latest = time + opened + limits::LINGER + Duration::from_secs(3);
        assert!(took >= time && took <= latest, "{what}: {took:?}");
    }
    // Only the links are left, and they live.
    target.settle(before.descriptors + 100).unwrap();
    assert_eq!(target.usage().descriptors, before.descriptors + 100);
    for mut link in links {
        link.subscribe(&name("awake", 1));
    }
    target.settle(before.descriptors).unwrap();
    pair.p99(10, || true);
    // Many small pieces, freed in another order: the allocator keeps a good part of them, and uses
    // it for the next 500.
    let again: Vec<Peer> = (0..500).map(|_| begun(PREFACE)).collect();
    target.wait_for(before.descriptors + 500);
    drop(again);
    target.settle(before.descriptors).unwrap();
    let after = target.usage();
    let kept = after.memory_kib.saturating_sub(before.memory_kib);
    assert!(kept <= 500 * 24, "{kept} KiB kept");
}

/// A link that never reads stops those that send to it, when its windows and theirs are full; the
/// node holds no more than that, and others notice nothing. That it is cut after 60 s is shown in
/// virtual time (`world`), and here in `make soak`.
#[test]
fn a_link_that_never_reads_stops_only_those_that_send_to_it() {
    let _turn = turn();
    let target = Target::start();
    let mut pair = Pair::connect(&target);
    let before = target.usage();
    let quiet = pair.usual();
    let start = Instant::now();
    let mut deaf = Peer::negotiated(target.port);
    let deaf_name = name("deaf", 1);
    deaf.subscribe(&deaf_name);
    let mut senders: Vec<Peer> = (0..3).map(|_| Peer::negotiated(target.port)).collect();
    for sender in &mut senders {
        let mut sent = 0;
        while sender.offer(publish(&deaf_name, 50_000), Duration::from_millis(300)) {
            sent += 50_000;
            let windows = 2 * limits::STREAM_WINDOW as usize + limits::SOCKET_BUFFER;
            assert!(sent <= windows + 4 * 50_000, "{sent} bytes for a peer that takes nothing");
        }
    }
    let stuck = target.usage();
    let held = stuck.memory_kib.saturating_sub(before.memory_kib);
    // Each sender's window, and what the link to the deaf one makes ready.
    assert!(held <= 3 * 1024 + 1024 + MEMORY_TOLERANCE_KIB, "{held} KiB held");
    pair.notices_little(quiet);
    // A sender that is stopped still gets answers: its link is read.
    let mut listener = senders.pop().unwrap();
    listener.ping();

    if bystanders::soak() {
        let time = limits::STUCK_RECEIVER_TIMEOUT;
        while target.usage().descriptors > stuck.descriptors - 1 {
            pair.p99(100, || true);
            assert!(start.elapsed() < time + Duration::from_secs(10), "not cut");
        }
        assert!(start.elapsed() >= time);
    }
    drop(deaf);
    // What waited is gone with it; the senders go on.
    for sender in &mut senders {
        sender.drain();
        sender.subscribe(&name("free", 1));
    }
    drop((senders, listener));
    target.settle(before.descriptors).unwrap();
    let after = target.usage();
    assert!(after.memory_kib <= before.memory_kib + MEMORY_TOLERANCE_KIB, "{before:?} {after:?}");
}

/// A thousand links that only live, in a process of its own.
#[test]
#[cfg(target_os = "linux")]
fn a_thousand_idle_links_are_small() {
    const LINKS: usize = 1000;
    let _turn = turn();
    if descriptors() < LINKS as u64 + 100 {
        let text = format!("a process may not have {LINKS} descriptors here (ulimit -n): left out");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
        return eprintln!("{text}");
    }
    let target = Target::start();
    // The first links make what the process has only once.
    let first = Peer::negotiated(target.port);
    let before = target.usage();
    let links: Vec<Peer> = (0..LINKS).map(|_| Peer::negotiated(target.port)).collect();
    let grown = target.usage().memory_kib - before.memory_kib;
    eprintln!("{LINKS} idle links: {grown} KiB");
    assert!(grown <= 64 * LINKS, "{grown} KiB for {LINKS} links");
    // Each of them works.
    for mut link in links.into_iter().chain([first]) {
        link.ping();
    }
    target.settle(before.descriptors - 1).unwrap();
}

/// How many descriptors this process and its children may have, raised as far as it goes.
#[cfg(target_os = "linux")]
fn descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a valid place, and is set before it is read.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
    }
    limit.rlim_cur
}

/// A node without links is small, and nothing wakes it: looked at for a minute in `make soak`, for
/// two seconds else.
#[test]
#[cfg(target_os = "linux")]
fn a_node_without_links_sleeps_and_is_small() {
    let target = Target::start();
    // Its start is over when a link has come and gone.
    drop(Peer::negotiated(target.port));
    std::thread::sleep(limits::LINGER + Duration::from_secs(1));
    let usage = target.usage();
    assert!(usage.memory_kib <= 8 * 1024, "{} KiB", usage.memory_kib);
    let before = target.wakeups();
    std::thread::sleep(Duration::from_secs(if bystanders::soak() { 60 } else { 2 }));
    assert_eq!(target.wakeups(), before);
}

/// What is waiting to be accepted when the descriptors are used up is accepted when there are some
/// again, without anybody knocking anew.
#[test]
#[cfg(unix)]
fn a_node_without_descriptors_accepts_again_when_it_has_some() {
    let slim = support::slim();
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""]).arg(slim.get_program());
    let (_process, port) = support::node(&mut limited);
    let mut taken: Vec<std::net::TcpStream> =
        (0..32).map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    // More than the node may have; the last waits in the kernel's queue.
    let mut waiting = Peer::silent(port);
    std::thread::sleep(2 * limits::ACCEPT_RETRY);
    taken.truncate(2);
    waiting.ping();
}

/// An app that accepts a session and never receives: its sender is stopped by its windows, and
/// nobody else notices.
#[test]
fn an_app_that_never_receives_disturbs_nobody() {
    let _turn = turn();
    let target = Target::start();
    let mut pair = Pair::connect(&target);
    let before = target.usage();
    let quiet = pair.usual();
    let (_a, carol) = bystanders::app(&target, "org/bystanders/carol");
    let (_b, dave) = bystanders::app(&target, "org/bystanders/dave");
    let reliable = carol.open(&SessionOptions::default(), "org/bystanders/dave", PATIENCE).unwrap();
    let _never_received = dave.accept(false, PATIENCE).unwrap();
    let plain = PublishOptions::default();
    let mut waiting = std::collections::VecDeque::new();
    let mut taken = 0;
    loop {
        match reliable.publish_start(&[7; 20_000], &plain) {
            Ok(op) => waiting.push_back(op),
            // The window is full: acknowledgements make room, until the inbox is full.
            Err(slim::error::Error::Limit(_)) => {
                match waiting[0].wait(Some(Duration::from_secs(1))) {
                    Ok(()) => {
                        taken += 20_000;
                        waiting.pop_front();
                    }
                    Err(slim::error::Error::Timeout(_)) => break,
                    Err(other) => panic!("{other}"),
                }
            }
            Err(other) => panic!("{other}"),
        }
        // What one read brings may pass the limit.
        assert!(taken <= limits::INBOX_BYTES + limits::READ_BUDGET, "{taken} bytes taken");
    }
    assert!(taken >= limits::INBOX_BYTES, "{taken} bytes taken");
    pair.notices_little(quiet);
    let stuck = target.usage();
    assert!(stuck.memory_kib <= before.memory_kib + MEMORY_TOLERANCE_KIB, "{before:?} {stuck:?}");
}
