//! Runs: prompts with named spans.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::chat::{Chat, Message, TemplateOptions};
use super::declare::{Declared, declare, names};
use super::intervention::Intervention;
use super::named::Named;
use super::problem::{Problems, code};
use super::read::{Fields, Node};

/// A run: a prompt, given as text or as token ids, or another run with interventions.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Prompt {
    /// The text.
    #[serde(flatten)]
    #[schema(value_type = RunForm)]
    pub text: PromptText,
    /// Named spans of its tokens.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, SpanText>)]
    pub spans: Named<SpanText>,
    /// Whether a BOS token is put first; the tokenizer's own policy if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos: Option<bool>,
}

declare! {
/// A prompt of its own: text or token ids, with spans.
#[derive(ToSchema)]
pub struct PlainPrompt {
    /// Text, tokenised here; or `tokens`, or `messages`.
    pub prompt: Option<String>,
    /// Token ids, taken as they are, instead of a text.
    pub tokens: Option<Vec<u32>>,
    /// A conversation instead of a text: the model's chat template writes it out. What is said and what the template writes are
    /// spans: by role (`user`), by turn (`turn_0`), `template`, and `generation_prompt` at its end.
    pub messages: Option<Vec<Message>>,
    /// With `messages`: what the template is told.
    pub template: Option<TemplateOptions>,
    /// Named spans of its tokens.
    #[schema(value_type = Option<std::collections::BTreeMap<String, SpanText>>)]
    pub spans: Option<Named<SpanText>>,
    /// Whether a BOS token is put first; the tokenizer's own policy if left out.
    pub bos: Option<bool>,
}
}

impl Declared for Prompt {
    const FIELDS: &'static [&'static str] = names!(PlainPrompt::FIELDS, &["from", "interventions"]);
}

/// A prompt in short: its text, or an object.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum PromptBody {
    /// Its text.
    Text(String),
    /// Text or tokens, with spans.
    Prompt(Prompt),
}

/// Name of the run that is a case's or a trace's own prompt.
pub const CLEAN: &str = "clean";
/// Name of the run made by a corruption, or given beside the prompt.
pub const CORRUPTED: &str = "corrupted";

/// Text, token ids or a run derived from another.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptText {
    /// Text, tokenised here: `prompt`.
    Prompt(String),
    /// Token ids, taken as they are: `tokens`.
    Tokens(Vec<u32>),
    /// A conversation that the model's chat template writes out: `messages`, `template`.
    Chat(Chat),
    /// A run defined above with interventions, all applied jointly: `from`, `interventions`.
    Derived {
        /// Name of that run, whose tokens and spans it shares.
        from: String,
        /// What is written.
        interventions: Vec<Intervention>,
    },
}

/// Ways to write a run.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum RunForm {
    /// A prompt.
    Prompt {
        /// Text, tokenised here.
        prompt: String,
    },
    /// Token ids.
    Tokens {
        /// Taken as they are.
        tokens: Vec<u32>,
    },
    /// A conversation.
    Chat {
        /// Who says what, in order.
        messages: Vec<Message>,
        /// What the chat template is told.
        #[schema(required = false)]
        template: TemplateOptions,
    },
    /// A run defined above with interventions: a source or a base for others, as in path patching.
    Derived {
        /// Name of that run, whose tokens and spans it shares.
        from: String,
        /// What is written, all jointly.
        interventions: Vec<Intervention>,
    },
}

impl Serialize for PromptText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Prompt(prompt) => map.serialize_entry("prompt", prompt)?,
            Self::Tokens(tokens) => map.serialize_entry("tokens", tokens)?,
            Self::Chat(chat) => {
                map.serialize_entry("messages", &chat.messages)?;
                map.serialize_entry("template", &chat.template)?;
            }
            Self::Derived { from, interventions } => {
                map.serialize_entry("from", from)?;
                map.serialize_entry("interventions", interventions)?;
            }
        }
        map.end()
    }
}

/// A span: the only occurrence of a text in the prompt, one of several or every one, or a half-open range of token positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum SpanText {
    /// A text that occurs once.
    Text(String),
    /// `[start, end)` in tokens.
    Range([i64; 2]),
    /// A text that may occur several times.
    Occurrence {
        /// The text.
        text: String,
        /// Which of its occurrences.
        occurrence: Occurrence,
    },
}

