//! Two namespaces with the same names share nothing, whichever way a client or an operator names them.

use crate::rig::{Rig, call_from, changed, channel, receive, simple_poll};
use crate::telemetry::{Session, consumer};
use gantry_model::contract::Metadata;
use gantry_model::{GroupName, TopicName};
use gantry_proto::admin::admin_client::AdminClient;
use gantry_proto::admin::*;
use gantry_proto::v2::{Code, MessageQueue, QueryRouteRequest, ReceiveMessageRequest, Resource, SendMessageRequest};
use tonic::Request;
use tonic::transport::Channel;

const SPACES: [&str; 2] = ["red", "blue"];

fn named(namespace: &str, name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: namespace.into(), name: name.into() })
}

/// A call whose header names the namespace, as Node.js does it for consumers.
fn in_header<T>(client: &str, namespace: &str, message: T) -> Request<T> {
    let mut request = call_from(client, message);
    request.metadata_mut().insert("x-mq-namespace", namespace.parse().unwrap());
    request
}

async fn admin(rig: &Rig) -> AdminClient<Channel> {
    AdminClient::new(channel(rig.admin).await)
}

/// In each namespace the topic `t` and the group `g`.
async fn rig() -> Rig {
    let rig = Rig::start().await;
    let mut admin = admin(&rig).await;
    for namespace in SPACES {
        let topic = Topic { namespace: namespace.into(), name: "t".into(), ..Default::default() };
        admin.create_topic(CreateTopicRequest { topic: Some(topic), dedup: None }).await.unwrap();
        let group = Group { namespace: namespace.into(), name: "g".into(), ..Default::default() };
        admin.create_group(CreateGroupRequest { group: Some(group) }).await.unwrap();
    }
    rig
}

fn message_for(namespace: &str, body: &str) -> SendMessageRequest {
    let body = body.to_owned();
    let message = changed("t", |message, system| {
        message.topic = named(namespace, "t");
        message.body = body.into();
        system.message_id = "the same id".into();
    });
    SendMessageRequest { messages: vec![message] }
}

#[tokio::test]
async fn messages_stay_in_the_namespace_they_were_sent_to() {
    let rig = rig().await;
    let mut client = rig.client.clone();
    let sent = client.send_message(call_from("p", message_for("red", "for red"))).await.unwrap().into_inner();
    assert_eq!(sent.status.unwrap().code(), Code::Ok);
    let sent = client.send_message(in_header("p", "blue", message_for("", "for blue"))).await.unwrap().into_inner();
    assert_eq!(sent.status.unwrap().code(), Code::Ok);
    let id = |namespace: &str| rig.metadata.topic(&TopicName::parse(namespace, "t").unwrap()).unwrap().id;
    let stored = rig.broker.with(|state| state.stored.iter().map(|message| (message.topic, message.message.body.clone())).collect::<Vec<_>>());
    assert_eq!(stored, [(id("red"), "for red".into()), (id("blue"), "for blue".into())]);
    let elsewhere = client.send_message(call_from("p", message_for("", "for nobody"))).await.unwrap().into_inner();
    assert_eq!(elsewhere.status.unwrap().code(), Code::TopicNotFound, "no namespace is a namespace of its own");
}

#[tokio::test]
async fn the_resource_counts_before_the_header() {
    let rig = rig().await;
    let polls = [
        in_header(
            "c",
            "blue",
            ReceiveMessageRequest {
                group: named("red", "g"),
                message_queue: Some(MessageQueue { topic: named("red", "t"), ..Default::default() }),
                ..simple_poll("t", "g", 0)
            },
        ),
        in_header("c", "blue", simple_poll("t", "g", 0)),
    ];
    for poll in polls {
        assert_eq!(receive(&mut rig.client.clone(), poll).await.0.code(), Code::MessageNotFound);
    }
    let asked = rig
        .broker
        .with(|state| state.receives.iter().map(|wish| (wish.topic.name.namespace.clone(), wish.group.name.namespace.clone())).collect::<Vec<_>>());
    assert_eq!(asked, [("red".to_owned(), "red".to_owned()), ("blue".to_owned(), "blue".to_owned())]);
}

#[tokio::test]
async fn a_route_echoes_the_resource_as_it_was_asked() {
    let rig = rig().await;
    for (header, asked) in [("red", named("", "t")), ("blue", named("red", "t"))] {
        let request = in_header("c", header, QueryRouteRequest { topic: asked.clone(), endpoints: None });
        let route = rig.client.clone().query_route(request).await.unwrap().into_inner();
        assert!(!route.message_queues.is_empty() && route.message_queues.iter().all(|queue| queue.topic == asked));
    }
    let illegal = rig.client.clone().query_route(call_from("c", QueryRouteRequest { topic: named("a/b", "t"), endpoints: None })).await;
    assert_eq!(illegal.unwrap().into_inner().status.unwrap().code(), Code::IllegalTopic);
}

