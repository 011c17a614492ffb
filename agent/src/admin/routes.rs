//! From a request to its answer: which page, by which door, with which method.

use std::sync::Arc;

use http::header::IF_NONE_MATCH;
use http::{Method, Request, StatusCode};
use serde::Serialize;

use super::answer::{json, pem, refuse, refuse_method};
use super::door::Door;
use super::profile::memory;
use super::query::Query;
use super::state::{Routes, State};
use super::{dump, flows};
use crate::map;
use crate::serve::{Reply, text};

/// Everything there is, for who asked for something else.
const PAGES: &str = "no such page; there are /, /status, /workloads, /policies, /connections, \
                     /map.json, /explain, /tls-check, /certs, /roots, /config_dump, /logging, \
                     /memory and /debug/pprof/profile";

/// What was asked; the label of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Identities,
    Certificate,
    Roots,
    Export,
    Status,
    Workloads,
    Policies,
    Connections,
    Map,
    Explain,
    Arrival,
    TlsCheck,
    Probe,
    ConfigDump,
    Logging,
    SetLogging,
    Profile,
    Memory,
    Quit,
    Page,
    Other,
}

impl What {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Identities => "identities",
            Self::Certificate => "certificate",
            Self::Roots => "roots",
            Self::Export => "export",
            Self::Status => "status",
            Self::Workloads => "workloads",
            Self::Policies => "policies",
            Self::Connections => "connections",
            Self::Map => "map",
            Self::Explain => "explain",
            Self::Arrival => "explain_arrival",
            Self::TlsCheck => "tls_check",
            Self::Probe => "probe",
            Self::ConfigDump => "config_dump",
            Self::Logging => "logging",
            Self::SetLogging => "set_logging",
            Self::Profile => "profile",
            Self::Memory => "memory",
            Self::Quit => "quit",
            Self::Page => "page",
            Self::Other => "other",
        }
    }

    /// Whether it is asked with POST.
    const fn changes(self) -> bool {
        matches!(self, Self::Export | Self::Probe | Self::SetLogging | Self::Quit)
    }

    /// What a request asks for, and the identity in its path.
    fn of<'a>(method: &Method, path: &'a str) -> (Self, &'a str) {
        let what = match path {
            "/certs" => Self::Identities,
            "/roots" => Self::Roots,
            "/status" => Self::Status,
            "/workloads" => Self::Workloads,
            "/policies" => Self::Policies,
            "/connections" => Self::Connections,
            "/map.json" => Self::Map,
            "/explain" => Self::Explain,
            "/explain/arrival" => Self::Arrival,
            "/tls-check" => Self::TlsCheck,
            "/probe" => Self::Probe,
            "/config_dump" => Self::ConfigDump,
            "/logging" if *method == Method::POST => Self::SetLogging,
            "/logging" => Self::Logging,
            "/debug/pprof/profile" => Self::Profile,
            "/memory" | "/debug/pprof/heap" => Self::Memory,
            "/quitquitquit" => Self::Quit,
            _ => {
                let Some(wanted) = path.strip_prefix("/certs/") else {
                    let what = if map::page(path).is_some() { Self::Page } else { Self::Other };
                    return (what, "");
                };
                // A service account may be called `export` too: then a GET asks for its
                // certificate.
                return match wanted.strip_suffix("/export") {
                    Some(wanted) if *method != Method::GET => (Self::Export, wanted),
                    _ => (Self::Certificate, wanted),
                };
            }
        };
        (what, "")
    }
}

impl Routes {
    /// Answers one request that came by `door`.
    pub(super) async fn answer(&self, door: Door, request: Request<()>) -> (What, Reply) {
        let (what, wanted) = What::of(request.method(), request.uri().path());
        if let Err(refusal) = door.check(&request) {
            return (what, *refusal);
        }
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        let allowed = if what.changes() { *request.method() == Method::POST } else { get };
        let query = Query::of(request.uri());
        let reply = match what {
            What::Other => refuse(StatusCode::NOT_FOUND, PAGES),
            _ if !allowed => refuse_method(if what.changes() { "POST" } else { "GET, HEAD" }),
            What::Identities => self.view(State::identities).await,
            What::Certificate => self.0.certificate(wanted),
            What::Roots => pem(self.0.roots()),
            What::Export => match door {
                Door::Socket(caller) => self.0.export(caller, wanted),
                Door::Tcp => {
                    let text = "private keys leave by the unix socket only; ask there, as root";
                    refuse(StatusCode::FORBIDDEN, text)
                }
            },
            What::Status => self.view(State::status).await,
            What::Workloads => self.view(State::workloads).await,
            What::Policies => self.view(State::policies).await,
            What::Connections => match query.get("limit").map_or(Ok(flows::USUAL), |n| n.parse()) {
                Ok(limit) => self.view(move |state| state.connections(limit)).await,
                Err(_) => refuse(StatusCode::BAD_REQUEST, "`limit` is a whole number"),
            },
            What::Map => self.view(State::map).await,
            What::Explain => self.explain(query).await,
            What::Arrival => self.arrival(query).await,
            What::TlsCheck => self.tls_check(query).await,
            What::Probe => self.probe(query).await,
            What::ConfigDump => self.view(dump::config_dump).await,
            What::Logging => self.0.logging(),
            What::SetLogging => self.0.set_logging(&query),
            What::Profile => self.0.profiler.profile(query.get("seconds").as_deref()).await,
            What::Memory => memory(),
            What::Quit => self.quit(door),
            What::Page => map::page(request.uri().path()).map_or_else(
                || refuse(StatusCode::NOT_FOUND, PAGES),
                |asset| asset.answer(request.headers().get(IF_NONE_MATCH)),
            ),
        };
        (what, reply)
    }

    /// Makes an answer on a thread of its own: a large mesh takes a while.
    async fn view<T: Serialize>(&self, make: impl FnOnce(&State) -> T + Send + 'static) -> Reply {
        let state = Arc::clone(&self.0);
        let made = tokio::task::spawn_blocking(move || json(StatusCode::OK, &make(&state)));
        made.await.unwrap_or_else(|error| {
            tracing::error!(%error, "an answer of the admin server was not made");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "this answer could not be made; see the log")
        })
    }

    fn quit(&self, door: Door) -> Reply {
        if !self.0.parts.config.admin.quit {
            let text = "set `admin.quit: true` to let the agent be ended so";
            return refuse(StatusCode::FORBIDDEN, text);
        }
        let caller = match door {
            Door::Socket(caller) => caller.to_string(),
            Door::Tcp => "somebody over TCP".to_owned(),
        };
        tracing::warn!(caller, "told to end");
        self.0.parts.quit.cancel();
        text(StatusCode::OK, "ending\n")
    }
}
