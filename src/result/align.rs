//! Response of `POST /v1/align`.

use std::ops::Range;

use serde::Serialize;
use utoipa::ToSchema;

use super::common::{
    Envelope, NullReason, Nulls, Provenance, RunTokens, join_lints, metrics, target_sets, top_tokens,
};
use super::respond::{Computed, Respond};
use crate::effect::lints::{self, CONTRAST, NotFinite, lint_no_contrast};
use crate::effect::measure::first_logprob;
use crate::effect::nulls::of_value;
use crate::effect::stats::{difference, finite};
use crate::lower::diff::{self, Change};
use crate::lower::facts::{Facts, Words};
use crate::lower::layout::AlignLayout;
use crate::lower::lint::{Lint, Lints};
use crate::lower::measure::TargetToken;
use crate::plan::Score;
use crate::plan::output::{PlanOutput, Usage};
use crate::spec::align::AlignSpec;
use crate::spec::named::Named;
use crate::spec::problem::Problems;
use crate::spec::read::escape;

/// How two prompts compare. `a` is the first run of the request, `b` the second.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlignResponse {
    /// Id of this result.
    pub id: String,
    /// The model.
    pub model: String,
    /// The request in its long form.
    pub request: AlignSpec,
    /// Target sets as they were understood.
    #[schema(value_type = std::collections::BTreeMap<String, Vec<TargetToken>>)]
    pub targets: Named<Vec<TargetToken>>,
    /// Tokens of both runs.
    #[schema(value_type = std::collections::BTreeMap<String, AlignedRun>)]
    pub runs: Named<AlignedRun>,
    /// The token diff (Myers): stretches in order, without gaps.
    pub ops: Vec<AlignOp>,
    /// `[position in a, position in b]` of equal tokens, and of replaced stretches of equal length one to one: the `map`
    /// of an intervention on `b` whose source is `a`.
    pub map: Vec<[u32; 2]>,
    /// Positions without a counterpart.
    pub unpaired: Unpaired,
    /// Whether both have equally many tokens.
    pub equal_length: bool,
    /// Positions that hold different tokens; null if the lengths differ.
    pub differing_positions: Option<Vec<u32>>,
    /// Whether they are equally long and differ in one contiguous stretch: fit for symmetric token replacement.
    pub minimal_pair: bool,
    /// Whether the model tells them apart; left out without targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<Contrast>,
    /// Why numbers are null.
    pub nulls: Vec<NullReason>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Cost; left out if nothing was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// A run's tokens and, if it was computed, what it predicts.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlignedRun {
    /// Tokens; `topk` is empty if nothing was computed.
    #[serde(flatten)]
    pub tokens: RunTokens,
    /// Metrics.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, Option<f64>>)]
    pub metrics: Named<Option<f64>>,
}

/// A stretch of the diff: half-open ranges of positions in both runs, one of which may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AlignOp {
    /// What happened from `a` to `b`.
    pub op: Change,
    /// Positions in `a`.
    pub a: [u32; 2],
    /// Positions in `b`.
    pub b: [u32; 2],
}

/// Positions that the map leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Unpaired {
    /// Of `a`.
    pub a: Vec<u32>,
    /// Of `b`.
    pub b: Vec<u32>,
}

/// Whether two runs differ in their targets.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Contrast {
    /// False if every target has nearly the same log-probability in both, and requested logits are near as well; null where the
    /// logits of one are not finite.
    pub differs: Option<bool>,
    /// What counts as near, in nats.
    pub threshold: f64,
    /// Each target in both runs.
    #[schema(value_type = std::collections::BTreeMap<String, TargetContrast>)]
    pub targets: Named<TargetContrast>,
}

/// One target in both runs; null where not finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct TargetContrast {
    /// Probability in `a`.
    pub prob_a: Option<f64>,
    /// Probability in `b`.
    pub prob_b: Option<f64>,
    /// Log-probability in `a` minus that in `b`, in nats.
    pub logprob_difference: Option<f64>,
}

impl Respond for AlignLayout {
    type Response = AlignResponse;

    fn is_computed(&self) -> bool {
        !self.common.measures.is_empty()
    }

