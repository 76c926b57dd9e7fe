//! From the log to a message: reads frames by their place, without blocking where they are in memory and on a bounded pool where they are not.

use crate::draft::{self, RawMessage};
use crate::shard::inbox::Found;
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::LookupError;
use gantry_store::frame::Frame;
use gantry_store::log::LogReader;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Reads that may block on the disk at the same time.
const COLD_READS: usize = 16;
/// Cold reads that may wait for their turn; beyond, callers are told to come back.
const COLD_WAITING: usize = 4_096;

/// Reads stored messages.
#[derive(Clone, Debug)]
pub struct Messages {
    reader: LogReader,
    metadata: Arc<dyn Metadata>,
    cold: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Messages {
    pub fn new(reader: LogReader, metadata: Arc<dyn Metadata>) -> Messages {
        Messages { reader, metadata, cold: Arc::new(Semaphore::new(COLD_READS)), waiting: Arc::new(Semaphore::new(COLD_WAITING)) }
    }

    pub fn reader(&self) -> &LogReader {
        &self.reader
    }

    pub fn metadata(&self) -> &dyn Metadata {
        &*self.metadata
    }

    /// The message at a place; `None` if retention took it meanwhile, or if nobody may see it yet.
    pub async fn read(&self, found: Found) -> Result<Option<RawMessage>, LookupError> {
        let failed = |error: &dyn std::fmt::Display| LookupError::Failed { why: format!("message {:?}/{}: {error}", found.queue, found.offset) };
        let frame = match self.reader.try_frame(found.lsn, found.len) {
            Ok(Some(frame)) => frame,
            Ok(None) => self.read_cold(found).await?,
            Err(error) if error.is_trimmed() => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        if draft::is_hidden(&frame) {
            return Ok(None);
        }
        RawMessage::of(&frame, &*self.metadata).map(Some).ok_or_else(|| failed(&"the frame holds no message"))
    }

    async fn read_cold(&self, found: Found) -> Result<Frame, LookupError> {
        let _place = self.waiting.try_acquire().map_err(|_| LookupError::Busy)?;
        let turn = self.cold.acquire().await.map_err(|_| LookupError::Busy)?;
        let reader = self.reader.clone();
        let read = gantry_platform::tasks::blocking("gantry-cold-read", move || reader.frame(found.lsn)).await;
        drop(turn);
        match read {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(error)) => Err(LookupError::Failed { why: error.to_string() }),
            Err(error) => Err(LookupError::Failed { why: error.to_string() }),
        }
    }
}
