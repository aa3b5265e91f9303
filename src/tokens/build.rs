//! Tokenizers from `tokenizer.json`, from a GGUF's metadata, and the byte tokenizer of dummy models.

use std::sync::Arc;

use serde_json::Value;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior};

use super::Tokenizer;
use super::caught::caught;
use super::table::{Spelling, TokenTable, byte_characters};

/// Why a tokenizer could not be made from a checkpoint's files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The tokenizer library refused the description.
    #[error("the tokenizer is not valid: {0}")]
    Invalid(Arc<str>),
    /// `tokenizer_config.json` is no JSON.
    #[error("tokenizer_config.json is not valid JSON: {0}")]
    Config(Arc<str>),
    /// Something that changes the tokens and that is not supported.
    #[error("the tokenizer's {what} is {got:?}, which is not understood (understood: {understood})")]
    NotUnderstood {
        /// Which part.
        what: &'static str,
        /// What the checkpoint says.
        got: String,
        /// What it could say.
        understood: &'static str,
    },
    /// A token that the policy names is not in the vocabulary.
    #[error("the {what} token {token:?} is not in the tokenizer's vocabulary")]
    Missing {
        /// Which token.
        what: &'static str,
        /// Its text or id.
        token: String,
    },
}

/// A byte-level BPE tokenizer as a GGUF states it.
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`; only `gpt2` (byte-level BPE) is understood.
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is cut before BPE.
    pub pre: String,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub types: Vec<i64>,
    /// `tokenizer.ggml.merges`, each `left right`, by rank.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`; `None`: llama.cpp's default for the pre-tokenizer.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: bool,
}

fn invalid(error: impl std::fmt::Display) -> BuildError {
    BuildError::Invalid(error.to_string().into())
}

impl Tokenizer {
    /// From `tokenizer.json` and, if the checkpoint has one, `tokenizer_config.json`.
    ///
    /// BOS policy as in `transformers` 5: the tokenizer's own post-processor decides. It leaves `add_bos_token` and
    /// `add_eos_token` of `tokenizer_config.json` unread where there is a `tokenizer.json`.
    pub fn from_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Self, BuildError> {
        caught(|| Self::read_json(tokenizer, config)).map_err(invalid)?
    }

