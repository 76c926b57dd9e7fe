//! Plain HTTP for machines that look after us: `/livez`, `/readyz` and `/metrics`.
//!
//! Alive means that this process answers. Ready means that it should get calls: it is not stopping, and no shard's disk has failed. A full
//! disk refuses sends with a reason and serves everything else, so it is ready.

use crate::accept;
use crate::metrics;
use crate::shared::{Phase, Shared};
use async_trait::async_trait;
use bytes::Bytes;
use gantry_model::contract::broker::{ShardCondition, ShardStatus};
use gantry_platform::clock::timeout;
use gantry_platform::net::Listener;
use gantry_platform::tasks::{self, Stop};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Connections at a time; scrapers and probes need a handful.
const CONNECTIONS: usize = 256;
/// For the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// For the shards to say how they are.
const SHARDS_TIME: Duration = Duration::from_secs(2);

/// What is asked about.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Why this process should get no calls.
    async fn not_ready(&self) -> Option<String>;

    /// Everything that is counted, as Prometheus reads it.
    async fn metrics(&self) -> String;
}

/// Answers until `stop`.
pub async fn serve(shared: Arc<dyn Probe>, listener: Listener, stop: Stop) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = stop.stopped() => return,
        };
        let (Some(stream), Ok(permit)) = (accepted, connections.clone().try_acquire_owned()) else { continue };
        let (shared, stop) = (shared.clone(), stop.clone());
        // If it fails, the connection ends.
        tasks::spawn("http", async move {
            tokio::select! {
                () = connection(shared, stream) => {}
                () = stop.stopped() => {}
            }
            drop(permit);
        });
    }
}

async fn connection(shared: Arc<dyn Probe>, stream: TcpStream) {
    let service = service_fn(|request| answer(shared.clone(), request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(16 * 1024);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "an http connection broke");
    }
}

async fn answer(shared: Arc<dyn Probe>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n".to_owned()));
    }
    Ok(match request.uri().path() {
        "/livez" | "/-/healthy" => text(StatusCode::OK, "alive\n".to_owned()),
        "/readyz" => match shared.not_ready().await {
            None => text(StatusCode::OK, "ready\n".to_owned()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, shared.metrics().await);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "known paths: /livez, /readyz, /metrics\n".to_owned()),
    })
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[async_trait]
impl Probe for Shared {
    async fn not_ready(&self) -> Option<String> {
        if self.phase() != Phase::Serving {
            return Some("the server is stopping".to_owned());
        }
        let Some(shards) = shards(self).await else {
            return Some(format!("the shards did not answer within {SHARDS_TIME:?}"));
        };
        let failed = shards.iter().find(|shard| shard.condition == ShardCondition::Failed)?;
        Some(format!("the disk of shard {} failed; the server must restart", failed.shard))
    }

    async fn metrics(&self) -> String {
        let shards = shards(self).await.unwrap_or_default();
        let sessions = self.sessions.all();
        let streams = sessions.iter().map(|session| session.streams()).sum();
        let mut text = self.metrics.render(sessions.len(), streams, &shards);
        metrics::render_throttled(&mut text, &self.quotas.throttled());
        text
    }
}

async fn shards(shared: &Shared) -> Option<Vec<ShardStatus>> {
    timeout(SHARDS_TIME, shared.broker.shards()).await.ok()
}
