//! Experiments on the command line: what its flags say, as the body of a request.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use mediant::spec::kind::Kind;
use serde_json::{Map, Value, json};

use super::{FileArgs, ServerArgs, ShowArgs};

/// What every experiment takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Further fields of the request as JSON, such as '{"corrupt": {"seed": 2}}'; they win over flags
    #[arg(long = "with", value_name = "JSON", value_parser = object)]
    more: Option<Value>,
    /// Say what it would do and cost, and do nothing
    #[arg(long)]
    pub(super) plan: bool,
    #[command(flatten)]
    pub(super) file: FileArgs,
    #[command(flatten)]
    pub(super) show: ShowArgs,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

impl Common {
    /// The body of flags, with what was given as JSON put over it.
    fn over(&self, mut body: Value) -> Value {
        if let Some(more) = &self.more {
            merge(&mut body, more);
        }
        body
    }
}

/// `mediant run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The prompt
    prompt: String,
    /// The token whose probability is wanted; most begin with a space: " Paris"
    #[arg(long, short, value_name = "TEXT")]
    target: Option<String>,
    /// How many of the most probable tokens are shown
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: u32,
    #[command(flatten)]
    common: Common,
}

/// `mediant lens`
#[derive(Debug, Args)]
pub(crate) struct LensArgs {
    /// The prompt
    prompt: String,
    /// The token whose probability is wanted in every cell
    #[arg(long, short, value_name = "TEXT")]
    target: Option<String>,
    /// Positions: last, all, -1, 0,3 or 0..5
    #[arg(long, value_name = "WHERE", default_value = "last", value_parser = positions, allow_hyphen_values = true)]
    positions: Value,
    /// Layers: all, 12, 0,4,8 or 0..12
    #[arg(long, value_name = "WHICH", default_value = "all", value_parser = layers)]
    layers: Value,
    /// How many tokens are shown in each cell
    #[arg(long, value_name = "N", default_value_t = 3)]
    top: u32,
    #[command(flatten)]
    common: Common,
}

/// `mediant trace`
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The prompt
    prompt: String,
    /// The words whose embeddings get noise
    #[arg(long, short, value_name = "TEXT")]
    subject: String,
    /// The token that the prompt asks for; most begin with a space: " Paris"
    #[arg(long, short, value_name = "TEXT")]
    target: String,
    /// What is put back: hidden, mlp, attn
    #[arg(long, value_name = "ARM", value_delimiter = ',', default_value = "hidden")]
    arms: Vec<String>,
    /// Layers: all, 12, 0,4,8 or 0..12
    #[arg(long, value_name = "WHICH", value_parser = layers)]
    layers: Option<Value>,
    /// Positions: all, last, -1, 0,3 or 0..5
    #[arg(long, value_name = "WHERE", value_parser = positions, allow_hyphen_values = true)]
    positions: Option<Value>,
    /// Draws of noise; each cell is the mean over them
    #[arg(long, value_name = "N")]
    samples: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// `mediant patch`
#[derive(Debug, Args)]
pub(crate) struct PatchArgs {
    /// The prompt that is patched
    base: String,
    /// The prompt whose states are put into it
    source: String,
    /// The token whose probability is wanted; most begin with a space: " Paris"
    #[arg(long, short, value_name = "TEXT")]
    target: String,
    /// What is replaced: `resid_post`, `attn_out`, `mlp_out`, `z`, …
    #[arg(long, value_name = "SITE", default_value = "resid_post")]
    site: String,
    /// Layers: all, 12, 0,4,8 or 0..12
    #[arg(long, value_name = "WHICH", default_value = "all", value_parser = layers)]
    layers: Value,
    /// Heads, of a site that has some: all, 3 or 0,4; each by itself
    #[arg(long, value_name = "WHICH", value_parser = layers)]
    heads: Option<Value>,
    /// Controls beside it: `self_patch`, `random_position`, `random_vector`, `unrelated_prompt`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    controls: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// `mediant sweep`
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// Cases: a .csv, .jsonl or .json file, which is uploaded, or the id of a stored set
    pub(super) data: String,
    /// What is put back: hidden, mlp, attn
    #[arg(long, value_name = "ARM", value_delimiter = ',', default_value = "mlp,attn")]
    arms: Vec<String>,
    /// What averages are by: layer, `token_class`, position, head, group
    #[arg(long, value_name = "AXIS", value_delimiter = ',')]
    by: Vec<String>,
    /// Draws of noise for each case
    #[arg(long, value_name = "N")]
    samples: Option<u32>,
    /// Keep cases that the model answers otherwise
    #[arg(long)]
    keep_wrong: bool,
    #[command(flatten)]
    common: Common,
}

