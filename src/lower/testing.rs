//! A small model's facts for tests: four layers, two heads, words found by longest match and single bytes else.

use std::ops::Range;
use std::sync::Arc;

use super::facts::{Facts, Limits, Unembedding, Words};
use crate::activations::{ActivationSet, Store, StoreError};
use crate::model::architecture::{LLAMA, PositionShape};
use crate::model::config::ModelConfig;
use crate::model::rope::Rope;
use crate::owner::LOCAL;
use crate::tokens::{Changed, Continuation, Encoded, SpanError, Token, TokenizeError, Tokenizer, spelled};

/// Words with ids from 256; ids below are bytes.
const WORDS: [&str; 24] = [
    "<s>",
    "The",
    " Eiffel",
    " Tower",
    " is",
    " in",
    " the",
    " city",
    " of",
    " Paris",
    " Rome",
    " London",
    " river",
    " has",
    " a",
    " strong",
    " water",
    " current",
    " voltage",
    " electrical",
    "Why",
    " do",
    " electricians",
    " know",
];

pub(crate) struct Fake {
    pub(crate) config: ModelConfig,
    pub(crate) limits: Limits,
    pub(crate) adds_bos: bool,
    /// Added to every token's embedding, times the dimension: its mean is zero otherwise.
    pub(crate) shift: f32,
    pub(crate) stored: Option<Arc<Store>>,
    /// Reads texts instead.
    pub(crate) tokenizer: Option<Tokenizer>,
}

impl Default for Fake {
    fn default() -> Self {
        let config = ModelConfig {
            family: &LLAMA,
            vocab_size: 300,
            hidden_size: 8,
            intermediate_size: 16,
            num_layers: 4,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 4,
            max_positions: 64,
            sliding_window: None,
            tie_word_embeddings: true,
            block: LLAMA.block(1e-5, PositionShape::Rope(Rope::plain(1e4))),
        };
        Self { config, limits: Limits::default(), adds_bos: false, shift: 0.0, stored: None, tokenizer: None }
    }
}

/// A tokenizer of `tests/golden/tokenizers.json`.
pub(crate) fn tokenizer(name: &str) -> Tokenizer {
    let golden = include_str!("../../tests/golden/tokenizers.json");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    let kind = golden["tokenizers"].as_array().unwrap().iter().find(|kind| kind["name"] == name).unwrap();
    let mut description = kind["rest"].clone();
    description["model"] = golden["models"][kind["model"].as_str().unwrap()].clone();
    Tokenizer::from_json(&serde_json::to_vec(&description).unwrap(), None).unwrap()
}

impl Fake {
    /// A model that reads texts by that tokenizer.
    pub(crate) fn reading(name: &str) -> Self {
        let mut fake = Self { tokenizer: Some(tokenizer(name)), ..Self::default() };
        fake.config.vocab_size = 600;
        fake
    }
}

/// Id of a word of the test vocabulary.
pub(crate) fn id(word: &str) -> u32 {
    256 + WORDS.iter().position(|w| *w == word).unwrap() as u32
}

impl Facts for Fake {
    fn model(&self) -> &'static str {
        "fake"
    }
    fn model_sha(&self) -> &'static str {
        "sha of fake"
    }
    fn activation(&self, id: &str) -> Result<Arc<ActivationSet>, StoreError> {
        let unknown = || StoreError::Unknown { id: id.to_owned() };
        let set = self.stored.as_ref().ok_or_else(unknown)?.find(LOCAL, id)?;
        set.of_model(self.model_sha()).map(Arc::new)
    }
    fn config(&self) -> &ModelConfig {
        &self.config
    }
    fn words(&self) -> &dyn Words {
        self.tokenizer.as_ref().map_or(self, |tokenizer| tokenizer as &dyn Words)
    }
    fn embedding(&self, ids: &[u32]) -> Vec<f32> {
        let number = |id: u32, d: u32| ((id * 7 + d) % 5) as f32 - 2.0 + self.shift * d as f32;
        ids.iter().flat_map(|id| (0..8).map(move |d| number(*id, d))).collect()
    }
    fn embedding_product(&self, weights: &[f64]) -> Vec<f64> {
        let vocab = self.config.vocab_size;
        let table = self.embedding(&(0..vocab as u32).collect::<Vec<_>>());
        let number = |row: &[f64], d: usize| (0..vocab).map(|v| row[v] * f64::from(table[v * 8 + d])).sum();
        weights
            .chunks(vocab)
            .flat_map(|row| (0..8).map(move |d| (row, d)))
            .map(|(row, d)| number(row, d))
            .collect()
    }
    fn unembedding(&self, id: u32) -> Unembedding {
        Unembedding { direction: self.embedding(&[id]), constant: 0.0 }
    }
    fn position_embedding(&self, _position: u32) -> Option<Vec<f32>> {
        None
    }
    fn attention_bias(&self, _layer: u32) -> Option<Vec<f32>> {
        None
    }
    fn vocab_sigma(&self) -> f64 {
        0.5
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Fake {
    fn pieces(text: &str) -> Vec<(u32, Range<usize>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let rest = &text.as_bytes()[at..];
            let word = WORDS.iter().filter(|w| rest.starts_with(w.as_bytes())).max_by_key(|w| w.len());
            let (id, len) = word.map_or((u32::from(rest[0]), 1), |w| (id(w), w.len()));
            found.push((id, at..at + len));
            at += len;
        }
        found
    }

    fn encoded(&self, text: &str, pieces: &[(u32, Range<usize>)]) -> Encoded {
        let token = |(id, r): &(u32, Range<usize>)| Token {
            id: *id,
            text: self.text(*id),
            start: r.start,
            end: r.end,
            byte_start: r.start,
            byte_end: r.end,
        };
        Encoded {
            ids: pieces.iter().map(|(id, _)| *id).collect(),
            tokens: pieces.iter().map(token).collect(),
            text: text.into(),
        }
    }
}

