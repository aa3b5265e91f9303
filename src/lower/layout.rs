//! What a plan's numbers mean: which readout is which cell. Stays outside of the engine.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::diff::Segment;
use super::lint::Lints;
use super::measure::{Measure, Targets};
use super::prompts::TokenRun;
use super::tautology::Triviality;
use crate::plan::{Plan, RunId};
use crate::spec::align::AlignSpec;
use crate::spec::corruption::SigmaOf;
use crate::spec::dtype::Dtype;
use crate::spec::named::Named;
use crate::spec::patch::{Control, PatchSpec, SweepAxis};
use crate::spec::run::RunSpec;
use crate::spec::site::Site;
use crate::spec::trace::TraceSpec;
use crate::tokens::Token;

/// A plan and what its numbers mean.
#[derive(Debug, Clone)]
pub struct Lowered<L> {
    /// What is computed before it, if its values come from other layers, other sites or several runs:
    /// [`Plan::fill`] takes what this one captures.
    pub prelude: Option<Plan>,
    /// What is computed.
    pub plan: Plan,
    /// What it means.
    pub layout: L,
}

/// One axis of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Axis {
    /// `layer`, `position`, `head`, `dim` or `source_layer`.
    pub name: &'static str,
    /// Its values in order.
    pub values: Vec<u32>,
}

/// What every request shares.
#[derive(Debug, Clone)]
pub struct Common {
    /// Runs, each with the index of its readout.
    pub runs: Named<(TokenRun, usize)>,
    /// Metrics.
    pub measures: Vec<Measure>,
    /// Target sets.
    pub targets: Targets,
    /// Lints found without running.
    pub lints: Lints,
    /// SHA-256 of the resolved request and all token ids, in hex.
    pub plan_sha256: String,
    /// Readouts of one run and of a copy of it that stands elsewhere in the batch, where effects are computed: what
    /// they differ by is the noise floor.
    pub twins: Option<(usize, usize)>,
}

/// Cells in row-major order of the axes, each with one readout per sample.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Axes, outermost first; none for a single cell.
    pub axes: Vec<Axis>,
    /// Samples per cell.
    pub samples: usize,
    /// Index of the readout of each cell and sample, `[cells, samples]`.
    pub readouts: Vec<usize>,
    /// The same of each control asked for.
    pub controls: Vec<(Control, Vec<usize>)>,
    /// Cells whose answer is their source's by construction, `[cells]`.
    pub trivial: Vec<Option<Triviality>>,
}

/// A cell's coordinates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CellKey {
    /// Layer, if layers are an axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<u32>,
    /// Position, if positions are an axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// Head, if heads are an axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Column, if columns are an axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<u32>,
    /// Layer read, if those are an axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_layer: Option<u32>,
}

impl CellKey {
    /// Its coordinate on an axis.
    pub const fn get(&self, axis: SweepAxis) -> Option<u32> {
        match axis {
            SweepAxis::Layers => self.layer,
            SweepAxis::Positions => self.position,
            SweepAxis::Heads => self.head,
            SweepAxis::Dims => self.dim,
            SweepAxis::SourceLayers => self.source_layer,
        }
    }

    /// Coordinates of a cell, counted in row-major order of the axes.
    pub fn of(axes: &[Axis], mut cell: usize) -> Self {
        let mut key = Self::default();
        for axis in axes.iter().rev() {
            let value = axis.values[cell % axis.values.len()];
            cell /= axis.values.len();
            match axis.name {
                "layer" => key.layer = Some(value),
                "position" => key.position = Some(value),
                "dim" => key.dim = Some(value),
                "source_layer" => key.source_layer = Some(value),
                _ => key.head = Some(value),
            }
        }
        key
    }
}

impl Grid {
    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.readouts.len() / self.samples
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.values.len()).collect()
    }

    /// Readouts of a control, `[cells, samples]`.
    pub fn control(&self, kind: Control) -> &[usize] {
        self.controls.iter().find(|(control, _)| *control == kind).map_or(&[], |(_, readouts)| readouts)
    }

    /// Readouts of a cell, one per sample.
    pub fn cell(&self, cell: usize) -> &[usize] {
        &self.readouts[cell * self.samples..(cell + 1) * self.samples]
    }

    /// Coordinates of a cell.
    pub fn key(&self, cell: usize) -> CellKey {
        CellKey::of(&self.axes, cell)
    }

    /// Cells whose every readout is really its baseline's: `resolved[readout]` is the run whose row it is
    /// (`plan::cone`), `baselines` holds the baseline readout of each sample, or one for all.
    pub fn exact_nulls(&self, resolved: &[RunId], baselines: &[usize]) -> Vec<bool> {
        let null = |cell| {
            let mut readouts = self.cell(cell).iter().zip(baselines.iter().cycle());
            readouts.all(|(cell, baseline)| resolved[*cell] == resolved[*baseline])
        };
        (0..self.cells()).map(null).collect()
    }
}

