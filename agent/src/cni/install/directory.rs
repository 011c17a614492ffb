//! The directory of network configurations: which file a runtime takes, and how it is changed.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{InstallError, configuration::Configuration};

/// What runtimes read; libcni takes all but the first for single plugins.
const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];
/// What is put behind the name of a file that we change: how it was before. No runtime reads that.
const BEFORE: &str = ".before-culvert";
/// Name under which a file is made before it is put in its place.
const EARLY: &str = ".culvert-cni.new";

/// A directory of network configurations.
pub(super) struct Directory<'a> {
    path: &'a Path,
    /// The file to change; none for the one that runtimes take.
    file: Option<&'a str>,
}

/// What came of a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// This file is another one now.
    Changed(PathBuf),
    /// This file is as it should be.
    Unchanged(PathBuf),
}

/// One file, read.
struct Found {
    path: PathBuf,
    text: String,
    configuration: Configuration,
}

impl<'a> Directory<'a> {
    pub(super) fn new(path: &'a Path, file: Option<&'a str>) -> Self {
        Self { path, file }
    }

    /// Puts the plugin into the file that runtimes take.
    pub(super) fn put_in(&self, entry: &Value) -> Result<Done, InstallError> {
        let found = self.chosen()?;
        let with = found.configuration.with(entry);
        let with =
            with.map_err(|source| InstallError::Malformed { path: found.path.clone(), source })?;
        let Some(with) = with else { return Ok(Done::Unchanged(found.path)) };
        if found.configuration.without().is_none() {
            replace(&before(&found.path), &found.text, &found)?;
        }
        let list = found.path.with_extension("conflist");
        replace(&list, &with.text(), &found)?;
        if list != found.path {
            // Until now the runtime takes this one: it sorts before the list.
            remove(&found.path)?;
        }
        Ok(Done::Changed(list))
    }

    /// Takes the plugin out of every file, and tells which were changed or removed. A file that is
    /// as we left it becomes what it was, byte by byte.
    pub(super) fn take_out(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut changed = Vec::new();
        for path in self.files()? {
            // What cannot be read as a configuration has no plugin of ours in it.
            let Ok(found) = read(&path) else { continue };
            let Some(without) = found.configuration.without() else { continue };
            restore(&found, &without)?;
            changed.push(path);
        }
        for path in self.list()? {
            let name = path.file_name().unwrap_or_default();
            if name == EARLY || name.to_string_lossy().ends_with(BEFORE) {
                remove(&path)?;
            }
        }
        Ok(changed)
    }

    /// The file that a runtime takes: the first that is a configuration, by name.
    fn chosen(&self) -> Result<Found, InstallError> {
        let mut wrong = None;
        for path in self.files()? {
            match read(&path) {
                Ok(found) => return Ok(found),
                Err(error) => drop(wrong.get_or_insert(error)),
            }
        }
        Err(wrong.unwrap_or(InstallError::NoConfiguration { path: self.path.to_owned() }))
    }

    /// Files that may be configurations, in the order in which runtimes look at them.
    fn files(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut files = self.list()?;
        files.retain(|path| {
            let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
            // The list that was made of a single plugin has another ending than the file had.
            let named = |file| path.file_stem() == Path::new(file).file_stem();
            EXTENSIONS.contains(&extension) && self.file.is_none_or(named)
        });
        Ok(files)
    }

    fn list(&self) -> Result<Vec<PathBuf>, InstallError> {
        let unread = |source| InstallError::Read { path: self.path.to_owned(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(self.path).map_err(unread)? {
            paths.push(entry.map_err(unread)?.path());
        }
        paths.retain(|path| !path.is_dir());
        paths.sort();
        Ok(paths)
    }
}

fn read(path: &Path) -> Result<Found, InstallError> {
    let unread = |source| InstallError::Read { path: path.to_owned(), source };
    // The place of a link must not become a file: what it leads to is what somebody looks after.
    // A single plugin becomes a file of another name in any case.
    let is_list = path.extension().is_some_and(|extension| extension == "conflist");
    let path = if is_list { fs::canonicalize(path).map_err(unread)? } else { path.to_owned() };
    let text = fs::read_to_string(&path).map_err(unread)?;
    let configuration = Configuration::parse(&text)
        .map_err(|source| InstallError::Malformed { path: path.clone(), source })?;
    Ok(Found { path, text, configuration })
}

/// Brings back what was there before, or, where another program has changed the file since, what
/// there is without the plugin.
fn restore(found: &Found, without: &Configuration) -> Result<(), InstallError> {
    for extension in EXTENSIONS {
        let original = found.path.with_extension(extension);
        let kept = before(&original);
        if read(&kept).is_ok_and(|kept| kept.configuration == *without) {
            fs::rename(&kept, &original)
                .map_err(|source| InstallError::Write { path: original.clone(), source })?;
            if original != found.path {
                remove(&found.path)?;
            }
            return Ok(());
        }
    }
    replace(&found.path, &without.text(), found)
}

fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BEFORE);
    name.into()
}

/// Writes a file as a whole, with mode and owner of the one that was found: a reader sees the old
/// text or the new one.
fn replace(path: &Path, text: &str, like: &Found) -> Result<(), InstallError> {
    let early = path.with_file_name(EARLY);
    let write = || -> io::Result<()> {
        let model = fs::metadata(&like.path)?;
        fs::write(&early, text)?;
        fs::set_permissions(&early, model.permissions())?;
        let now = fs::metadata(&early)?;
        if (now.uid(), now.gid()) != (model.uid(), model.gid()) {
            chown(&early, Some(model.uid()), Some(model.gid()))?;
        }
        fs::File::open(&early)?.sync_all()?;
        // Another program may have written it since it was read; its text must not be lost.
        if fs::read_to_string(&like.path)? != like.text {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the file has just changed"));
        }
        fs::rename(&early, path)
    };
    write().map_err(|source| InstallError::Write { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(InstallError::Write { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
