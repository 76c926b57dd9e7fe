//! The zoo: bugs that brokers have had, ours and others', kept behind bars. The simulation lets one out at a time and must catch it.
//!
//! Only a build with the feature `zoo` has them, and that feature refuses to be built without debug assertions. Everywhere else the question whether a
//! bug is out is the constant `false`.

/// Asks whether a bug is out.
#[macro_export]
macro_rules! zoo {
    ($bug:ident) => {{
        #[cfg(feature = "zoo")]
        let out = $crate::zoo::is_out($crate::zoo::Bug::$bug);
        #[cfg(not(feature = "zoo"))]
        let out = false;
        out
    }};
}

#[cfg(feature = "zoo")]
pub use cages::{Bug, is_out, release};

#[cfg(feature = "zoo")]
mod cages {
    use std::cell::Cell;

    macro_rules! bugs {
        ($($(#[doc = $what:literal])+ $bug:ident),+ $(,)?) => {
            /// A bug, with what goes wrong.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub enum Bug { $($(#[doc = $what])+ $bug),+ }

            impl Bug {
                pub const ALL: &[Bug] = &[$(Bug::$bug),+];
            }
        };
    }

    bugs! {
        /// A leader is content with one copy less than W (rmq-5663, rmq-6662: the set of copies that count shrinks by itself).
        OneCopyLess,
        /// While members change, only the new ones are sealed.
        SealOnlyPending,
        /// The longest log leads, whatever its last epoch.
        LongestWhateverTheEpoch,
        /// A leader of an epoch below the promised one is obeyed.
        ObeyOldLeaders,
        /// A leader goes on after it promised a later epoch.
        GoOnAfterSeal,
        /// Frames are taken behind a frame that differs (rmq-9942).
        TakeWhateverIsBefore,
        /// What the leader committed counts as committed here, whether it is the same here or not.
        BelieveHighWatermark,
        /// A promise that is read back counts as kept, although its sync had failed. Found here.
        PromiseFromThePageCache,
        /// A sync that failed is tried again, and succeeds.
        RetrySync,
        /// Recovery believes what it reads to be durable.
        TrustPageCache,
        /// The header of a segment is not synced before the file has its name.
        HeaderUnsynced,
        /// A follower acknowledges before its sync.
        AckBeforeSync,
        /// A leader answers when its own copy is durable (rmq-8239).
        AnswerWhenDurableHere,
        /// A promise is not written down (rmq-9942).
        ForgetPromise,
        /// A leader that steps down keeps what was never committed (rmq-7689).
        KeepUncommittedState,
        /// A checkpoint is written before what it holds is committed.
        CheckpointUncommitted,
        /// Acknowledgements are answered before they are committed.
        AnswerAcksEarly,
        /// A new leader doesn't know the ids of messages stored before it.
        ForgetIds,
        /// A new leader doesn't know who has which message (rmq-7914).
        ForgetLeases,
        /// A new leader doesn't know what was acknowledged (rmq-1440, rmq-210, rmq-4771).
        ForgetAcks,
        /// A commit after a rollback is answered with OK (rmq-8158).
        CommitAfterRollback,
        /// Delayed messages come early (rmq-6984).
        EarlyTimers,
        /// A replica that gave up its log for an install counts as if it had everything.
        TrustInstalled,
        /// A replica is an ordinary one before its log has got as far as the state that was installed.
        InstallUnwaited,
        /// A page of the index that is damaged hides the messages that it names, which are passed over for ever. Found here.
        BelieveDamagedIndex,
        /// A full disk deletes what nobody has consumed (rmq-4549).
        DeleteWhenFull,
        /// Messages of one message group are given out side by side.
        NoLanes,
    }

    thread_local! {
        // Runs side by side in one process must not see each other's bugs, and the places where bugs were are too many to pass them to.
        static OUT: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is out, on this thread.
    pub fn is_out(bug: Bug) -> bool {
        OUT.get() == Some(bug)
    }

    /// Lets one bug out on this thread, or none.
    pub fn release(bug: Option<Bug>) {
        OUT.set(bug);
    }
}
