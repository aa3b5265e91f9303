//! Where in the model a value can be read or written.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A place in the forward pass, named as in the field (`docs/VOCABULARY.md` lists the peers' names).
///
/// The order is the order of computation inside a layer, so sites of one layer compare by time: keys and values come
/// before queries, because other positions see them.
/// Shapes are per position: `d` hidden size, `f` MLP width, `h` query heads, `k` key/value heads, `e` head dimension, `t`
/// keys (the position itself and those before it), `v` vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// Token embedding, `[d]`, before a learned position is added (GPT-2). Has no layer.
    Embed,
    /// Residual stream entering the block, `[d]`; equals `resid_post` of the layer before.
    ResidPre,
    /// What q, k and v are projected from: `resid_pre` after the norm, `[d]`.
    // Stored activations may have the name that it had before.
    #[serde(alias = "attn_in")]
    AttnNorm,
    /// Keys as they come out of their projection, `[k, e]`.
    K,
    /// Keys after the norm of each head, before RoPE, `[k, e]`; of models that have head norms (Qwen3).
    KNorm,
    /// Values, `[k, e]`.
    V,
    /// Keys after RoPE, `[k, e]`; models without RoPE have `k` alone.
    KRope,
    /// Queries as they come out of their projection, `[h, e]`.
    Q,
    /// Queries after the norm of each head, before RoPE, `[h, e]`; of models that have head norms (Qwen3).
    QNorm,
    /// Queries after RoPE, `[h, e]`; models without RoPE have `q` alone.
    QRope,
    /// Scaled scores of the position's query with each key, before the softmax, `[h, t]`.
    Scores,
    /// Attention weights: softmax of the scores, `[h, t]`.
    Pattern,
    /// Attention-weighted values before the output projection, `[h, e]`: the per-head site.
    Z,
    /// Each head's share of `attn_out`, `z_h W_O,h`, `[h, d]`; computed where it is asked for. A bias of the output projection
    /// (GPT-2) is no head's.
    HeadOut,
    /// Attention sublayer's output, after the output projection, `[d]`.
    AttnOut,
    /// Residual stream after attention was added, `[d]`.
    ResidMid,
    /// What the MLP reads: `resid_mid` after the norm, `[d]`.
    #[serde(alias = "mlp_in")]
    MlpNorm,
    /// What the activation function of an MLP without a gate gets, `[f]`: its up projection with the bias (GPT-2).
    MlpPre,
    /// What the activation function of a gated MLP gets, `[f]`: its gate projection.
    MlpGate,
    /// What a gated MLP multiplies by its activated gate, `[f]`: its up projection.
    MlpUp,
    /// The MLP's neurons, the input of its down projection, `[f]`: `silu(mlp_gate) * mlp_up`, or `gelu(mlp_pre)` of GPT-2.
    MlpAct,
    /// MLP's output, `[d]`.
    MlpOut,
    /// Residual stream leaving the block, `[d]` (the "hidden state" of the layer).
    ResidPost,
    /// The last residual stream after the final norm, `[d]`. Has no layer.
    FinalNorm,
    /// Logits, `[v]`. Has no layer; read only.
    Logits,
}

/// Which heads a per-head site is divided into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// Query heads.
    Query,
    /// Key/value heads, each shared by a group of query heads.
    KeyValue,
}

/// Where in the forward pass a site stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Before the first block.
    Start,
    /// Once in every block.
    Block,
    /// After the last block.
    End,
}

/// How many numbers a site has per position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// `[d]`
    Hidden,
    /// `[h, e]`
    Queries,
    /// `[k, e]`
    KeyValues,
    /// `[h, t]`
    Keys,
    /// `[h, d]`
    HeadOutputs,
    /// `[f]`
    Neurons,
    /// `[v]`
    Vocabulary,
}

/// What only some models have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Rotations of q and k.
    Rope,
    /// A norm of each head of q and k.
    HeadNorms,
    /// An MLP with a gate.
    Gate,
    /// An MLP without one.
    NoGate,
}

