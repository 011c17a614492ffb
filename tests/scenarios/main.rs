//! Scenarios: real programs in the lab's pods, on the real kernel. One file a topic.
#![forbid(unsafe_code)]

mod agent_down;
mod authorization;
mod backpressure;
mod certs;
mod churn;
mod classics;
mod clock;
mod cni;
mod configuration;
mod contained;
mod crowd;
mod cut_short;
mod drain;
mod enrolment;
mod errors;
mod hand_over;
mod harness;
mod hostile;
mod map;
mod mutual_tls;
mod observed;
mod outbound;
mod policy;
mod removal;
mod requests;
mod roots;
mod rotation;
mod transfer;
mod untouched;
mod workload_api;
