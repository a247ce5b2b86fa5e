//! A configuration in the making: the file's table, the environment over it, and the faults found so far.

use super::{
    ConfigFault, ConfigFaults, Key, Kind, Origin, Part,
    schema::{Need, variable},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};
use toml::{Table, Value};

/// A configuration that is being put together and checked.
#[derive(Debug)]
pub struct Draft {
    parts: &'static [&'static Part],
    file: Option<PathBuf>,
    /// Every path that the file has, sections included.
    in_file: BTreeSet<String>,
    /// The variable that each path was set by.
    variables: BTreeMap<String, String>,
    table: Table,
    /// Paths whose value was refused: they are given, and yet there is nothing to look at.
    refused: BTreeSet<String>,
    faults: Vec<ConfigFault>,
}

impl Draft {
    /// Begins with what the file says.
    pub(super) fn new(parts: &'static [&'static Part], file: Option<(PathBuf, Table)>) -> Self {
        let (file, table) = file.unzip();
        let mut draft = Self {
            parts,
            file,
            in_file: BTreeSet::new(),
            variables: BTreeMap::new(),
            table: Table::new(),
            refused: BTreeSet::new(),
            faults: Vec::new(),
        };
        draft.table = draft.read_table("", table.unwrap_or_default());
        draft
    }

    /// Whether anything is given at the path, a value or a section, be it good or refused.
    pub fn has(&self, path: &str) -> bool {
        self.get(path).is_some() || self.refused.contains(path)
    }

    /// The text at the path, if there is one.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// The whole number at the path, if there is one.
    pub fn int(&self, path: &str) -> Option<i64> {
        self.get(path)?.as_integer()
    }

    /// Whether `true` stands at the path.
    pub fn is_true(&self, path: &str) -> bool {
        self.get(path).and_then(Value::as_bool) == Some(true)
    }

    /// The list at the path, if there is one.
    pub fn list(&self, path: &str) -> Option<&[Value]> {
        self.get(path)?.as_array().map(Vec::as_slice)
    }

    /// Whether the path is a table without anything in it, not even something that was refused.
    pub fn is_empty_table(&self, path: &str) -> bool {
        let below = format!("{path}.");
        let refused = self.refused.iter().any(|refused| refused.starts_with(&below));
        !refused && self.get(path).and_then(Value::as_table).is_some_and(Table::is_empty)
    }

    /// Notes that a rule about the path is broken.
    pub fn fault(&mut self, path: &str, problem: impl Into<String>) {
        let origin = self.origin(path);
        self.faults.push(ConfigFault::new(origin, path, problem));
    }

    /// Refuses a section that the protocol knows and this version does not serve, if it is there.
    pub fn refuse_section(&mut self, section: &str) {
        if self.has(section) {
            self.fault(section, format!("the section [{section}] cannot be served yet by this version; leave it out"));
        }
    }

    /// Takes what is at one path to another one, which is its proper name. Both may be given if they are equal.
    pub fn rename(&mut self, from: &str, to: &str) {
        let Some(value) = self.get(from).cloned() else {
            return;
        };
        match self.get(to) {
            Some(other) if *other != value => {
                self.fault(from, format!("differs from {to}, which means the same: give one of them"));
            }
            _ => {
                self.remove(from);
                if let Some(name) = self.variables.remove(from) {
                    self.variables.insert(to.to_owned(), name);
                }
                insert(&mut self.table, to, value);
            }
        }
    }

    /// Lays environment variables over what there is.
    pub(super) fn overlay(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        let keys: BTreeMap<String, Key> = self.keys().map(|key| (variable(key.path), key)).collect();
        let env: BTreeMap<String, String> = env.into_iter().filter(|(name, _)| name.starts_with("PLANE_")).collect();
        for (name, text) in env {
            if let Some(key) = keys.get(&name) {
                match key.kind.read(&text) {
                    Ok(value) => self.set(key.path, value, &name, key.kind),
                    Err(problem) => {
                        self.refused.insert(key.path.to_owned());
                        self.faults.push(ConfigFault::new(Origin::Variable(name), key.path, problem));
                    }
                }
            } else if let Some((path, text)) = entry_of_map(&keys, &name, text) {
                self.set(&path, Value::String(text), &name, Kind::String);
            }
        }
    }

    /// Checks what has to be there, what may not be there together, and the rules of each part.
    pub(super) fn finish(mut self) -> Result<Table, ConfigFaults> {
        for key in self.keys().collect::<Vec<_>>() {
            let due = match key.need {
                Need::Never => false,
                Need::InItsTable => parent(key.path).is_none_or(|path| self.get(path).is_some_and(Value::is_table)),
                Need::Always => true,
            };
            let refused = |path: &str| self.refused.contains(path);
            // What is in a section that was refused is not missing as well.
            if due && !self.has(key.path) && !parent(key.path).is_some_and(refused) {
                self.fault(key.path, format!("missing; it may also be given as {}", variable(key.path)));
            }
        }
        for part in self.parts {
            for (one, other) in part.exclusive {
                if self.has(one) && self.has(other) {
                    self.fault(one, format!("cannot be given together with {other}"));
                }
            }
            (part.rules)(&mut self);
        }
        self.faults.sort_by(|one, other| one.key.cmp(&other.key));
        match ConfigFaults::of(self.faults) {
            None => Ok(self.table),
            Some(faults) => Err(faults),
        }
    }

    /// Where the value at the path came from; for one that is missing, where it was looked for.
    pub(super) fn origin(&self, path: &str) -> Origin {
        let below = format!("{path}.");
        let variable = self.variables.get(path).or_else(|| {
            let inside = || self.variables.iter().find(|(set, _)| set.starts_with(&below)).map(|(_, name)| name);
            if self.in_file.contains(path) { None } else { inside() }
        });
        match (variable, &self.file) {
            (Some(name), _) => Origin::Variable(name.clone()),
            (None, Some(file)) => Origin::File(file.clone()),
            (None, None) => Origin::Nowhere,
        }
    }

    fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        self.parts.iter().flat_map(|part| part.keys).copied()
    }

    /// What of a table of the file is good; the rest is noted as faults.
    fn read_table(&mut self, prefix: &str, table: Table) -> Table {
        let mut good = Table::new();
        for (name, value) in table {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            self.in_file.insert(path.clone());
            match self.read_value(&path, &name, value) {
                Ok(value) => {
                    good.insert(name, value);
                }
                Err(problem) => {
                    self.fault(&path, problem);
                    self.refused.insert(path);
                }
            }
        }
        good
    }

    fn read_value(&mut self, path: &str, name: &str, value: Value) -> Result<Value, String> {
        let below = format!("{path}.");
        let key = self.keys().find(|key| key.path == path);
        let has_keys = self.keys().any(|key| key.path.starts_with(&below));
        let is_section = key.is_some_and(|key| matches!(key.kind, Kind::Section));
        match (key, value) {
            // A quoted name with a dot in it looks like a path, and is none.
            _ if name.contains('.') => Err(self.unknown(path)),
            (None, _) if !has_keys => Err(self.unknown(path)),
            (_, Value::Table(table)) if has_keys || is_section => Ok(Value::Table(self.read_table(path, table))),
            (Some(key), value) => key.kind.check(value),
            (None, _) => Err("expected a table".into()),
        }
    }

    fn unknown(&self, path: &str) -> String {
        let prefix = parent(path).map(|parent| format!("{parent}.")).unwrap_or_default();
        let known: BTreeSet<&str> =
            self.keys().filter_map(|key| key.path.strip_prefix(prefix.as_str())?.split('.').next()).collect();
        let known: Vec<&str> = known.into_iter().collect();
        match known.as_slice() {
            [] => "unknown key; nothing is expected here".into(),
            known => format!("unknown key; known here: {}", known.join(", ")),
        }
    }

    fn set(&mut self, path: &str, value: Value, variable: &str, kind: Kind) {
        let rivals: Vec<&str> = (self.parts.iter())
            .flat_map(|part| part.exclusive)
            .filter_map(|(one, other)| match path {
                _ if *one == path => Some(*other),
                _ if *other == path => Some(*one),
                _ => None,
            })
            .filter(|rival| !self.variables.contains_key(*rival))
            .collect();
        for rival in rivals {
            self.remove(rival);
        }
        let above = parent(path).and_then(|above| self.variables.get(above).map(|name| (above, name)));
        if let Some((above, name)) = above
            && self.get(above).is_some_and(|value| !value.is_table())
        {
            let problem = format!("cannot be given together with {name}");
            self.faults.push(ConfigFault::new(Origin::Variable(variable.to_owned()), path, problem));
        }
        self.variables.insert(path.to_owned(), variable.to_owned());
        // A section that is there already keeps what is in it.
        if !matches!(kind, Kind::Section) || !self.has(path) {
            insert(&mut self.table, path, value);
        }
    }

    fn get(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        rest.into_iter()
            .flat_map(|rest| rest.split('.'))
            .try_fold(self.table.get(first)?, |value, name| value.as_table()?.get(name))
    }

    /// Removes a value, and the inner table that it was alone in.
    fn remove(&mut self, path: &str) {
        let Some((above, name)) = path.rsplit_once('.') else {
            self.table.remove(path);
            return;
        };
        let mut table = Some(&mut self.table);
        for part in above.split('.') {
            table = table.and_then(|table| table.get_mut(part)).and_then(Value::as_table_mut);
        }
        let Some(table) = table else { return };
        let emptied = table.remove(name).is_some() && table.is_empty();
        if emptied && above.contains('.') {
            self.remove(above);
        }
    }
}

/// The path of the table that a path is in; `None` at the top.
fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('.').map(|(parent, _)| parent)
}

/// The path and text of a variable that gives one entry of a map.
fn entry_of_map(keys: &BTreeMap<String, Key>, name: &str, text: String) -> Option<(String, String)> {
    keys.iter().filter(|(_, key)| matches!(key.kind, Kind::Map)).find_map(|(variable, key)| {
        let entry = name.strip_prefix(variable.as_str())?.strip_prefix("__")?;
        (!entry.is_empty()).then(|| (format!("{}.{}", key.path, entry.to_lowercase()), text.clone()))
    })
}

/// Puts a value in, making the tables on its way; what stands in its way gives way.
fn insert(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
