//! The few shapes that the broker's payloads and checkpoints are made of: little-endian numbers, LEB128 varints, texts, ascending lists.

/// Writes to the end of a buffer.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn varints<const N: usize>(&mut self, values: [u64; N]) {
        values.into_iter().for_each(|value| self.varint(value));
    }

    pub fn text(&mut self, text: &str) {
        self.varint(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A count, then each value as its distance from the one before.
    pub fn ascending(&mut self, values: impl ExactSizeIterator<Item = u64>) {
        self.varint(values.len() as u64);
        let mut before = 0;
        for value in values {
            assert!(value >= before, "values ascend");
            self.varint(value - before);
            before = value;
        }
    }
}

/// Reads from the front; `None` when the bytes are not what was asked for. Never allocates by a claimed length.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*head))
    }

    pub fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*head))
    }

    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub fn varint32(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    pub fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(head).ok()
    }

    pub fn ascending(&mut self) -> Option<Vec<u64>> {
        let count = self.varint()?;
        // Each value takes at least a byte, so a count beyond the input is a lie.
        let mut values = Vec::with_capacity(usize::try_from(count).ok()?.min(self.0.len()));
        let mut before = 0u64;
        for _ in 0..count {
            before = before.checked_add(self.varint()?)?;
            values.push(before);
        }
        Some(values)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
