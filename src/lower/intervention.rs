//! An intervention resolved against its runs: indices and values.

use std::sync::Arc;

use super::basis::{BasisPlan, Vectors};
use super::facts::Facts;
use super::lint::Lints;
use super::noise::{numpy_legacy, numpy_legacy_of};
use super::place::{Place, Scope, part_width};
use super::position_map;
use super::select;
use super::source::resolve;
use super::template::{How, NoisePlan, OpPlan, Template};
use crate::plan::Along;
use crate::spec::corruption::{Rng, Sigma};
use crate::spec::intervention::{Intervention, OpSpec, SourceSpec};
use crate::spec::patch::SweepAxis;
use crate::spec::problem::{Problems, code};
use crate::spec::select::{Layers, Positions};
use crate::spec::site::Site;

/// Resolves the `i`th intervention.
pub(super) fn template(
    i: usize,
    scope: &Scope<'_>,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<Template> {
    let at = format!("{}/{i}", scope.at);
    let aligned = position_map::mapped(&scope.interventions[i], &at, scope, lints, out)?;
    let intervention = aligned.as_ref();
    let config = facts.config();
    let depth = config.num_layers as u32;
    let layers = match &intervention.layers {
        Some(layers) => select::layers(layers, depth, &format!("{at}/layers"), out),
        None => Some(vec![0]),
    };
    if intervention.window > depth {
        let detail = format!("a window of {} layers on {depth} layers", intervention.window);
        lints.warn("WINDOW_EXCEEDS_MODEL", format!("{at}/window"), detail, "choose a smaller window");
    }
    let positions = select::positions(&intervention.positions, scope.run, &format!("{at}/positions"), out);
    select::site(intervention.site, config, &format!("{at}/site"), out)?;
    let site = intervention.site.written_as();
    let of_heads = config.site_heads(site);
    let swept = scope.sweep.contains(&SweepAxis::Heads);
    let heads = match (&intervention.heads, of_heads) {
        (Some(heads), Some(n)) => Some(select::heads(heads, n as u32, &format!("{at}/heads"), out)?),
        (None, Some(n)) => swept.then(|| (0..n as u32).collect()),
        (_, None) => None,
    };
    let keys = scope.keys;
    let part = part_width(site, config, keys);
    let dims = match (&intervention.op, &intervention.dims) {
        (OpSpec::Knockout { keys }, dims) => {
            if dims.is_some() {
                let fix = "leave out `dims`: `keys` names the key positions";
                out.push(format!("{at}/dims"), code::CONFLICT, "columns and keys", fix);
            }
            Some(select::positions(keys, scope.run, &format!("{at}/keys"), out)?)
        }
        (_, Some(dims)) => Some(select::dims(dims, part as u32, &format!("{at}/dims"), out)?),
        (_, None) => scope.sweep.contains(&SweepAxis::Dims).then(|| (0..part as u32).collect()),
    };
    let (layers, positions) = (layers?, positions?);
    check_site(intervention, &at, dims.is_some(), out)?;
    let place = Place {
        at: &at,
        intervention,
        site,
        layers: &layers,
        positions: &positions,
        heads: heads.as_deref(),
        dims: dims.as_deref(),
        keys,
    };
    let op = op(&place, scope, facts, lints, out)?;
    let freezes = |i: &Intervention| matches!(i.op, OpSpec::Freeze { .. });
    let (frozen, above) = (freezes(intervention), matches!(intervention.layers, Some(Layers::Above(_))));
    if above && scope.interventions.iter().all(freezes) {
        let detail = "nothing is written that layers could be above";
        let fix = "add an intervention that writes below, or name the layers";
        out.push(format!("{at}/layers"), code::CONFLICT, detail, fix);
        return None;
    }
    let at = intervention.site;
    let window = intervention.window;
    Some(Template { at, site, window, layers, positions, heads, dims, keys, frozen, above, op })
}

/// Operations that a site has no meaning for.
fn check_site(intervention: &Intervention, at: &str, has_dims: bool, out: &mut Problems) -> Option<()> {
    let (site, op) = (intervention.site, &intervention.op);
    // What of a row is written is said by vectors.
    let by_vectors = matches!(
        op,
        OpSpec::ProjectOut { .. }
            | OpSpec::Subspace { .. }
            | OpSpec::Clamp { .. }
            | OpSpec::Scale { along: Some(_), .. }
    );
    let copies = matches!(op.source(), Some(SourceSpec::Run { site: None, layer: None, .. }) | None)
        && !by_vectors
        && !matches!(op, OpSpec::Noise { .. });
    let refuse = |detail: String, fix: &str, out: &mut Problems| {
        out.push(format!("{at}/op"), code::NOT_SUPPORTED, detail, fix);
        None
    };
    if matches!(op, OpSpec::Knockout { .. }) && site != Site::Scores {
        let detail = format!("edges of attention are cut before the softmax, not at {site}");
        return refuse(detail, "write \"site\": \"scores\"", out);
    }
    if site.is_over_keys() && (!copies || matches!(op, OpSpec::Add { .. } | OpSpec::Mean { .. })) {
        let detail = format!("{site} is copied from the same layer and position of a run, scaled or zeroed");
        return refuse(detail, "use replace, resample, freeze, scale or zero; or q, k and v before it", out);
    }
    let linear = !by_vectors
        && !matches!(op, OpSpec::Add { .. } | OpSpec::Noise { .. })
        && !matches!(
            op.source(),
            Some(
                SourceSpec::Vector { .. } | SourceSpec::Activation { .. } | SourceSpec::Run { site: Some(_), .. }
            ) if !matches!(op.source(), Some(SourceSpec::Run { site: Some(Site::HeadOut), .. }))
        );
    if site == Site::HeadOut && (!linear || has_dims) {
        let field = if linear { "dims" } else { "op" };
        let detail = "a head's output is copied, averaged, scaled or zeroed as a whole";
        let fix = "use attn_out for vectors and columns of the residual stream, or z for a head's own";
        out.push(format!("{at}/{field}"), code::NOT_SUPPORTED, detail, fix);
        return None;
    }
    if has_dims && matches!(op, OpSpec::Add { norm_match: true, .. }) {
        let fix = "leave out `norm_match`, or write whole rows";
        out.push(
            format!("{at}/norm_match"),
            code::CONFLICT,
            "the norm kept is of a row or head, not of columns",
            fix,
        );
        return None;
    }
    if has_dims && by_vectors {
        let fix = "leave out `dims`: the vectors say what is written";
        out.push(format!("{at}/dims"), code::CONFLICT, "a span and single columns", fix);
        return None;
    }
    Some(())
}

