//! What every long-running command begins with.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::config::LogFormat;

/// A runtime for control work only; flows have threads of their own.
///
/// # Errors
/// No thread could be started.
pub fn control_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
}

/// Sends the log to standard error, once in the life of a process.
///
/// # Errors
/// The filter is none.
pub fn start_log(filter: &str, format: LogFormat, access_log: bool) -> anyhow::Result<()> {
    let mut filter =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse(filter)?;
    if !access_log {
        filter = filter.add_directive("access=off".parse()?);
    }
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
