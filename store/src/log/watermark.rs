//! How full the disk is, and what follows.

use gantry_platform::disk::Space;

/// What the free space allows, from everything to nearly nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watermark {
    #[default]
    Ok,
    /// 75 % used: what has expired is deleted at once.
    Expire,
    /// 85 %: a cluster moves shards elsewhere.
    Move,
    /// 92 %: no more messages; consumers go on.
    RefuseSends,
    /// 97 %: only what is needed to make room.
    ControlOnly,
}

/// The watermark that this much space is at.
pub fn watermark(space: Space) -> Watermark {
    let used = u128::from(space.total.saturating_sub(space.free)) * 100;
    let at_least = |percent: u64| space.total > 0 && used >= u128::from(percent) * u128::from(space.total);
    let levels = [(97, Watermark::ControlOnly), (92, Watermark::RefuseSends), (85, Watermark::Move), (75, Watermark::Expire)];
    levels.into_iter().find(|&(percent, _)| at_least(percent)).map_or(Watermark::Ok, |(_, level)| level)
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
}
