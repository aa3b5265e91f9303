//! What is read from a run.

use serde::Serialize;
use utoipa::ToSchema;

use super::dtype::Dtype;
use super::named::Named;
use super::problem::{Problems, code};
use super::read::Node;
use super::select::{Heads, Layers, Positions};
use super::site::Site;

/// What is read.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Read {
    /// Where the distribution over the next token is read.
    #[schema(required = false)]
    pub at: ReadAt,
    /// How many of the most probable tokens are returned.
    #[schema(required = false)]
    pub topk: u32,
    /// Activations returned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capture: Vec<CaptureSpec>,
    /// Logit lens: what the residual stream would predict at each layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_lens: Option<LensSpec>,
    /// Attention patterns returned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<AttentionSpec>,
    /// Direct logit attribution: what each component adds to a target's logit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribution: Option<AttributionSpec>,
}

/// The logit lens (nostalgebraist 2020): the residual stream leaving each layer through the final norm and the
/// unembedding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LensSpec {
    /// Layers.
    #[schema(required = false)]
    pub layers: Layers,
    /// Positions.
    #[schema(required = false)]
    pub positions: Positions,
    /// How many of the most probable tokens are returned.
    #[schema(required = false)]
    pub topk: u32,
}

/// Attention patterns returned: the weights of each key at each query position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AttentionSpec {
    /// Layers.
    #[schema(required = false)]
    pub layers: Layers,
    /// Heads.
    #[schema(required = false)]
    pub heads: Heads,
    /// Query positions.
    #[schema(required = false)]
    pub positions: Positions,
}

/// Direct logit attribution (Elhage et al. 2021): the last residual stream is the sum of what the components wrote, so
/// a logit is the sum of their inner products with the unembedding, under the final norm's scale as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AttributionSpec {
    /// The target, or two as `a-b` for the difference of their logits. A set of tokens counts as the mean of their logits (answered
    /// as `mean_logit`), not as their log-sum-exp, which the metric `logit` is.
    pub target: String,
    /// Whether attention is divided among its heads.
    #[schema(required = false)]
    pub heads: bool,
}

/// A position, or one per run.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ReadAt {
    /// The same for every run.
    Same(ReadPosition),
    /// By run; runs not named are read at their last position.
    #[schema(value_type = std::collections::BTreeMap<String, ReadPosition>)]
    PerRun(Named<ReadPosition>),
}

/// `"last"` or a position; negative ones count from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ReadPosition {
    /// The last position: `"last"`.
    Word(LastWord),
    /// A position.
    At(i64),
}

/// `"last"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LastWord {
    /// The last position.
    Last,
}

/// Activations returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CaptureSpec {
    /// Site.
    pub site: Site,
    /// Layers; absent at sites that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Positions.
    #[schema(required = false)]
    pub positions: Positions,
    /// How they are returned.
    #[serde(rename = "as")]
    #[schema(required = false)]
    pub form: CaptureForm,
    /// Number format; inline captures are `f32`.
    #[schema(required = false)]
    pub dtype: Dtype,
}

/// How captures are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaptureForm {
    /// As numbers in the response.
    Inline,
    /// Kept by the server: the response has a handle for later requests and `/v1/activations`.
    Handle,
}

impl Read {
    /// The last position and `topk` tokens.
    pub fn last(topk: u32) -> Self {
        Self {
            at: ReadAt::Same(ReadPosition::LAST),
            topk,
            capture: Vec::new(),
            logit_lens: None,
            attention: Vec::new(),
            attribution: None,
        }
    }

    /// Reads the object; `default_topk` where `topk` is absent; what is read of the inside of a run only where
    /// `inside`.
    pub fn from_node(node: &Node<'_>, default_topk: u32, inside: bool, out: &mut Problems) -> Option<Self> {
        const ALL: [&str; 6] = ["at", "topk", "capture", "logit_lens", "attention", "attribution"];
        let fields = node.fields(if inside { &ALL } else { &ALL[..2] }, out)?;
        let at = fields.get("at").map_or(Some(ReadAt::Same(ReadPosition::LAST)), |n| ReadAt::read(&n, out));
        let topk = fields.get("topk").map_or(Some(default_topk), |n| n.index(out));
        let part = |name: &str| fields.get(name).filter(|_| inside);
        let capture = part("capture").map_or(Some(Vec::new()), |n| n.each(out, CaptureSpec::read));
        let logit_lens = part("logit_lens").map_or(Some(None), |n| LensSpec::read(&n, out).map(Some));
        let attention = part("attention").map_or(Some(Vec::new()), |n| n.each(out, AttentionSpec::read));
        let attribution =
            part("attribution").map_or(Some(None), |n| AttributionSpec::read(&n, out).map(Some));
        Some(Self {
            at: at?,
            topk: topk?,
            capture: capture?,
            logit_lens: logit_lens?,
            attention: attention?,
            attribution: attribution?,
        })
    }
}

