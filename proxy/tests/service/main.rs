//! The real service over real sockets, with a broker and metadata in memory: what a client sends, what it gets, and what the broker is asked.

#![allow(clippy::unwrap_used)]

mod fakes;
mod rig;
mod route;
mod send;
mod receive;
mod finish;
mod telemetry;
mod delay;
mod transactions;
mod letters;
mod pull;
mod lite;
mod edge;
mod hostile;
mod drain;
mod admin;
mod admin_v2;
mod errands;
mod namespaces;
mod quota;
mod http;
