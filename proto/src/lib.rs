//! The wire: messages and services of RocketMQ 5 (`apache.rocketmq.v2`) and of our own administration API (`gantry.admin.v1`),
//! what brokers say to each other (`gantry.broker.v1`), and what controllers do (`gantry.controller.v1`).
//!
//! Nearly all is generated at build time from the files under `proto/`, clients and servers alike. [`shards`] turns the values of the contract
//! `Broker` into messages and back, for both ends of that stream; [`connections`] is how roles reach each other. This crate never knows the
//! broker, the store, or what a message is for. Read `proto/apache/rocketmq/v2/definition.proto` first, then `service.proto` beside
//! it. `tests/same_wire.rs` holds our numbers against those that the official Python client carries.

pub mod codec;
pub mod connections;
pub mod shards;

/// Generated code has the module path of its package, because packages refer to each other by relative path.
pub mod apache {
    pub mod rocketmq {
        // A response element that holds a whole message is large by nature; boxing it would cost an allocation a message.
        #[allow(clippy::large_enum_variant)]
        pub mod v2 {
            tonic::include_proto!("apache.rocketmq.v2");
        }
    }
}

/// Our own packages.
pub mod gantry {
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("gantry.admin.v1");
        }
    }
    pub mod broker {
        // A request may be a whole send; boxing it would cost an allocation a message.
        #[allow(clippy::large_enum_variant)]
        pub mod v1 {
            tonic::include_proto!("gantry.broker.v1");
        }
    }
    pub mod controller {
        // An append carries entries, and most others nothing: the difference is what they are for.
        #[allow(clippy::large_enum_variant)]
        pub mod v1 {
            tonic::include_proto!("gantry.controller.v1");
        }
    }
}

pub use apache::rocketmq::v2;
pub use gantry::admin::v1 as admin;
pub use gantry::broker::v1 as broker;
pub use gantry::controller::v1 as controller;

/// All files of this crate and what they import, as a serialized `google.protobuf.FileDescriptorSet`; what reflection answers with.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
