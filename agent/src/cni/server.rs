//! The agent's end: takes the plugin's questions, and answers an `ADD` once the pod is steered.

mod attachments;
mod error;
mod metrics;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub use self::error::ServerError;
use self::{attachments::Attachments, metrics::ServerMetrics};
use super::protocol::{
    Answer, Attachment, Collection, Detachment, MOST_BYTES, Namespace, Reason, Request,
};
use crate::{
    admin::{Caller, Socket},
    config::{is_dns_label, is_dns_name},
    observe::Metrics,
    sys::{netns::Netns, peer::NamespaceId},
    workload::{Announce, AnnounceError, Announced, Decision, PodUid, Steered, WorkloadKey},
};

/// Questions at once; each pod that starts is one, and a node has some hundred pods at most.
const CONNECTIONS: usize = 512;
/// Time for a question to come in, and for an answer to go out.
const EXCHANGE: Duration = Duration::from_secs(5);
/// How long a pod's start is held; the plugin waits a little longer for the answer.
const HOLD: Duration = Duration::from_secs(25);
/// How often it is looked whether another agent has taken the place.
const LOOK: Duration = Duration::from_millis(250);
/// What a failing accept waits: mostly the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the server is made of.
pub struct Parts<'a> {
    /// Where it listens.
    pub socket: &'a Path,
    /// Where this agent sees the node's `/proc`; none where it is its own.
    pub proc: Option<PathBuf>,
    /// Who decides over announced pods.
    pub announce: Arc<dyn Announce>,
    /// What is steered now.
    pub steered: watch::Receiver<Arc<Steered>>,
    /// Where it counts.
    pub metrics: &'a Metrics,
}

/// Listens, and does not answer before [`Server::run`].
pub struct Server {
    socket: Socket,
    desk: Arc<Desk>,
}

/// What every question is answered from.
struct Desk {
    proc: Option<PathBuf>,
    announce: Arc<dyn Announce>,
    steered: watch::Receiver<Arc<Steered>>,
    attachments: Attachments,
    metrics: ServerMetrics,
}

impl Server {
    /// Listens, in the place of an agent that listens there already: that one keeps the questions
    /// it has and gets no new ones.
    ///
    /// # Errors
    /// The socket cannot be had, or a metric's name is taken.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    pub fn bind(parts: Parts<'_>) -> Result<Self, ServerError> {
        let desk = Desk {
            proc: parts.proc,
            announce: parts.announce,
            steered: parts.steered,
            attachments: Attachments::default(),
            metrics: ServerMetrics::register(parts.metrics)?,
        };
        Ok(Self { socket: Socket::bind(parts.socket, "cni.socket")?, desk: Arc::new(desk) })
    }

    /// Answers until `stop` is cancelled or another agent listens in its place, then cuts what is
    /// open: plugins that wait turn to that agent, which enrols pods from now on. Ends when `stop`
    /// is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut questions = JoinSet::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = look.tick() => {
                    if !self.socket.is_ours() {
                        tracing::info!("another agent answers the CNI plugin from now on");
                        break;
                    }
                }
                Some(_) = questions.join_next() => {}
                accepted = self.socket.listener.accept(), if questions.len() < CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            questions.spawn(serve(stream, Arc::clone(&self.desk)));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "CNI socket: accept failed");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        questions.shutdown().await;
        drop(self.socket);
        stop.cancelled().await;
    }
}

/// One question, one answer.
async fn serve(stream: UnixStream, desk: Arc<Desk>) {
    let allowed = match Caller::of(&stream) {
        Ok(caller) if caller.may_ask() => Ok(()),
        Ok(caller) => Err(format!("{caller} may not ask; only root may")),
        Err(error) => Err(format!("the kernel does not say who asks: {error}")),
    };
    let mut stream = BufReader::new(stream);
    let (command, answer) = match allowed {
        Err(message) => ("other", Answer::Failed { reason: Reason::Caller, message }),
        Ok(()) => match timeout(EXCHANGE, read(&mut stream)).await {
            Ok(Ok(Some(request))) => (label(&request), desk.answer(request).await),
            // Somebody looked whether we listen.
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                let message = format!("the request is not understood: {error}");
                ("other", Answer::Failed { reason: Reason::Request, message })
            }
        },
    };
    desk.metrics.answered(command, answer.label());
    if let Answer::Failed { message, .. } = &answer {
        tracing::warn!(command, message, "CNI request failed");
    }
    let Ok(mut line) = serde_json::to_vec(&answer) else { return };
    line.push(b'\n');
    // Who does not listen any more has given up, and the runtime knows.
    let _ = timeout(EXCHANGE, stream.get_mut().write_all(&line)).await; // reason: see above
}

