//! Clean runs to a plan: a root, a readout and captures per run.

use super::facts::Facts;
use super::layout::{CaptureKey, Lowered, RunLayout};
use super::prepare::{Prepared, prepare, refuse_flips};
use super::readout::{Inside, inside};
use super::request::request;
use super::select;
use super::size::{Size, admit};
use super::start::{Started, start};
use super::token_run::keys;
use crate::plan::{Address, Capture};
use crate::spec::problem::{Problems, code};
use crate::spec::readout::CaptureForm;
use crate::spec::run::RunSpec;
use crate::spec::site::Site;

request!("run", RunSpec, RunLayout, lower, common);

fn lower(spec: RunSpec, facts: &dyn Facts, out: &mut Problems) -> Option<Lowered<RunLayout>> {
    let experiment = &spec.experiment;
    let prepared = prepare(experiment, facts, out);
    refuse_flips(experiment, out);
    if experiment.allow_trivial {
        out.push("/allow_trivial", code::NOT_SUPPORTED, "a clean run has no cells", "leave it out");
    }
    let mut captures = captures(&spec, &prepared, facts, out);
    let depth = |key: &CaptureKey| key.layers.as_ref().map_or(1, Vec::len) * key.positions.len() * key.width;
    let inline = captures.iter().filter(|key| key.handle.is_none());
    let elements = inline.map(|key| depth(key) as u64).sum();
    let mut inside = inside(&experiment.read, &prepared, facts, elements, out);
    let size = Size { cells: 0, edits: 0, positions: 0, at: "/runs" };
    let readouts = experiment.runs.len() as u64 + inside.readouts();
    let lens_topk = experiment.read.logit_lens.as_ref().map_or(0, |lens| lens.topk);
    let topk = experiment.read.topk.max(lens_topk);
    admit(&size, readouts, &prepared, topk, facts.limits(), out);
    if !out.is_empty() {
        return None;
    }
    let Started { mut plan, roots, prelude, common } = start(&spec, &spec.experiment, prepared, facts);
    for key in &mut captures {
        key.first = plan.captures.len();
        let outside = if key.site == Site::Embed { 0 } else { facts.config().num_layers as u32 };
        let layers = key.layers.clone().unwrap_or_else(|| vec![outside]);
        plan.captures.extend(layers.into_iter().map(|layer| Capture {
            run: roots[key.run],
            at: Address { layer, site: key.site },
            positions: key.positions.clone(),
        }));
    }
    inside.add(&mut plan, &roots, facts);
    plan.scoring.topk = topk;
    let Inside { lenses, attention, attribution } = inside;
    let layout = RunLayout { spec, common, captures, lenses, attention, attribution };
    Some(Lowered { prelude: prelude.into_plan(), plan, layout })
}

fn captures(spec: &RunSpec, prepared: &Prepared, facts: &dyn Facts, out: &mut Problems) -> Vec<CaptureKey> {
    let config = facts.config();
    let columns = keys(&prepared.runs);
    let mut keys = Vec::new();
    let (mut elements, mut stored) = (0_u64, 0_u64);
    for (i, capture) in spec.experiment.read.capture.iter().enumerate() {
        let at = format!("/read/capture/{i}");
        if select::site(capture.site, config, &format!("{at}/site"), out).is_none() {
            continue;
        }
        let layers = match &capture.layers {
            None => Some(None),
            Some(layers) => {
                select::layers(layers, config.num_layers as u32, &format!("{at}/layers"), out).map(Some)
            }
        };
        for (run, (_, tokens)) in prepared.runs.0.iter().enumerate() {
            let positions = select::positions(&capture.positions, tokens, &format!("{at}/positions"), out);
            let (Some(layers), Some(positions)) = (layers.clone(), positions) else { continue };
            let width = config.site_width(capture.site, columns);
            let depth = layers.as_ref().map_or(1, Vec::len) as u64;
            let own = depth * positions.len() as u64 * width as u64;
            let handle = (capture.r#as == CaptureForm::Handle).then_some(capture.dtype);
            if handle.is_some() {
                stored = stored.saturating_add(own.saturating_mul(4));
            } else {
                elements = elements.saturating_add(own);
            }
            let limit = facts.limits().activation_bytes;
            if stored > limit {
                let detail = format!("{stored} bytes and more to store, the limit is {limit}");
                out.push(&at, code::LIMIT, detail, "capture fewer layers or positions");
                return keys;
            }
            if elements > facts.limits().capture_elements {
                let detail =
                    format!("{elements} numbers and more, the limit is {}", facts.limits().capture_elements);
                out.push(&at, code::LIMIT, detail, "capture fewer layers or positions");
                return keys;
            }
            keys.push(CaptureKey { run, site: capture.site, layers, positions, width, first: 0, handle });
        }
    }
    keys
}
