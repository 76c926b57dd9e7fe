//! Lite topics: what there is below a parent.

use super::{Page, lookup_error, topic};
use crate::convert::timestamp;
use crate::shared::Shared;
use gantry_model::contract::broker;
use gantry_model::topic::TopicType;
use gantry_proto::admin::{ListLiteTopicsRequest, ListLiteTopicsResponse, LiteTopic};
use tonic::Status;

pub async fn list(shared: &Shared, request: ListLiteTopicsRequest) -> Result<ListLiteTopicsResponse, Status> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let parent = topic(shared, &request.namespace, &request.topic)?;
    if parent.kind != TopicType::Lite {
        let text = format!("topic `{}` is of type {:?}; only one of type Lite has lite topics", parent.name, parent.kind);
        return Err(Status::failed_precondition(text));
    }
    let after = page.after.as_deref().unwrap_or(&request.after);
    let found = shared.broker.lite_topics(&parent, after, page.size + 1).await.map_err(lookup_error)?;
    let mut lite_topics: Vec<LiteTopic> = found.into_iter().map(to_wire).collect();
    let next_page_token = page.cut(&mut lite_topics, |lite| lite.name.clone());
    Ok(ListLiteTopicsResponse { lite_topics, next_page_token })
}

fn to_wire(lite: broker::LiteTopic) -> LiteTopic {
    LiteTopic {
        name: lite.name,
        min_offset: lite.min.0,
        max_offset: lite.max.0,
        active_time: Some(timestamp(lite.active_ms)),
        subscribers: lite.subscribers,
    }
}
