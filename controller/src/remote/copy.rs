//! The copy of the state: replaced as a whole, or brought on by the same events that made the original.

use crate::state::State;
use crate::state::event::Event;
use crate::state::image::{Part, Rebuild};
use gantry_model::contract::metadata::Version;
use gantry_platform::disk::{SharedDisk, write_whole};
use gantry_proto::controller as pb;
use std::io;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};
use tokio::sync::watch;

/// The newest state that this process knows.
#[derive(Debug)]
pub struct Copy {
    state: RwLock<State>,
    version: watch::Sender<Version>,
}

impl Copy {
    pub fn new(state: Option<State>) -> Copy {
        let state = state.unwrap_or_default();
        Copy { version: watch::Sender::new(state.version()), state: RwLock::new(state) }
    }

    pub fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn version(&self) -> Version {
        *self.version.borrow()
    }

    pub fn versions(&self) -> watch::Receiver<Version> {
        self.version.subscribe()
    }

    /// Takes a whole state. An older one comes from a controller that is behind, and is left: time does not go back here.
    pub fn replace(&self, state: State) {
        let mut own = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let doubted = *self.version.borrow() == Version(0);
        if state.version() > own.version() || doubted {
            *own = state;
            let version = own.version();
            drop(own);
            self.version.send_replace(version);
        }
    }

    /// Has the next watch begin with the whole state.
    pub fn doubt(&self) {
        self.version.send_replace(Version(0));
    }

    /// Takes the changes that follow what is known; those that are known already are skipped.
    pub fn apply(&self, changes: &pb::Changes) -> Result<(), String> {
        let mut own = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let skipped = (own.version().0 + 1).checked_sub(changes.first).ok_or("it left changes out")?;
        for event in changes.events.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)) {
            let event: Event =
                serde_json::from_slice(event).map_err(|error| format!("it sent a change that makes no sense here: {error}; update this node"))?;
            own.apply(&event);
        }
        let version = own.version();
        drop(own);
        self.version.send_if_modified(|told| std::mem::replace(told, version) != version);
        Ok(())
    }
}

/// A state that comes in parts.
#[derive(Debug, Default)]
pub struct Parts {
    rebuild: Option<Rebuild>,
}

impl Parts {
    /// Takes the next part; answers the state with the last.
    pub fn add(&mut self, part: pb::StatePart) -> Result<Option<State>, String> {
        let nonsense = |error: &dyn std::fmt::Display| format!("it sent a state that makes no sense here: {error}");
        match serde_json::from_slice(&part.part).map_err(|error| nonsense(&error))? {
            Part::Head(head) => self.rebuild = Some(Rebuild::new(head).map_err(|error| nonsense(&error))?),
            other => self.rebuild.as_mut().ok_or("it sent a state without its head")?.add(other).map_err(|error| nonsense(&error))?,
        }
        if !part.last {
            return Ok(None);
        }
        self.rebuild.take().expect("a part was added").finish().map(Some).map_err(|error| nonsense(&error))
    }
}

/// The file in which the copy is kept: one part in each line.
#[derive(Debug)]
pub struct Kept {
    pub disk: SharedDisk,
    pub file: PathBuf,
}

impl Kept {
    /// What was kept, if it can be read. It is only a beginning, so a damaged file is as good as none.
    pub fn load(&self) -> Option<State> {
        let file = self.disk.open(&self.file).ok()?;
        let mut bytes = vec![0; usize::try_from(file.len().ok()?).ok()?];
        let read = file.read_at(0, &mut bytes).ok()?;
        let mut parts = Parts::default();
        let lines: Vec<&[u8]> = bytes[..read].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let mut state = None;
        for (at, line) in lines.iter().enumerate() {
            let part = pb::StatePart { part: line.to_vec().into(), last: at + 1 == lines.len() };
            match parts.add(part) {
                Ok(whole) => state = whole,
                Err(why) => {
                    tracing::warn!(file = %self.file.display(), %why, "what the controllers had decided can't be read; they are asked again");
                    return None;
                }
            }
        }
        state
    }

    pub fn store(&self, state: &State) -> io::Result<()> {
        let mut bytes = Vec::new();
        for part in state.parts() {
            serde_json::to_writer(&mut bytes, &part)?;
            bytes.push(b'\n');
        }
        write_whole(&*self.disk, &self.file, &bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use gantry_model::TopicName;
    use gantry_model::topic::TopicSpec;
    use gantry_platform::MemoryDisk;
    use std::io::IoSlice;
    use std::sync::Arc;

    fn topic(name: &str) -> Event {
        Event::TopicCreated { topic: TopicSpec::on_first_use(TopicName::parse("", name).unwrap()), time_ms: 5 }
    }

    fn founded() -> State {
        let mut state = State::default();
        state.apply(&Event::ClusterCreated { id: "0a".repeat(16), name: "gantry".into(), shards: 1, time_ms: 5 });
        state
    }

    fn changes(first: u64, events: &[Event]) -> pb::Changes {
        pb::Changes { first, events: events.iter().map(|event| serde_json::to_vec(event).unwrap().into()).collect() }
    }

    fn image(state: &State) -> Vec<String> {
        state.parts().map(|part| serde_json::to_string(&part).unwrap()).collect()
    }

    #[test]
    fn changes_make_what_they_made_of_the_original() {
        let mut original = founded();
        let copy = Copy::new(None);
        copy.replace(original.clone());
        let events = [topic("a"), topic("b"), topic("a")];
        events.iter().for_each(|event| drop(original.apply(event)));
        copy.apply(&changes(2, &events[..1])).unwrap();
        copy.apply(&changes(2, &events)).unwrap();
        assert_eq!(copy.look(image), image(&original), "what came twice counts once");
        assert_eq!(copy.version(), original.version());
    }

    #[test]
    fn a_gap_is_noticed_and_leads_to_the_whole_state() {
        let copy = Copy::new(Some(founded()));
        assert!(copy.apply(&changes(3, &[topic("a")])).is_err());
        copy.doubt();
        assert_eq!(copy.version(), Version(0), "so the next watch begins at nothing");
        copy.replace(founded());
        assert_eq!(copy.version(), Version(1));
    }

    #[test]
    fn a_controller_that_is_behind_does_not_take_time_back() {
        let mut newer = founded();
        newer.apply(&topic("a"));
        let copy = Copy::new(Some(newer.clone()));
        copy.replace(founded());
        assert_eq!(copy.look(image), image(&newer));
    }

    #[test]
    fn what_was_kept_is_found_again_and_damage_is_as_good_as_nothing() {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        let kept = Kept { disk: disk.clone(), file: "routes".into() };
        assert!(kept.load().is_none());
        let mut state = founded();
        state.apply(&topic("a"));
        kept.store(&state).unwrap();
        assert_eq!(kept.load().as_ref().map(image), Some(image(&state)));
        disk.open(&kept.file).unwrap().write_at(9, &[IoSlice::new(b"xx\nxx")]).unwrap();
        assert!(kept.load().is_none());
    }
}
