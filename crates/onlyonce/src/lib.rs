//! Makes retried HTTP requests safe: each `Idempotency-Key` is forwarded once, its response recorded and
//! replayed.

pub mod classify;
pub mod clock;
pub mod codec;
pub mod evidence;
#[cfg(feature = "failpoints")]
pub mod failpoint;
mod fields;
pub mod fingerprint;
pub mod key;
pub mod policy;
pub mod problem;
pub mod record;
pub mod replay;
pub mod scope;
pub mod store;

pub use self::classify::{StatusRules, Verdict};
pub use self::codec::StoredResponse;
pub use self::evidence::{Deadline, Evidence};
pub use self::key::{IdempotencyKey, KeyError, KeySyntax};
pub use self::policy::Policy;
pub use self::problem::Problem;
pub use self::record::{
    CredentialHash, Epoch, Fingerprint, ParseIdError, RecordId, StoredState, Timestamp, Token,
};
pub use self::replay::HeaderFilter;
pub use self::scope::{Identity, Principal, Scope, VerifiedPrincipal};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Names a place where a test may end or freeze the process; expands to nothing without the feature
/// `failpoints`. For async code only. See `crate::failpoint` for what can happen there.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::reach($name).await
    };
}

/// Names a place where a test may end or freeze the process, in builds with the feature `failpoints`.
/// This build has none of it.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
}
