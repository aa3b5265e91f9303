//! Targets resolved to token ids and metrics to what they read of a score.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::facts::Facts;
use super::lint::Lints;
use crate::spec::experiment::Experiment;
use crate::spec::metric::{Metric, MetricKind, TargetItem, TargetScoring};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::PromptText;
use crate::spec::read::{did_you_mean, escape};
use crate::tokens::TokenizeError;

/// One member of a target set as it was understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TargetToken {
    /// First token, the only one that counts unless `target_scoring` says otherwise.
    pub id: u32,
    /// Text of what counts.
    pub text: String,
    /// All tokens of the text given.
    pub tokens: Vec<u32>,
}

/// Target sets and the union of their tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Sets by name.
    pub sets: Named<Vec<TargetToken>>,
    /// Every first token once: [`crate::plan::Scoring::targets`].
    pub union: Vec<u32>,
    /// Every text of several tokens that counts as a whole, once: [`crate::plan::Scoring::sequences`].
    pub sequences: Vec<Arc<[u32]>>,
}

/// A metric and what it reads of a [`crate::plan::Score`].
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
    /// A target set.
    Set(Vec<Member>),
    /// Two sets: the first minus the second.
    Difference(Vec<Member>, Vec<Member>),
    /// A divergence: index into the score's `kl`.
    Divergence(usize),
    /// The most probable token.
    Top1,
    /// What the run's own edits changed.
    Written,
}

/// A member of a target set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// One token: index into the score's target tokens.
    Token(usize),
    /// Several tokens, scored as a whole.
    Sequence {
        /// Index into the score's sequences.
        index: usize,
        /// What its log-probability is divided by: 1, or for `mean_logprob` its number of tokens.
        per: u32,
    },
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
    let scoring = experiment.target_scoring;
    let mut targets = Targets::default();
    for (name, items) in experiment.targets.iter() {
        let mut set: Vec<TargetToken> = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let at = format!("/targets/{}/{i}", escape(name));
            let Some(token) = target_token(item, scoring, &at, facts, lints, out) else { continue };
            if let Some(other) = set.iter().find(|other| same(other, &token, scoring)) {
                // Words that only begin alike are told by MULTI_TOKEN_TARGET; the token counts once.
                if other.tokens == token.tokens {
                    let detail = format!("token {} {:?} is in the set already", token.id, token.text);
                    out.push(at, code::DUPLICATE, detail, "list each token once");
                }
                continue;
            }
            nested(&token, &set, scoring, &at, lints);
            set.push(token);
        }
        overlap(name, &set, &targets.sets, scoring, lints);
        for token in &set {
            if !targets.union.contains(&token.id) {
                targets.union.push(token.id);
            }
            let whole = scoring != TargetScoring::FirstToken && token.tokens.len() > 1;
            if whole && !targets.sequences.iter().any(|sequence| **sequence == token.tokens[..]) {
                targets.sequences.push(token.tokens.as_slice().into());
            }
        }
        targets.sets.0.push((name.to_owned(), set));
    }
    leading_spaces(experiment, lints);
    targets
}

/// Whether two members are scored by the same tokens.
fn same(a: &TargetToken, b: &TargetToken, scoring: TargetScoring) -> bool {
    match scoring {
        TargetScoring::FirstToken => a.id == b.id,
        TargetScoring::Joint | TargetScoring::MeanLogprob => a.tokens == b.tokens,
    }
}

/// Whether one of two members begins the other: the longer one's probability is part of the shorter one's.
fn shares(a: &TargetToken, b: &TargetToken, scoring: TargetScoring) -> bool {
    match scoring {
        TargetScoring::FirstToken => a.id == b.id,
        TargetScoring::Joint | TargetScoring::MeanLogprob => {
            a.tokens.starts_with(&b.tokens) || b.tokens.starts_with(&a.tokens)
        }
    }
}

/// Members of one set that begin each other count twice in its sum.
fn nested(token: &TargetToken, set: &[TargetToken], scoring: TargetScoring, at: &str, lints: &mut Lints) {
    if let Some(other) = set.iter().find(|other| shares(other, token, scoring)) {
        let detail = format!("{:?} and {:?} begin alike: the longer counts twice", other.text, token.text);
        lints.warn("TARGET_SETS_OVERLAP", at, detail, "keep the shorter, or the longer ones");
    }
}

