//! What an intervention does, and where its values come from.

use serde::Serialize;
use utoipa::ToSchema;

use super::coef::Coef;
use super::corruption::{Rng, Sigma, read_seed};
use super::declare::{Declared, names};
use super::problem::{Problems, code};
use super::read::{Fields, Node};
use super::readout::read_site;
use super::select::{Layers, Positions};
use super::site::Site;

/// What an intervention does.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum OpSpec {
    /// Writes the source's values.
    Replace {
        /// Where they come from.
        source: SourceSpec,
    },
    /// Adds `coef` times the source's values.
    Add {
        /// Where they come from.
        source: SourceSpec,
        /// Their factor; in `POST /v1/generate` also one for each step.
        #[schema(required = false)]
        coef: Coef,
        /// Rescales each written row (each head's slice where heads are named) to the norm it had.
        #[schema(required = false)]
        norm_match: bool,
    },
    /// Multiplies by a factor: the whole row, or its part along a direction.
    Scale {
        /// The factor.
        factor: f64,
        /// Only the part of the row along this direction is multiplied; the rest stays.
        #[serde(skip_serializing_if = "Option::is_none")]
        along: Option<AlongSpec>,
    },
    /// Holds the part of the row along a direction within bounds, and keeps the rest. What lies within them keeps its bits.
    Clamp {
        /// The direction. It counts with length 1: the bounds are in units of the row.
        along: AlongSpec,
        /// The least that it may be; no bound if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        min: Option<f64>,
        /// The most that it may be; no bound if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
    },
    /// Writes zeros.
    Zero,
    /// Writes a mean, usually over runs: `{"mean_of": [..]}` (mean ablation).
    Mean {
        /// What is averaged.
        source: SourceSpec,
    },
    /// Writes the values of one run drawn from several (resample ablation).
    Resample {
        /// The runs to draw from.
        source: AnyOf,
        /// Seed of the draw.
        #[schema(required = false)]
        seed: u64,
    },
    /// Adds one draw of gaussian noise, another one at every site, layer and position.
    Noise {
        /// Its standard deviation; relative ones at site `embed` only.
        sigma: Sigma,
        /// Seed.
        #[schema(required = false)]
        seed: u64,
        /// Generator; its philox stream is another one than that of corruptions. `numpy_legacy` draws, for each layer,
        /// `RandomState([seed, n, layer]).randn(positions, width)`, where n is the site's `stream` in
        /// `/v1/capabilities`, positions are in the order named and width is that of the whole site; the layer is 0
        /// at `final_norm`. At `embed` it draws `RandomState(seed).randn(positions, width)`, as ROME does.
        #[schema(required = false)]
        rng: Rng,
    },
    /// Attention knockout (Geva et al. 2023): cuts the edges of attention from the `keys` to the positions written, at
    /// `scores`. The scores of these keys become minus infinity before the softmax, so that the pattern still sums to 1.
    /// Comes after all else that is written to the scores. A position must keep a key: it may lose itself if others remain.
    /// Keys after a position are no edges of it. `dims` in `sweep` cuts from one key after the other.
    Knockout {
        /// The key positions.
        keys: Positions,
    },
    /// Removes what lies in the span of some vectors.
    ProjectOut {
        /// The vectors; they need not be orthogonal.
        basis: Basis,
    },
    /// Writes the source's part in the span of some vectors and keeps the rest (subspace swap).
    Subspace {
        /// The vectors; they need not be orthogonal.
        basis: Basis,
        /// Where the values come from.
        source: SourceSpec,
    },
    /// Holds the site at a run's values while other interventions change what comes before it: path patching, severed
    /// traces. Applies in every cell, before the request's other interventions at the same place.
    Freeze {
        /// The run whose values are held; the base if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<SourceSpec>,
    },
}

impl OpSpec {
    /// Where its values come from, if it names a source.
    pub const fn source(&self) -> Option<&SourceSpec> {
        match self {
            Self::Replace { source }
            | Self::Add { source, .. }
            | Self::Mean { source }
            | Self::Subspace { source, .. } => Some(source),
            Self::Freeze { source } => source.as_ref(),
            Self::Scale { .. }
            | Self::Clamp { .. }
            | Self::Zero
            | Self::Resample { .. }
            | Self::Noise { .. }
            | Self::Knockout { .. }
            | Self::ProjectOut { .. } => None,
        }
    }
}

