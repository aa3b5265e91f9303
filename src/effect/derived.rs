//! Quantities derived from the cells of one grid: where an answer turns, where half of an effect is reached, which cell is
//! strongest and how surely, and how far the effect is concentrated.
//!
//! Pure functions of effects and masks. Trivial cells, whose answer is their source's by construction, are marked where a
//! layer is named, and left out where cells compete.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::stats::{Estimate, estimate, finite};
use crate::lower::layout::{Axis, CellKey};
use crate::spec::derive::Derive;
use crate::spec::named::Named;

/// Share of a whole that [`half_recovery`] looks for.
pub const HALF: f64 = 0.5;
/// Share of the whole effect that [`Indices::cells_for_80`] counts cells for.
pub const MOST: f64 = 0.8;

/// Derived quantities of one grid: those that the request's `derive` names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Derived {
    /// Where the most probable token stops being the unpatched run's, for every position and head of the grid; empty without a
    /// layer axis. It may be any other token: a broken answer counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves_base: Option<Vec<Turn>>,
    /// Where the most probable token becomes the source's: that of the run that `normalise` calls one (patch), of the clean or
    /// corrupted run (trace), of the arm's `reference` (sweep).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reaches_source: Option<Vec<Turn>>,
    /// Where half of the effect is reached, by metric, for every position and head; empty without a layer axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, Vec<HalfRecovery>>>)]
    pub half_recovery_layer: Option<Named<Vec<HalfRecovery>>>,
    /// The strongest of the cells with a known effect, and how surely it is that, by metric; null if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, Strongest>>)]
    pub argmax: Option<Named<Option<Strongest>>>,
    /// How far the effect is concentrated in few cells, by metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, Concentration>>)]
    pub concentration: Option<Named<Concentration>>,
}

/// Where an answer turns, along the layers of one position and head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Turn {
    /// Position and head, where they are axes.
    #[serde(flatten)]
    pub line: CellKey,
    /// The first layer at which it has turned; null if there is none. With noise samples: in more than half of them.
    pub first: Option<TurnedAt>,
    /// The first layer from which that holds up to the last layer computed; null if it doesn't hold there.
    pub lasting: Option<TurnedAt>,
    /// Why `first` or `lasting` is null although the answer may turn: a layer that it depends on has no answer, or there is
    /// nothing to turn to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A layer, and what the model says if it is patched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TurnedAt {
    /// The layer.
    pub layer: u32,
    /// The most probable token there; with samples the most frequent one.
    pub token: SaidToken,
    /// Whether the answer there is the source's by construction.
    pub trivial: bool,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SaidToken {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// What the model says in a cell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Said {
    /// The most probable token, of samples the most frequent; `None` where a sample has none.
    pub token: Option<SaidToken>,
    /// Whether it is another than the unpatched run's, in more than half of the samples; `None` if that is not known.
    pub leaves_base: Option<bool>,
    /// Whether it is the source's.
    pub reaches_source: Reaches,
}

/// Whether a cell's most probable token is the source's, in more than half of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reaches {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// One of them has no most probable token.
    #[default]
    Unknown,
    /// There is no run to reach.
    NoSource,
    /// The source says what the unpatched run says.
    SameAsBase,
}

impl Reaches {
    fn known(self) -> Option<bool> {
        match self {
            Self::Yes => Some(true),
            Self::No => Some(false),
            Self::Unknown | Self::NoSource | Self::SameAsBase => None,
        }
    }

    /// Why no cell can say.
    fn undefined(self) -> Option<&'static str> {
        match self {
            Self::NoSource => Some("there is no run whose answer could be reached"),
            Self::SameAsBase => Some("the source's most probable token is the unpatched run's"),
            Self::Yes | Self::No | Self::Unknown => None,
        }
    }
}

