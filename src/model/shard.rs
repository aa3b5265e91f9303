//! Which part of a model a rank holds, and how what requests say of the whole reads from there.
//!
//! Query heads, key/value heads, columns of the MLP and the vocabulary are divided; the residual stream is on every rank alike.
//! With more ranks than key/value heads, ranks whose queries share one hold a copy each, and one of them, the primary, speaks
//! for it.

use std::borrow::Cow;
use std::ops::Range;

use super::architecture::NormKind;
use super::config::ModelConfig;
use crate::kernels::Heads;
use crate::plan::batch::{EditRows, RowOp, Values};
use crate::spec::site::{Site, Width};

/// Vocabularies are divided in multiples of so many tokens: whole panels and tiles on every device.
const TOKENS: usize = 64;

/// A rank's part of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    config: ModelConfig,
    /// Which rank, from 0.
    pub rank: usize,
    /// How many ranks there are.
    pub world: usize,
    /// Own query heads.
    pub heads: Range<usize>,
    /// Key/value heads that these read.
    pub kv_heads: Range<usize>,
    /// Own columns of the MLP.
    pub mlp: Range<usize>,
    /// Own tokens.
    pub vocabulary: Range<usize>,
}

/// A rank's columns of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Those it holds, counted over the whole site.
    pub own: Range<u32>,
    /// Those of the whole site.
    pub width: u32,
    /// Whether it is this rank that speaks for them.
    pub primary: bool,
}

/// A model that cannot be divided over so many ranks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model cannot be divided over {world} devices: {}. It can be over {}", list(.faults), list(.worlds))]
pub struct Indivisible {
    /// Devices asked for.
    pub world: usize,
    /// Everything that does not divide.
    pub faults: Vec<Fault>,
    /// Numbers of devices that would do.
    pub worlds: Vec<usize>,
}

/// A size that does not divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {got} {why}")]
pub struct Fault {
    /// As in `config.json`.
    pub key: &'static str,
    /// Its value.
    pub got: usize,
    /// What is wrong.
    pub why: &'static str,
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

impl Shard {
    /// The part of a rank, if the model can be divided over so many.
    pub fn new(config: &ModelConfig, rank: usize, world: usize) -> Result<Shard, Indivisible> {
        let faults = faults(config, world);
        if !faults.is_empty() {
            let worlds = (1..=config.num_heads).filter(|w| self::faults(config, *w).is_empty()).collect();
            return Err(Indivisible { world, faults, worlds });
        }
        Ok(Shard::part(config, rank, world))
    }

    /// The part of a rank of a model that can be divided over so many.
    fn part(config: &ModelConfig, rank: usize, world: usize) -> Shard {
        let part = |n: usize| rank * n / world..(rank + 1) * n / world;
        let first_kv_head = rank * config.num_kv_heads / world;
        let tokens = part(config.vocab_size.div_ceil(TOKENS));
        Shard {
            config: config.clone(),
            rank,
            world,
            heads: part(config.num_heads),
            kv_heads: first_kv_head..first_kv_head + (config.num_kv_heads / world).max(1),
            mlp: part(config.intermediate_size),
            vocabulary: tokens.start * TOKENS..(tokens.end * TOKENS).min(config.vocab_size),
        }
    }

    /// The parts of all ranks.
    pub fn all(config: &ModelConfig, world: usize) -> Result<Vec<Shard>, Indivisible> {
        (0..world).map(|rank| Shard::new(config, rank, world)).collect()
    }

    /// The whole model.
    pub fn whole(config: &ModelConfig) -> Shard {
        Shard::part(config, 0, 1)
    }

    /// The part of another rank of the same group.
    #[must_use]
    pub fn of_rank(&self, rank: usize) -> Shard {
        Shard::part(&self.config, rank, self.world)
    }

    /// The shape of the whole model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// This rank's attention.
    pub fn attention(&self) -> Heads {
        Heads { query: self.heads.len(), key_value: self.kv_heads.len(), dim: self.config.head_dim }
    }

    /// What a GPU's kernels are compiled for.
    #[cfg(feature = "cuda")]
    pub fn dimensions(&self) -> crate::kernels::cuda::Dimensions {
        let bias = self.config.block.bias;
        crate::kernels::cuda::Dimensions {
            hidden: self.config.hidden_size,
            heads: self.attention(),
            intermediate: self.mlp.len(),
            bias: bias.attention_output || bias.mlp,
        }
    }

    /// Own tokens, as ids.
    pub fn tokens(&self) -> Range<u32> {
        self.vocabulary.start as u32..self.vocabulary.end as u32
    }

