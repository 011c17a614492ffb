//! Culvert's node agent: captures the TCP of enrolled workloads in the kernel and carries it over
//! mutual TLS.
//!
//! ```text
//!  capture ──▶ policy ──▶ identity ──▶ tunnel          (each names only what stands to its left)
//!     ▲           ▲                       │
//!     └ workload ─┘        observe ◀──────┘            (named by all, names none)
//! ```
//!
//! Read [`pipeline`] first: it is the life of one connection, outbound and inbound.

pub mod pipeline;

pub mod workload;

pub mod capture;

pub mod policy;

pub mod identity;

pub mod tunnel;

pub mod observe;

pub mod admin;

pub mod map;

pub mod cli;

pub mod cni;

pub mod config;

pub mod controller;

pub mod explain;

pub mod workload_api;

pub mod assemble;

pub mod serve;

pub mod supervise;

pub mod sys;
