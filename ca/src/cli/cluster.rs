//! `culvert ca serve --kubernetes`: the parts that stand in a cluster, and their tasks.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use culvert_spiffe::{SpiffeId, TrustDomain};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::attest::Residents;
use crate::attest::kubernetes::{NodePods, Permissions, ServiceAccountTokens};
use crate::authority::Authority;
use crate::kubernetes::lease::Candidate;
use crate::kubernetes::{
    ApiServerPods, ApiServerReviewer, KubernetesError, Namespaces, Publisher, SecretStore, connect,
};
use crate::profile::ServerName;
use crate::store::Store;

/// Name of the Lease.
const LEASE: &str = "culvert-ca";
/// First wait for an API server that is away at the start.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// Longest.
const WAIT_MOST: Duration = Duration::from_secs(10);

/// What `serve --kubernetes` can be told beside the rest.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --kubernetes")]
pub(super) struct ClusterOptions {
    /// Audience that service-account tokens have to be for; repeatable.
    #[arg(long = "audience", default_value = "culvert-ca")]
    audiences: Vec<String>,
    /// Account of agents, as `namespace/name`: these ask for others on their node; repeatable.
    /// Without it `culvert-agent` in the authority's namespace.
    #[arg(long = "agent-account")]
    agents: Vec<Account>,
    /// Account that no agent is ever given a certificate of, as `namespace/name`; repeatable.
    #[arg(long = "never")]
    never: Vec<Account>,
    /// Give agents certificates of pods that no label enrols too.
    #[arg(long)]
    issue_unenrolled: bool,
    /// The Service by which agents know the authority.
    #[arg(long, default_value = "culvert-ca")]
    service: String,
    /// The cluster's domain, for the names of the Service.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// By which this replica is told from the others; in a pod its name.
    #[arg(long, env = "CULVERT_POD_NAME", default_value = "culvert-ca")]
    replica: String,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    namespace: String,
    name: String,
}

/// Why a text names no account.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no service account; write such as istio-system/ztunnel")]
struct AccountError(String);

/// The parts of an authority in a cluster, before it is opened.
pub(super) struct ClusterParts {
    pub(super) store: Arc<dyn Store>,
    pub(super) authenticator: ServiceAccountTokens<ApiServerReviewer>,
    pub(super) residents: Arc<dyn Residents>,
    pub(super) names: Vec<ServerName>,
    pub(super) tasks: ClusterTasks,
}

/// What runs beside the server.
pub(super) struct ClusterTasks {
    client: kube::Client,
    namespace: String,
    replica: String,
    namespaces: Arc<Namespaces>,
    pods: Arc<ApiServerPods>,
}

impl ClusterOptions {
    /// Makes the parts; nothing is asked of the API server yet.
    pub(super) async fn parts(
        &self,
        namespace: &str,
        domain: &TrustDomain,
    ) -> anyhow::Result<ClusterParts> {
        let client = connect().await?;
        let namespaces = Arc::new(Namespaces::new(client.clone()));
        let pods = Arc::new(ApiServerPods::new(client.clone(), namespaces.clone()));
        let permissions = self.permissions(namespace, domain)?;
        let reviewer = ApiServerReviewer::new(client.clone());
        let audiences = self.audiences.clone();
        Ok(ClusterParts {
            store: Arc::new(SecretStore::new(client.clone(), namespace.to_owned())),
            authenticator: ServiceAccountTokens::new(reviewer, domain.clone(), audiences),
            residents: Arc::new(NodePods::new(pods.clone(), domain.clone(), permissions)),
            names: self.names(namespace)?,
            tasks: ClusterTasks {
                client,
                namespace: namespace.to_owned(),
                // A container that starts again in its pod is another holder.
                replica: format!("{}_{:08x}", self.replica, rand::random::<u32>()),
                namespaces,
                pods,
            },
        })
    }

    fn permissions(&self, namespace: &str, domain: &TrustDomain) -> anyhow::Result<Permissions> {
        let own = [Account { namespace: namespace.to_owned(), name: "culvert-agent".to_owned() }];
        let agents = if self.agents.is_empty() { &own[..] } else { &self.agents };
        let ids = |accounts: &[Account]| {
            let id = |account: &Account| SpiffeId::new(domain, &account.namespace, &account.name);
            accounts.iter().map(id).collect::<Result<Vec<_>, _>>()
        };
        Ok(Permissions {
            agents: ids(agents)?,
            never: ids(&self.never)?,
            enrolled_only: !self.issue_unenrolled,
        })
    }

