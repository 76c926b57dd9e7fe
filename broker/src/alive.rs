//! Which clients were heard of lately. A client lives by its calls, through whichever proxy they come; the end of a stream means nothing.

use gantry_model::ClientId;
use gantry_platform::clock::SharedClock;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A client that was not heard of for this long is dead.
const SILENCE: Duration = Duration::from_secs(45);
/// After a start every client counts as alive for this long: it needs time to find us again.
const GRACE: Duration = Duration::from_secs(60);
/// Clients remembered at the same time; beyond, the longest silent ones are forgotten, and count as dead.
const CLIENTS_MAX: usize = 200_000;

/// When each client was last heard of.
#[derive(Debug)]
pub struct Alive {
    clock: SharedClock,
    started: Duration,
    heard: Mutex<HashMap<ClientId, Duration>>,
}

impl Alive {
    pub fn new(clock: SharedClock) -> Alive {
        Alive { started: clock.mono(), clock, heard: Mutex::default() }
    }

    pub fn heard(&self, client: &ClientId) {
        let now = self.clock.mono();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.get_mut(client) {
            Some(last) => *last = now,
            None => {
                if heard.len() >= CLIENTS_MAX {
                    heard.retain(|_, last| *last + SILENCE > now);
                }
                heard.insert(client.clone(), now);
            }
        }
    }

    pub fn gone(&self, client: &ClientId) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(client);
    }

    /// Whether a client that holds messages must be taken for dead.
    pub fn is_dead(&self, client: &ClientId) -> bool {
        let now = self.clock.mono();
        if now < self.started + GRACE {
            return false;
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(client).is_none_or(|last| *last + SILENCE <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_platform::clock::ManualClock;
    use std::sync::Arc;

    #[test]
    fn a_client_lives_by_its_calls_and_everybody_lives_after_a_start() {
        let clock = ManualClock::new(0);
        let alive = Alive::new(Arc::new(clock.clone()));
        let client = ClientId::new("c");
        clock.advance(Duration::from_secs(59));
        assert!(!alive.is_dead(&client));
        clock.advance(Duration::from_secs(1));
        assert!(alive.is_dead(&client));
        alive.heard(&client);
        clock.advance(Duration::from_secs(44));
        assert!(!alive.is_dead(&client));
        clock.advance(Duration::from_secs(1));
        assert!(alive.is_dead(&client));
    }
}
