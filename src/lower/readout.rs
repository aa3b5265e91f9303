//! What a run is read for beside its answer: the logit lens, attention patterns, direct logit attribution.

use std::sync::Arc;

use super::facts::{Facts, Unembedding};
use super::layout::{AttentionKey, AttributionKey, LensKey};
use super::measure::{TargetToken, split_pair, unknown_target};
use super::prepare::Prepared;
use super::prompts::TokenRun;
use super::select;
use super::token_run::keys;
use crate::model::architecture::NormKind;
use crate::plan::{Address, Capture, Plan, RunId};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::readout::Read;
use crate::spec::site::Site;

/// All of it with indices, every run's part; places in the plan are filled in by [`Inside::add`].
#[derive(Default)]
pub(super) struct Inside {
    pub lenses: Vec<LensKey>,
    pub attention: Vec<AttentionKey>,
    pub attribution: Vec<AttributionKey>,
}

/// Resolves what `read` asks for. Numbers returned count against the limit, `elements` of which are taken.
pub(super) fn inside(
    read: &Read,
    prepared: &Prepared,
    facts: &dyn Facts,
    elements: u64,
    out: &mut Problems,
) -> Inside {
    let mut found = Inside::default();
    let mut directions: Vec<(u32, Option<Direct>)> = Vec::new();
    for (run, (name, tokens)) in prepared.runs.0.iter().enumerate() {
        found.lenses.extend(lens(read, run, tokens, facts, out));
        for i in 0..read.attention.len() {
            found.attention.extend(attention(read, i, run, tokens, prepared, facts, out));
        }
        let Some(spec) = &read.attribution else { continue };
        let context = prepared.targets.context(name);
        let known =
            directions.iter().find(|(known, _)| *known == context).map(|(_, direction)| direction.clone());
        let direct = known.unwrap_or_else(|| {
            let direct = direction(&spec.target, prepared.targets.of(context), facts, out);
            directions.push((context, direct.clone()));
            direct
        });
        if let Some(Direct { direction, constant }) = direct {
            let layers = 0..facts.config().num_layers as u32;
            let norm = facts.config().block.norm;
            let biases: Option<Vec<_>> = layers.map(|layer| facts.attention_bias(layer)).collect();
            found.attribution.push(AttributionKey {
                run,
                heads: spec.heads,
                position: tokens.read,
                direction,
                centred: norm.kind == NormKind::Layer,
                eps: norm.eps,
                constant,
                positions: facts.position_embedding(tokens.read).map(Into::into),
                attention_biases: biases.filter(|_| spec.heads).map(|biases| biases.concat().into()),
                first: 0,
            });
        }
    }
    let limit = facts.limits().capture_elements;
    let (numbers, at) = found.numbers(facts);
    if elements.saturating_add(numbers) > limit {
        let detail = format!("{numbers} numbers, the limit is {limit}");
        out.push(at, code::LIMIT, detail, "ask for fewer layers, heads or positions");
    }
    found
}

