//! What a sweep found as tables, for CSV, JSON lines and Parquet; missing values are empty, or null.
//!
//! - `cells`: a row for each metric and cell: case, group, arm, layer, position, token_class, head, dim, metric, value,
//!   effect, effect_se, total_effect, recovery, trivial, exact_null. The total effect is the case's, `recovery` the effect's
//!   share of it. None with `"keep": {"cells": false}`.
//! - `averages`: a row for each average: group (empty: all cases), arm, layer, position, token_class, head, dim, metric, mean,
//!   se, ci_low, ci_high, ci_t_low, ci_t_high, n, median, trimmed_mean (empty if not asked for), recovery, recovery_ci_low,
//!   recovery_ci_high, total_effect, total_effect_ci_low, total_effect_ci_high, cells, trivial, exact_null.
//! - `differences`: a row for each: over (`group` or `arm`), a, b, the place as in `averages`, metric, difference, se,
//!   ci_low, ci_high, ci_t_low, ci_t_high, n.
//! - `top`: the strongest averages: metric, rank, the place, mean, se, n, t, p_max_t, stability.
//! - `cases`: a row for each case: case, group, kept, dropped (filters), subject_start, subject_end; of each run
//!   `{run}/tokens` (how many), `{run}/top1`, `{run}/{metric}`, `{run}/{metric}/se`; of each arm
//!   `total_effect/{arm}/{metric}`, `total_effect/{arm}/{metric}/se`. A run that some cases don't have is empty there.
#![expect(clippy::doc_markdown, reason = "names of columns")]

use std::collections::HashMap;
use std::ops::Range;

use super::SweepOutcome;
use crate::effect::average::Key;
use crate::effect::cells::{CaseHead, Cells};
use crate::effect::stats::{Estimate, finite};
use crate::export::csv::Column;
use crate::result::files::part;
use crate::result::rows::Rows;
use crate::spec::select::TokenClass;

/// Rows made at a time, which become a Parquet file's row groups: a sweep may have more cells than there should be copies of.
const PIECE: usize = 1 << 17;

/// A table of a sweep; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// One row for each metric and average.
    Averages,
    /// One row for each metric and cell.
    Cells,
    /// One row for each case.
    Cases,
    /// One row for each difference of averages.
    Differences,
    /// One row for each of the strongest averages.
    Top,
}

impl Table {
    /// Every table with its name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("averages", Self::Averages),
        ("cells", Self::Cells),
        ("cases", Self::Cases),
        ("differences", Self::Differences),
        ("top", Self::Top),
    ];

    /// Its name in `?table=`.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Whether the outcome has it: cells may not have been kept.
    pub fn is_of(self, outcome: &SweepOutcome) -> bool {
        self != Self::Cells || outcome.cells.is_some()
    }

    /// Its columns, piece by piece; at least one piece. `only`: of this metric. `table` must be [`Table::is_of`] the outcome;
    /// cells that weren't kept are none.
    pub fn pieces<'o>(
        self,
        outcome: &'o SweepOutcome,
        only: Option<&'o str>,
    ) -> Box<dyn Iterator<Item = Vec<Column>> + 'o> {
        match self {
            Self::Cells => cells(outcome, only),
            Self::Averages => Box::new(std::iter::once(averages(outcome, only))),
            Self::Cases => Box::new(std::iter::once(cases(outcome, only))),
            Self::Differences => Box::new(std::iter::once(differences(outcome, only))),
            Self::Top => Box::new(std::iter::once(top(outcome, only))),
        }
    }
}

