//! Branches that stand for the values of a sweep: every combination is one.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::spec::declare::declare;
use crate::spec::intervention::Intervention;
use crate::spec::named::Named;
use crate::spec::op::{SourceSpec, read_source};
use crate::spec::problem::{Problems, code};
use crate::spec::read::{Node, escape};
use crate::spec::select::Layers;

declare! {
/// Values that are tried one by one, each in a branch of its own; of several lists, every combination. A branch is named for its values:
/// `layer=14,coef=2`.
#[derive(ToSchema)]
#[schema(as = GenerateSweep)]
pub struct SweepForm {
    /// Coefficients of every `add`.
    pub coefs: Option<Vec<f64>>,
    /// Layers of every intervention, each alone: `[4, 8]` or `{"from": 4, "to": 12, "step": 2}`.
    pub layers: Option<Layers>,
    /// Sources by name, of every intervention that has one.
    #[schema(value_type = Option<std::collections::BTreeMap<String, SourceSpec>>)]
    pub vectors: Option<Named<SourceSpec>>,
}
}

/// Most branches that a sweep makes.
const MOST: usize = 4096;

/// What branches stand for, to find the field that the caller wrote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Swept(Vec<Made>);

/// A branch that the request does not name.
#[derive(Debug, Clone, PartialEq)]
struct Made {
    /// Its name.
    branch: String,
    /// Fields of its interventions, and where their values are written.
    fields: Vec<(&'static str, String)>,
}

/// One value of an axis.
pub(super) struct Choice {
    /// Its part of the branch's name.
    label: String,
    /// The field that it sets.
    field: &'static str,
    /// What it is set to.
    value: Value,
    /// Where it is written.
    at: String,
}

impl Swept {
    /// The only branch, of `interventions`.
    pub(super) fn alone(branch: &str) -> Self {
        Self(vec![Made { branch: branch.to_owned(), fields: Vec::new() }])
    }

    /// The pointer that the caller wrote for a pointer into a branch.
    pub(super) fn restore(&self, pointer: &str) -> String {
        let found = self.0.iter().find_map(|made| {
            let rest = pointer.strip_prefix(&format!("/branches/{}", escape(&made.branch)))?;
            if !rest.is_empty() && !rest.starts_with('/') {
                return None;
            }
            // "/0/coef/…"
            let field = rest.split('/').nth(2).unwrap_or_default();
            let own = made.fields.iter().find(|(name, _)| *name == field);
            Some(match own {
                Some((_, at)) => {
                    format!("{at}{}", rest.splitn(4, '/').nth(3).map_or(String::new(), |r| format!("/{r}")))
                }
                None => format!("/interventions{rest}"),
            })
        });
        found.unwrap_or_else(|| pointer.to_owned())
    }
}

/// The branches of a sweep over interventions.
pub(super) fn branches(
    sweep: &Node<'_>,
    given: &Node<'_>,
    axes: &[Vec<Choice>],
    out: &mut Problems,
) -> Option<(Named<Vec<Intervention>>, Swept)> {
    let items = given.items(out)?;
    let total = axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.len()))?;
    if total > MOST {
        let detail = format!("{total} branches, the limit is {MOST}");
        out.push(&sweep.at, code::LIMIT, detail, "sweep over fewer values at once");
        return None;
    }
    for axis in axes {
        check_applies(axis, &items, out);
    }
    let (mut branches, mut swept) = (Named::default(), Swept::default());
    let mut found = Problems::default();
    for place in 0..total {
        let mut rest = place;
        let mut chosen: Vec<&Choice> = Vec::new();
        for axis in axes.iter().rev() {
            chosen.push(&axis[rest % axis.len()]);
            rest /= axis.len();
        }
        chosen.reverse();
        let name = chosen.iter().map(|choice| choice.label.as_str()).collect::<Vec<_>>().join(",");
        let list: Vec<Value> = items.iter().map(|item| with(item.value, &chosen)).collect();
        let list = Value::Array(list);
        let node = Node { value: &list, at: format!("/branches/{}", escape(&name)), of: given.of };
        let read = node.each(&mut found, Intervention::read_of_text);
        let fields = chosen.iter().map(|choice| (choice.field, choice.at.clone())).collect();
        swept.0.push(Made { branch: name.clone(), fields });
        if branches.get(&name).is_some() {
            let detail = format!("two branches are called {name:?}");
            out.push(&sweep.at, code::DUPLICATE, detail, "list each value once");
            return None;
        }
        branches.0.push((name, read.unwrap_or_default()));
        if found.is_full() {
            break;
        }
    }
    // What is wrong with an intervention is wrong in every branch.
    for mut problem in found.0 {
        problem.pointer = swept.restore(&problem.pointer);
        if !out.0.contains(&problem) {
            out.push(problem.pointer, problem.code, problem.detail, problem.fix);
        }
    }
    Some((branches, swept))
}

