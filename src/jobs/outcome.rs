//! A sweep's units put together. Nothing here depends on who computed them, or when.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::effect::average::How;
use crate::effect::cells::{CaseHead, Observed};
use crate::effect::sweep::Part;
use crate::result::sweep::{SweepOutcome, assemble};
use crate::result::texts::{TextsOutcome, TextsPart, assemble as assemble_texts};
use crate::service::cut::{Cut, Cuts, TextsCut};
use crate::service::sweep::Opened;
use crate::store::job::Job;

/// Why there is no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// No case's unpatched runs have been computed.
    Nothing,
    /// The job was stored by a version of this program whose jobs this one can't read.
    Unreadable,
}

/// How units and their outputs are written. What another layout wrote is not read, since numbers that are packed say nothing of
/// what they are: whoever changes [`Cut`], [`CaseHead`] or [`Part`] adds one.
pub const LAYOUT: u32 = 5;

/// A cut as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored<C> {
    layout: u32,
    #[serde(flatten)]
    cut: C,
}

/// A cut as text to store.
pub(super) fn text(cut: &Cuts) -> String {
    serde_json::to_string(&Stored { layout: LAYOUT, cut })
        .expect("BUG: a cut has string keys and finite numbers")
}

/// How a stored sweep, or texts, are cut.
pub(super) fn cut<C: DeserializeOwned>(job: &Job) -> Result<C, Unfinished> {
    let stored: Stored<Value> = serde_json::from_str(&job.cut).map_err(|_| Unfinished::Unreadable)?;
    if stored.layout != LAYOUT {
        return Err(Unfinished::Unreadable);
    }
    serde_json::from_value(stored.cut).map_err(|_| Unfinished::Unreadable)
}

/// A stored sweep.
pub(super) fn open(job: &Job) -> Result<Opened, Unfinished> {
    let cut: Cut = cut(job)?;
    let request: Value = serde_json::from_str(&job.request).map_err(|_| Unfinished::Unreadable)?;
    Opened::new(super::account(job), request, cut).ok_or(Unfinished::Unreadable)
}

/// What the units computed so far say together.
pub(super) fn outcome(job: &Job, outputs: &[(u32, Vec<u8>)]) -> Result<SweepOutcome, Unfinished> {
    let opened = open(job)?;
    let (cases, part) = joined(&opened.cut, outputs)?;
    if cases.is_empty() {
        return Err(Unfinished::Nothing);
    }
    Ok(assemble(opened.spec(), &opened.cut.facts(), cases, part))
}

/// The texts written so far.
pub(super) fn texts(job: &Job, outputs: &[(u32, Vec<u8>)]) -> Result<TextsOutcome, Unfinished> {
    let cut: TextsCut = cut(job)?;
    let request: Value = serde_json::from_str(&job.request).map_err(|_| Unfinished::Unreadable)?;
    let part = |(seq, output): &(u32, Vec<u8>)| -> Result<(usize, TextsPart), Unfinished> {
        let part = serde_json::from_slice(output).map_err(|_| Unfinished::Unreadable)?;
        Ok((cut.part(*seq).0, part))
    };
    let [_, all, _] = cut.units();
    let parts = outputs.iter().filter(|(seq, _)| *seq < all).map(part).collect::<Result<Vec<_>, _>>()?;
    if parts.is_empty() {
        return Err(Unfinished::Nothing);
    }
    let complete = parts.len() == all as usize;
    let (cases, outcomes, lints) = assemble_texts(parts);
    let (id, model) = (job.id.to_string(), cut.model.clone());
    Ok(TextsOutcome { id, model, complete, request, cases, outcomes, lints, provenance: cut.provenance })
}

/// What the cells so far say, in few words.
pub(super) fn running(opened: &Opened, outputs: &[(u32, Vec<u8>)]) -> Result<Value, Unfinished> {
    let (cases, part) = joined(&opened.cut, outputs)?;
    let spec = opened.spec();
    let observed = Observed {
        metrics: spec.metrics.iter().map(ToString::to_string).collect(),
        arms: opened.cut.arms.clone(),
        cases,
        cells: part.cells,
        sampled: part.sampled,
    };
    Ok(crate::effect::average::running(&observed, &How::of(&spec.aggregate)))
}

/// Cases in their order, and the cells of those whose cases are known, in theirs.
fn joined(cut: &Cut, outputs: &[(u32, Vec<u8>)]) -> Result<(Vec<CaseHead>, Part), Unfinished> {
    let [baselines, ..] = cut.units();
    let mut cases: Vec<CaseHead> = Vec::with_capacity(cut.cells.len());
    let mut part = Part::default();
    for (seq, output) in outputs {
        if *seq < baselines {
            // Units are done in any order: cases after one that is missing have no place yet.
            if cases.len() == cut.cases_of(*seq).start {
                let heads: Vec<CaseHead> =
                    serde_json::from_slice(output).map_err(|_| Unfinished::Unreadable)?;
                cases.extend(heads);
            }
        } else if !output.is_empty() {
            part.append(postcard::from_bytes(output).map_err(|_| Unfinished::Unreadable)?);
        }
    }
    Ok((cases, part))
}
