//! [`JwtSvid`]: a token that says who its bearer is.

use std::fmt;

use zeroize::Zeroizing;

/// A JWT-SVID as the authority signed it. Whoever has it is believed; `Debug` does not print it.
pub struct JwtSvid {
    token: Zeroizing<String>,
    expires_at: i64,
}

impl JwtSvid {
    pub(crate) fn new(token: String, expires_at: i64) -> Self {
        Self { token: Zeroizing::new(token), expires_at }
    }

    /// The token, in JWS compact form.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Its end, in seconds since 1970.
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("token", &"[redacted]")
            .field("expires_at", &self.expires_at)
            .finish()
    }
}
