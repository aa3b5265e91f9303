//! Where tokens lie in a text, in bytes and in characters.

use std::ops::Range;

/// Character index of every byte of a text, and of its end.
pub(super) struct CharIndex(Vec<usize>);

impl CharIndex {
    pub(super) fn new(text: &str) -> Self {
        let mut of_byte = Vec::with_capacity(text.len() + 1);
        let mut count = 0;
        for (i, c) in text.chars().enumerate() {
            of_byte.extend(std::iter::repeat_n(i, c.len_utf8()));
            count = i + 1;
        }
        of_byte.push(count);
        Self(of_byte)
    }

    /// Characters that share a byte with `bytes`; empty for an empty range.
    pub(super) fn chars(&self, bytes: &Range<usize>) -> Range<usize> {
        let start = self.0[bytes.start];
        if bytes.is_empty() { start..start } else { start..self.0[bytes.end - 1] + 1 }
    }
}

/// Byte range of each token in `text`, given its own bytes and the library's offsets.
///
/// The pieces' own bytes decide as far as they spell the text, which they do unless the tokenizer normalises it or drops what it has
/// no token for; so a character split over tokens is split exactly, and a leading space belongs to its token whatever the tokenizer's
/// `trim_offsets` says. The space that `SentencePiece` puts first has no place in the text. Elsewhere the library's offsets hold.
pub(super) fn align(text: &str, pieces: &[&[u8]], library: &[(usize, usize)]) -> Vec<Range<usize>> {
    let mut at = 0;
    // As many bytes as were dropped, at most. The library's offsets fall behind by them until the next word.
    let dropped = text.len().saturating_sub(pieces.iter().map(|piece| piece.len()).sum());
    let place = |(piece, &(start, end)): (&&[u8], &(usize, usize))| {
        let stated = start.min(text.len())..end.min(text.len());
        let range = place(text.as_bytes(), piece, at, stated, dropped);
        at = at.max(range.end);
        range
    };
    pieces.iter().zip(library).map(place).collect()
}

/// Where a piece lies that comes after `at` and, says the library, in `stated`, or up to `dropped` bytes on.
fn place(text: &[u8], piece: &[u8], at: usize, stated: Range<usize>, dropped: usize) -> Range<usize> {
    if text[at..].starts_with(piece) {
        return at..at + piece.len();
    }
    if let Some(rest) = piece.strip_prefix(b" ")
        && at == 0
        && text.starts_with(rest)
    {
        return 0..rest.len();
    }
    if let Some(range) = passing_over(text, piece, at, dropped) {
        return range;
    }
    let from = at.max(stated.start);
    let within = text.get(from..stated.end).unwrap_or_default();
    match within.windows(piece.len().max(1)).position(|window| window == piece) {
        Some(skipped) => from + skipped..from + skipped + piece.len(),
        None => stated.start..stated.end.max(stated.start),
    }
}

/// Where the piece's bytes follow in order if up to `budget` bytes of the text, before or between them, are left out.
/// A byte that was dropped has no token, so it cannot be taken for one of the piece's.
fn passing_over(text: &[u8], piece: &[u8], at: usize, mut budget: usize) -> Option<Range<usize>> {
    let mut next = at;
    let mut start = None;
    for byte in piece {
        while text.get(next)? != byte {
            budget = budget.checked_sub(1)?;
            next += 1;
        }
        start.get_or_insert(next);
        next += 1;
    }
    Some(start?..next)
}

/// The text that `pieces` decode to and each piece's byte range in it. Bytes that are no UTF-8 become U+FFFD, and a piece that
/// ends inside such a run, or inside a character, keeps exact bytes in the latter and covers the whole U+FFFD in the former.
pub(super) fn decode(pieces: &[&[u8]]) -> (String, Vec<Range<usize>>) {
    let raw = pieces.concat();
    let mut text = String::with_capacity(raw.len());
    // Start and end, in `text`, of what each raw byte became.
    let mut place: Vec<Range<usize>> = Vec::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        let at = text.len();
        text.push_str(chunk.valid());
        place.extend((at..text.len()).map(|i| i..i + 1));
        if !chunk.invalid().is_empty() {
            let at = text.len();
            text.push(char::REPLACEMENT_CHARACTER);
            place.extend(std::iter::repeat_n(at..text.len(), chunk.invalid().len()));
        }
    }
    let mut at = 0;
    let ranges = pieces
        .iter()
        .map(|piece| {
            let bytes = at..at + piece.len();
            at = bytes.end;
            if bytes.is_empty() {
                let here = place.get(bytes.start).map_or(text.len(), |p| p.start);
                here..here
            } else {
                place[bytes.start].start..place[bytes.end - 1].end
            }
        })
        .collect();
    (text, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_split_over_tokens_has_exact_bytes_and_is_shared_as_a_character() {
        let text = "a🙂b";
        let bytes = text.as_bytes();
        let pieces = [&bytes[0..3], &bytes[3..5], &bytes[5..6]];
        let ranges = align(text, &pieces, &[(0, 5), (1, 5), (5, 6)]);
        assert_eq!(ranges, [0..3, 3..5, 5..6]);
        let index = CharIndex::new(text);
        assert_eq!(ranges.iter().map(|r| index.chars(r)).collect::<Vec<_>>(), [0..2, 1..2, 2..3]);
    }

    #[test]
    fn the_space_sentencepiece_puts_first_has_no_place_in_the_text() {
        let ranges = align("hi you", &[b" ", b"hi", b" you"], &[(0, 0), (0, 2), (2, 6)]);
        assert_eq!(ranges, [0..0, 0..2, 2..6]);
        assert_eq!(align("hi", &[b" hi"], &[(0, 2)]), vec![0..2]);
    }

    #[test]
    fn the_librarys_offsets_are_taken_where_pieces_do_not_spell_the_text() {
        // Composed by the tokenizer: two characters of the text, one of the token. What follows is exact again.
        let ranges = align("e\u{301}x y", &["é".as_bytes(), b"x", b" y"], &[(0, 3), (3, 4), (5, 6)]);
        assert_eq!(ranges, [0..3, 3..4, 4..6]);
        assert_eq!(align("abc", &[b"abd"], &[(0, 9)]), vec![0..3]);
    }

    #[test]
    fn bytes_that_have_no_token_are_passed_over() {
        let text = "a\u{4}b\u{40000}c";
        let bytes = text.as_bytes();
        let pieces = [&bytes[0..1], &bytes[2..3], &bytes[4..5], &bytes[5..6], &bytes[6..7], &bytes[7..8]];
        let library = [(0, 1), (1, 2), (2, 3), (3, 7), (3, 7), (3, 7)];
        assert_eq!(align(text, &pieces, &library), [0..1, 2..3, 4..5, 5..6, 6..7, 7..8]);
        // A token may even join the bytes on both sides.
        assert_eq!(align("a\u{4}bc", &[b"ab", b"c"], &[(0, 2), (2, 3)]), [0..3, 3..4]);
    }

    #[test]
    fn broken_utf8_decodes_to_replacement_characters_with_places() {
        let (text, ranges) = decode(&[b"a", b"\xf0\x9f", b"b"]);
        assert_eq!(text, "a\u{fffd}b");
        assert_eq!(ranges, [0..1, 1..4, 4..5]);
    }
}
