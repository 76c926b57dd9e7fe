//! Tables for people and JSON for programs. What a command prints is one value that knows both forms.

use crate::failure::Failure;
use crate::global::OutputFormat;
use crate::terminal::Terminal;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;

/// Something a command prints: `Serialize` is its form for programs and never changes but by new fields.
pub trait Report: Serialize {
    /// The form for people, ending with a newline unless empty.
    fn table(&self) -> String;
}

/// Prints a report in the form asked for.
pub fn print(report: &impl Report, format: OutputFormat, terminal: &mut Terminal) -> Result<(), Failure> {
    match format {
        OutputFormat::Table => terminal.out.write_all(report.table().as_bytes())?,
        OutputFormat::Json => {
            serde_json::to_writer_pretty(&mut terminal.out, report).map_err(std::io::Error::from)?;
            writeln!(terminal.out)?;
        }
    }
    Ok(())
}

/// Prints one of many reports: a line of JSON, or its table form.
pub fn print_one(report: &impl Report, format: OutputFormat, terminal: &mut Terminal) -> Result<(), Failure> {
    match format {
        OutputFormat::Table => terminal.out.write_all(report.table().as_bytes())?,
        OutputFormat::Json => {
            serde_json::to_writer(&mut terminal.out, report).map_err(std::io::Error::from)?;
            writeln!(terminal.out)?;
        }
    }
    Ok(())
}

/// Columns of text, as wide as they need to be.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with a heading; columns whose name begins with `>` are aligned to the right.
    pub fn new(heading: &[&str]) -> Table {
        let right = heading.iter().map(|name| name.starts_with('>')).collect();
        Table { rows: vec![heading.iter().map(|name| name.trim_start_matches('>').to_owned()).collect()], right }
    }

    /// A list of names and values, without a heading.
    pub fn of_pairs<N: Into<String>>(pairs: impl IntoIterator<Item = (N, String)>) -> Table {
        Table { rows: pairs.into_iter().map(|(name, value)| vec![name.into(), value]).collect(), right: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, one line a row, two blanks between columns and none at the end of a line.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let written = match self.right.get(column) {
                    Some(true) => write!(line, "{cell:>width$}  "),
                    _ => write!(line, "{cell:<width$}  "),
                };
                written.expect("a string takes any text");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A dash for what is empty, so that columns stay countable for `awk`.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">COUNT", "NOTE"]);
        table.row(["a".to_owned(), "5".to_owned(), String::new()]);
        table.row(["größer".to_owned(), "12345678".to_owned(), "x".to_owned()]);
        assert_eq!(table.render(), "NAME       COUNT  NOTE\na              5\ngrößer  12345678  x\n");
    }
}
