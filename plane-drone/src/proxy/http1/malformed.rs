//! Why a message is refused: each reason names the rule that it breaks.

use crate::proxy::refusal::Refusal;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// LF without CR before it.
    #[error("a line ends in LF without CR (RFC 9112, section 2.2)")]
    BareLf,
    /// CR without LF after it.
    #[error("there is a CR that ends no line (RFC 9112, section 2.2)")]
    BareCr,
    /// A NUL byte.
    #[error("there is a NUL in the head (RFC 9110, section 5.5)")]
    Nul,
    /// Not `method SP target SP version`.
    #[error("the request line is not method, target and version with one space between (RFC 9112, section 3)")]
    RequestLine,
    /// Not `version SP status SP reason`.
    #[error("the status line is not version, status and reason (RFC 9112, section 4)")]
    StatusLine,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1 (RFC 9110, section 15.6.6)")]
    Version,
    /// A line too long to be read.
    #[error("the first line is too long (RFC 9112, section 3)")]
    LineTooLong,
    /// A head too long to be read.
    #[error("the head is too long (RFC 9110, section 5.4)")]
    HeadTooLong,
    /// More fields than are read.
    #[error("the head has too many fields (RFC 9110, section 5.4)")]
    TooManyFields,
    /// A target in no form that its method has.
    #[error("the target is in none of the forms that its method allows (RFC 9112, section 3.2)")]
    Target,
    /// A line that begins with white space.
    #[error("a field goes on over several lines (RFC 9112, section 5.2)")]
    ObsFold,
    /// White space between a name and its colon.
    #[error("there is white space before a field's colon (RFC 9112, section 5.1)")]
    SpaceBeforeColon,
    /// A name that is empty or no token, or a line without a colon.
    #[error("a field's name is no token (RFC 9110, section 5.1)")]
    FieldName,
    /// A control character.
    #[error("a field's value has a control character (RFC 9110, section 5.5)")]
    FieldValue,
    /// No Host.
    #[error("there is no Host (RFC 9112, section 3.2)")]
    NoHost,
    /// Several Hosts.
    #[error("there are several Hosts (RFC 9112, section 3.2)")]
    SeveralHosts,
    /// A Host or an authority that is none.
    #[error("Host is no host with an optional port (RFC 9110, section 7.2)")]
    Host,
    /// A length that is no number, or a list.
    #[error("Content-Length is not one number (RFC 9110, section 8.6)")]
    ContentLength,
    /// Several lengths.
    #[error("there are several Content-Lengths (RFC 9112, section 6.3)")]
    SeveralContentLengths,
    /// Both ways to say where a body ends.
    #[error("there are both Transfer-Encoding and Content-Length (RFC 9112, section 6.1)")]
    TwoFramings,
    /// A coding in a version that has none.
    #[error("HTTP/1.0 has no Transfer-Encoding (RFC 9112, section 6.1)")]
    TransferEncodingIn10,
    /// `chunked` is not last, or there twice, or the list is none.
    #[error("Transfer-Encoding does not end in chunked, once (RFC 9112, section 6.3)")]
    TransferEncoding,
    /// A coding that is not known here.
    #[error("only chunked is known as a transfer coding (RFC 9112, section 6.1)")]
    UnknownCoding,
    /// Something else than `100-continue`.
    #[error("only 100-continue can be expected (RFC 9110, section 10.1.1)")]
    Expectation,
    /// A status that is none.
    #[error("the status is not within 100 to 599 (RFC 9110, section 15)")]
    Status,
    /// Too many responses before the final one.
    #[error("there are too many interim responses (RFC 9110, section 15.2)")]
    Interims,
    /// A change of protocol that nobody asked for, or to none.
    #[error("the protocol is changed without having been asked to (RFC 9110, section 7.8)")]
    Upgrade,
    /// A chunk's size that is no number, or too large.
    #[error("a chunk's size is not 1 to 16 hexadecimal digits (RFC 9112, section 7.1)")]
    ChunkSize,
    /// Too much, or what has no place there, between a chunk's size and its line's end.
    #[error("a chunk's extensions are malformed or too long (RFC 9112, section 7.1.1)")]
    ChunkExtension,
    /// A chunk's data does not end in CRLF.
    #[error("a chunk does not end where its size says (RFC 9112, section 7.1)")]
    ChunkEnd,
    /// Trailers too long to be read.
    #[error("the trailer section is too long (RFC 9112, section 7.1.2)")]
    TrailersTooLong,
}

impl Malformed {
    /// How a request is refused for this. A response is replaced by 502 whatever is wrong with it.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::NoHost | Self::SeveralHosts | Self::Host => Refusal::BadAddress,
            Self::LineTooLong => Refusal::TargetTooLong,
            Self::HeadTooLong | Self::TooManyFields => Refusal::HeaderTooLarge,
            Self::Expectation => Refusal::ExpectationFailed,
            Self::UnknownCoding => Refusal::NotImplemented,
            Self::Version => Refusal::BadVersion,
            Self::BareLf
            | Self::BareCr
            | Self::Nul
            | Self::RequestLine
            | Self::StatusLine
            | Self::Target
            | Self::ObsFold
            | Self::SpaceBeforeColon
            | Self::FieldName
            | Self::FieldValue
            | Self::ContentLength
            | Self::SeveralContentLengths
            | Self::TwoFramings
            | Self::TransferEncodingIn10
            | Self::TransferEncoding
            | Self::Status
            | Self::Interims
            | Self::Upgrade
            | Self::ChunkSize
            | Self::ChunkExtension
            | Self::ChunkEnd
            | Self::TrailersTooLong => Refusal::Malformed,
        }
    }
}
