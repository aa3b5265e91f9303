//! Stage 1: text to token ids and back, with offsets and spans.

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

/// One token of a prompt with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Token {
    /// Token id.
    pub id: u32,
    /// The text it stands for; bytes that are no UTF-8 of their own are shown as U+FFFD.
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
    #[error("{text:?} occurs {times} times in the prompt, whose tokens are {tokens}; name a longer text or token positions")]
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
    bos: Option<u32>,
    adds_bos: bool,
}

impl Tokenizer {
    /// Tokenises a prompt. `bos`: `None` follows the tokenizer's own policy, `Some` overrides it.
    pub fn encode(&self, _text: &str, _bos: Option<bool>) -> Result<Encoded, TokenizeError> {
        unimplemented!("lands with the loader")
    }

    /// Describes given token ids; offsets are those of the decoded text.
    pub fn describe(&self, _ids: &[u32]) -> Result<Encoded, TokenizeError> {
        unimplemented!("lands with the loader")
    }

    /// Tokens of `text` as it stands, without BOS: for targets.
    pub fn target(&self, _text: &str) -> Result<Vec<u32>, TokenizeError> {
        unimplemented!("lands with the loader")
    }

    /// The text of one token, as [`Token::text`].
    pub fn text(&self, _id: u32) -> String {
        unimplemented!("lands with the loader")
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// BOS token, if the tokenizer has one, and whether prompts get it by default.
    pub fn bos(&self) -> (Option<u32>, bool) {
        (self.bos, self.adds_bos)
    }

    /// Token span that covers the only occurrence of `text`: first and one past the last token that share a
    /// character with it.
    pub fn span(&self, _encoded: &Encoded, _prompt: &str, _text: &str) -> Result<Range<usize>, SpanError> {
        unimplemented!("lands with the loader")
    }
}
