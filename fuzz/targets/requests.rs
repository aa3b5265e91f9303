//! Dry runs: a body to its plan and price, against the model of the tests of the API. Nothing is computed.

use std::sync::Arc;

use mediant::capacity::Abandoned;
use mediant::lower;
use mediant::lower::generate::Generation;
use mediant::plan::cost::Ceiling;
use mediant::plan::pack::Mode;
use mediant::result::common::{Provenance, tokenize};
use mediant::service::Refusal;
use mediant::service::experiment::{Experiment, Pricing};
use mediant::spec::align::AlignSpec;
use mediant::spec::kind::Traces;
use mediant::spec::openai::{Form, Translated};
use mediant::spec::patch::PatchSpec;
use mediant::spec::problem::Problems;
use mediant::spec::run::RunSpec;
use mediant::spec::sweep::SweepSpec;
use serde_json::Value;

use crate::choose;
use crate::json::{told, value};
use crate::served::{SERVICE, facts};

fn price<E: Experiment>(body: &Arc<Value>, ceiling: Ceiling) {
    let facts = facts();
    let abandoned = Abandoned::default();
    let pricing = Pricing {
        facts: &facts,
        engine: &SERVICE.engine,
        ceiling,
        cells: SERVICE.jobs.cells,
        unit_s: 1.0,
        provenance: Provenance::default(),
        abandoned: &abandoned,
    };
    let priced = E::lowered(body, &facts).map_err(Refusal::from).and_then(|it| E::price(it, &pricing));
    match priced {
        Ok(priced) => assert!(priced.plan.cost.row_layers > 0 || priced.plan.readouts == 0),
        Err(Refusal::Invalid(problems)) => told(problems),
        Err(Refusal::Engine(_) | Refusal::TooLarge { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
}

fn generation(body: &Value) {
    match Generation::of(body, &facts()) {
        Ok(generation) => {
            if let Some(first) = &generation.prelude {
                let _ = SERVICE.engine.prepare(first, Mode::Branching);
            }
            let _ = SERVICE.engine.prepare(&generation.plan, Mode::Branching);
        }
        Err(problems) => told(problems),
    }
}

fn translated(form: Form, body: &Value) {
    let mut problems = Problems::default();
    let read = Translated::read(form, body, 0, &mut problems);
    match problems.or(read) {
        Ok(translated) => generation(&translated.body),
        Err(problems) => told(problems),
    }
}

pub(crate) fn run(data: &[u8]) {
    let (endpoint, body) = choose(data);
    let Some(value) = value(body) else { return };
    let value = Arc::new(value);
    match endpoint % 9 {
        0 => price::<RunSpec>(&value, SERVICE.ceiling),
        1 => price::<PatchSpec>(&value, SERVICE.ceiling),
        2 => price::<Traces>(&value, SERVICE.ceiling),
        3 => price::<SweepSpec>(&value, SERVICE.jobs.ceiling()),
        4 => {
            if let Err(problems) = lower::lower::<AlignSpec>(&value, &facts()) {
                told(problems);
            }
        }
        5 => generation(&value),
        6 => translated(Form::Completion, &value),
        7 => translated(Form::Chat, &value),
        _ => {
            if let Err(problems) = tokenize(&value, &facts()) {
                told(problems);
            }
        }
    }
}
