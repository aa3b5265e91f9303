//! Cells of a trace that are named in its request.

use super::facts::Facts;
use super::layout::{ArmLayout, Axis, CaseLayout};
use crate::plan::Plan;
use crate::spec::problem::{Problems, code};
use crate::spec::read::did_you_mean;
use crate::spec::trace::{AskedCell, TraceSpec};

/// Of each readout so many times more tokens are looked at than are told, and at least [`FEWEST`]: which of them are the most
/// probable on average over samples is known only then.
const TIMES: u32 = 4;
const FEWEST: u32 = 32;

/// Finds the cells, by index of their arm and in its grid, and has enough tokens looked at.
pub(super) fn resolve(
    spec: &TraceSpec,
    case: &CaseLayout,
    plan: &mut Plan,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<Vec<(usize, usize)>> {
    if spec.cells.is_empty() {
        return Some(Vec::new());
    }
    let told = spec.experiment.read.topk;
    if told == 0 {
        let detail = "cells are asked for, and no token of them is told";
        out.push("/read/topk", code::CONFLICT, detail, "ask for at least one token, or leave out `cells`");
        return None;
    }
    let mut cells: Vec<(usize, usize)> = Vec::new();
    for (i, asked) in spec.cells.iter().enumerate() {
        let at = format!("/cells/{i}");
        let Some(cell) = find(asked, case, &at, out) else { continue };
        if cells.contains(&cell) {
            out.push(at, code::DUPLICATE, "the same cell as an earlier one", "list each once");
        }
        cells.push(cell);
    }
    if !out.is_empty() {
        return None;
    }
    let limits = facts.limits();
    let vocabulary = facts.config().vocab_size as u64;
    let looked_at = u64::from((TIMES * told).max(FEWEST)).min(limits.topk).min(vocabulary);
    let samples = case.corrupted.len() as u64;
    let again = 1 + (1 + cells.len() as u64) * samples;
    // All that they say may differ.
    let different = (again * looked_at).min(vocabulary) + case.common.targets.union.len() as u64;
    for (numbers, fix) in [
        (
            plan.readouts.len() as u64 * looked_at,
            "name the layers and positions of the cells in `layers` and `positions`",
        ),
        (again * different, "name fewer cells, or use fewer samples"),
    ] {
        if numbers > limits.score_elements {
            let detail = format!("{numbers} numbers in all readouts, the limit is {}", limits.score_elements);
            out.push("/cells", code::LIMIT, detail, fix);
            return None;
        }
    }
    plan.scoring.topk = plan.scoring.topk.max(looked_at as u32);
    Some(cells)
}

fn find(asked: &AskedCell, case: &CaseLayout, at: &str, out: &mut Problems) -> Option<(usize, usize)> {
    let names = case.arms.names();
    let index = match (&asked.arm, &names[..]) {
        (None, [_]) => 0,
        (None, _) => {
            let fix = format!("write one of {}", names.join(", "));
            out.push(format!("{at}/arm"), code::MISSING, "there are several arms", fix);
            return None;
        }
        (Some(name), _) => {
            let Some(index) = names.iter().position(|own| own == name) else {
                let detail = format!("no arm is called {name:?}{}", did_you_mean(name, &names));
                out.push(
                    format!("{at}/arm"),
                    code::UNKNOWN_NAME,
                    detail,
                    format!("write one of {}", names.join(", ")),
                );
                return None;
            };
            index
        }
    };
    let (name, arm) = (names[index], &case.arms.0[index].1);
    let (layer, position) = (asked.layer.map(i64::from), asked.position);
    let mut cell = Some(0);
    for (axis, given) in [("layer", layer), ("position", position)] {
        let place = coordinate((name, arm), axis, given, &format!("{at}/{axis}"), out);
        cell = cell.zip(place).map(|(cell, (place, len))| cell * len + place);
    }
    cell.map(|cell| (index, cell))
}

/// Where a coordinate stands on its axis, and how long that is. Without an axis: the first of one.
fn coordinate(
    (name, arm): (&str, &ArmLayout),
    of: &str,
    given: Option<i64>,
    at: &str,
    out: &mut Problems,
) -> Option<(usize, usize)> {
    let axis = arm.grid.axes.iter().find(|axis| axis.name == of);
    let values = |axis: &Axis| match axis.values[..] {
        [first, .., last] => format!("write one of its {}, from {first} to {last}", axis.values.len()),
        _ => format!("write {}", axis.values.first().copied().unwrap_or_default()),
    };
    match (axis, given) {
        (None, None) => Some((0, 1)),
        (None, Some(_)) => {
            out.push(at, code::CONFLICT, format!("arm {name:?} has no {of}s"), "leave it out");
            None
        }
        (Some(axis), None) => {
            out.push(at, code::MISSING, format!("arm {name:?} has {of}s"), values(axis));
            None
        }
        (Some(axis), Some(given)) => {
            let meant = if given < 0 && of == "position" { given + i64::from(arm.len) } else { given };
            let place = axis.values.iter().position(|value| i64::from(*value) == meant);
            if place.is_none() {
                let detail = format!("the map of arm {name:?} has no {of} {given}");
                out.push(at, code::OUT_OF_RANGE, detail, values(axis));
            }
            place.map(|place| (place, axis.values.len()))
        }
    }
}
