//! The bytes of our stream that wait to be moved into DATA frames. A plain buffer with a head; it
//! knows nothing of frames and windows, and its owner bounds it.

/// A drained queue gives its memory back when it holds more than this, in bytes.
const KEPT_CAPACITY: usize = 1024 * 1024;

/// Appended to at the end, taken from at the head.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    head: usize,
    taken: u64,
}

impl Queue {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.head)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes ever taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// To append to. The beginning may be bytes that have been taken already.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Moves the first `len` bytes to the end of `out`; `false` and nothing if there are fewer.
    pub(super) fn move_into(&mut self, len: usize, out: &mut Vec<u8>) -> bool {
        let end = self.head.saturating_add(len);
        let Some(bytes) = self.bytes.get(self.head..end) else {
            return false;
        };
        out.extend_from_slice(bytes);
        self.head = end;
        self.taken += len as u64;
        true
    }

    /// Gives up the room of what was taken, when that is worth its cost.
    pub(super) fn tidy(&mut self) {
        if self.is_empty() {
            self.clear();
        } else if self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    /// Drops what waits. It does not count as taken.
    pub(super) fn clear(&mut self) {
        self.head = 0;
        if self.bytes.capacity() > KEPT_CAPACITY {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_and_are_counted() {
        let mut queue = Queue::default();
        let mut out = Vec::new();
        queue.buffer().extend_from_slice(b"abcdef");
        assert!(queue.move_into(4, &mut out));
        queue.tidy();
        queue.buffer().extend_from_slice(b"gh");
        assert!(!queue.move_into(5, &mut out));
        assert!(queue.move_into(4, &mut out));
        queue.tidy();
        assert_eq!((out.as_slice(), queue.len(), queue.taken()), (&b"abcdefgh"[..], 0, 8));
        queue.buffer().extend_from_slice(b"dropped");
        queue.clear();
        assert_eq!((queue.len(), queue.taken()), (0, 8));
    }

    #[test]
    fn a_large_queue_gives_its_memory_back() {
        let mut queue = Queue::default();
        let mut out = Vec::new();
        queue.buffer().resize(3 * KEPT_CAPACITY, 1);
        assert!(queue.move_into(2 * KEPT_CAPACITY, &mut out));
        queue.tidy();
        assert_eq!((queue.head, queue.len()), (0, KEPT_CAPACITY));
        assert!(queue.move_into(KEPT_CAPACITY, &mut out));
        queue.tidy();
        assert_eq!(queue.buffer().capacity(), 0);
    }
}
