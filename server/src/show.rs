//! `gantry config`: what a server would run with and who said so, and what can be set at all.

use crate::config::keys::KEYS;
use crate::config::merge::Merged;

/// Every setting with its effective value and its source.
pub fn effective(merged: &Merged) -> String {
    let rows = KEYS.iter().map(|key| {
        let effective = &merged[key.path];
        let text = if effective.text.is_empty() { "-" } else { &effective.text };
        [key.path.to_owned(), text.to_owned(), effective.source.to_string()]
    });
    table(["KEY", "VALUE", "SOURCE"], rows)
}

/// Every setting with its variable, its default and what it is for.
pub fn reference() -> String {
    let rows = KEYS.iter().map(|key| {
        let default = if key.default.is_empty() { "-" } else { key.default };
        [key.path.to_owned(), key.env(), default.to_owned(), key.about.to_owned()]
    });
    table(["KEY", "VARIABLE", "DEFAULT", "WHAT IT IS FOR"], rows)
}

/// Columns as wide as their widest cell, but for the last.
fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(|column| if column + 1 < N { width(column) } else { 0 }).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        cells.join("  ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::merge::merge;
    use std::collections::BTreeMap;

    #[test]
    fn each_value_is_shown_with_its_source() {
        let env = BTreeMap::from([("GANTRY_DATA".to_owned(), "/srv".to_owned())]);
        let (merged, _) = merge(None, &env, &[("ports.admin".into(), "9".into(), "--admin-port".into())]);
        let shown = effective(&merged);
        let row =
            |key: &str| shown.lines().find(|line| line.starts_with(key)).map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "));
        assert_eq!(row("KEY ").as_deref(), Some("VALUE SOURCE"));
        assert_eq!(row("data ").as_deref(), Some("/srv GANTRY_DATA"));
        assert_eq!(row("listen ").as_deref(), Some("127.0.0.1, ::1 default"));
        assert_eq!(row("ports.admin ").as_deref(), Some("9 --admin-port"));
        assert_eq!(row("advertised ").as_deref(), Some("- default"));
        assert_eq!(shown.lines().count(), KEYS.len() + 1);
    }

    #[test]
    fn the_reference_has_every_key() {
        let text = reference();
        assert_eq!(text.lines().count(), KEYS.len() + 1);
        assert!(text.contains("GANTRY_PORTS_MESSAGING"));
    }
}
