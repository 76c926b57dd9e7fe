//! What somebody may have meant who misspelt a name.

/// The candidate with the fewest edits to `wrong`, if at most a third of its letters differ.
pub fn nearest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_ascii_lowercase();
    let ranked = candidates.map(|candidate| (distance(&wrong, &candidate.to_ascii_lowercase()), candidate));
    let (edits, best) = ranked.min()?;
    (edits <= best.chars().count().div_ceil(3)).then_some(best)
}

/// Levenshtein's distance: how many letters must be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &right) in b.iter().enumerate() {
            let changed = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        assert_eq!([distance("kitten", "sitting"), distance("", "abc"), distance("abc", "abc")], [3, 3, 0]);
    }

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let check = |wrong: &str, known: &[&str], expected: Option<&str>| {
            assert_eq!(nearest(wrong, known.iter().copied()), expected, "`{wrong}`");
        };
        check("order", &["payments", "orders"], Some("orders"));
        check("ORDERS", &["orders"], Some("orders"));
        check("ordres", &["orders", "others"], Some("orders"));
        check("invoices", &["orders", "payments"], None);
        check("x", &[], None);
    }
}
