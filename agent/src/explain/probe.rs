//! A real handshake, to prove what policy says.
//!
//! The source's own agent connects from the source's namespace, with the source's certificate, to
//! the destination's HBONE port, as it would for a flow; what is new is only that no flow follows.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use culvert_spiffe::{CertificateFacts, SpiffeId, VerifiedPeer};
use rustls::HandshakeKind;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::capture::Pod;
use crate::identity::{IdentityStore, handshake, with_sources};
use crate::observe::Reason;
use crate::workload::WorkloadKey;

/// How long it is waited for the other end's word on our certificate, which comes after its own.
const WORD: Duration = Duration::from_secs(2);
/// Probes that run at the same time.
const AT_ONCE: usize = 4;
/// What opens HTTP/2 (RFC 9113, section 3.4), with settings that say nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// What came of a probe: the answer to `POST /probe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Namespace and name of the workload that made it.
    pub source: String,
    /// The HBONE address that it went to.
    pub to: SocketAddr,
    /// Whom the other end was to prove to be.
    pub expected: SpiffeId,
    /// Whom it proved to be.
    pub peer: Option<SpiffeId>,
    /// The serial of its certificate.
    pub serial: Option<String>,
    /// `TLSv1_3`.
    pub protocol: Option<String>,
    /// The cipher suite.
    pub cipher_suite: Option<String>,
    /// Whether the handshake went by an earlier one's ticket.
    pub resumed: bool,
    /// How long it took to connect and to shake hands, in milliseconds.
    pub milliseconds: u64,
    /// What went wrong, and the reason's word.
    pub error: Option<String>,
    /// See [`Probe::error`].
    pub reason: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// The enrolled workloads of this node, to connect from. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Pods(Arc<Mutex<HashMap<WorkloadKey, Weak<Pod>>>>);

impl Pods {
    /// A workload is enrolled, or is so anew. It is forgotten once nobody else holds it.
    pub fn put(&self, pod: &Arc<Pod>) {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|_, pod| pod.strong_count() > 0);
        pods.insert(pod.workload().key(), Arc::downgrade(pod));
    }

    fn get(&self, key: &WorkloadKey) -> Option<Arc<Pod>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key)?.upgrade()
    }
}

/// Why a probe was not even begun.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The workload is not enrolled here.
    #[error("{0} is not enrolled on this node; ask the agent of its node")]
    NotHere(WorkloadKey),
    /// Enough are under way.
    #[error("{AT_ONCE} probes are under way; try again in a moment")]
    Busy,
}

/// Makes probes. Cloning shares the bound.
#[derive(Clone)]
pub struct Prober {
    pods: Pods,
    identities: IdentityStore,
    at_once: Arc<Semaphore>,
}

impl Prober {
    /// Probes from these workloads, with these identities.
    pub fn new(pods: Pods, identities: IdentityStore) -> Self {
        Self { pods, identities, at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Shakes hands from workload `source` with `to`, which must prove to be `expected`.
    ///
    /// # Errors
    /// [`ProbeError`]; a handshake that fails is an answer.
    pub async fn probe(
        &self,
        source: &WorkloadKey,
        to: SocketAddr,
        expected: SpiffeId,
    ) -> Result<Probe, ProbeError> {
        let _permit = self.at_once.try_acquire().map_err(|_| ProbeError::Busy)?;
        let pod = self.pods.get(source).ok_or_else(|| ProbeError::NotHere(source.clone()))?;
        let began = Instant::now();
        let mut probe = Probe {
            source: source.to_string(),
            to,
            expected,
            peer: None,
            serial: None,
            protocol: None,
            cipher_suite: None,
            resumed: false,
            milliseconds: 0,
            error: None,
            reason: Reason::Ok.label().to_owned(),
            fix: None,
        };
        if let Err((reason, error)) = self.shake(&pod, &mut probe).await {
            probe.error = Some(error);
            probe.reason = reason.label().to_owned();
            probe.fix = reason.fix().map(str::to_owned);
        }
        let took = began.elapsed().as_millis();
        probe.milliseconds = u64::try_from(took).unwrap_or(u64::MAX);
        Ok(probe)
    }

    async fn shake(&self, pod: &Pod, probe: &mut Probe) -> Result<(), (Reason, String)> {
        let own = &pod.workload().identity;
        let svid = self.identities.svid(own).await;
        let svid = svid.map_err(|error| (Reason::NoIdentity, with_sources(&error)))?;
        let socket = pod.connect(probe.to).await.map_err(|error| {
            let error = crate::tunnel::StreamError::connect(probe.to, error);
            (error.reason(), with_sources(&error))
        })?;
        let shaken = handshake::connect(&svid, &probe.expected, socket).await;
        let (mut stream, peer) = shaken.map_err(|error| (error.reason(), with_sources(&error)))?;
        note(probe, &stream, &peer);
        accepted(&mut stream).await
    }
}

/// What the handshake agreed on.
fn note(probe: &mut Probe, stream: &TlsStream<TcpStream>, peer: &VerifiedPeer) {
    let (_, tls) = stream.get_ref();
    probe.peer = Some(peer.id().clone());
    probe.protocol = tls.protocol_version().map(|version| format!("{version:?}"));
    probe.cipher_suite = tls.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    probe.resumed = matches!(tls.handshake_kind(), Some(HandshakeKind::Resumed));
    let leaf = tls.peer_certificates().and_then(|chain| chain.first());
    probe.serial = leaf.and_then(CertificateFacts::of).map(|facts| facts.serial.to_string());
}

/// The other end looks at our certificate when the handshake is over for us: only what it then
/// says shows that it has taken it.
async fn accepted(stream: &mut TlsStream<TcpStream>) -> Result<(), (Reason, String)> {
    let refused = |error: &std::io::Error| {
        (Reason::TlsProtocol, format!("the other end refused our certificate: {error}"))
    };
    let exchange = async {
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        let mut first = [0];
        stream.read_exact(&mut first).await.map(drop)
    };
    match timeout(WORD, exchange).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(refused(&error)),
        Err(_) => {
            let text = format!("the other end said nothing within {} s", WORD.as_secs());
            Err((Reason::HandshakeTimeout, text))
        }
    }
}