/// What is known of a site: its row in the one table from which names, widths, documentation and the peers' names follow.
#[derive(Debug, Clone, Copy)]
pub struct SiteFacts {
    /// The site.
    pub site: Site,
    /// Its name on the wire.
    pub name: &'static str,
    /// Where it stands.
    pub scope: Scope,
    /// How many numbers it has.
    pub width: Width,
    /// What a model must have for the site to be there.
    pub needs: Option<Needs>,
    /// The site's own number in the seeds of noise: see [`super::op::OpSpec::Noise`]. Never changes, whatever site is added.
    pub stream: u32,
    /// Its name in TransformerLens, inside `blocks.l.` for sites of a block.
    pub transformer_lens: &'static str,
    /// Its place in nnsight and transformers, inside `model.layers[l].` for sites of a block (Llama's names).
    pub nnsight: &'static str,
    /// Its name in pyvene.
    pub pyvene: &'static str,
    /// ROME's name.
    pub rome: &'static str,
}

/// Every site, in the order of computation.
pub const SITES: [SiteFacts; 25] = {
    use Scope::{Block, End, Start};
    use Width::{HeadOutputs, Hidden, KeyValues, Keys, Neurons, Queries, Vocabulary};
    [
        row(0, Site::Embed, "embed", Start, Hidden, ["hook_embed", "embed_tokens.output", "-", "embed"]),
        row(1, Site::ResidPre, "resid_pre", Block, Hidden, ["hook_resid_pre", "input", "block_input", "-"]),
        row(
            2,
            Site::AttnNorm,
            "attn_norm",
            Block,
            Hidden,
            ["ln1.hook_normalized x weight", "input_layernorm.output", "attention_input", "-"],
        ),
        row(3, Site::K, "k", Block, KeyValues, ["attn.hook_k", "self_attn.k_proj.output", "key_output", "-"]),
        row(
            20,
            Site::KNorm,
            "k_norm",
            Block,
            KeyValues,
            ["attn.hook_k_normed", "self_attn.k_norm.output", "-", "-"],
        )
        .needing(Needs::HeadNorms),
        row(
            4,
            Site::V,
            "v",
            Block,
            KeyValues,
            ["attn.hook_v", "self_attn.v_proj.output", "value_output", "-"],
        ),
        row(5, Site::KRope, "k_rope", Block, KeyValues, ["attn.hook_rot_k", "-", "-", "-"])
            .needing(Needs::Rope),
        row(6, Site::Q, "q", Block, Queries, ["attn.hook_q", "self_attn.q_proj.output", "query_output", "-"]),
        row(
            21,
            Site::QNorm,
            "q_norm",
            Block,
            Queries,
            ["attn.hook_q_normed", "self_attn.q_norm.output", "-", "-"],
        )
        .needing(Needs::HeadNorms),
        row(7, Site::QRope, "q_rope", Block, Queries, ["attn.hook_rot_q", "-", "-", "-"])
            .needing(Needs::Rope),
        row(8, Site::Scores, "scores", Block, Keys, ["attn.hook_attn_scores", "-", "-", "-"]),
        row(9, Site::Pattern, "pattern", Block, Keys, ["attn.hook_pattern", "attention weights", "-", "-"]),
        row(
            10,
            Site::Z,
            "z",
            Block,
            Queries,
            ["attn.hook_z", "self_attn.o_proj.input", "attention_value_output", "-"],
        ),
        row(11, Site::HeadOut, "head_out", Block, HeadOutputs, ["attn.hook_result", "-", "-", "-"]),
        row(
            12,
            Site::AttnOut,
            "attn_out",
            Block,
            Hidden,
            ["hook_attn_out", "self_attn.output[0]", "attention_output", "attn"],
        ),
        row(
            13,
            Site::ResidMid,
            "resid_mid",
            Block,
            Hidden,
            ["hook_resid_mid", "post_attention_layernorm.input", "-", "-"],
        ),
        row(
            14,
            Site::MlpNorm,
            "mlp_norm",
            Block,
            Hidden,
            ["ln2.hook_normalized x weight", "post_attention_layernorm.output", "mlp_input", "-"],
        ),
        row(22, Site::MlpPre, "mlp_pre", Block, Neurons, ["mlp.hook_pre", "-", "-", "-"])
            .needing(Needs::NoGate),
        row(
            23,
            Site::MlpGate,
            "mlp_gate",
            Block,
            Neurons,
            ["mlp.hook_pre", "mlp.gate_proj.output", "-", "-"],
        )
        .needing(Needs::Gate),
        row(
            24,
            Site::MlpUp,
            "mlp_up",
            Block,
            Neurons,
            ["mlp.hook_pre_linear", "mlp.up_proj.output", "-", "-"],
        )
        .needing(Needs::Gate),
        row(
            15,
            Site::MlpAct,
            "mlp_act",
            Block,
            Neurons,
            ["mlp.hook_post", "mlp.down_proj.input", "mlp_activation, if not gated", "-"],
        ),
        row(16, Site::MlpOut, "mlp_out", Block, Hidden, ["hook_mlp_out", "mlp.output", "mlp_output", "mlp"]),
        row(
            17,
            Site::ResidPost,
            "resid_post",
            Block,
            Hidden,
            ["hook_resid_post", "output", "block_output", "hidden"],
        ),
        row(
            18,
            Site::FinalNorm,
            "final_norm",
            End,
            Hidden,
            ["ln_final.hook_normalized x weight", "norm.output", "-", "-"],
        ),
        row(19, Site::Logits, "logits", End, Vocabulary, ["the output", "lm_head.output", "-", "-"]),
    ]
};

