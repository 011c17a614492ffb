//! How a node proves itself without Kubernetes: a token signed by a key that stays in the
//! authority's directory.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::kept::Kept;
use super::{AuthenticationError, Authenticator, Caller};
use crate::directory::{Directory, DirectoryError, Visibility};

/// Audience of node tokens: a token made for anything else is refused.
const AUDIENCE: &str = "culvert-ca";
/// The key that signs node tokens.
const KEY_FILE: &str = "node-token-key.pem";
/// Longest token looked at; ours have some 300 bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Longest node name, as Kubernetes has it (a DNS-1123 subdomain).
const MAX_NODE_BYTES: usize = 253;

/// How long a token whose signature held is not verified again. A quarter of what a call costs is
/// the verification of its token, and an agent sends the same one with each.
const KEEP_GOOD: Duration = Duration::from_mins(1);
/// Most tokens so kept; more than there are nodes.
const MOST_GOOD: usize = 16 * 1024;

/// Why node tokens cannot be made or checked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The directory cannot be used.
    #[error("cannot use the authority's directory")]
    Directory(#[from] DirectoryError),
    /// The key file is not what this authority wrote.
    #[error("node-token-key.pem is no P-256 key; remove it and make every node a new token")]
    Key,
    /// A key could not be made.
    #[error("cannot make a key for node tokens; the machine may lack entropy or memory")]
    Generate(#[from] rcgen::Error),
    /// The name is none.
    #[error("`{0}` is no node name; use 1 to 253 of a-z, 0-9, `-` and `.`")]
    Node(String),
    /// Signing failed.
    #[error("cannot sign a node token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Makes and checks node tokens: ES256 JWTs.
pub struct NodeTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    /// What tokens said whose signature held, by their hash.
    good: Mutex<Kept<[u8; 32], Said>>,
}

/// What a token said. Its end is compared at every call.
#[derive(Clone)]
struct Said {
    node: String,
    expires: i64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    /// `node:<name>`.
    sub: String,
    /// When it was made, seconds since 1970.
    iat: i64,
    /// When it ends, seconds since 1970.
    exp: i64,
}

impl NodeTokens {
    /// Opens the key in `directory`, making it when absent. Several processes may do so at once.
    pub fn open(directory: &Directory) -> Result<Self, TokenError> {
        if directory.read(KEY_FILE)?.is_none() {
            let pem = Zeroizing::new(KeyPair::generate()?.serialize_pem());
            directory.create(KEY_FILE, pem.as_bytes(), Visibility::Secret)?;
        }
        let pem = directory.read(KEY_FILE)?.ok_or(TokenError::Key)?;
        let text = std::str::from_utf8(&pem).map_err(|_| TokenError::Key)?;
        let public = KeyPair::from_pem(text).map_err(|_| TokenError::Key)?.public_key_pem();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["aud", "exp", "sub"]);
        // Compared with the time the call came with, below.
        validation.validate_exp = false;
        Ok(Self {
            signing: EncodingKey::from_ec_pem(&pem).map_err(|_| TokenError::Key)?,
            verifying: DecodingKey::from_ec_pem(public.as_bytes()).map_err(|_| TokenError::Key)?,
            validation,
            good: Mutex::new(Kept::new(MOST_GOOD)),
        })
    }

    /// Makes a token that proves its holder to be the agent of `node`, for `life`.
    pub fn create(
        &self,
        node: &str,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Zeroizing<String>, TokenError> {
        if !is_node_name(node) {
            return Err(TokenError::Node(node.escape_default().to_string()));
        }
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            sub: format!("node:{node}"),
            iat: now.unix_timestamp(),
            exp: (now + life).unix_timestamp(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signing)
            .map(Zeroizing::new)
            .map_err(TokenError::Sign)
    }

    fn check(&self, bearer: &str, now: OffsetDateTime) -> Result<Caller, AuthenticationError> {
        if bearer.len() > MAX_TOKEN_BYTES {
            return Err(AuthenticationError::Malformed);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, bearer.as_bytes()).as_ref());
        let clock = Instant::now();
        let known = self.good.lock().unwrap_or_else(PoisonError::into_inner).find(&hash, clock);
        let said = if let Some(said) = known {
            said
        } else {
            let said = self.verify(bearer)?;
            self.good.lock().unwrap_or_else(PoisonError::into_inner).keep(
                hash,
                said.clone(),
                clock + KEEP_GOOD,
                clock,
            );
            said
        };
        if said.expires <= now.unix_timestamp() {
            return Err(AuthenticationError::Expired);
        }
        Ok(Caller::Node { node: said.node })
    }

    fn verify(&self, bearer: &str) -> Result<Said, AuthenticationError> {
        let claims = jsonwebtoken::decode::<Claims>(bearer, &self.verifying, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidAudience => AuthenticationError::Audience,
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => {
                    AuthenticationError::Signature
                }
                _ => AuthenticationError::Malformed,
            })?
            .claims;
        let node = claims.sub.strip_prefix("node:").ok_or(AuthenticationError::Malformed)?;
        Ok(Said { node: node.to_owned(), expires: claims.exp })
    }
}

