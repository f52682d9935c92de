//! `[log]`: what is written to standard error, and how.

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::section::Section;
use super::value::choice;

/// The log.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// The least level, for all or by target.
    pub level: Targets,
}

/// How events are written, one a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable; coloured on a terminal.
    Text,
    /// One JSON object for each event.
    Json,
}

choice!(LogFormat { "text" => LogFormat::Text, "json" => LogFormat::Json });

impl Log {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            format: section.get("format", LogFormat::Text),
            level: section.get("level", Targets::new().with_default(LevelFilter::INFO)),
        }
    }
}