/// Whether an intervention has a field that a sweep sets.
fn takes(intervention: &Value, field: &str) -> bool {
    let op = intervention.get("op").and_then(Value::as_str).unwrap_or("replace");
    match field {
        "coef" => op == "add",
        "source" => ["add", "replace", "mean", "subspace"].contains(&op),
        _ => true,
    }
}

fn check_applies(axis: &[Choice], items: &[Node<'_>], out: &mut Problems) {
    let Some(Choice { field, at, .. }) = axis.first() else { return };
    if !items.iter().any(|item| takes(item.value, field)) {
        let detail = format!("no intervention has a `{field}` to set");
        out.push(at, code::CONFLICT, detail, "write \"op\": \"add\", or leave the list out of `sweep`");
    }
    for item in items.iter().filter(|item| takes(item.value, field)) {
        if item.value.get(field).is_some_and(|value| !value.is_null()) {
            let detail = format!("`{field}` is swept");
            let fix = format!("leave out `{field}` here, or its list in `sweep`");
            out.push(format!("{}/{field}", item.at), code::CONFLICT, detail, fix);
        }
    }
}

/// An intervention with the chosen values.
fn with(item: &Value, chosen: &[&Choice]) -> Value {
    let Some(object) = item.as_object() else { return item.clone() };
    let mut object: Map<String, Value> = object.clone();
    for choice in chosen.iter().filter(|choice| takes(item, choice.field)) {
        object.insert(choice.field.to_owned(), choice.value.clone());
    }
    Value::Object(object)
}

/// The values that are tried, by axis.
pub(super) fn axes(sweep: &Node<'_>, out: &mut Problems) -> Option<Vec<Vec<Choice>>> {
    let fields = sweep.fields_of::<SweepForm>(out)?;
    let mut axes = Vec::new();
    if let Some(node) = fields.get("vectors") {
        let choice = |(name, node): (String, Node<'_>)| Choice {
            label: name,
            field: "source",
            value: node.value.clone(),
            at: node.at,
        };
        let entries = node.entries(out)?;
        for (_, node) in &entries {
            read_source(node, true, out);
        }
        axes.push(entries.into_iter().map(choice).collect());
    }
    if let Some(node) = fields.get("layers") {
        axes.push(read_layers(&node, out)?);
    }
    if let Some(node) = fields.get("coefs") {
        let coefs = node.all(out, |n, out| n.number(out).map(|x| (x, n.value.clone(), n.at.clone())))?;
        let choice = |(x, value, at): (f64, Value, String)| Choice {
            label: format!("coef={x}"),
            field: "coef",
            value,
            at,
        };
        axes.push(coefs.into_iter().map(choice).collect());
    }
    if axes.is_empty() {
        let fix = "list values: {\"coefs\": [0, 1, 2]}, `layers` or `vectors`";
        out.push(&sweep.at, code::EMPTY, "nothing is swept", fix);
        return None;
    }
    Some(axes)
}

fn read_layers(node: &Node<'_>, out: &mut Problems) -> Option<Vec<Choice>> {
    let layers: Vec<(u32, String)> = match Layers::read(node, out)? {
        Layers::One(layer) => vec![(layer, node.at.clone())],
        Layers::List(list) => {
            list.into_iter().enumerate().map(|(i, layer)| (layer, format!("{}/{i}", node.at))).collect()
        }
        Layers::Range { from, to: Some(to), step } if to - from <= MOST as u32 => {
            (from..to).step_by(step as usize).map(|layer| (layer, node.at.clone())).collect()
        }
        Layers::Range { .. } | Layers::Word(_) | Layers::Above(_) => {
            let detail = "which layers these are is not said";
            let fix = "list the layers, or write both ends: {\"from\": 4, \"to\": 12}";
            out.push(&node.at, code::NOT_SUPPORTED, detail, fix);
            return None;
        }
    };
    let choice = |(layer, at): (u32, String)| Choice {
        label: format!("layer={layer}"),
        field: "layers",
        value: json!(layer),
        at,
    };
    Some(layers.into_iter().map(choice).collect())
}
