//! `culvert-cni`, as a container runtime calls it.
#![forbid(unsafe_code)]

fn main() {
    std::process::exit(culvert_cni::plugin::main());
}
