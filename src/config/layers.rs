//! Merges the layers and keeps, for every key, the layer that set it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use toml::{Table, Value};

use super::{Config, ConfigError, ENV_PREFIX, Fault, Source};
use crate::spec::words::{likely, nearest};

/// The compiled-in defaults: every key with its comment.
pub(super) const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// Which layer set each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<String, Source>);

impl Sources {
    /// The layer that set `key` (dotted), [`Source::Default`] if no other did.
    pub fn of(&self, key: &str) -> Source {
        self.0.get(key).cloned().unwrap_or(Source::Default)
    }
}

/// A checked configuration and where its values came from. Displays as commented TOML.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where its values came from.
    pub sources: Sources,
}

/// Merges default, `file`, environment and flags, and checks the result.
///
/// `env` is the whole environment (other variables are ignored); `flags` are `(flag as typed, dotted key, value)`.
///
/// # Errors
/// The file is absent or not TOML, or keys or values are wrong: then *all* of them are in the error.
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    flags: &[(&'static str, &str, String)],
) -> Result<Loaded, ConfigError> {
    let mut merge = Merge::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let table = text.parse::<Table>().map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        for (key, value) in leaves(&table) {
            merge.set(&key, Given::Typed(value), Source::File(path.to_owned()));
        }
    }
    let mut variables: Vec<_> = env.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    variables.sort();
    for (name, text) in variables {
        let key = name[ENV_PREFIX.len()..].to_lowercase().replace("__", ".");
        merge.set(&key, Given::Text(text), Source::Env(name));
    }
    for (flag, key, text) in flags {
        merge.set(key, Given::Text(text.clone()), Source::Flag(flag));
    }
    merge.finish()
}

/// A value before its type is known to fit.
enum Given {
    Typed(Value),
    Text(String),
}

struct Merge {
    /// Dotted key -> default value: the schema.
    defaults: BTreeMap<String, Value>,
    set: BTreeMap<String, (Value, Source)>,
    faults: Vec<Fault>,
}

impl Merge {
    fn new() -> Self {
        let defaults =
            DEFAULT_TOML.parse::<Table>().expect("BUG: the compiled-in defaults are TOML (tested)");
        Self { defaults: leaves(&defaults).into_iter().collect(), set: BTreeMap::new(), faults: Vec::new() }
    }

    fn set(&mut self, key: &str, given: Given, source: Source) {
        let Some(default) = self.defaults.get(key) else {
            let fix = self.fix_for_unknown(key);
            self.fault(key, source, "no such key".to_owned(), fix);
            return;
        };
        let coerced = match given {
            Given::Typed(value) => like(default, value),
            Given::Text(text) => parse_like(default, text),
        };
        match coerced {
            Ok(value) => {
                self.set.insert(key.to_owned(), (value, source));
            }
            Err(got) => {
                let fix = format!("give {}, e.g. {default}", kind(default));
                self.fault(key, source, format!("{got} is not {}", kind(default)), fix);
            }
        }
    }

    fn fix_for_unknown(&self, key: &str) -> String {
        if let Some(close) = nearest(key, self.defaults.keys().map(String::as_str), likely) {
            return format!("did you mean {close}?");
        }
        // A section where a value belongs, or the reverse, is best answered with the section's keys.
        let section = key.split('.').next().unwrap_or(key);
        let within: Vec<_> =
            self.defaults.keys().filter(|k| k.split('.').next() == Some(section)).cloned().collect();
        if within.is_empty() {
            "remove it; `mediant check-config` prints every key".to_owned()
        } else {
            format!("the keys there are {}", within.join(", "))
        }
    }

