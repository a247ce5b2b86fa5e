use super::*;
use crate::proxy::refusal::Refusal;
use plane_core::task::Tasks;

#[test]
fn threads_count_apart_and_are_read_together() {
    let counters = Counters::new(2);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let counter = counters.of_thread(thread);
            scope.spawn(move || {
                for _ in 0..1000 {
                    counter.request(Outcome::Passed, Duration::from_micros(900));
                    counter.bytes(1, 10);
                }
                counter.request(Outcome::Refused(Refusal::BadAddress), Duration::from_secs(3600));
                counter.request(Outcome::Refused(Refusal::Malformed), Duration::ZERO);
                counter.handshake(Handshake::TimedOut);
                counter.handshake(Handshake::Done);
                counter.handshake(Handshake::Done);
                counter.handshake(Handshake::Failed);
            });
        }
    });
    let sums = counters.snapshot();
    assert_eq!(sums.outcomes().collect::<Vec<_>>(), [("passed", 4000), ("malformed", 8)]);
    assert_eq!((sums.bytes_in, sums.bytes_out, sums.handshakes), (4000, 40_000, [8, 4, 4]));
    assert_eq!((sums.durations[0], sums.durations[BUCKETS - 1]), (4004, 4));
    assert_eq!(sums.duration, Duration::from_millis(3600) + Duration::from_secs(4 * 3600));
}

#[test]
fn what_is_open_counts_until_it_is_dropped() {
    let counters = Counters::new(1);
    let counter = counters.of_thread(0);
    let (first, second) = (counter.connection(), counter.connection());
    let tunnel = counter.tunnel();
    drop(first);
    assert_eq!((counters.snapshot().connections, counters.snapshot().tunnels), (1, 1));
    drop((second, tunnel));
    let sums = counters.snapshot();
    assert_eq!((sums.connections, sums.tunnels, sums.connections_ever, sums.tunnels_ever), (0, 0, 2, 1));
}

#[test]
fn durations_fall_into_buckets_up_to_their_bounds() {
    for (us, place) in [(0, 0), (1, 0), (1000, 0), (1001, 1), (2000, 1), (5001, 3), (60_000_000, 14), (60_000_001, 15)]
    {
        assert_eq!(bucket(Duration::from_micros(us)), place, "{us}");
    }
}

#[test]
fn the_line_says_what_there_is_to_say() {
    let counters = Counters::new(1);
    let nothing = "0 requests; connections 0 open, 0 ever; upgraded 0 open, 0 ever; \
        handshakes 0 done, 0 failed, 0 timed out; bytes 0 in, 0 out";
    assert_eq!(counters.snapshot().to_string(), nothing);
    let counter = counters.of_thread(7);
    for ms in 1..=98 {
        counter.request(Outcome::Passed, Duration::from_millis(ms));
    }
    counter.request(Outcome::ClientGone, Duration::from_secs(4));
    counter.request(Outcome::ClientGone, Duration::from_secs(70));
    let told = counters.snapshot().to_string();
    let begins = "100 requests: passed 98, client_gone 2; half within 50 ms, 99 of 100 within 5000 ms; ";
    assert!(told.starts_with(begins), "{told}");
    assert_eq!(counters.snapshot().within_ms(100), None);
}

#[test]
fn shards_share_no_cache_line() {
    assert_eq!((size_of::<Shard>() % 128, align_of::<Shard>()), (0, 128));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_does_not_hold_up_the_end() {
    let (counters, tasks) = (Counters::new(1), Tasks::new());
    let _open = counters.of_thread(0).connection();
    counters.tell(&tasks);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(tasks.shut_down(crate::STOP_DEADLINE).await);
}
