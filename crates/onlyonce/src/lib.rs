//! Makes retried HTTP requests safe: each `Idempotency-Key` is forwarded once, its response recorded and
//! replayed.

pub mod clock;
pub mod evidence;
pub mod record;
pub mod store;

pub use self::evidence::{Deadline, Evidence};
pub use self::record::{
    CredentialHash, Epoch, Fingerprint, ParseIdError, RecordId, StoredState, Timestamp, Token,
};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
