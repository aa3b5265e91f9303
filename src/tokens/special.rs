//! Tokens with a meaning of their own: what texts begin and end with, as a model's files name them.

use serde_json::{Map, Value};

/// The special tokens of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Texts by the names that chat templates know: `bos_token`, `eos_token`, …
    pub texts: Vec<(String, String)>,
    /// Tokens at which a text ends.
    pub ends: Vec<u32>,
}

/// The names, as `transformers` writes them.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl SpecialTokens {
    /// Of the texts that `tokenizer_config.json` names, and the ends that `generation_config.json` or `config.json` state: the first
    /// of them that states any counts.
    pub fn from_json(policy: &Value, generation: &Value, config: &Value) -> Self {
        let text = |name: &str| {
            let value = policy.get(name)?;
            let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str))?;
            Some((name.to_owned(), text.to_owned()))
        };
        let texts = NAMES.into_iter().filter_map(text).collect();
        let stated = [generation, config].into_iter().find_map(|file| {
            let ids = match file.get("eos_token_id")? {
                Value::Array(list) => list.iter().filter_map(Value::as_u64).collect(),
                one => vec![one.as_u64()?],
            };
            Some(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
        });
        Self { texts, ends: stated.unwrap_or_default() }
    }

    /// The text of a name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.iter().find(|(own, _)| own == name).map(|(_, text)| text.as_str())
    }

    /// The texts as variables of a chat template.
    pub(super) fn variables(&self) -> Map<String, Value> {
        self.texts.iter().map(|(name, text)| (name.clone(), Value::String(text.clone()))).collect()
    }
}

/// The chat templates that `tokenizer_config.json` states: a text, or a list of texts with names; and `chat_template.jinja`, which
/// counts before it. `others`: those of `additional_chat_templates`, by name, which count before those of the same names.
pub fn templates(
    policy: &Value,
    file: Option<String>,
    others: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let named = |entry: &Value| {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
        Some((text("name")?, text("template")?))
    };
    let mut found: Vec<(String, String)> = match policy.get("chat_template") {
        Some(Value::String(text)) => vec![("default".to_owned(), text.clone())],
        Some(Value::Array(list)) => list.iter().filter_map(named).collect(),
        _ => Vec::new(),
    };
    if let Some(text) = file {
        found.retain(|(name, _)| name != "default");
        found.insert(0, ("default".to_owned(), text));
    }
    for (name, text) in others {
        found.retain(|(own, _)| *own != name);
        found.push((name, text));
    }
    found
}
