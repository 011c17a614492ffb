//! Node tokens.
//!
//! A text is taken as it is, as a stranger would send it. Two lines, header and claims in JSON, are
//! signed with the authority's own key first: so what comes after the signature is reached too.

use crate::Verdict;
use crate::chain::NOW;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use culvert_ca::attest::{Authenticator, NodeTokens};
use culvert_ca::directory::Directory;
use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use std::sync::LazyLock;

struct Authority {
    tokens: NodeTokens,
    key: EncodingKey,
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let temp = tempfile::tempdir().expect("a folder");
    let tokens = NodeTokens::open(&Directory::open(temp.path()).expect("a directory"));
    let pem = std::fs::read(temp.path().join("node-token-key.pem")).expect("its key");
    let key = EncodingKey::from_ec_pem(&pem).expect("a key");
    Authority { tokens: tokens.expect("tokens"), key }
});

pub(crate) fn run(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    let token = match text.split_once('\n') {
        Some((header, claims)) => signed(header, claims),
        None => text.to_owned(),
    };
    let checked = AUTHORITY.tokens.authenticate(&token, NOW);
    let checked = checked.now_or_never().expect("node tokens are checked at once");
    if checked.is_ok() {
        let (header, claims) = text.split_once('\n').expect("a token that nobody signed was taken");
        assert!(header.contains("ES256"), "another algorithm: {header}");
        assert!(claims.contains("culvert-ca") && claims.contains("node:"), "{claims}");
    }
    Verdict::of(&checked)
}

fn signed(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let message = format!("{header}.{claims}");
    let signature = crypto::sign(message.as_bytes(), &AUTHORITY.key, Algorithm::ES256);
    format!("{message}.{}", signature.expect("a signature"))
}
