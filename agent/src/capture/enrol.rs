//! One workload into the mesh, and out of it.
//!
//! The order leaves no gap and no loop. In: listeners, their table entries, delivery routes, the
//! `sk_lookup` link, last the entry that makes its connections steered. Out: the reverse.
//! Connections that were there before stay as they are, both ways; those that the agent carries
//! are reset when their workload leaves.

use std::{collections::HashSet, net::IpAddr, os::fd::AsRawFd as _, sync::Arc};

use aya::maps::MapError;
use culvert_common::{Addr, Enrolment, ListenerKey, LocalPod, maps};

use super::{
    Capture, EnrolError, Listener, Pod,
    listeners::{self, Kind},
    programs::{Programs, hangs_on_nothing, remove_link},
    routes::Routes,
    tables::{PodTables, refused},
};
use crate::{
    sys::netns::Netns,
    workload::{Workload, WorkloadKey},
};

/// A workload that is in: what the workers need to serve it.
pub struct Enrolled {
    /// The workload, to dial from.
    pub pod: Arc<Pod>,
    /// Its listeners, each for one worker.
    pub listeners: Vec<Listener>,
}

/// What is kept of an enrolled workload until it leaves.
pub(super) struct Held {
    pub(super) pod: Arc<Pod>,
    cookie: u64,
    routes: Routes,
}

/// What is kept of a workload that is refused because it could not be enrolled.
pub(super) struct Fence {
    cookie: u64,
    inode: u64,
    addresses: Vec<IpAddr>,
}

impl Held {
    fn addresses(&self) -> &[IpAddr] {
        &self.pod.workload().addresses
    }
}

impl Capture {
    /// Enrols a workload of this node. `accepts_plaintext` says whether its policy takes plaintext
    /// on every port, which matters while no agent runs.
    ///
    /// A workload that cannot be enrolled is fenced instead: the kernel refuses what it sends to
    /// the mesh and what is sent to it, until it is enrolled or released.
    ///
    /// Not cancel safe: dropped halfway, the namespace keeps routes and entries until
    /// [`Self::sweep`].
    ///
    /// # Errors
    /// [`EnrolError`]; only without a namespace is the workload not fenced.
    pub async fn enrol(
        &mut self,
        workload: &Arc<Workload>,
        accepts_plaintext: bool,
    ) -> Result<Enrolled, EnrolError> {
        let (netns, cookie) = open_netns(&self.taboo, workload)?;
        let enrolled = self.try_enrol(workload, (netns, cookie), accepts_plaintext).await;
        match &enrolled {
            Ok(enrolled) => self.forget_fence(&enrolled.pod, cookie),
            Err(_) => self.fence(workload)?,
        }
        enrolled
    }

    async fn try_enrol(
        &mut self,
        workload: &Arc<Workload>,
        (netns, cookie): (Netns, u64),
        accepts_plaintext: bool,
    ) -> Result<Enrolled, EnrolError> {
        let routes = Routes::open(&netns).map_err(routes_error(workload))?;
        check_addresses(workload, &routes).await?;
        let (v4, v6) = families(workload);
        routes.add(&netns, v4, v6).await.map_err(routes_error(workload))?;
        let pod = Arc::new(Pod::new(Arc::clone(workload), netns, Arc::clone(&self.shared)));
        let held = Held { pod, cookie, routes };
        let listeners = self.put_in(&held, accepts_plaintext)?;
        let pod = Arc::clone(&held.pod);
        self.held.insert(workload.key(), held);
        Ok(Enrolled { pod, listeners })
    }

    /// Gives an enrolled workload fresh listeners and puts them, and all else of it, into the
    /// kernel's tables again, where another agent may have put its own. The listeners of before get
    /// no more connections.
    ///
    /// # Errors
    /// [`EnrolError`]; the workload is still held.
    pub async fn put_back(
        &mut self,
        key: &WorkloadKey,
        accepts_plaintext: bool,
    ) -> Result<Option<Enrolled>, EnrolError> {
        let Some(held) = self.held.remove(key) else { return Ok(None) };
        let (v4, v6) = families(held.pod.workload());
        let added = held.routes.add(held.pod.netns(), v4, v6).await;
        let listeners = added
            .map_err(routes_error(held.pod.workload()))
            .and_then(|()| self.put_in(&held, accepts_plaintext));
        let pod = Arc::clone(&held.pod);
        self.held.insert(key.clone(), held);
        Ok(Some(Enrolled { pod, listeners: listeners? }))
    }

    /// Refuses all of a workload's traffic with the mesh.
    fn fence(&mut self, workload: &Workload) -> Result<(), EnrolError> {
        let (netns, cookie) = open_netns(&self.taboo, workload)?;
        put_local_pods(&mut self.pods, &workload.addresses, false)?;
        self.attach_to(workload, &netns)?;
        let mut enrolment = enrolment(workload, false);
        enrolment.flags |= Enrolment::FENCED;
        self.pods.pods.insert(cookie, enrolment, 0).map_err(refused(maps::PODS))?;
        let fence = Fence { cookie, inode: netns.inode(), addresses: workload.addresses.clone() };
        self.fenced.insert(workload.key(), fence);
        Ok(())
    }