const fn row(
    stream: u32,
    site: Site,
    name: &'static str,
    scope: Scope,
    width: Width,
    peers: [&'static str; 4],
) -> SiteFacts {
    let [transformer_lens, nnsight, pyvene, rome] = peers;
    SiteFacts { site, name, scope, width, needs: None, stream, transformer_lens, nnsight, pyvene, rome }
}

impl Needs {
    /// Why a site is not there in a model of a family that lacks it, and what to write instead.
    pub fn missing(self, site: Site, family: &str) -> (String, String) {
        let plain = if site.heads() == Some(HeadKind::KeyValue) { Site::K } else { Site::Q };
        let (why, fix) = match self {
            Needs::Rope => (
                format!("the positions of a {family} model are not rotations"),
                format!("write {plain}, which is what attention reads here"),
            ),
            Needs::HeadNorms => (
                format!("a {family} model has no norms of heads"),
                format!("write {plain}, which no norm changes here"),
            ),
            Needs::Gate => (
                format!("the MLP of a {family} model has no gate"),
                "write mlp_pre, which is what its activation function gets".to_owned(),
            ),
            Needs::NoGate => (
                format!("the MLP of a {family} model is gated"),
                "write mlp_gate, which is what its activation function gets, or mlp_up, its other factor"
                    .to_owned(),
            ),
        };
        (format!("{site}: {why}"), fix)
    }
}

impl SiteFacts {
    const fn needing(mut self, needs: Needs) -> Self {
        self.needs = Some(needs);
        self
    }
}

impl Site {
    /// Every site, in the order of computation.
    pub const ALL: [Self; SITES.len()] = {
        let mut all = [Self::Embed; SITES.len()];
        let mut at = 0;
        while at < SITES.len() {
            all[at] = SITES[at].site;
            at += 1;
        }
        all
    };

    /// What is known of it.
    pub const fn facts(self) -> &'static SiteFacts {
        &SITES[self as usize]
    }

    /// The name used on the wire.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// The heads that the site is divided into.
    pub const fn heads(self) -> Option<HeadKind> {
        match self.facts().width {
            Width::Queries | Width::Keys | Width::HeadOutputs => Some(HeadKind::Query),
            Width::KeyValues => Some(HeadKind::KeyValue),
            Width::Hidden | Width::Neurons | Width::Vocabulary => None,
        }
    }

    /// Whether `heads` may be named here.
    pub const fn has_heads(self) -> bool {
        self.heads().is_some()
    }

    /// Whether the site stands once in every layer.
    pub const fn has_layer(self) -> bool {
        matches!(self.facts().scope, Scope::Block)
    }

    /// The layers of a model of `depth` at which the site is addressed: 0 before the first, `depth` after the last.
    pub const fn layers(self, depth: u32) -> std::ops::Range<u32> {
        match self.facts().scope {
            Scope::Start => 0..1,
            Scope::Block => 0..depth,
            Scope::End => depth..depth + 1,
        }
    }

    /// Whether the site's columns are keys: other positions of the prompt.
    pub const fn is_over_keys(self) -> bool {
        matches!(self.facts().width, Width::Keys)
    }

    /// Whether values can be written here.
    pub const fn is_editable(self) -> bool {
        !matches!(self.facts().width, Width::Vocabulary)
    }

    /// The site whose numbers are written where this one is. What a head writes is linear in its `z`: its output is written as
    /// the `z` that the output projection sees, after `z` was read.
    #[must_use]
    pub const fn written_as(self) -> Site {
        match self {
            Site::HeadOut => Site::Z,
            other => other,
        }
    }

    /// Whether the site is the residual stream itself, i.e. all of a position's state at that point.
    pub const fn is_residual(self) -> bool {
        matches!(self, Site::Embed | Site::ResidPre | Site::ResidMid | Site::ResidPost)
    }
}

