//! The PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, section 2.2): how a front proxy that only carries bytes
//! says whose they are. The decoder is pure; nothing beyond the header is read from a connection.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What one of version 1 begins with.
const VERSION_1: &[u8; 6] = b"PROXY ";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// What may stand behind the addresses, in bytes. It is not looked at, checksums included: TCP has its own.
const EXTRA_BYTES: usize = 4096;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preface {
    /// The connection is the front proxy's own, such as a check of its health, or it does not say whose it is.
    Local,
    /// The connection is carried for somebody.
    Carried {
        /// Who that is.
        client: SocketAddr,
    },
}

/// How far a header has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many bytes more belong to it at least.
    More(usize),
    /// It is whole.
    Whole(Preface),
}

/// What is no header, or one that is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrefaceError {
    /// Something else was sent.
    #[error(
        "the connection of a trusted proxy does not begin with a header of the PROXY protocol; have it send one, or switch proxy.proxy_protocol off"
    )]
    NoHeader,
    /// It is one of version 1.
    #[error(
        "the header is of version 1 of the PROXY protocol; have the front proxy send version 2 (send-proxy-v2 in haproxy)"
    )]
    OldVersion,
    /// What it says of version and command is not defined.
    #[error("the header has the version and command 0x{0:02x}, which is neither LOCAL nor PROXY of version 2")]
    Command(u8),
    /// What it says of family and transport is not defined.
    #[error("the header has the family and transport 0x{0:02x}, which is not defined")]
    Family(u8),
    /// It is shorter than its addresses.
    #[error("the header has {0} bytes behind its fixed part, less than its addresses take")]
    Short(usize),
    /// It is too long.
    #[error("the header has {0} bytes behind its fixed part, more than is taken ({EXTRA_BYTES} beyond the addresses)")]
    Long(usize),
    /// It ended before its first byte.
    #[error("the connection ended before a header of the PROXY protocol")]
    Silent,
    /// The connection broke or ended.
    #[error("the connection ended within the header of the PROXY protocol: {0}")]
    Broken(#[from] io::Error),
}

impl PrefaceError {
    /// Whether nothing at all was sent.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Silent)
    }
}

/// Looks at the start of a connection, which must not have more than the header.
pub(super) fn decode(bytes: &[u8]) -> Result<Progress, PrefaceError> {
    if bytes.iter().zip(SIGNATURE).any(|(byte, expected)| byte != expected) {
        return Err(if bytes.starts_with(VERSION_1) { PrefaceError::OldVersion } else { PrefaceError::NoHeader });
    }
    let is_local = match bytes.get(12) {
        None | Some(0x21) => false,
        Some(0x20) => true,
        Some(other) => return Err(PrefaceError::Command(*other)),
    };
    let family = match bytes.get(13) {
        None => Family::Unspecified,
        Some(byte) => Family::of(*byte).ok_or(PrefaceError::Family(*byte))?,
    };
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else {
        return Ok(Progress::More(FIXED_BYTES - bytes.len()));
    };
    let length = fixed.last_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
    if length > family.bytes() + EXTRA_BYTES {
        return Err(PrefaceError::Long(length));
    }
    // What a LOCAL one says of addresses is not looked at.
    if !is_local && length < family.bytes() {
        return Err(PrefaceError::Short(length));
    }
    if rest.len() < length {
        return Ok(Progress::More(length - rest.len()));
    }
    let client = if is_local { None } else { family.source(rest) };
    Ok(Progress::Whole(client.map_or(Preface::Local, |client| Preface::Carried { client })))
}

/// What the addresses are.
#[derive(Debug, Clone, Copy)]
enum Family {
    /// None, or such that are not ours to speak of.
    Unspecified,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// Other ones that are defined: section 2.2 has them taken as unspecified.
    Other(usize),
}

impl Family {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            0x00 => Some(Self::Unspecified),
            0x11 => Some(Self::Tcp4),
            0x21 => Some(Self::Tcp6),
            0x12 => Some(Self::Other(12)),
            0x22 => Some(Self::Other(36)),
            0x31 | 0x32 => Some(Self::Other(216)),
            _ => None,
        }
    }

    /// The length of both addresses and ports, in bytes.
    fn bytes(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::Tcp4 => 12,
            Self::Tcp6 => 36,
            Self::Other(bytes) => bytes,
        }
    }

    /// The source, from the addresses: source, destination, the port of each.
    fn source(self, addresses: &[u8]) -> Option<SocketAddr> {
        let (ip, port): (IpAddr, _) = match self {
            Self::Unspecified | Self::Other(_) => return None,
            Self::Tcp4 => (Ipv4Addr::from(*addresses.first_chunk::<4>()?).into(), addresses.get(8..10)?),
            Self::Tcp6 => (Ipv6Addr::from(*addresses.first_chunk::<16>()?).into(), addresses.get(32..34)?),
        };
        Some(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes(port.try_into().ok()?)))
    }
}

/// Reads a header from the start of a connection, and nothing beyond it. How long that may take is the caller's affair.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Preface, PrefaceError> {
    let mut bytes = Vec::with_capacity(FIXED_BYTES + Family::Tcp6.bytes());
    loop {
        let missing = match decode(&bytes)? {
            Progress::Whole(preface) => return Ok(preface),
            Progress::More(missing) => missing,
        };
        let most = u64::try_from(missing).unwrap_or(u64::MAX);
        if (&mut *stream).take(most).read_buf(&mut bytes).await? == 0 {
            return Err(match bytes.is_empty() {
                true => PrefaceError::Silent,
                false => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
