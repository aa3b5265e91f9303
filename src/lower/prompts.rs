//! Runs tokenised: prompts to ids, spans to token ranges, read positions to indices.

use std::ops::Range;

use super::conversation::{self, Spoken};
use super::facts::Facts;
use super::lint::Lints;
use super::select::{position, within};
pub use super::token_run::{Span, TokenRun};
use crate::spec::experiment::Experiment;
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::{EveryWord, Occurrence, Prompt, PromptText, SpanText};
use crate::spec::read::{did_you_mean, escape};
use crate::spec::readout::{ReadAt, ReadPosition};
use crate::tokens::{Encoded, SpanError, TokenizeError, is_cut};

/// Tokenises every run. Runs with problems are left out.
pub fn tokenise(experiment: &Experiment, facts: &dyn Facts, out: &mut Problems) -> Named<TokenRun> {
    let limits = facts.limits();
    let runs = &experiment.runs;
    if runs.len() as u64 > limits.runs {
        let detail = format!("{} runs, the limit is {}", runs.len(), limits.runs);
        out.push("/runs", code::LIMIT, detail, "send fewer prompts per request");
        return Named::default();
    }
    let size = |prompt: &Prompt| match &prompt.text {
        PromptText::Prompt(text) => text.len() as u64,
        PromptText::Tokens(ids) => 4 * ids.len() as u64,
        PromptText::Chat(chat) => chat.bytes() as u64,
        PromptText::Derived { .. } => 0,
    };
    let mut budget = limits.prompt_bytes;
    for (name, prompt) in runs.iter() {
        let bytes = size(prompt);
        if bytes > budget {
            let detail =
                format!("{bytes} bytes of prompt; {budget} of {} bytes are left for it", limits.prompt_bytes);
            out.push(text_pointer(name, prompt), code::LIMIT, detail, "shorten the prompt");
            return Named::default();
        }
        budget -= bytes;
    }
    let mut tokenised: Named<TokenRun> = Named::default();
    for (name, prompt) in runs.iter() {
        let read = match &experiment.read.at {
            ReadAt::Same(position) => (*position, "/read/at".to_owned()),
            ReadAt::PerRun(by_run) => (
                by_run.get(name).copied().unwrap_or(ReadPosition::LAST),
                format!("/read/at/{}", escape(name)),
            ),
        };
        let run = match &prompt.text {
            PromptText::Derived { from, .. } => derived(name, from, &read, experiment, &tokenised, out),
            _ => one(name, prompt, &read, facts, out),
        };
        if let Some(run) = run {
            tokenised.0.push((name.to_owned(), run));
        }
    }
    if let ReadAt::PerRun(by_run) = &experiment.read.at {
        for name in by_run.names() {
            if runs.get(name).is_none() {
                unknown_run(name, &format!("/read/at/{}", escape(name)), runs, out);
            }
        }
    }
    tokenised
}

/// Remarks on prompts that have other tokens than their author may think.
pub fn lint(experiment: &Experiment, runs: &Named<TokenRun>, facts: &dyn Facts, lints: &mut Lints) {
    let words = facts.words();
    for (name, run) in runs.iter() {
        let Some(prompt) = experiment.runs.get(name) else { continue };
        if let PromptText::Derived { .. } = prompt.text {
            continue;
        }
        let at = text_pointer(name, prompt);
        if run.has_bos && run.ids.get(1) == run.ids.first() {
            let bos = words.text(run.ids[0]);
            let fix = "leave one out: of the prompt itself, or by \"bos\": false";
            lints.warn("DOUBLE_BOS", &at, format!("the prompt begins with {bos:?} twice"), fix);
        }
        if run.is_dated {
            let detail = "the chat template writes today's date: tomorrow the prompt is another".to_owned();
            let fix = "give the date, as {\"template\": {\"variables\": {\"date_string\": \"26 Jul 2024\"}}}, or write the text as `prompt`";
            lints.info("TEMPLATE_DATE", &at, detail, fix);
        }
        if run.context().ends_with(' ') && words.joins_spaces() {
            let detail = "the prompt ends in a space, which belongs to the token of the next word".to_owned();
            let fix = "end the prompt before the space, and begin the target with it";
            lints.warn("PROMPT_ENDS_IN_SPACE", &at, detail, fix);
        }
        for (span, text) in prompt.spans.iter() {
            let (SpanText::Text(text) | SpanText::Occurrence { text, .. }) = text else { continue };
            let stretches = run.spans.get(span).map_or(&[][..], Span::stretches);
            let mut tokens = stretches.iter().map(|[start, end]| &run.tokens[*start as usize..*end as usize]);
            if let Some(tokens) = tokens.find(|tokens| is_cut(tokens, &run.text, text)) {
                let covered: String = tokens.iter().map(|token| token.text.as_str()).collect();
                let detail = format!("{text:?} ends inside of a token: its tokens are those of {covered:?}");
                let at = format!("/runs/{}/spans/{}", escape(name), escape(span));
                lints.warn("SPAN_CUTS_TOKEN", at, detail, "choose a text that begins and ends with tokens");
            }
        }
    }
}

