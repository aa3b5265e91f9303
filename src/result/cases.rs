//! Response of `POST /v1/trace` with `cases`.

use serde::Serialize;
use utoipa::ToSchema;

use super::common::{Envelope, NdArray, NullReason, Nulls, Provenance, Receipts, RngUsed};
use crate::effect::aggregate::{Average, Pool};
use crate::effect::bootstrap::{CaseEstimate, Robust};
use crate::effect::cases::{CLASSES, CaseArm, CaseBaselines, CaseEffects, Dropped, Peak};
use crate::effect::lints::{Dominance, of_count, one_case_dominates};
use crate::effect::stats::Estimate;
use crate::lower::cases::Cases;
use crate::lower::facts::Words;
use crate::lower::layout::{CellKey, SigmaUsed};
use crate::lower::lint::{Lint, Lints};
use crate::lower::measure::TargetToken;
use crate::plan::output::{Missing, Usage};
use crate::spec::cases::CasesSpec;
use crate::spec::named::Named;
use crate::spec::read::escape;
use crate::spec::select::{Heads, TokenClass};
use crate::spec::site::Site;
use crate::spec::trace::Direction;

/// What traces of many prompts gave on average. Arrays are `[classes, layers]`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CasesResponse {
    /// Id of this result.
    pub id: String,
    /// The model.
    pub model: String,
    /// The request with every default.
    pub request: CasesSpec,
    /// Every case, kept or dropped.
    pub cases: Vec<CaseResult>,
    /// Cases that count.
    pub kept: usize,
    /// Cases that don't.
    pub dropped: usize,
    /// Whether clean states were put into the corrupted run or the reverse.
    pub direction: Direction,
    /// Token classes, the first axis.
    pub classes: Vec<TokenClass>,
    /// Mean total effect over cases (ATE): clean minus corrupted.
    #[schema(value_type = std::collections::BTreeMap<String, CaseEstimate>)]
    pub total_effect: Named<CaseEstimate>,
    /// The size of the noise, the same for every case; null where it has none.
    pub sigma: Option<SigmaUsed>,
    /// Samples of each case's corrupted run.
    pub samples: u64,
    /// What each arm gave.
    #[schema(value_type = std::collections::BTreeMap<String, ClassArm>)]
    pub arms: Named<ClassArm>,
    /// The same within each group, if asked for.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(required = false, value_type = std::collections::BTreeMap<String, GroupResult>)]
    pub groups: Named<GroupResult>,
    /// The first group minus the second, where there are two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<GroupDifference>,
    /// Total effects below this are divided by nothing: `recovery` is null.
    pub min_total_effect: f64,
    /// What was written, by the traces of all kept cases.
    pub receipt: Receipts,
    /// Why numbers are null.
    pub nulls: Vec<NullReason>,
    /// Pictures asked for by `plot`, by format: SVG as text, PNG in base64. Filled in by the server.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub plots: Named<String>,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Cost, that of dropped cases included.
    pub usage: Usage,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CaseResult {
    /// Its name.
    pub id: String,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether it counts.
    pub kept: bool,
    /// The filters that it fails; empty for those that count.
    pub dropped: Vec<Dropped>,
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// The token range of its subject, half-open.
    pub subject: [u32; 2],
    /// Its target as it was understood.
    pub target: Vec<TargetToken>,
    /// The most probable token of its clean run; null where the logits are not finite.
    pub top1: Option<String>,
    /// Metrics of its clean run.
    #[schema(value_type = std::collections::BTreeMap<String, Option<f64>>)]
    pub clean: Named<Option<f64>>,
    /// Metrics of its corrupted run, over samples.
    #[schema(value_type = std::collections::BTreeMap<String, Estimate>)]
    pub corrupted: Named<Estimate>,
    /// Clean minus corrupted, over samples.
    #[schema(value_type = std::collections::BTreeMap<String, Estimate>)]
    pub total_effect: Named<Estimate>,
    /// For each arm and metric the cell, trivial ones apart, with the largest effect towards the source's value; left
    /// out where there is none, as in dropped cases.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(required = false,
             value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, CasePeak>>)]
    pub argmax: Named<Named<CasePeak>>,
    /// For each arm and metric the mean effect over each class's positions; only with `keep.per_case`.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(required = false,
             value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, serde_json::Value>>)]
    pub effects: Named<Named<NdArray<Option<f64>>>>,
}

