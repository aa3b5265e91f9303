//! Arms with indices: what patches the cells of a patch, of a trace and of each case of a sweep.

use std::ops::Range;

use super::control::Controls;
use super::facts::Facts;
use super::grid::{Scene, Swept, list};
use super::intervention::template;
use super::knockout;
use super::layout::{Axis, Grid};
use super::lint::Lints;
use super::place::Scope;
use super::prepare::Prepared;
use super::prompts::{Span, TokenRun};
use super::size::{Size, admit};
use super::source_pass::Prelude;
use super::template::{Builder, Template};
use super::token_run::keys;
use crate::model::config::ModelConfig;
use crate::plan::{Plan, RunId};
use crate::spec::experiment::Experiment;
use crate::spec::intervention::{Intervention, SourceSpec};
use crate::spec::named::Named;
use crate::spec::patch::SweepAxis;
use crate::spec::problem::Problems;

/// The runs that arms are between.
pub(super) struct Runs<'r> {
    /// The request that names them.
    pub experiment: &'r Experiment,
    /// Their tokens.
    pub tokens: &'r Named<TokenRun>,
    /// The one that stands for all samples of a corruption, if there is one.
    pub corrupted: Option<&'r str>,
    /// How many samples these are.
    pub samples: u64,
}

/// An arm as a request has it.
pub(super) struct Asked<'s> {
    /// Its name.
    pub name: &'s str,
    /// Pointer to its interventions.
    pub at: String,
    /// Index of the run that is patched.
    pub base: usize,
    /// Index of the run that its cells could at most reach.
    pub reference: Option<usize>,
    /// What is written.
    pub interventions: &'s [Intervention],
    /// Axes along which that is enumerated, if it has them.
    pub sweep: &'s [SweepAxis],
    /// Whether all positions are written together in every cell.
    pub together: bool,
}

/// An arm with indices.
pub(super) struct ArmPlan<'s> {
    /// Its name.
    pub name: &'s str,
    /// Pointer to its interventions.
    pub at: String,
    /// Axes that it has.
    pub sweep: Vec<SweepAxis>,
    /// Their values.
    pub axes: Vec<Axis>,
    /// What is written.
    pub templates: Vec<Template>,
    /// Index of the run that is patched.
    pub base: usize,
    /// Index of the run that its cells could at most reach.
    pub reference: Option<usize>,
    /// Cells of each place, one for each sample of a corruption that it is about.
    pub samples: usize,
    /// Number of tokens of the run that is patched.
    pub len: u32,
    /// Its token span named `subject`.
    pub subject: Option<Range<u32>>,
}

/// Where the cells of arms are built.
pub(super) struct Stage<'s> {
    /// The plan's run of each of the request's runs.
    pub roots: &'s [RunId],
    /// Where each is read, and after them the corrupted run.
    pub reads: &'s [u32],
    /// The corrupted run of each sample.
    pub corrupted: &'s [RunId],
    /// What stands beside each cell.
    pub controls: &'s Controls,
}

impl<'s> ArmPlan<'s> {
    /// Resolves an arm.
    pub(super) fn new(
        asked: &Asked<'s>,
        runs: &Runs<'_>,
        facts: &dyn Facts,
        lints: &mut Lints,
        out: &mut Problems,
    ) -> Option<Self> {
        let &Asked { name, base, reference, interventions, sweep, together, .. } = asked;
        let at = asked.at.clone();
        let (base_name, run) = &runs.tokens.0[base];
        let scope = Scope {
            at: at.clone(),
            base: base_name,
            run,
            interventions,
            sweep,
            experiment: runs.experiment,
            runs: runs.tokens,
            keys: keys(runs.tokens),
        };
        let templates: Vec<Option<Template>> =
            (0..interventions.len()).map(|i| template(i, &scope, facts, lints, out)).collect();
        let templates: Vec<Template> = templates.into_iter().collect::<Option<_>>()?;
        let has = |axis: &SweepAxis| {
            let joint = together && *axis == SweepAxis::Positions;
            !joint && templates.iter().any(|template| list(template, *axis).is_some())
        };
        let sweep: Vec<SweepAxis> = sweep.iter().copied().filter(has).collect();
        let axes = Swept { at: &at, sweep: &sweep }.axes(&templates, out)?;
        let reads_corrupted = interventions.iter().any(|intervention| {
            matches!(intervention.op.source(), Some(SourceSpec::Run { run, .. }) if Some(run.as_str()) == runs.corrupted)
        });
        let drawn = reads_corrupted || runs.corrupted == Some(base_name);
        let (len, subject) = (run.len(), run.spans.get("subject").and_then(Span::range));
        let samples = if drawn { runs.samples as usize } else { 1 };
        Some(Self { name, at, sweep, axes, templates, base, reference, samples, len, subject })
    }