    /// The names of the Service.
    fn names(&self, namespace: &str) -> anyhow::Result<Vec<ServerName>> {
        let short = format!("{}.{namespace}", self.service);
        let names = [
            self.service.clone(),
            format!("{short}.svc"),
            format!("{short}.svc.{}", self.cluster_domain),
            short,
        ];
        Ok(names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?)
    }
}

impl ClusterTasks {
    /// Starts what follows the cluster, and the candidate for the lead of `authority`. All end with
    /// `cancel`.
    pub(super) fn start(
        self,
        authority: &Arc<Authority>,
        cancel: &CancellationToken,
    ) -> JoinSet<()> {
        let Self { client, namespace, replica, namespaces, pods } = self;
        let mut tasks = JoinSet::new();
        let candidate = Candidate::new(client.clone(), namespace.clone(), LEASE, replica);
        let mut leads = candidate.leads();
        let roots = authority.roots();
        let publisher =
            Publisher::new(client, namespace, namespaces.clone(), roots, candidate.leads());
        authority.lead(false);
        tasks.spawn(candidate.run(cancel.clone()));
        tasks.spawn(publisher.run(cancel.clone()));
        let stop = cancel.clone();
        tasks.spawn(async move { namespaces.follow(stop).await });
        let stop = cancel.clone();
        tasks.spawn(async move { pods.follow(stop).await });
        let authority = authority.clone();
        // Ends with the candidate, which holds the other end.
        tasks.spawn(async move {
            while leads.changed().await.is_ok() {
                authority.lead(*leads.borrow_and_update());
            }
        });
        tasks
    }
}

/// Does `work` until the API server lets it: it may be started after us, and permissions may come
/// after the pod.
pub(super) async fn patiently<T>(
    mut work: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut wait = WAIT_FIRST;
    loop {
        match work().await {
            Err(error) if error.chain().any(<dyn std::error::Error>::is::<KubernetesError>) => {
                let seconds = wait.as_secs();
                warn!(error = format!("{error:#}"), seconds, "cannot begin; waiting to try again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MOST);
            }
            ended => return ended,
        }
    }
}

impl std::str::FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let (namespace, name) =
            text.split_once('/').ok_or_else(|| AccountError(text.to_owned()))?;
        // By the parser of identities, so that nothing is found out only when a pod asks.
        let domain: TrustDomain =
            "cluster.local".parse().map_err(|_| AccountError(text.to_owned()))?;
        SpiffeId::new(&domain, namespace, name).map_err(|_| AccountError(text.to_owned()))?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        options: ClusterOptions,
    }

    fn options(words: &str) -> ClusterOptions {
        Program::parse_from(std::iter::once("serve").chain(words.split_whitespace())).options
    }

    #[test]
    fn agents_are_those_of_our_namespace_unless_others_are_named() {
        let domain: TrustDomain = "td".parse().unwrap();
        let usual = options("").permissions("mesh", &domain).unwrap();
        assert_eq!(usual.agents[0].as_str(), "spiffe://td/ns/mesh/sa/culvert-agent");
        assert!(usual.enrolled_only && usual.never.is_empty());
        let words = "--agent-account istio-system/ztunnel --never kube-system/admin \
                     --issue-unenrolled";
        let told = options(words).permissions("mesh", &domain).unwrap();
        assert_eq!(told.agents.len(), 1);
        assert_eq!(told.agents[0].as_str(), "spiffe://td/ns/istio-system/sa/ztunnel");
        assert_eq!(told.never[0].as_str(), "spiffe://td/ns/kube-system/sa/admin");
        assert!(!told.enrolled_only);
        for wrong in ["ztunnel", "a/b/c", "A/b", "/", "a/"] {
            assert!(wrong.parse::<Account>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn server_has_the_names_of_its_service() {
        let names = options("").names("culvert-system").unwrap();
        let full = ServerName::Dns("culvert-ca.culvert-system.svc.cluster.local".into());
        assert_eq!(names.len(), 4);
        assert!(names.contains(&full));
        assert!(names.contains(&ServerName::Dns("culvert-ca.culvert-system.svc".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn api_server_that_is_away_at_the_start_is_waited_for_and_other_faults_are_not() {
        let within = Duration::from_secs(5);
        let mut tries = 0;
        let begun = tokio::time::Instant::now();
        let done = patiently(async || {
            tries += 1;
            if tries < 6 {
                Err(KubernetesError::TooSlow { action: "read", within })?;
            }
            Ok(tries)
        });
        assert_eq!(done.await.unwrap(), 6);
        assert_eq!(begun.elapsed().as_secs(), 1 + 2 + 4 + 8 + 10);
        let refused = patiently(async || anyhow::Result::<()>::Err(anyhow::anyhow!("no"))).await;
        assert!(refused.is_err());
    }
}
