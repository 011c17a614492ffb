//! Installation and removal on directories of a node.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    InstallError,
    directory::{Directory, Done},
};
use crate::cni::PLUGIN;

/// Written by hand: neither the order of fields nor the spaces are ours.
const LIST: &str = "{\"name\": \"pods\",   \"cniVersion\": \"1.0.0\",\n \
                    \"plugins\": [{\"type\": \"bridge\", \"mtu\": 1450}]}\n";
const SINGLE: &str = r#"{"type":"ptp","name":"lone","cniVersion":"0.3.1"}"#;

struct Node(tempfile::TempDir);

impl Node {
    fn new(files: &[(&str, &str)]) -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            fs::write(node.at(name), text).unwrap();
        }
        node
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put_in(&self) -> Result<Done, InstallError> {
        Directory::new(self.0.path(), None).put_in(&entry())
    }

    fn take_out(&self) -> Vec<PathBuf> {
        Directory::new(self.0.path(), None).take_out().unwrap()
    }

    /// All files with their texts, sorted.
    fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        files.sort();
        files
    }
}

fn entry() -> Value {
    json!({ "type": PLUGIN, "socket": "/run/culvert/cni.sock" })
}

fn types(path: &Path) -> Vec<String> {
    let list: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let plugins = list["plugins"].as_array().unwrap();
    plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn removal_brings_back_every_byte_and_leaves_nothing() {
    for files in [&[("10-a.conflist", LIST), ("20-b.conf", SINGLE)][..], &[("10-a.conf", SINGLE)]] {
        let node = Node::new(files);
        fs::set_permissions(node.at(files[0].0), fs::Permissions::from_mode(0o600)).unwrap();
        let before = node.files();
        let list = node.at("10-a.conflist");
        assert_eq!(node.put_in().unwrap(), Done::Changed(list.clone()));
        assert_eq!(types(&list).last().unwrap(), PLUGIN);
        assert_eq!(fs::metadata(&list).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(node.put_in().unwrap(), Done::Unchanged(list.clone()));
        assert_eq!(node.take_out(), [list]);
        assert_eq!(node.files(), before);
        let mode = fs::metadata(node.at(files[0].0)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(node.take_out().is_empty());
    }
}

#[test]
fn only_the_file_that_runtimes_take_is_changed() {
    let node = Node::new(&[
        ("00-readme.txt", "no configuration"),
        ("05-broken.conflist", "{"),
        ("10-a.conflist", LIST),
        ("20-b.conf", SINGLE),
    ]);
    assert_eq!(node.put_in().unwrap(), Done::Changed(node.at("10-a.conflist")));
    assert_eq!(fs::read_to_string(node.at("20-b.conf")).unwrap(), SINGLE);
    // One that comes before it is the one from then on.
    fs::write(node.at("07-new.conf"), SINGLE).unwrap();
    assert_eq!(node.put_in().unwrap(), Done::Changed(node.at("07-new.conflist")));
    assert_eq!(node.take_out(), [node.at("07-new.conflist"), node.at("10-a.conflist")]);
    assert_eq!(fs::read_to_string(node.at("07-new.conf")).unwrap(), SINGLE);
    assert_eq!(fs::read_to_string(node.at("10-a.conflist")).unwrap(), LIST);
}

#[test]
fn file_written_anew_gets_the_plugin_again_and_keeps_its_news() {
    let node = Node::new(&[("10-a.conflist", LIST)]);
    node.put_in().unwrap();
    let news = LIST.replace("1450", "8950");
    fs::write(node.at("10-a.conflist"), &news).unwrap();
    assert_eq!(node.put_in().unwrap(), Done::Changed(node.at("10-a.conflist")));
    assert_eq!(types(&node.at("10-a.conflist")), ["bridge", PLUGIN]);
    node.take_out();
    assert_eq!(node.files(), [("10-a.conflist".to_owned(), news)]);
}

#[test]
fn what_others_chained_since_stays() {
    let node = Node::new(&[("10-a.conflist", LIST)]);
    node.put_in().unwrap();
    let mut list: Value =
        serde_json::from_str(&fs::read_to_string(node.at("10-a.conflist")).unwrap()).unwrap();
    list["plugins"].as_array_mut().unwrap().push(json!({ "type": "tuning" }));
    fs::write(node.at("10-a.conflist"), list.to_string()).unwrap();
    assert_eq!(node.put_in().unwrap(), Done::Unchanged(node.at("10-a.conflist")));
    node.take_out();
    assert_eq!(types(&node.at("10-a.conflist")), ["bridge", "tuning"]);
    assert_eq!(node.files().len(), 1);
}

#[test]
fn link_is_followed_and_stays_a_link() {
    let node = Node::new(&[]);
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.conflist");
    fs::write(&target, LIST).unwrap();
    std::os::unix::fs::symlink(&target, node.at("10-a.conflist")).unwrap();
    node.put_in().unwrap();
    assert_eq!(types(&target), ["bridge", PLUGIN]);
    assert!(fs::symlink_metadata(node.at("10-a.conflist")).unwrap().is_symlink());
    node.take_out();
    assert_eq!(fs::read_to_string(&target).unwrap(), LIST);
}

#[test]
fn nothing_to_chain_to_is_said() {
    let node = Node::new(&[]);
    assert!(matches!(node.put_in(), Err(InstallError::NoConfiguration { .. })));
    fs::write(node.at("10-a.conflist"), "{").unwrap();
    assert!(matches!(node.put_in(), Err(InstallError::Malformed { .. })));
    let absent = Directory::new(Path::new("/nonexistent"), None);
    assert!(matches!(absent.put_in(&entry()), Err(InstallError::Read { .. })));
}

#[test]
fn named_file_is_changed_whatever_runtimes_take() {
    let node = Node::new(&[("10-a.conflist", LIST), ("20-b.conf", SINGLE)]);
    let directory = Directory::new(node.0.path(), Some("20-b.conf"));
    let list = node.at("20-b.conflist");
    assert_eq!(directory.put_in(&entry()).unwrap(), Done::Changed(list.clone()));
    assert_eq!(directory.put_in(&entry()).unwrap(), Done::Unchanged(list));
    assert_eq!(fs::read_to_string(node.at("10-a.conflist")).unwrap(), LIST);
}
