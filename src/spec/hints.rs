//! What an unknown field was meant to be. Synonyms are listed here; where a field belongs is taken from the contract itself
//! (the schemas of the bodies), so that no hint can name a place that does not exist.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::endpoint::Endpoint;
use super::problem::code;
use super::words::{escape, likely, nearest, shortened};

/// What words stand for: names of fields, or pointers to them, the likeliest first (those that an endpoint does not have are
/// passed over); and what else there is to know.
struct Word {
    words: &'static [&'static str],
    meant: &'static [&'static str],
    note: &'static str,
}

const fn word(words: &'static [&'static str], meant: &'static [&'static str]) -> Word {
    Word { words, meant, note: "" }
}

/// The table: words that people write, and what they mean by them.
const WORDS: &[Word] = &[
    word(&["coefficient", "coeff", "strength", "multiplier", "alpha"], &["coef", "factor"]),
    word(&["samples", "n_samples", "num_samples", "noise_samples"], &["/corrupt/samples"]),
    word(&["seed", "random_seed"], &["seed", "/corrupt/seed", "/aggregate/ci/seed"]),
    word(&["std", "stdev", "noise_std", "noise_level", "noise_scale"], &["sigma", "/corrupt/sigma"]),
    word(&["noise", "corruption", "corrupted_run"], &["/corrupt"]),
    Word {
        words: &["foil", "foils", "incorrect", "wrong_answer", "distractor"],
        meant: &["foil", "/dataset/inline/0/foil", "/0/foil", "/targets"],
        note: "a foil among `targets` is compared by the metric `logit_diff:target-foil`",
    },
    // Of objects, the field of the same name.
    word(
        &["layers", "positions", "heads", "dims", "window", "site"],
        &["/interventions/0", "/arms/NAME", "/arms/NAME/0", "/read/capture/0"],
    ),
    word(&["layer", "layer_index", "block", "blocks"], &["layers", "layer"]),
    word(&["position", "token_positions", "pos"], &["positions"]),
    word(&["head", "head_index"], &["heads"]),
    word(&["dim", "dimensions", "neuron", "neurons", "channels", "features"], &["dims"]),
    word(&["component", "hook", "hook_name", "hook_point", "module", "where"], &["site"]),
    word(&["operation", "action", "intervention_type"], &["op"]),
    word(&["value", "values", "direction_vector", "steering_vector"], &["vector", "values"]),
    word(&["scale", "scaling"], &["factor", "coef"]),
    word(&["normalize_norm", "match_norm", "keep_norm", "preserve_norm"], &["norm_match"]),
    Word {
        words: &["normalise", "normalize", "normalisation", "normalization"],
        meant: &["normalise", "reference"],
        note: "a sweep's effects are normalised between `base`, which counts as 0, and `reference`, which counts as 1",
    },
    word(&["intervention", "edits", "edit", "patches", "patch"], &["interventions", "/arms"]),
    word(&["text", "input", "sentence", "clean_prompt"], &["prompt", "/prompt"]),
    word(&["prompts", "texts", "inputs"], &["runs", "cases", "/dataset/inline", "a"]),
    word(&["token_ids", "input_ids", "ids"], &["tokens"]),
    word(&["add_bos", "prepend_bos", "add_special_tokens"], &["bos"]),
    word(&["answer", "label", "correct", "correct_answer", "expected", "target_token"], &["target"]),
    word(&["answers", "labels", "target_tokens"], &["targets"]),
    word(&["metric", "measure", "measures"], &["metrics"]),
    word(&["corrupted_prompt", "counterfactual"], &["source", "corrupted", "/dataset/inline/0/corrupted"]),
    word(&["clean"], &["base", "/base", "/prompt"]),
    word(&["top_k", "top", "n_top"], &["topk", "/aggregate/topk", "/read/topk"]),
    Word {
        words: &["direction"],
        meant: &["base", "vector", "/interventions/0/source/vector"],
        note: "the base `clean` is noising, `corrupted`, the default, denoising",
    },
    word(&["sever", "severed"], &["freeze"]),
    word(&["per_case"], &["/keep/cells"]),
    word(&["lens", "logitlens", "logit_lenses"], &["logit_lens", "/read/logit_lens"]),
    word(
        &["attentions", "attention_patterns", "patterns", "attn_patterns"],
        &["attention", "/read/attention"],
    ),
    word(&["captures", "cache", "activations", "hidden_states", "return_activations"], &["/read/capture"]),
    word(&["dla", "attributions", "direct_logit_attribution"], &["attribution", "/read/attribution"]),
    word(&["examples", "data", "rows", "items"], &["cases", "/dataset/inline"]),
    word(&["cases", "inline"], &["/dataset/inline"]),
    word(&["grid", "axes", "over"], &["sweep"]),
    word(&["group_by", "groupby", "average_by"], &["by", "/aggregate/by"]),
    word(&["model_name", "model_id"], &["model"]),
    word(&["background", "wait", "respond_async"], &["async", "/async"]),
    Word {
        words: &["format", "output_format", "response_format"],
        meant: &[],
        note: "the form of a result is chosen by `?format=` or the header Accept",
    },
    Word {
        words: &["notify", "webhook", "callback", "callback_url"],
        meant: &[],
        note: "the server opens no connections to addresses that it is told; follow GET /v1/jobs/{id}/events, or run `mediant watch`",
    },
    Word {
        words: &["swap"],
        meant: &[],
        note: "send it to POST /v1/sweep, or a second request with `base` and the source exchanged",
    },
    Word {
        words: &["dataset", "dataset_id"],
        meant: &["/dataset"],
        note: "send it to POST /v1/sweep, or list the prompts as `cases` of POST /v1/trace",
    },
    Word {
        words: &["temperature", "top_p", "min_p"],
        meant: &["/sampling"],
        note: "tokens are drawn by POST /v1/generate alone; here the distribution over the next token is read",
    },
    Word {
        words: &["max_tokens", "max_new_tokens", "max_length", "stop"],
        meant: &["max_tokens"],
        note: "texts are written by POST /v1/generate alone; here the distribution over the next token is read",
    },
];

