//! Who is meant by a name.
//!
//! ```text
//!  10.1.0.7  [fd00::7]  spiffe://td/ns/shop/sa/front     at once
//!  shop/front   front.shop   front.shop.svc[.cluster.local]   in that namespace
//!  front                        in the namespace asked about, else wherever there is one, else
//!                               in `default`
//! ```
//!
//! In a namespace, `front` is the workload of that name (of a destination: the Service before it),
//! else the pods that a Deployment of that name makes or that have `app: front`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::tls_check::Found;
use super::{ExplainError, Mesh, Question};
use crate::workload::offline::Outside;
use crate::workload::{Service, Workload, WorkloadKey};

/// Labels that name what a pod is part of, the first that is there.
const APP: [&str; 3] = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
/// Names that an error knows at most.
const KNOWN: usize = 200;

/// Who connects.
#[derive(Clone, Debug)]
pub enum Source {
    /// A workload, and how many more the name fits.
    Workload(Arc<Workload>, usize),
    /// Somebody who is none.
    Outside {
        /// What it is called.
        name: String,
        /// Its address, if that is known.
        address: Option<IpAddr>,
        /// What it is.
        what: String,
    },
}

/// Where to.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A Service by one of its addresses.
    Service {
        /// The address that is dialled, and the Service's own port.
        dialled: SocketAddr,
        /// The Service.
        service: Arc<Service>,
    },
    /// Workloads by their own addresses: one, or those of a name that stands for several.
    Workloads(Vec<(Arc<Workload>, SocketAddr)>),
    /// An address that nobody in the mesh has.
    Address(SocketAddr),
}

impl Source {
    /// Who is meant by the question's source.
    ///
    /// # Errors
    ///
    /// [`ExplainError`] when nobody is, or it is not clear who.
    pub fn find(mesh: Mesh<'_>, question: &Question) -> Result<Self, ExplainError> {
        let text = question.source.trim();
        if let Some(address) = address(text) {
            return Ok(Self::at(mesh, address));
        }
        if text.starts_with("spiffe://") {
            let own = mesh.snapshot.workloads().iter();
            let mut own = own.filter(|workload| workload.identity.as_str() == text);
            let first = own.next().ok_or_else(|| unknown(mesh, "workload with identity", text))?;
            return Ok(Self::Workload(Arc::clone(first), own.count()));
        }
        let name = Name::new(text);
        let found = name.workloads(mesh, question)?;
        if let Some((first, more)) = found.split_first() {
            return Ok(Self::Workload(Arc::clone(first), more.len()));
        }
        match name.outside(mesh, question) {
            Some((key, Outside { address: Some(address), why })) => Ok(Self::Outside {
                name: key.to_string(),
                address: Some(*address),
                what: format!("a pod that is no workload: {why}"),
            }),
            Some((key, outside)) => {
                Err(ExplainError::NoWorkload { name: key.to_string(), why: outside.why })
            }
            None => Err(unknown(mesh, "workload", text)),
        }
    }

    fn at(mesh: Mesh<'_>, address: IpAddr) -> Self {
        match mesh.snapshot.by_address(address) {
            Some(workload) => Self::Workload(Arc::clone(workload), 0),
            None => Self::Outside {
                name: address.to_string(),
                address: Some(address),
                what: "an address that no workload has".to_owned(),
            },
        }
    }

    /// Its workload, if it is one.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Workload(workload, _) => Some(workload),
            Self::Outside { .. } => None,
        }
    }

    /// Its name in a sentence.
    pub fn name(&self) -> String {
        match self {
            Self::Workload(workload, _) => workload.key().to_string(),
            Self::Outside { name, .. } => name.clone(),
        }
    }

    /// Its address of the family of `other`.
    pub fn client(&self, other: IpAddr) -> Option<IpAddr> {
        let same = |address: &&IpAddr| address.is_ipv4() == other.is_ipv4();
        match self {
            Self::Workload(workload, _) => workload.addresses.iter().find(same).copied(),
            Self::Outside { address, .. } => *address,
        }
    }

    fn reaches(&self, other: IpAddr) -> bool {
        self.workload().is_none() || self.client(other).is_some()
    }
}

