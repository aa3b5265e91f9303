//! Computes a plan piece by piece. A piece on which the engine dies, or for which memory does not suffice, is halved until
//! only what is guilty is left out.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::assemble::Assembly;
use super::growth::Growth;
use super::schedule::Asker;
use super::work::{Answer, Failure, Lift, Ticket, Work};
use super::{Engine, EngineError, Entry, Errand, Prepared, Turn};
use crate::plan::output::{Lost, PlanOutput};
use crate::plan::pack::{Packing, Part};

/// Pieces of one plan that may kill the engine; then the plan is given up. A guilty cell among 4096 is found in 13, each costs
/// a restart, and others wait.
const MOST_DEATHS: usize = 24;

/// What is still to be computed.
struct Task {
    part: Part,
    /// Whether it belongs to a batch that has killed the engine.
    suspect: bool,
}

pub(super) async fn execute(
    engine: &Engine,
    prepared: &Prepared,
    Errand { asker, charge, lift, growth, .. }: Errand,
    mut entry: Option<Entry<'_>>,
) -> Result<PlanOutput, EngineError> {
    let packing = &prepared.packing;
    let mut assembly = Assembly::new(prepared, charge, growth.clone());
    let needs_leave = entry.is_some();
    growth.admitted(prepared);
    let mut todo = VecDeque::from([Task { part: packing.whole(), suspect: false }]);
    let mut deaths = 0;
    while let Some(mut task) = todo.pop_front().filter(|task| !task.part.is_empty()) {
        if growth.is_left() {
            // Others may have its place meanwhile.
            drop(entry.take());
            growth.wanted().await;
            if needs_leave {
                let left = todo.iter().map(|task| prepared.work_of(&task.part)).sum::<u64>();
                let left = left + prepared.work_of(&task.part);
                entry = Some(engine.enter(&asker, Turn::Next, left).await?);
            }
        }
        let mut answers = send(engine, prepared, &task, &asker, &lift, &growth)?;
        growth.begun();
        let (mut lost, mut left) = (None, Part::default());
        while lost.is_none() && !task.part.is_empty() {
            let Answer { part, result } = answers.recv().await.ok_or(EngineError::Stopped)?;
            task.part.remove(&part);
            match result {
                Ok(done) => {
                    let work = prepared.work_of(&part);
                    if let Some(Entry { place, .. }) = &entry {
                        place.did(work, engine.busy.time());
                    }
                    assembly.add(&part, work, done);
                }
                Err(Failure::Left) => left.add(part),
                Err(Failure::Lost(why)) => lost = Some((part, why)),
                Err(Failure::LayOut) => return Err(EngineError::LayOut),
                Err(Failure::Unhealthy(reason)) => return Err(EngineError::Unhealthy { reason }),
                Err(Failure::Stopped) => return Err(EngineError::Stopped),
            }
        }
        if !left.is_empty() {
            todo.push_front(Task { part: left, suspect: task.suspect });
        }
        let Some((part, lost)) = lost else { continue };
        // What was not answered is taken back: its turn comes after the halves of this piece.
        drop(answers);
        let piece = Task { part, suspect: task.suspect };
        if !task.part.is_empty() {
            todo.push_front(task);
        }
        deaths += usize::from(lost == Lost::EngineCrash);
        if piece.part.len() > 1 && deaths < MOST_DEATHS {
            if lost == Lost::OutOfMemory {
                assembly.halved();
            }
            halves(packing, piece, lost).into_iter().rev().for_each(|half| todo.push_front(half));
        } else {
            assembly.lose(packing.outputs(&piece.part), lost);
            // What reads it cannot be computed either, and at some point there is an end to trying.
            let given_up = deaths >= MOST_DEATHS;
            for Task { part, suspect } in std::mem::take(&mut todo) {
                let (part, gone) =
                    if given_up { (Part::default(), part) } else { packing.without(part, &piece.part) };
                assembly.lose(packing.outputs(&gone), lost);
                if !part.is_empty() {
                    todo.push_back(Task { part, suspect });
                }
            }
        }
    }
    Ok(assembly.finish())
}

fn send(
    engine: &Engine,
    prepared: &Prepared,
    task: &Task,
    asker: &Asker,
    lift: &Lift,
    growth: &Growth,
) -> Result<mpsc::UnboundedReceiver<Answer>, EngineError> {
    let (reply, answers) = mpsc::unbounded_channel();
    let queued = engine.busy.time();
    let ticket = Ticket { suspect: task.suspect, queued, lift: lift.clone(), growth: growth.clone(), reply };
    let work = Work {
        packing: Arc::clone(&prepared.packing),
        part: task.part.clone(),
        left: prepared.work_of(&task.part),
        asker: asker.clone(),
        ticket,
    };
    engine.work.send(work.into()).map_err(|_| EngineError::Stopped)?;
    Ok(answers)
}

/// What is computed instead of a part that failed. Where the engine died, the runs that others read come first: if one of
/// them is guilty, so are those, and need not be tried.
fn halves(packing: &Packing, piece: Task, lost: Lost) -> Vec<Task> {
    let crash = lost == Lost::EngineCrash;
    let parts = if crash && !piece.suspect {
        let (shared, others) = packing.read_by_others(piece.part);
        [shared.halves(), others.halves()].concat()
    } else {
        piece.part.halves().to_vec()
    };
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.map(|part| Task { part, suspect: crash || piece.suspect }).collect()
}