    fn read_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Self, BuildError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer).map_err(invalid)?;
        inner.with_truncation(None).map_err(invalid)?;
        inner.with_padding(None);
        let spelling = spelling_of(&inner)?;
        let config: Value = match config {
            Some(bytes) => {
                serde_json::from_slice(bytes).map_err(|e| BuildError::Config(e.to_string().into()))?
            }
            None => Value::Null,
        };
        let stated = match config.get("bos_token") {
            Some(Value::String(token)) => Some(token.as_str()),
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
            _ => None,
        };
        let stated = stated
            .map(|token| {
                inner
                    .token_to_id(token)
                    .ok_or_else(|| BuildError::Missing { what: "BOS", token: token.to_owned() })
            })
            .transpose()?;
        let first = first_special(&inner)?;
        Self::assemble(inner, spelling, first.or(stated), first.is_some())
    }

    /// From a GGUF's metadata. The pre-tokenizers are those of `transformers`' own `tokenizer.json` files for the models that
    /// llama.cpp's names stand for.
    pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self, BuildError> {
        caught(|| Self::read_gguf(vocabulary)).map_err(invalid)?
    }

    fn read_gguf(vocabulary: GgufVocabulary) -> Result<Self, BuildError> {
        let GgufVocabulary { model, pre, tokens, types, merges, bos, add_bos, add_eos } = vocabulary;
        if model != "gpt2" {
            let understood =
                "gpt2, that is byte-level BPE; use the checkpoint's safetensors with its tokenizer.json";
            return Err(BuildError::NotUnderstood { what: "tokenizer.ggml.model", got: model, understood });
        }
        if add_eos {
            return Err(appends("tokenizer.ggml.add_eos_token: true".to_owned()));
        }
        let cut = Cut::of(&pre)?;
        let merges = merges
            .iter()
            .map(|merge| {
                let (left, right) =
                    merge.split_once(' ').ok_or_else(|| invalid(format!("merge {merge:?}")))?;
                Ok((left.to_owned(), right.to_owned()))
            })
            .collect::<Result<Vec<_>, BuildError>>()?;
        let vocab: tokenizers::models::bpe::Vocab = tokens.iter().cloned().zip(0u32..).collect();
        if vocab.len() != tokens.len() {
            return Err(invalid(format!("{} tokens are written twice", tokens.len() - vocab.len())));
        }
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(cut.ignore_merges())
            .build()
            .map_err(invalid)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(cut.pre_tokenizer()?));
        if cut == Cut::Qwen2 {
            inner.with_normalizer(Some(NormalizerWrapper::from(NFC))).map_err(invalid)?;
        }
        inner.with_decoder(Some(ByteLevelDecoder::default()));
        let added = tokens.iter().zip(&types).filter(|&(_, &kind)| kind == 3 || kind == 4);
        let added: Vec<AddedToken> = added
            .map(|(token, &kind)| AddedToken::from(token.clone(), kind == 3).normalized(false))
            .collect();
        inner.add_tokens(added).map_err(invalid)?;
        if let Some(id) = bos.filter(|&id| id as usize >= tokens.len()) {
            return Err(BuildError::Missing { what: "BOS", token: id.to_string() });
        }
        let adds_bos = bos.is_some() && add_bos.unwrap_or(cut.adds_bos());
        Self::assemble(inner, Spelling::ByteLevel, bos, adds_bos)
    }

    /// Where the checkpoint's files name no BOS, this token is what a prompt begins with on request; never by itself.
    #[must_use]
    pub fn or_bos(mut self, token: Option<&str>) -> Self {
        if self.bos.is_none() {
            self.bos = token.and_then(|token| self.inner.token_to_id(token));
        }
        self
    }

    /// The tokenizer of dummy models: ids 0 to 255 are the bytes, 256 is the BOS `<s>`, which prompts get; the rest of the
    /// vocabulary is there as ids but never comes from text.
    pub fn bytes(vocab_size: usize) -> Result<Self, BuildError> {
        const BOS: u32 = 256;
        let characters = byte_characters();
        let vocab = (0..vocab_size as u32)
            .map(|id| match characters.get(id as usize) {
                Some(c) => (c.to_string(), id),
                None if id == BOS => ("<s>".to_owned(), id),
                None => (format!("<unused {id}>"), id),
            })
            .collect::<tokenizers::models::bpe::Vocab>();
        if vocab.len() <= BOS as usize {
            return Err(invalid(format!("{vocab_size} ids are too few for 256 bytes and a BOS")));
        }
        let bpe = BPE::builder().vocab_and_merges(vocab, Vec::new()).build().map_err(invalid)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, false)));
        inner.with_decoder(Some(ByteLevelDecoder::default()));
        inner.add_special_tokens([AddedToken::from("<s>", true)]).map_err(invalid)?;
        Self::assemble(inner, Spelling::ByteLevel, Some(BOS), true)
    }

    fn assemble(
        inner: tokenizers::Tokenizer,
        spelling: Spelling,
        bos: Option<u32>,
        adds_bos: bool,
    ) -> Result<Self, BuildError> {
        let table = TokenTable::new(&inner, spelling)?;
        let strips_first = strips_first(&inner, &table);
        let (inner, table) = (Arc::new(inner), Arc::new(table));
        Ok(Self {
            inner,
            embeddings: usize::MAX,
            table,
            bos,
            adds_bos,
            strips_first,
            chat: None,
            ends: Arc::new([]),
        })
    }
}

fn appends(got: String) -> BuildError {
    BuildError::NotUnderstood {
        what: "policy of added tokens",
        got,
        understood: "at most one BOS, put first",
    }
}

