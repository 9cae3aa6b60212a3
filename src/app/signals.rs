//! What the process is told from outside.

use super::running::Running;
use crate::sql::pooler::Shutdown;
use crate::sys;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What signals mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habits {
    /// TERM and INT drain and stop.
    Own,
    /// TERM waits for clients, INT for servers, QUIT for nobody; USR1 pauses and USR2 resumes.
    PgBouncer,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Drain,
    ShutDown(Shutdown),
    Reload,
    Pause,
    Resume,
}

/// Every signal that means something, to some.
const SIGNALS: [fn() -> SignalKind; 6] = [
    SignalKind::terminate,
    SignalKind::interrupt,
    SignalKind::quit,
    SignalKind::hangup,
    SignalKind::user_defined1,
    SignalKind::user_defined2,
];

fn wish(habits: Habits, kind: SignalKind) -> Option<Wish> {
    let is = |other: SignalKind| kind == other;
    match habits {
        _ if is(SignalKind::hangup()) => Some(Wish::Reload),
        Habits::Own if is(SignalKind::terminate()) || is(SignalKind::interrupt()) => Some(Wish::Drain),
        Habits::Own => None,
        Habits::PgBouncer if is(SignalKind::terminate()) => Some(Wish::ShutDown(Shutdown::WaitForClients)),
        Habits::PgBouncer if is(SignalKind::interrupt()) => Some(Wish::ShutDown(Shutdown::WaitForServers)),
        Habits::PgBouncer if is(SignalKind::quit()) => Some(Wish::ShutDown(Shutdown::Immediate)),
        Habits::PgBouncer if is(SignalKind::user_defined1()) => Some(Wish::Pause),
        Habits::PgBouncer => Some(Wish::Resume),
    }
}

/// Runs until a signal or a command ends the process, then ends in order. SIGHUP reads the
/// configuration again.
pub async fn run_until_signal(running: Running, habits: Habits) -> std::io::Result<()> {
    let mut signals = Vec::new();
    for kind in SIGNALS.map(|kind| kind()) {
        if let Some(wish) = wish(habits, kind) {
            signals.push((signal(kind)?, wish));
        }
    }
    loop {
        let wish = tokio::select! {
            wish = next(&mut signals) => wish,
            () = running.shut_down() => break,
        };
        match wish {
            Wish::Drain => {
                running.stop().await;
                return Ok(());
            }
            Wish::ShutDown(how) => running.begin_shut_down(how),
            Wish::Reload => {
                sys::notify_reloading();
                match running.reload() {
                    Ok(done) => tracing::info!(event = "app.reloaded", "{}", done.join("; ")),
                    Err(error) => tracing::error!(event = "app.reload_failed", "{error}"),
                }
                sys::notify_manager("READY=1");
            }
            Wish::Pause => said(running.desk().begin_pause()),
            Wish::Resume => said(running.desk().resume_all()),
        }
    }
    running.stop_within(Duration::ZERO).await;
    Ok(())
}

fn said(done: Result<(), String>) {
    if let Err(error) = done {
        tracing::warn!(event = "app.signal_refused", "{error}");
    }
}

async fn next(signals: &mut [(Signal, Wish)]) -> Wish {
    std::future::poll_fn(|cx| {
        for (signal, wish) in signals.iter_mut() {
            if signal.poll_recv(cx).is_ready() {
                return std::task::Poll::Ready(*wish);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_it_gets_pgbouncers_signals() {
        let wishes = |habits| SIGNALS.map(|kind| wish(habits, kind()));
        assert_eq!(
            wishes(Habits::Own),
            [Some(Wish::Drain), Some(Wish::Drain), None, Some(Wish::Reload), None, None]
        );
        assert_eq!(
            wishes(Habits::PgBouncer),
            [
                Some(Wish::ShutDown(Shutdown::WaitForClients)),
                Some(Wish::ShutDown(Shutdown::WaitForServers)),
                Some(Wish::ShutDown(Shutdown::Immediate)),
                Some(Wish::Reload),
                Some(Wish::Pause),
                Some(Wish::Resume),
            ]
        );
    }
}
