//! Signatures of webhooks as [Standard Webhooks](https://www.standardwebhooks.com) has them: what the webhook
//! sink puts on its messages, and what their receivers check.
//!
//! A signature covers the message's id, the time of this delivery and the body: nobody without the secret can
//! change one of them, and an old delivery cannot be sent again once its time is past. Within that time it can
//! be, which is what the [inbox](crate::inbox) is for.
//!
//! Several secrets can be in force at a time, on both sides, so that one can be replaced by another.
//!
//! ```
//! use onlyonce_outbox::standard_webhooks::{Secret, Verifier, sign};
//!
//! let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?;
//! let signatures = sign(&[secret.clone()], "msg_1", 1_614_265_330, b"{}");
//!
//! let verifier = Verifier::new([secret]);
//! let now = 1_614_265_331;
//! verifier.verify_at(now, "msg_1", "1614265330", &signatures, b"{}")?;
//! assert!(verifier.verify_at(now, "msg_2", "1614265330", &signatures, b"{}").is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

/// The header with the message's id.
pub const ID: &str = "webhook-id";
/// The header with the time of the delivery, in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures, with spaces between them.
pub const SIGNATURE: &str = "webhook-signature";

const PREFIX: &str = "whsec_";
/// A secret shorter than this, in bytes, is no secret.
const SECRET_MIN: usize = 16;
/// The most signatures that are looked at: as many as a sender has secrets, and not what an attacker sends.
const SIGNATURES_MAX: usize = 16;

/// What sender and receiver share: `whsec_` and 24 to 64 bytes in base64. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why something is no secret. It does not say what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a webhook secret is `whsec_` followed by at least 16 bytes in base64")]
#[non_exhaustive]
pub struct InvalidSecret;

impl Secret {
    /// A new one, of 32 random bytes. [`reveal`](Self::reveal) it to whoever is to share it.
    ///
    /// # Errors
    /// Where the operating system has no random bytes.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = vec![0; 32];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(bytes))
    }

    /// The secret as text, for the other side's settings.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.0))
    }

    fn mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        mac
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        if bytes.len() < SECRET_MIN {
            return Err(InvalidSecret);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The value of `webhook-signature` for a delivery at `timestamp` (seconds since 1970): one signature for each
/// secret. Empty where there is no secret.
pub fn sign(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let one = |secret: &Secret| {
        let signature = secret.mac(id, timestamp, body).finalize().into_bytes();
        format!("v1,{}", BASE64_STANDARD.encode(signature))
    };
    let signatures: Vec<_> = secrets.iter().map(one).collect();
    signatures.join(" ")
}

/// Why a delivery is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The id is empty, or has a full stop in it: then another id and body could have the same signature.
    #[error("the webhook's id cannot be signed")]
    Id,
    /// The timestamp is no number of seconds.
    #[error("the webhook's timestamp is not a number")]
    Timestamp,
    /// The delivery is older than is tolerated. Sent again by its sender, it has a new timestamp.
    #[error("the webhook's timestamp is too old")]
    TooOld,
    /// The delivery comes from the future: one of the two clocks is wrong.
    #[error("the webhook's timestamp is in the future")]
    TooNew,
    /// No signature is by one of the secrets.
    #[error("the webhook's signature is not by a secret that is known")]
    Mismatch,
}

/// Checks deliveries. One that passes comes from somebody with the secret, and is recent.
#[derive(Debug, Clone)]
pub struct Verifier {
    secrets: Vec<Secret>,
    tolerance: Duration,
}

