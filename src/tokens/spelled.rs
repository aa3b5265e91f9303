//! Bytes as text that a person can read: a token may be part of a character.

use std::fmt::Write as _;

/// The text of a token's bytes; those that are no character of their own are written as `<E6>`.
pub fn spelled(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a `String` cannot fail.
            let _ = write!(out, "<{byte:02X}>");
        }
    }
    out
}

/// The text of several tokens after each other, each as [`spelled`]: bytes that make a character together become it.
pub fn joined<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let texts: String = texts.into_iter().collect();
    let mut bytes = Vec::with_capacity(texts.len());
    let mut rest = texts.as_str();
    while let Some(at) = rest.find('<') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        match rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if !byte.is_ascii() && rest.as_bytes().get(at + 3) == Some(&b'>') => {
                bytes.push(byte);
                rest = &rest[at + 4..];
            }
            _ => {
                bytes.push(b'<');
                rest = &rest[at + 1..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    spelled(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_characters_are_shown_as_bytes_and_become_the_character_again() {
        let east = "東".as_bytes();
        assert_eq!(spelled(east), "東");
        assert_eq!(spelled(&[b' ', east[0]]), " <E6>");
        assert_eq!(spelled(&[east[2], b'a', 0xff]), "<B1>a<FF>");
        let parts = [spelled(&[b' ', east[0]]), spelled(&east[1..])];
        assert_eq!(joined(parts.iter().map(String::as_str)), " 東");
        assert_eq!(joined(["<E6>", "a<b>", "<41>", "<é>", "<E"]), "<E6>a<b><41><é><E");
    }
}
