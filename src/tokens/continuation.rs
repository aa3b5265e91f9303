//! The tokens that a text adds to a prompt.
//!
//! A text by itself has other tokens than in a prompt: `SentencePiece` puts a `▁` before it, byte-level tokenizers cut words
//! with their spaces, and digits, quotes and newlines join what stands beside them.

use super::{TokenizeError, Tokenizer};

/// What a text adds to a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// Its tokens after the prompt's own.
    pub ids: Vec<u32>,
    /// Set if the prompt's own tokens are others with the text behind them. A model that has read the prompt has read its own
    /// tokens, so `ids` are then those of the text after a token boundary.
    pub changed: Option<Changed>,
}

/// How a text changes the tokens of the prompt before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The prompt's own tokens, from the first that changes.
    pub own: Vec<u32>,
    /// What stands there if prompt and text are tokenised as one.
    pub joined: Vec<u32>,
}

/// Texts that end in a token boundary, whatever follows, in most vocabularies. They are tried in this order.
const BOUNDARIES: [&str; 4] = ["\n", "\u{1}", ".", "a"];

impl Tokenizer {
    /// The tokens that `text` adds to a prompt. BOS and other tokens that are put around prompts don't matter.
    pub fn continuation(&self, prompt: &str, text: &str) -> Result<Continuation, TokenizeError> {
        let own = self.bare(prompt)?;
        let joined = self.bare(&format!("{prompt}{text}"))?;
        let (own_ids, joined_ids) = (own.get_ids(), joined.get_ids());
        if let Some(added) = joined_ids.strip_prefix(own_ids) {
            return Ok(Continuation { ids: added.to_vec(), changed: None });
        }
        let kept = own_ids.iter().zip(joined_ids).take_while(|(a, b)| a == b).count();
        let changed = Changed { own: own_ids[kept..].to_vec(), joined: joined_ids[kept..].to_vec() };
        // The prompt is cut otherwise, but the text still begins with a token.
        let end = prompt.chars().count();
        let boundary = joined.get_offsets().iter().position(|(start, _)| *start >= end);
        let apart = boundary.filter(|&at| {
            let before = joined.get_offsets()[..at].iter().all(|(_, last)| *last <= end);
            before && self.spelled(&joined_ids[..at]) == self.spelled(own_ids)
        });
        let ids = match apart {
            Some(at) => joined_ids[at..].to_vec(),
            None => self.after_boundary(text)?,
        };
        Ok(Continuation { ids, changed: Some(changed) })
    }

    /// The tokens of a text that follows a token boundary.
    fn after_boundary(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let mut other = None;
        for before in BOUNDARIES {
            let alone = self.bare(before)?;
            let joined = self.bare(&format!("{before}{text}"))?;
            let added = joined.get_ids().strip_prefix(alone.get_ids());
            // What has no token may leave none, or be one unknown token with the text.
            let Some(added) = added.filter(|added| !alone.is_empty() && !added.is_empty()) else { continue };
            if self.spelled(added) == text.as_bytes() {
                return Ok(added.to_vec());
            }
            // A normaliser may spell it otherwise.
            if other.as_ref().is_none_or(|other: &Vec<u32>| other.len() < added.len()) {
                other = Some(added.to_vec());
            }
        }
        match other {
            Some(ids) => Ok(ids),
            None => Ok(self.bare(text)?.get_ids().to_vec()),
        }
    }

    /// The bytes of some tokens.
    fn spelled(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|&id| self.table.get(id).unwrap_or_default()).copied().collect()
    }
}
