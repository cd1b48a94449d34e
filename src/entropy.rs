//! Where random bytes come from. The core draws everything from an injected [`Entropy`], so that a
//! seed replays a whole history (except the bytes of ECDSA signatures, see the crate guide).

/// A source of random bytes.
pub trait Entropy: Send {
    /// Fills `bytes` with random bytes.
    fn fill(&mut self, bytes: &mut [u8]);

    /// A uniform 32-bit number.
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// A uniform 64-bit number.
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// `len` characters of `[A-Za-z0-9]`, each uniform.
    fn alphanumeric(&mut self, len: usize) -> String {
        const LETTERS: &[u8; 62] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::with_capacity(len);
        while text.len() < len {
            let mut byte = [0; 1];
            self.fill(&mut byte);
            // 248 is the largest multiple of 62 in a byte: beyond it the choice would not be even.
            if byte[0] < 248 {
                text.push(char::from(LETTERS[usize::from(byte[0] % 62)]));
            }
        }
        text
    }

    /// A random (version 4) UUID in lower-case hyphenated text.
    fn uuid_v4(&mut self) -> String {
        let mut b = [0; 16];
        self.fill(&mut b);
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        crate::name::NameId(u128::from_be_bytes(b)).uuid_text()
    }
}

/// The operating system's random numbers, through aws-lc.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        // aws-lc only fails here when the system has no random source at all; going on without
        // one would make every key predictable.
        aws_lc_rs::rand::fill(bytes).expect("the operating system gives no random numbers");
    }
}

/// A reproducible sequence (SplitMix64) for tests and simulations. Never for real keys.
#[derive(Clone, Debug)]
pub struct SeededEntropy(u64);

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> SeededEntropy {
        SeededEntropy(seed)
    }

    fn step(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.step().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
