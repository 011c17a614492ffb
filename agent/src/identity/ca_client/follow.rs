//! The stream by which the authority pushes its trust bundle.

use culvert_proto::culvert::ca as wire;
use culvert_proto::culvert::ca::authority_client::AuthorityClient;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

use super::{CaClient, IssueError, MAX_BUNDLE_BYTES, REQUEST_DEADLINE};
use crate::config::HostPort;

/// Why the trust bundle is not followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    /// There is no token to ask with.
    #[error("cannot ask for the trust bundle")]
    Token(#[source] IssueError),
    /// The authority has no such interface.
    #[error(
        "authority at {address} pushes no trust bundle; its roots are taken from its certificate \
         answers"
    )]
    Unsupported { address: HostPort },
    /// No answer in time.
    #[error(
        "authority at {address} did not answer within {} s; look whether it is overloaded",
        REQUEST_DEADLINE.as_secs()
    )]
    TimedOut { address: HostPort },
    /// It refused, or the connection broke.
    #[error(
        "authority at {address} gives no trust bundle; check that `culvert ca serve` runs there, and its audit log"
    )]
    Broken {
        address: HostPort,
        #[source]
        source: Box<Status>,
    },
}

impl CaClient {
    /// Begins to follow the trust bundle; `said` are the numbers put in force here.
    ///
    /// The stream goes on until either end has had enough of it. Cancel safe.
    pub(crate) async fn follow(
        &self,
        mut said: mpsc::Receiver<wire::BundleInForce>,
    ) -> Result<Streaming<wire::TrustBundle>, FollowError> {
        let mut request = Request::new(stream::poll_fn(move |context| said.poll_recv(context)));
        let bearer = self.bearer().await.map_err(FollowError::Token)?;
        request.metadata_mut().insert("authorization", bearer);
        let mut client =
            AuthorityClient::new(self.channel.clone()).max_decoding_message_size(MAX_BUNDLE_BYTES);
        // Bounds the beginning alone; the stream has no deadline.
        let answer = timeout(REQUEST_DEADLINE, client.follow_bundle(request))
            .await
            .map_err(|_| FollowError::TimedOut { address: self.address() })?;
        answer.map(tonic::Response::into_inner).map_err(|status| self.broken(status))
    }

    /// What the end of the stream by a status means.
    pub(crate) fn broken(&self, status: Status) -> FollowError {
        let address = self.address();
        if status.code() == Code::Unimplemented {
            return FollowError::Unsupported { address };
        }
        FollowError::Broken { address, source: Box::new(status) }
    }

    /// Where the authority is, as configured.
    pub(super) fn address(&self) -> HostPort {
        self.settings.ca_address.clone()
    }
}
