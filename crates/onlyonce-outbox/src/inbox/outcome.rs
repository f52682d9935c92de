//! What became of a message, and what can go wrong.

use crate::error::Error;

/// What became of a message. All but [`Busy`](Self::Busy), [`TooOld`](Self::TooOld) and
/// [`TooNew`](Self::TooNew) can be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome<T> {
    /// It was applied, and that is committed.
    Applied(T),
    /// It was applied before. With what it came to, where that was kept
    /// ([`process_keeping`](super::Inbox::process_keeping)).
    Duplicate(Option<T>),
    /// It is being applied elsewhere at this moment, for longer than the inbox waits: to be delivered again
    /// later. Also where another message of its key is.
    Busy,
    /// It was made before the time that the inbox remembers, and was not applied now: it may have been before.
    /// For somebody to look at. Delivering it again changes nothing.
    TooOld,
    /// Its id says that it was made over a week from now, and it was not applied: its sender's clock is wrong, or
    /// the database's. For somebody to look at. The inbox makes no table for such a day.
    TooNew,
    /// A later message of its key was applied, and this one was not ([`Message::ordered_by`](super::Message::ordered_by)).
    Overtaken,
}

impl<T> Outcome<T> {
    /// Whether the message is done with: applied now, applied before, or overtaken. Only then may it be
    /// acknowledged.
    pub fn is_done(&self) -> bool {
        matches!(
            self,
            Self::Applied(_) | Self::Duplicate(_) | Self::Overtaken
        )
    }
}

/// Why a message was not applied, or why nobody knows. It must not be acknowledged: delivered again, it is
/// applied, or found to have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError<E> {
    /// The work failed. All that it did was rolled back, and the message is as new as before.
    #[error("the message's work failed, and was rolled back")]
    Work(#[source] E),
    /// The database failed before the commit, or refused it. Nothing was applied.
    #[error("the message was not applied: {0}")]
    NotApplied(#[source] Error),
    /// The connection was lost while committing, or the work committed itself. It was applied or not; only its
    /// next delivery tells.
    #[error("the message was applied or not, which its next delivery tells: {0}")]
    Unknown(#[source] Error),
}

impl<E> From<Error> for ProcessError<E> {
    fn from(error: Error) -> Self {
        Self::NotApplied(error)
    }
}
