//! Whether a pod is to be in the mesh: the one rule about labels, for authority and agents alike.
//!
//! ```text
//!  labels of the pod ───────▶ reading ─┐
//!  labels of its namespace ─▶ reading ─┴▶ Candidate ──▶ decide ──▶ Enrolled(by) │ Left(why)
//! ```
//!
//! | on a Namespace or a Pod | in | out |
//! |---|---|---|
//! | `culvert.io/dataplane-mode` | `enabled` | `disabled` |
//! | `istio.io/dataplane-mode` | `ambient` | `none` |
//!
//! A pod's own label counts before its namespace's, and on one object Culvert's before Istio's. A
//! label with another value is reported and counts as if it were not there. Whatever labels say,
//! pods in the network of their host, pods with a sidecar, and those of [`NEVER`] stay out.
//!
//! Pure: whoever calls it keeps a [`Reading`] an object, and may drop the labels.

use std::collections::BTreeMap;
use std::fmt;

/// The label of our own.
pub const CULVERT_LABEL: &str = "culvert.io/dataplane-mode";
/// The label by which Istio's ambient mode is asked for.
pub const ISTIO_LABEL: &str = "istio.io/dataplane-mode";
/// The annotation by which an injected sidecar is known.
pub const SIDECAR_ANNOTATION: &str = "sidecar.istio.io/status";
/// Namespaces whose pods are never in the mesh: what the mesh itself stands on.
pub const NEVER: [&str; 2] = ["kube-system", "culvert-system"];

/// Most characters of a wrong value that are told. Kubernetes lets a label have 63.
const TOLD: usize = 63;

/// Labels or annotations as Kubernetes has them.
pub type Labels = BTreeMap<String, String>;

/// What the labels of one object ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Into the mesh.
    In(Label),
    /// Out of it.
    Out(Label),
}

/// Which of the two labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// [`CULVERT_LABEL`].
    Culvert,
    /// [`ISTIO_LABEL`].
    Istio,
}

/// What was read from the labels of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What they ask for, if anything.
    pub wish: Option<Wish>,
    /// Labels with values that mean nothing. Mostly none; to be reported on the object.
    pub malformed: Vec<Malformed>,
}

/// A label whose value means nothing. Its text says what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "label {label} has the value {value:?}, which means nothing and counts for nothing; set it to \
     `{}` or `{}`, or take it off", .label.wanted().0, .label.wanted().1
)]
pub struct Malformed {
    /// Which label.
    pub label: Label,
    /// Its value, cut to what a label may have.
    pub value: String,
}

/// What is asked about a pod.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Whether [`SIDECAR_ANNOTATION`] is on it; see [`has_sidecar`].
    pub sidecar: bool,
    /// What its own labels ask for.
    pub pod: Option<Wish>,
    /// What its namespace's labels ask for; `None` too when the namespace is not known.
    pub of_namespace: Option<Wish>,
}

/// Whether a pod is to be in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Enrolment {
    /// It is.
    Enrolled(By),
    /// It is not.
    Left(Why),
}

/// On which object the label stands that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// The pod.
    Pod(Label),
    /// Its namespace.
    Namespace(Label),
}

/// Why a pod is not to be in the mesh. The texts of [`Why::label`] are a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// It has its host's network: nothing could be steered for it alone.
    HostNetwork,
    /// Its namespace is one that the mesh stands on.
    SystemNamespace,
    /// A sidecar carries its connections.
    Sidecar,
    /// A label says so.
    OptedOut(By),
    /// No label says anything.
    NotAsked,
}

impl Reading {
    /// Reads the labels of a pod or a namespace.
    pub fn of(labels: &Labels) -> Self {
        let mut reading = Self::default();
        for label in [Label::Culvert, Label::Istio] {
            let Some(value) = labels.get(label.key()) else { continue };
            match label.wish(value) {
                Some(wish) => {
                    reading.wish.get_or_insert(wish);
                }
                None => reading
                    .malformed
                    .push(Malformed { label, value: value.chars().take(TOLD).collect() }),
            }
        }
        reading
    }

