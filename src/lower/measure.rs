//! Targets resolved to token ids and metrics to what they read of a score.

use serde::Serialize;
use utoipa::ToSchema;

use super::facts::Facts;
use super::lint::Lints;
use crate::spec::experiment::Experiment;
use crate::spec::metric::{Metric, MetricKind, TargetItem};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::PromptText;
use crate::spec::read::{did_you_mean, escape};

/// One member of a target set as it was understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TargetToken {
    /// Token that counts.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// All tokens of the text given; more than one means that only the first counts.
    pub tokens: Vec<u32>,
}

/// Target sets and the union of their tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Sets by name.
    pub sets: Named<Vec<TargetToken>>,
    /// Every token once: [`crate::plan::Scoring::targets`].
    pub union: Vec<u32>,
}

/// A metric and what it reads of a [`crate::plan::Score`]. Numbers are indices into the score's target tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    /// The metric as requested.
    pub metric: Metric,
    /// What is read.
    pub reads: Reads,
}

/// What a metric reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// A set of target tokens.
    Set(Vec<usize>),
    /// Two sets: the first minus the second.
    Difference(Vec<usize>, Vec<usize>),
    /// A divergence: index into the score's `kl`.
    Divergence(usize),
    /// The most probable token.
    Top1,
}

/// Resolves target sets, and remarks on those that don't mean what they seem to.
pub fn targets(experiment: &Experiment, facts: &dyn Facts, lints: &mut Lints, out: &mut Problems) -> Targets {
    let asked: u64 = experiment.targets.iter().map(|(_, set)| set.len() as u64).sum();
    if asked > facts.limits().target_tokens {
        let detail = format!("{asked} target tokens, the limit is {}", facts.limits().target_tokens);
        let at = match experiment.targets.names()[..] {
            [only] => format!("/targets/{}", escape(only)),
            _ => "/targets".to_owned(),
        };
        out.push(at, code::LIMIT, detail, "name fewer tokens");
        return Targets::default();
    }
    let mut targets = Targets::default();
    for (name, items) in experiment.targets.iter() {
        let mut set: Vec<TargetToken> = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let at = format!("/targets/{}/{i}", escape(name));
            let Some(token) = target_token(item, &at, facts, lints, out) else { continue };
            if let Some(other) = set.iter().find(|other| other.id == token.id) {
                // Words that only begin alike are told by MULTI_TOKEN_TARGET; the token counts once.
                if other.tokens == token.tokens {
                    let detail = format!("token {} {:?} is in the set already", token.id, token.text);
                    out.push(at, code::DUPLICATE, detail, "list each token once");
                }
                continue;
            }
            set.push(token);
        }
        overlap(name, &set, &targets.sets, lints);
        for token in &set {
            if !targets.union.contains(&token.id) {
                targets.union.push(token.id);
            }
        }
        targets.sets.0.push((name.to_owned(), set));
    }
    leading_spaces(experiment, lints);
    targets
}

