//! One case of a sweep: its runs and targets.

use serde::Serialize;
use utoipa::ToSchema;

use super::{CLEAN, CORRUPTED, FOIL, TARGET, scoring};
use crate::spec::chat::{Message, TemplateOptions};
use crate::spec::declare::declare;
use crate::spec::endpoint::Endpoint;
use crate::spec::hints::{Body, Places, of};
use crate::spec::metric::{Target, TargetScoring, TargetSet, read_target};
use crate::spec::named::Named;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::{Prompt, PromptBody, SpanText, read_runs};
use crate::spec::read::{Fields, Node, escape};

/// One case: prompts that are computed and compared together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepCase {
    /// Its name; its place in the list if left out.
    pub id: String,
    /// The group it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its prompts by name; `clean` and `corrupted` in short are `prompt` and `corrupted`.
    pub runs: Named<Prompt>,
    /// What is scored, by name; `target` and `foil` in short are fields of the case.
    pub targets: Named<TargetSet>,
    /// What counts of a target text of several tokens.
    pub target_scoring: TargetScoring,
}

declare! {
/// A sweep's cases: written out, or by the id of a stored data set.
#[derive(ToSchema)]
pub struct DatasetForm {
    /// The cases.
    pub inline: Option<Vec<CaseForm>>,
    /// A set stored by `POST /v1/datasets`.
    pub id: Option<String>,
}
}

declare! {
/// A case as it is written.
#[derive(ToSchema)]
pub struct CaseForm {
    /// Its name; its place in the list if left out.
    pub id: Option<String>,
    /// The group it belongs to.
    pub group: Option<String>,
    /// The clean prompt, the run `clean`; or `tokens`, or `messages`; or `runs`.
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
    /// The span named `subject`, around which token classes lie.
    pub subject: Option<SpanText>,
    /// A prompt that takes the clean one's place in the run `corrupted`, instead of a corruption.
    pub corrupted: Option<PromptBody>,
    /// All runs by name, instead of `prompt` and `corrupted`.
    #[schema(value_type = Option<std::collections::BTreeMap<String, PromptBody>>)]
    pub runs: Option<Named<PromptBody>>,
    /// What is scored, the target `target`.
    pub target: Option<Target>,
    /// What it is compared with, the target `foil`.
    pub foil: Option<Target>,
    /// Further targets by name.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Target>>)]
    pub targets: Option<Named<Target>>,
    /// What counts of a target text of several tokens.
    pub target_scoring: Option<TargetScoring>,
}
}

impl Body for CaseForm {
    const AT: Endpoint = Endpoint("/v1/datasets");

    /// One of a list.
    fn places() -> Places {
        of::<Self>("/0")
    }
}

/// What a request gives to all of its cases.
pub(super) struct Shared {
    targets: Named<TargetSet>,
    target_scoring: TargetScoring,
}

/// Most targets that cases get from the request, counted in every case.
const MOST_SHARED: usize = 500_000;

impl Shared {
    pub(super) fn read(fields: &Fields<'_>, out: &mut Problems) -> Self {
        Self { targets: targets(fields, out), target_scoring: scoring(fields, out).unwrap_or_default() }
    }
}

/// Targets given as `targets`, `target` and `foil`.
fn targets(fields: &Fields<'_>, out: &mut Problems) -> Named<TargetSet> {
    let mut targets =
        fields.get("targets").and_then(|n| Named::read(&n, out, read_target)).unwrap_or_default();
    for name in [TARGET, FOIL] {
        let Some(node) = fields.get(name) else { continue };
        if targets.get(name).is_some() {
            let detail = format!("`{name}` is an entry of `targets` too");
            out.push(&node.at, code::CONFLICT, detail, "leave one of them out, or rename it in `targets`");
        } else if let Some(set) = read_target(&node, out).filter(|set| !set.is_empty()) {
            targets.0.push((name.to_owned(), set));
        }
    }
    targets
}

