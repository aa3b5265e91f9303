//! Sweeps, timed: computed chunk by chunk as the engine does, the next chunk laid out while one is computed.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use serde::Serialize;

use super::sweeps::Sweep;
use mediant::engine::row_budget::RowBudget;
use mediant::engine::{Model, Ready};
use mediant::kernels::facts::Rates;
use mediant::model::config::ModelConfig;
use mediant::plan::pack::{Mode, Packing};
use mediant::plan::{Plan, Score};

/// What a plan took and gave.
pub(super) struct Computed {
    pub(super) seconds: f64,
    /// Of these, seconds in which the model computed.
    pub(super) computing: f64,
    pub(super) scores: Vec<Score>,
    /// Rows times layers that the plan needs: roots that further chunks carry along are not counted again.
    pub(super) row_layers: u64,
    pub(super) readouts: u64,
    pub(super) chunks: usize,
}

/// Computes a plan.
pub(super) fn compute(
    model: &mut dyn Model,
    layers: usize,
    plan: &Plan,
    budget: &RowBudget,
    mode: Mode,
) -> anyhow::Result<Computed> {
    let started = Instant::now();
    let packing = Packing::new(plan, layers as u32, budget.rows, mode)?;
    let roots: usize = plan.runs.iter().filter(|run| run.parent.is_none()).map(|run| run.tokens.len()).sum();
    let mut scores: Vec<Option<Score>> = vec![None; plan.readouts.len()];
    let (mut computing, mut row_layers, mut readouts) = (0.0, 0, 0);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let (ready, chunks) = sync_channel(1);
        let packing = &packing;
        scope.spawn(move || {
            for index in 0..packing.len() {
                if ready.send(packing.chunk(index)).is_err() {
                    break;
                }
            }
        });
        for chunk in chunks {
            row_layers += chunk.batch.row_layers;
            readouts += chunk.batch.readout.rows.len() as u64;
            let batch = Arc::new(chunk.batch);
            let begun = Instant::now();
            let output = model.forward(&batch)?;
            computing += begun.elapsed().as_secs_f64();
            for (readout, row) in chunk.readouts {
                scores[readout] = Some(output.scores[row].clone());
            }
        }
        Ok(())
    })?;
    let scores = scores.into_iter().map(|s| s.expect("BUG: every readout is in one chunk")).collect();
    let again =
        if mode == Mode::Branching { (packing.len() as u64 - 1) * (roots * layers) as u64 } else { 0 };
    Ok(Computed {
        seconds: started.elapsed().as_secs_f64(),
        computing,
        scores,
        row_layers: row_layers.saturating_sub(again),
        readouts,
        chunks: packing.len(),
    })
}

/// One sweep, computed in both modes in turn.
#[derive(Debug, Serialize)]
pub(super) struct Section {
    /// What is swept.
    pub(super) what: String,
    /// Tokens of the prompt.
    pub(super) tokens: usize,
    layers: usize,
    across: usize,
    samples: usize,
    pub(super) cells: usize,
    /// Each time it was computed.
    pub(super) branching_s: Vec<f64>,
    /// Of the shortest of these, seconds in which the model computed.
    computing_s: f64,
    pub(super) full_recompute_s: Vec<f64>,
    /// Whether both modes gave the same bits.
    pub(super) same_bits: Option<bool>,
    chunks: usize,
    /// Operations of the linear layers and the unembedding, 2 per multiply-add.
    pub(super) flops: f64,
    /// Rows times layers.
    row_layers: u64,
    /// The least time that the devices' own ceilings allow: of their products, or of reading the weights once a chunk.
    /// Unknown of a CPU.
    floor_s: Option<f64>,
    /// `floor_s` by the best time.
    pub(super) of_floor: Option<f64>,
    /// The same with the rate of random products that the devices keep up at the limit of their power. Products of rows that are
    /// alike take less, so this may pass 1.
    pub(super) of_sustained: Option<f64>,
    /// P(target) by layer and position or head, mean over samples.
    values: Vec<Vec<f64>>,
}

/// A sweep with what was measured of it.
pub(super) struct Measured {
    what: String,
    tokens: usize,
    sweep: Sweep,
    branching: Vec<Computed>,
    full_recompute: Vec<Computed>,
}

impl Measured {
    pub(super) fn new(what: impl Into<String>, tokens: usize, sweep: Sweep) -> Self {
        Self { what: what.into(), tokens, sweep, branching: Vec::new(), full_recompute: Vec::new() }
    }

    /// The plan.
    pub(super) fn plan(&self) -> &Plan {
        &self.sweep.plan
    }

    /// Computes it once, in each mode.
    pub(super) fn round(
        &mut self,
        model: &mut dyn Model,
        config: &ModelConfig,
        budget: &RowBudget,
        full_recompute: bool,
    ) -> anyhow::Result<()> {
        let mut once = |mode| compute(model, config.num_layers, &self.sweep.plan, budget, mode);
        self.branching.push(once(Mode::Branching)?);
        if full_recompute {
            self.full_recompute.push(once(Mode::FullRecompute)?);
        }
        Ok(())
    }

    /// What came out. `ready`: of the model that computed it.
    pub(super) fn section(&self, ready: &Ready) -> Section {
        let seconds = |computed: &[Computed]| computed.iter().map(|c| c.seconds).collect::<Vec<f64>>();
        let last = self.branching.last().expect("BUG: measured at least once");
        let flops = ready.budget.flops(last.row_layers, last.readouts);
        let floor_s = floor(ready, flops, last.chunks, |rates| rates.square_flops);
        let sustained_s = floor(ready, flops, last.chunks, |rates| rates.sustained_flops);
        let fastest = self.branching.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let fastest = fastest.expect("BUG: measured at least once");
        Section {
            what: self.what.clone(),
            tokens: self.tokens,
            layers: self.sweep.layers,
            across: self.sweep.across,
            samples: self.sweep.samples,
            cells: self.sweep.cells(),
            branching_s: seconds(&self.branching),
            computing_s: fastest.computing,
            full_recompute_s: seconds(&self.full_recompute),
            same_bits: self.full_recompute.last().map(|full| full.scores == last.scores),
            chunks: last.chunks,
            flops,
            row_layers: last.row_layers,
            floor_s,
            of_floor: floor_s.map(|floor| floor / fastest.seconds),
            of_sustained: sustained_s.map(|floor| floor / fastest.seconds),
            values: self.sweep.values(&last.scores),
        }
    }
}

/// The least time for so many operations in so many chunks: every device multiplies at its own ceiling, `products` of its rates,
/// or reads its weights once a chunk.
pub(super) fn floor(
    ready: &Ready,
    flops: f64,
    chunks: usize,
    products: impl Fn(&Rates) -> f64,
) -> Option<f64> {
    let rates: Vec<_> =
        ready.devices.iter().map(|d| Some((d.rates?, d.weight_bytes))).collect::<Option<_>>()?;
    let share = flops / rates.len() as f64;
    let of_rank = |(rates, weight_bytes): (Rates, u64)| {
        (share / products(&rates)).max(chunks as f64 * weight_bytes as f64 / rates.copy_bytes)
    };
    rates.into_iter().map(of_rank).reduce(f64::max)
}

/// The shortest of several times.
pub(super) fn best(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}
