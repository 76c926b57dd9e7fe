//! Every bug of the zoo is let out, one after the other, and the simulation must catch it within a bounded number of runs. Where it takes a rare fault
//! to see one, the runs have that kind of fault and few others.
#![cfg(feature = "zoo")]

use gantry_sim::plan::{Kind, Plan};
use gantry_sim::trace::Trace;
use gantry_store::zoo::{Bug, release};

/// Runs in which a bug must show itself.
const RUNS: u64 = 60;

/// Faults that bring a bug to light sooner; none to leave it to the seed.
fn kinds(bug: Bug) -> &'static [Kind] {
    use Kind::*;
    match bug {
        Bug::RetrySync | Bug::TrustPageCache => &[FailSync, PowerOfAll],
        Bug::SealOnlyPending => &[Reconfigure, Isolate, Partial, Pause],
        Bug::HeaderUnsynced | Bug::AckBeforeSync => &[PowerOfAll],
        Bug::TrustInstalled | Bug::InstallUnwaited => &[Kill, Power, LoseDisk],
        Bug::DeleteWhenFull => &[FullDisk],
        Bug::LongestWhateverTheEpoch | Bug::GoOnAfterSeal | Bug::KeepUncommittedState => &[Isolate, OneWay, Partial, Kill],
        Bug::CheckpointUncommitted | Bug::BelieveHighWatermark | Bug::TakeWhateverIsBefore => &[Isolate, OneWay, Partial, Pause],
        Bug::PromiseFromThePageCache => &[FailSync, Power, Kill],
        Bug::ForgetPromise | Bug::ObeyOldLeaders => &[Isolate, Partial, Kill, Power, Pause],
        _ => &[],
    }
}

/// Whether it takes many elections in a row, or one fault right behind another.
fn is_rare(bug: Bug) -> bool {
    matches!(bug, Bug::LongestWhateverTheEpoch | Bug::PromiseFromThePageCache)
}

/// Where to begin: one that was found by chance needs a rare course of things, and begins shortly before one.
fn first(bug: Bug) -> u64 {
    match bug {
        Bug::TrustInstalled => 80,
        Bug::BelieveDamagedIndex => 3270,
        _ => 0,
    }
}

/// The seed and the complaint of the first run that catches a bug.
fn caught(bug: Bug) -> Option<(u64, String)> {
    (first(bug)..first(bug) + RUNS).find_map(|seed| {
        let plan = Plan::of(seed);
        let plan = if kinds(bug).is_empty() { plan } else { plan.with_only(kinds(bug)) };
        let plan = if is_rare(bug) { plan.restless() } else { plan };
        release(Some(bug));
        let played = gantry_sim::play_with(plan, Trace::default());
        release(None);
        played.err().map(|broken| (seed, broken.why))
    })
}

macro_rules! catches {
    ($($test:ident: $bug:ident),+ $(,)?) => {
        $(#[test]
        fn $test() {
            let (seed, why) = caught(Bug::$bug).expect("the simulation catches it");
            println!("{:?}: seed {seed}: {}", Bug::$bug, why.chars().take(160).collect::<String>());
        })+

        #[test]
        fn every_bug_has_its_test() {
            assert_eq!([$(Bug::$bug),+].as_slice(), Bug::ALL);
        }
    };
}

catches! {
    one_copy_less: OneCopyLess,
    seal_only_pending: SealOnlyPending,
    longest_whatever_the_epoch: LongestWhateverTheEpoch,
    obey_old_leaders: ObeyOldLeaders,
    go_on_after_seal: GoOnAfterSeal,
    take_whatever_is_before: TakeWhateverIsBefore,
    believe_high_watermark: BelieveHighWatermark,
    promise_from_the_page_cache: PromiseFromThePageCache,
    retry_sync: RetrySync,
    trust_page_cache: TrustPageCache,
    header_unsynced: HeaderUnsynced,
    ack_before_sync: AckBeforeSync,
    answer_when_durable_here: AnswerWhenDurableHere,
    forget_promise: ForgetPromise,
    keep_uncommitted_state: KeepUncommittedState,
    checkpoint_uncommitted: CheckpointUncommitted,
    answer_acks_early: AnswerAcksEarly,
    forget_ids: ForgetIds,
    forget_leases: ForgetLeases,
    forget_acks: ForgetAcks,
    commit_after_rollback: CommitAfterRollback,
    early_timers: EarlyTimers,
    trust_installed: TrustInstalled,
    install_unwaited: InstallUnwaited,
    believe_damaged_index: BelieveDamagedIndex,
    delete_when_full: DeleteWhenFull,
    no_lanes: NoLanes,
}
