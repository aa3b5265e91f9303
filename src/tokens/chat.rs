//! Chat templates: a conversation to the text that the model was trained to read.
//!
//! Templates are Jinja programs that came with a model's files, written by strangers. They are rendered with what `transformers`
//! gives them, in bounded time and memory, and see no file. One bound is missing, since the engine has no place for it: lists that
//! a template nests thousands of levels deep, or puts into one another twice again and again and then joins to a text.

mod bounded;
mod environment;
mod python;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

use self::bounded::Strays;
use self::environment::Clock;
use super::caught;
use super::special::SpecialTokens;

/// A template's name where a model has but one.
const DEFAULT: &str = "default";
/// What is put behind a message that is to be continued, to find its end.
const GO_ON: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// Fuel of one rendering: instructions, and blocks of 64 bytes that are written. An ordinary conversation takes a few hundred a
/// message; this much is used up in about a tenth of a second.
const FUEL: u64 = 1_000_000;
/// Time of a conversation, whatever its instructions do.
const MOST_TIME: Duration = Duration::from_secs(5);
/// Bytes that a rendered conversation may have.
const MOST_BYTES: usize = 8 << 20;
/// Levels that calls and loops may be nested: macros that call themselves cost ten each.
const DEPTH: usize = 200;
/// Bytes of a template; the longest in use have some fifty thousand.
const MOST_TEMPLATE: usize = 1 << 20;

/// The chat templates of a model.
#[derive(Clone)]
pub struct ChatTemplates {
    environment: Arc<Environment<'static>>,
    names: Vec<String>,
    /// Those that are no templates, and why.
    broken: BTreeMap<String, String>,
    special: Map<String, Value>,
    strays: Strays,
}

impl std::fmt::Debug for ChatTemplates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplates")
            .field("names", &self.names)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// What is to be rendered.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'c> {
    /// The messages, as templates see them: objects with `role` and `content`.
    pub messages: &'c [Value],
    /// Which template.
    pub template: Option<&'c str>,
    /// Whether what begins the model's turn is put at the end.
    pub add_generation_prompt: bool,
    /// Whether the text ends inside the last message.
    pub continue_final_message: bool,
    /// Further variables.
    pub variables: &'c Map<String, Value>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Bytes of the text that are each message's content; none where the template leaves it out or changes it.
    pub turns: Vec<Option<Range<usize>>>,
    /// What begins the model's turn, in bytes of the text.
    pub generation_prompt: Option<Range<usize>>,
    /// Whether the template asked what day it is.
    pub is_dated: bool,
}

/// Why a conversation was not rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The model has none.
    #[error("the model's files have no chat template")]
    NoTemplate,
    /// It has others.
    #[error("the model has no chat template called {name:?}; it has {names}")]
    UnknownTemplate {
        /// What was asked for.
        name: String,
        /// What there is.
        names: String,
    },
    /// The template itself is at fault.
    #[error("the model's chat template {name:?} cannot be used: {why}")]
    Broken {
        /// Its name.
        name: String,
        /// Why, with the line.
        why: String,
    },
    /// The template refuses the conversation.
    #[error("the chat template refuses these messages: {why}")]
    Refused {
        /// What it says.
        why: String,
    },
    /// The template cannot render the conversation.
    #[error("the chat template failed{line}: {why}")]
    Failed {
        /// Where.
        line: Line,
        /// Why.
        why: String,
    },
    /// It takes too long, or writes too much.
    #[error("the chat template did not end within its bounds{line}")]
    Endless {
        /// Where it was.
        line: Line,
    },
    /// It takes too long, though it has not done much: one of its instructions does.
    #[error("the model's chat template {name:?} does not end within {limit_ms} ms")]
    TooSlow {
        /// Its name.
        name: String,
        /// The limit.
        limit_ms: u128,
    },
    /// The message to be continued is not in the text, or has no content.
    #[error("the last message cannot be continued: {why}")]
    NoEnd {
        /// Why.
        why: &'static str,
    },
}

/// Where a template was, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line(Option<usize>);

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, " in line {line}"))
    }
}

impl ChatTemplates {
    /// Of templates by name, in order. One that is no template is kept as such: it is an error to use it.
    pub fn new(templates: Vec<(String, String)>, special: &SpecialTokens) -> Option<Self> {
        let mut environment = environment::new(FUEL, DEPTH);
        let (mut names, mut broken) = (Vec::new(), BTreeMap::new());
        for (name, source) in templates {
            let added = if source.len() > MOST_TEMPLATE {
                Err(format!("it has {} bytes, and the limit is {MOST_TEMPLATE}", source.len()))
            } else {
                let source = environment::without_generation_tags(&source);
                let added = caught(|| environment.add_template_owned(name.clone(), source));
                added.and_then(|added| added.map_err(|error| told(&error)))
            };
            if let Err(why) = added {
                broken.insert(name.clone(), why);
            }
            names.push(name);
        }
        let special = special.variables();
        let environment = Arc::new(environment);
        let strays = Strays::default();
        (!names.is_empty()).then(|| Self { environment, names, broken, special, strays })
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What is wrong with those that cannot be used.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        self.broken.iter().map(|(name, why)| format!("the chat template {name:?} cannot be used: {why}"))
    }

