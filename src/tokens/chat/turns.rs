//! Where in a rendered conversation the messages are.
//!
//! A template may trim a message, write its words in the header too, or leave it out. So they are not searched for: the
//! conversation is rendered again with other words in their place, and what does not change is the template's.

use std::ops::Range;

use serde_json::Value;

use super::Session;

/// The bytes of each message's content.
pub(super) fn find(text: &str, session: &Session<'_>) -> Vec<Option<Range<usize>>> {
    let messages = session.conversation.messages;
    together(text, session).unwrap_or_else(|| {
        // A template that looks at what is said: one message after the other, the others as they are.
        let mut budget = ALONE;
        let one = |i| {
            budget = budget.checked_sub(messages.len())?;
            alone(text, session, i)
        };
        (0..messages.len()).map(one).collect()
    })
}

/// Messages that are rendered for the spans of a conversation, each as often as it has others beside it.
const ALONE: usize = 2500;

/// A text that no template knows, of the same kind as a message: it begins and ends with a character for private use.
fn stand_in(i: usize) -> String {
    format!("\u{F0000}{i}\u{F0001}")
}

fn content(message: &Value) -> Option<&str> {
    message.get("content").and_then(Value::as_str).filter(|content| !content.trim().is_empty())
}

fn with_content(message: &Value, content: String) -> Value {
    let mut message = message.clone();
    message["content"] = Value::String(content);
    message
}

/// All messages by one rendering, where every one of them appears once, in order, whole or trimmed.
fn together(text: &str, session: &Session<'_>) -> Option<Vec<Option<Range<usize>>>> {
    let conversation = session.conversation;
    if text.contains(['\u{F0000}', '\u{F0001}']) {
        return Some(vec![None; conversation.messages.len()]);
    }
    let standing = |(i, message): (usize, &Value)| match content(message) {
        Some(_) => with_content(message, stand_in(i)),
        None => message.clone(),
    };
    let others: Vec<Value> = conversation.messages.iter().enumerate().map(standing).collect();
    let other = session.text(&others, conversation.add_generation_prompt).ok()?;
    let (mut at, mut rest) = (0, other.as_str());
    let mut found = Vec::new();
    for (i, message) in conversation.messages.iter().enumerate() {
        let Some(content) = content(message) else {
            found.push(None);
            continue;
        };
        let (own, after) = rest.split_once(&stand_in(i))?;
        at += text[at..].starts_with(own).then_some(own.len())?;
        // Of several ways to trim, the longest that is there and before the template's next words.
        let next = after.split('\u{F0000}').next()?;
        let fits =
            |said: &&str| text[at..].strip_prefix(*said).is_some_and(|behind| behind.starts_with(next));
        let ways = [content, content.trim_start(), content.trim_end(), content.trim()];
        let said = ways.into_iter().find(fits)?;
        found.push(Some(at..at + said.len()));
        (at, rest) = (at + said.len(), after);
    }
    (&text[at..] == rest).then_some(found)
}

/// One message by what changes if it is another.
fn alone(text: &str, session: &Session<'_>, i: usize) -> Option<Range<usize>> {
    let conversation = session.conversation;
    let content = content(&conversation.messages[i])?;
    let mut others = conversation.messages.to_vec();
    others[i] = with_content(&others[i], stand_in(i));
    let other = session.text(&others, conversation.add_generation_prompt).ok()?;
    let (before, after) = other.split_once(&stand_in(i))?;
    let range = before.len()..text.len().checked_sub(after.len())?;
    let said = text.get(range.clone())?;
    let same = text.starts_with(before) && text.ends_with(after) && said.trim() == content.trim();
    same.then_some(range)
}
