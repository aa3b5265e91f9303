//! Generated text to a plan of its prompt and the edits of each step: a branch for every list of interventions, and what it writes
//! at the steps that follow.

#![allow(
    clippy::needless_for_each,
    clippy::manual_let_else,
    clippy::option_option,
    reason = "absent, null and given are three things"
)]

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::derive;
use super::facts::Facts;
use super::intervention::template;
use super::layout::Common;
use super::lint::Lints;
use super::place::Scope;
use super::prepare::prepare;
use super::prompts::{TokenRun, find};
use super::request::checked;
use super::start::{Started, start};
use super::step_reads::{FirstReads, StepReads};
use super::template::{Builder, Template};
use super::token_run::keys;
use crate::plan::cone::{Cones, Stage};
use crate::plan::{Address, Capture, Edit, Kept, Op, Plan, RunId};
use crate::spec::coef::Coef;
use crate::spec::experiment::Experiment;
use crate::spec::generate::GenerateSpec;
use crate::spec::intervention::{Intervention, OpSpec, SourceSpec};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::PromptText;
use crate::spec::read::escape;
use crate::spec::select::{Positions, Steps};
use crate::spec::site::Site;

/// A request for generated text, with indices.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The request.
    pub spec: GenerateSpec,
    /// What is computed before anything else; see [`Generation::fill`].
    pub prelude: Option<Plan>,
    /// The prompt: every run, every branch, and step 0 of each.
    pub plan: Plan,
    /// The run that is continued.
    pub base: RunId,
    /// Its tokens.
    pub prompt: u32,
    /// The branches, in the order of the request.
    pub branches: Vec<Branch>,
    /// The branch that texts are scored under.
    pub compare: Option<usize>,
    /// What is read of every text beside its distributions.
    pub reads: StepReads,
    /// Of each token of the prompt but the first, its place among the plan's targets; none if they are not scored.
    pub prompt_targets: Vec<usize>,
    /// How many of these every step is scored for, too.
    pub step_targets: usize,
    /// Metrics, targets, lints.
    pub common: Common,
}

/// A way to continue the prompt.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// Its run, in the plan of the prompt.
    pub run: RunId,
    /// The readout of its step 0.
    pub readout: usize,
    /// The capture of that step's logits, if they are drawn from.
    pub logits: Option<usize>,
    /// What else is read of it.
    pub first_reads: FirstReads,
    /// Readouts of the prompt's positions but the last.
    pub prompt_reads: Range<usize>,
    /// The first position with keys of its own.
    pub first: u32,
    /// What it writes at steps.
    writes: Vec<StepWrite>,
}

/// An intervention at steps.
#[derive(Debug, Clone)]
struct StepWrite {
    steps: Vec<Steps>,
    /// The coefficient, where it follows the step.
    coef: Option<Coef>,
    /// Of position 0; a run that is read is a branch.
    edits: Vec<Edit>,
}

impl StepWrite {
    fn at(&self, step: u32) -> Vec<Edit> {
        if !self.steps.iter().any(|steps| steps.contains(step)) {
            return Vec::new();
        }
        let Some(by_step) = &self.coef else { return self.edits.clone() };
        let Some(now) = by_step.at(step) else { return Vec::new() };
        let mut edits = self.edits.clone();
        for edit in &mut edits {
            if let Op::Add { coef, .. } = &mut edit.op {
                *coef = now as f32;
            }
        }
        edits
    }
}

impl Branch {
    /// What is written at a step from 1 on: at position 0; a run that is read is a branch at the same step.
    pub fn edits(&self, step: u32) -> Vec<Edit> {
        self.writes.iter().flat_map(|write| write.at(step)).collect()
    }

    /// Branches that it reads at some step.
    pub fn reads(&self) -> BTreeSet<usize> {
        let edits = self.writes.iter().flat_map(|write| &write.edits);
        edits.filter_map(|edit| Some(edit.op.run_read()?.0.0 as usize)).collect()
    }

