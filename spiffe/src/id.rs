//! [`SpiffeId`] and [`TrustDomain`]: one strict parser for every identity Culvert handles.
//!
//! Source: `SPIFFE-ID` sections 2.1 to 2.4; the path form is Istio's
//! (`/ns/<namespace>/sa/<service account>`), with Kubernetes' own rules for both names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

const SCHEME: &str = "spiffe://";
/// `SPIFFE-ID` section 2.3: the most bytes an ID may have.
const MAX_ID_BYTES: usize = 2048;
/// `SPIFFE-ID` section 2.3: the most bytes a trust domain name may have.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// RFC 1123 as Kubernetes applies it to namespaces.
const MAX_LABEL_BYTES: usize = 63;
/// RFC 1123 as Kubernetes applies it to service account names.
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// The name of a trust domain, such as `cluster.local`: 1 to 255 bytes of `[a-z0-9._-]`.
///
/// Cheap to clone. Source: `SPIFFE-ID` section 2.1.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of the trust domain itself, which signing certificates carry: `spiffe://<name>`.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TrustDomainLength { bytes: text.len() });
        }
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if !text.bytes().all(allowed) {
            return Err(SpiffeIdError::TrustDomain { found: shown(text) });
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
///
/// Cheap to clone; equality, order and hash are those of the text. Percent encoding, empty or dot
/// segments, query, fragment, port, user information and a trailing slash are all refused, so two
/// spellings of one identity cannot exist.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId(Arc<Parts>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    // First, because order and equality are the text's; the rest follows from it.
    text: Box<str>,
    trust_domain: TrustDomain,
    /// Where the namespace ends in `text`.
    namespace_end: usize,
}

impl SpiffeId {
    /// Builds the identity of a service account.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        if namespace.len() > MAX_LABEL_BYTES || !is_label(namespace) {
            return Err(SpiffeIdError::Namespace { found: shown(namespace) });
        }
        let subdomain = service_account.len() <= MAX_SUBDOMAIN_BYTES
            && service_account.split('.').all(is_label);
        if !subdomain {
            return Err(SpiffeIdError::ServiceAccount { found: shown(service_account) });
        }
        let text = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        let namespace_end = text.len() - "/sa/".len() - service_account.len();
        Ok(Self(Arc::new(Parts {
            text: text.into(),
            trust_domain: trust_domain.clone(),
            namespace_end,
        })))
    }

    /// The identity of Culvert's certificate authority: service account `culvert-ca` of namespace
    /// `culvert-system`. Agents accept no other as their authority; it is issued to nobody else.
    ///
    /// # Panics
    /// Never: both names are legal.
    pub fn of_authority(trust_domain: &TrustDomain) -> Self {
        Self::new(trust_domain, "culvert-system", "culvert-ca")
            .expect("both names are legal by the rules above; a test holds it")
    }

    /// The trust domain the identity belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        let start = SCHEME.len() + self.0.trust_domain.as_str().len() + "/ns/".len();
        &self.0.text[start..self.0.namespace_end]
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.0.text[self.0.namespace_end + "/sa/".len()..]
    }

    /// The whole ID, scheme included.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong { bytes: text.len() });
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| SpiffeIdError::Scheme { found: shown(text) })?;
        let (domain, path) =
            rest.split_once('/').ok_or_else(|| SpiffeIdError::Path { found: shown(text) })?;
        let trust_domain: TrustDomain = domain.parse()?;
        let mut segments = path.split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
        {
            (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) => {
                Self::new(&trust_domain, namespace, service_account)
            }
            _ => Err(SpiffeIdError::Path { found: shown(text) }),
        }
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// Why a text is not the identity of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// More than 2,048 bytes.
    #[error("SPIFFE ID has {bytes} bytes; the most allowed is 2048")]
    TooLong {
        /// Length found.
        bytes: usize,
    },
    /// Does not begin with `spiffe://`.
    #[error("`{found}` is not a SPIFFE ID; it must begin with `spiffe://`")]
    Scheme {
        /// The text, escaped and cut.
        found: String,
    },
    /// Empty, or more than 255 bytes.
    #[error("trust domain has {bytes} bytes; give a name of 1 to 255, such as `cluster.local`")]
    TrustDomainLength {
        /// Length found.
        bytes: usize,
    },
    /// A byte outside `[a-z0-9._-]`.
    #[error("`{found}` is not a trust domain; use only a-z, 0-9, `.`, `_` and `-`, without port")]
    TrustDomain {
        /// The text, escaped and cut.
        found: String,
    },
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error(
        "`{found}` does not name a service account; \
         the form is `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`"
    )]
    Path {
        /// The text, escaped and cut.
        found: String,
    },
    /// Not a DNS-1123 label.
    #[error(
        "`{found}` is not a namespace; use 1 to 63 of a-z, 0-9 and `-`, \
         beginning and ending with a letter or digit"
    )]
    Namespace {
        /// The text, escaped and cut.
        found: String,
    },
    /// Not a DNS-1123 subdomain.
    #[error(
        "`{found}` is not a service account; use 1 to 253 of a-z, 0-9, `-` and `.`, \
         each part beginning and ending with a letter or digit"
    )]
    ServiceAccount {
        /// The text, escaped and cut.
        found: String,
    },
}

