//! One call each, with exactly the headers that were asked for.

use anyhow::{Context as _, Result};
use culvert_proto::spiffe::workload as wire;
use culvert_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use serde_json::json;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::{Target, tell};

pub(crate) type Client = SpiffeWorkloadApiClient<Channel>;

/// A client that connects at its first call.
pub(crate) fn client(target: &Target) -> Result<Client> {
    Ok(SpiffeWorkloadApiClient::new(channel(target)?))
}

fn channel(target: &Target) -> Result<Channel> {
    let endpoint = format!("unix://{}", target.socket.display());
    Ok(Endpoint::from_shared(endpoint).context("no socket")?.connect_lazy())
}

/// A message with the security header as it was asked for.
pub(crate) fn request<T>(target: &Target, message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    if target.no_header {
        return Ok(request);
    }
    let metadata = request.metadata_mut();
    for value in &target.header {
        metadata.append("workload.spiffe.io", value.parse().context("no header value")?);
    }
    if target.header.is_empty() {
        metadata.insert("workload.spiffe.io", "true".parse().context("no header value")?);
    }
    Ok(request)
}

/// Follows X509-SVIDs to the end of the stream.
pub(crate) async fn x509(client: &mut Client, target: &Target) -> Result<()> {
    let mut stream = match client.fetch_x509svid(request(target, wire::X509svidRequest {})?).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            refused(&status);
            return Ok(());
        }
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                let ids: Vec<_> = message.svids.iter().map(|svid| &svid.spiffe_id).collect();
                let sizes: Vec<_> =
                    message.svids.iter().map(|svid| svid.x509_svid_key.len()).collect();
                tell(&json!({"ids": ids, "keys": sizes}));
            }
            Ok(None) => {
                refused(&Status::ok(""));
                return Ok(());
            }
            Err(status) => {
                refused(&status);
                return Ok(());
            }
        }
    }
}

pub(crate) async fn jwt(target: &Target, audience: Vec<String>, id: String) -> Result<()> {
    let message = wire::JwtsvidRequest { audience, spiffe_id: id };
    match client(target)?.fetch_jwtsvid(request(target, message)?).await {
        Ok(answer) => {
            for svid in answer.into_inner().svids {
                tell(&json!({"id": svid.spiffe_id, "token": svid.svid}));
            }
            Ok(())
        }
        Err(status) => {
            refused(&status);
            Ok(())
        }
    }
}

pub(crate) async fn validate(target: &Target, audience: String, token: String) -> Result<()> {
    let message = wire::ValidateJwtsvidRequest { audience, svid: token };
    match client(target)?.validate_jwtsvid(request(target, message)?).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let claims: Vec<_> = answer.claims.unwrap_or_default().fields.into_keys().collect();
            tell(&json!({"id": answer.spiffe_id, "claims": claims}));
            Ok(())
        }
        Err(status) => {
            refused(&status);
            Ok(())
        }
    }
}

pub(crate) async fn wit(target: &Target) -> Result<()> {
    let mut raw = tonic::client::Grpc::new(channel(target)?);
    raw.ready().await.context("cannot connect")?;
    let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchWITSVID");
    // An empty message is the same whatever its type.
    let codec = tonic_prost::ProstCodec::<wire::X509svidRequest, wire::X509svidResponse>::default();
    match raw.unary(request(target, wire::X509svidRequest {})?, path, codec).await {
        Ok(_) => refused(&Status::ok("")),
        Err(status) => refused(&status),
    }
    Ok(())
}

/// Tells how a call ended.
fn refused(status: &Status) {
    tell(&json!({"code": format!("{:?}", status.code()), "message": status.message()}));
}