    /// Whether it writes anything at steps from 1 on.
    pub fn writes_at_steps(&self) -> bool {
        !self.writes.is_empty()
    }
}

impl Generation {
    /// Reads and lowers a body.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn of(body: &Value, facts: &dyn Facts) -> Result<Generation, Problems> {
        let read = |body: &Value, out: &mut Problems| {
            let spec = Arc::new(GenerateSpec::read(body, out)?);
            Some((Some(Arc::clone(&spec)), spec))
        };
        let restore = |spec: &Option<Arc<GenerateSpec>>, pointer: &str| {
            spec.as_ref().map_or_else(|| pointer.to_owned(), |spec| spec.restore(pointer))
        };
        let (mut generation, spec) = checked(body, read, restore, |spec, out| lower(&spec, facts, out))?;
        let lints = std::mem::take(&mut generation.common.lints);
        generation.common.lints = lints.renamed(|pointer| restore(&spec, pointer)).cured(body);
        if generation.spec.strict {
            let refused = generation.common.lints.refused();
            if !refused.is_empty() {
                return Err(refused);
            }
        }
        Ok(generation)
    }

    /// Puts the numbers that the prelude captured where they are read.
    pub fn fill(&mut self, captures: &[Vec<f32>]) {
        self.plan.fill(captures);
        let writes = self.branches.iter_mut().flat_map(|branch| &mut branch.writes);
        crate::plan::fill(writes.flat_map(|write| &mut write.edits), captures);
    }

    /// The plan of the prompt, which keeps the keys of the base and of each branch: `slots` of the base's positions, and of each
    /// branch's own.
    #[must_use]
    pub fn prefill(&self, base: &[u32], own: &[&[u32]]) -> Plan {
        let mut plan = self.plan.clone();
        plan.kept.push(Kept { run: self.base, first: 0, slots: base.to_vec() });
        for (branch, slots) in self.branches.iter().zip(own) {
            plan.kept.push(Kept { run: branch.run, first: branch.first, slots: slots.to_vec() });
        }
        plan
    }

    /// Adds a text as far as it is written to a plan that began as [`Generation::prefill`]: what its rows keep is what its prompt and its
    /// steps kept. `written`: the tokens whose rows were computed. `read`: for each branch, the run of the same sample that it reads,
    /// if that is among those added.
    pub fn resume(
        &self,
        plan: &mut Plan,
        branch: usize,
        written: &[u32],
        slots: &[u32],
        read: impl Fn(usize) -> Option<RunId>,
    ) -> RunId {
        let branch = &self.branches[branch];
        let prompt = &self.plan.run(self.base).tokens;
        let root = plan.root(prompt.iter().chain(written).copied().collect());
        plan.runs[root.0 as usize].prompt = self.prompt;
        // Whatever the prompt's run inherits, it has as its own.
        let line = std::iter::successors(Some(branch.run), |run| self.plan.run(*run).parent);
        let line: Vec<RunId> = line.collect();
        let mut edits: Vec<Edit> =
            line.iter().rev().flat_map(|run| self.plan.run(*run).edits.iter().cloned()).collect();
        for (step, position) in (1..).zip(self.prompt..self.prompt + written.len() as u32) {
            for mut edit in branch.edits(step) {
                edit.positions = vec![position];
                if let Some((other, _)) = edit.op.run_read() {
                    // The other text has the same prompt, so that the same step is the same position.
                    let Some(run) = read(other.0 as usize) else { continue };
                    edit.op.read_run(run);
                    if let Some((_, positions)) = edit.op.run_read_mut() {
                        positions[0] = position;
                    }
                }
                edits.push(edit);
            }
        }
        let run = plan.branch(root, edits);
        let first = branch.first;
        plan.kept.push(Kept { run, first, slots: slots[first as usize..].to_vec() });
        plan.read(run, self.prompt + written.len() as u32 - 1);
        run
    }
}