impl Said {
    /// Of a cell's readouts, one per sample. `parents`, `goals`: readouts of the unpatched run and of the source, of each
    /// sample or one for all; no goals: there is no source. `top1` gives a readout's most probable token.
    pub fn of(
        readouts: &[usize],
        parents: &[usize],
        goals: &[usize],
        top1: impl Fn(usize) -> Option<u32>,
        text: &dyn Fn(u32) -> String,
    ) -> Self {
        let others = |readouts: &[usize]| readouts.iter().map(|readout| top1(*readout)).collect::<Vec<_>>();
        let (own, base, goal) = (others(readouts), others(parents), others(goals));
        // Whether a and b agree in more than half of the samples.
        let agree = |a: &[Option<u32>], b: &[Option<u32>]| {
            let pairs = a.iter().cycle().zip(b.iter().cycle()).take(a.len().max(b.len()));
            let same = pairs.map(|(a, b)| Some((*a)? == (*b)?)).collect::<Option<Vec<bool>>>()?;
            Some((same.iter().filter(|same| **same).count(), same.len()))
        };
        let most = |(count, of): (usize, usize)| 2 * count > of;
        let reaches_source = match (goal.is_empty(), agree(&goal, &base), agree(&own, &goal)) {
            (true, ..) => Reaches::NoSource,
            (_, Some(same), _) if most(same) => Reaches::SameAsBase,
            (_, Some(_), Some(reached)) if most(reached) => Reaches::Yes,
            (_, Some(_), Some(_)) => Reaches::No,
            _ => Reaches::Unknown,
        };
        Self {
            token: frequent(&own).map(|id| SaidToken { id, text: text(id) }),
            leaves_base: agree(&own, &base).map(|(count, of)| most((of - count, of))),
            reaches_source,
        }
    }
}

/// The most frequent token, the smallest id of equals; `None` if one is not known.
fn frequent(tokens: &[Option<u32>]) -> Option<u32> {
    let mut known = tokens.iter().copied().collect::<Option<Vec<u32>>>()?;
    known.sort_unstable();
    let runs = known.chunk_by(|a, b| a == b).map(|run| (run.len(), run[0]));
    runs.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, id)| id)
}

/// Where half of the effect is reached, along the layers of one position and head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HalfRecovery {
    /// Position and head, where they are axes.
    #[serde(flatten)]
    pub line: CellKey,
    /// First layer whose normalised effect is at least 0.5 (no interpolation between layers); null if there is none.
    pub layer: Option<u32>,
    /// Normalised effect there.
    pub value: Option<f64>,
    /// Whether the answer there is the source's by construction.
    pub trivial: bool,
    /// Why `layer` is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which effect counts as the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// The largest, since the source's value lies above the unpatched run's.
    Increase,
    /// The smallest, since it lies below.
    Decrease,
    /// The largest in magnitude, since there is no source value to move towards.
    Magnitude,
}

impl Strength {
    /// Towards what the whole patch would do.
    pub fn towards(whole: Option<f64>) -> Self {
        match whole {
            None => Self::Magnitude,
            Some(whole) if whole < 0.0 => Self::Decrease,
            Some(_) => Self::Increase,
        }
    }

    /// How strong an effect is.
    pub const fn of(self, effect: f64) -> f64 {
        match self {
            Self::Increase => effect,
            Self::Decrease => -effect,
            Self::Magnitude => effect.abs(),
        }
    }
}

/// The strongest cell and how surely it is that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Strongest {
    /// The cell.
    #[serde(flatten)]
    pub cell: CellKey,
    /// Its effect.
    pub effect: Estimate,
    /// Which effect counts as the strongest.
    pub by: Strength,
    /// Number of samples.
    pub n: usize,
    /// Cells that are the strongest of a sample, the most frequent first.
    pub wins: Vec<Win>,
    /// The second strongest; null if there is one cell only.
    pub runner_up: Option<RunnerUp>,
}

/// How often a cell is the strongest of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Win {
    /// The cell.
    #[serde(flatten)]
    pub cell: CellKey,
    /// Number of samples whose strongest cell it is.
    pub samples: usize,
    /// The same as a share of all samples.
    pub share: f64,
}

/// The second strongest cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunnerUp {
    /// The cell.
    #[serde(flatten)]
    pub cell: CellKey,
    /// Its effect.
    pub effect: Estimate,
    /// How far the strongest is ahead, paired by sample: a lead of less than two standard errors is none. The strongest
    /// was chosen on the same samples, so the lead is somewhat overstated.
    pub lead: Estimate,
}

/// How far an effect is concentrated in few cells. Trivial cells are left out; cells that no edit can reach count with 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Concentration {
    /// Cells that count.
    pub cells: usize,
    /// Of the effects towards the source's value (upwards where there is none); the others count with 0.
    pub positive: Option<Indices>,
    /// Of the effects' magnitudes.
    pub absolute: Option<Indices>,
    /// Why an index is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Indices of concentration of `n` numbers `x`, none negative (Hurley and Rickard 2009, "Comparing measures of sparsity",