fn target_token(
    item: &TargetItem,
    at: &str,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<TargetToken> {
    let words = facts.words();
    // Models may pad the vocabulary; only rows that the tokenizer knows are answers.
    let known = words.vocab_size().min(facts.config().vocab_size);
    let tokens = match item {
        TargetItem::Id(id) if (*id as usize) < known => vec![*id],
        TargetItem::Id(id) => {
            let detail = format!("token id {id} is outside the vocabulary of {known} tokens");
            out.push(at, code::UNKNOWN_TOKEN, detail, format!("use ids below {known}"));
            return None;
        }
        TargetItem::Text(text) if text.len() > 4096 => {
            let detail = format!("a target of {} bytes, the limit is 4096", text.len());
            out.push(at, code::LIMIT, detail, "write one word");
            return None;
        }
        TargetItem::Text(text) => match words.target(text) {
            Ok(tokens) => tokens,
            Err(error) => {
                out.push(at, code::NOT_TOKENISABLE, error.to_string(), "change the text");
                return None;
            }
        },
    };
    let Some(&id) = tokens.first() else {
        out.push(at, code::EMPTY, "the text has no tokens", "write one word");
        return None;
    };
    let text = words.text(id);
    if tokens.len() > 1 {
        let detail = format!("{} tokens, of which only the first counts: {text:?} ({id})", tokens.len());
        lints.warn("MULTI_TOKEN_TARGET", at, detail, "choose a target of one token");
    }
    Some(TargetToken { id, text, tokens })
}

fn overlap(name: &str, set: &[TargetToken], earlier: &Named<Vec<TargetToken>>, lints: &mut Lints) {
    for (other, tokens) in earlier.iter() {
        let shared: Vec<&str> =
            set.iter().filter(|t| tokens.iter().any(|o| o.id == t.id)).map(|t| t.text.as_str()).collect();
        if !shared.is_empty() {
            let detail = format!("{name} and {other} share {shared:?}");
            let at = format!("/targets/{}", escape(name));
            lints.warn("TARGET_SETS_OVERLAP", at, detail, "choose sets without a common first token");
        }
    }
}

/// A word after text that doesn't end in a space is written with its space by the model.
fn leading_spaces(experiment: &Experiment, lints: &mut Lints) {
    let open = experiment.runs.iter().any(|(_, prompt)| match &prompt.text {
        PromptText::Prompt(text) => text.chars().last().is_some_and(char::is_alphanumeric),
        PromptText::Tokens(_) | PromptText::Derived { .. } => false,
    });
    if !open {
        return;
    }
    for (name, items) in experiment.targets.iter() {
        for (i, item) in items.iter().enumerate() {
            let TargetItem::Text(text) = item else { continue };
            if text.chars().next().is_some_and(char::is_alphanumeric) {
                let detail = format!("{text:?} continues the prompt's last word");
                let at = format!("/targets/{}/{i}", escape(name));
                lints.warn("NO_LEADING_SPACE", at, detail, "begin the target with a space");
            }
        }
    }
}

/// Resolves metrics. `refs` gets the names of the runs that divergences refer to, in the order of
/// [`crate::plan::Scoring::kl_refs`].
pub fn measures(
    experiment: &Experiment,
    targets: &Targets,
    facts: &dyn Facts,
    refs: &mut Vec<String>,
    out: &mut Problems,
) -> Vec<Measure> {
    if experiment.metrics.len() as u64 > facts.limits().metrics {
        let detail = format!("{} metrics, the limit is {}", experiment.metrics.len(), facts.limits().metrics);
        out.push("/metrics", code::LIMIT, detail, "ask for fewer");
        return Vec::new();
    }
    let metrics = experiment.metrics.iter().enumerate();
    let read = metrics.filter_map(|(i, metric)| {
        let at = format!("/metrics/{i}");
        let reads = match metric.kind {
            MetricKind::Prob | MetricKind::Logprob | MetricKind::Logit | MetricKind::Rank => {
                Reads::Set(set(&metric.of, &at, targets, out)?)
            }
            MetricKind::LogitDiff => {
                let (a, b) = split_pair(&metric.of, &targets.sets, &at, out)?;
                Reads::Difference(set(a, &at, targets, out)?, set(b, &at, targets, out)?)
            }
            MetricKind::Kl => {
                if experiment.runs.get(&metric.of).is_none() {
                    super::prompts::unknown_run(&metric.of, &at, &experiment.runs, out);
                    return None;
                }
                let known = refs.iter().position(|name| *name == metric.of);
                Reads::Divergence(known.unwrap_or_else(|| {
                    refs.push(metric.of.clone());
                    refs.len() - 1
                }))
            }
            MetricKind::Top1Flip => Reads::Top1,
        };
        Some(Measure { metric: metric.clone(), reads })
    });
    read.collect()
}

/// Indices of a set's tokens in the union.
fn set(name: &str, at: &str, targets: &Targets, out: &mut Problems) -> Option<Vec<usize>> {
    let Some(tokens) = targets.sets.get(name) else {
        unknown_target(name, at, &targets.sets, out);
        return None;
    };
    let slots = tokens.iter().map(|token| {
        targets.union.iter().position(|id| *id == token.id).expect("BUG: the union holds every set's tokens")
    });
    Some(slots.collect())
}

/// Reports a target that the request doesn't define.
pub fn unknown_target<T>(name: &str, at: &str, sets: &Named<T>, out: &mut Problems) {
    let names = sets.names();
    let detail = format!("no target is called {name:?}{}", did_you_mean(name, &names));
    let fix = if names.is_empty() {
        format!("add \"targets\": {{{name:?}: [\" token\"]}}")
    } else {
        format!("the targets are {}", names.join(", "))
    };
    out.push(at, code::UNKNOWN_NAME, detail, fix);
}

/// Splits `A-B` at the dash that leaves two known names, since names may hold dashes themselves.
fn split_pair<'p, T>(
    pair: &'p str,
    sets: &Named<T>,
    at: &str,
    out: &mut Problems,
) -> Option<(&'p str, &'p str)> {
    let splits: Vec<(&str, &str)> =
        pair.match_indices('-').map(|(i, _)| (&pair[..i], &pair[i + 1..])).collect();
    let known = |name: &str| sets.get(name).is_some();
    let best = splits.iter().find(|(a, b)| known(a) && known(b)).or(splits.first());
    if best.is_none() {
        out.push(at, code::UNKNOWN_VALUE, format!("{pair:?} names one target"), "write logit_diff:A-B");
    }
    best.copied()
}
