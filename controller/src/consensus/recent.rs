//! The changes of late, for those who keep a copy of the state: what they lack is told from here, or else they are given the whole.

use crate::state::event::Event;
use bytes::Bytes;
use gantry_model::contract::metadata::Version;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// Changes that are kept. Who lacks more is better off with the whole state.
const KEPT: usize = 10_000;

/// One change of the state.
#[derive(Debug)]
pub struct Change {
    event: Arc<Event>,
    encoded: OnceLock<Bytes>,
}

impl Change {
    /// The event as JSON; written once, however many are told.
    pub fn encoded(&self) -> Bytes {
        let encode = || serde_json::to_vec(&*self.event).expect("an event can always be written").into();
        self.encoded.get_or_init(encode).clone()
    }
}

/// The newest changes. The last one made the newest version.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    newest: Version,
    changes: VecDeque<Arc<Change>>,
}

impl Recent {
    /// Nothing is known of what led to this version.
    pub fn since(version: Version) -> Recent {
        Recent { newest: version, changes: VecDeque::new() }
    }

    /// The event made the version after the newest.
    pub fn push(&mut self, event: Arc<Event>) {
        self.newest.0 += 1;
        self.changes.push_back(Arc::new(Change { event, encoded: OnceLock::new() }));
        if self.changes.len() > KEPT {
            self.changes.pop_front();
        }
    }

    /// All changes after `version`, at most `most`; `None` if some of them are not kept.
    pub fn after(&self, version: Version, most: usize) -> Option<Vec<Arc<Change>>> {
        let lacking = self.newest.0.checked_sub(version.0)?;
        let skipped = self.changes.len().checked_sub(usize::try_from(lacking).ok()?)?;
        Some(self.changes.iter().skip(skipped).take(most).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn renamed(name: &str) -> Arc<Event> {
        Arc::new(Event::ClusterRenamed { name: name.into() })
    }

    fn told(recent: &Recent, after: u64, most: usize) -> Option<Vec<String>> {
        let text = |change: Arc<Change>| String::from_utf8(change.encoded().to_vec()).unwrap();
        recent.after(Version(after), most).map(|changes| changes.into_iter().map(text).collect())
    }

    #[test]
    fn who_lacks_little_is_told_just_that() {
        let mut recent = Recent::since(Version(7));
        recent.push(renamed("a"));
        recent.push(renamed("b"));
        let b = r#"{"type":"cluster_renamed","name":"b"}"#;
        assert_eq!(told(&recent, 9, 10), Some(vec![]));
        assert_eq!(told(&recent, 8, 10), Some(vec![b.to_owned()]));
        assert_eq!(told(&recent, 7, 1).unwrap().len(), 1);
        assert_eq!(told(&recent, 7, 1).unwrap()[0], b.replace("\"b\"", "\"a\""));
    }

    #[test]
    fn who_lacks_more_than_is_kept_or_is_ahead_is_given_the_whole() {
        let mut recent = Recent::since(Version(7));
        recent.push(renamed("a"));
        assert_eq!(told(&recent, 6, 10), None, "what led to version 7 is not known");
        assert_eq!(told(&recent, 9, 10), None, "no version is after the newest");
        (0..KEPT).for_each(|_| recent.push(renamed("x")));
        assert_eq!(told(&recent, 7, 10), None);
        assert_eq!(told(&recent, 8, KEPT * 2).unwrap().len(), KEPT);
    }
}
