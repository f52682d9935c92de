//! How an entry is named and written in Redis, and what makes it believed.
//!
//! Both the name and the value hang on the store's [`Generation`], which only those who can read the store
//! know. From it come two keys, one for names and one for values.
//!
//! * **Name**: `onlyonce:` and 32 hexadecimal digits, a keyed BLAKE3 hash of the record's id. An operator's decision
//!   gives the store another generation, so that everything which was put before has a name that nobody looks for
//!   any more, and goes when its time is over.
//! * **Value**, numbers big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version of the format: 1 |
//! | 32 | keyed BLAKE3 hash of the id, the version, and all that follows |
//! | 8 | end of retention, µs since the Unix epoch by the store's clock |
//! | 32 | fingerprint |
//! | 32 | credential |
//! | n | the response as `onlyonce::codec` wrote it, to the very end |
//!
//! The id is in the hash though it is not in the value: a value that somebody copied to the name of another
//! record is no value of that record.
//!
//! ```
//! use onlyonce::RecordId;
//! use onlyonce::cached::Entry;
//! use onlyonce::store::Generation;
//! use onlyonce_redis::value;
//! # use onlyonce::{Fingerprint, CredentialHash, Timestamp};
//!
//! let (generation, id) = (Generation::random(), RecordId::from_bytes([1; 16]));
//! # let entry = Entry {
//! #     fingerprint: Fingerprint::from_bytes([2; 32]),
//! #     credential: CredentialHash::from_bytes([3; 32]),
//! #     expires_at: Timestamp::from_micros(4),
//! #     response: "response".into(),
//! # };
//! let sealed = value::seal(&generation, &id, &entry);
//! assert_eq!(value::open(&generation, &id, &sealed), Some(entry));
//! assert_eq!(value::open(&Generation::random(), &id, &sealed), None);
//! assert_eq!(value::open(&generation, &RecordId::from_bytes([9; 16]), &sealed), None);
//! ```

use blake3::{Hash, Hasher};
use bytes::{Buf, BufMut, Bytes};
use onlyonce::cached::Entry;
use onlyonce::store::Generation;
use onlyonce::{CredentialHash, Fingerprint, RecordId, Timestamp};

const VERSION: u8 = 1;
const PREFIX: &str = "onlyonce:";
const NAMES: &str = "onlyonce 2026-11-24 names of shared entries";
const VALUES: &str = "onlyonce 2026-11-24 authentication of shared entries";

/// What comes before the response.
pub const HEAD_BYTES: usize = 1 + 32 + 8 + 32 + 32;

/// Under which name an entry is kept.
pub fn name(generation: &Generation, id: &RecordId) -> String {
    let mut hash = [0; 16];
    Hasher::new_keyed(&key(NAMES, generation))
        .update(id.as_bytes())
        .finalize_xof()
        .fill(&mut hash);
    format!("{PREFIX}{}", RecordId::from_bytes(hash))
}

/// The value for an entry.
pub fn seal(generation: &Generation, id: &RecordId, entry: &Entry) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_BYTES + entry.response.len());
    value.put_u8(VERSION);
    value.put_bytes(0, 32);
    value.put_i64(entry.expires_at.as_micros());
    value.put_slice(entry.fingerprint.as_bytes());
    value.put_slice(entry.credential.as_bytes());
    value.put_slice(&entry.response);
    let proof = proof(generation, id, &value);
    value[1..33].copy_from_slice(proof.as_bytes());
    value
}

/// The entry in a value; `None` for all that [`seal`] did not make for this id in this generation.
pub fn open(generation: &Generation, id: &RecordId, value: &[u8]) -> Option<Entry> {
    let mut head = value.get(..HEAD_BYTES)?;
    if head.get_u8() != VERSION {
        return None;
    }
    // Compared in constant time.
    if Hash::from_bytes(take(&mut head)) != proof(generation, id, value) {
        return None;
    }
    Some(Entry {
        expires_at: Timestamp::from_micros(head.get_i64()),
        fingerprint: Fingerprint::from_bytes(take(&mut head)),
        credential: CredentialHash::from_bytes(take(&mut head)),
        // Not a slice: it is kept for long, without the head.
        response: Bytes::copy_from_slice(&value[HEAD_BYTES..]),
    })
}

