//! Numbers of a filter expression: a literal, or the text of a property read as one.
//!
//! A number is a 64-bit integer or a double, and the two compare by their exact values, so nothing is lost beyond 2^53. The text of a
//! property is a number when it is written like a literal: digits, with an optional sign, fraction and exponent, in ASCII. Leading zeros
//! and blanks around it do no harm. An integer that doesn't fit 64 bits becomes a double. `NaN`, `Infinity`, hexadecimal digits and Java's
//! suffixes (`5L`, `5f`) are not numbers.

use std::cmp::Ordering;

/// 2^63: the first double above every 64-bit integer.
const ABOVE_INTEGERS: f64 = 9_223_372_036_854_775_808.0;

#[derive(Clone, Copy, Debug)]
pub enum Number {
    Integer(i64),
    /// Never NaN; infinite when a text is larger than any double.
    Float(f64),
}

impl Number {
    /// The number that a text says, if it says one.
    pub fn of_text(text: &str) -> Option<Number> {
        let text = text.trim_matches(|c: char| c <= ' ');
        if let Ok(integer) = text.parse() {
            return Some(Number::Integer(integer));
        }
        // Rust's doubles have words for what is not a number; the letters keep them out.
        let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
        if plain { text.parse().ok().map(Number::Float) } else { None }
    }

    /// The number with the other sign; `None` when it doesn't fit.
    pub fn negated(self) -> Option<Number> {
        match self {
            Number::Integer(integer) => integer.checked_neg().map(Number::Integer),
            Number::Float(float) => Some(Number::Float(-float)),
        }
    }

    pub fn compare(self, other: Number) -> Ordering {
        match (self, other) {
            (Number::Integer(left), Number::Integer(right)) => left.cmp(&right),
            (Number::Integer(left), Number::Float(right)) => integer_with_float(left, right),
            (Number::Float(left), Number::Integer(right)) => integer_with_float(right, left).reverse(),
            (Number::Float(left), Number::Float(right)) => left.partial_cmp(&right).expect("no number is NaN"),
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.compare(*other).is_eq()
    }
}

fn integer_with_float(integer: i64, float: f64) -> Ordering {
    if float >= ABOVE_INTEGERS {
        return Ordering::Less;
    }
    if float < -ABOVE_INTEGERS {
        return Ordering::Greater;
    }
    // In this range the whole part of a double is a 64-bit integer, exactly.
    let whole = float.trunc();
    let by_fraction = || 0.0.partial_cmp(&(float - whole)).expect("no number is NaN");
    integer.cmp(&(whole as i64)).then_with(by_fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compare(left: &str, right: &str) -> Option<Ordering> {
        Some(Number::of_text(left)?.compare(Number::of_text(right)?))
    }

    #[test]
    fn texts_that_look_like_literals_are_numbers() {
        for (text, same) in [
            ("5", "5.0"),
            ("+5", "5"),
            ("007", "7"),
            (" 5\t", "5"),
            ("5.", "5"),
            (".5", "0.5"),
            ("5e3", "5000"),
            ("5E+3", "5000"),
            ("-5e-1", "-0.5"),
            ("-0.0", "0"),
            ("1e400", "1e500"),
            ("1e-400", "0"),
            ("9223372036854775808", "9223372036854775808.0"),
        ] {
            assert_eq!(compare(text, same), Some(Ordering::Equal), "`{text}` and `{same}`");
        }
    }

    #[test]
    fn other_texts_are_not_numbers() {
        for text in ["", " ", "+", "-", ".", "e5", "5e", "--5", "+-5", "1_000", "1,5", "5 6", "0x10", "0x1p3", "5L", "5f", "5d", "\u{663}", "\u{a0}5"]
            .into_iter()
            .chain(["nan", "NaN", "-NaN", "inf", "Infinity", "+infinity", "abc", "5a", "1e5e5", "1.2.3"])
        {
            assert!(Number::of_text(text).is_none(), "`{text}` was read as {:?}", Number::of_text(text));
        }
    }

    #[test]
    fn integers_and_doubles_compare_exactly_beyond_two_to_the_53rd() {
        for (left, right, expected) in [
            ("9007199254740993", "9007199254740992.0", Ordering::Greater),
            ("-9007199254740993", "-9007199254740992.0", Ordering::Less),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("9223372036854775807", "9223372036854775808", Ordering::Less),
            ("9223372036854775807", "9223372036854775807.0", Ordering::Less),
            ("-9223372036854775808", "-9223372036854775808.0", Ordering::Equal),
            ("-9223372036854775808", "-1e19", Ordering::Greater),
            ("5", "5.000001", Ordering::Less),
            ("-5", "-5.000001", Ordering::Greater),
            ("0", "1e-320", Ordering::Less),
            ("5", "1e400", Ordering::Less),
            ("5", "-1e400", Ordering::Greater),
        ] {
            assert_eq!(compare(left, right), Some(expected), "`{left}` with `{right}`");
            assert_eq!(compare(right, left), Some(expected.reverse()), "`{right}` with `{left}`");
        }
    }

    #[test]
    fn the_smallest_integer_has_no_positive_twin() {
        assert!(Number::Integer(i64::MIN).negated().is_none());
        assert!(matches!(Number::Integer(i64::MAX).negated(), Some(Number::Integer(least)) if least == -i64::MAX));
    }

    proptest! {
        /// Half of the doubles lie next to the integer, where rounding would hurt.
        #[test]
        fn an_integer_and_a_double_compare_as_their_exact_values(integer: i64, far: f64, steps in -3i64..=3, near: bool) {
            let float = if near { f64::from_bits((integer as f64).to_bits().wrapping_add_signed(steps)) } else { far };
            prop_assume!(!float.is_nan());
            let expected = if float.abs() >= 1e30 {
                0.0.partial_cmp(&float).expect("not NaN")
            } else {
                // Both times 2^24, which is exact; what the double has below that only breaks ties.
                let scaled = float * 16_777_216.0;
                let left = i128::from(integer) << 24;
                left.cmp(&(scaled.floor() as i128)).then(if scaled.fract() == 0.0 { Ordering::Equal } else { Ordering::Less })
            };
            prop_assert_eq!(Number::Integer(integer).compare(Number::Float(float)), expected);
        }
    }
}
