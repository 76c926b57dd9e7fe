//! Frames: the unit of the CommitLog. A 40-byte header says how long the frame is, where it belongs and what came before; one CRC32C covers
//! everything. `docs/design/001-file-format.md` draws it.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use gantry_model::Lsn;

/// Bytes of the header.
pub const HEADER: usize = 40;
/// Version of the frame layout and of the payloads that this build writes.
pub const VERSION: u8 = 1;
/// No frame is longer: a 4 MiB body, 16 KiB of properties, and room to spare.
pub const FRAME_MAX: usize = 6 * 1024 * 1024;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    EpochStart = 1,
    End = 2,
    Message = 3,
    Half = 4,
    TxnEnd = 5,
    CheckSent = 6,
    Delayed = 7,
    Release = 8,
    Recall = 9,
    Lease = 10,
    Ack = 11,
    SetVisible = 12,
    Expire = 13,
    Dead = 14,
    Seek = 15,
    OffsetCommit = 16,
    LiteCreate = 17,
    LiteDrop = 18,
    QueueSeal = 19,
    Trim = 20,
    TierDone = 21,
    StateDigest = 22,
    Noop = 23,
    /// A topic or group was deleted; what the shard holds of it goes.
    Forget = 24,
}

impl Kind {
    /// The kind with that number.
    pub fn from_number(number: u8) -> Option<Kind> {
        use Kind::*;
        const ALL: [Kind; 24] = [
            EpochStart, End, Message, Half, TxnEnd, CheckSent, Delayed, Release, Recall, Lease, Ack, SetVisible, Expire, Dead, Seek, OffsetCommit,
            LiteCreate, LiteDrop, QueueSeal, Trim, TierDone, StateDigest, Noop, Forget,
        ];
        ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Whether it carries a client's message. Such frames are refused first when the disk fills up.
    pub fn is_data(self) -> bool {
        matches!(self, Kind::Message | Kind::Half | Kind::Delayed)
    }
}

/// Bits that say how a frame stands to its neighbours and readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// First frame of a batch that counts as a whole or not at all.
    pub const FIRST: Flags = Flags(1);
    /// Neither first nor last of its batch.
    pub const CONT: Flags = Flags(2);
    /// Last frame of its batch.
    pub const LAST: Flags = Flags(4);
    /// A reader that doesn't know the kind or version must stop rather than skip it.
    pub const CRITICAL: Flags = Flags(8);
    pub const COMPRESSED: Flags = Flags(16);
    pub const REFERENCES_BODY: Flags = Flags(32);

    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Header and payload, without padding.
    pub len: u32,
    pub crc: u32,
    /// `crc` of the frame before: equal at the same address on two replicas means equal history.
    pub prev_crc: u32,
    pub epoch: u32,
    pub lsn: Lsn,
    pub time: u64,
    pub kind: Kind,
    pub version: u8,
    pub flags: Flags,
    pub shard: u32,
}

/// A frame as it was read: the payload shares the memory it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header: FrameHeader,
    pub payload: Bytes,
}

/// Bytes that a frame of `len` takes in the log: frames begin at multiples of 8.
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// CRC32C, as the CPU computes it.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize() as u32
}

/// Appends a frame to `out`, padded, and answers its CRC. `header.len` and `header.crc` are computed.
pub fn encode(out: &mut Vec<u8>, header: FrameHeader, payload: &[&[u8]]) -> u32 {
    let len = HEADER + payload.iter().map(|part| part.len()).sum::<usize>();
    assert!(len <= FRAME_MAX, "a frame of {len} bytes is too long");
    let start = out.len();
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.prev_crc.to_le_bytes());
    out.extend_from_slice(&header.epoch.to_le_bytes());
    out.extend_from_slice(&header.lsn.0.to_le_bytes());
    out.extend_from_slice(&header.time.to_le_bytes());
    out.push(header.kind as u8);
    out.push(header.version);
    out.extend_from_slice(&header.flags.0.to_le_bytes());
    out.extend_from_slice(&header.shard.to_le_bytes());
    payload.iter().for_each(|part| out.extend_from_slice(part));
    let crc = crc32c(&[&out[start..start + 4], &out[start + 8..]]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + padded(len), 0);
    crc
}

/// The length that the first bytes of a frame claim, if a frame can have it.
pub fn claimed_len(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (HEADER..=FRAME_MAX).contains(&len).then_some(len)
}

/// Reads the frame at the front of `bytes`, if its checksum is right and it says that it belongs to `lsn` of `shard`.
pub fn decode(bytes: &Bytes, lsn: Lsn, shard: u32) -> Option<Frame> {
    let len = claimed_len(bytes)?;
    let frame = bytes.get(..len)?;
    let u32_at = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let header = FrameHeader {
        len: len as u32,
        crc: u32_at(4),
        prev_crc: u32_at(8),
        epoch: u32_at(12),
        lsn: Lsn(u64_at(16)),
        time: u64_at(24),
        kind: Kind::from_number(frame[32])?,
        version: frame[33],
        flags: Flags(u16::from_le_bytes([frame[34], frame[35]])),
        shard: u32_at(36),
    };
    let right = header.lsn == lsn && header.shard == shard && crc32c(&[&frame[..4], &frame[8..]]) == header.crc;
    right.then(|| Frame { header, payload: bytes.slice(HEADER..len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> (Vec<u8>, FrameHeader) {
        let header = FrameHeader {
            len: 0, crc: 0, prev_crc: 7, epoch: 3, lsn: Lsn(4096), time: 1_700_000_000_000, kind: Kind::Message, version: VERSION, flags: Flags::LAST, shard: 9,
        };
        let mut bytes = Vec::new();
        encode(&mut bytes, header, &[b"hello ", b"world"]);
        (bytes, header)
    }

    #[test]
    fn a_frame_comes_back_and_only_at_its_place() {
        let (bytes, header) = frame();
        let bytes = Bytes::from(bytes);
        assert_eq!(bytes.len() % 8, 0);
        let read = decode(&bytes, Lsn(4096), 9).expect("a good frame");
        assert_eq!(read.payload, &b"hello world"[..]);
        assert_eq!(FrameHeader { len: 0, crc: 0, ..read.header }, header);
        assert!(decode(&bytes, Lsn(4104), 9).is_none());
        assert!(decode(&bytes, Lsn(4096), 8).is_none());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (bytes, header) = frame();
        for bit in 0..(HEADER + 11) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(damaged), header.lsn, header.shard).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for number in 1..=24 {
            assert_eq!(Kind::from_number(number).map(|kind| kind as u8), Some(number));
        }
        assert_eq!((Kind::from_number(0), Kind::from_number(25)), (None, None));
    }
}
