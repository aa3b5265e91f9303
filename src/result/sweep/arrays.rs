//! What a sweep found as named arrays, for `.npz` and `.safetensors`. Names are paths as in [`crate::result::files`];
//! missing numbers are NaN, missing indices -1, masks that are not known false. Metrics are all, or the one asked for.
//!
//! - Averages over all cases, of each arm over what they are told apart by, `[..by..]`: `averages/{arm}/{metric}/` + `mean`,
//!   `se`, `ci_low`, `ci_high`, `ci_t_low`, `ci_t_high`, `median` and `trimmed_mean` if asked for, `n`, `recovery`, `recovery_ci_low`, `recovery_ci_high`; `averages/{arm}/cells`,
//!   `averages/{arm}/trivial`, `averages/{arm}/exact_null`; the axes in their order: of `averages/{arm}/layers`,
//!   `averages/{arm}/token_classes` (by number, see below), `averages/{arm}/positions`, `averages/{arm}/heads`,
//!   `averages/{arm}/dims`. Those of a group under `groups/{group}/averages/`.
//! - Total effects of cases, `[cases]`: `total_effect/{arm}/{metric}`; `kept`, `[cases]`.
//! - Cells, if they were kept, of arms whose axes are the same in every case, `[kept cases, *axes]`:
//!   `cells/{arm}/{metric}/effect`, `cells/{arm}/{metric}/value`, `cells/{arm}/{metric}/effect_se`,
//!   `cells/{arm}/trivial`, `cells/{arm}/exact_null`; the cases `cells/{arm}/cases` (by number) and the axes
//!   `cells/{arm}/layers` and so on.
//! - Where positions differ between cases: means over the positions of each token class, `[kept cases, 6 classes, *other
//!   axes]`: `classes/{arm}/{metric}/effect`, `classes/{arm}/cases`, `classes/{arm}/layers` and so on; and the cells of all
//!   arms as columns, `[cells]`: `columns/case`, `columns/arm`, `columns/layer`, `columns/position`, `columns/token_class`,
//!   `columns/head`, `columns/dim`, `columns/trivial`, `columns/exact_null`, `columns/{metric}/` + `value`, `effect`,
//!   `effect_se`.
//!
//! - In `.npz` also `case_ids`, `arm_names` and `token_class_names`, texts.
//!
//! Metadata: `model`, `complete`, `plan_sha256` and `server` where the provenance has them, and as JSON `request`,
//! `provenance`, `lints`, `cases` (their names), `arms`, `metrics`, `token_classes` (numbers are indices into these).

use std::collections::{BTreeMap, BTreeSet};

use super::SweepOutcome;
use super::dense::Dense;
use crate::effect::average::Average;
use crate::effect::cells::{ArmHead, Cells, MetricColumns};
use crate::effect::stats::estimate;
use crate::export::array::{ArrayData, NamedArray};
use crate::result::common::{CLASS, Provenance};
use crate::result::files::{Arrays, part, to_json, truths};
use crate::spec::select::TokenClass;

const CLASSES: usize = TokenClass::ALL.len();

/// Every array; see the module.
pub fn arrays(outcome: &SweepOutcome, only: Option<&str>) -> Vec<NamedArray> {
    let metrics = outcome.metrics.iter().enumerate();
    let metrics: Vec<(usize, &str)> =
        metrics.map(|(i, m)| (i, m.as_str())).filter(|(_, m)| only.is_none_or(|only| *m == only)).collect();
    let mut out = Out { arrays: Arrays::default(), metrics };
    out.averages(outcome, None, "");
    let mut groups: Vec<&str> = Vec::new();
    for group in outcome.averages.rows.iter().filter_map(|row| row.at.group.as_deref()) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    for group in groups {
        out.averages(outcome, Some(group), &format!("groups/{}/", part(group)));
    }
    let n = outcome.cases.len();
    out.arrays.push("kept", vec![n], ArrayData::Bool(outcome.cases.iter().map(|case| case.kept).collect()));
    for (i, arm) in outcome.arms.iter().enumerate() {
        for (j, metric) in out.metrics.clone() {
            let of = |case: usize| super::tables::total(outcome, case as u32, i as u32, j);
            let values: Vec<_> = (0..n).map(of).collect();
            out.arrays.numbers(
                format!("total_effect/{}/{}", part(&arm.name), part(metric)),
                vec![n],
                &values,
            );
        }
    }
    if let Some(cells) = &outcome.cells {
        let mut ragged = false;
        for (i, arm) in (0_u32..).zip(&outcome.arms) {
            let by_case = ByCase::new(cells, i);
            match by_case.grid(cells, arm) {
                Some(axes) => out.grid(cells, arm, &by_case, &axes),
                None if by_case.list.is_empty() => {}
                None => {
                    ragged = true;
                    out.classes(cells, arm, &by_case);
                }
            }
        }
        if ragged {
            out.columns(cells);
        }
    }
    out.arrays.into_list().into_iter().map(|of| of.array).collect()
}

