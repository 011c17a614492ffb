//! Mutual TLS handshakes as tunnels make them, both ends on one thread.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use culvert_agent::identity::{IdentityStore, Settings, handshake};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::in_process::thread_cpu;
use crate::{Authority, csr};

/// Bytes under way between the two ends: more than a handshake has.
const PIPE: usize = 64 * 1024;

/// Shakes hands for `length` and tells how often, and the CPU time of both ends together.
pub(crate) fn run(authority: &Authority, length: Duration) -> anyhow::Result<serde_json::Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let registry = prometheus::Registry::new();
        let settings = settings(authority)?;
        let (store, tasks) = IdentityStore::start(settings, cancel.clone(), &registry).await?;
        let id = csr::identity(&authority.trust_domain, 0)?;
        let hold = store.hold(&id, "bench");
        let svid = hold.svid().await.context("no certificate came")?;
        let (begun, before, mut done) = (Instant::now(), thread_cpu(), 0_u64);
        while begun.elapsed() < length {
            let (client, server) = tokio::io::duplex(PIPE);
            let (client, server) = tokio::try_join!(
                handshake::connect(&svid, &id, client),
                handshake::accept(&svid, server),
            )?;
            std::hint::black_box((client, server));
            done += 1;
        }
        let line = json!({
            "handshakes": done,
            "seconds": begun.elapsed().as_secs_f64(),
            "cpu_s": thread_cpu().saturating_sub(before).as_secs_f64(),
        });
        drop(hold);
        cancel.cancel();
        tasks.join().await;
        Ok(line)
    })
}

fn settings(authority: &Authority) -> anyhow::Result<Settings> {
    Ok(Settings {
        ca_address: authority.address.to_string().parse()?,
        root_file: authority.root.clone(),
        bundle_file: authority.tokens.join("node0.bundle.json"),
        token_file: authority.tokens.join("node0.token"),
        node: "node0".to_owned(),
        trust_domain: authority.trust_domain.clone(),
        certificate_ttl: Duration::from_hours(24),
    })
}
