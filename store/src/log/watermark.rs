//! How full the disk is, and what follows.
//!
//! A level is reached when so many percent are used **and** less than so many bytes are free: one percent of a small volume is soon written, but a
//! twelfth of a disk of 252 GB is more than a broker writes in hours (`docs/design/012-disk-watermarks.md`).

use gantry_platform::disk::Space;

/// What the free space allows, from everything to nearly nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watermark {
    #[default]
    Ok,
    /// 75 % used, under 64 GiB free: what has expired is deleted at once.
    Expire,
    /// 85 %, 32 GiB: a cluster moves shards elsewhere.
    Move,
    /// 92 %, 8 GiB: no more messages; consumers go on.
    RefuseSends,
    /// 97 %, 4 GiB: only what is needed to make room.
    ControlOnly,
}

const GIB: u64 = 1 << 30;

/// Each level with the percentage that is used, and the free bytes above which it is not reached whatever the percentage.
const LEVELS: [(u64, u64, Watermark); 4] = [
    (97, 4 * GIB, Watermark::ControlOnly),
    (92, 8 * GIB, Watermark::RefuseSends),
    (85, 32 * GIB, Watermark::Move),
    (75, 64 * GIB, Watermark::Expire),
];

/// The watermark that this much space is at.
pub fn watermark(space: Space) -> Watermark {
    let used = u128::from(space.total.saturating_sub(space.free)) * 100;
    let reached = |percent: u64, enough: u64| space.total > 0 && space.free < enough && used >= u128::from(percent) * u128::from(space.total);
    LEVELS.into_iter().find(|&(percent, enough, _)| reached(percent, enough)).map_or(Watermark::Ok, |(.., level)| level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(used: u64, expected: Watermark) {
        assert_eq!(watermark(Space { total: 1_000_000, free: 1_000_000 - used }), expected, "{used} ppm used");
    }

    #[test]
    fn each_level_begins_at_its_limit_and_not_before() {
        check(0, Watermark::Ok);
        for (percent, below, at) in [
            (75, Watermark::Ok, Watermark::Expire),
            (85, Watermark::Expire, Watermark::Move),
            (92, Watermark::Move, Watermark::RefuseSends),
            (97, Watermark::RefuseSends, Watermark::ControlOnly),
        ] {
            check(percent * 10_000 - 1, below);
            check(percent * 10_000, at);
        }
        assert_eq!(watermark(Space { total: 0, free: 0 }), Watermark::Ok, "a disk that says nothing refuses nothing");
    }

    #[test]
    fn a_large_disk_counts_bytes() {
        let check =
            |free: u64, expected: Watermark| assert_eq!(watermark(Space { total: 10_000 * GIB, free }), expected, "{free} bytes free of 10,000 GiB");
        check(64 * GIB, Watermark::Ok);
        check(64 * GIB - 1, Watermark::Expire);
        check(32 * GIB, Watermark::Expire);
        check(32 * GIB - 1, Watermark::Move);
        check(8 * GIB, Watermark::Move);
        check(8 * GIB - 1, Watermark::RefuseSends);
        check(4 * GIB - 1, Watermark::ControlOnly);
    }
}
