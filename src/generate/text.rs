//! Text that grows token by token: whole characters only, and nothing that could still become a text that ends it.

use crate::tokens::Tokenizer;

/// A text in the making.
#[derive(Debug)]
pub struct Text {
    tokens: Vec<u32>,
    /// Bytes of the whole text that were given out.
    given: usize,
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
    /// Ends before any of these.
    pub fn new(stop: &[String]) -> Text {
        Text { tokens: Vec::new(), given: 0, stop: stop.to_vec() }
    }

    /// Adds a token.
    pub fn push(&mut self, token: u32, words: &Tokenizer) -> Piece {
        self.tokens.push(token);
        let all = words.decode(&self.tokens).unwrap_or_default();
        let found = self.stop.iter().filter_map(|stop| all.find(stop.as_str())).min();
        if let Some(end) = found {
            return Piece { text: self.give(&all, end), stopped: true };
        }
        let whole = all.trim_end_matches('\u{fffd}').len();
        let held = |stop: &String| {
            (1..stop.len()).rev().find(|n| stop.is_char_boundary(*n) && all[..whole].ends_with(&stop[..*n]))
        };
        let held = self.stop.iter().filter_map(held).max().unwrap_or(0);
        Piece { text: self.give(&all, whole - held), stopped: false }
    }

    /// What was held back.
    pub fn finish(&mut self, words: &Tokenizer) -> String {
        let all = words.decode(&self.tokens).unwrap_or_default();
        self.give(&all, all.len())
    }

    fn give(&mut self, all: &str, end: usize) -> String {
        let text = all.get(self.given..end).unwrap_or_default().to_owned();
        self.given = self.given.max(end);
        text
    }
}
