//! Ends of deliveries: every handle names its shard.

use super::Routed;
use super::race::{Call, all};
use super::shards::{Lead, Leader};
use gantry_model::contract::broker::LeaseError;
use gantry_model::{Group, ReceiptHandle, ShardId};
use std::collections::BTreeMap;

impl Routed {
    pub(super) async fn ack_apart(&self, group: &Group, handles: Vec<ReceiptHandle>) -> Vec<Result<(), LeaseError>> {
        let mut answers = vec![Err(LeaseError::Ended); handles.len()];
        let mut apart: BTreeMap<ShardId, Vec<(usize, ReceiptHandle)>> = BTreeMap::new();
        for (number, handle) in handles.into_iter().enumerate() {
            apart.entry(handle.shard).or_default().push((number, handle));
        }
        let calls = apart.into_iter().map(|(shard, handles)| -> Call<'_, _> { Box::pin(self.ack_on(group, shard, handles)) }).collect();
        for (number, answer) in all(calls).await.into_iter().flatten() {
            answers[number] = answer;
        }
        answers
    }

    /// Acknowledges on one shard; what its leader did not take because it leads no more goes to the next.
    async fn ack_on(&self, group: &Group, shard: ShardId, handles: Vec<(usize, ReceiptHandle)>) -> Vec<(usize, Result<(), LeaseError>)> {
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
        let mut apart: BTreeMap<ShardId, Vec<ReceiptHandle>> = BTreeMap::new();
        handles.into_iter().for_each(|handle| apart.entry(handle.shard).or_default().push(handle));
        for (shard, handles) in apart {
            // Without a leader they come again when their time is over.
            if let Leader::Known(Lead { broker, .. }) = self.shards.leader(shard) {
                broker.release(handles);
            }
        }
    }
}
