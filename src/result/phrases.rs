//! Words for pictures: what a metric measures, how a run was corrupted, what was written.

use super::cases::CasesResponse;
use super::trace::TraceResponse;
use crate::draw::label::shorten;
use crate::draw::scale::significant;
use crate::effect::stats::Estimate;
use crate::lower::layout::{Replaced, SigmaUsed};
use crate::lower::lint::{Lint, Severity};
use crate::lower::measure::TargetToken;
use crate::spec::corruption::{Method, Mode, Replacement, RunNames};
use crate::spec::experiment::Experiment;
use crate::spec::intervention::{AlongSpec, Basis, Intervention, OpSpec, SourceSpec};
use crate::spec::metric::{Metric, MetricKind, Of, TargetScoring};
use crate::spec::named::Named;
use crate::spec::patch::SweepAxis;
use crate::spec::select::{AllWord, Layers, PositionWord, Positions, Steps};
use crate::spec::site::Site;
use crate::spec::trace::Direction;
use crate::tokens::{Token, joined};

/// Digits of numbers in subtitles.
const DIGITS: usize = 4;

/// What a metric measures, with its unit: `P(" Paris")`, `log P(" Paris") in nats`.
pub(super) fn metric(key: &str, experiment: &Experiment, targets: &Named<Vec<TargetToken>>) -> String {
    let Some(Metric { kind, of }) = experiment.metrics.iter().find(|metric| metric.to_string() == key) else {
        return key.to_owned();
    };
    let facts = kind.facts();
    let named = match facts.of {
        Of::Target => vec![set(of, targets)],
        Of::Pair => match pair(of, targets) {
            Some(two) => two,
            None => return key.to_owned(),
        },
        Of::Run => vec![of.clone()],
        Of::Base | Of::Edits => Vec::new(),
    };
    facts.label_of(&named, experiment.target_scoring)
}

/// The logit of a target, or the difference of two.
pub(super) fn logit(of: &str, targets: &Named<Vec<TargetToken>>) -> String {
    let (kind, named) = match pair(of, targets) {
        Some(two) => (MetricKind::LogitDiff, two),
        None => (MetricKind::Logit, vec![set(of, targets)]),
    };
    kind.facts().label_of(&named, TargetScoring::FirstToken)
}

/// Two targets, if these words are the names of two.
fn pair(of: &str, targets: &Named<Vec<TargetToken>>) -> Option<Vec<String>> {
    let known = |name: &str| targets.get(name).is_some();
    let mut splits = of.match_indices('-').map(|(at, _)| (&of[..at], &of[at + 1..]));
    let (a, b) = splits.find(|(a, b)| known(a) && known(b))?;
    Some(vec![set(a, targets), set(b, targets)])
}

/// A target set: its only token; of several the name that the caller gave it, or else the first ones.
fn set(name: &str, targets: &Named<Vec<TargetToken>>) -> String {
    let given = !["target", "foil"].contains(&name);
    match targets.get(name).map(Vec::as_slice) {
        Some([only]) => format!("{:?}", only.text),
        Some(tokens @ ([_, _] | [_, _, _])) if !given => {
            tokens.iter().map(|token| format!("{:?}", token.text)).collect::<Vec<_>>().join(" or ")
        }
        Some(tokens) => format!("{name}: {} tokens", tokens.len()),
        None => name.to_owned(),
    }
}

/// The text of a prompt in quotes, cut where it is long. A BOS is no text.
pub(super) fn prompt<'t>(tokens: impl Iterator<Item = &'t Token>) -> String {
    let text = joined(tokens.filter(|token| token.start < token.end).map(|token| token.text.as_str()));
    format!("“{}”", shorten(text.trim(), 90))
}

