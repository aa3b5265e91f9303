//! Substring to token span.

use std::fmt::Write as _;
use std::ops::Range;

use super::{Encoded, SpanError, Token};

/// Tokens shown in a message before the rest is only counted.
const SHOWN: usize = 60;

/// See [`super::Tokenizer::span`].
pub(super) fn find(encoded: &Encoded, prompt: &str, text: &str) -> Result<Range<usize>, SpanError> {
    let mut all = occurrences(encoded, prompt, text)?;
    if all.len() > 1 {
        return Err(SpanError::Ambiguous {
            text: text.to_owned(),
            times: all.len(),
            tokens: list(&encoded.tokens),
        });
    }
    Ok(all.swap_remove(0))
}

/// See [`super::Tokenizer::occurrences`].
pub(super) fn occurrences(
    encoded: &Encoded,
    prompt: &str,
    text: &str,
) -> Result<Vec<Range<usize>>, SpanError> {
    let absent = || SpanError::Absent { text: text.to_owned(), tokens: list(&encoded.tokens) };
    let long = text.chars().count();
    // Overlapping occurrences count: "aa" in "aaa" names two spans.
    let places = prompt.char_indices().enumerate();
    let places = places.filter(|(_, (at, _))| !text.is_empty() && prompt[*at..].starts_with(text));
    let tokens_of = |start: usize| {
        let chars = start..start + long;
        let shares = |t: &Token| {
            t.start < t.end && t.start < chars.end && chars.start < t.end && !is_put_first(t, prompt)
        };
        let first = encoded.tokens.iter().position(shares).ok_or_else(absent)?;
        let last = encoded.tokens.iter().rposition(shares).ok_or_else(absent)?;
        Ok(first..last + 1)
    };
    let all: Vec<Range<usize>> = places.map(|(start, _)| tokens_of(start)).collect::<Result<_, _>>()?;
    if all.is_empty() { Err(absent()) } else { Ok(all) }
}

/// Whether a token is the space that the tokenizer puts before a prompt. The library gives it the prompt's first character, which
/// it does not spell.
fn is_put_first(token: &Token, prompt: &str) -> bool {
    let spells_it = |rest: &str| rest.starts_with(char::is_whitespace);
    token.text == " " && !prompt.get(token.byte_start..).is_none_or(spells_it)
}

/// Whether the tokens of a span reach beyond its text. Spaces on its sides are no part of what a token means.
pub fn is_cut(span: &[Token], prompt: &str, text: &str) -> bool {
    let (Some(first), Some(last)) = (span.first(), span.last()) else { return false };
    let covered: String = prompt.chars().skip(first.start).take(last.end - first.start).collect();
    covered.trim() != text.trim()
}

/// Tokens as `0:"The" 1:" E"`, the first [`SHOWN`] of them.
fn list(tokens: &[Token]) -> String {
    let mut out = String::new();
    for (i, token) in tokens.iter().take(SHOWN).enumerate() {
        let space = if i == 0 { "" } else { " " };
        write!(out, "{space}{i}:{:?}", token.text).expect("BUG: writing to a string cannot fail");
    }
    if tokens.len() > SHOWN {
        write!(out, " ... and {} more", tokens.len() - SHOWN).expect("BUG: writing to a string cannot fail");
    }
    out
}