impl Destination {
    /// What is meant by the question's destination.
    ///
    /// # Errors
    ///
    /// [`ExplainError`] when nothing is, it is not clear what, or it has no such port.
    pub fn find(
        mesh: Mesh<'_>,
        question: &Question,
        source: &Source,
    ) -> Result<Self, ExplainError> {
        let text = question.destination.trim();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::at(mesh, address);
        }
        let no_port = || ExplainError::NoPort { text: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(no_port)?;
        if let Some(address) = address(host) {
            return Self::at(mesh, SocketAddr::new(address, port));
        }
        let name = Name::new(host);
        if let Some(found) = Self::service(mesh, question, source, &name, port)? {
            return Ok(found);
        }
        let found = name.workloads(mesh, question)?;
        if !found.is_empty() {
            return Self::workloads(found, source, host, port);
        }
        match name.outside(mesh, question) {
            Some((_, Outside { address: Some(address), .. })) => {
                Ok(Self::Address(SocketAddr::new(*address, port)))
            }
            Some((key, outside)) => {
                Err(ExplainError::NoWorkload { name: key.to_string(), why: outside.why })
            }
            None => Err(unknown(mesh, "Service or workload", host)),
        }
    }

    fn at(mesh: Mesh<'_>, address: SocketAddr) -> Result<Self, ExplainError> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if let Some(service) = mesh.snapshot.services().by_address(address.ip()) {
            return Self::of_service(service, address);
        }
        Ok(match mesh.snapshot.by_address(address.ip()) {
            Some(workload) => Self::Workloads(vec![(Arc::clone(workload), address)]),
            None => Self::Address(address),
        })
    }

    fn of_service(service: &Arc<Service>, dialled: SocketAddr) -> Result<Self, ExplainError> {
        if service.ports.contains_key(&dialled.port()) {
            return Ok(Self::Service { dialled, service: Arc::clone(service) });
        }
        Err(no_such_port(service, dialled.port()))
    }

    /// A Service of that name, with an address of its own or without.
    fn service(
        mesh: Mesh<'_>,
        question: &Question,
        source: &Source,
        name: &Name<'_>,
        port: u16,
    ) -> Result<Option<Self>, ExplainError> {
        let mut keys: Vec<WorkloadKey> = mesh
            .snapshot
            .services()
            .iter()
            .map(|(_, service)| WorkloadKey::new(&service.namespace, &service.name))
            .chain(mesh.names.headless.keys().cloned())
            .filter(|key| key.name() == name.name)
            .collect();
        keys.sort();
        keys.dedup();
        // A name alone is one of the client's own namespace first, as in DNS.
        let home = source.workload().map(|workload| workload.namespace.clone());
        let keys = name.only(keys, WorkloadKey::namespace, question.namespace.clone().or(home));
        let key = match keys.as_slice() {
            [] => return Ok(None),
            [key] => key,
            several => {
                return Err(ExplainError::Ambiguous {
                    name: name.text.to_owned(),
                    found: several.iter().map(ToString::to_string).collect(),
                });
            }
        };
        if let Some(pods) = mesh.names.headless.get(key) {
            let pods = pods.iter().filter_map(|pod| mesh.snapshot.by_key(pod)).cloned().collect();
            return Self::workloads(pods, source, name.text, port).map(Some);
        }
        let mut addresses: Vec<_> = mesh
            .snapshot
            .services()
            .iter()
            .filter(|(_, of)| of.namespace == key.namespace() && of.name == key.name())
            .collect();
        addresses.sort_by_key(|(address, _)| *address);
        let reached = addresses.iter().find(|(address, _)| source.reaches(*address));
        let (address, service) = reached.ok_or_else(|| family(name.text, source))?;
        Self::of_service(service, SocketAddr::new(*address, port)).map(Some)
    }

    fn workloads(
        found: Vec<Arc<Workload>>,
        source: &Source,
        name: &str,
        port: u16,
    ) -> Result<Self, ExplainError> {
        let reached = |workload: Arc<Workload>| {
            let address = workload.addresses.iter().find(|ip| source.reaches(**ip))?;
            let address = SocketAddr::new(*address, port);
            Some((workload, address))
        };
        let found: Vec<_> = found.into_iter().filter_map(reached).collect();
        if found.is_empty() { Err(family(name, source)) } else { Ok(Self::Workloads(found)) }
    }
}

