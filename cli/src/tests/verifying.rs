//! `gantry verify check` on a stored history, and options of `gantry verify` that make no sense. Whole runs are tested with real servers.

use super::run_line;
use crate::Exit;

/// A history of the first form: readers of it are kept for as long as files of it may lie around.
const HISTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/verify/fixtures/history-1.jsonl");

async fn check(name: &str, options: &str) {
    let ran = run_line(&format!("gantry verify check {HISTORY} {options}"), "").await;
    let failure = ran.result.as_ref().err().map(|failure| format!("{failure}\nexit code {}\n", failure.exit as u8)).unwrap_or_default();
    insta::assert_snapshot!(name, format!("{}{}{failure}", ran.out, ran.err));
}

#[tokio::test]
async fn a_stored_history_is_judged() {
    check("verify_check", "").await;
    check("verify_check_json", "-o json").await;
    check("verify_check_allowed", "--allow lost --allow phantom --allow reordered --allow early --allow torn").await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    for (line, word) in [
        ("gantry verify check /nowhere/run.jsonl", "cannot read"),
        (concat!("gantry verify check ", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "is no history"),
        ("gantry verify --topic fifo=steps", "go together"),
        ("gantry verify --invisible 1s", "10s to 12h"),
        ("gantry verify --size 10", "32 bytes"),
    ] {
        let ran = run_line(line, "").await;
        let failure = ran.result.clone().unwrap_err();
        assert_eq!(ran.exit(), Exit::Usage, "{line}: {ran:?}");
        assert!(failure.to_string().contains(word), "{line}: {failure}");
    }
    for line in
        ["gantry verify --topic steps --group g", "gantry verify --kinds fifo --topic fifo=steps --group g", "gantry verify --topic queen=steps"]
    {
        assert_eq!(run_line(line, "").await.exit(), Exit::Usage, "{line}");
    }
}
