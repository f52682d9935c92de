//! Opening the file: who may read it, how it is synced, and whether it is ours.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onlyonce::store::{StoreError, StoreErrorKind};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::fault::Fault;
use super::options::SqliteOptions;
use super::schema;

/// Before 3.51.3 a checkpoint could corrupt the file when two connections reset the log at once.
const VERSION_MIN: i32 = 3_051_003;
/// So many pages of log (16 MiB) are written back to the file at once, four times as many as SQLite would
/// itself. Ids are random, so nearly each claim changes a page of their index: in a longer log more of them are the
/// same page, and the file is synced, which is what takes the time, less often.
const CHECKPOINT_PAGES: u32 = 4_000;
/// A log that grew over this (in a large batch, or under a long read) is cut back to it. More than what is
/// between two checkpoints: a log that is overwritten is quicker than one that grows again.
const LOG_BYTES_MAX: u32 = 24 << 20;
/// Of the writing connection. The negative is SQLite's way to count in KiB. Holds the index of half a million ids; beyond,
/// pages come from the system's cache, at a read for each.
const PAGES_KEPT_KIB: i32 = -(16 << 10);
const STATEMENTS_MAX: usize = 32;

/// The connection that writes, and which file it is.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) file: FileIdentity,
}

/// Opens or creates the file, with all its tables.
pub(super) fn open_for_writing(options: &SqliteOptions) -> Result<Opened, StoreError> {
    let version = rusqlite::version_number();
    if version < VERSION_MIN {
        return Err(StoreError::not_applied(
            StoreErrorKind::Incompatible,
            format!(
                "SQLite {} is too old; 3.51.3 or later is needed",
                rusqlite::version()
            ),
        ));
    }
    create(&options.path)?;
    let mut connection = open(options)?;
    if connection.is_readonly("main").map_err(refused)? {
        return Err(StoreError::not_applied(
            StoreErrorKind::Full,
            format!("{} is read-only for this process", options.path.display()),
        ));
    }
    until_not_busy(options.busy_max, || use_log(&connection))?;
    connection
        .pragma_update(None, "cache_size", PAGES_KEPT_KIB)
        .map_err(refused)?;
    schema::migrate(&mut connection)?;
    let file = FileIdentity::of(&options.path).map_err(|error| at(&options.path, &error))?;
    Ok(Opened { connection, file })
}

/// Another connection to a file that is open for writing already.
pub(super) fn open_for_reading(options: &SqliteOptions) -> Result<Connection, StoreError> {
    let connection = open(options)?;
    connection
        .pragma_update(None, "query_only", true)
        .map_err(refused)?;
    Ok(connection)
}

fn open(options: &SqliteOptions) -> Result<Connection, StoreError> {
    // Each connection stays with its thread, so SQLite need not guard it with a mutex.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&options.path, flags).map_err(refused)?;
    connection.busy_timeout(options.busy_max).map_err(refused)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    for (pragma, value) in [
        ("synchronous", "full"),
        // macOS: `fsync` alone does not reach the disk there.
        ("fullfsync", "on"),
        ("checkpoint_fullfsync", "on"),
        // Nothing that a file's schema contains may call functions.
        ("trusted_schema", "off"),
    ] {
        connection
            .pragma_update(None, pragma, value)
            .map_err(refused)?;
    }
    Ok(connection)
}

/// Creates an empty file that only its owner can read: it will hold answers to others' requests. The log
/// and the index beside it get the same mode from SQLite.
///
/// An existing file is not even opened: closing a file drops every lock that this process has on it,
/// those of another `SqliteStore` too.
fn create(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(at(path, &error)),
    }
}

/// Turns on the write-ahead log; it stays on in the file.
fn use_log(connection: &Connection) -> Result<(), Fault> {
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::NoLog);
    }
    // Both answer with what was set, as setting the mode answers with the mode.
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_MAX, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
    Ok(())
}

/// Repeats what SQLite does not wait for by itself: changing the mode while another process opens.
fn until_not_busy(
    busy_max: Duration,
    mut attempt: impl FnMut() -> Result<(), Fault>,
) -> Result<(), StoreError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    loop {
        match attempt() {
            Err(Fault::Sqlite(error))
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && waited < busy_max =>
            {
                std::thread::sleep(PAUSE);
                waited += PAUSE;
            }
            outcome => return outcome.map_err(Fault::not_applied),
        }
    }
}

/// Which files a path led to: the database, its log, and the log's index. SQLite itself does not notice when
/// it leads to others. All three are there, and the same, for as long as a connection is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileIdentity {
    path: PathBuf,
    #[cfg(unix)]
    devices_and_inodes: [(u64, u64); 3],
}

impl FileIdentity {
    fn of(path: &Path) -> io::Result<Self> {
        // Absolute, so that a later change of directory does not look like a loss.
        Self::at(fs::canonicalize(path)?)
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        // Never opened, only asked about: see `create`.
        #[cfg(unix)]
        let devices_and_inodes = {
            use std::os::unix::fs::MetadataExt;
            let beside = |suffix: &str| {
                let mut beside = path.clone().into_os_string();
                beside.push(suffix);
                fs::metadata(beside).map(|metadata| (metadata.dev(), metadata.ino()))
            };
            [beside("")?, beside("-wal")?, beside("-shm")?]
        };
        Ok(Self {
            path,
            #[cfg(unix)]
            devices_and_inodes,
        })
    }

    /// Whether the path still leads to them.
    pub(super) fn still_there(&self) -> bool {
        Self::at(self.path.clone()).is_ok_and(|now| now == *self)
    }
}

fn refused(error: rusqlite::Error) -> StoreError {
    Fault::from(error).not_applied()
}

fn at(path: &Path, error: &io::Error) -> StoreError {
    let why = format!("cannot open or create {}: {error}", path.display());
    StoreError::not_applied(StoreErrorKind::Unavailable, why)
}