fn lower(spec: &GenerateSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Generation> {
    let experiment = spec.experiment();
    let mut prepared = prepare(&experiment, facts, out);
    check_served(spec, out);
    let reads = StepReads::of(spec, facts, out);
    let base = find(&spec.base, "/base", &experiment, &prepared.runs, out)?.clone();
    let base_index = prepared.runs.place(&spec.base)?;
    let order = order(&spec.branches, out)?;
    let mut lints = std::mem::take(&mut prepared.lints);
    let of = Of { spec, experiment: &experiment, runs: &prepared.runs, base: &base, facts };
    let lowered: Vec<Option<Lowered>> =
        spec.branches.iter().map(|(name, list)| of.branch(name, list, &mut lints, out)).collect();
    remark(spec, &base, facts, &mut lints);
    check_prompt(spec, &base, facts, out);
    prepared.lints = lints;
    let lowered: Vec<Lowered> = lowered.into_iter().collect::<Option<_>>().filter(|_| out.is_empty())?;

    let Started { mut plan, roots, mut prelude, common } = start(spec, &experiment, prepared, facts);
    let config = facts.config();
    let layers = config.num_layers as u32;
    let base_run = roots[base_index];
    let last = base.len() - 1;
    let mut runs: Vec<Option<RunId>> = vec![None; lowered.len()];
    for &index in &order {
        let mut builder = Builder { config, roots: &roots, prelude: &mut prelude };
        let mut edits = derive::edits(&lowered[index].prompt, &mut builder);
        for write in &lowered[index].zero {
            let mut zero = write.template.edits(&mut builder);
            if let Some(branch) = write.branch {
                zero.iter_mut().for_each(|edit| edit.op.read_run(runs[branch].unwrap_or(base_run)));
            }
            edits.extend(zero);
        }
        let run = plan.branch(base_run, edits);
        plan.set_context(run, plan.run(base_run).context);
        runs[index] = Some(run);
    }
    let step_targets = plan.scoring.targets.len();
    let prompt_targets =
        if spec.read.prompt_logprobs { base.places(&mut plan.scoring.targets) } else { Vec::new() };
    let compare = spec.compare_with.as_ref().and_then(|name| spec.branches.place(name));
    let drawn = spec.sampling.temperature > 0.0 || !spec.sampling.logit_bias.is_empty();
    let mut branches = Vec::with_capacity(lowered.len());
    for ((name, _), (lowered, run)) in spec.branches.iter().zip(lowered.into_iter().zip(runs)) {
        let run = run?;
        let readout = plan.read(run, last);
        let logits = drawn.then(|| {
            let at = Address { layer: layers, site: Site::Logits };
            plan.captures.push(Capture { run, at, positions: vec![last] });
            plan.captures.len() - 1
        });
        let first_reads = reads.add(&mut plan, run, last);
        let first = plan.readouts.len();
        for position in 0..last.min(prompt_targets.len() as u32) {
            plan.read(run, position);
        }
        let prompt_reads = first..plan.readouts.len();
        let mut builder = Builder { config, roots: &roots, prelude: &mut prelude };
        let mut write = |write: AtSteps| {
            let mut edits = write.template.edits(&mut builder);
            for edit in &mut edits {
                edit.positions = vec![0];
                if let Some(branch) = write.branch {
                    edit.op.read_run(RunId(branch as u32));
                    if let Some((_, positions)) = edit.op.run_read_mut() {
                        positions[0] = 0;
                    }
                }
            }
            StepWrite { steps: write.steps, coef: write.coef, edits }
        };
        let writes = lowered.steps.into_iter().map(&mut write).collect();
        let name = name.to_owned();
        branches.push(Branch { name, run, readout, logits, first_reads, prompt_reads, first: 0, writes });
    }
    if let Some(compare) = compare {
        plan.scoring.kl_refs = vec![branches[compare].readout as u32];
    }
    // Keys are those of the base until the last layer's attention has seen others.
    let cones = Cones::new(&plan, layers);
    let seen = Stage::attention(layers - 1);
    for branch in &mut branches {
        let own = |position: &u32| cones.birth(branch.run, *position) < seen;
        branch.first = (0..base.len()).find(own).unwrap_or(base.len());
    }
    Some(Generation {
        spec: spec.clone(),
        prelude: prelude.into_plan(),
        plan,
        base: base_run,
        prompt: base.len(),
        branches,
        compare,
        reads,
        prompt_targets,
        step_targets,
        common,
    })
}

/// Refuses scores of more prompt than are returned of anything else.
fn check_prompt(spec: &GenerateSpec, base: &TokenRun, facts: &dyn Facts, out: &mut Problems) {
    let (n, branches) = (u64::from(base.len()), spec.branches.len() as u64);
    let numbers = n * branches * (n + u64::from(spec.most_probable()));
    let limit = facts.limits().capture_elements;
    if spec.read.prompt_logprobs && numbers > limit {
        let detail = format!("up to {numbers} scores of the prompt's tokens, the limit is {limit}");
        out.push("/read/prompt_logprobs", code::LIMIT, detail, "leave it out, or shorten the prompt");
    }
}

/// Remarks on prompt and samples.
fn remark(spec: &GenerateSpec, base: &TokenRun, facts: &dyn Facts, lints: &mut Lints) {
    let words = facts.words();
    let is_text = spec.runs.get(&spec.base).is_some_and(|run| matches!(run.text, PromptText::Prompt(_)));
    // Whoever wrote the template's tokens out by hand wrote those that end a turn.
    let by_hand = base.ids.iter().any(|id| words.ends().contains(id));
    if is_text && words.chat().is_some() && !by_hand {
        let detail =
            "the model was trained to answer conversations, and continues this text as it stands".to_owned();
        let fix = "send {\"messages\": [{\"role\": \"user\", \"content\": …}]} to have it answer";
        lints.info("NO_TEMPLATE", format!("/runs/{}/prompt", escape(&spec.base)), detail, fix);
    }
    if spec.sampling.temperature > 0.0 && spec.samples == 1 && spec.branches.len() > 1 {
        let detail = "one drawn text of each branch: how they differ is also chance".to_owned();
        lints.info(
            "SINGLE_SAMPLE",
            "/samples",
            detail,
            "ask for more `samples`; they share their random numbers",
        );
    }
}

/// Refuses what is not read of texts yet.
fn check_served(spec: &GenerateSpec, out: &mut Problems) {
    let mut refuse = |at: &str, detail: &str, fix: &str| out.push(at, code::NOT_SUPPORTED, detail, fix);
    let again = "send prompt and text to /v1/run as `tokens`, which gives the same numbers";
    if !spec.controls.is_empty() {
        refuse("/controls", "texts are not computed a second time", again);
    }
}

/// What a branch writes, with indices.
struct Lowered {
    /// Positions of the prompt.
    prompt: Vec<Template>,
    /// The prompt's last position, as step 0.
    zero: Vec<AtSteps>,
    /// Steps.
    steps: Vec<AtSteps>,
}

/// An intervention at steps, resolved as if it were one of the prompt's last position.
struct AtSteps {
    steps: Vec<Steps>,
    coef: Option<Coef>,
    template: Template,
    /// The branch that it reads.
    branch: Option<usize>,
}

/// What branches are lowered with.
struct Of<'o> {
    spec: &'o GenerateSpec,
    experiment: &'o Experiment,
    runs: &'o Named<TokenRun>,
    base: &'o TokenRun,
    facts: &'o dyn Facts,
}