fn lens(
    read: &Read,
    run: usize,
    tokens: &TokenRun,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<LensKey> {
    let spec = read.logit_lens.as_ref()?;
    let depth = facts.config().num_layers as u32;
    let limit = facts.limits().topk.min(facts.config().vocab_size as u64);
    if u64::from(spec.topk) > limit {
        let detail = format!("topk {}, the limit is {limit}", spec.topk);
        out.push("/read/logit_lens/topk", code::LIMIT, detail, "ask for fewer tokens");
    }
    let layers = select::layers(&spec.layers, depth, "/read/logit_lens/layers", out);
    let positions = select::positions(&spec.positions, tokens, "/read/logit_lens/positions", out);
    Some(LensKey { run, layers: layers?, positions: positions?, first: 0 })
}

fn attention(
    read: &Read,
    i: usize,
    run: usize,
    tokens: &TokenRun,
    prepared: &Prepared,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<AttentionKey> {
    let (spec, at) = (&read.attention[i], format!("/read/attention/{i}"));
    let config = facts.config();
    let layers = select::layers(&spec.layers, config.num_layers as u32, &format!("{at}/layers"), out);
    let heads = select::heads(&spec.heads, config.num_heads as u32, &format!("{at}/heads"), out);
    let positions = select::positions(&spec.positions, tokens, &format!("{at}/positions"), out);
    Some(AttentionKey {
        run,
        layers: layers?,
        heads: heads?,
        positions: positions?,
        length: tokens.len() as usize,
        stride: keys(&prepared.runs),
        first: 0,
    })
}

/// What a logit is the inner product with, `[hidden]`, and what is added.
#[derive(Clone)]
struct Direct {
    direction: Arc<[f32]>,
    constant: f64,
}

/// Of the target's logit: for a set the mean of its tokens', for `a-b` the difference.
fn direction(
    spec: &str,
    sets: &Named<Vec<TargetToken>>,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<Direct> {
    const AT: &str = "/read/attribution/target";
    let mean = |set: &[TargetToken]| -> (Vec<f64>, f64) {
        let rows: Vec<Unembedding> = set.iter().map(|token| facts.unembedding(token.id)).collect();
        let n = rows.len() as f64;
        let sum = |i: usize| rows.iter().map(|row| f64::from(row.direction[i])).sum::<f64>();
        let constant = rows.iter().map(|row| row.constant).sum::<f64>() / n;
        ((0..facts.config().hidden_size).map(|i| sum(i) / n).collect(), constant)
    };
    let find = |name: &str, sets: &Named<Vec<TargetToken>>, out: &mut Problems| {
        let set = sets.get(name).filter(|set| !set.is_empty()).map(|set| mean(set));
        if sets.get(name).is_none() {
            unknown_target(name, AT, sets, out);
        }
        set
    };
    if sets.get(spec).is_some() || !spec.contains('-') {
        let (direction, constant) = find(spec, sets, out)?;
        return Some(Direct { direction: direction.iter().map(|x| *x as f32).collect(), constant });
    }
    let (a, b) = split_pair(spec, sets, (AT, "write A-B"), out)?;
    let (a, b) = (find(a, sets, out), find(b, sets, out));
    let ((a, of_a), (b, of_b)) = (a?, b?);
    let direction = a.iter().zip(&b).map(|(a, b)| (a - b) as f32).collect();
    Some(Direct { direction, constant: of_a - of_b })
}

impl Inside {
    /// Numbers that are captured, and where they were asked for.
    fn numbers(&self, facts: &dyn Facts) -> (u64, &'static str) {
        let (d, depth, heads) = (
            facts.config().hidden_size as u64,
            facts.config().num_layers as u64,
            facts.config().num_heads as u64,
        );
        let attention = self
            .attention
            .iter()
            .map(|key| (key.layers.len() * key.positions.len()) as u64 * heads * key.stride as u64);
        let per_head = |key: &AttributionKey| if key.heads { heads } else { 0 };
        let attribution = self.attribution.iter().map(|key| d * (2 + depth * (2 + per_head(key))));
        let (attention, attribution): (u64, u64) = (attention.sum(), attribution.sum());
        let at = if attribution > attention { "/read/attribution" } else { "/read/attention" };
        (attention + attribution, at)
    }

    /// Readouts of the lens.
    pub(super) fn readouts(&self) -> u64 {
        self.lenses.iter().map(|key| (key.layers.len() * key.positions.len()) as u64).sum()
    }

    /// Adds the readouts and captures to a plan. `roots`: the plan's run of each of the request's runs.
    pub(super) fn add(&mut self, plan: &mut Plan, roots: &[RunId], facts: &dyn Facts) {
        let depth = facts.config().num_layers as u32;
        for key in &mut self.lenses {
            key.first = plan.readouts.len();
            for layer in &key.layers {
                for position in &key.positions {
                    plan.read_lens(roots[key.run], *position, *layer);
                }
            }
        }
        plan.scoring.entropy |= !self.lenses.is_empty();
        let capture = |run: usize, layer, site, positions: &[u32]| Capture {
            run: roots[run],
            at: Address { layer, site },
            positions: positions.to_vec(),
        };
        for key in &mut self.attention {
            key.first = plan.captures.len();
            let each = key.layers.iter().map(|l| capture(key.run, *l, Site::Pattern, &key.positions));
            plan.captures.extend(each);
        }
        for key in &mut self.attribution {
            key.first = plan.captures.len();
            let at = [key.position];
            plan.captures.push(capture(key.run, 0, Site::Embed, &at));
            plan.captures.push(capture(key.run, depth - 1, Site::ResidPost, &at));
            for site in key.sites() {
                plan.captures.extend((0..depth).map(|layer| capture(key.run, layer, *site, &at)));
            }
        }
    }
}
