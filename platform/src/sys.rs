//! The SIGBUS handler: a fault in a mapped file becomes one line with the file's name and offset, and exit code 86.
//!
//! A fault in a map means that the file became shorter under us or that its device failed. The thread cannot go on, and the process
//! must not: it would serve from a disk that lies. So it says where and leaves; the restart repairs (crash-only).
//!
//! Every map registers its range in a fixed table of atomics, because a signal handler may neither allocate nor lock. A fault outside
//! the table gets the default action.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// The exit code after a fault in a mapped file.
pub const SIGBUS_EXIT_CODE: i32 = 86;

/// How many maps the table names: a log of 256 GiB has 1,024 segments of 256 MiB, each with an index run, and the rest is slack. A map
/// that finds no free slot works as well, its fault just ends with the default action.
const SLOTS: usize = 4096;

/// How much of the end of a path is kept: enough for shard folder and segment name.
const NAME_LEN: usize = 112;

const FREE: u8 = 0;
const CHANGING: u8 = 1;
const USED: u8 = 2;

struct Slot {
    state: AtomicU8,
    name_len: AtomicU8,
    start: AtomicUsize,
    len: AtomicUsize,
    name: [AtomicU8; NAME_LEN],
}

impl Slot {
    const fn new() -> Slot {
        Slot {
            state: AtomicU8::new(FREE),
            name_len: AtomicU8::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            name: [const { AtomicU8::new(0) }; NAME_LEN],
        }
    }
}

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// Where the search for a free slot starts, so that it is short even when the table is half full.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A range in the table; dropping it takes it out.
pub(crate) struct Registration {
    slot: Option<&'static Slot>,
}

impl Registration {
    /// Enters `start .. start + len` as the map of `path`.
    pub(crate) fn new(path: &Path, start: usize, len: usize) -> Registration {
        let first = NEXT.fetch_add(1, Ordering::Relaxed);
        let slot = (0..SLOTS)
            .map(|i| &TABLE[first.wrapping_add(i) % SLOTS])
            .find(|slot| slot.state.compare_exchange(FREE, CHANGING, Ordering::Acquire, Ordering::Relaxed).is_ok());
        if let Some(slot) = slot {
            let path = path.as_os_str().as_bytes();
            let tail = &path[path.len().saturating_sub(NAME_LEN)..];
            for (to, from) in slot.name.iter().zip(tail) {
                to.store(*from, Ordering::Relaxed);
            }
            slot.name_len.store(tail.len() as u8, Ordering::Relaxed);
            slot.start.store(start, Ordering::Relaxed);
            slot.len.store(len, Ordering::Relaxed);
            slot.state.store(USED, Ordering::Release);
        }
        Registration { slot }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.state.store(FREE, Ordering::Release);
        }
    }
}

/// Installs the handler for the whole process. Called once, early in `main`.
pub fn install_sigbus_handler() {
    // SAFETY: `action` is zeroed, which is a valid `sigaction`, then filled; `on_sigbus` has the signature SA_SIGINFO asks for and does
    // only what a signal handler may. SA_ONSTACK uses the alternate stack the standard library gives to its threads.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`; a positive `si_code` means that it raised the signal itself, and then `si_addr` is set.
    let address = unsafe { if (*info).si_code > 0 { (*info).si_addr() as usize } else { 0 } };
    if let Some((slot, offset)) = find(address) {
        let mut line = Line::new();
        line.push(b"gantry: SIGBUS in the map of `");
        line.push_name(slot);
        line.push(b"` at offset ");
        line.push_number(offset);
        line.push(b": the file became shorter or its device failed; exit code 86, the restart repairs\n");
        line.print();
        // SAFETY: `_exit` is async-signal-safe and does not return.
        unsafe { libc::_exit(SIGBUS_EXIT_CODE) }
    }
    // SAFETY: `signal` and `raise` are async-signal-safe. The signal is blocked while we are here, so it strikes on return, with the
    // default action.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// The map that holds `address`, and the offset in it.
fn find(address: usize) -> Option<(&'static Slot, usize)> {
    TABLE.iter().find_map(|slot| {
        if slot.state.load(Ordering::Acquire) != USED {
            return None;
        }
        let offset = address.checked_sub(slot.start.load(Ordering::Relaxed))?;
        (offset < slot.len.load(Ordering::Relaxed)).then_some((slot, offset))
    })
}

/// A line put together without allocating; what does not fit is dropped.
struct Line {
    bytes: [u8; 320],
    len: usize,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [0; 320], len: 0 }
    }

    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(to) = self.bytes.get_mut(self.len) {
                *to = *byte;
                self.len += 1;
            }
        }
    }

    fn push_name(&mut self, slot: &Slot) {
        let len = usize::from(slot.name_len.load(Ordering::Relaxed));
        for byte in slot.name.iter().take(len) {
            self.push(&[byte.load(Ordering::Relaxed)]);
        }
    }

    fn push_number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }

    fn print(&self) {
        // SAFETY: `write` is async-signal-safe, and the first `len` bytes are initialised.
        unsafe {
            libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_registered_range_is_found_by_every_address_in_it() {
        let registration = Registration::new(Path::new("shard-1/000"), 0x1000, 16);
        let slot = registration.slot.unwrap();
        assert!(std::ptr::eq(find(0x1000).unwrap().0, slot));
        assert_eq!(find(0x100f).unwrap().1, 15);
        assert!(find(0x1010).is_none());
        drop(registration);
        assert!(find(0x1000).is_none());
    }

    #[test]
    fn a_line_is_cut_at_its_end() {
        let mut line = Line::new();
        line.push_number(0);
        line.push(b" ");
        line.push_number(18_446_744_073_709_551_615);
        assert_eq!(&line.bytes[..line.len], b"0 18446744073709551615");
        line.push(&[b'x'; 500]);
        assert_eq!(line.len, 320);
    }
}
