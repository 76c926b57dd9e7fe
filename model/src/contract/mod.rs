//! Where the roles meet: one small trait per role, with typed requests and errors that say what to do next.
//!
//! `broker` is what a proxy asks of the shards, `metadata` and `directory` what everybody asks of the controller. In one process the traits are called
//! directly; between processes a stream client implements them.

pub mod broker;
pub mod directory;
pub mod metadata;

pub use broker::Broker;
pub use directory::Directory;
pub use metadata::Metadata;
