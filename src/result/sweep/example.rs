//! Made-up sweeps, for tests and for eyes.

use serde_json::json;

use super::SweepOutcome;
use crate::effect::average::{How, Key, averages};
use crate::effect::cells::{ArmHead, CaseHead, CaseRun, Cells, DroppedBy, MetricColumns, Observed};
use crate::effect::stats::Estimate;
use crate::lower::classes::class_of;
use crate::lower::noise::{NoiseKey, philox_row, stream};
use crate::plan::output::EditStats;
use crate::result::common::Provenance;
use crate::spec::select::TokenClass;
use crate::spec::sweep::Order;

/// What a made-up sweep is like.
pub(super) struct Example {
    pub(super) cases: usize,
    pub(super) layers: u32,
    /// Name and axes of each arm.
    pub(super) arms: Vec<(&'static str, &'static [&'static str])>,
    pub(super) by: Vec<Key>,
    pub(super) metrics: Vec<&'static str>,
    /// How many positions a case has.
    pub(super) positions: fn(usize) -> u32,
    pub(super) heads: u32,
    /// Sign of effects.
    pub(super) sign: f64,
}

impl Default for Example {
    /// Two sublayers by layer and token class, as in the averages of Meng et al. (2022).
    fn default() -> Self {
        Self {
            cases: 12,
            layers: 30,
            arms: vec![("mlp", &["layer", "position"]), ("attn", &["layer", "position"])],
            by: vec![Key::Arm, Key::Layer, Key::TokenClass],
            metrics: vec!["prob:target", "logit:target"],
            positions: |case| 6 + (case % 4) as u32,
            heads: 8,
            sign: 1.0,
        }
    }
}

impl Example {
    pub(super) fn observed(&self) -> Observed {
        let noise =
            philox_row(NoiseKey { seed: 1, sample: 0, position: 0, stream: stream::GAUSSIAN }, 1 << 16);
        let mut drawn = noise.into_iter().cycle();
        let mut cells = Cells {
            metrics: self.metrics.iter().map(|_| MetricColumns::default()).collect(),
            ..Cells::default()
        };
        let mut cases = Vec::new();
        for case in 0..self.cases {
            // The last of many is dropped.
            let kept = case == 0 || case + 1 < self.cases;
            let scale = drawn.next().unwrap().mul_add(0.15, 0.6);
            cases.push(self.case(case, kept, scale));
            if !kept {
                continue;
            }
            for (arm, (_, axes)) in self.arms.iter().enumerate() {
                let range = |axis: &str, n: u32| -> Vec<Option<u32>> {
                    if axes.contains(&axis) { (0..n).map(Some).collect() } else { vec![None] }
                };
                let positions = (self.positions)(case);
                for layer in range("layer", self.layers) {
                    for position in range("position", positions) {
                        for head in range("head", self.heads) {
                            let class = position.and_then(|p| class_of(p, 1..3, positions));
                            let depth = f64::from(layer.unwrap_or(0)) / f64::from(self.layers);
                            let peak = match (arm, class) {
                                (0, Some(TokenClass::LastSubject) | None) => 0.4 * bump(depth, 0.3),
                                (1, Some(TokenClass::Last) | None) => 0.3 * bump(depth, 0.7),
                                _ => 0.02,
                            };
                            let peak = peak * head.map_or(1.0, |head| f64::from(head % 5 == 2));
                            let null = position == Some(0);
                            let trivial = layer == Some(self.layers - 1) && class == Some(TokenClass::Last);
                            for columns in &mut cells.metrics {
                                let effect = scale * drawn.next().unwrap().mul_add(0.05, peak);
                                let effect = match (null, trivial) {
                                    (true, _) => 0.0,
                                    (_, true) => scale,
                                    _ => effect,
                                };
                                columns.value.push(Some(self.sign.mul_add(effect, 0.1)));
                                columns.effect.push(Some(self.sign * effect));
                                columns.effect_se.push(Some(0.01));
                            }
                            cells.case.push(case as u32);
                            cells.arm.push(arm as u32);
                            cells.layer.push(layer);
                            cells.position.push(position);
                            cells.token_class.push(class.map(|class| class as u8));
                            cells.head.push(head);
                            cells.dim.push(None);
                            cells.source_layer.push(None);
                            cells.trivial.push(Some(trivial));
                            cells.exact_null.push(Some(null));
                        }
                    }
                }
            }
        }
        let arm = |(name, axes): &(&'static str, &'static [&'static str])| ArmHead {
            name: (*name).to_owned(),
            axes: axes.iter().map(|axis| (*axis).to_owned()).collect(),
            sites: vec![if axes.contains(&"head") { "z".to_owned() } else { format!("{name}_out") }],
            base: "corrupted".to_owned(),
            reference: Some("clean".to_owned()),
        };
        Observed {
            metrics: self.metrics.iter().map(|metric| (*metric).to_owned()).collect(),
            arms: self.arms.iter().map(arm).collect(),
            cases,
            cells,
            sampled: Vec::new(),
        }
    }

    fn case(&self, i: usize, kept: bool, scale: f64) -> CaseHead {
        let metrics = self.metrics.len();
        let estimate = |mean| vec![Estimate { mean: Some(mean), se: Some(0.02) }; metrics];
        let run = |name: &str, mean: f64| CaseRun {
            not_finite: 0,
            name: name.to_owned(),
            tokens: (0..(self.positions)(i)).collect(),
            top1: Some(" target".to_owned()),
            values: estimate(mean),
        };
        let why = DroppedBy { filter: "min_clean_prob".to_owned(), detail: "too small".to_owned() };
        CaseHead {
            id: format!("case {i}, \"quoted\""),
            group: Some(["pun", "literal"][i % 2].to_owned()),
            kept,
            dropped: if kept { vec![] } else { vec![why] },
            answers: Some(true),
            runs: vec![run("clean", 0.1 + scale), run("corrupted", 0.1)],
            subject: Some([1, 3]),
            total_effect: vec![estimate(self.sign * scale); self.arms.len()],
        }
    }

    pub(super) fn outcome(&self) -> SweepOutcome {
        let observed = self.observed();
        let how = How {
            by: self.by.clone(),
            resamples: 500,
            seed: 1,
            level: 0.95,
            stats: vec![],
            topk: Some(5),
            order: Order::Effect,
            compare_arms: true,
        };
        let averages = averages(&observed, &how);
        let Observed { metrics, arms, cases, cells, .. } = observed;
        SweepOutcome {
            model: "SmolLM2-135M".to_owned(),
            request: json!({"aggregate": {"ci": {"level": 0.95}}}),
            complete: true,
            cells_done: cells.len() as u64,
            cells_total: cells.len() as u64,
            metrics,
            samples: 10,
            sigma: None,
            arms,
            cases,
            averages,
            derived: vec![],
            receipt: EditStats::default(),
            cells: Some(cells),
            min_total_effect: 1e-6,
            nulls: vec![],
            lints: vec![],
            provenance: Provenance {
                plan_sha256: "abc".to_owned(),
                server: "0.1.0".to_owned(),
                ..Provenance::default()
            },
        }
    }
}

fn bump(x: f64, centre: f64) -> f64 {
    (-((x - centre) / 0.15).powi(2)).exp()
}
