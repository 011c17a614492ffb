//! HTTP/1.0 and HTTP/1.1 (RFC 9112).

mod body;
mod head;

use std::collections::VecDeque;
use std::time::Instant;

use super::{Cut, Exchange, GaveUp, MAX_PIPELINED, Protocol, Seen, Side};
use body::Body;
use head::{Asked, Heads};

/// Both directions of one flow.
#[derive(Default)]
pub(super) struct Connection {
    requests: Half,
    responses: Half,
    /// Requests that have no whole answer, oldest first: answers come in their order.
    pending: VecDeque<Pending>,
}

#[derive(Default)]
struct Half {
    heads: Heads,
    body: Body,
}

struct Pending {
    asked: Asked,
    since: Instant,
    /// Once the answer's head has come.
    status: Option<u16>,
}

impl Connection {
    pub(super) fn read(
        &mut self,
        from: Side,
        mut bytes: &[u8],
        now: Instant,
        seen: &mut dyn Seen,
    ) -> Result<(), GaveUp> {
        while !bytes.is_empty() {
            let half = match from {
                Side::Client => &mut self.requests,
                Side::Server => &mut self.responses,
            };
            let used = if half.body.is_over() {
                match from {
                    Side::Client => self.request_head(bytes, now)?,
                    Side::Server => self.response_head(bytes, now, seen)?,
                }
            } else {
                let used = half.body.pass(bytes)?;
                if half.body.is_over() && from == Side::Server {
                    self.answered(now, None, seen);
                }
                used
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    pub(super) fn end(&mut self, cut: Option<Cut>, now: Instant, seen: &mut dyn Seen) {
        // A body without a length ends with the connection, and that is its proper end.
        if self.responses.body.is_endless() {
            self.answered(now, cut, seen);
        }
        while !self.pending.is_empty() {
            self.answered(now, Some(cut.unwrap_or(Cut::Server)), seen);
        }
    }

    fn request_head(&mut self, bytes: &[u8], now: Instant) -> Result<usize, GaveUp> {
        let (used, head) = self.requests.heads.take(bytes, now, head::request)?;
        if let Some((head, since)) = head {
            if self.pending.len() == MAX_PIPELINED {
                return Err(GaveUp::TooMany);
            }
            self.requests.body = head.body;
            self.pending.push_back(Pending { asked: head.asked, since, status: None });
        }
        Ok(used)
    }

    fn response_head(
        &mut self,
        bytes: &[u8],
        now: Instant,
        seen: &mut dyn Seen,
    ) -> Result<usize, GaveUp> {
        // Nobody asked: also what some servers say before they close an idle connection.
        let pending = self.pending.front_mut().ok_or(GaveUp::Malformed)?;
        let asked = pending.asked;
        let parse = |head: &[u8]| head::response(head, asked);
        let (used, head) = self.responses.heads.take(bytes, now, parse)?;
        let Some((head, _)) = head else { return Ok(used) };
        match head.status {
            101 => {
                pending.status = Some(101);
                self.answered(now, None, seen);
                return Err(GaveUp::Upgraded);
            }
            // The real one is still to come.
            100..200 => return Ok(used),
            status => pending.status = Some(status),
        }
        self.responses.body = head.body;
        if self.responses.body.is_over() {
            self.answered(now, None, seen);
        }
        Ok(used)
    }

    /// Tells of the oldest request and forgets it.
    fn answered(&mut self, now: Instant, cut: Option<Cut>, seen: &mut dyn Seen) {
        let Some(pending) = self.pending.pop_front() else { return };
        seen.exchange(Exchange {
            protocol: Protocol::Http,
            status: pending.status,
            grpc_status: None,
            cut,
            duration: now.saturating_duration_since(pending.since),
        });
    }
}
