//! An IP address as both sides of the border keep it.

/// The third word of every IPv4 address mapped into IPv6 (`::ffff:0:0/96`).
pub const MAPPED_BE: u32 = 0xffff_u32.to_be();

/// An IPv6 address, or an IPv4 address mapped into IPv6; four words in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addr(pub [u32; 4]);

const _: () = assert!(size_of::<Addr>() == 16 && align_of::<Addr>() == 4);

impl Addr {
    /// The address `::`, which stands for "none".
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// Maps an IPv4 address, given in network order.
    #[inline(always)]
    pub const fn from_v4_be(addr_be: u32) -> Self {
        Self([0, 0, MAPPED_BE, addr_be])
    }

    /// The IPv4 address in network order; meaningful only where [`Self::is_v4`] holds.
    #[inline(always)]
    pub const fn v4_be(self) -> u32 {
        self.0[3]
    }

    /// Whether this is an IPv4 address mapped into IPv6.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED_BE
    }

    /// Whether this is `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[3] == 0 && (self.0[2] == 0 || self.is_v4())
    }

    /// Whether this is `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            return self.0[3] & 0xff00_0000_u32.to_be() == 0x7f00_0000_u32.to_be();
        }
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be()
    }

    /// Whether this is `169.254.0.0/16` (RFC 3927) or `fe80::/10` (RFC 4291 section 2.5.6).
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        if self.is_v4() {
            return self.0[3] & 0xffff_0000_u32.to_be() == 0xa9fe_0000_u32.to_be();
        }
        self.0[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be()
    }

    /// Whether packets to this address cannot leave the link: loopback, link-local, unspecified.
    #[inline(always)]
    pub const fn stays_near(self) -> bool {
        self.is_loopback() || self.is_unspecified() || self.is_link_local()
    }

    /// Whether both are the same address, word by word: the comparison the verifier accepts.
    #[inline(always)]
    pub const fn same(self, other: Self) -> bool {
        self.0[0] == other.0[0]
            && self.0[1] == other.0[1]
            && self.0[2] == other.0[2]
            && self.0[3] == other.0[3]
    }
}

#[cfg(feature = "user")]
mod user {
    use std::net::{IpAddr, Ipv6Addr};

    use super::Addr;

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            let octets = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            Self(core::array::from_fn(|word| {
                let at = word * 4;
                u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
            }))
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            let mut octets = [0; 16];
            for (bytes, word) in octets.chunks_exact_mut(4).zip(addr.0) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            Self::V6(Ipv6Addr::from(octets)).to_canonical()
        }
    }
}

#[cfg(test)]
#[cfg(feature = "user")]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn addresses_survive_the_border() {
        for text in ["10.1.2.3", "0.0.0.0", "fd00:1::2", "::1", "255.255.255.255"] {
            assert_eq!(IpAddr::from(addr(text)), text.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn classes_match_the_standard_library() {
        for text in ["127.0.0.1", "127.9.9.9", "::1", "128.0.0.1", "::2", "10.0.0.1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(addr(text).is_loopback(), ip.is_loopback(), "{text}");
            assert_eq!(addr(text).is_v4(), ip.is_ipv4(), "{text}");
        }
        assert!(addr("::ffff:127.0.0.1").is_loopback());
        assert!(addr("0.0.0.0").is_unspecified() && addr("::").is_unspecified());
        assert!(!addr("::1").is_unspecified() && !addr("0.0.0.1").is_unspecified());
        assert!(addr("169.254.1.1").is_link_local() && addr("fe80::1").is_link_local());
        assert!(!addr("169.255.1.1").is_link_local() && !addr("fec0::1").is_link_local());
    }
}
