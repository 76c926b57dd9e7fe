//! Handles: what a client holds while it works on a message, has a transaction open, or may take a delayed message back.
//!
//! A handle says all that is needed to find its object again and carries a MAC, so every proxy can check it without asking, it survives
//! restarts and changes of leader, and nobody can forge one. Text form: `v1.<key>.<payload>.<mac>`, the last two in URL-safe base64. It holds no
//! time and no epoch: it stays the same over renewals.

use crate::{GroupId, LeaseId, Offset, QueueId, ShardId, TopicId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;

const PAYLOAD: usize = 40;
const MAC: usize = 16;
/// The longest handle of ours is that of a delayed message, which carries a message id of up to 255 bytes; what is longer was never ours.
const TEXT_MAX: usize = 512;
/// The first byte of the payloads of other handles than receipts, whose payload has a fixed length that these never have.
const TRANSACTION: u8 = b't';
const RECALL: u8 = b'r';

/// One delivery of one message to one consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReceiptHandle {
    pub shard: ShardId,
    pub topic: TopicId,
    pub group: GroupId,
    pub queue: QueueId,
    pub offset: Offset,
    pub lease: LeaseId,
    /// Grows when the group's position is reset; handles from before are void.
    pub reset: u32,
    pub attempt: u32,
}

/// A message that waits for its producer to commit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionHandle {
    pub shard: ShardId,
    pub topic: TopicId,
    /// Its number among the transactions of the topic on that shard.
    pub id: u64,
}

/// A delayed message, as its producer can name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecallHandle {
    pub shard: ShardId,
    pub topic: TopicId,
    /// When it is due, ms since the Unix epoch.
    pub deliver_ms: u64,
    /// Its number among the delayed messages of the topic on that shard.
    pub id: u64,
    pub message_id: String,
}

/// The secret that signs handles, as the controller keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleKey {
    pub id: u32,
    pub secret: [u8; 32],
}

impl fmt::Debug for HandleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandleKey {{ id: {}, secret: … }}", self.id)
    }
}

/// Keys ready for use: one signs, all verify.
#[derive(Clone)]
pub struct HandleKeys {
    signing: Hmac<Sha256>,
    /// What every handle signed by it begins with.
    start: String,
    verifying: Vec<(u32, Hmac<Sha256>)>,
}

impl fmt::Debug for HandleKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandleKeys {{ signing: {} }}", self.start.trim_start_matches("v1.").trim_end_matches('.'))
    }
}

/// A handle that we did not sign, or that was changed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidHandle;

impl fmt::Display for InvalidHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("receipt handle is not valid: it is malformed, was changed, or belongs to another cluster, topic or group")
    }
}

impl std::error::Error for InvalidHandle {}

impl HandleKeys {
    /// Keys to use from now on: the newest signs. `None` if there is no key at all.
    pub fn new(keys: &[HandleKey]) -> Option<HandleKeys> {
        let ready = |key: &HandleKey| {
            let mac = <Hmac<Sha256> as Mac>::new_from_slice(&key.secret).expect("HMAC takes keys of any length");
            (key.id, mac)
        };
        let newest = keys.iter().max_by_key(|key| key.id)?;
        Some(HandleKeys { signing: ready(newest).1, start: format!("v1.{}.", newest.id), verifying: keys.iter().map(ready).collect() })
    }

    /// The text that a client gets.
    pub fn sign(&self, handle: &ReceiptHandle) -> String {
        let mut text = String::new();
        self.sign_onto(handle, &mut text);
        text
    }

    pub fn sign_transaction(&self, handle: &TransactionHandle) -> String {
        let mut text = String::new();
        self.sign_payload(&handle.payload(), &mut text);
        text
    }

    pub fn sign_recall(&self, handle: &RecallHandle) -> String {
        let mut text = String::new();
        self.sign_payload(&handle.payload(), &mut text);
        text
    }

    /// Appends the text that a client gets.
    pub fn sign_onto(&self, handle: &ReceiptHandle, text: &mut String) {
        self.sign_payload(&handle.payload(), text);
    }

