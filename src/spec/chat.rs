//! A conversation in place of a prompt: the model's own chat template makes a text of it.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::declare::{declare, maybe, need, or};
use super::problem::{Problems, code};
use super::read::{Fields, Node};

declare! {
/// A conversation, and how it becomes a text.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Chat {
    /// Who says what, in order.
    pub messages: Vec<Message>,
    /// What the template is told.
    #[schema(required = false)]
    pub template: TemplateOptions,
}
}

declare! {
read
/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String = need("say who speaks: \"user\"", Node::name),
    /// What is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String> = maybe(|n, out| n.text(out).map(str::to_owned)),
    /// The speaker's name, for templates that write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String> = maybe(Node::name),
    /// What a reasoning model thought before it spoke, for templates that write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String> = maybe(|n, out| n.text(out).map(str::to_owned)),
    /// Calls of tools, as the template takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tool_calls: Option<Value> = maybe(|n, out| n.items(out).map(|_| n.value.clone())),
    /// The call that a message of role `tool` answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String> = maybe(Node::name),
}
}

declare! {
read
/// What a chat template is told besides the messages.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TemplateOptions {
    /// Which of the model's templates, where it has several; `default` if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String> = maybe(Node::name),
    /// Whether the text ends with what begins the model's turn; yes, unless the last message is to be continued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_generation_prompt: Option<bool> = maybe(Node::flag),
    /// Whether the text ends inside the last message, so that the model goes on with it.
    #[schema(required = false)]
    pub continue_final_message: bool = or(false, Node::flag),
    /// Further variables of the template, such as `enable_thinking`, `tools` or `date_string`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object, required = false)]
    pub variables: Map<String, Value> = or(Map::new(), read_variables),
}
}

impl Default for TemplateOptions {
    fn default() -> Self {
        Self { name: None, add_generation_prompt: None, continue_final_message: false, variables: Map::new() }
    }
}

impl Chat {
    /// Reads `messages` and `template` from among other fields.
    pub(super) fn read(fields: &Fields<'_>, messages: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let read = messages.all(out, Message::read);
        let template = fields.get("template").map_or(Some(TemplateOptions::default()), |node| {
            let options = TemplateOptions::read(&node, out)?;
            if options.continue_final_message && options.add_generation_prompt == Some(true) {
                let detail = "the text can't both end inside the last message and begin a new turn";
                let at = format!("{}/continue_final_message", node.at);
                out.push(at, code::CONFLICT, detail, "leave out one of the two");
            }
            Some(options)
        });
        Some(Self { messages: read?, template: template? })
    }

    /// Bytes of what is said.
    pub fn bytes(&self) -> usize {
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let texts =
            |message: &Message| of(&message.content) + of(&message.reasoning_content) + of(&message.name);
        let calls =
            |message: &Message| message.tool_calls.as_ref().map_or(0, |calls| calls.to_string().len());
        let variables: usize =
            self.template.variables.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
        self.messages.iter().map(|message| texts(message) + calls(message)).sum::<usize>() + variables
    }

    /// Whether the text ends with what begins the model's turn.
    pub fn adds_generation_prompt(&self) -> bool {
        let template = &self.template;
        template.add_generation_prompt.unwrap_or(!template.continue_final_message)
    }
}

fn read_variables(node: &Node<'_>, out: &mut Problems) -> Option<Map<String, Value>> {
    let entries = node.entries(out)?;
    for (name, node) in &entries {
        if ["messages", "add_generation_prompt", "continue_final_message"].contains(&name.as_str()) {
            let fix = "write it in its own field";
            out.push(&node.at, code::CONFLICT, format!("`{name}` is no variable of one's own"), fix);
        }
    }
    Some(entries.into_iter().map(|(name, node)| (name, node.value.clone())).collect())
}