/// `mediant generate`
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// The text that is continued; with --chat, what the user says
    prompt: String,
    /// Ask as a conversation, through the model's own template
    #[arg(long)]
    chat: bool,
    /// Most tokens of a text
    #[arg(long, value_name = "N", default_value_t = 40)]
    max_tokens: u32,
    /// How freely tokens are drawn; 0 takes the most probable one
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Texts
    #[arg(long, value_name = "N")]
    samples: Option<u32>,
    /// Seed of the draws
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Further fields of the request as JSON, such as '{"interventions": […]}'; they win over flags
    #[arg(long = "with", value_name = "JSON", value_parser = object)]
    more: Option<Value>,
    #[command(flatten)]
    pub(super) show: ShowArgs,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// `mediant plan`
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The request, a JSON file as its endpoint takes it, or as POST /v1/plan does; `-` for standard input
    pub(super) file: PathBuf,
    /// The endpoint that it is for: run, lens, patch, trace, sweep, generate
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub(super) to: Option<Kind>,
    #[command(flatten)]
    pub(super) show: ShowArgs,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// `mediant tokenize`
#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// The prompt
    prompt: String,
    /// A text whose tokens in the prompt are shown
    #[arg(long, short, value_name = "TEXT")]
    subject: Option<String>,
    /// A text whose tokens after the prompt are shown, as targets are read
    #[arg(long, value_name = "TEXT")]
    continuation: Option<String>,
    #[command(flatten)]
    pub(super) show: ShowArgs,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// A command that is an experiment.
pub(crate) trait Experiment {
    /// The endpoint.
    const KIND: Kind;
    fn common(&self) -> &Common;
    /// The request, without the cases of a sweep.
    fn body(&self) -> Value;
}

impl Experiment for RunArgs {
    const KIND: Kind = Kind::Run;

    fn common(&self) -> &Common {
        &self.common
    }

    fn body(&self) -> Value {
        let fields = [("prompt", json!(self.prompt)), ("target", json!(self.target))];
        self.common.over(with(fields, json!({"read": {"topk": self.top}})))
    }
}

impl Experiment for LensArgs {
    const KIND: Kind = Kind::Run;

    fn common(&self) -> &Common {
        &self.common
    }

    fn body(&self) -> Value {
        let lens = json!({"layers": self.layers, "positions": self.positions, "topk": self.top});
        let fields = [("prompt", json!(self.prompt)), ("target", json!(self.target))];
        self.common.over(with(fields, json!({"read": {"logit_lens": lens}})))
    }
}

impl Experiment for TraceArgs {
    const KIND: Kind = Kind::Trace;

    fn common(&self) -> &Common {
        &self.common
    }

    fn body(&self) -> Value {
        let mut body =
            json!({"prompt": self.prompt, "subject": self.subject, "target": self.target, "arms": self.arms});
        if let Some(samples) = self.samples {
            body["corrupt"] = json!({"samples": samples});
        }
        let fields = [("layers", json!(self.layers)), ("positions", json!(self.positions))];
        self.common.over(with(fields, body))
    }
}

impl Experiment for PatchArgs {
    const KIND: Kind = Kind::Patch;

    fn common(&self) -> &Common {
        &self.common
    }

    fn body(&self) -> Value {
        let source = json!({"run": "source", "positions": "last"});
        let mut write =
            json!({"site": self.site, "layers": self.layers, "positions": "last", "source": source});
        let mut body = json!({"base": self.base, "source": self.source, "target": self.target});
        body["sweep"] = json!(["layers"]);
        if let Some(heads) = &self.heads {
            write["heads"] = heads.clone();
            body["sweep"] = json!(["layers", "heads"]);
        } else {
            body["derive"] = json!(["leaves_base", "reaches_source"]);
        }
        body["interventions"] = json!([write]);
        if !self.controls.is_empty() {
            body["controls"] = json!(self.controls);
        }
        self.common.over(body)
    }
}

impl Experiment for SweepArgs {
    const KIND: Kind = Kind::Sweep;

    fn common(&self) -> &Common {
        &self.common
    }

    fn body(&self) -> Value {
        let mut body = json!({"dataset": {"id": self.data}, "arms": self.arms, "corrupt": {}});
        if let Some(samples) = self.samples {
            body["corrupt"]["samples"] = json!(samples);
        }
        if !self.by.is_empty() {
            body["aggregate"] = json!({"by": self.by});
        }
        if self.keep_wrong {
            body["filters"] = json!({"expect_top1": false});
        }
        self.common.over(body)
    }
}

impl GenerateArgs {
    /// The request.
    pub(super) fn body(&self) -> Value {
        let mut body = if self.chat {
            json!({"messages": [{"role": "user", "content": self.prompt}]})
        } else {
            json!({"prompt": self.prompt})
        };
        body["max_tokens"] = json!(self.max_tokens);
        let drawn = [("temperature", json!(self.temperature)), ("seed", json!(self.seed))];
        let drawn = with(drawn, json!({}));
        if drawn.as_object().is_some_and(|drawn| !drawn.is_empty()) {
            body["sampling"] = drawn;
        }
        let mut body = with([("samples", json!(self.samples))], body);
        if let Some(more) = &self.more {
            merge(&mut body, more);
        }
        body
    }
}

