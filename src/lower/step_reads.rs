//! What is read of the rows that predict new tokens: activations, and the logit lens.

use std::ops::Range;

use super::facts::Facts;
use super::select;
use crate::plan::{Address, Capture, Plan, RunId};
use crate::spec::dtype::Dtype;
use crate::spec::generate::GenerateSpec;
use crate::spec::problem::{Problems, code};
use crate::spec::readout::CaptureForm;
use crate::spec::select::Steps;
use crate::spec::site::Site;

/// What is read, with indices. Every text is read for the same.
#[derive(Debug, Clone, Default)]
pub struct StepReads {
    /// One for each entry of the request.
    pub captures: Vec<StepCaptureKey>,
    /// The logit lens.
    pub lens: Option<StepLensKey>,
}

/// Activations of steps.
#[derive(Debug, Clone)]
pub struct StepCaptureKey {
    /// Site.
    pub site: Site,
    /// Layers; `None` at sites that have none.
    pub layers: Option<Vec<u32>>,
    /// Where they are read: layer by layer.
    pub addresses: Vec<Address>,
    /// Steps.
    pub steps: Steps,
    /// Numbers of a row.
    pub width: usize,
    /// The format in which they are stored, if they are not returned in the response.
    pub handle: Option<Dtype>,
}

/// The logit lens at steps.
#[derive(Debug, Clone)]
pub struct StepLensKey {
    /// Layers.
    pub layers: Vec<u32>,
    /// Steps.
    pub steps: Steps,
}

/// Where a plan has what is read at step 0.
#[derive(Debug, Clone, Default)]
pub struct FirstReads {
    /// Captures, in the order of [`StepReads::addresses`].
    pub captures: Range<usize>,
    /// Readouts, in the order of [`StepReads::layers`].
    pub lens: Range<usize>,
}

impl StepReads {
    /// Resolves what a request reads; its numbers are bounded as those of a run are.
    pub(super) fn of(spec: &GenerateSpec, facts: &dyn Facts, out: &mut Problems) -> StepReads {
        let config = facts.config();
        let depth = config.num_layers as u32;
        let texts = spec.branches.len() as u64 * u64::from(spec.samples);
        let rows = |steps: &Steps| (0..spec.max_tokens).filter(|step| steps.contains(*step)).count() as u64;
        let (mut elements, mut stored) = (0_u64, 0_u64);
        let limits = facts.limits();
        let mut captures = Vec::new();
        for (i, capture) in spec.read.capture.iter().enumerate() {
            let at = format!("/read/capture/{i}");
            if select::site(capture.site, config, &format!("{at}/site"), out).is_none() {
                continue;
            }
            if capture.site.is_over_keys() {
                let detail = format!(
                    "{} has a column for each key, of which there are more at every step",
                    capture.site
                );
                let fix = "read q, k or v; or send prompt and text to /v1/run as `tokens`";
                out.push(format!("{at}/site"), code::NOT_SUPPORTED, detail, fix);
                continue;
            }
            let layers = match &capture.layers {
                None => None,
                Some(layers) => match select::layers(layers, depth, &format!("{at}/layers"), out) {
                    None => continue,
                    layers => layers,
                },
            };
            let outside = if capture.site == Site::Embed { 0 } else { depth };
            let address = |layer| Address { layer, site: capture.site };
            let addresses: Vec<Address> =
                layers.clone().unwrap_or_else(|| vec![outside]).into_iter().map(address).collect();
            let width = config.site_width(capture.site, 0);
            let numbers = (addresses.len() * width) as u64;
            let numbers = numbers.saturating_mul(rows(&capture.steps)).saturating_mul(texts);
            let handle = (capture.r#as == CaptureForm::Handle).then_some(capture.dtype);
            let (sum, limit) = if handle.is_some() {
                stored = stored.saturating_add(numbers.saturating_mul(4));
                (stored, limits.activation_bytes)
            } else {
                elements = elements.saturating_add(numbers);
                (elements, limits.capture_elements)
            };
            if sum > limit {
                let unit = if handle.is_some() { "bytes to store" } else { "numbers" };
                let detail = format!("up to {sum} {unit}, the limit is {limit}");
                out.push(at, code::LIMIT, detail, "read fewer layers or steps, or ask for fewer texts");
                continue;
            }
            let (site, steps) = (capture.site, capture.steps.clone());
            captures.push(StepCaptureKey { site, layers, addresses, steps, width, handle });
        }
        let lens = spec.read.logit_lens.as_ref().and_then(|lens| {
            let layers = select::layers(&lens.layers, depth, "/read/logit_lens/layers", out)?;
            let most = limits.topk.min(config.vocab_size as u64);
            if u64::from(lens.topk) > most {
                let detail = format!("topk {}, the limit is {most}", lens.topk);
                out.push("/read/logit_lens/topk", code::LIMIT, detail, "ask for fewer tokens");
            }
            let cells = (layers.len() as u64).saturating_mul(rows(&lens.steps)).saturating_mul(texts);
            let numbers = cells.saturating_mul(u64::from(lens.topk));
            if elements.saturating_add(numbers) > limits.capture_elements {
                let detail = format!("up to {numbers} tokens, the limit is {}", limits.capture_elements);
                let fix = "read fewer layers or steps, or ask for fewer tokens or texts";
                out.push("/read/logit_lens", code::LIMIT, detail, fix);
            }
            Some(StepLensKey { layers, steps: lens.steps.clone() })
        });
        StepReads { captures, lens }
    }

    /// What is captured of the row of a step, entry by entry.
    pub fn addresses(&self, step: u32) -> Vec<Address> {
        let here = self.captures.iter().filter(|key| key.steps.contains(step));
        here.flat_map(|key| key.addresses.iter().copied()).collect()
    }

    /// Layers after which the row of a step is read through the lens.
    pub fn layers(&self, step: u32) -> &[u32] {
        let lens = self.lens.as_ref().filter(|lens| lens.steps.contains(step));
        lens.map_or(&[], |lens| &lens.layers)
    }

    /// Adds what is read at step 0, which is a row of the prompt.
    pub(super) fn add(&self, plan: &mut Plan, run: RunId, position: u32) -> FirstReads {
        let (captures, lens) = (plan.captures.len(), plan.readouts.len());
        let each = self.addresses(0).into_iter().map(|at| Capture { run, at, positions: vec![position] });
        plan.captures.extend(each);
        for layer in self.layers(0) {
            plan.read_lens(run, position, *layer);
        }
        plan.scoring.entropy |= self.lens.is_some();
        FirstReads { captures: captures..plan.captures.len(), lens: lens..plan.readouts.len() }
    }
}
