//! Go's own `crypto/x509` and go-spiffe, by the program in `strict/`: they accept what we issue,
//! and refuse each bad variant of it as our verifier does.
//!
//! Without Go, or where its modules cannot be had, these tests print `SKIP` and why.

use crate::authority::{Authority, WEB};
use crate::variants::{self, Variant};
use anyhow::{Context, Result, bail, ensure};
use culvert_spiffe::{PeerRole, TrustBundle};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// What we refuse and Go takes, and why that is right. The other way there is nothing.
const DIFFERENCES: [(&str, &str); 3] = [
    (
        "other-path",
        "a legal SPIFFE ID, but none of a Kubernetes service account: the only form of this mesh",
    ),
    ("upper-case-path", "legal in SPIFFE, but no name that Kubernetes gives a service account"),
    (
        "no-extended-usage",
        "X509-SVID 4.4 lets a leaf be without; ours all have both, and Go takes none for any",
    ),
];

/// What must be accepted; everything else is bad in some way.
const GOOD: [&str; 5] = ["good", "uri-and-dns", "under-the-root", "p-384", "rsa-2048"];

/// What is good in one role only.
const HALF_GOOD: [(&str, PeerRole); 2] =
    [("client-only", PeerRole::Client), ("server-only", PeerRole::Server)];

/// What the Go program says: an empty text is consent.
#[derive(Deserialize)]
struct Verdict {
    name: String,
    x509_client: String,
    x509_server: String,
    spiffe_verify: String,
    spiffe_parse: String,
}

impl Verdict {
    /// Whether all of it would let the peer in: the path for this role, and the SVID standard by
    /// go-spiffe's reading of an SVID and its verification.
    fn accepts(&self, role: PeerRole) -> bool {
        let paths = match role {
            PeerRole::Client => [&self.x509_client; 2],
            PeerRole::Server => [&self.x509_server; 2],
            PeerRole::Both => [&self.x509_client, &self.x509_server],
        };
        paths.iter().chain(&[&self.spiffe_verify, &self.spiffe_parse]).all(|said| said.is_empty())
    }
}