/// Reports a run that the request doesn't define.
pub fn unknown_run<T>(name: &str, at: &str, runs: &Named<T>, out: &mut Problems) {
    let names = runs.names();
    let detail = format!("no run is called {name:?}{}", did_you_mean(name, &names));
    out.push(at, code::UNKNOWN_NAME, detail, format!("the runs are {}", names.join(", ")));
}

/// Finds a run that another field names. `None` without a new problem if the run itself has one.
pub fn find<'t>(
    name: &str,
    at: &str,
    experiment: &Experiment,
    tokenised: &'t Named<TokenRun>,
    out: &mut Problems,
) -> Option<&'t TokenRun> {
    if experiment.runs.get(name).is_none() {
        unknown_run(name, at, &experiment.runs, out);
    }
    tokenised.get(name)
}

/// Pointer to the text or the tokens of a prompt.
pub fn text_pointer(name: &str, prompt: &Prompt) -> String {
    let field = match prompt.text {
        PromptText::Prompt(_) => "prompt",
        PromptText::Tokens(_) => "tokens",
        PromptText::Chat(_) => "messages",
        PromptText::Derived { .. } => "from",
    };
    format!("/runs/{}/{field}", escape(name))
}

/// The most tokens that a run may have.
pub fn longest(facts: &dyn Facts) -> u64 {
    let config = facts.config();
    let longest = facts.limits().prompt_tokens.min(config.max_positions as u64);
    config.sliding_window.map_or(longest, |window| longest.min(window as u64))
}

/// Tokenises one prompt, found at `/runs/name`, and checks its length.
fn encode(name: &str, prompt: &Prompt, facts: &dyn Facts, out: &mut Problems) -> Option<Spoken> {
    let at = text_pointer(name, prompt);
    let longest = longest(facts);
    let too_long = |n: usize, out: &mut Problems| {
        let detail = format!("{n} tokens, the limit is {longest}");
        out.push(&at, code::LIMIT, detail, format!("shorten the prompt to {longest} tokens"));
    };
    let encoded = match &prompt.text {
        PromptText::Prompt(text) => facts.words().encode(text, prompt.bos).map(Spoken::from),
        PromptText::Tokens(ids) if ids.len() as u64 > longest => {
            too_long(ids.len(), out);
            return None;
        }
        PromptText::Tokens(ids) => facts.words().describe(ids).map(Spoken::from),
        PromptText::Chat(chat) => {
            let rendered = conversation::render(chat, &format!("/runs/{}", escape(name)), facts, out)?;
            conversation::encode(chat, &rendered, prompt.bos, facts)
        }
        PromptText::Derived { .. } => {
            let detail = "a run derived from another has no text of its own";
            out.push(&at, code::NOT_SUPPORTED, detail, "write a prompt");
            return None;
        }
    };
    let spoken = match encoded {
        Ok(spoken) => spoken,
        Err(error) => {
            let (at, code, fix) = match &error {
                TokenizeError::UnknownId { index, vocab_size, .. } => {
                    (format!("{at}/{index}"), code::UNKNOWN_TOKEN, format!("use ids below {vocab_size}"))
                }
                TokenizeError::NoEmbedding { text, .. } => {
                    (at, code::UNKNOWN_TOKEN, format!("leave out {text:?}: the model was not made with it"))
                }
                TokenizeError::NoBos => {
                    let at = format!("/runs/{}/bos", escape(name));
                    (at, code::NOT_SUPPORTED, "leave out `bos`".to_owned())
                }
                TokenizeError::Refused(_) => (at, code::NOT_TOKENISABLE, "change the text".to_owned()),
            };
            out.push(at, code, error.to_string(), fix);
            return None;
        }
    };
    if spoken.encoded.ids.is_empty() {
        out.push(&at, code::EMPTY, "the prompt has no tokens", "write a longer prompt");
        return None;
    }
    if spoken.encoded.ids.len() as u64 > longest {
        too_long(spoken.encoded.ids.len(), out);
        return None;
    }
    Some(spoken)
}