impl Authenticator for NodeTokens {
    async fn authenticate(
        &self,
        bearer: &str,
        now: OffsetDateTime,
    ) -> Result<Caller, AuthenticationError> {
        self.check(bearer, now)
    }
}

fn is_node_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    (1..=MAX_NODE_BYTES).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
    const DAY: Duration = Duration::from_hours(24);

    fn tokens() -> (tempfile::TempDir, NodeTokens) {
        let temp = tempfile::tempdir().unwrap();
        let tokens = NodeTokens::open(&Directory::open(temp.path()).unwrap()).unwrap();
        (temp, tokens)
    }

    #[test]
    fn token_proves_its_node_until_it_ends() {
        let (temp, tokens) = tokens();
        let token = tokens.create("node1", DAY, NOW).unwrap();
        // As another process of the same directory would.
        let again = NodeTokens::open(&Directory::open(temp.path()).unwrap()).unwrap();
        assert_eq!(again.check(&token, NOW), Ok(Caller::Node { node: "node1".to_owned() }));
        assert_eq!(again.check(&token, NOW + DAY), Err(AuthenticationError::Expired));
        assert!(again.check(&token, NOW).is_ok(), "and when it is known");
        // A token that differs in one character is another token.
        let mut forged = token.to_string();
        let last = forged.pop().unwrap();
        forged.push(if last == 'A' { 'Q' } else { 'A' });
        assert!(again.check(&forged, NOW).is_err());
    }

    #[test]
    fn forged_foreign_and_broken_tokens_are_refused() {
        let (_temp, ours) = tokens();
        let (_other, theirs) = tokens();
        let foreign = theirs.create("node1", DAY, NOW).unwrap();
        assert_eq!(ours.check(&foreign, NOW), Err(AuthenticationError::Signature));

        let claims = |aud: &str, sub: &str| Claims {
            aud: aud.to_owned(),
            sub: sub.to_owned(),
            iat: 0,
            exp: NOW.unix_timestamp() + 60,
        };
        let sign = |claims: &Claims| {
            jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &ours.signing).unwrap()
        };
        let audience = sign(&claims("istio-ca", "node:node1"));
        assert_eq!(ours.check(&audience, NOW), Err(AuthenticationError::Audience));
        let user = sign(&claims(AUDIENCE, "node1"));
        assert_eq!(ours.check(&user, NOW), Err(AuthenticationError::Malformed));

        let secret = EncodingKey::from_secret(b"guess");
        let symmetric = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims(AUDIENCE, "node:node1"),
            &secret,
        )
        .unwrap();
        assert!(ours.check(&symmetric, NOW).is_err());
        for text in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(ours.check(text, NOW), Err(AuthenticationError::Malformed), "{text}");
        }
        assert!(ours.check(&"a".repeat(MAX_TOKEN_BYTES + 1), NOW).is_err());
    }

    #[test]
    fn odd_node_names_get_no_token() {
        let (_temp, tokens) = tokens();
        for name in ["", "Node1", "a b", "-a", "a.", "a\n"] {
            assert!(tokens.create(name, DAY, NOW).is_err(), "{name:?}");
        }
    }
}
