//! What is answered to a question: a pure function of the world. How it is written is the affair of `reply`.
//!
//! A cluster is a zone. Its apex has SOA, NS and CAA; below it stand the live backends, the challenge values of a
//! certificate authority, and the name server where it lies there. There are no wildcards, aliases or delegations.

use super::{name::QueryName, zone::Zone};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use plane_core::{
    id::{BackendId, ClusterName},
    world::{Cluster, World},
};
use std::net::IpAddr;

/// Where a certificate authority looks for challenge values (RFC 8555 section 8.4).
const CHALLENGE_LABEL: &str = "_acme-challenge";

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The name.
    pub name: QueryName,
    /// The type.
    pub kind: RecordType,
    /// The class; 1 is the Internet's.
    pub class: u16,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'w> {
    /// Nothing here is ours to answer (RFC 1035 section 4.1.1).
    Refused,
    /// The name is in one of our zones.
    Ours {
        /// The position of the zone's apex in the name that was asked for.
        apex: usize,
        /// The serial number of the zone.
        serial: u32,
        /// What there is.
        found: Found<'w>,
    },
}

/// What there is of a name in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'w> {
    /// No such name, nor one below it: NXDOMAIN (RFC 2308, RFC 8020).
    NoName,
    /// The name, but nothing of the type (RFC 2308 section 2.2).
    NoData,
    /// The address of a backend's drone.
    Address(IpAddr),
    /// Those addresses of the name server that are of the type asked for.
    NameServerAddresses,
    /// The values of a challenge.
    Challenge(&'w [String]),
    /// The start of the zone.
    Soa,
    /// The name server; its addresses too, where it lies in the zone.
    NameServer {
        /// Whether it lies in the zone.
        in_zone: bool,
    },
    /// Who may issue certificates.
    Caa,
    /// That there is something, without telling all of it (RFC 8482 section 4.2).
    Something,
}

const INTERNET: u16 = 1;

impl Answer<'_> {
    /// The code that goes with it.
    pub(super) fn code(&self) -> ResponseCode {
        match self {
            Self::Refused => ResponseCode::Refused,
            Self::Ours { found: Found::NoName, .. } => ResponseCode::NXDomain,
            Self::Ours { .. } => ResponseCode::NoError,
        }
    }
}

/// Answers a question.
pub fn answer<'w>(world: &'w World, zone: &Zone, question: &Question) -> Answer<'w> {
    if question.class != INTERNET || matches!(question.kind, RecordType::AXFR | RecordType::IXFR) {
        return Answer::Refused;
    }
    let Some((apex, name, cluster)) = zone_of(world, question) else { return Answer::Refused };
    let full = question.name.as_str();
    let below = full.get(..apex.saturating_sub(1)).unwrap_or_default();
    let found = match node(world, cluster, zone, Place { full, name, below }) {
        Node::Nothing => Found::NoName,
        Node::Empty => Found::NoData,
        Node::Apex { has_addresses } => match question.kind {
            RecordType::SOA => Found::Soa,
            RecordType::NS => Found::NameServer { in_zone: zone.name_server_below(name).is_some() },
            RecordType::CAA if !zone.caa.is_empty() => Found::Caa,
            RecordType::A | RecordType::AAAA if has_addresses => addresses(zone, question.kind),
            RecordType::ANY => Found::Something,
            _ => Found::NoData,
        },
        Node::NameServer => match question.kind {
            RecordType::A | RecordType::AAAA => addresses(zone, question.kind),
            RecordType::ANY if !zone.addresses.is_empty() => Found::Something,
            _ => Found::NoData,
        },
        Node::Challenge(values) => match question.kind {
            RecordType::TXT => Found::Challenge(values),
            RecordType::ANY => Found::Something,
            _ => Found::NoData,
        },
        Node::Backend(address) => match question.kind {
            kind if kind == kind_of(address) => Found::Address(address),
            RecordType::ANY => Found::Something,
            _ => Found::NoData,
        },
    };
    // The log's sequence is a serial as long as one is compared as RFC 1982 has it.
    #[allow(clippy::cast_possible_truncation, reason = "serial numbers wrap around")]
    Answer::Ours { apex, serial: world.sequence() as u32, found }
}

