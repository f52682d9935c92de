//! What SQLite says when something is wrong, sorted into the kinds of [`StoreError`].

use std::sync::Arc;

use onlyonce::store::{StoreError, StoreErrorKind};
use rusqlite::{Error, ErrorCode};

/// A failure that a whole batch may share.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Sqlite(Arc<Error>),
    /// SQLite does not say whether it was the file, its log or the log's index.
    #[error("cannot open the file: it and its directory, for the log beside it, must be writable")]
    CannotOpen(#[source] Arc<Error>),
    /// The limit that was set, not the disk's. Found before anything is written.
    #[error("the file is at its limit of {bytes_max} bytes; raise it, or shorten the retention")]
    Full { bytes_max: u64 },
    #[error("the file holds {0}, which this version cannot read")]
    Unreadable(&'static str),
    #[error(
        "the file system has no shared memory for a write-ahead log; put the file on a local disk"
    )]
    NoLog,
    #[error(
        "the database file, or its -wal or -shm beside it, was deleted or replaced while it was open; \
         restart to open it anew"
    )]
    Replaced,
    /// Another request of the batch made SQLite roll all of it back.
    #[error("the transaction was rolled back")]
    RolledBack(#[source] Box<Self>),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) {
            return Self::CannotOpen(Arc::new(error));
        }
        Self::Sqlite(Arc::new(error))
    }
}

impl Fault {
    pub(super) fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Sqlite(error) | Self::CannotOpen(error) => kind_of(error),
            Self::Full { .. } => StoreErrorKind::Full,
            Self::Unreadable(_) | Self::NoLog => StoreErrorKind::Incompatible,
            Self::Replaced => StoreErrorKind::Unavailable,
            Self::RolledBack(cause) => cause.kind(),
        }
    }

    /// Nothing was written: the transaction was not begun, or was rolled back.
    pub(super) fn not_applied(self) -> StoreError {
        StoreError::not_applied(self.kind(), self)
    }

    /// COMMIT failed, and nobody knows how far it came.
    pub(super) fn uncertain(self) -> StoreError {
        StoreError::new(self.kind(), self)
    }
}

fn kind_of(error: &Error) -> StoreErrorKind {
    match error {
        Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreErrorKind::Timeout,
            ErrorCode::DiskFull | ErrorCode::ReadOnly => StoreErrorKind::Full,
            ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::SystemIoFailure
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory => StoreErrorKind::Unavailable,
            ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::SchemaChanged => {
                StoreErrorKind::Incompatible
            }
            _ => StoreErrorKind::Other,
        },
        // A missing table or column.
        Error::SqlInputError { .. } => StoreErrorKind::Incompatible,
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..) => StoreErrorKind::Incompatible,
        _ => StoreErrorKind::Other,
    }
}
