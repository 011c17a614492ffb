//! Heads: where one ends, and what of it matters.

use std::mem::MaybeUninit;
use std::time::Instant;

use httparse::{Header, ParserConfig, Request, Response, Status};

use super::body::Body;
use crate::observe::http::{GaveUp, MAX_HEAD};

/// Fields of one head.
const MAX_FIELDS: usize = 100;

/// What a request asks, as far as it decides how long the answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Anything,
    /// The head alone.
    Head,
}

pub(super) struct RequestHead {
    pub(super) asked: Asked,
    pub(super) body: Body,
}

pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) body: Body,
}

/// The heads of one direction, one at a time.
#[derive(Default)]
pub(super) struct Heads {
    /// The unfinished one. Gives its memory back once it is finished.
    held: Vec<u8>,
    since: Option<Instant>,
}

impl Heads {
    /// Reads on in a head: how many bytes belong to it, and once it is whole, what `parse` makes of
    /// it and when it began.
    ///
    /// `parse` runs once a head, so that one that comes byte by byte costs no more than another.
    pub(super) fn take<T>(
        &mut self,
        bytes: &[u8],
        now: Instant,
        parse: impl FnOnce(&[u8]) -> Result<T, GaveUp>,
    ) -> Result<(usize, Option<(T, Instant)>), GaveUp> {
        if self.held.is_empty() {
            // Empty lines before a head are to be ignored (RFC 9112 section 2.2).
            let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank > 0 {
                return Ok((blank, None));
            }
        }
        let since = *self.since.get_or_insert(now);
        let old = self.held.len();
        let window = &bytes[..bytes.len().min(MAX_HEAD - old)];
        let end = if old == 0 {
            end_of_head(window, 0)
        } else {
            self.held.extend_from_slice(window);
            // The end may have begun in the earlier piece: `\n\r` is its longest beginning.
            end_of_head(&self.held, old.saturating_sub(2))
        };
        let Some(end) = end else {
            if old == 0 {
                self.held.extend_from_slice(window);
            }
            let full = self.held.len() == MAX_HEAD;
            return if full { Err(GaveUp::TooLong) } else { Ok((window.len(), None)) };
        };
        let head = if old == 0 { &window[..end] } else { &self.held[..end] };
        let parsed = parse(head)?;
        self.held = Vec::new();
        self.since = None;
        Ok((end - old, Some((parsed, since))))
    }
}

/// Where the first empty line ends, if it ends at or after `from` and begins not before it.
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes[at..].iter().position(|byte| *byte == b'\n')? + 1;
        match bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

pub(super) fn request(head: &[u8]) -> Result<RequestHead, GaveUp> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = Request::new(&mut []);
    let parsed =
        ParserConfig::default().parse_request_with_uninit_headers(&mut request, head, &mut fields);
    whole(parsed, head)?;
    let asked = match request.method {
        Some("CONNECT") => return Err(GaveUp::Upgraded),
        Some("HEAD") => Asked::Head,
        _ => Asked::Anything,
    };
    let body = match length(request.headers)? {
        Length::Chunked => Body::chunked(),
        Length::Known(length) => Body::known(length),
        Length::Unsaid => Body::default(),
    };
    Ok(RequestHead { asked, body })
}

pub(super) fn response(head: &[u8], asked: Asked) -> Result<ResponseHead, GaveUp> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        head,
        &mut fields,
    );
    whole(parsed, head)?;
    let status = response.code.filter(|code| *code >= 100).ok_or(GaveUp::Malformed)?;
    let length = length(response.headers)?;
    // RFC 9112 section 6.3, in its order.
    let body = match length {
        _ if asked == Asked::Head || matches!(status, 100..200 | 204 | 304) => Body::default(),
        Length::Chunked => Body::chunked(),
        Length::Known(length) => Body::known(length),
        Length::Unsaid => Body::endless(),
    };
    Ok(ResponseHead { status, body })
}

/// Whether the library read all of what we took for the head.
fn whole(parsed: httparse::Result<usize>, head: &[u8]) -> Result<(), GaveUp> {
    match parsed {
        Ok(Status::Complete(length)) if length == head.len() => Ok(()),
        Err(httparse::Error::TooManyHeaders) => Err(GaveUp::TooLong),
        Ok(_) | Err(_) => Err(GaveUp::Malformed),
    }
}

enum Length {
    Chunked,
    Known(u64),
    Unsaid,
}

/// How long the body is. What can be read in two ways, and so could smuggle a request past us, is
/// read in none.
fn length(fields: &[Header<'_>]) -> Result<Length, GaveUp> {
    let mut length = Length::Unsaid;
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            let said = decimal(field.value)?;
            match length {
                Length::Unsaid => length = Length::Known(said),
                Length::Known(before) if before == said => {}
                Length::Known(_) | Length::Chunked => return Err(GaveUp::Malformed),
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            let chunked = field.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if !chunked || !matches!(length, Length::Unsaid) {
                return Err(GaveUp::Malformed);
            }
            length = Length::Chunked;
        }
    }
    Ok(length)
}

fn decimal(text: &[u8]) -> Result<u64, GaveUp> {
    let text = text.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(GaveUp::Malformed);
    }
    str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(GaveUp::Malformed)
}
