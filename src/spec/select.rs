//! Which layers, positions and heads.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Problems, code};
use super::read::Node;

/// Layers: `12`, `[0, 4]`, `{"from": 0, "to": 30, "step": 2}` (half-open) or `"all"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Layers {
    /// One layer.
    One(u32),
    /// Listed layers.
    List(Vec<u32>),
    /// Every `step`-th layer of `[from, to)`.
    Range {
        /// First layer.
        #[schema(required = false)]
        from: u32,
        /// One past the last layer; the model's last if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<u32>,
        /// Distance.
        #[schema(required = false)]
        step: u32,
    },
    /// Every layer: `"all"`.
    Word(AllWord),
}

/// `"all"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AllWord {
    /// Every one.
    All,
}

/// Positions named by a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PositionWord {
    /// The last position.
    Last,
    /// Every position.
    All,
}

/// Positions in unpadded token coordinates, BOS included; negative ones count from the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Positions {
    /// One position.
    One(i64),
    /// Listed positions.
    List(Vec<i64>),
    /// A half-open range.
    Range {
        /// First and one past the last.
        range: [i64; 2],
    },
    /// Tokens of a named span of the prompt.
    Span {
        /// Its name in the run's `spans`.
        span: String,
        /// Which of its tokens.
        #[schema(required = false)]
        which: Which,
    },
    /// Read at the first of each pair, written at the second.
    Map {
        /// `[source, destination]` pairs.
        map: Vec<[i64; 2]>,
    },
    /// `"last"` or `"all"`.
    Word(PositionWord),
}

/// Which tokens of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// All of them.
    All,
    /// Its first token.
    First,
    /// Its last token.
    Last,
}

/// Heads of a per-head site: `3`, `[0, 8]` or `"all"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Heads {
    /// One head.
    One(u32),
    /// Listed heads.
    List(Vec<u32>),
    /// Every head: `"all"`.
    Word(AllWord),
}

impl Layers {
    /// Every layer.
    pub const ALL: Self = Self::Word(AllWord::All);

    /// Reads any of its forms.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_number() => Some(Self::One(node.index(out)?)),
            v if v.is_array() => Some(Self::List(node.all(out, Node::index)?)),
            v if v.is_string() => node.choice(&[("all", AllWord::All)], &[], out).map(Self::Word),
            v if v.is_object() => {
                let fields = node.fields(&["from", "to", "step"], out)?;
                let from = fields.get("from").map_or(Some(0), |n| n.index(out));
                let to = fields.get("to").map_or(Some(None), |n| n.index(out).map(Some));
                let step = fields.get("step").map_or(Some(1), |n| n.count(1, out));
                let (from, to) = (from?, to?);
                if to.is_some_and(|to| to <= from) {
                    let detail = format!("an empty range [{from}, {})", to.unwrap_or(from));
                    out.push(&node.at, code::EMPTY, detail, "ranges are half-open: write `to` above `from`");
                    return None;
                }
                Some(Self::Range { from, to, step: step? })
            }
            _ => {
                node.wrong("layers: 3, [0, 3], {\"from\": 0, \"to\": 3, \"step\": 1} or \"all\"", out);
                None
            }
        }
    }
}

impl Positions {
    /// The last position.
    pub const LAST: Self = Self::Word(PositionWord::Last);
    /// Every position.
    pub const ALL: Self = Self::Word(PositionWord::All);

    /// Reads any of its forms; `map` only where values are both read and written.
    pub fn read(node: &Node<'_>, map: bool, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_number() => Some(Self::One(node.int(out)?)),
            v if v.is_array() => Some(Self::List(node.all(out, Node::int)?)),
            v if v.is_string() => {
                let words = [("last", PositionWord::Last), ("all", PositionWord::All)];
                node.choice(&words, &[], out).map(Self::Word)
            }
            v if v.is_object() => Self::read_object(node, map, out),
            _ => {
                node.wrong("positions: 3, [0, -1], {\"range\": [0, 3]}, {\"span\": \"subject\"}, \"last\" or \"all\"", out);
                None
            }
        }
    }

    fn read_object(node: &Node<'_>, map: bool, out: &mut Problems) -> Option<Self> {
        const FORMS: &str =
            "write {\"range\": [a, b]}, {\"span\": name} or, on interventions, {\"map\": [[src, dst]]}";
        let fields = node.fields(&["range", "span", "which", "map", "class", "align"], out)?;
        for later in ["class", "align"] {
            if fields.get(later).is_some() {
                let detail = format!("positions by `{later}` are not served");
                out.push(fields.pointer(later), code::NOT_SUPPORTED, detail, FORMS);
                return None;
            }
        }
        let Some(form) = fields.any(&["range", "span", "map"]) else {
            out.push(&node.at, code::MISSING, "neither `range`, `span` nor `map`", FORMS);
            return None;
        };
        let others: Vec<&str> = ["range", "span", "map"].into_iter().filter(|name| *name != form).collect();
        fields.exclude(form, &others, out);
        if form != "span" {
            fields.exclude(form, &["which"], out);
        }
        let node = fields.get(form)?;
        match form {
            "range" => Some(Self::Range { range: node.pair(out)? }),
            "span" => {
                let words = [("all", Which::All), ("first", Which::First), ("last", Which::Last)];
                let which = fields.get("which").map_or(Some(Which::All), |n| n.choice(&words, &[], out));
                Some(Self::Span { span: node.name(out)?, which: which? })
            }
            _ if map => Some(Self::Map { map: node.all(out, Node::pair)? }),
            _ => {
                let detail = "a map from source to destination positions";
                out.push(
                    &node.at,
                    code::NOT_SUPPORTED,
                    detail,
                    "maps belong to the `positions` of an intervention",
                );
                None
            }
        }
    }
}

impl Heads {
    /// Reads any of its forms.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_number() => Some(Self::One(node.index(out)?)),
            v if v.is_array() => Some(Self::List(node.all(out, Node::index)?)),
            v if v.is_string() => node.choice(&[("all", AllWord::All)], &[], out).map(Self::Word),
            _ => {
                node.wrong("heads: 3, [0, 3] or \"all\"", out);
                None
            }
        }
    }
}
