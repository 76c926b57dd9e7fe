//! Reading a queue from an offset. It changes nothing; a pull that finds nothing waits until something is stored.

use super::LocalBroker;
use crate::draft::RawMessage;
use crate::filter::wants;
use crate::shard::asks::{Ask, Told};
use crate::shard::core::Token;
use crate::shard::inbox::{Find, Inbox, Request};
use crate::shard::polls::{Test, Wanted};
use gantry_model::contract::broker::{LookupError, PullError, PullRequest, Pulled};
use gantry_model::{Offset, QueueKey};
use std::time::Duration;

/// Index entries that a pull with a filter looks at in one go.
const SCAN: usize = 800;
/// A pull gives at most one message more than this many body bytes.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Takes a waiting pull back when its caller goes away.
struct Withdraw<'a> {
    inbox: &'a Inbox,
    token: Token,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.inbox.put(Request::Cancel { token: self.token });
    }
}

impl LocalBroker {
    pub(super) async fn read_on(&self, request: &PullRequest) -> Result<Pulled, PullError> {
        if !request.topic.permission.can_read() {
            return Err(PullError::NoReadableQueue);
        }
        let until = self.clock.mono() + request.wait;
        let mut pulled = Pulled { messages: Vec::new(), next: request.offset };
        loop {
            let left = until.saturating_sub(self.clock.mono());
            let end = self.arrival(request, pulled.next, left).await?;
            if pulled.next >= end {
                return Ok(pulled);
            }
            self.read_until(request, end, &mut pulled).await?;
            if !pulled.messages.is_empty() || self.clock.mono() >= until {
                return Ok(pulled);
            }
        }
    }

    /// Waits for a message at or behind an offset. Answers one past the newest, or less than the offset if there was none in time.
    async fn arrival(&self, request: &PullRequest, offset: Offset, wait: Duration) -> Result<Offset, PullError> {
        let token = self.inbox.token();
        let withdraw = Withdraw { inbox: &self.inbox, token };
        let ask = Ask::Arrival { topic: request.topic.clone(), queue: request.queue, offset, wait };
        let told = self.ask(|reply| Request::Ask { token, ask, reply }).await;
        // It was answered: there is nothing to take back.
        std::mem::forget(withdraw);
        match told {
            Some(Told::Arrival(answer)) => answer,
            _ => Err(unpulled(self.unread())),
        }
    }

    /// Reads what there is up to `end`, as much as the request and one scan allow.
    async fn read_until(&self, request: &PullRequest, end: Offset, pulled: &mut Pulled) -> Result<(), PullError> {
        let queue = QueueKey::new(request.topic.id, request.queue);
        let wanted = Wanted::new(request.filter.clone());
        let limit = if wanted.everything() { request.max as usize } else { SCAN };
        let find = Find::From { queue, offset: pulled.next.0 };
        let places = self.ask(|reply| Request::Find { find, limit, reply }).await;
        let places = places.ok_or_else(|| unpulled(self.unread()))?;
        let whole = places.len() < limit;
        let mut bytes = 0;
        for found in places {
            if pulled.messages.len() >= request.max as usize || bytes > BYTES_MAX {
                return Ok(());
            }
            pulled.next = Offset(found.offset + 1);
            if matches!(wanted.test(), Test::Tag(hashes) if hashes.binary_search(&found.tag_hash).is_err()) {
                continue;
            }
            match self.messages.read(found).await.map(|message| message.and_then(RawMessage::decode)) {
                Ok(Some(message)) if wants(&request.filter, &message.message) => {
                    bytes += message.message.body.len();
                    pulled.messages.push(message);
                }
                Ok(_) => {}
                Err(LookupError::Busy) if pulled.messages.is_empty() => return Err(PullError::Busy),
                Err(LookupError::Busy) => {
                    pulled.next = Offset(found.offset);
                    return Ok(());
                }
                Err(error) => return Err(PullError::Failed { why: error.to_string() }),
            }
        }
        if whole {
            // What lies between the last entry and the end is gone: trimmed, or a dead letter that was removed.
            pulled.next = pulled.next.max(end);
        }
        Ok(())
    }
}

/// A look-up that got no answer, for who pulls.
fn unpulled(error: LookupError) -> PullError {
    match error {
        LookupError::NoLeader => PullError::NoLeader,
        other => PullError::Failed { why: other.to_string() },
    }
}
