//! Controllers over gRPC: one unary method. Calls are few (a handful a second between idle nodes, one for a batch of entries), so unary calls
//! are cheap enough here.

use super::{Answer, Peers, Unreachable};
use async_trait::async_trait;
use gantry_platform::clock::timeout;
use gantry_platform::net::Net;
use gantry_proto::connections::Channels;
use gantry_proto::controller as pb;
use pb::peer_client::PeerClient;
use pb::peer_server::{Peer, PeerServer};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Largest message: a piece of a snapshot has 256 KiB, an append up to 256 entries.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// The way to other controllers.
#[derive(Debug)]
pub struct GrpcPeers {
    channels: Channels,
}

impl GrpcPeers {
    pub fn new(net: Arc<dyn Net>) -> GrpcPeers {
        GrpcPeers { channels: Channels::new(net) }
    }
}

#[async_trait]
impl Peers for GrpcPeers {
    async fn call(&self, address: &str, request: pb::PeerRequest, patience: Duration) -> Result<pb::PeerReply, Unreachable> {
        let channel = self.channels.to(address).map_err(|error| Unreachable(error.0))?;
        let mut client = PeerClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        match timeout(patience, client.call(Request::new(request))).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(Unreachable(format!("`{address}`: {}", status.message()))),
            Err(_) => Err(Unreachable(format!("`{address}` did not answer within {patience:?}"))),
        }
    }
}

/// The service for other controllers.
pub struct Service(Arc<dyn Answer>);

#[async_trait]
impl Peer for Service {
    async fn call(&self, request: Request<pb::PeerRequest>) -> Result<Response<pb::PeerReply>, Status> {
        Ok(Response::new(self.0.answer(request.into_inner()).await))
    }
}

/// Who answers other controllers, as a service.
pub fn server(answer: Arc<dyn Answer>) -> PeerServer<Service> {
    PeerServer::new(Service(answer)).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX)
}
