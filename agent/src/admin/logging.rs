//! `/logging`: the level of the log, told and changed.

use http::StatusCode;

use super::answer::{json, refuse};
use super::model::Logging;
use super::query::Query;
use super::state::State;
use crate::identity::with_sources;
use crate::serve::Reply;

impl State {
    pub(super) fn logging(&self) -> Reply {
        json(StatusCode::OK, &Logging { level: self.parts.log.get() })
    }

    /// `level=FILTER`, in `tracing`'s form or in ztunnel's with colons; `reset` for what the
    /// configuration says.
    pub(super) fn set_logging(&self, query: &Query<'_>) -> Reply {
        let filter = match (query.get("level"), query.get("reset")) {
            (Some(level), None) if !level.is_empty() => colons_to_equals(&level),
            (None, Some(_)) => self.parts.config.observe.log.clone(),
            _ => {
                let text =
                    "give `?level=debug`, `?level=info,culvert_agent::tunnel=debug` or `?reset`";
                return refuse(StatusCode::BAD_REQUEST, text);
            }
        };
        match self.parts.log.set(&filter) {
            Ok(()) => self.logging(),
            Err(error) => refuse(StatusCode::BAD_REQUEST, &with_sources(&error)),
        }
    }
}

/// `a::b:debug` to `a::b=debug`: a single colon before a level.
fn colons_to_equals(filter: &str) -> String {
    let parts = filter.split(',').map(|part| match part.rsplit_once(':') {
        Some((target, level)) if !target.ends_with(':') && !part.contains('=') => {
            format!("{target}={level}")
        }
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_taken_in_the_form_of_ztunnel_too() {
        for (given, meant) in [
            ("debug", "debug"),
            ("info,access:debug", "info,access=debug"),
            ("culvert_agent::tunnel:trace", "culvert_agent::tunnel=trace"),
            ("culvert_agent::tunnel", "culvert_agent::tunnel"),
            ("culvert_agent::tunnel=debug,warn", "culvert_agent::tunnel=debug,warn"),
        ] {
            assert_eq!(colons_to_equals(given), meant);
        }
    }
}
