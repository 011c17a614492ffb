//! The same work as a call, without the call: a request checked, a certificate made.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use culvert_ca::authority::Authority;
use culvert_ca::directory::Directory;
use culvert_ca::request;
use culvert_spiffe::TrustDomain;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use time::OffsetDateTime;

use crate::csr;

/// Requests that take turns.
const REQUESTS: u8 = 64;
/// Life of the certificates made.
const LIFE: Duration = Duration::from_hours(24);

/// Makes certificates for `length` and tells how many, and the CPU time of this thread.
pub(crate) fn run(length: Duration) -> anyhow::Result<serde_json::Value> {
    let directory = tempfile::tempdir()?;
    let trust_domain: TrustDomain = "cluster.local".parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let authority = runtime.block_on(Authority::open(
        Directory::open(directory.path())?,
        trust_domain.clone(),
        OffsetDateTime::now_utc(),
    ))?;
    let requests = (0..REQUESTS)
        .map(|number| {
            let id = csr::identity(&trust_domain, number)?;
            let pem = csr::request(&id)?;
            Ok((id, pem))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (begun, before, mut made) = (Instant::now(), thread_cpu(), 0_u64);
    for (id, pem) in requests.iter().cycle() {
        if begun.elapsed() >= length {
            break;
        }
        let key = request::read(pem, id).context("a request of our own was refused")?;
        let issued = authority.issue(id, &key, LIFE, OffsetDateTime::now_utc())?;
        std::hint::black_box(issued);
        made += 1;
    }
    Ok(json!({
        "made": made,
        "seconds": begun.elapsed().as_secs_f64(),
        "cpu_s": thread_cpu().saturating_sub(before).as_secs_f64(),
    }))
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
