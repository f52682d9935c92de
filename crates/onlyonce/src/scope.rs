//! Whose key it is, and where it counts: from a request to the id of its record.
//!
//! Two questions are kept apart. *Is this a duplicate?* is decided by the [`Principal`], which a refreshed
//! token does not change: otherwise a retry would be a second charge. *May this caller see the answer?* is
//! decided by the [`Credential`], which must be the very one that made the record: an unverified claim must
//! not open someone else's answer.
//!
//! ```
//! use onlyonce::key::{IdempotencyKey, KeyError, KeySyntax};
//! use onlyonce::scope::{Identity, Principal, PrincipalSource, Scope};
//!
//! let (parts, ()) = http::Request::post("/charges").body(()).unwrap().into_parts();
//! let principal = Principal::of(&parts, &PrincipalSource::Default);
//! let key = IdempotencyKey::parse(b"8e03978e", &KeySyntax::default())?;
//! let identity = Identity {
//!     service: "billing",
//!     principal: &principal,
//!     method: &parts.method,
//!     path: parts.uri.path(),
//!     key: &key,
//!     scope: Scope::Route,
//! };
//! assert_ne!(identity.id(), Identity { path: "/refunds", ..identity }.id());
//!
//! let account = Identity { scope: Scope::Account, ..identity };
//! assert_eq!(account.id(), Identity { path: "/refunds", ..account }.id());
//! # Ok::<(), KeyError>(())
//! ```

use http::Method;
use http::request::Parts;

use crate::fields::{Fields, Purpose};
use crate::key::IdempotencyKey;
use crate::policy::Policy;
use crate::record::RecordId;

mod credential;
mod principal;
mod target;

pub use self::credential::{Credential, CredentialSource};
pub use self::principal::{Principal, PrincipalSource, VerifiedPrincipal};
pub use self::target::Target;

static RECORD_ID: Purpose = Purpose::new("onlyonce 2026-11 record id v1");

/// Where a key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// Per method and path: the same key elsewhere is another record.
    #[default]
    Route,
    /// In the whole account: the same key with another method or path is a reused key, 422.
    Account,
}

/// Everything that makes a record the same record.
///
/// The path is the client's, byte for byte, without query: `/a//b` and `/a/b` differ, for the upstream may
/// tell them apart. The host is no part of it; `service` is, so that two upstreams never share a key.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The upstream's name.
    pub service: &'a str,
    /// Whose key it is.
    pub principal: &'a Principal,
    /// The request's method; not used in [`Scope::Account`].
    pub method: &'a Method,
    /// The target's path; not used in [`Scope::Account`].
    pub path: &'a str,
    /// The key.
    pub key: &'a IdempotencyKey,
    /// Where it counts.
    pub scope: Scope,
}

impl Identity<'_> {
    /// The record's id: the first 128 bits of a BLAKE3 hash over the parts, each with its length.
    pub fn id(&self) -> RecordId {
        let mut fields = Fields::new(&RECORD_ID);
        fields
            .field(self.service)
            .field(self.principal.digest())
            .field(self.key.as_str());
        let route = match self.scope {
            Scope::Route => Some((self.method.as_str(), self.path)),
            Scope::Account => None,
        };
        let digest = fields
            .optional(route.map(|(method, _)| method))
            .optional(route.map(|(_, path)| path))
            .finish();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        RecordId::from_bytes(id)
    }
}

/// The record of a request under a policy.
pub(crate) fn record_id(
    policy: &Policy,
    parts: &Parts,
    principal: &Principal,
    key: &IdempotencyKey,
) -> RecordId {
    Identity {
        service: &policy.service,
        principal,
        method: &parts.method,
        path: &policy.target_of(parts).path,
        key,
        scope: policy.scope,
    }
    .id()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::key::KeySyntax;

    fn id(policy: &Policy, method: &str, uri: &str, key: &str) -> RecordId {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let principal = Principal::of(&parts, &policy.principal);
        let key = IdempotencyKey::parse(key.as_bytes(), &KeySyntax::default()).unwrap();
        record_id(policy, &parts, &principal, &key)
    }

    #[test]
    fn m3_m5_route_scope_separates_methods_and_paths() {
        let policy = Policy::default();
        let here = id(&policy, "POST", "/a", "k");
        assert_eq!(
            here,
            id(&policy, "POST", "/a?q=1", "k"),
            "M4: the query is fingerprinted"
        );
        assert_eq!(here, id(&policy, "POST", "http://host/a", "k"));
        for (method, uri, key) in [
            ("PATCH", "/a", "k"),
            ("post", "/a", "k"),
            ("POST", "/a/", "k"),
            ("POST", "//a", "k"),
            ("POST", "/%61", "k"),
            ("POST", "/b", "k"),
            ("POST", "/a", "K"),
        ] {
            assert_ne!(here, id(&policy, method, uri, key), "{method} {uri} {key}");
        }
    }

    #[test]
    fn m3_account_scope_joins_them() {
        let policy = Policy::default().with_scope(Scope::Account);
        let here = id(&policy, "POST", "/a", "k");
        assert_eq!(here, id(&policy, "PATCH", "/b", "k"));
        assert_ne!(here, id(&policy, "POST", "/a", "l"));
        assert_ne!(here, id(&Policy::default(), "POST", "/a", "k"));
    }

    #[test]
    fn k19_parts_cannot_be_shifted_into_each_other() {
        let policy = Policy::default();
        assert_ne!(
            id(&policy, "POST", "/a", "bk"),
            id(&policy, "POST", "/ab", "k")
        );
        let service = Policy::default().with_service("s");
        assert_ne!(
            id(&policy, "POST", "/a", "sk"),
            id(&service, "POST", "/a", "k")
        );
    }
}
