//! Options of `culvert ca serve` about roots.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::authority::Source;
use crate::duration;
use crate::state::Timing;

/// Where roots come from, and what their rotation waits for.
#[derive(Debug, Args)]
pub(super) struct RootOptions {
    /// Directory with a CA to sign with, as Istio's `cacerts` or a TLS secret has it. Followed.
    #[arg(long)]
    cacerts: Option<PathBuf>,
    /// Age at which a root of our own making is replaced.
    #[arg(long, default_value = "365d", value_parser = duration::parse)]
    root_turnover: Duration,
    /// Age at which an issuing certificate is replaced; it lives 30 days.
    #[arg(long, default_value = "10d", value_parser = duration::parse)]
    issuing_turnover: Duration,
    /// Least time between a root's announcement and its first use. Where a caller follows no
    /// bundle, it is --max-ttl, if that is longer.
    #[arg(long, default_value = "15m", value_parser = duration::parse)]
    rotation_wait: Duration,
    /// Added to the longest life of a certificate before a drained root is removed.
    #[arg(long, default_value = "5m", value_parser = duration::parse)]
    drain_margin: Duration,
    /// How long the key of a removed root is kept.
    #[arg(long, default_value = "24h", value_parser = duration::parse)]
    rollback_window: Duration,
}

impl RootOptions {
    pub(super) fn timing(&self) -> Timing {
        let seconds = |length: Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
        Timing {
            wait: seconds(self.rotation_wait),
            root_turnover: seconds(self.root_turnover),
            issuing_turnover: seconds(self.issuing_turnover),
            drain_margin: seconds(self.drain_margin),
            rollback: seconds(self.rollback_window),
        }
    }

    pub(super) fn source(&self) -> Source {
        self.cacerts.clone().map_or(Source::Made, Source::Cacerts)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        roots: RootOptions,
    }

    #[test]
    fn defaults_are_those_of_the_state() {
        let roots = Program::parse_from(["serve"]).roots;
        assert_eq!(roots.timing(), Timing::default());
        assert_eq!(roots.source(), Source::Made);
        let roots = Program::parse_from(["serve", "--cacerts", "d", "--rotation-wait", "5s"]).roots;
        assert_eq!(roots.timing().wait, 5);
        assert_eq!(roots.source(), Source::Cacerts("d".into()));
    }
}
