//! The short form, for every build.

#[test]
fn a_thousand_histories_break_no_invariant() {
    let mut total = gantry_histories::history::Outcome::default();
    for seed in 0..1_000 {
        total.add(&gantry_histories::play(seed));
    }
    assert!(
        total.crashes > 500 && total.dead > 100 && total.redelivered > 500 && total.skips > 500,
        "the histories have what they are about: {total}"
    );
}