/// Where a case's effect is largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct CasePeak {
    /// The cell.
    #[serde(flatten)]
    pub cell: CellKey,
    /// Its position's class.
    pub class: TokenClass,
    /// Its mean effect over samples.
    pub effect: f64,
    /// That effect as a share of the case's total effect.
    pub recovery: Option<f64>,
}

/// What one arm gave on average.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassArm {
    /// Site restored.
    pub site: Site,
    /// Layers restored together.
    pub window: u32,
    /// Heads restored together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Heads>,
    /// Layers, the second axis; null at sites without layers, whose arrays are `[classes, 1]`.
    pub layers: Option<Vec<u32>>,
    /// Mean effects.
    #[schema(value_type = std::collections::BTreeMap<String, ClassEstimates>)]
    pub effects: Named<ClassEstimates>,
    /// Mean effects over mean total effects of the same cases (AIE / ATE; for noising over its negative), never clamped.
    #[schema(value_type = std::collections::BTreeMap<String, ClassShares>)]
    pub recovery: Named<ClassShares>,
    /// How many of a class's cells have their source's answer by construction, over all cases; they count as they are.
    #[schema(value_type = serde_json::Value)]
    pub trivial: NdArray<usize>,
    /// How many can't change the answer; they count as 0.
    #[schema(value_type = serde_json::Value)]
    pub exact_null: NdArray<usize>,
    /// How many cells there are: positions of the class in all cases.
    #[schema(value_type = serde_json::Value)]
    pub cells: NdArray<usize>,
    /// How many cases have their largest effect in each class and layer (Hase et al. 2023: averages hide where each
    /// prompt's effect lies).
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    pub argmax_histogram: Named<NdArray<usize>>,
}

/// Means over cases, `[classes, layers]`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassEstimates {
    /// Means; null where no case has the class.
    #[schema(value_type = serde_json::Value)]
    pub mean: NdArray<Option<f64>>,
    /// Standard errors over cases; where there is one case (`n` is 1), over its samples; else null.
    #[schema(value_type = serde_json::Value)]
    pub se: NdArray<Option<f64>>,
    /// Lower ends of the confidence intervals by the percentile bootstrap over cases, which are too narrow with few of them.
    #[schema(value_type = serde_json::Value)]
    pub ci_low: NdArray<Option<f64>>,
    /// Upper ends.
    #[schema(value_type = serde_json::Value)]
    pub ci_high: NdArray<Option<f64>>,
    /// Lower ends of intervals by Student's t, which hold for few cases, too.
    #[schema(value_type = serde_json::Value)]
    pub ci_t_low: NdArray<Option<f64>>,
    /// Upper ends.
    #[schema(value_type = serde_json::Value)]
    pub ci_t_high: NdArray<Option<f64>>,
    /// Medians over cases, if asked for by `stats`, with the ends of their intervals.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClassRobust>)]
    pub median: Option<ClassRobust>,
    /// Means without the lowest and the highest fifth of the cases, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ClassRobust>)]
    pub trimmed_mean: Option<ClassRobust>,
    /// Cases that have the class.
    #[schema(value_type = serde_json::Value)]
    pub n: NdArray<usize>,
}

/// Averages that one case doesn't decide, `[classes, layers]`, with intervals by the percentile bootstrap over cases.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassRobust {
    /// The averages.
    #[schema(value_type = serde_json::Value)]
    pub value: NdArray<Option<f64>>,
    /// Lower ends of the intervals.
    #[schema(value_type = serde_json::Value)]
    pub ci_low: NdArray<Option<f64>>,
    /// Upper ends.
    #[schema(value_type = serde_json::Value)]
    pub ci_high: NdArray<Option<f64>>,
}

/// Shares of the total effect, `[classes, layers]`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassShares {
    /// Shares.
    #[schema(value_type = serde_json::Value)]
    pub value: NdArray<Option<f64>>,
    /// Lower ends of the confidence intervals.
    #[schema(value_type = serde_json::Value)]
    pub ci_low: NdArray<Option<f64>>,
    /// Upper ends.
    #[schema(value_type = serde_json::Value)]
    pub ci_high: NdArray<Option<f64>>,
}

/// What the cases of one group gave.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupResult {
    /// Cases of the group that count.
    pub kept: usize,
    /// Cases that don't.
    pub dropped: usize,
    /// Mean total effect.
    #[schema(value_type = std::collections::BTreeMap<String, CaseEstimate>)]
    pub total_effect: Named<CaseEstimate>,
    /// What each arm gave.
    #[schema(value_type = std::collections::BTreeMap<String, ClassArm>)]
    pub arms: Named<ClassArm>,
}