/// Names that are no site's here, with the one that is meant: other tools' names, and our own of before.
pub fn meant(word: &str) -> Option<(Site, &'static str)> {
    let word =
        word.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')).map_or(word, |(_, name)| name);
    if let Some((_, site, why)) = TOLD_APART.into_iter().find(|(name, ..)| *name == word) {
        return Some((site, why));
    }
    let hooked = format!("hook_{word}");
    if word == "-" || SITES.iter().any(|facts| facts.name == word) {
        return None;
    }
    SITES
        .iter()
        .find(|facts| {
            let peers = [facts.transformer_lens, facts.nnsight, facts.pyvene, facts.rome];
            peers.contains(&word) || facts.transformer_lens == hooked
        })
        .map(|facts| (facts.site, "that is another tool's name"))
}

/// Names of other tools that are not those of one site here. TransformerLens' copies of the residual stream had been the names of
/// its normed values here.
const TOLD_APART: [(&str, Site, &str); 3] = [
    (
        "attn_in",
        Site::AttnNorm,
        "`attn_norm` is the residual stream after the norm; before it, TransformerLens' `hook_attn_in`, is `resid_pre`",
    ),
    (
        "mlp_in",
        Site::MlpNorm,
        "`mlp_norm` is the residual stream after the norm; before it, TransformerLens' `hook_mlp_in`, is `resid_mid`",
    ),
    (
        "mlp.hook_pre",
        Site::MlpGate,
        "TransformerLens' `mlp.hook_pre` is `mlp_gate` of a gated MLP, and `mlp_pre` of one without a gate (GPT-2)",
    ),
];

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_stands_in_the_place_of_its_site() {
        let mut streams: Vec<u32> = SITES.iter().map(|facts| facts.stream).collect();
        streams.sort_unstable();
        assert!(streams.is_sorted_by(|a, b| a < b), "two sites would have the same noise: {streams:?}");
        for (place, facts) in SITES.iter().enumerate() {
            assert_eq!(facts.site as usize, place);
            assert_eq!(serde_json::to_value(facts.site).unwrap(), facts.name);
        }
    }

    #[test]
    fn names_of_other_tools_are_understood() {
        let meant = |word| meant(word).map(|(site, _)| site);
        assert_eq!(meant("blocks.3.attn.hook_z"), Some(Site::Z));
        assert_eq!(meant("hook_resid_mid"), Some(Site::ResidMid));
        assert_eq!(meant("mlp.down_proj.input"), Some(Site::MlpAct));
        assert_eq!(meant("block_output"), Some(Site::ResidPost));
        assert_eq!(meant("attn_in"), Some(Site::AttnNorm));
        assert_eq!(meant("blocks.3.mlp.hook_pre"), Some(Site::MlpGate));
        assert_eq!(meant("mlp.hook_pre_linear"), Some(Site::MlpUp));
        assert_eq!((meant("-"), meant("resid"), meant("blocks.3")), (None, None, None));
        let why = super::meant("mlp.hook_pre").unwrap().1;
        assert!(why.contains("`mlp_pre` of one without a gate"), "{why}");
        assert!(SITES.iter().all(|facts| super::meant(facts.name).is_none()));
    }
}
