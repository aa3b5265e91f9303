//! Bodies of `OpenAI`'s routes, put into the words of `POST /v1/generate`: what they ask for, and nothing that would change the answer
//! unseen.

#![allow(
    clippy::doc_markdown,
    clippy::struct_excessive_bools,
    clippy::needless_pass_by_value,
    reason = "the words and the switches are those of OpenAI"
)]

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::chat::TemplateOptions;
use super::declare::declare;
use super::endpoint::Endpoint;
use super::generate::{GenerateRead, SweepForm};
use super::intervention::Intervention;
use super::metric::TargetSet;
use super::named::Named;
use super::problem::{Problems, code};
use super::prompt::{Prompt, SpanText};
use super::read::{Declared, Fields, Node};

declare! {
/// Body of `POST /v1/completions`, as OpenAI's clients send it.
#[derive(ToSchema)]
#[schema(examples(json!({"model": "smollm2-135m", "prompt": "The weather today is", "max_tokens": 20})))]
pub struct CompletionBody {
    /// The text that is continued, or its token ids.
    #[schema(value_type = PromptForm)]
    pub prompt: Value,
    /// How many of the most probable tokens are told of every step.
    pub logprobs: Option<u32>,
    /// Whether the text begins with the prompt.
    pub echo: Option<bool>,
    /// What the routes have in common.
    flat pub common: CommonBody,
}
}

declare! {
/// Body of `POST /v1/chat/completions`, as OpenAI's clients send it.
#[derive(ToSchema)]
#[schema(examples(json!({"model": "smollm2-135m", "messages": [{"role": "user", "content": "Comfort Alice."}], "max_tokens": 20})))]
pub struct ChatBody {
    /// Who says what, in order. Content is a text, or a list of parts `{"type": "text", "text": …}`.
    #[schema(value_type = Vec<Object>)]
    pub messages: Value,
    /// Most tokens of a text; the newer name of `max_tokens`.
    pub max_completion_tokens: Option<u32>,
    /// Whether the log-probability of every token is told.
    pub logprobs: Option<bool>,
    /// With `logprobs`: how many of the most probable tokens are told of every step.
    pub top_logprobs: Option<u32>,
    /// `{"type": "text"}`, the only form that is written.
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<Value>,
    /// What the routes have in common.
    flat pub common: CommonBody,
}
}

declare! {
/// What OpenAI's routes have in common.
#[derive(ToSchema)]
pub struct CommonBody {
    /// The model; the one served if left out.
    pub model: Option<String>,
    /// Most tokens of a text.
    pub max_tokens: Option<u32>,
    /// Divides the logits; 1 if left out, 0 takes the most probable token.
    pub temperature: Option<f64>,
    /// Keeps the most probable tokens up to this share.
    pub top_p: Option<f64>,
    /// Texts.
    pub n: Option<u32>,
    /// Texts before which a text ends: one or several.
    #[schema(value_type = Option<Vec<String>>)]
    pub stop: Option<Value>,
    /// Seed of the random numbers; another one every time if left out.
    pub seed: Option<u64>,
    /// Answers with events as the texts grow.
    pub stream: Option<bool>,
    /// With `stream`: `{"include_usage": true}` tells the numbers of tokens in the end.
    #[schema(value_type = Option<Object>)]
    pub stream_options: Option<Value>,
    /// Adds to the logits of tokens, by id.
    #[schema(value_type = Option<std::collections::BTreeMap<String, f64>>)]
    pub logit_bias: Option<Value>,
    /// 0, as penalties are not served.
    pub presence_penalty: Option<f64>,
    /// 0, as penalties are not served.
    pub frequency_penalty: Option<f64>,
    /// Taken and not used.
    pub user: Option<String>,
    /// Taken and not used.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// Taken and not used: nothing is stored.
    pub store: Option<bool>,
    /// What only this server has: interventions, and what is read.
    pub mediant: Option<Extension>,
}
}

