//! Installations that are killed, and that fail, at every single file operation.

use super::*;
use crate::cert::testing;
use std::{
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};
use tempfile::TempDir;

/// Where the two files are.
#[derive(Debug, Clone, Copy)]
enum Layout {
    OneFolder,
    TwoFolders,
    Links,
}

const LAYOUTS: [Layout; 3] = [Layout::OneFolder, Layout::TwoFolders, Layout::Links];

fn files(root: &TempDir, layout: Layout) -> Files {
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("keys")).unwrap();
    fs::create_dir_all(at("live")).unwrap();
    match layout {
        Layout::OneFolder => Files::new(at("live/key.pem"), at("live/cert.pem")),
        Layout::TwoFolders => Files::new(at("keys/key.pem"), at("live/cert.pem")),
        Layout::Links => {
            for (name, target) in [("key.pem", "../keys/key1.pem"), ("cert.pem", "../keys/cert1.pem")] {
                if fs::symlink_metadata(at("live").join(name)).is_err() {
                    symlink(target, at("live").join(name)).unwrap();
                }
            }
            Files::new(at("live/key.pem"), at("live/cert.pem"))
        }
    }
}

/// Takes steps, but not the waiting for the disk: what a process did is there for the next one.
fn quickly(step: &Step) -> io::Result<()> {
    match step {
        Step::Sync(_) | Step::SyncFolder(_) => Ok(()),
        step => step.take(),
    }
}

fn installed(files: &Files, pair: &Pair) {
    files.install_by(pair, &mut quickly).unwrap();
}

/// Installs and is killed: `whole` steps are taken, and of the next one, where it writes, a half. False where there
/// was nothing left to kill.
fn install_and_die(files: &Files, pair: &Pair, whole: usize) -> bool {
    let mut taken = 0;
    let mut died = false;
    let outcome = files.install_by(pair, &mut |step| {
        taken += 1;
        if taken <= whole {
            return quickly(step);
        }
        if let (false, Step::Write(path, text)) = (died, step) {
            let half = text[..text.len() / 2].to_owned();
            Step::Write(path.clone(), Zeroizing::new(half)).take()?;
        }
        died = true;
        Err(io::Error::other("killed"))
    });
    assert_eq!(outcome.is_err(), died);
    died
}

fn is_one_of(loaded: Option<&Pair>, pairs: &[&Pair]) -> bool {
    loaded.is_some_and(|loaded| pairs.contains(&loaded))
}

#[test]
fn a_kill_between_any_two_operations_leaves_a_pair_that_loads() {
    let [a, b, c, d] = [(); 4].map(|()| testing::pair("plane.test"));
    for layout in LAYOUTS {
        for first in 0.. {
            let mut first_died = true;
            for second in 0.. {
                let root = tempfile::tempdir().unwrap();
                installed(&files(&root, layout), &a);
                first_died = install_and_die(&files(&root, layout), &b, first);
                // The second one comes upon what the first one left, without anybody having looked at it.
                let second_died = install_and_die(&files(&root, layout), &c, second);
                let loaded = files(&root, layout).load().unwrap();
                assert!(is_one_of(loaded.as_ref(), &[&a, &b, &c]), "{layout:?} {first} {second}");
                let again = files(&root, layout).load().unwrap();
                assert_eq!(again, loaded, "{layout:?} {first} {second}");
                installed(&files(&root, layout), &d);
                assert_eq!(files(&root, layout).load().unwrap().as_ref(), Some(&d), "{layout:?} {first} {second}");
                if !second_died {
                    break;
                }
            }
            if !first_died {
                assert!(first > 10, "{layout:?}: all steps are gone through");
                break;
            }
        }
    }
}

