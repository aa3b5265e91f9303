//! Targets and metrics.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::named::Named;
use super::problem::{Problems, code};
use super::read::{Node, did_you_mean};

/// A target: a set of tokens or texts. A set's logit is the logsumexp of its members' logits, its probability their sum,
/// its rank the best of theirs. What counts of a text of several tokens says `target_scoring`.
pub type TargetSet = Vec<TargetItem>;

/// One member of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TargetItem {
    /// A text: the tokens that it adds to the prompt of the run that is scored, up to the position read. Lint
    /// `TARGET_CHANGES_PROMPT` if the prompt's own last tokens are others with it.
    Text(String),
    /// A token id.
    Id(u32),
}

/// What counts of a target text of several tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetScoring {
    /// Its first token, with lint `MULTI_TOKEN_TARGET`.
    #[default]
    FirstToken,
    /// All its tokens by teacher forcing: `log P(t1 .. tn | prompt)`, the sum of each token's log-probability after the
    /// prompt and the tokens before it. `logit_diff` is then a difference of such log-probabilities.
    Joint,
    /// The same divided by the number of tokens, which makes texts of different lengths comparable; `prob` is then the
    /// geometric mean of the tokens' probabilities, and of a set a sum of those, which may exceed 1.
    MeanLogprob,
}

impl TargetScoring {
    /// Every way with its name.
    pub const ALL: [(&'static str, Self); 3] =
        [("first_token", Self::FirstToken), ("joint", Self::Joint), ("mean_logprob", Self::MeanLogprob)];
}

/// What is computed from a readout, written `kind:of` (`prob:ans`, `logit_diff:pun-literal`, `kl:clean`), `top1_flip` or
/// `delta_norm`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metric {
    /// What is computed.
    pub kind: MetricKind,
    /// Of which target, pair of targets or run; empty for `top1_flip` and `delta_norm`.
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
    /// L2 norm of all that the cell's own edits changed: `sqrt(sum (new - old)^2)` over edits, positions and columns. Shows
    /// whether a large effect comes from a large write. Null where edges of attention are cut, whose scores fall by infinity.
    /// At `head_out` the changes are those of `z`.
    DeltaNorm,
}

impl MetricKind {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Self); 8] = [
        ("prob", Self::Prob),
        ("logprob", Self::Logprob),
        ("logit", Self::Logit),
        ("logit_diff", Self::LogitDiff),
        ("rank", Self::Rank),
        ("kl", Self::Kl),
        ("top1_flip", Self::Top1Flip),
        ("delta_norm", Self::DeltaNorm),
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Whether it is of nothing named.
    pub const fn stands_alone(self) -> bool {
        matches!(self, Self::Top1Flip | Self::DeltaNorm)
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
        let fix = "write prob:T, logprob:T, logit:T, logit_diff:A-B, rank:T, kl:RUN, top1_flip or delta_norm";
        let Some((_, kind)) = MetricKind::ALL.iter().find(|(name, _)| *name == word) else {
            let detail = format!("no metric is called {word:?}{}", did_you_mean(word, &names));
            out.push(&node.at, code::UNKNOWN_VALUE, detail, fix);
            return None;
        };
        let metric = Self::new(*kind, of);
        if of.is_empty() != kind.stands_alone() {
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
