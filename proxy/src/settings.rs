//! The settings that a client gets: what it sent, with the fields that belong to the server replaced.
//!
//! Every reply has a status, a retry strategy and a metric, because a client without one of them stops working. The consumer's strategy is
//! written in the form that its language reads.

use gantry_model::group::{GroupSpec, Order};
use gantry_model::limits::{BODY_MAX, LITE_NAME_BYTES_MAX, LITE_QUOTA, POLL_MAX_MS, RECEIVE_BATCH_MAX};
use gantry_model::topic::TopicType;
use gantry_model::{Group, RetryPolicy};
use gantry_proto::v2::settings::PubSub;
use gantry_proto::v2::{self, ClientType, CustomizedBackoff, ExponentialBackoff, Language, Metric, Settings, retry_policy::Strategy};
use prost_types::Duration;
use std::sync::Arc;

/// Sends of one message, the first included.
const PRODUCER_ATTEMPTS: i32 = 3;
/// Most delays written out for a client that reads only a list.
const DELAYS_MAX: u32 = 64;

/// What the answer depends on besides the settings sent.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub language: Language,
    /// The consumer's group, if it exists.
    pub group: Option<Arc<Group>>,
    /// The types of the topics that a consumer subscribes, as far as they exist.
    pub subscribed: Vec<TopicType>,
}

/// What the client gets for the settings it sent.
pub fn merged(sent: &Settings, around: &Surroundings) -> Settings {
    let mut settings = sent.clone();
    settings.metric = Some(Metric { on: false, endpoints: None });
    settings.backoff_policy = Some(match &settings.pub_sub {
        Some(PubSub::Subscription(_)) => consumer_policy(around),
        Some(PubSub::Publishing(_)) | None => producer_policy(),
    });
    let lite = matches!(sent.client_type(), ClientType::LitePushConsumer | ClientType::LiteSimpleConsumer);
    match &mut settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            publishing.validate_message_type = true;
            publishing.max_body_size = BODY_MAX as i32;
        }
        Some(PubSub::Subscription(subscription)) => {
            subscription.fifo = Some(is_ordered(around.group.as_deref(), &around.subscribed));
            subscription.receive_batch_size = Some(RECEIVE_BATCH_MAX as i32);
            subscription.long_polling_timeout = Some(duration(POLL_MAX_MS));
            if lite {
                let lite = around.group.as_ref().and_then(|group| group.options.lite.as_ref());
                let quota = lite.map_or(LITE_QUOTA, |lite| lite.client_quota);
                subscription.lite_subscription_quota = Some(i32::try_from(quota).unwrap_or(i32::MAX));
                subscription.max_lite_topic_size = Some(LITE_NAME_BYTES_MAX as i32);
            }
        }
        None => {}
    }
    settings
}

/// Whether a group consumes these topics in order.
pub fn is_ordered(group: Option<&Group>, topics: &[TopicType]) -> bool {
    match group.map_or(Order::FollowTopic, |group| group.order) {
        Order::Fifo => true,
        Order::FollowTopic => topics.contains(&TopicType::Fifo),
        Order::None => false,
    }
}

fn producer_policy() -> v2::RetryPolicy {
    let strategy = Strategy::ExponentialBackoff(ExponentialBackoff { initial: Some(duration(10)), max: Some(duration(1_000)), multiplier: 2.0 });
    v2::RetryPolicy { max_attempts: PRODUCER_ATTEMPTS, strategy: Some(strategy) }
}

fn consumer_policy(around: &Surroundings) -> v2::RetryPolicy {
    let name = gantry_model::GroupName { namespace: String::new(), name: String::new() };
    let default = GroupSpec::on_first_use(name);
    let (policy, attempts) = match &around.group {
        Some(group) => (&group.retry, group.max_attempts),
        None => (&default.retry, default.max_attempts),
    };
    let strategy = match (around.language, policy) {
        // Node.js reads no list; a range from the first to the last delay comes closest.
        (Language::NodeJs, RetryPolicy::Customized { delays_ms }) => {
            let (first, last) = (delays_ms.first().copied().unwrap_or(1_000), delays_ms.last().copied().unwrap_or(1_000));
            exponential(first, last.max(first), 2.0)
        }
        // Python reads nothing but a list.
        (Language::Python, RetryPolicy::Exponential { .. }) => {
            let count = attempts.clamp(1, DELAYS_MAX);
            Strategy::CustomizedBackoff(CustomizedBackoff { next: (1..=count).map(|attempt| duration(policy.delay_ms(attempt))).collect() })
        }
        (_, RetryPolicy::Exponential { initial_ms, max_ms, multiplier }) => exponential(*initial_ms, *max_ms, *multiplier),
        (_, RetryPolicy::Customized { delays_ms }) => {
            Strategy::CustomizedBackoff(CustomizedBackoff { next: delays_ms.iter().map(|&delay| duration(delay)).collect() })
        }
    };
    v2::RetryPolicy { max_attempts: attempts as i32, strategy: Some(strategy) }
}

