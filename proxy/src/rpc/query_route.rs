//! QueryRoute: which queues a topic has and where to reach them.
//!
//! A client sees one broker, at the address by which it reached us: behind a balancer or a forwarded port no other address works. Since any
//! proxy serves everything, moves and elections never change the answer.

use crate::context::Context;
use crate::rpc::Messaging;
use crate::status::{self, Refusal};
use crate::{convert, validate};
use gantry_model::Topic;
use gantry_model::limits::ROUTE_QUEUES_MAX;
use gantry_model::topic::{Permission, QueueState};
use gantry_proto::v2::{self, Address, AddressScheme, Broker, Code, Endpoints, MessageQueue, QueryRouteRequest, QueryRouteResponse, Resource};
use std::net::IpAddr;

pub async fn answer(edge: &Messaging, context: Context, request: QueryRouteRequest) -> Result<QueryRouteResponse, Refusal> {
    let shared = &edge.shared;
    let name = validate::topic(request.topic.as_ref(), context.namespace())?;
    let broker = broker(edge, request.endpoints)?;
    let topic = shared.first_use().route_topic(&*shared.metadata, &name).await?;
    let message_queues = queues(&topic, &request.topic.unwrap_or_default(), &broker);
    Ok(QueryRouteResponse { status: Some(status::ok()), message_queues })
}

fn queues(topic: &Topic, asked: &Resource, broker: &Broker) -> Vec<MessageQueue> {
    let accepts: Vec<i32> = topic.kind.accepts().iter().map(|&kind| convert::message_type(kind) as i32).collect();
    let queue = |(id, queue): (gantry_model::QueueId, gantry_model::topic::Queue)| MessageQueue {
        topic: Some(asked.clone()),
        id: id.0 as i32,
        permission: permission(topic.permission, queue.state) as i32,
        broker: Some(broker.clone()),
        accept_message_types: accepts.clone(),
    };
    topic.queues().take(ROUTE_QUEUES_MAX).map(queue).collect()
}

/// What clients may do with a queue.
pub fn permission(topic: Permission, queue: QueueState) -> v2::Permission {
    match (topic, queue) {
        (Permission::ReadWrite, QueueState::Active) => v2::Permission::ReadWrite,
        (Permission::Write, QueueState::Active) => v2::Permission::Write,
        (Permission::Read, QueueState::Active) | (Permission::Read | Permission::ReadWrite, QueueState::ReadOnly) => v2::Permission::Read,
        _ => v2::Permission::None,
    }
}

/// The one broker that clients see.
pub fn broker(edge: &Messaging, asked: Option<Endpoints>) -> Result<Broker, Refusal> {
    let endpoints = match asked {
        Some(endpoints) if !endpoints.addresses.is_empty() && endpoints.scheme() != AddressScheme::Unspecified => echoed(endpoints)?,
        _ => advertised(edge),
    };
    Ok(Broker { name: edge.shared.metadata.cluster().name.clone(), id: 0, endpoints: Some(endpoints) })
}

/// The address as the client wrote it.
fn echoed(mut endpoints: Endpoints) -> Result<Endpoints, Refusal> {
    if endpoints.scheme() == AddressScheme::DomainName {
        // Clients refuse a domain name with more than one address.
        endpoints.addresses.truncate(1);
    }
    match endpoints.addresses.iter().find(|address| address.host.trim().is_empty() || !(1..=65_535).contains(&address.port)) {
        None => Ok(endpoints),
        Some(bad) => {
            let text = format!("access point `{}:{}` is not an address: a host and a port from 1 to 65535", bad.host.escape_debug(), bad.port);
            Err(Refusal::new(Code::IllegalAccessPoint, text))
        }
    }
}

/// For a client that names no address: the configured one, else the one its connection came in on.
fn advertised(edge: &Messaging) -> Endpoints {
    let (host, port) = match &edge.shared.config.advertised {
        Some((host, port)) => (host.clone(), *port),
        None => (edge.peer.local.ip().to_canonical().to_string(), edge.peer.local.port()),
    };
    let scheme = match host.parse() {
        Ok(IpAddr::V4(_)) => AddressScheme::IPv4,
        Ok(IpAddr::V6(_)) => AddressScheme::IPv6,
        Err(_) => AddressScheme::DomainName,
    };
    Endpoints { scheme: scheme as i32, addresses: vec![Address { host, port: i32::from(port) }] }
}
