//! QueryRoute, QueryAssignment, Heartbeat: what a client learns when it starts.

use crate::rig::{Rig, call, call_from, resource};
use gantry_model::contract::Metadata;
use gantry_model::group::{GroupChange, Order, StartPosition};
use gantry_model::topic::{Permission, TopicType};
use gantry_model::{GroupName, TopicName};
use gantry_proto::v2::{self, *};
use gantry_proxy::Config;

fn endpoints(scheme: AddressScheme, addresses: &[(&str, i32)]) -> Endpoints {
    let addresses = addresses.iter().map(|&(host, port)| Address { host: host.into(), port }).collect();
    Endpoints { scheme: scheme as i32, addresses }
}

async fn route(rig: &Rig, topic: Option<Resource>, endpoints: Option<Endpoints>) -> QueryRouteResponse {
    rig.client.clone().query_route(call(QueryRouteRequest { topic, endpoints })).await.unwrap().into_inner()
}

fn code(status: &Option<Status>) -> Code {
    status.as_ref().unwrap().code()
}

#[tokio::test]
async fn a_route_shows_one_broker_at_the_address_the_client_used() {
    let (rig, _) = Rig::with_topic().await;
    let check = async |asked: Endpoints, expected: Endpoints| {
        let answer = route(&rig, resource("orders"), Some(asked)).await;
        assert_eq!(code(&answer.status), Code::Ok);
        assert_eq!(answer.message_queues.len(), 8);
        for (id, queue) in answer.message_queues.iter().enumerate() {
            assert_eq!((queue.id, queue.permission(), &queue.topic), (id as i32, v2::Permission::ReadWrite, &resource("orders")));
            let broker = queue.broker.as_ref().unwrap();
            assert_eq!((broker.name.as_str(), broker.id, broker.endpoints.as_ref()), ("test-cluster", 0, Some(&expected)));
            assert_eq!(queue.accept_message_types, [1, 2, 3, 4]);
        }
    };
    let domain = endpoints(AddressScheme::DomainName, &[("gantry.example", 18_081)]);
    check(domain.clone(), domain).await;
    let two = endpoints(AddressScheme::IPv4, &[("10.0.0.1", 8081), ("10.0.0.2", 80)]);
    check(two.clone(), two).await;
    let six = endpoints(AddressScheme::IPv6, &[("fe80::1", 8081)]);
    check(six.clone(), six).await;
    check(endpoints(AddressScheme::DomainName, &[("a", 1), ("b", 2)]), endpoints(AddressScheme::DomainName, &[("a", 1)])).await;
    let own = endpoints(AddressScheme::IPv4, &[("127.0.0.1", i32::from(rig.messaging.port()))]);
    check(Endpoints::default(), own.clone()).await;
    check(endpoints(AddressScheme::Unspecified, &[("somewhere", 1)]), own).await;
}

#[tokio::test]
async fn a_client_without_an_address_gets_the_advertised_one() {
    let config = Config { advertised: Some(("gantry.example".into(), 443)), ..Config::default() };
    let rig = Rig::with(config).await;
    let answer = route(&rig, resource("orders"), None).await;
    let expected = endpoints(AddressScheme::DomainName, &[("gantry.example", 443)]);
    assert_eq!(answer.message_queues[0].broker.as_ref().unwrap().endpoints, Some(expected));
}

#[tokio::test]
async fn a_bad_access_point_or_topic_is_refused() {
    let (rig, _) = Rig::with_topic().await;
    for bad in [("", 8081), ("host", 0), ("host", 65_536), ("host", -1)] {
        let answer = route(&rig, resource("orders"), Some(endpoints(AddressScheme::DomainName, &[bad]))).await;
        assert_eq!(code(&answer.status), Code::IllegalAccessPoint, "{bad:?}");
    }
    for bad in ["", " ", "a.b", "TBW102", "rmq_sys_x", &"x".repeat(128)] {
        let answer = route(&rig, resource(bad), None).await;
        assert_eq!((code(&answer.status), answer.message_queues.len()), (Code::IllegalTopic, 0), "`{bad}`");
    }
    assert_eq!(code(&route(&rig, None, None).await.status), Code::IllegalTopic);
}

#[tokio::test]
async fn first_use_makes_a_topic_that_every_first_program_can_send_to() {
    let rig = Rig::start().await;
    let answer = route(&rig, resource("new"), None).await;
    assert_eq!((code(&answer.status), answer.message_queues.len()), (Code::Ok, 8));
    let made = rig.metadata.topic(&TopicName::parse("", "new").unwrap()).unwrap();
    assert_eq!(made.kind, TopicType::Mixed);
    for system in ["%DLQ%nobody", "%RETRY%nobody"] {
        assert_eq!(code(&route(&rig, resource(system), None).await.status), Code::TopicNotFound);
    }
}

#[tokio::test]
async fn without_first_use_what_is_missing_is_refused_by_name() {
    let rig = Rig::with(Config { auto_create: false, ..Config::default() }).await;
    let answer = route(&rig, resource("new"), None).await;
    assert_eq!((code(&answer.status), answer.message_queues.len()), (Code::TopicNotFound, 0));
    rig.metadata.add_topic("orders", TopicType::Normal);
    let request = QueryAssignmentRequest { topic: resource("orders"), group: resource("nobody"), endpoints: None };
    let answer = rig.client.clone().query_assignment(call(request)).await.unwrap().into_inner();
    assert_eq!(code(&answer.status), Code::ConsumerGroupNotFound);
}

