//! The node as a machine of its own: what it asks for when nothing happens.

use std::time::{Duration, Instant};

use super::*;
use crate::entropy::SeededEntropy;

fn node() -> Node {
    let identity = Identity {
        version: crate::protocol_version(),
        node_id: "node".to_owned(),
        deployment_name: String::new(),
    };
    let options = NodeOptions {
        identity,
        gateway: Gateway::Auto,
        binding: Binding::parse(None),
        stuck_receiver_timeout: limits::STUCK_RECEIVER_TIMEOUT,
        virtual_time: false,
    };
    Node::new(options, Box::new(SeededEntropy::new(1)))
}

fn now() -> Now {
    Now { mono: Instant::now(), unix: Duration::from_secs(1_764_000_000) }
}

const ACCEPT: AcceptOptions = AcceptOptions {
    require_header_mac: true,
    negotiation_timeout: limits::NEGOTIATION_TIMEOUT,
    ping_after: Duration::from_secs(120),
    ping_timeout: Duration::from_secs(20),
    age: None,
};

#[test]
fn an_idle_node_asks_for_no_wakeup() {
    let (mut node, now) = (node(), now());
    assert_eq!(node.poll_timeout(), None);
    // A connection is waited for; when it is gone, nothing is.
    let transport = node.accept(ACCEPT, now);
    assert_eq!(node.poll_timeout(), Some(now.mono + limits::REQUEST_TIMEOUT));
    node.handle_disconnected(transport, "gone", now);
    assert_eq!(node.poll_timeout(), None);
    let transport = node.accept(ACCEPT, now);
    let later = now.after(limits::REQUEST_TIMEOUT);
    node.handle_timeout(later);
    assert!(!node.wants(transport) && node.is_idle());
    assert_eq!(node.poll_timeout(), None);
}

#[test]
fn a_link_that_is_over_lingers_for_its_time() {
    let (mut node, start) = (node(), now());
    let transport = node.accept(ACCEPT, start);
    // Answered, and over: not the path of a link.
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "h"), (":path", "/x")];
    let mut peer = crate::http2::Connection::client(&head);
    let mut bytes = Vec::new();
    peer.write_output(&mut bytes, usize::MAX).unwrap();
    node.handle_bytes(transport, &bytes, start);
    let until = start.mono + limits::LINGER;
    assert_eq!(node.poll_timeout(), Some(until));
    node.handle_timeout(Now { mono: until - Duration::from_millis(1), ..start });
    assert!(node.wants(transport));
    node.handle_timeout(Now { mono: until, ..start });
    assert!(!node.wants(transport) && node.is_idle());
}

#[test]
fn a_node_that_stops_takes_nobody_in() {
    let (mut node, now) = (node(), now());
    let early = node.accept(ACCEPT, now);
    node.shut_down(now);
    let late = node.accept(ACCEPT, now);
    let mut closed = Vec::new();
    while let Some(output) = node.poll_output() {
        if let Output::Close { transport, .. } = output {
            closed.push(transport);
        }
    }
    assert_eq!(closed, [early, late]);
    assert!(node.is_idle() && node.poll_timeout().is_none());
}
