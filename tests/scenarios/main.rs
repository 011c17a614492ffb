//! Scenarios: real programs in the lab's pods, on the real kernel. One file a topic.
#![forbid(unsafe_code)]

mod backpressure;
mod crowd;
mod enrolment;
mod harness;
mod observed;
mod outbound;
mod transfer;
