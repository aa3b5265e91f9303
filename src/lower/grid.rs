//! The cells of interventions swept along axes.

use super::control::Controls;
use super::derive;
use super::facts::Facts;
use super::layout::{Axis, Grid};
use super::size::Size;
use super::source::ValuesPlan;
use super::tautology::triviality;
use super::template::{Builder, OpPlan, Template};
use crate::model::config::ModelConfig;
use crate::plan::{Plan, RunId};
use crate::spec::patch::SweepAxis;
use crate::spec::problem::{Problems, code};

/// Interventions and the axes along which they are enumerated.
#[derive(Clone, Copy)]
pub(super) struct Swept<'s> {
    /// Pointer to the list of interventions.
    pub at: &'s str,
    /// Axes, outermost first.
    pub sweep: &'s [SweepAxis],
}

/// How an axis that nothing names comes to be swept.
pub(super) fn unswept(axis: SweepAxis, of: &str) -> String {
    let field = axis.name();
    let site = if axis == SweepAxis::Heads { "z" } else { "resid_post" };
    format!(
        "name {field} in an {of}, as {{\"site\": \"{site}\", \"{field}\": \"all\"}}, or leave the axis out"
    )
}

impl Swept<'_> {
    /// Values of the swept axes, each of which some template has: the longest list on an axis; others are equal or apply in
    /// every cell.
    pub(super) fn axes(&self, templates: &[Template], out: &mut Problems) -> Option<Vec<Axis>> {
        let mut axes = Vec::new();
        for axis in self.sweep {
            let lists: Vec<Option<&[u32]>> = templates.iter().map(|t| list(t, *axis)).collect();
            let longest = lists.iter().flatten().copied().max_by_key(|list| list.len())?;
            for (t, own) in lists.iter().enumerate() {
                let Some(own) = own.filter(|own| own.len() > 1 && *own != longest) else { continue };
                let name = axis.name();
                let field = match axis {
                    SweepAxis::SourceLayers => "source/layer",
                    SweepAxis::Dims if matches!(templates[t].op, OpPlan::Cut) => "keys",
                    _ => name,
                };
                let detail =
                    format!("{} {name} where another intervention sweeps {}", own.len(), longest.len());
                let fix = format!("list the same {name} in every intervention, or one for all cells");
                out.push(format!("{}/{t}/{field}", self.at), code::LENGTH_MISMATCH, detail, fix);
            }
            axes.push(Axis { name: axis.singular(), values: longest.to_vec() });
        }
        Some(axes)
    }

    /// Layers, positions and edits per layer of a template in one cell, at most.
    fn extent(&self, t: &Template, config: &ModelConfig) -> [u64; 3] {
        let one_if_swept =
            |axis, n: usize| if self.sweep.contains(&axis) && t.follows(axis) { 1 } else { n as u64 };
        let layers = one_if_swept(SweepAxis::Layers, t.layers.len()).saturating_mul(u64::from(t.window));
        let positions = one_if_swept(SweepAxis::Positions, t.positions.len());
        let mut one = t.clone();
        for axis in self.sweep.iter().filter(|axis| matches!(axis, SweepAxis::Heads | SweepAxis::Dims)) {
            one.choose(*axis, 0);
        }
        [layers.min(config.num_layers as u64), positions, one.edits_per_layer(config) as u64]
    }

    /// How much the cells hold, each `copies` times.
    pub(super) fn size(
        &self,
        templates: &[Template],
        axes: &[Axis],
        copies: u64,
        config: &ModelConfig,
    ) -> Size {
        let cells = axes.iter().fold(copies, |n: u64, axis| n.saturating_mul(axis.values.len() as u64));
        let (mut edits, mut written) = (0_u64, 0_u64);
        for t in templates {
            let [layers, positions, columns] = self.extent(t, config);
            edits = edits.saturating_add(layers.saturating_mul(columns));
            written = written.saturating_add(layers.saturating_mul(columns).saturating_mul(positions));
        }
        Size {
            cells,
            edits: cells.saturating_mul(edits),
            positions: cells.saturating_mul(written),
            at: "/sweep",
        }
    }

    /// Bounds the memory of constants: every cell holds its own of noise and vectors, all share those of stored activations.
    pub(super) fn check_constants(
        &self,
        templates: &[Template],
        cells: u64,
        facts: &dyn Facts,
        out: &mut Problems,
    ) {
        let config = facts.config();
        let limit = facts.limits().noise_elements;
        let mut stored = 0_u64;
        for (i, t) in templates.iter().enumerate() {
            let numbers = match &t.op {
                OpPlan::Write { values: ValuesPlan::Given(given), .. } => {
                    stored = stored.saturating_add(given.numbers());
                    stored
                }
                OpPlan::Write { values: ValuesPlan::Run { .. }, .. }
                | OpPlan::Scale(_)
                | OpPlan::Along(..)
                | OpPlan::Zero
                | OpPlan::Cut
                | OpPlan::ProjectOut(_) => 0,
                OpPlan::Noise(_) | OpPlan::Write { .. } => {
                    let [layers, positions, _] = self.extent(t, config);
                    // One head or column of many is written in a cell of a sweep over them.
                    let mut one = t.clone();
                    for axis in self.sweep {
                        one.choose(*axis, 0);
                    }
                    let rows = cells.saturating_mul(layers * positions);
                    rows.saturating_mul(one.columns_written(config) as u64)
                }
            };
            if numbers > limit {
                let detail = format!("up to {numbers} constants, the limit is {limit}");
                let fix = "write fewer layers, positions or cells";
                out.push(format!("{}/{i}", self.at), code::LIMIT, detail, fix);
            }
        }
    }

    /// The templates with one value on each axis: a cell, counted in row-major order of the axes.
    pub(super) fn cell(&self, templates: &[Template], axes: &[Axis], cell: usize) -> Vec<Template> {
        let mut chosen = templates.to_vec();
        let mut rest = cell;
        for (axis, kind) in axes.iter().zip(self.sweep).rev() {
            let index = rest % axis.values.len();
            rest /= axis.values.len();
            for template in &mut chosen {
                template.choose(*kind, index);
            }
        }
        chosen
    }
}

