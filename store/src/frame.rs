//! The frame: how one record stands in the log. 40 bytes of header, the payload, zeros up to the next multiple of eight.
//!
//! A frame proves itself: its checksum covers all of it, length first; it carries its own address, so a stale or misplaced block is no
//! frame; and it carries the checksum of the frame before it, so two replicas that agree on one frame agree on everything before it.
//! The bytes are drawn in `docs/design/001-file-format.md`.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use gantry_model::{Epoch, Lsn, ShardId};
use std::fmt;

/// Bytes of a frame before its payload.
pub const HEADER: usize = 40;
/// Frames begin at multiples of this.
pub const ALIGN: usize = 8;
/// The version of payloads that this program writes, and the newest it reads.
pub const VERSION: u8 = 1;
/// The longest frame: a body of 4 MiB and its properties, with room to spare. A length above this is damage, not a frame.
pub const FRAME_MAX: usize = 6 * 1024 * 1024;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A leader begins. The payload begins with its epoch as u32.
    EpochStart = 1,
    /// The last frame of a segment; written by the log itself.
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
    /// A group begins on a queue.
    Cursor = 24,
    /// A topic or group was deleted; what the shard holds of it goes.
    Forget = 25,
    /// Stands where a damaged range was set aside; written by the log itself.
    Gap = 26,
    /// A member of a broadcasting group reads for itself.
    Member = 27,
    /// Delayed messages that were overdue when a leader began are released beside those that fall due now, or all of them were.
    CatchUp = 28,
    /// A message that is stored and not visible yet lies at a newer place.
    Repark = 29,
    /// A group is finished with messages that were skipped by hand.
    Skip = 30,
    /// A dead letter is sent again.
    Redrive = 31,
    /// Dead letters are removed.
    Purge = 32,
    /// Clients subscribe lite topics, or no longer do.
    LiteSync = 33,
    /// Written by a later version, and marked as safe to skip. Never written.
    Unknown = 255,
}

/// Every kind that is written, by number.
const KINDS: [Kind; 33] = {
    use Kind::*;
    [
        EpochStart,
        End,
        Message,
        Half,
        TxnEnd,
        CheckSent,
        Delayed,
        Release,
        Recall,
        Lease,
        Ack,
        SetVisible,
        Expire,
        Dead,
        Seek,
        OffsetCommit,
        LiteCreate,
        LiteDrop,
        QueueSeal,
        Trim,
        TierDone,
        StateDigest,
        Noop,
        Cursor,
        Forget,
        Gap,
        Member,
        CatchUp,
        Repark,
        Skip,
        Redrive,
        Purge,
        LiteSync,
    ]
};

