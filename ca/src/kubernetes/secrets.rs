//! [`SecretStore`]: documents as Secrets, compared and swapped by `resourceVersion`.
//!
//! One Secret a document, because the version is the Secret's: what nodes acknowledge is written
//! every few seconds, and must not make the keys look changed. A Secret takes 1 MiB; the state has
//! some kilobytes, and what is heard of a node some 90 bytes.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{GetParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Client, Resource as _};
use serde_json::json;
use zeroize::Zeroizing;

use super::published::{CONFIG_MAP, CONFIG_MAP_KEY};
use super::{KubernetesError, NAME_LABEL, PART_LABEL, ask, found};
use crate::store::{Document, Store, StoreError, StoreFuture, Swap, Version};

/// Name of the Secret with the state, and beginning of the others' names.
const SECRET: &str = "culvert-ca";
/// Most bytes of all values of a Secret or ConfigMap.
const MOST_BYTES: usize = 1024 * 1024;

/// Documents in the Secrets of one namespace; root certificates in its ConfigMap.
#[derive(Clone)]
pub struct SecretStore {
    client: Client,
    namespace: String,
}

impl SecretStore {
    /// A store in `namespace`.
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    fn secrets(&self) -> Request {
        Request::new(Secret::url_path(&(), Some(&self.namespace)))
    }

    fn config_maps(&self) -> Request {
        Request::new(ConfigMap::url_path(&(), Some(&self.namespace)))
    }

    async fn read_secret(&self, name: &str) -> Result<Option<Document>, StoreError> {
        let asked = self.secrets().get(&secret(name), &GetParams::default());
        let Some(secret) = found(ask::<Secret>(&self.client, "read its Secret", asked).await)?
        else {
            return Ok(None);
        };
        let version = version(&secret)?;
        let bytes = secret.data.unwrap_or_default().remove(&key(name));
        // Without our key it is somebody's Secret of that name: it is not filled without being told.
        let ByteString(bytes) =
            bytes.ok_or_else(|| StoreError::ForeignSecret { secret: self::secret(name) })?;
        Ok(Some(Document { bytes: Zeroizing::new(bytes), version }))
    }

    async fn swap_secret(
        &self,
        name: &str,
        seen: Option<&Version>,
        bytes: &[u8],
    ) -> Result<Swap, StoreError> {
        let action = "write its Secret";
        if bytes.len() > MOST_BYTES {
            return Err(KubernetesError::TooLarge { action, bytes: bytes.len() }.into());
        }
        let data = BTreeMap::from([(key(name), ByteString(bytes.to_vec()))]);
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "labels": labels() },
            "data": data,
        });
        let asked = if let Some(seen) = seen {
            object["metadata"]["resourceVersion"] = seen.as_str().into();
            self.secrets().patch(&secret(name), &PatchParams::default(), &Patch::Merge(&object))
        } else {
            object["metadata"]["name"] = secret(name).into();
            self.secrets().create(&PostParams::default(), object.to_string().into_bytes())
        };
        match ask::<Secret>(&self.client, action, asked).await {
            Ok(written) => Ok(Swap::Done(version(&written)?)),
            // One that is gone was replaced by nothing: whoever reads again sees it.
            Err(error) if error.is_conflict() || (seen.is_some() && error.is_not_found()) => {
                Ok(Swap::Conflict)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn read_config_map(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let asked = self.config_maps().get(CONFIG_MAP, &GetParams::default());
        let answer = ask::<ConfigMap>(&self.client, "read its ConfigMap", asked).await;
        let map = found(answer)?;
        let roots = map.and_then(|map| map.data?.remove(CONFIG_MAP_KEY));
        Ok(roots.filter(|roots| !roots.is_empty()).map(String::into_bytes))
    }

    /// What is in it is replaced without being compared: whoever comes later knows no less.
    async fn write_config_map(&self, roots: &[u8]) -> Result<(), StoreError> {
        let object = config_map(&String::from_utf8_lossy(roots));
        write_config_map(&self.client, &self.namespace, &object).await?;
        Ok(())
    }
}

/// The ConfigMap with these roots; its namespace is where it is written to.
pub(super) fn config_map(roots: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": CONFIG_MAP, "labels": labels() },
        "data": { CONFIG_MAP_KEY: roots },
    })
}

/// Makes the ConfigMap `object` in `namespace`, or brings the one that is there to the same content.
pub(super) async fn write_config_map(
    client: &Client,
    namespace: &str,
    object: &serde_json::Value,
) -> Result<ConfigMap, KubernetesError> {
    let action = "publish root certificates in a ConfigMap";
    let maps = Request::new(ConfigMap::url_path(&(), Some(namespace)));
    let patch = || maps.patch(CONFIG_MAP, &PatchParams::default(), &Patch::Merge(object));
    if let Some(written) = found(ask(client, action, patch()).await)? {
        return Ok(written);
    }
    let asked = maps.create(&PostParams::default(), object.to_string().into_bytes());
    match ask(client, action, asked).await {
        // Made by another replica at the same moment.
        Err(error) if error.is_conflict() => ask(client, action, patch()).await,
        made => made,
    }
}

impl Store for SecretStore {
    fn read<'a>(&'a self, name: &'static str) -> StoreFuture<'a, Option<Document>> {
        Box::pin(self.read_secret(name))
    }

    fn swap<'a>(
        &'a self,
        name: &'static str,
        seen: Option<&'a Version>,
        bytes: &'a [u8],
    ) -> StoreFuture<'a, Swap> {
        Box::pin(self.swap_secret(name, seen, bytes))
    }

    fn published(&self) -> StoreFuture<'_, Option<Vec<u8>>> {
        Box::pin(self.read_config_map())
    }

    fn publish<'a>(&'a self, roots: &'a [u8]) -> StoreFuture<'a, ()> {
        Box::pin(self.write_config_map(roots))
    }
}

fn labels() -> serde_json::Value {
    json!({ NAME_LABEL.0: NAME_LABEL.1, PART_LABEL.0: PART_LABEL.1 })
}

/// Name of the Secret of a document.
fn secret(name: &str) -> String {
    if name == crate::state::DOCUMENT { SECRET.to_owned() } else { format!("{SECRET}-{name}") }
}

fn key(name: &str) -> String {
    format!("{name}.json")
}

fn version(secret: &Secret) -> Result<Version, StoreError> {
    let version = secret.metadata.resource_version.clone();
    Ok(Version::new(version.ok_or(StoreError::NoVersion)?))
}

#[cfg(test)]
mod tests;
