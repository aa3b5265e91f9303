//! What is wrong with a request: every problem at once, each with a pointer to its field and the fix.

use serde::Serialize;
use utoipa::ToSchema;

/// One thing wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldProblem {
    /// RFC 6901 pointer into the request body; empty for the body itself.
    pub pointer: String,
    /// Stable machine-readable code.
    pub code: &'static str,
    /// What is wrong, with the value given.
    pub detail: String,
    /// What to write instead.
    pub fix: String,
}

/// Everything found wrong with a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problems(pub Vec<FieldProblem>);

impl Problems {
    /// Problems that are kept: a list of a million wrong items is not answered with a million problems.
    pub const MOST: usize = 100;

    /// Adds a problem; those after the first [`Problems::MOST`] are dropped.
    pub fn push(
        &mut self,
        pointer: impl Into<String>,
        code: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.0.len() < Self::MOST {
            self.0.push(FieldProblem {
                pointer: pointer.into(),
                code,
                detail: detail.into(),
                fix: fix.into(),
            });
        }
    }

    /// Whether no more are kept: what looks for more may stop.
    pub fn is_full(&self) -> bool {
        self.0.len() >= Self::MOST
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` if nothing is wrong.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self),
        }
    }

    /// The same problems seen from a body that holds this one under `prefix` (`/trace` in `/v1/plan`).
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        for problem in &mut self.0 {
            problem.pointer.insert_str(0, prefix);
            if problem.code == code::UNKNOWN_FIELD {
                // Hints name places in the same body.
                problem.detail =
                    problem.detail.replace("did you mean `/", &format!("did you mean `{prefix}/"));
            }
        }
        self
    }
}

/// Codes of problems. Lints turned into problems by `strict` keep their own (upper-case) codes.
pub mod code {
    /// A constant for each code, and all of them with what they mean.
    macro_rules! codes {
        ($(#[doc = $means:literal] $name:ident = $code:literal;)*) => {
            $(#[doc = $means] pub const $name: &str = $code;)*

            /// Every code with what it means.
            pub const ALL: &[(&str, &str)] = &[$(($code, $means)),*];
        };
    }

    codes! {
        /// A required field is absent.
        MISSING = "missing_field";
        /// A field that no such object has.
        UNKNOWN_FIELD = "unknown_field";
        /// A JSON value of another type.
        WRONG_TYPE = "wrong_type";
        /// A word that is none of the choices.
        UNKNOWN_VALUE = "unknown_value";
        /// Understood, but not served.
        NOT_SUPPORTED = "not_supported";
        /// A number, layer, position or head outside what exists.
        OUT_OF_RANGE = "out_of_range";
        /// An empty text, list or map.
        EMPTY = "empty";
        /// The same thing named twice.
        DUPLICATE = "duplicate";
        /// Two fields that exclude each other.
        CONFLICT = "conflict";
        /// A run, span or target that the request doesn't define.
        UNKNOWN_NAME = "unknown_name";
        /// A token id outside the vocabulary.
        UNKNOWN_TOKEN = "unknown_token";
        /// A text that doesn't occur in its prompt.
        SPAN_ABSENT = "span_absent";
        /// A text that occurs more than once in its prompt.
        SPAN_AMBIGUOUS = "span_ambiguous";
        /// Lengths that must agree and don't.
        LENGTH_MISMATCH = "length_mismatch";
        /// A run read or derived from itself.
        SELF_REFERENCE = "self_reference";
        /// More than this deployment computes in one request.
        LIMIT = "limit_exceeded";
        /// A stored set of activations whose time is over.
        EXPIRED = "expired";
        /// A stored set of activations of another model.
        FOREIGN_MODEL = "foreign_model";
        /// Something stored that the server fails to read.
        UNREADABLE = "unreadable";
        /// A model that isn't served here.
        UNKNOWN_MODEL = "unknown_model";
        /// The tokenizer refused.
        NOT_TOKENISABLE = "not_tokenisable";
        /// The expected answer isn't the model's (`on_unexpected: refuse`).
        UNEXPECTED_ANSWER = "unexpected_answer";
    }
}