impl Of<'_> {
    fn branch(
        &self,
        name: &str,
        list: &[Intervention],
        lints: &mut Lints,
        out: &mut Problems,
    ) -> Option<Lowered> {
        let at = format!("/branches/{}", escape(name));
        let mut lowered = Lowered { prompt: Vec::new(), zero: Vec::new(), steps: Vec::new() };
        let mut complete = true;
        for (i, one) in list.iter().enumerate() {
            let (prompt, steps) = one.positions.parts();
            let mut covered = false;
            for part in prompt {
                let positions = part.clone();
                let Some(template) =
                    self.template(&at, list, i, Intervention { positions, ..one.clone() }, lints, out)
                else {
                    complete = false;
                    continue;
                };
                covered |= template.positions.contains(&(self.base.len() - 1));
                lowered.prompt.push(template);
            }
            if steps.is_empty() {
                continue;
            }
            let Some(write) = self.at_steps(&at, list, i, &steps, out) else {
                complete = false;
                continue;
            };
            // Step 0 is the prompt's last position, and written once.
            if steps.iter().any(|steps| steps.contains(0)) {
                if !covered {
                    lowered.zero.extend(self.zero(&write, &at, list, i, out));
                }
            } else if !covered {
                let detail =
                    "the first new token is predicted by the prompt's last position, which is not written";
                let fix = "write {\"steps\": \"all\"}, if that token should be steered too";
                lints.info("STEP_ZERO_LEFT_OUT", format!("{at}/{i}/positions"), detail.to_owned(), fix);
            }
            lowered.steps.push(write);
        }
        complete.then_some(lowered)
    }

    /// Resolves one intervention in place of the `i`th.
    fn template(
        &self,
        at: &str,
        list: &[Intervention],
        i: usize,
        one: Intervention,
        lints: &mut Lints,
        out: &mut Problems,
    ) -> Option<Template> {
        let mut interventions = list.to_vec();
        interventions[i] = one;
        let scope = Scope {
            at: at.to_owned(),
            base: &self.spec.base,
            run: self.base,
            interventions: &interventions,
            sweep: &[],
            experiment: self.experiment,
            runs: self.runs,
            keys: keys(self.runs),
        };
        let mut template = template(i, &scope, self.facts, lints, out)?;
        template.load(&format!("{at}/{i}"), &[], self.facts.config(), out);
        Some(template)
    }

    /// An intervention at steps.
    fn at_steps(
        &self,
        at: &str,
        list: &[Intervention],
        i: usize,
        steps: &[&Steps],
        out: &mut Problems,
    ) -> Option<AtSteps> {
        let mut one = list[i].clone();
        let here = format!("{at}/{i}");
        check_at_steps(&one, &here, out)?;
        one.positions = Positions::LAST;
        let mut coef = None;
        if let OpSpec::Add { coef: given, .. } = &mut one.op {
            coef = given.constant().is_none().then(|| given.clone());
            if coef.is_some() {
                *given = Coef::ONE;
            }
        }
        let branch = self.read_as_run(&mut one, &here, out)?;
        // What is said of a prompt's position need not be true of steps.
        let template = self.template(at, list, i, one, &mut Lints::default(), out)?;
        let steps = steps.iter().map(|steps| (*steps).clone()).collect();
        Some(AtSteps { steps, coef, template, branch })
    }

    /// Makes the source of an intervention one that does not change from step to step: a row that is captured beforehand, or the place of
    /// another branch, which is returned.
    fn read_as_run(&self, one: &mut Intervention, at: &str, out: &mut Problems) -> Option<Option<usize>> {
        let written = one.site;
        let source = match &mut one.op {
            OpSpec::Replace { source }
            | OpSpec::Add { source, .. }
            | OpSpec::Mean { source }
            | OpSpec::Subspace { source, .. } => source,
            _ => return Some(None),
        };
        let need_positions = |positions: &Option<Positions>, out: &mut Problems| {
            if positions.is_none() {
                let detail = "a prompt has no steps, and which of its positions is read is not said";
                let fix = "write `positions` in the source, as \"last\"";
                out.push(format!("{at}/source/positions"), code::MISSING, detail, fix);
            }
            positions.as_ref().map(|_| ())
        };
        match source {
            SourceSpec::Run { positions, site, .. } => {
                need_positions(positions, out)?;
                site.get_or_insert(written);
                Some(None)
            }
            SourceSpec::MeanOf { positions, .. } => {
                need_positions(positions, out)?;
                Some(None)
            }
            SourceSpec::Branch { branch, site, layer } => {
                if layer.is_some() || site.is_some_and(|site| site != written) {
                    let detail = "another branch is read at the site and layer that are written";
                    let fix = "leave out `site` and `layer`";
                    out.push(format!("{at}/source"), code::NOT_SUPPORTED, detail, fix);
                    return None;
                }
                let place = self.spec.branches.place(branch)?;
                let run = self.spec.base.clone();
                *source = SourceSpec::Run { run, positions: Some(Positions::LAST), site: None, layer: None };
                Some(Some(place))
            }
            SourceSpec::Activation { .. } | SourceSpec::Vector { .. } => Some(None),
        }
    }

    /// The same as it is written at step 0.
    fn zero(
        &self,
        write: &AtSteps,
        at: &str,
        list: &[Intervention],
        i: usize,
        out: &mut Problems,
    ) -> Option<AtSteps> {
        let mut template = write.template.clone();
        if let Some(coef) = &write.coef {
            let mut one = list[i].clone();
            let now = coef.at(0)?;
            let OpSpec::Add { coef, .. } = &mut one.op else { return None };
            *coef = Coef::Constant(now);
            one.positions = Positions::LAST;
            self.read_as_run(&mut one, &format!("{at}/{i}"), out)?;
            template = self.template(at, list, i, one, &mut Lints::default(), out)?;
        }
        Some(AtSteps { steps: Vec::new(), coef: None, template, branch: write.branch })
    }
}

