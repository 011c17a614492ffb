//! The log of the process, and the level that can be changed while it runs.
//!
//! ```text
//!  event ─▶ filter (observe.log; POST /logging) ─▶ apart? ─▶ text or JSON on standard error
//! ```

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, ParseError, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

/// The target of the access log.
pub(super) const ACCESS: &str = "access";

/// What never goes into a log: two parts of the API server's client. One writes an answer that it
/// cannot read whole, with the tokens and keys in it; the other each failed request, which whoever
/// asked tells with what it means.
const APART: [&str; 2] = ["kube_client::client", "kube_client::client::builder"];

/// Form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// The filter of the log, to be asked for and changed. Clones change the same log.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    // The filter's text as it was given, since the filter itself tells it in another order. Held
    // while the filter is changed, so that the two agree.
    text: Arc<Mutex<String>>,
}

/// Why the log's filter is not changed.
#[derive(Debug, thiserror::Error)]
pub enum BadFilter {
    /// It is in no form that filters have.
    #[error(
        "`{filter}` is no log filter; give one such as info, or warn,culvert_agent::tunnel=debug"
    )]
    Syntax {
        /// What was given.
        filter: String,
        /// What of it was not understood.
        #[source]
        source: ParseError,
    },
    /// A single word that is no level.
    #[error(
        "`{0}` is no level; give off, error, warn, info, debug or trace, or a filter such as warn,culvert_agent::tunnel=debug"
    )]
    Level(String),
    /// The process writes no log.
    #[error("this process writes no log any more; start it again")]
    NoLog,
    /// The log was started before.
    #[error("the log is started already; start it once in a process")]
    Started,
}

impl LogControl {
    /// Sends the log of the process to standard error. Once in its life.
    ///
    /// # Errors
    /// `filter` is none, or the log was started before.
    pub fn start(filter: &str, form: LogForm, access: bool) -> Result<Self, BadFilter> {
        let (control, filter) = Self::new(filter)?;
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let lines = match form {
            LogForm::Text => lines.boxed(),
            LogForm::Json => lines.json().boxed(),
        };
        let lines =
            lines.with_filter(filter_fn(move |metadata| written(metadata.target(), access)));
        let log = tracing_subscriber::registry().with(filter).with(lines);
        log.try_init().map_err(|_| BadFilter::Started)?;
        Ok(control)
    }

    /// The control, and the layer that it controls.
    pub(crate) fn new(text: &str) -> Result<(Self, reload::Layer<EnvFilter, Registry>), BadFilter> {
        let (layer, handle) = reload::Layer::new(parse(text)?);
        Ok((Self { handle, text: Arc::new(Mutex::new(text.to_owned())) }, layer))
    }

    /// The filter in force.
    pub fn get(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another filter in force, for all that is logged from now on.
    ///
    /// # Errors
    /// It is none; what was in force stays.
    pub fn set(&self, filter: &str) -> Result<(), BadFilter> {
        let filter = filter.trim();
        let parsed = parse(filter)?;
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(parsed).map_err(|_| BadFilter::NoLog)?;
        let before = std::mem::replace(&mut *text, filter.to_owned());
        drop(text);
        tracing::info!(before, filter, "log filter changed");
        Ok(())
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogControl").field(&self.get()).finish()
    }
}

/// Whether lines of this target are ever written.
fn written(target: &str, access: bool) -> bool {
    (access || target != ACCESS) && !APART.contains(&target)
}

fn parse(text: &str) -> Result<EnvFilter, BadFilter> {
    // A filter's syntax takes any single word for a target, and then nothing else is logged: who
    // writes `inof` would have silenced the agent.
    let word = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if word && text.parse::<LevelFilter>().is_err() {
        return Err(BadFilter::Level(text.to_owned()));
    }
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(text)
        .map_err(|source| BadFilter::Syntax { filter: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Written;
    use super::*;

    #[test]
    fn filter_is_changed_while_the_log_is_written() {
        let written = Written::default();
        let (control, filter) = LogControl::new("warn").unwrap();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(written.clone());
        let log = tracing_subscriber::registry().with(filter).with(lines);
        tracing::subscriber::with_default(log, || {
            tracing::info!("unseen");
            control.set(" debug\n").unwrap();
            tracing::debug!("seen");
            for bad in ["loud", "info,x=loud", "="] {
                let error = control.set(bad).expect_err(bad).to_string();
                assert!(error.contains(bad) && error.contains("give "), "{error}");
            }
            assert_eq!(control.get(), "debug");
            control.set("off").unwrap();
            tracing::error!("unseen");
        });
        let text = written.text();
        assert!(text.contains("log filter changed before=\"warn\" filter=\"debug\""), "{text}");
        assert!(text.contains("seen") && !text.contains("unseen"), "{text}");
        assert!(matches!(control.set("info"), Err(BadFilter::NoLog)), "its log is gone");
    }

    #[test]
    fn answers_of_the_api_server_and_an_access_log_turned_off_are_never_written() {
        for access in [true, false] {
            assert!(!written("kube_client::client", access));
            assert!(!written("kube_client::client::builder", access));
            assert!(written("kube_client::client::tls", access));
            assert!(written("culvert_agent::observe", access));
            assert_eq!(written(ACCESS, access), access);
        }
    }
}