    fn respond(
        &self,
        computed: &Computed,
        facts: &dyn Facts,
        envelope: Envelope,
    ) -> Result<AlignResponse, Problems> {
        let (layout, words) = (self, facts.words());
        // What the runs gave, if anything was to be measured.
        let output = self.is_computed().then_some(&computed.output);
        let (common, segments) = (&layout.common, &layout.segments);
        // Two runs were counted when the request was read.
        let (a, b) = (&common.runs.0[0].1.0, &common.runs.0[1].1.0);
        let left_out = |of: &dyn Fn(&diff::Segment) -> Range<u32>| -> Vec<u32> {
            diff::unpaired(segments).into_iter().flat_map(of).collect()
        };
        let mut found = Lints::default();
        let contrast = output.and_then(|output| contrast(layout, &output.scores));
        if contrast.as_ref().is_some_and(|contrast| contrast.differs == Some(false)) {
            lint_no_contrast("/runs", &mut found);
        }
        let mut nulls = Nulls::default();
        if let Some(output) = output {
            NotFinite::of_runs(common, &output.scores).lint(&mut found);
            reasons(layout, &output.scores, contrast.as_ref(), &mut nulls);
        }
        let op =
            |s: &diff::Segment| AlignOp { op: s.change, a: [s.a.start, s.a.end], b: [s.b.start, s.b.end] };
        Ok(AlignResponse {
            id: envelope.id,
            model: envelope.model,
            request: layout.spec.clone(),
            targets: target_sets(common),
            runs: runs(layout, output, words),
            ops: segments.iter().map(op).collect(),
            map: diff::pairs(segments),
            unpaired: Unpaired { a: left_out(&|s| s.a.clone()), b: left_out(&|s| s.b.clone()) },
            equal_length: a.len() == b.len(),
            differing_positions: diff::differing(&a.ids, &b.ids),
            minimal_pair: diff::minimal_pair(&a.ids, &b.ids),
            contrast,
            nulls: nulls.0,
            lints: join_lints(common, found, &layout.spec.experiment)?,
            usage: output.map(|output| output.usage),
            provenance: Provenance { plan_sha256: common.plan_sha256.clone(), ..envelope.provenance },
        })
    }
}

/// Why numbers are null.
fn reasons(layout: &AlignLayout, scores: &[Score], contrast: Option<&Contrast>, nulls: &mut Nulls) {
    let common = &layout.common;
    nulls.runs(common, scores);
    for (name, (_, readout)) in common.runs.iter() {
        for measure in &common.measures {
            let key = measure.metric.to_string();
            let null = of_value(measure, &scores[*readout], None);
            nulls.one(format!("/runs/{}/metrics/{}", escape(name), escape(&key)), null);
        }
    }
    let of = |run: usize| scores[common.runs.0[run].1.1].missing;
    let both = of(0).or(of(1));
    let Some(contrast) = contrast else { return };
    nulls.one("/contrast/differs", both);
    for (target, _) in contrast.targets.iter() {
        let at = format!("/contrast/targets/{}", escape(target));
        for (field, missing) in [("prob_a", of(0)), ("prob_b", of(1)), ("logprob_difference", both)] {
            nulls.one(format!("{at}/{field}"), missing);
        }
    }
}

fn runs(layout: &AlignLayout, output: Option<&PlanOutput>, words: &dyn Words) -> Named<AlignedRun> {
    let common = &layout.common;
    common.runs.map(|_, (run, readout)| {
        let score = output.map(|output| &output.scores[*readout]);
        let topk = layout.spec.experiment.read.topk;
        AlignedRun {
            tokens: RunTokens {
                tokens: run.tokens.clone(),
                spans: run.spans.clone(),
                read: run.read,
                topk: score.map_or_else(|| Some(Vec::new()), |score| top_tokens(score, topk, words)),
            },
            metrics: score.map(|score| metrics(&common.measures, score, None)).unwrap_or_default(),
        }
    })
}

/// Both runs' probabilities of every target; `None` without targets.
fn contrast(layout: &AlignLayout, scores: &[Score]) -> Option<Contrast> {
    let common = &layout.common;
    if common.targets.sets.is_empty() {
        return None;
    }
    let score = |run: usize| &scores[common.runs.0[run].1.1];
    let (a, b) = (score(0), score(1));
    let target = |name: &str| {
        let (a, b) = (first_logprob(&common.targets, name, a), first_logprob(&common.targets, name, b));
        let prob = |logprob: Option<f64>| finite(logprob?.exp());
        TargetContrast { prob_a: prob(a), prob_b: prob(b), logprob_difference: difference(a, b) }
    };
    Some(Contrast {
        differs: (a.missing.or(b.missing).is_none()).then(|| !lints::no_contrast(common, a, b)),
        threshold: CONTRAST,
        targets: common.targets.sets.map(|name, _| target(name)),
    })
}