/// The zone that a name is in: the one nearest to it. What is above the apex of a zone says whether the zone is signed,
/// so DS belongs to the zone above, where that is ours (RFC 4035 section 3.1.4.1).
fn zone_of<'w, 'q>(world: &'w World, question: &'q Question) -> Option<(usize, &'q str, &'w Cluster)> {
    let mut zones = question
        .name
        .upwards()
        .filter_map(|(at, name)| Some((at, name, world.cluster_named(name).filter(|cluster| exists(cluster))?)));
    let nearest = zones.next()?;
    if question.kind == RecordType::DS && nearest.0 == 0 { zones.next().or(Some(nearest)) } else { Some(nearest) }
}

/// Whether a backend's name would be that of another cluster, whose names are served instead.
pub(crate) fn is_cluster(world: &World, cluster: &ClusterName, backend: &BackendId) -> bool {
    world.cluster_named(&format!("{backend}.{cluster}")).is_some_and(exists)
}

/// Whether the log still knows anything of a cluster that has names.
fn exists(cluster: &Cluster) -> bool {
    !cluster.drones.is_empty() || cluster.backend_count() > 0 || !cluster.acme.is_empty()
}

struct Place<'q> {
    /// The whole name.
    full: &'q str,
    /// The zone's.
    name: &'q str,
    /// What stands before it.
    below: &'q str,
}

/// What stands at a name.
enum Node<'w> {
    Nothing,
    /// Nothing, but there is something below it.
    Empty,
    Apex {
        has_addresses: bool,
    },
    NameServer,
    Challenge(&'w [String]),
    Backend(IpAddr),
}

fn node<'w>(world: &'w World, cluster: &'w Cluster, zone: &Zone, place: Place<'_>) -> Node<'w> {
    let Place { full, name, below } = place;
    let name_server = zone.name_server_below(name);
    if below.is_empty() {
        return Node::Apex { has_addresses: name_server == Some("") };
    }
    if name_server == Some(below) {
        return Node::NameServer;
    }
    if below == CHALLENGE_LABEL && !cluster.acme.is_empty() {
        return Node::Challenge(&cluster.acme);
    }
    if let Some(backend) = cluster.backend_named(below).filter(|backend| backend.is_live()) {
        let drone = backend.assignment.as_ref().and_then(|assigned| cluster.drones.get(&assigned.drone));
        return match drone.and_then(|drone| drone.meta.as_ref()) {
            Some(meta) => Node::Backend(meta.ip.to_canonical()),
            None => Node::Empty,
        };
    }
    let is_above = |other: &str| other.strip_suffix(full).is_some_and(|rest| rest.ends_with('.'));
    let above_name_server =
        name_server.is_some_and(|other| other.strip_suffix(below).is_some_and(|rest| rest.ends_with('.')));
    let above_zone = || {
        let is_above = |(other, cluster): (&ClusterName, &Cluster)| is_above(other.as_str()) && exists(cluster);
        // Few names are, and looking at all clusters takes long.
        world.is_above_a_cluster(full) && world.clusters().any(is_above)
    };
    // At the apex of another zone of ours, its DS was asked for.
    let apex = || world.cluster_named(full).is_some_and(exists);
    if above_name_server || apex() || above_zone() { Node::Empty } else { Node::Nothing }
}

fn kind_of(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn addresses<'w>(zone: &Zone, kind: RecordType) -> Found<'w> {
    if zone.addresses.iter().any(|address| kind_of(*address) == kind) {
        Found::NameServerAddresses
    } else {
        Found::NoData
    }
}