    fn fault(&mut self, key: &str, source: Source, detail: String, fix: String) {
        self.faults.push(Fault { key: key.to_owned(), source, detail, fix });
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        // Each override is tried alone over the defaults, so that what serde refuses is blamed on the right key.
        for (key, (value, source)) in &self.set {
            let mut alone = self.defaults.clone();
            alone.insert(key.clone(), value.clone());
            if let Err(error) = deserialise(alone) {
                let fix = format!("the default is {}", self.defaults[key]);
                let detail = error.message().trim().to_owned();
                self.faults.push(Fault { key: key.clone(), source: source.clone(), detail, fix });
            }
        }
        if !self.faults.is_empty() {
            return Err(ConfigError::Invalid(self.faults));
        }
        let mut values = self.defaults;
        let mut sources = Sources::default();
        for (key, (value, source)) in self.set {
            values.insert(key.clone(), value);
            sources.0.insert(key, source);
        }
        let config = deserialise(values)
            .expect("BUG: the defaults fit the sections (tested) and so did each override alone");
        let faults = config.validate(&sources);
        if faults.is_empty() { Ok(Loaded { config, sources }) } else { Err(ConfigError::Invalid(faults)) }
    }
}

/// All values that are not tables, with dotted keys.
fn leaves(table: &Table) -> Vec<(String, Value)> {
    fn walk(prefix: &str, table: &Table, out: &mut Vec<(String, Value)>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(inner) => walk(&key, inner, out),
                leaf => out.push((key, leaf.clone())),
            }
        }
    }
    let mut out = Vec::new();
    walk("", table, &mut out);
    out
}

fn deserialise(values: BTreeMap<String, Value>) -> Result<Config, toml::de::Error> {
    Value::Table(nest(values)).try_into()
}

/// The reverse of [`leaves`].
fn nest(values: BTreeMap<String, Value>) -> Table {
    let mut root = Table::new();
    for (key, value) in values {
        let mut path: Vec<&str> = key.split('.').collect();
        let leaf = path.pop().unwrap_or_default();
        let mut table = &mut root;
        for part in path {
            table = table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .expect("BUG: no key of the defaults is both a value and a section");
        }
        table.insert(leaf.to_owned(), value);
    }
    root
}

/// `value` if it has the type of `default`; a whole number also fits where a fraction is expected.
fn like(default: &Value, value: Value) -> Result<Value, String> {
    match (default, value) {
        (Value::Float(_), Value::Integer(n)) => Ok(Value::Float(n as f64)),
        (default, value) if default.same_type(&value) => Ok(value),
        (_, value) => Err(value.to_string()),
    }
}

/// `text` as the type of `default`. Lists are separated by commas.
fn parse_like(default: &Value, text: String) -> Result<Value, String> {
    let trimmed = text.trim();
    let parsed = match default {
        Value::Integer(_) => trimmed.replace('_', "").parse().ok().map(Value::Integer),
        Value::Float(_) => trimmed.parse().ok().map(Value::Float),
        Value::Boolean(_) => trimmed.parse().ok().map(Value::Boolean),
        Value::Array(_) => Some(Value::Array(
            trimmed
                .split(',')
                .map(str::trim)
                .filter(|s| !s.is_empty())
                .map(|s| s.to_owned().into())
                .collect(),
        )),
        _ => return Ok(Value::String(text)),
    };
    parsed.ok_or_else(|| format!("`{text}`"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list",
        Value::Datetime(_) => "a date",
        Value::Table(_) => "a section",
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(Value::Table(root)) = Value::try_from(&self.config) else { return Err(fmt::Error) };
        let mut section = None;
        for (key, value) in ordered(&root) {
            let (head, leaf) = key.rsplit_once('.').unwrap_or(("", &key));
            if section.as_deref() != Some(head) {
                let gap = if section.is_some() { "\n" } else { "" };
                writeln!(f, "{gap}[{head}]")?;
                section = Some(head.to_owned());
            }
            match self.sources.of(&key) {
                Source::Default => writeln!(f, "{leaf} = {value}")?,
                source => writeln!(f, "{leaf} = {value}  # {source}")?,
            }
        }
        Ok(())
    }
}

/// Leaves with those of a section before those of its subsections, as TOML needs them.
fn ordered(root: &Table) -> Vec<(String, Value)> {
    let mut all = leaves(root);
    all.sort_by_key(|(key, _)| key.rsplit_once('.').map(|(head, _)| head.to_owned()));
    all
}

#[cfg(test)]
mod tests;