/// Two groups compared. Intervals are of independent draws of both.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupDifference {
    /// The first group, and the second, which is subtracted.
    pub of: [String; 2],
    /// For each arm and metric the difference of mean effects; `n` counts the cases of both.
    #[schema(value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, ClassEstimates>>)]
    pub effects: Named<Named<ClassEstimates>>,
}

/// One case as it was computed.
#[derive(Debug, Clone)]
pub struct Computed {
    /// Its unpatched runs, whose metrics include those asked for.
    pub baselines: CaseBaselines,
    /// The metrics of these baselines.
    pub metrics: Vec<String>,
    /// The filters that it fails.
    pub dropped: Vec<Dropped>,
    /// Its effects, if it counts.
    pub effects: Option<CaseEffects>,
}

impl Computed {
    /// Takes the effects of a case that counts. What is told of its unpatched runs is what its effects refer to: computed in
    /// other batches, they can differ in the last bits.
    pub fn traced(&mut self, effects: CaseEffects) {
        let CaseBaselines { clean, corrupted, total_effect, .. } = &effects.baselines;
        let n = clean.len();
        self.baselines.clean[..n].copy_from_slice(clean);
        self.baselines.corrupted[..n].copy_from_slice(corrupted);
        self.baselines.total_effect[..n].copy_from_slice(total_effect);
        self.effects = Some(effects);
    }
}

/// What the traces share.
#[derive(Debug)]
pub struct Totals {
    /// What was written.
    pub receipt: Receipts,
    /// Cost.
    pub usage: Usage,
    /// Remarks.
    pub lints: Vec<Lint>,
    /// Each arm's layers; none at sites without.
    pub layers: Vec<Option<Vec<u32>>>,
}

/// Puts a response together.
pub fn respond(
    cases: &Cases,
    computed: &[Computed],
    totals: Totals,
    words: &dyn Words,
    envelope: Envelope,
) -> CasesResponse {
    let spec = &cases.spec;
    let kept: Vec<&CaseEffects> = computed.iter().filter_map(|case| case.effects.as_ref()).collect();
    let count = kept.len();
    let mut all = Pool::new(kept, spec.direction, &spec.aggregate, 0);
    let mut nulls = Nulls::default();
    let layers = &totals.layers;
    let total_effect = total_effects(spec, &mut all);
    let arms = arms(spec, &mut all, layers);
    for (metric, total) in total_effect.iter() {
        let small = |mean: f64| mean.abs() < crate::effect::MIN_TOTAL_EFFECT;
        let reason = match total.mean {
            _ if count == 0 => "no case was kept".to_owned(),
            None => format!("not_finite: {metric} has no number in every case, see /cases"),
            Some(mean) if small(mean) => format!("the mean total effect is {mean:.1e}"),
            Some(_) => continue,
        };
        let at = |name: &str| format!("/arms/{}/recovery/{}", escape(name), escape(metric));
        for name in spec.arms.names() {
            nulls.add(at(name), &reason);
        }
        nulls.one(format!("/total_effect/{}", escape(metric)), total.mean.is_none().then_some(&reason));
    }
    let (groups, difference) = groups(spec, computed, layers);
    reasons(computed, count, &arms, &mut nulls);
    for (name, group) in groups.iter() {
        let mut own = Nulls::default();
        for (metric, total) in group.total_effect.iter() {
            let reason = average_reason(group.kept);
            own.one(format!("/total_effect/{}", escape(metric)), total.mean.is_none().then_some(reason));
        }
        averages(group.kept, &group.arms, &mut own);
        let under = format!("/groups/{}", escape(name));
        nulls.0.extend(
            own.0
                .into_iter()
                .map(|null| NullReason { pointer: format!("{under}{}", null.pointer), reason: null.reason }),
        );
    }
    if totals.receipt.patched.max_abs_delta.is_none() {
        let reason = "not_finite: a number was changed from or to NaN or infinity";
        nulls.add("/receipt/max_abs_delta", reason);
    }
    let rng = spec.corrupt.method.draws().map(|draws| RngUsed { algo: draws.rng, seed: draws.seed });
    CasesResponse {
        id: envelope.id,
        model: envelope.model,
        request: spec.clone(),
        cases: computed.iter().enumerate().map(|(i, one)| case(cases, i, one, layers, words)).collect(),
        kept: count,
        dropped: computed.len() - count,
        direction: spec.direction,
        classes: TokenClass::ALL.iter().map(|(_, class)| *class).collect(),
        total_effect,
        sigma: cases.sigma,
        samples: spec.corrupt.method.samples(),
        arms,
        groups,
        difference,
        min_total_effect: crate::effect::MIN_TOTAL_EFFECT,
        receipt: totals.receipt,
        nulls: nulls.0,
        plots: Named::default(),
        lints: totals.lints,
        usage: totals.usage,
        provenance: Provenance { plan_sha256: cases.plan_sha256.clone(), rng, ..envelope.provenance },
    }
}