fn averages(outcome: &SweepOutcome, only: Option<&str>) -> Vec<Column> {
    let averages = &outcome.averages;
    let totals: HashMap<_, _> = averages
        .totals
        .iter()
        .map(|total| {
            ((total.arm.as_str(), total.group.as_deref(), total.metric.as_str()), total.total_effect)
        })
        .collect();
    let rows = averages.rows.iter().filter(|row| only.is_none_or(|only| row.metric == only));
    let rows = rows.map(|row| {
        let at = (row.at.arm.as_str(), row.at.group.as_deref(), row.metric.as_str());
        (row, totals.get(&at).copied().unwrap_or_default())
    });
    Rows::new(rows.collect())
        .name("group", |(row, _)| row.at.group.as_deref())
        .place(|(row, _)| &row.at)
        .name("metric", |(row, _)| Some(&row.metric))
        .estimate("mean", |(row, _)| row.effect)
        .float("median", |(row, _)| row.effect.robust?.median)
        .float("trimmed_mean", |(row, _)| row.effect.robust?.trimmed_mean)
        .float("recovery", |(row, _)| row.recovery)
        .float("recovery_ci_low", |(row, _)| row.recovery_ci.map(|[low, _]| low))
        .float("recovery_ci_high", |(row, _)| row.recovery_ci.map(|[_, high]| high))
        .float("total_effect", |(_, total)| total.mean)
        .float("total_effect_ci_low", |(_, total)| total.ci.map(|[low, _]| low))
        .float("total_effect_ci_high", |(_, total)| total.ci.map(|[_, high]| high))
        .count("cells", |(row, _)| row.cells)
        .count("trivial", |(row, _)| row.trivial)
        .count("exact_null", |(row, _)| row.exact_null)
        .columns
}

fn differences(outcome: &SweepOutcome, only: Option<&str>) -> Vec<Column> {
    let rows = outcome.averages.differences.iter();
    let rows = rows.filter(|row| only.is_none_or(|only| row.metric == only)).collect();
    Rows::new(rows)
        .name("over", |row| Some(if row.over == Key::Group { "group" } else { "arm" }))
        .name("a", |row| Some(row.a.as_str()))
        .name("b", |row| Some(row.b.as_str()))
        .name("group", |row| row.at.group.as_deref())
        .place(|row| &row.at)
        .name("metric", |row| Some(&row.metric))
        .estimate("difference", |row| row.difference)
        .columns
}

fn top(outcome: &SweepOutcome, only: Option<&str>) -> Vec<Column> {
    let rows = outcome.averages.top.iter();
    let rows = rows.filter(|row| only.is_none_or(|only| row.metric == only)).collect();
    Rows::new(rows)
        .name("metric", |row| Some(&row.metric))
        .int("rank", |row| Some(row.rank))
        .place(|row| &row.at)
        .float("mean", |row| Some(row.mean))
        .float("se", |row| row.se)
        .count("n", |row| row.n)
        .float("t", |row| row.t)
        .float("p_max_t", |row| row.p_max_t)
        .float("stability", |row| row.stability)
        .columns
}

fn cases(outcome: &SweepOutcome, only: Option<&str>) -> Vec<Column> {
    let end = |case: &CaseHead, i: usize| case.subject.map(|range| range[i]);
    let dropped = |case: &CaseHead| {
        let filters: Vec<&str> = case.dropped.iter().map(|by| by.filter.as_str()).collect();
        filters.join(" ")
    };
    let filters: Vec<String> = outcome.cases.iter().map(dropped).collect();
    let rows: Vec<(&CaseHead, &String)> = outcome.cases.iter().zip(&filters).collect();
    let mut table = Rows::new(rows)
        .name("case", |(case, _)| Some(case.id.as_str()))
        .name("group", |(case, _)| case.group.as_deref())
        .flag("kept", |(case, _)| Some(case.kept))
        .name("dropped", |(_, filters)| Some(filters.as_str()).filter(|text| !text.is_empty()))
        .int("subject_start", |(case, _)| end(case, 0))
        .int("subject_end", |(case, _)| end(case, 1));
    let mut runs: Vec<&str> = Vec::new();
    for run in outcome.cases.iter().flat_map(|case| &case.runs) {
        if !runs.contains(&run.name.as_str()) {
            runs.push(&run.name);
        }
    }
    let metrics = || outcome.metrics.iter().enumerate().filter(|(_, m)| only.is_none_or(|only| *m == only));
    for name in runs {
        let of = |case: &'_ CaseHead| case.runs.iter().position(|run| run.name == name);
        let run = part(name);
        table = table
            .int(format!("{run}/tokens"), |(case, _)| Some(case.runs[of(case)?].tokens.len() as u32))
            .name(&format!("{run}/top1"), |(case, _)| case.runs[of(case)?].top1.as_deref());
        for (i, metric) in metrics() {
            let value = |case: &CaseHead| -> Option<Estimate> { case.runs[of(case)?].values.get(i).copied() };
            table = table
                .float(format!("{run}/{}", part(metric)), |(case, _)| value(case)?.mean)
                .float(format!("{run}/{}/se", part(metric)), |(case, _)| value(case)?.se);
        }
    }
    for (i, arm) in outcome.arms.iter().enumerate() {
        for (j, metric) in metrics() {
            let total = |case: &CaseHead| case.total_effect.get(i)?.get(j).copied();
            let name = format!("total_effect/{}/{}", part(&arm.name), part(metric));
            table = table
                .float(name.clone(), |(case, _)| total(case)?.mean)
                .float(format!("{name}/se"), |(case, _)| total(case)?.se);
        }
    }
    table.columns
}

