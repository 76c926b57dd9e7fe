//! Clients that called this proxy lately.

use super::Page;
use crate::convert::timestamp;
use crate::sessions::{Facts, Session};
use crate::shared::Shared;
use gantry_proto::admin::{Client, ListClientsRequest, ListClientsResponse};
use tonic::Status;

pub fn list(shared: &Shared, request: ListClientsRequest) -> Result<ListClientsResponse, Status> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut sessions = shared.sessions.all();
    sessions.sort_unstable_by(|a, b| a.client.cmp(&b.client));
    let behind = |session: &Session| page.after.as_ref().is_none_or(|after| session.client.as_str() > after.as_str());
    let wanted = sessions.iter().filter(|session| behind(session) && shows(&request, &session.facts()));
    let mut clients: Vec<Client> = wanted.take(page.size + 1).map(|session| to_wire(shared, session)).collect();
    let next_page_token = page.cut(&mut clients, |client| client.client_id.clone());
    Ok(ListClientsResponse { clients, next_page_token })
}

fn shows(request: &ListClientsRequest, facts: &Facts) -> bool {
    (request.client_type == 0 || request.client_type == facts.client_type as i32)
        && request.namespace.as_ref().is_none_or(|namespace| *namespace == facts.namespace)
        && (request.group.is_empty() || facts.groups.iter().any(|group| group.name == request.group))
        && (request.topic.is_empty() || facts.topics.iter().any(|topic| topic.name == request.topic))
}

fn to_wire(shared: &Shared, session: &Session) -> Client {
    let ago = shared.clock.mono().saturating_sub(session.last_seen());
    let facts = session.facts();
    Client {
        client_id: session.client.to_string(),
        client_type: facts.client_type as i32,
        namespace: facts.namespace.clone(),
        groups: facts.groups.iter().map(|group| group.name.clone()).collect(),
        topics: facts.topics.iter().map(|topic| topic.name.clone()).collect(),
        remote_address: facts.address.to_string(),
        last_seen: Some(timestamp(shared.clock.wall_ms().saturating_sub(ago.as_millis() as u64))),
        language: facts.language as i32,
        version: facts.version.clone(),
    }
}
