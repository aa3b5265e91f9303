//! Lints: an experiment that runs but can't mean what its author thinks.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::spec::experiment::Origins;
use crate::spec::problem::Problems;

/// Name of a lint. (A name of its own for the type: a reference in [`Lint`] would be taken for one into the text that is read.)
type Code = &'static str;

/// A remark about an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lint {
    /// Stable name, as `NO_CONTRAST`.
    #[serde(deserialize_with = "known")]
    #[schema(value_type = String)]
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// JSON pointer to the field it is about.
    #[serde(rename = "where")]
    pub pointer: String,
    /// What was seen, with numbers.
    pub detail: String,
    /// What to do.
    pub fix: String,
    /// The change of the request that cures it, as JSON Patch (RFC 6902), where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub apply: Vec<Change>,
}

/// A change of a request: one operation of JSON Patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LintChange)]
pub struct Change {
    /// `add` or `replace`.
    pub op: Op,
    /// JSON pointer into the request as it was sent.
    pub path: String,
    /// What stands there afterwards.
    #[schema(value_type = serde_json::Value)]
    pub value: Value,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = LintChangeOp)]
pub enum Op {
    /// A field or an element more.
    Add,
    /// Another value.
    Replace,
}

/// How bad a lint is. `strict` refuses warnings and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Likely to mislead.
    Warning,
    /// The result can't be used.
    Error,
}

/// The code of a stored lint. One that another version of this program stored need not be in the table: its name is then kept
/// for good, once.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    static OTHERS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let code = String::deserialize(deserializer)?;
    if let Some(facts) = LINTS.iter().find(|facts| facts.code == code) {
        return Ok(facts.code);
    }
    let mut others = OTHERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = others.get(code.as_str()) {
        return Ok(kept);
    }
    let kept: &'static str = code.leak();
    others.insert(kept);
    Ok(kept)
}

/// A lint: what its code means. The row of its code in the table from which `docs/READING-RESULTS.md` is made.
#[derive(Debug, Clone, Copy)]
pub struct LintFacts {
    /// Stable name.
    pub code: &'static str,
    /// What it says, for people who read results.
    pub means: &'static str,
}

