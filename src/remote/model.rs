//! The served model as a block sees it: by the names that nnsight and transformers have for its parts.

use mediant_worker::message::{Model, Profile, Tap};
use serde_json::Value;

use super::hub::Hub;
use crate::model::config::ModelConfig;
use crate::service::Service;
use crate::spec::dtype::Dtype;
use crate::spec::site::Site;

/// What a block may know of the served model.
pub fn told(service: &Service, hub: &Hub, profile: Profile, eager: bool) -> Model {
    let (served, config) = (&service.served, &service.served.config);
    let text = |name: &str| hub.file(name).map(|file| String::from_utf8_lossy(&file.bytes).into_owned());
    let config_json = text("config.json").unwrap_or_else(|| "{}".to_owned());
    Model {
        repo_id: hub.repo_id.clone(),
        pad: pad(&config_json),
        config: config_json,
        layers: config.num_layers as u32,
        heads: config.num_heads as u32,
        kv_heads: config.num_kv_heads as u32,
        head_width: config.head_dim as u32,
        dtype: match service.engine.ready().numerics.compute {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
        }
        .to_owned(),
        taps: taps(config, profile, eager),
        context: u32::try_from(served.limits.prompt_tokens).unwrap_or(u32::MAX),
    }
}

/// The token that pads, as nnsight chooses it: that which ends a text, where the model names no other.
fn pad(config: &str) -> u32 {
    let config: Value = serde_json::from_str(config).unwrap_or_default();
    let id = |key: &str| match &config[key] {
        Value::Array(ids) => ids.first().and_then(Value::as_u64),
        one => one.as_u64(),
    };
    id("pad_token_id").or_else(|| id("eos_token_id")).unwrap_or(0) as u32
}

/// A module's input or output, below the model or a layer.
struct Row {
    path: &'static str,
    site: Site,
    /// A new value of it is written there instead.
    replaced_at: Option<Site>,
    /// What the activation function makes of it is shown.
    activated: bool,
}

const fn row(path: &'static str, site: Site) -> Row {
    Row { path, site, replaced_at: None, activated: false }
}

const fn normed(path: &'static str, site: Site, replaced_at: Site) -> Row {
    Row { path, site, replaced_at: Some(replaced_at), activated: false }
}

const fn activated(path: &'static str, site: Site) -> Row {
    Row { path, site, replaced_at: None, activated: true }
}

/// What transformers calls the places of a family.
struct Names {
    before: &'static [Row],
    /// What the layers' list is called.
    layers: &'static str,
    /// In the order in which transformers computes them; rows of one moment follow one another.
    block: &'static [Row],
    after: &'static [Row],
}

/// Llama and its relatives.
static LLAMA: Names = Names {
    before: &[row("model.embed_tokens.output", Site::Embed)],
    layers: "model.layers",
    block: &[
        row("input", Site::ResidPre),
        normed("input_layernorm.input", Site::ResidPre, Site::AttnNorm),
        row("input_layernorm.output", Site::AttnNorm),
        row("self_attn.input", Site::AttnNorm),
        row("self_attn.q_proj.output", Site::Q),
        row("self_attn.q_norm.output", Site::QNorm),
        row("self_attn.k_proj.output", Site::K),
        row("self_attn.k_norm.output", Site::KNorm),
        row("self_attn.v_proj.output", Site::V),
        row("self_attn.o_proj.input", Site::Z),
        row("self_attn.o_proj.output", Site::AttnOut),
        row(ATTENTION_LLAMA, Site::AttnOut),
        normed("post_attention_layernorm.input", Site::ResidMid, Site::MlpNorm),
        row("post_attention_layernorm.output", Site::MlpNorm),
        row("mlp.input", Site::MlpNorm),
        row("mlp.gate_proj.output", Site::MlpGate),
        activated("mlp.act_fn.output", Site::MlpGate),
        row("mlp.up_proj.output", Site::MlpUp),
        row("mlp.down_proj.input", Site::MlpAct),
        row("mlp.down_proj.output", Site::MlpOut),
        row("mlp.output", Site::MlpOut),
        row(OUTPUT, Site::ResidPost),
    ],
    after: &[
        row("model.norm.output", Site::FinalNorm),
        row("lm_head.input", Site::FinalNorm),
        row("lm_head.output", Site::Logits),
    ],
};

/// GPT-2.
static GPT2: Names = Names {
    before: &[row("transformer.wte.output", Site::Embed)],
    layers: "transformer.h",
    block: &[
        row("input", Site::ResidPre),
        normed("ln_1.input", Site::ResidPre, Site::AttnNorm),
        row("ln_1.output", Site::AttnNorm),
        row("attn.input", Site::AttnNorm),
        row("attn.c_attn.input", Site::AttnNorm),
        row("attn.c_proj.input", Site::Z),
        row("attn.c_proj.output", Site::AttnOut),
        row(ATTENTION_GPT2, Site::AttnOut),
        normed("ln_2.input", Site::ResidMid, Site::MlpNorm),
        row("ln_2.output", Site::MlpNorm),
        row("mlp.input", Site::MlpNorm),
        row("mlp.c_fc.input", Site::MlpNorm),
        row("mlp.c_fc.output", Site::MlpPre),
        row("mlp.act.output", Site::MlpAct),
        row("mlp.c_proj.input", Site::MlpAct),
        row("mlp.c_proj.output", Site::MlpOut),
        row("mlp.output", Site::MlpOut),
        row(OUTPUT, Site::ResidPost),
    ],
    after: &[
        row("transformer.ln_f.output", Site::FinalNorm),
        row("lm_head.input", Site::FinalNorm),
        row("lm_head.output", Site::Logits),
    ],
};

const OUTPUT: &str = "output";
const ATTENTION_LLAMA: &str = "self_attn.output";
const ATTENTION_GPT2: &str = "attn.output";

/// Each module path that is served and what it stands for, in the order of computation.
pub fn taps(config: &ModelConfig, profile: Profile, eager: bool) -> Vec<Tap> {
    let names = if config.family.name == "gpt2" { &GPT2 } else { &LLAMA };
    let mut taps = Vec::new();
    let mut add = |path: String, row: &Row, moment: u32| {
        if config.absent(row.site).is_some() {
            return;
        }
        let tuple = match row.path {
            OUTPUT if profile == Profile::Legacy => 1,
            ATTENTION_LLAMA | ATTENTION_GPT2 => 2,
            _ => 0,
        };
        taps.push(Tap {
            path: format!("model.{path}"),
            site: row.site.name().to_owned(),
            width: config.site_width(row.site, 0) as u32,
            moment,
            writable: row.site.is_editable() && !row.activated,
            replaced_at: row.replaced_at.map(|site| site.name().to_owned()),
            tuple,
            second: (eager && tuple == 2).then(|| Site::Pattern.name().to_owned()),
            activated: row.activated,
        });
    };
    for row in names.before {
        add(row.path.to_owned(), row, 0);
    }
    let mut moment = 0;
    for (i, row) in names.block.iter().enumerate() {
        let same = |other: &Row| other.site == row.site && other.activated == row.activated;
        moment += u32::from(i > 0 && !same(&names.block[i - 1]));
        add(format!("{}.*.{}", names.layers, row.path), row, moment);
    }
    for (moment, row) in (0..).zip(names.after) {
        add(row.path.to_owned(), row, moment);
    }
    taps
}