/// Why numbers are null: of each case's unpatched runs, and of the averages.
fn reasons(computed: &[Computed], kept: usize, arms: &Named<ClassArm>, nulls: &mut Nulls) {
    for (i, case) in computed.iter().enumerate() {
        let CaseBaselines { clean, corrupted, total_effect, top1 } = &case.baselines;
        let not_finite = Missing::NotFinite;
        nulls.one(format!("/cases/{i}/top1"), top1.is_none().then_some(not_finite));
        for (j, metric) in case.metrics.iter().enumerate() {
            let fields = [
                ("clean", clean[j]),
                ("corrupted", corrupted[j].mean),
                ("total_effect", total_effect[j].mean),
            ];
            for (field, number) in fields {
                let at = format!("/cases/{i}/{field}/{}", escape(metric));
                nulls.one(at, number.is_none().then_some(not_finite));
            }
        }
    }
    averages(kept, arms, nulls);
}

const fn average_reason(kept: usize) -> &'static str {
    if kept == 0 { "no case was kept" } else { "not_finite: a number of a case that it is made of is null" }
}

/// Why averages are null.
fn averages(kept: usize, arms: &Named<ClassArm>, nulls: &mut Nulls) {
    for (name, arm) in arms.iter() {
        for (metric, effects) in arm.effects.iter() {
            let of = |(mean, n): (&Option<f64>, &usize)| match (mean, n) {
                (Some(_), _) => None,
                (None, 0) if kept > 0 => Some("no case has this class"),
                (None, _) => Some(average_reason(kept)),
            };
            let reasons: Vec<_> = effects.mean.data.iter().zip(&effects.n.data).map(of).collect();
            let at = |what: &str| format!("/arms/{}/{what}/{}", escape(name), escape(metric));
            for field in ["mean", "se", "ci_low", "ci_high", "ci_t_low", "ci_t_high"] {
                nulls.array(&format!("{}/{field}", at("effects")), &effects.mean.shape, &reasons);
            }
            for field in ["value", "ci_low", "ci_high"] {
                nulls.array(&format!("{}/{field}", at("recovery")), &effects.mean.shape, &reasons);
            }
        }
    }
}

/// So many of the strongest averages are looked at for whether one case makes them.
const STRONGEST: usize = 10;

/// Remarks on how many cases count, and on averages that one of them makes.
pub fn remarks(cases: &Cases, computed: &[Computed]) -> Lints {
    let spec = &cases.spec;
    let mut lints = Lints::default();
    let all = || spec.cases.iter().zip(computed);
    let dropped = all().filter(|(_, one)| one.effects.is_none());
    let dropped = dropped
        .map(|(case, one)| (case.id.as_str(), one.dropped.iter().map(|dropped| dropped.filter).collect()));
    of_count("/cases", computed.len(), dropped, &mut lints);
    let (ids, kept): (Vec<&str>, Vec<&CaseEffects>) =
        all().filter_map(|(case, one)| Some((case.id.as_str(), one.effects.as_ref()?))).unzip();
    let pool = Pool::new(kept, spec.direction, &spec.aggregate, 0);
    for (measure, metric) in spec.metrics.iter().enumerate() {
        let (found, of) = pool.dominated(measure, STRONGEST);
        let mut told: Vec<usize> = Vec::new();
        for one in &found {
            if told.contains(&one.case) {
                continue;
            }
            told.push(one.case);
            let class = TokenClass::ALL[pool.class_of(one)].0.replace('_', " ");
            let first = format!("arm {:?}, {class}", spec.arms.names()[one.arm]);
            let dominance = Dominance {
                metric: &metric.to_string(),
                case: ids[one.case],
                averages: [found.iter().filter(|other| other.case == one.case).count(), of],
                first: &first,
                mean: one.mean,
                without: one.without,
            };
            one_case_dominates("/cases", &dominance, &mut lints);
        }
    }
    lints
}