declare! {
/// Fields of `POST /v1/generate` under `mediant` in a body of OpenAI's form. The whole answer comes back under the same name.
#[derive(ToSchema)]
#[schema(as = MediantExtension)]
pub struct Extension {
    /// What is written into the model: the only branch.
    pub interventions: Option<Vec<Intervention>>,
    /// Branches by name; each has `n` choices, in order.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Vec<Intervention>>>)]
    pub branches: Option<Named<Vec<Intervention>>>,
    /// Values of the interventions, a branch each.
    pub sweep: Option<SweepForm>,
    /// Further prompts by name, from which values come.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Prompt>>)]
    pub runs: Option<Named<Prompt>>,
    /// A branch that scores the texts of the others.
    pub compare_with: Option<String>,
    /// What is read at every step.
    pub read: Option<GenerateRead>,
    /// Sets of tokens by name.
    #[schema(value_type = Option<std::collections::BTreeMap<String, TargetSet>>)]
    pub targets: Option<Named<TargetSet>>,
    /// Named spans of the prompt.
    #[schema(value_type = Option<std::collections::BTreeMap<String, SpanText>>)]
    pub spans: Option<Named<SpanText>>,
    /// What the chat template is told.
    pub template: Option<TemplateOptions>,
    /// Whether a BOS token is put first.
    pub bos: Option<bool>,
    /// Keeps this many of the most probable tokens.
    pub top_k: Option<u32>,
    /// Keeps tokens at least this many times as probable as the most probable one.
    pub min_p: Option<f64>,
    /// Refuses requests that raise a lint of severity warning or above.
    pub strict: Option<bool>,
}
}

/// A prompt of `OpenAI`'s form.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum PromptForm {
    /// Its text.
    Text(String),
    /// Its token ids.
    Tokens(Vec<u32>),
}

/// Which of the routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `POST /v1/completions`
    Completion,
    /// `POST /v1/chat/completions`
    Chat,
}

/// A body as it was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Translated {
    /// Body of `POST /v1/generate`.
    pub body: Value,
    /// Whether events are wanted.
    pub streams: bool,
    /// Whether the last event tells numbers of tokens.
    pub tells_usage: bool,
    /// Whether log-probabilities are wanted.
    pub logprobs: bool,
    /// Whether the texts begin with the prompt.
    pub echo: bool,
    /// Whether the body has fields of our own.
    pub extended: bool,
    /// Fields that were taken and not used.
    pub unused: Vec<&'static str>,
}

/// Most tokens of a completion where the body does not say, as `OpenAI`'s route has it.
const COMPLETION_TOKENS: u32 = 16;
/// The run that the prompt is, where there are others.
const PROMPT: &str = "prompt";