/// Words whose note says that they cannot be had here at all.
const NOT_HERE: [&str; 4] = ["notify", "webhook", "swap", "dataset"];

/// What is wrong with a field that its object does not have: code, detail and fix.
pub(super) fn unknown(
    endpoint: Endpoint,
    at: &str,
    name: &str,
    known: &[&str],
) -> (&'static str, String, String) {
    let fields = format!("the fields are {}", known.join(", "));
    let said = format!("no field is called {:?}", shortened(name));
    // Longer words can't be near a field's name, and the distance costs their product.
    if name.len() > 64 {
        return (code::UNKNOWN_FIELD, said, fields);
    }
    let found = Found::new(endpoint, at, name, known);
    let entry = WORDS.iter().filter(|word| word.words.contains(&name));
    let note = entry.map(|word| word.note).find(|note| !note.is_empty());
    let with_note = |fix: String| note.map_or(fix.clone(), |note| format!("{fix}; {note}"));
    if let Some(meant) = found.here() {
        let fix = with_note(format!("write `{meant}`"));
        return (code::UNKNOWN_FIELD, format!("{said}; did you mean `{meant}`?"), format!("{fix}; {fields}"));
    }
    if let Some(place) = found.elsewhere() {
        let fix = with_note(format!("write {}", shape(&place)));
        let detail = format!("{said} here; did you mean `{place}`?");
        return (code::UNKNOWN_FIELD, detail, format!("{fix}; {fields}"));
    }
    if let Some(note) = note {
        let code = if NOT_HERE.contains(&name) { code::NOT_SUPPORTED } else { code::UNKNOWN_FIELD };
        return (code, format!("{said} here"), format!("leave it out: {note}"));
    }
    if let Some(meant) = nearest(name, known.iter().copied(), likely) {
        return (code::UNKNOWN_FIELD, format!("{said}; did you mean `{meant}`?"), fields);
    }
    // What depends on another field (a corruption on its method, a trace on `cases`) is a field here, but not now.
    if places_of(endpoint).is_some_and(|places| places.all.contains(&format!("{at}/{name}"))) {
        let detail = format!("{said} in this form of the request");
        return (code::UNKNOWN_FIELD, detail, format!("it goes with another method or form; {fields}"));
    }
    if let Some((other, place)) = found.at_others() {
        let detail = format!("{said} here; POST {} has it, as `{place}`", other.path());
        return (
            code::UNKNOWN_FIELD,
            detail,
            format!("leave it out, or send it to POST {}; {fields}", other.path()),
        );
    }
    (code::UNKNOWN_FIELD, said, fields)
}