/// compare them).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Indices {
    /// Their sum.
    pub total: f64,
    /// Largest share, `max x / sum x`: 1 if one cell has it all, `1 / n` if all are equal.
    pub max_share: f64,
    /// Effective number of cells, `(sum x)^2 / sum x^2` (Bell and Dean 1970; inverse Simpson index): from 1 to `n`.
    pub participation_ratio: f64,
    /// Gini coefficient, `sum_i (2 i - n - 1) x_i / (n sum x)` with `x` ascending and `i` from 1 (Gini 1912): 0 if all are
    /// equal, `1 - 1 / n` if one cell has it all.
    pub gini: f64,
    /// Fewest cells that together have 80 % of the sum.
    pub cells_for_80: usize,
}

/// The cells of one line of a grid: one position and head, layers ascending.
struct Line {
    key: CellKey,
    /// `(layer, cell)`
    cells: Vec<(u32, usize)>,
}

/// Every line of a grid along its layers; none without a layer axis.
fn lines(axes: &[Axis]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let cells = axes.iter().map(|axis| axis.values.len()).product();
    for cell in 0..cells {
        let at = CellKey::of(axes, cell);
        let Some(layer) = at.layer else { return Vec::new() };
        let key = CellKey { layer: None, ..at };
        match lines.iter_mut().find(|line| line.key == key) {
            Some(line) => line.cells.push((layer, cell)),
            None => lines.push(Line { key, cells: vec![(layer, cell)] }),
        }
    }
    for line in &mut lines {
        line.cells.sort_unstable();
    }
    lines
}

/// Where an answer turns. `turned`, `said`, `trivial`: `[cells]`; whether it has turned in a cell may not be known.
pub fn turns(axes: &[Axis], turned: &[Option<bool>], said: &[Said], trivial: &[bool]) -> Vec<Turn> {
    let at = |(layer, cell): &(u32, usize)| {
        let token = said[*cell].token.clone()?;
        Some(TurnedAt { layer: *layer, token, trivial: trivial[*cell] })
    };
    let of = |line: Line| {
        // What is not known before the first turn may be an earlier one; after the last layer at which it holds, a turn back.
        let turn = line.cells.iter().find(|(_, cell)| turned[*cell] != Some(false));
        let first = turn.filter(|(_, cell)| turned[*cell] == Some(true));
        let holds = || line.cells.iter().rev().take_while(|(_, cell)| turned[*cell] == Some(true));
        let before = line.cells.iter().rev().nth(holds().count());
        let lasting = holds().last().filter(|_| before.is_none_or(|(_, cell)| turned[*cell].is_some()));
        let unknown = [turn.filter(|_| first.is_none()), before.filter(|(_, cell)| turned[*cell].is_none())];
        Turn {
            line: line.key,
            first: first.and_then(at),
            lasting: lasting.and_then(at),
            reason: unknown.into_iter().flatten().next().map(|(layer, _)| unknown_at(*layer)),
        }
    };
    lines(axes).into_iter().map(of).collect()
}

/// Where the answer leaves the unpatched run's.
pub fn leaves_base(axes: &[Axis], said: &[Said], trivial: &[bool]) -> Vec<Turn> {
    let turned: Vec<Option<bool>> = said.iter().map(|said| said.leaves_base).collect();
    turns(axes, &turned, said, trivial)
}

/// Where the answer becomes the source's.
pub fn reaches_source(axes: &[Axis], said: &[Said], trivial: &[bool]) -> Vec<Turn> {
    let turned: Vec<Option<bool>> = said.iter().map(|said| said.reaches_source.known()).collect();
    let mut found = turns(axes, &turned, said, trivial);
    if let Some(why) = said.iter().find_map(|said| said.reaches_source.undefined()) {
        for turn in &mut found {
            turn.reason = Some(why.to_owned());
        }
    }
    found
}

/// A reason for a null.
fn unknown_at(layer: u32) -> String {
    format!("the answer at layer {layer} is not known, see `nulls`")
}

