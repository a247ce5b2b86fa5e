//! The key of the account with the certificate authority, on disk: PKCS#8 in PEM, readable for its owner only.
//!
//! The key is all there is to an account: the authority finds the account by it (RFC 8555, section 7.3.1), so a file
//! serves for any authority.

use base64::{Engine, prelude::BASE64_STANDARD};
use instant_acme::Key;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Characters of a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// Why the account's key could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the account key {}: {cause}; the folder has to exist, and to be writable for the drone's user", path.display())]
pub(super) struct AccountError {
    verb: &'static str,
    path: PathBuf,
    cause: io::Error,
}

/// Where the key lies.
#[derive(Debug, Clone)]
pub(super) struct AccountFile(PathBuf);

impl AccountFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Reads the key. One that the client cannot use is put aside, and said. Blocks on the disk.
    pub(super) fn load(&self) -> Result<Option<PrivatePkcs8KeyDer<'static>>, AccountError> {
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read")(error)),
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&bytes).ok();
        if let Some(key) = key.filter(|key| Key::from_pkcs8_der(key.clone_key()).is_ok()) {
            return Ok(Some(key));
        }
        let kept = self.put_aside()?;
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
        self.save(&der)?;
        Ok(der)
    }

    /// Writes a key in place of what is there, all of it or nothing.
    pub(super) fn save(&self, key: &PrivatePkcs8KeyDer<'_>) -> Result<(), AccountError> {
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(key.secret_pkcs8_der()));
        let mut text = Zeroizing::new(String::from("-----BEGIN PRIVATE KEY-----\n"));
        for line in encoded.as_bytes().chunks(PEM_LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        self.write(text.as_bytes()).map_err(self.failed("write"))
    }

    /// Keeps what is there under another name, and gives that.
    pub(super) fn put_aside(&self) -> Result<PathBuf, AccountError> {
        let named = |suffix: &str| PathBuf::from(format!("{}.old{suffix}", self.0.display()));
        let later = || named(&format!(".{}", jiff::Timestamp::now().as_second()));
        let kept = if named("").exists() { later() } else { named("") };
        fs::rename(&self.0, &kept).map_err(self.failed("put aside"))?;
        Ok(kept)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let next = PathBuf::from(format!("{}.new", self.0.display()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&next, &self.0)?;
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(io::Error) -> AccountError + use<> {
        let path = self.0.clone();
        move |cause| AccountError { verb, path, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::testing::PEMS;
    use std::os::unix::fs::PermissionsExt;

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
