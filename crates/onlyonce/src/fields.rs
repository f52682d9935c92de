//! Hashing a sequence of byte strings so that no two sequences share an input.
//!
//! Joining with a separator is ambiguous as soon as a part may contain it: `("a", "b:c")` and `("a:b", "c")`.
//! Here every part is preceded by its length, every optional part by whether it is there, every list is
//! closed, and every purpose has a key of its own.

/// A hash over parts, for one purpose.
pub(crate) struct Fields(blake3::Hasher);

impl Fields {
    /// Begins. `purpose` is a constant that names what is hashed, and the version of the way it is:
    /// changing either changes every hash.
    pub(crate) fn new(purpose: &'static str) -> Self {
        Self(blake3::Hasher::new_derive_key(purpose))
    }

    /// Adds one part.
    pub(crate) fn field(mut self, part: impl AsRef<[u8]>) -> Self {
        self.push(part.as_ref());
        self
    }

    /// Adds a part that may be missing: missing and empty differ.
    pub(crate) fn optional(self, part: Option<impl AsRef<[u8]>>) -> Self {
        self.list(part)
    }

    /// Adds any number of parts; how many is part of the hash.
    pub(crate) fn list(mut self, parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        for part in parts {
            self.0.update(&[1]);
            self.push(part.as_ref());
        }
        self.0.update(&[0]);
        self
    }

    /// The hash.
    pub(crate) fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    fn push(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fill: impl FnOnce(Fields) -> Fields) -> [u8; 32] {
        fill(Fields::new("onlyonce test")).finish()
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
            Fields::new("onlyonce other test").finish(),
        ];
        for (i, a) in hashes.iter().enumerate() {
            for (j, b) in hashes.iter().enumerate() {
                assert_eq!(a == b, i == j, "{i} and {j}");
            }
        }
    }
}
