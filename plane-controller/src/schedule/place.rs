//! Finds the drone for a decision: gathers what this controller knows of each drone, and has placement choose.

use super::decision::Decision;
use crate::{
    drones::Heard,
    placement::{Candidate, PassedOver, Use, choose},
};
use plane_core::{id::DroneId, world::Cluster};
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// A controller that has just started waits this long for the drones' signs of life before it says that there are none.
const FIRST_SIGNS: Duration = Duration::from_secs(5);
/// A sign of life that was sent before a request may be read after it by this much.
const NEXT_SIGN: Duration = Duration::from_millis(300);
/// The least time between two looks at all drones for one request: signs of life come from every drone there is.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Of more than [`FEW`] drones, so many drawn at random are looked at first: the best of some is nearly as little loaded
/// as the best of all (Mitzenmacher 2001, "The power of two choices").
const SAMPLE: u64 = 8;
const FEW: usize = 32;
/// So many drones are named in the log with why they were passed over.
const NAMED: usize = 16;

impl Decision<'_> {
    /// The first drone, waited for a little where there is none: its sign of life may be on its way.
    pub(super) async fn first_drone(&mut self, deadline: Instant) -> Option<DroneId> {
        if let Ok(drone) = self.place() {
            return Some(drone);
        }
        let mut news = self.core.drones.news();
        let patience = (self.core.started + FIRST_SIGNS).max(Instant::now() + NEXT_SIGN).min(deadline);
        loop {
            let passed = match self.place() {
                Ok(drone) => return Some(drone),
                Err(passed) => passed,
            };
            let next_sign = async {
                tokio::time::sleep(LOOK_PAUSE).await;
                news.changed().await
            };
            if !matches!(tokio::time::timeout_at(patience, next_sign).await, Ok(Ok(()))) {
                let some = passed.get(..passed.len().min(NAMED)).unwrap_or_default();
                tracing::warn!(cluster = %self.request.cluster, drones = passed.len(), passed = ?some, "no drone available");
                return None;
            }
        }
    }

    /// Chooses a drone and counts the backend there at once: whoever chooses next sees it.
    pub(super) fn place(&self) -> Result<DroneId, Vec<(DroneId, PassedOver)>> {
        let (core, cluster) = (self.core, &self.request.cluster);
        let now = core.clock.boot();
        let since = core.pulse.beat(core).unwrap_or(now);
        let heard = core.drones.heard();
        let drones = heard.get(cluster).map_or(&[][..], Vec::as_slice);
        let mut in_flight = core.view.in_flight.hold();
        in_flight.lift(self.backend);
        let chosen = core.view.read_with_leases(|world, leases| {
            let in_flight = in_flight.of(cluster);
            let (known, leases) = (world.cluster(cluster), leases.get(cluster));
            let fresh = |at: Duration| now.saturating_sub(at.max(since)) < core.timing.silent;
            let view = |heard| candidate(heard, known, leases, in_flight, core.rules.count, fresh);
            let chance = || core.chance.number();
            if drones.len() > FEW {
                let draw = |_| drones.get(usize::try_from(core.chance.below(drones.len() as u64)).unwrap_or(0));
                if let Ok(drone) =
                    choose((0..SAMPLE).filter_map(draw).filter_map(view), self.request, &self.refused, chance)
                {
                    return Ok(drone);
                }
            }
            choose(drones.iter().filter_map(view), self.request, &self.refused, chance)
        })?;
        in_flight.place(self.backend.clone(), cluster.clone(), chosen.clone(), Use::of(self.request));
        Ok(chosen)
    }
}

/// A drone as placement sees it; `None` where it has not registered.
fn candidate<'a>(
    heard: &'a Heard,
    known: Option<&Cluster>,
    leases: Option<&HashMap<DroneId, Duration>>,
    in_flight: Option<&HashMap<DroneId, Use>>,
    count: fn(&mut Use, Use),
    fresh: impl Fn(Duration) -> bool,
) -> Option<Candidate<'a>> {
    let id = &heard.status.drone_id;
    let drone = known?.drones.get(id).filter(|drone| drone.meta.is_some())?;
    let mut used = known?.load(id).map_or_else(Use::default, |load| Use {
        backends: load.backends.len() as u64,
        memory_bytes: load.memory_bytes,
        cpu_percent: load.cpu_percent,
    });
    count(&mut used, in_flight.and_then(|in_flight| in_flight.get(id)).copied().unwrap_or_default());
    let leases_itself = drone.has_feature("lease");
    let read = leases.and_then(|leases| leases.get(id)).copied();
    let leased = !leases_itself || (!drone.is_lost() && read.is_some_and(&fresh));
    Some(Candidate { status: &heard.status, used, audible: leased && fresh(heard.at), leases: leases_itself })
}
