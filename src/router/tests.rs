use super::*;
use crate::name::{Name, NameId};

fn name(service: &str, id: u128) -> EncodedName {
    Name::new(["org", "ns", service], NameId(id)).encoded()
}

fn targets(router: &mut Router, name: EncodedName, fanout: u32, from: u64) -> Vec<u64> {
    let mut found = Vec::new();
    router.route(name, fanout, ConnectionId(from), &mut found);
    found.into_iter().map(|c| c.0).collect()
}

/// A router with one local app (0) and two Edge connections (1, 2).
fn router() -> Router {
    let mut router = Router::new(Gateway::Auto);
    for kind in [ConnectionKind::Local, ConnectionKind::Edge, ConnectionKind::Edge] {
        router.connect(kind);
    }
    router
}

#[test]
fn c13_exact_ids_and_the_name_without_id_are_apart() {
    let mut router = router();
    router.subscribe(ConnectionId(1), name("s", 1), 10).unwrap();
    router.subscribe(ConnectionId(2), name("s", 2), 11).unwrap();
    let any = name("s", u128::MAX);
    let mut counts = [0; 3];
    for _ in 0..100 {
        counts[targets(&mut router, any, 1, 0)[0] as usize] += 1;
    }
    assert_eq!(counts, [0, 50, 50]);
    assert_eq!(targets(&mut router, name("s", 1), 1, 0), [1]);
    router.subscribe(ConnectionId(2), any, 12).unwrap();
    for sender in [0, 1, 2] {
        assert!(targets(&mut router, name("s", 3), 1, sender).is_empty(), "from {sender}");
    }
}

#[test]
fn a_near_receiver_is_preferred_and_the_sender_never_is() {
    let mut router = router();
    router.subscribe(ConnectionId(0), name("s", 1), 1).unwrap();
    router.subscribe(ConnectionId(1), name("s", 2), 1).unwrap();
    let any = name("s", u128::MAX);
    assert_eq!(targets(&mut router, any, 1, 2), [0]);
    assert_eq!(targets(&mut router, any, 1, 0), [1]);
    assert_eq!(targets(&mut router, any, 256, 2), [0, 1]);
    assert_eq!(targets(&mut router, any, 0, 1), [0]);
    // Nor where there is nobody else.
    router.disconnect(ConnectionId(0));
    for name in [any, name("s", 2)] {
        for fanout in [0, 1, 256] {
            assert!(targets(&mut router, name, fanout, 1).is_empty(), "{name:?} {fanout}");
            assert_eq!(targets(&mut router, name, fanout, 2), [1], "{name:?} {fanout}");
        }
    }
}

#[test]
fn default_gateway_is_the_only_edge_and_for_local_apps_alone() {
    let mut router = Router::new(Gateway::Auto);
    let app = router.connect(ConnectionKind::Local);
    assert!(targets(&mut router, name("s", 1), 1, app.0).is_empty());
    let far = router.connect(ConnectionKind::Remote);
    let first = router.connect(ConnectionKind::Edge);
    assert_eq!(targets(&mut router, name("s", 1), 1, app.0), [first.0]);
    for link in [far, first] {
        assert!(targets(&mut router, name("s", 1), 1, link.0).is_empty(), "from a link: none");
    }
    let second = router.connect(ConnectionKind::Edge);
    assert!(targets(&mut router, name("s", 1), 1, app.0).is_empty(), "two: none");
    router.set_gateway(Gateway::Pinned(second));
    assert_eq!(targets(&mut router, name("s", 1), 1, app.0), [second.0]);
    for link in [far, first, second] {
        assert!(targets(&mut router, name("s", 1), 1, link.0).is_empty(), "nor if it is pinned");
    }
    router.disconnect(second);
    assert!(targets(&mut router, name("s", 1), 1, app.0).is_empty(), "no falling back");
}

