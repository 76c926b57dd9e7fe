//! Filter expressions of a subscription, parsed once.
//!
//! A tag expression is `*`, nothing, or tags joined by `||`. An SQL expression asks about the properties of a message; see `sql`.

pub mod sql;

pub use sql::{EvaluationError, Sql};

use crate::limits::FILTER_MAX;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Which messages of a topic a consumer wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// Everything.
    #[default]
    All,
    /// Messages whose tag is one of these; sorted, without repeats, never empty.
    Tags(Vec<String>),
    /// Messages for whose properties the expression is true.
    Sql(Arc<Sql>),
}

/// Why an expression was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError(pub String);

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FilterError {}

/// What an SQL expression asks a message.
pub trait Properties {
    /// The property with exactly this name. `TAGS` names the tag, `KEYS` the keys; whoever implements this knows how they are joined.
    fn get(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// What a filter says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    Match,
    NoMatch,
    /// The expression has no answer for this message. It doesn't match, and whoever wrote the expression wants to know.
    Error(EvaluationError),
}

impl Verdict {
    pub fn is_match(self) -> bool {
        self == Verdict::Match
    }
}

impl From<bool> for Verdict {
    fn from(matches: bool) -> Verdict {
        if matches { Verdict::Match } else { Verdict::NoMatch }
    }
}

impl Filter {
    /// Reads a tag expression.
    pub fn tags(expression: &str) -> Result<Filter, FilterError> {
        if expression.len() > FILTER_MAX {
            return Err(FilterError(format!("filter expression has {} bytes, the most allowed is {FILTER_MAX}", expression.len())));
        }
        let mut tags: Vec<String> = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        tags.sort();
        tags.dedup();
        if tags.is_empty() || tags.iter().any(|tag| tag == "*") {
            return Ok(Filter::All);
        }
        match tags.iter().find(|tag| tag.contains('|')) {
            Some(bad) => Err(FilterError(format!("tag `{bad}` contains `|`; tags are joined by `||`"))),
            None => Ok(Filter::Tags(tags)),
        }
    }

    /// Reads an SQL expression.
    pub fn sql(expression: &str) -> Result<Filter, FilterError> {
        Sql::parse(expression).map(|sql| Filter::Sql(Arc::new(sql)))
    }

    /// Whether a message with this tag may be wanted, as far as the tag tells: an SQL expression needs the properties as well.
    pub fn wants(&self, tag: Option<&str>) -> bool {
        match self {
            Filter::All | Filter::Sql(_) => true,
            Filter::Tags(tags) => tag.is_some_and(|tag| tags.iter().any(|wanted| wanted == tag)),
        }
    }

    /// Whether a message with this tag and these properties is wanted.
    pub fn matches(&self, tag: Option<&str>, properties: &dyn Properties) -> Verdict {
        match self {
            Filter::Sql(sql) => sql.matches(properties),
            Filter::All | Filter::Tags(_) => self.wants(tag).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str, expected: Option<&[&str]>) {
        let expected = expected.map_or(Filter::All, |tags| Filter::Tags(tags.iter().map(|&tag| tag.to_owned()).collect()));
        assert_eq!(Filter::tags(expression), Ok(expected), "`{expression}`");
    }

    #[test]
    fn tag_expressions_are_trimmed_sorted_and_merged() {
        check("*", None);
        check("", None);
        check(" || ", None);
        check("A || *", None);
        check("A", Some(&["A"]));
        check(" B||A || B ", Some(&["A", "B"]));
        assert!(Filter::tags("A|B").is_err());
        assert!(Filter::tags(&"x".repeat(FILTER_MAX + 1)).is_err());
    }

    #[test]
    fn a_message_without_a_tag_matches_only_everything() {
        assert!(Filter::All.wants(None));
        assert!(!Filter::Tags(vec!["A".into()]).wants(None));
        assert!(Filter::Tags(vec!["A".into()]).wants(Some("A")));
    }

    struct Region(&'static str);

    impl Properties for Region {
        fn get(&self, name: &str) -> Option<Cow<'_, str>> {
            (name == "region").then_some(Cow::Borrowed(self.0))
        }
    }

    #[test]
    fn a_filter_asks_for_what_it_needs() {
        let sql = Filter::sql("region = 'eu'").expect("a good expression");
        let tags = Filter::Tags(vec!["A".into()]);
        for (filter, tag, region, expected) in [
            (&Filter::All, None, "us", Verdict::Match),
            (&tags, Some("A"), "us", Verdict::Match),
            (&tags, Some("B"), "eu", Verdict::NoMatch),
            (&sql, None, "eu", Verdict::Match),
            (&sql, Some("A"), "us", Verdict::NoMatch),
        ] {
            assert_eq!(filter.matches(tag, &Region(region)), expected, "{filter:?} of {tag:?} and {region}");
        }
        let odd = Filter::sql("region > 5").expect("a good expression");
        assert_eq!(odd.matches(None, &Region("eu")), Verdict::Error(EvaluationError::NotANumber));
        assert!(odd.wants(None));
        assert!(Filter::sql("region =").is_err());
    }

    #[test]
    fn filters_of_the_same_expression_are_one_key() {
        let sql = |expression| Filter::sql(expression).expect("a good expression");
        let filters = [sql("a = 1"), sql("A = 1"), Filter::All, sql("a=1 /* again */"), Filter::Tags(vec!["a = 1".into()])];
        assert_eq!(std::collections::BTreeSet::from(filters.clone()).len(), 4);
        assert_eq!(std::collections::HashSet::from(filters).len(), 4);
    }
}