fn cells<'o>(outcome: &'o SweepOutcome, only: Option<&'o str>) -> Box<dyn Iterator<Item = Vec<Column>> + 'o> {
    static NONE: Cells = Cells {
        case: vec![],
        arm: vec![],
        layer: vec![],
        position: vec![],
        token_class: vec![],
        head: vec![],
        dim: vec![],
        source_layer: vec![],
        trivial: vec![],
        exact_null: vec![],
        metrics: vec![],
    };
    let cells = outcome.cells.as_ref().unwrap_or(&NONE);
    let metrics = outcome.metrics.iter().enumerate();
    let metrics: Vec<usize> =
        metrics.filter(|(_, name)| only.is_none_or(|only| *name == only)).map(|(i, _)| i).collect();
    let ranges = metrics.into_iter().flat_map(move |metric| {
        let starts = (0..cells.len().max(1)).step_by(PIECE);
        starts.map(move |start| (metric, start..(start + PIECE).min(cells.len())))
    });
    let mut ranges: Vec<(usize, Range<usize>)> = ranges.collect();
    // A file has columns even if it has no rows.
    ranges.dedup_by(|a, b| a.1.is_empty() && b.1.is_empty());
    if ranges.is_empty() {
        ranges.push((0, 0..0));
    }
    Box::new(ranges.into_iter().map(move |(metric, rows)| piece(outcome, cells, metric, rows)))
}

/// The share of a total effect, unless that is too small.
pub(super) fn share(outcome: &SweepOutcome, effect: Option<f64>, total: Option<f64>) -> Option<f64> {
    let total = total.filter(|total| total.abs() >= outcome.min_total_effect)?;
    finite(effect? / total)
}

/// A case's total effect.
pub(super) fn total(outcome: &SweepOutcome, case: u32, arm: u32, metric: usize) -> Option<f64> {
    outcome.cases.get(case as usize)?.total_effect.get(arm as usize)?.get(metric)?.mean
}

fn piece(outcome: &SweepOutcome, cells: &Cells, metric: usize, rows: Range<usize>) -> Vec<Column> {
    let case = |i: &usize| &outcome.cases[cells.case[*i] as usize];
    let column = |i: &usize, of: fn(&crate::effect::cells::MetricColumns) -> &Vec<Option<f64>>| {
        cells.metrics.get(metric).and_then(|columns| of(columns)[*i])
    };
    let effect = |i: &usize| column(i, |columns| &columns.effect);
    let total = |i: &usize| total(outcome, cells.case[*i], cells.arm[*i], metric);
    Rows::new(rows.collect())
        .name("case", |i| Some(case(i).id.as_str()))
        .name("group", |i| case(i).group.as_deref())
        .name("arm", |i| Some(outcome.arms[cells.arm[*i] as usize].name.as_str()))
        .int("layer", |i| cells.layer[*i])
        .int("position", |i| cells.position[*i])
        .name("token_class", |i| Some(TokenClass::ALL[cells.token_class[*i]? as usize].0))
        .int("head", |i| cells.head[*i])
        .int("dim", |i| cells.dim[*i])
        .int("source_layer", |i| cells.source_layer[*i])
        .name("metric", |_| outcome.metrics.get(metric).map(String::as_str))
        .float("value", |i| column(i, |columns| &columns.value))
        .float("effect", effect)
        .float("effect_se", |i| column(i, |columns| &columns.effect_se))
        .float("total_effect", total)
        .float("recovery", |i| share(outcome, effect(i), total(i)))
        .flag("trivial", |i| cells.trivial[*i])
        .flag("exact_null", |i| cells.exact_null[*i])
        .columns
}
