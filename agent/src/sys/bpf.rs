//! Three commands of `bpf(2)` that aya does not offer: replacing the program of a pinned link, asking
//! what a pinned link hangs on, and taking it off.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// enum bpf_cmd, include/uapi/linux/bpf.h
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

// enum bpf_link_type, include/uapi/linux/bpf.h
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_NETNS: u32 = 5;

/// `union bpf_attr`, as far as it is used here; the kernel takes the rest as zero.
#[repr(C, align(8))]
struct Attr([u32; 32]);

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live, aligned value of the size given, and each command used here reads
    // only the leading fields that its caller has set.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.0.as_mut_ptr(), size_of::<Attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// Opens the link pinned at `path`.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr([0; 32]);
    split(path.as_ptr() as u64, &mut attr.0[0..2]);
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `program` in the place of the one that the link pinned at `path` runs: at no moment is
/// there none, or both (kernel 5.7).
///
/// # Errors
/// No such pin, or the program is of another kind.
pub fn update_link(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open(path)?;
    let mut attr = Attr([0; 32]);
    attr.0[0] = raw(link.as_raw_fd());
    attr.0[1] = raw(program.as_raw_fd());
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Takes the link pinned at `path` off what it hangs on: its program runs no more once this returns
/// (kernel 5.9). Without this it would only once the kernel has let go of the pin, some time later.
///
/// # Errors
/// No such pin, or it is not a link.
pub fn detach_link(path: &Path) -> io::Result<()> {
    let link = open(path)?;
    let mut attr = Attr([0; 32]);
    attr.0[0] = raw(link.as_raw_fd());
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// What a pinned link hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// A network namespace, by its inode; 0 once it is gone.
    Netns(u32),
    /// A cgroup, by its id; 0 once it is gone.
    Cgroup(u64),
}

impl LinkTarget {
    /// The inode or id.
    pub fn id(self) -> u64 {
        match self {
            Self::Netns(inode) => inode.into(),
            Self::Cgroup(id) => id,
        }
    }
}

/// Asks what the link pinned at `path` hangs on (kernel 5.8).
///
/// # Errors
/// No such pin, or it is not a link.
pub fn link_target(path: &Path) -> io::Result<LinkTarget> {
    let link = open(path)?;
    // struct bpf_link_info: type, id, prog_id, padding, then the target's own part.
    let mut info = [0_u32; 32];
    let mut attr = Attr([0; 32]);
    attr.0[0] = raw(link.as_raw_fd());
    attr.0[1] = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    split(info.as_mut_ptr() as u64, &mut attr.0[2..4]);
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    match info[0] {
        BPF_LINK_TYPE_CGROUP => Ok(LinkTarget::Cgroup(joined(&info[4..6]))),
        BPF_LINK_TYPE_NETNS => Ok(LinkTarget::Netns(info[4])),
        kind => Err(io::Error::other(format!("link of another kind ({kind})"))),
    }
}

fn raw(fd: i32) -> u32 {
    u32::try_from(fd).expect("an open descriptor is not negative")
}

/// Reads a 64-bit field out of two words, in the machine's own order.
fn joined(words: &[u32]) -> u64 {
    let mut bytes = [0; 8];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    u64::from_ne_bytes(bytes)
}

/// Writes a 64-bit field over two words, in the machine's own order.
fn split(value: u64, words: &mut [u32]) {
    let bytes = value.to_ne_bytes();
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    }
}
