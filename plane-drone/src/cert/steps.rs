//! How a pair gets onto a disk: as a list of single file operations, after each of which the process may be killed or
//! the machine lose power, and a pair still loads.
//!
//! Both files are written beside their places, as `<name>.next`, and made durable. Then the key is put into its place,
//! then the certificate. Whoever finds the new key beside the old certificate finds the new one in its `.next`.

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Who may read a key: its owner.
pub(super) const KEY_MODE: u32 = 0o600;
/// Who may read a certificate: all.
const CERT_MODE: u32 = 0o644;
/// How much is written to see whether there is room for a key or a chain, in bytes.
const PROBE_BYTES: usize = 16 * 1024;

/// Where the parts of a pair lie, behind all links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) key: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) next_key: PathBuf,
    pub(super) next_cert: PathBuf,
}

impl Places {
    pub(super) fn new(key: PathBuf, cert: PathBuf) -> Self {
        let (next_key, next_cert) = (next(&key), next(&cert));
        Self { key, cert, next_key, next_cert }
    }

    /// Whether no two of them are the same.
    pub(super) fn are_distinct(&self) -> bool {
        self.key != self.cert && self.key != self.next_cert && self.cert != self.next_key
    }
}

fn next(path: &Path) -> PathBuf {
    beside(path, ".next")
}

/// A file's path with something appended to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The folder that a file is in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// One file operation.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Removes what an earlier attempt left, if it left anything.
    Remove(PathBuf),
    /// Makes an empty file with a mode. It must not be there: nobody else's link is followed.
    Create(PathBuf, u32),
    /// Writes all of a file.
    Write(PathBuf, Zeroizing<String>),
    /// Makes what is in a file durable.
    Sync(PathBuf),
    /// Makes the names in a folder durable.
    SyncFolder(PathBuf),
    /// Puts a file into its place.
    Rename(PathBuf, PathBuf),
}

impl Step {
    /// Does it.
    pub(super) fn take(&self) -> io::Result<()> {
        match self {
            Self::Remove(path) => match fs::remove_file(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            Self::Create(path, mode) => {
                OpenOptions::new().write(true).create_new(true).mode(*mode).open(path).map(|_| ())
            }
            Self::Write(path, text) => OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes()),
            Self::Sync(path) | Self::SyncFolder(path) => File::open(path)?.sync_all(),
            Self::Rename(from, to) => fs::rename(from, to),
        }
    }

    /// What it is about, for errors.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Remove(path) | Self::Create(path, _) | Self::Write(path, _) | Self::Sync(path) => path,
            Self::SyncFolder(path) | Self::Rename(_, path) => path,
        }
    }

    /// What it does, for errors.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Remove(_) => "remove",
            Self::Create(..) => "create",
            Self::Write(..) => "write",
            Self::Sync(_) | Self::SyncFolder(_) => "make durable",
            Self::Rename(..) => "replace",
        }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb(), self.path().display())
    }
}

/// What installs a pair where none is half installed.
pub(super) fn install(places: &Places, key_pem: &str, chain_pem: &str) -> Vec<Step> {
    let Places { next_key, next_cert, .. } = places;
    let file = |path: &PathBuf, mode, text: &str| {
        let text = Zeroizing::new(text.to_owned());
        [Step::Create(path.clone(), mode), Step::Write(path.clone(), text), Step::Sync(path.clone())]
    };
    let mut steps = abandon(places);
    steps.extend(file(next_key, KEY_MODE, key_pem));
    steps.extend(file(next_cert, CERT_MODE, chain_pem));
    steps.extend(sync_folders(places));
    steps.extend(finish(places));
    steps
}

/// What puts a pair into its place that lies beside it. Each rename is durable before the next: after a loss of power
/// there is never a new certificate without its key.
pub(super) fn finish(places: &Places) -> Vec<Step> {
    let Places { key, next_key, .. } = places;
    let mut steps = vec![Step::Rename(next_key.clone(), key.clone()), Step::SyncFolder(folder(key).to_owned())];
    steps.extend(finish_cert(places));
    steps
}

/// What puts the certificate into its place where its key is there already.
pub(super) fn finish_cert(Places { cert, next_cert, .. }: &Places) -> Vec<Step> {
    vec![Step::Rename(next_cert.clone(), cert.clone()), Step::SyncFolder(folder(cert).to_owned())]
}

/// What removes a pair that lies beside its place.
pub(super) fn abandon(places: &Places) -> Vec<Step> {
    [&places.next_key, &places.next_cert].map(|path| Step::Remove(path.clone())).into()
}

/// Checks that a file could be replaced: as much is written beside it, and removed. What is mounted by itself cannot be
/// replaced, though there is room beside it (rename(2), `EBUSY`). Tells which step failed.
pub(super) fn probe(place: &Path) -> Result<(), (Step, io::Error)> {
    let beside = beside(place, ".probe");
    let steps = [
        Step::Remove(beside.clone()),
        Step::Create(beside.clone(), KEY_MODE),
        Step::Write(beside.clone(), Zeroizing::new("0".repeat(PROBE_BYTES))),
        Step::Sync(beside.clone()),
        Step::Remove(beside.clone()),
    ];
    for step in steps {
        if let Err(error) = step.take() {
            // Where that fails too, the next probe does it.
            let _ = Step::Remove(beside).take();
            return Err((step, error));
        }
    }
    if is_mounted(place) {
        return Err((Step::Rename(beside, place.to_owned()), ErrorKind::ResourceBusy.into()));
    }
    Ok(())
}

/// Whether something is mounted over the very file. False where the kernel does not tell (before Linux 5.8).
fn is_mounted(path: &Path) -> bool {
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn sync_folders(Places { key, cert, .. }: &Places) -> Vec<Step> {
    let mut folders = vec![folder(key).to_owned(), folder(cert).to_owned()];
    folders.dedup();
    folders.into_iter().map(Step::SyncFolder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_by_itself_is_told_from_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(folder.path()));
        assert!(!is_mounted(&folder.path().join("missing")));
    }
}
