//! Requests on the wire, and which of them are answered how before anybody looks at the world.

use super::{answer::Question, name::QueryName};
use hickory_proto::{
    op::{Header, MessageType, Metadata, OpCode, ResponseCode},
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

/// Reads a packet. Nothing for one that is not answered: without a whole header there is no id, and who answers answers
/// can be made to do so for ever (RFC 8906 section 3).
pub(super) fn read(packet: &[u8]) -> Option<Request> {
    let mut decoder = BinDecoder::new(packet);
    let header = Header::read(&mut decoder).ok()?;
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let mut request = Request { metadata: header.metadata, question: None, edns: None, fault: None };
    let read = read_rest(&mut decoder, &header, &mut request);
    request.fault = match header.metadata.op_code {
        OpCode::Query => match (read, request.edns) {
            (Err(_), _) => Some(ResponseCode::FormErr),
            (Ok(()), Some(edns)) if edns.version > 0 => Some(ResponseCode::BADVERS),
            (Ok(()), _) => None,
        },
        // We have what they are for, and let nobody do it.
        OpCode::Update | OpCode::Notify => Some(ResponseCode::Refused),
        OpCode::Status | OpCode::Unknown(_) => Some(ResponseCode::NotImp),
    };
    Some(request)
}

fn read_rest(decoder: &mut BinDecoder<'_>, header: &Header, request: &mut Request) -> Result<(), DecodeError> {
    // RFC 9619: more than one question has no meaning; none at all asks for nothing.
    if header.counts.queries != 1 {
        return Err(DecodeError::InsufficientBytes);
    }
    let name = QueryName::read(decoder)?;
    let kind = RecordType::from(decoder.read_u16()?.unverified());
    let class = decoder.read_u16()?.unverified();
    let is_transfer = kind == RecordType::IXFR;
    request.question = Some((Question { name, kind, class }, HEADER..decoder.index()));
    let before = u32::from(header.counts.answers) + u32::from(header.counts.authorities);
    let is_query = header.metadata.op_code == OpCode::Query;
    // A question that brings answers along is none; an incremental transfer says what it has (RFC 1995 section 3).
    if is_query && before > u32::from(is_transfer) {
        return Err(DecodeError::InsufficientBytes);
    }
    for _ in 0..before {
        if read_record(decoder)?.is_some() {
            return Err(DecodeError::RecordNotInAdditionalSection(RecordType::OPT));
        }
    }
    for _ in 0..header.counts.additionals {
        if let Some(edns) = read_record(decoder)?
            && request.edns.replace(edns).is_some()
        {
            return Err(DecodeError::DuplicateEdns);
        }
    }
    Ok(())
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
    // Which options there are does not matter, only that they are.
    let mut options = BinDecoder::new(data);
    while !options.is_empty() {
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
