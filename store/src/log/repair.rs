//! Going on over a damaged range when the operator says so: its bytes are kept in `bad/`, and `Gap` frames take its place.
//!
//! The frame behind the range names the checksum of the frame that was before it. The last gap is made to have just that checksum, so
//! the chain holds again, the log needs no list of exceptions, and a later start finds it sound.

use super::chain::{Chain, Position};
use super::scan::Window;
use super::segment::{FRAMES, Header, MARKS, Owner, Segment, base_of};
use crate::frame::{self, FRAME_MAX, Flags, FrameHeader, HEADER, Kind, VERSION};
use gantry_model::Lsn;
use gantry_platform::disk::{Disk, DiskFile};
use std::io::{self, IoSlice};
use std::path::Path;

/// Bytes copied at a time.
const STEP: usize = 1024 * 1024;

/// A range to fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub from: Lsn,
    pub to: Lsn,
    /// The checksum that the frame at `to` expects before it.
    pub crc: u32,
    /// What is before the range.
    pub chain: Chain,
}

/// The next place behind damage at `from` where the log goes on, and the checksum expected before it. `bound` is an address that is known to
/// begin a frame, or the end of the segment.
pub(super) fn resume(segment: &Segment, from: Lsn, bound: Lsn) -> io::Result<Option<(Lsn, u32)>> {
    if let Some(found) = by_length(segment, from) {
        return Ok(Some(found));
    }
    let shard = segment.header.owner.shard;
    let mut window = Window::new(segment);
    let mut at = Lsn(from.0 + HEADER as u64);
    while let Some(candidate) = window.next_readable_candidate(at, segment.limit()) {
        let (count, first_crc, reached) = run_from(&mut window, candidate, shard);
        // One frame alone could be bytes of a message that were made to look like one; two that follow each other, or one that ends where
        // the log is known to go on, are taken for the log. So a lone frame between two damaged ones is lost with them.
        if count > 1 || count == 1 && reached >= bound {
            return Ok(Some((candidate, first_crc)));
        }
        at = Lsn(candidate.0 + 8);
    }
    Ok(None)
}

/// When only the payload is damaged, the header still says where the next frame is, and that frame names this one's checksum.
fn by_length(segment: &Segment, from: Lsn) -> Option<(Lsn, u32)> {
    let shard = segment.header.owner.shard;
    let mut window = Window::new(segment);
    let head: [u8; HEADER] = *window.get(from, HEADER).ok()?.first_chunk()?;
    let len = frame::claimed_len(&head, from, shard).ok()?;
    let next = Lsn(from.0 + frame::padded(len) as u64);
    let follower = window.frame(next, shard).ok()?.ok()?;
    let crc = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
    (follower.prev_crc == crc).then_some((next, crc))
}

/// How many sound frames follow each other from `at`, the checksum before the first, and where they end.
fn run_from(window: &mut Window<'_>, at: Lsn, shard: gantry_model::ShardId) -> (usize, u32, Lsn) {
    let Ok(Ok(first)) = window.frame(at, shard) else { return (0, 0, at) };
    let mut position = Position::begin(at, Chain { crc: first.prev_crc, epoch: first.epoch, time: first.time });
    while let Ok(Ok(header)) = window.frame(position.at, shard) {
        if position.admits(&header).is_err() || position.count > 1 {
            break;
        }
        position.pass(&header);
    }
    (position.count as usize, first.prev_crc, position.at)
}

/// Keeps the bytes of a range, and a note of what happened, for the operator. What can't be read is kept as zeros.
pub(super) fn set_aside(disk: &dyn Disk, bad: &Path, segment: &Segment, from: Lsn, to: Lsn, why: &str) -> io::Result<()> {
    disk.create_dir_all(bad)?;
    let name = format!("{:020}-{:020}", from.0, to.0);
    let copy = disk.create(&bad.join(format!("{name}.raw")))?;
    let mut at = from;
    while at < to {
        let mut bytes = vec![0; STEP.min((to.0 - at.0) as usize)];
        if segment.file.read_at(segment.position(at), &mut bytes).is_err() {
            bytes.fill(0);
        }
        copy.write_at(at.0 - from.0, &[IoSlice::new(&bytes)])?;
        at = Lsn(at.0 + bytes.len() as u64);
    }
    copy.sync_data()?;
    let note = disk.create(&bad.join(format!("{name}.txt")))?;
    note.write_at(0, &[IoSlice::new(format!("{why}\nthe bytes are in {name}.raw\n").as_bytes())])?;
    note.sync_data()?;
    disk.sync_dir(bad)
}

