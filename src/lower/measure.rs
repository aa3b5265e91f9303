//! Targets resolved to token ids and metrics to what they read of a score.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::facts::{Facts, Words};
use super::lint::Lints;
use super::prompts::TokenRun;
use crate::plan::Score;
use crate::spec::experiment::Experiment;
use crate::spec::metric::{Metric, Of, TargetItem, TargetScoring};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::read::{did_you_mean, escape};
use crate::tokens::{Changed, TokenizeError, joined};

/// One member of a target set as it was understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TargetToken {
    /// First token, the only one that counts unless `target_scoring` says otherwise.
    pub id: u32,
    /// Text of what counts.
    pub text: String,
    /// All tokens of the text given: those that it adds to the prompt of the first run, up to the position read.
    pub tokens: Vec<u32>,
    /// Runs after which the text has other tokens, with these. What is computed from a run's readouts, and from those of cells
    /// that patch it, is of its own.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, Vec<u32>>, required = false)]
    pub after: Named<Vec<u32>>,
    /// Which of the set's items it is.
    #[serde(skip)]
    pub item: usize,
}

/// Target sets and the union of their tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Sets by name, as they are after the first run's prompt.
    pub sets: Named<Vec<TargetToken>>,
    /// The same after prompts that give them other tokens.
    others: Vec<Named<Vec<TargetToken>>>,
    /// Each run's context: 0 for `sets`, or one more than an index into `others`.
    of_run: Named<u32>,
    /// Every first token once: [`crate::plan::Scoring::targets`].
    pub union: Vec<u32>,
    /// Every text of several tokens that counts as a whole, once: [`crate::plan::Scoring::sequences`].
    pub sequences: Vec<Arc<[u32]>>,
}

impl Targets {
    /// Sets by name in a context: [`crate::plan::Score::context`].
    pub fn of(&self, context: u32) -> &Named<Vec<TargetToken>> {
        context.checked_sub(1).map_or(&self.sets, |other| &self.others[other as usize])
    }

    /// The context of a run's readouts.
    pub fn context(&self, run: &str) -> u32 {
        self.of_run.get(run).copied().unwrap_or(0)
    }

    /// How many contexts there are.
    fn contexts(&self) -> u32 {
        1 + self.others.len() as u32
    }
}

/// A metric and what it reads of a [`crate::plan::Score`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    /// The metric as requested.
    pub metric: Metric,
    /// What is read in each context.
    pub reads: Vec<Reads>,
}

impl Measure {
    /// What is read of a score.
    pub fn reads(&self, score: &Score) -> &Reads {
        &self.reads[score.context as usize]
    }
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

/// The most bytes of prompts and targets together that are tokenised for targets.
const MOST_BYTES: u64 = 1 << 24;

/// Resolves target sets, each run's after its own prompt, and remarks on those that don't mean what they seem to.
pub fn targets(
    experiment: &Experiment,
    runs: &Named<TokenRun>,
    facts: &dyn Facts,
    lints: &mut Lints,
    out: &mut Problems,
) -> Targets {
    let asked: u64 = experiment.targets.iter().map(|(_, set)| set.len() as u64).sum();
    let at = match experiment.targets.names()[..] {
        [only] => format!("/targets/{}", escape(only)),
        _ => "/targets".to_owned(),
    };
    if asked > facts.limits().target_tokens {
        let detail = format!("{asked} target tokens, the limit is {}", facts.limits().target_tokens);
        out.push(at, code::LIMIT, detail, "name fewer tokens");
        return Targets::default();
    }
    let bytes = bytes_read(experiment, runs);
    if bytes > MOST_BYTES {
        let detail =
            format!("{bytes} bytes of prompts with each target behind them, the limit is {MOST_BYTES}");
        out.push(at, code::LIMIT, detail, "name fewer targets, or send fewer prompts");
        return Targets::default();
    }
    let mut targets = Targets::default();
    // Without any run, targets can still be checked by themselves.
    let alone = [(String::new(), None)];
    let named: Vec<(String, Option<&TokenRun>)> =
        runs.iter().map(|(name, run)| (name.to_owned(), Some(run))).collect();
    let mut known: Vec<(&str, u32)> = Vec::new();
    for (name, run) in if named.is_empty() { &alone[..] } else { &named } {
        let prompt = run.map_or("", TokenRun::context);
        let context = if let Some((_, context)) = known.iter().find(|(text, _)| *text == prompt) {
            *context
        } else {
            let reading = Reading { experiment, run: name, prompt, facts };
            let context = reading.add(&mut targets, known.is_empty(), lints, out);
            known.push((prompt, context));
            context
        };
        targets.of_run.0.push((name.clone(), context));
    }
    note_differences(&mut targets, facts.words(), lints);
    targets
}

/// Tells of which members runs have other tokens than the first.
fn note_differences(targets: &mut Targets, words: &dyn Words, lints: &mut Lints) {
    let mut sets = std::mem::take(&mut targets.sets);
    for (name, set) in &mut sets.0 {
        for token in set {
            for (run, context) in targets.of_run.iter().filter(|(_, context)| **context > 0) {
                let here =
                    targets.of(*context).get(name).and_then(|set| set.iter().find(|t| t.item == token.item));
                let Some(here) = here.filter(|here| here.tokens != token.tokens) else { continue };
                if token.after.is_empty() {
                    let (own, other) = (quoted(&token.tokens, words), quoted(&here.tokens, words));
                    let detail = format!("{other} after {run:?}, but {own} after the first run");
                    let at = format!("/targets/{}/{}", escape(name), token.item);
                    lints.info(
                        "TARGET_TOKENS_DIFFER",
                        at,
                        detail,
                        "let the prompts end alike, or give token ids",
                    );
                }
                token.after.0.push((run.to_owned(), here.tokens.clone()));
            }
        }
    }
    targets.sets = sets;
}

/// Bytes that have to be tokenised for targets: every different prompt with every text.
fn bytes_read(experiment: &Experiment, runs: &Named<TokenRun>) -> u64 {
    let items = experiment.targets.iter().flat_map(|(_, items)| items);
    let (mut texts, mut bytes) = (0_u64, 0_u64);
    for item in items {
        if let TargetItem::Text(text) = item {
            texts += 1;
            bytes += text.len() as u64;
        }
    }
    let prompts: HashSet<&str> = runs.iter().map(|(_, run)| run.context()).collect();
    prompts.iter().map(|prompt| bytes + texts * prompt.len() as u64).sum()
}

/// How targets are read after one prompt.
struct Reading<'r> {
    experiment: &'r Experiment,
    /// Name of the run, the first of those with this prompt.
    run: &'r str,
    /// Its text, up to the position read.
    prompt: &'r str,
    facts: &'r dyn Facts,
}

