//! Holds the client's log back. When its Telemetry stream breaks, release 5.0.0 logs the error and asks the same broken stream again, for
//! ever and without a pause: a killed server would cost two cores and megabytes of log a second. The client writes its log to standard error
//! and waits for it, so a slow reader at the other end slows that loop down and leaves everything else alone: the calls of the scenarios
//! write no log.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::Instant;

/// What a client that is well writes stays far below this.
const LINES_PER_SECOND: u32 = 100;
/// What is kept of the log.
const LARGEST_LOG: u64 = 1 << 20;

/// Puts a slow pipe in the place of standard error. Without it the log is only large, so a failure is no reason to stop.
pub fn slow_down() {
    if let Err(error) = redirect() {
        eprintln!("the client's log cannot be held back: {error}");
    }
}

fn redirect() -> std::io::Result<()> {
    let kept = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    let (reader, writer) = std::io::pipe()?;
    nix::unistd::dup2_stderr(&writer)?;
    std::thread::spawn(move || copy(BufReader::new(reader), kept));
    Ok(())
}

/// Reads for ever, at most so many lines a second, and writes until the log is large enough.
fn copy(mut log: impl BufRead, mut kept: impl Write) {
    let (mut second, mut lines, mut written) = (Instant::now(), 0, 0);
    let mut line = Vec::new();
    while log.by_ref().take(LARGEST_LOG).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if written < LARGEST_LOG {
            // A closed log has no reader who could miss something.
            let _ = kept.write_all(&line);
            written += line.len() as u64;
        }
        line.clear();
        lines += 1;
        if lines == LINES_PER_SECOND {
            std::thread::sleep(Duration::from_secs(1).saturating_sub(second.elapsed()));
            (second, lines) = (Instant::now(), 0);
        }
    }
}
