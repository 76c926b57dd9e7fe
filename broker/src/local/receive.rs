//! Receiving: a wish is handed to the shard, and taken back when its caller goes away.

use super::LocalBroker;
use crate::shard::core::{Given, Token};
use crate::shard::inbox::{Found, Inbox, Leased, Request, Wish};
use crate::shard::polls::Seeks;
use crate::shard::thread::handle;
use gantry_model::ShardId;
use gantry_model::contract::broker::{Delivery, Offer, ReceiveError, ReceiveRequest, ShardCondition};
use std::time::Duration;
use tokio::sync::oneshot::Receiver;

/// Takes a receive back when its caller goes away: before it was granted, or with all that it was given.
struct Withdraw<'a> {
    inbox: &'a Inbox,
    token: Token,
    shard: ShardId,
    answer: Receiver<Leased>,
    given: Option<Vec<Given>>,
}

impl Withdraw<'_> {
    /// The caller has its answer; nothing is taken back any more.
    fn done<T>(&mut self, answer: T) -> T {
        self.given = Some(Vec::new());
        answer
    }

    fn release(&self, given: &[Given]) {
        let handles = given.iter().map(|given| handle(self.shard, given)).collect();
        self.inbox.put(Request::Release { handles });
    }
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        match &self.given {
            Some(given) if !given.is_empty() => self.release(given),
            Some(_) => {}
            None => {
                // The answer may have come and not been looked at; from now on none can come.
                self.answer.close();
                match self.answer.try_recv() {
                    Ok(Leased::Messages(leased)) if !leased.is_empty() => self.release(&places(&leased)),
                    _ => self.inbox.put(Request::Cancel { token: self.token }),
                }
            }
        }
    }
}

fn places(leased: &[(Given, Found)]) -> Vec<Given> {
    leased.iter().map(|(given, _)| *given).collect()
}

fn wish(request: &ReceiveRequest, wait: Duration, seeks: Seeks) -> Wish {
    Wish {
        group: request.group.clone(),
        topic: request.topic.clone(),
        filter: request.filter.clone(),
        client: request.client.clone(),
        max: request.max.max(1),
        term: request.lease,
        wait,
        attempt_id: request.attempt_id.clone(),
        ordered_batch: request.ordered_batch,
        member: request.member.clone(),
        seeks,
    }
}

fn stopped() -> ReceiveError {
    ReceiveError::Failed { why: "the shard has stopped".into() }
}

impl LocalBroker {
    /// The client lives, whatever it gets.
    pub(super) fn hear(&self, request: &ReceiveRequest) -> Result<(), ReceiveError> {
        self.alive.heard(&request.client);
        if request.topic.permission.can_read() { Ok(()) } else { Err(ReceiveError::NoReadableQueue) }
    }

    pub(super) async fn receive_in_time(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, ReceiveError> {
        self.hear(request)?;
        let until = self.clock.mono() + request.wait;
        loop {
            let wait = until.saturating_sub(self.clock.mono());
            let deliveries = self.receive_once(request, wait, Seeks::Messages).await?;
            let over = self.clock.mono() >= until || self.status.condition() == ShardCondition::Draining;
            if !deliveries.is_empty() || over {
                return Ok(deliveries);
            }
        }
    }

    pub(super) async fn receive_once(&self, request: &ReceiveRequest, wait: Duration, seeks: Seeks) -> Result<Vec<Delivery>, ReceiveError> {
        let (reply, answer) = self.posts.reply(&self.inbox);
        let token = self.inbox.token();
        let mut withdraw = Withdraw { inbox: &self.inbox, token, shard: self.shard, answer, given: None };
        self.inbox.put(Request::Receive { token, wish: wish(request, wait, seeks), reply });
        let leased = match (&mut withdraw.answer).await {
            Ok(Leased::Messages(leased)) => leased,
            Ok(Leased::GroupPulls) => return Err(withdraw.done(ReceiveError::GroupPulls)),
            Ok(Leased::NoLeader) => return Err(withdraw.done(ReceiveError::NoLeader)),
            Ok(Leased::TooManyPolls) => return Err(withdraw.done(ReceiveError::TooManyPolls)),
            // Nobody sought an offer here: dropping it takes it back.
            Ok(Leased::Offered(_)) => return Ok(Vec::new()),
            Err(_) => return Err(withdraw.done(stopped())),
        };
        withdraw.given = Some(places(&leased));
        let deliveries = self.read_leased(request, leased).await;
        Ok(withdraw.done(deliveries))
    }

    /// Waits for an offer of the shard.
    pub(super) async fn next_offer(&self, request: &ReceiveRequest) -> Result<Option<Offer>, ReceiveError> {
        self.hear(request)?;
        let (reply, answer) = self.posts.reply(&self.inbox);
        let token = self.inbox.token();
        let mut withdraw = Withdraw { inbox: &self.inbox, token, shard: self.shard, answer, given: None };
        self.inbox.put(Request::Receive { token, wish: wish(request, request.wait, Seeks::Offer), reply });
        match (&mut withdraw.answer).await {
            Ok(Leased::Offered(_)) => {
                let inbox = self.inbox.clone();
                Ok(Some(withdraw.done(Offer::new(token.0, move || inbox.put(Request::Cancel { token })))))
            }
            Ok(Leased::Messages(leased)) => {
                // A receive that seeks an offer is given nothing, and what it was given all the same goes back.
                withdraw.given = Some(places(&leased));
                Ok(None)
            }
            Ok(Leased::GroupPulls) => Err(withdraw.done(ReceiveError::GroupPulls)),
            Ok(Leased::NoLeader) => Err(withdraw.done(ReceiveError::NoLeader)),
            Ok(Leased::TooManyPolls) => Err(withdraw.done(ReceiveError::TooManyPolls)),
            Err(_) => Err(withdraw.done(stopped())),
        }
    }
}
