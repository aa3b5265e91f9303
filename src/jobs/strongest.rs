//! Interventions at the strongest cells of an earlier sweep: `cells` in an arm becomes plain layers, heads and columns, before
//! the request is read.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::{Jobs, NotTaken, compress};
use crate::capacity::{Lane, Share};
use crate::effect::average::Average;
use crate::result::sweep::SweepOutcome;
use crate::service::Refusal;
use crate::spec::hints::Body as _;
use crate::spec::intervention::CellsOf;
use crate::spec::kind::Kind;
use crate::spec::problem::{Problems, code};
use crate::spec::read::{Node, escape};
use crate::spec::sweep::SweepBody;
use crate::store::job::{JobId, State};

/// Most arms that lists of `k` may make.
const MOST_ARMS: usize = 1000;

/// What `cells` asks for.
struct Asked {
    at: String,
    of: String,
    k: usize,
    complement: bool,
    arm: Option<String>,
    metric: Option<String>,
}

/// Layer, head and column.
type Cell = (u32, Option<u32>, Option<u32>);

/// Whether an arm names cells by an earlier job.
pub fn is_asked(body: &Value) -> bool {
    let arms = body.get("arms").and_then(Value::as_object).into_iter().flat_map(Map::values);
    arms.flat_map(interventions).any(|one| one.get("cells").is_some())
}

/// Writes out the cells that the arms of a sweep name by an earlier job.
pub async fn write_out(jobs: &Jobs, body: &mut Value, share: &Share) -> Result<(), NotTaken> {
    let invalid = |out: Problems| Err(NotTaken::Refused(Refusal::Invalid(out)));
    if !is_asked(body) {
        return Ok(());
    }
    let Some(Value::Object(arms)) = body.get("arms") else { return Ok(()) };
    let named: Vec<String> = arms.values().flat_map(interventions).filter_map(job_of).collect();
    let mut out = Problems::default();
    let axes = body.get("sweep").and_then(Value::as_array);
    let swept = |axis: &Value| matches!(axis.as_str(), Some("layers" | "heads" | "dims" | "source_layers"));
    if axes.is_none_or(|axes| axes.iter().any(swept)) {
        let detail = "the cells that `cells` names are written together, and can't be tried one by one";
        out.push("/sweep", code::CONFLICT, detail, "write \"sweep\": [], or [\"positions\"]");
        return invalid(out);
    }
    let mut results = HashMap::new();
    for name in named {
        if !results.contains_key(&name) {
            results.insert(name.clone(), result(jobs, &name, share).await?);
        }
    }
    let arms = written(arms, &results, &mut out);
    if !out.is_empty() {
        return invalid(out);
    }
    body["arms"] = Value::Object(arms);
    Ok(())
}

/// The averages of a job; what is wrong with it, if they can't be had.
async fn result(jobs: &Jobs, name: &str, share: &Share) -> Result<Result<Vec<Average>, String>, NotTaken> {
    let job = match JobId::parse(name) {
        Some(id) => jobs.job(share.owner(), id).await?,
        None => None,
    };
    let Some(job) = job else { return Ok(Err(format!("there is no job {name:?}"))) };
    if job.kind != Kind::Sweep {
        return Ok(Err(format!("the job is a {}, which has no averages", job.kind.name())));
    }
    let stored = jobs.store.file(job.id, "json").await?.filter(|_| job.state == State::Succeeded);
    let Some(packed) = stored else {
        return Ok(Err(format!("the job is {}, and has no whole result", job.state.name())));
    };
    share.resize(share.bytes() + 4 * compress::length(&packed)).await.map_err(Refusal::Busy)?;
    let read = move |_: &crate::capacity::Abandoned| {
        let json = compress::restored(&packed)?;
        serde_json::from_slice::<SweepOutcome>(&json).ok()
    };
    let outcome = share.run(Lane::Prepare, read).await;
    Ok(outcome.map(|outcome| outcome.averages.rows).ok_or_else(|| {
        "another version of the server stored the result, and this one can't read it".to_owned()
    }))
}

/// The interventions of an arm as it is written.
fn interventions(arm: &Value) -> Vec<&Value> {
    let list = arm.get("interventions").unwrap_or(arm);
    list.as_array().map_or_else(|| vec![list], |list| list.iter().collect())
}

