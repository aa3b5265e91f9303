//! Arms of a sweep: what is patched into which run.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::CORRUPTED;
use crate::spec::declare::declare;
use crate::spec::intervention::{Intervention, OpSpec, SourceSpec};
use crate::spec::named::Named;
use crate::spec::patch::SweepAxis;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::Prompt;
use crate::spec::read::{Fields, Node, escape};
use crate::spec::select::{Layers, Positions};
use crate::spec::site::Site;
use crate::spec::trace::{Arm, read_presets};

declare! {
/// One way to patch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepArm {
    /// The run that is patched.
    pub base: String,
    /// The run whose metrics its cells could at most reach: total effects are this one's minus the base's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What is written.
    pub interventions: Vec<Intervention>,
    /// Whether all positions are written together, although other arms are enumerated along them.
    skip pub together: bool,
}
}

/// Ways to write the arms of a sweep: ROME's by name, or by names of one's own lists of interventions, single ones, or
/// objects that name the runs too. An intervention without `op` and `source` restores the reference run's values.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum SweepArmsForm {
    /// `hidden`, `mlp` and `attn` (windows of 1, 10 and 10 layers), at every position.
    Names(Vec<String>),
    /// Arms by name.
    Map(std::collections::BTreeMap<String, Value>),
}

/// The runs between which arms patch, where they don't say otherwise.
pub(super) struct Ends {
    base: Option<String>,
    reference: Option<String>,
}

impl Ends {
    /// The corrupted run from the clean one where there is one; else what is named.
    pub(super) fn read(fields: &Fields<'_>, has_corrupted: bool, clean: &str, out: &mut Problems) -> Self {
        let mut base = fields.get("base").and_then(|n| n.name(out));
        let mut reference = fields.get("reference").and_then(|n| n.name(out));
        if has_corrupted {
            let base = base.get_or_insert_with(|| CORRUPTED.to_owned());
            let other = if base == CORRUPTED { clean } else { CORRUPTED };
            reference.get_or_insert_with(|| other.to_owned());
        }
        Self { base, reference }
    }

    /// Arms of a trace between them; none where it isn't known which they are.
    fn restoring(&self, arms: &Named<Arm>) -> Named<SweepArm> {
        match (&self.base, &self.reference) {
            (Some(base), Some(one)) => restoring(arms, &Layers::ALL, &Positions::ALL, [base, one]).0,
            _ => Named::default(),
        }
    }
}

/// The arms; by default the residual stream.
pub(super) fn read_arms(fields: &Fields<'_>, ends: &Ends, out: &mut Problems) -> Named<SweepArm> {
    let Some(node) = fields.get("arms") else {
        if ends.base.is_none() || ends.reference.is_none() {
            fields.need(
                "arms",
                "say what is patched: {\"mlp\": [{\"site\": \"mlp_out\", \"source\": {\"run\": …}}]}",
                out,
            );
            return Named::default();
        }
        return ends.restoring(&Arm::presets(&["hidden"]));
    };
    if node.value.is_array() {
        if ends.reference.is_none() {
            let fix = "add `corrupt`, or write the interventions of each arm";
            out.push(&node.at, code::CONFLICT, "these arms restore clean states in a corrupted run", fix);
        }
        return ends.restoring(&read_presets(&node, out).unwrap_or_default());
    }
    Named::read(&node, out, |n, out| read_arm(n, ends, out)).unwrap_or_default()
}

/// The arms of a trace, which restore the reference's states in the base, and the axes that they are enumerated along.
pub fn restoring(
    arms: &Named<Arm>,
    layers: &Layers,
    positions: &Positions,
    [base, reference]: [&str; 2],
) -> (Named<SweepArm>, Vec<SweepAxis>) {
    let some = |axis, has: fn(&Arm) -> bool| arms.iter().any(|(_, arm)| has(arm)).then_some(axis);
    let layered = some(SweepAxis::Layers, |arm| arm.site.has_layer());
    let placed = some(SweepAxis::Positions, |arm| arm.positions.is_none());
    let written = |_: &str, arm: &Arm| SweepArm::restoring(arm, layers, positions, base, reference);
    (arms.map(written), layered.into_iter().chain(placed).collect())
}

impl SweepArm {
    /// An arm of a trace: the reference's states in the base, or edges of attention that are cut in it; above what is written,
    /// the base's states are held at the sites that the arm freezes.
    fn restoring(arm: &Arm, layers: &Layers, positions: &Positions, base: &str, reference: &str) -> Self {
        let everywhere = |site: Site, layers: &Layers, op| Intervention {
            site,
            layers: site.has_layer().then(|| layers.clone()),
            positions: arm.positions.as_ref().unwrap_or(positions).clone(),
            heads: None,
            dims: None,
            window: 1,
            cells: (),
            op,
        };
        let source = SourceSpec::Run { run: reference.to_owned(), positions: None, site: None, layer: None };
        let op = match &arm.keys {
            Some(keys) => OpSpec::Knockout { keys: keys.clone() },
            None => OpSpec::Replace { source },
        };
        let written = Intervention {
            heads: arm.heads.clone(),
            dims: arm.dims.clone(),
            window: arm.window,
            ..everywhere(arm.site, layers, op)
        };
        let held = |site: &Site| everywhere(*site, &Layers::ABOVE, OpSpec::Freeze { source: None });
        let interventions = std::iter::once(written).chain(arm.freeze.iter().map(held)).collect();
        Self {
            base: base.to_owned(),
            reference: Some(reference.to_owned()),
            interventions,
            together: arm.positions.is_some(),
        }
    }
}

