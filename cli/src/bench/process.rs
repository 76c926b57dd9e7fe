//! What a process on this machine uses, from Linux's `/proc`; nothing on other systems, and the report says so.

use std::path::Path;
use std::time::Duration;

/// CPU time is counted in these: `USER_HZ`, which Linux fixes at 100 a second for programs on all common machines.
const TICK: Duration = Duration::from_millis(10);

/// One look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// User and system time of all its threads, also of those that have ended, in whole ticks.
    ticks: Duration,
    /// The same to the nanosecond, but only of the threads that are there, if the kernel counts it.
    threads: Option<Duration>,
    pub rss_bytes: u64,
}

impl Sample {
    #[cfg(test)]
    pub fn new(cpu: Duration, rss_bytes: u64) -> Sample {
        Sample { ticks: cpu, threads: Some(cpu), rss_bytes }
    }

    /// CPU time from an earlier look to this one. The precise count is taken unless a thread has ended in between and taken its time
    /// along, which shows as a difference that rounding cannot explain.
    pub fn cpu_since(&self, earlier: &Sample) -> Duration {
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        let threads = self.threads.zip(earlier.threads).map(|(now, then)| now.saturating_sub(then));
        threads.filter(|threads| ticks.abs_diff(*threads) <= TICK * 2).unwrap_or(ticks)
    }
}

/// Looks at a process; none if there is no such process or no `/proc`.
pub async fn sample(pid: u32) -> Option<Sample> {
    let stat = tokio::fs::read_to_string(format!("/proc/{pid}/stat")).await.ok()?;
    let status = tokio::fs::read_to_string(format!("/proc/{pid}/status")).await.ok()?;
    Some(Sample { ticks: ticks(&stat)?, threads: threads(pid).await, rss_bytes: rss(&status).unwrap_or(0) })
}

/// The first field of each thread's `schedstat`: nanoseconds on a CPU.
async fn threads(pid: u32) -> Option<Duration> {
    let mut folder = tokio::fs::read_dir(format!("/proc/{pid}/task")).await.ok()?;
    let mut total = Duration::ZERO;
    while let Ok(Some(thread)) = folder.next_entry().await {
        // A thread may end while we look.
        let text = tokio::fs::read_to_string(thread.path().join("schedstat")).await.unwrap_or_default();
        total += text.split_ascii_whitespace().next().and_then(|nanos| nanos.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos);
    }
    (!total.is_zero()).then_some(total)
}

/// Fields 14 and 15 of `stat`. The name in field 2 may hold blanks and brackets, so counting begins after the last bracket.
fn ticks(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user + TICK * system)
}

fn rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The process that listens on a TCP port of this machine, if we may look into it.
pub async fn listener(port: u16) -> Option<u32> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = tokio::fs::read_to_string(table).await.unwrap_or_default();
        sockets.extend(text.lines().filter_map(|line| listening_socket(line, port)));
    }
    let mut processes = tokio::fs::read_dir("/proc").await.ok()?;
    while let Ok(Some(entry)) = processes.next_entry().await {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if holds(&entry.path().join("fd"), &sockets).await {
            return Some(pid);
        }
    }
    None
}

async fn holds(folder: &Path, sockets: &[String]) -> bool {
    // Processes of other users are closed to us.
    let Ok(mut files) = tokio::fs::read_dir(folder).await else { return false };
    while let Ok(Some(file)) = files.next_entry().await {
        let target = tokio::fs::read_link(file.path()).await.unwrap_or_default();
        if target.to_str().is_some_and(|target| sockets.iter().any(|socket| target == socket)) {
            return true;
        }
    }
    false
}

/// A line of `/proc/net/tcp` if it listens (state 0A) on the port: its inode as `fd` links name it.
fn listening_socket(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let number = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (number == port && *state == "0A").then(|| format!("socket:[{inode}]"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_files_of_proc_are_read_as_they_are() {
        let stat = "4711 (odd) name)) S 1 1 1 0 -1 4194304 100 0 0 0 250 50 7 8 20 0 9 0 12345 0 0";
        assert_eq!(ticks(stat), Some(Duration::from_secs(3)));
        assert_eq!(rss("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        let line = "   0: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22333 1 0000 100 0 0 10 0";
        assert_eq!(listening_socket(line, 8081), Some("socket:[22333]".to_owned()));
        assert_eq!(listening_socket(line, 8082), None);
    }

    #[test]
    fn threads_that_end_are_not_forgotten() {
        let look = |ticks, threads| Sample {
            ticks: Duration::from_millis(ticks),
            threads: (threads > 0).then(|| Duration::from_micros(threads)),
            rss_bytes: 0,
        };
        assert_eq!(look(150, 147_300).cpu_since(&look(100, 101_200)), Duration::from_micros(46_100));
        assert_eq!(look(900, 20_000).cpu_since(&look(100, 101_200)), Duration::from_millis(800));
        assert_eq!(look(110, 0).cpu_since(&look(100, 0)), Duration::from_millis(10));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn our_own_process_is_found_by_its_port() {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(listener(socket.local_addr().unwrap().port()).await, Some(std::process::id()));
        assert!(sample(std::process::id()).await.unwrap().rss_bytes > 0);
    }
}