/// The special token that the post-processor puts before a text, if any.
fn first_special(inner: &tokenizers::Tokenizer) -> Result<Option<u32>, BuildError> {
    let plain = inner.encode("a", false).map_err(invalid)?;
    let full = inner.encode("a", true).map_err(invalid)?;
    match full.get_ids().strip_suffix(plain.get_ids()) {
        Some([]) => Ok(None),
        Some([bos]) => Ok(Some(*bos)),
        _ => Err(appends(format!("{:?}", full.get_tokens()))),
    }
}

/// Whether the decoder takes away the space that is put before a text.
fn strips_first(inner: &tokenizers::Tokenizer, table: &TokenTable) -> bool {
    let ids = inner.encode_fast("a", false).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
    let spelled: Vec<u8> = ids.iter().flat_map(|&id| table.get(id).unwrap_or_default()).copied().collect();
    spelled == b" a" && inner.decode(&ids, false).is_ok_and(|text| text == "a")
}

/// How the vocabulary spells bytes, told by the decoder that undoes it.
fn spelling_of(inner: &tokenizers::Tokenizer) -> Result<Spelling, BuildError> {
    let description = inner.get_decoder().map(serde_json::to_value).transpose().map_err(invalid)?;
    let description = description.unwrap_or(Value::Null);
    let parts = match description.get("decoders").and_then(Value::as_array) {
        Some(parts) => parts.as_slice(),
        None => std::slice::from_ref(&description),
    };
    let kinds: Vec<&str> = parts.iter().filter_map(|p| p.get("type")?.as_str()).collect();
    if kinds.contains(&"ByteLevel") {
        Ok(Spelling::ByteLevel)
    } else if kinds.iter().any(|k| matches!(*k, "ByteFallback" | "Metaspace")) {
        Ok(Spelling::SentencePiece)
    } else {
        let understood = "ByteLevel, or SentencePiece's ByteFallback or Metaspace";
        Err(BuildError::NotUnderstood { what: "decoder", got: kinds.join(", "), understood })
    }
}

/// How text is cut into words before BPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// GPT-2's expression.
    Gpt2,
    /// Digits one by one, then GPT-2's expression.
    SmolLm,
    /// Llama 3's expression: digits in threes.
    Llama3,
    /// Qwen2's expression: digits one by one, after NFC.
    Qwen2,
}

impl Cut {
    fn of(pre: &str) -> Result<Self, BuildError> {
        match pre {
            "smollm" => Ok(Self::SmolLm),
            "llama-bpe" | "llama3" | "llama-v3" => Ok(Self::Llama3),
            "qwen2" => Ok(Self::Qwen2),
            "gpt-2" | "default" => Ok(Self::Gpt2),
            _ => Err(BuildError::NotUnderstood {
                what: "tokenizer.ggml.pre",
                got: pre.to_owned(),
                understood: "smollm, llama-bpe, qwen2, gpt-2, default",
            }),
        }
    }

    /// Whether a word that is a token of its own skips the merges (Llama 3's `tokenizer.json`).
    fn ignore_merges(self) -> bool {
        self == Self::Llama3
    }

    /// llama.cpp's default where the file does not say.
    fn adds_bos(self) -> bool {
        self == Self::Llama3
    }

    fn pre_tokenizer(self) -> Result<PreTokenizerWrapper, BuildError> {
        let expression = |digits: &str| {
            format!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        };
        let split = |digits: &str| {
            let pattern = SplitPattern::Regex(expression(digits));
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(invalid)?;
            Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
        };
        match self {
            Self::Gpt2 => Ok(ByteLevel::new(false, true, true).into()),
            Self::SmolLm => {
                Ok(Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()])
                    .into())
            }
            Self::Llama3 => split(r"\p{N}{1,3}"),
            Self::Qwen2 => split(r"\p{N}"),
        }
    }
}
