//! Until when nothing is ordered, kept on disk beside the account's key: a restart does not make an authority count less.

use jiff::Timestamp;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The file that holds the moment, in RFC 3339.
#[derive(Debug)]
pub(super) struct RestFile(PathBuf);

impl RestFile {
    /// The file beside the account's key.
    pub(super) fn beside(account_key_path: &Path) -> Self {
        Self(PathBuf::from(format!("{}.rest", account_key_path.display())))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The moment; long ago where there is none that can be read. Reads a few bytes.
    pub(super) fn get(&self) -> Timestamp {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.trim().parse().unwrap_or(Timestamp::MIN)
    }

    /// Keeps the moment, or that there is none. Writes a few bytes; where the disk refuses, a restart knows of nothing.
    pub(super) fn set(&self, until: Option<Timestamp>) {
        let kept = match until {
            Some(until) => fs::write(&self.0, format!("{until}\n")),
            None => match fs::remove_file(&self.0) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
        };
        if let Err(error) = kept {
            tracing::debug!(%error, file = %self.0.display(), "the time of the next order is not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_kept_until_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let rest = || RestFile::beside(&folder.path().join("account.pem"));
        assert_eq!(rest().get(), Timestamp::MIN);
        let until = "2031-01-02T03:04:05Z".parse().unwrap();
        rest().set(Some(until));
        assert_eq!(rest().get(), until);
        rest().set(None);
        assert_eq!(rest().get(), Timestamp::MIN);
        fs::write(rest().path(), "soon").unwrap();
        assert_eq!(rest().get(), Timestamp::MIN);
        RestFile::beside(Path::new("/nowhere/account.pem")).set(Some(until));
    }
}
