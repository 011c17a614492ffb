//! More than anybody should have.

use std::time::Instant;

use anyhow::{Context as _, Result};
use culvert_proto::spiffe::workload as wire;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::Code;

use crate::calls::{client, request};
use crate::{Target, stdin_end, tell};

/// Streams of one connection: what the server lets one have.
const STREAMS_OF_A_CONNECTION: usize = 90;

pub(crate) async fn streams(target: &Target, count: usize) -> Result<()> {
    let mut tasks = JoinSet::new();
    let mut shared = client(target)?;
    for number in 0..count {
        if number % STREAMS_OF_A_CONNECTION == 0 {
            shared = client(target)?;
        }
        let mut own = shared.clone();
        let request = request(target, wire::X509svidRequest {})?;
        tasks.spawn(async move {
            let mut stream = own.fetch_x509svid(request).await?.into_inner();
            stream.message().await.map(|_| stream)
        });
    }
    let mut open = Vec::new();
    let (mut exhausted, mut failed) = (0, 0);
    while let Some(ended) = tasks.join_next().await {
        match ended.context("a stream's task")? {
            Ok(stream) => open.push(stream),
            Err(status) if status.code() == Code::ResourceExhausted => exhausted += 1,
            Err(_) => failed += 1,
        }
    }
    tell(&json!({"open": open.len(), "exhausted": exhausted, "failed": failed}));
    stdin_end().await;
    Ok(())
}

pub(crate) async fn connections(target: &Target, count: usize) -> Result<()> {
    let mut held = Vec::new();
    let (mut served, mut cut) = (0, 0);
    for _ in 0..count {
        let mut own = client(target)?;
        // Answered with InvalidArgument by a server that serves.
        let call = request(target, wire::ValidateJwtsvidRequest::default())?;
        match own.validate_jwtsvid(call).await {
            Err(status) if status.code() == Code::InvalidArgument => served += 1,
            Ok(_) | Err(_) => cut += 1,
        }
        held.push(own);
    }
    tell(&json!({"served": served, "cut": cut}));
    stdin_end().await;
    drop(held);
    Ok(())
}

pub(crate) async fn silent(target: &Target) -> Result<()> {
    let mut socket = UnixStream::connect(&target.socket).await.context("cannot connect")?;
    let begun = Instant::now();
    tell(&json!({"connected": true}));
    // A server of HTTP/2 may speak first; what it says is of no interest.
    let mut said = Vec::new();
    // Cut off or closed in order, it is over.
    let _ = socket.read_to_end(&mut said).await;
    tell(&json!({"closed_after_ms": begun.elapsed().as_millis()}));
    Ok(())
}
