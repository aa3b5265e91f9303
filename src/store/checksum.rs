//! Checksums of what enters results. SQLite keeps none of its pages: a bit that flips in a row of numbers would be read as
//! other numbers.

use sha2::{Digest as _, Sha256};

use super::error::{Place, StoreError};

/// SHA-256 of these parts one after the other, each with its length.
pub(super) fn of(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

/// Refuses parts that are not what was stored. `None`: stored before there were checksums, and taken as it is.
pub(super) fn verify(
    place: &Place,
    what: &dyn std::fmt::Display,
    stored: Option<&[u8]>,
    parts: &[&[u8]],
) -> Result<(), StoreError> {
    match stored {
        Some(stored) if stored != of(parts) => {
            Err(place.corrupt(format!("{what} is not what was stored: its checksum is another")))
        }
        _ => Ok(()),
    }
}