    /// The workload is in: its entries are its own now, unless it was made anew meanwhile.
    fn forget_fence(&mut self, pod: &Pod, cookie: u64) {
        let Some(fence) = self.fenced.remove(&pod.workload().key()) else { return };
        if fence.cookie != cookie {
            // What is not there any more was what was wanted.
            let _ = self.pods.pods.remove(&fence.cookie); // reason: see above
        }
        if fence.inode != pod.netns().inode() {
            let _ = remove_link(&self.programs.pins().netns_link(fence.inode)); // reason: as above
        }
    }

    /// Workloads that are refused because they could not be enrolled.
    pub fn fenced(&self) -> impl Iterator<Item = &WorkloadKey> {
        self.fenced.keys()
    }

    /// Whether another namespace stands now behind the path of an enrolled workload than the one
    /// that it was enrolled with: its pod was made anew. A path that is gone says nothing, the
    /// namespace may live on.
    pub fn is_replaced(&self, key: &WorkloadKey) -> bool {
        self.held.get(key).is_some_and(|held| {
            let path = held.pod.workload().netns.as_deref();
            // The inode cannot have been given away: our descriptor keeps the old namespace.
            path.and_then(|path| Netns::open(path).ok())
                .is_some_and(|now| now.inode() != held.pod.netns().inode())
        })
    }

    /// Tells the kernel anew what to do with a workload's plaintext while no agent runs.
    ///
    /// # Errors
    /// The kernel refused the update.
    pub fn set_accepts_plaintext(
        &mut self,
        key: &WorkloadKey,
        accepts_plaintext: bool,
    ) -> Result<(), EnrolError> {
        let Some(held) = self.held.get(key) else { return Ok(()) };
        let pass = self.settings.pass_when_down && accepts_plaintext;
        put_local_pods(&mut self.pods, held.addresses(), pass)
    }

    /// Takes a workload out of the mesh; unknown ones are none of our business. What cannot be
    /// undone is logged: most often the namespace is gone already, and everything with it.
    ///
    /// Not cancel safe, see [`Self::enrol`].
    pub async fn release(&mut self, key: &WorkloadKey) {
        if let Some(held) = self.held.remove(key) {
            self.take_out(&held).await;
        }
        if let Some(fence) = self.fenced.remove(key) {
            self.take_out_entries(key, fence.cookie, fence.inode, &fence.addresses);
        }
    }

    fn put_in(
        &mut self,
        held: &Held,
        accepts_plaintext: bool,
    ) -> Result<Vec<Listener>, EnrolError> {
        let workload = held.pod.workload();
        let listeners =
            listeners::open(held.pod.netns(), held.addresses(), self.settings.workers).map_err(
                |source| EnrolError::Listen { workload: workload.key().to_string(), source },
            )?;
        for listener in &listeners {
            self.pods
                .listeners
                .insert(key_of(listener), listener.socket.as_raw_fd(), 0)
                .map_err(refused(maps::LISTENERS))?;
        }
        let pass = self.settings.pass_when_down;
        put_local_pods(&mut self.pods, held.addresses(), pass && accepts_plaintext)?;
        self.attach_to(workload, held.pod.netns())?;
        self.pods
            .pods
            .insert(held.cookie, enrolment(workload, pass), 0)
            .map_err(refused(maps::PODS))?;
        Ok(listeners)
    }

    fn attach_to(&mut self, workload: &Workload, netns: &Netns) -> Result<(), EnrolError> {
        self.programs
            .attach_to_netns(netns)
            .map_err(|source| EnrolError::Attach { workload: workload.key().to_string(), source })
    }

    async fn take_out(&mut self, held: &Held) {
        let key = held.pod.workload().key();
        self.take_out_entries(&key, held.cookie, held.pod.netns().inode(), held.addresses());
        let (v4, v6) = families(held.pod.workload());
        if let Err((step, error)) = held.routes.remove(v4, v6).await {
            tracing::debug!(workload = %key, step, %error, "delivery routes stay behind");
        }
    }

    fn take_out_entries(
        &mut self,
        workload: &WorkloadKey,
        cookie: u64,
        inode: u64,
        addresses: &[IpAddr],
    ) {
        let gone = |table, done: Result<(), MapError>| match done {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => tracing::warn!(%workload, table, %error, "table entry stays behind"),
        };
        gone(maps::PODS, self.pods.pods.remove(&cookie));
        if let Err(error) = remove_link(&self.programs.pins().netns_link(inode)) {
            tracing::warn!(%workload, %error, "the namespace's link stays behind");
        }
        for &address in addresses {
            gone(maps::LOCAL_PODS, self.pods.local_pods.remove(&Addr::from(address)));
            for key in listener_keys(address, self.settings.workers) {
                gone(maps::LISTENERS, self.pods.listeners.remove(&key));
            }
        }
    }
}

