//! What each command does, one module each.

pub(crate) mod drain;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod spawn;
pub(crate) mod status;
pub(crate) mod terminate;
