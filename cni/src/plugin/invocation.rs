//! One call of the plugin, read and checked.

use std::{net::IpAddr, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::error::PluginError;
use crate::{
    DEFAULT_SOCKET,
    protocol::{Pod, ValidAttachment},
};

/// Versions of the specification that the plugin follows, oldest first. Before 0.3.0 there were no
/// chains.
pub(super) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Check,
    Delete,
    Collect,
    Status,
    Version,
}

impl Verb {
    /// What `CNI_COMMAND` says.
    pub(super) fn of(environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, PluginError> {
        match required(environment, "CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Self::Add),
            "CHECK" => Ok(Self::Check),
            "DEL" => Ok(Self::Delete),
            "GC" => Ok(Self::Collect),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            _ => Err(PluginError::Environment { name: "CNI_COMMAND", problem: "unknown" }),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Delete => "DEL",
            Self::Collect => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The oldest version that knows it.
    const fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Delete | Self::Version => "0.3.0",
            Self::Check => "0.4.0",
            Self::Collect | Self::Status => "1.1.0",
        }
    }
}

/// What is to be done, with all that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add(Place),
    Check(Place),
    Delete(Place),
    Collect,
    Status,
}

/// Where an attachment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) container: String,
    pub(super) interface: String,
    /// Empty for a `DEL` whose namespace is gone.
    pub(super) netns: PathBuf,
}

/// What becomes of a pod's start while no agent answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WhileAway {
    /// It fails, and the kubelet tries again.
    #[default]
    Refuse,
    /// It goes on without protection until the agent finds the pod.
    Pass,
}

/// The plugin's own part of the network configuration, and what the runtime adds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Configuration {
    #[serde(default)]
    pub(super) cni_version: String,
    /// The name of the network.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default = "default_socket")]
    pub(super) socket: PathBuf,
    #[serde(default)]
    pub(super) exempt_namespaces: Vec<String>,
    #[serde(default)]
    pub(super) while_away: WhileAway,
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub(super) valid: Vec<ValidAttachment>,
}

fn default_socket() -> PathBuf {
    DEFAULT_SOCKET.into()
}

/// One call of the plugin.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) command: Command,
    pub(super) configuration: Configuration,
    arguments: Vec<(String, String)>,
}

/// Reads standard input.
pub(super) fn configuration(input: &[u8]) -> Result<Configuration, PluginError> {
    serde_json::from_slice(input).map_err(PluginError::Decode)
}

impl Invocation {
    /// Puts a call together; whatever the verb needs is there.
    pub(super) fn new(
        verb: Verb,
        configuration: Configuration,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, PluginError> {
        let index = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let version = &configuration.cni_version;
        if index(version).is_none_or(|version| Some(version) < index(verb.since())) {
            return Err(PluginError::Version { version: version.clone(), verb: verb.name() });
        }
        let place = |netns: String| -> Result<Place, PluginError> {
            Ok(Place {
                container: required(environment, "CNI_CONTAINERID")?,
                interface: required(environment, "CNI_IFNAME")?,
                netns: netns.into(),
            })
        };
        let command = match verb {
            Verb::Add => Command::Add(place(required(environment, "CNI_NETNS")?)?),
            Verb::Check => Command::Check(place(required(environment, "CNI_NETNS")?)?),
            // The namespace may be gone already.
            Verb::Delete => Command::Delete(place(environment("CNI_NETNS").unwrap_or_default())?),
            Verb::Collect => Command::Collect,
            Verb::Status | Verb::Version => Command::Status,
        };
        let arguments = environment("CNI_ARGS").unwrap_or_default();
        let arguments = arguments
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Self { command, configuration, arguments })
    }

    /// What the plugins before this one made, to be passed on.
    pub(super) fn previous_result(&self) -> Result<Value, PluginError> {
        let mut result = match &self.configuration.prev_result {
            Some(Value::Object(result)) => result.clone(),
            Some(_) | None => return Err(PluginError::NotChained),
        };
        let version = || Value::String(self.configuration.cni_version.clone());
        result.entry("cniVersion").or_insert_with(version);
        Ok(Value::Object(result))
    }

    /// The pod that the call is for; none for a container that is in no pod.
    pub(super) fn pod(&self) -> Result<Option<Pod>, PluginError> {
        let words = ["K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID"];
        let values = words.map(|name| (name, self.argument(name)));
        if values.iter().all(|(_, value)| value.is_none()) {
            return Ok(None);
        }
        let value = |(name, value): &(&'static str, Option<&str>)| {
            value
                .map(str::to_owned)
                .ok_or(PluginError::Environment { name, problem: "missing in CNI_ARGS" })
        };
        let [namespace, name, uid] = &values;
        Ok(Some(Pod { namespace: value(namespace)?, name: value(name)?, uid: value(uid)? }))
    }

    /// The pod's UID, if it is told.
    pub(super) fn uid(&self) -> Option<String> {
        self.argument("K8S_POD_UID").map(str::to_owned)
    }

    fn argument(&self, wanted: &str) -> Option<&str> {
        let found = self.arguments.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The addresses inside the container that the plugins before this one tell.
    pub(super) fn addresses(&self) -> Result<Vec<IpAddr>, PluginError> {
        let result = self.configuration.prev_result.as_ref();
        let list = |name: &str| {
            result.and_then(|result| result.get(name)?.as_array()).map_or(&[][..], Vec::as_slice)
        };
        let interfaces = list("interfaces");
        let mut addresses = Vec::new();
        for entry in list("ips") {
            // An interface on the host's side has no sandbox; where none is told, it is inside.
            let interface = entry.get("interface").and_then(Value::as_u64);
            let interface = interface
                .and_then(|index| usize::try_from(index).ok())
                .and_then(|index| interfaces.get(index));
            let sandbox = |interface: &Value| {
                interface.get("sandbox").and_then(Value::as_str).is_some_and(|s| !s.is_empty())
            };
            if interface.is_some_and(|interface| !sandbox(interface)) {
                continue;
            }
            let text = entry.get("address").and_then(Value::as_str).unwrap_or_default();
            let bare = text.split('/').next().unwrap_or_default();
            let address: IpAddr =
                bare.parse().map_err(|_| PluginError::Address { text: text.to_owned() })?;
            addresses.push(address);
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }
}

fn required(
    environment: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<String, PluginError> {
    environment(name)
        .filter(|value| !value.is_empty())
        .ok_or(PluginError::Environment { name, problem: "missing" })
}
