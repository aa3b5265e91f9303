//! Chat templates of strangers, and conversations of clients: a template, then messages and further variables as JSON.

use mediant::tokens::{ChatTemplates, Conversation, SpecialTokens};
use serde_json::{Map, Value, json};

use crate::choose;

/// Between the parts of an input.
const END: u8 = 0x1c;

pub(crate) fn run(data: &[u8]) {
    let (flags, rest) = choose(data);
    let mut parts = rest.split(|byte| *byte == END);
    let Ok(source) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let mut parsed = || serde_json::from_slice::<Value>(parts.next()?).ok();
    let messages = match parsed() {
        Some(Value::Array(messages)) => messages,
        _ => vec![json!({"role": "user", "content": "Hello"})],
    };
    let variables: Map<String, Value> = match parsed() {
        Some(Value::Object(variables)) => variables,
        _ => Map::new(),
    };
    let policy = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    let special = SpecialTokens::from_json(&policy, &Value::Null, &Value::Null);
    let templates = ChatTemplates::new(vec![("default".to_owned(), source.to_owned())], &special).unwrap();
    let rendered = templates.render(&Conversation {
        messages: &messages,
        template: None,
        add_generation_prompt: flags & 1 != 0,
        continue_final_message: flags & 2 != 0,
        variables: &variables,
    });
    let Ok(rendered) = rendered else { return };
    assert_eq!(rendered.turns.len(), messages.len());
    for range in rendered.turns.iter().chain([&rendered.generation_prompt]).flatten() {
        assert!(rendered.text.get(range.clone()).is_some(), "{range:?} of {:?}", rendered.text);
    }
}
