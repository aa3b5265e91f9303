//! Targets and metrics.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::declare::choices;
use super::named::Named;
use super::problem::{Problems, code};
use super::read::{Node, did_you_mean};

/// A target: a set of tokens or texts. A set's logit is the logsumexp of its members' logits, its probability their sum,
/// its rank the best of theirs. What counts of a text of several tokens says `target_scoring`.
pub type TargetSet = Vec<TargetItem>;

/// A target in short: one token as text or id, or a set of them.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Target {
    /// One token.
    One(TargetItem),
    /// Several.
    Set(TargetSet),
}

/// Name of a case's target.
pub const TARGET: &str = "target";
/// Name of what a case's target is compared with.
pub const FOIL: &str = "foil";

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

choices! {
/// What counts of a target text of several tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub enum TargetScoring {
    /// Its first token, with lint `MULTI_TOKEN_TARGET`.
    #[default]
    FirstToken = "first_token",
    /// All its tokens by teacher forcing: `log P(t1 .. tn | prompt)`, the sum of each token's log-probability after the
    /// prompt and the tokens before it. `logit_diff` is then a difference of such log-probabilities.
    Joint = "joint",
    /// The same divided by the number of tokens, which makes texts of different lengths comparable; `prob` is then the
    /// geometric mean of the tokens' probabilities, and of a set a sum of those, which may exceed 1.
    MeanLogprob = "mean_logprob",
}
}

/// What is computed from a readout, written `kind:of` (`prob:ans`, `logit_diff:pun-literal`, `kl:clean`), or `kind` alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metric {
    /// What is computed.
    pub kind: MetricKind,
    /// Of which target, pair of targets or run; empty where [`MetricKind::stands_alone`].
    pub of: String,
}

/// The kinds of metrics, in the order of [`METRICS`], which says what each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "their rows say it")]
pub enum MetricKind {
    Prob,
    Logprob,
    Logit,
    LogitDiff,
    ProbDiff,
    Rank,
    Top1,
    Kl,
    Top1Flip,
    DeltaNorm,
}

/// What a metric is of: what stands behind its colon, or what else must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// A target, `prob:T`.
    Target,
    /// Two targets, `logit_diff:A-B`.
    Pair,
    /// A run, `kl:RUN`.
    Run,
    /// The base run's answer, which is not named: a clean run alone has none.
    Base,
    /// What edits wrote, which is not named: a clean run has none.
    Edits,
}

/// What a metric's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A probability, or a difference of two.
    Probability,
    /// Nats.
    Nats,
    /// Logits, or a difference of two: nats where probabilities are compared.
    Logits,
    /// Ranks from 1 on.
    Rank,
    /// 0 or 1.
    Flag,
    /// Units of the site that was written.
    Activation,
}

/// A metric: its row in the one table from which reading, labels, lints, `/v1/capabilities` and documents follow.
#[derive(Debug, Clone, Copy)]
pub struct MetricFacts {
    /// The metric.
    pub kind: MetricKind,
    /// Its name on the wire.
    pub name: &'static str,
    /// What it is of.
    pub of: Of,
    /// What its numbers are.
    pub unit: Unit,
    /// Least and greatest value, where there are such.
    pub bounds: [Option<f64>; 2],
    /// Its label in pictures: `{}` is the target, the pair or the run.
    pub label: &'static str,
    /// Of a pair, the label of either target; they stand on both sides of a minus sign.
    pub side: &'static str,
    /// Of whole texts ([`TargetScoring::Joint`]), the same label or side.
    pub of_texts: &'static str,
    /// What follows the label where texts are scored per token ([`TargetScoring::MeanLogprob`]).
    pub per_token: &'static str,
    /// Whether only single tokens have it.
    pub tokens_only: bool,
    /// Whether small changes of the distribution can leave it unchanged.
    pub is_discrete: bool,
    /// Whether anything lowers it that harms a run.
    pub falls_by_damage: bool,
    /// What it is, for people.
    pub means: &'static str,
}