impl PlanArgs {
    /// The request of `POST /v1/plan`.
    pub(super) fn body(&self, body: Value) -> anyhow::Result<Value> {
        let Some(fields) = body.as_object() else { bail!("{} is no JSON object", self.file.display()) };
        // One that names its kind is what that route takes.
        let is_named = fields.len() == 1 && fields.keys().all(|name| Kind::named(name).is_some());
        match (self.to, is_named) {
            (Some(kind), _) => Ok(json!({ kind.name(): body })),
            (None, true) => Ok(body),
            (None, false) => bail!("say what {} is for: --to trace", self.file.display()),
        }
    }
}

impl TokenizeArgs {
    /// The request.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({"prompt": self.prompt});
        if let Some(subject) = &self.subject {
            body["spans"] = json!({"subject": subject});
        }
        with([("continuation", json!(self.continuation))], body)
    }
}

/// A body with those of some fields that are there.
fn with<const N: usize>(fields: [(&str, Value); N], mut body: Value) -> Value {
    for (name, value) in fields {
        if !value.is_null() {
            body[name] = value;
        }
    }
    body
}

/// Puts fields over others; objects are put together.
fn merge(under: &mut Value, over: &Value) {
    match (under.as_object_mut(), over.as_object()) {
        (Some(fields), Some(more)) => {
            for (name, value) in more {
                merge(fields.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        _ => *under = over.clone(),
    }
}

fn object(text: &str) -> anyhow::Result<Value> {
    let fields: Map<String, Value> =
        serde_json::from_str(text).context("write a JSON object, such as {\"strict\": true}")?;
    Ok(Value::Object(fields))
}

/// Layers and heads: `all`, `12`, `0,4,8`, `0..12`, or as JSON.
fn layers(text: &str) -> Result<Value, String> {
    if let Some((from, to)) = text.split_once("..") {
        let end = |text: &str| {
            text.parse::<u32>().map_err(|_| format!("{text:?} is no layer; write 0..12 for layers 0 to 11"))
        };
        let from = if from.is_empty() { 0 } else { end(from)? };
        return Ok(if to.is_empty() { json!({"from": from}) } else { json!({"from": from, "to": end(to)?}) });
    }
    listed(text)
}

/// Positions: `last`, `all`, `-1`, `0,3`, `0..5`, the name of a span, or as JSON.
fn positions(text: &str) -> Result<Value, String> {
    if let Some((from, to)) = text.split_once("..") {
        let end = |text: &str| {
            text.parse::<i64>()
                .map_err(|_| format!("{text:?} is no position; write 0..5 for positions 0 to 4"))
        };
        return Ok(json!({"range": [end(from)?, end(to)?]}));
    }
    Ok(match listed(text)? {
        Value::String(word) if word != "last" && word != "all" => json!({"span": word}),
        other => other,
    })
}

fn listed(text: &str) -> Result<Value, String> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    match serde_json::from_str(&format!("[{text}]")) {
        Ok(Value::Array(list)) if !list.is_empty() => return Ok(Value::Array(list)),
        _ => {}
    }
    if text.chars().all(|c| c.is_alphanumeric() || c == '_') && !text.is_empty() {
        return Ok(json!(text));
    }
    Err("write all, a number, 0,4,8 or 0..12".to_owned())
}

/// A kind of request.
pub(super) fn kind(text: &str) -> Result<Kind, String> {
    Kind::named(text).ok_or_else(|| {
        let names = Kind::ALL.map(|(name, _)| name);
        format!("write one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_positions_are_written_as_people_do() {
        for (text, value) in [
            ("all", json!("all")),
            ("12", json!(12)),
            ("0,4,8", json!([0, 4, 8])),
            ("0..12", json!({"from": 0, "to": 12})),
            ("20..", json!({"from": 20})),
            (r#"{"from": 0, "step": 2}"#, json!({"from": 0, "step": 2})),
        ] {
            assert_eq!(layers(text), Ok(value), "{text}");
        }
        for (text, value) in [
            ("last", json!("last")),
            ("-1", json!(-1)),
            ("-3,-1", json!([-3, -1])),
            ("1..4", json!({"range": [1, 4]})),
            ("subject", json!({"span": "subject"})),
        ] {
            assert_eq!(positions(text), Ok(value), "{text}");
        }
        for bad in ["", "0..x", "a b", "1;2"] {
            assert!(layers(bad).is_err() && positions(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_given_as_json_win_and_are_put_together() {
        let mut body = json!({"prompt": "a", "corrupt": {"samples": 2}});
        merge(&mut body, &json!({"corrupt": {"seed": 3}, "strict": true, "prompt": "b"}));
        assert_eq!(body, json!({"prompt": "b", "corrupt": {"samples": 2, "seed": 3}, "strict": true}));
    }
}
