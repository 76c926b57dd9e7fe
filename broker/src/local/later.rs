//! What this broker answers to calls whose part of the shard is still being built.

pub const LITE: &str = "lite topics are not available in this version";
