//! Options of `culvert ca serve` about JWT-SVIDs.

use std::time::Duration;

use clap::Args;

use crate::duration;
use crate::jwt::JwtTimes;

/// How long JWT-SVIDs and their keys live.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "the names of the options come from them")]
pub(super) struct JwtOptions {
    /// Life of a JWT-SVID for which none is wished.
    #[arg(long, default_value = "5m", value_parser = duration::parse)]
    jwt_ttl: Duration,
    /// Longest life of a JWT-SVID.
    #[arg(long, default_value = "1h", value_parser = duration::parse)]
    jwt_max_ttl: Duration,
    /// How long one key signs JWT-SVIDs.
    #[arg(long, default_value = "24h", value_parser = duration::parse)]
    jwt_key_life: Duration,
    /// How long a key is published before it signs: longer than news takes to every agent.
    #[arg(long, default_value = "15m", value_parser = duration::parse)]
    jwt_key_lead: Duration,
}

impl JwtOptions {
    /// The times that were asked for.
    ///
    /// # Errors
    /// They contradict each other.
    pub(super) fn times(&self) -> anyhow::Result<JwtTimes> {
        anyhow::ensure!(
            self.jwt_ttl <= self.jwt_max_ttl && self.jwt_key_lead < self.jwt_key_life,
            "--jwt-ttl must not be over --jwt-max-ttl, and --jwt-key-lead must be under \
             --jwt-key-life"
        );
        Ok(JwtTimes {
            turnover: self.jwt_key_life,
            lead: self.jwt_key_lead,
            default_ttl: self.jwt_ttl,
            max_ttl: self.jwt_max_ttl,
        })
    }
}
