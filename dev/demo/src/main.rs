//! The demo backend: a small shared page, and by environment every ill-behaved backend that tests need.
//!
//! It runs as process 1 of a `FROM scratch` container, so it installs its own handler for SIGTERM, and it listens
//! before it does anything else, so that Plane's share of a start can be measured. It knows nothing of Plane: it
//! reads `PORT` and speaks HTTP, as any backend does.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `PORT` | the port it listens on, on all addresses; 0: any, it says which | 8080 |
//! | `DEMO_MODE` | which backend it plays, see [`mode::Mode`] | `page` |
//! | `DEMO_AFTER_MS` | when a late one listens, when an exiting one exits | 1000 |
//! | `DEMO_CODE` | the code that an exiting one exits with | 0 |
//! | `DEMO_LINES` | lines written at the start, to stdout and as many to stderr | 0; `chatty`: 1000 |
//! | `DEMO_STATUS` | the status that `/` answers with | 200 |
//!
//! Where it serves, it says `listening on ADDRESS` on stdout, after those lines.

mod mode;
mod room;
mod routes;
mod server;
mod socket;

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::{future, io};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::mode::{Mode, Plan};
use crate::room::Room;

fn main() -> ExitCode {
    let plan = match Plan::from_env() {
        Ok(plan) => plan,
        Err(problem) => {
            eprintln!("plane-demo: {problem}");
            return ExitCode::from(2);
        }
    };
    match start(&plan) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("plane-demo: port {}: {error}", plan.port);
            ExitCode::from(1)
        }
    }
}

fn start(plan: &Plan) -> io::Result<u8> {
    // Before the runtime exists: connections wait in the kernel's queue from here on.
    let early = if plan.mode.listens_at_once() { Some(bind(plan.port)?) } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Registered before the first await, also by the one that ignores it: process 1 has no default handlers.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        write_lines(plan.lines);
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if plan.mode == Mode::Stubborn {
                future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = stop => Ok(0),
            code = play(plan, early) => code,
        }
    })
}

/// Plays the plan's part; gives the code to exit with, where that part exits.
async fn play(plan: &Plan, early: Option<TcpListener>) -> io::Result<u8> {
    match plan.mode {
        Mode::Never => return future::pending().await,
        Mode::Exit => {
            sleep(plan.after).await;
            return Ok(plan.code);
        }
        Mode::Late => sleep(plan.after).await,
        _ => {}
    }
    let listener = match early {
        Some(listener) => listener,
        None => bind(plan.port)?,
    };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let _ = writeln!(io::stdout(), "listening on {}", listener.local_addr()?);
    let serving = async {
        match plan.mode {
            Mode::Silent => server::accept_in_silence(listener).await,
            Mode::Garbage => server::answer_garbage(listener).await,
            _ => server::serve(listener, Arc::new(Room::new()), plan.status).await,
        }
    };
    if plan.mode == Mode::ExitAfterReady {
        tokio::select! {
            result = serving => result?,
            () = sleep(plan.after) => return Ok(plan.code),
        }
    } else {
        serving.await?;
    }
    Ok(0)
}

fn bind(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Writes `out 1` … to stdout and `err 1` … to stderr, each line on its own, as programs do.
pub(crate) fn write_lines(lines: u32) {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    for number in 1..=lines {
        // A reader that went away is no reason to stop serving.
        let _ = writeln!(out, "out {number}");
        let _ = writeln!(err, "err {number}");
    }
}
