//! Uploaded activations, and means that are computed: `POST /v1/activations`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::declare::{declare, nothing, of_request};
use super::dtype::Dtype;
use super::endpoint::Endpoint;
use super::hints::Body;
use super::problem::{Problems, code};
use super::prompt::Prompt;
use super::read::Node;
use super::readout::{read_dtype, read_site};
use super::select::{Layers, Positions};
use super::site::Site;
use super::sweep::{DatasetForm, SweepCase};

declare! {
/// Vectors to keep: one `[width]`, one for each layer `[layers, width]`, or `[layers, positions, width]`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ActivationUpload)]
pub struct UploadSpec {
    /// The model that they are of; the one served if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The site that they are of; its width is theirs.
    pub site: Site,
    /// Their layers. One vector without a layer serves every layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Their positions. Left out, they are of none in particular, and counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<Vec<u32>>,
    /// A name to find them by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Seconds until they are deleted; the server's default if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// Format in which they are stored.
    #[schema(required = false)]
    pub dtype: Dtype,
    /// The numbers; or `mean_of`.
    #[schema(value_type = Option<ValuesForm>)]
    pub values: Values,
    /// Computes the numbers: a mean over prompts, one vector for each layer (all layers if none are named). It serves every
    /// position, as the source of `replace` (mean ablation) or `add` (steering), or as the `basis` of `project_out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_of: Option<MeanOf>,
}
}

impl Body for UploadSpec {
    const AT: Endpoint = Endpoint("/v1/activations");
}

declare! {
/// A mean activation over the prompts of a data set, or the difference of two such means.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ActivationMeanOf)]
pub struct MeanOf {
    /// The prompts: `{"id": "ds_…"}` or `{"inline": [cases]}`. Of each case its run `clean`, or its only run. Every prompt counts once,
    /// whatever its length.
    #[serde(skip_serializing_if = "of_request", serialize_with = "nothing")]
    #[schema(required = true, value_type = DatasetForm)]
    pub dataset: Prompts,
    /// Prompts whose mean is subtracted (difference of means).
    #[serde(skip_serializing_if = "of_request", serialize_with = "nothing")]
    #[schema(value_type = Option<DatasetForm>)]
    pub minus: Option<Prompts>,
    /// Positions averaged within each prompt; by default the last one.
    #[schema(required = false)]
    pub positions: Positions,
}
}

/// Prompts of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompts {
    /// Pointer to the cases.
    pub at: String,
    /// Those of its cases.
    pub list: Vec<Prompt>,
    /// Whether the case calls its span `subject` in short.
    pub short: Vec<bool>,
}

/// Numbers with their shape, of one to three axes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Values {
    /// Lengths of the axes, none of them 0.
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: Vec<f32>,
}

/// The numbers of an upload.
#[derive(ToSchema)]
#[schema(as = ActivationValues)]
#[serde(untagged)]
pub enum ValuesForm {
    /// One vector.
    Vector(Vec<f32>),
    /// One for each layer.
    Layers(Vec<Vec<f32>>),
    /// One for each layer and position.
    Positions(Vec<Vec<Vec<f32>>>),
}

impl UploadSpec {
    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let fields = Node::root(Self::AT, body).fields_of::<Self>(out)?;
        let model = fields.get("model").and_then(|n| n.name(out));
        let site = fields
            .need("site", "name the site they are of, as resid_post", out)
            .and_then(|n| read_site(&n, out));
        let layers = fields.get("layers").and_then(|n| Layers::read(&n, out));
        let positions = fields.get("positions").and_then(|n| n.all(out, Node::index));
        let name = fields.get("name").and_then(|n| n.label(out));
        let ttl_s = fields.get("ttl_s").and_then(|n| n.natural(1, out));
        let dtype = fields.get("dtype").and_then(|n| read_dtype(&n, out)).unwrap_or_default();
        let (mut values, mut mean_of) = (Some(Values { shape: Vec::new(), data: Vec::new() }), None);
        if let Some(node) = fields.get("mean_of") {
            fields.exclude("mean_of", &["values", "positions"], out);
            mean_of = Some(MeanOf::read(&node, out)?);
        } else {
            let fix = "write the numbers as nested lists, or `mean_of` for a mean over prompts";
            values = fields.need("values", fix, out).and_then(|n| Values::read(&n, out));
        }
        Some(Self { model, site: site?, layers, positions, name, ttl_s, dtype, values: values?, mean_of })
    }
}

impl MeanOf {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields_of::<Self>(out)?;
        let dataset = fields.need("dataset", DATASET, out).and_then(|n| Prompts::read(&n, out));
        let minus = fields.get("minus").map(|n| Prompts::read(&n, out));
        let positions = fields.get("positions").map(|n| Positions::read(&n, false, out));
        let minus = minus.map_or(Some(None), |minus| minus.map(Some));
        Some(Self {
            dataset: dataset?,
            minus: minus?,
            positions: positions.unwrap_or(Some(Positions::LAST))?,
        })
    }
}

const DATASET: &str = "write {\"inline\": [cases]} or {\"id\": \"ds_…\"}";

impl Prompts {
    /// Reads a data set whose cases are written out.
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let cases = node.fields_of::<DatasetForm>(out)?.need("inline", DATASET, out)?;
        let items = cases.items(out)?;
        let (mut list, mut short) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        for (i, item) in items.iter().enumerate() {
            if out.is_full() {
                break;
            }
            let Some(case) = SweepCase::check(item, i, out) else { continue };
            if let Some(prompt) = case.clean() {
                list.push(prompt.clone());
                short.push(item.value.get("subject").is_some());
            } else {
                let detail = "none of its prompts is the run `clean`";
                let fix = "give the case one prompt, or call one of them clean";
                out.push(&item.at, code::MISSING, detail, fix);
            }
        }
        Some(Self { at: cases.at.clone(), list, short })
    }
}

impl Values {
    /// Reads nested lists that are all of the same lengths.
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let mut shape = Vec::new();
        let mut inner = node.value;
        while let Value::Array(list) = inner {
            shape.push(list.len());
            let Some(first) = list.first() else { break };
            inner = first;
        }
        if shape.is_empty() || shape.len() > 3 {
            node.wrong("a list of numbers, or such lists nested once or twice", out);
            return None;
        }
        let mut data = Vec::new();
        rows(node, &shape, &mut data, out)?;
        Some(Self { shape, data })
    }
}

/// Reads a list of the given shape; stops at the first problem, which millions would follow.
fn rows(node: &Node<'_>, shape: &[usize], data: &mut Vec<f32>, out: &mut Problems) -> Option<()> {
    let Some((n, inner)) = shape.split_first() else {
        data.push(node.number(out)? as f32);
        return Some(());
    };
    let items = node.items(out)?;
    if items.len() != *n {
        let detail = format!("{} items where the first such list has {n}", items.len());
        out.push(&node.at, code::LENGTH_MISMATCH, detail, "make all lists of one level equally long");
        return None;
    }
    items.iter().try_for_each(|item| rows(item, inner, data, out))
}
