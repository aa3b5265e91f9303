//! Which layers, positions and heads.

use serde::Serialize;
use utoipa::ToSchema;

use super::declare::choices;
use super::problem::{Problems, code};
use super::read::{Fields, Node};

/// Layers: `12`, `[0, 4]`, `{"from": 0, "to": 30, "step": 2}` (half-open) or `"all"`; of a `freeze` also `"above"`.
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
    /// Of a `freeze`: every layer above those that the other interventions write in a cell: `"above"`.
    Above(AboveWord),
}

/// `"above"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AboveWord {
    /// The layers above.
    Above,
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
    /// Tokens of a class around a named span.
    Class {
        /// The class.
        class: TokenClass,
        /// The span's name in the run's `spans`.
        #[schema(required = false)]
        span: String,
    },
    /// Read at the first of each pair, written at the second.
    Map {
        /// `[source, destination]` pairs.
        map: Vec<[i64; 2]>,
    },
    /// The map that a token diff of the source run and the patched one gives, as `POST /v1/align` answers it.
    Align {
        /// How the two are compared.
        align: AlignBy,
    },
    /// Rows of generated text: the step that predicts the i-th new token is step i, so that step 0 is the prompt's last position.
    /// In `POST /v1/generate` alone.
    Steps {
        /// Which steps.
        steps: Steps,
    },
    /// Positions of the prompt and steps together: `["all", {"steps": {"from": 1}}]`. In `POST /v1/generate` alone.
    Joint(Joint),
    /// `"last"` or `"all"`.
    Word(PositionWord),
}

/// Selections of a prompt and of steps, all together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(as = JointPositions, no_recursion)]
pub struct Joint(pub Vec<Positions>);

/// Steps of generation: `0`, `[0, 4]`, `{"from": 1, "to": 20}` (half-open) or `"all"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Steps {
    /// One step.
    One(u32),
    /// Listed steps.
    List(Vec<u32>),
    /// Those of `[from, to)`.
    Range {
        /// First step.
        #[schema(required = false)]
        from: u32,
        /// One past the last step; the text's end if left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<u32>,
    },
    /// Every step: `"all"`.
    Word(AllWord),
}

choices! {
/// The classes over which Meng et al. (2022) average, without their overlaps: every position from the subject's first
/// token on has exactly one class, earlier ones (BOS too) have none.
///
/// ROME's averaging code counts a one-token subject as `first_subject` *and* `last_subject`, and a single token after
/// the subject as `first_subsequent` *and* `last`. Here they are `last_subject` and `last`; where the subject ends the
/// prompt, its last token is `last_subject` and there is no `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
pub enum TokenClass {
    /// The subject's first token, if it has several.
    FirstSubject = "first_subject",
    /// Those between its first and its last.
    MiddleSubject = "middle_subject",
    /// The subject's last token, which may be its only one.
    LastSubject = "last_subject",
    /// The token after the subject, unless it is the prompt's last.
    FirstSubsequent = "first_subsequent",
    /// Those between that one and the prompt's last.
    Further = "further",
    /// The prompt's last token, if it comes after the subject.
    Last = "last",
}
}

/// How two runs are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlignBy {
    /// By the diff of their tokens (Myers): equal tokens are paired, and replaced stretches of equal length one to one.
    Diff,
}

choices! {
/// Which tokens of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum Which {
    /// All of them.
    All = "all",
    /// Its first token.
    First = "first",
    /// Its last token.
    Last = "last",
}
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

/// Columns: `3`, `[0, 8]` or `{"range": [a, b]}` (half-open).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Dims {
    /// One column.
    One(u32),
    /// Listed columns.
    List(Vec<u32>),
    /// A half-open range.
    Range {
        /// First and one past the last.
        range: [u32; 2],
    },
}

