//! The plugin as a runtime calls it: words in the environment, a configuration on standard input,
//! a result or an error on standard output.
//!
//! Source: CNI specification 1.1.0, section 2. What it does of its own in a chain: nothing but to
//! wait. The result of the plugins before it is passed on as it came.

mod error;
mod invocation;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use self::{
    error::PluginError,
    invocation::{Command, Invocation, VERSIONS, Verb, WhileAway},
};
use crate::{
    EXEMPT,
    ask::{self, Asked},
    off,
    protocol::{Answer, Attachment, Collection, Detachment, Key, Namespace, Request},
};

/// Largest configuration read; one with a long list of valid attachments has some hundred KiB.
const MOST_INPUT_BYTES: u64 = 8 << 20;
/// How long an agent that does not answer is waited for: one that is replaced is back in seconds.
const AWAY: Duration = Duration::from_secs(10);
/// How long the answer to an `ADD` is waited for, once an agent is there; it gives up before.
const ADD: Duration = Duration::from_secs(30);
/// How long anything else is waited for: nothing hangs on it.
const BRIEF: Duration = Duration::from_secs(3);

/// Runs the plugin in this process; returns the status to end with.
pub fn main() -> i32 {
    let mut input = Vec::new();
    // `VERSION` may come without any input, even with a terminal for one.
    let read = match std::env::var("CNI_COMMAND").as_deref() {
        Err(_) => Ok(0),
        Ok(_) => std::io::stdin().take(MOST_INPUT_BYTES).read_to_end(&mut input),
    };
    let (version, outcome) = match read {
        Ok(_) => call(&|name| std::env::var(name).ok(), &input),
        Err(source) => (None, Err(PluginError::Input(source))),
    };
    let (text, status) = match outcome {
        Ok(None) => return 0,
        Ok(Some(value)) => (value, 0),
        Err(error) => (error.document(version.as_deref()), 1),
    };
    // A runtime that does not listen any more has given up.
    let _ = writeln!(std::io::stdout(), "{text}"); // reason: see above
    status
}

/// One call: the version that an answer is to be written in, and the answer.
fn call(
    environment: &dyn Fn(&str) -> Option<String>,
    input: &[u8],
) -> (Option<String>, Result<Option<Value>, PluginError>) {
    let verb = match Verb::of(environment) {
        Ok(verb) => verb,
        Err(error) => return (None, Err(error)),
    };
    if verb == Verb::Version {
        return (None, Ok(Some(versions(input))));
    }
    let configuration = match invocation::configuration(input) {
        Ok(configuration) => configuration,
        Err(error) => return (None, Err(error)),
    };
    let version = Some(configuration.cni_version.clone());
    let done = Invocation::new(verb, configuration, environment).and_then(|call| act(&call));
    (version, done)
}

/// Answer to `VERSION`, in the version of the question.
fn versions(input: &[u8]) -> Value {
    let asked: Option<Value> = serde_json::from_slice(input).ok();
    let version = asked
        .as_ref()
        .and_then(|asked| asked.get("cniVersion")?.as_str())
        .unwrap_or(VERSIONS[VERSIONS.len() - 1]);
    json!({ "cniVersion": version, "supportedVersions": VERSIONS })
}

fn act(call: &Invocation) -> Result<Option<Value>, PluginError> {
    match &call.command {
        Command::Add(place) => {
            let result = call.previous_result()?;
            if let Some(pod) = call.pod()?.filter(|pod| !is_exempt(call, &pod.namespace)) {
                let netns = namespace(&place.netns)?;
                let attachment =
                    Attachment { key: key(call, place), pod, netns, addresses: call.addresses()? };
                hold(call, &Request::Add(attachment))?;
            }
            Ok(Some(result))
        }
        Command::Check(place) => {
            call.previous_result()?;
            if let Some(pod) = call.pod()?.filter(|pod| !is_exempt(call, &pod.namespace)) {
                let netns = namespace(&place.netns)?;
                let attachment =
                    Attachment { key: key(call, place), pod, netns, addresses: call.addresses()? };
                check(call, &Request::Check(attachment))?;
            }
            Ok(None)
        }
        Command::Delete(place) => {
            let uid = call.uid();
            tell(call, &Request::Delete(Detachment { key: key(call, place), uid }));
            Ok(None)
        }
        Command::Collect => {
            let valid = call.configuration.valid.clone();
            let network = call.configuration.name.clone();
            tell(call, &Request::Collect(Collection { network, valid }));
            Ok(None)
        }
        // Ready, whether an agent is there or not: a node whose network is not ready starts no
        // pod, and the agent is one. `ADD` says what is missing, pod by pod.
        Command::Status => Ok(None),
    }
}

/// Waits until the pod may start.
fn hold(call: &Invocation, request: &Request) -> Result<(), PluginError> {
    let configuration = &call.configuration;
    match ask::ask(&configuration.socket, request, AWAY, ADD) {
        Asked::Answered(Answer::Failed { reason, message }) => {
            Err(PluginError::Failed { reason, message })
        }
        Asked::Answered(Answer::Steered | Answer::Left | Answer::Done) | Asked::Off => Ok(()),
        // One that is there and does not answer is no reason to pass: it may be about to say no.
        Asked::Silent(source) => {
            Err(PluginError::Silent { socket: configuration.socket.clone(), source })
        }
        Asked::Away(source) => match configuration.while_away {
            WhileAway::Pass => Ok(()),
            WhileAway::Refuse => {
                Err(PluginError::Away { socket: configuration.socket.clone(), source })
            }
        },
    }
}

/// An agent that is away proves nothing: a runtime takes a failed `CHECK` for good.
fn check(call: &Invocation, request: &Request) -> Result<(), PluginError> {
    match ask::ask(&call.configuration.socket, request, Duration::ZERO, BRIEF) {
        Asked::Answered(Answer::Failed { reason, message }) => {
            Err(PluginError::Failed { reason, message })
        }
        Asked::Answered(_) | Asked::Off | Asked::Silent(_) | Asked::Away(_) => Ok(()),
    }
}

/// What nobody may be held up by: a pod goes, whether the agent hears of it or not.
fn tell(call: &Invocation, request: &Request) {
    let _ = ask::ask(&call.configuration.socket, request, Duration::ZERO, BRIEF); // reason: above
}

fn is_exempt(call: &Invocation, namespace: &str) -> bool {
    EXEMPT.contains(&namespace)
        || call.configuration.exempt_namespaces.iter().any(|exempt| exempt == namespace)
        || off::is_set(&call.configuration.socket)
}

fn key(call: &Invocation, place: &invocation::Place) -> Key {
    Key {
        network: call.configuration.name.clone(),
        container: place.container.clone(),
        interface: place.interface.clone(),
    }
}

/// The namespace at `path`, by the path that it has without links: `/var/run` is one on the node
/// and may be none in the agent's container.
fn namespace(path: &Path) -> Result<Namespace, PluginError> {
    let unreachable = |source| PluginError::Namespace { path: path.to_owned(), source };
    // What stands behind `/proc/PID/ns/net` is no path.
    let plain = if path.starts_with("/proc") {
        path.to_owned()
    } else {
        fs::canonicalize(path).map_err(unreachable)?
    };
    let metadata = fs::metadata(&plain).map_err(unreachable)?;
    Ok(Namespace { path: plain, device: metadata.dev(), inode: metadata.ino() })
}