/// What a name can have meant in an object.
struct Found<'a> {
    endpoint: Endpoint,
    /// The object, as places are written: `NAME` for any name, 0 for any index.
    at: &'a str,
    name: &'a str,
    known: &'a [&'a str],
    meant: Vec<&'static str>,
}

impl<'a> Found<'a> {
    fn new(endpoint: Endpoint, at: &'a str, name: &'a str, known: &'a [&'a str]) -> Self {
        let entries = WORDS.iter().filter(|word| word.words.contains(&name));
        let meant = entries.flat_map(|word| word.meant.iter().copied()).collect();
        Self { endpoint, at, name, known, meant }
    }

    /// A field of the same object.
    fn here(&self) -> Option<&'a str> {
        let own = |meant: &'static str| match meant.rsplit_once('/') {
            Some((object, name)) => (!object.is_empty() && object == self.at).then_some(name),
            None => Some(meant),
        };
        let mut meant = self.meant.iter().filter_map(|meant| own(meant));
        let synonym = meant.find_map(|meant| self.known.iter().find(|known| **known == meant));
        let slip =
            || if self.name.len() > 3 { nearest(self.name, self.known.iter().copied(), |_| 1) } else { None };
        synonym.copied().or_else(slip)
    }

    /// A place in the same body.
    fn elsewhere(&self) -> Option<String> {
        let places = places_of(self.endpoint)?;
        let own = pattern(&format!("{}/{}", self.at, escape(self.name)), places);
        let there = |place: &str| (place != own && places.all.contains(place)).then(|| place.to_owned());
        let (pointers, names): (Vec<&str>, Vec<&str>) = self.meant.iter().partition(|m| m.starts_with('/'));
        let listed = pointers.iter().find_map(|m| there(m).or_else(|| there(&format!("{m}/{}", self.name))));
        let called = |name: &str| places.nearest(name, &own);
        listed.or_else(|| called(self.name)).or_else(|| names.into_iter().find_map(called))
    }

    /// Another endpoint that has the field.
    fn at_others(&self) -> Option<(Endpoint, String)> {
        let mut others = PLACES.iter().filter(|(other, _)| *other != self.endpoint);
        others.find_map(|(other, places)| Some((*other, places.nearest(self.name, "")?)))
    }
}

/// JSON with nothing but the way to a place: `{"corrupt": {"samples": …}}`.
fn shape(place: &str) -> String {
    place.split('/').skip(1).collect::<Vec<_>>().into_iter().rev().fold("…".to_owned(), |inner, step| {
        match step {
            "0" => format!("[{inner}]"),
            name => format!("{{\"{}\": {inner}}}", name.replace("~1", "/").replace("~0", "~")),
        }
    })
}

/// The places of an endpoint's body.
#[derive(Debug, Default)]
pub struct Places {
    all: BTreeSet<String>,
    by_name: BTreeMap<String, Vec<String>>,
}

impl Places {
    /// The place of that name with the shortest way, other than `own`.
    fn nearest(&self, name: &str, own: &str) -> Option<String> {
        let places = self.by_name.get(name)?.iter().filter(|place| *place != own);
        places.min_by_key(|place| place.matches('/').count()).cloned()
    }

    fn add(&mut self, place: String, name: &str) {
        if self.all.insert(place.clone()) {
            self.by_name.entry(name.to_owned()).or_default().push(place);
        }
    }

