//! What every long-running command begins with.

use crate::{
    config::LogFormat,
    observe::{BadFilter, LogControl, LogForm},
};

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
pub fn start_log(
    filter: &str,
    format: LogFormat,
    access_log: bool,
) -> Result<LogControl, BadFilter> {
    let form = match format {
        LogFormat::Text => LogForm::Text,
        LogFormat::Json => LogForm::Json,
    };
    LogControl::start(filter, form, access_log)
}
