//! Programs from the distribution, unchanged, as the applications of the pods.

use crate::checks::{self, Checks};
use anyhow::{Context, Result, ensure};
use culvert_tests::{LONG, Lab, Place, Process, SOON, until};
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of the file that is sent over raw TCP.
const RAW_BYTES: usize = 64 << 20;

/// Size of the file that nginx serves for the long transfer.
pub(super) const LONG_BYTES: usize = 48 << 20;

/// The servers that run, and the texts that only the applications know.
pub(crate) struct Applications {
    /// Stands in the page that nginx serves, and often in every file that is sent.
    pub(super) secret: String,
    /// Stands in the request that curl sends.
    pub(super) question: String,
    /// The folder that is served.
    pub(super) files: PathBuf,
    nginx_log: PathBuf,
    servers: Vec<Process>,
}

/// Starts nginx in b1, nghttpd in b2, and waits until both accept.
pub(crate) fn start(lab: &Lab) -> Result<Applications> {
    let files = lab.directory().join("www");
    fs::create_dir_all(&files)?;
    let (secret, question) = (format!("secret-{}", random()?), format!("question-{}", random()?));
    fs::write(files.join("index.html"), format!("<p>{secret}</p>\n").repeat(50))?;
    fs::write(files.join("raw"), noise(&secret, RAW_BYTES))?;
    fs::write(files.join("long"), noise(&secret, LONG_BYTES))?;
    let nginx_log = lab.directory().join("nginx-access.log");
    let settings = lab.directory().join("nginx.conf");
    fs::write(&settings, nginx_settings(lab.directory(), &files, &nginx_log))?;

    let (b1, b2) = (lab.pod("b1"), lab.pod("b2"));
    let served = files.display().to_string();
    let servers = vec![
        b1.spawn(&["nginx".into(), "-c".into(), settings.display().to_string()])?,
        b2.spawn(&["nghttpd", "--no-tls", "--htdocs", &served, "8080"])?,
    ];
    accepts(b1, 80)?;
    accepts(b2, 8080)?;
    Ok(Applications { secret, question, files, nginx_log, servers })
}

impl Applications {
    /// Sends the requests and compares what arrived.
    pub(crate) fn requests(&self, lab: &Lab, checks: &mut Checks) {
        checks::part("applications that know nothing of it: nginx and curl, HTTP/2, raw TCP");
        let (v4, v6) = (lab.pod("b1").v4().to_string(), format!("[{}]", lab.pod("b1").v6()));
        checks.add("curl reaches nginx (IPv4)", self.curl(lab, &v4));
        checks.add("curl reaches nginx (IPv6)", self.curl(lab, &v6));
        let a1 = lab.pod("a1");
        let seen4 = self.seen(&a1.v4().to_string());
        checks.add("nginx sees the client's own address (IPv4)", seen4);
        let seen6 = self.seen(&a1.v6().to_string());
        checks.add("nginx sees the client's own address (IPv6)", seen6);
        checks.add("HTTP/2 between nghttp and nghttpd", self.http2(lab));
        checks.add("raw TCP arrives with the same SHA-256", self.raw(lab));
    }

    fn curl(&self, lab: &Lab, host: &str) -> Result<String> {
        let url = format!("http://{host}/?{}", self.question);
        let words = ["curl", "-sS", "-m", "10", "-w", "%{stderr}%{http_code} %{remote_ip}", &url];
        checks::note(&format!("a1$ {}", words.join(" ")));
        let done = lab.pod("a1").run(&words, SOON)?;
        let told = done.stderr.trim().to_owned();
        let body = done.ok()?;
        checks::note(body.lines().next().unwrap_or_default());
        ensure!(body.lines().count() == 50 && body.contains(&self.secret), "another page: {body}");
        let address = host.trim_matches(['[', ']']);
        ensure!(told == format!("200 {address}"), "curl says {told}");
        Ok(format!("200, {} bytes; curl sees {address}", body.len()))
    }

