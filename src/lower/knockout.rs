//! Attention knockout: a position that would be left without any key to attend to is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::lint::Lints;
use super::measure::Measure;
use super::template::{OpPlan, Template};
use crate::model::config::ModelConfig;
use crate::spec::metric::Of;
use crate::spec::problem::{Problems, code};

/// A position all of whose keys are cut.
pub(super) struct Blind {
    layer: u32,
    head: u32,
    position: u32,
}

/// A remark on the size of what is written, where some of it is infinite.
pub(super) fn lint(templates: &[Template], at: &str, measures: &[Measure], lints: &mut Lints) {
    let asked = measures.iter().any(|measure| measure.metric.kind.facts().of == Of::Edits);
    if asked && templates.iter().any(cuts) {
        let detail =
            "the score of an edge that is cut falls by infinity: delta_norm of such cells is null".to_owned();
        lints.info(
            "UNBOUNDED_DELTA",
            at,
            detail,
            "leave out delta_norm, or zero the pattern without renormalising",
        );
    }
}

/// Whether a template cuts edges of attention.
pub(super) fn cuts(template: &Template) -> bool {
    matches!(template.op, OpPlan::Cut)
}

/// The first position that the interventions of a cell leave without a key; `inherited` are those of the runs that it comes
/// from. None of the cell's own: nothing is looked for.
pub(super) fn blind(own: &[Template], inherited: &[Template], config: &ModelConfig) -> Option<Blind> {
    if !own.iter().any(cuts) {
        return None;
    }
    let mut cut: BTreeMap<(u32, u32, u32), BTreeSet<u32>> = BTreeMap::new();
    for template in inherited.iter().chain(own).filter(|template| cuts(template)) {
        let heads = template.heads_written(config);
        for layer in template.layers_written(config) {
            for &head in &heads {
                for &position in &template.positions {
                    let keys = cut.entry((layer, head, position)).or_default();
                    keys.extend(template.dims.iter().flatten().filter(|key| **key <= position));
                    if keys.len() as u32 > position {
                        return Some(Blind { layer, head, position });
                    }
                }
            }
        }
    }
    None
}

impl Blind {
    /// Reports it at the keys of the last of a list of interventions that cuts edges.
    pub(super) fn report_in(&self, own: &[Template], at: &str, out: &mut Problems) {
        let last = own.iter().rposition(cuts).unwrap_or(0);
        self.report(&format!("{at}/{last}/keys"), out);
    }

    /// Reports it.
    pub(super) fn report(&self, at: &str, out: &mut Problems) {
        let Self { layer, head, position } = self;
        let detail = format!("in layer {layer}, head {head}, position {position} would have no key left");
        out.push(at, code::EMPTY, detail, "leave each position a key, such as the position itself");
    }
}
