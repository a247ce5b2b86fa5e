//! Builds the demo image where it is missing or old, and prints its name.

use std::io::Write as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name = plane_dev::image::ensure_demo_image().await?;
    writeln!(std::io::stdout(), "{name}")?;
    Ok(())
}
