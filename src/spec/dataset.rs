//! Data sets: cases stored for sweeps, as JSON, JSON lines or CSV, checked line by line.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use serde_json::{Map, Value};

use super::canonical::sorted;
use super::hints::Body as _;
use super::problem::{Problems, code};
use super::read::Node;
use super::sweep::{CaseForm, SweepCase};

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

/// Most cases of a set.
pub const MOST_CASES: usize = 100_000;
/// Most columns of a CSV file that are looked at: more than ten are wrong anyway.
const MOST_COLUMNS: usize = 100;

/// Reads cases one by one, each on its own and their names together, until all are read, as many problems are found as are
/// shown, or `stop` says so.
pub struct Reader<'s> {
    stop: &'s dyn Fn() -> bool,
    out: Problems,
    /// The line of each name.
    seen: HashMap<String, usize>,
    text: String,
    /// Cases met, read or not.
    met: usize,
}

impl<'s> Reader<'s> {
    /// Nothing read yet.
    pub fn new(stop: &'s dyn Fn() -> bool) -> Self {
        Self { stop, out: Problems::default(), seen: HashMap::new(), text: String::new(), met: 0 }
    }

    /// The next case of a list.
    pub fn case(&mut self, value: &Value) -> ControlFlow<()> {
        self.add(self.met + 1, value)
    }

