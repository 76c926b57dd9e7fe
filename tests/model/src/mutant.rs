//! Broken protocols. Each gives up one rule, and a checker that does not find out would be worth nothing.

use clap::ValueEnum;

/// The rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mutant {
    /// The word of a suspect counts when a leader is chosen (4.6).
    CountSuspects,
    /// W copies commit a frame of an older epoch (rule 6).
    CommitOldEpoch,
    /// While members change, only the new ones are sealed (rule 11).
    SealPendingOnly,
    /// A crash takes the promise (rule 1).
    ForgetPromise,
    /// A leader begins with another log than was granted (rule 5).
    BecomeUnchecked,
    /// The end of a change is believed from a leader of an older epoch (rule 14).
    LateStable,
    /// A replica that lost its folder, and its promise with it, still counts as the member that it was (4.6).
    CountReborn,
    /// A follower takes a later leader's frames without promising its epoch (rule 1).
    KeepPromiseOnAppend,
    /// Members are changed again before the last change has ended (rule 10).
    ReplacePending,
    /// A change is taken back without sealing the members that it led to (rule 11).
    RetreatUnsealed,
    /// A replica whose log makes room for an install is not a suspect meanwhile (4.7).
    InstallTrusted,
    /// A suspect is believed again before it has all that its leader had (4.6).
    ClearAtOnce,
    /// A follower acknowledges what it wrote before it is synced (rule 3).
    AckBeforeSync,
}
