//! Offers of lite topics: each lite topic is something for one receive at a time.

use super::tests::{LEASE, parent, readers};
use crate::shard::core::{Event, Given, Reply, Token};
use crate::shard::polls::{Poll, Seeks, Wanted};
use crate::shard::rig::Rig;
use gantry_model::contract::broker::LiteChange;
use gantry_model::group::LiteSharing;
use gantry_model::{ClientId, Filter, Group};
use std::sync::Arc;

fn shared() -> Arc<Group> {
    readers(1, LiteSharing::Shared, false)
}

impl Rig {
    fn seek_lite(&mut self, seeks: Seeks) -> Token {
        let token = self.token();
        let wait = if seeks == Seeks::Offer { 20_000 } else { 0 };
        let poll = Poll {
            group: shared(),
            topic: parent(),
            wanted: Wanted::new(Arc::new(Filter::All)),
            client: ClientId::new("c"),
            max: 32,
            member: "c".into(),
            seeks,
            term: LEASE,
            deadline: self.now + wait,
            attempt_id: None,
            ordered_batch: true,
        };
        self.step(Event::Receive { token, poll });
        self.settle();
        token
    }

    fn is_offered(&mut self, token: Token) -> bool {
        self.replies.remove(&token) == Some(Reply::Offered)
    }

    fn take_lite(&mut self, offer: Token) -> Vec<Given> {
        let token = self.seek_lite(Seeks::Offered(offer));
        self.answer(token)
    }
}

/// A client that subscribes `names`, with so many receives that seek offers.
fn rig(names: &[&str], receives: usize) -> (Rig, Vec<Token>) {
    let mut rig = Rig::new();
    rig.sync(&shared(), "c", LiteChange::Add, names);
    let seeking = (0..receives).map(|_| rig.seek_lite(Seeks::Offer)).collect();
    (rig, seeking)
}

#[test]
fn a_lite_topic_is_offered_once_until_what_it_gave_is_finished() {
    let (mut rig, seeking) = rig(&["a"], 2);
    rig.send_lite("a");
    rig.send_lite("a");
    assert!(rig.is_offered(seeking[0]) && !rig.is_offered(seeking[1]));
    let given = rig.take_lite(seeking[0]);
    assert_eq!(given.len(), 2);
    rig.send_lite("a");
    assert!(!rig.is_offered(seeking[1]), "the lite topic is locked");
    rig.ack(&shared(), &given);
    assert!(rig.is_offered(seeking[1]));
    assert_eq!(rig.take_lite(seeking[1]).len(), 1);
}

#[test]
fn whoever_takes_one_offer_leaves_what_was_offered_to_others() {
    let (mut rig, seeking) = rig(&["a", "b", "x"], 2);
    rig.send_lites(&parent(), &["a", "b"]);
    assert!(rig.is_offered(seeking[0]) && rig.is_offered(seeking[1]));
    let passing = rig.seek_lite(Seeks::Messages);
    assert!(rig.answer(passing).is_empty(), "nothing is left beside two offers of two lite topics");
    assert_eq!([rig.take_lite(seeking[0]).len(), rig.take_lite(seeking[1]).len()], [1, 1]);
}

#[test]
fn an_offer_that_is_declined_or_not_taken_goes_to_the_next() {
    let (mut rig, seeking) = rig(&["a"], 3);
    rig.send_lite("a");
    assert!(rig.is_offered(seeking[0]));
    rig.step(Event::Cancel { token: seeking[0] });
    rig.settle();
    assert!(rig.is_offered(seeking[1]));
    rig.sleep(49);
    assert!(!rig.is_offered(seeking[2]));
    rig.sleep(1);
    assert!(rig.is_offered(seeking[2]));
    assert!(rig.take_lite(seeking[1]).is_empty());
    assert_eq!(rig.take_lite(seeking[2]).len(), 1);
}
