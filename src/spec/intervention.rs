//! Interventions: what is written into a run, and where.

use serde::Serialize;
use utoipa::ToSchema;

use super::declare::{declare, nothing, of_request};
use super::op::read_op;
pub use super::op::{AlongSpec, Basis, OpSpec, SourceSpec};
use super::problem::{Problems, code};
use super::read::{Fields, Node};
use super::readout::{read_layers, read_site};
use super::select::{Dims, Heads, Layers, Positions};
use super::site::Site;

declare! {
/// The cells of an earlier sweep whose average effect on a metric is the largest by size, over all its cases; averages whose
/// cells are all trivial are none of them. The sweep must be averaged by layer, and may be by head and column.
#[derive(ToSchema)]
#[schema(as = StrongestCells)]
pub struct CellsOf {
    /// Its job.
    pub of: String,
    /// How many. A list makes an arm of each, `NAME_k4` of the arm `NAME`: a curve of faithfulness in one request.
    pub k: serde_json::Value,
    /// All cells of the earlier sweep's arm but the strongest, to see whether these alone do it.
    pub complement: Option<bool>,
    /// Its arm; may be left out if it has only one.
    pub arm: Option<String>,
    /// Its metric; the first if left out.
    pub metric: Option<String>,
}
}

declare! {
/// One intervention. Where `sweep` names an axis, its values are tried one by one; the others apply jointly.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Intervention {
    /// Site written.
    pub site: Site,
    /// Layers written; absent at `embed` and `final_norm`, which have none. Of a `freeze`, `"above"` are all layers above
    /// those that the other interventions write in a cell, at the cell's positions where these are swept (ROME's severed
    /// traces).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Positions written: by default the last one, and all of them for `freeze`. In `POST /v1/generate` also steps of the text; there
    /// they must be named.
    #[schema(required = false)]
    pub positions: Positions,
    /// Heads written, at a per-head site; all of them if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Heads>,
    /// Columns written: channels of the residual stream, neurons of `mlp_act`, a head's dimensions, at `scores` and
    /// `pattern` the key positions; all of them if left out. At a per-head site they are columns of a head, counted from 0: of every
    /// head if `heads` is left out. A given `vector` then has a number for each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dims: Option<Dims>,
    /// Layers written together around each layer, `[l - w/2, l + ceil(w/2))` clipped to the model (ROME).
    #[schema(required = false)]
    pub window: u32,
    /// In arms of a sweep, in place of `layers`, `heads` and `dims`: the strongest cells of an earlier sweep, all written together. They are
    /// written out before anything else is looked at, so that the request as it is told has plain layers and heads.
    #[serde(skip_serializing_if = "of_request", serialize_with = "nothing")]
    #[schema(value_type = Option<CellsOf>)]
    pub cells: (),
    /// What is done. Interventions apply in the order of computation, whatever their order in the list; those of one site and
    /// layer in the order of the list, after `freeze` and before `knockout`.
    flat pub op: OpSpec,
}
}

impl Intervention {
    /// Residual stream at all layers, last position, replaced from `source`'s last position.
    pub fn last_residual(source: &str) -> Self {
        Self {
            site: Site::ResidPost,
            layers: Some(Layers::ALL),
            positions: Positions::LAST,
            heads: None,
            dims: None,
            window: 1,
            cells: (),
            op: OpSpec::Replace {
                source: SourceSpec::Run {
                    run: source.to_owned(),
                    positions: Some(Positions::LAST),
                    site: None,
                    layer: None,
                },
            },
        }
    }

    /// Reads the object.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        Self::read_in(node, false, out)
    }

    /// Reads one of generated text: its positions may be steps, and must be named.
    pub(super) fn read_of_text(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        Self::read_in(node, true, out)
    }

    fn read_in(node: &Node<'_>, of_text: bool, out: &mut Problems) -> Option<Self> {
        let fields = node.fields_of::<Self>(out)?;
        if let Some(node) = fields.get("cells") {
            let detail = "cells of an earlier result are named in the arms of a sweep";
            let fix =
                "send it to /v1/sweep, whose `runs` may be of a single case; or write out layers and heads";
            out.push(&node.at, code::NOT_SUPPORTED, detail, fix);
        }
        let site = fields
            .need("site", "name the site to write, as resid_post", out)
            .and_then(|n| read_site(&n, out));
        let above = fields.get("layers").filter(|n| n.value == "above" && site.is_none_or(Site::has_layer));
        let layers =
            if above.is_some() { Some(Some(Layers::ABOVE)) } else { read_layers(&fields, site, out) };
        if let (Some(node), Some(site)) = (fields.get("site"), site.filter(|site| !site.is_editable())) {
            let detail = format!("{site} can be read, not written");
            out.push(&node.at, code::NOT_SUPPORTED, detail, "write final_norm, from which the logits follow");
        }
        let op = read_op(&fields, of_text, out);
        let everywhere = matches!(op, Some(OpSpec::Freeze { .. }));
        let default = if everywhere { Positions::ALL } else { Positions::LAST };
        let positions = if of_text {
            let fix = "write {\"steps\": \"all\"} for every token of the text, or positions of the prompt as \"last\"";
            fields.need("positions", fix, out).and_then(|n| Positions::read_with_steps(&n, out))
        } else {
            fields.get("positions").map_or(Some(default), |n| Positions::read(&n, true, out))
        };
        let heads = fields.get("heads").map_or(Some(None), |n| Heads::read(&n, out).map(Some));
        if let (Some(node), Some(site)) = (fields.get("heads"), site) {
            check_heads_site(&node.at, site, out);
        }
        let dims = fields.get("dims").map_or(Some(None), |n| Dims::read(&n, out).map(Some));
        let window = read_window(&fields, site, out);
        if let Some(node) = above.filter(|_| op.is_some() && (!everywhere || window.is_some_and(|w| w > 1))) {
            let detail = "only `freeze`, without a window, holds the layers above what others write";
            out.push(&node.at, code::CONFLICT, detail, "name the layers, or write \"op\": \"freeze\"");
        }
        Some(Self {
            site: site?,
            layers: layers?,
            positions: positions?,
            heads: heads?,
            dims: dims?,
            window: window?,
            cells: (),
            op: op?,
        })
    }
}

/// Reports heads on a site that has none.
pub(super) fn check_heads_site(at: &str, site: Site, out: &mut Problems) {
    if !site.has_heads() {
        let detail = format!("site {site} is not divided into heads");
        out.push(at, code::NOT_SUPPORTED, detail, "leave out `heads`, or use a per-head site such as z");
    }
}

/// Reads `window`, 1 if left out.
pub(super) fn read_window(fields: &Fields<'_>, site: Option<Site>, out: &mut Problems) -> Option<u32> {
    let Some(node) = fields.get("window") else { return Some(1) };
    let window = node.natural(1, out)?;
    if let Some(site) = site.filter(|site| !site.has_layer() && window != 1) {
        let detail = format!("`{site}` has no layers to take together");
        out.push(&node.at, code::CONFLICT, detail, "leave out `window`");
        return None;
    }
    if window > 1 << 20 {
        let detail = format!("a window of {window} layers");
        out.push(&node.at, code::OUT_OF_RANGE, detail, "write at most the model's number of layers");
        return None;
    }
    u32::try_from(window).ok()
}
