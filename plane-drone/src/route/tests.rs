use super::{target::*, *};
use plane_core::clock::{Clock, TimeSource};
use proptest::prelude::*;

fn cluster() -> plane_core::id::ClusterName {
    "plane.test".parse().unwrap()
}

#[test]
fn hosts_name_backends() {
    for host in ["b.plane.test", "B.Plane.TEST", "b.plane.test:80", "b.plane.test.", "b.plane.test.:8080"] {
        let found = find(&cluster(), host, "/x?y", false).unwrap();
        assert_eq!((&*found.backend, found.path, found.prefix), ("b", "/x?y", ""), "{host}");
    }
    for host in
        ["", "plane.test", ".plane.test", "a.b.plane.test", "bplane.test", "b.plane.test:x", "[::1]:80", "-.plane.test"]
    {
        assert_eq!(find(&cluster(), host, "/", true), None, "{host}");
    }
}

#[test]
fn paths_name_backends_where_that_is_allowed() {
    for (path, rest) in
        [("/_plane_backend=b/r/s?q", "/r/s?q"), ("/_plane_backend=b", ""), ("/_plane_backend=b?q", "?q")]
    {
        let found = find(&cluster(), "other", path, true).unwrap();
        assert_eq!((&*found.backend, found.path, found.prefix), ("b", rest, "/_plane_backend=b"));
    }
    assert_eq!(find(&cluster(), "other", "/_plane_backend=b/", false), None);
    assert_eq!(find(&cluster(), "other", "/_plane_backend=/", true), None);
    assert_eq!(find(&cluster(), "h.plane.test", "/_plane_backend=b/", true).unwrap().backend, "b");
    assert_eq!(find(&cluster(), "h.plane.test", "/_plane_backend=b/", false).unwrap().backend, "h");
}

proptest! {
    #[test]
    fn no_host_or_path_panics(host in ".{0,80}", path in "/.{0,80}", by_path: bool) {
        let _ = find(&cluster(), &host, &path, by_path);
        let _ = find(&cluster(), &host, &format!("/_plane_backend={path}"), by_path);
    }

    #[test]
    fn what_is_found_is_what_the_host_says(host in "[abB.-]{0,5}[.]?(plane|PLANE|pl.ne)?[.]test[.:]{0,2}[0-9a:]{0,3}") {
        if let Some(found) = find(&cluster(), &host, "/", false) {
            let name = host.split(':').next().unwrap();
            let whole = format!("{}.plane.test", found.backend);
            prop_assert!([&whole, &format!("{whole}.")].contains(&&name.to_lowercase()), "{}", host);
            prop_assert!(host[name.len()..].bytes().all(|byte| byte == b':' || byte.is_ascii_digit()), "{}", host);
        }
    }

    #[test]
    fn a_path_is_cut_in_two_and_nothing_is_lost(rest in "[abB./?%=&_-]{0,20}") {
        let path = format!("/_plane_backend={rest}");
        if let Some(found) = find(&cluster(), "x", &path, true) {
            prop_assert_eq!(format!("{}{}", found.prefix, found.path), path.clone());
            prop_assert_eq!(found.prefix, format!("/_plane_backend={}", found.backend));
            prop_assert!(found.path.is_empty() || found.path.starts_with(['/', '?']), "{}", path);
        }
    }
}

#[tokio::test]
async fn a_backend_is_waited_for_open_and_ended() {
    let routes = Routes::default();
    let id: BackendId = "b".parse().unwrap();
    assert!(matches!(routes.find(id.as_str()), Found::Unknown));
    routes.wait_for(&id, None, None);
    let Found::Waiting(waiting) = routes.find(id.as_str()) else { panic!("not waiting") };
    routes.open(&id, ([127, 0, 0, 1], 1).into(), None, None);
    waiting.settled().await;
    assert!(matches!(routes.find(id.as_str()), Found::Open(_)));
    routes.close(&id);
    routes.close(&id);
    assert!(matches!(routes.find(id.as_str()), Found::Ended));
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_remembered_within_bounds() {
    let routes = Routes::default();
    let id = |n: usize| -> BackendId { n.to_string().parse().unwrap() };
    for n in 0..ENDED_KEPT {
        routes.ended().ids.insert(id(n), Instant::now());
        routes.ended().order.push_back((Instant::now(), id(n)));
    }
    routes.close(&id(ENDED_KEPT + 2));
    assert_eq!(routes.ended().ids.len(), ENDED_KEPT);
    assert!(matches!(routes.find("0"), Found::Unknown));
    tokio::time::advance(ENDED_FOR).await;
    routes.close(&"last".parse().unwrap());
    assert_eq!(routes.ended().ids.len(), 1);
    // Nothing else has to end for that.
    assert!(matches!(routes.find("last"), Found::Ended));
    tokio::time::advance(ENDED_FOR).await;
    assert!(matches!(routes.find("last"), Found::Unknown));
}

#[tokio::test(start_paused = true)]
async fn idle_is_counted_from_the_end_of_the_last_one() {
    let activity = Arc::new(Activity::default());
    let began = Instant::now();
    let (first, second) = (activity.enter().unwrap(), activity.enter().unwrap());
    let ends = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        drop(first);
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(second);
    };
    tokio::join!(activity.idle_for(Duration::from_secs(3)), ends);
    assert_eq!(began.elapsed().as_secs(), 15);
    assert!(activity.enter().is_none());
    assert_eq!(activity.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn idle_is_not_counted_while_the_fence_keeps_people_out() {
    struct Paused(Instant);
    impl TimeSource for Paused {
        fn wall(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn boot(&self) -> Duration {
            self.0.elapsed()
        }
    }
    let (began, patience) = (Instant::now(), Duration::from_secs(60));
    let fence = Arc::new(Fence::closed(Clock::from_source(Paused(began)), patience));
    let activity = Activity::behind(Some(fence.clone()));
    let contact = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        fence.extend(began.elapsed(), patience);
    };
    tokio::join!(activity.idle_for(Duration::from_secs(3)), contact);
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_between_begins_the_idle_time_anew() {
    let activity = Arc::new(Activity::default());
    let began = Instant::now();
    let visit = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(activity.enter());
    };
    tokio::join!(activity.idle_for(Duration::from_secs(3)), visit);
    assert_eq!(began.elapsed().as_secs(), 5);
}