    fn sign_payload(&self, payload: &[u8], text: &mut String) {
        let mac = mac(&self.signing, payload);
        text.push_str(&self.start);
        URL_SAFE_NO_PAD.encode_string(payload, text);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(mac, text);
    }

    /// The handle behind a text, if it was signed by one of our keys.
    pub fn verify(&self, text: &str) -> Result<ReceiptHandle, InvalidHandle> {
        let payload = self.verify_payload(text)?;
        let payload: &[u8; PAYLOAD] = payload.as_slice().try_into().map_err(|_| InvalidHandle)?;
        Ok(ReceiptHandle::from_payload(payload))
    }

    pub fn verify_transaction(&self, text: &str) -> Result<TransactionHandle, InvalidHandle> {
        TransactionHandle::from_payload(&self.verify_payload(text)?).ok_or(InvalidHandle)
    }

    pub fn verify_recall(&self, text: &str) -> Result<RecallHandle, InvalidHandle> {
        RecallHandle::from_payload(&self.verify_payload(text)?).ok_or(InvalidHandle)
    }

    fn verify_payload(&self, text: &str) -> Result<Vec<u8>, InvalidHandle> {
        if text.len() > TEXT_MAX {
            return Err(InvalidHandle);
        }
        let mut parts = text.split('.');
        let (Some("v1"), Some(id), Some(payload), Some(given), None) = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(InvalidHandle);
        };
        let id: u32 = id.parse().map_err(|_| InvalidHandle)?;
        let (_, key) = self.verifying.iter().find(|(known, _)| *known == id).ok_or(InvalidHandle)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| InvalidHandle)?;
        let given = URL_SAFE_NO_PAD.decode(given).map_err(|_| InvalidHandle)?;
        if !bool::from(mac(key, &payload).ct_eq(&given)) {
            return Err(InvalidHandle);
        }
        Ok(payload)
    }
}

fn mac(key: &Hmac<Sha256>, payload: &[u8]) -> [u8; MAC] {
    let mut mac = key.clone();
    mac.update(payload);
    let full = mac.finalize().into_bytes();
    let mut short = [0; MAC];
    short.copy_from_slice(&full[..MAC]);
    short
}

impl ReceiptHandle {
    fn payload(&self) -> [u8; PAYLOAD] {
        let mut out = [0; PAYLOAD];
        let fields: [&[u8]; 8] = [
            &self.shard.0.to_le_bytes(),
            &self.topic.0.to_le_bytes(),
            &self.group.0.to_le_bytes(),
            &self.queue.0.to_le_bytes(),
            &self.offset.0.to_le_bytes(),
            &self.lease.0.to_le_bytes(),
            &self.reset.to_le_bytes(),
            &self.attempt.to_le_bytes(),
        ];
        let mut at = 0;
        for field in fields {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        out
    }

    fn from_payload(payload: &[u8; PAYLOAD]) -> ReceiptHandle {
        let u32_at = |at: usize| u32::from_le_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        ReceiptHandle {
            shard: ShardId(u32_at(0)),
            topic: TopicId(u32_at(4)),
            group: GroupId(u32_at(8)),
            queue: QueueId(u32_at(12)),
            offset: Offset(u64_at(16)),
            lease: LeaseId(u64_at(24)),
            reset: u32_at(32),
            attempt: u32_at(36),
        }
    }
}

impl TransactionHandle {
    const LEN: usize = 17;

    fn payload(&self) -> Vec<u8> {
        [&[TRANSACTION][..], &self.shard.0.to_le_bytes(), &self.topic.0.to_le_bytes(), &self.id.to_le_bytes()].concat()
    }

    fn from_payload(payload: &[u8]) -> Option<TransactionHandle> {
        if payload.len() != TransactionHandle::LEN || payload[0] != TRANSACTION {
            return None;
        }
        Some(TransactionHandle { shard: ShardId(u32_at(payload, 1)?), topic: TopicId(u32_at(payload, 5)?), id: u64_at(payload, 9)? })
    }
}

impl RecallHandle {
    const HEAD: usize = 25;