async fn read(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Request>> {
    let mut line = Vec::new();
    stream.take(MOST_BYTES).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

const fn label(request: &Request) -> &'static str {
    match request {
        Request::Add(_) => "add",
        Request::Check(_) => "check",
        Request::Delete(_) => "delete",
        Request::Collect(_) => "collect",
        Request::Ping => "ping",
    }
}

impl Desk {
    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Add(attachment) => self.add(attachment).await.unwrap_or_else(into_answer),
            Request::Check(attachment) => self.check(&attachment).unwrap_or_else(into_answer),
            Request::Delete(detachment) => self.delete(&detachment),
            Request::Collect(collection) => self.collect(&collection),
            Request::Ping => Answer::Done,
        }
    }

    async fn add(&self, attachment: Attachment) -> Result<Answer, ServerError> {
        let began = Instant::now();
        let _waiting = self.metrics.waiting();
        let (pod, namespace) = self.understand(&attachment)?;
        let (key, uid) = (pod.key(), pod.uid.clone());
        self.attachments.note(attachment.key, uid.clone());
        let until = began + HOLD;
        let late = || ServerError::Late { pod: key.clone(), seconds: HOLD.as_secs() };
        let decision =
            timeout_at(until, self.announce.announce(pod)).await.map_err(|_| late())??;
        if decision == Decision::Leave {
            tracing::debug!(pod = %key, "pod left alone");
            return Ok(Answer::Left);
        }
        let mut steered = self.steered.clone();
        let there = steered.wait_for(|steered| is_steered(steered, &key, &uid, namespace));
        match timeout_at(until, there).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(AnnounceError::Stopping { pod: key }.into()),
            Err(_) => return Err(late()),
        }
        let held = began.elapsed();
        self.metrics.held(held);
        let milliseconds = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(pod = %key, milliseconds, "pod may start: it is steered");
        Ok(Answer::Steered)
    }

    /// An error only where we know that the pod should be steered and is not.
    fn check(&self, attachment: &Attachment) -> Result<Answer, ServerError> {
        let (pod, namespace) = self.understand(attachment)?;
        let steered = self.steered.borrow();
        let key = pod.key();
        match steered.workload(&key) {
            Some(_) if is_steered(&steered, &key, &pod.uid, namespace) => Ok(Answer::Steered),
            Some(_) => Err(ServerError::Elsewhere { pod: key }),
            None => Ok(Answer::Left),
        }
    }

    fn delete(&self, detachment: &Detachment) -> Answer {
        let noted = self.attachments.take(&detachment.key);
        let told = detachment.uid.as_deref().and_then(|uid| uid.parse().ok());
        if let Some(uid) = told.or(noted) {
            self.announce.withdraw(&uid);
        }
        Answer::Done
    }

    fn collect(&self, collection: &Collection) -> Answer {
        for uid in self.attachments.collect(collection) {
            self.announce.withdraw(&uid);
        }
        Answer::Done
    }

    /// The attachment in our own words, and its namespace as it is for all.
    fn understand(&self, attachment: &Attachment) -> Result<(Announced, NamespaceId), ServerError> {
        let pod = &attachment.pod;
        let refuse = |what, value: &str| ServerError::Word { what, value: value.to_owned() };
        if !is_dns_label(&pod.namespace) {
            return Err(refuse("namespace", &pod.namespace));
        }
        if !is_dns_name(&pod.name) {
            return Err(refuse("pod name", &pod.name));
        }
        let uid: PodUid = pod.uid.parse().map_err(|_| refuse("pod UID", &pod.uid))?;
        let (netns, id) = self.reach(&attachment.netns)?;
        let announced = Announced {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid,
            netns,
            addresses: attachment.addresses.clone(),
        };
        Ok((announced, id))
    }

    /// Where this agent sees the namespace that the plugin means.
    fn reach(&self, named: &Namespace) -> Result<(PathBuf, NamespaceId), ServerError> {
        let path = place(&named.path, self.proc.as_deref());
        let unseen = |source| ServerError::Unseen { path: path.clone(), source };
        let netns = Netns::open(&path).map_err(unseen)?;
        let id = NamespaceId::at(&path).map_err(unseen)?;
        // A directory that is not handed on into our container shows a plain file, or nothing; a
        // name may meanwhile belong to the next pod.
        if netns.inode() != named.inode {
            return Err(ServerError::OtherNamespace { path });
        }
        Ok((path, id))
    }
}

/// The path of a namespace on the node, as this agent reaches it.
fn place(path: &Path, proc: Option<&Path>) -> PathBuf {
    if let (Ok(rest), Some(proc)) = (path.strip_prefix("/proc"), proc) {
        return proc.join(rest);
    }
    match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path.to_owned(),
    }
}

/// Whether it is this very pod that is steered, and not the one of that name before it.
fn is_steered(steered: &Steered, key: &WorkloadKey, uid: &PodUid, namespace: NamespaceId) -> bool {
    let Some(workload) = steered.workload(key) else { return false };
    let same_pod = workload.uid.as_ref().is_none_or(|steered| steered == uid);
    let place = workload.netns.as_deref().and_then(|path| NamespaceId::at(path).ok());
    same_pod && place == Some(namespace)
}

fn into_answer(error: ServerError) -> Answer {
    let reason = error.reason();
    Answer::Failed { reason, message: format!("{:#}", anyhow::Error::new(error)) }
}