/// Every metric.
pub const METRICS: [MetricFacts; 10] = [
    MetricFacts {
        bounds: [Some(0.0), Some(1.0)],
        per_token: ", geometric mean over tokens",
        falls_by_damage: true,
        ..row(
            MetricKind::Prob,
            "prob",
            Of::Target,
            Unit::Probability,
            "P({})",
            "Probability of the target: of a set, the sum.",
        )
    },
    MetricFacts {
        bounds: [None, Some(0.0)],
        per_token: " per token",
        falls_by_damage: true,
        ..row(
            MetricKind::Logprob,
            "logprob",
            Of::Target,
            Unit::Nats,
            "log P({}) in nats",
            "Natural logarithm of the probability.",
        )
    },
    MetricFacts {
        tokens_only: true,
        falls_by_damage: true,
        ..row(
            MetricKind::Logit,
            "logit",
            Of::Target,
            Unit::Logits,
            "logit({})",
            "Logit of the target: of a set, the logsumexp of its tokens' logits.",
        )
    },
    MetricFacts {
        side: "logit({})",
        of_texts: "log P({})",
        ..row(
            MetricKind::LogitDiff,
            "logit_diff",
            Of::Pair,
            Unit::Logits,
            "logit difference {}",
            "Logit of the first target minus that of the second, which is the difference of their log-probabilities too (of texts, only that).",
        )
    },
    MetricFacts {
        bounds: [Some(-1.0), Some(1.0)],
        side: "P({})",
        per_token: ", geometric means over tokens",
        ..row(
            MetricKind::ProbDiff,
            "prob_diff",
            Of::Pair,
            Unit::Probability,
            "probability difference {}",
            "Probability of the first target minus that of the second: of sets, of the sums (Hanna et al. 2023 compare years above and below one).",
        )
    },
    MetricFacts {
        bounds: [Some(1.0), None],
        tokens_only: true,
        is_discrete: true,
        ..row(
            MetricKind::Rank,
            "rank",
            Of::Target,
            Unit::Rank,
            "rank of {}",
            "Rank of the target, 1 = most probable: of a set, the best.",
        )
    },
    MetricFacts {
        bounds: [Some(0.0), Some(1.0)],
        tokens_only: true,
        is_discrete: true,
        falls_by_damage: true,
        ..row(
            MetricKind::Top1,
            "top1",
            Of::Target,
            Unit::Flag,
            "{} is most probable (1) or not (0)",
            "1 if the most probable token is in the target, else 0: over cases, the accuracy.",
        )
    },
    MetricFacts {
        bounds: [Some(0.0), None],
        ..row(
            MetricKind::Kl,
            "kl",
            Of::Run,
            Unit::Nats,
            "KL divergence from {} in nats",
            "KL(run ‖ this one): the KL divergence from the named run's distribution to this one.",
        )
    },
    MetricFacts {
        bounds: [Some(0.0), Some(1.0)],
        is_discrete: true,
        ..row(
            MetricKind::Top1Flip,
            "top1_flip",
            Of::Base,
            Unit::Flag,
            "top-1 flip (1 = another token)",
            "1 if the most probable token is another than the base run's, else 0.",
        )
    },
    MetricFacts {
        bounds: [Some(0.0), None],
        ..row(
            MetricKind::DeltaNorm,
            "delta_norm",
            Of::Edits,
            Unit::Activation,
            "L2 norm of what was written",
            "L2 norm of all that the cell's own edits changed, `sqrt(sum (new - old)^2)` over edits, positions and columns: whether a large effect comes from a large write. Null where edges of attention are cut, whose scores fall by infinity. At `head_out` the changes are those of `z`.",
        )
    },
];

const fn row(
    kind: MetricKind,
    name: &'static str,
    of: Of,
    unit: Unit,
    label: &'static str,
    means: &'static str,
) -> MetricFacts {
    MetricFacts {
        kind,
        name,
        of,
        unit,
        bounds: [None, None],
        label,
        side: "",
        of_texts: "",
        per_token: "",
        tokens_only: false,
        is_discrete: false,
        falls_by_damage: false,
        means,
    }
}

