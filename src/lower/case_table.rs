//! Problems and remarks of many cases, said once: where several cases have the same, one is named and the rest counted.

use std::borrow::Cow;

use serde_json::Value;

use super::arms::as_restored;
use super::lint::{Lint, Lints};
use crate::spec::problem::{FieldProblem, Problems};
use crate::spec::read::escape;
use crate::spec::sweep::{Form, SweepSpec};

/// Problems and remarks of the cases of a sweep, with pointers as the caller wrote them, in whichever wire form.
#[derive(Debug)]
pub struct CaseTable<'s> {
    spec: &'s SweepSpec,
    /// The request, as it was written.
    body: &'s Value,
    problems: Vec<Said<FieldProblem>>,
    lints: Vec<Said<Lint>>,
}

/// Pointers into a case on its own, and the field of the short form that they come from.
const SHORT: [(&str, &str); 7] = [
    ("/runs/clean/spans/subject", "/subject"),
    ("/runs/clean", ""),
    ("/runs/corrupted", "/corrupted"),
    ("/runs", ""),
    ("/targets/target", "/target"),
    ("/targets/foil", "/foil"),
    ("/corrupt/positions", "/subject"),
];

/// Something said of some cases.
#[derive(Debug)]
struct Said<T> {
    what: T,
    /// The first case of which it was said.
    first: usize,
    /// The last one so far.
    last: usize,
    /// Of how many.
    count: usize,
    /// Whether in the same words of all of them.
    same: bool,
}

impl<'s> CaseTable<'s> {
    /// Nothing said yet.
    pub fn new(spec: &'s SweepSpec, body: &'s Value) -> Self {
        Self { spec, body, problems: Vec::new(), lints: Vec::new() }
    }

    /// A problem of the whole request.
    pub(super) fn all(&mut self, at: &str, code: &'static str, detail: String, fix: &str) {
        let what = FieldProblem { pointer: at.to_owned(), code, detail, fix: fix.to_owned() };
        self.problems.push(Said { what, first: 0, last: 0, count: self.spec.cases.len(), same: true });
    }

    /// The problems of one case.
    pub fn add_problems(&mut self, case: usize, problems: Problems) {
        for mut problem in problems.0 {
            problem.pointer = self.pointer(case, &problem.pointer);
            let known = |said: &&mut Said<FieldProblem>| {
                (said.what.code, &said.what.pointer) == (problem.code, &problem.pointer)
            };
            if let Some(said) = self.problems.iter_mut().find(known) {
                said.again(case, said.what.detail == problem.detail);
            } else {
                self.problems.push(Said { what: problem, first: case, last: case, count: 1, same: true });
            }
        }
    }

    /// Whether as many problems were found as are shown.
    pub fn is_full(&self) -> bool {
        self.problems.len() >= Problems::MOST
    }

    /// The remarks on one case.
    pub fn add_lints(&mut self, case: usize, lints: Lints) {
        for mut lint in lints.0 {
            lint.pointer = self.pointer(case, &lint.pointer);
            let field =
                |pointer: &str, case: usize| field(pointer, self.spec.places[case].as_str()).to_owned();
            let known = self.lints.iter().position(|said| {
                said.what.code == lint.code
                    && said.what.severity == lint.severity
                    && field(&said.what.pointer, said.first) == field(&lint.pointer, case)
            });
            match known.map(|at| &mut self.lints[at]) {
                Some(said) => said.again(case, said.what.detail == lint.detail),
                None => self.lints.push(Said { what: lint, first: case, last: case, count: 1, same: true }),
            }
        }
    }

    /// A remark on the whole request.
    pub fn lint(&mut self, lints: Lints) {
        let count = self.spec.cases.len();
        self.lints.extend(lints.0.into_iter().map(|what| Said {
            what,
            first: 0,
            last: 0,
            count,
            same: true,
        }));
    }

    /// All problems.
    pub fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        for said in &self.problems {
            let detail = self.detail(said, &said.what.pointer, &said.what.detail);
            problems.push(&said.what.pointer, said.what.code, detail, &said.what.fix);
        }
        problems
    }

    /// All remarks.
    pub fn lints(&self) -> Vec<Lint> {
        let told = |said: &Said<Lint>| Lint {
            detail: self.detail(said, &said.what.pointer, &said.what.detail),
            ..said.what.clone()
        };
        Lints(self.lints.iter().map(told).collect()).cured(self.body).0
    }

    /// A pointer into the case on its own, as the caller wrote it. The first that the body has: the field of the short form, the same field of the case, the same field of the request.
    fn pointer(&self, case: usize, pointer: &str) -> String {
        let place = &self.spec.places[case];
        let written = match self.spec.form {
            Form::Sweep => Cow::Borrowed(pointer),
            Form::Trace => Cow::Owned(of_trace(pointer)),
        };
        let pointer = written.as_ref();
        // Positions of the request itself stand where they are; only those left out are the subject's.
        let given = || self.body.pointer("/corrupt/positions").is_some_and(|positions| !positions.is_null());
        let own = pointer.starts_with("/corrupt/positions") && given();
        let of_common = |name: &String| {
            let rest = pointer.strip_prefix(&format!("/runs/{}", escape(name)));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if place.is_empty() || own || self.spec.common.iter().any(of_common) {
            return pointer.to_owned();
        }
        let short = SHORT.iter().find_map(|(long, short)| {
            let rest = pointer.strip_prefix(long).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            Some((format!("{place}{short}{rest}"), format!("{place}{short}")))
        });
        // A target given as one value has no index to point at.
        let shorts = short.clone().into_iter().flat_map(|(whole, field)| [whole, field]);
        let mut candidates = shorts.chain([format!("{place}{pointer}"), pointer.to_owned()]);
        let there = candidates.find(|at| at != place && self.body.pointer(at).is_some());
        there.or(short.map(|(whole, _)| whole)).unwrap_or_else(|| pointer.to_owned())
    }

    /// What was said, with the case it was said of where the pointer doesn't tell, and how many more there are.
    fn detail<T>(&self, said: &Said<T>, pointer: &str, detail: &str) -> String {
        if said.same && said.count == self.spec.cases.len() {
            return detail.to_owned();
        }
        let named = if pointer.starts_with(&self.spec.places[said.first]) {
            detail.to_owned()
        } else {
            format!("case {:?}: {detail}", self.spec.cases[said.first].id)
        };
        match said.count - 1 {
            0 => named,
            1 => format!("{named}; and another case alike"),
            more => format!("{named}; and {more} other cases alike"),
        }
    }
}

/// The field of a pointer, without the case.
fn field<'p>(pointer: &'p str, place: &str) -> &'p str {
    pointer.strip_prefix(place).unwrap_or(pointer)
}

impl<T> Said<T> {
    /// Said again, perhaps of the same case: once is enough.
    fn again(&mut self, case: usize, same: bool) {
        self.count += usize::from(self.last != case);
        self.same &= same || self.last == case;
        self.last = case;
    }
}

/// A pointer into a sweep as a trace with `cases` would write it.
fn of_trace(pointer: &str) -> String {
    let mut parts = pointer.splitn(4, '/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("read"), Some("at")) => "/runs/clean/prompt".to_owned(),
        // Readouts are not asked for: their number is that of the cells.
        (Some("read"), _) => "/arms".to_owned(),
        _ => as_restored(pointer, |_| false),
    }
}