fn total_effects(spec: &CasesSpec, pool: &mut Pool<'_>) -> Named<CaseEstimate> {
    let metrics = spec.metrics.iter().enumerate();
    metrics.map(|(i, metric)| (metric.to_string(), pool.total_effect(i))).collect()
}

fn arms(spec: &CasesSpec, pool: &mut Pool<'_>, layers: &[Option<Vec<u32>>]) -> Named<ClassArm> {
    let all = spec.arms.iter().enumerate().map(|(index, (name, arm))| {
        let values = layers[index].as_deref();
        let depth = values.map_or(1, <[u32]>::len);
        let shape = [CLASSES, depth];
        let counted = |data: Vec<usize>| NdArray::new(&shape, data);
        let (mut effects, mut recovery, mut histogram) =
            (Named::default(), Named::default(), Named::default());
        for (i, metric) in spec.metrics.iter().enumerate() {
            let key = metric.to_string();
            let averages = pool.averages(index, i, depth);
            let estimates: Vec<CaseEstimate> = averages.iter().map(|average| average.effect).collect();
            effects.0.push((key.clone(), ClassEstimates::new(&shape, &estimates)));
            recovery.0.push((key.clone(), ClassShares::new(&shape, &averages)));
            histogram.0.push((key, counted(pool.peaks(index, i, values))));
        }
        let cells = pool.positions(index).into_iter().flat_map(|n| std::iter::repeat_n(n, depth)).collect();
        let result = ClassArm {
            site: arm.site,
            window: arm.window,
            heads: arm.heads.clone(),
            layers: layers[index].clone(),
            effects,
            recovery,
            trivial: counted(pool.counts(depth, |case| &case.arms[index].trivial)),
            exact_null: counted(pool.counts(depth, |case| &case.arms[index].exact_null)),
            cells: counted(cells),
            argmax_histogram: histogram,
        };
        (name.to_owned(), result)
    });
    all.collect()
}

/// A robust average and its interval.
type RobustOf = fn(&Robust) -> (Option<f64>, Option<[f64; 2]>);

impl ClassEstimates {
    fn new(shape: &[usize], cells: &[CaseEstimate]) -> Self {
        let array =
            |of: &dyn Fn(&CaseEstimate) -> Option<f64>| NdArray::new(shape, cells.iter().map(of).collect());
        let robust = |of: RobustOf| {
            let of = |cell: &CaseEstimate| cell.robust.as_ref().map(of).unwrap_or_default();
            // Asked for if any cell has it; those of classes that no case has are null as their means are.
            cells.iter().any(|cell| of(cell).0.is_some()).then(|| ClassRobust {
                value: array(&|cell| of(cell).0),
                ci_low: array(&|cell| of(cell).1.map(|[low, _]| low)),
                ci_high: array(&|cell| of(cell).1.map(|[_, high]| high)),
            })
        };
        Self {
            mean: array(&|cell| cell.mean),
            se: array(&|cell| cell.se),
            ci_low: array(&|cell| cell.ci.map(|[low, _]| low)),
            ci_high: array(&|cell| cell.ci.map(|[_, high]| high)),
            ci_t_low: array(&|cell| cell.ci_t.map(|[low, _]| low)),
            ci_t_high: array(&|cell| cell.ci_t.map(|[_, high]| high)),
            median: robust(|robust| (robust.median, robust.median_ci)),
            trimmed_mean: robust(|robust| (robust.trimmed_mean, robust.trimmed_mean_ci)),
            n: NdArray::new(shape, cells.iter().map(|cell| cell.n).collect()),
        }
    }
}

impl ClassShares {
    fn new(shape: &[usize], cells: &[Average]) -> Self {
        let array =
            |of: &dyn Fn(&Average) -> Option<f64>| NdArray::new(shape, cells.iter().map(of).collect());
        Self {
            value: array(&|cell| cell.recovery),
            ci_low: array(&|cell| cell.recovery_ci.map(|[low, _]| low)),
            ci_high: array(&|cell| cell.recovery_ci.map(|[_, high]| high)),
        }
    }
}

