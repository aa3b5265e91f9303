//! Uploaded activations: `POST /v1/activations`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::dtype::Dtype;
use super::hints::Endpoint;
use super::problem::{Problems, code};
use super::read::Node;
use super::readout::{read_dtype, read_site};
use super::select::Layers;
use super::site::Site;

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
    /// The numbers.
    #[schema(value_type = ValuesForm)]
    pub values: Values,
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
    /// Names of its fields but for `values`.
    pub const FIELDS: [&'static str; 7] = ["model", "site", "layers", "positions", "name", "ttl_s", "dtype"];

    /// Reads a request body. `None` where too little of it could be read to look further.
    pub fn read(body: &Value, out: &mut Problems) -> Option<Self> {
        let known: Vec<&str> = Self::FIELDS.into_iter().chain(["values"]).collect();
        let fields = Node::root(Endpoint::Activations, body).fields(&known, out)?;
        let model = fields.get("model").and_then(|n| n.name(out));
        let site = fields
            .need("site", "name the site they are of, as resid_post", out)
            .and_then(|n| read_site(&n, out));
        let layers = fields.get("layers").and_then(|n| Layers::read(&n, out));
        let positions = fields.get("positions").and_then(|n| n.all(out, Node::index));
        let name = fields.get("name").and_then(|n| n.label(out));
        let ttl_s = fields.get("ttl_s").and_then(|n| n.natural(1, out));
        let dtype = fields.get("dtype").and_then(|n| read_dtype(&n, out)).unwrap_or_default();
        let values = fields.need("values", "write the numbers as nested lists", out);
        let values = values.and_then(|n| Values::read(&n, out));
        Some(Self { model, site: site?, layers, positions, name, ttl_s, dtype, values: values? })
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
