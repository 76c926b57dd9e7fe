//! Asking the leader of a shard, and the next one if it leads no more.

use super::Routed;
use super::race::{Call, all};
use super::shards::{Lead, Leader};
use gantry_model::contract::Broker;
use gantry_model::contract::broker::{EndError, LeaseError, LetterError, LiteError, LookupError, OffsetError, PullError, RecallError, ReceiveError};
use gantry_model::{Epoch, QueueId, ShardId, Topic, placement};
use gantry_platform::clock::{sleep, timeout};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long a call without a time of its own waits for a shard that has no leader: elections take less.
const PATIENCE: Duration = Duration::from_secs(3);

/// A leader that could not be asked, or said that it leads no more, may be the next one as well: it is asked again after this long.
const AGAIN: Duration = Duration::from_millis(100);

/// Why no leader of a shard can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// Nobody led it in time.
    NoLeader,
    NoShard,
}

/// What an operation says of a shard that can't be asked.
pub(super) trait Absence: Sized {
    /// The shard has no leader.
    const NO_LEADER: Self;
    /// What the caller has, names a shard that there is not.
    const NO_SHARD: Self;
    /// Whether a broker said that it doesn't lead the shard.
    fn is_no_leader(&self) -> bool;
}

macro_rules! absence {
    ($($error:ident: $gone:ident),+ $(,)?) => {
        $(impl Absence for $error {
            const NO_LEADER: Self = $error::NoLeader;
            const NO_SHARD: Self = $error::$gone;

            fn is_no_leader(&self) -> bool {
                matches!(self, $error::NoLeader)
            }
        })+
    };
}

absence! {
    LeaseError: Ended,
    EndError: Unknown,
    RecallError: Unknown,
    LookupError: NoSuchQueue,
    OffsetError: NoSuchQueue,
    PullError: NoSuchQueue,
    LetterError: Gone,
    LiteError: NoLeader,
    ReceiveError: NoLeader,
}

impl Absent {
    /// What an operation says of it.
    fn error<E: Absence>(self) -> E {
        match self {
            Absent::NoLeader => E::NO_LEADER,
            Absent::NoShard => E::NO_SHARD,
        }
    }
}

impl Routed {
    /// The leader of a shard, waiting for one as long as the clock is before `until`.
    pub(super) async fn leader(&self, shard: ShardId, until: Duration) -> Result<Lead, Absent> {
        loop {
            match self.shards.leader(shard) {
                Leader::Known(lead) => return Ok(lead),
                Leader::Electing => self.led_anew(shard, None, until).await?,
                Leader::NoShard => return Err(Absent::NoShard),
            }
        }
    }

    /// Waits for another leader than the one of an epoch, or for a pause after which that one may answer again: its connection was made anew, or it
    /// had been elected and did not know yet. The wait ends early when the process stops.
    pub(super) async fn led_anew(&self, shard: ShardId, since: Option<Epoch>, until: Duration) -> Result<(), Absent> {
        let left = until.saturating_sub(self.clock.mono());
        if left.is_zero() || *self.draining.borrow() {
            return Err(Absent::NoLeader);
        }
        let mut draining = self.draining.subscribe();
        let changed = async {
            tokio::select! {
                () = self.shards.led_anew(shard, since) => Ok(()),
                () = sleep(AGAIN) => Ok(()),
                _ = draining.wait_for(|draining| *draining) => Err(Absent::NoLeader),
            }
        };
        timeout(left, changed).await.unwrap_or(Err(Absent::NoLeader))
    }

    /// Asks the leader of a shard, and the next one if it says that it leads no more.
    pub(super) async fn ask<T, E, F>(&self, shard: ShardId, call: impl Fn(Arc<dyn Broker>) -> F + Send + Sync) -> Result<T, E>
    where
        E: Absence + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        self.ask_until(shard, self.clock.mono() + PATIENCE, call).await
    }

    /// As `ask`, with a time of its own.
    pub(super) async fn ask_until<T, E, F>(&self, shard: ShardId, until: Duration, call: impl Fn(Arc<dyn Broker>) -> F + Send + Sync) -> Result<T, E>
    where
        E: Absence + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        loop {
            let Lead { broker, epoch } = self.leader(shard, until).await.map_err(Absent::error)?;
            match call(broker).await {
                Err(error) if error.is_no_leader() => self.led_anew(shard, Some(epoch), until).await.map_err(Absent::error)?,
                answer => return answer,
            }
        }
    }

    /// Asks several shards at the same time. The first error counts.
    pub(super) async fn ask_all<T, E, F>(
        &self,
        shards: impl IntoIterator<Item = ShardId> + Send,
        call: impl Fn(ShardId, Arc<dyn Broker>) -> F + Send + Sync,
    ) -> Result<Vec<T>, E>
    where
        T: Send,
        E: Absence + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        let call = &call;
        let calls = shards.into_iter().map(|shard| -> Call<'_, Result<T, E>> { Box::pin(self.ask(shard, move |broker| call(shard, broker))) });
        let calls = calls.collect();
        all(calls).await.into_iter().collect()
    }

    /// Asks the shard that owns a queue.
    pub(super) async fn at_owner<T, E, F>(&self, topic: &Topic, queue: QueueId, call: impl Fn(Arc<dyn Broker>) -> F + Send + Sync) -> Result<T, E>
    where
        E: Absence + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        let owner = placement::owner_of(topic, queue).ok_or(E::NO_SHARD)?;
        self.ask(owner, call).await
    }
}
