//! Strict JSON: bytes to a [`Value`] that can mean only one thing, or a problem that says where it goes wrong.
//!
//! `serde_json` alone keeps the last of two equal keys without a word; here each duplicate is an error with its pointer. And
//! it builds whatever is sent: here a document has a limit of values, since one of two bytes takes hundreds in memory.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::ControlFlow;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problem::{Kind, Problem};

/// Most duplicates that are listed; more help nobody.
const MAX_LISTED: usize = 20;

/// Most values of a document: more than fit a megabyte.
const MOST_VALUES: usize = 600_000;
/// Most lists and objects among them, each of which takes hundreds of bytes however little is in it.
const MOST_NESTED: usize = 100_000;

/// Parses a request body.
///
/// # Errors
/// A `malformed-json` problem with line and column, or with the pointer of each duplicate key; a `body-too-large` problem
/// of too many values. `example` is a minimal body of the endpoint, shown when the body is empty.
pub fn parse(bytes: &[u8], example: &str) -> Result<Value, Problem> {
    let text = text(bytes, example)?;
    let notes = Notes::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict(&notes)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| notes.refused(&error))?;
    notes.unambiguous().map(|()| value)
}

/// Parses a list and hands over item by item, so that they need not be held together; each may have as many values as a
/// document. Whoever takes them may break off. What is no list is handed back.
///
/// # Errors
/// As [`parse`].
pub(super) fn items(
    bytes: &[u8],
    example: &str,
    take: impl FnMut(Value) -> ControlFlow<()>,
) -> Result<Option<Value>, Problem> {
    let text = text(bytes, example)?;
    if !text.trim_ascii_start().starts_with('[') {
        return parse(bytes, example).map(Some);
    }
    let (notes, take) = (Notes::default(), RefCell::new(take));
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = deserializer.deserialize_seq(Items { notes: &notes, take: &take });
    match read.and_then(|()| deserializer.end()) {
        Err(_) if notes.broken_off.get() => Ok(None),
        Err(error) => Err(notes.refused(&error)),
        Ok(()) => notes.unambiguous().map(|()| None),
    }
}

/// What the tree of a body will take in memory at most, counted without building it.
pub fn tree_bytes(body: &[u8]) -> u64 {
    // A list has room for four values from its first on, an object for four entries and their index; either may be twice as
    // large as what is in it.
    const VALUE: u64 = size_of::<Value>() as u64;
    const ENTRY: u64 = VALUE + size_of::<String>() as u64 + 24;
    let (mut bytes, mut in_text, mut escaped) = (0, false, false);
    let (mut values, mut nested) = (0, 0);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' => (bytes, nested) = (bytes + 4 * VALUE, nested + 1),
            b'{' => (bytes, nested) = (bytes + 4 * ENTRY + 96, nested + 1),
            b',' => (bytes, values) = (bytes + 2 * ENTRY, values + 1),
            _ => {}
        }
        if values > MOST_VALUES || nested > MOST_NESTED {
            break;
        }
    }
    bytes + body.len() as u64
}

/// The body as UTF-8 text that is not empty.
fn text<'a>(bytes: &'a [u8], example: &str) -> Result<&'a str, Problem> {
    let encoding = |name: &str, fix: &str| {
        Problem::new(Kind::MalformedJson, format!("the body is {name}; {fix}"))
            .error("", "encoding", name, fix)
    };
    match bytes {
        [0xEF, 0xBB, 0xBF, ..] => {
            return Err(encoding("UTF-8 with a byte order mark", "send it without the mark"));
        }
        [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..] | [0, _, ..] | [_, 0, ..] => {
            return Err(encoding("UTF-16 or UTF-32", "send UTF-8"));
        }
        _ => {}
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (line, column) = position(&bytes[..error.valid_up_to()]);
        let detail = format!("line {line}, column {column}: not UTF-8");
        Problem::new(Kind::MalformedJson, detail).with("line", line).with("column", column).error(
            "",
            "encoding",
            "the body is not UTF-8",
            "send UTF-8",
        )
    })?;
    if text.bytes().all(|b| b.is_ascii_whitespace()) {
        let fix = format!("send a JSON object, e.g. {example}");
        return Err(Problem::new(Kind::MalformedJson, format!("the body is empty; {fix}")).error(
            "",
            "empty",
            "the body is empty",
            fix,
        ));
    }
    Ok(text)
}

