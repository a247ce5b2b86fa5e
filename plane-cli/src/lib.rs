//! The command `plane`.
