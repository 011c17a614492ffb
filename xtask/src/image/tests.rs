//! The writer against what others read: `tar`, and the rules of the image layout.

use super::archive::{Archive, Kind};
use super::{Image, Root, elf, libraries, write};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What the machine's `tar` prints.
fn tar(words: &[&str]) -> String {
    let output = Command::new("tar").args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn image() -> Image {
    let mut root = Root::default();
    root.file("usr/bin/hello", 0o755, "hello");
    root.file("etc/secret", 0o600, "");
    Image {
        name: "localhost:5000/some/hello:1.2".to_owned(),
        architecture: "amd64".to_owned(),
        entrypoint: vec!["/usr/bin/hello".to_owned()],
        environment: vec!["PATH=/usr/bin".to_owned()],
        labels: vec![("who".to_owned(), "me".to_owned())],
        root,
    }
}

#[test]
fn tar_reads_back_paths_modes_and_contents() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.tar");
    let deep = format!("{}/{}", "d".repeat(120), "f".repeat(90));
    let mut archive = Archive::default();
    archive.add("tmp", 0o1777, &Kind::Directory).unwrap();
    archive.add(&deep, 0o640, &Kind::File(&[b'x'; 513])).unwrap();
    archive.add("bin/sh", 0o777, &Kind::Link("busybox")).unwrap();
    fs::write(&file, archive.finish()).unwrap();
    let listed = tar(&["-tvf", file.to_str().unwrap()]);
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines[0].starts_with("drwxrwxrwt 0/0") && lines[0].ends_with(" tmp/"), "{listed}");
    assert!(lines[1].starts_with("-rw-r-----") && lines[1].contains(" 513 "), "{listed}");
    assert!(lines[1].ends_with(&deep), "{listed}");
    assert!(lines[2].starts_with("lrwxrwxrwx"), "{listed}");
    assert!(lines[2].ends_with("bin/sh -> busybox"), "{listed}");
    assert_eq!(tar(&["-xOf", file.to_str().unwrap(), &deep]), "x".repeat(513));
}

#[test]
fn path_that_no_header_holds_is_refused() {
    let mut archive = Archive::default();
    let path = "f".repeat(101);
    assert!(archive.add(&path, 0o644, &Kind::File(b"")).is_err());
}

#[test]
fn every_digest_and_size_of_the_layout_holds() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("image.tar");
    let digest = write(&image(), &file).unwrap();
    tar(&["-xf", file.to_str().unwrap(), "-C", directory.path().to_str().unwrap()]);
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(directory.path().join(path)).unwrap()).unwrap()
    };
    let blob = |descriptor: &Value| -> String {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = format!("blobs/{}", digest.replace(':', "/"));
        let place = directory.path().join(&path);
        assert_eq!(format!("sha256:{}", sha256(&place)), digest);
        assert_eq!(fs::metadata(place).unwrap().len(), descriptor["size"].as_u64().unwrap());
        path
    };
    assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
    let entry = read("index.json")["manifests"][0].clone();
    assert_eq!(entry["digest"], digest);
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1.2");
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "localhost:5000/some/hello:1.2");
    let manifest = read(&blob(&entry));
    let (config, layer) = (blob(&manifest["config"]), blob(&manifest["layers"][0]));
    assert_eq!(read(&config)["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    assert_eq!(read(&config)["config"]["Entrypoint"][0], "/usr/bin/hello");
    let docker = read("manifest.json");
    assert_eq!(docker[0]["Config"], config.as_str());
    assert_eq!(docker[0]["Layers"][0], layer.as_str());
    let layer = directory.path().join(layer);
    let listed = tar(&["-tf", layer.to_str().unwrap()]);
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        ["etc/", "etc/secret", "usr/", "usr/bin/", "usr/bin/hello"]
    );
}

#[test]
fn same_contents_give_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("1.tar"), directory.path().join("2.tar"));
    assert_eq!(write(&image(), &one).unwrap(), write(&image(), &two).unwrap());
    assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
}

#[test]
fn name_without_a_tag_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["culvert", "localhost:5000/culvert", "culvert:", ":1"] {
        let image = Image { name: name.to_owned(), ..image() };
        assert!(write(&image, &directory.path().join("x.tar")).is_err(), "{name}");
    }
}

#[test]
fn own_program_is_recognised_and_other_files_are_not() {
    let own = std::env::current_exe().unwrap();
    let elf = elf::inspect(&own).unwrap();
    assert!(!elf.is_static());
    assert!(["amd64", "arm64"].contains(&elf.architecture().unwrap().as_str()));
    assert!(elf::inspect(Path::new(file!()).file_name().unwrap().as_ref()).is_err());
}

#[test]
fn libraries_are_read_from_what_the_loader_says() {
    let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
    let found = libraries::parse(text).unwrap();
    assert_eq!(
        found,
        ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(Into::into)
            as [std::path::PathBuf; 2]
    );
    assert!(libraries::parse("\tstatically linked\n").unwrap().is_empty());
    let error = libraries::parse("\tlibx.so.1 => not found\n").unwrap_err().to_string();
    assert!(error.contains("libx.so.1"), "{error}");
}
