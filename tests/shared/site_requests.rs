//! The JSON cases of `tests/python/site_cases.py` as bodies of `POST /v1/patch`, written as a user would.

use mediant::model::config::ModelConfig;
use mediant::spec::site::Site;
use serde_json::{Map, Value, json};

use crate::uniform::uniform;

/// What makes a request of a case.
pub(crate) struct Requests<'r> {
    pub(crate) config: &'r ModelConfig,
    /// Named runs, as requests write them: `{"tokens": [..]}` or `{"prompt": ".."}`.
    pub(crate) runs: Map<String, Value>,
    /// Their lengths, and so columns of a head at `scores` and `pattern`.
    pub(crate) keys: usize,
}

/// Why a case has no request: its edits name something that the interface has no field for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inexpressible {
    /// A source's head is the head written. (Captured and given as a vector it can be any.)
    AnotherHead,
}

impl Requests<'_> {
    /// Runs, base and interventions of a case; only the runs that it reads.
    pub(crate) fn patch(&self, case: &Value) -> Result<Value, Inexpressible> {
        let mut runs = self.runs.clone();
        let mut own = Vec::new();
        for derived in list(&case["runs"]) {
            let interventions = self.interventions(&derived["edits"], &mut runs)?;
            let run = json!({"from": derived["of"], "interventions": interventions});
            own.push((derived["name"].as_str().unwrap().to_owned(), run));
        }
        let interventions = self.interventions(&case["edits"], &mut runs)?;
        let edits = list(&case["runs"]).iter().flat_map(|run| list(&run["edits"]));
        let sources = edits.chain(list(&case["edits"])).flat_map(|edit| list(&edit["sources"]));
        let read: Vec<&str> = sources.map(|source| source["run"].as_str().unwrap()).collect();
        runs.retain(|name, _| name == "base" || read.contains(&name.as_str()));
        runs.extend(own);
        Ok(json!({"runs": runs, "base": "base", "interventions": interventions}))
    }

    fn interventions(&self, edits: &Value, runs: &mut Map<String, Value>) -> Result<Value, Inexpressible> {
        let mut interventions = Vec::new();
        for edit in list(edits) {
            interventions.extend(self.intervention(edit, runs)?);
        }
        Ok(interventions.into())
    }

    /// One intervention, or one per position where each has a vector or positions of runs of its own.
    fn intervention(&self, edit: &Value, runs: &mut Map<String, Value>) -> Result<Vec<Value>, Inexpressible> {
        let positions = list(&edit["positions"]);
        let mut fields = Map::new();
        for (field, own) in
            [("site", "site"), ("layers", "layer"), ("heads", "head"), ("dims", "dims"), ("op", "op")]
        {
            if !edit[own].is_null() {
                fields.insert(field.to_owned(), edit[own].clone());
            }
        }
        if let Some(coef) = edit.get("coef") {
            let field = if edit["op"] == "scale" { "factor" } else { "coef" };
            fields.insert(field.to_owned(), coef.clone());
        }
        if let Some(norm_match) = edit.get("norm_match") {
            fields.insert("norm_match".to_owned(), norm_match.clone());
        }
        for bound in ["min", "max"].into_iter().filter(|bound| !edit[*bound].is_null()) {
            fields.insert(bound.to_owned(), edit[bound].clone());
        }
        let columns = self.columns(edit);
        if let Some(along) = edit["along"].as_str() {
            fields.insert("along".to_owned(), json!(uniform(along, columns)));
        }
        if edit["basis"].is_array() {
            let vector = |name: &Value| uniform(name.as_str().unwrap(), columns);
            let basis: Vec<Vec<f32>> = list(&edit["basis"]).iter().map(vector).collect();
            fields.insert("basis".to_owned(), json!(basis));
        }
        let at = |positions: &[Value], source: Option<Value>| {
            let mut fields = fields.clone();
            fields.insert("positions".to_owned(), positions.into());
            fields.extend(source.map(|source| ("source".to_owned(), source)));
            Value::Object(fields)
        };
        let each = positions.iter().enumerate();
        if let Some(name) = edit["vector"].as_str() {
            let rows = uniform(name, positions.len() * columns);
            let row = |i: usize| json!({"vector": rows[i * columns..(i + 1) * columns]});
            return Ok(each.map(|(i, position)| at(std::slice::from_ref(position), Some(row(i)))).collect());
        }
        let sources = list(&edit["sources"]);
        if sources.iter().any(|source| source.get("head").is_some_and(|head| *head != edit["head"])) {
            return Err(Inexpressible::AnotherHead);
        }
        match sources {
            [] => Ok(vec![at(positions, None)]),
            [only] if positions.len() > 1 && only["positions"] != edit["positions"] => {
                let pairs = list(&only["positions"]).iter().zip(positions);
                let map: Vec<[&Value; 2]> = pairs.map(|(from, to)| [from, to]).collect();
                let mut one = at(&[], Some(read(only)));
                one["positions"] = json!({"map": map});
                one["source"].as_object_mut().unwrap().remove("positions");
                Ok(vec![one])
            }
            [only] => Ok(vec![at(positions, Some(read(only)))]),
            several => Ok(each
                .map(|(i, position)| at(std::slice::from_ref(position), Some(mean(several, i, runs))))
                .collect()),
        }
    }

    /// Columns written: those named, a head's, or all of the site.
    pub(crate) fn columns(&self, edit: &Value) -> usize {
        let site = Site::ALL.into_iter().find(|site| edit["site"] == site.name()).unwrap();
        let width = self.config.site_width(site, self.keys);
        let part = width / self.config.site_heads(site).unwrap_or(1);
        match &edit["dims"] {
            Value::Array(dims) => dims.len(),
            _ if edit["head"].is_null() => width,
            _ => part,
        }
    }
}

/// A source of a single run.
fn read(source: &Value) -> Value {
    let mut fields = json!({"run": source["run"], "positions": source["positions"]});
    for field in ["site", "layer"].into_iter().filter(|field| !source[*field].is_null()) {
        fields[field] = source[field].clone();
    }
    fields
}

/// The mean over runs, of the `i`th position of each: a span that every run has under one name.
fn mean(sources: &[Value], i: usize, runs: &mut Map<String, Value>) -> Value {
    let position = |source: &Value| source["positions"][i].as_i64().unwrap();
    let span = format!("at {:?}", sources.iter().map(position).collect::<Vec<_>>());
    for source in sources {
        let p = position(source);
        let run = &mut runs[source["run"].as_str().unwrap()];
        let known = run["spans"][&span].is_null() || run["spans"][&span] == json!([p, p + 1]);
        assert!(known, "a name for each tuple of positions");
        run["spans"][&span] = json!([p, p + 1]);
    }
    let names: Vec<&Value> = sources.iter().map(|source| &source["run"]).collect();
    json!({"mean_of": names, "positions": {"span": span}})
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
