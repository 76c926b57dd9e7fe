//! What happened, in the order in which it happened: always as one number, which two runs of a seed must share, and in words for a person.

use std::fmt::{self, Write};
use std::time::Duration;

/// The account of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: Mixed,
    lines: u64,
    tell: bool,
}

/// A hash of words, by multiplication and rotation. Nobody attacks it.
#[derive(Debug)]
struct Mixed(u64);

impl Default for Mixed {
    fn default() -> Mixed {
        Mixed(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Mixed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
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