#[tokio::test]
async fn dead_letters_have_the_namespace_of_their_group() {
    let rig = rig().await;
    for namespace in SPACES {
        let group = rig.metadata.group(&GroupName::parse(namespace, "g").unwrap()).unwrap();
        let dead = rig.metadata.topic_by_id(group.dead_letter).unwrap();
        assert_eq!((dead.name.namespace.as_str(), dead.name.name.as_str()), (namespace, "%DLQ%g"));
    }
    let poll = in_header("c", "blue", simple_poll("%DLQ%g", "g", 0));
    assert_eq!(receive(&mut rig.client.clone(), poll).await.0.code(), Code::MessageNotFound);
    let blue = TopicName::parse("blue", "%DLQ%g").unwrap();
    assert_eq!(rig.broker.with(|state| state.receives[0].topic.name.clone()), blue);
}

#[tokio::test]
async fn a_handle_of_one_namespace_is_foreign_in_the_other() {
    let rig = rig().await;
    let topic = rig.metadata.topic(&TopicName::parse("red", "t").unwrap()).unwrap().id;
    let group = rig.metadata.group(&GroupName::parse("red", "g").unwrap()).unwrap().id;
    let handle = gantry_model::ReceiptHandle {
        shard: gantry_model::ShardId(0),
        topic,
        group,
        queue: gantry_model::QueueId(1),
        offset: gantry_model::Offset(2),
        lease: gantry_model::LeaseId(9),
        reset: 0,
        attempt: 1,
    };
    let ack = |namespace: &str| gantry_proto::v2::AckMessageRequest {
        group: named(namespace, "g"),
        topic: named(namespace, "t"),
        entries: vec![gantry_proto::v2::AckMessageEntry { message_id: "m".into(), receipt_handle: rig.sign(&handle), ..Default::default() }],
    };
    for (namespace, expected) in [("red", Code::Ok), ("blue", Code::InvalidReceiptHandle)] {
        let answer = rig.client.clone().ack_message(call_from("c", ack(namespace))).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), expected, "{namespace}");
    }
}

#[tokio::test]
async fn administration_keeps_the_namespaces_apart() {
    let rig = rig().await;
    let mut admin = admin(&rig).await;
    let settings = [("quota.send.messages".to_owned(), "1".to_owned())].into();
    let request = UpdateTopicRequest { namespace: "red".into(), name: "t".into(), settings, ..Default::default() };
    admin.update_topic(request).await.unwrap();
    let get = |namespace: &str| GetTopicRequest { namespace: namespace.into(), name: "t".into() };
    assert_eq!(admin.get_topic(get("blue")).await.unwrap().into_inner().topic.unwrap().settings.len(), 0);
    let blue = ListTopicsRequest { namespace: Some("blue".into()), include_dead_letter: true, ..Default::default() };
    let listed = admin.list_topics(blue).await.unwrap().into_inner().topics;
    assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["%DLQ%g", "t"]);
    rig.client.clone().send_message(call_from("p", message_for("red", "one"))).await.unwrap();
    let lookup = |namespace: &str| LookupMessagesRequest {
        namespace: namespace.into(),
        topic: "t".into(),
        selector: Some(lookup_messages_request::Selector::ById("the same id".into())),
        ..Default::default()
    };
    assert_eq!(admin.lookup_messages(lookup("red")).await.unwrap().into_inner().messages.len(), 1);
    assert_eq!(admin.lookup_messages(lookup("blue")).await.unwrap().into_inner().messages.len(), 0);
    admin.delete_topic(DeleteTopicRequest { namespace: "red".into(), name: "t".into() }).await.unwrap();
    assert!(admin.get_topic(get("blue")).await.is_ok());
    admin.delete_group(DeleteGroupRequest { namespace: "red".into(), name: "g".into() }).await.unwrap();
    assert!(admin.get_group(GetGroupRequest { namespace: "blue".into(), name: "g".into() }).await.is_ok());
}

#[tokio::test]
async fn clients_are_listed_by_the_namespace_they_work_in() {
    let rig = rig().await;
    receive(&mut rig.client.clone(), in_header("by-header", "red", simple_poll("t", "g", 0))).await;
    // Rust names the namespace in each resource, and not in the header.
    let mut session = Session::open(&rig, "by-resource", "RUST").await;
    let mut settings = consumer("g", &[("t", "*")]);
    if let Some(gantry_proto::v2::settings::PubSub::Subscription(subscription)) = &mut settings.pub_sub {
        subscription.group = named("blue", "g");
        subscription.subscriptions[0].topic = named("blue", "t");
    }
    session.send(settings).await;
    session.settings().await;
    for (namespace, expected) in [("red", vec!["by-header"]), ("blue", vec!["by-resource"]), ("", vec![])] {
        let request = ListClientsRequest { namespace: Some(namespace.into()), ..Default::default() };
        let clients = admin(&rig).await.list_clients(request.clone()).await.unwrap().into_inner().clients;
        assert_eq!(clients.iter().map(|client| client.client_id.as_str()).collect::<Vec<_>>(), expected, "`{namespace}`");
        let of_group = ListClientsRequest { group: "g".into(), topic: "t".into(), ..request };
        let clients = admin(&rig).await.list_clients(of_group).await.unwrap().into_inner().clients;
        assert_eq!(clients.iter().map(|client| client.client_id.as_str()).collect::<Vec<_>>(), expected, "`{namespace}`");
    }
}
