//! Computes a plan part by part. A part on which the engine dies, or for which memory does not suffice, is halved until
//! only what is guilty is left out.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::assemble::Assembly;
use super::work::{Done, Failure, Work};
use super::{Engine, EngineError, Prepared};
use crate::plan::output::{Lost, PlanOutput};
use crate::plan::pack::{Packing, Part};

/// Parts of one plan on their way at once: one is computed, the next is laid out meanwhile.
const AHEAD: usize = 2;
/// Parts of one plan that may kill the engine; then the plan is given up. A guilty cell among 4096 is found in 13, each costs
/// a restart, and others wait.
const MOST_DEATHS: usize = 24;

/// A part that is still to be computed.
struct Piece {
    part: Part,
    /// Whether it belongs to a batch that has killed the engine.
    suspect: bool,
}

type Reply = oneshot::Receiver<Result<Done, Failure>>;

pub(super) async fn execute(engine: &Engine, prepared: &Prepared) -> Result<PlanOutput, EngineError> {
    let packing = &prepared.packing;
    let mut assembly = Assembly::new(prepared);
    let whole = |chunk| Piece { part: packing.part(chunk), suspect: false };
    let mut todo: VecDeque<Piece> = (0..packing.len()).map(whole).collect();
    let mut sent: VecDeque<(Piece, Reply)> = VecDeque::new();
    let mut deaths = 0;
    loop {
        // What is suspected is computed alone, so that it is clear what the engine dies of.
        let suspect = sent.iter().map(|(piece, _)| piece).chain(todo.front()).any(|piece| piece.suspect);
        let ahead = if suspect { 1 } else { AHEAD };
        while sent.len() < ahead
            && let Some(piece) = todo.pop_front()
        {
            let reply = send(engine, prepared, &piece)?;
            sent.push_back((piece, reply));
        }
        let Some((piece, reply)) = sent.pop_front() else { break };
        let lost = match reply.await {
            Ok(Ok(done)) => {
                assembly.add(done);
                continue;
            }
            Ok(Err(Failure::Lost(lost))) => lost,
            Ok(Err(Failure::LayOut)) => return Err(EngineError::LayOut),
            Ok(Err(Failure::Unhealthy(reason))) => return Err(EngineError::Unhealthy { reason }),
            Ok(Err(Failure::Stopped)) | Err(_) => return Err(EngineError::Stopped),
        };
        // What was sent ahead is taken back: its turn comes after the pieces of this one.
        sent.drain(..).rev().for_each(|(piece, _)| todo.push_front(piece));
        deaths += usize::from(lost == Lost::EngineCrash);
        if piece.part.len() > 1 && deaths < MOST_DEATHS {
            if lost == Lost::OutOfMemory {
                assembly.halved();
            }
            pieces(packing, piece, lost).into_iter().rev().for_each(|piece| todo.push_front(piece));
        } else {
            assembly.lose(packing.outputs(&piece.part), lost);
            // What reads it cannot be computed either, and at some point there is an end to trying.
            let given_up = deaths >= MOST_DEATHS;
            for Piece { part, suspect } in std::mem::take(&mut todo) {
                let (part, gone) =
                    if given_up { (Part::default(), part) } else { packing.without(part, &piece.part) };
                assembly.lose(packing.outputs(&gone), lost);
                if !part.is_empty() {
                    todo.push_back(Piece { part, suspect });
                }
            }
        }
    }
    Ok(assembly.finish())
}

fn send(engine: &Engine, prepared: &Prepared, piece: &Piece) -> Result<Reply, EngineError> {
    let (reply, done) = oneshot::channel();
    let work = Work {
        packing: Arc::clone(&prepared.packing),
        part: piece.part.clone(),
        suspect: piece.suspect,
        queued: engine.busy.time(),
        reply,
    };
    engine.work.send(work).map_err(|_| EngineError::Stopped)?;
    Ok(done)
}

/// What is computed instead of a part that failed. Where the engine died, the runs that others read come first: if one of
/// them is guilty, so are those, and need not be tried.
fn pieces(packing: &Packing, piece: Piece, lost: Lost) -> Vec<Piece> {
    let crash = lost == Lost::EngineCrash;
    let parts = if crash && !piece.suspect {
        let (shared, others) = packing.read_by_others(piece.part);
        [shared.halves(), others.halves()].concat()
    } else {
        piece.part.halves().to_vec()
    };
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.map(|part| Piece { part, suspect: crash || piece.suspect }).collect()
}
