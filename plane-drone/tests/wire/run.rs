//! Runs cases, many at a time, each with a backend of its own behind one proxy.

use super::{
    case::{Case, NEXT, Observed},
    client::{PATIENCE, Pace},
    grammar::Fault,
    setting::{Http1, IMPLEMENTATIONS, Open, Setting},
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// How many cases are under way at one time.
const AT_ONCE: usize = 32;
/// How long the client waits for an answer before it asks on. Whether that is too short changes nothing but the order in
/// which things happen.
const BEFORE_NEXT: Duration = Duration::from_millis(50);

/// What is asked for through another connection.
const BARRIER: &str = "/barrier";

/// How a case comes to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open(Pace),
    /// Through TLS, at once.
    Safe,
}

const WAYS: [Way; 3] = [Way::Open(Pace::Whole), Way::Open(Pace::Bytewise), Way::Safe];

/// Runs cases with every implementation, at every pace and through TLS, and fails with the list of those that failed. What
/// was passed on has to mean the same whoever passed it on, and however it came; but that it was asked for through TLS is
/// passed on as well.
pub(crate) async fn run(cases: Vec<Case>) {
    let (mut faults, mut runs) = (Vec::new(), 0);
    let mut meanings: [Vec<Option<Vec<String>>>; 2] = [vec![None; cases.len()], vec![None; cases.len()]];
    for (http1, way) in IMPLEMENTATIONS.into_iter().flat_map(|http1| WAYS.map(|way| (http1, way))) {
        let (setting, pace) = match way {
            Way::Open(pace) => (Setting::start(http1, json!({})).await, pace),
            Way::Safe => (Setting::start_safe(http1), Pace::Whole),
        };
        let meanings = &mut meanings[usize::from(way == Way::Safe)];
        let under_way = cases.iter().enumerate().map(|(number, case)| {
            let setting = &setting;
            async move {
                let open = setting.backend(&format!("b{number}"), None).await;
                (number, one(setting, &open, case, http1, pace).await)
            }
        });
        let outcomes: Vec<_> = stream::iter(under_way).buffered(AT_ONCE).collect().await;
        runs += outcomes.len();
        for (number, outcome) in outcomes {
            let fault = match outcome {
                Ok(observed) => differs(&mut meanings[number], observed.meaning()),
                Err(fault) => Some(fault),
            };
            faults.extend(fault.map(|fault| format!("{http1:?}, {way:?}: {}\n    {fault}", cases[number].name)));
        }
    }
    let count = cases.len();
    assert!(faults.is_empty(), "{} of {runs} runs of {count} cases failed:\n{}", faults.len(), faults.join("\n"));
    println!("{runs} runs of {count} cases");
}

/// Says where two have passed on different things. Whether one passes on what another refuses is the case's to say.
fn differs(before: &mut Option<Vec<String>>, now: Vec<String>) -> Option<String> {
    match before {
        Some(before) if before.len() == now.len() && *before != now => Some(format!("{before:?}\n    and {now:?}")),
        Some(_) => None,
        None => {
            *before = Some(now);
            None
        }
    }
}

async fn one(setting: &Setting, open: &Open, case: &Case, http1: Http1, pace: Pace) -> Result<Observed, String> {
    let mut client = setting.connect(&open.host).await;
    client.send(&case.bytes(&open.host), pace).await;
    let mut observed = Observed::default();
    if case.finishes {
        client.finish().await;
    } else {
        client.stirs_within(BEFORE_NEXT).await;
        client.send(&get(NEXT, &open.host), Pace::Whole).await;
    }
    let mut methods = case.methods.iter().copied();
    loop {
        match client.reply(methods.next().unwrap_or("GET")).await {
            Ok(reply) => {
                let whole = reply.whole;
                let is_next = reply.answers().is_some_and(|answers| answers.contains(NEXT));
                observed.replies.push(reply);
                if !whole || (is_next && methods.len() == 0) {
                    break;
                }
            }
            Err(Fault::Ended) => {
                observed.closed = true;
                break;
            }
            Err(Fault::Silent) => {
                return Err(format!("silence after {:?}, {:?}", observed.replies, open.backend.events()));
            }
            Err(Fault::Broken(what)) => return Err(format!("the client got {what}")),
        }
    }
    drop(client);
    open.calm().await?;
    barrier(setting, open).await?;
    observed.events = open.backend.events();
    let barrier = observed.events.iter().position(|event| event.is_for(BARRIER)).ok_or("no barrier")?;
    observed.events.remove(barrier);
    case.judge(http1, &observed)?;
    Ok(observed)
}

pub(crate) fn get(path: &str, host: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A request through another connection, after which the backend has seen all that was before.
async fn barrier(setting: &Setting, open: &Open) -> Result<(), String> {
    let mut client = setting.connect(&open.host).await;
    client.send(&get(BARRIER, &open.host), Pace::Whole).await;
    let reply = client.reply("GET").await.map_err(|fault| format!("others are not served: {fault:?}"))?;
    if reply.answers() != Some(format!("GET {BARRIER} 0")) {
        return Err(format!("others get another's answer: {reply:?}"));
    }
    let began = Instant::now();
    while open.backend.is_reading() {
        if began.elapsed() > PATIENCE {
            return Err("a request that was not ended stays open at the backend".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