/// Meaning of a [`RunSpec`]'s plan.
#[derive(Debug, Clone)]
pub struct RunLayout {
    /// The request.
    pub spec: RunSpec,
    /// Runs, metrics, targets.
    pub common: Common,
    /// Meaning of the captures.
    pub captures: Vec<CaptureKey>,
    /// Meaning of the logit lens's readouts, by run.
    pub lenses: Vec<LensKey>,
    /// Meaning of the captured attention patterns, by run and entry of the request.
    pub attention: Vec<AttentionKey>,
    /// What attributions are computed from, by run.
    pub attribution: Vec<AttributionKey>,
}

/// What consecutive lens readouts of a plan are: layer by layer, position by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LensKey {
    /// Index of the run.
    pub run: usize,
    /// Layers.
    pub layers: Vec<u32>,
    /// Positions.
    pub positions: Vec<u32>,
    /// Index of the first readout in the plan.
    pub first: usize,
}

/// What consecutive captures of attention patterns are: one per layer, `[positions, heads, stride]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionKey {
    /// Index of the run.
    pub run: usize,
    /// Layers.
    pub layers: Vec<u32>,
    /// Heads returned.
    pub heads: Vec<u32>,
    /// Query positions.
    pub positions: Vec<u32>,
    /// Keys of the run: its length.
    pub length: usize,
    /// Columns of a head in the capture.
    pub stride: usize,
    /// Index of the first capture in the plan.
    pub first: usize,
}

/// What consecutive captures of an attribution are: the embedding, the last residual stream, then layer by layer each of
/// [`AttributionKey::sites`]; one position each.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributionKey {
    /// Index of the run.
    pub run: usize,
    /// Whether heads are told apart.
    pub heads: bool,
    /// Position attributed.
    pub position: u32,
    /// What the logit is the inner product with, `[hidden]`.
    pub direction: Arc<[f32]>,
    /// Whether the final norm takes the mean off: a LayerNorm.
    pub centred: bool,
    /// Epsilon of the final norm.
    pub eps: f64,
    /// What the final norm's bias adds to the logit.
    pub constant: f64,
    /// The embedding of the position, `[hidden]`, if positions have any.
    pub positions: Option<Arc<[f32]>>,
    /// Biases of attention, `[layers, hidden]`, if heads are told apart and there are any.
    pub attention_biases: Option<Arc<[f32]>>,
    /// Index of the first capture in the plan.
    pub first: usize,
}

impl AttributionKey {
    /// The components of a layer.
    pub fn sites(&self) -> &'static [Site] {
        const ALL: [Site; 3] = [Site::AttnOut, Site::MlpOut, Site::HeadOut];
        if self.heads { &ALL } else { &ALL[..2] }
    }
}

/// What consecutive captures of a plan are: one per layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureKey {
    /// Index of the run.
    pub run: usize,
    /// Site.
    pub site: Site,
    /// Layers, one capture each; `None` at `embed`, which is one capture.
    pub layers: Option<Vec<u32>>,
    /// Positions.
    pub positions: Vec<u32>,
    /// Numbers per position.
    pub width: usize,
    /// The format in which they are stored, if they are not returned in the response.
    pub handle: Option<Dtype>,
    /// Index of the first capture in the plan.
    pub first: usize,
}

impl CaptureKey {
    /// Captures of the plan: one per layer, one at sites without.
    pub fn depth(&self) -> usize {
        self.layers.as_ref().map_or(1, Vec::len)
    }
}

/// Meaning of an [`AlignSpec`]'s plan: the first of its two runs is `a`, the second `b`.
#[derive(Debug, Clone)]
pub struct AlignLayout {
    /// The request.
    pub spec: AlignSpec,
    /// Runs, metrics, targets.
    pub common: Common,
    /// The diff of the runs' tokens.
    pub segments: Vec<Segment>,
}

/// Meaning of a [`PatchSpec`]'s plan.
#[derive(Debug, Clone)]
pub struct PatchLayout {
    /// The request.
    pub spec: PatchSpec,
    /// The one case that it is, of one arm.
    pub case: CaseLayout,
}

impl PatchLayout {
    /// Its arm.
    pub fn arm(&self) -> &ArmLayout {
        &self.case.arms.0[0].1
    }

