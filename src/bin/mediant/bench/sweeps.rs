//! The plans that are timed, and P(target) of their cells.

use std::sync::Arc;

use super::TRACE_STD;
use mediant::lower::noise::numpy_legacy;
use mediant::lower::window;
use mediant::model::config::ModelConfig;
use mediant::plan::{Address, Edit, EditGroup, Op, Plan, RunId, Score, Source};
use mediant::spec::site::Site;

/// Layers restored together by [`window_trace`], as ROME does.
pub(super) const WINDOW: u32 = 10;

/// A plan whose cells form a grid of layers and something else.
pub(super) struct Sweep {
    /// What is computed: readout 0 is of the unpatched run.
    pub(crate) plan: Plan,
    /// Layers.
    pub(crate) layers: usize,
    /// Positions or heads of each layer.
    pub(crate) across: usize,
    /// Noise samples, the outermost axis of the cells.
    pub(crate) samples: usize,
}

impl Sweep {
    /// Patched runs.
    pub(super) fn cells(&self) -> usize {
        self.layers * self.across * self.samples
    }

    /// P(target), `[layers, across]`, mean over samples.
    pub(super) fn values(&self, scores: &[Score]) -> Vec<Vec<f64>> {
        let cells = self.layers * self.across;
        let probability = |cell: usize, sample: usize| {
            let score = &scores[1 + sample * cells + cell];
            (f64::from(score.logits[0]) - score.log_sum_exp).exp()
        };
        let mean = |cell| (0..self.samples).map(|s| probability(cell, s)).sum::<f64>() / self.samples as f64;
        (0..self.layers).map(|l| (0..self.across).map(|a| mean(l * self.across + a)).collect()).collect()
    }
}

/// Every cell of a denoising trace of the hidden state: noise of standard deviation [`TRACE_STD`] on all positions, drawn
/// as NumPy's `RandomState(0).randn(samples, positions, hidden)`.
pub(super) fn trace(config: &ModelConfig, ids: &Arc<[u32]>, target: u32, samples: usize) -> Sweep {
    denoising(config, ids, target, samples, Site::ResidPost, 1)
}

/// The same trace of the MLPs' outputs, restored in [`WINDOW`] layers around each.
pub(super) fn window_trace(config: &ModelConfig, ids: &Arc<[u32]>, target: u32, samples: usize) -> Sweep {
    denoising(config, ids, target, samples, Site::MlpOut, WINDOW)
}

/// The trace of a run into itself: each cell writes what is there already. Its controls are computed like any patch.
pub(super) fn self_patches(config: &ModelConfig, ids: &Arc<[u32]>, target: u32) -> Sweep {
    let last = ids.len() as u32 - 1;
    let (mut plan, base) = started(ids, target);
    for layer in 0..config.num_layers as u32 {
        for position in 0..=last {
            let op = Op::Replace(Source::Run { run: base, positions: vec![position] });
            let at = Address { layer, site: Site::ResidPost };
            let cell = plan.branch(base, vec![Edit::new(at, vec![position], op, EditGroup::Control)]);
            plan.read(cell, last);
        }
    }
    Sweep { plan, layers: config.num_layers, across: ids.len(), samples: 1 }
}

fn denoising(
    config: &ModelConfig,
    ids: &Arc<[u32]>,
    target: u32,
    samples: usize,
    site: Site,
    width: u32,
) -> Sweep {
    let all: Vec<u32> = (0..ids.len() as u32).collect();
    let last = ids.len() as u32 - 1;
    let depth = config.num_layers as u32;
    let numbers = ids.len() * config.hidden_size;
    let noise = numpy_legacy(0, samples * numbers);
    let (mut plan, clean) = started(ids, target);
    for noise in noise.chunks(numbers) {
        let rows: Arc<[f32]> = noise.iter().map(|x| (x * TRACE_STD) as f32).collect();
        let at = Address { layer: 0, site: Site::Embed };
        let add = Op::add(Source::Constant(rows));
        let corrupted = plan.branch(clean, vec![Edit::new(at, all.clone(), add, EditGroup::Corruption)]);
        for layer in 0..depth {
            for &position in &all {
                let restored = window(layer, width, depth).map(|layer| {
                    let op = Op::Replace(Source::Run { run: clean, positions: vec![position] });
                    Edit::new(Address { layer, site }, vec![position], op, EditGroup::Patch)
                });
                let cell = plan.branch(corrupted, restored.collect());
                plan.read(cell, last);
            }
        }
    }
    Sweep { plan, layers: config.num_layers, across: ids.len(), samples }
}

