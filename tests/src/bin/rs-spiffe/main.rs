//! A workload that uses `spiffe` from crates.io, unchanged, against the agent's Workload API.
//!
//! ```text
//! culvert-rs-spiffe fetch AUDIENCE    everything once, checked; one JSON line
//! culvert-rs-spiffe watch             one JSON line for each certificate pushed, until it is ended
//! ```
//!
//! The socket comes from `SPIFFE_ENDPOINT_SOCKET`, as for any workload.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_spiffe::{PeerRole, TrustBundle};
use futures_util::StreamExt as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use spiffe::{WorkloadApiClient, X509Context, X509Svid};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", serde_json::json!({"error": format!("{error:#}")}));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[&str]) -> Result<()> {
    let client = WorkloadApiClient::connect_env().await?;
    match arguments {
        ["fetch", audience] => fetch(&client, audience).await,
        ["watch"] => watch(&client).await,
        _ => bail!("usage: culvert-rs-spiffe fetch AUDIENCE | watch"),
    }
}

async fn fetch(client: &WorkloadApiClient, audience: &str) -> Result<()> {
    let context = client.fetch_x509_context().await.context("X509-SVID")?;
    let svid = default(&context)?;
    let domain = svid.spiffe_id().trust_domain();
    let roots = context.bundle_set().get(domain).context("no bundle of the own trust domain")?;
    let alone = client.fetch_x509_bundles().await.context("X.509 bundles")?;
    let alone = alone.get(domain).context("no bundle of the own trust domain")?;
    ensure!(alone.authorities() == roots.authorities(), "bundles differ");
    // The library parses and does not verify; that is left to whoever makes the connection.
    let der = |bytes: &[u8]| CertificateDer::from(bytes.to_vec());
    let roots = roots.authorities().iter().map(|root| der(root.as_bytes())).collect();
    let roots = TrustBundle::from_certificates(domain.to_string().parse()?, roots)?;
    let chain: Vec<_> = svid.cert_chain().iter().map(|one| der(one.as_bytes())).collect();
    let peer = roots.verify(&chain, PeerRole::Client, UnixTime::now()).context("chain")?;
    ensure!(peer.id().as_str() == svid.spiffe_id().to_string(), "chain of {}", peer.id());

    let token = client.fetch_jwt_svid([audience], None).await.context("JWT-SVID")?;
    let keys = client.fetch_jwt_bundles().await.context("JWT bundles")?;
    let keys = keys.get(domain).context("no keys of the own trust domain")?;
    ensure!(keys.find_jwt_authority(token.key_id()).is_some(), "key {} unknown", token.key_id());
    let validated =
        client.validate_jwt_token(audience, token.token()).await.context("token, by the agent")?;
    ensure!(validated.spiffe_id() == svid.spiffe_id(), "token of {}", validated.spiffe_id());
    let other = client.validate_jwt_token("other", token.token()).await;
    ensure!(other.is_err(), "token holds for another audience");
    println!(
        "{}",
        serde_json::json!({
            "id": svid.spiffe_id().to_string(),
            "serial": serial(svid),
            "chain": svid.cert_chain().len() + 1,
        })
    );
    Ok(())
}

async fn watch(client: &WorkloadApiClient) -> Result<()> {
    let mut updates = client.stream_x509_contexts().await?;
    while let Some(update) = updates.next().await {
        let update = update?;
        let svid = default(&update)?;
        println!(
            "{}",
            serde_json::json!({"id": svid.spiffe_id().to_string(), "serial": serial(svid)})
        );
    }
    bail!("stream ended")
}

fn default(context: &X509Context) -> Result<&X509Svid> {
    context.default_svid().map(AsRef::as_ref).context("no SVID")
}

/// What tells one certificate from another; its end stands for it, to the byte.
fn serial(svid: &X509Svid) -> String {
    let bytes = svid.leaf().as_bytes();
    format!("{:02x?}", &bytes[bytes.len().saturating_sub(16)..])
}
