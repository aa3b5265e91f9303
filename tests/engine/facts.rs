//! A tiny model as lowering sees it: requests give token ids, so its words are only their numbers.

use std::ops::Range;
use std::sync::Arc;

use mediant::activations::{ActivationSet, StoreError};
use mediant::lower::facts::{Facts, Limits, Unembedding, Words};
use mediant::model::architecture::{Role, TensorKind};
use mediant::model::config::ModelConfig;
use mediant::tokens::{Continuation, Encoded, SpanError, Token, TokenizeError};

use crate::tiny::of_part;

pub(crate) struct TinyFacts {
    config: ModelConfig,
    limits: Limits,
    /// `[vocabulary, hidden]`
    embeddings: Vec<f32>,
}

impl TinyFacts {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let embeddings = of_part(config, Role::Embedding, TensorKind::Weight, 0).unwrap();
        Self { config: config.clone(), limits: Limits::default(), embeddings }
    }
}

impl Facts for TinyFacts {
    fn model(&self) -> &'static str {
        "tiny"
    }
    fn model_sha(&self) -> &'static str {
        "the formula"
    }
    fn activation(&self, id: &str) -> Result<Arc<ActivationSet>, StoreError> {
        Err(StoreError::Unknown { id: id.to_owned() })
    }
    fn config(&self) -> &ModelConfig {
        &self.config
    }
    fn words(&self) -> &dyn Words {
        self
    }
    fn embedding(&self, ids: &[u32]) -> Vec<f32> {
        let d = self.config.hidden_size;
        ids.iter().flat_map(|id| &self.embeddings[*id as usize * d..][..d]).copied().collect()
    }
    fn unembedding(&self, id: u32) -> Unembedding {
        let d = self.config.hidden_size;
        let table = of_part(&self.config, Role::Unembedding, TensorKind::Weight, 0);
        let row = &table.as_ref().unwrap_or(&self.embeddings)[id as usize * d..][..d];
        let norm = of_part(&self.config, Role::FinalNorm, TensorKind::Weight, 0).unwrap();
        let bias = of_part(&self.config, Role::FinalNorm, TensorKind::Bias, 0).unwrap_or(vec![0.0; d]);
        Unembedding {
            direction: row.iter().zip(&norm).map(|(w, norm)| w * norm).collect(),
            constant: row.iter().zip(&bias).map(|(w, bias)| f64::from(*w) * f64::from(*bias)).sum(),
        }
    }
    fn position_embedding(&self, position: u32) -> Option<Vec<f32>> {
        let d = self.config.hidden_size;
        let table = of_part(&self.config, Role::Positions, TensorKind::Weight, 0)?;
        Some(table[position as usize * d..][..d].to_vec())
    }
    fn attention_bias(&self, layer: u32) -> Option<Vec<f32>> {
        of_part(&self.config, Role::AttentionOutput, TensorKind::Bias, layer as usize)
    }
    fn embedding_product(&self, weights: &[f64]) -> Vec<f64> {
        let (v, d) = (self.config.vocab_size, self.config.hidden_size);
        let number = |row: &[f64], column: usize| {
            row.iter().enumerate().map(|(id, w)| w * f64::from(self.embeddings[id * d + column])).sum()
        };
        weights.chunks(v).flat_map(|row| (0..d).map(move |column| number(row, column))).collect()
    }
    fn vocab_sigma(&self) -> f64 {
        let n = self.embeddings.len() as f64;
        let mean = self.embeddings.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let squares = self.embeddings.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
        (squares / (n - 1.0)).sqrt()
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Words for TinyFacts {
    fn encode(&self, text: &str, _bos: Option<bool>) -> Result<Encoded, TokenizeError> {
        panic!("the tiny models read ids, not {text:?}")
    }
    fn describe(&self, ids: &[u32]) -> Result<Encoded, TokenizeError> {
        let vocab_size = self.config.vocab_size;
        if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            return Err(TokenizeError::UnknownId { id: *id, index, vocab_size });
        }
        let token =
            |id: &u32| Token { id: *id, text: self.text(*id), start: 0, end: 0, byte_start: 0, byte_end: 0 };
        Ok(Encoded { ids: ids.into(), tokens: ids.iter().map(token).collect(), text: Arc::from("") })
    }
    fn continuation(&self, _prompt: &str, text: &str) -> Result<Continuation, TokenizeError> {
        panic!("targets of the tiny models are ids, not {text:?}")
    }
    fn joins_spaces(&self) -> bool {
        false
    }
    fn text(&self, id: u32) -> String {
        format!("<{id}>")
    }
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }
    fn bos(&self) -> Option<u32> {
        None
    }
    fn span(&self, _encoded: &Encoded, _prompt: &str, text: &str) -> Result<Range<usize>, SpanError> {
        Err(SpanError::Absent { text: text.to_owned(), tokens: String::new() })
    }
    fn occurrences(
        &self,
        _encoded: &Encoded,
        _prompt: &str,
        text: &str,
    ) -> Result<Vec<Range<usize>>, SpanError> {
        Err(SpanError::Absent { text: text.to_owned(), tokens: String::new() })
    }
}
