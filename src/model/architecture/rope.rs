//! The rotary embedding of a `config.json`: `rope_parameters` (transformers 5), or `rope_scaling` and a `rope_theta` at the
//! top level (before). Both may be there, since model cards tell to add `rope_scaling`; no key is left unread.

use serde_json::Value;

use super::keys::{KeyFault, Keys};
use crate::model::rope::{DynamicScaling, LinearScaling, Llama3Scaling, Rope, RopeScaling, YarnScaling};

/// What transformers takes for the base where `rope_scaling` is stated, and no base beside it.
const DEFAULT_THETA: f64 = 10_000.0;

/// Reads the rotary embedding. `max_positions`: `max_position_embeddings`.
pub(super) fn read(keys: &Keys<'_>, max_positions: usize) -> Result<Rope, KeyFault> {
    whole_heads(keys)?;
    let table = |key, prefix| {
        Ok::<_, KeyFault>(keys.table(key)?.filter(|map| !map.is_empty()).map(|map| Keys::inner(map, prefix)))
    };
    let (parameters, scaling) =
        (table("rope_parameters", "rope_parameters.")?, table("rope_scaling", "rope_scaling.")?);
    match (&parameters, &scaling) {
        // As in transformers, which reads nothing of `rope_parameters` then. So it must say nothing else.
        (Some(parameters), Some(scaling)) => {
            let rope = one(keys, Some(scaling), Some(DEFAULT_THETA), max_positions)?;
            agrees(keys, parameters, &rope, max_positions)?;
            Ok(rope)
        }
        (table, None) | (None, table) => one(keys, table.as_ref(), None, max_positions),
    }
}

/// The embedding that one table describes. `default`: the base if none is stated, in the table or at the top level.
fn one(
    keys: &Keys<'_>,
    table: Option<&Keys<'_>>,
    default: Option<f64>,
    max_positions: usize,
) -> Result<Rope, KeyFault> {
    let nested = table.map(|table| table.optional("rope_theta", Value::as_f64)).transpose()?.flatten();
    let theta = match (keys.optional("rope_theta", Value::as_f64)?, nested) {
        (Some(a), Some(b)) if a.to_bits() != b.to_bits() => {
            return Err(
                keys.not_understood("rope_theta", "the file states another one beside the rope scaling")
            );
        }
        (top, nested) => nested.or(top).or(default),
    };
    let hint = " (write it in; it is 10000 in Llama 1 and 2)";
    Ok(Rope {
        theta: theta.ok_or_else(|| keys.missing("rope_theta", hint))?,
        scaling: table.map(|table| scaling(keys, table, max_positions)).transpose()?.flatten(),
    })
}

/// An error if `rope_parameters` say anything that `rope`, read from `rope_scaling`, does not.
fn agrees(keys: &Keys<'_>, parameters: &Keys<'_>, rope: &Rope, max_positions: usize) -> Result<(), KeyFault> {
    let other = scaling(keys, parameters, max_positions)?;
    if other.is_some() && other != rope.scaling {
        let why = "the file also has rope_scaling, which says otherwise; keep one of them";
        return Err(keys.not_understood("rope_parameters", why));
    }
    match parameters.optional("rope_theta", Value::as_f64)? {
        Some(theta) if theta.to_bits() != rope.theta.to_bits() => {
            let why = format!(
                "beside rope_scaling nothing of rope_parameters is read, so the base would be {}; write rope_theta into \
                 rope_scaling, or the scaling into rope_parameters",
                rope.theta
            );
            Err(parameters.not_understood("rope_theta", &why))
        }
        _ => Ok(()),
    }
}

/// The scaling that a table describes; `None`: it is the default.
fn scaling(keys: &Keys<'_>, table: &Keys<'_>, max_positions: usize) -> Result<Option<RopeScaling>, KeyFault> {
    whole_heads(table)?;
    let text = |key: &'static str| table.optional(key, Value::as_str);
    let (new, old) = (text("rope_type")?, text("type")?);
    if new.is_some() && old.is_some() && new != old {
        return Err(table.not_understood("type", "rope_type beside it is another one"));
    }
    let number = |key: &'static str| table.optional(key, Value::as_f64);
    let factor = || table.required("factor", "", Value::as_f64);
    let original = || original(keys, table, max_positions);
    Ok(Some(match new.or(old) {
        Some("default") => return Ok(None),
        // A table of rope_theta alone is transformers 5 for the default.
        None if table.map.keys().all(|k| k == "rope_theta" || k == "partial_rotary_factor") => {
            return Ok(None);
        }
        Some("llama3") => RopeScaling::Llama3(Llama3Scaling {
            factor: factor()?,
            low_freq_factor: table.required("low_freq_factor", "", Value::as_f64)?,
            high_freq_factor: table.required("high_freq_factor", "", Value::as_f64)?,
            original_max_positions: original()?,
        }),
        Some("linear") => RopeScaling::Linear(LinearScaling { factor: factor()? }),
        // It takes max_position_embeddings for the original length, whatever else is stated.
        Some("dynamic") => {
            RopeScaling::Dynamic(DynamicScaling { factor: factor()?, original_max_positions: max_positions })
        }
        Some("yarn") => {
            let original_max_positions = original()?;
            let factor = match table.map.get("factor") {
                Some(Value::Null) => max_positions as f64 / original_max_positions as f64,
                _ => factor()?,
            };
            // Zero is as good as nothing, in all of these.
            let stated = |key| Ok::<_, KeyFault>(number(key)?.filter(|x| *x != 0.0));
            let mscale = stated("mscale")?.zip(stated("mscale_all_dim")?);
            let attention_factor = number("attention_factor")?;
            RopeScaling::Yarn(YarnScaling {
                factor,
                original_max_positions,
                attention_factor: attention_factor
                    .unwrap_or_else(|| YarnScaling::default_attention_factor(factor, mscale)),
                beta_fast: stated("beta_fast")?.unwrap_or(32.0),
                beta_slow: stated("beta_slow")?.unwrap_or(1.0),
                truncate: match table.map.get("truncate") {
                    None => true,
                    Some(_) => table.optional("truncate", Value::as_bool)?.unwrap_or(false),
                },
            })
        }
        _ => {
            let key = if new.is_some() || old.is_none() { "rope_type" } else { "type" };
            let why = "understood are default, linear, dynamic, yarn and llama3";
            return Err(table.not_understood(key, why));
        }
    }))
}

/// The length before scaling. As in transformers: what stands at the top level counts, and `max_position_embeddings` where
/// nothing is stated.
fn original(keys: &Keys<'_>, table: &Keys<'_>, max_positions: usize) -> Result<usize, KeyFault> {
    const KEY: &str = "original_max_position_embeddings";
    let read = |keys: &Keys<'_>| keys.optional(KEY, Value::as_u64);
    match (read(keys)?, read(table)?) {
        (Some(top), Some(nested)) if top != nested => {
            Err(table.not_understood(KEY, "the file states another one at the top level"))
        }
        (top, nested) => Ok(top.or(nested).map_or(max_positions, |n| n as usize)),
    }
}

fn whole_heads(keys: &Keys<'_>) -> Result<(), KeyFault> {
    match keys.optional("partial_rotary_factor", Value::as_f64)? {
        Some(part) if part < 1.0 => {
            Err(keys.not_understood("partial_rotary_factor", "rotation of part of a head is not supported"))
        }
        _ => Ok(()),
    }
}