    /// Readouts that count as 0 and 1.
    pub fn normalise(&self) -> Option<(usize, usize)> {
        let arm = self.arm();
        Some((arm.zero.unwrap_or(arm.base[0]), arm.reference.as_ref()?[0]))
    }
}

/// Meaning of a [`TraceSpec`]'s plan.
#[derive(Debug, Clone)]
pub struct TraceLayout {
    /// The request.
    pub spec: TraceSpec,
    /// The one case that it is.
    pub case: CaseLayout,
    /// Cells of which it is told what the model says with them: index of the arm, and of the cell in its grid.
    pub cells: Vec<(usize, usize)>,
}

/// Meaning of the plan of one case: of a patch, of a trace, or of a sweep.
#[derive(Debug, Clone)]
pub struct CaseLayout {
    /// Whether something is derived from what the model says in each cell.
    pub says: bool,
    /// Runs, metrics, targets.
    pub common: Common,
    /// Index of the run that corruption starts from, among the runs.
    pub clean_run: usize,
    /// Its readout.
    pub clean: usize,
    /// Readout of each sample of the corrupted run; none without a corruption.
    pub corrupted: Vec<usize>,
    /// Token ids of the first corrupted run.
    pub corrupted_tokens: Vec<u32>,
    /// Positions that got noise, or whose token differs.
    pub corrupted_positions: Vec<u32>,
    /// Prompts that took the clean one's place, one per sample; none if there was noise.
    pub replaced: Vec<Replaced>,
    /// The noise used.
    pub sigma: Option<SigmaUsed>,
    /// Token span named `subject` of the clean run.
    pub subject: Option<Range<u32>>,
    /// Arms.
    pub arms: Named<ArmLayout>,
}

/// Meaning of one arm.
#[derive(Debug, Clone)]
pub struct ArmLayout {
    /// Readouts of the run that is patched: one, or one per sample.
    pub base: Vec<usize>,
    /// The same of the run that its cells could at most reach.
    pub reference: Option<Vec<usize>>,
    /// Readout of the run that counts as 0 where the reference counts as 1, if that is not the one that is patched.
    pub zero: Option<usize>,
    /// Readouts of the run whose most probable token `top1_flip` compares with, as many: the patched run, and in a trace the
    /// clean one.
    pub answer: Vec<usize>,
    /// Number of tokens of the run that is patched.
    pub len: u32,
    /// Its token span named `subject`.
    pub subject: Option<Range<u32>>,
    /// Cells; none where only unpatched runs are wanted.
    pub grid: Grid,
}

impl ArmLayout {
    /// Readout of the unpatched run of a sample.
    pub fn base_of(&self, sample: usize) -> usize {
        self.base[sample % self.base.len()]
    }

    /// Readout of the run whose most probable token a sample is compared with.
    pub fn answer_of(&self, sample: usize) -> usize {
        self.answer[sample % self.answer.len()]
    }
}

impl CaseLayout {
    /// Readouts of the unpatched runs.
    pub fn unpatched(&self) -> Vec<usize> {
        let runs = self.common.runs.iter().map(|(_, (_, readout))| *readout);
        // A run that took the clean one's place is read once.
        let mut readouts: Vec<usize> = runs.chain(self.corrupted.iter().copied()).collect();
        readouts.sort_unstable();
        readouts.dedup();
        readouts
    }

    /// Number of cells of all arms.
    pub fn cells(&self) -> usize {
        self.arms.iter().map(|(_, arm)| arm.grid.cells()).sum()
    }

    /// Readouts of the unpatched runs and of some cells, counted through all arms.
    pub fn readouts(&self, range: &Range<usize>) -> Vec<usize> {
        let mut readouts = self.unpatched();
        let cells =
            self.arms.iter().flat_map(|(_, arm)| (0..arm.grid.cells()).map(|cell| arm.grid.cell(cell)));
        readouts.extend(cells.skip(range.start).take(range.len()).flatten().copied());
        readouts
    }
}

/// A prompt that took the clean one's place.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Replaced {
    /// The run that it is; null if tokens were replaced.
    pub run: Option<String>,
    /// Its tokens; replaced ones have the offsets of what they replace.
    pub tokens: Vec<Token>,
    /// Where they are others than the clean run's.
    pub differing_positions: Vec<u32>,
}

/// The standard deviation of the noise (of `uniform`, half the width of its range), and how it came about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SigmaUsed {
    /// Sigma.
    pub abs: f64,
    /// Multiple of the reference; null if it was given absolutely.
    pub k: Option<f64>,
    /// The reference: `subjects` (the corrupted tokens, of all cases together where there are several) or `vocab`.
    pub of: Option<SigmaOf>,
    /// Standard deviation of the reference.
    pub reference: Option<f64>,
}
