//! Patterns of `LIKE`: `%` stands for any text, `_` for one character, and the escape character takes their meaning away.

use super::program::{Budget, EvaluationError};

/// A pattern, character by character.
#[derive(Debug)]
pub struct Pattern(Box<[Glyph]>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Glyph {
    This(char),
    One,
    Any,
}

impl Pattern {
    /// Reads a pattern; `None` if the escape character stands before something that needs no escape.
    pub fn new(text: &str, escape: Option<char>) -> Option<Pattern> {
        let mut glyphs = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            glyphs.push(match c {
                _ if Some(c) == escape => Glyph::This(chars.next().filter(|&next| matches!(next, '%' | '_') || next == c)?),
                '%' => Glyph::Any,
                '_' => Glyph::One,
                _ => Glyph::This(c),
            });
        }
        glyphs.dedup_by(|next, previous| *next == Glyph::Any && *previous == Glyph::Any);
        Some(Pattern(glyphs.into()))
    }

    /// Whether the whole text fits. The part behind the last `%` is tried at each place in turn, and every comparison costs.
    pub fn fits(&self, text: &str, budget: &mut Budget) -> Result<bool, EvaluationError> {
        let (mut text, mut next) = (text.chars(), 0);
        let mut last_any = None;
        loop {
            budget.spend(1)?;
            let Some(&glyph) = self.0.get(next) else {
                if text.as_str().is_empty() {
                    return Ok(true);
                }
                let Some(place) = later(&mut last_any) else { return Ok(false) };
                (text, next) = place;
                continue;
            };
            if glyph == Glyph::Any {
                next += 1;
                if next == self.0.len() {
                    return Ok(true);
                }
                last_any = Some((text.clone(), next));
                continue;
            }
            // A place further on has less text, so what is missing here is missing there.
            let Some(c) = text.next() else { return Ok(false) };
            if glyph == Glyph::One || glyph == Glyph::This(c) {
                next += 1;
            } else {
                let Some(place) = later(&mut last_any) else { return Ok(false) };
                (text, next) = place;
            }
        }
    }
}

/// Lets the last `%` take one character more.
fn later<'a>(last_any: &mut Option<(std::str::Chars<'a>, usize)>) -> Option<(std::str::Chars<'a>, usize)> {
    let (text, next) = last_any.as_mut()?;
    text.next()?;
    Some((text.clone(), *next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fits(pattern: &str, escape: Option<char>, text: &str) -> bool {
        let pattern = Pattern::new(pattern, escape).expect("a good pattern");
        pattern.fits(text, &mut Budget::default()).expect("short texts are in the budget")
    }

    #[test]
    fn wildcards_stand_for_text_and_for_one_character() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("%%", "abc", true),
            ("a%", "abc", true),
            ("a%", "ba", false),
            ("%c", "abc", true),
            ("%c", "abcd", false),
            ("%b%", "abc", true),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("_", "\u{1f600}", true),
            ("%ab%ab", "abab", true),
            ("%ab%ab", "abcab", true),
            ("%ab%ab", "ab", false),
            ("%a_b%", "aaxb", true),
            ("A%", "abc", false),
        ] {
            assert_eq!(fits(pattern, None, text), expected, "`{text}` like `{pattern}`");
        }
    }

    #[test]
    fn an_escaped_wildcard_is_itself() {
        assert!(fits("50!%", Some('!'), "50%"));
        assert!(!fits("50!%", Some('!'), "500"));
        assert!(fits("a!_!!", Some('!'), "a_!"));
        assert!(fits("%%", Some('%'), "%"));
        assert!(Pattern::new("a!b", Some('!')).is_none());
        assert!(Pattern::new("a!", Some('!')).is_none());
    }

    #[test]
    fn a_pattern_that_needs_too_much_work_ends_with_an_error() {
        let pattern = Pattern::new(&format!("%{}b%", "a_".repeat(1_000)), None).expect("a good pattern");
        let answer = pattern.fits(&"a".repeat(16 * 1024), &mut Budget::default());
        assert_eq!(answer, Err(EvaluationError::TooMuchWork));
    }

    /// The definition, tried in every way.
    fn defined(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('%', rest)) => (0..=text.len()).any(|taken| defined(rest, &text[taken..])),
            Some((&glyph, rest)) => text.split_first().is_some_and(|(&c, after)| (glyph == '_' || glyph == c) && defined(rest, after)),
        }
    }

    proptest! {
        #[test]
        fn fitting_is_as_defined(pattern in "[ab%_]{0,8}", text in "[ab]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<char>>();
            prop_assert_eq!(fits(&pattern, None, &text), defined(&chars(&pattern), &chars(&text)), "`{}` like `{}`", text, pattern);
        }
    }
}
