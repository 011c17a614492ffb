//! The live map in headless Chromium, on a lab with real traffic.
//!
//! With `CULVERT_PICTURES=FOLDER` the first test leaves the pictures of README and docs there.

mod shop;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Browser, Lab, Look, NodeId, PodSpec, scenario};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const PAGE: &str = "http://127.0.0.1:15000/";

/// A browser on node 1, at the page of its agent.
fn browser(lab: &Lab, look: Look) -> Result<Browser> {
    let place = lab.node(NodeId::Node1);
    let mut browser = Browser::start(place, &lab.directory().join("browser"), look)?;
    browser.open(PAGE)?;
    Ok(browser)
}

/// The selector of the badge of a link.
fn badge(source: &str, target: &str, kind: &str) -> String {
    format!(".badge.{kind}[data-id=\"{source}|{target}|{kind}\"]")
}

/// The expression that gives an element, or null.
fn element(selector: &str) -> String {
    format!("document.querySelector({})", json!(selector))
}

fn click(browser: &mut Browser, selector: &str) -> Result<()> {
    let find = element(selector);
    browser.until(selector, &format!("!!{find}"))?;
    browser
        .eval(&format!("{find}.dispatchEvent(new MouseEvent('click', {{ bubbles: true }}))"))
        .map(drop)
}

fn text(browser: &mut Browser, selector: &str) -> Result<String> {
    let said = browser.eval(&format!("{}?.textContent", element(selector)))?;
    Ok(said.as_str().with_context(|| format!("no {selector}"))?.to_owned())
}

/// How a link looks: the colour of its line, how it is broken, and what its badge is called.
fn line(browser: &mut Browser, source: &str, target: &str, kind: &str) -> Result<[String; 3]> {
    let badge = badge(source, target, kind);
    browser.until(&format!("the badge {badge}"), &format!("!!{}", element(&badge)))?;
    let said = browser.eval(&format!(
        "(() => {{ const badge = {}; const style = getComputedStyle({});
           return [style.stroke, style.strokeDasharray, badge.getAttribute('aria-label')]; }})()",
        element(&badge),
        element(&format!("{} .line", badge.replace(".badge", ".link"))),
    ))?;
    serde_json::from_value(said.clone()).with_context(|| said.to_string())
}

#[test]
fn page_shows_the_real_traffic_and_asks_nobody_else() {
    scenario(|| {
        let lab = shop::lab()?;
        let traffic = shop::Traffic::start(&lab)?;
        let mut browser = browser(&lab, Look::default())?;
        let mutual = line(&mut browser, "shop/web", "shop/catalog", "mtls")?;
        let plain = line(&mut browser, "monitoring/prometheus", "shop/web", "plain")?;
        let refused = line(&mut browser, "shop/legacy-report", "shop/cart", "refused")?;
        let denied = line(&mut browser, "shop/cart", "payments/gateway", "refused")?;
        ensure!(mutual[2].starts_with("web to catalog, Mutual TLS"), "{mutual:?}");
        ensure!(plain[2].starts_with("prometheus to web, Plaintext"), "{plain:?}");
        ensure!(refused[2].contains("plaintext refused"), "{refused:?}");
        ensure!(denied[2].contains("policy denied"), "{denied:?}");
        for [one, other] in [[&mutual, &plain], [&mutual, &refused], [&plain, &refused]] {
            ensure!(one[0] != other[0], "one colour for {one:?} and {other:?}");
            ensure!(one[1] != other[1], "one line for {one:?} and {other:?}");
        }
        // Who was only ever refused never had plaintext carried.
        let carried = element(&badge("shop/legacy-report", "shop/cart", "plain"));
        ensure!(browser.eval(&carried)?.is_null(), "the refused one counts as plaintext");
        browser.until(
            "rates",
            "[...document.querySelectorAll('.badge.mtls text')].some((one) => one.textContent.endsWith('/s'))",
        )?;
        certificate_and_policies(&mut browser)?;
        table(&mut browser)?;
        themes(&mut browser)?;
        if let Some(folder) = std::env::var_os("CULVERT_PICTURES") {
            pictures(&mut browser, Path::new(&folder))?;
        }
        let complaints = browser.complaints();
        ensure!(complaints.is_empty(), "the page complains: {complaints:?}");
        let asked = browser.asked();
        ensure!(asked.len() > 20, "{asked:?}");
        for address in asked {
            ensure!(address.starts_with(PAGE), "the page asks {address}");
        }
        drop(traffic);
        Ok(())
    });
}

