//! The JSON cases of `tests/python/site_cases.py` as plans: one that captures what comes from another site, layer or head
//! or from several runs, and one that has a branch of `base` per case.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use mediant::model::config::ModelConfig;
use mediant::plan::{Address, Along, Capture, CapturedRows, Edit, EditGroup, Op, Plan, RunId, Source};
use mediant::spec::site::Site;
use serde_json::Value;

use crate::tiny::uniform;

/// Cases on one model.
pub(crate) struct Cases<'c> {
    config: &'c ModelConfig,
    /// Named runs, which both plans begin with: ids, and columns of a head at `scores` and `pattern`, are the same.
    runs: BTreeMap<String, RunId>,
    taken: BTreeMap<(RunId, Address), usize>,
    /// What is computed first.
    pub(crate) first: Plan,
    /// The cases; [`Plan::fill`] takes what `first` captured.
    pub(crate) main: Plan,
}

/// What a vector says of the part along it.
fn along(json: &Value, range: &Range<u32>, change: Along) -> Op {
    let direction = orthonormal(&[uniform(json["along"].as_str().unwrap(), range.len())]);
    Op::Along { direction, change }
}

/// Where one edit writes.
struct Place<'e> {
    at: Address,
    positions: Vec<u32>,
    head: Option<u32>,
    /// Columns from the head's (or the site's) first on, written by an edit each.
    ranges: Vec<Range<u32>>,
    /// Whether these are all columns of the site.
    whole: bool,
    json: &'e Value,
}

impl<'c> Cases<'c> {
    pub(crate) fn new(golden: &Value, config: &'c ModelConfig) -> Self {
        let (mut first, mut main) = (Plan::default(), Plan::default());
        let mut runs = BTreeMap::new();
        for (name, tokens) in golden["runs"].as_object().unwrap() {
            let tokens: Arc<[u32]> = indices(tokens).into();
            let (run, twin) = (first.root(Arc::clone(&tokens)), main.root(tokens));
            assert_eq!(run, twin);
            runs.insert(name.clone(), run);
        }
        Self { config, runs, taken: BTreeMap::new(), first, main }
    }

    /// The run that cases edit.
    pub(crate) fn base(&self) -> RunId {
        self.runs["base"]
    }

    /// Adds a case and returns its run.
    pub(crate) fn add(&mut self, case: &Value) -> RunId {
        let mut names = self.runs.clone();
        for derived in list(&case["runs"]) {
            let edits = self.edits(&derived["edits"], &names);
            let run = self.main.branch(names[derived["of"].as_str().unwrap()], edits);
            names.insert(derived["name"].as_str().unwrap().to_owned(), run);
        }
        let edits = self.edits(&case["edits"], &names);
        self.main.branch(self.base(), edits)
    }

    /// Where a site stands, as plans count layers.
    pub(crate) fn address(&self, site: Site, layer: &Value) -> Address {
        let layer = match site {
            Site::Embed => 0,
            Site::FinalNorm | Site::Logits => self.config.num_layers as u32,
            _ => layer.as_u64().unwrap() as u32,
        };
        Address { layer, site }
    }

    /// Columns of one head, or of a site that has none.
    pub(crate) fn part_width(&self, site: Site) -> u32 {
        let keys = self.main.keys() as usize;
        (self.config.site_width(site, keys) / self.config.site_heads(site).unwrap_or(1)) as u32
    }

    fn site_width(&self, site: Site) -> u32 {
        self.part_width(site) * self.config.site_heads(site).unwrap_or(1) as u32
    }

    /// Columns of a part of a site: one head's, or all.
    fn part(&self, site: Site, head: Option<u32>) -> Range<u32> {
        match head {
            Some(head) => head * self.part_width(site)..(head + 1) * self.part_width(site),
            None => 0..self.site_width(site),
        }
    }

    fn edits(&mut self, edits: &Value, names: &BTreeMap<String, RunId>) -> Vec<Edit> {
        list(edits).iter().flat_map(|edit| self.edit(edit, names)).collect()
    }

    fn edit(&mut self, json: &Value, names: &BTreeMap<String, RunId>) -> Vec<Edit> {
        let site = site(json["site"].as_str().unwrap());
        let head = json["head"].as_u64().map(|head| head as u32);
        let part = self.part(site, head);
        let ranges = match &json["dims"] {
            Value::Null => std::iter::once(0..part.len() as u32).collect(),
            dims => stretches(&indices(dims)),
        };
        let place = Place {
            at: self.address(site, &json["layer"]),
            positions: indices(&json["positions"]),
            head,
            ranges,
            whole: head.is_none() && json["dims"].is_null(),
            json,
        };
        let edit = |range: &Range<u32>| {
            let op = self.op(&place, range, names);
            let columns = (!place.whole).then(|| part.start + range.start..part.start + range.end);
            Edit { columns, ..Edit::new(place.at, place.positions.clone(), op, EditGroup::Patch) }
        };
        place.ranges.iter().map(edit).collect()
    }

