//! Requests on the wire, and which of them are answered how before anybody looks at the world.

use super::{answer::Question, name::QueryName};
use hickory_proto::{
    op::{Header, Metadata, OpCode, ResponseCode},
    rr::RecordType,
    serialize::binary::{BinDecodable, BinDecoder, DecodeError},
};
use std::ops::Range;

/// Where a message's header ends and its question begins, in bytes.
pub(super) const HEADER: usize = 12;
/// The type of the pseudo-record that carries EDNS (RFC 6891 section 6.1.1).
const OPT: u16 = 41;

/// A request that is to be answered.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) metadata: Metadata,
    /// The question, and where it stands in the packet; nothing where it could not be read.
    pub(super) question: Option<(Question, Range<usize>)>,
    pub(super) edns: Option<ClientEdns>,
    /// Why the question is not looked at.
    pub(super) fault: Option<ResponseCode>,
}

/// What a client said of itself (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientEdns {
    /// The largest answer that it takes over UDP, in bytes, as it says.
    pub(super) payload: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
}

/// Whether a packet is answered at all: without a whole header there is no id, and who answers answers can be made to do
/// so for ever (RFC 8906 section 3).
pub(super) fn is_request(packet: &[u8]) -> bool {
    packet.len() >= HEADER && packet.get(2).is_some_and(|flags| flags & 0x80 == 0)
}

/// Reads a packet. Nothing for one that is not answered.
pub(super) fn read(packet: &[u8]) -> Option<Request> {
    if !is_request(packet) {
        return None;
    }
    let mut decoder = BinDecoder::new(packet);
    let header = Header::read(&mut decoder).ok()?;
    let mut request = Request { metadata: header.metadata, question: None, edns: None, fault: None };
    let read = read_rest(&mut decoder, &header, &mut request);
    let is_newer = request.edns.is_some_and(|edns| edns.version > 0);
    request.fault = match header.metadata.op_code {
        // What else is meant may be known to that version alone (RFC 6891 section 6.1.3).
        _ if is_newer => Some(ResponseCode::BADVERS),
        OpCode::Query => read.err().map(|_| ResponseCode::FormErr),
        // We have what they are for, and let nobody do it.
        OpCode::Update | OpCode::Notify => Some(ResponseCode::Refused),
        OpCode::Status | OpCode::Unknown(_) => Some(ResponseCode::NotImp),
    };
    Some(request)
}

/// Reads what follows the header, as far as it can be: whatever is wrong, the answer needs what a client said of itself,
/// and that comes last.
fn read_rest(decoder: &mut BinDecoder<'_>, header: &Header, request: &mut Request) -> Result<(), DecodeError> {
    let counts = &header.counts;
    let mut kind = None;
    match counts.queries {
        1 => {
            let name = QueryName::read(decoder)?;
            let asked = RecordType::from(decoder.read_u16()?.unverified());
            let class = decoder.read_u16()?.unverified();
            request.question = Some((Question { name, kind: asked, class }, HEADER..decoder.index()));
            kind = Some(asked);
        }
        several_or_none => {
            for _ in 0..several_or_none {
                pass_name(decoder)?;
                decoder.read_slice(4)?;
            }
        }
    }
    for _ in 0..u32::from(counts.answers) + u32::from(counts.authorities) {
        if read_record(decoder)?.is_some() {
            return Err(DecodeError::RecordNotInAdditionalSection(RecordType::OPT));
        }
    }
    for _ in 0..counts.additionals {
        if let Some(edns) = read_record(decoder)?
            && request.edns.replace(edns).is_some()
        {
            return Err(DecodeError::DuplicateEdns);
        }
    }
    // RFC 9619: more than one question has no meaning; none at all asks for nothing. A question that brings answers along
    // is none; an incremental transfer says what it has (RFC 1995 section 3).
    let authorities = u16::from(kind == Some(RecordType::IXFR));
    let is_query = header.metadata.op_code == OpCode::Query;
    match kind {
        Some(_) if !is_query || (counts.answers == 0 && counts.authorities <= authorities) => Ok(()),
        Some(_) | None => Err(DecodeError::InsufficientBytes),
    }
}

/// Passes over a record; what it says where it carries EDNS.
fn read_record(decoder: &mut BinDecoder<'_>) -> Result<Option<ClientEdns>, DecodeError> {
    let is_root = pass_name(decoder)?;
    let kind = decoder.read_u16()?.unverified();
    let class = decoder.read_u16()?.unverified();
    let [_, version, flags, _] = decoder.read_u32()?.unverified().to_be_bytes();
    let length = decoder.read_u16()?.unverified();
    let data = decoder.read_slice(length.into())?.unverified();
    if kind != OPT {
        return Ok(None);
    }
    if !is_root {
        return Err(DecodeError::UnrecognizedLabelCode(0));
    }
    // Which options there are does not matter, only that they are. What they look like in a later version is not known.
    let mut options = BinDecoder::new(data);
    while version == 0 && !options.is_empty() {
        let _code = options.read_u16()?;
        let length = options.read_u16()?.unverified();
        options.read_slice(length.into())?;
    }
    Ok(Some(ClientEdns { payload: class, version, dnssec_ok: flags & 0x80 != 0 }))
}

/// Passes over a name without following its pointers; whether it is the root.
fn pass_name(decoder: &mut BinDecoder<'_>) -> Result<bool, DecodeError> {
    let begin = decoder.index();
    loop {
        match decoder.pop()?.unverified() {
            0 => return Ok(decoder.index() == begin + 1),
            length @ 1..=63 => {
                decoder.read_slice(length.into())?;
            }
            0xC0.. => {
                decoder.pop()?;
                return Ok(false);
            }
            code => return Err(DecodeError::UnrecognizedLabelCode(code)),
        }
    }
}
