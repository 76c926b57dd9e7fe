//! Chance: random numbers from the system, or from a seed so that a run can be repeated.

/// A source of random bits. Not a secret unless the implementation says so.
pub trait Chance: Send {
    /// The next 64 bits.
    fn next_u64(&mut self) -> u64;

    /// Fills the whole buffer.
    fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// A number in `0 .. n`, each equally likely. `n` is not zero.
    fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a choice needs at least one possibility");
        // The high half of a 64 x 64 bit product is uniform except for the low products below 2^64 mod n, which are drawn again
        // (Lemire, "Fast random integer generation in an interval", 2019).
        let reject = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= reject {
                return (product >> 64) as u64;
            }
        }
    }

    /// True in `num` of `den` cases.
    fn ratio(&mut self, num: u64, den: u64) -> bool {
        self.below(den) < num
    }
}

impl<C: Chance + ?Sized> Chance for Box<C> {
    fn next_u64(&mut self) -> u64 {
        (**self).next_u64()
    }

    fn fill(&mut self, buf: &mut [u8]) {
        (**self).fill(buf);
    }
}

/// The random numbers of the kernel, fit for keys and secrets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill(&mut self, buf: &mut [u8]) {
        // getrandom(2) fails only on kernels before 3.17 or under a filter that forbids it: there is no safe way to go on.
        getrandom::fill(buf).expect("the kernel gives random bytes");
    }
}

/// A repeatable sequence: xoshiro256++ 1.0 of Blackman and Vigna (public domain), its state filled by splitmix64 from the seed, as
/// they recommend. Not for secrets.
#[derive(Clone, Debug)]
pub struct SeededChance {
    state: [u64; 4],
}

impl SeededChance {
    /// The sequence of this seed. Every seed gives a different one, zero too.
    pub fn new(seed: u64) -> SeededChance {
        let mut at = seed;
        SeededChance { state: std::array::from_fn(|_| splitmix64(&mut at)) }
    }

    /// A new sequence that depends on this one: gives each part of a simulation its own, so that one part's draws don't move another's.
    pub fn fork(&mut self) -> SeededChance {
        SeededChance::new(self.next_u64())
    }
}

impl Chance for SeededChance {
    fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

/// One step of splitmix64 (Steele, Lea and Flood 2014; constants of Vigna's public-domain version).
fn splitmix64(at: &mut u64) -> u64 {
    *at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *at;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_generators_give_their_published_sequences() {
        let mut at = 1_234_567;
        assert_eq!([splitmix64(&mut at), splitmix64(&mut at)], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let mut chance = SeededChance { state: [1, 2, 3, 4] };
        assert_eq!([chance.next_u64(), chance.next_u64(), chance.next_u64()], [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }

    #[test]
    fn a_seed_repeats_its_sequence_and_forks_differ() {
        let draw = |mut chance: SeededChance| [chance.next_u64(), chance.next_u64()];
        assert_eq!(draw(SeededChance::new(7)), draw(SeededChance::new(7)));
        assert_ne!(draw(SeededChance::new(7)), draw(SeededChance::new(8)));
        let mut parent = SeededChance::new(7);
        assert_ne!(draw(parent.fork()), draw(parent.fork()));
    }

    #[test]
    fn below_reaches_every_number_about_equally_often() {
        let mut chance = SeededChance::new(1);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[chance.below(6) as usize] += 1;
        }
        // Six standard deviations of a binomial(60,000, 1/6) are 548.
        assert!(counts.iter().all(|c| c.abs_diff(10_000) < 548), "{counts:?}");
    }

    #[test]
    fn fill_covers_odd_lengths() {
        for chance in [&mut SystemChance as &mut dyn Chance, &mut SeededChance::new(3)] {
            let mut buf = [0; 45];
            chance.fill(&mut buf);
            assert!(buf[40..].iter().any(|b| *b != 0));
        }
    }
}
