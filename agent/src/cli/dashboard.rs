//! `culvert dashboard`: the live map of all agents as one, on a port of this machine.
//!
//! ```text
//!  browser ──▶ 127.0.0.1:PORT ──┬─ page, modules: from this binary
//!                               └─ /map.json, /certs, /policies ──▶ every agent ──▶ merged
//! ```

mod merge;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use http::header::IF_NONE_MATCH;
use http::{HeaderValue, Method, Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::error::CliError;
use super::exit::Exit;
use super::output::print;
use super::transport::{Agents, Answers, Ask, Connect, Transport};
use crate::admin::model::{Identities, Map, Policies, Refusal};
use crate::admin::of_another_site;
use crate::map;
use crate::serve::{self, Answer, Bounds, Reply};

/// A browser and a few of its tabs.
const BOUNDS: Bounds =
    Bounds { connections: 32, head: Duration::from_secs(30), life: Duration::from_hours(1) };

/// `culvert dashboard`.
#[derive(Args)]
pub(super) struct Command {
    #[command(flatten)]
    connect: Connect,
    /// Port of this machine's loopback to serve the page on [default: any that is free].
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
}

/// Serves the page until it is interrupted.
pub(super) fn run(command: &Command, context: &Context) -> Result<Exit, CliError> {
    let transport = Transport::open(&command.connect, context.plugin)?;
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, command.port));
    let refuse = |source| CliError::Listen { address: wanted, source };
    transport.block_on(async {
        let listener = serve::listen(wanted).map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        print(&format!("the map is at http://{address}/ until this command ends (Ctrl-C)\n"))?;
        let stop = CancellationToken::new();
        let served =
            serve::run("dashboard", listener, Front(transport.agents()), BOUNDS, stop.clone());
        tokio::select! {
            () = served => {}
            // Without a handler the signal itself would end the command, which is as well.
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(Exit::Done)
    })
}

/// Answers from what all agents say.
#[derive(Clone)]
struct Front(Agents);

impl Answer<SocketAddr> for Front {
    async fn answer(&self, _peer: SocketAddr, request: Request<()>) -> Reply {
        if of_another_site(&request) {
            return refuse(StatusCode::FORBIDDEN, "ask for 127.0.0.1 or localhost");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD");
        }
        match request.uri().path() {
            "/map.json" => self.merged("/map.json", merge::maps as fn(Vec<Map>) -> Map).await,
            "/certs" => {
                let merge: fn(Vec<Identities>) -> Identities = merge::identities;
                self.merged("/certs", merge).await
            }
            "/policies" => {
                let merge: fn(Vec<Policies>) -> Policies = merge::policies;
                self.merged("/policies", merge).await
            }
            path => match map::page(path) {
                Some(asset) => asset.answer(request.headers().get(IF_NONE_MATCH)),
                None => refuse(StatusCode::NOT_FOUND, "no such page; there is /"),
            },
        }
    }
}

impl Front {
    /// What the agents that answer say, as one. Those that do not are left out, and told of when
    /// none does.
    async fn merged<T, U>(&self, path: &str, merge: fn(Vec<T>) -> U) -> Reply
    where
        T: DeserializeOwned,
        U: Serialize,
    {
        let answers: Answers<T> = self.0.ask(&Ask::get(path)).await;
        if answers.good.is_empty() {
            let why = answers.faults.first().map(|fault| fault.line()).unwrap_or_default();
            return refuse(StatusCode::BAD_GATEWAY, &format!("no agent answers: {why}"));
        }
        json(StatusCode::OK, &merge(answers.good.into_iter().map(|one| one.answer).collect()))
    }
}

fn refuse(status: StatusCode, error: &str) -> Reply {
    json(status, &Refusal { error: error.to_owned(), known: Vec::new() })
}

fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    // Structs of strings and numbers; writing them to memory does not fail.
    let text = serde_json::to_vec(body).unwrap_or_default();
    serve::reply(status, HeaderValue::from_static("application/json"), text)
}
