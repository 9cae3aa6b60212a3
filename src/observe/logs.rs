//! The log: one line per event on standard error, as text or JSON.

use crate::config::{Log, LogFormat, LogLevel};
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins to log; a second call changes the level only, as the process has one log.
pub fn start(log: &Log) {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    if LEVEL.set(handle).is_err() {
        return set_level(log.level);
    }
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let layer = match log.format {
        LogFormat::Text => {
            // https://no-color.org: any value but the empty one counts.
            let has_colour = std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            layer.with_ansi(has_colour).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // Only a test that has a log of its own already makes this fail.
    let _ = tracing_subscriber::registry().with(filter.and_then(layer)).try_init();
}

/// Changes the least urgent level that is logged, at once.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // Fails only when the log is gone, and then there is nobody to tell.
        let _ = handle.reload(filter(level));
    }
}

/// Our own events from `level` on; of the libraries, what is wrong.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("warn,cloud_mirror={}", level.as_str()))
}