/// Every lint.
pub const LINTS: &[LintFacts] = &[
    LintFacts {
        code: "BOS_CORRUPTED",
        means: "The noise also covers the BOS token, to which nearly all heads attend: everything breaks, not only the fact.",
    },
    LintFacts {
        code: "CASES_DROPPED",
        means: "Filters dropped cases. The averages are of the others only; `cases` says which and why.",
    },
    LintFacts {
        code: "CELLS_LOST",
        means: "Some cells could not be computed (an engine crash, or no memory). They are null; all others are as they would have been.",
    },
    LintFacts {
        code: "CONTROL_AS_LARGE",
        means: "A control does as much as the patch. The effect may be that of any damage at this place.",
    },
    LintFacts {
        code: "CORRUPTION_HELPS",
        means: "The corrupted run favours the target more than the clean run. There is nothing to restore.",
    },
    LintFacts {
        code: "COST_INCOMPLETE",
        means: "Not all cases were priced, because the first ones cost too much already.",
    },
    LintFacts {
        code: "DAMAGE_LOOKS_LIKE_SUCCESS",
        means: "The run that counts as 1 has less of the metric than the one that counts as 0: any damage moves towards it. Use `kl`, or a logit difference with a foil.",
    },
    LintFacts {
        code: "DIFFERS_OUTSIDE_SUBJECT",
        means: "The replaced prompt has other tokens outside of the subject too.",
    },
    LintFacts {
        code: "DISCRETE_METRIC_ONLY",
        means: "Ranks and flips jump, and stay still while the probability moves.",
    },
    LintFacts { code: "DOUBLE_BOS", means: "The prompt begins with BOS twice." },
    LintFacts {
        code: "EFFECT_BELOW_NOISE_FLOOR",
        means: "Effects are smaller than the difference of identical rows: they are rounding.",
    },
    LintFacts { code: "F16_OVERFLOW", means: "A captured number does not fit the f16 that was asked for." },
    LintFacts {
        code: "FILTERED_DISTRIBUTION",
        means: "At some step the sampling filters removed more than a tenth of the probability: the texts follow another distribution than the model's.",
    },
    LintFacts {
        code: "FIRST_TOKEN_CORRUPTED",
        means: "The model has no BOS, so many heads attend to the first token by default. Corrupting it breaks more than the fact.",
    },
    LintFacts {
        code: "INCOHERENT",
        means: "The text is less probable by more than 1.5 nats a token under the branch that is compared with than under its own: what was written into the model costs sense.",
    },
    LintFacts { code: "INCOMPLETE", means: "The sweep ended early or still runs: not all cells count yet." },
    LintFacts {
        code: "LARGE_WRITE",
        means: "At some step an addition, a multiple or a bound moved a row by more than its own length: what later layers read is mostly what was written. The receipt says how far.",
    },
    LintFacts {
        code: "LENGTH_MISMATCH",
        means: "Runs of different lengths are patched by positions counted from the start: they may mean different words.",
    },
    LintFacts {
        code: "MULTI_TOKEN_TARGET",
        means: "The target has several tokens, and only the first counts. Use `target_scoring` for the whole text.",
    },
    LintFacts {
        code: "NEAR_TIE",
        means: "At some greedy steps the two best logits are closer than rounding: another number format or number of devices may go another way there.",
    },
    LintFacts {
        code: "NORM_LOST",
        means: "What was added cancelled some rows to zero, so `norm_match` could not keep their norm.",
    },
    LintFacts {
        code: "NOT_FINITE",
        means: "Logits are NaN or infinite. Everything made of them is null. In f16 numbers end at 65504: serve the model as bf16 or f32.",
    },
    LintFacts { code: "NO_CASE_KEPT", means: "The filters dropped every case." },
    LintFacts {
        code: "NO_CONTRAST",
        means: "The runs favour every target alike: there is nothing to transfer from one to the other.",
    },
    LintFacts {
        code: "NO_LEADING_SPACE",
        means: "The text lacks the space that its token would begin with, so that another token is scored.",
    },
    LintFacts {
        code: "NO_TEMPLATE",
        means: "The model has a chat template, and the prompt did not go through it: send `messages` to ask it as it was trained.",
    },
    LintFacts {
        code: "ONE_CASE_DOMINATES",
        means: "One case makes more than half of an average. Look at it by itself, or at the median.",
    },
    LintFacts { code: "POSITION_MAP_PARTIAL", means: "The alignment of two prompts leaves positions out." },
    LintFacts {
        code: "PROB_ONLY",
        means: "Probability saturates and can hide components that lower the answer.",
    },
    LintFacts {
        code: "PROMPT_ENDS_IN_SPACE",
        means: "The prompt ends in a space that belongs to the token of the next word: the model sees an unusual prompt.",
    },
    LintFacts { code: "P_OUT_OF_REACH", means: "With so few cases, no p-value can be as small as .05." },
    LintFacts {
        code: "REPLACEMENT_CHANGES_PROMPT",
        means: "A prompt with the replacement in it would have other tokens than those that are run.",
    },
    LintFacts {
        code: "SATURATED_CORRUPTION",
        means: "Nearly nothing is left of the answer: effects may be those of a broken model.",
    },
    LintFacts { code: "SELF_PATCH", means: "A run is patched with its own values, which changes nothing." },
    LintFacts { code: "SINGLE_NOISE_SAMPLE", means: "One noise sample has no standard error." },
    LintFacts {
        code: "SINGLE_SAMPLE",
        means: "One drawn text of each branch: how they differ is also chance.",
    },
    LintFacts {
        code: "SMALL_N",
        means: "With so few samples or cases, the standard errors are uncertain themselves.",
    },
    LintFacts {
        code: "SPAN_CUTS_TOKEN",
        means: "A span begins or ends inside of a token: its tokens cover more than its text.",
    },
    LintFacts {
        code: "STEPS_NOT_WRITTEN",
        means: "Some rows that an intervention should have written were not written: the text is steered in part, or not at all.",
    },
    LintFacts {
        code: "STEP_ZERO_LEFT_OUT",
        means: "The first new token is predicted by the prompt's last position, step 0, which nothing writes: that token is the unsteered one.",
    },
    LintFacts {
        code: "STOPPED_EARLY",
        means: "The server ended a text early: no room in the model's context, a source that ended, or numbers that are not finite.",
    },
    LintFacts {
        code: "TARGET_CHANGES_PROMPT",
        means: "With the target behind it, the prompt would have other tokens. The lint says what is scored.",
    },
    LintFacts {
        code: "TARGET_NOT_TOP1",
        means: "The model does not answer the target. You trace what it does not say.",
    },
    LintFacts { code: "TARGET_SETS_OVERLAP", means: "Two targets share a token." },
    LintFacts { code: "TARGET_TOKENS_DIFFER", means: "The target has other tokens after other prompts." },
    LintFacts {
        code: "TAUTOLOGICAL_CUT",
        means: "Cells have their source's answer by construction, whatever the model. A grid of such cells alone is refused unless `allow_trivial` is set.",
    },
    LintFacts {
        code: "TEMPLATE_DATE",
        means: "The chat template writes today's date: tomorrow the same messages are another prompt.",
    },
    LintFacts {
        code: "TRIVIAL_CELL",
        means: "A few cells have their source's answer by construction; they are masked.",
    },
    LintFacts {
        code: "TRUNCATED_CHARACTER",
        means: "A text ends inside of a character, whose bytes so far are shown as U+FFFD.",
    },
    LintFacts {
        code: "UNBOUNDED_DELTA",
        means: "`delta_norm` of a knockout is infinite: scores are set to minus infinity.",
    },
    LintFacts {
        code: "WEAK_CORRUPTION",
        means: "The corruption removes less than a tenth of the answer's probability: effects are small, recoveries uncertain.",
    },
    LintFacts { code: "WINDOW_EXCEEDS_MODEL", means: "The window has more layers than the model." },
    LintFacts { code: "ZERO_CELLS_WRITTEN", means: "Edits were asked for and nothing was written." },
];