fn exponential(initial_ms: u64, max_ms: u64, multiplier: f32) -> Strategy {
    Strategy::ExponentialBackoff(ExponentialBackoff { initial: Some(duration(initial_ms)), max: Some(duration(max_ms)), multiplier })
}

fn duration(ms: u64) -> Duration {
    Duration { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_model::{GroupId, GroupName, TopicId};
    use gantry_proto::v2::{Publishing, Subscription};

    fn group(retry: RetryPolicy, order: Order) -> Option<Arc<Group>> {
        Some(Arc::new(Group {
            id: GroupId(1),
            name: GroupName::parse("", "g").unwrap(),
            order,
            max_attempts: 4,
            retry,
            start: Default::default(),
            dead_letter: TopicId(9),
            auto_renew_cap_ms: 1,
            options: Default::default(),
            created_ms: 0,
        }))
    }

    fn consumer(language: Language, group: Option<Arc<Group>>, subscribed: Vec<TopicType>) -> Settings {
        let sent = Settings {
            client_type: Some(ClientType::PushConsumer as i32),
            pub_sub: Some(PubSub::Subscription(Subscription { fifo: Some(true), ..Default::default() })),
            ..Default::default()
        };
        merged(&sent, &Surroundings { language, group, subscribed })
    }

    fn strategy_of(language: Language, retry: RetryPolicy) -> Strategy {
        consumer(language, group(retry, Order::FollowTopic), vec![]).backoff_policy.unwrap().strategy.unwrap()
    }

    fn list(delays_ms: &[u64]) -> Strategy {
        Strategy::CustomizedBackoff(CustomizedBackoff { next: delays_ms.iter().map(|&ms| duration(ms)).collect() })
    }

    #[test]
    fn a_producer_backs_off_exponentially_and_learns_the_body_limit() {
        let sent = Settings { pub_sub: Some(PubSub::Publishing(Publishing::default())), ..Default::default() };
        let settings = merged(&sent, &Surroundings { language: Language::Cpp, group: None, subscribed: vec![] });
        assert_eq!(settings.backoff_policy.unwrap(), v2::RetryPolicy { max_attempts: 3, strategy: Some(exponential(10, 1_000, 2.0)) });
        assert_eq!(settings.metric, Some(Metric { on: false, endpoints: None }));
        let Some(PubSub::Publishing(publishing)) = settings.pub_sub else { panic!("still a producer") };
        assert_eq!((publishing.max_body_size, publishing.validate_message_type), (4_194_304, true));
    }

    #[test]
    fn each_language_gets_the_strategy_it_reads() {
        let custom = RetryPolicy::Customized { delays_ms: vec![1_000, 5_000, 60_000] };
        let growing = RetryPolicy::Exponential { initial_ms: 1_000, max_ms: 5_000, multiplier: 3.0 };
        for language in [Language::Java, Language::Golang, Language::DotNet, Language::Cpp, Language::Rust, Language::Unspecified] {
            assert_eq!(strategy_of(language, custom.clone()), list(&[1_000, 5_000, 60_000]), "{language:?}");
            assert_eq!(strategy_of(language, growing.clone()), exponential(1_000, 5_000, 3.0), "{language:?}");
        }
        assert_eq!(strategy_of(Language::NodeJs, custom.clone()), exponential(1_000, 60_000, 2.0));
        assert_eq!(strategy_of(Language::NodeJs, growing.clone()), exponential(1_000, 5_000, 3.0));
        assert_eq!(strategy_of(Language::Python, custom), list(&[1_000, 5_000, 60_000]));
        assert_eq!(strategy_of(Language::Python, growing), list(&[1_000, 3_000, 5_000, 5_000]));
    }

    #[test]
    fn the_server_decides_order_batch_and_poll() {
        let check = |order, subscribed: &[TopicType], expected| {
            let settings = consumer(Language::Java, group(RetryPolicy::default(), order), subscribed.to_vec());
            let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!("still a consumer") };
            assert_eq!(subscription.fifo, Some(expected), "{order:?} {subscribed:?}");
            assert_eq!((subscription.receive_batch_size, subscription.long_polling_timeout), (Some(32), Some(duration(20_000))));
        };
        check(Order::FollowTopic, &[TopicType::Normal, TopicType::Mixed], false);
        check(Order::FollowTopic, &[TopicType::Normal, TopicType::Fifo], true);
        check(Order::Fifo, &[TopicType::Normal], true);
        check(Order::None, &[TopicType::Fifo], false);
    }

    #[test]
    fn a_group_that_does_not_exist_yet_has_the_defaults() {
        let policy = consumer(Language::Java, None, vec![]).backoff_policy.unwrap();
        assert_eq!(policy.max_attempts, 16);
        let Some(Strategy::CustomizedBackoff(list)) = policy.strategy else { panic!("a list") };
        assert_eq!(list.next.len(), 18);
    }
}
