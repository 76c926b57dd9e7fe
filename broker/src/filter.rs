//! What an SQL expression sees of a stored message.

use bytes::Bytes;
use gantry_model::filter::{Properties, Sql, Verdict};
use gantry_model::{Filter, Message};
use gantry_store::record::MessageView;
use std::borrow::Cow;

/// What an expression says of a message payload.
pub fn verdict(payload: &Bytes, sql: &Sql) -> Verdict {
    match MessageView::parse(payload) {
        Some(view) => sql.matches(&Stored(&view)),
        None => Verdict::NoMatch,
    }
}

/// The user's properties by their names, the tag as `TAGS`, and the keys as `KEYS`, joined by blanks as producers write them.
struct Stored<'a>(&'a MessageView);

impl Properties for Stored<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            "TAGS" => self.0.tag().map(Cow::Borrowed),
            "KEYS" => {
                let keys: Vec<&str> = self.0.keys().collect();
                (!keys.is_empty()).then(|| Cow::Owned(keys.join(" ")))
            }
            _ => self.0.user_properties().find(|(known, _)| *known == name).map(|(_, value)| Cow::Borrowed(value)),
        }
    }
}

/// Whether a filter wants a message that was read.
pub fn wants(filter: &Filter, message: &Message) -> bool {
    filter.matches(message.tag.as_deref(), &Read(message)).is_match()
}

/// The same names, of a message that was read.
struct Read<'a>(&'a Message);

impl Properties for Read<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            "TAGS" => self.0.tag.as_deref().map(Cow::Borrowed),
            "KEYS" => (!self.0.keys.is_empty()).then(|| Cow::Owned(self.0.keys.join(" "))),
            _ => self.0.properties.iter().find(|(known, _)| known == name).map(|(_, value)| Cow::Borrowed(value.as_str())),
        }
    }
}