#[tokio::test]
async fn permissions_are_the_real_ones() {
    let rig = Rig::start().await;
    let check = async |name: &str, permission, expected| {
        rig.metadata.add_topic_with(name, TopicType::Fifo, permission);
        let answer = route(&rig, resource(name), None).await;
        assert_eq!(answer.message_queues[0].permission(), expected);
        assert_eq!(answer.message_queues[0].accept_message_types, [2]);
    };
    check("none", Permission::None, v2::Permission::None).await;
    check("read", Permission::Read, v2::Permission::Read).await;
    check("write", Permission::Write, v2::Permission::Write).await;
}

#[tokio::test]
async fn a_namespace_comes_from_the_resource_or_else_from_the_header() {
    let rig = Rig::start().await;
    let mut request = call(QueryRouteRequest { topic: resource("t"), endpoints: None });
    request.metadata_mut().insert("x-mq-namespace", "header".parse().unwrap());
    let answer = rig.client.clone().query_route(request).await.unwrap().into_inner();
    assert_eq!(answer.message_queues[0].topic, resource("t"), "the resource comes back as it was asked");
    let asked = Some(Resource { resource_namespace: "own".into(), name: "t".into() });
    let mut request = call(QueryRouteRequest { topic: asked.clone(), endpoints: None });
    request.metadata_mut().insert("x-mq-namespace", "header".parse().unwrap());
    let answer = rig.client.clone().query_route(request).await.unwrap().into_inner();
    assert_eq!(answer.message_queues[0].topic, asked);
    for namespace in ["header", "own"] {
        assert!(rig.metadata.topic(&TopicName::parse(namespace, "t").unwrap()).is_some(), "`{namespace}`");
    }
}

#[tokio::test]
async fn every_call_needs_a_client_id() {
    let (rig, _) = Rig::with_topic().await;
    for id in ["", " "] {
        let request = call_from(id, QueryRouteRequest { topic: resource("orders"), endpoints: None });
        let answer = rig.client.clone().query_route(request).await.unwrap().into_inner();
        assert_eq!(code(&answer.status), Code::ClientIdRequired);
    }
    let answer = rig.client.clone().heartbeat(HeartbeatRequest::default()).await.unwrap().into_inner();
    assert_eq!(code(&answer.status), Code::ClientIdRequired);
}

#[tokio::test]
async fn assignments_are_constant_and_only_depend_on_order() {
    let (rig, _) = Rig::with_topic().await;
    rig.metadata.add_topic("fifo", TopicType::Fifo);
    rig.metadata.add_topic_with("closed", TopicType::Normal, Permission::Write);
    let group = GroupName::parse("", "group").unwrap();
    let ask = async |topic: &str, group: &str| {
        let endpoints = Some(endpoints(AddressScheme::IPv4, &[("10.0.0.1", 81)]));
        let request = QueryAssignmentRequest { topic: resource(topic), group: resource(group), endpoints };
        rig.client.clone().query_assignment(call(request)).await.unwrap().into_inner()
    };
    let ids = |answer: &QueryAssignmentResponse| -> Vec<i32> {
        answer.assignments.iter().map(|assignment| assignment.message_queue.as_ref().unwrap().id).collect()
    };
    let answer = ask("orders", "group").await;
    assert_eq!((code(&answer.status), ids(&answer)), (Code::Ok, vec![0, 1, 2, 3]));
    assert_eq!(ask("orders", "group").await, answer);
    let queue = answer.assignments[0].message_queue.as_ref().unwrap();
    assert_eq!((queue.permission(), &queue.topic), (v2::Permission::ReadWrite, &resource("orders")));
    assert_eq!(ids(&ask("fifo", "group").await), (0..8).collect::<Vec<_>>());
    rig.metadata.update_group(&group, GroupChange { order: Some(Order::Fifo), ..Default::default() }).await.unwrap();
    assert_eq!(ids(&ask("orders", "group").await), (0..8).collect::<Vec<_>>());

    assert_eq!(code(&ask("closed", "group").await.status), Code::Forbidden);
    assert_eq!(code(&ask("missing", "group").await.status), Code::TopicNotFound);
    assert_eq!(code(&ask("orders", "a.b").await.status), Code::IllegalConsumerGroup);
    assert_eq!(code(&ask("a.b", "group").await.status), Code::IllegalTopic);
    assert_eq!(code(&ask("orders", "new-group").await.status), Code::Ok);
    let made = rig.metadata.group(&GroupName::parse("", "new-group").unwrap()).unwrap();
    assert_eq!(made.start, StartPosition::Earliest, "who produces first and subscribes later gets everything");
}

#[tokio::test]
async fn a_heartbeat_registers_whoever_sends_it() {
    let rig = Rig::start().await;
    let beat = async |group: Option<Resource>, kind: ClientType| {
        let request = HeartbeatRequest { group, client_type: kind as i32 };
        code(&rig.client.clone().heartbeat(call(request)).await.unwrap().into_inner().status)
    };
    assert_eq!(beat(None, ClientType::Producer).await, Code::Ok);
    assert_eq!(beat(resource(""), ClientType::Producer).await, Code::Ok);
    assert_eq!(beat(resource("group"), ClientType::PushConsumer).await, Code::Ok);
    assert_eq!(beat(resource("a.b"), ClientType::PushConsumer).await, Code::IllegalConsumerGroup);
    assert!(rig.metadata.group(&GroupName::parse("", "group").unwrap()).is_some());
    assert!(rig.broker.with(|state| state.alive.iter().any(|client| client.as_str() == "client-1")));
}

#[tokio::test]
async fn a_client_that_leaves_is_gone_and_may_say_so_twice() {
    let rig = Rig::start().await;
    for group in [resource("a.b"), None] {
        let answer = rig.client.clone().notify_client_termination(call(NotifyClientTerminationRequest { group })).await.unwrap().into_inner();
        assert_eq!(code(&answer.status), Code::Ok);
    }
    assert_eq!(rig.broker.with(|state| state.gone.len()), 2);
}
