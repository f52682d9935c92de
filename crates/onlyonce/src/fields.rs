//! Hashing a sequence of byte strings so that no two sequences share an input.
//!
//! Joining with a separator is ambiguous as soon as a part may contain it: `("a", "b:c")` and `("a:b", "c")`.
//! Here every part is preceded by its length, every optional part by whether it is there, every list is
//! closed, and every purpose has a key of its own.

use std::sync::OnceLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

/// What is hashed, and the version of the way it is: changing either changes every hash.
pub(crate) struct Purpose {
    name: &'static str,
    /// Its name's own hash, worked out once: a request is hashed for five purposes.
    key: OnceLock<ContextKey>,
}

impl Purpose {
    /// `name` is a constant that no other purpose has.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            key: OnceLock::new(),
        }
    }
}

/// A hash over parts, for one purpose. Two kilobytes large: not to be moved about.
///
/// Parts are short, and most of what comes between them has eight bytes or one: they are gathered before they
/// are hashed, for a call of the hasher costs as much as hashing them.
pub(crate) struct Fields {
    hasher: blake3::Hasher,
    gathered: [u8; GATHERED_MAX],
    gathered_len: usize,
}

/// A few of BLAKE3's blocks.
const GATHERED_MAX: usize = 256;

impl Fields {
    /// Begins.
    pub(crate) fn new(purpose: &'static Purpose) -> Self {
        let key = purpose
            .key
            .get_or_init(|| hash_derive_key_context(purpose.name));
        Self {
            hasher: blake3::Hasher::new_from_context_key(key),
            gathered: [0; GATHERED_MAX],
            gathered_len: 0,
        }
    }

    /// Adds one part.
    pub(crate) fn field(&mut self, part: impl AsRef<[u8]>) -> &mut Self {
        self.push(part.as_ref());
        self
    }

    /// Adds a part that may be missing: missing and empty differ.
    pub(crate) fn optional(&mut self, part: Option<impl AsRef<[u8]>>) -> &mut Self {
        self.list(part)
    }

    /// Adds any number of parts; how many is part of the hash.
    pub(crate) fn list(&mut self, parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> &mut Self {
        for part in parts {
            self.write(&[1]);
            self.push(part.as_ref());
        }
        self.write(&[0]);
        self
    }

    /// The hash.
    pub(crate) fn finish(&mut self) -> [u8; 32] {
        self.flush();
        *self.hasher.finalize().as_bytes()
    }

    fn push(&mut self, part: &[u8]) {
        self.write(&(part.len() as u64).to_le_bytes());
        self.write(part);
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.len() > GATHERED_MAX - self.gathered_len {
            self.flush();
            if bytes.len() > GATHERED_MAX {
                self.hasher.update(bytes);
                return;
            }
        }
        let end = self.gathered_len + bytes.len();
        self.gathered[self.gathered_len..end].copy_from_slice(bytes);
        self.gathered_len = end;
    }

    fn flush(&mut self) {
        self.hasher.update(&self.gathered[..self.gathered_len]);
        self.gathered_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TEST: Purpose = Purpose::new("onlyonce test");
    static OTHER: Purpose = Purpose::new("onlyonce other test");

    fn hash(fill: impl FnOnce(&mut Fields) -> &mut Fields) -> [u8; 32] {
        fill(&mut Fields::new(&TEST)).finish()
    }

    /// Records that were made before must be found.
    #[test]
    fn a_purpose_is_a_key_derivation_context() {
        let mut hasher = blake3::Hasher::new_derive_key("onlyonce test");
        hasher.update(&2_u64.to_le_bytes()).update(b"ab");
        assert_eq!(hash(|f| f.field("ab")), *hasher.finalize().as_bytes());
    }

    /// However the parts' lengths fall on the places where what was gathered is hashed.
    #[test]
    fn what_is_gathered_is_hashed_once_and_in_order() {
        for length in 0..=2 * GATHERED_MAX {
            let part: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let mut hasher = blake3::Hasher::new_derive_key("onlyonce test");
            for part in [&part[..], &part[..length / 3], b"", &part[length / 2..]] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            let gathered = hash(|fields| {
                fields.field(&part).field(&part[..length / 3]);
                fields.field("").field(&part[length / 2..])
            });
            assert_eq!(gathered, *hasher.finalize().as_bytes(), "{length}");
        }
    }

    #[test]
    fn no_two_sequences_share_a_hash() {
        let none: [&str; 0] = [];
        let hashes = [
            hash(|f| f),
            hash(|f| f.field("")),
            hash(|f| f.field("ab").field("c")),
            hash(|f| f.field("a").field("bc")),
            hash(|f| f.field("abc")),
            hash(|f| f.optional(None::<&str>)),
            hash(|f| f.optional(Some(""))),
            hash(|f| f.list(["a"]).list(["b"])),
            hash(|f| f.list(["a", "b"]).list(none)),
            hash(|f| f.list(none).list(["a", "b"])),
            Fields::new(&OTHER).finish(),
        ];
        for (i, a) in hashes.iter().enumerate() {
            for (j, b) in hashes.iter().enumerate() {
                assert_eq!(a == b, i == j, "{i} and {j}");
            }
        }
    }
}
