//! Frames: how a piece of JSON stands in a file so that damage is seen.
//!
//! ```text
//!  0        4         8         12
//! ┌────────┬─────────┬─────────┬──────────────────┐
//! │ FF GJ1 │ length  │ CRC32C  │ payload (JSON) … │   numbers are little endian; the checksum covers length and payload
//! └────────┴─────────┴─────────┴──────────────────┘
//! ```
//! JSON is UTF-8 and UTF-8 has no byte `FF`, so the mark is never found inside a payload: whatever looks like a frame is one.

use crc_fast::{CrcAlgorithm, Digest};
use gantry_platform::disk::DiskFile;
use std::io;

const MARK: [u8; 4] = *b"\xFFGJ1";
const HEADER: usize = 12;
/// Largest payload. A batch of events has some 100 KiB, a part of a snapshot up to some 10 MiB.
const PAYLOAD_MAX: usize = 256 * 1024 * 1024;

/// Adds a frame to `out`.
pub fn encode(payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= PAYLOAD_MAX, "payloads are bounded by what is put into them");
    let length = (payload.len() as u32).to_le_bytes();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&length);
    out.extend_from_slice(&checksum(length, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&length);
    digest.update(payload);
    digest.finalize() as u32
}

/// The payload of the frame that begins at `at`, if a whole and sound one does.
pub fn at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let (header, rest) = bytes.get(at..)?.split_first_chunk()?;
    let header = Header::read(header)?;
    let payload = rest.get(..header.length)?;
    header.fits(payload).then_some(payload)
}

/// Bytes that a frame with this payload takes.
pub fn size(payload: &[u8]) -> usize {
    HEADER + payload.len()
}

/// Where the first sound frame after `from` begins.
pub fn next_after(bytes: &[u8], from: usize) -> Option<usize> {
    (from + 1..bytes.len()).find(|&start| bytes[start..].starts_with(&MARK) && at(bytes, start).is_some())
}

struct Header {
    length: usize,
    checksum: u32,
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Option<Header> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let length = number(4) as usize;
        (bytes.starts_with(&MARK) && length <= PAYLOAD_MAX).then_some(Header { length, checksum: number(8) })
    }

    fn fits(&self, payload: &[u8]) -> bool {
        checksum((self.length as u32).to_le_bytes(), payload) == self.checksum
    }
}

/// Frames of a file one after the other, each read when it is asked for.
#[derive(Debug)]
pub struct Frames<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    at: u64,
}

/// Why the next frame of a file can't be given.
#[derive(Debug)]
pub enum FrameError {
    Io(io::Error),
    Damaged { at: u64 },
}

impl<'a> Frames<'a> {
    pub fn new(file: &'a dyn DiskFile) -> io::Result<Frames<'a>> {
        Ok(Frames { file, len: file.len()?, at: 0 })
    }

    /// Where the next frame begins.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The payload of the next frame; `None` at the end of the file.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        if self.at == self.len {
            return Ok(None);
        }
        let damaged = FrameError::Damaged { at: self.at };
        let mut header = [0; HEADER];
        let read = self.file.read_at(self.at, &mut header).map_err(FrameError::Io)?;
        let Some(header) = Header::read(&header).filter(|header| read == HEADER && header.length as u64 <= self.len - self.at) else {
            return Err(damaged);
        };
        let mut payload = vec![0; header.length];
        let read = self.file.read_at(self.at + HEADER as u64, &mut payload).map_err(FrameError::Io)?;
        if read < payload.len() || !header.fits(&payload) {
            return Err(damaged);
        }
        self.at += size(&payload) as u64;
        Ok(Some(payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(b"{\"a\":1}", &mut bytes);
        encode(b"[]", &mut bytes);
        bytes
    }

    #[test]
    fn frames_are_found_one_after_the_other() {
        let bytes = two();
        assert_eq!(at(&bytes, 0), Some(&b"{\"a\":1}"[..]));
        assert_eq!(at(&bytes, size(b"{\"a\":1}")), Some(&b"[]"[..]));
        assert_eq!(next_after(&bytes, 0), Some(19));
        assert_eq!(next_after(&bytes, 19), None);
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_seen() {
        let bytes = two();
        for bit in 0..19 * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(at(&changed, 0), None, "bit {bit}");
            assert_eq!(next_after(&changed, 0), Some(19), "bit {bit}");
        }
        for len in 0..19 {
            assert_eq!(at(&bytes[..len], 0), None, "cut to {len}");
        }
    }

    #[test]
    fn the_stored_form_is_forever() {
        let mut bytes = Vec::new();
        encode(b"{}", &mut bytes);
        assert_eq!(bytes, b"\xFFGJ1\x02\0\0\0\x31\x7B\xBC\x54{}", "{bytes:02X?}");
    }
}