/// See [`Capture::sweep`]; returns how many things were removed.
pub(super) fn sweep<'a>(
    programs: &Programs,
    tables: &mut PodTables,
    held: impl Iterator<Item = &'a Held>,
) -> Result<usize, EnrolError> {
    let (mut cookies, mut addresses, mut links) = (HashSet::new(), HashSet::new(), HashSet::new());
    for held in held {
        cookies.insert(held.cookie);
        addresses.extend(held.addresses().iter().copied().map(Addr::from));
        links.insert(programs.pins().netns_link(held.pod.netns().inode()));
    }
    let mut removed = 0;
    let stale: Vec<u64> = tables.pods.keys().filter_map(Result::ok).collect();
    for cookie in stale.iter().filter(|cookie| !cookies.contains(cookie)) {
        tables.pods.remove(cookie).map_err(refused(maps::PODS))?;
        removed += 1;
    }
    let stale: Vec<Addr> = tables.local_pods.keys().filter_map(Result::ok).collect();
    for address in stale.iter().filter(|address| !addresses.contains(address)) {
        tables.local_pods.remove(address).map_err(refused(maps::LOCAL_PODS))?;
        removed += 1;
    }
    for link in programs.pins().netns_links().unwrap_or_default() {
        if !links.contains(&link) || hangs_on_nothing(&link) {
            removed += usize::from(remove_link(&link).is_ok());
        }
    }
    Ok(removed)
}

/// The workload's namespace, and its cookie.
fn open_netns(taboo: &[Netns], workload: &Workload) -> Result<(Netns, u64), EnrolError> {
    let Some(path) = &workload.netns else {
        return Err(EnrolError::NoNetns { workload: workload.key().to_string() });
    };
    let netns = Netns::open(path).map_err(netns_error(workload))?;
    if taboo.iter().any(|taboo| taboo.inode() == netns.inode()) {
        return Err(EnrolError::HostNetwork {
            workload: workload.key().to_string(),
            path: path.clone(),
        });
    }
    let cookie = netns.cookie().map_err(netns_error(workload))?;
    Ok((netns, cookie))
}

/// An address that we were not told of would be one whose connections are not steered.
async fn check_addresses(workload: &Workload, routes: &Routes) -> Result<(), EnrolError> {
    let found = routes.addresses().await.map_err(routes_error(workload))?;
    let declared: HashSet<_> = workload.addresses.iter().copied().collect();
    if found.iter().copied().collect::<HashSet<_>>() == declared {
        return Ok(());
    }
    Err(EnrolError::Addresses {
        workload: workload.key().to_string(),
        declared: list(&workload.addresses),
        found: if found.is_empty() { "none".to_owned() } else { list(&found) },
    })
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn enrolment(workload: &Workload, pass_when_down: bool) -> Enrolment {
    let mut enrolment = Enrolment {
        addr6: Addr::UNSPECIFIED,
        addr4_be: 0,
        flags: if pass_when_down { Enrolment::PASS_WHEN_DOWN } else { 0 },
    };
    for &address in &workload.addresses {
        match address {
            IpAddr::V4(_) => enrolment.addr4_be = Addr::from(address).v4_be(),
            IpAddr::V6(_) => enrolment.addr6 = Addr::from(address),
        }
    }
    enrolment
}

fn put_local_pods(
    tables: &mut PodTables,
    addresses: &[IpAddr],
    pass: bool,
) -> Result<(), EnrolError> {
    let local = LocalPod { flags: if pass { LocalPod::PASS_WHEN_DOWN } else { 0 } };
    for &address in addresses {
        tables
            .local_pods
            .insert(Addr::from(address), local, 0)
            .map_err(refused(maps::LOCAL_PODS))?;
    }
    Ok(())
}

fn families(workload: &Workload) -> (bool, bool) {
    let has = |v4| workload.addresses.iter().any(|ip| ip.is_ipv4() == v4);
    (has(true), has(false))
}

fn key_of(listener: &Listener) -> ListenerKey {
    ListenerKey {
        pod: Addr::from(listener.address),
        kind: listener.kind.port(),
        worker: listener.worker,
    }
}

fn listener_keys(address: IpAddr, workers: u16) -> impl Iterator<Item = ListenerKey> {
    let pod = Addr::from(address);
    Kind::ALL.into_iter().flat_map(move |kind| {
        (0..workers).map(move |worker| ListenerKey { pod, kind: kind.port(), worker })
    })
}

fn netns_error(workload: &Workload) -> impl Fn(std::io::Error) -> EnrolError {
    let (key, path) = (workload.key().to_string(), workload.netns.clone().unwrap_or_default());
    move |source| EnrolError::Netns { workload: key.clone(), path: path.clone(), source }
}

fn routes_error(workload: &Workload) -> impl Fn((&'static str, std::io::Error)) -> EnrolError {
    let workload = workload.key().to_string();
    move |(step, source)| EnrolError::Routes { workload: workload.clone(), step, source }
}
