//! What a unit of work computes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::outcome::{self, open, outcome};
use super::{Jobs, NUMBERS_FILE, PICTURES_FILE, Unfinished, compress};
use crate::capacity::{Abandoned, Lane, Share};
use crate::effect::cells::{self, CaseHead, Standing};
use crate::plan::output::Usage;
use crate::result::render::{Answer, Format, json};
use crate::service::cut::TextsCut;
use crate::service::experiment::AtOnce;
use crate::service::sweep::Opened;
use crate::service::{Refusal, Service};
use crate::spec::kind::{Kind, of_kind};
use crate::store::StoreError;
use crate::store::job::{Claim, Cost, Done, JobId, Phase};

/// Sweeps that are kept open, so that their requests need not be read for every unit.
const KEPT_OPEN: usize = 4;

/// Why a unit was not computed.
#[derive(Debug)]
pub(super) enum Failed {
    /// It can't be, however often it is tried.
    Request(Refusal),
    /// The job is of a version that this one can't read.
    Unreadable,
    /// The store failed.
    Store(StoreError),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Request(refusal)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Unfinished> for Failed {
    fn from(_: Unfinished) -> Self {
        Self::Unreadable
    }
}

/// Sweeps that are worked on.
#[derive(Debug, Default)]
pub(super) struct OpenSweeps(Mutex<VecDeque<(JobId, Arc<Opened>)>>);

impl OpenSweeps {
    pub(super) fn of(&self, claim: &Claim) -> Result<Arc<Opened>, Unfinished> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, opened)) = kept.iter().find(|(id, _)| *id == claim.job.id) {
            return Ok(Arc::clone(opened));
        }
        let opened = Arc::new(open(&claim.job)?);
        kept.push_front((claim.job.id, Arc::clone(&opened)));
        kept.truncate(KEPT_OPEN);
        Ok(opened)
    }
}

/// Computes a unit.
pub(super) async fn compute(
    jobs: &Jobs,
    service: &Service,
    sweeps: &OpenSweeps,
    claim: &Claim,
) -> Result<Done, Failed> {
    of_kind!(claim.job.kind, E => whole::<E>(service, claim).await, in_units => unit(jobs, service, sweeps, claim).await)
}

/// Computes a unit of a sweep.
async fn unit(jobs: &Jobs, service: &Service, sweeps: &OpenSweeps, claim: &Claim) -> Result<Done, Failed> {
    if claim.job.kind == Kind::Generate {
        return texts(jobs, service, claim).await;
    }
    let [baselines, ..] = claim.job.units;
    match claim.phase {
        Phase::Baselines => {
            let opened = sweeps.of(claim)?;
            let cases = opened.cut.cases_of(claim.seq);
            let (heads, usage) = service.sweep_baselines(&opened, cases).await?;
            Ok(Done { output: json(&heads), cost: cost(&usage), ..Done::default() })
        }
        Phase::Cells => {
            let opened = sweeps.of(claim)?;
            let (case, range) = opened.cut.cells_of(claim.seq - baselines).ok_or(Unfinished::Unreadable)?;
            let standings = opened.standings.get_or_try_init(|| standings(jobs, &opened, claim)).await?;
            let standing = *standings.get(case).ok_or(Unfinished::Unreadable)?;
            if standing == Standing::Dropped {
                return Ok(Done::default());
            }
            let (part, usage) =
                service.sweep_cells(&opened, case, range, standing == Standing::Alone).await?;
            Ok(Done { output: packed(&part), cost: cost(&usage), ..Done::default() })
        }
        Phase::Finish => {
            let outputs = jobs.store.outputs(claim.job.id).await?;
            let job = claim.job.clone();
            let share = Share::unbounded(super::account(&claim.job));
            let made = share.run(Lane::Finish, move |_| {
                let outcome = outcome(&job, &outputs)?;
                Ok::<_, Unfinished>(compress::file("json", &json(&outcome)))
            });
            let file = made.await?;
            Ok(Done { files: vec![file], ..Done::default() })
        }
    }
}

/// How the cases enter averages, by their unpatched runs, all of which are computed before any cell.
async fn standings(jobs: &Jobs, opened: &Opened, claim: &Claim) -> Result<Vec<Standing>, Failed> {
    let [baselines, ..] = claim.job.units;
    let mut cases: Vec<CaseHead> = Vec::with_capacity(opened.cut.cells.len());
    for unit in 0..baselines {
        let output = jobs.store.output(claim.job.id, unit).await?.ok_or(Unfinished::Unreadable)?;
        let heads: Vec<CaseHead> = serde_json::from_slice(&output).map_err(|_| Failed::Unreadable)?;
        cases.extend(heads);
    }
    Ok(cells::standings(&cases, &opened.spec().aggregate.by))
}

/// Computes a unit of generated text.
async fn texts(jobs: &Jobs, service: &Service, claim: &Claim) -> Result<Done, Failed> {
    let account = super::account(&claim.job);
    if claim.phase == Phase::Finish {
        let outputs = jobs.store.outputs(claim.job.id).await?;
        let job = claim.job.clone();
        let share = Share::unbounded(account);
        let made = share.run(Lane::Finish, move |_| {
            let outcome = outcome::texts(&job, &outputs)?;
            Ok::<_, Unfinished>(compress::file("json", &json(&outcome)))
        });
        return Ok(Done { files: vec![made.await?], ..Done::default() });
    }
    let cut: TextsCut = outcome::cut(&claim.job)?;
    let (case, body) = cut.body(&Jobs::request(&claim.job), claim.seq).ok_or(Unfinished::Unreadable)?;
    let (part, usage) = service.texts_unit(account, case, body).await?;
    Ok(Done { output: json(&part), cost: cost(&usage), ..Done::default() })
}

/// A request that is one unit: its answer, and what every other form is made from.
async fn whole<E: AtOnce<Response: Answer>>(service: &Service, claim: &Claim) -> Result<Done, Failed> {
    let body = Jobs::request(&claim.job);
    // Its size was bounded when it was taken on.
    let share = &Share::unbounded(super::account(&claim.job));
    let mut response = service.answer::<E>((body, share)).await?;
    let cost = cost(&response.rendered().usage());
    let files = move |_: &Abandoned| {
        let response = response.rendered();
        response.fill_plots();
        // Files are written and pictures drawn when they are asked for, in the way that is asked for.
        let mut files = vec![
            compress::file(Format::Json.name(), &response.json()),
            compress::file(NUMBERS_FILE, &response.numbers().to_bytes()),
        ];
        files
            .extend(response.pictures().ok().map(|pictures| compress::file(PICTURES_FILE, &json(&pictures))));
        files
    };
    Ok(Done { cost, files: share.run(Lane::Finish, files).await, ..Done::default() })
}

fn packed<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("BUG: what units give is plain data")
}

fn cost(usage: &Usage) -> Cost {
    Cost {
        rows: usage.rows,
        row_layers: usage.row_layers,
        seconds: usage.seconds,
        peak_bytes: usage.peak_bytes,
    }
}
