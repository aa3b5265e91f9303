//! Data sets: cases stored for sweeps, as JSON, JSON lines or CSV, checked line by line.

use serde_json::{Map, Value};

use super::canonical::sorted;
use super::problem::{Problems, code};
use super::read::Node;
use super::sweep::SweepCase;

/// Columns that a CSV file may have.
pub const COLUMNS: [&str; 10] =
    ["id", "group", "prompt", "subject", "corrupted", "target", "foil", "target_scoring", "bos", "tokens"];

/// Cases that can be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Cases {
    /// Canonical text: a JSON object a line, its fields in the order of their names. Equal sets have equal texts.
    pub text: String,
    /// How many.
    pub len: usize,
}

/// One case of a file and the line that it is on.
pub type Line = (usize, Value);

/// Checks cases, each on its own and their names together.
pub fn check(lines: &[Line]) -> Result<Cases, Problems> {
    let mut out = Problems::default();
    let mut seen = std::collections::HashMap::new();
    let mut text = String::new();
    for (index, (line, value)) in lines.iter().enumerate() {
        if out.0.len() >= Problems::MOST {
            break;
        }
        let mut of_line = Problems::default();
        let node = Node { value, at: format!("/{index}") };
        let case = SweepCase::check(&node, index, &mut of_line);
        for mut problem in of_line.0 {
            problem.detail = format!("line {line}: {}", problem.detail);
            out.0.push(problem);
        }
        if let Some(first) = case.and_then(|case| seen.insert(case.id, *line)) {
            let detail = format!("line {line}: the case of line {first} has this name too");
            let fix = "give each case a name of its own, or leave out `id`";
            out.push(format!("/{index}/id"), code::DUPLICATE, detail, fix);
        }
        text.push_str(&sorted(value).to_string());
        text.push('\n');
    }
    out.0.truncate(Problems::MOST);
    if lines.is_empty() && out.is_empty() {
        out.push("", code::EMPTY, "there is no case", "send at least one");
    }
    out.or(Some(Cases { text, len: lines.len() }))
}

/// The lines of a JSON document: a list of cases.
pub fn of_json(value: Value) -> Result<Vec<Line>, Problems> {
    match value {
        Value::Array(cases) if cases.len() > MOST_CASES => Err(too_many()),
        Value::Array(cases) => Ok(cases.into_iter().enumerate().map(|(i, case)| (i + 1, case)).collect()),
        other => {
            let mut out = Problems::default();
            Node::root(&other).wrong("a list of cases", &mut out);
            Err(out)
        }
    }
}

/// Most cases of a set.
pub const MOST_CASES: usize = 100_000;

fn too_many() -> Problems {
    let mut out = Problems::default();
    let detail = format!("more than {MOST_CASES} cases");
    out.push("", code::LIMIT, detail, "store them as several sets");
    out
}

/// JSON lines, each read by `parse`. Empty lines are passed over.
pub fn of_lines(text: &str, parse: impl Fn(&str) -> Result<Value, String>) -> Result<Vec<Line>, Problems> {
    let mut out = Problems::default();
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if lines.len() >= MOST_CASES {
            out.0.extend(too_many().0);
            break;
        }
        match parse(line) {
            Ok(value) => lines.push((number + 1, value)),
            Err(error) => {
                let detail = format!("line {}: {error}", number + 1);
                out.push(
                    format!("/{}", lines.len()),
                    code::WRONG_TYPE,
                    detail,
                    "write one JSON object a line",
                );
            }
        }
        if out.0.len() >= Problems::MOST {
            break;
        }
    }
    out.or(Some(lines))
}

