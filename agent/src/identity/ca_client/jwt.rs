//! Asks the authority for JWT-SVIDs.

use culvert_proto::culvert::ca::SignJwtSvidRequest;
use culvert_proto::culvert::ca::authority_client::AuthorityClient;
use culvert_spiffe::SpiffeId;

use super::{CaClient, IssueError, MAX_ANSWER_BYTES, REQUEST_DEADLINE, failure};
use crate::identity::JwtSvid;

impl CaClient {
    /// Asks for a JWT-SVID of `id` for `audience`, with the authority's own choice of life.
    ///
    /// Cancel safe: an answer that nobody waits for is dropped.
    pub(crate) async fn sign_jwt(
        &self,
        id: &SpiffeId,
        audience: Vec<String>,
    ) -> Result<JwtSvid, IssueError> {
        let mut request = tonic::Request::new(SignJwtSvidRequest {
            spiffe_id: id.to_string(),
            audience,
            validity_duration: 0,
        });
        request.metadata_mut().insert("authorization", self.bearer().await?);
        request.set_timeout(REQUEST_DEADLINE);
        let mut client =
            AuthorityClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        let answer = tokio::time::timeout(REQUEST_DEADLINE, client.sign_jwt_svid(request))
            .await
            .map_err(|_| IssueError::TimedOut { address: self.address() })?
            .map_err(|status| failure(status, id, self.address()))?
            .into_inner();
        if answer.token.split('.').count() != 3 {
            let part = "it holds no token";
            return Err(IssueError::Malformed { id: id.clone(), part });
        }
        Ok(JwtSvid::new(answer.token, answer.expires_at))
    }
}