/// Values of a template on an axis, if it has one.
pub(super) fn list(template: &Template, axis: SweepAxis) -> Option<&[u32]> {
    match axis {
        _ if !template.follows(axis) => None,
        SweepAxis::Layers => template.site.has_layer().then_some(&template.layers),
        SweepAxis::Positions => Some(&template.positions),
        SweepAxis::Heads => template.heads.as_deref(),
        SweepAxis::Dims => template.dims.as_deref(),
        SweepAxis::SourceLayers => template.source_layers(),
    }
}

/// Runs between which a cell is patched.
pub(super) struct Scene<'s> {
    /// The plan's run of each of the request's runs.
    pub roots: &'s [RunId],
    /// Where each is read.
    pub reads: &'s [u32],
    /// Index of the run that is patched.
    pub base: usize,
}

impl Scene<'_> {
    /// Adds a cell, with its controls, to a plan and to its grid.
    pub(super) fn add(
        &self,
        plan: &mut Plan,
        chosen: &[Template],
        cell: usize,
        grid: &mut Grid,
        controls: &Controls,
        builder: &mut Builder<'_>,
    ) {
        let (base, read) = (self.roots[self.base], self.reads[self.base]);
        let read_of =
            |run: RunId| self.roots.iter().position(|root| *root == run).map_or(read, |i| self.reads[i]);
        let edits = derive::edits(chosen, builder);
        controls.add(plan, builder.config, base, &edits, cell as u32, read, &mut grid.controls);
        let run = plan.branch(base, edits);
        grid.readouts.push(plan.read(run, read));
        if grid.readouts.len() % grid.samples == 1 % grid.samples {
            let layers = builder.config.num_layers as u32;
            grid.trivial.push(triviality(plan, run, read, read_of, layers));
        }
    }
}
