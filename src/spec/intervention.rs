//! Interventions: what is written into a run, and where.

use serde::Serialize;
use utoipa::ToSchema;

use super::corruption::{Rng, Sigma, read_seed};
use super::problem::{Problems, code};
use super::read::{Fields, Node};
use super::readout::{read_layers, read_site};
use super::select::{Heads, Layers, Positions};
use super::site::Site;

/// One intervention. Where `sweep` names an axis, its values are tried one by one; the others apply jointly.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Intervention {
    /// Site written.
    pub site: Site,
    /// Layers written; absent at `embed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Positions written.
    #[schema(required = false)]
    pub positions: Positions,
    /// Heads written, at a per-head site; all of them if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Heads>,
    /// Layers written together around each layer, `[l - w/2, l + ceil(w/2))` clipped to the model (ROME).
    #[schema(required = false)]
    pub window: u32,
    /// What is done.
    #[serde(flatten)]
    pub op: OpSpec,
}

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
        /// Their factor.
        #[schema(required = false)]
        coef: f64,
    },
    /// Multiplies by a factor.
    Scale {
        /// The factor.
        factor: f64,
    },
    /// Writes zeros.
    Zero,
    /// Adds one draw of gaussian noise.
    Noise {
        /// Its standard deviation; relative ones at site `embed` only.
        sigma: Sigma,
        /// Seed.
        #[schema(required = false)]
        seed: u64,
        /// Generator.
        #[schema(required = false)]
        rng: Rng,
    },
}

/// Where values come from.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum SourceSpec {
    /// The same site and layers of another run.
    Run {
        /// The run.
        run: String,
        /// Positions read, as many as are written (or one for all of them); the intervention's own selector,
        /// resolved in the source run, if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        positions: Option<Positions>,
    },
    /// Stored activations of the same width (`/v1/activations`).
    Activation {
        /// Their handle.
        activation: String,
        /// The layer read; each layer's own if left out. A set of one layer, or of none, serves every layer.
        #[serde(skip_serializing_if = "Option::is_none")]
        layer: Option<u32>,
        /// Positions read, as many as are written (or one for all of them); all that the set has if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        positions: Option<Positions>,
    },
    /// A given vector, the same at every position, layer and head written.
    Vector {
        /// Its values, as many as the site is wide (a head's width where `heads` is named).
        vector: Vec<f32>,
    },
}

const OPS: [(&str, Kind); 5] = [
    ("replace", Kind::Replace),
    ("add", Kind::Add),
    ("scale", Kind::Scale),
    ("zero", Kind::Zero),
    ("noise", Kind::Noise),
];
/// Names of the operations.
pub const OP_NAMES: [&str; 5] = [OPS[0].0, OPS[1].0, OPS[2].0, OPS[3].0, OPS[4].0];
const LATER: [&str; 5] = ["mean", "resample", "project_out", "freeze", "subspace"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Replace,
    Add,
    Scale,
    Zero,
    Noise,
}

impl Intervention {
    /// Residual stream at all layers, last position, replaced from `source`'s last position.
    pub fn last_residual(source: &str) -> Self {
        Self {
            site: Site::ResidPost,
            layers: Some(Layers::ALL),
            positions: Positions::LAST,
            heads: None,
            window: 1,
            op: OpSpec::Replace {
                source: SourceSpec::Run { run: source.to_owned(), positions: Some(Positions::LAST) },
            },
        }
    }

    /// Reads the object.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let known = [
            "site",
            "layers",
            "positions",
            "heads",
            "window",
            "op",
            "source",
            "coef",
            "factor",
            "sigma",
            "seed",
            "rng",
        ];
        let fields = node.fields(&known, out)?;
        let site = fields
            .need("site", "name the site to write, as resid_post", out)
            .and_then(|n| read_site(&n, out));
        let layers = read_layers(&fields, site, out);
        let positions =
            fields.get("positions").map_or(Some(Positions::LAST), |n| Positions::read(&n, true, out));
        let heads = fields.get("heads").map_or(Some(None), |n| Heads::read(&n, out).map(Some));
        if let (Some(node), Some(site)) = (fields.get("heads"), site) {
            check_heads_site(&node.at, site, out);
        }
        let window = read_window(&fields, site, out);
        let op = read_op(&fields, out);
        Some(Self {
            site: site?,
            layers: layers?,
            positions: positions?,
            heads: heads?,
            window: window?,
            op: op?,
        })
    }
}