impl Dims {
    /// Reads any of its forms.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_number() => Some(Self::One(node.index(out)?)),
            v if v.is_array() => Some(Self::List(node.all(out, Node::index)?)),
            v if v.is_object() => {
                let fields = node.fields(&["range"], out)?;
                let ends = fields.need("range", "write {\"range\": [a, b]}", out)?;
                let [a, b] = ends.pair(out)?;
                let range = u32::try_from(a).ok().zip(u32::try_from(b).ok()).filter(|(a, b)| a < b);
                let Some((a, b)) = range else {
                    let detail = format!("[{a}, {b}) holds no column");
                    let fix = "ranges are half-open and start at 0: write the end above the start";
                    out.push(&ends.at, code::EMPTY, detail, fix);
                    return None;
                };
                Some(Self::Range { range: [a, b] })
            }
            _ => {
                node.wrong("dims: 3, [0, 3] or {\"range\": [0, 3]}", out);
                None
            }
        }
    }
}

impl Layers {
    /// Every layer.
    pub const ALL: Self = Self::Word(AllWord::All);
    /// The layers above those that other interventions write.
    pub const ABOVE: Self = Self::Above(AboveWord::Above);

    /// Reads any of its forms but `"above"`.
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

impl Steps {
    /// Every step.
    pub const ALL: Self = Self::Word(AllWord::All);

    /// Reads any of its forms.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_number() => Some(Self::One(node.index(out)?)),
            v if v.is_array() => {
                let list = node.all(out, Node::index)?;
                for i in (1..list.len()).filter(|&i| list[..i].contains(&list[i])) {
                    let detail = format!("step {} twice", list[i]);
                    out.push(format!("{}/{i}", node.at), code::DUPLICATE, detail, "list each step once");
                }
                Some(Self::List(list))
            }
            v if v.is_string() => node.choice(&[("all", AllWord::All)], &[], out).map(Self::Word),
            v if v.is_object() => {
                let fields = node.fields(&["from", "to"], out)?;
                let from = fields.get("from").map_or(Some(0), |n| n.index(out));
                let to = fields.get("to").map_or(Some(None), |n| n.index(out).map(Some));
                let (from, to) = (from?, to?);
                if let Some(to) = to.filter(|to| *to <= from) {
                    let detail = format!("an empty range [{from}, {to})");
                    let fix = "ranges are half-open: write `to` above `from`";
                    out.push(&node.at, code::EMPTY, detail, fix);
                    return None;
                }
                Some(Self::Range { from, to })
            }
            _ => {
                node.wrong("steps: 0, [0, 3], {\"from\": 1, \"to\": 20} or \"all\"", out);
                None
            }
        }
    }

    /// Whether a step is one of them.
    pub fn contains(&self, step: u32) -> bool {
        match self {
            Self::One(one) => *one == step,
            Self::List(list) => list.contains(&step),
            Self::Range { from, to } => *from <= step && to.is_none_or(|to| step < to),
            Self::Word(AllWord::All) => true,
        }
    }
}

impl Positions {
    /// The last position.
    pub const LAST: Self = Self::Word(PositionWord::Last);
    /// Every position.
    pub const ALL: Self = Self::Word(PositionWord::All);

    /// Reads positions of a prompt, steps of the text that follows it, or a list of both.
    pub(super) fn read_with_steps(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let is_number = |value: &serde_json::Value| value.is_number();
        if node.value.is_object() {
            return Self::read_object(node, true, true, out);
        }
        if node.value.as_array().is_none_or(|list| list.is_empty() || list.iter().all(is_number)) {
            return Self::read(node, true, out);
        }
        let joint = node.all(out, |part, out| {
            if part.value.is_array() || ["map", "align"].iter().any(|form| part.value.get(form).is_some()) {
                let detail = "a list joins selections of the prompt and of steps";
                let fix = "write [\"all\", {\"steps\": {\"from\": 1}}], or pairs by themselves";
                out.push(&part.at, code::CONFLICT, detail, fix);
                return None;
            }
            Self::read_with_steps(part, out)
        });
        Some(Self::Joint(Joint(joint?)))
    }