impl Words for Fake {
    fn encode(&self, text: &str, bos: Option<bool>) -> Result<Encoded, TokenizeError> {
        let mut pieces = Self::pieces(text);
        if bos.unwrap_or(self.adds_bos) {
            if !self.adds_bos {
                return Err(TokenizeError::NoBos);
            }
            pieces.insert(0, (id("<s>"), 0..0));
        }
        Ok(self.encoded(text, &pieces))
    }
    fn describe(&self, ids: &[u32]) -> Result<Encoded, TokenizeError> {
        if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= self.vocab_size()) {
            return Err(TokenizeError::UnknownId { id: *id, index, vocab_size: self.vocab_size() });
        }
        let mut text = String::new();
        let piece = |id: &u32| {
            let start = text.len();
            text.push_str(&self.text(*id));
            (*id, start..text.len())
        };
        let pieces: Vec<_> = ids.iter().map(piece).collect();
        Ok(self.encoded(&text, &pieces))
    }
    fn continuation(&self, prompt: &str, text: &str) -> Result<Continuation, TokenizeError> {
        let ids = |text: &str| Self::pieces(text).iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let (own, joined) = (ids(prompt), ids(&format!("{prompt}{text}")));
        Ok(match joined.strip_prefix(&own[..]) {
            Some(added) => Continuation { ids: added.to_vec(), changed: None },
            None => Continuation { ids: ids(text), changed: Some(Changed { own, joined }) },
        })
    }
    fn joins_spaces(&self) -> bool {
        true
    }
    fn text(&self, id: u32) -> String {
        match id.checked_sub(256) {
            Some(word) => WORDS[word as usize].to_owned(),
            None => spelled(&[id as u8]),
        }
    }
    fn vocab_size(&self) -> usize {
        256 + WORDS.len()
    }
    fn bos(&self) -> Option<u32> {
        self.adds_bos.then(|| id("<s>"))
    }
    fn span(&self, encoded: &Encoded, prompt: &str, text: &str) -> Result<Range<usize>, SpanError> {
        let mut all = self.occurrences(encoded, prompt, text)?;
        match all.len() {
            1 => Ok(all.remove(0)),
            times => Err(SpanError::Ambiguous { text: text.to_owned(), times, tokens: shown(encoded) }),
        }
    }
    fn occurrences(
        &self,
        encoded: &Encoded,
        prompt: &str,
        text: &str,
    ) -> Result<Vec<Range<usize>>, SpanError> {
        let tokens_of = |at: usize| {
            let shares = |t: &Token| t.byte_start < at + text.len() && t.byte_end > at;
            let first = encoded.tokens.iter().position(shares).unwrap();
            let last = encoded.tokens.iter().rposition(shares).unwrap();
            first..last + 1
        };
        let all: Vec<_> = prompt.match_indices(text).map(|(at, _)| tokens_of(at)).collect();
        if all.is_empty() {
            return Err(SpanError::Absent { text: text.to_owned(), tokens: shown(encoded) });
        }
        Ok(all)
    }
}

fn shown(encoded: &Encoded) -> String {
    format!("{:?}", encoded.tokens.iter().map(|t| &t.text).collect::<Vec<_>>())
}