/// The cases of a request that can be read, and the pointer to each.
pub(super) fn read(
    request: &Fields<'_>,
    shared: &Shared,
    grouped: bool,
    out: &mut Problems,
) -> Option<(Vec<String>, Vec<SweepCase>)> {
    if let Some(node) = request.get("runs").filter(|_| request.get("dataset").is_none()) {
        let case = SweepCase {
            id: "0".to_owned(),
            group: None,
            runs: read_runs(&node, out)?,
            targets: shared.targets.clone(),
            target_scoring: shared.target_scoring,
        };
        return Some((vec![String::new()], vec![case]));
    }
    let fix = "write {\"inline\": [cases]} or {\"id\": \"ds_…\"}, or give `runs` for a single case";
    let dataset = request.need("dataset", fix, out)?.fields_of::<DatasetForm>(out)?;
    let items = dataset.need("inline", fix, out)?.items(out)?;
    let common = match request.get("runs") {
        Some(node) => read_runs(&node, out)?,
        None => Named::default(),
    };
    if items.len() * common.len() > MOST_SHARED {
        let detail = format!("{} runs of {} cases", common.len(), items.len());
        out.push("/runs", code::LIMIT, detail, "send fewer cases at once");
        return None;
    }
    if items.len() * shared.targets.len() > MOST_SHARED {
        let detail = format!("{} targets of {} cases", shared.targets.len(), items.len());
        out.push(
            "/targets",
            code::LIMIT,
            detail,
            "send fewer, or give each case the targets that it is about",
        );
        return None;
    }
    let mut seen = std::collections::HashSet::new();
    let mut read = (Vec::new(), Vec::new());
    for (i, item) in items.iter().enumerate() {
        if out.is_full() {
            break;
        }
        let Some(mut case) = SweepCase::read(item, i, shared, grouped, out) else { continue };
        for (name, run) in common.iter() {
            if case.runs.get(name).is_some() {
                let detail = format!("the case has a run {name:?} too");
                out.push(format!("/runs/{}", escape(name)), code::CONFLICT, detail, "rename one of them");
                return None;
            }
            case.runs.0.push((name.to_owned(), run.clone()));
        }
        if !seen.insert(case.id.clone()) {
            let detail = format!("an earlier case is called {:?} too", case.id);
            let fix = "give each case a name of its own, or leave out `id`";
            out.push(format!("{}/id", item.at), code::DUPLICATE, detail, fix);
        }
        read.0.push(item.at.clone());
        read.1.push(case);
    }
    same_names(&read.0, &read.1, out);
    (!read.1.is_empty()).then_some(read)
}

/// Cases are computed alike, so they must have the same runs.
fn same_names(places: &[String], cases: &[SweepCase], out: &mut Problems) {
    let Some(first) = cases.first() else { return };
    let names = first.runs.names();
    let other = cases.iter().position(|case| {
        case.runs.len() != names.len() || names.iter().any(|name| case.runs.get(name).is_none())
    });
    if let Some(other) = other {
        let detail = format!(
            "it has the runs {}, the first case {}",
            cases[other].runs.names().join(", "),
            names.join(", ")
        );
        out.push(&places[other], code::CONFLICT, detail, "give every case the same runs");
    }
}

impl SweepCase {
    /// The prompt that stands for the case: the run `clean`, or the only one that is a prompt.
    pub fn clean(&self) -> Option<&Prompt> {
        self.runs.get(super::from_run(&self.runs))
    }

    /// Reads a line of a data set on its own.
    pub fn check(node: &Node<'_>, index: usize, out: &mut Problems) -> Option<Self> {
        let none = Shared { targets: Named::default(), target_scoring: TargetScoring::default() };
        Self::read(node, index, &none, false, out)
    }

    fn read(
        node: &Node<'_>,
        index: usize,
        shared: &Shared,
        grouped: bool,
        out: &mut Problems,
    ) -> Option<Self> {
        let fields = node.fields_of::<CaseForm>(out)?;
        let id = fields.get("id").map_or(Some(index.to_string()), |n| n.label(out));
        let group = fields.get("group").map_or(Some(None), |n| n.label(out).map(Some));
        if grouped && fields.get("group").is_none() {
            fields.need("group", "name the group of every case, or leave `group` out of `aggregate.by`", out);
        }
        let runs = if let Some(node) = fields.get("runs") {
            fields.exclude(
                "runs",
                &["prompt", "tokens", "messages", "template", "bos", "spans", "subject", "corrupted"],
                out,
            );
            read_runs(&node, out)
        } else {
            prompts(&fields, out)
        };
        let mut targets = targets(&fields, out);
        for (name, set) in shared.targets.iter().filter(|(name, _)| fields.get(name).is_none()) {
            if targets.get(name).is_none() {
                targets.0.push((name.to_owned(), set.clone()));
            }
        }
        let target_scoring = scoring(&fields, out).unwrap_or(shared.target_scoring);
        Some(Self { id: id?, group: group?, runs: runs?, targets, target_scoring })
    }
}

/// The clean prompt, with the subject among its spans, and the corrupted one.
fn prompts(fields: &Fields<'_>, out: &mut Problems) -> Option<Named<Prompt>> {
    let clean = Prompt::read_fields(fields, out);
    let subject = fields.get("subject").map(|n| SpanText::read(&n, out));
    let corrupted = fields.get(CORRUPTED).map(|n| Prompt::read(&n, out));
    let mut clean = clean?;
    if let Some(subject) = subject {
        if clean.spans.get("subject").is_some() {
            let detail = "`subject` is an entry of `spans` too";
            out.push(fields.pointer("subject"), code::CONFLICT, detail, "leave one of them out");
        }
        clean.spans.0.push(("subject".to_owned(), subject?));
    }
    let mut runs = Named::one(CLEAN, clean);
    if let Some(corrupted) = corrupted {
        runs.0.push((CORRUPTED.to_owned(), corrupted?));
    }
    Some(runs)
}