/// Every head of every layer at the last position: its `z` replaced by that of the last position of another prompt.
pub(super) fn head_sweep(config: &ModelConfig, ids: &Arc<[u32]>, source: &Arc<[u32]>, target: u32) -> Sweep {
    let (from, last) = (source.len() as u32 - 1, ids.len() as u32 - 1);
    let (mut plan, base) = started(ids, target);
    let source = plan.root(Arc::clone(source));
    let e = config.head_dim as u32;
    for layer in 0..config.num_layers as u32 {
        for head in 0..config.num_heads as u32 {
            let op = Op::Replace(Source::Run { run: source, positions: vec![from] });
            let edit = Edit::new(Address { layer, site: Site::Z }, vec![last], op, EditGroup::Patch);
            let cell = plan.branch(base, vec![Edit { columns: Some(head * e..(head + 1) * e), ..edit }]);
            plan.read(cell, last);
        }
    }
    Sweep { plan, layers: config.num_layers, across: config.num_heads, samples: 1 }
}

/// A plan with its unpatched run, read at the end.
fn started(ids: &Arc<[u32]>, target: u32) -> (Plan, RunId) {
    let mut plan = Plan::default();
    plan.scoring.targets = vec![target];
    let root = plan.root(Arc::clone(ids));
    plan.read(root, ids.len() as u32 - 1);
    (plan, root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mediant::load::Preset;
    use mediant::load::dummy;

    /// Four layers of two heads of four.
    fn config() -> ModelConfig {
        ModelConfig {
            num_layers: 4,
            num_heads: 2,
            num_kv_heads: 2,
            head_dim: 4,
            ..dummy::config(Preset::Tiny)
        }
    }

    fn ids(n: u32) -> Arc<[u32]> {
        (0..n).collect()
    }

    #[test]
    fn a_head_sweep_writes_one_head_at_the_last_position_from_the_other_prompts_last() {
        let sweep = head_sweep(&config(), &ids(5), &ids(3), 7);
        assert_eq!((sweep.cells(), sweep.plan.readouts.len(), sweep.plan.runs.len()), (8, 9, 10));
        // Layer 2, head 1.
        let cell = sweep.plan.run(sweep.plan.readouts[1 + 2 * 2 + 1].run);
        let [edit] = &cell.edits[..] else { panic!("{:?}", cell.edits) };
        assert_eq!((edit.at, &edit.positions[..]), (Address { layer: 2, site: Site::Z }, &[4][..]));
        assert_eq!(edit.columns, Some(4..8));
        assert_eq!(edit.op.run_read(), Some((RunId(1), &[2][..])));
        assert_eq!(cell.parent, Some(RunId(0)));
    }

    #[test]
    fn a_window_trace_restores_ten_layers_clipped_to_the_model() {
        let sweep = window_trace(&ModelConfig { num_layers: 30, ..config() }, &ids(3), 7, 2);
        assert_eq!((sweep.cells(), sweep.plan.readouts.len()), (180, 181));
        let layers = |cell: usize| {
            let run = sweep.plan.run(sweep.plan.readouts[1 + cell].run);
            assert_eq!(run.parent, Some(RunId(if cell < 90 { 1 } else { 92 })));
            run.edits.iter().map(|edit| edit.at.layer).collect::<Vec<_>>()
        };
        assert_eq!(layers(0), (0..5).collect::<Vec<_>>());
        assert_eq!(layers(15 * 3 + 1), (10..20).collect::<Vec<_>>());
        assert_eq!(layers(90 + 29 * 3), (24..30).collect::<Vec<_>>());
    }

    #[test]
    fn values_are_means_over_samples_in_order_of_layers() {
        let sweep = Sweep { plan: Plan::default(), layers: 2, across: 2, samples: 2 };
        let score = |p: f64| Score { logits: vec![p.ln() as f32], ..Score::default() };
        let scores: Vec<Score> = [0.9, 0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1, 0.6].map(score).into();
        let found = sweep.values(&scores);
        for (found, expected) in found.concat().into_iter().zip([0.2, 0.2, 0.2, 0.5]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}