/// Warnings and errors of a result by their codes, each once; `None`: there are none.
pub(super) fn lints<'l>(found: impl Iterator<Item = (&'l str, bool)>) -> Option<String> {
    let mut codes: Vec<&str> = Vec::new();
    for (code, _) in found.filter(|(_, grave)| *grave) {
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    (!codes.is_empty()).then(|| format!("warnings: {}", codes.join(", ")))
}

/// The same of lints as a response has them.
pub(super) fn warnings(found: &[Lint]) -> Option<String> {
    lints(found.iter().map(|lint| (lint.code, lint.severity > Severity::Info)))
}

/// The same on one line wherever a label wraps, unless it would be long.
pub(super) fn unbroken(text: &str) -> String {
    if text.chars().count() <= 24 { text.replace(' ', "\u{a0}") } else { text.to_owned() }
}

/// A named number, held together.
pub(super) fn number(label: &str, value: Option<f64>) -> String {
    let value = value.map_or_else(|| "not finite".to_owned(), |value| significant(value, DIGITS));
    format!("{label} = {value}").replace(' ', "\u{a0}")
}

/// A named mean with its standard error, held together.
pub(super) fn estimate(label: &str, estimate: &Estimate) -> String {
    let error = estimate.se.map_or_else(String::new, |se| format!(" ± {}", significant(se, 2)));
    number(label, estimate.mean) + &error.replace(' ', "\u{a0}")
}

/// Which states went where, and what an effect is.
pub(super) const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Denoising => "denoising: effect = patched − corrupted",
        Direction::Noising => "noising: effect = patched − clean",
    }
}

/// How the corrupted run came about.
pub(super) fn corruption(response: &TraceResponse) -> String {
    let method = &response.request.corrupt.method;
    match method {
        Method::Run { run: RunNames::One(run) } => format!("corrupted run: {run}"),
        Method::Run { run: RunNames::List(runs) } => format!("corrupted runs: {}", listed(runs)),
        Method::ReplaceTokens(_) => replaced(response),
        method => noise(method, response.sigma, response.samples),
    }
}

/// How every case's corrupted run came about.
pub(super) fn corruption_of_cases(response: &CasesResponse) -> String {
    match &response.request.corrupt.method {
        Method::ReplaceTokens(replace) => {
            let text = |(one, _): (Replacement, String)| match one {
                Replacement::Text(text) => format!("“{}”", text.trim()),
                Replacement::Tokens(ids) => format!("ids {}", listed(&ids)),
            };
            let texts: Vec<String> = replace.with.each().into_iter().map(text).collect();
            format!("tokens replaced by {}", listed(&texts))
        }
        method => noise(method, response.sigma, response.samples as usize),
    }
}

fn noise(method: &Method, sigma: Option<SigmaUsed>, samples: usize) -> String {
    let draws = method.draws();
    let size = sigma.map_or_else(String::new, |sigma| {
        let abs = significant(sigma.abs, DIGITS);
        match (sigma.k, sigma.of) {
            (Some(k), Some(of)) => format!(" {}σ of {} ({abs})", significant(k, DIGITS), of.name()),
            _ => format!(" σ = {abs}"),
        }
    });
    let noise = match method {
        Method::Gaussian(_) => "noise".to_owned(),
        other => format!("{} noise", other.name().replace('_', " ")),
    };
    let mode = match draws.map(|draws| draws.mode) {
        Some(Mode::Replace) => " in place of the embeddings",
        _ => "",
    };
    let noise = format!("{noise}{size}{mode}");
    let word = if samples == 1 { "sample" } else { "samples" };
    let seed = draws.map_or_else(String::new, |draws| format!(", seed\u{a0}{}", draws.seed));
    format!("{noise}, {samples}\u{a0}{word}{seed}")
}

/// The texts that took the place of tokens.
fn replaced(response: &TraceResponse) -> String {
    let text = |one: &Replaced| {
        joined(one.differing_positions.iter().map(|p| one.tokens[*p as usize].text.as_str()))
    };
    let texts: Vec<String> = response.replaced.iter().map(|one| format!("“{}”", text(one).trim())).collect();
    format!("tokens replaced by {}", listed(&texts))
}

/// What a patch writes, leaving out what is swept: `resid_post from source, last position`.
pub(super) fn interventions(list: &[Intervention], swept: &[SweepAxis]) -> String {
    match list {
        [] | [_] | [_, _] => {
            list.iter().map(|one| intervention(one, swept)).collect::<Vec<_>>().join(" and ")
        }
        _ => format!("{} and {} interventions more", intervention(&list[0], swept), list.len() - 1),
    }
}

