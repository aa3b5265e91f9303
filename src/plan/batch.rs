//! What the engine gets: dense row tables for one pass over the layers, and nothing else.
//!
//! A **row** is one position of one run. The live rows of all runs are packed in one matrix `x [rows, hidden]` without
//! padding; every table here holds indices into the rows as they stand at that point of the pass.

use std::ops::Range;

/// One forward pass over all layers for a set of runs.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardBatch {
    /// Token id of each initial row (the roots' rows).
    pub tokens: Vec<u32>,
    /// Position of each initial row in its own sequence.
    pub positions: Vec<u32>,
    /// Joins, edits and captures at `embed`.
    pub embed: Tap,
    /// One entry per block.
    pub layers: Vec<LayerBatch>,
    /// What is read after the last block.
    pub readout: ReadoutBatch,
    /// Most rows alive at any point: what the row budget bounds.
    pub peak_rows: usize,
    /// Sum over layers of the rows that pass through the layer: the unit of work.
    pub row_layers: u64,
}

/// The tables of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerBatch {
    /// At `resid_pre`.
    pub resid_pre: Tap,
    /// Which rows leave attention, and which keys they see.
    pub attention: AttentionBatch,
    /// At `z`.
    pub z: Tap,
    /// At `attn_out`.
    pub attn_out: Tap,
    /// At `resid_mid`.
    pub resid_mid: Tap,
    /// At `mlp_out`.
    pub mlp_out: Tap,
    /// At `resid_post`.
    pub resid_post: Tap,
}

/// Attention over packed rows. Row `i` that comes out continues the residual stream of incoming row `out[i]` and sees
/// the keys `keys[key_start[i]..][..=position]`, in the order of their positions.
///
/// Rows that nothing later needs are left out; rows of a branch whose earlier positions just changed appear here for
/// the first time, as a second reader of their parent's row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AttentionBatch {
    /// Incoming row of each outgoing row.
    pub out: Vec<u32>,
    /// Whether `out` is `0, 1, 2, ..` over all incoming rows, so that nothing need be copied.
    pub identity: bool,
    /// Start of each outgoing row's key list; rows of one run share a list.
    pub key_start: Vec<u32>,
    /// Incoming rows whose keys and values are seen.
    pub keys: Vec<u32>,
}

/// What happens at one site: steps in order, then captures.
#[derive(Debug, Clone, PartialEq, Default)]
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
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Appends copies of these rows: branches that part from their parent here.
    Join(Vec<u32>),
    /// Writes rows.
    Edit(EditRows),
}

/// A table of rows written alike.
#[derive(Debug, Clone, PartialEq)]
pub struct EditRows {
    /// Rows written, each once.
    pub rows: Vec<u32>,
    /// Columns written; `None`: all.
    pub columns: Option<Range<u32>>,
    /// What is written.
    pub op: RowOp,
    /// Index of the receipt it counts in.
    pub group: usize,
}

/// What is written to the rows of an [`EditRows`].
#[derive(Debug, Clone, PartialEq)]
pub enum RowOp {
    /// `dst = src`
    Replace(Values),
    /// `dst += coef * src`
    Add(Values, f32),
    /// `dst *= factor`
    Scale(f32),
    /// `dst = 0`
    Zero,
}

/// Source values, one row per destination row.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Rows of the same matrix. Never among the rows written by the same table.
    Rows(Vec<u32>),
    /// Given numbers, `[rows, columns]`.
    Given(Vec<f32>),
}

/// Rows copied out for the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptureRows {
    /// Index of the capture in the batch's output.
    pub capture: usize,
    /// Rows copied, in order.
    pub rows: Vec<u32>,
}

/// What is read from the final rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReadoutBatch {
    /// Final rows that are unembedded.
    pub rows: Vec<u32>,
    /// Token ids whose logit and rank are returned.
    pub targets: Vec<u32>,
    /// How many top tokens are returned, at least 1.
    pub topk: u32,
    /// Indices into `rows` of the reference distributions for KL.
    pub kl_refs: Vec<u32>,
}
