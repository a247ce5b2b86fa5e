//! What is served for each backend while it runs, and taken note of when it ends.

use super::Agent;
use plane_core::{
    id::BackendId,
    message::{backend::TerminateRequest, subject},
    nats::NatsError,
};
use std::sync::Arc;

impl Agent {
    /// Serves `terminate` for one backend, until that has ended.
    pub(super) async fn listen_for_terminate(self: &Arc<Self>, backend: &BackendId) -> Result<(), NatsError> {
        let backend = backend.clone();
        let subject = subject::backend(&self.identity.cluster, &backend, "terminate");
        let (agent, asked) = (self.clone(), backend.clone());
        let handler = move |_: TerminateRequest| {
            let (agent, backend) = (agent.clone(), asked.clone());
            async move {
                agent.terminate(&backend).await;
                Ok(())
            }
        };
        let serving = self.nats.serve(&self.tasks, &subject, None, handler).await?;
        self.life().terminate.insert(backend, serving);
        Ok(())
    }

    /// Ends a backend. It is listened for a moment before one is begun: then that is waited for.
    pub(super) async fn terminate(&self, backend: &BackendId) {
        loop {
            // Heard from here on, before it is looked whether there is anything to wait for.
            let decided = self.decided.notified();
            if self.host.is_live(backend) || !self.life().deciding.contains_key(backend) {
                return self.host.terminate(backend).await;
            }
            decided.await;
        }
    }

    /// Takes note when a backend has ended.
    pub(super) fn note_end(self: &Arc<Self>, backend: &BackendId) {
        let (agent, backend, stop) = (self.clone(), backend.clone(), self.tasks.stop_token());
        self.tasks.spawn(format!("end of {backend}"), async move {
            stop.run_until_cancelled(agent.host.ended(&backend)).await;
            agent.life().terminate.remove(&backend);
            agent.changed.notify_one();
        });
    }
}
