//! Where an intervention's values come from, resolved: a run at the same place, captures of an earlier plan, a vector.

use std::sync::Arc;

use super::facts::Facts;
use super::lint::Lints;
use super::noise::pick;
use super::place::{Place, Scope};
use super::prompts::{TokenRun, find};
use super::select;
use super::stored_source::{Given, Wanted};
use crate::spec::intervention::{OpSpec, SourceSpec};
use crate::spec::patch::SweepAxis;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::PromptText;
use crate::spec::select::{Layers, Positions};
use crate::spec::site::Site;

/// Values with indices.
#[derive(Debug, Clone)]
pub(super) enum ValuesPlan {
    /// The same site and layer of a run, by its index among the request's.
    Run {
        /// Index of the run.
        run: usize,
        /// Positions read, as many as are written.
        positions: Vec<u32>,
    },
    /// The mean over prompts, at another site or layer or over several: captured by an earlier plan.
    Captured {
        /// Prompts, each with the positions read.
        runs: Vec<(usize, Arc<[u32]>, Vec<u32>)>,
        /// Site read.
        site: Site,
        /// Layers read, one by one; the one written if there is none.
        layers: Vec<u32>,
    },
    /// Stored activations.
    Given(Given),
    /// One row, of the site's width or a head's, or one number per named column.
    Row(Arc<[f32]>),
}

/// Resolves the source of an intervention that has one.
pub(super) fn resolve(
    place: &Place<'_>,
    scope: &Scope<'_>,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<ValuesPlan> {
    match &place.intervention.op {
        OpSpec::Freeze { source: None } => same_place(place, scope.base, None, scope, lints, out),
        OpSpec::Resample { source, seed } => {
            let chosen = &source.any_of[pick(*seed, source.any_of.len())];
            let known = source.any_of.iter().enumerate().map(|(i, run)| {
                let at = format!("{}/source/any_of/{i}", place.at);
                find(run, &at, scope.experiment, scope.runs, out).is_some()
            });
            // All of them are looked at.
            if known.filter(|known| !known).count() > 0 {
                return None;
            }
            same_place(place, chosen, source.positions.as_ref(), scope, lints, out)
        }
        op => match op.source()? {
            SourceSpec::Vector { vector } => row(place, vector, facts, out),
            SourceSpec::Branch { .. } => {
                let detail = "another branch is read at the same step, and a prompt has none";
                out.push(format!("{}/source/branch", place.at), code::CONFLICT, detail, "read a run");
                None
            }
            SourceSpec::Activation { activation, layer, positions } => {
                let written = place.layers_written(facts.config());
                let wanted = Wanted {
                    at: &format!("{}/source", place.at),
                    site: place.site,
                    layers: &written,
                    positions: Some(place.positions.len()),
                    activation,
                    layer: layer.as_ref(),
                    from: positions.as_ref(),
                };
                let given = Given::find(&wanted, facts, out)?;
                one_by_one(given.layers(), place, scope, out)?;
                Some(ValuesPlan::Given(given))
            }
            SourceSpec::Run { run, positions, site: None, layer: None } => {
                same_place(place, run, positions.as_ref(), scope, lints, out)
            }
            SourceSpec::Run { run, positions, site, layer } => {
                elsewhere(place, run, positions.as_ref(), *site, layer.as_ref(), scope, facts, lints, out)
            }
            SourceSpec::MeanOf { mean_of, positions } => {
                let runs = mean_of.iter().enumerate().map(|(i, run)| {
                    let at = format!("{}/source/mean_of/{i}", place.at);
                    prompt(place, run, &at, positions.as_ref(), scope, lints, out)
                });
                let runs: Vec<Option<_>> = runs.collect();
                let runs = runs.into_iter().collect::<Option<_>>()?;
                Some(ValuesPlan::Captured { runs, site: place.site, layers: Vec::new() })
            }
        },
    }
}