fn target_token(
    item: &TargetItem,
    scoring: TargetScoring,
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
                let code = match error {
                    TokenizeError::NoEmbedding { .. } => code::UNKNOWN_TOKEN,
                    _ => code::NOT_TOKENISABLE,
                };
                out.push(at, code, error.to_string(), "change the text");
                return None;
            }
        },
    };
    let Some(&id) = tokens.first() else {
        out.push(at, code::EMPTY, "the text has no tokens", "write one word");
        return None;
    };
    let text = match scoring {
        TargetScoring::FirstToken => words.text(id),
        TargetScoring::Joint | TargetScoring::MeanLogprob => {
            tokens.iter().map(|id| words.text(*id)).collect()
        }
    };
    if tokens.len() > 1 && scoring == TargetScoring::FirstToken {
        let detail = format!("{} tokens, of which only the first counts: {text:?} ({id})", tokens.len());
        let fix = "choose a target of one token, or \"target_scoring\": \"joint\"";
        lints.warn("MULTI_TOKEN_TARGET", at, detail, fix);
    }
    Some(TargetToken { id, text, tokens })
}

fn overlap(
    name: &str,
    set: &[TargetToken],
    earlier: &Named<Vec<TargetToken>>,
    scoring: TargetScoring,
    lints: &mut Lints,
) {
    for (other, tokens) in earlier.iter() {
        let shared: Vec<&str> = set
            .iter()
            .filter(|t| tokens.iter().any(|o| shares(o, t, scoring)))
            .map(|t| t.text.as_str())
            .collect();
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
                let members = set(&metric.of, &at, experiment, targets, out)?;
                single_tokens(metric, &members, &at, targets, out)?;
                Reads::Set(members)
            }
            MetricKind::LogitDiff => {
                let (a, b) = split_pair(&metric.of, &targets.sets, &at, out)?;
                let first = set(a, &at, experiment, targets, out)?;
                Reads::Difference(first, set(b, &at, experiment, targets, out)?)
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
            MetricKind::DeltaNorm => Reads::Written,
        };
        Some(Measure { metric: metric.clone(), reads })
    });
    read.collect()
}

/// Refuses logits and ranks of texts: only tokens have them.
fn single_tokens(
    metric: &Metric,
    members: &[Member],
    at: &str,
    targets: &Targets,
    out: &mut Problems,
) -> Option<()> {
    let of_tokens = matches!(metric.kind, MetricKind::Logit | MetricKind::Rank);
    let sequence = members.iter().find_map(|member| match member {
        Member::Sequence { index, .. } if of_tokens => Some(&targets.sequences[*index]),
        _ => None,
    });
    let Some(tokens) = sequence else { return Some(()) };
    let detail = format!("a text of {} tokens has no {}", tokens.len(), metric.kind.name());
    let fix = "use logprob or prob, or \"target_scoring\": \"first_token\"";
    out.push(at, code::NOT_SUPPORTED, detail, fix);
    None
}

/// Where a set's members are read.
fn set(
    name: &str,
    at: &str,
    experiment: &Experiment,
    targets: &Targets,
    out: &mut Problems,
) -> Option<Vec<Member>> {
    let Some(tokens) = targets.sets.get(name) else {
        unknown_target(name, at, &targets.sets, out);
        return None;
    };
    let member = |token: &TargetToken| {
        let sequence = targets.sequences.iter().position(|sequence| **sequence == token.tokens[..]);
        if let Some(index) = sequence {
            let mean = experiment.target_scoring == TargetScoring::MeanLogprob;
            return Member::Sequence { index, per: if mean { token.tokens.len() as u32 } else { 1 } };
        }
        let place = targets.union.iter().position(|id| *id == token.id);
        Member::Token(place.expect("BUG: the union holds every set's first tokens"))
    };
    Some(tokens.iter().map(member).collect())
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
pub(super) fn split_pair<'p, T>(
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