impl Kind {
    /// The kind with that number.
    pub fn from_number(number: u8) -> Option<Kind> {
        KINDS.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Whether it brings a message to a queue without taking one from another. Such frames are refused first when the disk fills up; all others
    /// help to empty it.
    pub fn is_data(self) -> bool {
        matches!(self, Kind::Message | Kind::Half | Kind::Delayed | Kind::Release)
    }

    /// Whether a reader that does not know it must stop, because the state would come out wrong without it.
    pub fn is_critical(self) -> bool {
        !matches!(self, Kind::Noop | Kind::StateDigest | Kind::Gap)
    }
}

/// What holds for a frame besides its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// Begins a batch, which is recovered whole or not at all. A batch of one frame needs no flags.
    pub const FIRST: Flags = Flags(1);
    /// Neither first nor last of a batch.
    pub const CONT: Flags = Flags(2);
    /// Ends a batch.
    pub const LAST: Flags = Flags(4);
    /// A reader that does not know the kind or its version must stop here. The log sets it by [`Kind::is_critical`].
    pub const CRITICAL: Flags = Flags(8);
    pub const COMPRESSED: Flags = Flags(16);
    /// The body is in another frame.
    pub const REFERENCES_BODY: Flags = Flags(32);

    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// The first 40 bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Header and payload, without the zeros behind.
    pub len: u32,
    /// CRC32C of `len` and of everything from `prev_crc` on.
    pub crc: u32,
    /// `crc` of the frame before.
    pub prev_crc: u32,
    /// The epoch in which it was first appended; never decreases along the log.
    pub epoch: Epoch,
    pub lsn: Lsn,
    /// Store time in ms by the shard's clock; never decreases along the log.
    pub time: u64,
    pub kind: Kind,
    pub version: u8,
    pub flags: Flags,
    pub shard: ShardId,
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header: FrameHeader,
    pub payload: Bytes,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Nothing was written there, or it was zeroed.
    Blank,
    /// Shorter than a header, or longer than a frame or its segment may be.
    Length(u32),
    /// It carries another address.
    Address(Lsn),
    /// It belongs to another shard.
    Shard(ShardId),
    Checksum,
    /// It does not follow the frame before it: another history.
    Chain,
    /// Its epoch or time is before that of the frame before it.
    Order,
    /// It breaks the order of first, middle and last frame of a batch.
    Batch,
    /// The `End` frame counts other frames than there are.
    Count,
    /// A later version wrote it, and it must not be skipped.
    Newer {
        kind: u8,
        version: u8,
    },
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invalid::Blank => f.write_str("nothing is written there"),
            Invalid::Length(len) => write!(f, "the length `{len}` is impossible"),
            Invalid::Address(lsn) => write!(f, "it carries the address `{lsn}`"),
            Invalid::Shard(shard) => write!(f, "it belongs to shard `{shard}`"),
            Invalid::Checksum => f.write_str("the checksum does not match"),
            Invalid::Chain => f.write_str("it does not follow the frame before it"),
            Invalid::Order => f.write_str("its epoch or time is before that of the frame before it"),
            Invalid::Batch => f.write_str("it breaks a batch"),
            Invalid::Count => f.write_str("the segment's end counts other frames than there are"),
            Invalid::Newer { kind, version } => write!(f, "kind `{kind}` in version `{version}` is newer than this program"),
        }
    }
}

impl std::error::Error for Invalid {}

/// The length of a frame with this payload, as the header and the index say it.
pub fn len_of(payload: &[&[u8]]) -> usize {
    HEADER + payload.iter().map(|part| part.len()).sum::<usize>()
}

/// The room a frame of this length takes in the log.
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// CRC32C over several parts as if they were one.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize() as u32
}

/// The checksum of a whole frame, without the zeros behind.
pub(crate) fn checksum(frame: &[u8]) -> u32 {
    crc32c(&[&frame[..4], &frame[8..]])
}

/// Appends a frame to `out`, and returns its checksum. `len` and `crc` of the header are worked out here.
pub(crate) fn encode(out: &mut Vec<u8>, header: &FrameHeader, payload: &[&[u8]]) -> u32 {
    let start = out.len();
    let len = len_of(payload);
    assert!(len <= FRAME_MAX && out.len().is_multiple_of(ALIGN), "the log checks lengths before it encodes");
    out.reserve(padded(len));
    let mut head = [0; HEADER];
    head[0..4].copy_from_slice(&(len as u32).to_le_bytes());
    head[8..12].copy_from_slice(&header.prev_crc.to_le_bytes());
    head[12..16].copy_from_slice(&header.epoch.0.to_le_bytes());
    head[16..24].copy_from_slice(&header.lsn.0.to_le_bytes());
    head[24..32].copy_from_slice(&header.time.to_le_bytes());
    head[32] = header.kind as u8;
    head[33] = header.version;
    head[34..36].copy_from_slice(&header.flags.0.to_le_bytes());
    head[36..40].copy_from_slice(&header.shard.0.to_le_bytes());
    out.extend_from_slice(&head);
    payload.iter().for_each(|part| out.extend_from_slice(part));
    let crc = checksum(&out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + padded(len), 0);
    crc
}