fn row(place: &Place<'_>, vector: &[f32], facts: &dyn Facts, out: &mut Problems) -> Option<ValuesPlan> {
    let wanted = place.vector_width(facts.config());
    if vector.len() == wanted {
        return Some(ValuesPlan::Row(vector.into()));
    }
    let detail = format!("{} numbers where {wanted} are written", vector.len());
    let at = format!("{}/source/vector", place.at);
    out.push(at, code::LENGTH_MISMATCH, detail, format!("give {wanted} numbers"));
    None
}

fn same_place(
    place: &Place<'_>,
    run: &str,
    given: Option<&Positions>,
    scope: &Scope<'_>,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<ValuesPlan> {
    let tokens = find(run, &format!("{}/source/run", place.at), scope.experiment, scope.runs, out)?;
    let positions = positions_read(place, run, tokens, given, scope, lints, out)?;
    let at = format!("{}/source", place.at);
    if place.site.is_over_keys() && positions != place.positions {
        let detail = format!("{} of different positions have different keys", place.site);
        out.push(at, code::CONFLICT, detail, "read the positions that are written");
        return None;
    }
    // After another intervention the base's own values restore what that one changed.
    let alone = scope.interventions.len() == 1;
    let replaces = matches!(place.intervention.op, OpSpec::Replace { .. });
    if alone && replaces && run == scope.base && positions == place.positions {
        let detail = format!("{run:?} is patched with its own values, which changes nothing");
        lints.info("SELF_PATCH", at, detail, "name another source run or other positions");
    }
    Some(ValuesPlan::Run { run: scope.runs.place(run)?, positions })
}

#[expect(clippy::too_many_arguments, reason = "the parts of one source")]
fn elsewhere(
    place: &Place<'_>,
    run: &str,
    positions: Option<&Positions>,
    site: Option<Site>,
    layer: Option<&Layers>,
    scope: &Scope<'_>,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<ValuesPlan> {
    let (config, at) = (facts.config(), format!("{}/source", place.at));
    // At `head_out` that site may be named, and nothing else.
    let site = site.filter(|site| *site != place.intervention.site).unwrap_or(place.site);
    select::site(site, config, &format!("{at}/site"), out)?;
    let shape = |site| (config.site_width(site, place.keys), config.site_heads(site));
    let ((read, of), (written, into)) = (shape(site), shape(place.site));
    if site.is_over_keys() || read != written || (place.heads.is_some() && of != into) {
        let detail = format!("{site} has {read} numbers a position, {} has {written}", place.site);
        let fix = "name a site of the same width and heads, and neither scores nor pattern";
        out.push(format!("{at}/site"), code::LENGTH_MISMATCH, detail, fix);
        return None;
    }
    let depth = config.num_layers as u32;
    if layer.is_some() && !site.has_layer() {
        let detail = format!("{site} has no layers");
        out.push(format!("{at}/layer"), code::OUT_OF_RANGE, detail, "leave out `layer`");
        return None;
    }
    if layer.is_none() && site.has_layer() && !place.site.has_layer() {
        let detail = format!("{} has no layer that could be read at {site} too", place.site);
        out.push(format!("{at}/layer"), code::MISSING, detail, "name the layer read");
        return None;
    }
    let layers = match layer {
        Some(layers) => select::layers(layers, depth, &format!("{at}/layer"), out)?,
        None => Vec::new(),
    };
    one_by_one(&layers, place, scope, out)?;
    let runs = vec![prompt(place, run, &format!("{at}/run"), positions, scope, lints, out)?];
    Some(ValuesPlan::Captured { runs, site, layers })
}

/// Refuses several layers that are read at once.
fn one_by_one(layers: &[u32], place: &Place<'_>, scope: &Scope<'_>, out: &mut Problems) -> Option<()> {
    if layers.len() <= 1 || scope.sweep.contains(&SweepAxis::SourceLayers) {
        return Some(());
    }
    let detail = format!("{} layers are read, and one can be written at a time", layers.len());
    let fix = "add \"source_layers\" to `sweep`, or name one layer";
    out.push(format!("{}/source/layer", place.at), code::CONFLICT, detail, fix);
    None
}

