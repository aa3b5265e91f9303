//! Bodies of requests: JSON to a value, and a value to what is asked for.

use mediant::http::{self, Problem};
use mediant::spec::activation::UploadSpec;
use mediant::spec::align::AlignSpec;
use mediant::spec::cases::CasesSpec;
use mediant::spec::generate::GenerateSpec;
use mediant::spec::kind::split;
use mediant::spec::openai::{Form, Translated};
use mediant::spec::patch::PatchSpec;
use mediant::spec::problem::Problems;
use mediant::spec::run::RunSpec;
use mediant::spec::sweep::SweepSpec;
use mediant::spec::tokenize::TokenizeSpec;
use mediant::spec::trace::TraceSpec;
use serde_json::Value;

use crate::{ALLOCATOR, choose};

/// A body as the server's readers of bodies give it on, or nothing.
pub(crate) fn value(body: &[u8]) -> Option<Value> {
    let held = ALLOCATOR.allocated();
    let value = http::parse(body, "{}").ok()?;
    let taken = ALLOCATOR.allocated().saturating_sub(held) as u64;
    let counted = http::tree_bytes(body);
    assert!(taken <= counted + 4096, "a body of {} bytes takes {taken}, counted as {counted}", body.len());
    Some(value)
}

/// What a client is told of problems.
pub(crate) fn told(problems: Problems) {
    assert!(!problems.is_empty() && problems.0.len() <= Problems::MOST, "{} problems", problems.0.len());
    let problem = Problem::from(problems);
    for error in &problem.errors {
        assert!(!error.detail.is_empty() && !error.fix.is_empty(), "{error:?}");
    }
}

fn read<T>(read: impl FnOnce(&mut Problems) -> Option<T>) {
    let mut problems = Problems::default();
    let spec = read(&mut problems);
    // One of both, or what could not be read was passed over in silence.
    if let Err(problems) = problems.or(spec) {
        told(problems);
    }
}

pub(crate) fn run(data: &[u8]) {
    let (endpoint, body) = choose(data);
    let Some(value) = value(body) else { return };
    match endpoint % 11 {
        0 => read(|out| RunSpec::read(&value, out)),
        1 => read(|out| PatchSpec::read(&value, out)),
        2 => read(|out| TraceSpec::read(&value, out)),
        3 => read(|out| CasesSpec::read(&value, out)),
        4 => read(|out| SweepSpec::read(&value, out)),
        5 => read(|out| AlignSpec::read(&value, out)),
        6 => read(|out| GenerateSpec::read(&value, out)),
        7 => read(|out| TokenizeSpec::read(&value, out)),
        8 => read(|out| UploadSpec::read(&value, out)),
        9 => {
            let form = if body.len().is_multiple_of(2) { Form::Completion } else { Form::Chat };
            read(|out| Translated::read(form, &value, 0, out));
        }
        _ => {
            if let Err(problems) = split(value) {
                told(problems);
            }
        }
    }
}