/// From a workload to the certificate that its agent holds, and to the policy that selects it.
fn certificate_and_policies(browser: &mut Browser) -> Result<()> {
    click(browser, ".node-card[data-id='payments/gateway']")?;
    browser.until("the panel", "!document.querySelector('#panel').hidden")?;
    let id = "spiffe://cluster.local/ns/payments/sa/gateway";
    click(browser, &format!(".disclose[data-focus='certificate own {id}']"))?;
    browser.until("the certificate", "!!document.querySelector('.certificate')")?;
    let all: Value = browser.eval("fetch('certs').then((answer) => answer.json())")?;
    let held = all["identities"].as_array().context("identities")?;
    let held = held.iter().find(|held| held["id"] == id).context("the gateway's is held")?;
    let shown = text(browser, ".certificate")?;
    for wanted in ["serial", "issuer"] {
        let value = held["certificate"][wanted].as_str().context("a text")?;
        ensure!(shown.contains(value), "no {wanted} {value} in {shown}");
    }
    click(browser, ".disclose[data-focus='policy AuthorizationPolicy payments/only-checkout']")?;
    let policy = browser.until("the policy", "document.querySelector('.policy')?.textContent")?;
    ensure!(policy.as_str().is_some_and(|text| text.contains("ALLOW")), "{policy}");
    click(browser, "#panel .close")?;
    browser.until("the panel to go", "document.querySelector('#panel').hidden").map(drop)
}

/// The table says what the graph shows, link by link.
fn table(browser: &mut Browser) -> Result<()> {
    click(browser, "#pause")?;
    click(browser, "#tab-connections")?;
    let same = "(() => { const ids = (selector) => [...document.querySelectorAll(selector)]
        .map((one) => one.dataset.id).sort().join('\\n');
        return ids('#connections tbody tr') === ids('.badge') ? ids('.badge') : ''; })()";
    let ids = browser.until("a row for each badge", same)?;
    ensure!(ids.as_str().is_some_and(|ids| ids.lines().count() >= 6), "{ids}");
    let row = "#connections tr[data-id='shop/cart|payments/gateway|refused']";
    let said = text(browser, row)?;
    ensure!(said.contains("Refused: policy denied"), "{said}");
    click(browser, "#connections th:nth-child(5) button")?;
    browser
        .until("sorting", "!!document.querySelector('#connections th:nth-child(5)[aria-sort]')")?;
    click(browser, "#tab-map")?;
    click(browser, "#pause")
}

/// Dark when the system is, and when somebody says so.
fn themes(browser: &mut Browser) -> Result<()> {
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = browser.eval(ground)?;
    browser.look(Look { dark: true, ..Look::default() })?;
    let dark = browser.eval(ground)?;
    ensure!(light != dark, "light and dark are {light}");
    click(browser, "#theme")?;
    ensure!(browser.eval(ground)? == light, "light is chosen in a dark system");
    click(browser, "#theme")?;
    browser.look(Look::default())?;
    ensure!(browser.eval(ground)? == dark, "dark is chosen in a light system");
    click(browser, "#theme")?;
    ensure!(browser.eval(ground)? == light, "as the system again");
    Ok(())
}

fn pictures(browser: &mut Browser, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let link = badge("shop/web", "shop/catalog", "mtls");
    let settled = "(document.querySelector('.spark polyline')?.points.length ?? 0) >= 10";
    click(browser, &link)?;
    browser.until("some history", settled)?;
    let take = |browser: &mut Browser, name: &str, look: Look| -> Result<()> {
        browser.look(look)?;
        // Two frames, so that the window has its new size.
        let drawn = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
        browser.eval(drawn)?;
        fs::write(folder.join(name), browser.screenshot()?)?;
        Ok(())
    };
    let look = Look { width: 1440, height: 780, dark: false, still: true };
    take(browser, "map-details.png", Look { dark: true, ..look })?;
    click(browser, "#panel .close")?;
    click(browser, "#zoom-fit")?;
    browser.eval("document.activeElement.blur()")?;
    take(browser, "map.png", look)?;
    take(browser, "map-dark.png", Look { dark: true, ..look })?;
    browser.look(Look::default())
}

