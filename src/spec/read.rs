//! Reads JSON into the vocabulary and collects every problem on the way: a value that can't be read is left out,
//! and the request fails at the end with all that was found.

use serde_json::{Map, Value};

use super::endpoint::Endpoint;
use super::hints;
use super::problem::{Problems, code};
use super::words::shortened;
pub use super::words::{did_you_mean, escape};

/// A JSON value and the pointer to it.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// The value.
    pub value: &'a Value,
    /// RFC 6901 pointer from the body.
    pub at: String,
    /// Whose body it is, for hints.
    pub of: Endpoint,
}

/// An object whose fields are known by name.
pub trait Declared {
    /// Names of its fields, with those of its parts, as they are declared.
    const FIELDS: &'static [&'static str];
}

/// Fields of an object whose names have been checked. JSON `null` counts as absent.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    known: &'static [&'static str],
    at: String,
    of: Endpoint,
}

impl<'a> Node<'a> {
    /// The whole body.
    pub fn root(of: Endpoint, value: &'a Value) -> Self {
        Self { value, at: String::new(), of }
    }

    fn child(&self, key: &str, value: &'a Value) -> Self {
        Self { value, at: format!("{}/{}", self.at, escape(key)), of: self.of }
    }

    /// Reports a value of the wrong type.
    pub fn wrong(&self, expected: &str, out: &mut Problems) {
        let got = describe(self.value);
        out.push(
            &self.at,
            code::WRONG_TYPE,
            format!("expected {expected}, got {got}"),
            format!("write {expected}"),
        );
    }

    /// A string.
    pub fn text(&self, out: &mut Problems) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong("a string", out);
        }
        text
    }

    /// A string that isn't empty.
    pub fn name(&self, out: &mut Problems) -> Option<String> {
        let text = self.text(out)?;
        if text.is_empty() {
            out.push(&self.at, code::EMPTY, "an empty string", "write at least one character");
            return None;
        }
        Some(text.to_owned())
    }

    /// A name for people to read: a string that isn't empty, without what [`unprintable`] finds.
    pub fn label(&self, out: &mut Problems) -> Option<String> {
        let name = self.name(out)?;
        if unprintable(&name).is_some() {
            check_label(&name, &self.at, out);
            return None;
        }
        Some(name)
    }

    /// A boolean.
    pub fn flag(&self, out: &mut Problems) -> Option<bool> {
        let flag = self.value.as_bool();
        if flag.is_none() {
            self.wrong("true or false", out);
        }
        flag
    }

    /// An integer; `1.0` is none.
    pub fn int(&self, out: &mut Problems) -> Option<i64> {
        let int = self.value.as_i64();
        if int.is_none() {
            self.wrong("an integer", out);
        }
        int
    }

    /// An integer of at least `min`.
    pub fn natural(&self, min: u64, out: &mut Problems) -> Option<u64> {
        match self.value.as_u64() {
            Some(n) if n >= min => Some(n),
            Some(_) => self.out_of_range(&format!("at least {min}"), out),
            None if self.value.is_i64() => self.out_of_range(&format!("at least {min}"), out),
            None => {
                self.wrong("an integer", out);
                None
            }
        }
    }

    /// A layer, head or token: an integer that fits `u32`.
    pub fn index(&self, out: &mut Problems) -> Option<u32> {
        self.count(0, out)
    }

    /// An integer of at least `min` that fits `u32`.
    pub fn count(&self, min: u64, out: &mut Problems) -> Option<u32> {
        let n = self.natural(min, out)?;
        u32::try_from(n).ok().or_else(|| self.out_of_range("below 2^32", out))
    }

    /// A finite number that also is one in `f32`.
    pub fn number(&self, out: &mut Problems) -> Option<f64> {
        match self.value.as_f64() {
            Some(x) if (x as f32).is_finite() => Some(x),
            Some(_) => self.out_of_range("a finite 32-bit number", out),
            None => {
                self.wrong("a number", out);
                None
            }
        }
    }

    /// A finite number above zero, in `f32` too.
    pub fn positive(&self, out: &mut Problems) -> Option<f64> {
        let x = self.number(out)?;
        if x as f32 > 0.0 { Some(x) } else { self.out_of_range("above 0", out) }
    }

    fn out_of_range<T>(&self, wanted: &str, out: &mut Problems) -> Option<T> {
        let detail = format!("{} is not {wanted}", describe(self.value));
        out.push(&self.at, code::OUT_OF_RANGE, detail, format!("write a value that is {wanted}"));
        None
    }

    /// One of a few words.
    pub fn choice<T: Copy>(
        &self,
        choices: &[(&'static str, T)],
        later: &[&str],
        out: &mut Problems,
    ) -> Option<T> {
        let word = self.text(out)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let (code, detail) = if later.contains(&word) {
            (code::NOT_SUPPORTED, format!("{word:?} is not served"))
        } else {
            (code::UNKNOWN_VALUE, format!("{word:?} is not known{}", did_you_mean(word, &names)))
        };
        let fix = match names[..] {
            [only] => format!("write {only:?}"),
            _ => format!("write one of {}", names.join(", ")),
        };
        out.push(&self.at, code, detail, fix);
        None
    }

    /// The items of a list that isn't empty.
    pub fn items(&self, out: &mut Problems) -> Option<Vec<Node<'a>>> {
        let Some(list) = self.value.as_array() else {
            self.wrong("a list", out);
            return None;
        };
        if list.is_empty() {
            out.push(&self.at, code::EMPTY, "an empty list", "name at least one, or leave the field out");
            return None;
        }
        Some(list.iter().enumerate().map(|(i, value)| self.child(&i.to_string(), value)).collect())
    }

    /// The items of a list read one by one; those that can't be read are left out.
    pub fn each<T>(
        &self,
        out: &mut Problems,
        mut read: impl FnMut(&Node<'a>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items = self.items(out)?;
        // Once as many problems are found as are shown, nobody learns what the rest would have been.
        Some(items.iter().map_while(|item| (!out.is_full()).then(|| read(item, out))).flatten().collect())
    }

    /// The items of a list that may be empty, none of them twice.
    pub fn distinct<T: PartialEq>(
        &self,
        out: &mut Problems,
        read: impl FnMut(&Node<'a>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        if self.value.as_array().is_some_and(Vec::is_empty) {
            return Some(Vec::new());
        }
        let list = self.each(out, read)?;
        for i in (1..list.len()).filter(|&i| list[..i].contains(&list[i])) {
            out.push(format!("{}/{i}", self.at), code::DUPLICATE, "listed twice", "list each once");
        }
        Some(list)
    }

    /// The items of a list read one by one, all or nothing: for lists whose length or order says something.
    pub fn all<T>(
        &self,
        out: &mut Problems,
        read: impl FnMut(&Node<'a>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        let len = self.value.as_array().map_or(0, Vec::len);
        self.each(out, read).filter(|read| read.len() == len)
    }

    /// Exactly two integers.
    pub fn pair(&self, out: &mut Problems) -> Option<[i64; 2]> {
        match self.value.as_array() {
            Some(list) if list.len() == 2 => {
                let ends = self.each(out, Node::int)?;
                <[i64; 2]>::try_from(ends).ok()
            }
            _ => {
                self.wrong("two integers, as [0, 3]", out);
                None
            }
        }
    }

    /// The entries of an object whose keys are names, at least one.
    pub fn entries(&self, out: &mut Problems) -> Option<Vec<(String, Node<'a>)>> {
        let Some(map) = self.value.as_object() else {
            self.wrong("an object from names to values", out);
            return None;
        };
        if map.is_empty() {
            out.push(&self.at, code::EMPTY, "an empty object", "name at least one, or leave the field out");
            return None;
        }
        let entries: Vec<_> =
            map.iter().map(|(name, value)| (name.clone(), self.child(name, value))).collect();
        for (name, node) in entries.iter().filter(|(name, _)| name.is_empty() || name.len() > 128) {
            let detail = format!("a name of {} bytes", name.len());
            out.push(&node.at, code::OUT_OF_RANGE, detail, "use names of 1 to 128 bytes");
        }
        for (name, node) in &entries {
            check_label(name, &node.at, out);
        }
        Some(entries)
    }

    /// An object with the fields of its declaration and no others.
    pub fn fields_of<T: Declared>(&self, out: &mut Problems) -> Option<Fields<'a>> {
        self.fields(T::FIELDS, out)
    }

    /// An object with these fields and no others.
    pub fn fields(&self, known: &'static [&'static str], out: &mut Problems) -> Option<Fields<'a>> {
        let Some(map) = self.value.as_object() else {
            self.wrong(&format!("an object with {}", known.join(", ")), out);
            return None;
        };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            if out.is_full() {
                break;
            }
            let (code, detail, fix) = hints::unknown(self.of, &self.at, name, known);
            out.push(format!("{}/{}", self.at, escape(name)), code, detail, fix);
        }
        Some(Fields { map, known, at: self.at.clone(), of: self.of })
    }
}

