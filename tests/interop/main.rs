//! What other implementations make of our certificates and of our TLS: openssl, and Go's own
//! verifier with go-spiffe. A real `culvert ca` on loopback, no lab, no root rights.
#![forbid(unsafe_code)]

mod authority;
mod openssl;
mod profile;
mod requests;
mod strict;
mod tls;
mod variants;
