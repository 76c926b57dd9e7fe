//! Each rule is needed: without it, the checker finds how a committed frame is lost.

use gantry_model_check::{Mutant, Scope, check};

/// Without this rule something goes wrong within the scope, and with it nothing does.
fn is_needed(mutant: Mutant, scope: Scope) {
    const STEPS: usize = 12_000_000;
    let broken = check(scope.clone().breaking(mutant), STEPS, 1);
    assert!(!broken.violations.is_empty(), "{mutant:?} was not found: {broken}");
    let sound = check(scope, broken.steps, 1);
    assert!(sound.violations.is_empty(), "{sound}");
}

#[test]
fn suspects_do_not_count() {
    is_needed(Mutant::CountSuspects, Scope::quiet(2, 0).with_crashes(1).in_memory().led());
}

#[test]
fn only_frames_of_the_own_epoch_are_counted() {
    is_needed(Mutant::CommitOldEpoch, Scope::quiet(4, 0).led());
}

#[test]
fn both_configurations_are_sealed() {
    is_needed(Mutant::SealPendingOnly, Scope::quiet(2, 0).with_members(&[&[0, 1, 2], &[0, 1, 3]]).led());
}

#[test]
fn a_promise_survives_a_crash() {
    is_needed(Mutant::ForgetPromise, Scope::quiet(3, 0).with_crashes(1).led());
}

#[test]
fn a_leader_begins_with_the_log_that_was_granted() {
    is_needed(Mutant::BecomeUnchecked, Scope::quiet(3, 0).with_crashes(1).syncing_later().led());
}

#[test]
fn the_end_of_a_change_is_believed_from_the_current_leader_only() {
    is_needed(Mutant::LateStable, Scope::quiet(4, 0).with_members(&[&[0, 1, 2], &[0, 1, 3]]).led());
}

#[test]
fn a_replica_that_lost_its_folder_is_another_one() {
    is_needed(Mutant::CountReborn, Scope::quiet(2, 0).with_losses(1).led());
}

#[test]
fn a_follower_promises_the_epoch_of_the_frames_that_it_takes() {
    is_needed(Mutant::KeepPromiseOnAppend, Scope::quiet(3, 0).with_members(&[&[0, 1, 2, 3, 4]]).led());
}

#[test]
fn one_change_of_members_at_a_time() {
    is_needed(Mutant::ReplacePending, Scope::quiet(4, 0).with_members(&[&[0, 1, 2], &[0, 1, 3], &[0, 3, 4]]).led());
}

#[test]
fn a_change_that_is_taken_back_may_have_committed() {
    is_needed(Mutant::RetreatUnsealed, Scope::quiet(3, 0).with_members(&[&[0, 1, 2], &[0, 3, 4], &[0, 1, 2]]).led());
}

#[test]
fn a_replica_without_its_log_is_a_suspect() {
    is_needed(Mutant::InstallTrusted, Scope::quiet(3, 0).with_installs(1).led());
}

#[test]
fn a_suspect_needs_all_that_its_leader_had() {
    is_needed(Mutant::ClearAtOnce, Scope::quiet(3, 0).with_crashes(1).in_memory().led());
}

#[test]
fn what_is_acknowledged_is_synced() {
    is_needed(Mutant::AckBeforeSync, Scope::quiet(2, 0).with_crashes(1).syncing_later().led());
}
