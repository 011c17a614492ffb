//! An image of one layer as a file: an OCI image layout (image-spec 1.1, "Image Layout") in a tar,
//! with the `manifest.json` of `docker save` beside it, which names the same blobs.

use super::Root;
use super::archive::{Archive, Kind};
use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The one moment that every image of ours was made at, so that it can be made again.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// An image.
pub(crate) struct Image {
    /// Name and tag, `localhost/culvert:0.1.0`.
    pub(crate) name: String,
    /// As Go names it: `amd64`, `arm64`.
    pub(crate) architecture: String,
    /// What a container runs when it names nothing else.
    pub(crate) entrypoint: Vec<String>,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
    /// Labels of the image.
    pub(crate) labels: Vec<(String, String)>,
    /// Its files.
    pub(crate) root: Root,
}

/// A blob with its digest.
struct Blob {
    bytes: Vec<u8>,
    digest: String,
}

/// Writes the image and tells the digest of its manifest.
pub(crate) fn write(image: &Image, output: &Path) -> Result<String> {
    let tag = tag(&image.name)?;
    let layer = Blob::new(image.root.layer()?);
    let config = Blob::json(&configuration(image, &layer))?;
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": [layer.descriptor(LAYER)],
    }))?;
    let mut archive = Archive::default();
    archive.add("blobs", 0o755, &Kind::Directory)?;
    archive.add("blobs/sha256", 0o755, &Kind::Directory)?;
    for blob in [&config, &layer, &manifest] {
        archive.add(&blob.path(), 0o644, &Kind::File(&blob.bytes))?;
    }
    let documents = [
        ("index.json", index(image, tag, &manifest)),
        (
            "manifest.json",
            json!([{
                "Config": config.path(),
                "RepoTags": [image.name],
                "Layers": [layer.path()],
            }]),
        ),
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
    ];
    for (name, document) in documents {
        archive.add(name, 0o644, &Kind::File(&serde_json::to_vec(&document)?))?;
    }
    fs::write(output, archive.finish())
        .with_context(|| format!("could not write {}", output.display()))?;
    Ok(manifest.digest)
}

/// The tag of a name. A colon before a slash is a port's.
fn tag(name: &str) -> Result<&str> {
    match name.rsplit_once(':') {
        Some((repository, tag))
            if !repository.is_empty() && !tag.is_empty() && !tag.contains('/') =>
        {
            Ok(tag)
        }
        _ => bail!("`{name}` has no tag; write NAME:TAG, as in `localhost/culvert:0.1.0`"),
    }
}

fn configuration(image: &Image, layer: &Blob) -> Value {
    let labels: serde_json::Map<_, _> =
        image.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        "created": CREATED,
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "Env": image.environment,
            "Entrypoint": image.entrypoint,
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        "history": [{"created": CREATED, "created_by": "cargo xtask image"}],
    })
}

/// The entry of the layout. The first annotation is the standard's, which has only the tag;
/// containerd takes the whole name from the second.
fn index(image: &Image, tag: &str, manifest: &Blob) -> Value {
    let mut descriptor = manifest.descriptor(MANIFEST);
    descriptor["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    descriptor["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag,
        "io.containerd.image.name": image.name,
    });
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]})
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let mut hex = String::from("sha256:");
        for byte in digest(&SHA256, &bytes).as_ref() {
            // Writing into a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self { bytes, digest: hex }
    }

    fn json(document: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(document)?))
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}
