//! Changes of JSON texts that leave them JSON: most bytes that are changed at random only break them. Names and values come
//! from the OpenAPI document.

use std::sync::LazyLock;

use serde_json::{Value, json};

/// Names of fields, and words that fields may have.
static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(&mediant::http::openapi()).unwrap();
    let mut words = Vec::new();
    collect(&document["components"], &mut words);
    words.sort();
    words.dedup();
    words
});

/// How many there are; makes the list.
pub(crate) fn words() -> usize {
    WORDS.len()
}

fn collect(value: &Value, words: &mut Vec<String>) {
    if let Some(properties) = value.get("properties").and_then(Value::as_object) {
        words.extend(properties.keys().cloned());
    }
    let listed = value.get("enum").and_then(Value::as_array).into_iter().flatten();
    words.extend(listed.filter_map(Value::as_str).map(str::to_owned));
    match value {
        Value::Object(map) => map.values().for_each(|value| collect(value, words)),
        Value::Array(list) => list.iter().for_each(|value| collect(value, words)),
        _ => {}
    }
}

/// Numbers one after the other, of a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    fn word(&mut self) -> String {
        WORDS[self.below(WORDS.len())].clone()
    }

    /// A value that readers may not be ready for.
    fn value(&mut self) -> Value {
        match self.below(16) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(0),
            3 => json!(-1),
            4 => json!(self.below(12)),
            5 => json!(u32::MAX),
            6 => json!(u64::MAX),
            7 => json!(1e308),
            8 => json!(0.5),
            9 => json!(""),
            10 => json!([]),
            11 => json!({}),
            12 => json!(" Paris"),
            13 => json!([self.below(9), self.below(9)]),
            14 => json!("\u{0}é🗼\u{301}"),
            _ => json!(self.word()),
        }
    }
}

fn count(value: &Value) -> usize {
    let inside = match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    };
    1 + inside
}

/// The `n`th value in a document, the document itself first.
fn find<'v>(value: &'v mut Value, n: &mut usize) -> Option<&'v mut Value> {
    if *n == 0 {
        return Some(value);
    }
    *n -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|value| find(value, n)),
        Value::Object(map) => map.values_mut().find_map(|value| find(value, n)),
        _ => None,
    }
}

fn change(document: &mut Value, chance: &mut Chance) {
    let values = count(document);
    let other = find(document, &mut chance.below(values)).cloned().unwrap_or_default();
    let Some(value) = find(document, &mut chance.below(values)) else { return };
    match (chance.below(8), &mut *value) {
        (0, _) => *value = chance.value(),
        (1, _) => *value = other,
        (2 | 3, Value::Object(map)) => _ = map.insert(chance.word(), chance.value()),
        (4, Value::Object(map)) => _ = map.insert(chance.word(), other),
        (5, Value::Object(map)) => {
            let name = map.keys().nth(chance.below(map.len())).cloned();
            name.and_then(|name| map.shift_remove(&name));
        }
        (2..=4, Value::Array(list)) => list.insert(chance.below(list.len() + 1), other),
        (5, Value::Array(list)) if !list.is_empty() => _ = list.remove(chance.below(list.len())),
        (_, Value::String(text)) => *text = chance.word(),
        (6, Value::Number(number)) => {
            let near = number.as_f64().unwrap_or(0.0) + chance.below(5) as f64 - 2.0;
            *value = if near.fract() == 0.0 { json!(near as i64) } else { json!(near) };
        }
        _ => *value = json!([value.take()]),
    }
}

/// Another text, where there is JSON from `at` on; what follows it stays. Of an input in eight nothing: its bytes are changed.
pub(crate) fn json(data: &[u8], at: usize, most: usize, seed: u32) -> Option<Vec<u8>> {
    let mut chance = Chance(u64::from(seed) << 1 | 1);
    chance.below(2);
    if chance.below(8) == 0 {
        return None;
    }
    let (before, text) = data.split_at_checked(at)?;
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let mut document = values.next()?.ok()?;
    let after = &text[values.byte_offset()..];
    for _ in 0..=chance.below(3) {
        change(&mut document, &mut chance);
    }
    let document = document.to_string();
    let mut changed = before.to_vec();
    if at == 8 {
        // A safetensors file states how long its header is.
        changed = (document.len() as u64).to_le_bytes().to_vec();
    }
    changed.extend(document.bytes());
    changed.extend(after);
    (changed.len() <= most).then_some(changed)
}