fn intervention(one: &Intervention, swept: &[SweepAxis]) -> String {
    let site = one.site;
    let from = |source: &SourceSpec| source_of(source, site);
    let what = match &one.op {
        OpSpec::Replace { source } | OpSpec::Mean { source } => format!("{site} from {}", from(source)),
        OpSpec::Add { source, coef, norm_match } => {
            let kept = if *norm_match { ", norm kept" } else { "" };
            let times = match coef.constant().map(|coef| significant(coef, DIGITS)) {
                None => "by step ".to_owned(),
                Some(one) if one == "1" => String::new(),
                Some(other) => format!("{other} times "),
            };
            // Added is not the run, but its values.
            let that = if matches!(source, SourceSpec::Run { site: None, layer: None, .. }) {
                "that of "
            } else {
                ""
            };
            format!("{site} plus {times}{that}{}{kept}", from(source))
        }
        OpSpec::Scale { factor, along } => {
            let part =
                along.as_ref().map(|along| format!(" along {}", along_what(along))).unwrap_or_default();
            format!("{site}{part} times {}", significant(*factor, DIGITS))
        }
        OpSpec::Clamp { along, min, max } => {
            let least = min.map(|min| format!("at least {}", significant(min, DIGITS)));
            let most = max.map(|max| format!("at most {}", significant(max, DIGITS)));
            let held: Vec<String> = [least, most].into_iter().flatten().collect();
            format!("{site} along {} held {}", along_what(along), held.join(" and "))
        }
        OpSpec::Zero => format!("{site} set to zero"),
        OpSpec::Resample { source, .. } => format!("{site} from one of {}", listed(&source.any_of)),
        OpSpec::Noise { .. } => format!("noise added to {site}"),
        OpSpec::Knockout { keys } => format!("attention to {} cut", positions(keys)),
        OpSpec::ProjectOut { basis } => format!("{site} without {}", directions(basis)),
        OpSpec::Subspace { basis, source } => {
            format!("{} of {site} from {}", directions(basis), from(source))
        }
        OpSpec::Freeze { source } => {
            format!("{site} held as in {}", source.as_ref().map_or_else(|| "the base".to_owned(), from))
        }
    };
    let layers = one.layers.as_ref().filter(|_| !swept.contains(&SweepAxis::Layers)).map(layers);
    let positions = (!swept.contains(&SweepAxis::Positions)).then(|| positions(&one.positions));
    let window = (one.window > 1).then(|| format!("window {}", one.window));
    [Some(what), layers, positions, window].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Where values come from; `site` is the one written.
fn source_of(source: &SourceSpec, site: Site) -> String {
    match source {
        SourceSpec::Run { run, site: None, layer: None, .. } => run.clone(),
        SourceSpec::Run { run, site: read, layer, .. } => {
            let layer = layer.as_ref().map(|read| format!(" of {}", layers(read))).unwrap_or_default();
            format!("{run}'s {}{layer}", read.unwrap_or(site))
        }
        SourceSpec::Activation { activation, .. } => activation.clone(),
        SourceSpec::MeanOf { mean_of, .. } => format!("the mean of {}", listed(mean_of)),
        SourceSpec::Branch { branch, .. } => format!("branch {branch}"),
        SourceSpec::Vector { .. } => "a given vector".to_owned(),
    }
}

fn along_what(along: &AlongSpec) -> String {
    match along {
        AlongSpec::Vector(_) => "one direction".to_owned(),
        AlongSpec::Stored { activation, .. } => activation.clone(),
    }
}

/// How many directions span a subspace.
fn directions(basis: &Basis) -> String {
    match basis {
        Basis::Vectors(vectors) if vectors.len() == 1 => "one direction".to_owned(),
        Basis::Vectors(vectors) => format!("{} directions", vectors.len()),
        Basis::Stored { activation, .. } => format!("the directions of {activation}"),
    }
}

fn layers(layers: &Layers) -> String {
    match layers {
        Layers::One(layer) => format!("layer {layer}"),
        Layers::List(list) => format!("layers {}", listed(list)),
        Layers::Range { from, to, step } => {
            let to = to.map_or_else(|| "the last".to_owned(), |to| to.saturating_sub(1).to_string());
            let step = if *step > 1 { format!(" in steps of {step}") } else { String::new() };
            format!("layers {from} to {to}{step}")
        }
        Layers::Word(AllWord::All) => "all layers".to_owned(),
        Layers::Above(_) => "the layers above".to_owned(),
    }
}

fn positions(positions: &Positions) -> String {
    match positions {
        Positions::One(position) => format!("position {position}"),
        Positions::List(list) => format!("positions {}", listed(list)),
        Positions::Range { range: [from, to] } => format!("positions [{from}, {to})"),
        Positions::Span { span, .. } => format!("tokens of {span}"),
        Positions::Class { class, span } => format!("{} of {span}", class.name().replace('_', " ")),
        Positions::Align { .. } => "positions aligned by their tokens".to_owned(),
        Positions::Map { map } => match &map[..] {
            [[from, to]] => format!("position {from} to position {to}"),
            _ => format!("{} pairs of positions", map.len()),
        },
        Positions::Steps { steps } => self::steps(steps),
        Positions::Joint(parts) => parts.0.iter().map(self::positions).collect::<Vec<_>>().join(" and "),
        Positions::Word(PositionWord::Last) => "last position".to_owned(),
        Positions::Word(PositionWord::All) => "all positions".to_owned(),
    }
}

fn steps(steps: &Steps) -> String {
    match steps {
        Steps::One(step) => format!("step {step}"),
        Steps::List(list) => format!("steps {}", listed(list)),
        Steps::Range { from, to: Some(to) } => format!("steps [{from}, {to})"),
        Steps::Range { from, to: None } => format!("steps from {from}"),
        Steps::Word(AllWord::All) => "all steps".to_owned(),
    }
}

/// At most six of them.
fn listed<T: std::fmt::Display>(items: &[T]) -> String {
    let shown: Vec<String> = items.iter().take(6).map(T::to_string).collect();
    let more = if items.len() > 6 { ", …" } else { "" };
    shown.join(", ") + more
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lower;
    use crate::lower::testing::Fake;
    use crate::spec::patch::PatchSpec;
    use crate::spec::problem::Problems;

    #[test]
    fn metrics_are_named_by_the_tokens_they_are_about() {
        let body = json!({"runs": {"a": {"prompt": "The"}}, "base": "a",
                          "targets": {"x": [" Paris", " Rome"], "y-z": ["\n"], "x-y": [" city", " of", " the", " a"]},
                          "metrics": ["prob:x", "logprob:y-z", "logit:x-y", "logit_diff:x-y-y-z", "rank:y-z", "kl:a",
                                      "top1_flip", "delta_norm"],
                          "interventions": [{"site": "mlp_out", "op": "zero"}]});
        let layout = lower::lower::<PatchSpec>(&body, &Fake::default()).unwrap().layout;
        let said = |key: &str| metric(key, &layout.spec.experiment, &layout.case.common.targets.sets);
        for (key, expected) in [
            ("prob:x", "P(x: 2 tokens)"),
            ("logprob:y-z", "log P(\"\\n\") in nats"),
            ("logit:x-y", "logit(x-y: 4 tokens)"),
            ("logit_diff:x-y-y-z", "logit(x-y: 4 tokens) − logit(\"\\n\")"),
            ("rank:y-z", "rank of \"\\n\""),
            ("kl:a", "KL divergence from a in nats"),
            ("top1_flip", "top-1 flip (1 = another token)"),
            ("delta_norm", "L2 norm of what was written"),
            ("prob:nobody", "prob:nobody"),
        ] {
            assert_eq!(said(key), expected);
        }
    }

    #[test]
    fn metrics_of_whole_texts_are_named_by_the_texts() {
        let said = |key: &str, scoring: &str| {
            let body = json!({"prompt": "The", "targets": {"x": [" the city"], "y": [" Rome"]}, "metrics": [key],
                              "target_scoring": scoring});
            let layout = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::default()).unwrap().layout;
            metric(key, &layout.spec.experiment, &layout.common.targets.sets)
        };
        assert_eq!(said("prob:x", "first_token"), "P(\" the\")");
        assert_eq!(said("prob:x", "joint"), "P(\" the city\")");
        assert_eq!(said("logprob:x", "joint"), "log P(\" the city\") in nats");
        assert_eq!(said("logit_diff:x-y", "joint"), "log P(\" the city\") − log P(\" Rome\")");
        assert_eq!(said("prob:x", "mean_logprob"), "P(\" the city\"), geometric mean over tokens");
        assert_eq!(said("logprob:x", "mean_logprob"), "log P(\" the city\") in nats per token");
    }

    #[test]
    fn interventions_are_told_without_what_is_swept() {
        let said = |list: serde_json::Value, sweep: serde_json::Value| {
            let body = json!({"base": "The river has", "source": "The river is", "target": " a",
                              "interventions": list, "sweep": sweep, "allow_trivial": true});
            let spec = lower::lower::<PatchSpec>(&body, &Fake::default()).unwrap().layout.spec;
            interventions(&spec.interventions, &spec.sweep)
        };
        let source = json!({"run": "source"});
        let replace = json!({"site": "resid_post", "layers": 2, "positions": [0, -1], "source": source});
        assert_eq!(said(json!([replace]), json!([])), "resid_post from source, layer 2, positions 0, -1");
        let zero = json!({"site": "mlp_out", "op": "zero", "layers": {"from": 0, "to": 3}, "positions": "all", "window": 2});
        assert_eq!(said(json!([zero]), json!(["layers"])), "mlp_out set to zero, all positions, window 2");
        let scale = json!({"site": "attn_out", "op": "scale", "factor": 0.5, "layers": {"from": 1}, "positions": "last"});
        assert_eq!(
            said(json!([zero, scale]), json!(["positions"])),
            "mlp_out set to zero, layers 0 to 2, window 2 and attn_out times 0.5, layers 1 to the last"
        );
        let add = json!({"site": "resid_mid", "op": "add", "coef": 2, "layers": 0, "positions": {"range": [0, 2]},
                         "source": source});
        assert_eq!(
            said(json!([add, zero, scale]), json!([])),
            "resid_mid plus 2 times that of source, layer 0, positions [0, 2) and 2 interventions more"
        );
    }

    #[test]
    fn every_operation_and_source_is_told_in_words() {
        let said = |mut one: serde_json::Value| {
            one["positions"] = json!("last");
            let run = |text: &str| json!({"prompt": text});
            let body = json!({"runs": {"a": run("The river has"), "b": run("The river is"), "c": run("The city is")},
                              "base": "a", "target": " a", "interventions": [one], "allow_trivial": true});
            let mut problems = Problems::default();
            let spec = PatchSpec::read(&body, &mut problems).unwrap_or_else(|| panic!("{problems:#?}"));
            interventions(&spec.interventions, &[SweepAxis::Layers, SweepAxis::Positions])
        };
        let mean = json!({"mean_of": ["b", "c"]});
        let (e1, e2) = ([1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]);
        for (one, expected) in [
            (json!({"site": "mlp_out", "op": "add", "source": {"run": "b"}}), "mlp_out plus that of b"),
            (
                json!({"site": "mlp_out", "op": "add", "coef": -0.5, "norm_match": true, "source": {"vector": e1}}),
                "mlp_out plus −0.5 times a given vector, norm kept",
            ),
            (
                json!({"site": "mlp_out", "op": "add", "coef": 2, "source": mean}),
                "mlp_out plus 2 times the mean of b, c",
            ),
            (json!({"site": "mlp_out", "op": "mean", "source": mean}), "mlp_out from the mean of b, c"),
            (
                json!({"site": "resid_post", "source": {"run": "b", "site": "resid_pre", "layer": 2}}),
                "resid_post from b's resid_pre of layer 2",
            ),
            (
                json!({"site": "resid_post", "source": {"run": "b", "layer": 0}}),
                "resid_post from b's resid_post of layer 0",
            ),
            (json!({"site": "z", "op": "resample", "source": {"any_of": ["b", "c"]}}), "z from one of b, c"),
            (json!({"site": "q", "op": "freeze"}), "q held as in the base"),
            (json!({"site": "q", "op": "freeze", "source": {"run": "b"}}), "q held as in b"),
            (
                json!({"site": "mlp_norm", "op": "project_out", "basis": [e1]}),
                "mlp_norm without one direction",
            ),
            (
                json!({"site": "mlp_norm", "op": "scale", "factor": 2, "along": e1}),
                "mlp_norm along one direction times 2",
            ),
            (
                json!({"site": "mlp_norm", "op": "clamp", "max": 2, "along": {"activation": "act_1"}}),
                "mlp_norm along act_1 held at most 2",
            ),
            (
                json!({"site": "mlp_norm", "op": "clamp", "min": -1, "max": 2, "along": e1}),
                "mlp_norm along one direction held at least −1 and at most 2",
            ),
            (
                json!({"site": "mlp_norm", "op": "subspace", "basis": [e1, e2], "source": {"run": "c"}}),
                "2 directions of mlp_norm from c",
            ),
        ] {
            assert_eq!(said(one), expected);
        }
    }
}
