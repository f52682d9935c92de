//! The words a record is made of: id, token, epoch, fingerprint, states and times.
//!
//! A *record* is what the store keeps for one key. Its life is
//!
//! ```text
//! absent ─claim─▶ in flight ─settle─▶ completed ─retention over─▶ absent
//!                   │  │
//!                   │  └─release─▶ free ─claim (epoch + 1)─▶ in flight
//!                   └─lease lapsed, or settled so─▶ unknown
//! ```
//!
//! Every write names the *token* of the request that claimed the record and the *epoch* it was granted,
//! so an owner that was presumed dead cannot touch what a later owner did.
//!
//! ```
//! use onlyonce::{RecordId, Token};
//!
//! let id: RecordId = "00112233445566778899aabbccddeeff".parse()?;
//! assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
//! assert_ne!(Token::random(), Token::random());
//! # Ok::<(), onlyonce::ParseIdError>(())
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The identity of a record: 128 bits of BLAKE3 over scope and key. Made by [`crate::Identity`].
///
/// It is what logs, problem bodies and the `records` command show in place of the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId([u8; 16]);

impl RecordId {
    /// An id from its 16 bytes, as a store keeps it.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, as a store keeps them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({self})")
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record id is 32 hexadecimal digits")]
pub struct ParseIdError;

impl FromStr for RecordId {
    type Err = ParseIdError;

    /// Reads 32 hexadecimal digits, or the `urn:onlyonce:record:` form that problem bodies carry.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = text.strip_prefix("urn:onlyonce:record:").unwrap_or(text);
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseIdError);
        }
        u128::from_str_radix(digits, 16)
            .map(|n| Self(n.to_be_bytes()))
            .map_err(|_| ParseIdError)
    }
}

/// The owner of a claim: 128 random bits, new for each request.
///
/// Because it is random, a claim whose answer was lost can be repeated: a record that carries the token
/// is the repeater's own. It is a capability, so `Debug` does not print it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; 16]);

impl Token {
    /// A fresh token from the operating system's random source.
    ///
    /// # Panics
    /// Where the operating system has no random source. No claim may be made without one: two owners
    /// could not be told apart.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system's random source answers");
        Self(bytes)
    }

    /// A token from its 16 bytes, as a store keeps it.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, as a store keeps them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// How often a record changed hands. Starts at 1, raised by every take-over and every operator's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch of a record's first claim.
    pub const FIRST: Self = Self(1);

    /// An epoch from its number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The epoch of the next owner.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name([u8; 32]);

        impl $name {
            /// A digest from its 32 bytes, as a store keeps it.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes, as a store keeps them.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        /// Compared in constant time.
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}..)"), &blake3::Hash::from_bytes(self.0).to_hex()[..8])
            }
        }
    };
}

digest! {
    /// What a request asked for: BLAKE3 over query, content type, content encoding and body.
    ///
    /// Two requests with one key and different fingerprints are a reused key. See [`crate::fingerprint`].
    Fingerprint
}

digest! {
    /// Who asked: a hash of the credential, salted with the record's id.
    ///
    /// A recorded response is shown only to the credential that made it. See [`crate::scope`].
    CredentialHash
}

/// A moment by the store's clock, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A moment from microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The moment `duration` later; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// The moment `duration` earlier; saturates.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// The time from `earlier` until this moment; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        u64::try_from(self.0.saturating_sub(earlier.0))
            .map_or(Duration::ZERO, Duration::from_micros)
    }
}

/// The state that a store keeps. `Expired` is not among them: it is derived from `expires_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredState {
    /// Released: nothing was executed, the next claim takes it over.
    Free,
    /// Claimed and not settled. Once its lease has lapsed it *means* unknown, without any write.
    InFlight,
    /// Settled with an outcome that is replayed.
    Completed,
    /// Settled as unknown: nobody can tell whether the upstream executed.
    Unknown,
}

impl StoredState {
    /// The number that SQL stores keep: 0 free, 1 in flight, 2 completed, 3 unknown.
    pub const fn code(self) -> i16 {
        match self {
            Self::Free => 0,
            Self::InFlight => 1,
            Self::Completed => 2,
            Self::Unknown => 3,
        }
    }

    /// The state of a number; `None` for one that this version does not know.
    pub const fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::Free),
            1 => Some(Self::InFlight),
            2 => Some(Self::Completed),
            3 => Some(Self::Unknown),
            _ => None,
        }
    }
}
