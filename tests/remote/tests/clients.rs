//! From brokers to clients, through whichever proxy has them.

#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use gantry_model::contract::Broker;
use gantry_model::contract::broker::*;
use gantry_model::handle::TransactionHandle;
use gantry_model::{ClientId, GroupId, Message, MessageKind, TopicId};
use gantry_platform::clock::{ManualClock, sleep};
use gantry_remote::{Rig, message, until};
use gantry_routing::catalogue::{CHATS, ONE, ORDERS, READERS};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A proxy's clients: it has a producer or not.
#[derive(Debug, Default)]
struct Producers {
    here: AtomicBool,
    asked: Mutex<Vec<String>>,
    lost: Mutex<Vec<String>>,
}

#[async_trait]
impl Clients for Producers {
    async fn check(&self, check: Check) -> bool {
        self.asked.lock().unwrap().push(check.message.message.id.clone());
        self.here.load(Ordering::Relaxed)
    }

    fn lost_lite(&self, client: &ClientId, _: GroupId, _: TopicId, lite: &str) {
        self.lost.lock().unwrap().push(format!("{client} {lite}"));
    }
}

impl Producers {
    fn new(here: bool) -> Arc<Producers> {
        Arc::new(Producers { here: AtomicBool::new(here), ..Producers::default() })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

struct Checked {
    rig: Rig,
    clock: ManualClock,
}

impl Checked {
    async fn new() -> Checked {
        let clock = ManualClock::new(1_700_000_000_000);
        Checked { rig: Rig::with_clock(Arc::new(clock.clone())).await, clock }
    }

    /// A half message whose first check is due.
    async fn due(&self, broker: &dyn Broker, id: &str) -> TransactionHandle {
        let half = Message { kind: MessageKind::Transaction, ..message(id) };
        let sent = broker.send(self.rig.sending(vec![half])).await.remove(0).unwrap();
        self.clock.advance(Duration::from_secs(7));
        // The shard looks at its clock when something comes.
        self.rig.local.queues(&self.rig.catalogue.the_topic(ORDERS)).await.unwrap();
        match sent.ticket {
            Some(Ticket::Transaction(handle)) => handle,
            other => panic!("{other:?}"),
        }
    }

    async fn checks(&self) -> u32 {
        let open = self.rig.local.open_transactions(&self.rig.catalogue.the_topic(ORDERS), None, 10).await.unwrap();
        open.iter().map(|open| open.checks).sum()
    }

    async fn until_checked(&self, count: u32) {
        until("the check is counted", async || {
            self.rig.local.queues(&self.rig.catalogue.the_topic(ORDERS)).await.unwrap();
            self.checks().await == count
        })
        .await;
    }
}

#[tokio::test]
async fn a_transaction_is_asked_about_at_the_proxy_that_has_a_producer() {
    let checked = Checked::new().await;
    let (one, other) = (checked.rig.proxy("one", 100), checked.rig.proxy("other", 101));
    let (empty, producer) = (Producers::new(false), Producers::new(true));
    one.broker.attach(empty.clone());
    other.broker.attach(producer.clone());
    until("both are there", async || checked.rig.side.locals.attached() == 2).await;
    let handle = checked.due(&*one.broker, "half").await;
    checked.until_checked(1).await;
    assert_eq!(*producer.asked.lock().unwrap(), ["half"]);
    assert!(empty.asked() <= 1);
    let topic = checked.rig.catalogue.the_topic(ORDERS);
    other.broker.end_transaction(&topic, handle, Resolution::Commit, EndedBy::Producer).await.unwrap();
    let again = one.broker.end_transaction(&topic, handle, Resolution::Rollback, EndedBy::Producer).await;
    assert_eq!(again, Err(EndError::Contradicts { ended: Resolution::Commit }));
}

#[tokio::test]
async fn the_proxy_that_heard_of_the_sender_is_asked_first() {
    let checked = Checked::new().await;
    let proxies: Vec<_> = (0..4).map(|number| checked.rig.proxy(&format!("proxy{number}"), 100 + number)).collect();
    let producers: Vec<_> = proxies.iter().map(|_| Producers::new(true)).collect();
    proxies.iter().zip(&producers).for_each(|(proxy, clients)| proxy.broker.attach(clients.clone()));
    until("all are there", async || checked.rig.side.locals.attached() == 4).await;
    proxies[2].broker.client_alive(&ClientId::new("producer"));
    // It is told with the next second's round.
    sleep(Duration::from_millis(1_300)).await;
    for number in 1..=3 {
        checked.due(&*proxies[0].broker, &format!("half{number}")).await;
        until("it is asked", async || producers.iter().map(|one| one.asked()).sum::<usize>() >= number).await;
    }
    assert_eq!(producers.iter().map(|one| one.asked() > 0).collect::<Vec<_>>(), [false, false, true, false]);
}

#[tokio::test]
async fn a_producer_that_comes_is_asked_what_found_nobody() {
    let checked = Checked::new().await;
    let proxy = checked.rig.proxy("proxy", 100);
    let clients = Producers::new(false);
    proxy.broker.attach(clients.clone());
    checked.due(&*proxy.broker, "half").await;
    until("nobody is found", async || clients.asked() == 1).await;
    assert_eq!(checked.checks().await, 0);
    clients.here.store(true, Ordering::Relaxed);
    // The shard may not have heard yet that nobody was there.
    until("it is asked again", async || {
        proxy.broker.producer_ready(&[ORDERS]);
        checked.checks().await == 1
    })
    .await;
}

#[tokio::test]
async fn a_client_that_ends_gives_back_what_it_held() {
    let rig = Rig::new().await;
    let proxy = rig.proxy("proxy", 100);
    proxy.send(rig.sending(vec![message("m")])).await.unwrap();
    let wish = || ReceiveRequest { lease: LeaseTerm::WhileClientLives, ..rig.wish(Duration::from_secs(5)) };
    assert_eq!(proxy.broker.receive(wish()).await.unwrap().len(), 1);
    proxy.broker.client_gone(&ClientId::new("consumer"));
    until("nothing is held", async || rig.in_flight().await == 0).await;
}

#[tokio::test]
async fn a_client_hears_that_another_took_its_lite_topic() {
    let rig = Rig::new().await;
    let proxy = rig.proxy("proxy", 100);
    let clients = Producers::new(false);
    proxy.broker.attach(clients.clone());
    let mut group = (*rig.catalogue.the_group(READERS)).clone();
    group.options.lite.as_mut().unwrap().sharing = gantry_model::group::LiteSharing::Exclusive;
    let group = Arc::new(group);
    let sync = |client: &str| LiteSync {
        group: group.clone(),
        topic: rig.catalogue.the_topic(CHATS),
        client: ClientId::new(client),
        names: vec!["room".into()],
        elsewhere: Vec::new(),
        change: LiteChange::Add,
        start: LiteStart::Min,
    };
    until("the proxy is there", async || proxy.send(rig.sending(vec![message("m")])).await.is_ok()).await;
    // The shard is told the group as it is: through the stream it would be the catalogue's.
    rig.local.sync_lite(sync("first")).await.unwrap();
    rig.local.sync_lite(sync("second")).await.unwrap();
    until("the first one hears it", async || clients.lost.lock().unwrap().contains(&"first room".to_owned())).await;
    assert!(rig.catalogue.the_group(ONE).options.lite.is_none());
}