/// Names as arrays of texts, for `.npz`: `case_ids`, `arm_names`, `token_class_names`, which indices point into.
pub fn names(outcome: &SweepOutcome) -> Vec<NamedArray> {
    let array = |name: &str, texts: Vec<String>| NamedArray {
        name: name.to_owned(),
        shape: vec![texts.len()],
        data: ArrayData::Text(texts),
    };
    vec![
        array("case_ids", outcome.cases.iter().map(|case| case.id.clone()).collect()),
        array("arm_names", outcome.arms.iter().map(|arm| arm.name.clone()).collect()),
        array("token_class_names", TokenClass::ALL.iter().map(|(name, _)| (*name).to_owned()).collect()),
    ]
}

/// Where numbers come from; see the module.
pub fn metadata(outcome: &SweepOutcome) -> BTreeMap<String, String> {
    let cases: Vec<&str> = outcome.cases.iter().map(|case| case.id.as_str()).collect();
    let classes: Vec<&str> = TokenClass::ALL.iter().map(|(name, _)| *name).collect();
    let mut entries = vec![
        ("model", outcome.model.clone()),
        ("complete", outcome.complete.to_string()),
        ("request", to_json(&outcome.request)),
        ("provenance", to_json(&outcome.provenance)),
        ("lints", to_json(&outcome.lints)),
        ("cases", to_json(&cases)),
        ("arms", to_json(&outcome.arms)),
        ("metrics", to_json(&outcome.metrics)),
        ("token_classes", to_json(&classes)),
    ];
    let Provenance { plan_sha256, server, .. } = &outcome.provenance;
    entries.extend([("plan_sha256", plan_sha256.clone()), ("server", server.clone())]);
    entries.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
}

/// The cells of an arm, case by case: the case's index and its cells' indices.
struct ByCase {
    list: Vec<(u32, Vec<usize>)>,
}

impl ByCase {
    fn new(cells: &Cells, arm: u32) -> Self {
        let mut by_case: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for i in (0..cells.len()).filter(|i| cells.arm[*i] == arm) {
            by_case.entry(cells.case[i]).or_default().push(i);
        }
        Self { list: by_case.into_iter().collect() }
    }

    fn cases(&self) -> impl Iterator<Item = u32> {
        self.list.iter().map(|(case, _)| *case)
    }

