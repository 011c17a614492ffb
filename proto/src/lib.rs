//! Protocol buffers spoken by Culvert, and the code made from them.
//!
//! The sources are in `proto/proto/`; `cargo xtask proto` makes `src/generated/` from them, and
//! `cargo xtask check` fails when the two differ. No `protoc` is needed, neither for building nor
//! for making the code anew.
#![forbid(unsafe_code)]

/// Culvert's own interfaces.
pub mod culvert {
    /// Trust bundles and JWT-SVIDs: `culvert.ca.v1.Authority`.
    #[expect(
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "made by tonic-prost-build; the messages are documented in proto/proto"
    )]
    pub mod ca {
        include!("generated/culvert.ca.v1.rs");
    }
}

/// Interfaces of Istio.
pub mod istio {
    /// The certificate API of Istio's CA: `istio.v1.auth.IstioCertificateService`.
    #[expect(
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "made by tonic-prost-build; the messages are documented in proto/proto"
    )]
    pub mod ca {
        include!("generated/istio.v1.auth.rs");
    }
}

/// Interfaces of SPIFFE.
pub mod spiffe {
    /// The Workload API: `SpiffeWorkloadAPI`. The standard gives it no package, hence the name of
    /// the file.
    #[expect(
        clippy::pedantic,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "made by tonic-prost-build; the messages are documented in proto/proto"
    )]
    pub mod workload {
        include!("generated/_.rs");
    }
}
