//! The live map: a page that shows who calls whom, and how it is protected.
//!
//! ```text
//!  browser ── GET / ──────────▶ admin server ──▶ page("/")            index.html, style sheets,
//!     │    ── GET /map/*.js ──▶      │       ──▶ page("/map/main.js")  modules: all in the binary
//!     │    ── GET /map.json ──▶      │       ──▶ the agent's answer, every two seconds
//!     └────── GET /certs, /policies: when somebody clicks
//! ```
//!
//! The page is what its author wrote: no build step stands between `agent/src/map/page/` and the
//! browser, and nothing is fetched from anywhere else, which the answers' Content-Security-Policy
//! also forbids. Whoever serves it needs only [`page`] and an answer to `/map.json`.

mod asset;

pub use asset::{Asset, page};
