//! Texts of many prompts: a request of its own for each case of a data set.

use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{GenerateBody, PROMPT};
use crate::spec::chat::{Message, TemplateOptions};
use crate::spec::declare::declare;
use crate::spec::hints::Body as _;
use crate::spec::metric::Target;
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::SpanText;
use crate::spec::read::Node;

declare! {
/// Prompts that are continued one by one: written out, or by the id of a stored data set.
#[derive(ToSchema)]
pub struct TextsForm {
    /// The cases.
    pub inline: Option<Vec<TextCaseForm>>,
    /// A set stored by `POST /v1/datasets`; its cases may have these fields only.
    pub id: Option<String>,
}
}

declare! {
/// A prompt that is continued, as it is written.
#[derive(ToSchema)]
pub struct TextCaseForm {
    /// Its name; its place in the list if left out.
    pub id: Option<String>,
    /// The group it belongs to.
    pub group: Option<String>,
    /// The prompt; or `tokens`, or `messages`.
    pub prompt: Option<String>,
    /// Token ids instead of a prompt.
    pub tokens: Option<Vec<u32>>,
    /// A conversation instead of a prompt, written out by the model's chat template.
    pub messages: Option<Vec<Message>>,
    /// With `messages`: what the template is told.
    pub template: Option<TemplateOptions>,
    /// Whether a BOS token is put first; the tokenizer's own policy if left out.
    pub bos: Option<bool>,
    /// Named spans of the prompt.
    #[schema(value_type = Option<std::collections::BTreeMap<String, SpanText>>)]
    pub spans: Option<Named<SpanText>>,
    /// The span named `subject`.
    pub subject: Option<SpanText>,
    /// Tokens that metrics are about, the target `target`, instead of the request's.
    pub target: Option<Target>,
    /// Targets by name, instead of the request's.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Target>>)]
    pub targets: Option<Named<Target>>,
}
}

/// What a case gives its prompt.
const OF_PROMPT: [&str; 6] = ["prompt", "tokens", "messages", "template", "spans", "bos"];

/// One prompt of many, as a request of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct TextCase {
    /// Its name; its place in the list if left out.
    pub id: String,
    /// The group it belongs to.
    pub group: Option<String>,
    /// The request.
    pub body: Value,
    /// Pointers into the whole request by those into this one, the longest first; none if the request has but one prompt.
    places: Vec<(String, String)>,
}

impl TextCase {
    /// The requests that a body stands for: one for each case of its data set, or itself.
    ///
    /// # Errors
    /// What is wrong with the data set. What is wrong with the requests is found where they are read.
    pub fn all(body: &Value) -> Result<Vec<TextCase>, Problems> {
        if body.get("dataset").is_none_or(Value::is_null) {
            let (id, places) = ("0".to_owned(), Vec::new());
            return Ok(vec![TextCase { id, group: None, body: body.clone(), places }]);
        }
        let mut out = Problems::default();
        let cases = Self::read(body, &mut out);
        out.or(cases)
    }

    fn read(body: &Value, out: &mut Problems) -> Option<Vec<TextCase>> {
        let fields = Node::root(GenerateBody::AT, body).fields_of::<GenerateBody>(out)?;
        fields.exclude("dataset", &OF_PROMPT, out);
        fields.exclude("dataset", &["base"], out);
        let fix = "write {\"inline\": [cases]} or {\"id\": \"ds_…\"}";
        let dataset = fields.need("dataset", fix, out)?.fields_of::<TextsForm>(out)?;
        let items = dataset.need("inline", fix, out)?.items(out)?;
        if items.is_empty() {
            out.push(dataset.pointer("inline"), code::EMPTY, "there is no case", "write at least one");
        }
        if let Some(runs) = fields.get("runs").filter(|runs| runs.value.get(PROMPT).is_some()) {
            let detail = format!("every case is the run {PROMPT:?}");
            out.push(format!("{}/{PROMPT}", runs.at), code::CONFLICT, detail, "rename it");
        }
        let mut shared = body.as_object()?.clone();
        shared.shift_remove("dataset");
        let mut seen = std::collections::HashSet::new();
        let mut cases = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            if out.is_full() {
                break;
            }
            let Some(case) = one(item, i, &shared, out) else { continue };
            if !seen.insert(case.id.clone()) {
                let detail = format!("an earlier case is called {:?} too", case.id);
                let fix = "give each case a name of its own, or leave out `id`";
                out.push(format!("{}/id", item.at), code::DUPLICATE, detail, fix);
            }
            cases.push(case);
        }
        Some(cases)
    }

    /// The pointer into the whole request for one into this case's.
    pub fn restore(&self, pointer: &str) -> String {
        let found = self.places.iter().find_map(|(here, there)| {
            let rest = pointer.strip_prefix(here.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{there}{rest}"))
        });
        found.unwrap_or_else(|| pointer.to_owned())
    }
}