fn op(
    place: &Place<'_>,
    scope: &Scope<'_>,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<OpPlan> {
    let maps = matches!(place.intervention.positions, Positions::Map { .. });
    let op = &place.intervention.op;
    if maps && !matches!(op.source(), Some(SourceSpec::Run { .. })) {
        let at = format!("{}/positions/map", place.at);
        out.push(at, code::CONFLICT, "a map needs a run to read from", "list the destinations instead");
        return None;
    }
    let how = match op {
        OpSpec::Scale { factor, along: None } => return Some(OpPlan::Scale(*factor as f32)),
        OpSpec::Scale { factor, along: Some(direction) } => {
            let direction = BasisPlan::new(&Vectors::of_direction(direction), place, facts, out)?;
            return Some(OpPlan::Along(direction, Along::Scale(*factor as f32)));
        }
        OpSpec::Clamp { along, min, max } => {
            let direction = BasisPlan::new(&Vectors::of_direction(along), place, facts, out)?;
            let (min, max) = (min.unwrap_or(f64::NEG_INFINITY), max.unwrap_or(f64::INFINITY));
            return Some(OpPlan::Along(direction, Along::Clamp(min as f32, max as f32)));
        }
        OpSpec::Zero => return Some(OpPlan::Zero),
        OpSpec::Knockout { .. } => return cut(place, out),
        OpSpec::Noise { sigma, seed, rng } => return noise(place, *sigma, *seed, *rng, scope, facts, out),
        OpSpec::ProjectOut { basis } => {
            return BasisPlan::new(&Vectors::of_basis(basis), place, facts, out).map(OpPlan::ProjectOut);
        }
        OpSpec::Add { coef, norm_match, .. } => {
            let Some(coef) = coef.constant() else {
                let detail = "a coefficient by step has no value at positions of a prompt";
                out.push(format!("{}/coef", place.at), code::CONFLICT, detail, "write a number");
                return None;
            };
            How::Add { coef: coef as f32, norm_match: *norm_match }
        }
        OpSpec::Subspace { basis, .. } => {
            How::Swap(BasisPlan::new(&Vectors::of_basis(basis), place, facts, out)?)
        }
        OpSpec::Replace { .. } | OpSpec::Mean { .. } | OpSpec::Resample { .. } | OpSpec::Freeze { .. } => {
            How::Replace
        }
    };
    let values = resolve(place, scope, facts, lints, out)?;
    Some(OpPlan::Write { values, how })
}

fn cut(place: &Place<'_>, out: &mut Problems) -> Option<OpPlan> {
    let last = place.positions.iter().max();
    let first = place.dims.and_then(|keys| keys.iter().min());
    if first > last {
        let detail = "every key named comes after every position written: there is no such edge";
        let fix = "name keys at or before the positions";
        out.push(format!("{}/keys", place.at), code::EMPTY, detail, fix);
        return None;
    }
    Some(OpPlan::Cut)
}

fn noise(
    place: &Place<'_>,
    sigma: Sigma,
    seed: u64,
    rng: Rng,
    scope: &Scope<'_>,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<OpPlan> {
    let at = format!("{}/sigma", place.at);
    if matches!(sigma, Sigma::Relative { .. }) && place.site != Site::Embed {
        let detail = "k counts standard deviations of embeddings";
        out.push(at, code::CONFLICT, detail, "write {\"abs\": 0.1}, or use site embed");
        return None;
    }
    let ids: Vec<u32> = place.positions.iter().map(|p| scope.run.ids[*p as usize]).collect();
    let std = super::sigma::sigma(sigma, &ids, &at, facts, out)?.abs;
    let site_width = facts.config().site_width(place.site, place.keys);
    let layers = place.layers_written(facts.config());
    let of_layer = place.positions.len() * site_width;
    let drawn = if rng == Rng::NumpyLegacy { layers.len() } else { 1 };
    let numbers = drawn as u64 * of_layer as u64;
    if numbers > facts.limits().noise_elements {
        let detail = format!("{numbers} random numbers, the limit is {}", facts.limits().noise_elements);
        out.push(format!("{}/positions", place.at), code::LIMIT, detail, "name fewer positions");
        return None;
    }
    let numpy = (rng == Rng::NumpyLegacy).then(|| {
        let seed = u32::try_from(seed).expect("BUG: checked when it was read");
        let of = |layer: u32| match place.site {
            // As ROME draws it.
            Site::Embed => numpy_legacy(seed, of_layer),
            site => {
                let layer = if site.has_layer() { layer } else { 0 };
                numpy_legacy_of(&[seed, site.facts().stream, layer], of_layer)
            }
        };
        Arc::new(layers.into_iter().map(|layer| (layer, of(layer))).collect())
    });
    let stream = 1 + place.site.facts().stream;
    Some(OpPlan::Noise(NoisePlan { std, seed, stream, numpy, chosen: None }))
}