impl LensSpec {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["layers", "positions", "topk"], out)?;
        let layers = fields.get("layers").map_or(Some(Layers::ALL), |n| Layers::read(&n, out));
        let positions =
            fields.get("positions").map_or(Some(Positions::ALL), |n| Positions::read(&n, false, out));
        let topk = fields.get("topk").map_or(Some(3), |n| n.count(1, out));
        Some(Self { layers: layers?, positions: positions?, topk: topk? })
    }
}

impl AttentionSpec {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["layers", "heads", "positions"], out)?;
        let layers = fields.get("layers").map_or(Some(Layers::ALL), |n| Layers::read(&n, out));
        let heads = fields.get("heads").map_or(Some(Heads::ALL), |n| Heads::read(&n, out));
        let positions =
            fields.get("positions").map_or(Some(Positions::ALL), |n| Positions::read(&n, false, out));
        Some(Self { layers: layers?, heads: heads?, positions: positions? })
    }
}

impl AttributionSpec {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["target", "heads"], out)?;
        let target = fields.need("target", "name a target, or two as \"a-b\"", out);
        let target = target.and_then(|n| n.name(out));
        let heads = fields.get("heads").map_or(Some(true), |n| n.flag(out));
        Some(Self { target: target?, heads: heads? })
    }
}

impl ReadAt {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        if node.value.is_object() {
            return Named::read(node, out, ReadPosition::read).map(Self::PerRun);
        }
        ReadPosition::read(node, out).map(Self::Same)
    }
}

impl ReadPosition {
    /// The last position.
    pub const LAST: Self = Self::Word(LastWord::Last);

    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_number() => Some(Self::At(node.int(out)?)),
            v if v.is_string() => node.choice(&[("last", Self::LAST)], &[], out),
            _ => {
                node.wrong("\"last\" or a position", out);
                None
            }
        }
    }
}

impl CaptureSpec {
    fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields(&["site", "layers", "positions", "as", "dtype"], out)?;
        let site =
            fields.need("site", "name the site to read, as resid_post", out).and_then(|n| read_site(&n, out));
        let layers = read_layers(&fields, site, out);
        let positions =
            fields.get("positions").map_or(Some(Positions::LAST), |n| Positions::read(&n, false, out));
        let forms = [("inline", CaptureForm::Inline), ("handle", CaptureForm::Handle)];
        let form = fields.get("as").map_or(Some(CaptureForm::Inline), |n| n.choice(&forms, &[], out));
        let dtype = fields.get("dtype").map_or(Some(Dtype::F32), |n| read_dtype(&n, out));
        if form == Some(CaptureForm::Inline) && dtype.is_some_and(|dtype| dtype != Dtype::F32) {
            let detail = "numbers in the response are f32";
            let fix = "leave out `dtype`, or write \"as\": \"handle\"";
            out.push(fields.pointer("dtype"), code::NOT_SUPPORTED, detail, fix);
        }
        Some(Self { site: site?, layers: layers?, positions: positions?, form: form?, dtype: dtype? })
    }
}

/// Reads a number format.
pub(super) fn read_dtype(node: &Node<'_>, out: &mut Problems) -> Option<Dtype> {
    let dtypes = [Dtype::F32, Dtype::F16, Dtype::Bf16].map(|dtype| (dtype.name(), dtype));
    node.choice(&dtypes, &["f64"], out)
}

/// Reads a site's name.
pub fn read_site(node: &Node<'_>, out: &mut Problems) -> Option<Site> {
    if let Some((site, why)) = node.value.as_str().and_then(super::site::meant) {
        out.push(
            &node.at,
            code::UNKNOWN_VALUE,
            format!("{} is no site here: {why}", node.value),
            format!("write \"{site}\""),
        );
        return None;
    }
    node.choice(&Site::ALL.map(|site| (site.name(), site)), &[], out)
}

/// Reads `layers` of something at `site`: `"all"` if left out, and nothing at sites that have no layer.
/// The outer `None`: a problem was found.
pub fn read_layers(
    fields: &super::read::Fields<'_>,
    site: Option<Site>,
    out: &mut Problems,
) -> Option<Option<Layers>> {
    let node = fields.get("layers");
    if let Some(site) = site.filter(|site| !site.has_layer()) {
        if let Some(node) = node {
            let detail = format!("`{site}` stands outside of the layers and has none");
            let fix = "leave out `layers`, or use a site of the layers such as resid_pre";
            out.push(&node.at, code::CONFLICT, detail, fix);
        }
        return Some(None);
    }
    node.map_or(Some(Some(Layers::ALL)), |n| Layers::read(&n, out).map(Some))
}
