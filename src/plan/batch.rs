//! What the engine gets: dense row tables for one pass over the layers, and nothing else.
//!
//! A **row** is one position of one run. The live rows of all runs are packed in one matrix `x [rows, hidden]` without
//! padding; every table here holds indices into the rows as they stand at that point of the pass. All of it is plain data
//! that can be sent to another process.

use std::ops::{Index, Range};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Along;
use super::draw::StepDraws;
use crate::spec::site::Site;

/// One forward pass over all layers for a set of runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ForwardBatch {
    /// Token id of each initial row (the roots' rows).
    pub tokens: Vec<u32>,
    /// Position of each initial row in its own sequence.
    pub positions: Vec<u32>,
    /// Tokens of each initial row's own prompt.
    pub lengths: Vec<u32>,
    /// Joins, edits and captures at `embed`.
    pub embed: Tap,
    /// One entry per block.
    #[serde(with = "layers")]
    pub layers: Vec<LayerBatch>,
    /// Joins, edits and captures at `final_norm`.
    pub final_norm: Tap,
    /// Captures at `logits`.
    pub logits: Tap,
    /// What is read after the final norm.
    pub readout: ReadoutBatch,
    /// Places in the store for the keys and values that are kept, the same in every layer; see [`LayerBatch::kept`].
    pub slots: Vec<u32>,
    /// Of a step of generation, what is drawn. Its rows see the keys in the store, where each keeps its own first; key lists
    /// hold places of the store. None: rows see the keys of the batch.
    pub step: Option<StepDraws>,
    /// Columns of a head where attention scores are held; 0 if they are held nowhere.
    pub keys: u32,
    /// How many rows are edited, each as often as it is: what [`EditRows::first`] counts.
    pub edited: usize,
    /// Most rows alive at any point: what the row budget bounds.
    pub peak_rows: usize,
    /// Sum over layers of the rows that pass through the layer: the unit of work.
    pub row_layers: u64,
}

impl ForwardBatch {
    /// How many blocks are computed: behind the last of them nothing is written, read, drawn or kept.
    pub fn depth(&self) -> usize {
        let reads = !(self.final_norm.is_empty() && self.logits.is_empty() && self.readout.rows.is_empty());
        if reads || self.step.as_ref().is_some_and(|step| !step.draws.is_empty()) {
            return self.layers.len();
        }
        self.layers.iter().rposition(|layer| !layer.is_idle()).map_or(0, |last| last + 1)
    }
}

/// The tables of one block. `batch[site]` is what happens at a site.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerBatch {
    /// By site, in the order of computation, from `resid_pre` to `resid_post`.
    pub taps: [Tap; SITES],
    /// Which rows leave attention, and which keys they see: mostly those of the layer before, and then the same table.
    pub attention: Arc<AttentionBatch>,
    /// Incoming rows whose keys and values are kept, after the edits of both: one for each of [`ForwardBatch::slots`].
    pub kept: Vec<u32>,
    /// Logit-lens readouts of the residual stream leaving the block.
    pub lens: ReadoutBatch,
}

/// Sites of a block.
pub const SITES: usize = Site::ResidPost as usize - Site::ResidPre as usize + 1;

impl Index<Site> for LayerBatch {
    type Output = Tap;

    fn index(&self, site: Site) -> &Tap {
        &self.taps[site as usize - Site::ResidPre as usize]
    }
}

impl LayerBatch {
    /// Whether nothing is written, read or kept in this layer.
    fn is_idle(&self) -> bool {
        self.taps.iter().all(Tap::is_empty) && self.lens.rows.is_empty() && self.kept.is_empty()
    }

    /// Whether attention scores are written or read in this layer.
    pub fn holds_scores(&self) -> bool {
        !self[Site::Scores].is_empty() || !self[Site::Pattern].is_empty()
    }
}

/// Attention over packed rows. Row `i` that comes out continues the residual stream of incoming row `out[i]` and sees
/// the keys `keys[key_start[i]..][..=position]`, in the order of their positions.
///
/// Rows that nothing later needs are left out; rows of a branch whose earlier positions just changed appear here for
/// the first time, as a second reader of their parent's row. `key_start` also covers the rows that join after the
/// selection and before the values are weighed (branches parting at `q`, `q_rope`, `scores` or `pattern`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AttentionBatch {
    /// Incoming row of each outgoing row.
    pub out: Vec<u32>,
    /// Start of each outgoing row's key list; rows of one run share a list.
    pub key_start: Vec<u32>,
    /// Incoming rows whose keys and values are seen.
    pub keys: Vec<u32>,
}

/// What happens at one site: steps in order, then captures.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tap {
    /// Joins and edits in the order in which they apply.
    pub steps: Vec<Step>,
    /// Copies returned to the caller.
    pub captures: Vec<CaptureRows>,
}

impl Tap {
    /// Whether the site can be passed without looking.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.captures.is_empty()
    }
}

/// One step at a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Appends copies of these rows: branches that part from their parent here.
    Join(Vec<u32>),
    /// Writes rows.
    Edit(EditRows),
}

/// A table of rows written alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EditRows {
    /// Rows written, each once.
    pub rows: Vec<u32>,
    /// Where its rows stand among all that the batch edits; they follow one another.
    pub first: usize,
    /// Columns written; `None`: all.
    pub columns: Option<Range<u32>>,
    /// What is written.
    pub op: RowOp,
    /// Rows of length 1, `[rows, columns]`, along which the rows move instead, as far as `op` would have moved them.
    pub instead: Option<Vec<f32>>,
    /// At `head_out`: the layer whose output projection given values go through, if it is another one.
    pub through: Option<u32>,
}