    /// Numbers in this rank's weights, norms and biases included.
    #[expect(clippy::many_single_char_names, reason = "the letters of the shapes in `Site`")]
    pub fn parameters(&self) -> u64 {
        let c = &self.config;
        let (d, e, f) = (c.hidden_size, c.head_dim, self.mlp.len());
        let (q, kv) = (self.heads.len() * e, self.kv_heads.len() * e);
        let norm = d * if c.block.norm.kind == NormKind::Layer { 2 } else { 1 };
        let of = |has: bool, n: usize| if has { n } else { 0 };
        let biases = of(c.block.bias.qkv, q + 2 * kv)
            + of(c.block.bias.attention_output, d)
            + of(c.block.bias.mlp, f + d);
        let head_norms = of(c.block.head_norms, 2 * e);
        let matrices = d * (2 * q + 2 * kv + c.block.mlp.matrices() * f);
        let layer = matrices + 2 * norm + biases + head_norms;
        let tables = if c.tie_word_embeddings { 1 } else { 2 };
        let rows = tables * self.vocabulary.len() + c.learned_positions();
        (c.num_layers * layer + rows * d + norm) as u64
    }

    /// This rank's columns of a site. `keys`: columns of a head of `scores` and `pattern`.
    pub fn columns(&self, site: Site, keys: usize) -> Columns {
        let all = self.config.site_width(site, keys);
        let part = |of: &Range<usize>, each: usize| of.start * each..of.end * each;
        let (own, primary) = match site.facts().width {
            Width::KeyValues => {
                let copies = (self.world / self.config.num_kv_heads).max(1);
                (part(&self.kv_heads, self.config.head_dim), self.rank.is_multiple_of(copies))
            }
            Width::Queries | Width::Keys | Width::HeadOutputs => {
                (part(&self.heads, all / self.config.num_heads), true)
            }
            Width::Neurons => (self.mlp.clone(), true),
            Width::Vocabulary => (self.vocabulary.clone(), true),
            Width::Hidden => (0..all, self.rank == 0),
        };
        Columns { own: own.start as u32..own.end as u32, width: all as u32, primary }
    }
}

fn faults(config: &ModelConfig, world: usize) -> Vec<Fault> {
    let ModelConfig { num_heads, num_kv_heads, intermediate_size, vocab_size, .. } = *config;
    let divides = "does not divide by the number of devices";
    let kv_divide = num_kv_heads.is_multiple_of(world) || world.is_multiple_of(num_kv_heads);
    let found = [
        (!num_heads.is_multiple_of(world), "num_attention_heads", num_heads, divides),
        (
            !kv_divide,
            "num_key_value_heads",
            num_kv_heads,
            "neither divides by the number of devices nor divides it",
        ),
        (!intermediate_size.is_multiple_of(world), "intermediate_size", intermediate_size, divides),
        (
            vocab_size.div_ceil(TOKENS) < world,
            "vocab_size",
            vocab_size,
            "has less than 64 tokens for each device",
        ),
    ];
    let fault = |(_, key, got, why)| Fault { key: config.family.key(key), got, why };
    found.into_iter().filter(|(fault, ..)| *fault).map(fault).collect()
}

impl Columns {
    /// Which columns an edit of the site writes.
    pub fn written(&self, edit: &EditRows) -> Range<u32> {
        edit.columns.clone().unwrap_or(0..self.width)
    }

    /// Those of the given columns that this rank holds.
    pub(super) fn held(&self, columns: &Range<u32>) -> Range<u32> {
        let start = columns.start.clamp(self.own.start, self.own.end);
        start..columns.end.min(self.own.end).max(start)
    }

    /// An edit in this rank's own columns; `None` if it writes none of them.
    pub fn localised<'e>(&self, edit: &'e EditRows) -> Option<Cow<'e, EditRows>> {
        let written = self.written(edit);
        let held = self.held(&written);
        if held.is_empty() {
            return None;
        }
        if self.own.len() == self.width as usize {
            return Some(Cow::Borrowed(edit));
        }
        let part = held.start - written.start..held.end - written.start;
        let cut = |rows: &[f32]| cut(rows, written.len(), &part);
        let values = |values: &Values| match values {
            Values::Rows(rows) => Values::Rows(rows.clone()),
            Values::Given(rows) => Values::Given(cut(rows)),
        };
        let op = match &edit.op {
            RowOp::Replace(source) => RowOp::Replace(values(source)),
            RowOp::Add { values: source, coef, norm_match } => {
                RowOp::Add { values: values(source), coef: *coef, norm_match: *norm_match }
            }
            RowOp::Project { basis, values: source } => {
                RowOp::Project { basis: cut(basis).into(), values: source.as_ref().map(values) }
            }
            RowOp::Along { direction, change } => {
                RowOp::Along { direction: cut(direction).into(), change: *change }
            }
            RowOp::Scale(_) | RowOp::Zero | RowOp::Cut => edit.op.clone(),
        };
        Some(Cow::Owned(EditRows {
            rows: edit.rows.clone(),
            first: edit.first,
            columns: Some(held.start - self.own.start..held.end - self.own.start),
            op,
            instead: edit.instead.as_deref().map(cut),
            through: edit.through,
        }))
    }
}

/// The given columns of rows of this width.
pub(super) fn cut(rows: &[f32], width: usize, columns: &Range<u32>) -> Vec<f32> {
    let columns = columns.start as usize..columns.end as usize;
    rows.chunks_exact(width).flat_map(|row| &row[columns.clone()]).copied().collect()
}
