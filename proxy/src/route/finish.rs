//! Ends of deliveries: every handle names its shard.

use super::Routed;
use super::apart::{Numbered, apart, in_order};
use super::race::{Call, all};
use super::shards::{Lead, Leader};
use gantry_model::contract::broker::LeaseError;
use gantry_model::{Group, ReceiptHandle, ShardId};

impl Routed {
    pub(super) async fn ack_apart(&self, group: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>> {
        let count = handles.len();
        let parts = apart(handles, |handle| handle.shard);
        let calls = parts.into_iter().map(|(shard, part)| -> Call<'_, _> { Box::pin(self.ack_on(group, shard, part)) }).collect();
        in_order(count, all(calls).await)
    }

    /// Acknowledges on one shard; what its leader did not take because it leads no more goes to the next.
    async fn ack_on(&self, group: &Group, shard: ShardId, handles: Numbered<ReceiptHandle>) -> Numbered<Result<(), LeaseError>> {
        let (numbers, handles): (Vec<usize>, Vec<ReceiptHandle>) = handles.into_iter().unzip();
        let acked = self.ask(shard, |broker| {
            let handles = handles.clone();
            async move {
                let answers = broker.ack(group, handles).await;
                // Acknowledging twice is fine, so all may be asked again.
                if answers.contains(&Err(LeaseError::NoLeader)) { Err(LeaseError::NoLeader) } else { Ok(answers) }
            }
        });
        let answers = match acked.await {
            Ok(answers) => answers,
            Err(error) => vec![Err(error); numbers.len()],
        };
        numbers.into_iter().zip(answers).collect()
    }

    pub(super) fn release_apart(&self, handles: Vec<ReceiptHandle>) {
        for (shard, part) in apart(handles, |handle| handle.shard) {
            // Without a leader they come again when their time is over.
            if let Leader::Known(Lead { broker, .. }) = self.shards.leader(shard) {
                broker.release(part.into_iter().map(|(_, handle)| handle).collect());
            }
        }
    }
}
