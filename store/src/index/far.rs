//! Numbers near a base in 32 bits, and the table for the few that are not.
//!
//! Positions, times and offsets of one segment lie close together, so 31 bits above a base hold nearly all of them. One that doesn't fit
//! (a body in an older segment, an idle shard whose segment lasts for months) goes into the table, and the packed number becomes its
//! place there with the top bit set. No insert can fail for being out of range.

const IS_FAR: u32 = 1 << 31;

/// Number of low bits that are zero in every frame position: frames are 8-byte aligned.
pub(super) const POSITION_SHIFT: u32 = 3;
pub(super) const NO_SHIFT: u32 = 0;

/// What a packed number is relative to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    pub value: u64,
    pub shift: u32,
}

impl Base {
    /// The value of a packed number that is not far.
    pub fn at(self, packed: u32) -> u64 {
        self.value.wrapping_add(u64::from(packed) << self.shift)
    }

    fn near(self, value: u64) -> Option<u32> {
        let distance = value.checked_sub(self.value)?;
        let units = distance >> self.shift;
        (units << self.shift == distance && units < u64::from(IS_FAR)).then_some(units as u32)
    }
}

#[derive(Debug, Default)]
pub(super) struct Far(Vec<u64>);

impl Far {
    pub fn pack(&mut self, base: Base, value: u64) -> u32 {
        if let Some(near) = base.near(value) {
            return near;
        }
        let place = self.0.len() as u32;
        assert!(place < IS_FAR, "a segment ends long before two thousand million far numbers");
        self.0.push(value);
        IS_FAR | place
    }

    pub fn unpack(&self, base: Base, packed: u32) -> u64 {
        match far_place(packed) {
            Some(place) => self.0[place],
            None => base.at(packed),
        }
    }

    pub fn values(&self) -> &[u64] {
        &self.0
    }

    pub fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }
}

/// Where a packed number lies in the table, or `None` for one that is near its base.
pub(super) fn far_place(packed: u32) -> Option<usize> {
    (packed & IS_FAR != 0).then_some((packed & !IS_FAR) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn near_and_far_numbers_come_back(base: u64, near in 0u64..1 << 36, far: u64) {
            let mut table = Far::default();
            for shift in [NO_SHIFT, POSITION_SHIFT] {
                let base = Base { value: base, shift };
                for value in [base.value.wrapping_add(near), base.value, far, u64::MAX, 0] {
                    let packed = table.pack(base, value);
                    prop_assert_eq!(table.unpack(base, packed), value);
                }
            }
        }
    }

    #[test]
    fn the_frames_of_one_segment_are_near() {
        let mut table = Far::default();
        let base = Base { value: 1 << 40, shift: POSITION_SHIFT };
        table.pack(base, (1 << 40) + (4 << 30) - 8);
        assert!(table.values().is_empty());
    }
}