    fn op(&mut self, place: &Place<'_>, range: &Range<u32>, names: &BTreeMap<String, RunId>) -> Op {
        let json = place.json;
        let coef = json["coef"].as_f64().unwrap_or(1.0) as f32;
        let basis = || {
            let named = list(&json["basis"]).iter();
            let vectors: Vec<Vec<f32>> =
                named.map(|name| uniform(name.as_str().unwrap(), range.len())).collect();
            orthonormal(&vectors)
        };
        match json["op"].as_str().unwrap() {
            "replace" | "freeze" | "mean" => Op::Replace(self.source(place, range, names)),
            "add" => Op::Add {
                source: self.source(place, range, names),
                coef,
                norm_match: json["norm_match"] == true,
            },
            "scale" if json["along"].is_null() => Op::Scale(coef),
            "scale" => along(json, range, Along::Scale(coef)),
            "clamp" => {
                let bound = |name: &str, none: f32| json[name].as_f64().map_or(none, |x| x as f32);
                let change = Along::Clamp(bound("min", f32::NEG_INFINITY), bound("max", f32::INFINITY));
                along(json, range, change)
            }
            "zero" => Op::Zero,
            "project_out" => Op::Project { basis: basis(), source: None },
            "subspace" => Op::Project { basis: basis(), source: Some(self.source(place, range, names)) },
            other => panic!("{other}"),
        }
    }

    fn source(&mut self, place: &Place<'_>, range: &Range<u32>, names: &BTreeMap<String, RunId>) -> Source {
        if let Some(name) = place.json["vector"].as_str() {
            // One row per position, of all columns that are written.
            let written: Vec<u32> = place.ranges.iter().cloned().flatten().collect();
            let rows = uniform(name, place.positions.len() * written.len());
            let at = written.iter().position(|column| *column == range.start).unwrap();
            let rows = rows.chunks(written.len()).flat_map(|row| &row[at..at + range.len()]);
            return Source::Constant(rows.copied().collect());
        }
        let sources = list(&place.json["sources"]);
        let own = |field: &str, source: &Value| source.get(field).is_none_or(|v| *v == place.json[field]);
        if let [only] = sources
            && ["site", "layer", "head"].iter().all(|field| own(field, only))
        {
            let run = names[only["run"].as_str().unwrap()];
            return Source::Run { run, positions: indices(&only["positions"]) };
        }
        Source::Captured(sources.iter().map(|source| self.captured(place, range, source)).collect())
    }

    fn captured(&mut self, place: &Place<'_>, range: &Range<u32>, source: &Value) -> CapturedRows {
        let site = source["site"].as_str().map_or(place.at.site, site);
        let layer = if source["layer"].is_null() { &place.json["layer"] } else { &source["layer"] };
        let at = self.address(site, layer);
        let head = source["head"].as_u64().map(|head| head as u32).or(place.head);
        let start = self.part(site, head).start;
        // Only prompts are read elsewhere: `runs` has no derived ones.
        let run = self.runs[source["run"].as_str().unwrap()];
        let Self { first, taken, .. } = self;
        let capture = *taken.entry((run, at)).or_insert_with(|| {
            let positions = (0..first.run(run).tokens.len() as u32).collect();
            first.captures.push(Capture { run, at, positions });
            first.captures.len() - 1
        });
        CapturedRows {
            capture,
            rows: indices(&source["positions"]),
            columns: start + range.start..start + range.end,
            width: self.site_width(site) as usize,
        }
    }
}

/// A JSON list; none where the field was left out.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn indices(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

pub(crate) fn site(name: &str) -> Site {
    Site::ALL.into_iter().find(|site| site.name() == name).unwrap()
}

/// Increasing numbers as ranges.
fn stretches(numbers: &[u32]) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for n in numbers {
        match ranges.last_mut() {
            Some(last) if last.end == *n => last.end += 1,
            _ => ranges.push(*n..n + 1),
        }
    }
    ranges
}

/// Gram and Schmidt in f64, each step twice for the sake of rounding.
fn orthonormal(vectors: &[Vec<f32>]) -> Arc<[f32]> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for vector in vectors {
        let mut rest: Vec<f64> = vector.iter().map(|x| f64::from(*x)).collect();
        for other in basis.iter().chain(&basis) {
            let along = dot(&rest, other);
            rest.iter_mut().zip(other).for_each(|(x, b)| *x -= along * b);
        }
        let norm = dot(&rest, &rest).sqrt();
        basis.push(rest.iter().map(|x| x / norm).collect());
    }
    basis.into_iter().flatten().map(|x| x as f32).collect()
}