impl MetricFacts {
    /// How it is written: `logit_diff:A-B`.
    pub fn form(&self) -> String {
        let of = match self.of {
            Of::Target => ":T",
            Of::Pair => ":A-B",
            Of::Run => ":RUN",
            Of::Base | Of::Edits => "",
        };
        format!("{}{of}", self.name)
    }

    /// Its label in pictures, of what is named behind its colon.
    pub fn label(&self, of: &str) -> String {
        self.label.replace("{}", of)
    }

    /// The same where the targets are known: `of` is in words, and a pair in two.
    pub fn label_of(&self, of: &[String], scoring: TargetScoring) -> String {
        let texts = scoring != TargetScoring::FirstToken && !self.of_texts.is_empty();
        let label = if texts {
            self.of_texts
        } else if self.of == Of::Pair {
            self.side
        } else {
            self.label
        };
        let each: Vec<String> = of.iter().map(|of| label.replace("{}", of)).collect();
        let per_token = if scoring == TargetScoring::MeanLogprob { self.per_token } else { "" };
        format!("{}{per_token}", if each.is_empty() { label.to_owned() } else { each.join(" − ") })
    }
}

impl MetricKind {
    /// What is known of it.
    pub const fn facts(self) -> &'static MetricFacts {
        &METRICS[self as usize]
    }

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Whether it is of nothing named.
    pub const fn stands_alone(self) -> bool {
        matches!(self.facts().of, Of::Base | Of::Edits)
    }

    /// Whether small changes of the distribution can leave it unchanged.
    pub const fn is_discrete(self) -> bool {
        self.facts().is_discrete
    }

    /// Whether it says something of the answer, and not of what was written.
    pub const fn is_of_the_answer(self) -> bool {
        !matches!(self.facts().of, Of::Edits)
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
        let fix = || format!("write {}", METRICS.map(|facts| facts.form()).join(", "));
        let Some(facts) = METRICS.iter().find(|facts| facts.name == word) else {
            let near = did_you_mean(word, &METRICS.map(|facts| facts.name));
            out.push(&node.at, code::UNKNOWN_VALUE, format!("no metric is called {word:?}{near}"), fix());
            return None;
        };
        let metric = Self::new(facts.kind, of);
        if of.is_empty() != facts.kind.stands_alone() {
            out.push(&node.at, code::UNKNOWN_VALUE, format!("{text:?} is no metric"), fix());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_stands_in_the_place_of_its_kind() {
        for (place, facts) in METRICS.iter().enumerate() {
            assert_eq!(facts.kind as usize, place, "{}", facts.name);
            assert_eq!(facts.label.contains("{}"), !facts.kind.stands_alone(), "{}", facts.label);
            assert_eq!(facts.side.is_empty(), facts.of != Of::Pair, "{}", facts.name);
        }
    }

    #[test]
    fn labels_name_tokens_where_they_are_known() {
        let label = |kind: MetricKind, of: &[&str], scoring| {
            kind.facts().label_of(&of.iter().map(|of| (*of).to_owned()).collect::<Vec<_>>(), scoring)
        };
        let (first, joint, mean) =
            (TargetScoring::FirstToken, TargetScoring::Joint, TargetScoring::MeanLogprob);
        assert_eq!(label(MetricKind::LogitDiff, &["a", "b"], first), "logit(a) − logit(b)");
        assert_eq!(label(MetricKind::LogitDiff, &["a", "b"], joint), "log P(a) − log P(b)");
        assert_eq!(label(MetricKind::Prob, &["a"], mean), "P(a), geometric mean over tokens");
        assert_eq!(label(MetricKind::Logprob, &["a"], mean), "log P(a) in nats per token");
        assert_eq!(label(MetricKind::Top1Flip, &[], first), "top-1 flip (1 = another token)");
        assert_eq!(MetricKind::LogitDiff.facts().label("a-b"), "logit difference a-b");
    }
}
