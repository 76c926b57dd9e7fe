//! The protocol holds in every order of events of small shards. Each run is bounded by steps, on one thread, so it is the same run each time. The longer runs
//! and their numbers: `docs/design/010-replication.md`.

use gantry_model_check::{Outcome, Scope, check};

/// The whole scope holds, and all that should be possible is.
fn all_hold(scope: Scope) {
    let outcome = holds(scope, 10_000_000);
    assert!(outcome.complete && outcome.unseen.is_empty(), "{outcome}");
}

/// What is within so many steps of the beginning holds.
fn holds(scope: Scope, steps: usize) -> Outcome {
    let outcome = check(scope, steps, 1);
    assert!(outcome.violations.is_empty(), "{outcome}");
    outcome
}

#[test]
fn three_epochs() {
    all_hold(Scope::quiet(3, 1));
}

#[test]
fn three_epochs_with_two_values_and_late_appends() {
    holds(Scope::quiet(3, 2).with_late_appends(), 1_000_000);
}

#[test]
fn crashes() {
    all_hold(Scope::quiet(2, 1).with_crashes(2));
}

#[test]
fn crashes_between_write_and_sync() {
    holds(Scope::quiet(3, 1).with_crashes(1).syncing_later().led(), 1_000_000);
}

#[test]
fn crashes_that_lose_acknowledged_frames() {
    holds(Scope::quiet(3, 1).with_crashes(1).in_memory().led(), 1_000_000);
}

#[test]
fn suspects_are_believed_again() {
    let outcome = holds(Scope::quiet(2, 0).with_crashes(1).in_memory().led(), 1_000_000);
    assert!(outcome.complete && outcome.unseen == ["something commits in a second epoch"], "{outcome}");
}

#[test]
fn a_change_of_members() {
    let outcome = holds(Scope::quiet(3, 1).with_members(&[&[0, 1, 2], &[0, 1, 3]]).led(), 1_500_000);
    assert!(!outcome.unseen.contains(&"all changes of members end"), "{outcome}");
}

#[test]
fn two_changes_of_members() {
    holds(Scope::quiet(4, 0).with_members(&[&[0, 1, 2], &[0, 1, 3], &[1, 2, 3]]).led(), 1_500_000);
}

#[test]
fn a_change_of_members_that_is_taken_back() {
    let outcome = holds(Scope::quiet(4, 1).with_members(&[&[0, 1, 2], &[0, 1, 3], &[0, 1, 2]]).led(), 1_500_000);
    assert!(!outcome.unseen.contains(&"all changes of members end"), "{outcome}");
}

#[test]
fn from_one_member_to_two_to_three() {
    all_hold(Scope::quiet(4, 1).with_members(&[&[0], &[0, 1], &[0, 1, 2]]).led());
}

#[test]
fn five_members() {
    holds(Scope::quiet(3, 0).with_members(&[&[0, 1, 2, 3, 4]]).led(), 1_500_000);
}

#[test]
fn a_lost_folder() {
    holds(Scope::quiet(3, 0).with_losses(1).with_late_appends(), 1_000_000);
}

#[test]
fn catching_up_by_install() {
    all_hold(Scope::quiet(2, 1).with_installs(1).with_crashes(1).led());
}

#[test]
fn a_new_member_catches_up_by_install() {
    let outcome = holds(Scope::quiet(3, 0).with_installs(1).with_members(&[&[0, 1, 2], &[0, 1, 3]]).led(), 1_000_000);
    assert!(!outcome.unseen.contains(&"all changes of members end"), "{outcome}");
}
