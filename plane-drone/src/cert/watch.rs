//! Notices files that others change, such as an operator's certbot, and takes good pairs up. What is not good is said
//! once, and looked at again until it is; what is served stays.

use super::{
    expiry::{self, Stage},
    files::{Files, FilesError, Stamp},
    pair::Pair,
    served::Served,
};
use jiff::Timestamp;
use plane_core::{id::ClusterName, task::Tasks};
use std::{sync::Arc, time::Duration};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Serves what the files hold now, and from then on what they come to hold.
pub async fn start(files: Files, served: Served, cluster: ClusterName, tasks: &Tasks) {
    let mut watch = Watch::new(files, served, cluster);
    watch.look(true).await;
    if !watch.served.is_there() && watch.fault.is_none() {
        tracing::warn!(files = %watch.files, "there is no certificate yet; HTTPS is refused and no backends are taken until there is one");
    }
    let stop = tasks.stop_token();
    tasks.spawn_essential("watch the certificate", async move {
        let looking = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                watch.look(false).await;
            }
        };
        stop.run_until_cancelled(looking).await;
    });
}

struct Watch {
    files: Files,
    served: Served,
    /// What the certificate should be for.
    cluster: ClusterName,
    /// What the files looked like when they were last read.
    seen: Option<Stamp>,
    /// What was last said about them.
    fault: Option<String>,
    /// They were not good when they changed, and may have been half written.
    unsettled: bool,
    /// Of which pair, when and how the end was last told.
    told: Option<(Arc<Pair>, Timestamp, Stage)>,
}

/// What came of reading the files.
enum Read {
    Unchanged,
    Pair(Box<Pair>),
    Nothing,
    Fault(FilesError),
}

impl Watch {
    fn new(files: Files, served: Served, cluster: ClusterName) -> Self {
        Self { files, served, cluster, seen: None, fault: None, unsettled: false, told: None }
    }

    async fn look(&mut self, first: bool) {
        let (files, seen, again) = (self.files.clone(), self.seen.clone(), self.unsettled || self.fault.is_some());
        let reading = tokio::task::spawn_blocking(move || {
            let stamp = files.stamp();
            if !again && seen.as_ref() == Some(&stamp) {
                return (stamp, Read::Unchanged);
            }
            let read = match files.load() {
                Ok(Some(pair)) => Read::Pair(Box::new(pair)),
                Ok(None) => Read::Nothing,
                Err(error) => Read::Fault(error),
            };
            (stamp, read)
        });
        let Ok((stamp, read)) = reading.await else { return };
        let settled = first || self.seen.as_ref() == Some(&stamp);
        self.seen = Some(stamp);
        match read {
            Read::Unchanged => {}
            Read::Pair(pair) => self.take_up(*pair),
            Read::Nothing if !self.served.is_there() => self.fault = None,
            Read::Nothing => self.complain(settled, format!("{} are gone", self.files)),
            Read::Fault(error) => self.complain(settled, error.to_string()),
        }
        self.tell_the_end();
    }

    fn take_up(&mut self, pair: Pair) {
        self.unsettled = false;
        let mended = self.fault.take().is_some();
        // What a disk that is mended still holds is no news where a newer pair waits to be written there.
        let newer = |unwritten: &Arc<Pair>| unwritten.validity().not_before > pair.validity().not_before;
        if self.served.unwritten().as_ref().is_some_and(newer) {
            return;
        }
        if !self.served.install(pair) && mended {
            tracing::info!(files = %self.files, "the certificate's files are good again");
        }
    }

    /// Says what is wrong, once. Files that have just changed may not be written to their end: those have until the
    /// next look.
    fn complain(&mut self, settled: bool, fault: String) {
        self.unsettled = !settled;
        if !settled || self.fault.as_ref() == Some(&fault) {
            return;
        }
        if self.served.is_there() {
            tracing::error!(
                fault,
                "the certificate's files are not taken up; the earlier certificate stays in service"
            );
        } else {
            tracing::error!(
                fault,
                "there is no certificate to serve; HTTPS is refused and no backends are taken until there is one"
            );
        }
        self.fault = Some(fault);
    }

