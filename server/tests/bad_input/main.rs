//! Bad input and bad surroundings, proven with the real binary: other people's folders, damaged files, a full disk, hostile clients.
//!
//! Each of them has a message that says what to do, and none of them loses what was acknowledged. `server` runs the binary, `client` speaks
//! to it as any client does, `wild` makes requests that no client would make. The other files are the tests, by subject.

#![allow(clippy::unwrap_used)]

mod server;
mod client;
mod wild;

mod damage;
mod ending;
mod folder;
mod full_disk;
mod hostile;