    /// Adds what a schema lets in below `at`.
    fn walk(&mut self, schema: &Value, at: &str, schemas: &HashMap<String, Value>, inside: &mut Vec<String>) {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default().to_owned();
            if let Some(target) = schemas.get(&name).filter(|_| !inside.contains(&name)) {
                inside.push(name);
                self.walk(target, at, schemas, inside);
                inside.pop();
            }
            return;
        }
        for key in ["allOf", "oneOf", "anyOf"] {
            for part in schema[key].as_array().into_iter().flatten() {
                self.walk(part, at, schemas, inside);
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let place = format!("{at}/{}", escape(name));
            self.add(place.clone(), name);
            self.walk(property, &place, schemas, inside);
        }
        if schema["items"].is_object() {
            self.walk(&schema["items"], &format!("{at}/0"), schemas, inside);
        }
        if schema["additionalProperties"].is_object() {
            self.walk(&schema["additionalProperties"], &format!("{at}/NAME"), schemas, inside);
        }
    }

    /// With those of another schema.
    pub(super) fn and(mut self, other: Self) -> Self {
        for (name, found) in other.by_name {
            for place in found {
                self.add(place, &name);
            }
        }
        self
    }

    /// Without what is below `object`, but for these of its fields.
    pub(super) fn only(mut self, object: &str, fields: &[&str]) -> Self {
        let below = format!("{object}/");
        let keep = |place: &String| match place.strip_prefix(&below) {
            None => true,
            Some(rest) => fields.contains(&rest.split('/').next().unwrap_or_default()),
        };
        self.all.retain(keep);
        self.by_name.values_mut().for_each(|places| places.retain(keep));
        self
    }
}

/// A pointer with 0 for every index and `NAME` for every name of the caller's own.
fn pattern(pointer: &str, places: &Places) -> String {
    let mut known = String::new();
    for step in pointer.split('/').skip(1) {
        let index = step.bytes().all(|byte| byte.is_ascii_digit()) && !step.is_empty();
        let named = format!("{known}/{step}");
        let any = format!("{known}/NAME/");
        known = if index {
            format!("{known}/0")
        } else if !places.all.contains(&named) && places.all.iter().any(|place| place.starts_with(&any)) {
            format!("{known}/NAME")
        } else {
            named
        };
    }
    known
}

/// The body of an endpoint.
pub trait Body: ToSchema + Sized {
    /// Whose.
    const AT: Endpoint;

    /// Its fields, by its declaration.
    fn places() -> Places {
        of::<Self>("")
    }
}

/// The fields of every endpoint's body, by the contract.
static PLACES: LazyLock<Vec<(Endpoint, Places)>> = LazyLock::new(super::places);

fn places_of(endpoint: Endpoint) -> Option<&'static Places> {
    PLACES.iter().find(|(known, _)| *known == endpoint).map(|(_, places)| places)
}

