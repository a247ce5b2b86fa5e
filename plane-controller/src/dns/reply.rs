//! Answers on the wire.

use super::{
    answer::{Answer, Found, Question},
    message::{HEADER, Request},
    zone::{Host, Zone},
};
use hickory_proto::{
    ProtoError,
    op::{Edns, Header, HeaderCounts, Metadata, ResponseCode},
    rr::RecordType,
    serialize::binary::{BinEncodable, BinEncoder},
};
use std::net::IpAddr;

/// The largest answer over UDP to a client that names no size, in bytes (RFC 1035 section 4.2.1).
const PLAIN_UDP: u16 = 512;
/// The largest answer over UDP to any client, in bytes: no network on the way cuts that in pieces (DNS flag day 2020).
pub(super) const LARGEST_UDP: u16 = 1232;
/// What an answer's EDNS takes, in bytes: a record without options.
const EDNS: u16 = 11;
/// How long the denial of a name may be kept, in seconds: who asked too early shall soon ask again.
const DENIAL_TTL: u32 = 2;
/// How long challenge values may be kept, in seconds: the next may be set at any moment.
const CHALLENGE_TTL: u32 = 2;
/// What secondaries would do; there are none (RFC 1035 section 3.3.13). In seconds.
const REFRESH_RETRY_EXPIRE: [u32; 3] = [3600, 600, 86_400];
/// What stands in the place of all records of a name (RFC 8482 section 4.2).
const SOMETHING: &str = "RFC8482";

/// How a request came, and so how its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Who owns a record: a position in the message at which the name stands.
type Owner = u16;

/// Writes the answer to a request into `out`, which it empties first.
pub(super) fn write(
    out: &mut Vec<u8>,
    packet: &[u8],
    request: &Request,
    zone: &Zone,
    say: &Say<'_>,
) -> Result<(), ProtoError> {
    let limit = match (say.manner.transport, request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => PLAIN_UDP,
        (Transport::Udp, Some(edns)) => edns.payload.clamp(PLAIN_UDP, LARGEST_UDP),
    };
    out.clear();
    let mut encoder = BinEncoder::new(out);
    encoder.set_max_size(if request.edns.is_some() { limit - EDNS } else { limit });
    let header = encoder.place::<Header>()?;
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = say.code;
    let mut counts = HeaderCounts::default();
    if let Some((question, range)) = &request.question {
        encoder.emit_vec(packet.get(range.clone()).unwrap_or_default())?;
        counts.queries = 1;
        if let Some(Answer::Ours { apex, serial, found }) = say.answer {
            metadata.authoritative = true;
            let body = Body { zone, question, apex, serial };
            let begin = encoder.offset();
            match body.write(&mut encoder, &mut counts, found) {
                Ok(()) => {}
                Err(ProtoError::MaxBufferSizeExceeded(_)) => {
                    encoder.set_offset(begin);
                    encoder.trim();
                    (counts.answers, counts.authorities, counts.additionals) = (0, 0, 0);
                    metadata.truncation = true;
                }
                Err(error) => return Err(error),
            }
        }
        metadata.truncation |= say.manner.truncated;
    }
    if let Some(edns) = request.edns {
        encoder.set_max_size(limit);
        let mut own = Edns::new();
        own.set_max_payload(LARGEST_UDP).set_dnssec_ok(edns.dnssec_ok).set_rcode_high(say.code.high());
        own.emit(&mut encoder)?;
        counts.additionals += 1;
    }
    encoder.emit_at(header, Header { metadata, counts })
}

/// What is to be said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Say<'w> {
    pub(super) manner: Manner,
    pub(super) code: ResponseCode,
    pub(super) answer: Option<Answer<'w>>,
}

/// How it is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) transport: Transport,
    /// Whether the client is only told to ask again over TCP.
    pub(super) truncated: bool,
}

struct Body<'a> {
    zone: &'a Zone,
    question: &'a Question,
    apex: usize,
    serial: u32,
}