    /// JSON lines, each read by `parse`. Empty lines are passed over.
    pub fn lines(&mut self, text: &str, parse: impl Fn(&str) -> Result<Value, String>) {
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let flow = match parse(line) {
                Ok(value) => self.add(index + 1, &value),
                Err(error) => {
                    self.refuse(format!("line {}: {error}", index + 1), "write one JSON object a line")
                }
            };
            if flow.is_break() {
                return;
            }
        }
    }

    /// CSV with a header. Cells that are empty are fields left out; texts keep their spaces, which targets need.
    pub fn csv(&mut self, text: &str) {
        let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(text.as_bytes());
        let header = match reader.headers() {
            Ok(header) => header,
            Err(error) => {
                let fix = "write a header of column names first";
                self.out.push("", code::WRONG_TYPE, error.to_string(), fix);
                return;
            }
        };
        if header.len() > MOST_COLUMNS {
            let detail = format!("{} columns", header.len());
            self.out.push("", code::LIMIT, detail, format!("the columns are {}", COLUMNS.join(", ")));
            return;
        }
        let header: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        for name in header.iter().filter(|name| !COLUMNS.contains(&name.as_str())) {
            let detail = format!("no column is called {name:?}{}", super::read::did_you_mean(name, &COLUMNS));
            let fix = format!("the columns are {}", COLUMNS.join(", "));
            self.out.push("", code::UNKNOWN_FIELD, detail, fix);
        }
        let mut names = HashSet::new();
        for (i, name) in header.iter().enumerate().filter(|(_, name)| !names.insert(name.as_str())) {
            let detail = format!("column {} is called {name:?} too", i + 1);
            self.out.push("", code::DUPLICATE, detail, "give each column a name of its own");
        }
        if !self.out.is_empty() {
            // Every case would have the same unknown fields.
            return;
        }
        for record in reader.records() {
            let flow = match record {
                Ok(record) => {
                    let line = record.position().map_or(0, |position| position.line() as usize);
                    let cells = header.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
                    let cells = cells.map(|(name, cell)| (name.clone(), field(name, cell)));
                    self.add(line, &Value::Object(cells.collect::<Map<String, Value>>()))
                }
                Err(error) => self.refuse(error.to_string(), "quote texts with commas"),
            };
            if flow.is_break() {
                return;
            }
        }
    }

    /// What was read.
    ///
    /// # Errors
    /// Everything wrong, each with its line.
    pub fn finish(mut self) -> Result<Cases, Problems> {
        if self.met == 0 && self.out.is_empty() {
            self.out.push("", code::EMPTY, "there is no case", "send at least one");
        }
        self.out.or(Some(Cases { text: self.text, len: self.met }))
    }

    fn add(&mut self, line: usize, value: &Value) -> ControlFlow<()> {
        let index = self.met;
        if index >= MOST_CASES {
            let detail = format!("more than {MOST_CASES} cases");
            self.out.push("", code::LIMIT, detail, "store them as several sets");
            return ControlFlow::Break(());
        }
        self.met += 1;
        let mut of_line = Problems::default();
        let node = Node { value, at: format!("/{index}"), of: CaseForm::AT };
        let case = SweepCase::check(&node, index, &mut of_line);
        for problem in of_line.0 {
            let detail = format!("line {line}: {}", problem.detail);
            self.out.push(problem.pointer, problem.code, detail, problem.fix);
        }
        if let Some(first) = case.and_then(|case| self.seen.insert(case.id, line)) {
            let detail = format!("line {line}: the case of line {first} has this name too");
            let fix = "give each case a name of its own, or leave out `id`";
            self.out.push(format!("/{index}/id"), code::DUPLICATE, detail, fix);
        }
        if self.out.is_empty() {
            self.text.push_str(&sorted(value).to_string());
            self.text.push('\n');
        }
        self.go_on()
    }

    /// A case that is none.
    fn refuse(&mut self, detail: String, fix: &str) -> ControlFlow<()> {
        self.out.push(format!("/{}", self.met), code::WRONG_TYPE, detail, fix);
        self.met += 1;
        self.go_on()
    }

    fn go_on(&self) -> ControlFlow<()> {
        if self.out.is_full() || (self.stop)() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// What is wrong with a JSON document of cases that is no list.
pub fn no_list(value: &Value) -> Problems {
    let mut out = Problems::default();
    Node::root(CaseForm::AT, value).wrong("a list of cases", &mut out);
    out
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

    fn read(read: impl FnOnce(&mut Reader<'_>)) -> Result<Cases, Problems> {
        let never = || false;
        let mut reader = Reader::new(&never);
        read(&mut reader);
        reader.finish()
    }

    fn of_json(cases: &[Value]) -> Result<Cases, Problems> {
        read(|reader| {
            let _ = cases.iter().try_for_each(|case| reader.case(case));
        })
    }

    fn of_lines(text: &str) -> Result<Cases, Problems> {
        read(|reader| reader.lines(text, parse))
    }

    fn of_csv(text: &str) -> Result<Cases, Problems> {
        read(|reader| reader.csv(text))
    }

    #[test]
    fn the_three_forms_of_a_set_have_one_canonical_text() {
        let json =
            [json!({"prompt": "a, b", "target": " c"}), json!({"target": " f", "prompt": "d", "group": "g"})];
        let lines = "{\"target\": \" c\", \"prompt\": \"a, b\"}\n\n{\"prompt\": \"d\", \"group\": \"g\", \"target\": \" f\"}\n";
        let csv = "prompt,target,group\n\"a, b\", c,\nd, f,g\n";
        let sets = [of_json(&json).unwrap(), of_lines(lines).unwrap(), of_csv(csv).unwrap()];
        assert_eq!(sets[0].len, 2);
        assert_eq!(sets[0].text.lines().next().unwrap(), "{\"prompt\":\"a, b\",\"target\":\" c\"}");
        assert_eq!(sets[0], sets[1]);
        assert_eq!(sets[0], sets[2]);
    }

    #[test]
    fn problems_name_the_line_and_the_field() {
        let problems = of_lines("{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n").unwrap_err();
        let unknown = problems.0.iter().find(|p| p.pointer == "/1/promt").unwrap();
        assert!(unknown.detail.starts_with("line 2: ") && unknown.detail.contains("did you mean `prompt`"));
        let problems = of_lines("{\"prompt\": }\n{\"promt\": \"b\"}\n").unwrap_err();
        assert!(problems.0[0].detail.starts_with("line 1: ") && problems.0[0].pointer == "/0");
        assert!(
            problems.0.iter().any(|p| p.pointer == "/1/promt"),
            "the lines after it are read: {problems:?}"
        );
        let problems = of_csv("prompt,tagret\na,b\n").unwrap_err();
        assert!(problems.0[0].detail.contains("did you mean `target`"));
        assert!(of_csv("prompt,target\na\n").is_err());
        assert_eq!(of_csv("prompt,prompt\na,b\n").unwrap_err().0[0].code, code::DUPLICATE);
        let same = of_csv("id,prompt\nx,a\nx,b\n").unwrap_err();
        assert_eq!((same.0[0].pointer.as_str(), same.0[0].code), ("/1/id", code::DUPLICATE));
        assert_eq!(of_json(&[]).unwrap_err().0[0].code, code::EMPTY);
    }

    #[test]
    fn no_number_of_columns_or_faults_takes_long() {
        let started = std::time::Instant::now();
        let names: Vec<String> = (0..300_000).map(|i| format!("c{i}")).collect();
        let wide = of_csv(&format!("{}\n", names.join(","))).unwrap_err();
        assert_eq!((wide.0[0].code, wide.0[0].detail.as_str()), (code::LIMIT, "300000 columns"));
        let keys: Vec<String> = (0..50_000).map(|i| format!("\"key{i}\":0")).collect();
        let object = format!("{{{}}}\n", keys.join(","));
        assert_eq!(of_lines(&object.repeat(3)).unwrap_err().0.len(), Problems::MOST);
        assert_eq!(of_lines(&"{}\n".repeat(300_000)).unwrap_err().0.len(), Problems::MOST);
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let left = std::cell::Cell::new(3);
        let stop = || {
            left.set(left.get() - 1);
            left.get() == 0
        };
        let mut reader = Reader::new(&stop);
        reader.lines(&"{\"prompt\": \"a\"}\n".repeat(1000), parse);
        assert_eq!(reader.met, 3);
    }
}
