//! Somebody on the link between a wheel and its node, who loses or doubles one message.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use slim::wire::SessionMessageType;

use crate::tap::{kind_and_id, Tap};

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    ToWheel,
    FromWheel,
}

/// What is done to one message.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub way: Way,
    pub kind: SessionMessageType,
    /// The first of them is 1.
    pub nth: usize,
    /// How often it goes on: 0 loses it, 2 doubles it.
    pub copies: usize,
}

impl Fault {
    /// Whether it is this message of the wheel that is lost.
    pub fn loses(&self, kind: SessionMessageType, nth: usize) -> bool {
        (self.way, self.kind, self.nth, self.copies) == (Way::FromWheel, kind, nth, 0)
    }
}

/// A fault, and how many messages of its kind have to pass until it happens: 0, it has happened.
type Plan = Option<(Fault, usize)>;

pub struct Proxy {
    pub port: u16,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    /// For one link to this node, which is not made a second time.
    pub fn start(node: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Mutex::new(None));
        let ours = Arc::clone(&plan);
        thread::spawn(move || {
            let wheel = listener.accept().unwrap().0;
            let node = TcpStream::connect(("127.0.0.1", node)).unwrap();
            for (from, to, way) in [(&wheel, &node, Way::FromWheel), (&node, &wheel, Way::ToWheel)]
            {
                to.set_nodelay(true).unwrap();
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let plan = Arc::clone(&ours);
                thread::spawn(move || pump(from, to, way, &plan));
            }
        });
        Proxy { port, plan }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on this is to happen, once.
    pub fn inject(&self, fault: Fault) {
        *self.plan.lock().unwrap() = Some((fault, fault.nth));
    }

    /// It must have happened.
    pub fn expect_fault(&self) {
        let plan = self.plan.lock().unwrap();
        assert!(matches!(*plan, Some((_, 0))), "it did not happen: {plan:?}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            let plan = self.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            eprintln!("--- on the link: {plan:?}");
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, way: Way, plan: &Mutex<Plan>) {
    let mut tap = Tap::new(way == Way::FromWheel);
    let mut bytes = vec![0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        let passed = tap.pass(&bytes[..len], |message| {
            let Some((fault, left)) = &mut *plan.lock().unwrap() else { return 1 };
            let kind = kind_and_id(message).map(|(kind, _)| kind);
            if fault.way != way || kind != Some(fault.kind) || *left == 0 {
                return 1;
            }
            *left -= 1;
            if *left == 0 {
                fault.copies
            } else {
                1
            }
        });
        if to.write_all(&passed).is_err() {
            break;
        }
    }
    // Whoever ended the link: the other side is told.
    let _ = to.shutdown(std::net::Shutdown::Both);
}
