//! Conversations to prompts: what the chat template writes, in tokens, and the spans of what is said.

use std::ops::Range;

use serde_json::Value;

use super::facts::Facts;
use super::token_run::Span;
use crate::spec::chat::Chat;
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::tokens::{ChatError, Conversation, Encoded, Rendered, TokenizeError};

/// The span of all that the template writes by itself.
const TEMPLATE: &str = "template";
/// The span of what begins the model's turn.
const GENERATION_PROMPT: &str = "generation_prompt";

/// A conversation as a prompt.
#[derive(Debug)]
pub(super) struct Spoken {
    pub encoded: Encoded,
    /// By role, by turn, and what the template writes.
    pub spans: Named<Span>,
    /// Whether the text depends on the day.
    pub is_dated: bool,
}

impl From<Encoded> for Spoken {
    /// A prompt that is no conversation.
    fn from(encoded: Encoded) -> Self {
        Self { encoded, spans: Named::default(), is_dated: false }
    }
}

/// Renders a conversation; `at` is the pointer to its run. The template writes special tokens itself, so that a BOS is only put first
/// where the request says so.
pub(super) fn render(chat: &Chat, at: &str, facts: &dyn Facts, out: &mut Problems) -> Option<Rendered> {
    let Some(templates) = facts.words().chat() else {
        let fix = "write the text as `prompt`";
        out.push(format!("{at}/messages"), code::NOT_SUPPORTED, ChatError::NoTemplate.to_string(), fix);
        return None;
    };
    let message = |message| serde_json::to_value(message).expect("BUG: texts by name are JSON");
    let messages: Vec<Value> = chat.messages.iter().map(message).collect();
    let conversation = Conversation {
        messages: &messages,
        template: chat.template.name.as_deref(),
        add_generation_prompt: chat.adds_generation_prompt(),
        continue_final_message: chat.template.continue_final_message,
        variables: &chat.template.variables,
    };
    match templates.render(&conversation) {
        Ok(rendered) => Some(rendered),
        Err(error) => {
            refuse(&error, at, out);
            None
        }
    }
}

fn refuse(error: &ChatError, at: &str, out: &mut Problems) {
    let (field, code, fix) = match error {
        ChatError::UnknownTemplate { .. } => {
            ("template/name", code::UNKNOWN_NAME, "name one of them, or leave out `name`")
        }
        ChatError::NoTemplate | ChatError::Broken { .. } | ChatError::TooSlow { .. } => {
            ("messages", code::NOT_SUPPORTED, "write the text as `prompt`")
        }
        ChatError::NoEnd { .. } => (
            "template/continue_final_message",
            code::CONFLICT,
            "leave it out, or end the messages with one that has `content`",
        ),
        ChatError::Refused { .. } | ChatError::Failed { .. } | ChatError::Endless { .. } => (
            "messages",
            code::NOT_TOKENISABLE,
            "change the messages or `template`, or write the text as `prompt`",
        ),
    };
    out.push(format!("{at}/{field}"), code, error.to_string(), fix);
}

/// The prompt that a rendered conversation is.
pub(super) fn encode(
    chat: &Chat,
    rendered: &Rendered,
    bos: Option<bool>,
    facts: &dyn Facts,
) -> Result<Spoken, TokenizeError> {
    let encoded = facts.words().encode(&rendered.text, Some(bos.unwrap_or(false)))?;
    let spans = spans(chat, rendered, &encoded);
    Ok(Spoken { encoded, spans, is_dated: rendered.is_dated })
}

/// Spans of what is said, by role and by turn, and of what the template writes. A token that has a part of what is said is that
/// turn's.
fn spans(chat: &Chat, rendered: &Rendered, encoded: &Encoded) -> Named<Span> {
    let tokens_of = |bytes: &Range<usize>| {
        let shares = |token: &crate::tokens::Token| {
            let shared = token.byte_start < bytes.end && bytes.start < token.byte_end;
            let part = token.byte_start == token.byte_end
                && token.byte_start > 0
                && bytes.contains(&token.byte_start);
            shared || part
        };
        let first = encoded.tokens.iter().position(shares)?;
        let last = encoded.tokens.iter().rposition(shares)?;
        Some([first as u32, last as u32 + 1])
    };
    let said: Vec<Option<[u32; 2]>> =
        rendered.turns.iter().map(|turn| turn.as_ref().and_then(tokens_of)).collect();
    let mut spans = Named::default();
    let mut add = |name: String, ranges: Vec<[u32; 2]>| match ranges[..] {
        [] => {}
        [one] => spans.0.push((name, Span::One(one))),
        _ => spans.0.push((name, Span::Every(ranges))),
    };
    let mut roles: Vec<&str> = Vec::new();
    for message in &chat.messages {
        if !roles.contains(&message.role.as_str()) {
            roles.push(&message.role);
        }
    }
    for role in roles {
        let own = chat.messages.iter().zip(&said).filter(|(message, _)| message.role == role);
        add(role.to_owned(), own.filter_map(|(_, range)| *range).collect());
    }
    for (i, range) in said.iter().enumerate() {
        add(format!("turn_{i}"), range.iter().copied().collect());
    }
    // Where it is not known what a turn's tokens are, it is not known which are the template's either.
    let known = |(message, range): (&crate::spec::chat::Message, &Option<[u32; 2]>)| {
        range.is_some() || message.content.as_ref().is_none_or(|content| content.trim().is_empty())
    };
    if chat.messages.iter().zip(&said).all(known) {
        let mut turns: Vec<[u32; 2]> = said.iter().flatten().copied().collect();
        // A template may move what is said, as the system's words into the last message.
        turns.sort_unstable();
        turns.push([encoded.ids.len() as u32; 2]);
        let (mut between, mut at) = (Vec::new(), 0);
        for [start, end] in turns {
            if at < start {
                between.push([at, start]);
            }
            at = end;
        }
        add(TEMPLATE.to_owned(), between);
    }
    add(
        GENERATION_PROMPT.to_owned(),
        rendered.generation_prompt.as_ref().and_then(tokens_of).into_iter().collect(),
    );
    spans
}
