//! An upgraded connection: bytes both ways until either side closes. What they mean is not looked at.

use crate::route::InFlight;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;

/// Carries bytes until one side closes or the drone stops; `entered` counts until then.
pub(super) async fn run(client: OnUpgrade, backend: OnUpgrade, entered: Option<InFlight>, stop: CancellationToken) {
    let carried = async {
        let (client, backend) = tokio::try_join!(client, backend)?;
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        // A broken connection is how most of these end.
        let _ = copy_bidirectional(&mut client, &mut backend).await;
        Ok::<_, hyper::Error>(())
    };
    if let Some(Err(error)) = stop.run_until_cancelled(carried).await {
        tracing::debug!(%error, "an upgrade did not come about");
    }
    drop(entered);
}
