//! Lints: an experiment that runs but can't mean what its author thinks.

use serde::Serialize;
use utoipa::ToSchema;

use crate::spec::experiment::Origins;
use crate::spec::problem::Problems;

/// A remark about an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Lint {
    /// Stable name, as `NO_CONTRAST`.
    pub code: &'static str,
    /// How bad.
    pub severity: Severity,
    /// JSON pointer to the field it is about.
    #[serde(rename = "where")]
    pub pointer: String,
    /// What was seen, with numbers.
    pub detail: String,
    /// What to do.
    pub fix: String,
}

/// How bad a lint is. `strict` refuses warnings and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Likely to mislead.
    Warning,
    /// The result can't be used.
    Error,
}

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
        self.0.push(Lint { code, severity, pointer, detail, fix: fix.to_owned() });
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
    pub fn restored(mut self, origins: &Origins) -> Self {
        for lint in &mut self.0 {
            lint.pointer = origins.restore(&lint.pointer);
        }
        self
    }
}