/// Chooses the low half of a frame's time so that its checksum becomes `wanted`. A CRC is linear: each of the 32 bits changes it by a
/// pattern of its own, and the patterns of four neighbouring bytes are independent, so there is exactly one choice.
pub(crate) fn force_checksum(frame: &mut [u8], wanted: u32) {
    const AT: usize = 24;
    let len = u32_at(frame, 0) as usize;
    frame[AT..AT + 4].fill(0);
    let zero = checksum(&frame[..len]);
    let mut patterns: Vec<(u32, u32)> = (0..32)
        .map(|bit| {
            frame[AT..AT + 4].copy_from_slice(&(1u32 << bit).to_le_bytes());
            (checksum(&frame[..len]) ^ zero, 1 << bit)
        })
        .collect();
    // Gaussian elimination: afterwards each pattern alone decides its highest bit.
    let (mut missing, mut choice) = (wanted ^ zero, 0);
    while let Some(&(pivot, bits)) = patterns.iter().max_by_key(|(pattern, _)| *pattern).filter(|(pattern, _)| *pattern != 0) {
        let highest = 1 << (31 - pivot.leading_zeros());
        if missing & highest != 0 {
            (missing, choice) = (missing ^ pivot, choice ^ bits);
        }
        for (pattern, chosen) in patterns.iter_mut().filter(|(pattern, _)| pattern & highest != 0) {
            (*pattern, *chosen) = (*pattern ^ pivot, *chosen ^ bits);
        }
    }
    assert_eq!(missing, 0, "32 independent patterns give every checksum");
    frame[AT..AT + 4].copy_from_slice(&choice.to_le_bytes());
    frame[4..8].copy_from_slice(&wanted.to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What the header says besides.
pub(crate) fn flags_of(header: &[u8; HEADER]) -> Flags {
    Flags(u16::from_le_bytes([header[34], header[35]]))
}

/// The length that a frame at `lsn` claims by the first bytes of its header, after the cheap checks: what to read before [`decode`].
pub(crate) fn claimed_len(header: &[u8; HEADER], lsn: Lsn, shard: ShardId) -> Result<usize, Invalid> {
    let len = u32_at(header, 0);
    if len == 0 {
        return Err(Invalid::Blank);
    }
    if !(HEADER..=FRAME_MAX).contains(&(len as usize)) {
        return Err(Invalid::Length(len));
    }
    if u64_at(header, 16) != lsn.0 {
        return Err(Invalid::Address(Lsn(u64_at(header, 16))));
    }
    if u32_at(header, 36) != shard.0 {
        return Err(Invalid::Shard(ShardId(u32_at(header, 36))));
    }
    Ok(len as usize)
}

/// Reads the header of the frame that begins `bytes`, after checking the whole frame. The bytes may go on behind it.
pub(crate) fn check(bytes: &[u8], lsn: Lsn, shard: ShardId) -> Result<FrameHeader, Invalid> {
    let head: &[u8; HEADER] = bytes.first_chunk().ok_or(Invalid::Length(bytes.len() as u32))?;
    let len = claimed_len(head, lsn, shard)?;
    let whole = bytes.get(..len).ok_or(Invalid::Length(len as u32))?;
    let crc = u32_at(head, 4);
    if checksum(whole) != crc {
        return Err(Invalid::Checksum);
    }
    let header = claims(head);
    if header.kind == Kind::Unknown && header.flags.contains(Flags::CRITICAL) {
        return Err(Invalid::Newer { kind: head[32], version: header.version });
    }
    Ok(header)
}

/// What a header says, unchecked.
pub(crate) fn claims(head: &[u8; HEADER]) -> FrameHeader {
    let version = head[33];
    FrameHeader {
        len: u32_at(head, 0),
        crc: u32_at(head, 4),
        prev_crc: u32_at(head, 8),
        epoch: Epoch(u32_at(head, 12)),
        lsn: Lsn(u64_at(head, 16)),
        time: u64_at(head, 24),
        kind: Kind::from_number(head[32]).filter(|_| version <= VERSION).unwrap_or(Kind::Unknown),
        version,
        flags: flags_of(head),
        shard: ShardId(u32_at(head, 36)),
    }
}

/// Reads the frame that begins `bytes`; its payload is a slice of them.
pub(crate) fn decode(bytes: &Bytes, lsn: Lsn, shard: ShardId) -> Result<Frame, Invalid> {
    let header = check(bytes, lsn, shard)?;
    Ok(Frame { header, payload: bytes.slice(HEADER..header.len as usize) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn header(kind: Kind, flags: Flags) -> FrameHeader {
        FrameHeader {
            len: 0,
            crc: 0,
            prev_crc: 0x1234_5678,
            epoch: Epoch(3),
            lsn: Lsn(64),
            time: 1_700_000_000_000,
            kind,
            version: VERSION,
            flags,
            shard: ShardId(7),
        }
    }

    fn encoded(kind: Kind, flags: Flags, payload: &[&[u8]]) -> Bytes {
        let mut out = Vec::new();
        encode(&mut out, &header(kind, flags), payload);
        Bytes::from(out)
    }

    #[test]
    fn every_kind_has_its_number_for_ever() {
        for (at, kind) in KINDS.into_iter().enumerate() {
            assert_eq!((kind as usize, Kind::from_number(at as u8 + 1)), (at + 1, Some(kind)));
        }
        let after = KINDS.len() as u8 + 1;
        assert_eq!((Kind::from_number(0), Kind::from_number(after), Kind::from_number(255)), (None, None, None));
    }

    #[test]
    fn a_frame_comes_back_with_its_payload() {
        let bytes = encoded(Kind::Lease, Flags::CRITICAL, &[b"hel", b"lo"]);
        assert_eq!(bytes.len(), 48, "45 bytes and three zeros");
        let frame = decode(&bytes, Lsn(64), ShardId(7)).unwrap();
        assert_eq!(frame.payload, "hello");
        assert_eq!(FrameHeader { len: 45, crc: frame.header.crc, ..header(Kind::Lease, Flags::CRITICAL) }, frame.header);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encoded(Kind::Message, Flags::default(), &[b"payload"]);
        for bit in 0..len_of(&[b"payload"]) * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(bad), Lsn(64), ShardId(7)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_kind_stops_only_if_it_is_critical() {
        let recode = |flags: Flags, kind: u8, version: u8| {
            let mut bytes = encoded(Kind::Noop, flags, &[]).to_vec();
            (bytes[32], bytes[33]) = (kind, version);
            let crc = checksum(&bytes);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            decode(&Bytes::from(bytes), Lsn(64), ShardId(7)).map(|frame| frame.header.kind)
        };
        assert_eq!(recode(Flags::default(), 200, 1), Ok(Kind::Unknown));
        assert_eq!(recode(Flags::default(), Kind::Ack as u8, 2), Ok(Kind::Unknown));
        assert_eq!(recode(Flags::CRITICAL, 200, 1), Err(Invalid::Newer { kind: 200, version: 1 }));
        assert_eq!(recode(Flags::CRITICAL, Kind::Ack as u8, 2), Err(Invalid::Newer { kind: Kind::Ack as u8, version: 2 }));
    }

    #[test]
    fn any_checksum_can_be_had() {
        for (payload, wanted) in [(0, 0), (0, u32::MAX), (5, 1), (8192, 0xdead_beef)] {
            let mut bytes = encoded(Kind::Gap, Flags::default(), &[&vec![7; payload]]).to_vec();
            force_checksum(&mut bytes, wanted);
            assert_eq!(decode(&Bytes::from(bytes), Lsn(64), ShardId(7)).unwrap().header.crc, wanted);
        }
    }

    #[test]
    fn a_copy_from_elsewhere_is_named() {
        let bytes = encoded(Kind::Ack, Flags::default(), &[b"x"]);
        assert_eq!(decode(&bytes, Lsn(72), ShardId(7)), Err(Invalid::Address(Lsn(64))));
        assert_eq!(decode(&bytes, Lsn(64), ShardId(8)), Err(Invalid::Shard(ShardId(7))));
        assert_eq!(decode(&Bytes::from(vec![0; 64]), Lsn(64), ShardId(7)), Err(Invalid::Blank));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), len: u8) {
            let mut bytes = bytes;
            if bytes.len() >= HEADER {
                bytes[..4].copy_from_slice(&u32::from(len).to_le_bytes());
                bytes[16..24].copy_from_slice(&64u64.to_le_bytes());
                bytes[36..40].copy_from_slice(&7u32.to_le_bytes());
            }
            prop_assert!(decode(&Bytes::from(bytes), Lsn(64), ShardId(7)).is_err());
        }
    }
}
