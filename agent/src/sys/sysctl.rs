//! Values of `/proc/sys`, also where that is mounted read-only, as container runtimes do.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::fs::{Mode, OFlags, openat};

// include/uapi/linux/mount.h
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;

/// Sets values of the calling thread's network namespace, such as
/// `("net/ipv4/tcp_fwmark_accept", "1")`; those that are so already are left alone.
///
/// A container's `/proc/sys` is read-only, though the kernel lets whoever has `CAP_NET_ADMIN` over
/// the namespace set its values. Then they are set through a fresh procfs that is mounted nowhere:
/// nobody else sees it, and it goes when its descriptor is closed. That takes `CAP_SYS_ADMIN` and
/// kernel 5.2, and spares the agent a writable mount of the host's `/proc`.
///
/// # Errors
/// The name that could not be set, and why.
pub fn set(values: &[(&'static str, &str)]) -> Result<(), (&'static str, io::Error)> {
    let mut own = None;
    for &(name, value) in values {
        let done = set_one(name, value, &mut own);
        done.map_err(|error| (name, error))?;
    }
    Ok(())
}

fn set_one(name: &str, value: &str, own: &mut Option<OwnedFd>) -> io::Result<()> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|is| is.trim() == value) {
        return Ok(());
    }
    match std::fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
        done => return done,
    }
    let procfs = match own {
        Some(procfs) => procfs,
        None => own.insert(detached_procfs()?),
    };
    let name = format!("sys/{name}");
    let file = openat(procfs, name.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(file).write_all(value.as_bytes())
}

/// A procfs of this process namespace that is part of no mount tree.
fn detached_procfs() -> io::Result<OwnedFd> {
    let context = fsopen(c"proc")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd())
}

fn fsopen(kind: &std::ffi::CStr) -> io::Result<OwnedFd> {
    // SAFETY: `kind` is a terminated string that lives across the call.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
    owned(fd)
}

fn fsconfig_create(context: BorrowedFd<'_>) -> io::Result<()> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the descriptor is borrowed, so open; this command takes neither key nor value.
    let done = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            none,
            none,
            0 as libc::c_int,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn fsmount(context: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags: libc::c_uint = 0;
    // SAFETY: the descriptor is borrowed, so open; the rest are numbers.
    let fd =
        unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, flags) };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmounted_procfs_shows_this_process() {
        let Ok(procfs) = detached_procfs() else {
            eprintln!("SKIP: no rights to mount, or a kernel before 5.2");
            return;
        };
        let file = openat(&procfs, "self/comm", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let seen = io::read_to_string(File::from(file.unwrap())).unwrap();
        assert_eq!(seen, std::fs::read_to_string("/proc/self/comm").unwrap());
    }

    #[test]
    fn value_that_there_is_none_of_is_named() {
        let (name, error) = set(&[("net/ipv4/no_such_value", "1")]).unwrap_err();
        assert_eq!(name, "net/ipv4/no_such_value");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