/// A prompt that an earlier plan captures, with the positions read.
fn prompt(
    place: &Place<'_>,
    run: &str,
    at: &str,
    positions: Option<&Positions>,
    scope: &Scope<'_>,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<(usize, Arc<[u32]>, Vec<u32>)> {
    let tokens = find(run, at, scope.experiment, scope.runs, out)?;
    let derived = scope.experiment.runs.get(run).map(|run| &run.text);
    if matches!(derived, Some(PromptText::Derived { .. })) {
        let detail = format!("{run:?} is derived from another run");
        let fix = "read a derived run at the site and layer that are written, alone; or name a prompt";
        out.push(at, code::NOT_SUPPORTED, detail, fix);
        return None;
    }
    let positions = positions_read(place, run, tokens, positions, scope, lints, out)?;
    Some((scope.runs.place(run)?, Arc::clone(&tokens.ids), positions))
}

/// Positions of the source run, as many as are written.
fn positions_read(
    place: &Place<'_>,
    run: &str,
    tokens: &TokenRun,
    given: Option<&Positions>,
    scope: &Scope<'_>,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<Vec<u32>> {
    let (own_at, source_at) = (format!("{}/positions", place.at), format!("{}/source/positions", place.at));
    let own = &place.intervention.positions;
    let positions = match (own, given) {
        (Positions::Map { .. }, Some(_)) => {
            let detail = "the map says already what is read";
            out.push(source_at, code::CONFLICT, detail, "leave out `source.positions`");
            return None;
        }
        (Positions::Map { map }, None) => select::map_sources(map, tokens, &own_at, out)?,
        (_, Some(given)) => select::positions(given, tokens, &source_at, out)?,
        (own, None) => select::positions(own, tokens, &own_at, out)?,
    };
    let (n, m) = (place.positions.len(), positions.len());
    if m != n && m != 1 {
        let detail = format!("{m} positions of {run:?} are read, {n} of {:?} are written", scope.base);
        let at = if given.is_some() { source_at } else { own_at };
        let fix = "name as many source positions, or one for all, or a map";
        out.push(at, code::LENGTH_MISMATCH, detail, fix);
        return None;
    }
    // Positions counted from the end pair up whatever the lengths.
    let absolute = |p: &Positions| match p {
        Positions::One(p) => *p >= 0,
        Positions::List(list) => list.iter().any(|p| *p >= 0),
        Positions::Range { range } => range.iter().any(|p| *p >= 0),
        other => *other == Positions::ALL,
    };
    let by_index = absolute(own) || given.is_some_and(absolute);
    if tokens.len() != scope.run.len() && by_index {
        let (a, b) = (tokens.len(), scope.run.len());
        let detail = format!("{run:?} has {a} tokens, {:?} has {b}", scope.base);
        lints.warn("LENGTH_MISMATCH", own_at, detail, "pair positions by `last`, spans or a map");
    }
    Some(if m == n { positions } else { vec![positions[0]; n] })
}

impl ValuesPlan {
    /// Layers read one by one, where the layer read is named.
    pub(super) fn layers(&self) -> Option<&[u32]> {
        let layers = match self {
            Self::Captured { layers, .. } => layers,
            Self::Given(given) => given.layers(),
            Self::Run { .. } | Self::Row(_) => return None,
        };
        (!layers.is_empty()).then_some(layers)
    }

    /// Keeps one of the layers read; a single one stays in every cell.
    pub(super) fn choose_layer(&mut self, index: usize) {
        match self {
            Self::Captured { layers, .. } if layers.len() > 1 => *layers = vec![layers[index]],
            Self::Given(given) if given.layers().len() > 1 => given.choose_layer(index),
            _ => {}
        }
    }

    /// Keeps the values of one position.
    pub(super) fn choose(&mut self, index: usize) {
        match self {
            Self::Run { positions, .. } => *positions = vec![positions[index]],
            Self::Captured { runs, .. } => {
                for (_, _, positions) in runs {
                    *positions = vec![positions[index]];
                }
            }
            Self::Given(given) => given.choose(index),
            Self::Row(_) => {}
        }
    }
}
