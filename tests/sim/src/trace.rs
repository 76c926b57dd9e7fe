//! What happened, in the order in which it happened: always as one number, which two runs of a seed must share, and in words for a person.

use std::fmt::{self, Write};
use std::time::Duration;

/// The account of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: Fnv,
    lines: u64,
    tell: bool,
}

/// FNV-1a of 64 bits.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}

impl Trace {
    /// Tells each line as it comes.
    pub fn aloud() -> Trace {
        Trace { tell: true, ..Trace::default() }
    }

    pub fn note(&mut self, now: Duration, line: fmt::Arguments<'_>) {
        self.lines += 1;
        // A hash takes everything.
        let _ = writeln!(self.hash, "{now:?} {line}");
        if self.tell {
            println!("{:>13.6} {line}", now.as_secs_f64());
        }
    }

    /// The same for two runs in which the same happened.
    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }
}