    fn seen(&self, client: &str) -> Result<String> {
        let line = until(&format!("{client} in nginx's log"), SOON, || {
            let log = fs::read_to_string(&self.nginx_log).unwrap_or_default();
            log.lines().find(|line| line.split(' ').next() == Some(client)).map(str::to_owned)
        });
        let line = line.with_context(|| {
            format!("nginx logged: {}", fs::read_to_string(&self.nginx_log).unwrap_or_default())
        })?;
        checks::note(&format!("nginx's log: {line}"));
        Ok(client.to_owned())
    }

    fn http2(&self, lab: &Lab) -> Result<String> {
        let url = format!("http://{}/index.html", lab.pod("b2").at(8080));
        checks::note(&format!("a2$ nghttp -v {url}"));
        let said = lab.pod("a2").run(&["nghttp", "-v", &url], SOON)?.ok()?;
        let status = said.lines().find(|line| line.contains(":status:")).context("no status")?;
        checks::note(status.trim());
        ensure!(status.trim().ends_with(":status: 200"), "{status}");
        ensure!(said.contains(&self.secret), "the page is not in the answer");
        Ok(":status: 200 over HTTP/2".to_owned())
    }

    fn raw(&self, lab: &Lab) -> Result<String> {
        let (a2, b2) = (lab.pod("a2"), lab.pod("b2"));
        let (sent, received) = (self.files.join("raw"), lab.directory().join("raw.received"));
        let server = b2.spawn(&[
            "socat".to_owned(),
            "-u".to_owned(),
            "TCP-LISTEN:9000,reuseaddr".to_owned(),
            format!("CREATE:{}", received.display()),
        ])?;
        // Looked up in the kernel's table: a try to connect would be taken for the client.
        until("socat to listen", SOON, || {
            let table = b2.netns().enter(|| fs::read_to_string("/proc/thread-self/net/tcp"));
            table.ok()?.ok()?.contains(":2328 00000000:0000 0A").then_some(())
        })?;
        let words = [
            "socat".to_owned(),
            "-u".to_owned(),
            format!("FILE:{}", sent.display()),
            format!("TCP:{}", b2.at(9000)),
        ];
        checks::note(&format!("a2$ {}", words.join(" ")));
        a2.run(&words, LONG)?.ok()?;
        server.wait(LONG)?.ok()?;
        let (before, after) = (sha256(&sent)?, sha256(&received)?);
        checks::note(&format!("sent {before}\ngot  {after}"));
        ensure!(before == after, "sent {before}, received {after}");
        Ok(format!("{} MiB, {}…", RAW_BYTES >> 20, &before[..16]))
    }

    /// Lets the servers run on.
    pub(crate) fn keep(self) {
        for server in self.servers {
            server.keep();
        }
    }
}

/// Waits until something accepts on a port inside a place.
fn accepts(place: &Place, port: u16) -> Result<()> {
    until(&format!("{} to accept on port {port}", place.name()), SOON, || {
        let tried = place.netns().enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
        tried.ok()?.ok().map(drop)
    })
}

/// The SHA-256 of a file, as the distribution's own program tells it.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output().context("no sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sum = text.split(' ').next().filter(|sum| sum.len() == 64);
    sum.map(str::to_owned).with_context(|| format!("no checksum of {}", path.display()))
}

fn random() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random numbers")?;
    Ok(text.trim().to_owned())
}

/// Bytes that hold the secret in every line, so that it would be found in any part of them.
fn noise(secret: &str, bytes: usize) -> Vec<u8> {
    let mut text = String::with_capacity(bytes + 128);
    let mut number = 0;
    while text.len() < bytes {
        let _ = writeln!(text, "{number:016x} {secret}"); // writing to a String does not fail
        number += 1;
    }
    text.truncate(bytes);
    text.into_bytes()
}

fn nginx_settings(directory: &Path, files: &Path, log: &Path) -> String {
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {directory}/nginx.pid;\n\
         error_log {directory}/logs/nginx-error.log;\nevents {{}}\nhttp {{\n  \
         log_format seen '$remote_addr $remote_port -> $server_addr:$server_port \"$request\" \
         $status';\n  access_log {log} seen;\n  server {{\n    listen 80;\n    listen [::]:80;\n    \
         root {files};\n  }}\n}}\n",
        directory = directory.display(),
        files = files.display(),
        log = log.display(),
    )
}