fn job_of(intervention: &Value) -> Option<String> {
    intervention.pointer("/cells/of")?.as_str().map(str::to_owned)
}

type Results = HashMap<String, Result<Vec<Average>, String>>;

/// All arms with plain interventions.
fn written(arms: &Map<String, Value>, results: &Results, out: &mut Problems) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, arm) in arms {
        let at = format!("/arms/{}", escape(name));
        let ks: Vec<&Vec<Value>> =
            interventions(arm).iter().filter_map(|one| one.pointer("/cells/k")?.as_array()).collect();
        let Some(first) = ks.first() else {
            all.insert(name.clone(), written_arm(arm, &at, None, results, out));
            continue;
        };
        if ks.iter().any(|other| other != first) || first.is_empty() || first.len() > MOST_ARMS {
            let detail = "an arm is made for each `k`, and the lists of its interventions differ, are empty or too long";
            out.push(at, code::CONFLICT, detail, "write one list, or the same in each");
            continue;
        }
        for k in *first {
            let name = format!("{name}_k{k}");
            if arms.contains_key(&name) || all.contains_key(&name) {
                let detail = format!("there is an arm {name:?} already");
                out.push(&at, code::DUPLICATE, detail, "rename it, or list each k once");
            }
            all.insert(name, written_arm(arm, &at, Some(k), results, out));
        }
    }
    all
}

fn written_arm(arm: &Value, at: &str, k: Option<&Value>, results: &Results, out: &mut Problems) -> Value {
    let (inner, at) = match arm.get("interventions") {
        Some(list) => (list, format!("{at}/interventions")),
        None => (arm, at.to_owned()),
    };
    let mut plain = Vec::new();
    for (i, one) in interventions(arm).into_iter().enumerate() {
        let at = if inner.is_array() { format!("{at}/{i}") } else { at.clone() };
        match one.get("cells") {
            None => plain.push(one.clone()),
            Some(cells) => {
                let found = asked(cells, &format!("{at}/cells"), k, out).and_then(|asked| {
                    let kept = ["layers", "heads", "dims", "window"]
                        .into_iter()
                        .filter(|name| one.get(name).is_some());
                    for name in kept {
                        let detail = format!("`{name}` and `cells` exclude each other");
                        out.push(
                            format!("{at}/{name}"),
                            code::CONFLICT,
                            detail,
                            format!("leave out `{name}` or `cells`"),
                        );
                    }
                    chosen(&asked, results, out)
                });
                plain.extend(found.into_iter().flat_map(|cells| plain_forms(one, &cells)));
            }
        }
    }
    match arm.get("interventions") {
        Some(_) => {
            let mut arm = arm.clone();
            arm["interventions"] = Value::Array(plain);
            arm
        }
        None => Value::Array(plain),
    }
}

fn asked(cells: &Value, at: &str, k: Option<&Value>, out: &mut Problems) -> Option<Asked> {
    let of = SweepBody::AT;
    let fields = Node { value: cells, at: at.to_owned(), of }.fields_of::<CellsOf>(out)?;
    let job = fields.need("of", "name the job of an earlier sweep", out).and_then(|n| n.name(out));
    let k = match k {
        Some(value) => Some(Node { value, at: fields.pointer("k"), of }),
        None => fields.need("k", "say how many: 6, or [1, 2, 4] for an arm of each", out),
    };
    let k = k.and_then(|n| n.count(1, out));
    let complement = fields.get("complement").map_or(Some(false), |n| n.flag(out));
    let mut name = |field: &str| fields.get(field).map_or(Some(None), |n| n.name(out).map(Some));
    let (arm, metric) = (name("arm"), name("metric"));
    let (k, complement) = (k? as usize, complement?);
    Some(Asked { at: at.to_owned(), of: job?, k, complement, arm: arm?, metric: metric? })
}