/// CSV with a header. Cells that are empty are fields left out; texts keep their spaces, which targets need.
pub fn of_csv(text: &str) -> Result<Vec<Line>, Problems> {
    let mut out = Problems::default();
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(text.as_bytes());
    let header: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(|name| name.trim().to_owned()).collect(),
        Err(error) => {
            out.push("", code::WRONG_TYPE, error.to_string(), "write a header of column names first");
            return Err(out);
        }
    };
    for name in header.iter().filter(|name| !COLUMNS.contains(&name.as_str())) {
        let detail = format!("no column is called {name:?}{}", super::read::did_you_mean(name, &COLUMNS));
        out.push("", code::UNKNOWN_FIELD, detail, format!("the columns are {}", COLUMNS.join(", ")));
    }
    for (i, name) in header.iter().enumerate().filter(|(i, name)| header[..*i].contains(name)) {
        let detail = format!("column {} is called {name:?} too", i + 1);
        out.push("", code::DUPLICATE, detail, "give each column a name of its own");
    }
    let mut lines = Vec::new();
    for record in reader.records() {
        if lines.len() >= MOST_CASES {
            out.0.extend(too_many().0);
            break;
        }
        match record {
            Ok(record) => {
                let line = record.position().map_or(0, |position| position.line() as usize);
                let cells = header.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
                let cells = cells.map(|(name, cell)| (name.clone(), field(name, cell)));
                lines.push((line, Value::Object(cells.collect::<Map<String, Value>>())));
            }
            Err(error) => {
                out.push(
                    format!("/{}", lines.len()),
                    code::WRONG_TYPE,
                    error.to_string(),
                    "quote texts with commas",
                );
            }
        }
        if out.0.len() >= Problems::MOST {
            break;
        }
    }
    out.or(Some(lines))
}

/// A cell of CSV as the field of JSON that it stands for.
fn field(name: &str, cell: &str) -> Value {
    match name {
        // A list, or a flag; what is neither is told so when the case is read.
        "tokens" | "bos" => serde_json::from_str(cell).unwrap_or_else(|_| cell.into()),
        _ => cell.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(line: &str) -> Result<Value, String> {
        serde_json::from_str(line).map_err(|error| error.to_string())
    }

    #[test]
    fn the_three_forms_of_a_set_have_one_canonical_text() {
        let json = json!([{"prompt": "a, b", "target": " c"}, {"target": " f", "prompt": "d", "group": "g"}]);
        let lines = "{\"target\": \" c\", \"prompt\": \"a, b\"}\n\n{\"prompt\": \"d\", \"group\": \"g\", \"target\": \" f\"}\n";
        let csv = "prompt,target,group\n\"a, b\", c,\nd, f,g\n";
        let sets = [of_json(json).unwrap(), of_lines(lines, parse).unwrap(), of_csv(csv).unwrap()];
        let texts: Vec<Cases> = sets.iter().map(|lines| check(lines).unwrap()).collect();
        assert_eq!(texts[0].len, 2);
        assert_eq!(texts[0].text.lines().next().unwrap(), "{\"prompt\":\"a, b\",\"target\":\" c\"}");
        assert_eq!(texts[0], texts[1]);
        assert_eq!(texts[0], texts[2]);
    }

    #[test]
    fn problems_name_the_line_and_the_field() {
        let lines = of_lines("{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n", parse).unwrap();
        let problems = check(&lines).unwrap_err();
        let unknown = problems.0.iter().find(|p| p.pointer == "/1/promt").unwrap();
        assert!(unknown.detail.starts_with("line 2: ") && unknown.detail.contains("did you mean `prompt`"));
        assert!(of_lines("{\"prompt\": }\n", parse).unwrap_err().0[0].detail.starts_with("line 1: "));
        let problems = of_csv("prompt,tagret\na,b\n").unwrap_err();
        assert!(problems.0[0].detail.contains("did you mean `target`"));
        assert!(of_csv("prompt,target\na\n").is_err());
        assert_eq!(of_csv("prompt,prompt\na,b\n").unwrap_err().0[0].code, code::DUPLICATE);
        let same = check(&of_csv("id,prompt\nx,a\nx,b\n").unwrap()).unwrap_err();
        assert_eq!((same.0[0].pointer.as_str(), same.0[0].code), ("/1/id", code::DUPLICATE));
        assert_eq!(check(&[]).unwrap_err().0[0].code, code::EMPTY);
    }
}
