//! Decides a lock that this controller's world shows free, in a turn. Where another entry has come between, or the entry
//! of a lock that nobody holds was purged, the log is asked what it has, and that is expected next.

use super::{
    decision::{Decided, Hold, Outcome, decide},
    id::id_for,
    turn::Turn,
};
use crate::{
    Core,
    intake::unavailable,
    lock::{Standing, standing},
    log,
};
use plane_core::message::{
    Answer,
    schedule::{ScheduleRequest, ScheduleResponse},
    state::{HeldLock, LockEntry},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The pause before a lock is decided again that the log does not have as the world has it. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Decides the lock for as long as it is free. Nothing where it is to be looked at again. In `withdrawn` is the sequence
/// of this request's own withdrawn assignment, where it had one for the id that it asks for.
pub(super) async fn decide_lock(
    core: &Arc<Core>,
    request: &ScheduleRequest,
    turn: Turn,
    withdrawn: &mut Option<u64>,
    deadline: Instant,
) -> Answer<Option<ScheduleResponse>> {
    let (cluster, lock) = turn.key();
    // What the log had last, where that is not what the world has.
    let mut found: Option<(u64, u64)> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        // Looked at in the turn: before it another one may have ended.
        let world = core.view.dropped();
        let (read, in_world) = core.view.read(|world| (world.sequence(), standing(world, cluster, lock)));
        let Standing::Free { sequence, next_token } = in_world else { return Ok(None) };
        if !core.grants.are_open(core, cluster) || Instant::now() >= deadline {
            return Ok(None);
        }
        let (sequence, token) = found.map_or((sequence, next_token), |(in_log, last_token)| {
            (in_log, next_token.max(last_token.saturating_add(1)))
        });
        let (backend, assigned) = match (*withdrawn, &request.backend_id) {
            (Some(sequence), Some(chosen)) => (chosen.clone(), sequence),
            _ => id_for(core, request).await?,
        };
        let held = HeldLock { name: lock.clone(), token };
        let hold = Some(Hold { held, expected: sequence, world, read });
        let Decided { outcome, written } = decide(core, request, &backend, assigned, hold, deadline).await;
        match outcome {
            Ok(Outcome::Scheduled(answer)) => {
                turn.end_after(written);
                core.answerable(written, deadline).await?;
                return Ok(Some(answer));
            }
            Ok(Outcome::NoDrone) if written == 0 => {
                // While a drone was waited for, somebody else may have got the lock.
                let in_log = log::lock_entry(&core.nats, cluster, lock).await.map_err(|e| unavailable(&e))?;
                let Some((LockEntry { holder: Some(_), .. }, held)) = in_log else {
                    return Ok(Some(ScheduleResponse::NoDroneAvailable));
                };
                turn.end_after(held);
                return Ok(None);
            }
            Ok(Outcome::NoDrone) => {
                turn.end_after(written);
                return Ok(Some(ScheduleResponse::NoDroneAvailable));
            }
            Err(fault) => {
                turn.end_after(written);
                return Err(fault);
            }
            Ok(Outcome::LockTaken(sequence)) => {
                *withdrawn = Some(sequence);
                // Behind the other's hold in the log: who looks next sees it.
                let _ = tokio::time::timeout_at(deadline, core.view.has_read(sequence)).await;
                let in_world = core.view.read(|world| standing(world, cluster, lock));
                if !matches!(in_world, Standing::Free { .. }) {
                    return Ok(None);
                }
                let in_log = log::lock_entry(&core.nats, cluster, lock).await.map_err(|e| unavailable(&e))?;
                found = expected_next(in_log);
                let _ = tokio::time::timeout_at(deadline, tokio::time::sleep(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// What a hold has to expect of a lock that the log has so, and the last token; nothing where the log has a holder, whom
/// the world will show.
fn expected_next(in_log: Option<(LockEntry, u64)>) -> Option<(u64, u64)> {
    match in_log {
        None => Some((0, 0)),
        Some((LockEntry { holder: None, last_token, .. }, sequence)) => Some((sequence, last_token.unwrap_or(0))),
        Some((LockEntry { holder: Some(_), .. }, _)) => None,
    }
}