/// A list of interventions, one of them, or an object that names the runs too.
fn read_arm(node: &Node<'_>, ends: &Ends, out: &mut Problems) -> Option<SweepArm> {
    let long = node.value.get("interventions").is_some();
    let fields = if long { Some(node.fields_of::<SweepArm>(out)?) } else { None };
    let named = |field: &str, out: &mut Problems| {
        fields.as_ref().and_then(|fields| fields.get(field)).and_then(|n| n.name(out))
    };
    let (base, reference) = (named("base", out), named("reference", out));
    let base = base.or_else(|| ends.base.clone());
    let reference = reference.or_else(|| ends.reference.clone());
    let list = match &fields {
        Some(fields) => fields.get("interventions")?,
        None => node.clone(),
    };
    let items = if list.value.is_object() { vec![list] } else { list.items(out)? };
    let read = |item: &Node<'_>, out: &mut Problems| {
        let completed = completed(item.value, reference.as_deref());
        Intervention::read(&Node { value: &completed, at: item.at.clone(), of: item.of }, out)
    };
    let interventions: Vec<Option<Intervention>> = items.iter().map(|item| read(item, out)).collect();
    let interventions: Vec<Intervention> = interventions.into_iter().collect::<Option<_>>()?;
    let Some(base) = base else {
        let fix = "name it as `base`, or give the cases a corrupted run";
        out.push("/base", code::MISSING, "it is not said which run is patched", fix);
        return None;
    };
    // The only other run that is read, as in a patch.
    let reference = reference.or_else(|| {
        let mut sources: Vec<&str> = interventions.iter().filter_map(run_read).collect();
        sources.dedup();
        match sources[..] {
            [one] if one != base => Some(one.to_owned()),
            _ => None,
        }
    });
    let reference = reference.filter(|reference| *reference != base);
    Some(SweepArm { base, reference, interventions, together: false })
}

/// An intervention without operation and source restores the reference.
fn completed(value: &Value, reference: Option<&str>) -> Value {
    let (Some(map), Some(reference)) = (value.as_object(), reference) else { return value.clone() };
    let says = |name| map.get(name).is_some_and(|value| !value.is_null());
    let replaces = !says("op") || map.get("op").is_some_and(|op| op == "replace");
    if says("source") || !replaces {
        return value.clone();
    }
    let mut map: Map<String, Value> = map.clone();
    map.insert("source".to_owned(), json!({ "run": reference }));
    Value::Object(map)
}

fn run_read(intervention: &Intervention) -> Option<&str> {
    match intervention.op.source()? {
        SourceSpec::Run { run, .. } => Some(run),
        _ => None,
    }
}

/// With `"swap": true`, every arm once more with base and reference exchanged.
pub(super) fn with_swapped(
    fields: &Fields<'_>,
    arms: Named<SweepArm>,
    runs: &Named<Prompt>,
    out: &mut Problems,
) -> Named<SweepArm> {
    let swap = fields.get("swap");
    for (name, arm) in arms.iter() {
        for run in std::iter::once(&arm.base).chain(&arm.reference) {
            if run != CORRUPTED && runs.get(run).is_none() {
                let detail =
                    format!("arm {name:?} is between {run:?} and another run, and no run is called so");
                let of_all = fields.get("base").is_some_and(|n| n.value.as_str() == Some(run));
                let at = if of_all { "/base".to_owned() } else { format!("/arms/{}", escape(name)) };
                let fix = format!("the runs are {}", runs.names().join(", "));
                out.push(at, code::UNKNOWN_NAME, detail, fix);
            }
        }
    }
    let Some(node) = swap.filter(|n| n.value.as_bool() != Some(false)) else { return arms };
    if node.flag(out).is_none() {
        return arms;
    }
    let mut all = Vec::with_capacity(2 * arms.len());
    for (name, arm) in arms.0 {
        let swapped = swapped(&name, &arm, out);
        all.push((name.clone(), arm));
        all.extend(swapped.map(|swapped| (format!("{name}_swapped"), swapped)));
    }
    unique(&all, &node.at, out);
    Named(all)
}

/// Arms are told apart by their names.
fn unique(arms: &[(String, SweepArm)], at: &str, out: &mut Problems) {
    for (i, (name, _)) in arms.iter().enumerate() {
        if arms[..i].iter().any(|(earlier, _)| earlier == name) {
            out.push(
                at,
                code::DUPLICATE,
                format!("two arms are called {name:?}"),
                "give each a name of its own",
            );
        }
    }
}

fn swapped(name: &str, arm: &SweepArm, out: &mut Problems) -> Option<SweepArm> {
    let at = format!("/arms/{}", escape(name));
    let Some(reference) = &arm.reference else {
        let fix = "name the other run as `reference`, or leave out `swap`";
        out.push(at, code::CONFLICT, "there is no other run to exchange the base with", fix);
        return None;
    };
    let exchange = |run: &str| match run {
        run if run == arm.base => reference.clone(),
        run if run == reference => arm.base.clone(),
        run => run.to_owned(),
    };
    let mut interventions = arm.interventions.clone();
    for intervention in &mut interventions {
        let (OpSpec::Replace { source }
        | OpSpec::Add { source, .. }
        | OpSpec::Mean { source }
        | OpSpec::Subspace { source, .. }
        | OpSpec::Freeze { source: Some(source) }) = &mut intervention.op
        else {
            continue;
        };
        if let SourceSpec::Run { run, positions, .. } = source {
            let other = exchange(run);
            // A third run is read as it is.
            if other == *run {
                continue;
            }
            *run = other;
            if let Some(read) = positions {
                std::mem::swap(read, &mut intervention.positions);
            }
        }
        if let Positions::Map { map } = &mut intervention.positions {
            for pair in map.iter_mut() {
                pair.swap(0, 1);
            }
        }
    }
    let (base, reference) = (reference.clone(), Some(arm.base.clone()));
    Some(SweepArm { base, reference, interventions, together: arm.together })
}
