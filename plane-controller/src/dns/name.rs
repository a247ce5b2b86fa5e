//! The name that a question asks for.

use hickory_proto::serialize::binary::{BinDecoder, DecodeError, Restrict};
use std::fmt;

/// How long a name may be on the wire, in bytes, the root's included (RFC 1035 section 3.1).
const MAX_WIRE: usize = 255;
/// How long one label may be, in bytes.
const MAX_LABEL: u8 = 63;

/// A name in lower case, as text without a dot at its end. The position of a label in the text is that of its length
/// byte on the wire. Bytes that no name of ours has are `*`: such a name equals none of ours.
#[derive(Clone)]
pub struct QueryName {
    text: [u8; MAX_WIRE],
    len: usize,
}

impl QueryName {
    /// Reads a name that no other precedes, so that there is nothing that it could point to.
    ///
    /// # Errors
    /// Where it is cut off, too long, or compressed.
    pub(super) fn read(decoder: &mut BinDecoder<'_>) -> Result<Self, DecodeError> {
        let mut name = Self { text: [0; MAX_WIRE], len: 0 };
        loop {
            match decoder.peek().map(Restrict::unverified) {
                None => return Err(DecodeError::InsufficientBytes),
                Some(0) => {
                    decoder.pop()?;
                    return Ok(name);
                }
                Some(code) if code > MAX_LABEL => return Err(DecodeError::UnrecognizedLabelCode(code)),
                Some(_) => name.push(decoder.read_character_data()?.unverified())?,
            }
        }
    }

    fn push(&mut self, label: &[u8]) -> Result<(), DecodeError> {
        let start = if self.len == 0 { 0 } else { self.len + 1 };
        // The length byte before it and the root behind it have to fit too.
        let wire = start + label.len() + 2;
        let Some(place) = self.text.get_mut(start..start + label.len()).filter(|_| wire <= MAX_WIRE) else {
            return Err(DecodeError::DomainNameTooLong(wire));
        };
        for (to, from) in place.iter_mut().zip(label) {
            *to = match from {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => *from,
                b'A'..=b'Z' => from.to_ascii_lowercase(),
                _ => b'*',
            };
        }
        if let (true, Some(dot)) = (start > 0, self.text.get_mut(self.len)) {
            *dot = b'.';
        }
        self.len = start + label.len();
        Ok(())
    }

    /// The name as text; the root is empty.
    pub(super) fn as_str(&self) -> &str {
        // It is ASCII throughout.
        self.text.get(..self.len).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// The name and all above it but the root, the longest first, each with its position.
    pub(super) fn upwards(&self) -> impl Iterator<Item = (usize, &str)> {
        let text = self.as_str();
        let starts =
            std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, b)| *b == b'.').map(|(at, _)| at + 1));
        starts.filter_map(|at| Some((at, text.get(at..).filter(|text| !text.is_empty())?)))
    }
}

impl fmt::Debug for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
