//! `config.json` to [`ModelConfig`].
//!
//! Where a key may be left out, the default is the one of the family's own configuration class in `transformers`, never a
//! guess; constants that differ between checkpoints of a family must be stated.

use serde_json::Value;

use super::LoadError;
use crate::model::architecture::{Family, KeyFault, Keys};
use crate::model::config::ModelConfig;

const FILE: &str = "config.json";

/// Reads the configuration of a model of a known family.
pub(super) fn parse(bytes: &[u8]) -> Result<ModelConfig, LoadError> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| LoadError::Damaged { file: FILE.to_owned(), why: e.to_string() })?;
    let Value::Object(map) = value else {
        return Err(LoadError::Damaged { file: FILE.to_owned(), why: "it is no JSON object".to_owned() });
    };
    let keys = Keys::new(&map, &[]);
    let family = family(&keys).map_err(in_file)?;
    refuse_what_would_be_ignored(&keys, family).map_err(in_file)?;
    family.config(&map).map_err(in_file)
}

fn family(keys: &Keys<'_>) -> Result<&'static Family, KeyFault> {
    let named = Family::named(keys.required("model_type", "", Value::as_str)?);
    named.ok_or_else(|| keys.not_understood("model_type", &format!("understood are {}", Family::list())))
}

/// Settings of every family that `transformers` acts on and the forward pass does not.
fn refuse_what_would_be_ignored(keys: &Keys<'_>, family: &Family) -> Result<(), KeyFault> {
    if keys.present("quantization_config") {
        let why = "quantised safetensors are not read; use the original checkpoint or a GGUF";
        return Err(keys.not_understood("quantization_config", why));
    }
    if let Some(classes) = keys.optional("architectures", Value::as_array)? {
        let causal = |c: &Value| c.as_str().is_some_and(|c| c.ends_with(family.class));
        if !classes.is_empty() && !classes.iter().any(causal) {
            let why = format!("only causal language models (...{}) are supported", family.class);
            return Err(keys.not_understood("architectures", &why));
        }
    }
    Ok(())
}

fn in_file(fault: KeyFault) -> LoadError {
    let file = FILE.to_owned();
    match fault {
        KeyFault::Missing { key, hint } => LoadError::MissingKey { file, key, hint },
        KeyFault::NotUnderstood { key, got, why } => LoadError::NotUnderstood { file, key, got, why },
    }
}

#[cfg(test)]
mod tests;
