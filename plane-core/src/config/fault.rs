//! What is wrong with a configuration, told so that its writer can mend it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Where a faulty value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// Neither: there is no file, and no variable gives it.
    Nowhere,
}

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file or the variable at fault.
    pub origin: Origin,
    /// The path of the key, such as `nats.hosts`; empty where the whole file is at fault.
    pub key: String,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl ConfigFault {
    /// A fault.
    pub fn new(origin: Origin, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { origin, key: key.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File(path) => write!(f, "{}: ", path.display())?,
            Origin::Variable(name) => write!(f, "{name}: ")?,
            Origin::Nowhere => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

/// All faults of a configuration, never none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(Vec<ConfigFault>);

impl ConfigFaults {
    /// The faults, or `None` where there are none.
    pub fn of(faults: Vec<ConfigFault>) -> Option<Self> {
        if faults.is_empty() { None } else { Some(Self(faults)) }
    }

    /// Each of them, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigFault> {
        self.0.iter()
    }
}

impl From<ConfigFault> for ConfigFaults {
    fn from(fault: ConfigFault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "bad configuration: {one}"),
            all => {
                write!(f, "bad configuration, {} faults:", all.len())?;
                all.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}

impl std::error::Error for ConfigFaults {}

/// A file that is no TOML. Says the place, but does not quote the line: there may be a secret on it.
pub(super) fn not_toml(path: &Path, text: &str, error: &toml::de::Error) -> ConfigFault {
    let place = error.span().and_then(|span| text.get(..span.start)).map(|before| {
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("line {line}, column {column}: ")
    });
    let problem = format!("not valid TOML: {}{}", place.unwrap_or_default(), error.message());
    ConfigFault::new(Origin::File(path.to_owned()), "", problem)
}
