//! What is read from a run.

use serde::Serialize;
use utoipa::ToSchema;

use super::declare::{Declared, choices, declare, need, or};
use super::dtype::Dtype;
use super::named::Named;
use super::problem::{Problems, code};
use super::read::Node;
use super::select::{Heads, Layers, Positions};
use super::site::Site;

declare! {
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
}

declare! {
read
/// The logit lens (nostalgebraist 2020): the residual stream leaving each layer through the final norm and the
/// unembedding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LensSpec {
    /// Layers.
    #[schema(required = false)]
    pub layers: Layers = or(Layers::ALL, Layers::read),
    /// Positions.
    #[schema(required = false)]
    pub positions: Positions = or(Positions::ALL, |n, out| Positions::read(n, false, out)),
    /// How many of the most probable tokens are returned.
    #[schema(required = false)]
    pub topk: u32 = or(3, |n, out| n.count(1, out)),
}
}

declare! {
read
/// Attention patterns returned: the weights of each key at each query position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AttentionSpec {
    /// Layers.
    #[schema(required = false)]
    pub layers: Layers = or(Layers::ALL, Layers::read),
    /// Heads.
    #[schema(required = false)]
    pub heads: Heads = or(Heads::ALL, Heads::read),
    /// Query positions.
    #[schema(required = false)]
    pub positions: Positions = or(Positions::ALL, |n, out| Positions::read(n, false, out)),
}
}

declare! {
read
/// Direct logit attribution (Elhage et al. 2021): the last residual stream is the sum of what the components wrote, so
/// a logit is the sum of their inner products with the unembedding, under the final norm's scale as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AttributionSpec {
    /// The target, or two as `a-b` for the difference of their logits. A set of tokens counts as the mean of their logits (answered
    /// as `mean_logit`), not as their log-sum-exp, which the metric `logit` is.
    pub target: String = need("name a target, or two as \"a-b\"", Node::name),
    /// Whether attention is divided among its heads.
    #[schema(required = false)]
    pub heads: bool = or(true, Node::flag),
}
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

declare! {
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
    #[schema(required = false)]
    pub r#as: CaptureForm,
    /// Number format; inline captures are `f32`.
    #[schema(required = false)]
    pub dtype: Dtype,
}
}

choices! {
/// How captures are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum CaptureForm {
    /// As numbers in the response.
    Inline = "inline",
    /// Kept by the server: the response has a handle for later requests and `/v1/activations`.
    Handle = "handle",
}
}

impl Read {
    /// What is read where runs are patched: `at` and `topk`. The inside of a run is read of clean runs alone.
    pub const OF_PATCHED: &'static [&'static str] = Self::FIELDS.split_at(2).0;

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
        let fields = node.fields(if inside { Self::FIELDS } else { Self::OF_PATCHED }, out)?;
        let at = fields.get("at").map_or(Some(ReadAt::Same(ReadPosition::LAST)), |n| ReadAt::read(&n, out));
        let topk = fields.get("topk").map_or(Some(default_topk), |n| n.index(out));
        let capture = fields.get("capture").map_or(Some(Vec::new()), |n| n.each(out, CaptureSpec::read));
        let logit_lens = fields.get("logit_lens").map_or(Some(None), |n| LensSpec::read(&n, out).map(Some));
        let attention =
            fields.get("attention").map_or(Some(Vec::new()), |n| n.each(out, AttentionSpec::read));
        let attribution =
            fields.get("attribution").map_or(Some(None), |n| AttributionSpec::read(&n, out).map(Some));
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
        let fields = node.fields_of::<Self>(out)?;
        let site =
            fields.need("site", "name the site to read, as resid_post", out).and_then(|n| read_site(&n, out));
        let layers = read_layers(&fields, site, out);
        let positions =
            fields.get("positions").map_or(Some(Positions::LAST), |n| Positions::read(&n, false, out));
        let inline = Some(CaptureForm::Inline);
        let form = fields.get("as").map_or(inline, |n| n.choice(&CaptureForm::ALL, &[], out));
        let dtype = fields.get("dtype").map_or(Some(Dtype::F32), |n| read_dtype(&n, out));
        if form == Some(CaptureForm::Inline) && dtype.is_some_and(|dtype| dtype != Dtype::F32) {
            let detail = "numbers in the response are f32";
            let fix = "leave out `dtype`, or write \"as\": \"handle\"";
            out.push(fields.pointer("dtype"), code::NOT_SUPPORTED, detail, fix);
        }
        Some(Self { site: site?, layers: layers?, positions: positions?, r#as: form?, dtype: dtype? })
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
