//! [`Query`]: the part of an address behind its `?`.

use std::borrow::Cow;

/// Names and values, as they stand there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(super) fn of(uri: &'a http::Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The first value of a name; empty where it stands without one.
    pub(super) fn get(self, name: &str) -> Option<Cow<'a, str>> {
        self.pairs().find_map(|(key, value)| (key == name).then_some(value))
    }

    fn pairs(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.0.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
    }
}

/// Without its `%XX` and `+` (WHATWG URL, `application/x-www-form-urlencoded`); what is no escape
/// stays.
pub(super) fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = after.get(..2).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            let all = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            all.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
        });
        bytes.push(match (first, escaped) {
            (b'%', Some(byte)) => {
                rest = &after[2..];
                byte
            }
            (b'+', _) => b' ',
            (byte, _) => *byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_and_decoded() {
        let query = Query("level=info%2Caccess%3Ddebug&reset&a=1+2&a=3&bad=%zz%4&");
        let get = |name| query.get(name).map(Cow::into_owned);
        assert_eq!(get("level").as_deref(), Some("info,access=debug"));
        assert_eq!(get("reset").as_deref(), Some(""));
        assert_eq!(get("a").as_deref(), Some("1 2"));
        assert_eq!(get("bad").as_deref(), Some("%zz%4"));
        assert_eq!(get("none"), None);
        assert_eq!(decoded("%c3%a4%ff"), "ä\u{fffd}");
    }
}