/// The places of a body of this schema, which stands at `at`.
pub(super) fn of<T: ToSchema>(at: &str) -> Places {
    let mut referenced: Vec<(String, RefOr<Schema>)> = Vec::new();
    T::schemas(&mut referenced);
    let json = |schema: &RefOr<Schema>| serde_json::to_value(schema).unwrap_or_default();
    let schemas = referenced.iter().map(|(name, schema)| (name.clone(), json(schema))).collect();
    let mut places = Places::default();
    places.walk(&json(&T::schema()), at, &schemas, &mut Vec::new());
    places
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::activation::UploadSpec;
    use crate::spec::align::AlignSpec;
    use crate::spec::cases::CasesSpec;
    use crate::spec::corruption::METHODS;
    use crate::spec::dataset::Reader;
    use crate::spec::experiment::Form as _;
    use crate::spec::generate::{GenerateSpec, TextCase};
    use crate::spec::lens::LensBody;
    use crate::spec::op::OPS;
    use crate::spec::patch::{PatchBody, PatchSpec};
    use crate::spec::problem::{FieldProblem, Problems};
    use crate::spec::run::{RunBody, RunSpec};
    use crate::spec::surprisal::SurprisalSpec;
    use crate::spec::sweep::{CaseForm, SweepBody, SweepSpec};
    use crate::spec::tokenize::TokenizeSpec;
    use crate::spec::trace::{TraceBody, TraceSpec};

    const RUN: Endpoint = RunBody::AT;
    const PATCH: Endpoint = PatchBody::AT;
    const TRACE: Endpoint = TraceBody::AT;
    const SWEEP: Endpoint = SweepBody::AT;
    const DATASETS: Endpoint = CaseForm::AT;

    fn problems(endpoint: Endpoint, body: &Value) -> Vec<FieldProblem> {
        let mut out = Problems::default();
        match endpoint.path() {
            "/v1/run" => drop(RunSpec::read(body, &mut out)),
            "/v1/lens" => drop(LensBody::read(body, &mut out)),
            "/v1/patch" => drop(PatchSpec::read(body, &mut out)),
            "/v1/surprisal" => drop(SurprisalSpec::read(body, &mut out)),
            // A data set's cases are requests of their own.
            "/v1/generate" => match TextCase::all(body) {
                Ok(cases) => cases.iter().for_each(|case| {
                    let mut of_case = Problems::default();
                    GenerateSpec::read(&case.body, &mut of_case);
                    for problem in of_case.0 {
                        let at = case.restore(&problem.pointer);
                        out.push(at, problem.code, problem.detail, problem.fix);
                    }
                }),
                Err(problems) => out = problems,
            },
            "/v1/trace" if body.get("cases").is_some() => drop(CasesSpec::read(body, &mut out)),
            "/v1/trace" => drop(TraceSpec::read(body, &mut out)),
            "/v1/sweep" => drop(SweepSpec::read(body, &mut out)),
            "/v1/align" => drop(AlignSpec::read(body, &mut out)),
            "/v1/tokenize" => drop(TokenizeSpec::read(body, &mut out)),
            "/v1/activations" => drop(UploadSpec::read(body, &mut out)),
            "/v1/datasets" => {
                let never = || false;
                let mut reader = Reader::new(&never);
                let _ = body.as_array().unwrap().iter().try_for_each(|case| reader.case(case));
                out = reader.finish().err().unwrap_or_default();
            }
            other => panic!("{other} is read by no test: say how"),
        }
        out.0
    }

    /// A body with `value` at a place.
    fn with(place: &str, value: Value) -> Value {
        let steps: Vec<&str> = place.split('/').skip(1).collect();
        steps.into_iter().rev().fold(value, |inner, step| match step {
            "0" => json!([inner]),
            name => json!({ name: inner }),
        })
    }

    /// Bodies with `value` at a place, in each form in which a request may have it.
    fn forms(endpoint: Endpoint, place: &str, value: &Value) -> Vec<Value> {
        let mut plain = with(place, value.clone());
        // Which tokens are meant of a span, `which` says.
        if let Some(object) = place.strip_suffix("/which") {
            plain.pointer_mut(object).unwrap()["span"] = json!("a");
        }
        // Without a case there is no sweep to look further at, and an arm has keys if it cuts edges.
        let first = place.split('/').nth(1).unwrap();
        if endpoint == SWEEP && !["dataset", "runs"].contains(&first) {
            plain["dataset"] = json!({"inline": [{"prompt": "a"}]});
        }
        if endpoint == TRACE && place.starts_with("/arms/NAME/keys") {
            plain["arms"]["NAME"]["op"] = json!("knockout");
        }
        let mut forms = vec![plain.clone()];
        // A trace of many prompts has fields of its own, a corruption those of its method, a source those of its operation.
        let mut cases = plain.clone();
        if endpoint == TRACE && first != "cases" {
            cases["cases"] = json!([{}]);
            forms.push(cases);
        }
        if let Some(corrupt) = plain["corrupt"].as_object().cloned() {
            for method in METHODS {
                let mut form = plain.clone();
                form["corrupt"] = Value::Object(corrupt.clone());
                form["corrupt"]["method"] = json!(method.name);
                forms.push(form);
            }
        }
        let lists = ["/interventions/0/", "/arms/NAME/0/", "/branches/NAME/0/"];
        for (at, _) in lists.iter().flat_map(|list| place.match_indices(list)) {
            let object = &place[..at + place[at..].find("/0").unwrap() + 2];
            for op in OPS {
                let mut form = plain.clone();
                form.pointer_mut(object).unwrap()["op"] = json!(op.name);
                forms.push(form);
            }
        }
        forms
    }

    /// Objects of an endpoint's body, each with the fields that its schema has.
    fn objects(endpoint: Endpoint) -> BTreeMap<String, BTreeSet<String>> {
        let mut objects: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for place in &places_of(endpoint).unwrap().all {
            let (object, field) = place.rsplit_once('/').unwrap();
            objects.entry(object.to_owned()).or_default().insert(field.to_owned());
        }
        assert!(objects[if endpoint == DATASETS { "/0" } else { "" }].len() >= 4, "{endpoint:?}");
        objects
    }

    #[test]
    fn the_reader_lets_in_the_fields_that_the_schema_has_and_no_others() {
        let mut faults = Vec::new();
        for (endpoint, _) in PLACES.iter() {
            let endpoint = *endpoint;
            // What is named of an earlier sweep is looked up before the request is read.
            for (object, fields) in
                objects(endpoint).into_iter().filter(|(object, _)| !object.ends_with("/cells"))
            {
                let place = format!("{object}/zzz");
                let mut told = BTreeSet::new();
                for body in forms(endpoint, &place, &json!(1)) {
                    let wrong = problems(endpoint, &body);
                    let unknown = wrong.iter().find(|p| p.pointer == place && p.code == code::UNKNOWN_FIELD);
                    let fix = unknown.map_or("", |unknown| unknown.fix.as_str());
                    let list = fix.strip_prefix("the fields are ").unwrap_or_default();
                    told.extend(list.split(", ").filter(|name| !name.is_empty()).map(str::to_owned));
                }
                if told != fields {
                    faults.push(format!("{endpoint:?} {object:?}: read {told:?}, declared {fields:?}"));
                }
            }
        }
        assert!(faults.is_empty(), "{faults:#?}");
    }

    /// Whether a field is looked up before the request is read: a stored data set, cells of an earlier sweep.
    fn looked_up(place: &str) -> bool {
        place.contains("/cells/") || place.ends_with("dataset/id") || place.ends_with("minus/id")
    }

    #[test]
    fn every_field_is_read() {
        let mut unread = Vec::new();
        let nonsense = [json!({"zzz": 1}), json!(""), json!(true), json!(-1.5), json!([[]])];
        for (endpoint, _) in PLACES.iter() {
            let endpoint = *endpoint;
            for place in places_of(endpoint).unwrap().all.iter().filter(|place| !looked_up(place)) {
                let seen = |value: &Value| {
                    forms(endpoint, place, value).iter().flat_map(|body| problems(endpoint, body)).any(
                        |problem| {
                            let below = problem.pointer.strip_prefix(place.as_str());
                            let known = problem.code != code::UNKNOWN_FIELD && problem.code != code::CONFLICT;
                            below.is_some_and(|rest| known && rest.is_empty() || rest.starts_with('/'))
                        },
                    )
                };
                if !nonsense.iter().any(seen) {
                    unread.push(format!("{endpoint:?} {place}"));
                }
            }
        }
        assert!(unread.is_empty(), "{unread:#?}");
    }

    #[test]
    fn every_word_of_the_table_that_stands_for_a_field_finds_it_somewhere() {
        for word in WORDS.iter().filter(|word| !word.meant.is_empty()) {
            let found = |meant: &&str| {
                PLACES.iter().any(|(endpoint, _)| {
                    let places = places_of(*endpoint).unwrap();
                    let below = word.words.iter().any(|name| places.all.contains(&format!("{meant}/{name}")));
                    places.all.contains(*meant) || places.by_name.contains_key(*meant) || below
                })
            };
            for meant in word.meant {
                assert!(found(meant), "{meant} is nowhere");
            }
        }
    }

    #[test]
    fn fields_that_belong_elsewhere_and_synonyms_are_told_with_their_pointer() {
        let run = json!({"prompt": "a"});
        let patch = json!({"base": "a", "source": "b"});
        let trace = json!({"prompt": "a b", "subject": "a", "target": " c"});
        let sweep = json!({"dataset": {"inline": [{"prompt": "a", "target": "b"}]}});
        let edit = json!({"runs": {"a": "x", "b": "y"}, "base": "a", "interventions": [{"site": "resid_post", "op": "add"}]});
        let averaged = json!({"dataset": sweep["dataset"], "aggregate": {"by": ["layer"]}, "keep": {}});
        let cases = json!({"cases": [trace]});
        let arm =
            json!({"prompt": "a b", "subject": "a", "target": " c", "arms": {"a": {"site": "resid_post"}}});
        for (endpoint, body, place, hint) in [
            (RUN, &run, "/logit_lens", "/read/logit_lens"),
            (RUN, &run, "/attention", "/read/attention"),
            (RUN, &run, "/capture", "/read/capture"),
            (RUN, &run, "/layers", "/read/capture/0/layers"),
            (RUN, &run, "/top_k", "/read/topk"),
            (PATCH, &patch, "/dims", "/interventions/0/dims"),
            (PATCH, &patch, "/norm_match", "/interventions/0/norm_match"),
            (PATCH, &patch, "/positions", "/interventions/0/positions"),
            (PATCH, &patch, "/layers", "/interventions/0/layers"),
            (PATCH, &patch, "/foil", "/targets"),
            (PATCH, &patch, "/coefficient", "/interventions/0/coef"),
            (PATCH, &edit, "/interventions/0/coefficient", "coef"),
            (PATCH, &edit, "/interventions/0/layer", "layers"),
            (PATCH, &edit, "/interventions/0/strict", "/strict"),
            (TRACE, &trace, "/samples", "/corrupt/samples"),
            (TRACE, &trace, "/sigma", "/corrupt/sigma"),
            (TRACE, &trace, "/logit_lens", "POST /v1/run has it, as `/read/logit_lens`"),
            (TRACE, &trace, "/dims", "/arms/NAME/dims"),
            (SWEEP, &sweep, "/layers", "/arms/NAME/0/layers"),
            (SWEEP, &sweep, "/foil", "/dataset/inline/0/foil"),
            (SWEEP, &sweep, "/samples", "/corrupt/samples"),
            (SWEEP, &sweep, "/cases", "/dataset/inline"),
            // What was called otherwise.
            (SWEEP, &averaged, "/aggregate/top_k", "`topk`"),
            (SWEEP, &averaged, "/keep/per_case", "`cells`"),
            (SWEEP, &averaged, "/normalise", "`reference`"),
            (TRACE, &trace, "/direction", "`base`"),
            (TRACE, &cases, "/direction", "`base`"),
            (TRACE, &arm, "/arms/a/sever", "`freeze`"),
            (PATCH, &patch, "/corrupt", "POST /v1/trace has it"),
        ] {
            let mut body = body.clone();
            let (parent, name) = place.rsplit_once('/').unwrap();
            body.pointer_mut(parent).unwrap()[name] = json!(1);
            let wrong = problems(endpoint, &body);
            let problem = wrong.iter().find(|problem| problem.pointer == place).unwrap();
            assert!(problem.detail.contains(hint), "{endpoint:?} {place}: {problem:?}");
            assert!(!problem.detail.contains("is not served"), "{problem:?}");
            if hint.starts_with('`') {
                assert!(problem.fix.starts_with(&format!("write {hint}")), "{problem:?}");
            }
        }
    }

    #[test]
    fn what_is_not_served_says_what_to_do_instead() {
        let wrong = problems(PATCH, &json!({"base": "a", "source": "b", "swap": true}));
        assert_eq!((wrong[0].code, wrong[0].pointer.as_str()), (code::NOT_SUPPORTED, "/swap"));
        assert!(wrong[0].fix.contains("POST /v1/sweep"));
        let sweep = json!({"dataset": {"inline": [{"prompt": "a", "target": "b"}]}, "notify": {}});
        let wrong = problems(SWEEP, &sweep);
        assert!(wrong[0].fix.contains("/v1/jobs/{id}/events"), "{wrong:?}");
        let typo = problems(SWEEP, &json!({"datasett": 1}));
        assert!(!typo.iter().any(|problem| problem.fix.contains("notify")), "{typo:?}");
    }

    #[test]
    fn a_slip_of_the_pen_is_told_from_a_field_of_another_object() {
        let wrong = problems(TRACE, &json!({"prompt": "a", "subject": "a", "target": "b", "layer": 1}));
        assert!(wrong[0].detail.contains("did you mean `layers`?"), "{wrong:?}");
        let wrong = problems(RUN, &json!({"promt": "a"}));
        assert!(wrong.iter().any(|problem| problem.detail.contains("did you mean `prompt`?")), "{wrong:?}");
    }
}
