//! A client that only looks who answers at an HBONE port.

use super::mint::Mint;
use super::tls::{Credentials, Tls};
use anyhow::{Context, Result, anyhow};
use culvert_spiffe::CertificateFacts;
use culvert_tests::{Lab, Pod, SOON};
use std::net::TcpStream;

/// Shakes hands with a pod's agent from another pod, as a peer that it believes, and tells of the
/// certificate that was presented.
pub(crate) fn presented(lab: &Lab, from: &Pod, to: &Pod) -> Result<CertificateFacts> {
    let address = to.at(15008);
    let socket = from.netns().enter(|| TcpStream::connect_timeout(&address, SOON))??;
    socket.set_read_timeout(Some(SOON))?;
    let svid = Mint::of_lab(lab)?.svid("x1")?;
    let mut tls = Tls::client(socket, &Credentials::of(svid))?;
    tls.handshake().map_err(|end| anyhow!("no handshake: {end:?}"))?;
    let chain = tls.presented();
    let leaf = chain.first().context("no certificate presented")?;
    CertificateFacts::of(leaf).context("a certificate that cannot be read")
}