    /// The arm's axes with their values in order, if they are the same in every case.
    fn grid(&self, cells: &Cells, arm: &ArmHead) -> Option<Vec<(String, Vec<u32>)>> {
        let (_, first) = self.list.first()?;
        let axes: Vec<(String, Vec<u32>)> = arm
            .axes
            .iter()
            .map(|axis| {
                let mut values: Vec<u32> = Vec::new();
                for value in first.iter().filter_map(|i| coordinate(cells, axis, *i)) {
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                (axis.clone(), values)
            })
            .collect();
        let count: usize = axes.iter().map(|(_, values)| values.len()).product();
        let fits = |own: &[usize]| {
            own.len() == count
                && own.iter().enumerate().all(|(at, i)| {
                    let mut rest = at;
                    axes.iter().rev().all(|(axis, values)| {
                        let value = values[rest % values.len()];
                        rest /= values.len();
                        coordinate(cells, axis, *i) == Some(value)
                    })
                })
        };
        self.list.iter().all(|(_, own)| fits(own)).then_some(axes)
    }
}

fn coordinate(cells: &Cells, axis: &str, i: usize) -> Option<u32> {
    match axis {
        "layer" => cells.layer[i],
        "position" => cells.position[i],
        "head" => cells.head[i],
        "source_layer" => cells.source_layer[i],
        _ => cells.dim[i],
    }
}

/// The name of an axis's values.
fn plural(axis: &str) -> String {
    if axis == CLASS { "token_classes".to_owned() } else { format!("{axis}s") }
}

type AverageOf = fn(&Average) -> Option<f64>;
type NumberOf = fn(&MetricColumns) -> &Vec<Option<f64>>;
const NUMBERS: [(&str, NumberOf); 3] = [
    ("value", |columns| &columns.value),
    ("effect", |columns| &columns.effect),
    ("effect_se", |columns| &columns.effect_se),
];

struct Out<'o> {
    arrays: Arrays,
    metrics: Vec<(usize, &'o str)>,
}

impl Out<'_> {
    fn averages(&mut self, outcome: &SweepOutcome, group: Option<&str>, prefix: &str) {
        for arm in &outcome.arms {
            let path = format!("{prefix}averages/{}", part(&arm.name));
            let mut first = true;
            for (_, metric) in self.metrics.clone() {
                let dense = Dense::new(outcome, arm, group, None, metric);
                if dense.rows.is_empty() {
                    continue;
                }
                let shape = dense.shape();
                let counts = |of: fn(&Average) -> usize| {
                    let count = |row: Option<&Average>| row.map_or(0, |row| of(row) as i64);
                    ArrayData::I64(dense.rows.iter().copied().map(count).collect())
                };
                // What doesn't depend on the metric is told once.
                if std::mem::take(&mut first) {
                    for axis in &dense.axes {
                        self.arrays
                            .ints(format!("{path}/{}", plural(axis.name)), axis.values.iter().copied());
                    }
                    self.arrays.push(format!("{path}/cells"), shape.clone(), counts(|row| row.cells));
                    self.arrays.push(format!("{path}/trivial"), shape.clone(), counts(|row| row.trivial));
                    self.arrays.push(
                        format!("{path}/exact_null"),
                        shape.clone(),
                        counts(|row| row.exact_null),
                    );
                }
                let path = format!("{path}/{}", part(metric));
                self.arrays.push(format!("{path}/n"), shape.clone(), counts(|row| row.effect.n));
                let numbers: [(&str, AverageOf); 9] = [
                    ("mean", |row| row.effect.mean),
                    ("se", |row| row.effect.se),
                    ("ci_low", |row| row.effect.ci.map(|ci| ci[0])),
                    ("ci_high", |row| row.effect.ci.map(|ci| ci[1])),
                    ("ci_t_low", |row| row.effect.ci_t.map(|ci| ci[0])),
                    ("ci_t_high", |row| row.effect.ci_t.map(|ci| ci[1])),
                    ("recovery", |row| row.recovery),
                    ("recovery_ci_low", |row| row.recovery_ci.map(|ci| ci[0])),
                    ("recovery_ci_high", |row| row.recovery_ci.map(|ci| ci[1])),
                ];
                for (name, of) in numbers {
                    self.arrays.numbers(format!("{path}/{name}"), shape.clone(), &dense.numbers(of));
                }
                let robust: [(&str, AverageOf); 2] = [
                    ("median", |row| row.effect.robust?.median),
                    ("trimmed_mean", |row| row.effect.robust?.trimmed_mean),
                ];
                for (name, of) in robust {
                    let values = dense.numbers(of);
                    if values.iter().any(Option::is_some) {
                        self.arrays.numbers(format!("{path}/{name}"), shape.clone(), &values);
                    }
                }
            }
        }
    }