/// Writes `Gap` frames over a range. A crash in the middle leaves a range that is still damaged, and is found again.
pub(super) fn fill(segment: &Segment, gap: Gap) -> io::Result<()> {
    let mut chain = gap.chain;
    let mut at = gap.from;
    while at < gap.to {
        let rest = (gap.to.0 - at.0) as usize;
        assert!(rest >= HEADER, "a range ends where a frame begins, so it has room for one");
        let len = if rest <= FRAME_MAX { rest } else { FRAME_MAX - HEADER };
        let header = FrameHeader {
            len: 0,
            crc: 0,
            prev_crc: chain.crc,
            epoch: chain.epoch,
            lsn: at,
            time: 0,
            kind: Kind::Gap,
            version: VERSION,
            flags: Flags::default(),
            shard: segment.header.owner.shard,
        };
        let mut bytes = Vec::new();
        chain.crc = frame::encode(&mut bytes, &header, &[&vec![0; len - HEADER]]);
        if len == rest {
            frame::force_checksum(&mut bytes, gap.crc);
        }
        segment.file.write_at(segment.position(at), &[IoSlice::new(&bytes)])?;
        at = Lsn(at.0 + len as u64);
    }
    segment.file.sync_data()
}

/// A segment of gaps in the place of files that are gone.
pub(super) fn missing(disk: &dyn Disk, dir: &Path, owner: Owner, gap: Gap) -> io::Result<Segment> {
    let size = gap.to.0 - gap.from.0 + FRAMES;
    let spare = dir.join("spare-0000.log");
    if disk.exists(&spare)? {
        disk.remove(&spare)?;
    }
    let file = disk.create_zeroed(&spare, size)?;
    let segment = Segment::begin(disk, &spare, file, dir, Header { owner, base: gap.from, size, generation: 0, before: gap.chain })?;
    fill(&segment, gap)?;
    Ok(segment)
}

/// Makes a damaged header anew from the file's name and length, and from the frame before or the first one.
pub(super) fn header(disk: &dyn Disk, path: &Path, owner: Owner, previous: Option<&Segment>) -> io::Result<()> {
    let lost = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the header is damaged and {what}"));
    let base = base_of(path).ok_or_else(|| lost("the name says no address"))?;
    let file = disk.open(path)?;
    let size = file.len()?;
    if size <= FRAMES {
        return Err(lost("the file is too short"));
    }
    let before = match previous.and_then(|previous| chain_at_end(previous, base)) {
        Some(chain) => chain,
        None => chain_at_start(&file, base, owner).ok_or_else(|| lost("nothing says what was before it"))?,
    };
    Segment::write_header(&*file, Header { owner, base, size, generation: 0, before })
}

/// What the closing frame before `next` says.
fn chain_at_end(previous: &Segment, next: Lsn) -> Option<Chain> {
    let at = Lsn(next.0.checked_sub(super::chain::END_FRAME)?);
    if at < previous.base() || next > previous.limit() {
        return None;
    }
    let end = Window::new(previous).frame(at, previous.header.owner.shard).ok()?.ok()?;
    (end.kind == Kind::End).then_some(Chain { crc: end.crc, epoch: end.epoch, time: end.time })
}

/// What the first frame says about the one before it. Its own epoch and time stand for those of its predecessor.
fn chain_at_start(file: &std::sync::Arc<dyn DiskFile>, base: Lsn, owner: Owner) -> Option<Chain> {
    let mut bytes = vec![0; FRAME_MAX];
    let read = file.read_at(FRAMES, &mut bytes).ok()?;
    let first = frame::check(&bytes[..read], base, owner.shard).ok()?;
    Some(Chain { crc: first.prev_crc, epoch: first.epoch, time: first.time })
}

/// Takes back the promise of durability of a range that was given up.
pub(super) fn forget_marks(segment: &Segment) -> io::Result<()> {
    segment.file.write_at(MARKS, &[IoSlice::new(&vec![0; (FRAMES - MARKS) as usize])])?;
    segment.file.sync_data()
}
