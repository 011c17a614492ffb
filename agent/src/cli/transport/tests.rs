//! Reaching agents: over a socket, an address, and through an API server.
