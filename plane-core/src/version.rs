//! The version of this build.

/// The version of the workspace, such as `0.4.0`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this was built from, where it was built from a checkout.
pub const GIT_HASH: Option<&str> = option_env!("PLANE_GIT_HASH");

/// What `--version` prints after the name: version and commit.
pub const LONG: &str = env!("PLANE_LONG_VERSION");
