//! Socket options that no library offers.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

/// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h, kernel 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;
/// `IP_BIND_ADDRESS_NO_PORT` (include/uapi/linux/in.h, kernel 4.2).
const IP_BIND_ADDRESS_NO_PORT: libc::c_int = 24;
/// `IP_LOCAL_PORT_RANGE` (include/uapi/linux/in.h, kernel 6.3); serves IPv6 sockets as well.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// The cookie of the network namespace that a socket belongs to.
///
/// # Errors
/// The kernel is older than 5.14 (`ENOPROTOOPT`).
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = size_as_socklen::<u64>();
    // SAFETY: the descriptor is borrowed, so open; `cookie` and `size` are live and `size` is the
    // length of `cookie`, which the kernel fills with at most that many bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Leaves the choice of the source port to `connect`, where the whole four-tuple is known, so that
/// ports run out per destination and not per source address.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket.as_fd(), libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Limits the source ports that `connect` may choose, both ends included.
///
/// # Errors
/// As `setsockopt(2)`; `ENOPROTOOPT` before kernel 6.3.
pub fn local_port_range(socket: &impl AsFd, low: u16, high: u16) -> io::Result<()> {
    let range = (i32::from(high) << 16) | i32::from(low);
    set_option(socket.as_fd(), libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range)
}

/// The size of an option's value; a handful of bytes.
#[expect(clippy::cast_possible_truncation, reason = "sizes of integers fit any integer")]
const fn size_as_socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_as_socklen::<libc::c_int>();
    // SAFETY: the descriptor is borrowed, so open; the value lives across the call and `size` is
    // its length.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