/// Reports heads on a site that has none.
pub(super) fn check_heads_site(at: &str, site: Site, out: &mut Problems) {
    if !site.has_heads() {
        let detail = format!("site {site} is not divided into heads");
        out.push(at, code::NOT_SUPPORTED, detail, "leave out `heads`, or use site z");
    }
}

/// Reads `window`, 1 if left out.
pub(super) fn read_window(fields: &Fields<'_>, site: Option<Site>, out: &mut Problems) -> Option<u32> {
    let Some(node) = fields.get("window") else { return Some(1) };
    let window = node.natural(1, out)?;
    if site == Some(Site::Embed) && window != 1 {
        out.push(&node.at, code::CONFLICT, "`embed` has no layers to take together", "leave out `window`");
        return None;
    }
    if window > 1 << 20 {
        let detail = format!("a window of {window} layers");
        out.push(&node.at, code::OUT_OF_RANGE, detail, "write at most the model's number of layers");
        return None;
    }
    u32::try_from(window).ok()
}

fn read_op(fields: &Fields<'_>, out: &mut Problems) -> Option<OpSpec> {
    let kind = fields.get("op").map_or(Some(Kind::Replace), |n| n.choice(&OPS, &LATER, out))?;
    let belongs: &[&str] = match kind {
        Kind::Replace => &["source"],
        Kind::Add => &["source", "coef"],
        Kind::Scale => &["factor"],
        Kind::Zero => &[],
        Kind::Noise => &["sigma", "seed", "rng"],
    };
    let name = OPS.iter().find(|(_, k)| *k == kind).map_or("", |(name, _)| *name);
    for field in ["source", "coef", "factor", "sigma", "seed", "rng"] {
        if !belongs.contains(&field) && fields.get(field).is_some() {
            let detail = format!("op {name} takes no `{field}`");
            out.push(
                fields.pointer(field),
                code::CONFLICT,
                detail,
                format!("leave out `{field}`, or change `op`"),
            );
        }
    }
    match kind {
        Kind::Replace => Some(OpSpec::Replace { source: read_source(fields, out)? }),
        Kind::Add => {
            let coef = fields.get("coef").map_or(Some(1.0), |n| n.number(out));
            Some(OpSpec::Add { source: read_source(fields, out)?, coef: coef? })
        }
        Kind::Scale => {
            let factor = fields.need("factor", "write the number to multiply by", out)?.number(out)?;
            Some(OpSpec::Scale { factor })
        }
        Kind::Zero => Some(OpSpec::Zero),
        Kind::Noise => {
            let sigma = fields.need("sigma", "write {\"abs\": 0.1}", out).and_then(|n| Sigma::read(&n, out));
            let rng = fields.get("rng").map_or(Some(Rng::Philox), |n| Rng::read(&n, out));
            let seed = read_seed(fields, rng, out);
            Some(OpSpec::Noise { sigma: sigma?, seed: seed?, rng: rng? })
        }
    }
}

fn read_source(fields: &Fields<'_>, out: &mut Problems) -> Option<SourceSpec> {
    const FORMS: &str =
        "write {\"run\": name, \"positions\": …}, {\"activation\": \"act_…\"} or {\"vector\": [..]}";
    let node = fields.need("source", FORMS, out)?;
    let source =
        node.fields(&["run", "positions", "vector", "activation", "mean_of", "site", "layer"], out)?;
    if let Some(node) = source.get("activation") {
        source.exclude("activation", &["run", "vector", "mean_of", "site"], out);
        let activation = node.name(out);
        let layer = source.get("layer").map_or(Some(None), |n| n.index(out).map(Some));
        let positions =
            source.get("positions").map_or(Some(None), |n| Positions::read(&n, false, out).map(Some));
        return Some(SourceSpec::Activation {
            activation: activation?,
            layer: layer?,
            positions: positions?,
        });
    }
    for later in ["mean_of", "site", "layer"] {
        if source.get(later).is_some() {
            let detail = format!("sources by `{later}` are not served");
            out.push(source.pointer(later), code::NOT_SUPPORTED, detail, FORMS);
        }
    }
    if let Some(vector) = source.get("vector") {
        source.exclude("vector", &["run", "positions"], out);
        let vector = vector.all(out, |n, out| n.number(out).map(|x| x as f32))?;
        return Some(SourceSpec::Vector { vector });
    }
    let run = source.need("run", FORMS, out).and_then(|n| n.name(out));
    let positions = source.get("positions").map_or(Some(None), |n| Positions::read(&n, false, out).map(Some));
    Some(SourceSpec::Run { run: run?, positions: positions? })
}
