//! Embeds the kernel programs, where they have been built.
//!
//! The object is looked for at `CULVERT_EBPF_OBJECT`, else where `cargo xtask build-ebpf` leaves
//! it, `<target>/bpf/culvert-ebpf.o`. Without one the crate still builds and its unit tests run;
//! the agent then says at start how to build it.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CULVERT_EBPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = object(&out)?;
    let expression = if object.is_file() {
        let copy = out.join("culvert-ebpf.o");
        fs::copy(&object, &copy)?;
        // The ELF parser reads structures in place, which needs their alignment.
        format!("Some(aya::include_bytes_aligned!({:?}))", copy.display().to_string())
    } else {
        "None".to_owned()
    };
    fs::write(out.join("kernel_object.rs"), expression)
}

/// Where the object is or will be; cargo is told to look there again.
fn object(out: &Path) -> io::Result<PathBuf> {
    if let Some(path) = env::var_os("CULVERT_EBPF_OBJECT") {
        let path = PathBuf::from(path);
        println!("cargo:rerun-if-changed={}", path.display());
        return Ok(path);
    }
    let directory = target(out).join("bpf");
    // The folder is watched, not the file: a watched file that is absent would run this script,
    // and rebuild the agent, every time.
    fs::create_dir_all(&directory)?;
    println!("cargo:rerun-if-changed={}", directory.display());
    Ok(directory.join("culvert-ebpf.o"))
}

/// The workspace's target directory, told by the tag that cargo puts there.
fn target(out: &Path) -> PathBuf {
    out.ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Path::to_path_buf)
}
