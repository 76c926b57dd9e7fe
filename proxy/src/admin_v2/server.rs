//! The server itself: how much it logs and how busy it is.

use super::Call;
use crate::shared::Shared;
use crate::status::{self, Refusal};
use gantry_proto::v2::change_log_level_request::Level;
use gantry_proto::v2::*;
use std::fmt;
use std::sync::Arc;

/// Sets how much the process logs, until it ends.
#[derive(Clone)]
pub struct LogControl(Arc<dyn Fn(tracing::Level) -> Result<(), String> + Send + Sync>);

impl LogControl {
    /// The function says why when it can't.
    pub fn new(set: impl Fn(tracing::Level) -> Result<(), String> + Send + Sync + 'static) -> LogControl {
        LogControl(Arc::new(set))
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
    }
}

/// The response has no status, so failures are gRPC statuses.
pub fn change_log_level(shared: &Shared, request: ChangeLogLevelRequest) -> Result<ChangeLogLevelResponse, tonic::Status> {
    let level = match Level::try_from(request.level) {
        Ok(Level::Trace) => tracing::Level::TRACE,
        Ok(Level::Debug) => tracing::Level::DEBUG,
        Ok(Level::Info) => tracing::Level::INFO,
        Ok(Level::Warn) => tracing::Level::WARN,
        Ok(Level::Error) => tracing::Level::ERROR,
        Err(_) => return Err(tonic::Status::invalid_argument(format!("level {} is unknown: TRACE is 0, ERROR is 4", request.level))),
    };
    let Some(control) = &shared.config.log_control else {
        return Err(tonic::Status::failed_precondition("this process does not let its log level be changed; set `log.level` and restart it"));
    };
    (control.0)(level).map_err(|why| tonic::Status::internal(format!("the log level was not changed: {why}")))?;
    tracing::info!(%level, "log level changed");
    Ok(ChangeLogLevelResponse { remark: format!("the server logs from {level} on, until it restarts with its own `log.level`") })
}

pub async fn runtime_stats(call: Call, _: GetProxyRuntimeStatsRequest) -> Result<GetProxyRuntimeStatsResponse, Refusal> {
    let shared = &call.shared;
    let rate = shared.rates.rate(shared.clock.mono(), &shared.metrics);
    let kinds: Vec<ClientType> = shared.sessions.all().iter().map(|session| session.facts().client_type).collect();
    let count = |wanted: fn(&ClientType) -> bool| kinds.iter().filter(|kind| wanted(kind)).count() as i64;
    Ok(GetProxyRuntimeStatsResponse {
        status: Some(status::ok()),
        proxy_name: shared.metadata.cluster().name.clone(),
        version: shared.config.version.to_owned(),
        in_tps: rate.sent,
        out_tps: rate.delivered,
        connections: shared.metrics.connections.get(),
        producers: count(|kind| *kind == ClientType::Producer),
        consumers: count(|kind| !matches!(kind, ClientType::Producer | ClientType::Unspecified)),
    })
}
