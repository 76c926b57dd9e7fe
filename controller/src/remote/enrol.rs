//! A broker with an empty disk asks for its number.

use super::{Access, RETRY, TRY, is_final};
use crate::state::nodes::NodeSpec;
use gantry_model::NodeId;
use gantry_platform::clock::{sleep, timeout};
use gantry_proto::controller as pb;
use pb::enrol_reply::Outcome;
use std::fmt;
use std::time::Duration;

/// Why a broker was not taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnrolError {
    /// It is not wanted; asking again is of no use.
    Refused(String),
    /// No controller that could decide was reached in time.
    Unreachable(String),
}

impl fmt::Display for EnrolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnrolError::Refused(why) => write!(f, "the cluster does not take this broker: {why}"),
            EnrolError::Unreachable(why) => write!(f, "no controller takes this broker in: {why}; check the addresses and that the controllers run"),
        }
    }
}

impl std::error::Error for EnrolError {}

/// The broker's number and the cluster's id. The same `request` again, within ten minutes, is answered the same number.
pub async fn enrol(access: &Access, spec: &NodeSpec, request: [u8; 16], patience: Duration) -> Result<(NodeId, String), EnrolError> {
    let NodeSpec { address, zone, capacity, incarnation, format } = spec.clone();
    let node = Some(pb::NodeSpec { address, zone, capacity, incarnation, format });
    let request = pb::EnrolRequest { caller: access.caller(), node, request: request.to_vec().into() };
    let mut last = "none answered".to_owned();
    let tries = async {
        loop {
            for address in &access.controllers {
                match enrol_at(access, address, request.clone()).await {
                    Ok(Outcome::Joined(joined)) => return Ok((NodeId(joined.node), joined.cluster)),
                    Ok(Outcome::Refused(refused)) if is_final(refused.code()) => return Err(EnrolError::Refused(refused.why)),
                    Ok(Outcome::Refused(refused)) => last = refused.why,
                    Err(why) => last = why,
                }
            }
            sleep(RETRY).await;
        }
    };
    timeout(patience, tries).await.unwrap_or_else(|_| Err(EnrolError::Unreachable(last.clone())))
}

async fn enrol_at(access: &Access, address: &str, request: pb::EnrolRequest) -> Result<Outcome, String> {
    let mut client = access.client(address)?;
    let reply = timeout(TRY, client.enrol(request)).await.map_err(|_| format!("`{address}` does not answer"))?;
    let reply = reply.map_err(|status| format!("`{address}`: {}", status.message()))?;
    reply.into_inner().outcome.ok_or_else(|| format!("`{address}` answered what makes no sense"))
}
