//! The lab: two nodes and real pods in network namespaces, on the real kernel.
//!
//! ```text
//!   cgroup  <cgroup2>/culvert-lab-ID/node1/{agent,host,pods/a1,..}    .../node2/{agent,host,pods/..}
//!
//!   netns a1            netns node1                          netns node2           netns b1
//!  ┌────────┐  veth  ┌───────────────────┐  veth "wire"  ┌───────────────────┐  ┌────────┐
//!  │ app    ├────────┤ culvert agent, ca ├───────────────┤ culvert agent     ├──┤ app    │
//!  │10.11.1.2        │10.11.0.1          │               │10.11.0.2          │  │10.11.2.2
//!  └────────┘        └───────────────────┘               └───────────────────┘  └────────┘
//! ```
//!
//! Nothing is done in the machine's own network namespace, so labs never meet each other's
//! addresses nor the machine's. Each lab has an identity of its own, which stands in the name of
//! everything it makes; [`sweep`] removes what a lab left whose process is gone.
//!
//! ```no_run
//! use culvert_tests::{Lab, NodeId};
//! # fn main() -> anyhow::Result<()> {
//! let mut lab = Lab::builder().standard().start()?;
//! let server = lab.pod("b1").app(&["echo", "--listen", "0.0.0.0:80"])?;
//! server.wait_for("listening", culvert_tests::SOON)?;
//! let answer = lab.pod("a1").run(&["curl", "-s", "http://10.11.2.2/"], culvert_tests::SOON)?;
//! println!("{}", answer.stdout);
//! println!("{}", lab.agent(NodeId::Node1)?.log());
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod browser;
mod cgroup;
mod clock;
mod files;
mod guard;
mod http;
mod lab;
mod netns;
pub mod paths;
mod place;
mod process;
pub mod s_client;
mod scenario;
pub mod sweep;
pub mod usage;
mod wait;

pub use browser::{Browser, Look};
pub use clock::Clock;
pub use files::{AgentSettings, PodSpec};
pub use guard::{Missing, check};
pub use http::{Scrape, get};
pub use lab::{Builder, KernelState, Lab, Node, NodeId, Pod};
pub use netns::Netns;
pub use paths::{culvert, target, testapp, tool};
pub use place::Place;
pub use process::{Finished, Process, Signal};
pub use scenario::{scenario, scenario_within, skip};
pub use wait::{LONG, SOON, until};
