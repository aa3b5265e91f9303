//! One prompt of many in a trace, and how the effects of many are averaged.

use serde::Serialize;
use utoipa::ToSchema;

use super::chat::{Message, TemplateOptions};
use super::declare::{declare, or};
use super::metric::{Target, TargetSet, read_target};
use super::problem::{Problems, code};
use super::prompt::{Prompt, PromptText, SpanText};
use super::read::Node;
use super::statistics::{Bootstrap, Stat};

declare! {
/// One prompt of many.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Case {
    /// Its name; its place in the list if left out.
    #[schema(required = false)]
    pub id: String,
    /// The group it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The clean prompt; or `tokens`, or `messages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Token ids instead of a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
    /// A conversation instead of a prompt, written out by the model's chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// With `messages`: what the template is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateOptions>,
    /// Whether a BOS token is put first; the tokenizer's own policy if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos: Option<bool>,
    /// The text in it whose tokens are corrupted, or their range; token classes lie around it.
    pub subject: SpanText,
    /// What is scored.
    #[schema(value_type = Target)]
    pub target: TargetSet,
}
}

declare! {
read
/// How effects are averaged.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Aggregate {
    /// Always by `token_class`; with `group`, also within each group.
    #[schema(required = false)]
    pub by: Vec<By> = or(vec![By::TokenClass], read_by),
    /// How confidence intervals are made.
    #[schema(required = false)]
    pub ci: Bootstrap = or(Bootstrap::default(), Bootstrap::read),
    /// Averages beside the mean that few cases don't decide.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub stats: Vec<Stat> = or(Vec::new(), Stat::read),
}
}

/// What effects are averaged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Token class around the subject.
    TokenClass,
    /// The cases' groups.
    Group,
}

impl Default for Aggregate {
    fn default() -> Self {
        Self { by: vec![By::TokenClass], ci: Bootstrap::default(), stats: Vec::new() }
    }
}

impl Aggregate {
    /// Whether effects are averaged within groups too.
    pub fn by_group(&self) -> bool {
        self.by.contains(&By::Group)
    }
}

impl Case {
    pub(super) fn read(node: &Node<'_>, index: usize, grouped: bool, out: &mut Problems) -> Option<Self> {
        let fields = node.fields_of::<Self>(out)?;
        let id = fields.get("id").map_or(Some(index.to_string()), |n| n.label(out));
        let group = fields.get("group").map_or(Some(None), |n| n.label(out).map(Some));
        if grouped && fields.get("group").is_none() {
            fields.need("group", "name the group of every case, or aggregate by token_class alone", out);
        }
        let prompt = Prompt::read_fields(&fields, out);
        let subject = fields.need("subject", "write the text of the subject, or its token range", out);
        let subject = subject.and_then(|n| SpanText::read(&n, out));
        let target = fields.need("target", "write the answer with its leading space: \" Paris\"", out);
        let target = target.and_then(|n| read_target(&n, out)).filter(|target| !target.is_empty());
        let Prompt { text, bos, .. } = prompt?;
        let (mut prompt, mut tokens, mut chat) = (None, None, None);
        match text {
            PromptText::Tokens(ids) => tokens = Some(ids),
            PromptText::Prompt(text) => prompt = Some(text),
            PromptText::Chat(own) => chat = Some((own.messages, own.template)),
            PromptText::Derived { .. } => return None,
        }
        let (messages, template) = chat.unzip();
        Some(Self {
            id: id?,
            group: group?,
            prompt,
            tokens,
            messages,
            template,
            bos,
            subject: subject?,
            target: target?,
        })
    }
}

fn read_by(node: &Node<'_>, out: &mut Problems) -> Option<Vec<By>> {
    let choices = [("token_class", By::TokenClass), ("group", By::Group)];
    let by = node.all(out, |n, out| n.choice(&choices, &[], out))?;
    if !by.contains(&By::TokenClass) {
        let detail = "positions of different prompts meet in token classes only";
        out.push(&node.at, code::MISSING, detail, "add token_class");
    }
    Some(by)
}
