//! Where the pair lies on disk. Reading finishes an installation that was interrupted; installing replaces a pair so
//! that one loads after each single file operation (`steps`).

#[cfg(test)]
mod tests;

use super::{
    pair::{Pair, PairError},
    steps::{self, Places, Step},
};
use std::{
    fmt,
    fs::{self, File},
    io::{self, ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zeroize::Zeroizing;

/// How much of a file is read, in bytes. A chain of four certificates with RSA keys has some 8 KiB.
const MOST_BYTES: u64 = 1 << 20;
/// How many links lead from a configured path to its file at most, as the kernel counts (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The two files of a pair. Clones speak of the same files, and take turns.
#[derive(Debug, Clone)]
pub struct Files {
    key_path: PathBuf,
    cert_path: PathBuf,
    turn: Arc<Mutex<()>>,
}

/// What tells whether files were changed, without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp([Option<FileStamp>; 2]);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why no pair could be read or installed. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A folder is not there.
    #[error("the folder {} for {} does not exist; create it, writable for the user that the drone runs as", folder.display(), path.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
        /// The file that belongs in it.
        path: PathBuf,
    },
    /// Both paths lead to one file.
    #[error("cert.key_path and cert.cert_path lead to the same file or into each other's way ({}); give two files", .0.display())]
    SameFile(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}: {cause}; the user that the drone runs as must be able to read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// One of two files is not there.
    #[error("{} is there, but {} is not; give both", there.display(), missing.display())]
    Missing {
        /// The file that is there.
        there: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// What the files hold is no pair.
    #[error("{} and {} cannot be served: {cause}", key.display(), cert.display())]
    Pair {
        /// The file of the key.
        key: PathBuf,
        /// The file of the chain.
        cert: PathBuf,
        /// Why.
        cause: PairError,
    },
    /// A file cannot be written.
    #[error("cannot {verb} {}: {cause}{}", path.display(), hint(cause))]
    Write {
        /// What was to be done.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

impl FilesError {
    fn at(step: &Step, cause: io::Error) -> Self {
        Self::Write { verb: step.verb(), path: step.path().to_owned(), cause }
    }
}

/// What to do about a failed write.
pub(super) fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space there",
        ErrorKind::ReadOnlyFilesystem => "; mount it writable, or give paths on a file system that is",
        ErrorKind::PermissionDenied => "; the user that the drone runs as must be able to write to its folder",
        ErrorKind::ResourceBusy => "; where it is mounted by itself, mount its folder instead",
        _ => "",
    }
}

impl Files {
    /// The files at two paths, which may be links.
    pub fn new(key_path: PathBuf, cert_path: PathBuf) -> Self {
        Self { key_path, cert_path, turn: Arc::default() }
    }

    /// Where the key is.
    pub fn key_path(&self) -> &Path {
        &self.key_path
    }

    /// Where the chain is.
    pub fn cert_path(&self) -> &Path {
        &self.cert_path
    }

    /// Reads the pair; `None` where neither file is there. An interrupted installation is finished where the key is in
    /// its place already, and where nothing else is there. Blocks on the disk.
    ///
    /// # Errors
    /// Where a file is missing or unreadable, or they are no pair.
    pub fn load(&self) -> Result<Option<Pair>, FilesError> {
        let _turn = self.turn();
        self.load_from(&self.places()?, &mut Step::take)
    }

    /// Puts a pair into its place: all of it or nothing, also where the process is killed meanwhile. The key is
    /// readable for its owner only. Blocks on the disk.
    ///
    /// # Errors
    /// Where the disk refuses. What was there before still loads then, or the new pair does.
    pub fn install(&self, pair: &Pair) -> Result<(), FilesError> {
        self.install_by(pair, &mut Step::take)
    }

    /// Checks that a pair could be installed now: as much is written beside its places, and removed. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub fn probe(&self) -> Result<(), FilesError> {
        let _turn = self.turn();
        let places = self.places()?;
        for place in [&places.key, &places.cert] {
            steps::probe(place).map_err(|(step, cause)| FilesError::at(&step, cause))?;
        }
        Ok(())
    }

    /// What the files look like from outside. Blocks on the disk.
    pub fn stamp(&self) -> Stamp {
        Stamp([&self.key_path, &self.cert_path].map(|path| {
            let found = fs::metadata(path).ok()?;
            Some(FileStamp {
                device: found.dev(),
                inode: found.ino(),
                size: found.size(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            })
        }))
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> Result<Places, FilesError> {
        let places = Places::new(behind_links(&self.key_path)?, behind_links(&self.cert_path)?);
        for path in [&places.key, &places.cert] {
            let folder = steps::folder(path);
            if !folder.is_dir() {
                return Err(FilesError::NoFolder { folder: folder.to_owned(), path: path.clone() });
            }
        }
        if places.are_distinct() { Ok(places) } else { Err(FilesError::SameFile(places.key)) }
    }

    fn install_by(&self, pair: &Pair, take: &mut dyn FnMut(&Step) -> io::Result<()>) -> Result<(), FilesError> {
        let _turn = self.turn();
        let places = self.places()?;
        if let Interrupted::ByCert(_) = Interrupted::find(&places) {
            carry_out(&steps::finish_cert(&places), take)?;
        }
        let planned = steps::install(&places, pair.key_pem(), pair.chain_pem());
        let from_here_on = planned.iter().position(|step| matches!(step, Step::Rename(..))).unwrap_or(planned.len());
        let (before, after) = planned.split_at(from_here_on);
        let (first, rest) = after.split_at(after.len().min(1));
        let nothing_changed = carry_out(before, take).and_then(|()| carry_out(first, take));
        if nothing_changed.is_err() {
            // Where that fails too, the next installation does it.
            let _ = carry_out(&steps::abandon(&places), take);
        }
        nothing_changed.and_then(|()| carry_out(rest, take))
    }

    fn load_from(
        &self,
        places: &Places,
        take: &mut dyn FnMut(&Step) -> io::Result<()>,
    ) -> Result<Option<Pair>, FilesError> {
        let (key, cert) = (read(&places.key)?, read(&places.cert)?);
        let fault = match (&key, &cert) {
            (Some(key), Some(cert)) => match Pair::parse(key, cert) {
                Ok(pair) => return Ok(Some(pair)),
                Err(cause) => {
                    Some(FilesError::Pair { key: self.key_path.clone(), cert: self.cert_path.clone(), cause })
                }
            },
            (Some(_), None) => {
                Some(FilesError::Missing { there: self.key_path.clone(), missing: self.cert_path.clone() })
            }
            (None, Some(_)) => {
                Some(FilesError::Missing { there: self.cert_path.clone(), missing: self.key_path.clone() })
            }
            (None, None) => None,
        };
        let (pair, rest) = match Interrupted::find(places) {
            Interrupted::ByCert(pair) => (pair, steps::finish_cert(places)),
            Interrupted::Both(pair) => (pair, steps::finish(places)),
            Interrupted::No => return fault.map_or(Ok(None), Err),
        };
        match carry_out(&rest, take) {
            Ok(()) => tracing::info!(path = %self.cert_path.display(), "finished an interrupted installation"),
            // The pair is good nevertheless.
            Err(error) => tracing::warn!(%error, "an interrupted installation cannot be finished"),
        }
        Ok(Some(pair))
    }
}

/// What an interrupted installation left to do.
enum Interrupted {
    /// The certificate is to be put into its place. This is the pair then.
    ByCert(Pair),
    /// Both are, and nothing is in their places.
    Both(Pair),
    /// Nothing.
    No,
}

impl Interrupted {
    /// Looks at what lies beside the places. What cannot be read or is no pair was not written to its end.
    fn find(places: &Places) -> Self {
        let text = |path| read(path).ok().flatten();
        let (key, cert) = (text(&places.key), text(&places.cert));
        let Some(next_cert) = text(&places.next_cert) else { return Self::No };
        match (key, cert) {
            (Some(key), Some(cert)) if Pair::parse(&key, &cert).is_ok() => Self::No,
            (Some(key), _) => Pair::parse(&key, &next_cert).map_or(Self::No, Self::ByCert),
            (None, Some(_)) => Self::No,
            (None, None) => {
                let pair = text(&places.next_key).and_then(|key| Pair::parse(&key, &next_cert).ok());
                pair.map_or(Self::No, Self::Both)
            }
        }
    }
}

fn carry_out(steps: &[Step], take: &mut dyn FnMut(&Step) -> io::Result<()>) -> Result<(), FilesError> {
    steps.iter().try_for_each(|step| take(step).map_err(|cause| FilesError::at(step, cause)))
}

/// The text of a file; `None` where there is no file.
fn read(path: &Path) -> Result<Option<Zeroizing<String>>, FilesError> {
    let failed = |cause| FilesError::Read { path: path.to_owned(), cause };
    let other = |text: &str| failed(io::Error::new(ErrorKind::InvalidData, text));
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        // To open a pipe would wait for who writes to it.
        Ok(found) if !found.is_file() => return Err(other("it is not a file")),
        Ok(found) if found.size() > MOST_BYTES => return Err(other("it is too large for keys and certificates")),
        Ok(_) => {}
    }
    let mut text = Zeroizing::new(String::new());
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => other("it is not text (expected PEM)"),
        _ => failed(error),
    })?;
    Ok(Some(text))
}

/// The file that a path leads to, which need not be there. What is written goes beside it, so that links stay links.
fn behind_links(path: &Path) -> Result<PathBuf, FilesError> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else { return Ok(path) };
        path = steps::folder(&path).join(target);
    }
    let cause = io::Error::other("too many links");
    Err(FilesError::Read { path, cause })
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.key_path.display(), self.cert_path.display())
    }
}