impl EditRows {
    /// Whether a column's new number depends on what stands in other columns, so that a part of the columns cannot be written
    /// without the rest.
    pub fn couples_columns(&self) -> bool {
        let coupled = matches!(
            self.op,
            RowOp::Project { .. } | RowOp::Along { .. } | RowOp::Add { norm_match: true, .. }
        );
        coupled || self.instead.is_some()
    }
}

/// What is written to the rows of an [`EditRows`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RowOp {
    /// `dst = src`
    Replace(Values),
    /// `dst += coef * src`, then rescaled to the norm it had if `norm_match`.
    Add {
        /// What is added.
        values: Values,
        /// Its coefficient.
        coef: f32,
        /// Whether the norm is kept.
        norm_match: bool,
    },
    /// `dst *= factor`
    Scale(f32),
    /// `dst += u * (change(u . dst) - u . dst)`
    Along {
        /// `u`, of length 1, `[columns]`.
        #[serde(with = "shared")]
        direction: Arc<[f32]>,
        /// What becomes of the part along it.
        change: Along,
    },
    /// `dst = 0`
    Zero,
    /// `dst = -inf`
    Cut,
    /// `dst += P (src - dst)`, `P` the projector on the span of the basis; no values: `src` is zero.
    Project {
        /// Orthonormal rows, `[n, columns]`.
        #[serde(with = "shared")]
        basis: Arc<[f32]>,
        /// `src`
        values: Option<Values>,
    },
}

impl RowOp {
    /// The source values, if there are any.
    pub fn values(&self) -> Option<&Values> {
        match self {
            RowOp::Replace(values) | RowOp::Add { values, .. } => Some(values),
            RowOp::Project { values, .. } => values.as_ref(),
            RowOp::Scale(_) | RowOp::Along { .. } | RowOp::Zero | RowOp::Cut => None,
        }
    }

    /// The same, to be added to.
    pub fn values_mut(&mut self) -> Option<&mut Values> {
        match self {
            RowOp::Replace(values) | RowOp::Add { values, .. } => Some(values),
            RowOp::Project { values, .. } => values.as_mut(),
            RowOp::Scale(_) | RowOp::Along { .. } | RowOp::Zero | RowOp::Cut => None,
        }
    }
}

/// Source values, one row per destination row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Values {
    /// Rows of the same matrix. Never among the rows written by the same table.
    Rows(Vec<u32>),
    /// Given numbers, `[rows, columns]`.
    Given(Vec<f32>),
}

/// Rows copied out for the caller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptureRows {
    /// Index of the capture in the batch's output.
    pub capture: usize,
    /// Rows copied, in order.
    pub rows: Vec<u32>,
}

/// What is read from rows by the final norm and the unembedding.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ReadoutBatch {
    /// Rows that are unembedded.
    pub rows: Vec<u32>,
    /// What is read of them, stretch by stretch: parts of different plans ask for different things.
    pub asked: Vec<AskedRows>,
}

/// What is read of some rows that follow one another.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AskedRows {
    /// How many rows they are.
    pub count: usize,
    /// Token ids whose logit and rank are returned.
    pub targets: Vec<u32>,
    /// How many top tokens are returned, at least 1.
    pub topk: u32,
    /// Indices among these rows of the reference distributions for KL.
    pub kl_refs: Vec<u32>,
    /// Whether entropies are returned.
    pub entropy: bool,
}

impl ReadoutBatch {
    /// What is read, and of which of the rows.
    pub fn stretches(&self) -> impl Iterator<Item = (Range<usize>, &AskedRows)> {
        self.asked.iter().scan(0, |next, asked| {
            let first = *next;
            *next += asked.count;
            Some((first..*next, asked))
        })
    }
}

/// Layers, each table of attention written once.
mod layers {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::{AttentionBatch, LayerBatch, ReadoutBatch, SITES, Tap};

    #[derive(Serialize)]
    struct Written<'a> {
        taps: &'a [Tap; SITES],
        /// None: that of the layer before.
        attention: Option<&'a AttentionBatch>,
        kept: &'a [u32],
        lens: &'a ReadoutBatch,
    }

    #[derive(Deserialize)]
    struct Read {
        taps: [Tap; SITES],
        attention: Option<AttentionBatch>,
        kept: Vec<u32>,
        lens: ReadoutBatch,
    }

    pub(super) fn serialize<S: Serializer>(layers: &[LayerBatch], serializer: S) -> Result<S::Ok, S::Error> {
        let mut before: Option<&Arc<AttentionBatch>> = None;
        serializer.collect_seq(layers.iter().map(|LayerBatch { taps, attention, kept, lens }| {
            let repeats = before.replace(attention).is_some_and(|before| Arc::ptr_eq(before, attention));
            Written { taps, attention: (!repeats).then_some(attention), kept, lens }
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<LayerBatch>, D::Error> {
        let mut before = None;
        let read = Vec::<Read>::deserialize(deserializer)?;
        let layer = |Read { taps, attention, kept, lens }| {
            let attention = attention.map(Arc::new).or_else(|| before.clone());
            let attention = attention.ok_or_else(|| de::Error::custom("no layer is before the first"))?;
            before = Some(Arc::clone(&attention));
            Ok(LayerBatch { taps, attention, kept, lens })
        };
        read.into_iter().map(layer).collect()
    }
}

/// Shared numbers, written out.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(numbers: &Arc<[f32]>, serializer: S) -> Result<S::Ok, S::Error> {
        numbers.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[f32]>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into())
    }
}
