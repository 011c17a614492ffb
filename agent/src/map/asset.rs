//! The files of the page, with the headers that go with them.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// What the page may do: run and fetch what comes from its own server, and nothing else. No inline
/// script or style is among it, and no other page may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// One file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($path:literal = $file:literal as $kind:expr;)*) => {
        const ASSETS: &[Asset] = &[$(Asset {
            path: $path,
            content_type: $kind,
            text: include_str!(concat!("page/", $file)),
        }),*];
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

assets! {
    "/" = "index.html" as HTML;
    "/map/icon.svg" = "icon.svg" as SVG;
    "/map/base.css" = "base.css" as CSS;
    "/map/graph.css" = "graph.css" as CSS;
    "/map/panels.css" = "panels.css" as CSS;
    "/map/theme.js" = "theme.js" as JS;
    "/map/main.js" = "main.js" as JS;
    "/map/feed.js" = "feed.js" as JS;
    "/map/model.js" = "model.js" as JS;
    "/map/groups.js" = "groups.js" as JS;
    "/map/kinds.js" = "kinds.js" as JS;
    "/map/format.js" = "format.js" as JS;
    "/map/dom.js" = "dom.js" as JS;
    "/map/layout.js" = "layout.js" as JS;
    "/map/columns.js" = "columns.js" as JS;
    "/map/curves.js" = "curves.js" as JS;
    "/map/view.js" = "view.js" as JS;
    "/map/graph.js" = "graph.js" as JS;
    "/map/details.js" = "details.js" as JS;
    "/map/reveal.js" = "reveal.js" as JS;
    "/map/tables.js" = "tables.js" as JS;
}

/// The file that a path asks for; none where the page has no such file.
pub fn page(path: &str) -> Option<Asset> {
    let path = if path == "/index.html" { "/" } else { path };
    ASSETS.iter().find(|asset| asset.path == path).copied()
}

impl Asset {
    /// What kind of file it is, as `content-type` says it.
    pub fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// The file.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// Its `etag`: another for every other content.
    pub fn etag(&self) -> String {
        // FNV-1a. Nobody gains by a collision: both files would be our own.
        let hash = self.text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("\"{hash:016x}\"")
    }

    /// The answer to a GET whose `if-none-match` is given: the file, or 304 where the browser has
    /// it already.
    pub fn answer(&self, if_none_match: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        let etag = self.etag();
        let known = if_none_match.and_then(|value| value.to_str().ok()).is_some_and(|value| {
            value.split(',').map(|one| one.trim().trim_start_matches("W/")).any(|one| one == etag)
        });
        let body = if known { Bytes::new() } else { Bytes::from_static(self.text.as_bytes()) };
        let mut answer = Response::new(Full::new(body));
        if known {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = answer.headers_mut();
        for (name, value) in [
            (CONTENT_TYPE, self.content_type),
            (CONTENT_SECURITY_POLICY, POLICY),
            // An agent that was updated serves another page: the browser asks each time.
            (CACHE_CONTROL, "no-cache"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(value) = HeaderValue::from_str(&etag) {
            headers.insert(ETAG, value);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Every quoted path of the page's own files that a text names.
    fn named(text: &str) -> BTreeSet<String> {
        text.split(['"', '\''])
            .filter(|word| word.starts_with("map/") || word.starts_with("./"))
            .filter(|word| !word.contains(char::is_whitespace) && *word != "map.json")
            .map(|word| {
                format!("/map/{}", word.trim_start_matches("map/").trim_start_matches("./"))
            })
            .collect()
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_every_named_one_is_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/map/page");
        let there: BTreeSet<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| if name == "index.html" { "/".to_owned() } else { format!("/map/{name}") })
            .collect();
        let served: BTreeSet<_> = ASSETS.iter().map(|asset| asset.path.to_owned()).collect();
        assert_eq!(there, served);
        let wanted: BTreeSet<_> = ASSETS.iter().flat_map(|asset| named(asset.text)).collect();
        assert!(wanted.len() > 10, "{wanted:?}");
        assert!(wanted.is_subset(&served), "{wanted:?}");
    }

    #[test]
    fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
        let html = page("/").unwrap().text();
        assert!(!html.contains("style=") && !html.contains("onclick") && !html.contains("<style"));
        for script in html.split("<script").skip(1) {
            let (tag, body) = script.split_once('>').unwrap();
            assert!(tag.contains("src=\"map/"), "{tag}");
            assert!(body.starts_with("</script>"), "{body:.60}");
        }
        for asset in ASSETS {
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            for foreign in ["http://", "https://", "@import", "url(", "innerHTML", "eval("] {
                assert!(!text.contains(foreign), "{foreign} in {}", asset.path);
            }
        }
    }

    #[test]
    fn answers_carry_the_policy_and_are_sent_once() {
        let main = page("/map/main.js").unwrap();
        let first = main.answer(None);
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[CONTENT_TYPE], JS);
        let policy = first.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let tag = first.headers()[ETAG].clone();
        assert_eq!(main.answer(Some(&tag)).status(), StatusCode::NOT_MODIFIED);
        let listed = HeaderValue::from_str(&format!("\"x\", W/{}", main.etag())).unwrap();
        assert_eq!(main.answer(Some(&listed)).status(), StatusCode::NOT_MODIFIED);
        let other = HeaderValue::from_static("\"x\"");
        assert_eq!(main.answer(Some(&other)).status(), StatusCode::OK);
        assert_ne!(main.etag(), page("/map/graph.js").unwrap().etag());
    }

    #[test]
    fn only_the_page_is_there() {
        assert_eq!(page("/index.html"), page("/"));
        for path in ["", "/map", "/map/", "/map/../map.rs", "/map/Main.js", "/certs"] {
            assert_eq!(page(path), None, "{path}");
        }
    }
}
