//! Values as Python writes them: what a template prints, and `json.dumps`.

#![allow(clippy::needless_pass_by_value, reason = "the template engine gives values away")]

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::value::{Kwargs, Value as Jinja, ValueKind};
use minijinja::{Error, ErrorKind, State};
use serde_json::Value;

/// What `{{ value }}` prints.
pub(super) fn printed<'v>(value: &'v Jinja, state: &State<'_, '_>) -> Result<Cow<'v, str>, Error> {
    if value.is_undefined() {
        return Ok(Cow::Borrowed(""));
    }
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::new();
    repr(value, 0, state, &mut out)?;
    Ok(Cow::Owned(out))
}

/// Levels of lists and maps that are written out.
const DEPTH: usize = 64;

/// Charges a rendering for a value that is written: one list may be in another twice, and that in a third one, so that sixty of
/// them are a list without an end.
fn charge(value: &Jinja, state: &State<'_, '_>) -> Result<(), Error> {
    state.consume_fuel(1 + value.as_str().map_or(0, |text| text.len() as u64 / 64))
}

fn repr(value: &Jinja, depth: usize, state: &State<'_, '_>, out: &mut String) -> Result<(), Error> {
    charge(value, state)?;
    match value.kind() {
        _ if depth > DEPTH => out.push('…'),
        ValueKind::Undefined | ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(&item, depth + 1, state, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(&key, depth + 1, state, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), depth + 1, state, out)?;
            }
            out.push('}');
        }
        _ => {
            // Writing to a `String` cannot fail.
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// Charges for all that a value has in it, before it is made another one.
fn charge_whole(value: &Jinja, depth: usize, state: &State<'_, '_>) -> Result<(), Error> {
    charge(value, state)?;
    if depth > DEPTH {
        let why = format!("lists and maps are nested more than {DEPTH} levels");
        return Err(Error::new(ErrorKind::BadSerialization, why));
    }
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(());
    }
    for item in value.try_iter().into_iter().flatten() {
        charge_whole(&item, depth + 1, state)?;
        if is_map {
            charge_whole(&value.get_item(&item).unwrap_or_default(), depth + 1, state)?;
        }
    }
    Ok(())
}

/// A string literal of Python.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// How JSON is laid out.
struct Layout {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

/// The filter `tojson` of `transformers`: `json.dumps` without escapes of HTML.
pub(super) fn to_json(
    state: &State<'_, '_>,
    value: &Jinja,
    ascii: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    charge_whole(value, 0, state)?;
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let indent: Option<Jinja> = options.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) if text.len() <= 64 => Some(text.to_owned()),
            (None, Some(n)) if n <= 64 => Some(" ".repeat(n.max(0) as usize)),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "`indent` of at most 64 characters")),
        },
    };
    let separators: Option<(String, String)> = match options.get::<Option<Vec<String>>>("separators")? {
        Some(both) => match <[String; 2]>::try_from(both) {
            Ok([item, key]) => Some((item, key)),
            Err(_) => return Err(Error::new(ErrorKind::InvalidOperation, "`separators` are two texts")),
        },
        None => None,
    };
    let usual = if indent.is_some() { "," } else { ", " };
    let (item, key) = separators.unwrap_or_else(|| (usual.to_owned(), ": ".to_owned()));
    let ascii = ascii.or(options.get("ensure_ascii")?).unwrap_or(false);
    let layout = Layout {
        ascii,
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(&json, &layout, 0, state, &mut out)?;
    Ok(out)
}

fn write_json(
    value: &Value,
    layout: &Layout,
    depth: usize,
    state: &State<'_, '_>,
    out: &mut String,
) -> Result<(), Error> {
    state.consume_fuel(1 + layout.indent.as_ref().map_or(0, |indent| (indent.len() * depth / 64) as u64))?;
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = &layout.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, value) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { &layout.item });
                line(depth + 1, out);
                write_json(value, layout, depth + 1, state, out)?;
            }
            line(depth, out);
            out.push(']');
        }
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            if layout.sorted {
                entries.sort_by_key(|(name, _)| *name);
            }
            for (i, (name, value)) in entries.into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { &layout.item });
                line(depth + 1, out);
                write_text(name, layout.ascii, out);
                out.push_str(&layout.key);
                write_json(value, layout, depth + 1, state, out)?;
            }
            line(depth, out);
            out.push('}');
        }
        Value::String(text) => write_text(text, layout.ascii, out),
        other => out.push_str(&other.to_string()),
    }
    Ok(())
}

fn write_text(text: &str, ascii: bool, out: &mut String) {
    let written = Value::String(text.to_owned()).to_string();
    if !ascii {
        return out.push_str(&written);
    }
    for c in written.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a `String` cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
}
