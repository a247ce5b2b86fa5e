//! Answers of backends: malformed, ambiguous and hostile ones. The client gets the answer, a refusal of the proxy's, or an
//! answer that visibly breaks off; never bytes that a backend has hidden behind its answer, and nor does anybody else.

mod cases;

use super::{
    backend::{After, HOSTILE, Script},
    case::NEXT,
    client::{Client, Pace, Reply},
    grammar::Fault,
    run::get,
    setting::{Http1, IMPLEMENTATIONS, Open, Setting},
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use std::time::Duration;

const AT_ONCE: usize = 16;
/// How many other clients ask afterwards, on connections of their own.
const OTHERS: usize = 3;
/// How long clients of other backends may wait.
const OTHERS_WAIT: Duration = Duration::from_secs(1);
/// A field of answers that nobody is to see.
const HIDDEN: &str = "x-smuggled";

/// What may come of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    /// 502, or another status where that is said, from the proxy.
    Refused(Vec<u16>),
    /// The head, then a body that breaks off with the connection.
    Cut(u16),
    /// No byte of an answer, and the end of the connection.
    DroppedByHyper,
    /// The answer.
    Passed(u16, &'static str),
}

type Check = fn(&Reply) -> bool;

struct Case {
    name: String,
    script: Script,
    method: &'static str,
    minor: u8,
    expected: Vec<Expected>,
    check: Option<Check>,
}

fn case(name: impl Into<String>, bytes: impl AsRef<[u8]>) -> Case {
    Case {
        name: name.into(),
        script: Script { bytes: bytes.as_ref().to_vec(), times: 1, after: After::Stay },
        method: "GET",
        minor: 1,
        expected: Vec::new(),
        check: None,
    }
}

impl Case {
    fn or(mut self, expected: Expected) -> Self {
        self.expected.push(expected);
        self
    }

    fn refused(self) -> Self {
        self.or(Expected::Refused(vec![502]))
    }

    /// 502, or 504 where the backend says no more and the proxy waits for it.
    fn refused_or_late(self) -> Self {
        self.or(Expected::Refused(vec![502, 504]))
    }

    fn cut(self) -> Self {
        self.or(Expected::Cut(200))
    }

    fn passed(self, body: &'static str) -> Self {
        self.or(Expected::Passed(200, body))
    }

    fn closing(mut self) -> Self {
        self.script.after = After::Close;
        self
    }

    fn times(mut self, times: usize) -> Self {
        self.script.times = times;
        self
    }

    fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn old_client(mut self) -> Self {
        self.minor = 0;
        self
    }

    /// What has to be true of an answer that is passed on.
    fn seen(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// hyper writes a head together with the first bytes of its body, and nothing at all where these are wrong.
    fn dropped_by_hyper(self) -> Self {
        self.or(Expected::DroppedByHyper)
    }

    fn judge(&self, http1: Http1, got: &Result<Reply, Fault>) -> Result<(), String> {
        let brief = match got {
            Ok(reply) => format!("{reply:?}"),
            Err(fault) => format!("{fault:?}"),
        };
        for expected in &self.expected {
            let holds = match (expected, got) {
                (Expected::Refused(statuses), Ok(reply)) => {
                    reply.whole && statuses.contains(&reply.status) && !reply.body.is_empty()
                }
                (Expected::Cut(status), Ok(reply)) => reply.status == *status && !reply.whole,
                (Expected::Passed(status, body), Ok(reply)) => {
                    let same = reply.whole && reply.status == *status && reply.body == body.as_bytes();
                    same && self.check.is_none_or(|check| check(reply))
                }
                (Expected::DroppedByHyper, got) => http1 == Http1::Hyper && *got == Err(Fault::Ended),
                (_, Err(_)) => false,
            };
            if holds {
                return Ok(());
            }
        }
        Err(format!("none of {:?}: {}", self.expected, brief.chars().take(600).collect::<String>()))
    }
}

#[tokio::test]
async fn answers() {
    let cases = cases::all();
    let mut faults = Vec::new();
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1, json!({})).await;
        let under_way = cases.iter().enumerate().map(|(number, case)| {
            let setting = &setting;
            async move {
                let open = setting.backend(&format!("b{number}"), Some(case.script.clone())).await;
                let outcome = one(setting, &open, case, http1).await;
                outcome.err().map(|fault| format!("{http1:?}: {}\n    {fault}", case.name))
            }
        });
        let under_way = stream::iter(under_way).buffered(AT_ONCE);
        faults.extend(under_way.filter_map(std::future::ready).collect::<Vec<_>>().await);
    }
    let runs = cases.len() * IMPLEMENTATIONS.len();
    assert!(faults.is_empty(), "{} of {runs} cases failed:\n{}", faults.len(), faults.join("\n"));
    println!("{runs} cases");
}

/// A backend that floods the proxy with its answer costs nobody else their time.
#[tokio::test]
async fn floods_of_answers() {
    let mut faults = Vec::new();
    for http1 in IMPLEMENTATIONS {
        let setting = Setting::start(http1, json!({ "threads": 1 })).await;
        for (number, case) in cases::floods().iter().enumerate() {
            let open = setting.backend(&format!("b{number}"), Some(case.script.clone())).await;
            let other = setting.backend(&format!("other{number}"), None).await;
            let others = async {
                loop {
                    let mut client = Client::connect(setting.proxy).await;
                    let asked = tokio::time::timeout(OTHERS_WAIT, asked_next(&mut client, &other));
                    match asked.await {
                        Ok(Ok(Some(()))) => tokio::time::sleep(Duration::from_millis(20)).await,
                        wrong => return Err(format!("another backend's client got {wrong:?}")),
                    }
                }
            };
            let outcome = tokio::select! {
                outcome = one(&setting, &open, case, http1) => outcome,
                outcome = others => outcome,
            };
            faults.extend(outcome.err().map(|fault| format!("{http1:?}: {}\n    {fault}", case.name)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

async fn one(setting: &Setting, open: &Open, case: &Case, http1: Http1) -> Result<(), String> {
    let mut client = Client::connect(setting.proxy).await;
    // A connection that is kept is used again, where there is one.
    asked_next(&mut client, open).await?.ok_or("the connection does not go on")?;
    let keep = if case.minor == 0 { "Connection: keep-alive\r\n" } else { "" };
    let request = format!("{} {HOSTILE} HTTP/1.{}\r\nHost: {}\r\n{keep}\r\n", case.method, case.minor, open.host);
    client.send(request.as_bytes(), Pace::Whole).await;
    let got = client.reply(case.method).await;
    case.judge(http1, &got)?;
    // What was hidden has time to arrive before the connection is used again.
    tokio::time::sleep(Duration::from_millis(20)).await;
    if got.is_ok_and(|reply| reply.whole) {
        asked_next(&mut client, open).await?;
    }
    drop(client);
    for _ in 0..OTHERS {
        let mut other = Client::connect(setting.proxy).await;
        asked_next(&mut other, open).await?.ok_or("another is not served")?;
    }
    open.calm().await
}

/// Asks for something harmless. `None` where the connection is closed.
async fn asked_next(client: &mut Client, open: &Open) -> Result<Option<()>, String> {
    client.send(&get(NEXT, &open.host), Pace::Whole).await;
    match client.reply("GET").await {
        Ok(reply) if reply.fields.has(HIDDEN) => Err(format!("smuggled: {reply:?}")),
        Ok(reply) if reply.answers() == Some(format!("GET {NEXT} 0")) && reply.whole => Ok(Some(())),
        Err(Fault::Ended) => Ok(None),
        other => Err(format!("the next request got {other:?}")),
    }
}
