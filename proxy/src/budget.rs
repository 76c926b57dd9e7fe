//! A bound on the memory that requests take while they are read and worked on.
//!
//! What arrives is taken from the budget as it arrives, and given back when the call is answered; a call that finds too little left is answered
//! `42900` and not read on. What a message claims to be long costs nothing, and a request that stops arriving is given up after a while, so that
//! nobody can hold a part of the budget without sending.

use crate::metrics::Gauge;
use crate::shared::Shared;
use bytes::Bytes;
use gantry_platform::clock::sleep;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// From the first pause of a request to its last byte.
const READ_TIME: Duration = Duration::from_secs(20);
/// Part of the whole budget that one connection may use, so that one client can't take it all.
const CONNECTION_SHARE: usize = 4;

/// What one connection has taken of the whole.
#[derive(Debug)]
pub struct Budget {
    shared: Arc<Shared>,
    taken: AtomicUsize,
}

impl Budget {
    pub fn new(shared: Arc<Shared>) -> Budget {
        Budget { shared, taken: AtomicUsize::new(0) }
    }

    fn whole(&self) -> &Gauge {
        &self.shared.metrics.decode_bytes
    }

    fn take(&self, bytes: usize) -> bool {
        let most = self.shared.config.limits.decode_bytes;
        let taken = self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.whole().add(bytes as i64);
        if taken <= most / CONNECTION_SHARE && self.whole().get() <= most as i64 {
            return true;
        }
        self.give_back(bytes);
        false
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
        self.whole().add(-(bytes as i64));
    }
}

/// What one call has taken. Dropping it gives it back.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    refused: AtomicBool,
}

impl Charge {
    pub fn new(budget: Arc<Budget>) -> Arc<Charge> {
        Arc::new(Charge { budget, bytes: AtomicUsize::new(0), refused: AtomicBool::new(false) })
    }

    /// Whether the call found too little left.
    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), OverBudget> {
        if self.budget.take(bytes) {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            return Ok(());
        }
        self.refused.store(true, Ordering::Relaxed);
        Err(OverBudget)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes.load(Ordering::Relaxed));
    }
}

/// Too many bytes are being worked on.
#[derive(Clone, Copy, Debug)]
pub struct OverBudget;

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many bytes of requests are being worked on")
    }
}

impl std::error::Error for OverBudget {}

/// The body of a call with one message, charged as it arrives.
pub struct Charged {
    body: Incoming,
    charge: Arc<Charge>,
    /// Set while the body keeps us waiting.
    patience: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Charged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charged {{ charge: {:?} }}", self.charge)
    }
}

impl Charged {
    pub fn new(body: Incoming, charge: Arc<Charge>) -> Charged {
        Charged { body, charge, patience: None }
    }
}

impl Body for Charged {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(READ_TIME)));
            ready!(patience.as_mut().poll(cx));
            return Poll::Ready(Some(Err(tonic::Status::deadline_exceeded("the request did not arrive in time"))));
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let taken = frame.data_ref().map_or(Ok(()), |data| self.charge.take(data.len()));
                Some(taken.map(|()| frame).map_err(|error| tonic::Status::resource_exhausted(error.to_string())))
            }
            Some(Err(error)) => Some(Err(tonic::Status::from_error(Box::new(error)))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