/// 1-based line and column (in bytes, as `serde_json` counts) of what follows `before`.
fn position(before: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(before);
    let last = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() + 1, last.len() + 1)
}

fn syntax(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let fix = match what {
        "recursion limit exceeded" => "nest at most 127 levels",
        "number out of range" => "use numbers below 1.8e308",
        "trailing characters" => "send one JSON value and nothing after it",
        _ => "check the JSON at this place",
    };
    Problem::new(Kind::MalformedJson, format!("line {line}, column {column}: {what}"))
        .with("line", line)
        .with("column", column)
        .error("", "syntax", format!("line {line}, column {column}: {what}"), fix)
}

/// What is noted while a document is read.
#[derive(Default)]
struct Notes {
    path: RefCell<Vec<Step>>,
    duplicates: RefCell<Vec<String>>,
    values: Cell<usize>,
    nested: Cell<usize>,
    broken_off: Cell<bool>,
}

/// Builds a [`Value`], noting the path of every key that its object already has.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a Notes);

/// Reads a list whose items are taken one by one.
struct Items<'a, F> {
    notes: &'a Notes,
    take: &'a RefCell<F>,
}

enum Step {
    Key(String),
    Index(usize),
}

impl Notes {
    fn pointer(&self) -> String {
        self.path
            .borrow()
            .iter()
            .map(|step| match step {
                Step::Key(key) => format!("/{}", escape(key)),
                Step::Index(index) => format!("/{index}"),
            })
            .collect()
    }

    /// Counts a value, or what holds values.
    fn count<E: Error>(counter: &Cell<usize>, most: usize) -> Result<(), E> {
        counter.set(counter.get() + 1);
        if counter.get() > most { Err(E::custom("too many values")) } else { Ok(()) }
    }

    fn refused(&self, error: &serde_json::Error) -> Problem {
        let (most, what) = if self.values.get() > MOST_VALUES {
            (MOST_VALUES, "values")
        } else if self.nested.get() > MOST_NESTED {
            (MOST_NESTED, "lists and objects")
        } else {
            return syntax(error);
        };
        let detail = format!("the body has more than {most} {what}, by line {}", error.line());
        let fix = "send fewer; many numbers as a file, safetensors to POST /v1/activations";
        Problem::new(Kind::BodyTooLarge, format!("{detail}; {fix}")).with("limit_values", most).error(
            "",
            "too_large",
            detail,
            fix,
        )
    }

    fn unambiguous(self) -> Result<(), Problem> {
        let duplicates = self.duplicates.into_inner();
        if duplicates.is_empty() {
            return Ok(());
        }
        let problem = Problem::new(Kind::MalformedJson, "a key appears more than once in one object");
        Err(duplicates.into_iter().take(MAX_LISTED).fold(problem, |problem, pointer| {
            problem.error(pointer, "duplicate_key", "this key appears more than once", "keep one of them")
        }))
    }
}