/// Vectors that span a subspace, each as wide as the site, or as a head where `heads` is named.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Basis {
    /// The vectors.
    Vectors(Vec<Vec<f32>>),
    /// Stored activations (`/v1/activations`): each of their rows is a vector.
    Stored {
        /// Their handle.
        activation: String,
        /// The layer read; each layer's own if left out. A set of one layer, or of none, serves every layer.
        #[serde(skip_serializing_if = "Option::is_none")]
        layer: Option<u32>,
        /// Positions read, a vector each; all that the set has if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        positions: Option<Positions>,
    },
}

/// A direction, as wide as the site, or as a head where `heads` is named. Its length does not matter, its sign does.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AlongSpec {
    /// Its numbers.
    Vector(Vec<f32>),
    /// A row of stored activations (`/v1/activations`).
    Stored {
        /// Their handle.
        activation: String,
        /// The layer read; each layer's own if left out. A set of one layer, or of none, serves every layer.
        #[serde(skip_serializing_if = "Option::is_none")]
        layer: Option<u32>,
        /// The position read; may be left out where the set has only one.
        #[serde(skip_serializing_if = "Option::is_none")]
        positions: Option<Positions>,
    },
}

/// Where values come from.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum SourceSpec {
    /// Another run, by default at the same site and layers.
    Run {
        /// The run.
        run: String,
        /// Positions read, as many as are written (or one for all of them); the intervention's own selector,
        /// resolved in the source run, if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        positions: Option<Positions>,
        /// Another site of equal width.
        #[serde(skip_serializing_if = "Option::is_none")]
        site: Option<Site>,
        /// The layer read, whichever is written; several are tried one by one by `source_layers` in `sweep`.
        #[serde(skip_serializing_if = "Option::is_none")]
        layer: Option<Layers>,
    },
    /// Stored activations of the same width (`/v1/activations`).
    Activation {
        /// Their handle.
        activation: String,
        /// The layer read; each layer's own if left out. A set of one layer, or of none, serves every layer. Several are tried
        /// one by one by `source_layers` in `sweep`.
        #[serde(skip_serializing_if = "Option::is_none")]
        layer: Option<Layers>,
        /// Positions read, as many as are written (or one for all of them); all that the set has if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        positions: Option<Positions>,
    },
    /// The mean over several runs at the same site and layers.
    MeanOf {
        /// The runs.
        mean_of: Vec<String>,
        /// Positions read in each of them, as for a run.
        #[serde(skip_serializing_if = "Option::is_none")]
        positions: Option<Positions>,
    },
    /// Another branch of the same text at the same step, in `POST /v1/generate` alone: its values before this intervention writes.
    Branch {
        /// The branch.
        branch: String,
        /// Another site of equal width.
        #[serde(skip_serializing_if = "Option::is_none")]
        site: Option<Site>,
        /// The layer read; each layer's own if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        layer: Option<Layers>,
    },
    /// A given vector, the same at every position, layer and head written.
    Vector {
        /// Its values, as many as the site is wide (a head's width where `heads` is named).
        vector: Vec<f32>,
    },
}

/// Runs to draw one from.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AnyOf {
    /// The runs.
    pub any_of: Vec<String>,
    /// Positions read, as for a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<Positions>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Replace,
    Add,
    Scale,
    Clamp,
    Zero,
    Mean,
    Resample,
    Noise,
    Knockout,
    ProjectOut,
    Subspace,
    Freeze,
}

/// An operation: its row in the one table from which reading, `/v1/capabilities` and documents follow.
#[derive(Debug, Clone, Copy)]
pub struct OpFacts {
    kind: Kind,
    /// Its name on the wire.
    pub name: &'static str,
    /// The fields that belong to it.
    pub fields: &'static [&'static str],
    /// Where its values come from.
    pub source: Sourced,
    /// What the literature calls it.
    pub known_as: &'static str,
    /// What it does, for people.
    pub means: &'static str,
}

/// Where an operation's values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sourced {
    /// `source` must be there.
    Needed,
    /// `source` may be left out.
    Optional,
    /// It has no `source`.
    No,
}

