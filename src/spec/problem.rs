//! Problems with a request's fields, collected so that one answer names all of them.

use serde::Serialize;
use utoipa::ToSchema;

/// One thing wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldProblem {
    /// JSON pointer (RFC 6901) to the field; `""` is the whole body, `?name` a query parameter.
    #[schema(example = "/corrupt/samples")]
    pub pointer: String,
    /// Stable machine-readable code.
    #[schema(example = "out_of_range")]
    pub code: &'static str,
    /// What is wrong, with what was given and what is allowed.
    pub detail: String,
    /// What to do about it.
    pub fix: String,
}

/// A growing list of [`FieldProblem`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<FieldProblem>);

impl Problems {
    /// Adds one problem.
    pub fn push(
        &mut self,
        pointer: impl Into<String>,
        code: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(FieldProblem { pointer: pointer.into(), code, detail: detail.into(), fix: fix.into() });
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