fn no_such_port(service: &Service, port: u16) -> ExplainError {
    ExplainError::NoSuchPort {
        service: format!("{}/{}", service.namespace, service.name),
        port,
        ports: service.ports.keys().map(ToString::to_string).collect(),
    }
}

fn family(name: &str, source: &Source) -> ExplainError {
    ExplainError::Family { name: name.to_owned(), other: source.name() }
}

/// A name as it was given.
struct Name<'a> {
    text: &'a str,
    name: &'a str,
    namespace: Option<&'a str>,
}

impl<'a> Name<'a> {
    fn new(text: &'a str) -> Self {
        if let Some((namespace, name)) = text.split_once('/') {
            return Self { text, name, namespace: Some(namespace) };
        }
        // The names of Services have no dot; those of pods may, and are then found as a whole.
        match text.split_once('.') {
            Some((name, rest)) => {
                let namespace = rest.split('.').next();
                Self { text, name, namespace }
            }
            None => Self { text, name: text, namespace: None },
        }
    }

    /// Those of the namespace that is meant: as it was given; else `home`, if there is one in it;
    /// else all, if they are of one namespace; else those of `default`, if there are any.
    fn only<T>(
        &self,
        mut found: Vec<T>,
        namespace: impl Fn(&T) -> &str,
        home: Option<String>,
    ) -> Vec<T> {
        if let Some(given) = self.namespace {
            found.retain(|each| namespace(each) == given);
            return found;
        }
        for likely in [home.as_deref(), Some("default")].into_iter().flatten() {
            if found.iter().any(|each| namespace(each) == likely) {
                found.retain(|each| namespace(each) == likely);
                return found;
            }
        }
        found
    }

    /// The workloads of that name; of what makes pods, all of one namespace.
    fn workloads(
        &self,
        mesh: Mesh<'_>,
        question: &Question,
    ) -> Result<Vec<Arc<Workload>>, ExplainError> {
        let all = mesh.snapshot.workloads();
        let whole: Vec<_> = all.iter().filter(|workload| workload.name == self.text).collect();
        let (name, whole) = if whole.is_empty() {
            let own: Vec<_> = all.iter().filter(|workload| workload.name == self.name).collect();
            (self, own)
        } else {
            (&Self { text: self.text, name: self.text, namespace: None }, whole)
        };
        let of = |workload: &&Arc<Workload>| workload.namespace.clone();
        let namespace = |workload: &&'_ Arc<Workload>| of(workload);
        let home = question.namespace.clone();
        let exact = name.of_namespace(whole, namespace, home.clone());
        let found = if exact.is_empty() {
            let parts: Vec<_> = all.iter().filter(|each| is_part_of(each, self.name)).collect();
            self.of_namespace(parts, namespace, home)
        } else {
            exact
        };
        let first = found.first().map(|workload| workload.namespace.as_str());
        if found.iter().any(|workload| Some(workload.namespace.as_str()) != first) {
            return Err(ExplainError::Ambiguous {
                name: self.text.to_owned(),
                found: found.iter().map(|workload| workload.key().to_string()).collect(),
            });
        }
        Ok(found.into_iter().cloned().collect())
    }

    fn of_namespace<'b>(
        &self,
        found: Vec<&'b Arc<Workload>>,
        namespace: impl Fn(&&'b Arc<Workload>) -> String,
        home: Option<String>,
    ) -> Vec<&'b Arc<Workload>> {
        let keyed: Vec<_> = found.into_iter().map(|each| (namespace(&each), each)).collect();
        let kept = self.only(keyed, |(namespace, _)| namespace.as_str(), home);
        kept.into_iter().map(|(_, each)| each).collect()
    }

    /// A pod of that name that is no workload.
    fn outside<'m>(
        &self,
        mesh: Mesh<'m>,
        question: &Question,
    ) -> Option<(&'m WorkloadKey, &'m Outside)> {
        let found = mesh.names.outside.iter();
        let found = found.filter(|(key, _)| key.name() == self.name || key.name() == self.text);
        let found = found.collect();
        let found = self.only(found, |(key, _)| key.namespace(), question.namespace.clone());
        found.into_iter().next()
    }
}

