//! The keys of a configuration, as data: what each is called, and what its value may be.

use super::Draft;
use std::net::{IpAddr, SocketAddr};
use toml::Value;

/// One part of a configuration, such as a section: its keys and its rules.
#[derive(Debug)]
pub struct Part {
    /// The keys that it knows.
    pub keys: &'static [Key],
    /// Pairs of keys that exclude each other. A variable for one of them sets aside the other's value in the file.
    pub exclusive: &'static [(&'static str, &'static str)],
    /// Checks the rules that go beyond one value. It also runs where values are missing or ill-typed, which
    /// the draft has noted by then; of those it need not speak.
    pub rules: fn(&mut Draft),
}

/// One key of a configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) need: Need,
}

/// Whether a key may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It may.
    Never,
    /// Not where the table that it is in is there.
    InItsTable,
    /// Not at all.
    Always,
}

/// What the value of a key is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A text that is not empty.
    String,
    /// A text that is never shown.
    Secret,
    /// A text with a rule: what it says is expected, and whether a text is that.
    Text(&'static str, fn(&str) -> bool),
    /// A list of texts with a rule for each.
    List(&'static str, fn(&str) -> bool),
    /// The path of a file that can be read.
    File,
    /// A whole number, from the first to the second.
    Int(i64, i64),
    /// A port, as a number or as a text; 0 lets the system choose.
    Port,
    /// `true` or `false`.
    Bool,
    /// A table of texts under names of the writer's choice.
    Map,
    /// A table that says something by being there. As a variable it is `true`.
    Section,
}

impl Key {
    /// A key that has to be there wherever the table that it is in is there.
    pub const fn required(path: &'static str, kind: Kind) -> Self {
        Self { path, kind, need: Need::InItsTable }
    }

    /// A key that always has to be there.
    pub const fn always(path: &'static str, kind: Kind) -> Self {
        Self { path, kind, need: Need::Always }
    }

    /// A key that may be left out.
    pub const fn optional(path: &'static str, kind: Kind) -> Self {
        Self { path, kind, need: Need::Never }
    }
}

/// The environment variable of a key.
pub(super) fn variable(path: &str) -> String {
    format!("PLANE_{}", path.replace('.', "__").to_uppercase())
}

impl Kind {
    /// What is expected, for people.
    fn expected(self) -> String {
        match self {
            Self::String | Self::Secret => "a string that is not empty".into(),
            Self::Text(what, _) => what.into(),
            Self::List(what, _) => format!("a list, each {what}"),
            Self::File => "the path of a file, as a string".into(),
            Self::Int(least, most) => format!("a whole number from {least} to {most}"),
            Self::Port => "a port, 0 to 65535".into(),
            Self::Bool => "true or false".into(),
            Self::Map => "a table of strings".into(),
            Self::Section => "a table".into(),
        }
    }

    /// The value in its settled form, or what is wrong with it.
    pub(super) fn check(self, value: Value) -> Result<Value, String> {
        let fault = |found: String| Err(format!("expected {}, found {found}", self.expected()));
        match (self, &value) {
            (Self::String, Value::String(text)) if !text.is_empty() => Ok(value),
            (Self::Secret, Value::String(text)) if !text.is_empty() => Ok(value),
            (Self::Text(_, good), Value::String(text)) if good(text) => Ok(value),
            (Self::List(_, good), Value::Array(items)) => {
                match items.iter().find(|item| !item.as_str().is_some_and(good)) {
                    None => Ok(value),
                    Some(bad) => fault(format!("{} in it", shown(bad))),
                }
            }
            (Self::File, Value::String(path)) if !path.is_empty() => match std::fs::File::open(path) {
                Ok(_) => Ok(value),
                Err(error) => Err(format!("the file {path:?} cannot be read: {error}")),
            },
            (Self::Int(least, most), Value::Integer(number)) if (least..=most).contains(number) => Ok(value),
            (Self::Port, Value::Integer(number)) if u16::try_from(*number).is_ok() => Ok(value),
            (Self::Port, Value::String(text)) => match text.parse::<u16>() {
                Ok(port) => Ok(Value::Integer(port.into())),
                Err(_) => fault(shown(&value)),
            },
            (Self::Bool, Value::Boolean(_)) | (Self::Section, Value::Table(_)) => Ok(value),
            (Self::Map, Value::Table(entries)) => match entries.iter().find(|(_, entry)| !entry.is_str()) {
                None => Ok(value),
                Some((name, bad)) => fault(format!("{} under {name:?}", shown(bad))),
            },
            (Self::Secret, Value::String(_)) => fault("an empty one".into()),
            (Self::Secret, _) => fault(value.type_str().into()),
            _ => fault(shown(&value)),
        }
    }

    /// The value that the text of a variable stands for, or what is wrong with it.
    pub(super) fn read(self, text: &str) -> Result<Value, String> {
        let fault = || Err(format!("expected {}, found {text:?}", self.expected()));
        let value = match self {
            Self::List(..) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(Value::from)
                .collect::<Vec<_>>()
                .into(),
            Self::Int(..) => match text.trim().parse::<i64>() {
                Ok(number) => Value::Integer(number),
                Err(_) => return fault(),
            },
            Self::Bool => match text.trim() {
                "true" => Value::Boolean(true),
                "false" => Value::Boolean(false),
                _ => return fault(),
            },
            Self::Section if text.trim() == "true" => Value::Table(toml::Table::new()),
            Self::Section => return Err(format!("expected true, found {text:?}")),
            Self::Map => {
                return Err("expected one variable for each name, with __NAME at its end".into());
            }
            Self::Port => Value::from(text.trim()),
            Self::String | Self::Secret | Self::Text(..) | Self::File => Value::from(text),
        };
        self.check(value)
    }
}

/// A value as a fault may show it: its type and, where that is short, its text without credentials.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", super::nats::mask_host(text)),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Array(_) => "a list".into(),
        Value::Table(_) => "a table".into(),
        Value::Datetime(_) => "a date".into(),
    }
}

/// An IP address, version 4 or 6.
pub fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// An IP address and a port.
pub fn is_socket_addr(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok()
}

/// A URL that begins with `http://` and names a host.
pub fn is_http_url(text: &str) -> bool {
    text.strip_prefix("http://").is_some_and(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        !authority.is_empty() && !authority.starts_with(':') && !text.contains(char::is_whitespace)
    })
}
