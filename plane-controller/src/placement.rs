//! Which drone gets a backend: a pure function of what is known of them.

use plane_core::{
    id::DroneId,
    message::{
        drone::{DroneState, DroneStatus},
        schedule::ScheduleRequest,
    },
};

/// What of a drone is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Backends that it runs, or is to start.
    pub backends: u64,
    /// Their memory limits, in bytes.
    pub memory_bytes: u64,
    /// Their shares of a processor, in percent of one.
    pub cpu_percent: u64,
}

impl std::ops::AddAssign for Use {
    fn add_assign(&mut self, other: Self) {
        self.backends += other.backends;
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.cpu_percent = self.cpu_percent.saturating_add(other.cpu_percent);
    }
}

impl std::ops::SubAssign for Use {
    fn sub_assign(&mut self, other: Self) {
        self.backends = self.backends.saturating_sub(other.backends);
        self.memory_bytes = self.memory_bytes.saturating_sub(other.memory_bytes);
        self.cpu_percent = self.cpu_percent.saturating_sub(other.cpu_percent);
    }
}

impl Use {
    /// What a request would take of a drone.
    pub fn of(request: &ScheduleRequest) -> Self {
        let limits = &request.executable.resource_limits;
        Self {
            backends: 1,
            memory_bytes: limits.memory_limit_bytes.map_or(0, std::num::NonZeroU64::get),
            cpu_percent: limits.cpu_period_percent.map_or(0, |percent| percent.get().into()),
        }
    }
}

/// What is known of a drone when a backend is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its newest sign of life.
    pub status: &'a DroneStatus,
    /// What of it is in use, with what this controller has just placed there.
    pub used: Use,
    /// Whether it is heard, and its lease read, as often as they should be.
    pub audible: bool,
    /// Whether it keeps a lease, and gives locked backends up with it.
    pub leases: bool,
}

/// Why a drone was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedOver {
    /// Nothing was heard of it, or its lease not renewed, for too long.
    Silent,
    /// It is not Ready: starting, draining or stopping.
    NotReady,
    /// It has as many backends as it takes.
    Full,
    /// It has too little memory left.
    Memory,
    /// It has too few processors left.
    Cpus,
    /// It lacks a label that the request asks for.
    Label,
    /// It was asked and refused, or did not answer.
    Refused,
}

/// Why a drone may not take what is asked for; `None` where it may.
pub fn objection(candidate: &Candidate<'_>, request: &ScheduleRequest, demand: Use) -> Option<PassedOver> {
    let Candidate { status, used, audible, .. } = *candidate;
    if !audible {
        return Some(PassedOver::Silent);
    }
    if status.state != DroneState::Ready || !status.ready {
        return Some(PassedOver::NotReady);
    }
    if request.require_labels.iter().any(|(key, value)| status.labels.get(key) != Some(value)) {
        return Some(PassedOver::Label);
    }
    let capacity = status.capacity.unwrap_or_default();
    if capacity.max_backends.is_some_and(|most| used.backends >= u64::from(most)) {
        return Some(PassedOver::Full);
    }
    if capacity.memory_bytes.is_some_and(|most| used.memory_bytes.saturating_add(demand.memory_bytes) > most) {
        return Some(PassedOver::Memory);
    }
    let percent = |cpus: f64| (cpus * 100.0) as u64;
    if capacity.cpus.is_some_and(|cpus| used.cpu_percent.saturating_add(demand.cpu_percent) > percent(cpus)) {
        return Some(PassedOver::Cpus);
    }
    None
}

/// How well a drone that may take a backend suits; less is better. For a locked backend a drone with a lease comes
/// before any without. Then counts how many backends there are for each processor, then how much memory is promised.
pub fn burden(candidate: &Candidate<'_>, locked: bool) -> (bool, u64, u64) {
    let capacity = candidate.status.capacity.unwrap_or_default();
    let milli_cpus = (capacity.cpus.unwrap_or(1.0).max(0.001) * 1000.0) as u64;
    let per_cpu = candidate.used.backends.saturating_mul(1_000_000) / milli_cpus.max(1);
    let memory = match capacity.memory_bytes {
        Some(most) if most > 0 => candidate.used.memory_bytes.saturating_mul(1000) / most,
        _ => 0,
    };
    (locked && !candidate.leases, per_cpu, memory)
}

/// The drone that suits best, `tie_break` deciding between equals; else why each may not take it.
///
/// # Errors
/// The drones that were looked at, each with the reason.
pub fn choose<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    request: &ScheduleRequest,
    refused: &[DroneId],
    tie_break: impl Fn() -> u64,
) -> Result<DroneId, Vec<(DroneId, PassedOver)>> {
    let (demand, locked) = (Use::of(request), request.lock.is_some());
    let mut best: Option<((bool, u64, u64), u64, &DroneId)> = None;
    let mut passed = Vec::new();
    for candidate in candidates {
        let id = &candidate.status.drone_id;
        let asked = refused.contains(id).then_some(PassedOver::Refused);
        if let Some(why) = asked.or_else(|| objection(&candidate, request, demand)) {
            passed.push((id.clone(), why));
            continue;
        }
        let rank = (burden(&candidate, locked), tie_break(), id);
        if best.as_ref().is_none_or(|best| rank < *best) {
            best = Some(rank);
        }
    }
    best.map(|(_, _, id)| id.clone()).ok_or(passed)
}

#[cfg(test)]
mod tests;