impl Translated {
    /// Reads a body. `seed`: of random numbers where it has none.
    pub fn read(form: Form, body: &Value, seed: u64, out: &mut Problems) -> Option<Self> {
        let node = Node::root(Endpoint::OTHER, body);
        let fields = match form {
            Form::Completion => node.fields_of::<CompletionBody>(out)?,
            Form::Chat => node.fields_of::<ChatBody>(out)?,
        };
        refuse_penalties(&fields, out);
        let mut prompt = Map::new();
        match form {
            Form::Completion => read_prompt(&fields, &mut prompt, out),
            Form::Chat => read_messages(&fields, &mut prompt, out),
        }
        let mut whole = Map::new();
        for name in ["model", "stop"] {
            whole.extend(fields.get(name).map(|node| (name.to_owned(), node.value.clone())));
        }
        if let Some(node) = fields.get("max_completion_tokens") {
            fields.exclude("max_completion_tokens", &["max_tokens"], out);
            whole.insert("max_tokens".to_owned(), node.value.clone());
        } else if let Some(node) = fields.get("max_tokens") {
            whole.insert("max_tokens".to_owned(), node.value.clone());
        } else if form == Form::Completion {
            whole.insert("max_tokens".to_owned(), json!(COMPLETION_TOKENS));
        }
        whole.extend(fields.get("n").map(|node| ("samples".to_owned(), node.value.clone())));
        let own = fields.get("mediant").and_then(|node| node.fields_of::<Extension>(out));
        whole.insert("sampling".to_owned(), sampling(&fields, own.as_ref(), seed));
        let (told, logprobs) = logprobs(form, &fields, out);
        let mut read = json!({"logprobs": told});
        // A text that begins with its prompt has the log-probabilities of both.
        if logprobs && fields.get("echo").is_some_and(|node| node.value == true) {
            read["prompt_logprobs"] = json!(true);
        }
        if let Some(own) = &own {
            for name in ["interventions", "branches", "sweep", "compare_with", "targets", "strict"] {
                whole.extend(own.get(name).map(|node| (name.to_owned(), node.value.clone())));
            }
            for name in ["spans", "template", "bos"] {
                prompt.extend(own.get(name).map(|node| (name.to_owned(), node.value.clone())));
            }
            if let Some(given) = own.get("read").and_then(|node| node.value.as_object()) {
                read.as_object_mut()?.extend(given.clone());
            }
        }
        whole.insert("read".to_owned(), read);
        match own.as_ref().and_then(|own| own.get("runs")) {
            None => whole.extend(prompt),
            Some(node) => {
                let mut runs = node.value.as_object().cloned().unwrap_or_default();
                if runs.insert(PROMPT.to_owned(), Value::Object(prompt)).is_some() {
                    let detail = format!("{PROMPT:?} is the name of the prompt itself");
                    out.push(format!("{}/{PROMPT}", node.at), code::DUPLICATE, detail, "call it otherwise");
                }
                whole.insert("runs".to_owned(), Value::Object(runs));
                whole.insert("base".to_owned(), json!(PROMPT));
            }
        }
        let mut flag = |name: &str| fields.get(name).and_then(|n| n.flag(out)).unwrap_or(false);
        let (streams, echo) = (flag("stream"), flag("echo"));
        let options = fields.get("stream_options").and_then(|node| node.fields(&["include_usage"], out));
        let tells_usage = options.and_then(|options| options.get("include_usage")?.flag(out));
        let unused = ["user", "metadata", "store"].into_iter().filter(|name| fields.get(name).is_some());
        Some(Self {
            body: Value::Object(whole),
            streams,
            tells_usage: tells_usage.unwrap_or(false),
            logprobs,
            echo,
            extended: own.is_some(),
            unused: unused.collect(),
        })
    }

    /// The field of `OpenAI`'s body that a pointer into [`Self::body`] is about.
    pub fn restore(form: Form, pointer: &str) -> String {
        let of_prompt = pointer.strip_prefix("/runs/prompt").filter(|rest| rest.starts_with('/'));
        let pointer = of_prompt.unwrap_or(pointer);
        let (field, rest) = match pointer.get(1..).unwrap_or_default().split_once('/') {
            Some((field, rest)) => (field, format!("/{rest}")),
            None => (pointer.get(1..).unwrap_or_default(), String::new()),
        };
        match (field, rest.as_str()) {
            ("tokens", _) => format!("/prompt{rest}"),
            ("samples", _) => format!("/n{rest}"),
            ("sampling", "/top_k" | "/min_p") => format!("/mediant{rest}"),
            ("sampling", _) => rest,
            ("read", "/logprobs") if form == Form::Chat => "/top_logprobs".to_owned(),
            ("read", "/logprobs") => "/logprobs".to_owned(),
            (own, _) if Extension::FIELDS.contains(&own) => format!("/mediant{pointer}"),
            _ => pointer.to_owned(),
        }
    }
}

fn refuse_penalties(fields: &Fields<'_>, out: &mut Problems) {
    for name in ["presence_penalty", "frequency_penalty"] {
        let Some(node) = fields.get(name) else { continue };
        if node.number(out).is_some_and(|x| x != 0.0) {
            let fix = "write 0, or lower the logits of tokens by `logit_bias`";
            out.push(&node.at, code::NOT_SUPPORTED, "penalties are not served", fix);
        }
    }
    if let Some(node) = fields.get("response_format") {
        let kind = node.value.get("type").and_then(Value::as_str);
        if kind != Some("text") {
            let fix = "leave it out: texts are written as the model writes them";
            out.push(&node.at, code::NOT_SUPPORTED, "only {\"type\": \"text\"} is served", fix);
        }
    }
}