/// Refuses what has no meaning at steps, or none yet.
fn check_at_steps(one: &Intervention, at: &str, out: &mut Problems) -> Option<()> {
    let (field, detail, fix) = if one.site.is_over_keys() {
        let detail = format!("{} has a column for each key, of which there are more at every step", one.site);
        ("site", detail, "write q, k or v, or positions of the prompt")
    } else {
        match &one.op {
            OpSpec::Freeze { .. } => {
                let detail = "a text has no run whose values could be held at steps".to_owned();
                ("op", detail, "use replace with {\"branch\": name} as the source")
            }
            OpSpec::Resample { .. } => {
                let detail = "one run is drawn for all steps".to_owned();
                ("op", detail, "use replace with {\"run\": name, \"positions\": \"last\"} as the source")
            }
            OpSpec::Noise { .. } => {
                let detail = "noise is not drawn at steps".to_owned();
                ("op", detail, "add a vector, or name positions of the prompt")
            }
            OpSpec::Knockout { .. } => unreachable!("BUG: edges are cut at a site over keys"),
            _ => return Some(()),
        }
    };
    out.push(format!("{at}/{field}"), code::NOT_SUPPORTED, detail, fix);
    None
}

/// The branches, each after those that it reads.
fn order(branches: &Named<Vec<Intervention>>, out: &mut Problems) -> Option<Vec<usize>> {
    let reads = |list: &[Intervention]| -> Vec<usize> {
        let read = list.iter().filter_map(|one| match one.op.source() {
            Some(SourceSpec::Branch { branch, .. }) => branches.place(branch),
            _ => None,
        });
        read.collect()
    };
    let all: Vec<Vec<usize>> = branches.iter().map(|(_, list)| reads(list)).collect();
    let mut order: Vec<usize> = Vec::with_capacity(all.len());
    while order.len() < all.len() {
        let ready = |index: &usize| !order.contains(index) && all[*index].iter().all(|r| order.contains(r));
        let Some(next) = (0..all.len()).find(ready) else {
            let rest: Vec<&str> = branches
                .names()
                .into_iter()
                .enumerate()
                .filter(|(i, _)| !order.contains(i))
                .map(|(_, name)| name)
                .collect();
            let detail = format!("{} read one another", rest.join(", "));
            out.push(
                "/branches",
                code::SELF_REFERENCE,
                detail,
                "let branches read others that do not read them",
            );
            return None;
        };
        order.push(next);
    }
    Some(order)
}
