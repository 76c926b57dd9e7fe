//! Consume-queue index.
