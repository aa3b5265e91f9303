//! Where interventions belong, and where they write.

use std::collections::BTreeSet;

use super::select;
use super::token_run::TokenRun;
use crate::model::config::ModelConfig;
use crate::spec::experiment::Experiment;
use crate::spec::intervention::Intervention;
use crate::spec::named::Named;
use crate::spec::patch::SweepAxis;
use crate::spec::site::Site;

/// What a list of interventions belongs to.
pub(super) struct Scope<'s> {
    /// Pointer to the list.
    pub at: String,
    /// Name of the run that is changed.
    pub base: &'s str,
    /// That run.
    pub run: &'s TokenRun,
    /// The list.
    pub interventions: &'s [Intervention],
    /// Axes that are enumerated.
    pub sweep: &'s [SweepAxis],
    /// The request.
    pub experiment: &'s Experiment,
    /// Runs that may be read.
    pub runs: &'s Named<TokenRun>,
    /// Columns of a head at `scores` and `pattern`.
    pub keys: usize,
}

/// An intervention whose destination is resolved.
pub(super) struct Place<'p> {
    /// Pointer to the intervention.
    pub at: &'p str,
    pub intervention: &'p Intervention,
    /// Site written.
    pub site: Site,
    pub layers: &'p [u32],
    pub positions: &'p [u32],
    pub heads: Option<&'p [u32]>,
    pub dims: Option<&'p [u32]>,
    /// Columns of a head at `scores` and `pattern`.
    pub keys: usize,
}

impl Place<'_> {
    /// Layers written in any cell.
    pub(super) fn layers_written(&self, config: &ModelConfig) -> BTreeSet<u32> {
        layers_written(self.site, self.layers, self.intervention.window, config)
    }

    /// Numbers of a given vector: a head's width where heads are named, else the site's; as many as `dims`, if named.
    pub(super) fn vector_width(&self, config: &ModelConfig) -> usize {
        let whole = config.site_width(self.site, self.keys);
        let part = if self.heads.is_some() { part_width(self.site, config, self.keys) } else { whole };
        self.dims.map_or(part, <[u32]>::len)
    }
}

/// Columns of one head of a site, or of the whole site if it has none.
pub(super) fn part_width(site: Site, config: &ModelConfig, keys: usize) -> usize {
    config.site_width(site, keys) / config.site_heads(site).unwrap_or(1)
}

/// Layers that are written, as addresses count them: the windows around those named.
pub(super) fn layers_written(site: Site, layers: &[u32], window: u32, config: &ModelConfig) -> BTreeSet<u32> {
    let depth = config.num_layers as u32;
    match site {
        Site::Embed => BTreeSet::from([0]),
        Site::FinalNorm | Site::Logits => BTreeSet::from([depth]),
        _ => layers.iter().flat_map(|l| select::window(*l, window, depth)).collect(),
    }
}