fn read_prompt(fields: &Fields<'_>, prompt: &mut Map<String, Value>, out: &mut Problems) {
    let Some(node) = fields.need("prompt", "write the text that is continued", out) else { return };
    // A list of one prompt is that prompt.
    let value = match node.value.as_array().map(Vec::as_slice) {
        Some([only]) if !only.is_number() => only,
        _ => node.value,
    };
    match value {
        Value::String(_) => drop(prompt.insert("prompt".to_owned(), value.clone())),
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_number) => {
            prompt.insert("tokens".to_owned(), value.clone());
        }
        Value::Array(list) if list.len() > 1 => {
            let detail = format!("{} prompts", list.len());
            out.push(&node.at, code::NOT_SUPPORTED, detail, "send one prompt per request");
        }
        _ => node.wrong("a text or a list of token ids", out),
    }
}

fn read_messages(fields: &Fields<'_>, prompt: &mut Map<String, Value>, out: &mut Problems) {
    let Some(node) = fields.need("messages", "write who says what", out) else { return };
    let read = |node: &Node<'_>, out: &mut Problems| {
        let mut message = node.value.as_object().cloned().unwrap_or_default();
        // The newer name of the same.
        if message.get("role").is_some_and(|role| role == "developer") {
            message.insert("role".to_owned(), json!("system"));
        }
        if let Some(Value::Array(parts)) = message.get("content") {
            let text = |part: &Value| {
                let is_text = part.get("type").is_some_and(|kind| kind == "text");
                part.get("text").and_then(Value::as_str).filter(|_| is_text).map(str::to_owned)
            };
            if let Some(texts) = parts.iter().map(text).collect::<Option<Vec<String>>>() {
                drop(message.insert("content".to_owned(), json!(texts.join("\n"))));
            } else {
                let fix = "write parts as {\"type\": \"text\", \"text\": …}";
                out.push(format!("{}/content", node.at), code::NOT_SUPPORTED, "only texts are read", fix);
            }
        }
        // Those that clients send without a value.
        message.retain(|name, value| name == "content" || !value.is_null());
        Some(Value::Object(message))
    };
    let messages = node.all(out, read).unwrap_or_default();
    prompt.insert("messages".to_owned(), Value::Array(messages));
}

/// How tokens are drawn. At temperature 0 nothing else decides.
fn sampling(fields: &Fields<'_>, own: Option<&Fields<'_>>, seed: u64) -> Value {
    let of = |fields: &Fields<'_>, name: &str| fields.get(name).map(|node| node.value.clone());
    let temperature = of(fields, "temperature").unwrap_or(json!(1.0));
    let greedy = temperature.as_f64() == Some(0.0);
    let mut sampling = Map::from_iter([("temperature".to_owned(), temperature)]);
    if !greedy {
        sampling.extend(of(fields, "top_p").map(|value| ("top_p".to_owned(), value)));
        sampling.insert("seed".to_owned(), of(fields, "seed").unwrap_or(json!(seed)));
        for name in ["top_k", "min_p"] {
            sampling.extend(own.and_then(|own| of(own, name)).map(|value| (name.to_owned(), value)));
        }
    }
    let bias = of(fields, "logit_bias").filter(|bias| bias.as_object().is_none_or(|map| !map.is_empty()));
    sampling.extend(bias.map(|bias| ("logit_bias".to_owned(), bias)));
    Value::Object(sampling)
}