/// Averages within groups, in the order in which the cases name them, and the difference of two.
fn groups(
    spec: &CasesSpec,
    computed: &[Computed],
    layers: &[Option<Vec<u32>>],
) -> (Named<GroupResult>, Option<GroupDifference>) {
    if !spec.aggregate.by_group() {
        return (Named::default(), None);
    }
    let mut names: Vec<&str> = Vec::new();
    for name in spec.cases.iter().filter_map(|case| case.group.as_deref()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of = |name: &str| -> Vec<&Computed> {
        let members = spec.cases.iter().zip(computed);
        members.filter(|(case, _)| case.group.as_deref() == Some(name)).map(|(_, one)| one).collect()
    };
    let mut pools: Vec<Pool<'_>> = (1..)
        .zip(&names)
        .map(|(set, name)| {
            let kept = of(name).into_iter().filter_map(|case| case.effects.as_ref()).collect();
            Pool::new(kept, spec.direction, &spec.aggregate, set)
        })
        .collect();
    let results = names.iter().zip(&mut pools).map(|(name, pool)| {
        let kept = pool.len();
        let result = GroupResult {
            kept,
            dropped: of(name).len() - kept,
            total_effect: total_effects(spec, pool),
            arms: arms(spec, pool, layers),
        };
        ((*name).to_owned(), result)
    });
    let results: Named<GroupResult> = results.collect();
    let difference = match (&mut pools[..], &names[..]) {
        ([a, b], [first, second]) => Some(GroupDifference {
            of: [(*first).to_owned(), (*second).to_owned()],
            effects: differences(spec, a, b, layers),
        }),
        _ => None,
    };
    (results, difference)
}

fn differences(
    spec: &CasesSpec,
    a: &mut Pool<'_>,
    b: &mut Pool<'_>,
    layers: &[Option<Vec<u32>>],
) -> Named<Named<ClassEstimates>> {
    let arms = spec.arms.names().into_iter().enumerate().map(|(arm, name)| {
        let depth = layers[arm].as_ref().map_or(1, Vec::len);
        let metrics = spec.metrics.iter().enumerate().map(|(i, metric)| {
            let cells = a.differences(b, arm, i, depth);
            (metric.to_string(), ClassEstimates::new(&[CLASSES, depth], &cells))
        });
        (name.to_owned(), metrics.collect())
    });
    arms.collect()
}

fn case(
    cases: &Cases,
    index: usize,
    computed: &Computed,
    layers: &[Option<Vec<u32>>],
    words: &dyn Words,
) -> CaseResult {
    let (spec, given) = (&cases.spec, &cases.spec.cases[index]);
    let metrics: Vec<String> = spec.metrics.iter().map(ToString::to_string).collect();
    let mut result = CaseResult {
        id: given.id.clone(),
        group: given.group.clone(),
        kept: computed.effects.is_some(),
        dropped: computed.dropped.clone(),
        tokens: cases.runs[index].ids.to_vec(),
        subject: [cases.subject(index).start, cases.subject(index).end],
        target: cases.targets[index].clone(),
        top1: computed.baselines.top1.map(|id| words.text(id)),
        clean: Named::default(),
        corrupted: Named::default(),
        total_effect: Named::default(),
        argmax: Named::default(),
        effects: Named::default(),
    };
    let baselines = &computed.baselines;
    for (i, key) in computed.metrics.iter().enumerate() {
        result.clean.0.push((key.clone(), baselines.clean[i]));
        result.corrupted.0.push((key.clone(), baselines.corrupted[i]));
        result.total_effect.0.push((key.clone(), baselines.total_effect[i]));
    }
    let Some(effects) = &computed.effects else { return result };
    let named = |arm: &CaseArm| -> Named<CasePeak> {
        let peak = |peak: &Peak| CasePeak {
            cell: peak.cell,
            class: peak.class,
            effect: peak.effect,
            recovery: peak.recovery,
        };
        let peaks = metrics.iter().zip(&arm.argmax);
        peaks.filter_map(|(key, found)| Some((key.clone(), found.as_ref().map(peak)?))).collect()
    };
    let by_arm = || spec.arms.names().into_iter().map(ToOwned::to_owned).zip(&effects.arms);
    result.argmax = by_arm().map(|(name, arm)| (name, named(arm))).collect();
    if spec.keep.per_case {
        let arrays = |(i, (name, arm)): (usize, (String, &CaseArm))| {
            let shape = [CLASSES, layers[i].as_ref().map_or(1, Vec::len)];
            let array = |data: &Vec<Option<f64>>| NdArray::new(&shape, data.clone());
            (name, metrics.iter().cloned().zip(arm.effects.iter().map(array)).collect())
        };
        result.effects = by_arm().enumerate().map(arrays).collect();
    }
    result
}
