//! A cluster's backends by id. There may be a million of them, and whoever decides waits while one is entered: a single
//! table of that size stands still for a quarter of a second when it grows.

use super::view::Backend;
use crate::id::BackendId;
use std::{array, collections::HashMap};

/// One of these that grows moves a hundredth of all.
const PARTS: usize = 128;

/// Backends by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    // Boxed: a table of pointers grows without moving backends about.
    parts: Box<[HashMap<BackendId, Box<Backend>>; PARTS]>,
}

impl Default for Table {
    fn default() -> Self {
        Self { parts: Box::new(array::from_fn(|_| HashMap::new())) }
    }
}

impl Table {
    /// Which part an id belongs to. Where ids are chosen so that all have the same, that part grows like a single table.
    fn part_of(id: &str) -> usize {
        let sum = id.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        sum as usize % PARTS
    }

    fn part(&self, id: &str) -> &HashMap<BackendId, Box<Backend>> {
        &self.parts[Self::part_of(id)]
    }

    fn part_mut(&mut self, id: &str) -> &mut HashMap<BackendId, Box<Backend>> {
        &mut self.parts[Self::part_of(id)]
    }

    /// A backend, by a name which need not be one that a backend can have.
    pub(super) fn get(&self, id: &str) -> Option<&Backend> {
        self.part(id).get(id).map(|backend| &**backend)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Backend> {
        self.part_mut(id).get_mut(id).map(|backend| &mut **backend)
    }

    /// The one copy of an id that is known.
    pub(super) fn known(&self, id: &str) -> Option<&BackendId> {
        self.part(id).get_key_value(id).map(|(known, _)| known)
    }

    pub(super) fn get_or_default(&mut self, id: &BackendId) -> &mut Backend {
        self.part_mut(id.as_str()).entry(id.clone()).or_default()
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Box<Backend>> {
        self.part_mut(id).remove(id)
    }

    /// All, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&BackendId, &Backend)> {
        self.parts.iter().flatten().map(|(id, backend)| (id, &**backend))
    }

    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_spread_over_all_parts() {
        let mut table = Table::default();
        for number in 0..10_000 {
            let id: BackendId = format!("backend-{number:06}").parse().unwrap();
            table.get_or_default(&id);
        }
        assert_eq!((table.len(), table.iter().count()), (10_000, 10_000));
        let largest = table.parts.iter().map(HashMap::len).max().unwrap();
        assert!(largest < 3 * 10_000 / PARTS, "{largest}");
    }
}
