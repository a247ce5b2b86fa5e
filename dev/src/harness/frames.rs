//! WebSockets byte by byte: frames as RFC 6455, section 5.2 lays them out, also those that nobody may send.

mod cases;
mod play;

pub use cases::{Case, End, cases};
pub use play::{Already, play};

/// The key that the frames of clients are masked with.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Continues a message.
pub const CONTINUATION: u8 = 0;
/// Begins a message of text.
pub const TEXT: u8 = 1;
/// Begins a message of bytes.
pub const BINARY: u8 = 2;
/// Closes.
pub const CLOSE: u8 = 8;
/// Asks for a pong.
pub const PING: u8 = 9;
/// Answers a ping, or nothing.
pub const PONG: u8 = 10;

/// Who sends a frame: clients mask theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The client.
    Client,
    /// The backend.
    Backend,
}

/// A frame, good or bad.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Whether it ends its message.
    pub last: bool,
    /// The three reserved bits.
    pub reserved: u8,
    /// The operation.
    pub operation: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A whole message, or a control frame.
    pub fn new(operation: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { last: true, reserved: 0, operation, payload: payload.into() }
    }

    /// A piece of a message that goes on.
    pub fn piece(operation: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { last: false, ..Self::new(operation, payload) }
    }

    /// With these reserved bits.
    pub fn reserving(self, reserved: u8) -> Self {
        Self { reserved, ..self }
    }

    /// Its bytes.
    pub fn bytes(&self, from: From) -> Vec<u8> {
        let length = self.payload.len();
        let mut bytes = self.first();
        let masked = if from == From::Client { 0x80 } else { 0 };
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..=125), _) => bytes.push(masked | short),
            (_, Ok(middle)) => {
                bytes.push(masked | 126);
                bytes.extend(middle.to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        self.carry(&mut bytes, from);
        bytes
    }

    /// Its bytes, its length in eight bytes though fewer would do, and whatever length.
    pub fn with_length(&self, from: From, length: u64) -> Vec<u8> {
        let mut bytes = self.first();
        bytes.push(if from == From::Client { 0xff } else { 0x7f });
        bytes.extend(length.to_be_bytes());
        self.carry(&mut bytes, from);
        bytes
    }

    fn first(&self) -> Vec<u8> {
        vec![u8::from(self.last) << 7 | self.reserved << 4 | self.operation]
    }

    fn carry(&self, bytes: &mut Vec<u8>, from: From) {
        match from {
            From::Backend => bytes.extend(&self.payload),
            From::Client => {
                bytes.extend(MASK);
                bytes.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
            }
        }
    }
}

/// What a close frame carries.
pub fn closing(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}