    fn payload(&self) -> Vec<u8> {
        let numbers = [&[RECALL][..], &self.shard.0.to_le_bytes(), &self.topic.0.to_le_bytes()].concat();
        let mut out = [&numbers[..], &self.deliver_ms.to_le_bytes(), &self.id.to_le_bytes(), self.message_id.as_bytes()].concat();
        // The last byte counts the filling before it, which keeps the length apart from that of a receipt.
        out.push(0);
        if out.len() == PAYLOAD {
            out.push(1);
        }
        out
    }

    fn from_payload(payload: &[u8]) -> Option<RecallHandle> {
        if payload.len() == PAYLOAD || payload.first() != Some(&RECALL) {
            return None;
        }
        let (&filling, rest) = payload.split_last()?;
        let id = rest.get(RecallHandle::HEAD..rest.len().checked_sub(usize::from(filling))?)?;
        Some(RecallHandle {
            shard: ShardId(u32_at(payload, 1)?),
            topic: TopicId(u32_at(payload, 5)?),
            deliver_ms: u64_at(payload, 9)?,
            id: u64_at(payload, 17)?,
            message_id: std::str::from_utf8(id).ok()?.to_owned(),
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> HandleKeys {
        HandleKeys::new(&[HandleKey { id: 1, secret: [1; 32] }, HandleKey { id: 2, secret: [2; 32] }]).expect("two keys")
    }

    fn handle() -> ReceiptHandle {
        ReceiptHandle {
            shard: ShardId(1),
            topic: TopicId(2),
            group: GroupId(3),
            queue: QueueId(4),
            offset: Offset(5),
            lease: LeaseId(6),
            reset: 7,
            attempt: 8,
        }
    }

    #[test]
    fn a_handle_signed_by_a_retired_key_is_still_good() {
        let old = HandleKeys::new(&[HandleKey { id: 1, secret: [1; 32] }]).expect("one key");
        assert_eq!(keys().verify(&old.sign(&handle())), Ok(handle()));
        assert_eq!(old.verify(&keys().sign(&handle())), Err(InvalidHandle));
    }

    #[test]
    fn every_changed_character_voids_a_handle() {
        let text = keys().sign(&handle());
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(bytes).expect("ascii");
            // The last character of a base64 group has bits that decode to nothing; the decoder refuses those as well.
            assert_eq!(keys().verify(&changed), Err(InvalidHandle), "character {at} of {text}");
        }
    }

    proptest! {
        #[test]
        fn other_handles_come_back_and_are_never_taken_for_receipts(
            shard: u32, topic: u32, id: u64, deliver_ms: u64, message_id in ".{1,60}",
        ) {
            let transaction = TransactionHandle { shard: ShardId(shard), topic: TopicId(topic), id };
            let recall = RecallHandle { shard: ShardId(shard), topic: TopicId(topic), deliver_ms, id, message_id };
            let texts = [keys().sign_transaction(&transaction), keys().sign_recall(&recall)];
            prop_assert_eq!(keys().verify_transaction(&texts[0]), Ok(transaction));
            prop_assert_eq!(keys().verify_recall(&texts[1]), Ok(recall));
            prop_assert!(texts.iter().all(|text| keys().verify(text).is_err()));
            prop_assert!(keys().verify_recall(&texts[0]).is_err() && keys().verify_transaction(&texts[1]).is_err());
        }

        #[test]
        fn any_handle_comes_back(numbers in any::<(u32, u32, u32, u32)>(), offset: u64, lease: u64, reset: u32, attempt: u32) {
            let (shard, topic, group, queue) = numbers;
            let handle = ReceiptHandle {
                shard: ShardId(shard), topic: TopicId(topic), group: GroupId(group), queue: QueueId(queue),
                offset: Offset(offset), lease: LeaseId(lease), reset, attempt,
            };
            prop_assert_eq!(keys().verify(&keys().sign(&handle)), Ok(handle));
        }

        #[test]
        fn no_text_makes_verify_panic(text in ".{0,300}") {
            prop_assert!(keys().verify(&text).is_err());
        }
    }
}
