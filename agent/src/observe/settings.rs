//! What of flows is written down, as the configuration has it.

use super::along::ReadHttp;
use crate::config::{self, AccessLog};

/// Settings of [`super::Metrics`]; the default is that of the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The access log.
    pub access_log: AccessLog,
    /// Which flows are read for HTTP.
    pub http: ReadHttp,
}

impl From<&config::Observe> for Settings {
    fn from(observe: &config::Observe) -> Self {
        Self {
            access_log: observe.access_log.clone(),
            http: ReadHttp { on: observe.http, except_ports: observe.http_except_ports.clone() },
        }
    }
}