#[test]
fn a_name_replayed_under_number_0_is_given_up_under_any() {
    let mut router = router();
    router.subscribe(ConnectionId(1), name("s", 1), 0).unwrap();
    router.unsubscribe(ConnectionId(1), name("s", 1), 77).unwrap();
    assert_eq!(router.names(), 0);
    router.subscribe(ConnectionId(1), name("s", 1), 5).unwrap();
    let error = router.unsubscribe(ConnectionId(1), name("s", 1), 77).unwrap_err();
    assert_eq!(error.to_string(), "subscription id not found: 77");
    let error = router.unsubscribe(ConnectionId(9), name("s", 1), 5).unwrap_err();
    assert_eq!(error.to_string(), "connection not found: 9");
}

#[test]
fn routes_and_subscriptions_of_one_name_do_not_take_each_other_away() {
    let mut router = router();
    let (one, name) = (ConnectionId(1), name("s", 1));
    // What is replayed by a published client has number 0.
    router.subscribe(one, name, 0).unwrap();
    router.set_route(one, name).unwrap();
    router.set_route(one, name).unwrap();
    router.remove_route(one, name).unwrap();
    assert_eq!(targets(&mut router, name, 1, 2), [1]);
    assert_eq!(router.remove_route(one, name).unwrap_err().to_string(), "no such route");
    router.set_route(one, name).unwrap();
    router.unsubscribe(one, name, 77).unwrap();
    assert_eq!(targets(&mut router, name, 1, 2), [1]);
    let error = router.unsubscribe(one, name, 0).unwrap_err();
    assert_eq!(error.to_string(), "subscription id not found: 0");
    router.remove_route(one, name).unwrap();
    assert!(router.table.is_empty());
}

#[test]
fn a_lost_link_takes_its_subscriptions_with_it_and_no_route() {
    let mut router = router();
    let one = ConnectionId(1);
    for id in 0..20 {
        router.subscribe(one, name("s", id), 1).unwrap();
    }
    router.set_route(one, name("s", 3)).unwrap();
    router.set_route(one, name("t", 3)).unwrap();
    router.forget_subscriptions(one);
    assert_eq!(router.names(), 2);
    assert_eq!(targets(&mut router, name("s", u128::MAX), 256, 2), [1]);
    assert!(targets(&mut router, name("s", 4), 1, 2).is_empty());
    router.forget_subscriptions(one);
    assert_eq!(router.names(), 2);
    router.disconnect(one);
    assert!(router.table.is_empty());
    router.forget_subscriptions(one);
}

#[test]
fn nothing_is_left_of_a_connection_that_went() {
    let mut router = router();
    for id in 0..20 {
        router.subscribe(ConnectionId(1), name("s", id), 1).unwrap();
        router.subscribe(ConnectionId(1), name("s", id), 2).unwrap();
    }
    router.disconnect(ConnectionId(1));
    assert!(router.table.is_empty());
}

#[test]
fn the_subscriptions_of_a_connection_end_at_their_limit() {
    let mut router = router();
    let limit = crate::limits::SUBSCRIPTIONS as u64;
    for number in 0..limit {
        router.subscribe(ConnectionId(1), name("s", u128::from(number / 2)), number).unwrap();
    }
    let error = router.subscribe(ConnectionId(1), name("t", 1), 1).unwrap_err();
    assert_eq!(error.to_string(), "the connection has 65536 subscriptions, no more");
    assert_eq!(router.names() as u64, limit / 2);
    // Our own routes do not count, nor are they refused for the other side's greed.
    router.set_route(ConnectionId(1), name("t", 1)).unwrap();
    router.remove_route(ConnectionId(1), name("t", 1)).unwrap();
    router.subscribe(ConnectionId(1), name("s", 0), 0).unwrap();
    router.subscribe(ConnectionId(2), name("t", 1), 1).unwrap();
    router.unsubscribe(ConnectionId(1), name("s", 0), 0).unwrap();
    router.subscribe(ConnectionId(1), name("t", 1), 1).unwrap();
    // Taking back is not slower when there are many: each looks at its own name alone.
    for number in 1..limit {
        router.unsubscribe(ConnectionId(1), name("s", u128::from(number / 2)), number).unwrap();
    }
    router.disconnect(ConnectionId(1));
    router.disconnect(ConnectionId(2));
    assert!(router.table.is_empty());
}
