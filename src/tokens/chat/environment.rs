//! What chat templates are given: the functions and filters of `transformers`, Python's methods, and no files.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Local};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use super::{Asked, python};

/// What stands before the words of a template that refuses a conversation.
const REFUSAL: &str = "raise_exception: ";

/// The time that a rendering sees, and whether it looked.
pub(super) struct Clock {
    time: DateTime<Local>,
    pub(super) asked: Asked,
}

impl Clock {
    pub(super) fn now() -> Self {
        Self { time: Local::now(), asked: Arc::new(AtomicBool::new(false)) }
    }
}

/// The environment of all templates, which are added to it.
pub(super) fn new(fuel: u64, depth: usize) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("BUG: Jinja's own delimiters"));
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(depth);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(|out, state, value| Ok(out.write_str(&python::printed(value, state)?)?));
    environment.add_filter("tojson", python::to_json);
    environment.add_filter("string", |state: &State<'_, '_>, value: &Jinja| {
        python::printed(value, state).map(Cow::into_owned)
    });
    environment.add_test("sequence", |value: &Jinja| value.as_str().is_some() || is_list(value));
    environment.add_test("iterable", |value: &Jinja| {
        use ValueKind::{Iterable, Map, Seq, String};
        matches!(value.kind(), Iterable | Map | Seq | String)
    });
    environment.add_function("raise_exception", |why: Cow<'_, str>| -> Result<Jinja, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{why}")))
    });
    environment
}

fn is_list(value: &Jinja) -> bool {
    value.kind() == ValueKind::Seq
}

/// What a template says that refuses a conversation.
pub(super) fn refusal(error: &Error) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        let detail = error.downcast_ref::<Error>().and_then(Error::detail);
        if let Some(why) = detail.and_then(|detail| detail.strip_prefix(REFUSAL)) {
            return Some(why.to_owned());
        }
        source = error.source();
    }
    None
}

/// The variables of a rendering.
pub(super) fn context(
    special: &Map<String, Value>,
    variables: &Map<String, Value>,
    messages: &[Value],
    add_generation_prompt: bool,
    clock: &Clock,
) -> Jinja {
    // `transformers` passes them always.
    let mut all: Vec<(String, Jinja)> =
        vec![("tools".to_owned(), ().into()), ("documents".to_owned(), ().into())];
    let given = special.iter().chain(variables);
    all.extend(given.map(|(name, value)| (name.clone(), Jinja::from(Serde(value)))));
    all.push(("messages".to_owned(), Jinja::from(Serde(messages))));
    all.push(("add_generation_prompt".to_owned(), add_generation_prompt.into()));
    let (time, asked) = (clock.time, Arc::clone(&clock.asked));
    let strftime_now = move |state: &State<'_, '_>, pattern: Cow<'_, str>| -> Result<String, Error> {
        asked.store(true, Ordering::Relaxed);
        state.consume_fuel(pattern.len() as u64)?;
        let mut out = String::new();
        let wrong =
            |_| Error::new(ErrorKind::InvalidOperation, format!("{pattern:?} is no format of a date"));
        write!(out, "{}", time.format(&pattern)).map_err(wrong)?;
        Ok(out)
    };
    all.push(("strftime_now".to_owned(), Jinja::from_function(strftime_now)));
    Jinja::from_pairs(all)
}

/// A template without the tags that mark what the model has said, which change nothing of the text: `{% generation %}` groups, as
/// `{% if true %}` does.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // Not in `{%}`, which ends nothing.
        let Some(inside) = tag[2..].find("%}") else {
            out.push_str(tag);
            return out;
        };
        let (tag, after) = tag.split_at(2 + inside + 2);
        let word = tag[2..2 + inside].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        match word {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
