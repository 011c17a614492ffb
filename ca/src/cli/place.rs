//! Where the authority keeps its state: a directory, or a cluster.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use crate::authority::operate::OrderError;
use crate::directory::Directory;
use crate::kubernetes::{self, SecretStore};
use crate::store::{DirectoryStore, Store};

/// The place.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Directory of the authority; `serve` makes it when absent, readable by its owner only.
    #[arg(long, required_unless_present = "kubernetes")]
    pub(super) dir: Option<PathBuf>,
    /// The authority of a cluster, its state in Secrets: that of this pod, or of KUBECONFIG.
    #[arg(long, conflicts_with = "dir")]
    pub(super) kubernetes: bool,
    /// With --kubernetes: the namespace of the authority.
    #[arg(long, env = "CULVERT_NAMESPACE", default_value = "culvert-system")]
    pub(super) namespace: String,
}

impl Place {
    /// The directory, where it is one.
    pub(super) fn directory(&self) -> anyhow::Result<Directory> {
        let path = self.dir.as_ref().context("give the authority's directory with --dir")?;
        Ok(Directory::open(path)?)
    }

    /// The store that is there: an order makes none.
    pub(super) async fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        if self.kubernetes {
            let client = kubernetes::connect().await?;
            return Ok(Arc::new(SecretStore::new(client, self.namespace.clone())));
        }
        if self.dir.as_ref().is_some_and(|path| !path.is_dir()) {
            return Err(OrderError::Absent.into());
        }
        Ok(Arc::new(DirectoryStore::new(self.directory()?)))
    }
}