/// How many of the most probable tokens are told, and whether log-probabilities are.
fn logprobs(form: Form, fields: &Fields<'_>, out: &mut Problems) -> (u32, bool) {
    if form == Form::Completion {
        let told = fields.get("logprobs").and_then(|n| n.index(out));
        return (told.unwrap_or(0), told.is_some());
    }
    let wanted = fields.get("logprobs").and_then(|n| n.flag(out)).unwrap_or(false);
    let top = fields.get("top_logprobs");
    if let Some(node) = top.as_ref().filter(|_| !wanted) {
        out.push(&node.at, code::CONFLICT, "log-probabilities are not asked for", "write \"logprobs\": true");
    }
    (top.and_then(|n| n.index(out)).unwrap_or(0), wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::generate::GenerateSpec;

    fn read(form: Form, body: Value) -> Result<Translated, Problems> {
        let mut out = Problems::default();
        let read = Translated::read(form, &body, 7, &mut out);
        out.or(read)
    }

    fn spec(translated: &Translated) -> GenerateSpec {
        let mut out = Problems::default();
        let spec = GenerateSpec::read(&translated.body, &mut out);
        out.or(spec).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    #[test]
    fn a_completion_is_a_request_for_text() {
        let body = json!({"model": "m", "prompt": ["Hello"], "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "n": 2,
            "stop": "\n", "logprobs": 2, "user": "u", "logit_bias": {"5": 1.0}, "presence_penalty": 0});
        let translated = read(Form::Completion, body).unwrap();
        assert_eq!((translated.unused.clone(), translated.logprobs), (vec!["user"], true));
        let spec = spec(&translated);
        assert_eq!((spec.samples, spec.max_tokens, spec.read.logprobs), (2, 3, 2));
        assert_eq!((spec.sampling.seed, spec.sampling.temperature, spec.sampling.top_p), (7, 0.5, Some(0.9)));
        assert_eq!(spec.stop, ["\n"]);
    }

    #[test]
    fn a_chat_with_interventions_is_one_too() {
        let body = json!({"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                {"role": "user", "content": "Hi", "name": null}], "temperature": 0, "seed": 3, "max_completion_tokens": 5,
            "stream": true, "stream_options": {"include_usage": true},
            "mediant": {"runs": {"q": {"prompt": "x"}}, "branches": {"plain": [], "patched": [{"site": "resid_post",
                "layers": 3, "positions": "last", "op": "replace", "source": {"run": "q", "positions": "last"}}]},
                "compare_with": "plain"}});
        let translated = read(Form::Chat, body).unwrap();
        assert!(translated.streams && translated.tells_usage && translated.extended && !translated.logprobs);
        let spec = spec(&translated);
        assert_eq!((spec.base.as_str(), spec.branches.names()), ("prompt", vec!["plain", "patched"]));
        assert_eq!((spec.max_tokens, spec.sampling.temperature), (5, 0.0));
    }

    #[test]
    fn what_would_change_the_answer_unseen_is_refused() {
        let at = |form: Form, body: Value| {
            let problems = read(form, body).expect_err("it is refused").0;
            problems.into_iter().map(|problem| problem.pointer).collect::<Vec<_>>()
        };
        assert_eq!(at(Form::Completion, json!({"prompt": ["a", "b"]})), ["/prompt"]);
        assert_eq!(at(Form::Completion, json!({"prompt": "a", "suffix": "b"})), ["/suffix"]);
        assert_eq!(
            at(Form::Completion, json!({"prompt": "a", "frequency_penalty": 0.5})),
            ["/frequency_penalty"]
        );
        let hello = json!([{"role": "user", "content": "Hi"}]);
        assert_eq!(at(Form::Chat, json!({"messages": hello, "tools": []})), ["/tools"]);
        assert_eq!(at(Form::Chat, json!({"messages": hello, "top_logprobs": 2})), ["/top_logprobs"]);
        assert_eq!(
            at(Form::Chat, json!({"messages": hello, "response_format": {"type": "json_object"}})),
            ["/response_format"]
        );
        assert_eq!(
            at(Form::Chat, json!({"messages": hello, "mediant": {"interventons": []}})),
            ["/mediant/interventons"]
        );
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]);
        assert_eq!(at(Form::Chat, json!({"messages": image})), ["/messages/0/content"]);
    }

    #[test]
    fn pointers_are_into_the_body_that_was_sent() {
        for (own, theirs) in [
            ("/sampling/top_p", "/top_p"),
            ("/sampling/top_k", "/mediant/top_k"),
            ("/samples", "/n"),
            ("/runs/prompt/messages/0/role", "/messages/0/role"),
            ("/runs/q/prompt", "/mediant/runs/q/prompt"),
            ("/interventions/0/site", "/mediant/interventions/0/site"),
            ("/tokens/3", "/prompt/3"),
            ("/read/logprobs", "/top_logprobs"),
            ("/read/metrics/0", "/mediant/read/metrics/0"),
            ("/max_tokens", "/max_tokens"),
            ("", ""),
        ] {
            assert_eq!(Translated::restore(Form::Chat, own), theirs);
        }
    }
}
