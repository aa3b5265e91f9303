//! Problems and remarks of many cases, said once: where several cases have the same, one is named and the rest counted.

use super::lint::{Lint, Lints};
use crate::spec::problem::{FieldProblem, Problems};

/// The cases of a request, as problems and remarks name them.
pub trait Roster {
    /// How many.
    fn len(&self) -> usize;

    /// A case's name.
    fn id(&self, case: usize) -> &str;

    /// Pointer to a case, as the caller wrote it.
    fn place(&self, case: usize) -> String;

    /// A pointer into the case on its own, as the caller wrote it.
    fn pointer(&self, case: usize, pointer: &str) -> String;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Problems and remarks of cases, with pointers as the caller wrote them.
#[derive(Debug)]
pub struct Gathered<R> {
    roster: R,
    problems: Vec<Said<FieldProblem>>,
    lints: Vec<Said<Lint>>,
}

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

impl<R: Roster> Gathered<R> {
    /// Nothing said yet.
    pub fn new(roster: R) -> Self {
        Self { roster, problems: Vec::new(), lints: Vec::new() }
    }

    /// A problem of the whole request.
    pub(super) fn all(&mut self, at: &str, code: &'static str, detail: String, fix: &str) {
        let what = FieldProblem { pointer: at.to_owned(), code, detail, fix: fix.to_owned() };
        self.problems.push(Said { what, first: 0, last: 0, count: self.roster.len(), same: true });
    }

    /// The problems of one case.
    pub fn add_problems(&mut self, case: usize, problems: Problems) {
        for mut problem in problems.0 {
            problem.pointer = self.roster.pointer(case, &problem.pointer);
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
            lint.pointer = self.roster.pointer(case, &lint.pointer);
            let field = |pointer: &str, case| field(pointer, &self.roster.place(case)).to_owned();
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
        let count = self.roster.len();
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
        self.lints.iter().map(told).collect()
    }

    /// What was said, with the case it was said of where the pointer doesn't tell, and how many more there are.
    fn detail<T>(&self, said: &Said<T>, pointer: &str, detail: &str) -> String {
        if said.same && said.count == self.roster.len() {
            return detail.to_owned();
        }
        let named = if pointer.starts_with(&self.roster.place(said.first)) {
            detail.to_owned()
        } else {
            format!("case {:?}: {detail}", self.roster.id(said.first))
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