/// Whether a pod is one that a Deployment, `StatefulSet` or app of that name has.
fn is_part_of(workload: &Workload, name: &str) -> bool {
    let app = APP.iter().find_map(|label| workload.labels.get(*label));
    if app.is_some_and(|app| app == name) {
        return true;
    }
    let Some(rest) = workload.name.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'))
    else {
        return false;
    };
    // What Kubernetes appends: `-7d9f8c6b5-x2x4k`, or an ordinal.
    let parts: Vec<_> = rest.split('-').collect();
    let drawn =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    match parts.as_slice() {
        [one] => (one.len() == 5 && drawn(one)) || one.bytes().all(|byte| byte.is_ascii_digit()),
        [set, pod] => (1..=10).contains(&set.len()) && drawn(set) && pod.len() == 5 && drawn(pod),
        _ => false,
    }
}

fn address(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    inside.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn unknown(mesh: Mesh<'_>, what: &'static str, name: &str) -> ExplainError {
    let services = mesh
        .snapshot
        .services()
        .iter()
        .map(|(_, service)| WorkloadKey::new(&service.namespace, &service.name).to_string());
    let workloads = mesh.snapshot.workloads().iter().map(|workload| workload.key().to_string());
    let mut known: Vec<_> = match what {
        "Service or workload" => workloads.chain(services).take(KNOWN).collect(),
        "workload with identity" => {
            let own = mesh.snapshot.workloads().iter();
            own.map(|workload| workload.identity.to_string()).take(KNOWN).collect()
        }
        _ => workloads.take(KNOWN).collect(),
    };
    known.sort();
    known.dedup();
    ExplainError::Unknown { what, name: name.to_owned(), known }
}

/// What `tls-check` looks at: what is named, with or without a port, or every Service; where there
/// is none, every workload but the source.
pub(super) fn destinations(
    mesh: Mesh<'_>,
    source: &Source,
    destination: Option<&str>,
    namespace: Option<&str>,
) -> Result<Found, ExplainError> {
    let services = mesh.snapshot.services();
    let Some(text) = destination else {
        let every: Vec<_> =
            services.iter().map(|(_, service)| (Arc::clone(service), None)).collect();
        let own = source.workload().map(|workload| workload.key());
        let all = mesh.snapshot.workloads().iter();
        let others = all.filter(|workload| every.is_empty() && Some(workload.key()) != own);
        let workloads = others.map(|workload| (Arc::clone(workload), None)).collect();
        return Ok(Found { services: every, workloads });
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if address(text).is_none() => {
            let no_port = || ExplainError::NoPort { text: text.to_owned() };
            let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(no_port)?;
            (host, Some(port))
        }
        _ => (text, None),
    };
    if let Some(address) = address(host) {
        let service = services.by_address(address).map(|service| (Arc::clone(service), port));
        let workload =
            mesh.snapshot.by_address(address).map(|workload| (Arc::clone(workload), port));
        if service.is_none() && workload.is_none() {
            return Err(unknown(mesh, "Service or workload", host));
        }
        return Ok(Found {
            services: service.into_iter().collect(),
            workloads: workload.into_iter().collect(),
        });
    }
    let name = Name::new(host);
    let question = Question {
        source: String::new(),
        destination: text.to_owned(),
        namespace: namespace.map(str::to_owned),
        plaintext: false,
    };
    let home = source.workload().map(|workload| workload.namespace.clone());
    let of_name = services.iter().map(|(_, service)| Arc::clone(service));
    let of_name = of_name.filter(|service| service.name == name.name).collect();
    let home = question.namespace.clone().or(home);
    let found = name.only(of_name, |service: &Arc<Service>| service.namespace.as_str(), home);
    if let (Some(service), Some(port)) = (found.first(), port)
        && !service.ports.contains_key(&port)
    {
        return Err(no_such_port(service, port));
    }
    if !found.is_empty() {
        let services = found.into_iter().map(|service| (service, port)).collect();
        return Ok(Found { services, workloads: Vec::new() });
    }
    let found = name.workloads(mesh, &question)?;
    if found.is_empty() {
        return Err(unknown(mesh, "Service or workload", host));
    }
    let workloads = found.into_iter().map(|workload| (workload, port)).collect();
    Ok(Found { services: Vec::new(), workloads })
}
