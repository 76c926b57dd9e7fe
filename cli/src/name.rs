//! Failures that name a topic or a group: what was tried on it, and which name the user may have meant.

use crate::connect::{Admin, request};
use crate::failure::{Exit, Failure};
use crate::global::Global;
use gantry_model::spelling::nearest;
use gantry_proto::admin::{ListGroupsRequest, ListTopicsRequest};

/// What is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    Topic,
    Group,
}

impl Noun {
    fn word(self) -> &'static str {
        match self {
            Noun::Topic => "topic",
            Noun::Group => "group",
        }
    }
}

/// A failed call about one topic or group; `tried` is a verb such as `delete`.
pub async fn failed(noun: Noun, tried: &str, name: &str, status: &tonic::Status, admin: &mut Admin, global: &Global) -> Failure {
    let word = noun.word();
    let mut failure = Failure::from_grpc(format!("cannot {tried} {word} `{name}`"), status);
    match failure.exit {
        Exit::NotFound => {
            let known = names(noun, admin, global).await;
            let meant = nearest(name, known.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`? "));
            failure.next = Some(format!("{}see what exists with `gantry {word} list`", meant.unwrap_or_default()));
        }
        Exit::Refused if status.code() == tonic::Code::AlreadyExists => {
            failure.next = Some(format!("look at it with `gantry {word} describe {name}`, change it with `gantry {word} update {name}`"));
        }
        _ => {}
    }
    failure
}

/// The first thousand names; none when the server cannot say, since this only serves a hint.
async fn names(noun: Noun, admin: &mut Admin, global: &Global) -> Vec<String> {
    let namespace = Some(global.namespace.clone());
    match noun {
        Noun::Topic => {
            let ask = ListTopicsRequest { namespace, page_size: 1000, ..Default::default() };
            let answer = admin.list_topics(request(ask, global)).await;
            answer.map(|answer| answer.into_inner().topics.into_iter().map(|topic| topic.name).collect()).unwrap_or_default()
        }
        Noun::Group => {
            let ask = ListGroupsRequest { namespace, page_size: 1000, ..Default::default() };
            let answer = admin.list_groups(request(ask, global)).await;
            answer.map(|answer| answer.into_inner().groups.into_iter().map(|group| group.name).collect()).unwrap_or_default()
        }
    }
}
