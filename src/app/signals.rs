//! What the process is told from outside.

use super::running::Running;
use tokio::signal::unix::{SignalKind, signal};

/// Runs until SIGTERM or SIGINT, then ends in order. SIGHUP reads the configuration again.
pub async fn run_until_signal(running: Running) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match running.reload() {
                Ok(done) => tracing::info!(event = "app.reloaded", "{}", done.join("; ")),
                Err(error) => tracing::error!(event = "app.reload_failed", "{error}"),
            },
        }
    }
    running.stop().await;
    Ok(())
}
