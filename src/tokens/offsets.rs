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

/// Byte range of each token in `text`, given its own bytes and the library's offsets in characters.
///
/// The library says which characters a token covers. Where tokens share a character, their own bytes say which of its bytes are
/// whose, if they spell it: composed by a normaliser, they may not.
pub(super) fn align(text: &str, pieces: &[&[u8]], library: &[(usize, usize)]) -> Vec<Range<usize>> {
    let starts: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
    let byte = |character: usize| starts.get(character).copied().unwrap_or(text.len());
    let inside = |&(start, end): &(usize, usize)| byte(start)..byte(end.max(start));
    let mut places: Vec<Range<usize>> = library.iter().map(inside).collect();
    let mut first = 0;
    while first < places.len() {
        let mut whole = places[first].clone();
        let mut next = first + 1;
        while let Some(place) = places.get(next).filter(|place| place.start < whole.end) {
            whole = whole.start.min(place.start)..whole.end.max(place.end);
            next += 1;
        }
        if next - first > 1 {
            divide(text, whole, &pieces[first..next], &mut places[first..next]);
        }
        first = next;
    }
    places
}

/// Divides `whole` among the tokens that share it, if they spell it.
fn divide(text: &str, whole: Range<usize>, pieces: &[&[u8]], places: &mut [Range<usize>]) {
    let spelled = pieces.concat();
    // Spaces before it have no place here: the one that SentencePiece puts first, or those that the library cuts off.
    let Some(before) = spelled.strip_suffix(&text.as_bytes()[whole.clone()]) else { return };
    if before.iter().any(|byte| *byte != b' ') {
        return;
    }
    let (mut spaces, mut at) = (before.len(), whole.start);
    for (piece, place) in pieces.iter().zip(places) {
        let own = piece.len().saturating_sub(spaces);
        spaces -= piece.len() - own;
        let end = at + own;
        // Bytes within the same characters: of several that the model has no piece for, the library gives each byte all.
        if *place == (text.floor_char_boundary(at)..text.ceil_char_boundary(end)) {
            *place = at..end;
        }
        at = end;
    }
}

/// The same for a vocabulary without tokens for some bytes, by the tokens' own bytes alone: they spell the text but for the bytes
/// that were dropped, by which the library's offsets are off. `None` if they don't.
pub(super) fn passing_over(text: &str, pieces: &[&[u8]]) -> Option<Vec<Range<usize>>> {
    let text = text.as_bytes();
    let mut at = 0;
    let place = |piece: &&[u8]| {
        let mut start = None;
        for byte in *piece {
            // A byte that was dropped has no token, so it cannot be taken for one of the piece's.
            while text.get(at)? != byte {
                at += 1;
            }
            start.get_or_insert(at);
            at += 1;
        }
        Some(start.unwrap_or(at)..at)
    };
    pieces.iter().map(place).collect()
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
        let ranges = align(text, &pieces, &[(0, 2), (1, 2), (2, 3)]);
        assert_eq!(ranges, [0..3, 3..5, 5..6]);
        let index = CharIndex::new(text);
        assert_eq!(ranges.iter().map(|r| index.chars(r)).collect::<Vec<_>>(), [0..2, 1..2, 2..3]);
    }

    #[test]
    fn a_space_that_the_tokenizer_puts_first_shares_its_character_with_the_token_behind_it() {
        let ranges = align("hi you", &[b" ", b"hi", b" you"], &[(0, 1), (0, 2), (2, 6)]);
        assert_eq!(ranges, [0..1, 0..2, 2..6]);
        assert_eq!(align("hi", &[b" hi"], &[(0, 2)]), vec![0..2]);
        let text = "🙂";
        let (all, bytes) = ([(0, 1); 5], text.as_bytes());
        let pieces = [b" ", &bytes[0..1], &bytes[1..2], &bytes[2..3], &bytes[3..4]];
        assert_eq!(align(text, &pieces, &all), [0..4, 0..1, 1..2, 2..3, 3..4]);
    }

    #[test]
    fn characters_that_fell_back_to_bytes_together_are_all_of_each_byte() {
        assert_eq!(align("67a", &[b"6", b"7", b"a"], &[(0, 2), (0, 2), (2, 3)]), [0..2, 0..2, 2..3]);
    }

    #[test]
    fn a_space_that_the_library_cuts_off_belongs_to_no_token() {
        let text = "a  🙂";
        let pieces = [b"a".as_slice(), b" ", b" \xf0\x9f", b"\x99\x82"];
        assert_eq!(align(text, &pieces, &[(0, 1), (2, 2), (3, 4), (3, 4)]), [0..1, 2..2, 3..5, 5..7]);
    }

    #[test]
    fn the_librarys_offsets_are_taken_where_pieces_do_not_spell_the_text() {
        // Composed by the tokenizer: two characters of the text, one of the token, in two tokens here.
        let ranges =
            align("e\u{301}x y", &[b"\xc3", b"\xa9", b"x", b" y"], &[(0, 1), (0, 1), (2, 3), (3, 5)]);
        assert_eq!(ranges, [0..1, 0..1, 3..4, 4..6]);
        assert_eq!(align("abc", &[b"abd"], &[(0, 9)]), vec![0..3]);
    }

    #[test]
    fn bytes_that_have_no_token_are_passed_over() {
        let text = "a\u{4}b\u{40000}c";
        let bytes = text.as_bytes();
        let pieces = [&bytes[0..1], &bytes[2..3], &bytes[4..5], &bytes[5..6], &bytes[6..7], &bytes[7..8]];
        assert_eq!(passing_over(text, &pieces).unwrap(), [0..1, 2..3, 4..5, 5..6, 6..7, 7..8]);
        // A token may even join the bytes on both sides.
        assert_eq!(passing_over("a\u{4}bc", &[b"ab", b"c"]).unwrap(), [0..3, 3..4]);
        assert_eq!(passing_over("abc", &[b"ab", b"d"]), None);
    }

    #[test]
    fn broken_utf8_decodes_to_replacement_characters_with_places() {
        let (text, ranges) = decode(&[b"a", b"\xf0\x9f", b"b"]);
        assert_eq!(text, "a\u{fffd}b");
        assert_eq!(ranges, [0..1, 1..4, 4..5]);
    }
}