/// Where half of the effect is reached. `normalised`, `trivial`: `[cells]`; `undefined`: why nothing is normalised, if so.
pub fn half_recovery(
    axes: &[Axis],
    normalised: &[Option<f64>],
    trivial: &[bool],
    undefined: Option<&str>,
) -> Vec<HalfRecovery> {
    let of = |line: Line| {
        let value = |cell: usize| normalised.get(cell).copied().flatten();
        let known: Vec<(u32, usize, f64)> =
            line.cells.iter().filter_map(|(layer, cell)| Some((*layer, *cell, value(*cell)?))).collect();
        let unknown = line.cells.iter().find(|(_, cell)| value(*cell).is_none()).map(|(layer, _)| *layer);
        let reached = known.iter().find(|(_, _, value)| *value >= HALF);
        // A layer before it whose effect is not known may have reached it already.
        let found = reached.filter(|(layer, ..)| unknown.is_none_or(|unknown| unknown > *layer));
        let largest = known.iter().copied().reduce(|a, b| if b.2 > a.2 { b } else { a });
        let reason = match (found, undefined, unknown, largest) {
            (Some(_), ..) => None,
            (None, Some(why), ..) => Some(why.to_owned()),
            (None, None, _, None) => Some("no normalised effect is known".to_owned()),
            (None, None, Some(layer), _) => Some(unknown_at(layer)),
            (None, None, None, Some((layer, _, value))) => {
                Some(format!("no layer reaches {HALF}; the largest is {value:.3}, at layer {layer}"))
            }
        };
        HalfRecovery {
            line: line.key,
            layer: found.map(|(layer, ..)| *layer),
            value: found.map(|(.., value)| *value),
            trivial: found.is_some_and(|(_, cell, _)| trivial[*cell]),
            reason,
        }
    };
    lines(axes).into_iter().map(of).collect()
}

/// The strongest cell. `effects`: `[cells, samples]`; `trivial`: `[cells]`. `None` if no cell's mean effect is known.
pub fn strongest(
    axes: &[Axis],
    effects: &[Option<f64>],
    samples: usize,
    trivial: &[bool],
    by: Strength,
) -> Option<Strongest> {
    // Every cell turned so that more is stronger.
    let turned: Vec<(usize, f64, &[Option<f64>])> = effects
        .chunks(samples)
        .enumerate()
        .filter(|(cell, _)| !trivial[*cell])
        .filter_map(|(cell, effects)| {
            let mean = estimate(effects.iter().copied()).mean?;
            let down = by == Strength::Decrease || (by == Strength::Magnitude && mean < 0.0);
            let sign = if down { -1.0 } else { 1.0 };
            Some((cell, sign, effects))
        })
        .collect();
    let strength = |(_, sign, effects): &(usize, f64, &[Option<f64>]), sample: usize| {
        effects[sample].map_or(f64::NEG_INFINITY, |effect| sign * effect)
    };
    let mean = |cell: &(usize, f64, &[Option<f64>])| {
        (0..samples).map(|sample| strength(cell, sample)).sum::<f64>() / samples as f64
    };
    // The first of equals, so that the answer doesn't depend on the iteration.
    let top = |score: &dyn Fn(usize) -> f64, but: Option<usize>| {
        let others = (0..turned.len()).filter(|i| Some(*i) != but);
        others.reduce(|best, next| if score(next) > score(best) { next } else { best })
    };
    let means: Vec<f64> = turned.iter().map(mean).collect();
    let best = top(&|i| means[i], None)?;
    let key = |i: usize| CellKey::of(axes, turned[i].0);
    let mut counts = vec![0_usize; turned.len()];
    for sample in 0..samples {
        counts[top(&|i| strength(&turned[i], sample), None)?] += 1;
    }
    let mut order: Vec<usize> = (0..turned.len()).filter(|i| counts[*i] > 0).collect();
    order.sort_by_key(|i| std::cmp::Reverse(counts[*i]));
    let wins = order.into_iter().map(|i| Win {
        cell: key(i),
        samples: counts[i],
        share: counts[i] as f64 / samples as f64,
    });
    let effect = |i: usize| estimate(turned[i].2.iter().copied());
    let runner_up = top(&|i| means[i], Some(best)).map(|second| {
        let lead = (0..samples).map(|s| finite(strength(&turned[best], s) - strength(&turned[second], s)));
        RunnerUp { cell: key(second), effect: effect(second), lead: estimate(lead) }
    });
    Some(Strongest { cell: key(best), effect: effect(best), by, n: samples, wins: wins.collect(), runner_up })
}

