//! How a sweep, and generated text, are cut into units of work.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::effect::cells::ArmHead;
use crate::lower::lint::Lint;
use crate::lower::sweep::Shared;
use crate::result::common::Provenance;
use crate::result::sweep::SweepFacts;
use crate::spec::generate::TextCase;

/// How a sweep is cut into units, and all that its result says beside numbers: fixed when it is submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// What its cases share.
    pub shared: Shared,
    /// Cells of each case, each counted once whatever its samples.
    pub cells: Vec<u32>,
    /// Cells of a unit; a case's last unit may have fewer.
    pub cells_per_unit: u32,
    /// Cases of a unit of unpatched runs.
    pub cases_per_unit: u32,
    /// Samples of each corrupted run.
    pub samples: u64,
    /// Name of the model.
    pub model: String,
    /// Arms.
    pub arms: Vec<ArmHead>,
    /// Remarks found without running.
    pub lints: Vec<Lint>,
    /// How the numbers come about.
    pub provenance: Provenance,
}

/// How a request is cut into units.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cuts {
    /// A sweep.
    Sweep(Cut),
    /// Generated text.
    Texts(TextsCut),
}

impl Cuts {
    /// Units of each phase.
    pub fn units(&self) -> [u32; 3] {
        match self {
            Self::Sweep(cut) => cut.units(),
            Self::Texts(cut) => cut.units(),
        }
    }
}

/// How texts are cut into units: fixed when they are submitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextsCut {
    /// Cases.
    pub cases: u32,
    /// Texts of each branch of a case.
    pub samples: u32,
    /// The number of the first.
    pub first_sample: u32,
    /// Texts of each branch in a unit; a case's last may have fewer.
    pub per_unit: u32,
    /// Name of the model.
    pub model: String,
    /// How the numbers come about.
    pub provenance: Provenance,
}

impl TextsCut {
    /// Units of each phase: there are no baselines.
    pub fn units(&self) -> [u32; 3] {
        [0, self.cases * self.parts(), 1]
    }

    fn parts(&self) -> u32 {
        self.samples.div_ceil(self.per_unit)
    }

    /// The case of a unit, and its samples.
    pub fn part(&self, unit: u32) -> (usize, Range<u32>) {
        let first = unit % self.parts() * self.per_unit;
        let end = (first + self.per_unit).min(self.samples);
        ((unit / self.parts()) as usize, self.first_sample + first..self.first_sample + end)
    }

    /// The request of a unit; none if the stored one is no such request any more.
    pub fn body(&self, request: &Value, unit: u32) -> Option<(TextCase, Value)> {
        let (case, samples) = self.part(unit);
        let case = TextCase::all(request).ok()?.into_iter().nth(case)?;
        let mut body = case.body.clone();
        body["samples"] = samples.len().into();
        body["first_sample"] = samples.start.into();
        Some((case, body))
    }
}

impl Cut {
    /// Units of each phase: unpatched runs, cells, result.
    pub fn units(&self) -> [u32; 3] {
        let baselines = (self.cells.len() as u32).div_ceil(self.cases_per_unit);
        let cells = self.cells.iter().map(|cells| cells.div_ceil(self.cells_per_unit)).sum();
        [baselines, cells, 1]
    }

    /// What the result says beside numbers.
    pub fn facts(&self) -> SweepFacts {
        SweepFacts {
            model: self.model.clone(),
            arms: self.arms.clone(),
            cells: self.cells.clone(),
            samples: self.samples,
            sigma: self.shared.sigma,
            lints: self.lints.clone(),
            provenance: self.provenance.clone(),
        }
    }

    /// Cells of all cases.
    pub fn cells_total(&self) -> u64 {
        self.cells.iter().map(|cells| u64::from(*cells)).sum()
    }

    /// The cases of a unit of unpatched runs.
    pub fn cases_of(&self, unit: u32) -> Range<usize> {
        let first = (unit * self.cases_per_unit) as usize;
        first..(first + self.cases_per_unit as usize).min(self.cells.len())
    }

    /// The case and cells of a unit of cells, counted from the first of these.
    pub fn cells_of(&self, unit: u32) -> Option<(usize, Range<usize>)> {
        let mut rest = unit;
        for (case, cells) in self.cells.iter().enumerate() {
            let units = cells.div_ceil(self.cells_per_unit);
            if rest < units {
                let first = rest * self.cells_per_unit;
                return Some((case, first as usize..(first + self.cells_per_unit).min(*cells) as usize));
            }
            rest -= units;
        }
        None
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("BUG: remarks and provenance have string keys and finite numbers")
}