/// Token ranges of a prompt's spans.
fn spans(
    name: &str,
    prompt: &Prompt,
    encoded: &Encoded,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Named<Span> {
    // The last token stands for a span with a problem, so that those who name it find nothing more to report.
    let last = encoded.ids.len() as u32 - 1;
    let found = prompt.spans.iter().map(|(span, text)| {
        let at = format!("/runs/{}/spans/{}", escape(name), escape(span));
        let found = one_span(&at, text, prompt, encoded, facts, out);
        (span.to_owned(), found.unwrap_or(Span::One([last, last + 1])))
    });
    found.collect()
}

fn one_span(
    at: &str,
    span: &SpanText,
    prompt: &Prompt,
    encoded: &Encoded,
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<Span> {
    let tokens = |range: &Range<usize>| [range.start as u32, range.end as u32];
    let found = match (span, &prompt.text) {
        (SpanText::Range(ends), _) => {
            return within(*ends, encoded.ids.len() as u32, at, out)
                .map(|range| Span::One([range.start, range.end]));
        }
        (_, PromptText::Tokens(_) | PromptText::Derived { .. }) => {
            let detail = "the prompt was given as token ids";
            out.push(at, code::CONFLICT, detail, "write the span as a token range [start, end)");
            return None;
        }
        (SpanText::Text(text), PromptText::Prompt(_) | PromptText::Chat(_)) => {
            facts.words().span(encoded, &encoded.text, text).map(|range| Span::One(tokens(&range)))
        }
        (SpanText::Occurrence { text, occurrence }, PromptText::Prompt(_) | PromptText::Chat(_)) => {
            match (facts.words().occurrences(encoded, &encoded.text, text), occurrence) {
                (Ok(all), Occurrence::Nth(n)) => {
                    let at = format!("{at}/occurrence");
                    return Some(Span::One(tokens(&all[nth(*n, all.len(), text, &at, out)?])));
                }
                (all, Occurrence::Word(EveryWord::Every)) => {
                    all.map(|all| Span::Every(all.iter().map(tokens).collect()))
                }
                (Err(error), Occurrence::Nth(_)) => Err(error),
            }
        }
    };
    match found {
        Ok(span) => Some(span),
        Err(error) => {
            let (code, fix) = match error {
                SpanError::Absent { .. } => (code::SPAN_ABSENT, "write it as it stands in the prompt"),
                SpanError::Ambiguous { .. } => (
                    code::SPAN_AMBIGUOUS,
                    "say which, as {\"text\": \"…\", \"occurrence\": 0}, or write a longer text or a token range",
                ),
            };
            out.push(at, code, error.to_string(), fix);
            None
        }
    }
}

/// Which of `times` occurrences is meant, negative numbers counted from the end.
fn nth(n: i64, times: usize, text: &str, at: &str, out: &mut Problems) -> Option<usize> {
    let absolute = if n < 0 { n.checked_add(times as i64) } else { Some(n) };
    let found = absolute.and_then(|n| usize::try_from(n).ok()).filter(|n| *n < times);
    if found.is_none() {
        let detail = format!("occurrence {n} of {text:?}, which occurs {times} times");
        let fix = format!("use 0 to {}, -1 for the last, or \"every\"", times - 1);
        out.push(at, code::OUT_OF_RANGE, detail, fix);
    }
    found
}

/// The tokens of a run derived from one defined above.
fn derived(
    name: &str,
    from: &str,
    (read, read_at): &(ReadPosition, String),
    experiment: &Experiment,
    above: &Named<TokenRun>,
    out: &mut Problems,
) -> Option<TokenRun> {
    let at = format!("/runs/{}/from", escape(name));
    let place = experiment.runs.place(name);
    if experiment.runs.place(from).is_some_and(|other| place.is_some_and(|place| other >= place)) {
        let detail = format!("{from:?} is not defined above {name:?}");
        out.push(at, code::SELF_REFERENCE, detail, "define the run before those derived from it");
        return None;
    }
    let parent = find(from, &at, experiment, above, out)?;
    let read = match read {
        &ReadPosition::LAST => parent.len() - 1,
        ReadPosition::At(p) => position(*p, parent.len(), read_at, out)?,
    };
    Some(TokenRun { read, ..parent.clone() })
}

fn one(
    name: &str,
    prompt: &Prompt,
    (read, read_at): &(ReadPosition, String),
    facts: &dyn Facts,
    out: &mut Problems,
) -> Option<TokenRun> {
    let Spoken { encoded, spans: said, is_dated } = encode(name, prompt, facts, out)?;
    let mut spans = spans(name, prompt, &encoded, facts, out);
    for span in said.names().iter().filter(|span| spans.get(span).is_some()) {
        let at = format!("/runs/{}/spans/{}", escape(name), escape(span));
        let detail = format!("the conversation has a span called {span:?} of its own");
        out.push(at, code::DUPLICATE, detail, "call it otherwise");
    }
    spans.0.extend(said.0);
    let len = encoded.ids.len() as u32;
    let read = match read {
        &ReadPosition::LAST => Some(len - 1),
        ReadPosition::At(p) => position(*p, len, read_at, out),
    };
    let has_bos = facts.words().bos().is_some_and(|bos| encoded.ids.first() == Some(&bos));
    let Encoded { ids, tokens, text } = encoded;
    Some(TokenRun { ids, tokens, text, spans, read: read?, has_bos, is_dated })
}