/// The cells meant, in the order of layers, heads and columns.
fn chosen(asked: &Asked, results: &Results, out: &mut Problems) -> Option<Vec<Cell>> {
    let mut wrong = |field: &str, code, detail: String, fix: &str| {
        out.push(format!("{}{field}", asked.at), code, detail, fix);
        None
    };
    let rows = match results.get(asked.of.as_str())? {
        Ok(rows) => rows,
        Err(why) => {
            return wrong(
                "/of",
                code::UNKNOWN_NAME,
                why.clone(),
                "name a sweep that has succeeded: GET /v1/jobs",
            );
        }
    };
    let rows = || rows.iter().filter(|row| row.at.group.is_none());
    let listed = |names: Vec<&str>| format!("there are {}", names.join(", "));
    let mut arms: Vec<&str> = rows().map(|row| row.at.arm.as_str()).collect();
    arms.dedup();
    arms.sort_unstable();
    arms.dedup();
    let arm = match (asked.arm.as_deref(), &arms[..]) {
        (Some(arm), all) if all.contains(&arm) => arm,
        (Some(arm), all) => {
            return wrong(
                "/arm",
                code::UNKNOWN_NAME,
                format!("that sweep has no arm {arm:?}"),
                &listed(all.to_vec()),
            );
        }
        (None, [only]) => only,
        (None, all) => {
            let detail = format!("that sweep has {} arms", all.len());
            return wrong("/arm", code::MISSING, detail, &listed(all.to_vec()));
        }
    };
    let mut metrics: Vec<&str> = Vec::new();
    for row in rows() {
        if !metrics.contains(&row.metric.as_str()) {
            metrics.push(&row.metric);
        }
    }
    let Some(metric) =
        asked.metric.as_deref().or(metrics.first().copied()).filter(|metric| metrics.contains(metric))
    else {
        return wrong(
            "/metric",
            code::UNKNOWN_NAME,
            "that sweep has no such metric".to_owned(),
            &listed(metrics),
        );
    };
    let mut cells: Vec<(f64, Cell)> = Vec::new();
    for row in rows().filter(|row| row.at.arm == arm && row.metric == metric) {
        let at = &row.at;
        let elsewhere = at.position.is_some() || at.token_class.is_some() || at.source_layer.is_some();
        let Some(layer) = at.layer.filter(|_| !elsewhere) else {
            let detail =
                "that sweep is not averaged by layer, or by position, token class or source layer too";
            let fix = "send it with \"aggregate\": {\"by\": [\"layer\", \"head\"]}";
            return wrong("/of", code::NOT_SUPPORTED, detail.to_owned(), fix);
        };
        if row.trivial < row.cells
            && let Some(mean) = row.effect.mean
        {
            cells.push((mean.abs(), (layer, at.head, at.dim)));
        }
    }
    if cells.len() < asked.k {
        let detail = format!("that arm has {} cells with an effect, {} are asked for", cells.len(), asked.k);
        return wrong("/k", code::OUT_OF_RANGE, detail, "ask for fewer");
    }
    // Of equal ones the first in the order of the model.
    cells.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let (strongest, others) = cells.split_at(asked.k);
    let mut cells: Vec<Cell> =
        if asked.complement { others } else { strongest }.iter().map(|one| one.1).collect();
    if cells.is_empty() {
        return wrong("/k", code::OUT_OF_RANGE, "no cell is left".to_owned(), "ask for fewer");
    }
    cells.sort_unstable();
    Some(cells)
}

/// An intervention at each layer, with all heads of it that are written alike.
fn plain_forms(one: &Value, cells: &[Cell]) -> Vec<Value> {
    // By layer, then heads by their columns.
    let mut by_head: BTreeMap<(u32, Option<u32>), Vec<u32>> = BTreeMap::new();
    for (layer, head, dim) in cells {
        by_head.entry((*layer, *head)).or_default().extend(dim);
    }
    let mut forms: BTreeMap<(u32, Vec<u32>), Vec<u32>> = BTreeMap::new();
    for ((layer, head), dims) in by_head {
        forms.entry((layer, dims)).or_default().extend(head);
    }
    let of = |((layer, dims), heads): ((u32, Vec<u32>), Vec<u32>)| {
        let mut plain = one.clone();
        if let Some(fields) = plain.as_object_mut() {
            fields.remove("cells");
            fields.insert("layers".to_owned(), json!(layer));
            for (name, list) in [("heads", heads), ("dims", dims)] {
                if !list.is_empty() {
                    fields.insert(name.to_owned(), json!(list));
                }
            }
        }
        plain
    };
    forms.into_iter().map(of).collect()
}
