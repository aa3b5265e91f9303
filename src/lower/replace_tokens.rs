//! Other tokens in the clean run's place: symmetric token replacement (Zhang and Nanda 2023), and whole other runs.

use std::sync::Arc;

use super::corrupted::{Corrupted, corrupted_positions};
use super::diff::differing;
use super::facts::{Facts, Words};
use super::layout::Replaced;
use super::lint::Lints;
use super::measure::quoted;
use super::prepare::Prepared;
use super::prompts::{Span, TokenRun, find};
use crate::plan::{Plan, RunId};
use crate::spec::corruption::{Corruption, Method, ReplaceTokens, Replacement, RunNames};
use crate::spec::experiment::Experiment;
use crate::spec::problem::{Problems, code};
use crate::spec::select::Positions;
use crate::tokens::{Token, TokenizeError};

/// One prompt in the clean one's place.
pub(super) struct Swap {
    /// Which of the request's runs it is, if it is one.
    run: Option<(usize, String)>,
    tokens: Vec<Token>,
    ids: Arc<[u32]>,
    differing: Vec<u32>,
}

/// Every prompt that takes the clean one's place; `None` for noise and for anything wrong.
pub(super) fn resolve(
    corrupt: &Corruption,
    experiment: &Experiment,
    clean: &TokenRun,
    facts: &dyn Facts,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Option<Vec<Swap>> {
    match &corrupt.method {
        Method::Run { run } => runs(run, &corrupt.from, experiment, clean, prepared, out),
        Method::ReplaceTokens(replace) => tokens(replace, clean, facts, prepared, out),
        _ => None,
    }
}

fn runs(
    names: &RunNames,
    from: &str,
    experiment: &Experiment,
    clean: &TokenRun,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Option<Vec<Swap>> {
    let swaps: Vec<Option<Swap>> = names
        .each()
        .into_iter()
        .map(|(name, at)| {
            let at = format!("/corrupt{at}");
            let other = find(name, &at, experiment, &prepared.runs, out)?;
            let differing = check_run(name, other, from, clean, &at, out)?;
            let run = Some((prepared.runs.place(name)?, name.to_owned()));
            let swap = Swap { run, tokens: other.tokens.clone(), ids: Arc::clone(&other.ids), differing };
            outside_subject(&swap, clean, &at, prepared);
            Some(swap)
        })
        .collect();
    swaps.into_iter().collect()
}

/// Positions at which another run differs from the clean one, if it can take its place.
fn check_run(
    name: &str,
    other: &TokenRun,
    from: &str,
    clean: &TokenRun,
    at: &str,
    out: &mut Problems,
) -> Option<Vec<u32>> {
    if name == from {
        let detail = format!("{name:?} would be corrupted by itself");
        out.push(at, code::SELF_REFERENCE, detail, "name another run");
        return None;
    }
    let differing = differing(&clean.ids, &other.ids).filter(|_| other.read == clean.read);
    let Some(differing) = differing else {
        let detail = format!("{from:?} has {} tokens, {name:?} has {}", clean.len(), other.len());
        let fix = "choose a run of equal length, read at the same position; POST /v1/align shows both";
        out.push(at, code::LENGTH_MISMATCH, detail, fix);
        return None;
    };
    if differing.is_empty() {
        let detail = format!("{name:?} has the same tokens as {from:?}");
        out.push(at, code::SELF_REFERENCE, detail, "name a run that differs");
        return None;
    }
    Some(differing)
}

/// Remarks on a pair that differs elsewhere than in the subject: then effects aren't the subject's alone.
fn outside_subject(swap: &Swap, clean: &TokenRun, at: &str, prepared: &mut Prepared) {
    let Some(subject) = clean.spans.get("subject").and_then(Span::range) else { return };
    let outside: Vec<u32> = swap.differing.iter().copied().filter(|p| !subject.contains(p)).collect();
    if !outside.is_empty() {
        let detail = format!(
            "positions {outside:?} differ too; the subject is at [{}, {})",
            subject.start, subject.end
        );
        let fix = "choose a prompt that differs in the subject only";
        prepared.lints.warn("DIFFERS_OUTSIDE_SUBJECT", at, detail, fix);
    }
}

fn tokens(
    replace: &ReplaceTokens,
    clean: &TokenRun,
    facts: &dyn Facts,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Option<Vec<Swap>> {
    let positions = corrupted_positions(&replace.positions, replace.include_bos, clean, prepared, out)?;
    let old: Vec<u32> = positions.iter().map(|p| clean.ids[*p as usize]).collect();
    let mut known: Vec<Vec<u32>> = Vec::new();
    let mut swaps = Vec::new();
    let alternatives = replace.with.each();
    let count = alternatives.len();
    for (alternative, at) in alternatives {
        let at = format!("/corrupt{at}");
        let place = Place { clean, positions: &positions, old: &old, words: facts.words() };
        let Some(new) = place.ids(&alternative, &at, out) else { continue };
        if known.contains(&new) {
            out.push(at, code::DUPLICATE, "these tokens are listed already", "list each alternative once");
            continue;
        }
        place.lint(&alternative, &new, &at, &mut prepared.lints);
        let mut ids = clean.ids.to_vec();
        let mut tokens = clean.tokens.clone();
        for (position, id) in positions.iter().zip(&new) {
            let position = *position as usize;
            ids[position] = *id;
            // Offsets are those of the clean prompt: what stood there is what is replaced.
            tokens[position] = Token { id: *id, text: facts.words().text(*id), ..tokens[position].clone() };
        }
        let differing = differing(&clean.ids, &ids).unwrap_or_default();
        known.push(new);
        let swap = Swap { run: None, tokens, ids: ids.into(), differing };
        if !matches!(&replace.positions, Positions::Span { span, .. } if span == "subject") {
            outside_subject(&swap, clean, "/corrupt/positions", prepared);
        }
        swaps.push(swap);
    }
    (swaps.len() == count).then_some(swaps)
}

/// Tokens of the clean run that others take the place of.
struct Place<'p> {
    clean: &'p TokenRun,
    /// Ascending.
    positions: &'p [u32],
    /// The tokens there.
    old: &'p [u32],
    words: &'p dyn Words,
}

impl Place<'_> {
    /// Ids of an alternative, if it has as many tokens as it replaces, and others.
    fn ids(&self, alternative: &Replacement, at: &str, out: &mut Problems) -> Option<Vec<u32>> {
        let ids = match alternative {
            Replacement::Text(text) if text.len() > 4096 => {
                let detail = format!("a replacement of {} bytes, the limit is 4096", text.len());
                out.push(at, code::LIMIT, detail, "write fewer words");
                return None;
            }
            Replacement::Text(text) => self.words.continuation(self.before(), text).map(|added| added.ids),
            Replacement::Tokens(ids) => self.words.describe(ids).map(|encoded| encoded.ids.to_vec()),
        };
        let ids = match ids {
            Ok(ids) => ids,
            Err(error) => {
                let (at, code, fix) = match &error {
                    TokenizeError::UnknownId { index, vocab_size, .. } => {
                        (format!("{at}/{index}"), code::UNKNOWN_TOKEN, format!("use ids below {vocab_size}"))
                    }
                    TokenizeError::NoEmbedding { .. } => {
                        (at.to_owned(), code::UNKNOWN_TOKEN, "choose other tokens".to_owned())
                    }
                    TokenizeError::NoBos | TokenizeError::Refused(_) => {
                        (at.to_owned(), code::NOT_TOKENISABLE, "change the text".to_owned())
                    }
                };
                out.push(at, code, error.to_string(), fix);
                return None;
            }
        };
        let shown = |ids: &[u32]| {
            let texts: Vec<String> = ids.iter().map(|id| self.words.text(*id)).collect();
            format!("{} {texts:?}", ids.len())
        };
        if ids.len() != self.old.len() {
            let detail = format!("tokens {} where {} are replaced", shown(&ids), shown(self.old));
            let fix = if self.lacks_space(alternative) {
                format!("begin the text with a space, and choose one of {} tokens", self.old.len())
            } else {
                format!("choose a text of {} tokens", self.old.len())
            };
            out.push(at, code::LENGTH_MISMATCH, detail, fix);
            return None;
        }
        if ids == self.old {
            let detail = format!("tokens {} are replaced by themselves", shown(self.old));
            out.push(at, code::SELF_REFERENCE, detail, "choose other tokens");
            return None;
        }
        Some(ids)
    }

    /// The prompt's text before the first token replaced. A space between the two is the text's.
    fn before(&self) -> &str {
        let first = self.positions[0] as usize;
        let end = first.checked_sub(1).map_or(0, |last| self.clean.tokens[last].byte_end);
        &self.clean.text[..self.clean.text.floor_char_boundary(end)]
    }

    /// The same after the last one, if what is replaced is a text of its own.
    fn after(&self) -> Option<&str> {
        let (first, last) = (*self.positions.first()?, *self.positions.last()?);
        let in_a_row = (last - first) as usize + 1 == self.positions.len();
        let end = self.clean.tokens[last as usize].byte_end;
        in_a_row.then(|| self.clean.text.get(end..)).flatten()
    }

    /// Whether a text without a space stands for a token that begins with one.
    fn lacks_space(&self, alternative: &Replacement) -> bool {
        let Replacement::Text(text) = alternative else { return false };
        let spaced = self.old.first().is_some_and(|id| self.words.text(*id).starts_with(' '));
        spaced && !self.before().is_empty() && !text.starts_with(char::is_whitespace)
    }

    /// Remarks on tokens that a prompt with the alternative in it would not have.
    fn lint(&self, alternative: &Replacement, new: &[u32], at: &str, lints: &mut Lints) {
        let Replacement::Text(text) = alternative else { return };
        if self.lacks_space(alternative) {
            let detail = format!("{text:?} takes the place of a token that begins with a space");
            lints.warn("NO_LEADING_SPACE", at, detail, "begin the replacement with a space");
            return;
        }
        let (first, last) = (self.positions[0] as usize, self.positions[self.positions.len() - 1] as usize);
        let bos = usize::from(self.clean.has_bos);
        let Some(after) = self.after().filter(|_| first >= bos) else { return };
        let whole = |text: &str| self.words.encode(text, Some(false)).map(|encoded| encoded.ids);
        let own = &self.clean.ids;
        // What was given as ids may be cut in a way of its own.
        if !whole(&self.clean.text).is_ok_and(|ids| *ids == own[bos..]) {
            return;
        }
        let expected = [&own[bos..first], new, &own[last + 1..]].concat();
        if let Ok(joined) = whole(&format!("{}{text}{after}", self.before()))
            && *joined != expected[..]
        {
            let differ = |ids: &[u32]| {
                let kept = joined.iter().zip(&expected).take_while(|(a, b)| a == b).count();
                quoted(&ids[kept.min(ids.len())..], self.words)
            };
            let detail = format!(
                "the prompt with {text:?} in it goes on with the tokens {}, not {}",
                differ(&joined),
                differ(&expected)
            );
            let fix = "choose a text that begins and ends where tokens do, or give token ids";
            lints.warn("REPLACEMENT_CHANGES_PROMPT", at, detail, fix);
        }
    }
}

/// Puts the prompts into a plan; those that are runs of the request are there already.
pub(super) fn build(
    swaps: Vec<Swap>,
    clean: &TokenRun,
    clean_root: RunId,
    roots: &[(RunId, usize)],
    plan: &mut Plan,
) -> Corrupted {
    let mut corrupted = Corrupted { runs: Vec::new(), positions: Vec::new(), replaced: Vec::new() };
    for swap in swaps {
        corrupted.runs.push(if let Some((index, _)) = &swap.run {
            roots[*index]
        } else {
            let root = plan.root(swap.ids);
            plan.set_context(root, plan.run(clean_root).context);
            (root, plan.read(root, clean.read))
        });
        corrupted.positions.extend(&swap.differing);
        corrupted.replaced.push(Replaced {
            run: swap.run.map(|(_, name)| name),
            tokens: swap.tokens,
            differing_positions: swap.differing,
        });
    }
    corrupted.positions.sort_unstable();
    corrupted.positions.dedup();
    corrupted
}
