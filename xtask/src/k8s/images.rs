//! The images that every cluster has: without a registry, of programs of this machine.

use super::layout;
use crate::image::{Image, Root, write};
use crate::{paths, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The image of applications.
const APPLICATIONS: &str = "localhost/lab/apps:1";

/// Programs of this machine that applications are played with.
const PROGRAMS: [&str; 3] = ["curl", "nginx", "openssl"];

/// Our own, which are there once they were built: a cluster stands without them.
const OWN_PROGRAMS: [&str; 2] = ["culvert-testapp", "culvert-load"];

/// The image that holds a pod's namespaces.
pub(super) fn pause(programs: &Path) -> Result<PathBuf> {
    let mut root = Root::default();
    root.program("pause", &programs.join("pause"))?;
    archive("localhost/lab/pause:1", root, &["/pause"])
}

/// The image of applications: a shell with the usual small tools, and what the tests play with.
pub(super) fn applications() -> Result<PathBuf> {
    let mut root = Root::default();
    shell(&mut root)?;
    for name in PROGRAMS {
        let program = paths::which(name).with_context(|| format!("no `{name}` here"))?;
        root.program(&format!("usr/bin/{name}"), &program)?;
    }
    for name in OWN_PROGRAMS {
        if let Ok(program) = culvert_tests::tool(name) {
            root.program(&format!("usr/bin/{name}"), &program)?;
        }
    }
    root.directory("var/lib/nginx", 0o755);
    root.directory("var/log/nginx", 0o755);
    root.file("etc/nginx/mime.types", 0o644, "types { text/html html; }\n");
    archive(APPLICATIONS, root, &["/bin/sh"])
}

/// A shell, users, and name lookup as glibc does it.
fn shell(root: &mut Root) -> Result<()> {
    let busybox = paths::which("busybox").context("no `busybox` here")?;
    root.program("bin/busybox", &busybox)?;
    for applet in run::read(Command::new(&busybox).arg("--list"))?.lines() {
        if applet != "busybox" {
            root.link(&format!("bin/{applet}"), "busybox");
        }
    }
    for folder in ["root", "var/run", "dev", "proc", "sys"] {
        root.directory(folder, 0o755);
    }
    root.directory("tmp", 0o1777);
    let users = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n";
    root.file("etc/passwd", 0o644, users);
    root.file("etc/group", 0o644, "root:x:0:\nwww-data:x:33:\n");
    root.file("etc/nsswitch.conf", 0o644, "hosts: files dns\n");
    Ok(())
}

/// Writes an image where the cluster's images are.
fn archive(name: &str, root: Root, entrypoint: &[&str]) -> Result<PathBuf> {
    let folder = layout::directory().join("images");
    fs::create_dir_all(&folder).context("could not make the folder of images")?;
    let image = Image {
        name: name.to_owned(),
        architecture: architecture()?.to_owned(),
        entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
        environment: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        labels: Vec::new(),
        root,
    };
    let file = folder.join(name.replace(['/', ':'], "_") + ".tar");
    write(&image, &file)?;
    Ok(file)
}

/// This machine's architecture as images have it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images are made for x86_64 and aarch64, not for {other}"),
    }
}
