//! Loads the kernel programs and hangs them where they run; all of it pinned, so that an agent's
//! end does not open the node.
//!
//! A second agent on the same pins takes over: it opens the same maps and puts its own programs
//! into the same links, one atomic replacement each.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Link, ProgramError, SkLookup, SockOps, links::FdLink,
    },
};
use aya_log::EbpfLogger;
use culvert_common::maps;

use super::AttachError;
use crate::sys::{bpf, mounts, netns::Netns};

/// The object that `cargo xtask build-ebpf` made, if it had been made when this was compiled.
static OBJECT: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/kernel_object.rs"));

/// The programs that see and change the addresses of sockets.
const ON_ADDRESSES: [&str; 4] =
    [maps::CONNECT4, maps::CONNECT6, maps::GETPEERNAME4, maps::GETPEERNAME6];

/// Where things are pinned.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Below `root`, whether or not anything is there.
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directories.
    pub(super) fn create(root: &Path) -> Result<Self, AttachError> {
        if !mounts::is_bpffs(root).unwrap_or(false) {
            return Err(AttachError::NoBpffs { path: root.to_owned() });
        }
        let pins = Self::at(root);
        for directory in [pins.maps(), pins.links()] {
            fs::create_dir_all(&directory)
                .map_err(|source| AttachError::Pin { path: directory, source })?;
        }
        Ok(pins)
    }

    /// Removes every pin, and with the last reference what it held: links first, so that no
    /// program runs on maps that are gone. What is not there was what was wanted.
    pub(super) fn detach(root: &Path) -> Result<(), AttachError> {
        let pins = Self::at(root);
        for directory in [pins.links(), pins.maps()] {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                // A map is no link: then this only removes the pin.
                remove_link(&entry.path())?;
            }
            fs::remove_dir(&directory)
                .map_err(|source| AttachError::Pin { path: directory, source })?;
        }
        match fs::remove_dir(&pins.root) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AttachError::Pin { path: pins.root, source })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// Of the map `name`.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Of the link that hangs on a pod's namespace. By inode, because a BPF file system takes no
    /// dot in a name and pods' names have them.
    pub(super) fn netns_link(&self, inode: u64) -> PathBuf {
        self.links().join(format!("netns-{inode}"))
    }

    /// Inodes of the namespaces that links were hung on, also of those that are gone.
    pub(super) fn netns_inodes(&self) -> HashSet<u64> {
        let inode =
            |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("netns-")?.parse().ok();
        self.netns_links().unwrap_or_default().iter().filter_map(inode).collect()
    }

    /// Pins of links that hang on pods' namespaces, whosever they are.
    pub(super) fn netns_links(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.links())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("netns-") {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

/// Reads the kernel programs' log records and gives them to `tracing`.
pub struct KernelLog(EbpfLogger<tracing_log::LogTracer>);

impl KernelLog {
    /// Writes out what has come since the last call.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// The loaded programs.
pub(super) struct Programs {
    object: Ebpf,
    pins: Pins,
}

impl Programs {
    /// Loads the object; maps that are pinned already are opened, not made.
    pub(super) fn load(pins: Pins, host_netns: u64, workers: u16) -> Result<Self, AttachError> {
        let bytes = OBJECT.ok_or(AttachError::NoObject)?;
        let workers = u32::from(workers.max(1));
        let mut loader = EbpfLoader::new();
        loader.override_global(maps::HOST_NETNS, &host_netns, true);
        loader.override_global(maps::WORKERS, &workers, true);
        for name in maps::PINNED {
            loader.map_pin_path(name, pins.map(name));
        }
        let object = loader.load(bytes).map_err(|error| AttachError::Load(Box::new(error)))?;
        Ok(Self { object, pins })
    }

    /// The loaded object, to take its maps, and where they are pinned.
    pub(super) fn parts(&mut self) -> (&mut Ebpf, &Pins) {
        (&mut self.object, &self.pins)
    }

    /// Where things are pinned.
    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Name and number of each program that the kernel has taken.
    pub(super) fn loaded(&self) -> Vec<(String, u32)> {
        let programs = self.object.programs();
        programs
            .filter_map(|(name, program)| Some((name.to_owned(), program.info().ok()?.id())))
            .collect()
    }

    pub(super) fn take_log(&mut self) -> Option<KernelLog> {
        EbpfLogger::init_with_logger(&mut self.object, tracing_log::LogTracer::new())
            .inspect_err(|error| tracing::warn!(%error, "the kernel programs' log is not read"))
            .ok()
            .map(KernelLog)
    }

    /// Loads all programs, and hangs the node-wide ones on `cgroup`.
    pub(super) fn attach_to_cgroup(&mut self, cgroup: &Path) -> Result<(), AttachError> {
        for name in ON_ADDRESSES {
            let program: &mut CgroupSockAddr = program(&mut self.object, name)?;
            program.load().map_err(|source| refused(name, source))?;
        }
        let sock_ops: &mut SockOps = program(&mut self.object, maps::SOCK_OPS)?;
        sock_ops.load().map_err(|source| refused(maps::SOCK_OPS, source))?;
        let sk_lookup: &mut SkLookup = program(&mut self.object, maps::SK_LOOKUP)?;
        sk_lookup.load().map_err(|source| refused(maps::SK_LOOKUP, source))?;
        self.hang_on_cgroup(cgroup)
    }

    /// Hangs the loaded node-wide programs on `cgroup`: into the links that hang there already, or
    /// into new ones.
    pub(super) fn hang_on_cgroup(&mut self, cgroup: &Path) -> Result<(), AttachError> {
        if !mounts::is_cgroup2(cgroup).unwrap_or(false) {
            return Err(AttachError::NoCgroup2 { path: cgroup.to_owned() });
        }
        let directory = File::open(cgroup)
            .map_err(|source| AttachError::Pin { path: cgroup.to_owned(), source })?;
        // A cgroup's id is its directory's inode (kernfs, 64-bit machines).
        let cgroup_id = directory
            .metadata()
            .map_err(|source| AttachError::Pin { path: cgroup.to_owned(), source })?
            .ino();
        for name in ON_ADDRESSES {
            let pin = self.pins.links().join(name);
            let program: &mut CgroupSockAddr = program(&mut self.object, name)?;
            if hangs_on(&pin, cgroup_id) && take_over(&pin, name, program.fd())? {
                continue;
            }
            // A cgroup's BPF link is always one of many; any other flag is EINVAL.
            let id = program
                .attach(&directory, CgroupAttachMode::Single)
                .map_err(|source| refused(name, source))?;
            let link = program.take_link(id).map_err(|source| refused(name, source))?;
            keep(link, &pin, name)?;
        }
        let name = maps::SOCK_OPS;
        let pin = self.pins.links().join(name);
        let sock_ops: &mut SockOps = program(&mut self.object, name)?;
        if !(hangs_on(&pin, cgroup_id) && take_over(&pin, name, sock_ops.fd())?) {
            let id = sock_ops
                .attach(&directory, CgroupAttachMode::Single)
                .map_err(|source| refused(name, source))?;
            let link = sock_ops.take_link(id).map_err(|source| refused(name, source))?;
            keep(link, &pin, name)?;
        }
        Ok(())
    }

    /// Hangs the inbound program on a pod's namespace, or takes over the link that hangs there.
    pub(super) fn attach_to_netns(&mut self, netns: &Netns) -> Result<(), AttachError> {
        let name = maps::SK_LOOKUP;
        let pin = self.pins.netns_link(netns.inode());
        let sk_lookup: &mut SkLookup = program(&mut self.object, name)?;
        if hangs_on(&pin, netns.inode()) {
            take_over(&pin, name, sk_lookup.fd())?;
            return Ok(());
        }
        // The namespace that once had this inode is gone, and with it the link's purpose.
        remove_link(&pin)?;
        let id = sk_lookup.attach(netns).map_err(|source| refused(name, source))?;
        let link = sk_lookup.take_link(id).map_err(|source| refused(name, source))?;
        keep(link, &pin, name)
    }
}

/// Whether the link pinned at `pin` hangs on this very namespace, or cgroup.
fn hangs_on(pin: &Path, target: u64) -> bool {
    bpf::link_target(pin).is_ok_and(|found| found.id() == target)
}

/// Whether the link pinned at `pin` hangs on nothing any more.
pub(super) fn hangs_on_nothing(pin: &Path) -> bool {
    bpf::link_target(pin).is_ok_and(|found| found.id() == 0)
}

/// Takes a link off and removes its pin.
pub(super) fn remove_link(pin: &Path) -> Result<(), AttachError> {
    let _ = bpf::detach_link(pin); // reason: where it fails, it ends with its pin
    remove_pin(pin)
}

/// Removes a pin; that it is not there is what was wanted.
fn remove_pin(pin: &Path) -> Result<(), AttachError> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(AttachError::Pin { path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Puts the program into the link pinned at `pin`; `false`: there is none.
fn take_over(
    pin: &Path,
    program: &'static str,
    fd: Result<&aya::programs::ProgramFd, ProgramError>,
) -> Result<bool, AttachError> {
    if !pin.exists() {
        return Ok(false);
    }
    let fd = fd.map_err(|source| refused(program, source))?;
    bpf::update_link(pin, fd.as_fd()).map_err(|source| AttachError::Update { program, source })?;
    tracing::debug!(program, "took over the pinned link");
    Ok(true)
}

/// Pins a link, so that it outlives this process, in place of one that hangs elsewhere.
fn keep<L>(link: L, pin: &Path, name: &'static str) -> Result<(), AttachError>
where
    L: Link + TryInto<FdLink>,
{
    let Ok(link) = link.try_into() else {
        return Err(AttachError::Missing { name });
    };
    remove_link(pin)?;
    link.pin(pin)
        .map(drop)
        .map_err(|error| AttachError::Pin { path: pin.to_owned(), source: io::Error::other(error) })
}

fn program<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, AttachError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = object.program_mut(name).ok_or(AttachError::Missing { name })?;
    program.try_into().map_err(|_| AttachError::Missing { name })
}

fn refused(program: &'static str, source: ProgramError) -> AttachError {
    AttachError::Program { program, source: Box::new(source) }
}
