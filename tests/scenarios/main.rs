//! Scenarios: real programs in the lab's pods, on the real kernel. One file a topic.
#![forbid(unsafe_code)]

mod backpressure;
mod configuration;
mod crowd;
mod enrolment;
mod errors;
mod harness;
mod mutual_tls;
mod observed;
mod outbound;
mod policy;
mod transfer;
mod untouched;