/// Which occurrence of a text: counted from 0, from the end if negative, or `"every"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Occurrence {
    /// One of them.
    Nth(i64),
    /// All of them: the span is their tokens together.
    Word(EveryWord),
}

/// `"every"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EveryWord {
    /// Every one.
    Every,
}

impl Prompt {
    /// A text without spans.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: PromptText::Prompt(text.into()), spans: Named::default(), bos: None }
    }

    /// Reads an object, or a plain string for its text.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        if node.value.is_string() {
            return Some(Self::text(node.name(out)?));
        }
        let fields = node.fields_of::<Self>(out)?;
        if fields.get("from").is_none() && fields.get("interventions").is_none() {
            return Self::read_fields(&fields, out);
        }
        fields.exclude("from", PlainPrompt::FIELDS, out);
        let from = fields.need("from", "name the run that the interventions change", out);
        let from = from.and_then(|n| n.name(out));
        let interventions = fields.need("interventions", "list what is written into the run", out);
        let interventions = interventions.and_then(|n| n.each(out, Intervention::read));
        let text = PromptText::Derived { from: from?, interventions: interventions? };
        Some(Self { text, spans: Named::default(), bos: None })
    }

    /// Reads `prompt`, `tokens` or `messages`, `spans` and `bos` from among other fields.
    pub fn read_fields(fields: &Fields<'_>, out: &mut Problems) -> Option<Self> {
        let text = if let Some(tokens) = fields.get("tokens") {
            fields.exclude("tokens", &["prompt", "bos", "messages"], out);
            tokens.all(out, Node::index).map(PromptText::Tokens)
        } else if let Some(messages) = fields.get("messages") {
            fields.exclude("messages", &["prompt"], out);
            Chat::read(fields, &messages, out).map(PromptText::Chat)
        } else {
            let fix = "write the text as `prompt`, token ids as `tokens`, or a conversation as `messages`";
            fields.need("prompt", fix, out).and_then(|n| n.name(out)).map(PromptText::Prompt)
        };
        if let Some(node) = fields.get("template").filter(|_| fields.get("messages").is_none()) {
            TemplateOptions::read(&node, out);
            let fix = "leave it out, or write a conversation as `messages`";
            out.push(&node.at, code::CONFLICT, "only `messages` go through a chat template", fix);
        }
        let spans =
            fields.get("spans").map_or(Some(Named::default()), |n| Named::read(&n, out, SpanText::read));
        let bos = fields.get("bos").and_then(|n| n.flag(out));
        Some(Self { text: text?, spans: spans.unwrap_or_default(), bos })
    }
}

impl SpanText {
    /// Reads either form.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_string() => Some(Self::Text(node.name(out)?)),
            v if v.is_array() => Some(Self::Range(node.pair(out)?)),
            v if v.is_object() => {
                let fields = node.fields(&["text", "occurrence"], out)?;
                let text = fields.need("text", "write a text of the prompt", out).and_then(|n| n.name(out));
                let fix = "say which: 0 for the first, -1 for the last, \"every\" for all";
                let occurrence = fields.need("occurrence", fix, out).and_then(|n| Occurrence::read(&n, out));
                Some(Self::Occurrence { text: text?, occurrence: occurrence? })
            }
            _ => {
                node.wrong("a text of the prompt or a token range [start, end)", out);
                None
            }
        }
    }

    /// Whether it is a single stretch of tokens.
    pub fn is_one(&self) -> bool {
        !matches!(self, Self::Occurrence { occurrence: Occurrence::Word(EveryWord::Every), .. })
    }
}

impl Occurrence {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        if node.value.is_number() {
            return Some(Self::Nth(node.int(out)?));
        }
        node.choice(&[("every", EveryWord::Every)], &[], out).map(Self::Word)
    }
}

/// Reads the `runs` map.
pub fn read_runs(node: &Node<'_>, out: &mut Problems) -> Option<Named<Prompt>> {
    Named::read(node, out, Prompt::read).filter(|runs| !runs.is_empty())
}

/// Reports short-form fields beside `runs`.
pub fn exclude_short(fields: &Fields<'_>, short: &[&str], out: &mut Problems) {
    for name in short.iter().filter(|name| fields.get(name).is_some()) {
        let detail = format!("`{name}` is short for an entry of `runs` and can't stand beside it");
        out.push(fields.pointer(name), code::CONFLICT, detail, format!("leave out `{name}` or `runs`"));
    }
}
