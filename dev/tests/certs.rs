//! Certificates that renew themselves, against Pebble, which asks our own name server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures_util::{SinkExt, StreamExt, future::join_all};
use plane_core::{id::ClusterName, nats::SharedKey};
use plane_dev::harness::{
    Cluster, CuttingProxy, DNS, Drone, PATIENCE, Pebble, PebbleSettings, RenewalInfo, Settings, Tls, unique_cluster,
    wire,
};
use plane_drone::cert::{Files, Pair};
use std::{
    fs::Permissions,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::Message;

/// A cluster's secret.
const SECRET: &str = "shared_key = \"qmRwsZ6nIyvyFxYb0BLgVl8Ih2cMdZ2ZfUlPzZEuJ3A=\"\n";
/// Another one.
const OTHER_SECRET: &str = "shared_key = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n";

/// A controller with a name server, a CA that asks it, and a link to the CA; drones are to be added.
struct Setting {
    cluster: Cluster,
    pebble: Pebble,
    link: CuttingProxy,
    resolver: SocketAddr,
}

impl Setting {
    async fn new(pebble: PebbleSettings) -> Self {
        let settings = Settings { drones: 0, scheduler: DNS.to_owned(), https: true, ..Settings::default() };
        let mut cluster = Cluster::start_as(settings).await.unwrap();
        let resolver = cluster.controllers[0].name_server().await.unwrap();
        let pebble = Pebble::start(resolver, pebble).await.unwrap();
        let link = CuttingProxy::start(&[pebble.address()]).await.unwrap();
        cluster.cert = pebble.section(link.addresses()[0]);
        Self { cluster, pebble, link, resolver }
    }

    /// Drones that share with this secret.
    fn sharing(&mut self, secret: &str) {
        let acme = self.pebble.section(self.link.addresses()[0]);
        self.cluster.cert = format!("{secret}shared_lease_secs = 4\n{acme}");
    }

    async fn add_drone(&mut self) -> &mut Drone {
        self.cluster.add_drone("").await.unwrap();
        self.cluster.drones.last_mut().unwrap()
    }

    /// A client that trusts what the CA issues.
    async fn client(&self) -> Tls {
        Tls::trusting([self.pebble.root().await.unwrap().as_slice()]).unwrap()
    }

    /// Waits until a drone serves a certificate that `client` trusts, for backends and for the apex; gives it.
    async fn served(&self, client: &Tls, drone: usize) -> Vec<u8> {
        served(client, self.cluster.drones[drone].https().unwrap(), &self.cluster.name).await
    }

    /// Puts a certificate in place that will be good for another two minutes, and is to be renewed at once.
    async fn with_old_pair(&mut self) -> (Pair, Tls) {
        self.link.cut();
        let old = due_pair(&self.cluster.name);
        let drone = self.add_drone().await;
        drone.files.as_ref().unwrap().install(&old).unwrap();
        let trusting = Tls::trusting([old.leaf_der()]).unwrap();
        self.served(&trusting, 0).await;
        (old, trusting)
    }

    async fn said(&mut self, text: &str) {
        self.cluster.drones[0].daemon.logged(text).await.unwrap();
    }

    fn files(&self, drone: usize) -> &Files {
        self.cluster.drones[drone].files.as_ref().unwrap()
    }
}

async fn served(client: &Tls, proxy: SocketAddr, cluster: &ClusterName) -> Vec<u8> {
    let began = Instant::now();
    loop {
        let shown = client.shown(proxy, &format!("b.{cluster}")).await;
        match (shown, began.elapsed() > PATIENCE) {
            (Ok(shown), _) => {
                assert_eq!(client.shown(proxy, cluster.as_str()).await.unwrap(), shown);
                return shown;
            }
            (Err(error), true) => panic!("no certificate is served: {error:#}"),
            (Err(_), false) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A pair in the last third of its life.
fn due_pair(cluster: &ClusterName) -> Pair {
    pair(cluster, 1200, 120)
}

/// A pair that has been valid for some seconds, and will be for others.
fn pair(cluster: &ClusterName, since: i64, until: i64) -> Pair {
    let (key, names) = (rcgen::KeyPair::generate().unwrap(), vec![cluster.to_string(), format!("*.{cluster}")]);
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::seconds(since);
    params.not_after = now + time::Duration::seconds(until);
    params.use_authority_key_identifier_extension = true;
    Pair::parse(&key.serialize_pem(), &params.self_signed(&key).unwrap().pem()).unwrap()
}

#[tokio::test]
async fn from_nothing_to_a_certificate() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    let client = setting.client().await;
    let began = Instant::now();
    setting.add_drone().await;
    let shown = setting.served(&client, 0).await;
    println!("from the start of a drone to HTTPS: {:?}", began.elapsed());
    let pair = setting.files(0).load().unwrap().unwrap();
    assert_eq!(pair.leaf_der(), shown);
    assert_eq!((setting.pebble.orders(), setting.pebble.issued()), (1, 1));
    // A restart finds it, and orders nothing.
    setting.cluster.drones[0].daemon.stop(PATIENCE).await.unwrap();
    setting.pebble.kill();
    setting.cluster.drones[0].restart().await.unwrap();
    assert_eq!(setting.served(&client, 0).await, shown);
    // A backend is reached through it.
    setting.said(" registered").await;
    let backend = setting.cluster.ready().await.unwrap();
    let proxy = setting.cluster.drones[0].https().unwrap();
    let answer = client.get(proxy, &format!("{backend}.{}", setting.cluster.name), "/", &[]).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn from_nothing_where_an_external_account_is_required() {
    let mut setting = Setting::new(PebbleSettings { external_account: true, ..PebbleSettings::default() }).await;
    let with = std::mem::take(&mut setting.cluster.cert);
    let without: String =
        with.lines().filter(|line| !line.starts_with("eab")).map(|line| format!("{line}\n")).collect();
    setting.cluster.cert = without;
    setting.add_drone().await;
    setting.said("give acme.eab").await;
    let folder = setting.files(0).key_path().parent().unwrap().to_owned();
    // A key of an account that an older Plane had.
    std::fs::write(folder.join("acme-account.pem"), "-----BEGIN RSA PRIVATE KEY-----\n").unwrap();
    setting.cluster.drones.clear();
    setting.cluster.cert = format!("account_key_path = {:?}\n{with}", folder.join("acme-account.pem"));
    std::fs::create_dir_all(&folder).unwrap();
    setting.add_drone().await;
    let client = setting.client().await;
    setting.served(&client, 0).await;
    assert!(folder.join("acme-account.pem.old").exists());
    let kept = std::fs::read_to_string(folder.join("acme-account.pem")).unwrap();
    // Another certificate of the same account.
    for file in [setting.files(0).key_path(), setting.files(0).cert_path()] {
        std::fs::remove_file(file).unwrap();
    }
    setting.cluster.drones[0].daemon.kill();
    setting.cluster.drones[0].restart().await.unwrap();
    setting.served(&client, 0).await;
    assert_eq!(std::fs::read_to_string(folder.join("acme-account.pem")).unwrap(), kept);
    assert_eq!(setting.pebble.issued(), 2);
}

#[tokio::test]
async fn from_nothing_where_nonces_are_rejected() {
    // What Pebble does by itself, and what it takes to make the client give up.
    for bad_nonces in [5, 35] {
        let mut setting = Setting::new(PebbleSettings { bad_nonces, ..PebbleSettings::default() }).await;
        setting.add_drone().await;
        let client = setting.client().await;
        setting.served(&client, 0).await;
        assert_eq!(setting.pebble.issued(), 1);
    }
}

#[tokio::test]
async fn renewal_drops_nobody() {
    const SOCKETS: usize = 100;
    // The second order finds the names proved.
    let settings = PebbleSettings { validity_secs: 45, reused: 100, ..PebbleSettings::default() };
    let mut setting = Setting::new(settings).await;
    let client = setting.client().await;
    setting.add_drone().await;
    let first = setting.served(&client, 0).await;
    setting.said(" registered").await;
    let backend = setting.cluster.ready().await.unwrap();
    let (proxy, host) = (setting.cluster.drones[0].https().unwrap(), format!("{backend}.{}", setting.cluster.name));
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(client.websocket(proxy, &host, "/ws").await.unwrap());
    }
    let (renewed, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let requests = tokio::spawn({
        let (renewed, answered, client, host) = (renewed.clone(), answered.clone(), client.clone(), host.clone());
        async move {
            while !renewed.load(Ordering::Relaxed) {
                assert_eq!(client.get(proxy, &host, "/echo", &[]).await.unwrap().status, 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let began = Instant::now();
    let mut round = 0_usize;
    while client.shown(proxy, &host).await.unwrap() == first {
        assert!(began.elapsed() < PATIENCE, "it is not renewed");
        exchange(&mut sockets, round).await;
        round += 1;
    }
    let before = answered.load(Ordering::Relaxed);
    until("requests go on", || answered.load(Ordering::Relaxed) > before + 10).await;
    renewed.store(true, Ordering::Relaxed);
    requests.await.unwrap();
    exchange(&mut sockets, round).await;
    println!("{round} rounds over {SOCKETS} WebSockets and {} requests", answered.load(Ordering::Relaxed));
    assert_ne!(setting.files(0).load().unwrap().unwrap().leaf_der(), first);
}

/// Sends a message over each socket, and waits for its echo.
async fn exchange(sockets: &mut [plane_dev::harness::TlsWebSocket], round: usize) {
    let exchanges = sockets.iter_mut().enumerate().map(|(number, socket)| async move {
        let text = format!("{round} of {number}");
        socket.send(Message::text(text.clone())).await.unwrap();
        let echo = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(echo.into_text().unwrap().as_str(), text);
    });
    join_all(exchanges).await;
}

#[tokio::test]
async fn the_ca_says_when_to_renew() {
    const DAY: i64 = 86_400;
    let mut setting = Setting::new(PebbleSettings::default()).await;
    let ca = RenewalInfo::start(&setting.pebble).await.unwrap();
    setting.link = CuttingProxy::start(&[ca.address()]).await.unwrap();
    setting.cluster.cert = setting.pebble.section(setting.link.addresses()[0]);
    let young = pair(&setting.cluster.name, 10 * DAY, 80 * DAY);
    setting.link.cut();
    setting.add_drone().await;
    setting.files(0).install(&young).unwrap();
    let trusting_young = Tls::trusting([young.leaf_der()]).unwrap();
    setting.served(&trusting_young, 0).await;
    setting.link.mend();
    setting.cluster.drones[0].daemon.stop(PATIENCE).await.unwrap();
    setting.cluster.drones[0].restart().await.unwrap();
    until("the CA is asked", || !ca.asked().is_empty()).await;
    // It has a month.
    setting.said("the CA says when to renew").await;
    assert_eq!(setting.pebble.orders(), 0);
    ca.call_overdue(&ca.asked()[0]);
    setting.cluster.drones[0].daemon.stop(PATIENCE).await.unwrap();
    setting.cluster.drones[0].restart().await.unwrap();
    let client = setting.client().await;
    setting.served(&client, 0).await;
    assert_eq!(setting.pebble.issued(), 1);
}

#[tokio::test]
async fn a_failing_ca_takes_nothing_away() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    let (old, trusting_old) = setting.with_old_pair().await;
    setting.said("check acme.server and acme.ca_path").await;
    let blocked = vec![setting.cluster.name.to_string()];
    setting.pebble.restart(setting.resolver, blocked).await.unwrap();
    setting.link.mend();
    setting.said("check cluster_domain").await;
    // Nobody answers there.
    let nowhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    setting.pebble.restart(nowhere, Vec::new()).await.unwrap();
    setting.said("dig TXT _acme-challenge.CLUSTER").await;
    assert_eq!(setting.served(&trusting_old, 0).await, old.leaf_der());
    assert_eq!(setting.files(0).load().unwrap().unwrap(), old);
    setting.pebble.restart(setting.resolver, Vec::new()).await.unwrap();
    let client = setting.client().await;
    let new = setting.served(&client, 0).await;
    assert_eq!(setting.files(0).load().unwrap().unwrap().leaf_der(), new);
}

#[tokio::test]
async fn controllers_that_are_away_take_nothing_away() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    let (old, trusting_old) = setting.with_old_pair().await;
    setting.cluster.controllers[0].kill();
    setting.link.mend();
    setting.said("start a controller with [dns]").await;
    assert_eq!(setting.served(&trusting_old, 0).await, old.leaf_der());
    setting.cluster.controllers[0].start().unwrap();
    let resolver = setting.cluster.controllers[0].name_server().await.unwrap();
    setting.pebble.restart(resolver, Vec::new()).await.unwrap();
    let client = setting.client().await;
    setting.served(&client, 0).await;
}

#[tokio::test]
async fn a_failing_disk_takes_nothing_away_and_orders_nothing() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    let (old, trusting_old) = setting.with_old_pair().await;
    let folder = setting.files(0).key_path().parent().unwrap().to_owned();
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).unwrap();
    setting.link.mend();
    setting.said("does not exist; create it").await;
    std::fs::rename(&aside, &folder).unwrap();
    let mount = SmallDisk::over(&folder);
    if mount.is_some() {
        setting.files(0).install(&old).unwrap();
        std::fs::write(folder.join("filler"), vec![0; 1 << 20]).unwrap_err();
        setting.said("free some space there").await;
        SmallDisk::read_only(&folder);
        setting.said("mount it writable").await;
    } else {
        // Only root may mount; a folder that others own is had without.
        let modes = std::fs::metadata(&folder).unwrap().permissions();
        std::fs::set_permissions(&folder, Permissions::from_mode(0o555)).unwrap();
        setting.said("must be able to write to its folder").await;
        std::fs::set_permissions(&folder, modes).unwrap();
    }
    assert_eq!(setting.served(&trusting_old, 0).await, old.leaf_der());
    assert_eq!(setting.pebble.orders(), 0);
    drop(mount);
    let client = setting.client().await;
    let new = setting.served(&client, 0).await;
    until("the new pair is on disk", || {
        setting.files(0).load().is_ok_and(|pair| pair.is_some_and(|pair| pair.leaf_der() == new))
    })
    .await;
    assert_eq!(setting.pebble.orders(), 1);
}

#[tokio::test]
async fn a_disk_that_fails_behind_an_order_costs_no_second_one() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    setting.sharing(SECRET);
    let (old, _) = setting.with_old_pair().await;
    let folder = setting.files(0).key_path().parent().unwrap().to_owned();
    // What a disk does is done by root, what a user may not by others.
    let mount = SmallDisk::over(&folder);
    let modes = std::fs::metadata(&folder).unwrap().permissions();
    if mount.is_some() {
        setting.files(0).install(&old).unwrap();
    }
    // Without a controller an order comes no further than to its challenges.
    setting.cluster.controllers[0].pause().unwrap();
    setting.link.mend();
    setting.said("ordered a certificate").await;
    match mount {
        Some(_) => SmallDisk::read_only(&folder),
        None => std::fs::set_permissions(&folder, Permissions::from_mode(0o555)).unwrap(),
    }
    let key = SharedKey::new(&setting.cluster.name, "pair");
    let before = setting.cluster.client.shared(&key).await.map_or(0, |found| found.revision);
    setting.cluster.controllers[0].resume().unwrap();
    let client = setting.client().await;
    let new = setting.served(&client, 0).await;
    setting.said("cannot be kept on disk").await;
    shared_again(&setting.cluster, before).await;
    assert_eq!(setting.files(0).load().unwrap().unwrap(), old);
    // A drone that starts again has it from NATS, though the disk still has the old one.
    setting.cluster.drones[0].daemon.kill();
    match mount {
        Some(_) => SmallDisk::writable(&folder),
        None => std::fs::set_permissions(&folder, modes).unwrap(),
    }
    setting.cluster.drones[0].restart().await.unwrap();
    assert_eq!(setting.served(&client, 0).await, new);
    until("the new pair is on disk", || {
        setting.files(0).load().is_ok_and(|pair| pair.is_some_and(|pair| pair.leaf_der() == new))
    })
    .await;
    assert_eq!(setting.pebble.orders(), 1);
}

/// A file system of a few blocks, mounted over a folder.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn over(folder: &'a Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=64k", "plane-test"]).arg(folder).output();
        mounted.is_ok_and(|done| done.status.success()).then_some(Self(folder))
    }

    fn read_only(folder: &Path) {
        Self::remount("remount,ro", folder);
    }

    fn writable(folder: &Path) {
        Self::remount("remount,rw", folder);
    }

    fn remount(how: &str, folder: &Path) {
        let done = Command::new("mount").args(["-o", how]).arg(folder).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_key_of_another_certificate_takes_nothing_away() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    let (old, trusting_old) = setting.with_old_pair().await;
    let other = due_pair(&setting.cluster.name);
    std::fs::write(setting.files(0).key_path(), other.key_pem()).unwrap();
    setting.said("does not belong to the certificate").await;
    assert_eq!(setting.served(&trusting_old, 0).await, old.leaf_der());
    setting.link.mend();
    let client = setting.client().await;
    let new = setting.served(&client, 0).await;
    until("the new pair is on disk", || {
        setting.files(0).load().is_ok_and(|pair| pair.is_some_and(|pair| pair.leaf_der() == new))
    })
    .await;
}

#[tokio::test]
async fn one_order_serves_all_drones_that_share() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    setting.sharing(SECRET);
    let client = setting.client().await;
    for _ in 0..5 {
        setting.add_drone().await;
    }
    let first = setting.served(&client, 0).await;
    for drone in 1..5 {
        assert_eq!(setting.served(&client, drone).await, first);
    }
    assert_eq!((setting.pebble.orders(), setting.pebble.issued()), (1, 1));
    // With another secret nothing is opened, nothing ordered, and the error names the key.
    setting.sharing(OTHER_SECRET);
    let odd = setting.add_drone().await;
    odd.daemon.logged("the same cert.shared_key").await.unwrap();
    let proxy = odd.https().unwrap();
    assert!(client.shown(proxy, setting.cluster.name.as_str()).await.is_err());
    // NATS loses what was shared: it is put back from the drones, without an order.
    setting.cluster.drones.truncate(2);
    let (server, delete) = (setting.cluster.nats.url(), "$JS.API.STREAM.DELETE.KV_plane_certificates");
    assert!(wire::request(&server, delete, b"").await.unwrap().contains("\"success\":true"));
    shared_again(&setting.cluster, 0).await;
    setting.sharing(SECRET);
    setting.add_drone().await;
    assert_eq!(setting.served(&client, 2).await, first);
    // What somebody else wrote there is not served either, and replaced.
    let key = SharedKey::new(&setting.cluster.name, "pair");
    let found = setting.cluster.client.shared(&key).await.unwrap();
    let spoiled = setting.cluster.client.share(&key, &"nothing", found.revision).await.unwrap();
    shared_again(&setting.cluster, spoiled).await;
    assert_eq!(setting.pebble.orders(), 1);
}

/// Waits until a drone has put something into the bucket after the entry `after`.
async fn shared_again(cluster: &Cluster, after: u64) {
    let key = SharedKey::new(&cluster.name, "pair");
    let began = Instant::now();
    while !cluster.client.shared(&key).await.is_ok_and(|found| found.value.is_some() && found.revision > after) {
        assert!(began.elapsed() < PATIENCE, "nobody puts it back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn another_drone_orders_where_the_first_is_killed() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    setting.sharing(SECRET);
    let client = setting.client().await;
    // Without a controller an order comes no further than to its challenges.
    setting.cluster.controllers[0].pause().unwrap();
    for _ in 0..5 {
        setting.add_drone().await;
    }
    let mut ordering = None;
    until("a drone orders", || {
        let drones = setting.cluster.drones.iter();
        ordering = drones.enumerate().find(|(_, drone)| drone.daemon.log().contains("ordered a certificate"));
        ordering.is_some()
    })
    .await;
    let killed = ordering.unwrap().0;
    setting.cluster.drones[killed].daemon.kill();
    setting.cluster.controllers[0].resume().unwrap();
    let mut shown = Vec::new();
    for drone in (0..5).filter(|drone| *drone != killed) {
        shown.push(setting.served(&client, drone).await);
    }
    setting.cluster.drones[killed].restart().await.unwrap();
    shown.push(setting.served(&client, killed).await);
    shown.dedup();
    assert_eq!(shown.len(), 1);
    assert!(setting.pebble.orders() <= 2, "{} orders", setting.pebble.orders());
}

#[tokio::test]
async fn where_an_order_fails_all_drones_that_share_rest() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    setting.sharing(SECRET);
    let client = setting.client().await;
    setting.link.cut();
    for _ in 0..3 {
        setting.add_drone().await;
    }
    until("a drone tells why it waits", || {
        let told = "another drone orders for the cluster: the CA cannot be used";
        setting.cluster.drones.iter().any(|drone| drone.daemon.log().contains(told))
    })
    .await;
    setting.link.mend();
    let first = setting.served(&client, 0).await;
    for drone in 1..3 {
        assert_eq!(setting.served(&client, drone).await, first);
    }
    assert_eq!(setting.pebble.orders(), 1);
}

#[tokio::test]
async fn drones_without_a_secret_order_for_themselves() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    let client = setting.client().await;
    for _ in 0..2 {
        setting.add_drone().await;
    }
    assert_ne!(setting.served(&client, 0).await, setting.served(&client, 1).await);
    assert_eq!(setting.pebble.issued(), 2);
}

#[tokio::test]
async fn two_clusters_have_a_certificate_each() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    setting.sharing(SECRET);
    let client = setting.client().await;
    setting.add_drone().await;
    let first = std::mem::replace(&mut setting.cluster.name, unique_cluster());
    setting.add_drone().await;
    let second = &setting.cluster.name;
    let [one, other] = [0, 1].map(|drone| setting.cluster.drones[drone].https().unwrap());
    let (of_first, of_second) = (served(&client, one, &first).await, served(&client, other, second).await);
    assert_ne!(of_first, of_second);
    for (drone, cluster) in [(0, &first), (1, second)] {
        let pair = setting.files(drone).load().unwrap().unwrap();
        assert!(pair.covers(cluster), "{:?}", pair.names());
    }
    assert!(client.shown(one, second.as_str()).await.is_err());
    assert!(client.shown(other, first.as_str()).await.is_err());
    assert_eq!(setting.pebble.issued(), 2);
}

#[tokio::test]
async fn what_ends_at_once_is_not_ordered_again_and_again() {
    let mut setting = Setting::new(PebbleSettings { validity_secs: 1, ..PebbleSettings::default() }).await;
    setting.add_drone().await;
    let said = setting.cluster.drones[0].daemon.logged("has ended by this machine's clock").await.unwrap();
    assert!(said.contains("again_secs=1727"), "{said}");
    // Nor after a restart.
    setting.cluster.drones[0].daemon.kill();
    setting.cluster.drones[0].restart().await.unwrap();
    setting.said("as before the restart").await;
    assert_eq!(setting.pebble.issued(), 1);
}

#[tokio::test]
async fn other_kinds_of_keys_are_had_by_configuration() {
    let mut setting = Setting::new(PebbleSettings::default()).await;
    setting.cluster.cert = format!("key_type = \"rsa-2048\"\n{}", setting.cluster.cert);
    setting.add_drone().await;
    let client = setting.client().await;
    setting.served(&client, 0).await;
    // The object identifier of rsaEncryption (RFC 8017, appendix A.1).
    let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let pair = setting.files(0).load().unwrap().unwrap();
    assert!(pair.leaf_der().windows(rsa.len()).any(|window| window == rsa));
}
