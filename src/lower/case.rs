//! One case to a plan: its runs, one of them perhaps corrupted, and the arms that patch them cell by cell. A patch is one case
//! with one arm, a trace of one prompt one case; a sweep has many, and so has a trace with `cases`, which is one.

use serde::Serialize;

use super::arms::{ArmPlan, Asked, Beside, Runs, Stage, admit_all};
use super::control::Controls;
use super::corrupt;
use super::corrupted::Corrupted;
use super::derive;
use super::facts::Facts;
use super::grid::unswept;
use super::knockout;
use super::layout::{ArmLayout, CaseLayout, Lowered};
use super::prepare::{Prepared, lint_effect_metrics, prepare};
use super::prompts::{Span, TokenRun, find};
use super::source::ValuesPlan;
use super::start::{Started, start, twins};
use super::tautology::judge;
use super::template::{OpPlan, Template};
use crate::plan::RunId;
use crate::spec::corruption::Corruption;
use crate::spec::derive::Derive;
use crate::spec::experiment::Experiment;
use crate::spec::named::Named;
use crate::spec::patch::{Control, SweepAxis};
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::{Prompt, PromptText};
use crate::spec::read::escape;
use crate::spec::sweep::SweepArm;

/// A case as a request has it.
pub(super) struct Case<'s, S> {
    /// The request, which the plan's fingerprint is of.
    pub spec: &'s S,
    /// Runs, targets, metrics, readouts.
    pub experiment: &'s Experiment,
    /// Name of the run that corruption starts from; without one, of the run whose answer is judged.
    pub clean: &'s str,
    /// How that is corrupted.
    pub corrupt: Option<&'s Corruption>,
    /// Name of the corrupted run, which no other run has.
    pub corrupted: &'s str,
    /// Arms.
    pub arms: &'s Named<SweepArm>,
    /// How the request writes them.
    pub written: Written,
    /// Name of the run that counts as 0 where an arm's reference counts as 1, if that is not the one that is patched.
    pub zero: Option<&'s str>,
    /// Axes along which arms are enumerated.
    pub sweep: &'s [SweepAxis],
    /// What is derived from the cells.
    pub derive: &'s [Derive],
    /// Controls beside each cell.
    pub controls: &'s [Control],
    /// Which run's most probable token `top1_flip` compares with.
    pub answer: Answer,
    /// Whether the clean run is read a second time.
    pub twin: bool,
    /// What is built of it.
    pub part: Part,
}

/// How a request writes its arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// By name, under `/arms`.
    Arms,
    /// One alone, whose parts stand in the request itself: those of a patch.
    Interventions,
}

impl Written {
    /// Pointer to an arm's interventions.
    fn interventions(self, arm: &str) -> String {
        match self {
            Self::Arms => format!("/arms/{}", escape(arm)),
            Self::Interventions => "/interventions".to_owned(),
        }
    }

    /// Pointers to the run that is patched, the one that counts as 1 and the one that counts as 0.
    fn ends(self, at: &str) -> [&str; 3] {
        match self {
            Self::Arms => [at; 3],
            Self::Interventions => ["/base", "/normalise/one", "/normalise/zero"],
        }
    }

    /// What has axes, and a pointer to what makes that as large as it is.
    const fn sized(self) -> (&'static str, &'static str) {
        match self {
            Self::Arms => ("arm", "/arms"),
            Self::Interventions => ("intervention", "/sweep"),
        }
    }
}

/// Whose most probable token others are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The clean run's.
    Clean,
    /// That of the run that is patched.
    Base,
}

/// Which part of a case is lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its unpatched runs; the cells are checked only.
    Baselines,
    /// All of it.
    Whole,
}