#[test]
fn a_killed_first_installation_leaves_the_pair_or_nothing() {
    let (a, b) = (testing::pair("plane.test"), testing::pair("plane.test"));
    for layout in LAYOUTS {
        for whole in 0.. {
            let root = tempfile::tempdir().unwrap();
            let died = install_and_die(&files(&root, layout), &a, whole);
            let loaded = files(&root, layout).load().unwrap();
            assert!(loaded.is_none() || loaded.as_ref() == Some(&a), "{layout:?} {whole}");
            installed(&files(&root, layout), &b);
            assert_eq!(files(&root, layout).load().unwrap().as_ref(), Some(&b), "{layout:?} {whole}");
            if !died {
                break;
            }
        }
    }
}

/// Installs on a disk that refuses one step, or from that step on. `None` where there was no such step.
fn install_refused(files: &Files, pair: &Pair, at: usize, once: bool, kind: ErrorKind) -> Option<FilesError> {
    let mut taken = 0;
    let outcome = files.install_by(pair, &mut |step| {
        taken += 1;
        if taken == at || (taken > at && !once) { Err(kind.into()) } else { quickly(step) }
    });
    (taken >= at).then(|| outcome.unwrap_err())
}

#[test]
fn a_disk_that_refuses_takes_nothing_away_and_the_error_says_what_to_do() {
    let (a, b) = (testing::pair("plane.test"), testing::pair("plane.test"));
    let refusals = [
        (ErrorKind::StorageFull, "free some space"),
        (ErrorKind::ReadOnlyFilesystem, "mount it writable"),
        (ErrorKind::PermissionDenied, "must be able to write"),
        (ErrorKind::ResourceBusy, "mount its folder"),
    ];
    for layout in LAYOUTS {
        for ((kind, hint), once) in refusals.into_iter().flat_map(|refusal| [(refusal, true), (refusal, false)]) {
            for at in 1.. {
                let root = tempfile::tempdir().unwrap();
                installed(&files(&root, layout), &a);
                let Some(error) = install_refused(&files(&root, layout), &b, at, once, kind) else { break };
                assert!(error.to_string().contains(hint), "{error}");
                let loaded = files(&root, layout).load().unwrap();
                assert!(is_one_of(loaded.as_ref(), &[&a, &b]), "{layout:?} {kind} {at}");
                installed(&files(&root, layout), &b);
                assert_eq!(files(&root, layout).load().unwrap().as_ref(), Some(&b), "{layout:?} {kind} {at}");
            }
        }
    }
}

#[test]
fn names_are_durable_in_their_order() {
    let places = Places::new("/k/key".into(), "/c/cert".into());
    let planned = steps::install(&places, "key", "chain");
    let place_of = |wanted: &Step| planned.iter().position(|step| step == wanted).unwrap();
    for (from, to) in [(&places.next_key, &places.key), (&places.next_cert, &places.cert)] {
        let renamed = place_of(&Step::Rename(from.clone(), to.clone()));
        let folder = Step::SyncFolder(steps::folder(to).to_owned());
        assert!(place_of(&Step::Sync(from.clone())) < renamed && place_of(&folder) < renamed);
        assert_eq!(planned[renamed + 1], folder);
    }
}

#[test]
fn keys_are_their_owners_and_nothing_stays_beside() {
    let root = tempfile::tempdir().unwrap();
    let files = files(&root, Layout::TwoFolders);
    let pair = testing::pair("plane.test");
    assert_eq!(files.load().unwrap(), None);
    files.install(&pair).unwrap();
    files.install(&pair).unwrap();
    assert_eq!(files.load().unwrap().unwrap(), pair);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(files.key_path()), 0o600);
    for folder in ["keys", "live"] {
        assert_eq!(fs::read_dir(root.path().join(folder)).unwrap().count(), 1);
    }
}

#[test]
fn links_stay_links() {
    let root = tempfile::tempdir().unwrap();
    let files = files(&root, Layout::Links);
    let pair = testing::pair("plane.test");
    files.install(&pair).unwrap();
    for (path, target) in [(files.key_path(), "keys/key1.pem"), (files.cert_path(), "keys/cert1.pem")] {
        assert!(fs::symlink_metadata(path).unwrap().is_symlink());
        assert!(fs::symlink_metadata(root.path().join(target)).unwrap().is_file());
    }
    assert_eq!(files.load().unwrap().unwrap(), pair);
}

