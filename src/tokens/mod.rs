//! Text to token ids and back, with offsets and spans.
//!
//! In: a checkpoint's tokenizer files and text. Out: [`Encoded`].

mod build;
mod caught;
mod chat;
mod continuation;
mod offsets;
mod span;
mod special;
mod spelled;
mod table;
mod written;

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use tokenizers::{NormalizedString, Normalizer};
use utoipa::ToSchema;

pub use self::build::{BuildError, GgufVocabulary};
pub(crate) use self::caught::caught;
pub use self::chat::{ChatError, ChatTemplates, Conversation, Rendered};
pub use self::continuation::{Changed, Continuation};
use self::offsets::CharIndex;
pub use self::span::is_cut;
pub use self::special::{SpecialTokens, templates};
pub use self::spelled::{joined, spelled};
use self::table::TokenTable;

/// One token of a prompt with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Token {
    /// Token id.
    pub id: u32,
    /// The text it stands for; bytes that are no character of their own are written as `<E6>`.
    pub text: String,
    /// First character in the prompt (characters, not bytes). BOS and other added tokens have `start == end`.
    pub start: usize,
    /// One past the last character.
    pub end: usize,
    /// First byte in the prompt's UTF-8.
    pub byte_start: usize,
    /// One past the last byte.
    pub byte_end: usize,
}

/// A tokenised prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, BOS included if the policy adds one.
    pub ids: Arc<[u32]>,
    /// The same tokens with text and offsets.
    pub tokens: Vec<Token>,
    /// The text that the offsets are into.
    pub text: Arc<str>,
}

/// Why text could not be turned into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizeError {
    /// An id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens")]
    UnknownId {
        /// The id given.
        id: u32,
        /// Its index in the list given.
        index: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A token that was added to the vocabulary after the model was trained, and that it has no embedding for.
    #[error("token {text:?} ({id}) has no embedding: the model has {embeddings}")]
    NoEmbedding {
        /// The token's id.
        id: u32,
        /// What it stands for.
        text: String,
        /// How many embeddings the model has.
        embeddings: usize,
    },
    /// The explicit request for a BOS that the tokenizer does not have.
    #[error("this tokenizer has no BOS token")]
    NoBos,
    /// The tokenizer library refused the text.
    #[error("the tokenizer refused the text: {0}")]
    Refused(Arc<str>),
}

/// Why a substring names no token span. The message shows the tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// The text does not occur.
    #[error("{text:?} does not occur in the prompt, whose tokens are {tokens}")]
    Absent {
        /// What was looked for.
        text: String,
        /// The prompt's tokens, as `0:"The" 1:" E"`.
        tokens: String,
    },
    /// The text occurs more than once.
    #[error(
        "{text:?} occurs {times} times in the prompt, whose tokens are {tokens}; name a longer text, token positions or which occurrence"
    )]
    Ambiguous {
        /// What was looked for.
        text: String,
        /// How often it occurs.
        times: usize,
        /// The prompt's tokens.
        tokens: String,
    },
}

/// A model's tokenizer with its own BOS policy.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    table: Arc<TokenTable>,
    bos: Option<u32>,
    adds_bos: bool,
    /// Ids from here on have no embedding.
    embeddings: usize,
    /// Whether the space that is put before a text is no part of what its tokens stand for.
    strips_first: bool,
    /// What conversations are written out by, if the model has it.
    chat: Option<ChatTemplates>,
    /// Tokens at which a text ends.
    ends: Arc<[u32]>,
}

/// Ids that a model has no embedding for, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// Of the vocabulary itself.
    pub own: Vec<u32>,
    /// Of tokens that were added to it.
    pub added: Vec<u32>,
}

