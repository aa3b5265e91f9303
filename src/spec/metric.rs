//! Targets and metrics.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::named::Named;
use super::problem::{Problems, code};
use super::read::{Node, did_you_mean};

/// A target: a set of tokens, each given as text or id. A set's logit is the logsumexp of its members' logits,
/// its probability their sum, its rank the best of theirs.
pub type TargetSet = Vec<TargetItem>;

/// One token of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TargetItem {
    /// A text; its first token counts.
    Text(String),
    /// A token id.
    Id(u32),
}

/// What is computed from a readout, written `kind:of` (`prob:ans`, `logit_diff:pun-literal`, `kl:clean`) or `top1_flip`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metric {
    /// What is computed.
    pub kind: MetricKind,
    /// Of which target, pair of targets or run; empty for `top1_flip`.
    pub of: String,
}

/// The kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Probability of a target.
    Prob,
    /// Natural log of it.
    Logprob,
    /// Logit of a target.
    Logit,
    /// Difference of two targets' logits.
    LogitDiff,
    /// Rank of a target, 1 = most probable.
    Rank,
    /// KL divergence from a run's distribution to this one, in nats.
    Kl,
    /// 1 if the most probable token is another than the reference run's, else 0.
    Top1Flip,
}

impl MetricKind {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Self); 7] = [
        ("prob", Self::Prob),
        ("logprob", Self::Logprob),
        ("logit", Self::Logit),
        ("logit_diff", Self::LogitDiff),
        ("rank", Self::Rank),
        ("kl", Self::Kl),
        ("top1_flip", Self::Top1Flip),
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Whether small changes of the distribution can leave it unchanged.
    pub const fn is_discrete(self) -> bool {
        matches!(self, Self::Rank | Self::Top1Flip)
    }
}

impl Metric {
    /// A metric of something named.
    pub fn new(kind: MetricKind, of: &str) -> Self {
        Self { kind, of: of.to_owned() }
    }

    /// Probability and log-probability of every target.
    pub fn defaults(targets: &Named<TargetSet>) -> Vec<Self> {
        let names = targets.names();
        names
            .iter()
            .flat_map(|of| [Self::new(MetricKind::Prob, of), Self::new(MetricKind::Logprob, of)])
            .collect()
    }

    /// Reads `kind:of`.
    pub fn read(node: &Node<'_>, out: &mut Problems) -> Option<Self> {
        let text = node.text(out)?;
        let (word, of) = text.split_once(':').unwrap_or((text, ""));
        let names: Vec<&str> = MetricKind::ALL.iter().map(|(name, _)| *name).collect();
        let fix = "write prob:T, logprob:T, logit:T, logit_diff:A-B, rank:T, kl:RUN or top1_flip";
        let Some((_, kind)) = MetricKind::ALL.iter().find(|(name, _)| *name == word) else {
            let (code, detail) = if word == "delta_norm" {
                (code::NOT_SUPPORTED, "`delta_norm` is not served".to_owned())
            } else {
                (code::UNKNOWN_VALUE, format!("no metric is called {word:?}{}", did_you_mean(word, &names)))
            };
            out.push(&node.at, code, detail, fix);
            return None;
        };
        let metric = Self::new(*kind, of);
        if of.is_empty() != (*kind == MetricKind::Top1Flip) {
            out.push(&node.at, code::UNKNOWN_VALUE, format!("{text:?} is no metric"), fix);
            return None;
        }
        Some(metric)
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())?;
        if self.of.is_empty() { Ok(()) } else { write!(f, ":{}", self.of) }
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads one target: a string, an id or a list of them.
pub fn read_target(node: &Node<'_>, out: &mut Problems) -> Option<TargetSet> {
    if node.value.is_array() {
        return node.each(out, read_item);
    }
    Some(vec![read_item(node, out)?])
}

fn read_item(node: &Node<'_>, out: &mut Problems) -> Option<TargetItem> {
    match node.value {
        v if v.is_string() => Some(TargetItem::Text(node.name(out)?)),
        v if v.is_number() => Some(TargetItem::Id(node.index(out)?)),
        _ => {
            node.wrong("a text or a token id", out);
            None
        }
    }
}
