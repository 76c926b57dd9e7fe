//! SQL92 filter expressions: parsed once, then evaluated for every message.
//!
//! Read `parser` for the language, `program` for how an expression is evaluated, `number` for what a number is.

mod lexer;
mod like;
mod number;
mod parser;
mod program;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use parser::{DEPTH_MAX, IN_MAX, NODES_MAX};
pub use program::{EvaluationError, STEPS_MAX};

use super::{FilterError, Properties, Verdict};
use program::Program;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A compiled expression. Two are equal if they differ in blanks, comments, the case of keywords and the spelling of a token at most.
pub struct Sql {
    source: Box<str>,
    normal: Box<str>,
    program: Program,
}

impl Sql {
    /// Reads an expression. An error says at which character, counted from one, and what was expected there.
    pub fn parse(expression: &str) -> Result<Sql, FilterError> {
        let (program, normal) = parser::compile(expression)?;
        Ok(Sql { source: expression.into(), normal: normal.into(), program })
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the expression is true for a message. It takes at most [`STEPS_MAX`] steps.
    pub fn matches(&self, properties: &dyn Properties) -> Verdict {
        match self.program.evaluate(properties) {
            Ok(Some(true)) => Verdict::Match,
            Ok(Some(false) | None) => Verdict::NoMatch,
            Err(error) => Verdict::Error(error),
        }
    }
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sql").field(&self.source).finish()
    }
}

impl PartialEq for Sql {
    fn eq(&self, other: &Sql) -> bool {
        self.normal == other.normal
    }
}

impl Eq for Sql {}

impl PartialOrd for Sql {
    fn partial_cmp(&self, other: &Sql) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sql {
    fn cmp(&self, other: &Sql) -> Ordering {
        self.normal.cmp(&other.normal)
    }
}

impl Hash for Sql {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.normal.hash(state);
    }
}
