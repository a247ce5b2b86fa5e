//! The key of the account with the certificate authority, on disk: PKCS#8 in PEM, readable for its owner only.
//!
//! The key is all there is to an account: the authority finds the account by it (RFC 8555, section 7.3.1), so a file
//! serves for any authority.

use super::{
    files::hint,
    steps::{self, KEY_MODE, Step},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use instant_acme::Key;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zeroize::{Zeroize, Zeroizing};

/// Characters of a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// Why the account's key could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the account key {}: {cause}; the folder has to exist, and to be writable for the drone's user{}", path.display(), hint(cause))]
pub(super) struct AccountError {
    verb: &'static str,
    path: PathBuf,
    cause: io::Error,
}

/// Where the key lies. Clones speak of the same file. Everything here blocks on the disk.
#[derive(Debug, Clone)]
pub(super) struct AccountFile {
    path: PathBuf,
    /// A key that the authority knows and that the disk has not taken.
    unwritten: Arc<Mutex<Unwritten>>,
}

#[derive(Default)]
struct Unwritten(Option<PrivatePkcs8KeyDer<'static>>);

impl std::fmt::Debug for Unwritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unwritten").finish_non_exhaustive()
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl AccountFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, unwritten: Arc::default() }
    }

    /// Checks that a key could be kept now: authorities bind an external account once.
    pub(super) fn probe(&self) -> Result<(), AccountError> {
        steps::probe(&self.path).map_err(|(_, cause)| self.failed("write")(cause))
    }

    /// Reads the key. One that could not be kept is written first. One that the client cannot use is put aside, and said.
    pub(super) fn load(&self) -> Result<Option<PrivatePkcs8KeyDer<'static>>, AccountError> {
        let mut unwritten = self.unwritten();
        if let Some(key) = &unwritten.0 {
            let key = key.clone_key();
            self.replace(&key)?;
            unwritten.0.zeroize();
            return Ok(Some(key));
        }
        drop(unwritten);
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read")(error)),
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&bytes).ok();
        if let Some(key) = key.filter(|key| Key::from_pkcs8_der(key.clone_key()).is_ok()) {
            return Ok(Some(key));
        }
        let kept = self.name_aside();
        fs::rename(&self.path, &kept).map_err(self.failed("put aside"))?;
        tracing::warn!(
            kept = %kept.display(),
            "the account key is not an ECDSA P-256 key in PKCS#8, which is the one kind that is used; it is kept, and a \
             new account is made"
        );
        Ok(None)
    }

    /// Makes a new key and keeps it.
    pub(super) fn make(&self) -> Result<PrivatePkcs8KeyDer<'static>, AccountError> {
        let made = Key::generate_pkcs8().map_err(|error| self.failed("make")(io::Error::other(error)));
        let (_, der) = made?;
        self.replace(&der)?;
        Ok(der)
    }

    /// Keeps a key that the authority knows. Where the disk does not take it, it stays in memory, and [`Self::load`]
    /// tries again. What was there is kept under another name, which is given.
    pub(super) fn keep(&self, key: PrivatePkcs8KeyDer<'static>) -> Result<Option<PathBuf>, AccountError> {
        let mut unwritten = self.unwritten();
        unwritten.0 = Some(key);
        let Some(key) = &unwritten.0 else { return Ok(None) };
        let kept = self.replace(key)?;
        unwritten.0.zeroize();
        Ok(kept)
    }

    /// Puts a key in the place of what is there, all of it or nothing; at no moment there is no key, where the file
    /// system knows second names. What was there gets another name.
    fn replace(&self, key: &PrivatePkcs8KeyDer<'_>) -> Result<Option<PathBuf>, AccountError> {
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(key.secret_pkcs8_der()));
        let mut text = Zeroizing::new(String::from("-----BEGIN PRIVATE KEY-----\n"));
        for line in encoded.as_bytes().chunks(PEM_LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        let next = steps::beside(&self.path, ".new");
        let written = [
            Step::Remove(next.clone()),
            Step::Create(next.clone(), KEY_MODE),
            Step::Write(next.clone(), text),
            Step::Sync(next.clone()),
        ];
        let written = written.iter().try_for_each(Step::take).map_err(self.failed("write"));
        let kept = written.and_then(|()| self.put_into_place(&next)).inspect_err(|_| {
            // Where that fails too, the next key does it.
            let _ = Step::Remove(next).take();
        })?;
        Step::SyncFolder(steps::folder(&self.path).to_owned()).take().map_err(self.failed("write"))?;
        Ok(kept)
    }

    fn put_into_place(&self, next: &Path) -> Result<Option<PathBuf>, AccountError> {
        let kept = self.keep_old()?;
        fs::rename(next, &self.path).map_err(|error| {
            if let Some(kept) = &kept {
                // It has its name back, and no second one. What fails here is kept under the second one.
                let _ = if self.path.exists() { fs::remove_file(kept) } else { fs::rename(kept, &self.path) };
            }
            self.failed("write")(error)
        })?;
        Ok(kept)
    }

    /// Gives what is there a second name, if there is anything.
    fn keep_old(&self) -> Result<Option<PathBuf>, AccountError> {
        let kept = self.name_aside();
        match fs::hard_link(&self.path, &kept) {
            Ok(()) => Ok(Some(kept)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // Some file systems know no second names.
            Err(_) => fs::rename(&self.path, &kept).map(|()| Some(kept)).map_err(self.failed("put aside")),
        }
    }

    /// A name that is free.
    fn name_aside(&self) -> PathBuf {
        let first = steps::beside(&self.path, ".old");
        let is_free = |path: &Path| fs::symlink_metadata(path).is_err();
        let later = || steps::beside(&first, &format!(".{}", jiff::Timestamp::now().as_nanosecond()));
        if is_free(&first) { first } else { later() }
    }

    fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(io::Error) -> AccountError + use<> {
        let path = self.path.clone();
        move |cause| AccountError { verb, path, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::testing::PEMS;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_key_is_kept_for_its_owner_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("account.pem");
        let file = AccountFile::new(path.clone());
        assert!(file.load().unwrap().is_none());
        let made = file.make().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(file.load().unwrap().unwrap().secret_pkcs8_der(), made.secret_pkcs8_der());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_lies_where_a_key_is_written_is_neither_followed_nor_kept_readable() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("account.pem"), folder.path().join("victim"));
        let file = AccountFile::new(path.clone());
        fs::write(&victim, "mine").unwrap();
        for suffix in ["new", "probe"] {
            symlink(&victim, folder.path().join(format!("account.pem.{suffix}"))).unwrap();
        }
        file.probe().unwrap();
        file.make().unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        let left = folder.path().join("account.pem.new");
        fs::write(&left, "what an earlier attempt left").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o666)).unwrap();
        file.make().unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_the_disk_does_not_take_is_written_later_and_the_old_one_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (place, away) = (folder.path().join("keys"), folder.path().join("away"));
        fs::create_dir(&place).unwrap();
        let file = AccountFile::new(place.join("account.pem"));
        let old = file.make().unwrap();
        fs::rename(&place, &away).unwrap();
        file.probe().unwrap_err();
        let (_, bound) = Key::generate_pkcs8().unwrap();
        file.keep(bound.clone_key()).unwrap_err();
        // Nothing comes before it.
        file.load().unwrap_err();
        fs::rename(&away, &place).unwrap();
        assert_eq!(file.load().unwrap().unwrap().secret_pkcs8_der(), bound.secret_pkcs8_der());
        let read = |name: &str| AccountFile::new(place.join(name)).load().unwrap().unwrap();
        assert_eq!(read("account.pem").secret_pkcs8_der(), bound.secret_pkcs8_der());
        assert_eq!(read("account.pem.old").secret_pkcs8_der(), old.secret_pkcs8_der());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 2);
    }

    #[test]
    fn a_key_of_another_kind_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("account.pem");
        let file = AccountFile::new(path.clone());
        let others = PEMS.iter().map(|(_, key, _)| key.as_bytes()).chain([&b"garbage\xff"[..], b""]);
        for (number, other) in others.enumerate() {
            fs::write(&path, other).unwrap();
            assert!(file.load().unwrap().is_none());
            assert!(!path.exists());
            if number == 0 {
                assert_eq!(fs::read(folder.path().join("account.pem.old")).unwrap(), other);
            }
        }
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let file = AccountFile::new("/no/such/folder/account.pem".into());
        assert!(file.load().unwrap().is_none());
        let said = file.make().unwrap_err().to_string();
        assert!(said.contains("/no/such/folder/account.pem") && said.contains("has to exist"), "{said}");
    }
}