/// Every operation.
pub const OPS: [OpFacts; 12] = [
    OpFacts {
        kind: Kind::Replace,
        name: "replace",
        fields: &["source"],
        source: Sourced::Needed,
        known_as: "activation patching, interchange intervention, causal tracing",
        means: "Writes the source's values.",
    },
    OpFacts {
        kind: Kind::Add,
        name: "add",
        fields: &["source", "coef", "norm_match"],
        source: Sourced::Needed,
        known_as: "activation addition, steering",
        means: "Adds `coef` times the source's values; `norm_match` keeps each row's norm.",
    },
    OpFacts {
        kind: Kind::Scale,
        name: "scale",
        fields: &["factor", "along"],
        source: Sourced::No,
        known_as: "",
        means: "Multiplies by a factor; with `along` only the part along a direction.",
    },
    OpFacts {
        kind: Kind::Clamp,
        name: "clamp",
        fields: &["along", "min", "max"],
        source: Sourced::No,
        known_as: "clamping of a feature, activation capping",
        means: "Holds the part along a direction within bounds, and keeps the rest.",
    },
    OpFacts {
        kind: Kind::Zero,
        name: "zero",
        fields: &[],
        source: Sourced::No,
        known_as: "zero ablation",
        means: "Writes zeros.",
    },
    OpFacts {
        kind: Kind::Mean,
        name: "mean",
        fields: &["source"],
        source: Sourced::Needed,
        known_as: "mean ablation",
        means: "Writes a mean, usually over runs: `{\"mean_of\": [..]}`.",
    },
    OpFacts {
        kind: Kind::Resample,
        name: "resample",
        fields: &["source", "seed"],
        source: Sourced::Needed,
        known_as: "resample ablation",
        means: "Writes the values of one run drawn from several: `{\"any_of\": [..]}`.",
    },
    OpFacts {
        kind: Kind::Noise,
        name: "noise",
        fields: &["sigma", "seed", "rng"],
        source: Sourced::No,
        known_as: "",
        means: "Adds one draw of gaussian noise, another one at every site, layer and position.",
    },
    OpFacts {
        kind: Kind::Knockout,
        name: "knockout",
        fields: &["keys"],
        source: Sourced::No,
        known_as: "attention knockout (Geva et al. 2023)",
        means: "Cuts the edges of attention from the `keys` to the positions written, at `scores`.",
    },
    OpFacts {
        kind: Kind::ProjectOut,
        name: "project_out",
        fields: &["basis"],
        source: Sourced::No,
        known_as: "directional ablation",
        means: "Removes what lies in the span of some vectors.",
    },
    OpFacts {
        kind: Kind::Subspace,
        name: "subspace",
        fields: &["basis", "source"],
        source: Sourced::Needed,
        known_as: "subspace patching, distributed interchange intervention",
        means: "Writes the source's part in the span of some vectors and keeps the rest.",
    },
    OpFacts {
        kind: Kind::Freeze,
        name: "freeze",
        fields: &["source"],
        source: Sourced::Optional,
        known_as: "path patching, severed traces",
        means: "Holds the site at a run's values while other interventions change what comes before it.",
    },
];

/// Fields that belong to one operation or another.
const FIELDS: [&str; 12] = [
    "source",
    "coef",
    "norm_match",
    "factor",
    "along",
    "min",
    "max",
    "sigma",
    "seed",
    "rng",
    "keys",
    "basis",
];

impl Declared for OpSpec {
    const FIELDS: &'static [&'static str] = names!(&["op"], &FIELDS);
}

