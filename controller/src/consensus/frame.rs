//! Frames: how a piece of JSON stands in a file so that damage is seen.
//!
//! ```text
//!  0        4         8         12
//! ┌────────┬─────────┬─────────┬──────────────────┐
//! │ FF GJ1 │ length  │ CRC32C  │ payload (JSON) … │   numbers are little endian; the checksum covers length and payload
//! └────────┴─────────┴─────────┴──────────────────┘
//! ```
//! A file is read from its first byte to its last, and anything that is not a whole and sound frame is damage.

use crc_fast::{CrcAlgorithm, Digest};
use gantry_platform::disk::DiskFile;
use std::io;

const MARK: [u8; 4] = *b"\xFFGJ1";
const HEADER: usize = 12;
/// Largest payload. A part of a snapshot has up to some 10 MiB.
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
        self.at += (HEADER + payload.len()) as u64;
        Ok(Some(payload))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_platform::{Disk, MemoryDisk};
    use std::io::IoSlice;
    use std::path::Path;
    use std::sync::Arc;

    fn two() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(b"{\"a\":1}", &mut bytes);
        encode(b"[]", &mut bytes);
        bytes
    }

    fn file(bytes: &[u8]) -> Arc<dyn DiskFile> {
        let file = MemoryDisk::new().create(Path::new("/frames")).unwrap();
        file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
        file
    }

    /// The payloads, and where damage begins if there is any.
    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<u64>) {
        let file = file(bytes);
        let mut frames = Frames::new(file.as_ref()).unwrap();
        let mut payloads = Vec::new();
        loop {
            match frames.next() {
                Ok(Some(payload)) => payloads.push(payload),
                Ok(None) => return (payloads, None),
                Err(FrameError::Damaged { at }) => return (payloads, Some(at)),
                Err(FrameError::Io(error)) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn frames_are_found_one_after_the_other() {
        assert_eq!(read(&two()), (vec![b"{\"a\":1}".to_vec(), b"[]".to_vec()], None));
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_seen() {
        let bytes = two();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let frame = if bit / 8 < 19 { 0 } else { 19 };
            assert_eq!(read(&changed).1, Some(frame), "bit {bit}");
        }
        for len in (1..bytes.len()).filter(|len| *len != 19) {
            assert_eq!(read(&bytes[..len]).1, Some(if len < 19 { 0 } else { 19 }), "cut to {len}");
        }
    }

    #[test]
    fn the_stored_form_is_forever() {
        let mut bytes = Vec::new();
        encode(b"{}", &mut bytes);
        assert_eq!(bytes, b"\xFFGJ1\x02\0\0\0\x31\x7B\xBC\x54{}", "{bytes:02X?}");
    }
}