impl Tokenizer {
    /// With the chat templates of the model's files, by name, and its special tokens. Where they do not say at which tokens a text ends,
    /// it is the one called `eos_token`.
    #[must_use]
    pub fn with_chat(mut self, templates: Vec<(String, String)>, special: &SpecialTokens) -> Self {
        self.chat = ChatTemplates::new(templates, special);
        let named = || special.text("eos_token").and_then(|token| self.inner.token_to_id(token));
        self.ends = if special.ends.is_empty() {
            named().into_iter().collect()
        } else {
            special.ends.as_slice().into()
        };
        self
    }

    /// The chat templates, if the model has any.
    pub fn chat(&self) -> Option<&ChatTemplates> {
        self.chat.as_ref()
    }

    /// Tokens at which a text ends, as the model's files state them.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Tells the tokenizer how many embeddings the model has: prompts and targets never have ids beyond. Returns which ids
    /// these are.
    pub fn limit(&mut self, embeddings: usize) -> Beyond {
        self.embeddings = embeddings;
        let (added, own) = self.table.ids_from(embeddings).partition(|id| self.table.is_added(*id));
        Beyond { own, added }
    }

    /// Tokenises a prompt. `bos`: `None` follows the tokenizer's own policy, `Some` overrides it.
    ///
    /// Special tokens written out in the text become these tokens, as in `transformers`.
    pub fn encode(&self, text: &str, bos: Option<bool>) -> Result<Encoded, TokenizeError> {
        let added = match (bos.unwrap_or(self.adds_bos), self.bos) {
            (true, Some(id)) => Some(self.embedded(id)?),
            (true, None) => return Err(TokenizeError::NoBos),
            (false, _) => None,
        };
        let encoding = self.bare(text)?;
        let pieces: Vec<&[u8]> =
            encoding.get_ids().iter().map(|&id| self.table.get(id).unwrap_or_default()).collect();
        let dropped = || offsets::passing_over(text, &pieces).filter(|_| self.leaves(text));
        let lossy =
            self.table.drops_bytes() && pieces.iter().map(|piece| piece.len()).sum::<usize>() < text.len();
        let places = lossy.then(dropped).flatten();
        let places = places.unwrap_or_else(|| offsets::align(text, &pieces, encoding.get_offsets()));
        let ids: Vec<u32> = added.into_iter().chain(encoding.get_ids().iter().copied()).collect();
        let places = added.map(|_| 0..0).into_iter().chain(places);
        Ok(self.place(&ids, text, places))
    }

    /// Describes given token ids; offsets are those of the decoded text, see [`Self::decode`].
    pub fn describe(&self, ids: &[u32]) -> Result<Encoded, TokenizeError> {
        let vocab_size = self.vocab_size().min(self.embeddings);
        if let Some((index, &id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            return Err(TokenizeError::UnknownId { id, index, vocab_size });
        }
        let (text, places) = offsets::decode(&self.pieces(ids)?);
        Ok(self.place(ids, &text, places.into_iter()))
    }

    /// The text that token ids stand for. Bytes that are no UTF-8 become U+FFFD. A BOS at the start stands for nothing if
    /// prompts get one by default, so `encode` of this text gives it back.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizeError> {
        Ok(offsets::decode(&self.pieces(ids)?).0)
    }