impl<S: Serialize> Case<'_, S> {
    /// The case's plan.
    pub(super) fn lower(&self, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<CaseLayout>> {
        let experiment = self.experiment;
        let mut prepared = prepare(experiment, facts, out);
        lint_effect_metrics(&mut prepared);
        let clean_run = self.clean_run(&prepared.runs, out)?;
        let clean = prepared.runs.0[clean_run].1.clone();
        let samples = match self.corrupt {
            Some(given) => corrupt::samples(&given.method, facts, out)?,
            None => 1,
        };
        let arms = self.arms(&clean, samples, facts, &mut prepared, out);
        let corrupting = match self.corrupt {
            Some(given) => {
                let found = corrupt::resolve(given, experiment, &clean, samples, facts, &mut prepared, out);
                Some((given, found?))
            }
            None => None,
        };
        let mut arms = arms?;
        self.check_controls(&arms, out);
        let (copies, unpatched) = (1 + self.controls.len() as u64, experiment.runs.len() as u64 + samples);
        let at = self.written.sized().1;
        let beside = Beside { at, copies, unpatched, topk: experiment.read.topk };
        admit_all(&mut arms, &beside, &mut prepared, facts, out)?;

        // The corrupted run comes from the clean one.
        let line = |base: usize| if base < prepared.runs.len() { base } else { clean_run };
        let inherited = |arm: &ArmPlan<'_>| derive::inherited(&prepared.derived, line(arm.base));
        let inherited: Vec<Vec<Template>> = arms.iter().map(inherited).collect();
        let Started { mut plan, roots, mut prelude, mut common } =
            start(self.spec, experiment, prepared, facts);
        let readouts: Vec<(RunId, usize)> =
            roots.iter().zip(&common.runs.0).map(|(root, (_, (_, readout)))| (*root, *readout)).collect();
        let sigma = corrupting.as_ref().and_then(|(_, resolved)| resolved.sigma());
        let corrupted = corrupting.map(|(given, resolved)| {
            resolved.build(&given.method, &clean, roots[clean_run], &readouts, &mut plan, facts)
        });
        let Corrupted { runs, positions, replaced } =
            corrupted.unwrap_or(Corrupted { runs: vec![], positions: vec![], replaced: vec![] });
        let (corrupted_runs, corrupted): (Vec<RunId>, Vec<usize>) = runs.into_iter().unzip();
        let mut reads: Vec<u32> = common.runs.0.iter().map(|(_, (run, _))| run.read).collect();
        reads.push(clean.read);
        let controls = Controls::new(self.controls, &common.runs, &roots, &mut plan, facts);
        let stage = Stage { roots: &roots, reads: &reads, corrupted: &corrupted_runs, controls: &controls };
        let mut built = Named::default();
        for (arm, inherited) in arms.iter().zip(&inherited) {
            let grid = if self.part == Part::Whole {
                arm.build(inherited, &stage, &mut plan, &mut prelude, facts.config(), out)?
            } else {
                arm.empty(&controls)
            };
            let all = |run: usize| match readouts.get(run) {
                Some((_, readout)) => vec![*readout],
                None => corrupted.clone(),
            };
            let layout = ArmLayout {
                base: all(arm.base),
                answer: all(if self.answer == Answer::Clean { clean_run } else { arm.base }),
                reference: arm.reference.map(all),
                zero: self.zero.and_then(|zero| common.runs.get(zero)).map(|(_, readout)| *readout),
                len: arm.len,
                subject: arm.subject.clone(),
                grid,
            };
            built.0.push((arm.name.to_owned(), layout));
        }
        if self.twin {
            twins(&mut plan, &mut common, clean_run, roots[clean_run]);
        }
        for (name, arm) in built.iter() {
            let at = self.written.interventions(name);
            judge(&at, &arm.grid.trivial, experiment.allow_trivial, &mut common.lints, out);
        }
        let tokens = corrupted_runs.first().map(|run| plan.run(*run).tokens.to_vec());
        let layout = CaseLayout {
            says: Derive::of_answers(self.derive),
            clean_run,
            clean: readouts[clean_run].1,
            corrupted,
            corrupted_tokens: tokens.unwrap_or_default(),
            corrupted_positions: positions,
            replaced,
            sigma,
            subject: clean.spans.get("subject").and_then(Span::range),
            arms: built,
            common,
        };
        Some(Lowered { prelude: prelude.into_plan(), plan, layout })
    }

    /// Index of the run that corruption starts from; without one of that name, of the first arm's reference.
    fn clean_run(&self, runs: &Named<TokenRun>, out: &mut Problems) -> Option<usize> {
        if let Some(corrupt) = self.corrupt {
            find(&corrupt.from, "/corrupt/from", self.experiment, runs, out)?;
            return runs.place(&corrupt.from);
        }
        let reference = self.arms.iter().find_map(|(_, arm)| arm.reference.as_deref());
        runs.place(self.clean).or_else(|| runs.place(reference?)).or((!runs.is_empty()).then_some(0))
    }

    fn arms(
        &self,
        clean: &TokenRun,
        samples: u64,
        facts: &dyn Facts,
        prepared: &mut Prepared,
        out: &mut Problems,
    ) -> Option<Vec<ArmPlan<'_>>> {
        let (mut experiment, mut tokens) = (self.experiment.clone(), prepared.runs.clone());
        if self.corrupt.is_some() {
            // As a run derived from the clean one it can be read where it is written, and nowhere else.
            let text = PromptText::Derived { from: self.clean.to_owned(), interventions: Vec::new() };
            let prompt = Prompt { text, spans: Named::default(), bos: None };
            experiment.runs.0.push((self.corrupted.to_owned(), prompt));
            tokens.0.push((self.corrupted.to_owned(), clean.clone()));
        }
        let corrupted = self.corrupt.map(|_| self.corrupted);
        let runs = Runs { experiment: &experiment, tokens: &tokens, corrupted, samples };
        let mut lints = std::mem::take(&mut prepared.lints);
        let arms = self.arms.iter().map(|(name, arm)| {
            let at = self.written.interventions(name);
            let [of_base, of_one, of_zero] = self.written.ends(&at);
            let mut place = |run: Option<&str>, at: &str| match run {
                Some(run) => {
                    find(run, at, &experiment, &tokens, out).and_then(|_| tokens.place(run)).map(Some)
                }
                None => Some(None),
            };
            let (base, reference) =
                (place(Some(&arm.base), of_base), place(arm.reference.as_deref(), of_one));
            let zero = place(self.zero, of_zero);
            let (base, interventions) = (base??, &arm.interventions[..]);
            let (sweep, together) = (self.sweep, arm.together);
            let of = reference.flatten();
            let asked = Asked { name, at: at.clone(), base, reference: of, interventions, sweep, together };
            let plan = ArmPlan::new(&asked, &runs, facts, &mut lints, out);
            reference.and(zero).and(plan)
        });
        let arms: Vec<Option<ArmPlan<'_>>> = arms.collect();
        prepared.lints = lints;
        let arms: Vec<ArmPlan<'_>> = arms.into_iter().collect::<Option<_>>()?;
        for (i, axis) in self.sweep.iter().enumerate() {
            if arms.iter().all(|arm| !arm.sweep.contains(axis)) {
                let of = self.written.sized().0;
                let detail = format!("no {of} has {}", axis.name());
                out.push(format!("/sweep/{i}"), code::CONFLICT, detail, unswept(*axis, of));
            }
        }
        Some(arms)
    }

    /// Refuses controls that would only repeat an arm: those of positions and prompts where it reads no run, and of vectors
    /// where no row is moved.
    fn check_controls(&self, arms: &[ArmPlan<'_>], out: &mut Problems) {
        for (i, control) in self.controls.iter().enumerate() {
            let repeats = |arm: &ArmPlan<'_>| {
                let mut own = arm.templates.iter().filter(|template| !template.frozen);
                let reads =
                    |t: &Template| matches!(&t.op, OpPlan::Write { values: ValuesPlan::Run { .. }, .. });
                let in_place = |t: &Template| *control == Control::RandomPosition && t.site.is_over_keys();
                match control {
                    Control::SelfPatch => false,
                    Control::RandomVector => {
                        arm.templates.iter().any(knockout::cuts) && own.all(knockout::cuts)
                    }
                    Control::RandomPosition | Control::UnrelatedPrompt => {
                        !own.any(|t| reads(t) && !in_place(t))
                    }
                }
            };
            let Some(arm) = arms.iter().find(|arm| repeats(arm)) else { continue };
            let (detail, fix) = if arm.templates.iter().any(knockout::cuts) {
                (
                    "an edge that is cut reads no run and moves no row: the control would repeat it",
                    "cut edges from other keys to compare with, in an arm of its own, or leave the control out",
                )
            } else {
                (
                    "no intervention reads a run at the place that it writes: nothing would change",
                    "use random_vector, which suits every operation, or leave the control out",
                )
            };
            out.push(format!("/controls/{i}"), code::CONFLICT, detail, fix);
        }
    }
}
