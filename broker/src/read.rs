//! From the log to a message: reads frames by their place, without blocking where they are in memory and on a bounded pool where they are not.

use crate::draft::{self, RawMessage};
use crate::shard::inbox::Found;
use gantry_model::contract::Metadata;
use gantry_model::contract::broker::LookupError;
use gantry_model::message::StoredMessage;
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
        match self.read_frame(found).await? {
            Some(frame) if !draft::is_hidden(&frame) => self.message_of(&frame, found).map(Some),
            _ => Ok(None),
        }
    }

    /// The message at a place, also if nobody may see it yet: for who is responsible for it.
    pub async fn read_hidden(&self, found: Found) -> Result<Option<StoredMessage>, LookupError> {
        let Some(frame) = self.read_frame(found).await? else { return Ok(None) };
        let message = self.message_of(&frame, found)?.decode();
        message.map(Some).ok_or_else(|| failed(found, "a text of the message is not one"))
    }

    fn message_of(&self, frame: &Frame, found: Found) -> Result<RawMessage, LookupError> {
        RawMessage::of(frame, &*self.metadata).ok_or_else(|| failed(found, "the frame holds no message"))
    }

    async fn read_frame(&self, found: Found) -> Result<Option<Frame>, LookupError> {
        match self.reader.try_frame(found.lsn, found.len) {
            Ok(Some(frame)) => Ok(Some(frame)),
            Ok(None) => self.read_cold(found).await.map(Some),
            Err(error) if error.is_trimmed() => Ok(None),
            Err(error) => Err(failed(found, error)),
        }
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

fn failed(found: Found, error: impl std::fmt::Display) -> LookupError {
    LookupError::Failed { why: format!("message {:?}/{}: {error}", found.queue, found.offset) }
}
