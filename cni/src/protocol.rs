//! What plugin and agent say to each other: a line of JSON each way, one question a connection.
//!
//! They need not be of one version: a plugin stays on the node until the next agent has copied its
//! own there. What is added later must be optional; an unknown command is answered, not understood.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Longest line either way. An attachment has some hundred bytes; a `collect` some hundred a
/// container.
pub const MOST_BYTES: u64 = 1 << 20;

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase")]
pub enum Request {
    /// A pod's network was made; nothing runs in it before the answer.
    Add(Attachment),
    /// Is it still as it should be?
    Check(Attachment),
    /// A pod's network is about to be taken down.
    Delete(Detachment),
    /// What is not named here is gone.
    Collect(Collection),
    /// Is there an agent?
    Ping,
}

/// A pod's network as its runtime has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Which one.
    #[serde(flatten)]
    pub key: Key,
    /// Whose.
    pub pod: Pod,
    /// Where.
    pub netns: Namespace,
    /// What the plugins before this one gave it.
    pub addresses: Vec<IpAddr>,
}

/// A pod's network that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detachment {
    /// Which one.
    #[serde(flatten)]
    pub key: Key,
    /// The pod's UID, where the runtime tells it this time too.
    pub uid: Option<String>,
}

/// Every network that there still is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collection {
    /// The name of the network.
    pub network: String,
    /// Its attachments.
    pub valid: Vec<ValidAttachment>,
}

/// One attachment of a network, as CNI's `cni.dev/valid-attachments` has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface inside.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// What CNI tells attachments apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// The name of the network.
    pub network: String,
    /// The container: the pod's sandbox.
    pub container: String,
    /// The interface inside.
    pub interface: String,
}

/// A pod, in the runtime's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, as the runtime has it.
    pub uid: String,
}

/// A network namespace as the plugin sees it: the path may lead elsewhere for the agent, in its
/// own mount namespace; device and inode may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// Its path without links, as the plugin sees it.
    pub path: PathBuf,
    /// The device of its file.
    pub device: u64,
    /// The inode of its file.
    pub inode: u64,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Answer {
    /// The pod is in the mesh, and all of its connections are captured.
    Steered,
    /// The pod is none of the mesh's business.
    Left,
    /// It was noted.
    Done,
    /// It did not go; the pod must not start.
    Failed {
        /// What to do about it.
        reason: Reason,
        /// For people.
        message: String,
    },
}

impl Answer {
    /// The label of the metric.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Steered => "steered",
            Self::Left => "left",
            Self::Done => "done",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The same will go later.
    Later,
    /// The request is not understood: plugin and agent do not fit, or the runtime tells too little.
    Request,
    /// The agent does not see the namespace: something is not mounted into its container.
    Namespace,
    /// Who asks may not.
    Caller,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_one_flat_object() {
        let request = Request::Delete(Detachment {
            key: Key { network: "pods".into(), container: "c1".into(), interface: "eth0".into() },
            uid: None,
        });
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(
            text,
            r#"{"command":"delete","network":"pods","container":"c1","interface":"eth0","uid":null}"#
        );
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let text = r#"{"command":"ping","since":"later"}"#;
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), Request::Ping);
        let text = r#"{"outcome":"steered","milliseconds":3}"#;
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), Answer::Steered);
    }
}