impl Reading<'_> {
    /// Adds what targets are after this prompt, and returns its context. Of the prompts after the `first`, only remarks and
    /// problems that are new are told.
    fn add(&self, targets: &mut Targets, first: bool, lints: &mut Lints, out: &mut Problems) -> u32 {
        let (mut remarks, mut problems) = (Lints::default(), Problems::default());
        let sets = self.sets(&mut remarks, &mut problems);
        if first {
            lints.0.append(&mut remarks.0);
            out.0.append(&mut problems.0);
        } else {
            remarks.0.retain(|lint| {
                !lints.0.iter().any(|known| (known.code, &known.pointer) == (lint.code, &lint.pointer))
            });
            for lint in &mut remarks.0 {
                lint.detail = format!("after {:?}: {}", self.run, lint.detail);
            }
            lints.0.append(&mut remarks.0);
            problems.0.retain(|problem| {
                !out.0.iter().any(|known| (known.code, &known.pointer) == (problem.code, &problem.pointer))
            });
            out.0.append(&mut problems.0);
        }
        let scoring = self.experiment.target_scoring;
        for token in sets.iter().flat_map(|(_, set)| set) {
            if !targets.union.contains(&token.id) {
                targets.union.push(token.id);
            }
            let whole = scoring != TargetScoring::FirstToken && token.tokens.len() > 1;
            if whole && !targets.sequences.iter().any(|sequence| **sequence == token.tokens[..]) {
                targets.sequences.push(token.tokens.as_slice().into());
            }
        }
        if first {
            targets.sets = sets;
            return 0;
        }
        let same = |context: &u32| {
            targets.of(*context).iter().zip(sets.iter()).all(|((_, a), (_, b))| {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a.item, &a.tokens) == (b.item, &b.tokens))
            })
        };
        if let Some(context) = (0..targets.contexts()).find(same) {
            return context;
        }
        targets.others.push(sets);
        targets.contexts() - 1
    }

    fn sets(&self, lints: &mut Lints, out: &mut Problems) -> Named<Vec<TargetToken>> {
        let scoring = self.experiment.target_scoring;
        let mut sets: Named<Vec<TargetToken>> = Named::default();
        for (name, items) in self.experiment.targets.iter() {
            let mut set: Vec<TargetToken> = Vec::new();
            for (i, item) in items.iter().enumerate() {
                let at = format!("/targets/{}/{i}", escape(name));
                let Some(token) = self.token(item, i, &at, lints, out) else { continue };
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
            overlap(name, &set, &sets, scoring, lints);
            sets.0.push((name.to_owned(), set));
        }
        sets
    }

    /// A member of the set at `at`.
    fn token(
        &self,
        item: &TargetItem,
        index: usize,
        at: &str,
        lints: &mut Lints,
        out: &mut Problems,
    ) -> Option<TargetToken> {
        let words = self.facts.words();
        // Models may pad the vocabulary; only rows that the tokenizer knows are answers.
        let known = words.vocab_size().min(self.facts.config().vocab_size);
        let mut changed = None;
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
            TargetItem::Text(text) => match words.continuation(self.prompt, text) {
                Ok(continuation) => {
                    changed = continuation.changed;
                    continuation.ids
                }
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
        let scoring = self.experiment.target_scoring;
        let text = match scoring {
            TargetScoring::FirstToken => words.text(id),
            TargetScoring::Joint | TargetScoring::MeanLogprob => {
                let texts: Vec<String> = tokens.iter().map(|id| words.text(*id)).collect();
                joined(texts.iter().map(String::as_str))
            }
        };
        if tokens.len() > 1 && scoring == TargetScoring::FirstToken {
            let detail = format!("{} tokens, of which only the first counts: {text:?} ({id})", tokens.len());
            let fix = "choose a target of one token, or \"target_scoring\": \"joint\"";
            lints.warn("MULTI_TOKEN_TARGET", at, detail, fix);
        }
        if let TargetItem::Text(text) = item {
            self.lint_boundary(text, &tokens, changed.as_ref(), at, lints);
        }
        Some(TargetToken { id, text, tokens, after: Named::default(), item: index })
    }

    /// Remarks on a text that does not begin where a token of the prompt ends.
    fn lint_boundary(&self, text: &str, ids: &[u32], changed: Option<&Changed>, at: &str, lints: &mut Lints) {
        if continues_word(self.prompt, text) {
            let detail = format!("{text:?} continues the prompt's last word");
            lints.warn("NO_LEADING_SPACE", at, detail, "begin the target with a space");
        }
        if let Some(changed) = changed {
            let words = self.facts.words();
            let detail = format!(
                "the prompt ends in {}, but with {text:?} behind it in {}; scored is {} after the prompt's own tokens",
                quoted(&changed.own, words),
                quoted(&changed.joined, words),
                quoted(ids, words)
            );
            let fix = "end the prompt where a token ends whatever follows, as before the space of a word";
            lints.warn("TARGET_CHANGES_PROMPT", at, detail, fix);
        }
    }
}

/// Texts of tokens in a row, the first of them.
pub(super) fn quoted(ids: &[u32], words: &dyn Words) -> String {
    const SHOWN: usize = 8;
    let texts: Vec<String> = ids.iter().take(SHOWN).map(|id| format!("{:?}", words.text(*id))).collect();
    let more = if ids.len() > SHOWN { " …" } else { "" };
    format!("[{}{more}]", texts.join(", "))
}

/// Whether a text goes on with the last word before it. Not told of scripts that are written without spaces.
fn continues_word(before: &str, text: &str) -> bool {
    let spaced = |c: char| c.is_alphanumeric() && !is_written_without_spaces(c);
    before.chars().last().is_some_and(spaced) && text.chars().next().is_some_and(spaced)
}

/// Thai, Lao, Tibetan, Myanmar, Khmer, and the scripts of Chinese and Japanese.
fn is_written_without_spaces(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{109f}'
        | '\u{1780}'..='\u{17ff}'
        | '\u{2e80}'..='\u{312f}'
        | '\u{31a0}'..='\u{a4cf}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff66}'..='\u{ff9f}'
        | '\u{20000}'..='\u{3ffff}')
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
        let mut reads = |context: u32| {
            Some(match metric.kind.facts().of {
                Of::Target => {
                    let members = set(&metric.of, context, &at, experiment, targets, out)?;
                    single_tokens(metric, &members, &at, targets, out)?;
                    Reads::Set(members)
                }
                Of::Pair => {
                    let fix = format!("write {}", metric.kind.facts().form());
                    let (a, b) = split_pair(&metric.of, &targets.sets, (&at, &fix), out)?;
                    let first = set(a, context, &at, experiment, targets, out)?;
                    Reads::Difference(first, set(b, context, &at, experiment, targets, out)?)
                }
                Of::Run => {
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
                Of::Base => Reads::Top1,
                Of::Edits => Reads::Written,
            })
        };
        let reads = (0..targets.contexts()).map(&mut reads).collect::<Option<_>>()?;
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
    let of_tokens = metric.kind.facts().tokens_only;
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
    context: u32,
    at: &str,
    experiment: &Experiment,
    targets: &Targets,
    out: &mut Problems,
) -> Option<Vec<Member>> {
    let Some(tokens) = targets.of(context).get(name) else {
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
    (at, fix): (&str, &str),
    out: &mut Problems,
) -> Option<(&'p str, &'p str)> {
    let splits: Vec<(&str, &str)> =
        pair.match_indices('-').map(|(i, _)| (&pair[..i], &pair[i + 1..])).collect();
    let known = |name: &str| sets.get(name).is_some();
    let best = splits.iter().find(|(a, b)| known(a) && known(b)).or(splits.first());
    if best.is_none() {
        out.push(at, code::UNKNOWN_VALUE, format!("{pair:?} names one target"), fix);
    }
    best.copied()
}
