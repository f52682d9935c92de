//! The log: events on standard error, one a line, as text or JSON.
//!
//! Standard output is for what a command was asked to print. The names of events' fields are part of the
//! interface: `onlyonce::request` carries `outcome`, `record`, `method`, `status` and `duration_ms`, once
//! for each guarded request.

use std::error::Error;
use std::io::{self, IsTerminal};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// For the demo, whose table is what is to be seen: lost replies are no news there.
pub(crate) fn errors() -> Log {
    Log {
        format: LogFormat::Text,
        level: Targets::new().with_default(LevelFilter::ERROR),
    }
}

/// Begins to log, for the whole process.
///
/// # Errors
/// Where the process logs already.
pub fn init(log: &Log) -> Result<(), TryInitError> {
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match log.format {
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(log.level.clone()))
        .try_init()
}

/// An error with everything behind it, in one line.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some libraries repeat their cause in their own text.
        let shown = error.to_string();
        if !text.ends_with(&shown) {
            text.push_str(": ");
            text.push_str(&shown);
        }
        cause = error.source();
    }
    text
}
