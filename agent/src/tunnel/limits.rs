//! Bounds of everything that a peer or an application can make us keep.

use std::time::Duration;

/// Limits of the tunnel, the same for both ends. Each default is a value that a production node
/// of a few hundred pods does not reach in honest use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes in flight towards us on one stream (HTTP/2 stream window). One MiB carries 16 Gbit/s
    /// at half a millisecond of round trip.
    pub stream_window: u32,
    /// Streams of one connection at a time. Istio's ztunnel opens a hundred, then a connection
    /// more.
    pub streams_per_connection: u32,
    /// Longest DATA frame that we take.
    pub frame_size: u32,
    /// Longest list of header fields that we take, in the HTTP/2 sense (RFC 9113 section 6.5.2).
    pub header_list_size: u32,
    /// Connections of one pool entry; with all of them full, new flows are refused.
    pub connections_per_pair: usize,
    /// HBONE connections of one worker that are still in their TLS handshake.
    pub handshakes: usize,
    /// Of those, how many may come from one address.
    pub handshakes_per_source: usize,
    /// HBONE connections of one worker at a time.
    pub connections: usize,
    /// How long an accepted connection may take to its first request.
    pub first_request: Duration,
    /// How long a connection without streams is kept.
    pub idle: Duration,
    /// Between two HTTP/2 PINGs.
    pub ping_interval: Duration,
    /// How long the answer to a PING may take before the peer counts as gone.
    pub ping_timeout: Duration,
    /// How long the peer may take to answer a CONNECT; its own connect takes up to ten seconds.
    pub response: Duration,
    /// Streams that a peer may reset before we answered them, in one connection, before the
    /// connection ends (CVE-2023-44487).
    pub early_resets: u32,
    /// How long streams may run on once the agent is told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            streams_per_connection: 100,
            frame_size: 256 << 10,
            header_list_size: 16 << 10,
            connections_per_pair: 256,
            handshakes: 512,
            handshakes_per_source: 128,
            connections: 16_384,
            first_request: Duration::from_secs(30),
            idle: Duration::from_mins(5),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            response: Duration::from_secs(15),
            early_resets: 200,
            drain: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The window of a whole connection: that of all its streams together. With less, streams
    /// whose readers stand still could use it up and stall the others.
    pub fn connection_window(&self) -> u32 {
        const LARGEST: u32 = (1 << 31) - 1; // RFC 9113 section 6.9.1
        self.stream_window.saturating_mul(self.streams_per_connection).min(LARGEST)
    }
}