    fn tell_the_end(&mut self) {
        let Some(pair) = self.served.current() else { return };
        let (now, validity) = (Timestamp::now(), pair.validity());
        let stage = expiry::stage(now, validity);
        let told =
            self.told.as_ref().filter(|(of, ..)| Arc::ptr_eq(of, &pair)).map(|(_, then, before)| (*then, *before));
        if !expiry::is_due(now, stage, told) {
            return;
        }
        let backends = format!("*.{}", self.cluster);
        if told.is_none() && !pair.names().contains(&backends) {
            tracing::warn!(names = ?pair.names(), "the certificate is not for {backends}; browsers will refuse it for backends");
        }
        self.told = Some((pair.clone(), now, stage));
        let (days_left, not_after, names) = (expiry::days_left(now, validity), validity.not_after, pair.names());
        match stage {
            Stage::Good => tracing::info!(days_left, %not_after, ?names, "serving a certificate"),
            Stage::Early => {
                let not_before = validity.not_before;
                tracing::error!(%not_before, %not_after, ?names, "the certificate is not valid yet; look at the clocks");
            }
            Stage::Ending => tracing::warn!(days_left, %not_after, ?names, "the certificate ends soon"),
            Stage::Urgent => tracing::error!(days_left, %not_after, ?names, "the certificate is about to end"),
            Stage::Expired => {
                tracing::error!(days_left, %not_after, ?names, "the certificate has ended; browsers refuse it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::testing;
    use std::fs;
    use tempfile::TempDir;

    fn setting() -> (TempDir, Watch) {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("key.pem"), folder.path().join("cert.pem"));
        (folder, Watch::new(files, Served::default(), "plane.test".parse().unwrap()))
    }

    #[tokio::test]
    async fn a_pair_is_taken_up_whenever_it_comes() {
        let (_folder, mut watch) = setting();
        watch.look(true).await;
        assert!(!watch.served.is_there());
        for _ in 0..2 {
            let pair = testing::pair("plane.test");
            watch.files.install(&pair).unwrap();
            watch.look(false).await;
            assert_eq!(watch.served.current().as_deref(), Some(&pair));
        }
    }

    #[tokio::test]
    async fn what_is_no_pair_is_said_once_and_the_old_one_stays_until_it_is_mended() {
        let (_folder, mut watch) = setting();
        let (old, new) = (testing::pair("plane.test"), testing::pair("plane.test"));
        watch.files.install(&old).unwrap();
        watch.look(true).await;
        fs::write(watch.files.key_path(), new.key_pem()).unwrap();
        // It may be half written.
        watch.look(false).await;
        assert_eq!(watch.fault, None);
        watch.look(false).await;
        let fault = watch.fault.clone().unwrap();
        assert!(fault.contains("does not belong") && fault.contains("key.pem"), "{fault}");
        assert_eq!(watch.served.current().as_deref(), Some(&old));
        fs::write(watch.files.cert_path(), new.chain_pem()).unwrap();
        watch.look(false).await;
        assert_eq!((watch.served.current().as_deref(), watch.fault.as_ref()), (Some(&new), None));
    }

    #[tokio::test]
    async fn files_that_are_gone_or_unreadable_take_nothing_away() {
        let (_folder, mut watch) = setting();
        let old = testing::pair("plane.test");
        watch.files.install(&old).unwrap();
        watch.look(true).await;
        fs::remove_file(watch.files.key_path()).unwrap();
        fs::remove_file(watch.files.cert_path()).unwrap();
        for _ in 0..2 {
            watch.look(false).await;
        }
        assert!(watch.fault.as_ref().unwrap().contains("are gone"));
        fs::create_dir(watch.files.key_path()).unwrap();
        for _ in 0..2 {
            watch.look(false).await;
        }
        assert!(watch.fault.as_ref().unwrap().contains("not a file"));
        assert_eq!(watch.served.current().as_deref(), Some(&old));
        fs::remove_dir(watch.files.key_path()).unwrap();
        watch.files.install(&old).unwrap();
        watch.look(false).await;
        assert_eq!(watch.fault, None);
    }

    #[tokio::test]
    async fn an_older_pair_on_disk_does_not_replace_a_newer_one_that_waits_to_be_written() {
        let (_folder, mut watch) = setting();
        let (old, new) = (testing::pair("plane.test"), Arc::new(testing::newer_pair("plane.test")));
        watch.served.set_unwritten(Some(new.clone()));
        watch.served.install(new.clone());
        watch.files.install(&old).unwrap();
        watch.look(false).await;
        assert_eq!(watch.served.current(), Some(new.clone()));
        watch.served.set_unwritten(None);
        watch.files.install(&new).unwrap();
        watch.look(false).await;
        assert_eq!(watch.served.current(), Some(new));
    }

    #[tokio::test]
    async fn what_has_ended_is_served_all_the_same() {
        let (_folder, mut watch) = setting();
        let ended = testing::ended_pair("plane.test");
        watch.files.install(&ended).unwrap();
        watch.look(true).await;
        assert_eq!(watch.served.current().as_deref(), Some(&ended));
        assert_eq!(watch.told.as_ref().map(|(.., stage)| *stage), Some(Stage::Expired));
    }

    #[tokio::test]
    async fn the_end_of_each_pair_is_told() {
        let (_folder, mut watch) = setting();
        for _ in 0..2 {
            // Somebody else installs both ways, such as who renews.
            let pair = testing::pair("plane.test");
            watch.files.install(&pair).unwrap();
            watch.served.install(Pair::parse(pair.key_pem(), pair.chain_pem()).unwrap());
            watch.look(false).await;
            assert_eq!(watch.told.as_ref().map(|(of, _, stage)| (&**of, *stage)), Some((&pair, Stage::Good)));
        }
    }
}
