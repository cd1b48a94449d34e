//! Who the bytes in a link's outbound buffer belong to: when they leave it, their origin gets its
//! credit back.

use std::collections::VecDeque;

/// Who produced bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The link itself: its negotiation, acknowledgements of subscriptions.
    Own,
    /// Nobody who waits for room.
    Link,
    /// Acknowledgements, repetitions, heartbeats: what comes again by itself.
    Repeat,
    /// Another link of this node, by the number of its transport: transit to this link alone.
    Transit(u64),
    /// Another link: transit to several; the node knows which message it is.
    Fanout(u64),
    /// One best-effort publish of a local session, of so many payload bytes.
    Publish(crate::session::SessionKey, usize),
}

impl Origin {
    /// Given back message by message, when all of it has left.
    fn is_single(self) -> bool {
        matches!(self, Origin::Publish(..) | Origin::Fanout(_))
    }

    /// Somebody wants to know when its bytes have left.
    fn waits(self) -> bool {
        !matches!(self, Origin::Own | Origin::Link | Origin::Repeat)
    }
}

/// First in, first out: where each origin's bytes end.
#[derive(Debug, Default)]
pub(super) struct Taken {
    appended: u64,
    waiting: VecDeque<(u64, Origin, usize)>,
    own: usize,
    repeats: usize,
}

impl Taken {
    /// `len` bytes of `origin` were appended.
    pub(super) fn push(&mut self, origin: Origin, len: usize) {
        self.appended += len as u64;
        if let Some(count) = self.count(origin) {
            *count += len;
        }
        match self.waiting.back_mut() {
            Some((end, last, bytes)) if *last == origin && !origin.is_single() => {
                *end = self.appended;
                *bytes += len;
            }
            _ => self.waiting.push_back((self.appended, origin, len)),
        }
    }

    /// Of some origins it is known how much waits.
    fn count(&mut self, origin: Origin) -> Option<&mut usize> {
        match origin {
            Origin::Own => Some(&mut self.own),
            Origin::Repeat => Some(&mut self.repeats),
            _ => None,
        }
    }

    /// Bytes of the link's own that have not left yet.
    pub(super) fn own(&self) -> usize {
        self.own
    }

    /// Bytes of what comes again that have not left yet.
    pub(super) fn repeats(&self) -> usize {
        self.repeats
    }

    /// `total` bytes have left the buffer since the beginning.
    pub(super) fn taken(&mut self, total: u64, mut each: impl FnMut(Origin, usize)) {
        while let Some((end, origin, bytes)) = self.waiting.front_mut() {
            // Neighbours of one origin are merged, so what has left of them is given back now.
            let left = usize::try_from(end.saturating_sub(total)).unwrap_or(usize::MAX);
            let gone = match left {
                0 => *bytes,
                _ if origin.is_single() => return,
                _ => bytes.saturating_sub(left),
            };
            *bytes -= gone;
            let origin = *origin;
            if let Some(count) = self.count(origin) {
                *count -= gone;
            }
            if (gone > 0 || left == 0) && origin.waits() {
                each(origin, gone);
            }
            if left > 0 {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Messages in transit are given back before they have left.
    pub(super) fn forgive(&mut self, mut each: impl FnMut(Origin, usize)) {
        for (_, origin, bytes) in &mut self.waiting {
            if matches!(origin, Origin::Transit(_) | Origin::Fanout(_)) {
                each(std::mem::replace(origin, Origin::Link), *bytes);
            }
        }
    }

    /// The link is over: everything is given back.
    pub(super) fn drop_all(&mut self, mut each: impl FnMut(Origin, usize)) {
        (self.own, self.repeats) = (0, 0);
        for (_, origin, bytes) in self.waiting.drain(..) {
            if origin.waits() {
                each(origin, bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_back_to_their_origin_in_order() {
        let (a, b) = (Origin::Transit(1), Origin::Transit(2));
        let mut queue = Taken::default();
        queue.push(a, 10);
        queue.push(a, 5);
        queue.push(Origin::Link, 1);
        queue.push(Origin::Own, 2);
        queue.push(b, 7);
        let mut seen = Vec::new();
        queue.taken(12, |origin, bytes| seen.push((origin, bytes)));
        assert_eq!(seen, [(a, 12)]);
        assert_eq!(queue.own(), 2);
        queue.taken(17, |origin, bytes| seen.push((origin, bytes)));
        assert_eq!(queue.own(), 1, "one of two bytes has left");
        queue.taken(18, |origin, bytes| seen.push((origin, bytes)));
        assert_eq!(seen, [(a, 12), (a, 3)]);
        queue.drop_all(|origin, bytes| seen.push((origin, bytes)));
        assert_eq!(seen, [(a, 12), (a, 3), (b, 7)]);
    }
}