fn key(purpose: &str, generation: &Generation) -> [u8; 32] {
    blake3::derive_key(purpose, generation.as_bytes())
}

/// The proof for a value at least as long as its head, whatever stands where the proof belongs.
fn proof(generation: &Generation, id: &RecordId, value: &[u8]) -> Hash {
    let mut hasher = Hasher::new_keyed(&key(VALUES, generation));
    hasher.update(id.as_bytes());
    hasher.update(&value[..1]);
    hasher.update(&value[33..]);
    hasher.finalize()
}

fn take(head: &mut &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    head.copy_to_slice(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(byte: u8) -> RecordId {
        RecordId::from_bytes([byte; 16])
    }

    fn entry(response: &[u8]) -> Entry {
        Entry {
            fingerprint: Fingerprint::from_bytes([2; 32]),
            credential: CredentialHash::from_bytes([3; 32]),
            expires_at: Timestamp::from_micros(0x0102_0304_0506_0708),
            response: Bytes::copy_from_slice(response),
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let generation = Generation::from_bytes([7; 32]);
        let value = seal(&generation, &id(1), &entry(b"hi"));
        assert_eq!(value.len(), HEAD_BYTES + 2);
        assert_eq!(value[0], 1);
        assert_eq!(value[33..41], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(value[41..73], [2; 32]);
        assert_eq!(value[73..105], [3; 32]);
        assert_eq!(&value[105..], b"hi");
    }

    #[test]
    fn names_differ_by_generation_and_id_and_show_neither() {
        let generation = Generation::from_bytes([7; 32]);
        let name_of = |generation: &Generation, byte| name(generation, &id(byte));
        let shown = name_of(&generation, 1);
        assert_eq!(shown.len(), "onlyonce:".len() + 32);
        assert_eq!(shown, name_of(&generation, 1));
        assert_ne!(shown, name_of(&generation, 2));
        assert_ne!(shown, name_of(&Generation::from_bytes([8; 32]), 1));
        assert!(!shown.contains(&id(1).to_string()));
    }

    #[test]
    fn every_flipped_bit_every_cut_and_every_addition_is_a_miss() {
        let generation = Generation::random();
        let value = seal(&generation, &id(1), &entry(b"a response"));
        assert_eq!(
            open(&generation, &id(1), &value),
            Some(entry(b"a response"))
        );
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&generation, &id(1), &damaged), None, "bit {bit}");
        }
        for end in 0..value.len() {
            assert_eq!(open(&generation, &id(1), &value[..end]), None, "{end}");
        }
        assert_eq!(
            open(&generation, &id(1), &[&value[..], b"x"].concat()),
            None
        );
    }

    #[test]
    fn what_was_made_for_another_id_or_generation_is_a_miss() {
        let generation = Generation::random();
        let value = seal(&generation, &id(1), &entry(b"a response"));
        assert_eq!(open(&generation, &id(2), &value), None);
        assert_eq!(open(&Generation::random(), &id(1), &value), None);
    }

    #[test]
    fn an_entry_keeps_no_more_than_its_own_bytes() {
        let generation = Generation::random();
        let value = seal(&generation, &id(1), &entry(&[5; 1000]));
        let response = open(&generation, &id(1), &value).unwrap().response;
        assert_eq!(Vec::from(response).capacity(), 1000);
    }

    proptest! {
        #[test]
        fn any_entry_comes_back(generation: [u8; 32], id: [u8; 16], at: i64, response: Vec<u8>) {
            let (generation, id) = (Generation::from_bytes(generation), RecordId::from_bytes(id));
            let entry = Entry { expires_at: Timestamp::from_micros(at), ..entry(&response) };
            prop_assert_eq!(open(&generation, &id, &seal(&generation, &id, &entry)), Some(entry));
        }

        #[test]
        fn garbage_is_a_miss(value: Vec<u8>) {
            prop_assert_eq!(open(&Generation::from_bytes([0; 32]), &id(1), &value), None);
        }
    }
}