    /// The text of a conversation, and where in it the messages are.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<Rendered, ChatError> {
        self.render_within(MOST_TIME, conversation)
    }

    fn render_within(&self, time: Duration, conversation: &Conversation<'_>) -> Result<Rendered, ChatError> {
        let name = self.chosen(conversation)?.to_owned();
        if let Some(why) = self.broken.get(&name) {
            return Err(ChatError::Broken { name, why: why.clone() });
        }
        let Conversation { messages, template: _, add_generation_prompt, continue_final_message, variables } =
            *conversation;
        let (templates, of, messages, variables) =
            (self.clone(), name.clone(), messages.to_vec(), variables.clone());
        let rendered = self.strays.within(time, move || {
            let conversation = Conversation {
                messages: &messages,
                template: Some(&of),
                add_generation_prompt,
                continue_final_message,
                variables: &variables,
            };
            templates.rendered(&of, &conversation)
        });
        rendered.unwrap_or(Err(ChatError::TooSlow { name, limit_ms: time.as_millis() }))
    }

    fn rendered(&self, name: &str, conversation: &Conversation<'_>) -> Result<Rendered, ChatError> {
        let clock = Clock::now();
        let session = Session { templates: self, name, conversation, clock: &clock };
        let text = session.text(conversation.messages, conversation.add_generation_prompt)?;
        let is_dated = clock.asked.load(Ordering::Relaxed);
        let generation_prompt =
            conversation.add_generation_prompt.then(|| session.text(conversation.messages, false));
        let generation_prompt = generation_prompt
            .and_then(|without| Some(without.ok()?.len()).filter(|len| *len < text.len()))
            .map(|start| start..text.len());
        let turns = turns::find(&text, &session);
        Ok(Rendered { text, turns, generation_prompt, is_dated })
    }

    /// As `transformers` chooses: the one named, the one for tools where there are tools, or `default`.
    fn chosen<'n>(&'n self, conversation: &Conversation<'n>) -> Result<&'n str, ChatError> {
        let has = |name: &str| self.names.iter().any(|own| own == name);
        let unknown =
            |name: &str| ChatError::UnknownTemplate { name: name.to_owned(), names: self.names.join(", ") };
        match conversation.template {
            Some(name) if has(name) => Ok(name),
            Some(name) => Err(unknown(name)),
            None if conversation.variables.contains_key("tools") && has("tool_use") => Ok("tool_use"),
            None if has(DEFAULT) => Ok(DEFAULT),
            None => match &self.names[..] {
                [only] => Ok(only),
                _ => Err(unknown(DEFAULT)),
            },
        }
    }
}

/// Renderings of one conversation, all at the same time of day.
struct Session<'s> {
    templates: &'s ChatTemplates,
    name: &'s str,
    conversation: &'s Conversation<'s>,
    clock: &'s Clock,
}

impl Session<'_> {
    /// The text of the messages, which may be others than the conversation's.
    fn text(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String, ChatError> {
        if !self.conversation.continue_final_message {
            return self.whole(messages, add_generation_prompt);
        }
        let content = |message: &Value| message.get("content").and_then(Value::as_str).map(str::to_owned);
        let last = messages.last().ok_or(ChatError::NoEnd { why: "there is none" })?;
        let content = content(last).ok_or(ChatError::NoEnd { why: "it has no `content`" })?;
        let mut messages = messages.to_vec();
        if let Some(last) = messages.last_mut() {
            last["content"] = Value::String(format!("{content}{GO_ON}"));
        }
        let text = self.whole(&messages, false)?;
        let end = text.rfind(GO_ON.trim()).filter(|_| text.contains(content.trim()));
        let end = end.ok_or(ChatError::NoEnd { why: "the template leaves it out or changes it" })?;
        // Where the template cuts off the space behind a message, that before the model's words goes too.
        let kept = text[end..].starts_with(GO_ON);
        Ok(if kept { &text[..end] } else { text[..end].trim_end() }.to_owned())
    }

    fn whole(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String, ChatError> {
        let Conversation { variables, .. } = self.conversation;
        let context = environment::context(
            &self.templates.special,
            variables,
            messages,
            add_generation_prompt,
            self.clock,
        );
        let rendered = caught(|| self.templates.environment.get_template(self.name)?.render(context));
        match rendered {
            Ok(Ok(text)) if text.len() > MOST_BYTES => Err(ChatError::Endless { line: Line(None) }),
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(of(&error)),
            Err(why) => Err(ChatError::Failed { line: Line(None), why }),
        }
    }
}

/// What a template's error is to who sent the conversation.
fn of(error: &minijinja::Error) -> ChatError {
    let line = Line(error.line());
    match (error.kind(), environment::refusal(error)) {
        (_, Some(why)) => ChatError::Refused { why },
        (ErrorKind::OutOfFuel, _) => ChatError::Endless { line },
        _ => ChatError::Failed { line, why: described(error) },
    }
}

fn described(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

fn told(error: &minijinja::Error) -> String {
    format!("{}{}", described(error), Line(error.line()))
}

/// Told by a clock whether it was asked.
type Asked = Arc<AtomicBool>;
