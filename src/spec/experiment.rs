//! What every request about runs shares: runs, targets, metrics and what is read.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::declare::declare;
use super::metric::{Metric, TargetScoring, TargetSet, read_target};
use super::named::Named;
use super::problem::{Problems, code};
use super::prompt::{Prompt, exclude_short, read_runs};
use super::read::{Fields, Node};
use super::readout::Read;

declare! {
/// The part that `/v1/run`, `/v1/patch` and `/v1/trace` have in common.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Experiment {
    /// The model; the one served if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Prompts by name.
    #[schema(required = false, value_type = std::collections::BTreeMap<String, Prompt>)]
    pub runs: Named<Prompt>,
    /// Sets of tokens by name.
    #[schema(required = false, value_type = std::collections::BTreeMap<String, TargetSet>)]
    pub targets: Named<TargetSet>,
    /// What counts of a target text of several tokens.
    #[schema(required = false)]
    pub target_scoring: TargetScoring,
    /// What is computed from every readout.
    #[schema(required = false, value_type = Vec<String>)]
    pub metrics: Vec<Metric>,
    /// Where and what is read.
    #[schema(required = false)]
    pub read: Read,
    /// Refuses requests that raise a lint of severity warning or above.
    #[schema(required = false)]
    pub strict: bool,
    /// Lets in grids that are tautologies throughout (`TAUTOLOGICAL_CUT`), with a lint instead of an error.
    #[schema(required = false)]
    pub allow_trivial: bool,
    /// Where the fields of the short form came from.
    skip pub origins: Origins,
}
}

/// A wire form: the bodies of an endpoint, and the request that they are read as. Several may be read as the same.
pub trait Form: 'static {
    /// The request in its long form.
    type Request;
    /// Its name: of its kind, and before the ids of its answers.
    const NAME: &'static str;

    /// Reads a body. `None` where too little of it could be read to look further.
    fn read(body: &Value, out: &mut Problems) -> Option<Self::Request>;
}

/// Long-form pointers that stand for fields of the short form, as `(long, short)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(pub Vec<(&'static str, &'static str)>);

impl Origins {
    /// The pointer that the caller wrote for a pointer into the long form.
    pub fn restore(&self, pointer: &str) -> String {
        let rest =
            |long: &str| pointer.strip_prefix(long).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let found = self.0.iter().find_map(|(long, short)| rest(long).map(|rest| format!("{short}{rest}")));
        found.unwrap_or_else(|| pointer.to_owned())
    }
}

/// The long or short way to give runs.
pub(super) struct Short<'s> {
    /// Fields that only the short form has.
    pub fields: &'s [&'static str],
    /// Reads the short form: runs and origins.
    #[expect(clippy::type_complexity, reason = "used in one place")]
    pub read: &'s dyn Fn(&Fields<'_>, &mut Problems) -> Option<(Named<Prompt>, Origins)>,
}

impl Experiment {
    /// Reads the shared fields. `None` only if no run could be read; what else can't be read takes its default.
    pub(super) fn read(
        fields: &Fields<'_>,
        short: &Short<'_>,
        topk: u32,
        capture: bool,
        out: &mut Problems,
    ) -> Option<Self> {
        let runs = if let Some(node) = fields.get("runs") {
            exclude_short(fields, short.fields, out);
            read_runs(&node, out).map(|runs| (runs, Origins::default()))
        } else {
            (short.read)(fields, out)
        };
        let model = fields.get("model").and_then(|n| n.name(out));
        let (targets, from_short) = read_targets(fields, out);
        let target_scoring =
            fields.get("target_scoring").and_then(|n| n.choice(&TargetScoring::ALL, &[], out));
        let metrics = fields.get("metrics").and_then(|n| read_metrics(&n, out));
        let read = fields.get("read").and_then(|n| Read::from_node(&n, topk, capture, out));
        // Who answers has acted on it.
        fields.get("async").and_then(|n| n.flag(out));
        let strict = fields.get("strict").and_then(|n| n.flag(out)).unwrap_or(false);
        let allow_trivial = fields.get("allow_trivial").and_then(|n| n.flag(out)).unwrap_or(false);
        let (runs, mut origins) = runs?;
        origins.0.extend(from_short);
        Some(Self {
            model,
            runs,
            metrics: metrics.unwrap_or_else(|| Metric::defaults(&targets)),
            targets,
            target_scoring: target_scoring.unwrap_or_default(),
            read: read.unwrap_or_else(|| Read::last(topk)),
            strict,
            allow_trivial,
            origins,
        })
    }
}

/// Targets, and the origins of the short form.
pub(super) fn read_targets(
    fields: &Fields<'_>,
    out: &mut Problems,
) -> (Named<TargetSet>, Vec<(&'static str, &'static str)>) {
    if let Some(node) = fields.get("targets") {
        fields.exclude("targets", &["target"], out);
        return (Named::read(&node, out, read_target).unwrap_or_default(), Vec::new());
    }
    let Some(node) = fields.get("target") else { return (Named::default(), Vec::new()) };
    let target = read_target(&node, out).filter(|items| !items.is_empty());
    let mut origins = vec![("/targets/target", "/target")];
    if !node.value.is_array() {
        // A single value has no index to point at.
        origins.insert(0, ("/targets/target/0", "/target"));
    }
    (target.map(|items| Named::one("target", items)).unwrap_or_default(), origins)
}

pub(super) fn read_metrics(node: &Node<'_>, out: &mut Problems) -> Option<Vec<Metric>> {
    let metrics = node.each(out, Metric::read)?;
    let mut seen = HashSet::new();
    for (i, metric) in metrics.iter().enumerate() {
        let name = metric.to_string();
        if !seen.insert(name.clone()) {
            let detail = format!("{name} is listed twice");
            out.push(format!("{}/{i}", node.at), code::DUPLICATE, detail, "list each metric once");
        }
    }
    Some(metrics)
}

/// Reads a short form's prompt field.
pub(super) fn short_prompt(fields: &Fields<'_>, name: &str, fix: &str, out: &mut Problems) -> Option<Prompt> {
    let node = fields.need(name, fix, out)?;
    node.name(out).map(Prompt::text)
}