    /// How many cells it has, samples not counted.
    pub(super) fn cells(&self) -> usize {
        self.axes.iter().map(|axis| axis.values.len()).product()
    }

    /// Puts its cells into a plan. `inherited`: what is written in the runs that its base comes from.
    pub(super) fn build(
        &self,
        inherited: &[Template],
        stage: &Stage<'_>,
        plan: &mut Plan,
        prelude: &mut Prelude,
        config: &ModelConfig,
        out: &mut Problems,
    ) -> Option<Grid> {
        let mut grid = self.empty(stage.controls);
        let swept = Swept { at: &self.at, sweep: &self.sweep };
        for cell in 0..self.cells() {
            let chosen = swept.cell(&self.templates, &self.axes, cell);
            if let Some(blind) = knockout::blind(&chosen, inherited, config) {
                blind.report_in(&chosen, &self.at, out);
                return None;
            }
            for sample in 0..self.samples {
                let mut roots = stage.roots.to_vec();
                roots.extend(stage.corrupted.get(sample));
                let mut builder = Builder { config, roots: &roots, prelude };
                let scene = Scene { roots: &roots, reads: stage.reads, base: self.base };
                scene.add(plan, &chosen, cell, &mut grid, stage.controls, &mut builder);
            }
        }
        Some(grid)
    }

    /// Its grid without cells.
    pub(super) fn empty(&self, controls: &Controls) -> Grid {
        let (axes, samples) = (self.axes.clone(), self.samples);
        Grid { axes, samples, readouts: vec![], controls: controls.empty(), trivial: vec![] }
    }
}

/// What is built beside the cells of some arms.
pub(super) struct Beside {
    /// Pointer to what makes the arms as large as they are.
    pub at: &'static str,
    /// How often each cell is computed, beside its samples: itself and its controls.
    pub copies: u64,
    /// Readouts of runs that are not patched.
    pub unpatched: u64,
    /// Most probable tokens of each readout.
    pub topk: u32,
}

/// Checks what arms hold together, and reads what is stored for them.
pub(super) fn admit_all(
    arms: &mut [ArmPlan<'_>],
    beside: &Beside,
    prepared: &mut Prepared,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<()> {
    let mut size = Size { cells: 0, edits: 0, positions: 0, at: beside.at };
    for arm in &*arms {
        knockout::lint(&arm.templates, &arm.at, &prepared.measures, &mut prepared.lints);
        let swept = Swept { at: &arm.at, sweep: &arm.sweep };
        let one = swept.size(&arm.templates, &arm.axes, beside.copies * arm.samples as u64, facts.config());
        swept.check_constants(&arm.templates, one.cells, facts, out);
        size.cells = size.cells.saturating_add(one.cells);
        size.edits = size.edits.saturating_add(one.edits);
        size.positions = size.positions.saturating_add(one.positions);
    }
    admit(&size, beside.unpatched, prepared, beside.topk, facts.limits(), out);
    if !out.is_empty() {
        return None;
    }
    for arm in arms {
        for (i, template) in arm.templates.iter_mut().enumerate() {
            template.load(&format!("{}/{i}", arm.at), &arm.sweep, facts.config(), out);
        }
    }
    out.is_empty().then_some(())
}

/// A pointer into the arms of a case as traces write them: they name a site and what is frozen above it, not interventions; layers are
/// those of all arms, and so are positions, if an arm has none of its own (`joint`, by its escaped name).
pub(super) fn as_restored(pointer: &str, joint: impl Fn(&str) -> bool) -> String {
    let mut parts = pointer.splitn(6, '/').skip(1);
    let rest = |rest: Option<&str>| rest.map(|rest| format!("/{rest}")).unwrap_or_default();
    match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("sweep"), ..) => "/arms".to_owned(),
        (Some("arms"), Some(_), Some("0"), Some("layers"), more) => format!("/layers{}", rest(more)),
        (Some("arms"), Some(arm), Some("0"), Some("positions"), more) if !joint(arm) => {
            format!("/positions{}", rest(more))
        }
        (Some("arms"), Some(arm), Some("0"), Some(field), more) => {
            format!("/arms/{arm}/{field}{}", rest(more))
        }
        (Some("arms"), Some(arm), Some(_), ..) => format!("/arms/{arm}/freeze"),
        _ => pointer.to_owned(),
    }
}