    /// The same, of labels that may be absent, as Kubernetes' objects have them.
    pub fn of_optional(labels: Option<&Labels>) -> Self {
        labels.map(Self::of).unwrap_or_default()
    }
}

/// Whether a pod with these annotations has an injected sidecar.
pub fn has_sidecar(annotations: &Labels) -> bool {
    annotations.contains_key(SIDECAR_ANNOTATION)
}

impl Candidate<'_> {
    /// Decides.
    pub fn decide(&self) -> Enrolment {
        if self.host_network {
            return Enrolment::Left(Why::HostNetwork);
        }
        if NEVER.contains(&self.namespace) {
            return Enrolment::Left(Why::SystemNamespace);
        }
        let pod = self.pod.map(|wish| (wish, By::Pod as fn(Label) -> By));
        let namespace = self.of_namespace.map(|wish| (wish, By::Namespace as fn(Label) -> By));
        match pod.or(namespace) {
            None => Enrolment::Left(Why::NotAsked),
            Some((Wish::Out(label), by)) => Enrolment::Left(Why::OptedOut(by(label))),
            Some((Wish::In(_), _)) if self.sidecar => Enrolment::Left(Why::Sidecar),
            Some((Wish::In(label), by)) => Enrolment::Enrolled(by(label)),
        }
    }
}

impl Enrolment {
    /// Whether it is to be in the mesh.
    pub const fn is_enrolled(self) -> bool {
        matches!(self, Self::Enrolled(_))
    }
}

impl Label {
    /// The key of the label.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Culvert => CULVERT_LABEL,
            Self::Istio => ISTIO_LABEL,
        }
    }

    /// The values that mean something: in, out.
    const fn wanted(self) -> (&'static str, &'static str) {
        match self {
            Self::Culvert => ("enabled", "disabled"),
            Self::Istio => ("ambient", "none"),
        }
    }

    fn wish(self, value: &str) -> Option<Wish> {
        let (inside, outside) = self.wanted();
        match value {
            _ if value == inside => Some(Wish::In(self)),
            _ if value == outside => Some(Wish::Out(self)),
            _ => None,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.key())
    }
}

impl Why {
    /// As logs and metrics name it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network",
            Self::SystemNamespace => "system_namespace",
            Self::Sidecar => "sidecar",
            Self::OptedOut(By::Pod(_)) => "pod_opted_out",
            Self::OptedOut(By::Namespace(_)) => "namespace_opted_out",
            Self::NotAsked => "not_asked",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn wish(pairs: &[(&str, &str)]) -> Option<Wish> {
        let reading = Reading::of(&labels(pairs));
        assert_eq!(reading.malformed, [], "{pairs:?}");
        reading.wish
    }