/// Lints found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lints(pub Vec<Lint>);

impl Lints {
    /// Adds a warning.
    pub fn warn(&mut self, code: &'static str, pointer: impl Into<String>, detail: String, fix: &str) {
        self.add(Severity::Warning, code, pointer.into(), detail, fix);
    }

    /// Adds a remark.
    pub fn info(&mut self, code: &'static str, pointer: impl Into<String>, detail: String, fix: &str) {
        self.add(Severity::Info, code, pointer.into(), detail, fix);
    }

    /// Adds an error.
    pub fn error(&mut self, code: &'static str, pointer: impl Into<String>, detail: String, fix: &str) {
        self.add(Severity::Error, code, pointer.into(), detail, fix);
    }

    fn add(&mut self, severity: Severity, code: &'static str, pointer: String, detail: String, fix: &str) {
        debug_assert!(LINTS.iter().any(|lint| lint.code == code), "{code} has no row in LINTS");
        self.0.push(Lint { code, severity, pointer, detail, fix: fix.to_owned(), apply: Vec::new() });
    }

    /// Whether a lint of this code was found.
    pub fn has(&self, code: &str) -> bool {
        self.0.iter().any(|lint| lint.code == code)
    }

    /// What `strict` refuses: warnings and errors as problems.
    pub fn refused(&self) -> Problems {
        let mut problems = Problems::default();
        for lint in self.0.iter().filter(|lint| lint.severity >= Severity::Warning) {
            problems.push(&lint.pointer, lint.code, &lint.detail, &lint.fix);
        }
        problems
    }

    /// The lints with pointers as the caller wrote them.
    #[must_use]
    pub fn restored(self, origins: &Origins) -> Self {
        self.renamed(|pointer| origins.restore(pointer))
    }

    /// The lints with other pointers.
    #[must_use]
    pub fn renamed(mut self, name: impl Fn(&str) -> String) -> Self {
        for lint in &mut self.0 {
            lint.pointer = name(&lint.pointer);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_lint_is_read_again_whatever_version_wrote_it() {
        for code in [LINTS[0].code, "OF_ANOTHER_VERSION"] {
            let text = format!(
                "{{\"code\":\"{code}\",\"severity\":\"info\",\"where\":\"/a\",\"detail\":\"b\",\"fix\":\"c\"}}"
            );
            let lints: [Lint; 2] = [(); 2].map(|()| serde_json::from_str(&text).unwrap());
            assert_eq!(serde_json::to_string(&lints[0]).unwrap(), text);
            assert!(std::ptr::eq(lints[0].code, lints[1].code), "a name is kept once");
        }
    }
}
