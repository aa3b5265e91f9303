//! How the next token is drawn.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::spec::declare::{declare, maybe, or};
use crate::spec::problem::{Problems, code};
use crate::spec::read::Node;

declare! {
/// How the next token is drawn from the whole vocabulary, in this order: logits divided by the temperature, `logit_bias`, `top_k`, `top_p`,
/// `min_p`. Tokens stand in the order of their logits (equal ones by id), and the first whose cumulative share exceeds the sample's
/// random number is taken. That number depends on the seed, the sample and the step alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    #[schema(required = false)]
    pub temperature: f64,
    /// Keeps this many of the most probable tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Keeps the most probable tokens up to this share, the one that reaches it included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Keeps tokens at least this many times as probable as the most probable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Adds to the logits of tokens, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, f64>)]
    pub logit_bias: BTreeMap<u32, f64>,
    /// Seed of the random numbers.
    #[schema(required = false)]
    pub seed: u64,
}
}

/// The fields as they are read, before it is known whether they go together.
struct Given {
    temperature: Option<f64>,
    top_k: Option<u32>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    logit_bias: BTreeMap<u32, f64>,
    seed: u64,
}

impl Sampling {
    /// Reads the object.
    pub(super) fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields_of::<Self>(out)?;
        let given = Given {
            temperature: maybe(|n, out| bounded(n, 0.0, 100.0, out))(&fields, "temperature", out)?,
            top_k: maybe(|n, out| n.count(1, out))(&fields, "top_k", out)?,
            top_p: maybe(share)(&fields, "top_p", out)?,
            min_p: maybe(share)(&fields, "min_p", out)?,
            logit_bias: or(BTreeMap::new(), read_bias)(&fields, "logit_bias", out)?,
            seed: or(1, |n, out| n.natural(0, out))(&fields, "seed", out)?,
        };
        let temperature = given.temperature.unwrap_or(0.0);
        if temperature == 0.0 {
            for name in ["top_k", "top_p", "min_p", "seed"].iter().filter(|name| fields.get(name).is_some()) {
                let detail =
                    format!("`{name}` changes nothing at temperature 0, which takes the most probable token");
                let fix = format!("write a `temperature` above 0, or leave out `{name}`");
                out.push(fields.pointer(name), code::CONFLICT, detail, fix);
            }
        }
        let Given { top_k, top_p, min_p, logit_bias, seed, .. } = given;
        Some(Self { temperature, top_k, top_p, min_p, logit_bias, seed })
    }
}

/// A number between two others.
fn bounded(node: &Node<'_>, least: f64, most: f64, out: &mut Problems) -> Option<f64> {
    let x = node.number(out)?;
    if !(least..=most).contains(&x) {
        let detail = format!("{x} is not between {least} and {most}");
        out.push(&node.at, code::OUT_OF_RANGE, detail, format!("write a number from {least} to {most}"));
        return None;
    }
    Some(x)
}

/// A share above 0 and up to 1.
fn share(node: &Node<'_>, out: &mut Problems) -> Option<f64> {
    let x = bounded(node, 0.0, 1.0, out)?;
    if x == 0.0 {
        out.push(&node.at, code::OUT_OF_RANGE, "0 keeps no token", "write a number above 0, up to 1");
        return None;
    }
    Some(x)
}

fn read_bias(node: &Node<'_>, out: &mut Problems) -> Option<BTreeMap<u32, f64>> {
    let mut bias = BTreeMap::new();
    for (id, node) in node.entries(out)? {
        let Ok(token) = id.parse::<u32>() else {
            let detail = format!("{id:?} is no token id");
            out.push(
                &node.at,
                code::WRONG_TYPE,
                detail,
                "write token ids, as {\"42\": -1.5}; /v1/tokenize tells them",
            );
            continue;
        };
        if let Some(x) = bounded(&node, -1000.0, 1000.0, out) {
            bias.insert(token, x);
        }
    }
    Some(bias)
}