    fn plain(pod: Option<Wish>, of_namespace: Option<Wish>) -> Candidate<'static> {
        Candidate { namespace: "shop", host_network: false, sidecar: false, pod, of_namespace }
    }

    const IN: Option<Wish> = Some(Wish::In(Label::Istio));
    const OUT: Option<Wish> = Some(Wish::Out(Label::Istio));

    #[test]
    fn each_value_is_read_and_our_own_label_comes_first() {
        assert_eq!(wish(&[]), None);
        assert_eq!(wish(&[("app", "enabled")]), None);
        assert_eq!(wish(&[(ISTIO_LABEL, "ambient")]), IN);
        assert_eq!(wish(&[(ISTIO_LABEL, "none")]), OUT);
        assert_eq!(wish(&[(CULVERT_LABEL, "enabled")]), Some(Wish::In(Label::Culvert)));
        assert_eq!(
            wish(&[(CULVERT_LABEL, "disabled"), (ISTIO_LABEL, "ambient")]),
            Some(Wish::Out(Label::Culvert))
        );
        assert_eq!(
            wish(&[(CULVERT_LABEL, "enabled"), (ISTIO_LABEL, "none")]),
            Some(Wish::In(Label::Culvert))
        );
    }

    #[test]
    fn wrong_value_is_reported_and_counts_as_if_it_were_not_there() {
        for value in ["", "Ambient", "enabled", "ambient ", "true"] {
            let reading = Reading::of(&labels(&[(ISTIO_LABEL, value)]));
            assert_eq!(reading.wish, None, "{value:?}");
            assert_eq!(
                reading.malformed,
                [Malformed { label: Label::Istio, value: value.into() }],
                "{value:?}"
            );
        }
        // Istio's, on the same object, then counts.
        let both = Reading::of(&labels(&[(CULVERT_LABEL, "ambient"), (ISTIO_LABEL, "ambient")]));
        assert_eq!(both.wish, IN);
        assert_eq!(
            both.malformed[0].to_string(),
            "label culvert.io/dataplane-mode has the value \"ambient\", which means nothing and \
             counts for nothing; set it to `enabled` or `disabled`, or take it off"
        );
        // A pod's wrong label does not take it out of its namespace's mesh.
        let wrong = Reading::of(&labels(&[(CULVERT_LABEL, "yes")]));
        assert!(plain(wrong.wish, IN).decide().is_enrolled());
    }

    #[test]
    fn value_longer_than_any_label_is_cut_in_the_report() {
        let reading = Reading::of(&labels(&[(ISTIO_LABEL, &"ä".repeat(100_000))]));
        assert_eq!(reading.malformed[0].value.chars().count(), TOLD);
    }

    #[test]
    fn pod_counts_before_its_namespace() {
        let by_namespace = Enrolment::Enrolled(By::Namespace(Label::Istio));
        let by_pod = Enrolment::Enrolled(By::Pod(Label::Istio));
        let out = |by: fn(Label) -> By| Enrolment::Left(Why::OptedOut(by(Label::Istio)));
        for (pod, namespace, decided) in [
            (None, None, Enrolment::Left(Why::NotAsked)),
            (None, IN, by_namespace),
            (None, OUT, out(By::Namespace)),
            (IN, None, by_pod),
            (IN, OUT, by_pod),
            (OUT, IN, out(By::Pod)),
            (OUT, OUT, out(By::Pod)),
        ] {
            assert_eq!(plain(pod, namespace).decide(), decided, "{pod:?} {namespace:?}");
        }
    }

    #[test]
    fn no_label_brings_in_what_must_stay_out() {
        let both = plain(IN, IN);
        for (candidate, why) in [
            (Candidate { host_network: true, ..both }, Why::HostNetwork),
            (Candidate { sidecar: true, ..both }, Why::Sidecar),
            (Candidate { namespace: "kube-system", ..both }, Why::SystemNamespace),
            (Candidate { namespace: "culvert-system", ..both }, Why::SystemNamespace),
        ] {
            assert_eq!(candidate.decide(), Enrolment::Left(why));
        }
        let injected = labels(&[(SIDECAR_ANNOTATION, "{}")]);
        assert!(has_sidecar(&injected) && !has_sidecar(&labels(&[("a", "b")])));
    }

    fn any_wish() -> impl Strategy<Value = Option<Wish>> {
        let label = prop_oneof![Just(Label::Culvert), Just(Label::Istio)];
        proptest::option::of(
            (label, any::<bool>()).prop_map(|(label, inside)| {
                if inside { Wish::In(label) } else { Wish::Out(label) }
            }),
        )
    }

    proptest! {
        /// Against the sentences of the documentation, one after the other.
        #[test]
        fn decision_is_what_the_documentation_says(
            namespace in prop_oneof![Just("shop"), Just("kube-system"), Just("culvert-system")],
            host_network: bool,
            sidecar: bool,
            pod in any_wish(),
            of_namespace in any_wish(),
        ) {
            let candidate = Candidate { namespace, host_network, sidecar, pod, of_namespace };
            let says = |wish| match wish {
                Some(Wish::In(_)) => Some(true),
                Some(Wish::Out(_)) => Some(false),
                None => None,
            };
            let mut expected = says(of_namespace).unwrap_or(false);
            if let Some(own) = says(pod) {
                expected = own;
            }
            if host_network || sidecar || namespace != "shop" {
                expected = false;
            }
            prop_assert_eq!(candidate.decide().is_enrolled(), expected);
        }
    }
}
