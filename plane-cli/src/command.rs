//! What each command does, one module each.

pub(crate) mod cleanup;
pub(crate) mod drain;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod lost;
pub(crate) mod spawn;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod terminate;