#[test]
fn our_verifier_agrees_with_go_on_every_good_and_bad_variant() {
    let Some(program) = program() else { return };
    let folder = tempfile::tempdir().unwrap();
    let variants = variants::write(folder.path()).unwrap();
    let said = run(&program, &["judge", &folder.path().display().to_string()]).unwrap();
    let verdicts: Vec<Verdict> = serde_json::from_str(&said).unwrap();
    assert_eq!(verdicts.len(), variants.len());
    let mut faults = Vec::new();
    for (variant, verdict) in variants.iter().zip(&verdicts) {
        assert_eq!(variant.name, verdict.name);
        for role in [PeerRole::Client, PeerRole::Server, PeerRole::Both] {
            faults.extend(fault(folder.path(), variant, verdict, role).unwrap());
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What is wrong with the verdicts on one variant, if anything.
fn fault(
    folder: &Path,
    variant: &Variant,
    verdict: &Verdict,
    role: PeerRole,
) -> Result<Option<String>> {
    let name = variant.name.as_str();
    let ours = judge(folder, variant, role)?;
    let theirs = verdict.accepts(role);
    let good = GOOD.contains(&name) || HALF_GOOD.contains(&(name, role));
    let told = format!(
        "{name} as {role:?}: we say {ours:?}, Go says client {:?} server {:?} verify {:?} parse {:?}",
        verdict.x509_client, verdict.x509_server, verdict.spiffe_verify, verdict.spiffe_parse
    );
    if ours.is_ok() != good {
        return Ok(Some(format!("{told}; it should be accepted: {good}")));
    }
    let difference = DIFFERENCES.iter().find(|(listed, _)| *listed == name);
    Ok(match difference {
        Some((_, why)) if !theirs => Some(format!("{told}; the difference is gone: {why}")),
        None if theirs != ours.is_ok() => Some(format!("{told}; a difference that is not listed")),
        _ => None,
    })
}

/// Our own verifier's verdict, from the same files.
fn judge(folder: &Path, variant: &Variant, role: PeerRole) -> Result<Result<(), String>> {
    let roots = fs::read(folder.join(&variant.roots))?;
    let bundle = TrustBundle::from_pem("cluster.local".parse()?, &roots)?;
    let chain = CertificateDer::pem_file_iter(folder.join(&variant.chain))?;
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let verified = bundle.verify(&chain, role, UnixTime::now());
    Ok(verified.map(drop).map_err(|error| error.to_string()))
}

#[test]
fn go_accepts_what_the_authority_issues() {
    let Some(program) = program() else { return };
    let authority = Authority::start().unwrap();
    let files = authority.certified().unwrap();
    let folder = authority.folder();
    let chain = [&files.leaf, &files.issuing].map(|path| fs::read_to_string(path).unwrap());
    fs::write(folder.join("chain.pem"), chain.concat()).unwrap();
    let variant = Variant {
        name: "issued".to_owned(),
        chain: "chain.pem".to_owned(),
        key: "key.pem".to_owned(),
        roots: "root.pem".to_owned(),
    };
    fs::write(folder.join("manifest.json"), serde_json::to_vec(&[variant]).unwrap()).unwrap();
    let said = run(&program, &["judge", &folder.display().to_string()]).unwrap();
    let verdicts: Vec<Verdict> = serde_json::from_str(&said).unwrap();
    assert!(verdicts[0].accepts(PeerRole::Both), "{said}");

    let member = ["chain.pem", "key.pem", "root.pem"].map(|name| folder.join(name));
    let member = member.each_ref().map(|path| path.to_str().unwrap());
    let said = run(&program, &[&["handshake"][..], &member].concat()).unwrap();
    agreed(&said, WEB).unwrap();
    // And a connection to the authority itself: Go at one end, ours at the other.
    let to = authority.address().to_string();
    let said = run(&program, &[&["dial", &to][..], &member].concat()).unwrap();
    let said = agreed(&said, "spiffe://cluster.local/ns/culvert-system/sa/culvert-ca").unwrap();
    assert_eq!((&said["alpn"], &said["group"]), (&"h2".into(), &"X25519MLKEM768".into()), "{said}");
}

fn agreed(said: &str, peer: &str) -> Result<Value> {
    let said: Value = serde_json::from_str(said)?;
    ensure!(said["peer"] == peer && said["version"] == "TLS 1.3", "{said}");
    ensure!(said["resumed"] == false, "{said}");
    Ok(said)
}

fn run(program: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output()?;
    if !output.status.success() {
        bail!("{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The Go program, built; nothing where it cannot be, with a word.
fn program() -> Option<PathBuf> {
    static BUILT: LazyLock<Result<PathBuf>> = LazyLock::new(build);
    match &*BUILT {
        Ok(program) => Some(program.clone()),
        Err(missing) => {
            // Not `eprintln!`: the test runner would hide it.
            let _ = writeln!(std::io::stderr(), "SKIP: {missing:#}"); // nobody to hear is fine
            None
        }
    }
}

fn build() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/strict");
    let program = culvert_tests::target().join("interop/strict");
    fs::create_dir_all(program.parent().unwrap_or(Path::new("/")))?;
    // Where its own packages put it, too.
    let mut places = ["go", "/usr/local/go/bin/go"].into_iter();
    let go = places.find(|go| Command::new(go).arg("version").output().is_ok());
    let go = go.context("no Go here; Go's crypto/x509 and go-spiffe are not asked")?;
    let mut command = Command::new(go);
    command.current_dir(&source).args(["build", "-o"]).arg(&program).arg(".");
    command.env("GOFLAGS", "-buildvcs=false -mod=readonly").env("GOTOOLCHAIN", "local");
    let output = command.output().context("could not start Go")?;
    if output.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // A fault of the program is no reason to skip; modules that cannot be had are.
    let unreachable = ["dial tcp", "proxy", "lookup", "no such host", "requires go"];
    ensure!(
        !unreachable.iter().any(|word| said.contains(word)),
        "Go's modules cannot be had: {said}"
    );
    panic!("the Go program does not build: {said}")
}
