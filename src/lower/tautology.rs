//! Cells whose answer follows from how they are made.

use std::collections::HashSet;

use super::lint::Lints;
use crate::plan::{Address, Edit, Op, Plan, RunId, Source};
use crate::spec::problem::Problems;
use crate::spec::site::Site;

/// Why a cell's answer is its source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Triviality {
    /// The read position's residual stream is written after the last attention: nothing else is read.
    LastLayer,
    /// Every position that could differ is written at one residual site: nothing of the unpatched run is left.
    Cut,
}

/// Whether the answer of `cell`, read at `read`, is its source's by construction. `read_of` gives the position at
/// which a source run is read itself; `layers` is the model's depth. Never where texts of several tokens are scored.
pub fn triviality(
    plan: &Plan,
    cell: RunId,
    read: u32,
    read_of: impl Fn(RunId) -> u32,
    layers: u32,
) -> Option<Triviality> {
    // The rows of a continuation see the layers below the patch as they are: their answer is not the source's.
    if !plan.scoring.sequences.is_empty() {
        return None;
    }
    let run = plan.run(cell);
    let parent = run.parent?;
    let mut addresses: Vec<Address> = run.edits.iter().map(|edit| edit.at).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().filter(|at| at.site.is_residual() || at.site == Site::FinalNorm).find_map(|at| {
        // Everything from here on must come from one run, whose own state is not touched any more either.
        let later: Vec<&Edit> = run.edits.iter().filter(|edit| edit.at >= at).collect();
        let source = copied_run(later.first()?)?;
        let pure = later.iter().all(|edit| copied_run(edit) == Some(source));
        if !pure || edited_after(plan, parent, at) || edited_after(plan, source, at) {
            return None;
        }
        let here: Vec<(u32, u32)> =
            later.iter().filter(|edit| edit.at == at).flat_map(|edit| pairs(edit)).collect();
        let last = at.site == Site::FinalNorm
            || (at.layer + 1 == layers && matches!(at.site, Site::ResidMid | Site::ResidPost));
        // Without attention left only the read position counts, and its source may stand elsewhere.
        let from = here.iter().rev().find(|(_, dst)| *dst == read).map(|(src, _)| *src);
        let mut copies = later.iter().flat_map(|edit| pairs(edit));
        if last && from == Some(read_of(source)) && copies.all(|(src, dst)| dst != read || Some(src) == from)
        {
            return Some(Triviality::LastLayer);
        }
        // Most cells fail here, before the runs are compared.
        let straight = later.iter().flat_map(|edit| pairs(edit)).all(|(src, dst)| src == dst);
        if !straight || from.is_none() {
            return None;
        }
        let written: HashSet<u32> = here.iter().map(|(_, dst)| *dst).collect();
        // The cell's own edits further up, such as noise on its embeddings, make it differ as well.
        let own =
            run.edits.iter().filter(|edit| edit.at < at).flat_map(|edit| edit.positions.iter().copied());
        let first = first_difference(plan, parent, source).min(own.min().unwrap_or(u32::MAX));
        let covered = first <= read && (first..=read).all(|p| written.contains(&p));
        covered.then_some(Triviality::Cut)
    })
}

/// Code of a grid, or a part of it, that is a tautology.
pub const TAUTOLOGY: &str = "TAUTOLOGICAL_CUT";

/// Remarks on the trivial cells of a grid, found at `at`. A grid whose every cell has its source's answer by construction,
/// because all that differs is copied, shows nothing and is refused unless that is `allowed`.
pub(super) fn judge(
    at: &str,
    trivial: &[Option<Triviality>],
    allowed: bool,
    lints: &mut Lints,
    out: &mut Problems,
) {
    let count = |which| trivial.iter().filter(|t| **t == Some(which)).count();
    let (last, cut, cells) = (count(Triviality::LastLayer), count(Triviality::Cut), trivial.len());
    if last > 0 {
        let detail = format!("{last} of {cells} cells write the read position after the last attention");
        let fix = "their answer is the source's: read them as the axis end, not as a finding";
        lints.info("TRIVIAL_CELL", at, detail, fix);
    }
    if cut == 0 {
        return;
    }
    let detail = format!("{cut} of {cells} cells write every position that differs");
    let fix = "their answer is the source's: patch single positions, mlp_out, attn_out or heads";
    if cut + last == cells && !allowed {
        out.push(at, TAUTOLOGY, detail, format!("{fix}, or set \"allow_trivial\": true"));
    } else {
        lints.warn(TAUTOLOGY, at, detail, fix);
    }
}

/// The run that a whole-width replacement copies from.
fn copied_run(edit: &Edit) -> Option<RunId> {
    match &edit.op {
        Op::Replace(Source::Run { run, .. }) if edit.columns.is_none() => Some(*run),
        _ => None,
    }
}

/// `(source, destination)` positions of a copy.
fn pairs(edit: &Edit) -> Vec<(u32, u32)> {
    match &edit.op {
        Op::Replace(Source::Run { positions, .. }) => {
            positions.iter().copied().zip(edit.positions.iter().copied()).collect()
        }
        _ => Vec::new(),
    }
}

fn ancestry(plan: &Plan, run: RunId) -> impl Iterator<Item = RunId> + '_ {
    std::iter::successors(Some(run), |id| plan.run(*id).parent)
}

fn edited_after(plan: &Plan, run: RunId, at: Address) -> bool {
    ancestry(plan, run).any(|id| plan.run(id).edits.iter().any(|edit| edit.at > at))
}

/// The first position at which two runs can differ anywhere; past both ends if nowhere.
fn first_difference(plan: &Plan, a: RunId, b: RunId) -> u32 {
    let (x, y) = (&plan.run(a).tokens, &plan.run(b).tokens);
    let tokens = x.iter().zip(y.iter()).position(|(x, y)| x != y).unwrap_or(x.len().min(y.len()));
    let (of_a, of_b): (Vec<RunId>, Vec<RunId>) = (ancestry(plan, a).collect(), ancestry(plan, b).collect());
    let only = of_a.iter().filter(|id| !of_b.contains(id)).chain(of_b.iter().filter(|id| !of_a.contains(id)));
    let edited =
        only.flat_map(|id| plan.run(*id).edits.iter().flat_map(|edit| edit.positions.iter().copied())).min();
    (tokens as u32).min(edited.unwrap_or(u32::MAX))
}
