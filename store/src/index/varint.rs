//! Variable-length integers, seven bits a byte, low bits first, and the reader that never runs past its end.

use super::Damage;

pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small differences in either direction become small numbers: 0, -1, 1, -2, 2 are stored as 0, 1, 2, 3, 4.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub fn byte(&mut self) -> Result<u8, Damage> {
        let (&first, rest) = self.0.split_first().ok_or(Damage::Content("a block ends early"))?;
        self.0 = rest;
        Ok(first)
    }

    pub fn fixed_u32(&mut self) -> Result<u32, Damage> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Damage::Content("a block ends early"))?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*first))
    }

    pub fn unsigned(&mut self) -> Result<u64, Damage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damage::Content("a number has more than ten bytes"))
    }

    pub fn signed(&mut self) -> Result<i64, Damage> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(a: u64, b: i64, c: u64) {
            let mut bytes = Vec::new();
            put(&mut bytes, a);
            put_signed(&mut bytes, b);
            put(&mut bytes, c >> 50);
            let mut reader = Reader(&bytes);
            prop_assert_eq!(reader.unsigned().unwrap(), a);
            prop_assert_eq!(reader.signed().unwrap(), b);
            prop_assert_eq!(reader.unsigned().unwrap(), c >> 50);
            prop_assert!(reader.byte().is_err());
        }
    }
}
