//! `/explain`, `/explain/arrival`, `/tls-check` and `/probe`: why a connection may be, or may not.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use culvert_spiffe::SpiffeId;
use http::StatusCode;
use serde::Serialize;

use super::answer::{json, refuse};
use super::model::Refusal;
use super::query::Query;
use super::state::{Routes, State};
use crate::explain::{Arrival, Desk, ExplainError, Question};
use crate::serve::Reply;
use crate::workload::WorkloadKey;

impl Routes {
    /// `GET /explain?source=…&destination=…[&namespace=…][&plaintext=true]`.
    pub(super) async fn explain(&self, query: Query<'_>) -> Reply {
        let question = match question(query) {
            Ok(question) => question,
            Err(reply) => return reply,
        };
        self.said(move |state| state.desk(|desk| desk.explain(&question)).map_err(unknown)).await
    }

    /// `GET /explain/arrival?to=…&source=…[&peer=…][&inside=true]`.
    pub(super) async fn arrival(&self, query: Query<'_>) -> Reply {
        let arrival = match arrival(query) {
            Ok(arrival) => arrival,
            Err(reply) => return reply,
        };
        self.said(move |state| Ok(state.desk(|desk| desk.arrival(&arrival)))).await
    }

    /// `GET /tls-check?source=…[&destination=…][&namespace=…]`.
    pub(super) async fn tls_check(&self, query: Query<'_>) -> Reply {
        let source = match wanted(query, "source") {
            Ok(source) => source.into_owned(),
            Err(reply) => return reply,
        };
        let optional = |name| query.get(name).map(Cow::into_owned);
        let (destination, namespace) = (optional("destination"), optional("namespace"));
        self.said(move |state| {
            let check = |desk: &Desk<'_>| {
                desk.tls_check(&source, destination.as_deref(), namespace.as_deref())
            };
            state.desk(check).map_err(unknown)
        })
        .await
    }

    /// `POST /probe?source=NAMESPACE/NAME&to=ADDRESS:15008&expected=ID`.
    pub(super) async fn probe(&self, query: Query<'_>) -> Reply {
        let asked = (|| {
            let source = wanted(query, "source")?;
            let (namespace, name) = source.split_once('/').ok_or_else(|| bad("source"))?;
            let to: SocketAddr = parsed(query, "to")?;
            let expected: SpiffeId = parsed(query, "expected")?;
            Ok((WorkloadKey::new(namespace, name), to, expected))
        })();
        let (source, to, expected) = match asked {
            Ok(asked) => asked,
            Err(reply) => return reply,
        };
        // Only what the data path would connect to: this is no way to reach anything else.
        let there = self
            .0
            .snapshot()
            .by_address(to.ip())
            .is_some_and(|workload| workload.enrolled && workload.identity == expected);
        if !there || to.port() != culvert_common::maps::HBONE_PORT {
            let text = "`to` and `expected` name no workload of the mesh and its HBONE port";
            return refuse(StatusCode::BAD_REQUEST, text);
        }
        match self.0.parts.prober.probe(&source, to, expected).await {
            Ok(probe) => json(StatusCode::OK, &probe),
            Err(error) => refuse(StatusCode::CONFLICT, &error.to_string()),
        }
    }

    /// Makes an answer on a thread of its own: a large mesh takes a while.
    async fn said<T: Serialize>(
        &self,
        make: impl FnOnce(&State) -> Result<T, Reply> + Send + 'static,
    ) -> Reply {
        let state = Arc::clone(&self.0);
        let made = tokio::task::spawn_blocking(move || match make(&state) {
            Ok(said) => json(StatusCode::OK, &said),
            Err(reply) => reply,
        });
        made.await.unwrap_or_else(|error| {
            tracing::error!(%error, "an explanation was not made");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "this answer could not be made; see the log")
        })
    }
}

impl State {
    /// Answers from everything the agent knows at this moment.
    fn desk<T>(&self, answer: impl FnOnce(&Desk<'_>) -> T) -> T {
        let (snapshot, steered) = (self.snapshot(), self.steered());
        let identities = self.parts.identities.identities();
        let edges = self.parts.metrics.edges();
        answer(&Desk {
            node: self.node(),
            cluster: self.parts.config.workloads.is_none(),
            snapshot: &snapshot,
            steered: &steered,
            identities: &identities,
            edges: &edges,
        })
    }
}

fn question(query: Query<'_>) -> Result<Question, Reply> {
    Ok(Question {
        source: wanted(query, "source")?.into_owned(),
        destination: wanted(query, "destination")?.into_owned(),
        namespace: query.get("namespace").map(Cow::into_owned),
        plaintext: flag(query, "plaintext"),
    })
}

fn arrival(query: Query<'_>) -> Result<Arrival, Reply> {
    let source: IpAddr = parsed(query, "source")?;
    let peer = query.get("peer").map(|_| parsed(query, "peer")).transpose()?;
    Ok(Arrival {
        to: parsed(query, "to")?,
        source: SocketAddr::new(source, 0),
        peer,
        inside: flag(query, "inside"),
    })
}

fn wanted<'a>(query: Query<'a>, name: &str) -> Result<Cow<'a, str>, Reply> {
    query.get(name).filter(|text| !text.is_empty()).ok_or_else(|| bad(name))
}

fn parsed<T: std::str::FromStr>(query: Query<'_>, name: &str) -> Result<T, Reply> {
    wanted(query, name)?.parse().map_err(|_| bad(name))
}

fn flag(query: Query<'_>, name: &str) -> bool {
    query.get(name).is_some_and(|value| !matches!(&*value, "false" | "0"))
}

fn bad(name: &str) -> Reply {
    let text = format!("`{name}` is missing or wrong; see docs/explain.md");
    refuse(StatusCode::BAD_REQUEST, &text)
}

fn unknown(error: ExplainError) -> Reply {
    json(StatusCode::NOT_FOUND, &Refusal { error: error.to_string(), known: Vec::new() })
}
