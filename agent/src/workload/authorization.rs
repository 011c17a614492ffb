//! AuthorizationPolicy, layer 4, as plain boolean algebra.
//!
//! ```text
//!  policy = any rule      rule = every clause      clause = any match      match = every term
//!           (none: never)        (none: always)             (none: never)          (none: always)
//! ```
//!
//! What Istio's form of it means, and what of it cannot be had on layer 4, is settled when a
//! document is read (see [`super::documents`]); nothing here is special.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use culvert_spiffe::SpiffeId;
use ipnet::IpNet;

use super::Workload;

/// An Istio AuthorizationPolicy, as far as layer 4 goes.
///
/// Source: istio/api `security/v1beta1/authorization_policy.proto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// `metadata.name`, unique in its namespace.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `spec.selector.matchLabels`; empty selects every workload of the namespace, or of the mesh
    /// when that is the root namespace.
    pub selector: BTreeMap<String, String>,
    /// `spec.action`.
    pub action: Action,
    /// `spec.rules`: the policy matches when any does. None: it never matches.
    pub rules: Vec<AuthorizationRule>,
    /// Annotation `istio.io/dry-run`: its verdict is only told.
    pub dry_run: bool,
}

/// What a policy does with a flow that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The flow may be. What no policy with this action matches may not, once one applies.
    Allow,
    /// The flow may not be, whatever others allow.
    Deny,
}

impl Action {
    /// As it stands in YAML.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One of `spec.rules`: matches when each of its clauses does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// Where it stands in `spec.rules`, from 0: rules before it may have been left out.
    pub index: usize,
    /// `from`, `to`, and each of `when`.
    pub clauses: Vec<Clause>,
}

/// Matches when any of its matches does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause(pub Vec<Match>);

/// Matches when each of its terms does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The peer's SPIFFE ID without `spiffe://`.
    pub principals: Term<Pattern>,
    /// The namespace in the peer's SPIFFE ID.
    pub namespaces: Term<Pattern>,
    /// The trust domain of the peer's SPIFFE ID.
    pub trust_domains: Term<Pattern>,
    /// Namespace and service account in the peer's SPIFFE ID.
    pub service_accounts: Term<(String, String)>,
    /// Where the connection comes from.
    pub source_ips: Term<IpNet>,
    /// The workload's address that it goes to.
    pub destination_ips: Term<IpNet>,
    /// The workload's own port that it goes to.
    pub destination_ports: Term<u16>,
}

/// What one field must be, and must not be. Both empty: anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term<T> {
    /// One of these, unless empty.
    pub any_of: Vec<T>,
    /// None of these.
    pub none_of: Vec<T>,
}

impl<T> Default for Term<T> {
    fn default() -> Self {
        Self { any_of: Vec::new(), none_of: Vec::new() }
    }
}

impl<T> Term<T> {
    /// Whether anything will do.
    pub fn is_empty(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }

    fn holds(&self, fits: impl Fn(&T) -> bool) -> bool {
        (self.any_of.is_empty() || self.any_of.iter().any(&fits)) && !self.none_of.iter().any(fits)
    }
}

/// A text, or what a text begins or ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `*`: there is any.
    Present,
    /// `abc`.
    Exact(String),
    /// `abc*`.
    Prefix(String),
    /// `*abc`. A further star in it is a star.
    Suffix(String),
}

impl Pattern {
    /// Reads one as Istio writes it.
    pub fn new(text: &str) -> Self {
        match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
            ("*", ..) => Self::Present,
            (_, Some(end), _) => Self::Suffix(end.to_owned()),
            (_, None, Some(begin)) => Self::Prefix(begin.to_owned()),
            _ => Self::Exact(text.to_owned()),
        }
    }

    /// Whether the text of something that is there fits.
    pub fn fits(&self, text: &str) -> bool {
        match self {
            Self::Present => !text.is_empty(),
            Self::Exact(exact) => exact == text,
            Self::Prefix(begin) => text.starts_with(begin),
            Self::Suffix(end) => text.ends_with(end),
        }
    }
}

/// All that a rule can ask of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Whom the handshake proved the peer to be; none for plaintext. What is asked of an identity
    /// is then false, and so what must *not* be is true.
    pub peer: Option<&'a SpiffeId>,
    /// Where the connection comes from; not an IPv4 address in IPv6 form.
    pub source: IpAddr,
    /// The workload's address that it goes to; not an IPv4 address in IPv6 form.
    pub destination: IpAddr,
    /// The workload's own port.
    pub port: u16,
}

impl AuthorizationPolicy {
    /// Whether the policy is about this workload, given the mesh's root namespace.
    pub fn applies_to(&self, workload: &Workload, root_namespace: &str) -> bool {
        (self.namespace == workload.namespace || self.namespace == root_namespace)
            && self.selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    }

    /// The first rule that matches.
    pub fn matching(&self, facts: &Facts<'_>) -> Option<&AuthorizationRule> {
        self.rules.iter().find(|rule| rule.matches(facts))
    }
}

impl AuthorizationRule {
    /// Whether each clause matches.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.0.iter().any(|each| each.matches(facts)))
    }
}

impl Match {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.principals.is_empty()
            && self.namespaces.is_empty()
            && self.trust_domains.is_empty()
            && self.service_accounts.is_empty()
            && self.source_ips.is_empty()
            && self.destination_ips.is_empty()
            && self.destination_ports.is_empty()
    }

    /// Whether each term holds.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        let of_peer = |fits: &dyn Fn(&SpiffeId) -> bool| facts.peer.is_some_and(fits);
        self.destination_ports.holds(|port| *port == facts.port)
            && self.destination_ips.holds(|net| net.contains(&facts.destination))
            && self.source_ips.holds(|net| net.contains(&facts.source))
            && self.namespaces.holds(|pattern| of_peer(&|id| pattern.fits(id.namespace())))
            && self.principals.holds(|pattern| of_peer(&|id| pattern.fits(principal(id))))
            && self
                .trust_domains
                .holds(|pattern| of_peer(&|id| pattern.fits(id.trust_domain().as_str())))
            && self.service_accounts.holds(|(namespace, account)| {
                of_peer(&|id| id.namespace() == namespace && id.service_account() == account)
            })
    }
}

/// The identity as policies write it.
fn principal(id: &SpiffeId) -> &str {
    id.as_str().strip_prefix("spiffe://").unwrap_or(id.as_str())
}