impl<'a> Fields<'a> {
    /// A field, if the object may have it, it is there and not null.
    pub fn get(&self, name: &str) -> Option<Node<'a>> {
        let value = self.map.get(name).filter(|value| !value.is_null() && self.known.contains(&name))?;
        Some(Node { value, at: self.pointer(name), of: self.of })
    }

    /// A field that must be there; `fix` says what to write.
    pub fn need(&self, name: &str, fix: &str, out: &mut Problems) -> Option<Node<'a>> {
        let node = self.get(name);
        if node.is_none() {
            out.push(self.pointer(name), code::MISSING, format!("`{name}` is missing"), fix);
        }
        node
    }

    /// Pointer to a field, there or not.
    pub fn pointer(&self, name: &str) -> String {
        format!("{}/{}", self.at, escape(name))
    }

    /// Reports each of `names` that is there together with `with`.
    pub fn exclude(&self, with: &str, names: &[&str], out: &mut Problems) {
        for name in names.iter().filter(|name| self.get(name).is_some()) {
            let detail = format!("`{name}` and `{with}` exclude each other");
            out.push(self.pointer(name), code::CONFLICT, detail, format!("leave out `{name}` or `{with}`"));
        }
    }

    /// The first of `names` that is there.
    pub fn any<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.get(name).is_some())
    }
}

/// The first character of a name that has no place in one: a control character, a line break, or one that makes the text
/// around it appear in another order.
pub fn unprintable(name: &str) -> Option<char> {
    let reorders = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = |c| matches!(c, '\u{2028}' | '\u{2029}');
    name.chars().find(|c| c.is_control() || reorders(*c) || breaks(*c))
}

/// Reports a name that can't be shown as it is.
pub fn check_label(name: &str, at: &str, out: &mut Problems) {
    if let Some(found) = unprintable(name) {
        let detail = format!("the name holds the character U+{:04X}", u32::from(found));
        let fix =
            "use names without control characters, line breaks and marks that change the direction of text";
        out.push(at, code::OUT_OF_RANGE, detail, fix);
    }
}

/// A JSON value for a message: its type, and itself if it is short.
pub fn describe(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the string",
        Value::Array(list) => return format!("a list of {}", list.len()),
        Value::Object(map) => return format!("an object of {} fields", map.len()),
    };
    format!("{kind} {}", shortened(&value.to_string()))
}