#[test]
fn what_cannot_be_served_is_named() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let (one, other) = (testing::pair("plane.test"), testing::pair("plane.test"));
    let said = |files: &Files| files.load().unwrap_err().to_string();
    let nowhere = Files::new(at("none/key.pem"), at("none/cert.pem"));
    for said in [said(&nowhere), nowhere.install(&one).unwrap_err().to_string()] {
        assert!(said.contains("none for") && said.contains("does not exist; create it"), "{said}");
    }
    let same = Files::new(at("both.pem"), at("both.pem"));
    assert!(said(&same).contains("give two files"));
    assert!(Files::new(at("a"), at("a.next")).install(&one).is_err());
    let files = Files::new(at("key.pem"), at("cert.pem"));
    fs::write(files.key_path(), one.key_pem()).unwrap();
    assert!(said(&files).contains("cert.pem is not; give both"));
    fs::write(files.cert_path(), other.chain_pem()).unwrap();
    assert!(said(&files).contains("does not belong"));
    fs::write(files.cert_path(), [0xff; 9]).unwrap();
    assert!(said(&files).contains("not text"));
    File::create(files.cert_path()).unwrap().set_len(MOST_BYTES + 1).unwrap();
    assert!(said(&files).contains("too large"));
    // An installation mends all of that.
    files.install(&one).unwrap();
    assert_eq!(files.load().unwrap().unwrap(), one);
}

#[test]
fn what_lies_beside_a_good_pair_is_not_looked_at() {
    let root = tempfile::tempdir().unwrap();
    let files = files(&root, Layout::OneFolder);
    let (good, stale) = (testing::pair("plane.test"), testing::pair("plane.test"));
    files.install(&good).unwrap();
    fs::write(root.path().join("live/key.pem.next"), stale.key_pem()).unwrap();
    fs::write(root.path().join("live/cert.pem.next"), stale.chain_pem()).unwrap();
    assert_eq!(files.load().unwrap().unwrap(), good);
    // Nor is it taken for the other half of a pair that somebody is just replacing.
    fs::write(files.key_path(), testing::pair("plane.test").key_pem()).unwrap();
    assert!(files.load().is_err());
}

#[test]
fn a_probe_leaves_nothing_and_follows_no_link() {
    let root = tempfile::tempdir().unwrap();
    let files = files(&root, Layout::OneFolder);
    let victim = root.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    symlink(&victim, root.path().join("live/key.pem.probe")).unwrap();
    files.probe().unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    assert_eq!(fs::read_dir(root.path().join("live")).unwrap().count(), 0);
}

/// A file that is mounted over another one, as containers get single files.
struct BindMount(PathBuf);

impl BindMount {
    /// `None` where only root may.
    fn over(path: PathBuf, source: &Path) -> Option<Self> {
        let mounted = Command::new("mount").arg("--bind").args([source, &path]).output();
        mounted.is_ok_and(|done| done.status.success()).then_some(Self(path))
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_file_that_is_mounted_by_itself_is_noticed_before_anything_is_ordered() {
    for name in ["key.pem", "cert.pem"] {
        let root = tempfile::tempdir().unwrap();
        let files = files(&root, Layout::OneFolder);
        let (source, place) = (root.path().join("source"), root.path().join("live").join(name));
        fs::write(&source, "").unwrap();
        fs::write(&place, "").unwrap();
        files.probe().unwrap();
        let Some(_mount) = BindMount::over(place, &source) else {
            eprintln!("not root: {name} is not mounted; what tells mounts is tested beside `steps`");
            continue;
        };
        let said = files.probe().unwrap_err().to_string();
        assert!(said.contains(name) && said.contains("mount its folder instead"), "{said}");
        assert!(files.install(&testing::pair("plane.test")).is_err(), "it would have failed after the order");
    }
}