/// Reads `op` and the fields that belong to it from among an intervention's; of generated text, a coefficient may follow the step
/// and values may come from another branch.
pub(super) fn read_op(fields: &Fields<'_>, of_text: bool, out: &mut Problems) -> Option<OpSpec> {
    let named = OPS.map(|facts| (facts.name, facts));
    let OpFacts { kind, name, fields: own, .. } =
        fields.get("op").map_or(Some(OPS[0]), |n| n.choice(&named, &[], out))?;
    for field in FIELDS.into_iter().filter(|field| !own.contains(field)) {
        if fields.get(field).is_some() {
            let detail = format!("op {name} takes no `{field}`");
            let fix = format!("leave out `{field}`, or change `op`");
            out.push(fields.pointer(field), code::CONFLICT, detail, fix);
        }
    }
    match kind {
        Kind::Replace => Some(OpSpec::Replace { source: need_source(fields, of_text, out)? }),
        Kind::Mean => Some(OpSpec::Mean { source: need_source(fields, of_text, out)? }),
        Kind::Add => {
            let coef = fields.get("coef").map_or(Some(Coef::ONE), |n| Coef::read(&n, of_text, out));
            let norm_match = fields.get("norm_match").map_or(Some(false), |n| n.flag(out));
            Some(OpSpec::Add {
                source: need_source(fields, of_text, out)?,
                coef: coef?,
                norm_match: norm_match?,
            })
        }
        Kind::Scale => {
            let factor =
                fields.need("factor", "write the number to multiply by", out).and_then(|n| n.number(out));
            let along = fields.get("along").map_or(Some(None), |n| AlongSpec::read(&n, out).map(Some));
            Some(OpSpec::Scale { factor: factor?, along: along? })
        }
        Kind::Clamp => read_clamp(fields, out),
        Kind::Zero => Some(OpSpec::Zero),
        Kind::Resample => {
            let seed = fields.get("seed").map_or(Some(1), |n| n.natural(0, out));
            Some(OpSpec::Resample { source: read_any_of(fields, out)?, seed: seed? })
        }
        Kind::Noise => {
            let sigma = fields.need("sigma", "write {\"abs\": 0.1}", out).and_then(|n| Sigma::read(&n, out));
            let rng = fields.get("rng").map_or(Some(Rng::Philox), |n| Rng::read(&n, out));
            let seed = read_seed(fields, rng, out);
            Some(OpSpec::Noise { sigma: sigma?, seed: seed?, rng: rng? })
        }
        Kind::Knockout => Some(OpSpec::Knockout { keys: read_keys(fields, out)? }),
        Kind::ProjectOut => Some(OpSpec::ProjectOut { basis: read_basis(fields, out)? }),
        Kind::Subspace => {
            let basis = read_basis(fields, out);
            Some(OpSpec::Subspace { source: need_source(fields, of_text, out)?, basis: basis? })
        }
        Kind::Freeze => {
            let source = match fields.get("source") {
                None => None,
                Some(node) => Some(read_source(&node, of_text, out)?),
            };
            if source.as_ref().is_some_and(|source| !matches!(source, SourceSpec::Run { .. })) {
                let fix = "write {\"run\": name}, or leave out `source` to hold the base's values";
                out.push(fields.pointer("source"), code::CONFLICT, "freeze holds a run's values", fix);
            }
            Some(OpSpec::Freeze { source })
        }
    }
}

const FORMS: &str = "write {\"run\": name, \"positions\": …}, {\"mean_of\": [names]} or {\"vector\": [..]}";

fn need_source(fields: &Fields<'_>, of_text: bool, out: &mut Problems) -> Option<SourceSpec> {
    read_source(&fields.need("source", FORMS, out)?, of_text, out)
}

/// Reads where values come from; from another branch only where text is generated.
pub(super) fn read_source(node: &Node<'_>, of_text: bool, out: &mut Problems) -> Option<SourceSpec> {
    const ALL: [&str; 8] = ["run", "activation", "mean_of", "vector", "branch", "positions", "site", "layer"];
    let source = node.fields(&ALL, out)?;
    let form = source.any(&["vector", "activation", "mean_of", "branch", "run"]).unwrap_or("run");
    let own: &[&str] = match form {
        "branch" => &["branch", "site", "layer"],
        "vector" => &["vector"],
        "activation" => &["activation", "layer", "positions"],
        "mean_of" => &["mean_of", "positions"],
        _ => &["run", "positions", "site", "layer"],
    };
    let others: Vec<&str> = ALL.into_iter().filter(|name| !own.contains(name)).collect();
    source.exclude(form, &others, out);
    if form == "vector" {
        return Some(SourceSpec::Vector { vector: numbers(&source.get("vector")?, out)? });
    }
    let positions = read_positions(&source, out);
    let layer = source.get("layer").map_or(Some(None), |n| Layers::read(&n, out).map(Some));
    if let Some(node) = source.get("mean_of") {
        if node.value.is_object() {
            let detail = "the mean over a data set is computed once and kept under a handle";
            let fix = "POST /v1/activations {\"site\": …, \"mean_of\": {\"dataset\": …}}, and write {\"activation\": handle} here";
            out.push(&node.at, code::NOT_SUPPORTED, detail, fix);
            return None;
        }
        let mean_of = node.each(out, Node::name);
        return Some(SourceSpec::MeanOf { mean_of: mean_of?, positions: positions? });
    }
    if let Some(node) = source.get("activation") {
        let activation = node.name(out);
        return Some(SourceSpec::Activation {
            activation: activation?,
            layer: layer?,
            positions: positions?,
        });
    }
    if let Some(node) = source.get("branch") {
        let branch = node.name(out);
        if !of_text {
            let fix = "read a run, or send it to POST /v1/generate";
            out.push(&node.at, code::NOT_SUPPORTED, "branches are those of generated text", fix);
        }
        let site = source.get("site").map_or(Some(None), |n| read_site(&n, out).map(Some));
        return Some(SourceSpec::Branch { branch: branch?, site: site?, layer: layer? });
    }
    let run = source.need("run", FORMS, out).and_then(|n| n.name(out));
    let site = source.get("site").map_or(Some(None), |n| read_site(&n, out).map(Some));
    Some(SourceSpec::Run { run: run?, positions: positions?, site: site?, layer: layer? })
}

