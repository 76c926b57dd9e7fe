//! What only the leader of the controllers does: it hears brokers, has shards led, and decides what goes where.
//!
//! `overseer` decides, from what brokers said and what the state is, without a clock or a network of its own; it keeps nothing that matters,
//! so the next leader begins anew. `helm` runs one while this node leads. `service` is the door for brokers and proxies, `facts` translates.
//! `recovery` is what an operator may order when copies are lost for ever.

pub mod facts;
pub mod sessions;
pub mod overseer;
pub mod orders;
pub mod recovery;
pub mod helm;
pub mod service;

#[cfg(test)]
mod tests;
