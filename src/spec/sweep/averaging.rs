//! How a sweep's effects are averaged over cases.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::SweepCase;
use crate::spec::declare::{choices, declare, need, nothing, of_request, or};
use crate::spec::patch::SweepAxis;
use crate::spec::problem::{Problems, code};
use crate::spec::prompt::SpanText;
use crate::spec::read::Node;
use crate::spec::statistics::{Bootstrap, Stat};

choices! {
/// What cells are averaged by. A cell belongs to the average of its own values on these; the others are averaged over
/// within a case, before cases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = AverageKey)]
pub enum Key {
    /// Arms; always told apart.
    Arm = "arm",
    /// Layers.
    Layer = "layer",
    /// Positions.
    Position = "position",
    /// Token classes around the subject.
    TokenClass = "token_class",
    /// Heads.
    Head = "head",
    /// Columns.
    Dim = "dim",
    /// Layers read.
    SourceLayer = "source_layer",
    /// Groups of cases.
    Group = "group",
}
}

declare! {
/// How effects of a sweep are averaged over cases.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Averaging {
    /// What is told apart; `arm` always is.
    pub by: Vec<Key>,
    /// Averages beside the mean that few cases don't decide.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub stats: Vec<Stat>,
    /// How confidence intervals are made.
    #[schema(required = false)]
    pub ci: Bootstrap,
    /// The strongest averages, listed with p-values that allow for the choice among all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TopForm>)]
    pub topk: Option<TopK>,
    /// What is compared beside groups: `arm` subtracts the averages of every two arms, case by case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub compare: Vec<Key>,
}
}

/// How many of the strongest averages are listed.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum TopForm {
    /// So many.
    Count(u32),
    /// The same, with the order and the correction named.
    Named(TopK),
}

declare! {
read
/// The strongest averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct TopK {
    /// How many.
    pub k: u32 = need("say how many", |n, out| n.count(1, out)),
    /// What they are ordered by: `effect`, the size of the mean effect, which is the default; or `t`.
    #[schema(required = false)]
    pub order: Order = or(Order::default(), |n, out| n.choice(&Order::ALL, &[], out)),
    /// `max_t`, the only one.
    #[serde(skip_serializing_if = "of_request", serialize_with = "nothing")]
    #[schema(value_type = Option<String>)]
    pub correction: () = or((), |n, out| n.choice(&[("max_t", ())], &["fdr", "bonferroni"], out)),
}
}

choices! {
/// What the strongest averages are the strongest by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = TopOrder)]
pub enum Order {
    /// The size of the mean effect.
    #[default]
    Effect = "effect",
    /// |t|: mean over standard error.
    T = "t",
}
}

impl Averaging {
    /// What suits the swept axes: positions of different prompts compare by token class.
    pub(super) fn of(sweep: &[SweepAxis], cases: &[SweepCase]) -> Self {
        let has_subject = |case: &SweepCase| {
            let clean = case.runs.get(super::from_run(&case.runs));
            clean.is_some_and(|run| run.spans.get("subject").is_some_and(SpanText::is_one))
        };
        let subjects = cases.iter().all(has_subject);
        let of_axis = |axis: &SweepAxis| match axis {
            SweepAxis::Layers => Key::Layer,
            SweepAxis::Positions if subjects => Key::TokenClass,
            SweepAxis::Positions => Key::Position,
            SweepAxis::Heads => Key::Head,
            SweepAxis::Dims => Key::Dim,
            SweepAxis::SourceLayers => Key::SourceLayer,
        };
        let mut by = vec![Key::Arm];
        by.extend(sweep.iter().map(of_axis));
        Self { by, stats: Vec::new(), ci: Bootstrap::default(), topk: None, compare: Vec::new() }
    }

    /// Whether a request's `aggregate` tells groups apart.
    pub(in crate::spec) fn by_group(node: &Node<'_>) -> bool {
        let by = node.value.get("by").and_then(|by| by.as_array());
        by.is_some_and(|by| by.iter().any(|key| key == "group"))
    }

    pub(super) fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let fields = node.fields_of::<Self>(out)?;
        let by = fields.need("by", "list what is told apart: [\"arm\", \"layer\", \"token_class\"]", out);
        let mut by = by.and_then(|n| n.each(out, |n, out| n.choice(&Key::ALL, &[], out))).unwrap_or_default();
        for i in (1..by.len()).filter(|&i| by[..i].contains(&by[i])) {
            out.push(
                fields.pointer("by"),
                code::DUPLICATE,
                format!("entry {i} is listed twice"),
                "list each once",
            );
        }
        if !by.contains(&Key::Arm) {
            by.insert(0, Key::Arm);
        }
        let stats = fields.get("stats").and_then(|n| Stat::read(&n, out)).unwrap_or_default();
        let topk = fields.get("topk").and_then(|n| read_top(&n, out));
        let compare = fields
            .get("compare")
            .and_then(|n| n.each(out, |n, out| n.choice(&[("arm", Key::Arm)], &[], out)));
        let ci = fields.get("ci").and_then(|n| Bootstrap::read(&n, out)).unwrap_or_default();
        Some(Self { by, stats, ci, topk, compare: compare.unwrap_or_default() })
    }
}

fn read_top(node: &Node<'_>, out: &mut Problems) -> Option<TopK> {
    if node.value.is_number() {
        return Some(TopK { k: node.count(1, out)?, order: Order::default(), correction: () });
    }
    TopK::read(node, out)
}
