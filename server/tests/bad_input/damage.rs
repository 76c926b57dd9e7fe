//! A segment with a byte that the disk changed: the server refuses to start rather than forget what it acknowledged, and goes on without the
//! range only when the operator says so.

use crate::server::{Server, check_refused, content, gantry_server, read, write};
use std::path::{Path, PathBuf};

const MESSAGES: usize = 300;
/// In the middle of what was acknowledged.
const VICTIM: usize = 150;

fn body(number: usize) -> String {
    format!("message-{number:05}")
}

/// Sends messages as a person would.
async fn send_to(data: &Path) -> Server {
    let server = Server::start(data).await;
    let lines: String = (0..MESSAGES).map(|number| body(number) + "\n").collect();
    server.command(&["produce", "demo", "--quiet", "--in-flight", "16"], &lines);
    server
}

/// The same, and ends the server in order.
async fn send_all(data: &Path) {
    send_to(data).await.stop().await;
}

/// What a new group finds, in order of the bodies.
fn consume(server: &Server) -> Vec<String> {
    let printed = server.command(&["consume", "demo", "--group", "readers", "--wait", "2s", "-o", "json"], "");
    let bodies = |line: &str| (0..MESSAGES).map(body).find(|body| line.contains(&format!("\"{body}\"")));
    let mut found: Vec<String> = printed.lines().filter_map(bodies).collect();
    found.sort();
    found
}

/// The first segment, and where in it the victim's body is.
fn victim(data: &Path) -> (PathBuf, u64) {
    let segment = data.join("shard-0000000000/log/00000000000000000000.log");
    let body = body(VICTIM);
    let at = read(&segment).windows(body.len()).position(|bytes| bytes == body.as_bytes()).unwrap();
    (segment, at as u64)
}

/// A folder with a damaged segment: the segment, the place, and the byte that was there.
async fn damaged(data: &Path) -> (PathBuf, u64, u8) {
    send_all(data).await;
    let (segment, at) = victim(data);
    let sound = read(&segment)[at as usize];
    write(&segment, at, &[sound ^ 0x20]);
    (segment, at, sound)
}

#[tokio::test]
async fn a_damaged_segment_is_refused_and_left_as_it_is_until_it_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (segment, at, sound) = damaged(&data).await;
    // The controller notes each start in its log; nothing else may change.
    let before = content(&data.join("shard-0000000000"));
    for _ in 0..2 {
        let what_to_do = "restore the file, or start with `--skip-damaged` to set the range aside in `bad/`";
        let said = check_refused(&data, &["acknowledged messages can't be read", segment.to_str().unwrap(), "addresses ", what_to_do]);
        let offset: u64 = said.split("damaged at byte ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!((offset..offset + 512).contains(&at), "byte {at} is in the frame at {offset}: {said}");
    }
    assert!(content(&data.join("shard-0000000000")) == before, "a refused start changed something");
    write(&segment, at, &[sound]);
    let server = Server::start(&data).await;
    assert_eq!(consume(&server), (0..MESSAGES).map(body).collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test]
async fn a_damaged_segment_is_set_aside_when_the_operator_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (segment, _, sound) = damaged(&data).await;
    let server = Server::start_by(gantry_server(&data).arg("--skip-damaged")).await;
    let others: Vec<String> = (0..MESSAGES).filter(|number| *number != VICTIM).map(body).collect();
    assert_eq!(consume(&server), others);
    server.stop().await;
    let bad = content(&data.join("shard-0000000000/bad"));
    let kept = |ending: &str| bad.iter().find(|(path, _)| path.to_str().unwrap().ends_with(ending)).unwrap().1;
    let mut lost = body(VICTIM).into_bytes();
    lost[0] = sound ^ 0x20;
    assert!(kept(".raw").windows(lost.len()).any(|bytes| bytes == lost), "the bytes as they were found");
    let note = String::from_utf8(kept(".txt").clone()).unwrap();
    assert!(note.contains(segment.to_str().unwrap()), "{note}");
    // The log is sound again: the flag is not needed any more, and it takes messages.
    let server = Server::start(&data).await;
    server.command(&["produce", "demo", "--body", &body(VICTIM)], "");
    assert_eq!(consume(&server), [body(VICTIM)]);
    server.stop().await;
}

#[tokio::test]
async fn a_range_that_was_never_in_a_checkpoint_can_be_set_aside_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = send_to(&data).await;
    server.signal("-KILL");
    server.ended().await;
    let (segment, at) = victim(&data);
    write(&segment, at, b"M");
    check_refused(&data, &["acknowledged messages can't be read", "--skip-damaged"]);
    let server = Server::start_by(gantry_server(&data).arg("--skip-damaged")).await;
    assert!(server.log().contains("was set aside in `bad/`"), "{}", server.log());
    let others: Vec<String> = (0..MESSAGES).filter(|number| *number != VICTIM).map(body).collect();
    assert_eq!(consume(&server), others);
    server.stop().await;
}

#[tokio::test]
async fn a_damaged_catalogue_is_refused_rather_than_cut() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    send_all(&data).await;
    let log = data.join("controller/log.redb");
    let bytes = read(&log);
    let name = b"\"name\":\"demo\"";
    let places: Vec<usize> = (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    assert!(!places.is_empty());
    for at in &places {
        write(&log, *at as u64 + 8, b"D");
    }
    check_refused(&data, &["controller/log.redb", "damaged", "acknowledged would be lost"]);
    for at in &places {
        write(&log, *at as u64 + 8, b"d");
    }
    let server = Server::start(&data).await;
    assert_eq!(consume(&server).len(), MESSAGES);
    server.stop().await;
}