/// RFC 6901 escaping of one reference token.
fn escape(key: &str) -> Cow<'_, str> {
    if key.contains(['~', '/']) { key.replace('~', "~0").replace('/', "~1").into() } else { key.into() }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Notes::count(&self.0.values, MOST_VALUES)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(Value) -> ControlFlow<()>> Visitor<'de> for Items<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        for index in 0.. {
            self.notes.values.set(0);
            self.notes.nested.set(0);
            self.notes.path.borrow_mut().push(Step::Index(index));
            let element = elements.next_element_seed(Strict(self.notes))?;
            self.notes.path.borrow_mut().pop();
            let Some(value) = element else { break };
            if (self.take.borrow_mut())(value).is_break() {
                self.notes.broken_off.set(true);
                return Err(A::Error::custom("broken off"));
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Value, E> {
        Number::from_f64(n).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(Value::String(s.to_owned()))
    }

    fn visit_string<E>(self, s: String) -> Result<Value, E> {
        Ok(Value::String(s))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        Notes::count(&self.0.nested, MOST_NESTED)?;
        let mut array = Vec::new();
        loop {
            self.0.path.borrow_mut().push(Step::Index(array.len()));
            let element = elements.next_element_seed(self)?;
            self.0.path.borrow_mut().pop();
            match element {
                Some(value) => array.push(value),
                None => return Ok(Value::Array(array)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        Notes::count(&self.0.nested, MOST_NESTED)?;
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.0.path.borrow_mut().push(Step::Key(key.clone()));
            if object.contains_key(&key) && self.0.duplicates.borrow().len() < MAX_LISTED {
                let pointer = self.0.pointer();
                self.0.duplicates.borrow_mut().push(pointer);
            }
            let value = entries.next_value_seed(self)?;
            self.0.path.borrow_mut().pop();
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EXAMPLE: &str = r#"{"prompt":"Hi"}"#;

    fn refused(bytes: &[u8]) -> Problem {
        let problem = parse(bytes, EXAMPLE).unwrap_err();
        assert_eq!(problem.kind, Kind::MalformedJson);
        problem
    }

    #[test]
    fn good_json_is_what_serde_json_makes_of_it() {
        let text =
            r#" {"b":[1,-2,3.5,-0.0,1e300,18446744073709551615,null,true,"\ud83d\ude00"],"a":{"":{}}} "#;
        let value = parse(text.as_bytes(), EXAMPLE).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["b", "a"], "order is kept");
    }

    #[test]
    fn numbers_are_the_nearest_to_what_was_written_and_written_again_so() {
        for text in ["2.582084073619569e-6", "0.39774436099893830", "1.1303981263904193e-7", "5e-324", "0.1"]
        {
            let value = parse(text.as_bytes(), EXAMPLE).unwrap();
            let bits = text.parse::<f64>().unwrap().to_bits();
            assert_eq!(value.as_f64().unwrap().to_bits(), bits, "{text}");
            let again = parse(value.to_string().as_bytes(), EXAMPLE).unwrap();
            assert_eq!(again.as_f64().unwrap().to_bits(), bits, "{text}");
        }
    }

    #[test]
    fn every_duplicate_key_is_named_by_its_pointer() {
        let problem = refused(br#"{"runs":{"a":1,"x/y~":[{"p":1,"p":2}],"a":3},"runs":0}"#);
        let pointers: Vec<_> = problem.errors.iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(pointers, ["/runs/x~1y~0/0/p", "/runs/a", "/runs"]);
        assert!(problem.errors.iter().all(|e| e.code == "duplicate_key"));
        assert_eq!(parse(br#"{"a":{"a":1},"b":[{"a":1},{"a":1}]}"#, EXAMPLE).unwrap()["a"], json!({"a": 1}));
    }

    #[test]
    fn syntax_errors_have_line_and_column() {
        for (text, line, column) in [
            ("{\"a\":1,\n \"b\":}", 2, 6),
            ("{\"a\":1", 1, 6),
            ("{\"a\":NaN}", 1, 6),
            ("{'a':1}", 1, 2),
            ("{} x", 1, 4),
            ("{}{}", 1, 3),
            ("[1,]", 1, 4),
            ("{\"a\":1e999}", 1, 10),
            ("\"\\ud800\"", 1, 8),
            ("01", 1, 2),
        ] {
            let problem = refused(text.as_bytes());
            let place = (
                problem.member("line").unwrap().as_u64().unwrap(),
                problem.member("column").unwrap().as_u64().unwrap(),
            );
            assert_eq!(place, (line, column), "{text}: {}", problem.detail);
        }
    }

    #[test]
    fn numbers_beyond_double_precision_are_refused_rather_than_made_infinite() {
        assert!(refused(br#"{"sigma":1e999}"#).detail.contains("number out of range"));
        assert!(refused(br#"{"sigma":-1e999}"#).detail.contains("number out of range"));
        assert_eq!(parse(b"[1e308]", EXAMPLE).unwrap(), json!([1e308]));
    }

    #[test]
    fn deep_nesting_is_refused_without_a_stack_overflow() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(deep(127).as_bytes(), EXAMPLE).is_ok());
        assert!(refused(deep(128).as_bytes()).errors[0].fix.contains("127"));
        refused("[".repeat(1_000_000).as_bytes());
    }

    #[test]
    fn other_encodings_are_named() {
        assert!(refused(b"\xEF\xBB\xBF{}").detail.contains("byte order mark"));
        assert!(refused(b"\xFF\xFE{\0}\0").detail.contains("UTF-16"));
        assert!(refused(b"{\0}\0").detail.contains("UTF-16"));
        assert!(refused(b"\0{\0}").detail.contains("UTF-16"));
        let problem = refused(b"{\n\"a\":\"\xFF\"}");
        assert_eq!((problem.member("line"), problem.member("column")), (Some(&json!(2)), Some(&json!(6))));
    }

    #[test]
    fn an_empty_body_is_answered_with_an_example() {
        assert!(refused(b"").errors[0].fix.contains(EXAMPLE));
        assert!(refused(b" \n\t ").errors[0].fix.contains(EXAMPLE));
    }

    #[test]
    fn documents_of_too_many_values_are_refused_before_they_are_built() {
        let list = |n: usize| format!("[{}0]", "0,".repeat(n - 1));
        assert!(parse(list(MOST_VALUES - 1).as_bytes(), EXAMPLE).is_ok());
        for body in [
            list(MOST_VALUES),
            format!("{{\"a\":{}}}", list(MOST_VALUES)),
            format!("[{}[]]", "[[]],".repeat(MOST_NESTED / 2)),
            format!("[{}0]", "{\"\":0},".repeat(MOST_NESTED)),
        ] {
            let problem = parse(body.as_bytes(), EXAMPLE).unwrap_err();
            let found = (problem.kind, problem.errors[0].code);
            assert_eq!(found, (Kind::BodyTooLarge, "too_large"), "{}", problem.detail);
        }
    }

    #[test]
    fn the_memory_of_a_tree_is_foretold() {
        fn of(value: &Value) -> u64 {
            let own = size_of::<Value>() as u64;
            match value {
                Value::Array(list) => (list.capacity() as u64) * own + list.iter().map(of).sum::<u64>(),
                Value::Object(map) => {
                    let entry = own + size_of::<String>() as u64 + 8;
                    map.len() as u64 * entry
                        + map.iter().map(|(key, value)| key.capacity() as u64 + of(value)).sum::<u64>()
                }
                Value::String(text) => text.capacity() as u64,
                _ => 0,
            }
        }
        let lists = format!("[{}1]", "[[0.5]],".repeat(1000));
        let objects = format!("[{}1]", r#"{"a":"x\"y,[{","b":{"":0}},"#.repeat(1000));
        for body in [lists, objects, r#"{"prompt":"Hi, [there] {you}"}"#.to_owned(), "[1,2,3,4,5]".to_owned()]
        {
            let (told, is) = (tree_bytes(body.as_bytes()), of(&parse(body.as_bytes(), EXAMPLE).unwrap()));
            assert!(told >= is && told <= 8 * is + 1000, "{told} for {is}");
        }
    }

    #[test]
    fn a_list_is_taken_item_by_item_until_who_takes_it_breaks_off() {
        let mut taken = Vec::new();
        let mut take = |most: usize, body: &str| {
            taken.clear();
            let read = items(body.as_bytes(), EXAMPLE, |item| {
                taken.push(item);
                if taken.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            (read, taken.clone())
        };
        assert_eq!(take(9, r#" [{"a":1}, 2] "#), (Ok(None), vec![json!({"a": 1}), json!(2)]));
        assert_eq!(take(1, "[1, 2, rubbish").1, vec![json!(1)]);
        assert_eq!(take(9, r#"{"a":1}"#), (Ok(Some(json!({"a": 1}))), vec![]));
        let (read, _) = take(9, r#"[{"a":1},{"b":[{"c":1,"c":2}]}]"#);
        assert_eq!(read.unwrap_err().errors[0].pointer, "/1/b/0/c");
        assert_eq!(take(9, "[1,]").0.unwrap_err().kind, Kind::MalformedJson);
        assert_eq!(take(9, "[1] 2").0.unwrap_err().kind, Kind::MalformedJson);
        let long = format!("[{}]", vec!["[0]"; MOST_NESTED + 1].join(","));
        assert!(take(usize::MAX, &long).0.is_ok(), "each item has a limit of its own");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_and_what_it_accepts_serde_json_accepts(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)
        ) {
            if let Ok(value) = parse(&bytes, EXAMPLE) {
                proptest::prop_assert_eq!(value, serde_json::from_slice::<Value>(&bytes).unwrap());
            }
        }
    }
}
