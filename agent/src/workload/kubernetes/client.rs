//! The connection to the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the API server may be silent: more than a watch lasts.
const SILENCE: Duration = Duration::from_mins(4);

/// Why the API server cannot even be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no kubeconfig where one was named, or it is none.
    #[error("cannot use the kubeconfig {path}; name another as `kubernetes.kubeconfig`")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The agent is not in a pod, or in one without a token.
    #[error(
        "this is no pod with a service account's token; mount one, or name a file as \
         `kubernetes.kubeconfig`"
    )]
    NotInCluster(#[source] InClusterError),
    /// The credentials cannot be used.
    #[error("cannot make a client of the API server; check its certificates and credentials")]
    Client(#[source] Box<kube::Error>),
}

/// A client by a kubeconfig or, without one, by the pod's own service account.
///
/// Nothing is sent yet. Tokens and roots are read again from their files as they change.
///
/// # Errors
///
/// [`ClientError`] when there are no credentials that could be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let refuse = |source| ClientError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(refuse)?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(refuse)?
        }
        None => kube::Config::incluster().map_err(ClientError::NotInCluster)?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).map_err(|error| ClientError::Client(Box::new(error)))
}
