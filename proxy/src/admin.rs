//! The administration service on port 8083: topics, groups, positions, lag, dead letters, clients, stored messages, the cluster.
//!
//! It reads from what this process knows and changes through the controller. Unlike the messaging service it answers errors as gRPC statuses,
//! whose message says what, why and what to do next. One file per noun below; here is what they share.

mod topics;
pub(crate) mod groups;
pub(crate) mod clients;
pub(crate) mod lookup;
mod cluster;
mod transactions;
mod offsets;
mod letters;
mod life;
mod progress;
mod lite;

use crate::shared::Shared;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gantry_model::contract::broker::LookupError;
use gantry_model::contract::metadata::MetadataError;
use gantry_model::name::NameError;
use gantry_model::setting::{self, Settings};
use gantry_model::{Group, GroupName, ShardId, Topic, TopicName};
use gantry_proto::admin::admin_server::Admin;
use gantry_proto::admin::*;
use std::collections::HashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Entries of a page that doesn't say how many, and the most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Topics and groups taken from the metadata at a time.
const CHUNK: usize = 256;

/// The service.
#[derive(Debug)]
pub struct Administration {
    shared: Arc<Shared>,
}

impl Administration {
    pub fn new(shared: Arc<Shared>) -> Administration {
        Administration { shared }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for Administration {
    async fn create_topic(&self, request: Request<CreateTopicRequest>) -> Answer<CreateTopicResponse> {
        topics::create(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn update_topic(&self, request: Request<UpdateTopicRequest>) -> Answer<UpdateTopicResponse> {
        topics::update(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn delete_topic(&self, request: Request<DeleteTopicRequest>) -> Answer<DeleteTopicResponse> {
        topics::delete(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn get_topic(&self, request: Request<GetTopicRequest>) -> Answer<GetTopicResponse> {
        topics::get(&self.shared, request.into_inner()).map(Response::new)
    }

    async fn list_topics(&self, request: Request<ListTopicsRequest>) -> Answer<ListTopicsResponse> {
        topics::list(&self.shared, request.into_inner()).map(Response::new)
    }

    async fn create_group(&self, request: Request<CreateGroupRequest>) -> Answer<CreateGroupResponse> {
        groups::create(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn update_group(&self, request: Request<UpdateGroupRequest>) -> Answer<UpdateGroupResponse> {
        groups::update(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn delete_group(&self, request: Request<DeleteGroupRequest>) -> Answer<DeleteGroupResponse> {
        groups::delete(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn get_group(&self, request: Request<GetGroupRequest>) -> Answer<GetGroupResponse> {
        groups::get(&self.shared, request.into_inner()).map(Response::new)
    }

    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Answer<ListGroupsResponse> {
        groups::list(&self.shared, request.into_inner()).map(Response::new)
    }

    async fn get_group_lag(&self, request: Request<GetGroupLagRequest>) -> Answer<GetGroupLagResponse> {
        groups::lag(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn get_topic_stats(&self, request: Request<GetTopicStatsRequest>) -> Answer<GetTopicStatsResponse> {
        topics::stats(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn list_clients(&self, request: Request<ListClientsRequest>) -> Answer<ListClientsResponse> {
        clients::list(&self.shared, request.into_inner()).map(Response::new)
    }

    async fn lookup_messages(&self, request: Request<LookupMessagesRequest>) -> Answer<LookupMessagesResponse> {
        lookup::find(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Answer<ListNodesResponse> {
        Ok(Response::new(cluster::nodes(&self.shared)))
    }

    async fn steer_cluster(&self, request: Request<SteerClusterRequest>) -> Answer<SteerClusterResponse> {
        cluster::steer(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn survey_shard(&self, request: Request<SurveyShardRequest>) -> Answer<SurveyShardResponse> {
        cluster::survey(&self.shared, ShardId(request.into_inner().shard)).await.map(Response::new)
    }

    async fn list_shards(&self, _: Request<ListShardsRequest>) -> Answer<ListShardsResponse> {
        Ok(Response::new(ListShardsResponse { shards: cluster::shards(&self.shared).await }))
    }

    async fn print_thread_stack(&self, request: Request<PrintThreadStackRequest>) -> Answer<PrintThreadStackResponse> {
        clients::print_stack(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn verify_message(&self, request: Request<VerifyMessageRequest>) -> Answer<VerifyMessageResponse> {
        clients::verify(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn get_cluster_info(&self, _: Request<GetClusterInfoRequest>) -> Answer<GetClusterInfoResponse> {
        cluster::info(&self.shared).await.map(Response::new)
    }

    async fn list_transactions(&self, request: Request<ListTransactionsRequest>) -> Answer<ListTransactionsResponse> {
        transactions::list(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn end_transaction(&self, request: Request<EndTransactionRequest>) -> Answer<EndTransactionResponse> {
        transactions::end(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn resume_transaction(&self, request: Request<ResumeTransactionRequest>) -> Answer<ResumeTransactionResponse> {
        transactions::resume(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn reset_group_offsets(&self, request: Request<ResetGroupOffsetsRequest>) -> Answer<ResetGroupOffsetsResponse> {
        offsets::reset(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn copy_group_offsets(&self, request: Request<CopyGroupOffsetsRequest>) -> Answer<CopyGroupOffsetsResponse> {
        offsets::copy(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn skip_messages(&self, request: Request<SkipMessagesRequest>) -> Answer<SkipMessagesResponse> {
        offsets::skip(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn list_dead_letters(&self, request: Request<ListDeadLettersRequest>) -> Answer<ListDeadLettersResponse> {
        letters::list(&self.shared, request.into_inner()).await.map(Response::new)
    }

    type RedriveDeadLettersStream = progress::Progress<letters::Redrive>;

    async fn redrive_dead_letters(&self, request: Request<RedriveDeadLettersRequest>) -> Answer<Self::RedriveDeadLettersStream> {
        letters::redrive(&self.shared, request.into_inner()).await.map(Response::new)
    }

    type PurgeDeadLettersStream = progress::Progress<letters::Purge>;

    async fn purge_dead_letters(&self, request: Request<PurgeDeadLettersRequest>) -> Answer<Self::PurgeDeadLettersStream> {
        letters::purge(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn get_message_life(&self, request: Request<GetMessageLifeRequest>) -> Answer<GetMessageLifeResponse> {
        life::get(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn list_lite_topics(&self, request: Request<ListLiteTopicsRequest>) -> Answer<ListLiteTopicsResponse> {
        lite::list(&self.shared, request.into_inner()).await.map(Response::new)
    }
}

fn bad_name(error: NameError) -> Status {
    Status::invalid_argument(error.0)
}

fn metadata_error(error: MetadataError) -> Status {
    let text = error.to_string();
    match error {
        MetadataError::Exists { .. } => Status::already_exists(text),
        MetadataError::NotFound { .. } => Status::not_found(text),
        MetadataError::Invalid { .. } => Status::invalid_argument(text),
        MetadataError::Unavailable { .. } => Status::unavailable(text),
    }
}

fn lookup_error(error: LookupError) -> Status {
    match error {
        LookupError::NoSuchQueue => Status::invalid_argument(error.to_string()),
        LookupError::Busy | LookupError::NoLeader | LookupError::Failed { .. } => Status::unavailable(error.to_string()),
    }
}

/// A topic that is there.
fn topic(shared: &Shared, namespace: &str, name: &str) -> Result<Arc<Topic>, Status> {
    let name = TopicName::parse(namespace, name).map_err(bad_name)?;
    shared.metadata.topic(&name).ok_or_else(|| Status::not_found(format!("topic `{name}` does not exist")))
}

/// A group that is there.
fn group(shared: &Shared, namespace: &str, name: &str) -> Result<Arc<Group>, Status> {
    let name = GroupName::parse(namespace, name).map_err(bad_name)?;
    shared.metadata.group(&name).ok_or_else(|| Status::not_found(format!("consumer group `{name}` does not exist")))
}

/// Options with settings set and taken back as a request says.
fn settings<T: Settings>(present: &T, set: &HashMap<String, String>, reset: &[String]) -> Result<T, Status> {
    let set: Vec<(&str, &str)> = set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let reset: Vec<&str> = reset.iter().map(String::as_str).collect();
    setting::changed(present, &set, &reset).map_err(|error| Status::invalid_argument(error.0))
}

/// The settings that differ from their default.
fn shown<T: Settings>(options: &T) -> HashMap<String, String> {
    setting::shown(options).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Which part of a list is asked for: so many entries behind a key.
struct Page {
    size: usize,
    after: Option<String>,
}

impl Page {
    fn read(size: u32, token: &str) -> Result<Page, Status> {
        let size = if size == 0 { PAGE_DEFAULT } else { (size as usize).min(PAGE_MAX) };
        Ok(Page { size, after: read_token(token)? })
    }

    /// Cuts a list that holds everything behind the page's beginning down to the page; answers the token of the next one.
    fn cut<T>(&self, entries: &mut Vec<T>, key: impl Fn(&T) -> String) -> String {
        if entries.len() <= self.size {
            return String::new();
        }
        entries.truncate(self.size);
        entries.last().map_or_else(String::new, |last| token(&key(last)))
    }
}

/// The key behind which the next page begins, as clients carry it.
fn token(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("1{key}"))
}

fn read_token(token: &str) -> Result<Option<String>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let text = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let key = text.as_deref().and_then(|text| text.strip_prefix('1')).map(str::to_owned);
    key.map(Some).ok_or_else(foreign_token)
}

fn foreign_token() -> Status {
    Status::invalid_argument("the page token is not one of ours; begin again without one")
}

/// Namespace and name in one key; neither contains a slash.
fn name_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn read_name_key(key: &str) -> Result<(String, String), Status> {
    key.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).ok_or_else(foreign_token)
}

/// Whether a list with this filter shows the name.
fn shows(namespace: Option<&str>, prefix: &str, found: (&str, &str)) -> bool {
    namespace.is_none_or(|namespace| namespace == found.0) && found.1.starts_with(prefix)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_token_comes_back_and_a_foreign_one_is_refused() {
        assert_eq!(read_token(&token("ns/name")).unwrap().as_deref(), Some("ns/name"));
        assert_eq!(read_token("").unwrap(), None);
        for foreign in ["x", "!", "bm9uZQ"] {
            assert_eq!(read_token(foreign).unwrap_err().code(), tonic::Code::InvalidArgument, "`{foreign}`");
        }
    }

    #[test]
    fn pages_have_a_default_and_a_greatest_size() {
        assert_eq!([0, 1, 1_000, 1_001].map(|size| Page::read(size, "").unwrap().size), [100, 1, 1_000, 1_000]);
    }
}
