//! Text that grows token by token: whole characters only, and nothing that could still become a text that ends it.

/// A text in the making.
#[derive(Debug)]
pub struct Text {
    /// Bytes that are no part of a piece yet: the beginning of a character, and what precedes it that may begin a text that ends it.
    held: Vec<u8>,
    stop: Vec<String>,
}

/// What a token adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Text that is certain by now.
    pub text: String,
    /// Whether one of the texts that end it was found.
    pub stopped: bool,
}

impl Text {
    /// Ends before any of these, none of which is empty.
    pub fn new(stop: &[String]) -> Text {
        Text { held: Vec::new(), stop: stop.to_vec() }
    }

    /// Adds a token's bytes. Bytes that are part of no character become U+FFFD, as they do in the text as a whole.
    pub fn push(&mut self, token: &[u8]) -> Piece {
        self.held.extend_from_slice(token);
        let whole = self.held.len() - unfinished(&self.held);
        let certain = String::from_utf8_lossy(&self.held[..whole]).into_owned();
        // What was held back begins no character anew: it is looked at again with what follows.
        if let Some(end) = self.stop.iter().filter_map(|stop| certain.find(stop.as_str())).min() {
            self.held.clear();
            return Piece { text: certain[..end].to_owned(), stopped: true };
        }
        let begun = self.stop.iter().map(|stop| begun(&certain, stop)).max().unwrap_or(0);
        let (text, kept) = certain.split_at(certain.len() - begun);
        let rest = self.held.split_off(whole);
        self.held = [kept.as_bytes(), &rest].concat();
        Piece { text: text.to_owned(), stopped: false }
    }

    /// What was held back: the text ends here.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }

    /// Whether the text would end inside of a character.
    pub fn is_cut(&self) -> bool {
        unfinished(&self.held) > 0
    }
}

/// Bytes at the end that are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let begins = (1..=tail.len()).find(|n| {
        let end = &tail[tail.len() - n..];
        end[0] >= 0xc2
            && std::str::from_utf8(end).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
    });
    begins.unwrap_or(0)
}

/// Bytes at the end of a text that `stop` begins with.
fn begun(text: &str, stop: &str) -> usize {
    let most = text.len().min(stop.len() - 1);
    let begins = |n: &usize| stop.is_char_boundary(*n) && text.as_bytes().ends_with(&stop.as_bytes()[..*n]);
    (1..=most).rev().find(begins).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of a text whose tokens are these, and whether it was stopped.
    fn grown(tokens: &[&[u8]], stop: &[&str]) -> (Vec<String>, bool) {
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut text = Text::new(&stop);
        let mut pieces = Vec::new();
        for token in tokens {
            let piece = text.push(token);
            pieces.push(piece.text);
            if piece.stopped {
                return (pieces, true);
            }
        }
        pieces.push(text.finish());
        (pieces, false)
    }

    #[test]
    fn characters_come_whole() {
        // A family: four people, three joiners, 25 bytes.
        let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
        let bytes: Vec<&[u8]> = family.as_bytes().chunks(1).collect();
        let (pieces, _) = grown(&bytes, &[]);
        assert_eq!(pieces.concat(), family);
        assert!(pieces.iter().all(|piece| piece.chars().count() <= 1));
        let mut text = Text::new(&[]);
        assert_eq!(text.push(&family.as_bytes()[..2]).text, "");
        assert!(text.is_cut());
        assert_eq!(text.finish(), "\u{fffd}");
    }

    #[test]
    fn a_text_ends_before_what_ends_it_wherever_tokens_are_cut() {
        let said = |tokens: &[&str], stop: &[&str]| {
            let tokens: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
            grown(&tokens, stop)
        };
        assert_eq!(said(&["a\n", "\nb"], &["\n\n"]), (vec!["a".into(), String::new()], true));
        assert_eq!(said(&["a\n", "b"], &["\n\n"]), (vec!["a".into(), "\nb".into(), String::new()], false));
        // One that was begun and never ended comes in the end.
        assert_eq!(said(&["ab", "c"], &["bcd"]).0.concat(), "abc");
        // Of two that overlap, the text ends before the one that begins first.
        assert_eq!(said(&["xabcy"], &["bc", "abc"]), (vec!["x".into()], true));
        assert_eq!(said(&["aab"], &["ab"]), (vec!["a".into()], true));
        assert_eq!(said(&["é", "!"], &["é!"]), (vec![String::new(), String::new()], true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Pieces put together are the text, up to the first text that ends it.
        #[test]
        fn pieces_are_the_text(
            tokens in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 1..4),
                    "[ab\n]{1,3}".prop_map(String::into_bytes),
                    (0..25usize, 1..4usize).prop_map(|(at, len)| {
                        let emoji = "👨\u{200d}👩\u{200d}👧\u{200d}👦é".as_bytes();
                        emoji[at..(at + len).min(emoji.len())].to_vec()
                    }),
                ],
                0..24,
            ),
            stop in prop::collection::vec("[ab\n]{1,3}|👩|é", 0..3),
        ) {
            let all = tokens.concat();
            let stop: Vec<&str> = stop.iter().map(String::as_str).collect();
            let tokens: Vec<&[u8]> = tokens.iter().map(Vec::as_slice).collect();
            let (pieces, stopped) = grown(&tokens, &stop);
            let whole = String::from_utf8_lossy(&all);
            let end = stop.iter().filter_map(|stop| whole.find(stop)).min();
            prop_assert_eq!(stopped, end.is_some());
            prop_assert_eq!(pieces.concat(), &whole[..end.unwrap_or(whole.len())]);
        }
    }
}