fn one(item: &Node<'_>, index: usize, shared: &Map<String, Value>, out: &mut Problems) -> Option<TextCase> {
    let fields = item.fields_of::<TextCaseForm>(out)?;
    let id = fields.get("id").map_or(Some(index.to_string()), |n| n.label(out));
    let group = fields.get("group").map_or(Some(None), |n| n.label(out).map(Some));
    let given = |name: &str| fields.get(name).map(|node| node.value.clone());
    let mut prompt: Map<String, Value> =
        OF_PROMPT.into_iter().filter_map(|name| Some((name.to_owned(), given(name)?))).collect();
    let mut places = Vec::new();
    if let Some(subject) = given("subject") {
        places.push((format!("/runs/{PROMPT}/spans/subject"), fields.pointer("subject")));
        let spans = prompt.entry("spans").or_insert_with(|| Map::new().into());
        if let Some(spans) = spans.as_object_mut() {
            spans.insert("subject".to_owned(), subject);
        }
    }
    let mut body = shared.clone();
    for name in ["target", "targets"] {
        let Some(own) = given(name) else { continue };
        if shared.contains_key(name) {
            let detail = format!("the request has `{name}` for all cases");
            out.push(fields.pointer(name), code::CONFLICT, detail, "leave out one of them");
        }
        body.insert(name.to_owned(), own);
        places.push((format!("/{name}"), fields.pointer(name)));
    }
    let runs = body.entry("runs").or_insert_with(|| Map::new().into());
    if let Some(runs) = runs.as_object_mut() {
        runs.insert(PROMPT.to_owned(), prompt.into());
    }
    body.insert("base".to_owned(), PROMPT.into());
    places.push((format!("/runs/{PROMPT}"), item.at.clone()));
    Some(TextCase { id: id?, group: group?, body: body.into(), places })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_case_is_a_request_of_its_own() {
        let body = json!({"max_tokens": 4, "runs": {"q": "b"}, "dataset": {"inline": [
            {"prompt": "A", "subject": "A"}, {"id": "x", "group": "g", "tokens": [1, 2], "target": " a"}]}});
        let cases = TextCase::all(&body).unwrap();
        assert_eq!(
            cases[0].body,
            json!({"max_tokens": 4, "base": "prompt",
                   "runs": {"q": "b", "prompt": {"prompt": "A", "spans": {"subject": "A"}}}})
        );
        assert_eq!((cases[1].id.as_str(), cases[1].group.as_deref()), ("x", Some("g")));
        assert_eq!(cases[1].body["target"], " a");
        assert_eq!(cases[1].restore("/runs/prompt/tokens/1"), "/dataset/inline/1/tokens/1");
        assert_eq!(cases[0].restore("/runs/prompt/spans/subject"), "/dataset/inline/0/subject");
        assert_eq!(cases[1].restore("/target/0"), "/dataset/inline/1/target/0");
        assert_eq!(cases[0].restore("/target"), "/target");
        assert_eq!(cases[1].restore("/runs/q"), "/runs/q");
        let single = json!({"prompt": "A"});
        assert_eq!(TextCase::all(&single).unwrap()[0].body, single);
    }

    #[test]
    fn what_is_wrong_with_a_set_is_said_by_place() {
        let wrong = |body: Value| -> Vec<String> {
            TextCase::all(&body).unwrap_err().0.into_iter().map(|problem| problem.pointer).collect()
        };
        let set = |cases: Value| json!({"dataset": {"inline": cases}});
        assert_eq!(wrong(set(json!([]))), ["/dataset/inline"]);
        assert_eq!(wrong(set(json!([{"prompt": "a", "foil": "b"}]))), ["/dataset/inline/0/foil"]);
        assert_eq!(
            wrong(set(json!([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}]))),
            ["/dataset/inline/1/id"]
        );
        assert_eq!(wrong(json!({"prompt": "a", "dataset": {"inline": [{"prompt": "b"}]}})), ["/prompt"]);
        assert_eq!(
            wrong(json!({"runs": {"prompt": "a"}, "dataset": {"inline": [{"prompt": "b"}]}})),
            ["/runs/prompt"]
        );
        assert_eq!(wrong(json!({"dataset": {"id": "ds_1"}})), ["/dataset/inline"]);
    }
}
