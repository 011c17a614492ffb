//! `cargo xtask k8s test`: Culvert on a real cluster, as a user installs and uses it.

mod applications;
mod authorization;
mod bad_objects;
mod churn;
mod kubectl;
mod load;
mod mesh;
mod outages;
mod rolling;
mod strict;
mod subject;
mod uninstall;
mod wire;

/// Port of the tunnel.
const HBONE: u16 = 15008;
