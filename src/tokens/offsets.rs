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

/// Byte range of each token in `text`.
///
/// The pieces' own bytes decide where they spell the text, which they do unless the tokenizer normalises it; so a
/// character split over tokens is split exactly, and a leading space belongs to its token whatever the
/// tokenizer's `trim_offsets` says. `SentencePiece`'s added first space is given no place. Where the pieces do not spell the
/// text, the library's offsets are taken.
pub(super) fn align(text: &str, pieces: &[&[u8]], library: &[(usize, usize)]) -> Vec<Range<usize>> {
    let spelled = |lead: usize| {
        let total: usize = pieces.iter().map(|p| p.len()).sum();
        if total != text.len() + lead {
            return None;
        }
        let mut at = 0;
        let mut ranges = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let end = at + piece.len();
            let here = at.saturating_sub(lead)..end.saturating_sub(lead);
            let skipped = lead.saturating_sub(at).min(piece.len());
            if text.as_bytes()[here.clone()] != piece[skipped..]
                || piece[..skipped].iter().any(|&b| b != b' ')
            {
                return None;
            }
            ranges.push(here);
            at = end;
        }
        Some(ranges)
    };
    spelled(0).or_else(|| spelled(1)).unwrap_or_else(|| {
        library.iter().map(|&(start, end)| start.min(text.len())..end.min(text.len()).max(start)).collect()
    })
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
        let ranges = align(text, &pieces, &[]);
        assert_eq!(ranges, [0..3, 3..5, 5..6]);
        let index = CharIndex::new(text);
        assert_eq!(ranges.iter().map(|r| index.chars(r)).collect::<Vec<_>>(), [0..2, 1..2, 2..3]);
    }

    #[test]
    fn the_space_sentencepiece_puts_first_has_no_place_in_the_text() {
        let ranges = align("hi you", &[b" ", b"hi", b" you"], &[]);
        assert_eq!(ranges, [0..0, 0..2, 2..6]);
        assert_eq!(align("hi", &[b" hi"], &[]), vec![0..2]);
    }

    #[test]
    fn the_librarys_offsets_are_taken_where_pieces_do_not_spell_the_text() {
        assert_eq!(align("xyz", &[b"ab"], &[(1, 3)]), vec![1..3]);
        assert_eq!(align("abc", &[b"abd"], &[(0, 3)]), vec![0..3]);
    }

    #[test]
    fn broken_utf8_decodes_to_replacement_characters_with_places() {
        let (text, ranges) = decode(&[b"a", b"\xf0\x9f", b"b"]);
        assert_eq!(text, "a\u{fffd}b");
        assert_eq!(ranges, [0..1, 1..4, 4..5]);
    }
}
