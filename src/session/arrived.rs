//! Which messages of one sender have arrived, where no stream tells: in a session without
//! acknowledgements, and those to this member alone. What comes over two paths is given out once.

use std::collections::VecDeque;

use super::sender::DIRECT;
use crate::limits;

/// Sequence numbers wrap here. A multiple of how many are remembered.
const MODULUS: u32 = 0x8000_0000;
const WORDS: usize = limits::BEST_EFFORT_NUMBERS as usize / 64;

/// The numbers of the last messages of one sender to this member alone.
#[derive(Debug, Default)]
pub(super) struct ArrivedDirect(VecDeque<u32>);

impl ArrivedDirect {
    /// Whether a message was not here before, as far as is remembered.
    pub(super) fn is_new(&mut self, id: u32) -> bool {
        if self.0.contains(&id) {
            return false;
        }
        if self.0.len() == limits::SENDER_WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(id);
        true
    }
}

/// The last numbers of one sender in a session without acknowledgements.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The furthest number.
    last: Option<u32>,
    /// A bit for each of the numbers up to it, at their place in a ring.
    bits: [u64; WORDS],
    direct: ArrivedDirect,
}

impl Default for Arrived {
    fn default() -> Arrived {
        Arrived { last: None, bits: [0; WORDS], direct: ArrivedDirect::default() }
    }
}

impl Arrived {
    /// Whether a message was not here before, as far as is remembered. One that is further from the
    /// others than that begins anew.
    pub(super) fn is_new(&mut self, id: u32) -> bool {
        if id & DIRECT != 0 {
            return self.direct.is_new(id);
        }
        let most = limits::BEST_EFFORT_NUMBERS;
        let between = |from: u32, to: u32| to.wrapping_sub(from) & (MODULUS - 1);
        match self.last {
            Some(last) if between(id, last) < most => {}
            Some(last) if between(last, id) < most => {
                for n in 1..=between(last, id) {
                    self.set(last.wrapping_add(n) & (MODULUS - 1), false);
                }
                self.last = Some(id);
            }
            _ => {
                self.bits = [0; WORDS];
                self.last = Some(id);
            }
        }
        !self.set(id, true)
    }

    /// Sets the bit of a number. What it was.
    fn set(&mut self, id: u32, to: bool) -> bool {
        let at = (id % limits::BEST_EFFORT_NUMBERS) as usize;
        let (word, bit) = (&mut self.bits[at / 64], 1 << (at % 64));
        let before = *word & bit != 0;
        *word = if to { *word | bit } else { *word & !bit };
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(arrived: &mut Arrived, ids: &[u32]) -> Vec<bool> {
        ids.iter().map(|id| arrived.is_new(*id)).collect()
    }

    #[test]
    fn each_number_is_new_once_in_any_order() {
        let mut arrived = Arrived::default();
        assert_eq!(new(&mut arrived, &[5, 5, 3, 7, 3, 6, 7, 5, 1]), {
            [true, false, true, true, false, true, false, false, true]
        });
        let one = DIRECT | 5;
        assert_eq!(new(&mut arrived, &[one, one, one + 1, 8]), [true, false, true, true]);
    }

    #[test]
    fn numbers_wrap() {
        let mut arrived = Arrived::default();
        let (first, last) = (MODULUS - 2, MODULUS - 1);
        assert_eq!(new(&mut arrived, &[first, 0, last, 1]), [true; 4]);
        assert_eq!(new(&mut arrived, &[1, last, 0, first]), [false; 4]);
    }

    #[test]
    fn so_many_numbers_are_remembered() {
        let most = limits::BEST_EFFORT_NUMBERS;
        let mut arrived = Arrived::default();
        assert!((0..most).all(|id| arrived.is_new(id)));
        assert!((0..most).all(|id| !arrived.is_new(id)), "at the limit");
        assert_eq!(new(&mut arrived, &[most, 1, most]), [true, false, false]);
        // What is further away may have been here: it begins anew.
        assert_eq!(new(&mut arrived, &[0, 1, most]), [true, true, true]);
        assert_eq!(new(&mut arrived, &[3 * most, 2 * most + 1, 2 * most + 1]), [true, true, false]);
        let direct = |n: usize| DIRECT | n as u32;
        assert!((0..=limits::SENDER_WINDOW).all(|n| arrived.is_new(direct(n))));
        assert!(!arrived.is_new(direct(1)) && arrived.is_new(direct(0)));
    }
}
