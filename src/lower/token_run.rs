//! A run with its tokens, and its spans.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::spec::named::Named;
use crate::spec::select::Which;
use crate::tokens::Token;

/// A run with its tokens.
#[derive(Debug, Clone)]
pub struct TokenRun {
    /// Token ids, `[t]`.
    pub ids: Arc<[u32]>,
    /// The tokens with text and offsets.
    pub tokens: Vec<Token>,
    /// The text that the offsets are into: as given, or what the given ids stand for.
    pub text: Arc<str>,
    /// Tokens of its spans.
    pub spans: Named<Span>,
    /// Where its distribution over the next token is read.
    pub read: u32,
    /// Whether the first token is BOS.
    pub has_bos: bool,
    /// Whether a chat template wrote the day's date into it.
    pub is_dated: bool,
}

impl TokenRun {
    /// Number of tokens.
    pub fn len(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The text up to the position read: what targets come after.
    pub fn context(&self) -> &str {
        if self.read + 1 == self.len() {
            return &self.text;
        }
        let end = self.tokens[self.read as usize].byte_end;
        &self.text[..self.text.floor_char_boundary(end)]
    }

    /// Of each token but the first its place among those scored, which it is added to.
    pub(super) fn places(&self, scored: &mut Vec<u32>) -> Vec<usize> {
        let mut places: HashMap<u32, usize> = scored.iter().copied().zip(0..).collect();
        let mut place = |id: u32| {
            *places.entry(id).or_insert_with(|| {
                scored.push(id);
                scored.len() - 1
            })
        };
        self.ids.iter().skip(1).map(|id| place(*id)).collect()
    }

    /// Whether there is no token; never so after [`super::prompts::tokenise`].
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Tokens of a span: a half-open range, or one for every occurrence of its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Span {
    /// `[start, end)`
    One([u32; 2]),
    /// `[[start, end), ..]` in the order of the prompt.
    Every(Vec<[u32; 2]>),
}

impl Span {
    /// Its stretches of tokens.
    pub(super) fn stretches(&self) -> &[[u32; 2]] {
        match self {
            Self::One(range) => std::slice::from_ref(range),
            Self::Every(ranges) => ranges,
        }
    }

    /// Its tokens, where they are a single stretch.
    pub fn range(&self) -> Option<Range<u32>> {
        match self.stretches() {
            [[start, end]] => Some(*start..*end),
            _ => None,
        }
    }

    /// All of its tokens, or the first or last one of each stretch; each once, in order.
    pub fn tokens(&self, which: Which) -> Vec<u32> {
        let of = |[start, end]: &[u32; 2]| match which {
            Which::All => *start..*end,
            Which::First => *start..start + 1,
            Which::Last => end - 1..*end,
        };
        let mut tokens: Vec<u32> = self.stretches().iter().flat_map(of).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }
}

/// Columns of a head at `scores` and `pattern`: the length of the longest run.
pub(super) fn keys(runs: &Named<TokenRun>) -> usize {
    runs.iter().map(|(_, run)| run.len() as usize).max().unwrap_or(0)
}