#[test]
fn keyboard_and_screen_reader_reach_everything() {
    scenario(|| {
        let lab = shop::lab()?;
        let traffic = shop::Traffic::start(&lab)?;
        let mut browser = browser(&lab, Look { still: true, ..Look::default() })?;
        line(&mut browser, "shop/cart", "payments/gateway", "refused")?;
        line(&mut browser, "shop/web", "shop/catalog", "mtls")?;
        let focused = "document.activeElement.dataset.id ?? document.activeElement.id";
        browser.press("Tab")?;
        ensure!(browser.eval(focused)? == "skip", "the first stop skips the graph");
        let mut stops = Vec::new();
        for _ in 0..60 {
            browser.press("Tab")?;
            let stop = browser.eval(focused)?.as_str().unwrap_or_default().to_owned();
            let visible = browser.eval("document.activeElement.matches(':focus-visible')")?;
            ensure!(visible == true, "the focus on {stop} is not seen");
            stops.push(stop);
            if stops.last().is_some_and(|stop| stop == "zoom-in") {
                break;
            }
        }
        for wanted in ["search", "shop/web", "shop/web|shop/catalog|mtls", "zoom-in"] {
            ensure!(stops.iter().any(|stop| stop == wanted), "no {wanted} among {stops:?}");
        }
        browser.eval(&format!("{}.focus()", element(".node-card[data-id='shop/web']")))?;
        browser.press("ArrowRight")?;
        let beside = browser.eval(focused)?;
        ensure!(beside.as_str().is_some_and(|id| id != "shop/web"), "an arrow leads to {beside}");
        browser.press("Enter")?;
        browser.until("the panel", "!document.querySelector('#panel').hidden")?;
        ensure!(browser.eval("document.activeElement.className")? == "icon close", "focus inside");
        browser.press("Escape")?;
        browser.until("the panel to go", "document.querySelector('#panel').hidden")?;
        ensure!(browser.eval(focused)? == beside, "the focus is back where it was");
        let named = browser.accessible()?;
        for (role, wanted) in [
            ("button", "web to catalog, Mutual TLS"),
            ("button", "cart to gateway, refused: "),
            ("button", "gateway, namespace payments, payments/gateway, enrolled"),
            ("tab", "Connections"),
            ("button", "Pause updates"),
        ] {
            let there = named.iter().any(|(is, name)| is == role && name.starts_with(wanted));
            ensure!(there, "no {role} `{wanted}` in {named:?}");
        }
        // What changes is said, for those who do not see it.
        let late = shop::refused_once(&lab)?;
        let news = "document.querySelector('#spoken').textContent.includes('legacy-report to web, refused')";
        browser.until("the news", news)?;
        let still = "getComputedStyle(document.querySelector('.link.mtls .flow')).animationName";
        ensure!(browser.eval(still)? == "none", "it moves though no motion is wanted");
        drop((late, traffic));
        Ok(())
    });
}

#[test]
fn page_stays_usable_without_traffic_without_an_agent_and_with_five_hundred_workloads() {
    scenario(|| {
        let mut lab = Lab::builder().pod(PodSpec::new("a1", NodeId::Node1)).start()?;
        let mut browser = browser(&lab, Look::default())?;
        browser.until("the empty state", "document.querySelector('#empty h2')?.textContent")?;
        ensure!(text(&mut browser, "#empty h2")? == "No connection yet", "with one pod");
        let health = "document.querySelector('#health').dataset.state";
        ensure!(browser.eval(health)? == "live", "the agent answers");
        lab.kill_agent(NodeId::Node1);
        browser.until("the alarm", &format!("{health} === 'away'"))?;
        ensure!(text(&mut browser, "#notice")?.contains("No answer from the agent"), "says so");
        lab.start_agent(NodeId::Node1)?;
        browser.until("the agent's return", &format!("{health} === 'live'"))?;
        ensure!(browser.eval("document.querySelector('#notice').hidden")? == true, "all is well");

        browser.answer_instead("/map.json", &shop::crowd(500))?;
        browser.open(PAGE)?;
        let longest = "(new PerformanceObserver((list) => { for (const one of list.getEntries())
            globalThis.longest = Math.max(globalThis.longest ?? 0, one.duration); })
            .observe({ type: 'longtask', buffered: true }), 1)";
        browser.eval(longest)?;
        browser
            .until("all of them", "document.querySelector('#sum').textContent.includes('500')")?;
        let cards = browser.eval("document.querySelectorAll('.node-card').length")?;
        ensure!(cards == 10, "ten namespaces, each as one: {cards}");
        let parts = browser.eval("document.querySelectorAll('#graph *').length")?;
        ensure!(parts.as_u64().is_some_and(|parts| parts < 5000), "{parts} elements");
        click(&mut browser, ".box-head[data-toggle='team-3']")?;
        let cards = "document.querySelectorAll('.node-card').length";
        browser.until("one namespace in full", &format!("{cards} === 59"))?;
        click(&mut browser, "#tab-workloads")?;
        let rows = "document.querySelectorAll('#workloads tbody tr').length === 500";
        browser.until("all in the table", rows)?;
        let longest = browser.eval("globalThis.longest ?? 0")?;
        println!("longest task of the page: {longest} ms");
        ensure!(
            longest.as_f64().is_some_and(|ms| ms < 2500.0),
            "the page stood still {longest} ms"
        );
        Ok(())
    });
}