impl Body<'_> {
    fn write(
        &self,
        encoder: &mut BinEncoder<'_>,
        counts: &mut HeaderCounts,
        found: Found<'_>,
    ) -> Result<(), ProtoError> {
        let own = position(0)?;
        let ttl = self.zone.ttl;
        match found {
            Found::NoName | Found::NoData => {
                self.soa(encoder, ttl.min(DENIAL_TTL))?;
                counts.authorities += 1;
            }
            Found::Address(address) => {
                record(encoder, own, kind_of(address), ttl, |encoder| emit_address(encoder, address))?;
                counts.answers += 1;
            }
            Found::NameServerAddresses => {
                for address in self.zone.addresses.iter().filter(|address| kind_of(**address) == self.question.kind) {
                    record(encoder, own, self.question.kind, ttl, |encoder| emit_address(encoder, *address))?;
                    counts.answers += 1;
                }
            }
            Found::Challenge(values) => {
                for value in values {
                    record(encoder, own, RecordType::TXT, ttl.min(CHALLENGE_TTL), |encoder| emit_text(encoder, value))?;
                    counts.answers += 1;
                }
            }
            Found::Soa => {
                self.soa(encoder, ttl)?;
                counts.answers += 1;
            }
            Found::NameServer { in_zone } => {
                let at = self.name_server(encoder, own)?;
                counts.answers += 1;
                if in_zone {
                    counts.additionals += self.glue(encoder, at)?;
                }
            }
            Found::Caa => {
                for caa in &self.zone.caa {
                    record(encoder, own, RecordType::CAA, ttl, |encoder| {
                        encoder.emit_u8(caa.flags)?;
                        encoder.emit_character_data(&caa.tag)?;
                        encoder.emit_vec(caa.value.as_bytes())
                    })?;
                    counts.answers += 1;
                }
            }
            Found::Something => {
                record(encoder, own, RecordType::HINFO, ttl, |encoder| {
                    encoder.emit_character_data(SOMETHING)?;
                    encoder.emit_character_data("")
                })?;
                counts.answers += 1;
            }
        }
        Ok(())
    }

    fn soa(&self, encoder: &mut BinEncoder<'_>, ttl: u32) -> Result<(), ProtoError> {
        record(encoder, position(self.apex)?, RecordType::SOA, ttl, |encoder| {
            self.host(encoder, &self.zone.name_server_wire)?;
            self.host(encoder, &self.zone.mailbox)?;
            let [refresh, retry, expire] = REFRESH_RETRY_EXPIRE;
            let numbers = [self.serial, refresh, retry, expire, DENIAL_TTL];
            numbers.into_iter().try_for_each(|number| encoder.emit_u32(number))
        })
    }

    /// The record that names the name server; the position of that name.
    fn name_server(&self, encoder: &mut BinEncoder<'_>, owner: Owner) -> Result<Owner, ProtoError> {
        let mut at = 0;
        record(encoder, owner, RecordType::NS, self.zone.ttl, |encoder| {
            at = encoder.offset();
            self.host(encoder, &self.zone.name_server_wire)
        })?;
        // It stands within the first few hundred bytes.
        Ok(u16::try_from(at).unwrap_or_default())
    }

    /// The name server's addresses, as many as fit; how many.
    fn glue(&self, encoder: &mut BinEncoder<'_>, owner: Owner) -> Result<u16, ProtoError> {
        let mut count = 0;
        for address in &self.zone.addresses {
            let begin = encoder.offset();
            match record(encoder, owner, kind_of(*address), self.zone.ttl, |encoder| emit_address(encoder, *address)) {
                Ok(()) => count += 1,
                Err(ProtoError::MaxBufferSizeExceeded(_)) => {
                    encoder.set_offset(begin);
                    encoder.trim();
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    fn host(&self, encoder: &mut BinEncoder<'_>, host: &Host) -> Result<(), ProtoError> {
        encoder.emit_vec(&host.labels)?;
        if host.below_cluster { emit_pointer(encoder, position(self.apex)?) } else { encoder.emit_u8(0) }
    }
}

/// The position in the message of what stands at a position of the question's name.
fn position(in_name: usize) -> Result<Owner, ProtoError> {
    u16::try_from(HEADER + in_name).map_err(|_| ProtoError::Message("a name is too long"))
}

fn emit_pointer(encoder: &mut BinEncoder<'_>, to: Owner) -> Result<(), ProtoError> {
    encoder.emit_u16(0xC000 | to)
}

fn record(
    encoder: &mut BinEncoder<'_>,
    owner: Owner,
    kind: RecordType,
    ttl: u32,
    data: impl FnOnce(&mut BinEncoder<'_>) -> Result<(), ProtoError>,
) -> Result<(), ProtoError> {
    emit_pointer(encoder, owner)?;
    encoder.emit_u16(kind.into())?;
    encoder.emit_u16(1)?;
    encoder.emit_u32(ttl)?;
    let length = encoder.place::<u16>()?;
    data(encoder)?;
    let written =
        u16::try_from(encoder.len_since_place(&length)).map_err(|_| ProtoError::Message("a record is too long"))?;
    length.replace(encoder, written)
}

fn kind_of(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn emit_address(encoder: &mut BinEncoder<'_>, address: IpAddr) -> Result<(), ProtoError> {
    match address {
        IpAddr::V4(address) => encoder.emit_vec(&address.octets()),
        IpAddr::V6(address) => encoder.emit_vec(&address.octets()),
    }
}

/// A text as strings of at most 255 bytes each (RFC 1035 section 3.3.14).
fn emit_text(encoder: &mut BinEncoder<'_>, text: &str) -> Result<(), ProtoError> {
    if text.is_empty() {
        return encoder.emit_u8(0);
    }
    text.as_bytes().chunks(255).try_for_each(|part| encoder.emit_character_data(part))
}
