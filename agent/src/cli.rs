//! What a person types: `culvert …`, and as a plugin of kubectl `kubectl culvert …`.
//!
//! ```text
//!  words ─▶ commands ─▶ one module a command ─▶ Transport ─▶ agents (socket | address | cluster)
//!                              │                    │
//!                              ▼                    ▼
//!                           Output  ◀───────── Answers, one a node
//!                    table | wide | json | yaml
//! ```
//!
//! docs/cli.md has every command, and the exit codes of [`Exit`].

mod certs;
mod commands;
mod connections;
mod context;
mod dashboard;
mod dump;
mod error;
mod exit;
mod explain;
mod logging;
mod manual;
mod mesh;
mod output;
mod preflight;
mod show;
mod start;
mod status;
mod table;
mod tls_check;
mod transport;
mod when;

pub use self::commands::{Arguments, main};
pub use self::context::Context;
pub use self::error::CliError;
pub use self::exit::Exit;
pub use self::output::{Output, colours, print};
pub use self::start::{control_runtime, start_log};
pub use self::table::{Cell, Table, Tone, plain};
pub use self::transport::{
    AgentError, Agents, Answer, Answers, Ask, Connect, Fault, Transport, TransportError,
};
pub use self::when::{age, relative};