impl Verifier {
    /// One that believes these secrets; without any it believes nothing.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        Self {
            secrets: secrets.into_iter().collect(),
            tolerance: Duration::from_secs(300),
        }
    }

    /// How far the delivery's time may be from ours, in the past or in the future. 5 minutes by default.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Whether a delivery that came now is to be believed: the values of its headers [`ID`], [`TIMESTAMP`] and
    /// [`SIGNATURE`], and its body, byte for byte as it came.
    ///
    /// # Errors
    /// [`SignatureError`]; to the sender all are the same, a `401`.
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
    ) -> Result<(), SignatureError> {
        let now = Timestamp::now().as_second();
        self.verify_at(now, id, timestamp, signatures, body)
    }

    /// As [`verify`](Self::verify), for one that came at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify_at(
        &self,
        now: i64,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
    ) -> Result<(), SignatureError> {
        if id.is_empty() || id.contains('.') {
            return Err(SignatureError::Id);
        }
        let timestamp: i64 = timestamp.parse().map_err(|_| SignatureError::Timestamp)?;
        let tolerance = i64::try_from(self.tolerance.as_secs()).unwrap_or(i64::MAX);
        match now.saturating_sub(timestamp) {
            age if age > tolerance => return Err(SignatureError::TooOld),
            age if age < -tolerance => return Err(SignatureError::TooNew),
            _ => {}
        }
        let given = signatures.split(' ').take(SIGNATURES_MAX);
        let given = given.filter_map(|signature| signature.strip_prefix("v1,"));
        for signature in given.filter_map(|encoded| BASE64_STANDARD.decode(encoded).ok()) {
            for secret in &self.secrets {
                let mac = secret.mac(id, timestamp, body);
                // Takes as long whichever byte differs.
                if mac.verify_slice(&signature).is_ok() {
                    return Ok(());
                }
            }
        }
        Err(SignatureError::Mismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_614_265_330;

    fn secret() -> Secret {
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap()
    }

    /// From the tests of the reference implementation.
    #[test]
    fn signatures_are_those_of_the_reference() {
        let body = br#"{"test": 2432232314}"#;
        let signature = sign(&[secret()], "msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_signs_and_each_is_believed() {
        let (old, new, other) = (
            secret(),
            Secret::generate().unwrap(),
            Secret::generate().unwrap(),
        );
        let signatures = sign(&[old.clone(), new.clone()], "msg_1", NOW, b"{}");
        let verify = |secrets: &[Secret]| {
            let verifier = Verifier::new(secrets.iter().cloned());
            verifier.verify_at(NOW, "msg_1", &NOW.to_string(), &signatures, b"{}")
        };
        for believed in [vec![old], vec![new.clone()], vec![other.clone(), new]] {
            verify(&believed).unwrap();
        }
        assert_eq!(verify(&[other]), Err(SignatureError::Mismatch));
        assert_eq!(verify(&[]), Err(SignatureError::Mismatch));
    }

    #[test]
    fn nothing_that_is_signed_can_be_changed() {
        let signatures = sign(&[secret()], "msg_1", NOW, b"{}");
        let verifier = Verifier::new([secret()]);
        let verify = |now, id, timestamp: &str, signatures: &str, body| {
            verifier.verify_at(now, id, timestamp, signatures, body)
        };
        let time = NOW.to_string();
        verify(NOW, "msg_1", &time, &signatures, b"{}").unwrap();
        let later = (NOW + 1).to_string();
        let unsigned = signatures.replace("v1,", "v1a,");
        for (id, time, signatures, body) in [
            ("msg_2", &time, signatures.as_str(), b"{}"),
            ("msg_1", &later, &signatures, b"{}"),
            ("msg_1", &time, &signatures, b"[]"),
            ("msg_1", &time, "", b"{}"),
            ("msg_1", &time, "v1,", b"{}"),
            ("msg_1", &time, "v1,AAAA", b"{}"),
            ("msg_1", &time, &unsigned, b"{}"),
        ] {
            let refused = verify(NOW, id, time, signatures, body);
            assert_eq!(refused, Err(SignatureError::Mismatch), "{signatures}");
        }
        let mixed = format!("v1a,xyz v1,AAAA {signatures}");
        verify(NOW, "msg_1", &time, &mixed, b"{}").unwrap();
    }

    #[test]
    fn deliveries_are_believed_for_a_while_only() {
        let signatures = sign(&[secret()], "msg_1", NOW, b"{}");
        let verifier = Verifier::new([secret()]).tolerance(Duration::from_secs(60));
        let at = |now| verifier.verify_at(now, "msg_1", &NOW.to_string(), &signatures, b"{}");
        at(NOW + 60).unwrap();
        at(NOW - 60).unwrap();
        assert_eq!(at(NOW + 61), Err(SignatureError::TooOld));
        assert_eq!(at(NOW - 61), Err(SignatureError::TooNew));
        let bad = verifier.verify_at(NOW, "msg_1", "soon", &signatures, b"{}");
        assert_eq!(bad, Err(SignatureError::Timestamp));
        let far = verifier.verify_at(NOW, "msg_1", &i64::MIN.to_string(), &signatures, b"{}");
        assert_eq!(far, Err(SignatureError::TooOld));
    }

    /// What is signed is `id.timestamp.body`, and a full stop in the id would move the borders.
    #[test]
    fn an_id_with_a_full_stop_is_not_believed() {
        let body = format!("{}.x", NOW + 5);
        let signatures = sign(&[secret()], "msg_1", NOW, body.as_bytes());
        let moved = sign(&[secret()], &format!("msg_1.{NOW}"), NOW + 5, b"x");
        assert_eq!(signatures, moved);
        let verifier = Verifier::new([secret()]);
        let time = (NOW + 5).to_string();
        let id = format!("msg_1.{NOW}");
        let refused = verifier.verify_at(NOW, &id, &time, &signatures, b"x");
        assert_eq!(refused, Err(SignatureError::Id));
    }

    #[test]
    fn secrets_are_read_and_not_shown() {
        let secret = Secret::generate().unwrap();
        assert_eq!(secret.reveal().parse(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        for bad in [
            "",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_AAAA",
            "whsec_?",
        ] {
            assert_eq!(bad.parse::<Secret>(), Err(InvalidSecret), "{bad}");
        }
    }
}