    /// `[cases, *axes]`
    fn grid(&mut self, cells: &Cells, arm: &ArmHead, by_case: &ByCase, axes: &[(String, Vec<u32>)]) {
        let path = format!("cells/{}", part(&arm.name));
        self.arrays.ints(format!("{path}/cases"), by_case.cases());
        for (axis, values) in axes {
            self.arrays.ints(format!("{path}/{}", plural(axis)), values.iter().copied());
        }
        let shape: Vec<usize> =
            [by_case.list.len()].into_iter().chain(axes.iter().map(|(_, values)| values.len())).collect();
        let all: Vec<usize> = by_case.list.iter().flat_map(|(_, own)| own.iter().copied()).collect();
        for (name, flags) in [("trivial", &cells.trivial), ("exact_null", &cells.exact_null)] {
            let flags: Vec<Option<bool>> = all.iter().map(|i| flags[*i]).collect();
            self.arrays.push(format!("{path}/{name}"), shape.clone(), truths(&flags));
        }
        for (j, metric) in self.metrics.clone() {
            let Some(columns) = cells.metrics.get(j) else { continue };
            for (name, of) in NUMBERS {
                let values: Vec<_> = all.iter().map(|i| of(columns)[*i]).collect();
                self.arrays.numbers(format!("{path}/{}/{name}", part(metric)), shape.clone(), &values);
            }
        }
    }

    /// `[cases, classes, *other axes]`; nothing where no position has a class.
    fn classes(&mut self, cells: &Cells, arm: &ArmHead, by_case: &ByCase) {
        let own = || by_case.list.iter().flat_map(|(_, own)| own.iter().copied());
        if own().all(|i| cells.token_class[i].is_none()) {
            return;
        }
        let others = arm.axes.iter().filter(|axis| *axis != "position");
        let axes: Vec<(&String, Vec<u32>)> = others
            .map(|axis| {
                let values: BTreeSet<u32> = own().filter_map(|i| coordinate(cells, axis, i)).collect();
                (axis, values.into_iter().collect())
            })
            .collect();
        let inner: usize = axes.iter().map(|(_, values)| values.len()).product();
        let slot = |case: usize, i: usize| {
            let at = case * CLASSES + cells.token_class[i]? as usize;
            axes.iter().try_fold(at, |at, (axis, values)| {
                Some(at * values.len() + values.binary_search(&coordinate(cells, axis, i)?).ok()?)
            })
        };
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); by_case.list.len() * CLASSES * inner];
        for (case, (_, own)) in by_case.list.iter().enumerate() {
            for i in own {
                if let Some(slot) = slot(case, *i) {
                    members[slot].push(*i);
                }
            }
        }
        let path = format!("classes/{}", part(&arm.name));
        self.arrays.ints(format!("{path}/cases"), by_case.cases());
        for (axis, values) in &axes {
            self.arrays.ints(format!("{path}/{}", plural(axis)), values.iter().copied());
        }
        let shape: Vec<usize> = [by_case.list.len(), CLASSES]
            .into_iter()
            .chain(axes.iter().map(|(_, values)| values.len()))
            .collect();
        for (j, metric) in self.metrics.clone() {
            let Some(columns) = cells.metrics.get(j) else { continue };
            let mean = |of: &Vec<usize>| estimate(of.iter().map(|i| columns.effect[*i])).mean;
            let means: Vec<_> =
                members.iter().map(|of| if of.is_empty() { None } else { mean(of) }).collect();
            self.arrays.numbers(format!("{path}/{}/effect", part(metric)), shape.clone(), &means);
        }
    }

    fn columns(&mut self, cells: &Cells) {
        let n = cells.len();
        let index = |x: Option<i64>| x.unwrap_or(-1);
        let indices = |column: &[Option<u32>]| column.iter().map(|x| index(x.map(i64::from))).collect();
        self.arrays.ints("columns/case", cells.case.iter().copied());
        self.arrays.ints("columns/arm", cells.arm.iter().copied());
        for (name, column) in [
            ("layer", &cells.layer),
            ("position", &cells.position),
            ("head", &cells.head),
            ("dim", &cells.dim),
            ("source_layer", &cells.source_layer),
        ] {
            self.arrays.push(format!("columns/{name}"), vec![n], ArrayData::I64(indices(column)));
        }
        let classes = cells.token_class.iter().map(|class| index(class.map(i64::from))).collect();
        self.arrays.push("columns/token_class", vec![n], ArrayData::I64(classes));
        self.arrays.push("columns/trivial", vec![n], truths(&cells.trivial));
        self.arrays.push("columns/exact_null", vec![n], truths(&cells.exact_null));
        for (j, metric) in self.metrics.clone() {
            let Some(columns) = cells.metrics.get(j) else { continue };
            for (name, of) in NUMBERS {
                self.arrays.numbers(format!("columns/{}/{name}", part(metric)), vec![n], of(columns));
            }
        }
    }
}
