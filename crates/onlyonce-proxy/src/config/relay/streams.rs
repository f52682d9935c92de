//! What concerns streams of Redis only.

use crate::config::section::Section;

/// Streams, but for the server's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    /// What comes before a topic to make its stream's name.
    pub prefix: String,
    /// To about how many entries streams are trimmed, read or not.
    pub length_max: Option<u32>,
    /// How many replicas must have an event for it to count as taken.
    pub replicas: Option<u32>,
}

impl Streams {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            prefix: section.get("stream-prefix", String::new()),
            length_max: section.optional("stream-length-max"),
            replicas: section.optional("replicas"),
        }
    }

    /// Whether anything is written here.
    pub(super) fn is_set(&self) -> bool {
        !self.prefix.is_empty() || self.length_max.is_some() || self.replicas.is_some()
    }
}