    /// Its parts in the prompt, and its steps.
    pub fn parts(&self) -> (Vec<&Self>, Vec<&Steps>) {
        match self {
            Self::Steps { steps } => (Vec::new(), vec![steps]),
            Self::Joint(Joint(parts)) => {
                let parts = parts.iter().map(Self::parts);
                parts.fold((Vec::new(), Vec::new()), |(mut prompt, mut steps), (p, s)| {
                    prompt.extend(p);
                    steps.extend(s);
                    (prompt, steps)
                })
            }
            other => (vec![other], Vec::new()),
        }
    }

    /// Reads any of its forms; `map` only where values are both read and written.
    pub fn read(node: &Node<'_>, map: bool, out: &mut Problems) -> Option<Self> {
        match node.value {
            v if v.is_number() => Some(Self::One(node.int(out)?)),
            v if v.is_array() => Some(Self::List(node.all(out, Node::int)?)),
            v if v.is_string() => {
                let words = [("last", PositionWord::Last), ("all", PositionWord::All)];
                node.choice(&words, &[], out).map(Self::Word)
            }
            v if v.is_object() => Self::read_object(node, map, false, out),
            _ => {
                node.wrong("positions: 3, [0, -1], {\"range\": [0, 3]}, {\"span\": \"subject\"}, \"last\" or \"all\"", out);
                None
            }
        }
    }

    fn read_object(node: &Node<'_>, map: bool, steps: bool, out: &mut Problems) -> Option<Self> {
        const FORMS: &str = "write {\"range\": [a, b]}, {\"span\": name}, {\"class\": \"last_subject\"} or, on \
                             interventions, {\"map\": [[src, dst]]} or {\"align\": \"diff\"}";
        // `span` last: it also says whose classes are meant.
        const NAMES: [&str; 6] = ["class", "align", "range", "map", "steps", "span"];
        let fields = node.fields(&["range", "span", "which", "class", "map", "align", "steps"], out)?;
        let Some(form) = fields.any(&NAMES) else {
            let detail = "neither `range`, `span`, `class`, `map` nor `align`";
            out.push(&node.at, code::MISSING, detail, FORMS);
            return None;
        };
        let others = NAMES.into_iter().filter(|name| *name != form && !(form == "class" && *name == "span"));
        fields.exclude(form, &others.collect::<Vec<_>>(), out);
        if form != "span" {
            fields.exclude(form, &["which"], out);
        }
        let node = fields.get(form)?;
        match form {
            "range" => Some(Self::Range { range: node.pair(out)? }),
            "steps" => {
                let read = Steps::read(&node, out)?;
                if !steps {
                    let fix = "send it to POST /v1/generate, or name positions of the prompt";
                    out.push(&node.at, code::NOT_SUPPORTED, "steps are those of generated text", fix);
                    return None;
                }
                Some(Self::Steps { steps: read })
            }
            "span" => {
                let which = fields.get("which").map_or(Some(Which::All), |n| n.choice(&Which::ALL, &[], out));
                Some(Self::Span { span: node.name(out)?, which: which? })
            }
            "class" => Self::read_class(&fields, &node, out),
            _ if !map => {
                let detail = format!("`{form}` pairs source and destination positions");
                let fix = "pairs belong to the `positions` of an intervention";
                out.push(&node.at, code::NOT_SUPPORTED, detail, fix);
                None
            }
            "map" => Some(Self::Map { map: node.all(out, Node::pair)? }),
            _ => Some(Self::Align { align: node.choice(&[("diff", AlignBy::Diff)], &[], out)? }),
        }
    }

    fn read_class(fields: &Fields<'_>, node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let class = node.choice(&TokenClass::ALL, &[], out);
        let span = fields.get("span").map_or_else(|| Some("subject".to_owned()), |n| n.name(out));
        Some(Self::Class { class: class?, span: span? })
    }
}

impl Heads {
    /// Every head.
    pub const ALL: Self = Self::Word(AllWord::All);

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