/// Whether `text` is a DNS-1123 label, but for its length.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A text from outside, safe to print: control characters escaped, at most 128 characters.
pub(crate) fn shown(text: &str) -> String {
    let mut escaped: String = text.chars().take(128).flat_map(char::escape_default).collect();
    if text.chars().nth(128).is_some() {
        escaped.push('…');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_those_of_the_text() {
        let id: SpiffeId = "spiffe://td.example/ns/payments/sa/api.v2".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "td.example");
        assert_eq!(id.namespace(), "payments");
        assert_eq!(id.service_account(), "api.v2");
        assert_eq!(id.to_string(), "spiffe://td.example/ns/payments/sa/api.v2");
        assert_eq!(id.trust_domain().uri(), "spiffe://td.example");
    }

    #[test]
    fn authority_has_an_identity_of_its_own() {
        let id = SpiffeId::of_authority(&"td".parse().unwrap());
        assert_eq!(id.as_str(), "spiffe://td/ns/culvert-system/sa/culvert-ca");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td/ns/a",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns//sa/b",
            "spiffe://td//ns/a/sa/b",
            "spiffe://td/ns/a/../a/sa/b",
            "spiffe://td/ns/./sa/b",
            "spiffe://td/ns/a/sa/..",
            "spiffe://td/ns/a/sa/b.",
            "spiffe://td/ns/a/sa/.b",
            "spiffe://td/ns/a/sa/b-",
            "spiffe://td/ns/a/sa/b?q",
            "spiffe://td/ns/a/sa/b#f",
            "spiffe://td/ns/a/sa/b%2Fc",
            "spiffe://td/ns/a/sa/B",
            "spiffe://td/ns/a.b/sa/c",
            "spiffe://td:80/ns/a/sa/b",
            "spiffe://u@td/ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            " spiffe://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b\n",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/ns/a/sa/b,spiffe://td/ns/a/sa/c",
            "spiffe://td/sa/b/ns/a",
            "spiffe://td/ns/ä/sa/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let domain: TrustDomain = "td".parse().unwrap();
        assert!(SpiffeId::new(&domain, &"a".repeat(63), "b").is_ok());
        assert!(SpiffeId::new(&domain, &"a".repeat(64), "b").is_err());
        assert!(SpiffeId::new(&domain, "a", &"b".repeat(253)).is_ok());
        assert!(SpiffeId::new(&domain, "a", &"b".repeat(254)).is_err());
        assert!("t".repeat(255).parse::<TrustDomain>().is_ok());
        assert!("t".repeat(256).parse::<TrustDomain>().is_err());
    }

    #[test]
    fn errors_escape_what_they_quote() {
        let error = "spiffe://td/ns/a\u{1b}[31m/sa/b".parse::<SpiffeId>().unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was(text in "spiffe://[a-z0-9._-]{1,20}/ns/[a-z0-9-]{1,10}/sa/[a-z0-9.-]{1,20}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), &text);
                let again =
                    SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account()).unwrap();
                prop_assert_eq!(again, id);
            }
        }

        #[test]
        fn any_text_is_answered_without_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<SpiffeId>(); // only that it returns
        }

        #[test]
        fn one_changed_byte_never_keeps_the_identity(at in 0usize..40, byte in any::<u8>()) {
            let text = "spiffe://cluster.local/ns/default/sa/web";
            let mut bytes = text.as_bytes().to_vec();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            if let Ok(changed) = String::from_utf8(bytes)
                && let Ok(id) = changed.parse::<SpiffeId>()
            {
                prop_assert_ne!(id, text.parse::<SpiffeId>().unwrap());
            }
        }
    }
}