/// Concentration of mean effects. `effects`, `trivial`: `[cells]`.
pub fn concentration(effects: &[Option<f64>], trivial: &[bool], by: Strength) -> Concentration {
    let counting: Vec<Option<f64>> =
        effects.iter().zip(trivial).filter(|(_, trivial)| !**trivial).map(|(effect, _)| *effect).collect();
    let cells = counting.len();
    let Some(known) = counting.into_iter().collect::<Option<Vec<f64>>>() else {
        let reason = Some("an effect is not known, see `nulls`".to_owned());
        return Concentration { cells, positive: None, absolute: None, reason };
    };
    let sign = if by == Strength::Decrease { -1.0 } else { 1.0 };
    let positive = indices(known.iter().map(|effect| (sign * effect).max(0.0)).collect());
    let absolute = indices(known.iter().map(|effect| effect.abs()).collect());
    let reason = match (positive, absolute) {
        (Some(_), _) => None,
        (None, Some(_)) => Some("no effect is towards the source's value".to_owned()),
        (None, None) => Some("every effect is 0".to_owned()),
    };
    Concentration { cells, positive, absolute, reason }
}

/// Indices of numbers of which none is negative; `None` if their sum is 0.
pub fn indices(mut x: Vec<f64>) -> Option<Indices> {
    x.sort_by(f64::total_cmp);
    let total: f64 = x.iter().sum();
    if total <= 0.0 || !total.is_finite() {
        return None;
    }
    let n = x.len() as f64;
    // Shares, so that the squares of tiny effects don't underflow.
    let shares: Vec<f64> = x.iter().map(|x| x / total).collect();
    let squares: f64 = shares.iter().map(|p| p * p).sum();
    let ranked: f64 = (1..).zip(&shares).map(|(i, p)| (2.0 * f64::from(i) - n - 1.0) * p).sum();
    let mut sum = 0.0;
    let before = x.iter().rev().take_while(|x| {
        let short = sum < MOST * total;
        sum += **x;
        short
    });
    Some(Indices {
        cells_for_80: before.count(),
        total,
        max_share: *shares.last()?,
        participation_ratio: 1.0 / squares,
        gini: ranked / n,
    })
}

/// One metric over the cells of a grid.
pub struct Cells<'c> {
    /// Axes of the grid.
    pub axes: &'c [Axis],
    /// Cells whose answer is their source's by construction, `[cells]`.
    pub trivial: &'c [bool],
    /// Samples per cell.
    pub samples: usize,
    /// Effects, `[cells, samples]`.
    pub effects: &'c [Option<f64>],
    /// Normalised mean effects, `[cells]`; empty where nothing is normalised.
    pub normalised: &'c [Option<f64>],
    /// Why normalised effects are null, if they are.
    pub undefined: Option<&'c str>,
    /// Which effect counts as the strongest.
    pub by: Strength,
}

impl Derived {
    /// What is asked for, of no metric yet. `said`: what the model says in each cell.
    pub fn new(wanted: &[Derive], axes: &[Axis], trivial: &[bool], said: impl FnOnce() -> Vec<Said>) -> Self {
        let asked = |derive| wanted.contains(&derive);
        let said = if Derive::of_answers(wanted) { said() } else { Vec::new() };
        Self {
            leaves_base: asked(Derive::LeavesBase).then(|| leaves_base(axes, &said, trivial)),
            reaches_source: asked(Derive::ReachesSource).then(|| reaches_source(axes, &said, trivial)),
            half_recovery_layer: asked(Derive::HalfRecoveryLayer).then(Named::default),
            argmax: asked(Derive::Argmax).then(Named::default),
            concentration: asked(Derive::Concentration).then(Named::default),
        }
    }

    /// Adds a metric.
    pub fn add(&mut self, metric: &str, cells: &Cells<'_>) {
        let Cells { axes, trivial, samples, effects, by, .. } = *cells;
        if let Some(found) = &mut self.half_recovery_layer {
            let half = half_recovery(axes, cells.normalised, trivial, cells.undefined);
            found.0.push((metric.to_owned(), half));
        }
        if let Some(found) = &mut self.argmax {
            found.0.push((metric.to_owned(), strongest(axes, effects, samples, trivial, by)));
        }
        if let Some(found) = &mut self.concentration {
            let means: Vec<Option<f64>> =
                effects.chunks(samples).map(|effects| estimate(effects.iter().copied()).mean).collect();
            found.0.push((metric.to_owned(), concentration(&means, trivial, by)));
        }
    }

    /// Metrics of which no cell is the strongest.
    pub fn without_strongest(&self) -> impl Iterator<Item = &str> {
        let all = self.argmax.iter().flat_map(Named::iter);
        all.filter(|(_, strongest)| strongest.is_none()).map(|(metric, _)| metric)
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
