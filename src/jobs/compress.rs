//! Files of results as they are stored: compressed with gzip.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::store::job::File;

/// A file of a result; the same bytes give the same file.
pub fn file(name: &str, bytes: &[u8]) -> File {
    File { name: name.to_owned(), bytes: compressed(bytes) }
}

/// Bytes as gzip, quickly rather than small.
pub(crate) fn compressed(bytes: &[u8]) -> Vec<u8> {
    gzip(bytes, Compression::fast())
}

/// Bytes as gzip, small rather than quickly.
pub(crate) fn smallest(bytes: &[u8]) -> Vec<u8> {
    gzip(bytes, Compression::best())
}

fn gzip(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("BUG: writing to memory can't fail")
}

/// What a file was made from; `None` if it is damaged.
pub fn restored(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut restored = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut restored).ok().map(|_| restored)
}

/// Length of what a file was made from, as the file says.
pub fn length(bytes: &[u8]) -> u64 {
    let last = bytes.last_chunk().copied().unwrap_or_default();
    u64::from(u32::from_le_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_restored_as_it_was_and_a_damaged_one_is_none() {
        let text = b"{\"cells\":[0.0,0.0,0.0]}".repeat(50);
        let mut stored = file("json", &text);
        assert!(stored.bytes.len() < text.len() / 4);
        assert_eq!(length(&stored.bytes), text.len() as u64);
        assert_eq!(restored(&stored.bytes), Some(text));
        let middle = stored.bytes.len() / 2;
        stored.bytes[middle] ^= 0xff;
        assert_eq!(restored(&stored.bytes), None);
    }
}