fn read_any_of(fields: &Fields<'_>, out: &mut Problems) -> Option<AnyOf> {
    const FIX: &str = "write {\"any_of\": [names of runs]}";
    let source = fields.need("source", FIX, out)?.fields(&["any_of", "positions"], out)?;
    let any_of = source.need("any_of", FIX, out).and_then(|n| n.each(out, Node::name));
    let positions = read_positions(&source, out);
    Some(AnyOf { any_of: any_of?, positions: positions? })
}

/// The outer `None`: a problem was found.
#[expect(clippy::option_option, reason = "absent is not wrong")]
fn read_positions(source: &Fields<'_>, out: &mut Problems) -> Option<Option<Positions>> {
    source.get("positions").map_or(Some(None), |n| Positions::read(&n, false, out).map(Some))
}

/// The key positions of a knockout.
pub(super) fn read_keys(fields: &Fields<'_>, out: &mut Problems) -> Option<Positions> {
    let fix = "name the key positions whose edges are cut: {\"span\": \"subject\"}";
    Positions::read(&fields.need("keys", fix, out)?, false, out)
}

fn read_basis(fields: &Fields<'_>, out: &mut Problems) -> Option<Basis> {
    let fix = "list the vectors that span the subspace, or write {\"activation\": handle}";
    let node = fields.need("basis", fix, out)?;
    if !node.value.is_object() {
        return Some(Basis::Vectors(node.each(out, numbers)?));
    }
    read_stored(&node, out)
}

/// Rows of stored activations.
fn read_stored(node: &Node<'_>, out: &mut Problems) -> Option<Basis> {
    let basis = node.fields(&["activation", "layer", "positions"], out)?;
    let activation =
        basis.need("activation", "name the handle of the vectors", out).and_then(|n| n.name(out));
    let layer = basis.get("layer").map_or(Some(None), |n| n.index(out).map(Some));
    let positions = read_positions(&basis, out);
    Some(Basis::Stored { activation: activation?, layer: layer?, positions: positions? })
}

fn read_clamp(fields: &Fields<'_>, out: &mut Problems) -> Option<OpSpec> {
    let fix = "give the direction's numbers, or write {\"activation\": handle}";
    let along = fields.need("along", fix, out).and_then(|n| AlongSpec::read(&n, out));
    let mut bound = |name: &str| fields.get(name).map_or(Some(None), |n| n.number(out).map(Some));
    let (min, max) = (bound("min")?, bound("max")?);
    match (min, max) {
        (None, None) => {
            let detail = "neither `min` nor `max` is there: nothing would be held";
            out.push(fields.pointer("max"), code::MISSING, detail, "write `min`, `max` or both");
            return None;
        }
        (Some(min), Some(max)) if min > max => {
            let detail = format!("no number is at least {min} and at most {max}");
            out.push(fields.pointer("min"), code::OUT_OF_RANGE, detail, "write a `min` not above `max`");
            return None;
        }
        _ => {}
    }
    Some(OpSpec::Clamp { along: along?, min, max })
}

impl AlongSpec {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        if !node.value.is_object() {
            return numbers(node, out).map(Self::Vector);
        }
        let Basis::Stored { activation, layer, positions } = read_stored(node, out)? else { return None };
        Some(Self::Stored { activation, layer, positions })
    }
}

fn numbers(node: &Node<'_>, out: &mut Problems) -> Option<Vec<f32>> {
    node.all(out, |n, out| n.number(out).map(|x| x as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_belongs_to_an_operation_and_every_source_is_one() {
        let mut fields: Vec<&str> = OPS.iter().flat_map(|facts| facts.fields).copied().collect();
        fields.sort_unstable();
        fields.dedup();
        let mut known = FIELDS;
        known.sort_unstable();
        assert_eq!(fields, known);
        for facts in OPS {
            assert_eq!(facts.fields.contains(&"source"), facts.source != Sourced::No, "{}", facts.name);
        }
    }
}