    /// The text of token ids as `transformers` decodes them: a BOS is text, too, unless special tokens are skipped.
    ///
    /// # Errors
    /// An id that names no token.
    pub fn text_of(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizeError> {
        let vocab_size = self.vocab_size();
        if let Some((index, &id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            return Err(TokenizeError::UnknownId { id, index, vocab_size });
        }
        let refused = |why: String| TokenizeError::Refused(why.into());
        let text = caught(|| self.inner.decode(ids, skip_special)).map_err(refused)?;
        text.map_err(|error| refused(error.to_string()))
    }

    /// The library's tokens of a text without any that are put around it, with offsets in characters: it cuts spaces off by
    /// them.
    fn bare(&self, text: &str) -> Result<tokenizers::Encoding, TokenizeError> {
        let refused = |why: String| TokenizeError::Refused(why.into());
        let encoded = caught(|| self.inner.encode_char_offsets(text, false)).map_err(refused)?;
        let encoding = encoded.map_err(|e| refused(e.to_string()))?;
        encoding.get_ids().iter().try_for_each(|id| self.embedded(*id).map(|_| ()))?;
        Ok(encoding)
    }

    /// The id, if the model has an embedding for it.
    fn embedded(&self, id: u32) -> Result<u32, TokenizeError> {
        let embeddings = self.embeddings;
        if id as usize >= embeddings {
            return Err(TokenizeError::NoEmbedding { id, text: self.text(id), embeddings });
        }
        Ok(id)
    }

    /// The text of one token, as [`Token::text`]; `<no token 7>` for an id that names none, which models with a padded
    /// embedding can predict.
    pub fn text(&self, id: u32) -> String {
        self.table.get(id).map_or_else(|| format!("<no token {id}>"), spelled)
    }

    /// The bytes of one token; none for an id that names none. A token may be part of a character.
    pub fn bytes_of(&self, id: u32) -> &[u8] {
        self.table.get(id).unwrap_or_default()
    }

    /// Whether words have tokens that begin with the space before them: then a prompt that ends in a space is cut where no text
    /// is.
    pub fn joins_spaces(&self) -> bool {
        self.table.joins_spaces()
    }

    /// Number of token ids, that is one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// BOS token, if the tokenizer has one, and whether prompts get it by default.
    pub fn bos(&self) -> (Option<u32>, bool) {
        (self.bos, self.adds_bos)
    }

    /// Token span that covers the only occurrence of `text`: first and one past the last token that share a
    /// character with it.
    pub fn span(&self, encoded: &Encoded, prompt: &str, text: &str) -> Result<Range<usize>, SpanError> {
        span::find(encoded, prompt, text)
    }

    /// Token spans that cover each occurrence of `text`, of which there is at least one, in the order of the prompt.
    pub fn occurrences(
        &self,
        encoded: &Encoded,
        prompt: &str,
        text: &str,
    ) -> Result<Vec<Range<usize>>, SpanError> {
        span::occurrences(encoded, prompt, text)
    }

    /// Bytes that each id adds to the text.
    fn pieces(&self, ids: &[u32]) -> Result<Vec<&[u8]>, TokenizeError> {
        let piece = |(index, &id): (usize, &u32)| match self.table.get(id) {
            Some(_) if index == 0 && self.adds_bos && self.bos == Some(id) => Ok(&[][..]),
            Some(bytes) => Ok(bytes),
            None => Err(TokenizeError::UnknownId { id, index, vocab_size: self.vocab_size() }),
        };
        let mut pieces = ids.iter().enumerate().map(piece).collect::<Result<Vec<_>, _>>()?;
        let first = pieces.iter_mut().find(|piece| !piece.is_empty()).filter(|_| self.strips_first);
        if let Some(first) = first {
            *first = first.strip_prefix(b" ").unwrap_or(first);
        }
        Ok(pieces)
    }

    /// Whether the normaliser leaves a text as it is.
    fn leaves(&self, text: &str) -> bool {
        let Some(normalizer) = self.inner.get_normalizer() else { return true };
        let mut normalized = NormalizedString::from(text);
        normalizer.normalize(&mut normalized).is_ok() && normalized.get() == text
    }

    fn place(&self, ids: &[u32], text: &str, places: impl Iterator<Item = Range<usize>>) -> Encoded {
        let index = CharIndex::new(text);
        let token = |(&id, bytes): (&u32, Range<usize>)| {
            let chars = index.chars(&bytes);
            Token {
                id,
                text: self.text(id),
                start: chars.start,
                end: chars.end,
                byte_start: bytes.start,
                byte_end: bytes.end,
            }
        };
        let tokens = ids.iter().zip(places).map(token).collect();
        Encoded { ids: ids.into(), tokens, text: text.into() }
    }
}

#[cfg(test)]
mod tests;
