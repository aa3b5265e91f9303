//! What a job of generated text has written: its units put together.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::common::Provenance;
use super::generate::{BranchResult, OutcomeResult, PromptResult, outcome_of};
use crate::spec::generate::GenerateBody;
use crate::spec::named::Named;

/// A unit: some texts of a case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TextsPart {
    /// The case.
    pub id: String,
    /// Its group.
    pub group: Option<String>,
    /// The answer to the request that the unit is.
    pub response: Value,
}

/// Texts of every case of a data set, or of one prompt.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TextsOutcome {
    /// The job.
    pub id: String,
    /// The model.
    pub model: String,
    /// Whether all texts are there: a job that was cancelled, failed or still runs has fewer.
    pub complete: bool,
    /// The request.
    #[schema(value_type = GenerateBody)]
    pub request: Value,
    /// The cases that have texts, in the order of the data set.
    pub cases: Vec<TextsCase>,
    /// How many texts of all cases contain one of an outcome's texts, by branch and outcome.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, std::collections::BTreeMap<String, OutcomeResult>>)]
    pub outcomes: Named<Named<OutcomeResult>>,
    /// Remarks on the texts; each is told once, of the first case that raises it.
    #[schema(value_type = Vec<crate::lower::lint::Lint>)]
    pub lints: Vec<Value>,
    /// How the numbers came about.
    pub provenance: Provenance,
}

/// Texts of a case.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TextsCase {
    /// Its name.
    pub id: String,
    /// The group it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What was continued.
    #[schema(value_type = PromptResult)]
    pub prompt: Value,
    /// What each branch wrote.
    #[schema(value_type = std::collections::BTreeMap<String, BranchResult>)]
    pub branches: Map<String, Value>,
}

/// Puts parts together, each with the place of its case, in the order of units.
pub fn assemble(parts: Vec<(usize, TextsPart)>) -> (Vec<TextsCase>, Named<Named<OutcomeResult>>, Vec<Value>) {
    let mut cases: Vec<(usize, TextsCase)> = Vec::new();
    let mut lints: Vec<Value> = Vec::new();
    for (place, TextsPart { id, group, mut response }) in parts {
        let taken =
            |response: &mut Value, name: &str| response.get_mut(name).map(Value::take).unwrap_or_default();
        for lint in taken(&mut response, "lints").as_array().into_iter().flatten() {
            let same = |known: &Value| known["code"] == lint["code"] && known["where"] == lint["where"];
            if !lints.iter().any(same) {
                let mut lint = lint.clone();
                if let Some(detail) = lint["detail"].as_str() {
                    lint["detail"] = format!("case {id}: {detail}").into();
                }
                lints.push(lint);
            }
        }
        let (prompt, branches) = (taken(&mut response, "prompt"), taken(&mut response, "branches"));
        let Value::Object(branches) = branches else { continue };
        match cases.last_mut().filter(|(last, _)| *last == place) {
            Some((_, case)) => join(&mut case.branches, branches),
            None => cases.push((place, TextsCase { id, group, prompt, branches })),
        }
    }
    let cases: Vec<TextsCase> = cases.into_iter().map(|(_, case)| case).collect();
    let outcomes = outcomes(cases.iter().map(|case| &case.branches));
    (cases, outcomes, lints)
}

/// Adds further samples of a case's branches.
fn join(branches: &mut Map<String, Value>, more: Map<String, Value>) {
    for (name, mut more) in more {
        let Some(branch) = branches.get_mut(&name) else { continue };
        let both = [&*branch, &more].map(|branch| branch.get("outcomes").and_then(Value::as_object).cloned());
        if let [Some(known), Some(new)] = both {
            let each = [known, new].map(|outcomes| {
                let branch: Map<String, Value> =
                    [("outcomes".to_owned(), outcomes.into())].into_iter().collect();
                [(name.clone(), branch.into())].into_iter().collect::<Map<String, Value>>()
            });
            let joined = outcomes(each.iter());
            branch["outcomes"] = serde_json::json!(joined.get(&name));
        }
        if let (Some(samples), Some(Value::Array(new))) =
            (branch["samples"].as_array_mut(), more.get_mut("samples").map(Value::take))
        {
            samples.extend(new);
        }
    }
}

/// Outcomes counted together, by branch.
fn outcomes<'b>(all: impl Iterator<Item = &'b Map<String, Value>>) -> Named<Named<OutcomeResult>> {
    /// Texts with the outcome, and all of them, by outcome.
    type Counts = Vec<(String, u64, u64)>;
    let mut sums: Vec<(String, Counts)> = Vec::new();
    for (branch, value) in all.flatten() {
        let Some(own) = value.get("outcomes").and_then(Value::as_object) else { continue };
        let of_branch = sums.iter().position(|(name, _)| name == branch).unwrap_or_else(|| {
            sums.push((branch.clone(), Vec::new()));
            sums.len() - 1
        });
        for (name, counted) in own {
            let count = |field: &str| counted[field].as_u64().unwrap_or(0);
            let known = &mut sums[of_branch].1;
            match known.iter_mut().find(|(other, ..)| other == name) {
                Some((_, texts, n)) => (*texts, *n) = (*texts + count("texts"), *n + count("n")),
                None => known.push((name.clone(), count("texts"), count("n"))),
            }
        }
    }
    let named = |(name, texts, n)| (name, outcome_of(texts, n));
    sums.into_iter().map(|(branch, own)| (branch, own.into_iter().map(named).collect())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_of_a_case_are_joined_and_outcomes_are_counted_over_all() {
        let part = |id: &str, samples: Value, found: u64, n: u64| TextsPart {
            id: id.to_owned(),
            group: None,
            response: json!({
                "prompt": {"text": id},
                "branches": {"a": {"samples": samples, "outcomes": {"dog": {"texts": found, "n": n, "share": 0, "ci": [0, 1]}}}},
                "lints": [{"code": "NEAR_TIE", "where": "/sampling", "detail": "at step 1"}],
            }),
        };
        let parts = vec![
            (0, part("x", json!([1, 2]), 1, 2)),
            (0, part("x", json!([3]), 1, 1)),
            (1, part("y", json!([4, 5]), 0, 2)),
        ];
        let (cases, outcomes, lints) = assemble(parts);
        assert_eq!((cases.len(), &cases[0].branches["a"]["samples"]), (2, &json!([1, 2, 3])));
        assert_eq!(cases[0].branches["a"]["outcomes"]["dog"]["n"], 3);
        let all = outcomes.get("a").unwrap().get("dog").unwrap();
        assert_eq!((all.texts, all.n, all.share), (2, 5, 0.4));
        assert_eq!(lints.len(), 1);
        assert_eq!(lints[0]["detail"], "case x: at step 1");
    }
}
