//! A connection that outlives the process that made it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use culvert_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tonic::transport::Endpoint;

use crate::{Target, calls, tell};

/// Connects and gives the connection to a child as its standard input.
pub(crate) fn give(target: &Target) -> Result<()> {
    let socket = UnixStream::connect(&target.socket).context("cannot connect")?;
    let own = std::env::current_exe().context("no path of this program")?;
    let child = Command::new(own)
        .arg("adopt")
        .arg("--socket")
        .arg(&target.socket)
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .spawn()
        .context("cannot start the child")?;
    tell(&json!({"child": child.id()}));
    io::copy(&mut io::stdin(), &mut io::sink()).context("standard input")?;
    Ok(())
}

/// Follows X509-SVIDs on the connection that is standard input.
pub(crate) async fn take(target: &Target) -> Result<()> {
    let descriptor = io::stdin().as_fd().try_clone_to_owned().context("no connection")?;
    let socket = UnixStream::from(descriptor);
    socket.set_nonblocking(true).context("no connection")?;
    let once = Arc::new(Mutex::new(Some(tokio::net::UnixStream::from_std(socket)?)));
    let connector = tower::service_fn(move |_| {
        let socket = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { socket.map(TokioIo::new).ok_or(io::Error::from(io::ErrorKind::NotConnected)) }
    });
    // The name is never looked up.
    let channel =
        Endpoint::from_static("http://workload-api").connect_with_connector_lazy(connector);
    calls::x509(&mut SpiffeWorkloadApiClient::new(channel), target).await
}
