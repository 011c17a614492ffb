//! A browser of the lab: headless Chromium in a network namespace, driven by its `DevTools`.
//!
//! It is spoken to over a pipe and not over a port, so that nothing else can drive it and two labs
//! never meet. The namespace has no way out of the lab.

use crate::place::Place;
use crate::process;
use crate::wait::{SOON, until};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// Longest wait for an answer of the browser, which shares two cores with a lab.
const LIMIT: Duration = Duration::from_mins(1);

/// How the browser's window is.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Width, in CSS pixels.
    pub width: u32,
    /// Height, in CSS pixels.
    pub height: u32,
    /// Whether the system asks for dark pages.
    pub dark: bool,
    /// Whether the system asks for pages without motion.
    pub still: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { width: 1440, height: 900, dark: false, still: false }
    }
}

/// A running browser with one page; dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    stdin: ChildStdin,
    heard: Receiver<Value>,
    session: Option<String>,
    number: u64,
    events: Vec<Value>,
    /// What is answered in place of the server, by the end of the address.
    instead: Option<(String, String)>,
}

impl Browser {
    /// Starts Chromium at a place of the lab; `profile` is a folder for what it keeps.
    ///
    /// # Errors
    /// It is not installed or does not answer.
    pub fn start(place: &Place, profile: &Path, look: Look) -> Result<Self> {
        let chromium = process::find("chromium")
            .context("there is no `chromium`; `cargo xtask setup` installs it")?;
        let mut words: Vec<_> = ["sh", "-c", PIPE, "browser"].map(Into::into).into();
        words.push(chromium.into_os_string());
        words.extend(FLAGS.map(Into::into));
        words.push(format!("--user-data-dir={}", profile.display()).into());
        let mut child = place
            .command(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("could not start chromium")?;
        let stdin = child.stdin.take().context("its standard input is a pipe")?;
        let heard = listen(child.stdout.take().context("its standard output is a pipe")?);
        let (session, events) = (None, Vec::new());
        let mut own = Self { child, stdin, heard, session, number: 0, events, instead: None };
        own.attach(look)?;
        Ok(own)
    }

    fn attach(&mut self, look: Look) -> Result<()> {
        let made = self.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let wanted = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", wanted)?;
        let session = attached["sessionId"].as_str().context("a session has a name")?;
        self.session = Some(session.to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        // Else the page of a browser without a window counts as one in the background.
        self.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }))?;
        self.look(look)
    }

    /// Changes how the window is.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn look(&mut self, look: Look) -> Result<()> {
        let Look { width, height, dark, still } = look;
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        let features = json!({ "features": [
            { "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } },
            { "name": "prefers-reduced-motion", "value": if still { "reduce" } else { "no-preference" } },
        ] });
        self.call("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// Opens an address and waits until the page is there.
    ///
    /// # Errors
    /// There is no such page.
    pub fn open(&mut self, address: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({ "url": address }))?;
        ensure!(opened["errorText"].is_null(), "{address}: {}", opened["errorText"]);
        self.until("the page to be there", "document.readyState === 'complete'").map(drop)
    }

    /// From now on answers whatever ends with `path` with this JSON, in place of the server.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn answer_instead(&mut self, path: &str, body: &Value) -> Result<()> {
        self.instead = Some((path.to_owned(), body.to_string()));
        let patterns = json!({ "patterns": [{ "urlPattern": format!("*{path}") }] });
        self.call("Fetch.enable", patterns).map(drop)
    }

    /// What an expression of JavaScript gives on the page; promises are waited for.
    ///
    /// # Errors
    /// It throws.
    pub fn eval(&mut self, expression: &str) -> Result<Value> {
        let wanted = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true
        });
        let gave = self.call("Runtime.evaluate", wanted)?;
        if let Some(details) = gave.get("exceptionDetails") {
            bail!("{expression}: {}", details["exception"]["description"]);
        }
        Ok(gave["result"]["value"].clone())
    }

    /// Waits until an expression gives something that counts as true, and gives that.
    ///
    /// # Errors
    /// It does not in time, or throws.
    pub fn until(&mut self, what: &str, expression: &str) -> Result<Value> {
        let mut last = Value::Null;
        let found = until(what, SOON, || match self.eval(expression) {
            Ok(value) if counts(&value) => Some(Ok(value)),
            Ok(value) => {
                last = value;
                None
            }
            Err(error) => Some(Err(error)),
        });
        found.with_context(|| format!("the page says {last}"))?
    }

    /// Presses and releases a key: `Tab`, `Enter`, `Escape`, an arrow, or a letter.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            letter => (0, letter),
        };
        let event = |kind: &str| json!({ "type": kind, "key": key, "code": key, "text": text, "windowsVirtualKeyCode": code });
        let down = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        self.call("Input.dispatchKeyEvent", event(down))?;
        self.call("Input.dispatchKeyEvent", event("keyUp")).map(drop)
    }

    /// What the page looks like now, as PNG.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn screenshot(&mut self) -> Result<Vec<u8>> {
        use base64::Engine as _;
        let taken = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        let data = taken["data"].as_str().context("a picture has data")?;
        base64::engine::general_purpose::STANDARD.decode(data).context("it is base64")
    }

    /// What a screen reader finds on the page: roles and names.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn accessible(&mut self) -> Result<Vec<(String, String)>> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}))?;
        let nodes = tree["nodes"].as_array().context("a tree has nodes")?;
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let seen = nodes.iter().filter(|node| node["ignored"] != true);
        Ok(seen.map(|node| (text(&node["role"]), text(&node["name"]))).collect())
    }

    /// Errors and warnings of the page so far: thrown, written to the console, or of the network.
    pub fn complaints(&self) -> Vec<String> {
        let of = |event: &Value| {
            let params = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
                "Log.entryAdded" => Some(params["entry"].to_string()),
                "Runtime.consoleAPICalled" => Some(params["args"].to_string()),
                _ => None,
            }
        };
        self.events.iter().filter_map(of).collect()
    }

    /// Every address that the page has asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.events
            .iter()
            .filter(|event| event["method"] == "Network.requestWillBeSent")
            .filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned))
            .collect()
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let number = self.send(method, &params)?;
        loop {
            let message = self
                .heard
                .recv_timeout(LIMIT)
                .with_context(|| format!("the browser does not answer {method}"))?;
            if message["id"] != number {
                self.noticed(message)?;
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(message["result"].clone());
        }
    }

    fn send(&mut self, method: &str, params: &Value) -> Result<u64> {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        write!(self.stdin, "{message}\0").and_then(|()| self.stdin.flush())?;
        Ok(self.number)
    }

    fn noticed(&mut self, event: Value) -> Result<()> {
        if event["method"] == "Fetch.requestPaused" {
            use base64::Engine as _;
            let (_, body) = self.instead.clone().context("something is answered instead")?;
            let answer = json!({
                "requestId": event["params"]["requestId"],
                "responseCode": 200,
                "responseHeaders": [{ "name": "content-type", "value": "application/json" }],
                "body": base64::engine::general_purpose::STANDARD.encode(body),
            });
            self.send("Fetch.fulfillRequest", &answer)?;
        } else if event["method"].is_string() {
            self.events.push(event);
        }
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // Its helpers are of its group; gone already is as good.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait(); // reaped, whatever its status
    }
}

/// Gives the browser its pipes where it looks for them: 3 to hear, 4 to speak.
const PIPE: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >&2"#;

const FLAGS: [&str; 14] = [
    "--headless=new",
    "--remote-debugging-pipe",
    // Root has no sandbox; the page is our own and the namespace leads nowhere.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--lang=en-US",
];

/// Messages of the browser, each ended by a zero byte.
fn listen(stdout: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for message in BufReader::new(stdout).split(0).map_while(Result::ok) {
            let parsed = serde_json::from_slice(&message);
            // Neither happens but at the end, when nobody waits for more.
            if parsed.is_ok_and(|message: Value| sender.send(message).is_err()) {
                break;
            }
        }
    });
    receiver
}

fn counts(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(said) => *said,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}
