//! The ranks of a model: one thread each, which builds its decoder, owns it and never lends it. Every rank gets the same batch;
//! what they give back is joined here. They fail as one: a group that lost a rank is never healed, only replaced.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::model::panic_message;
use super::{Model, ModelError};
use crate::comm::Broken;
use crate::kernels::{Kernels, OutOfMemory};
use crate::model::decoder::Decoder;
use crate::model::output::{RankOutput, join};
use crate::plan::batch::ForwardBatch;
use crate::plan::output::BatchOutput;

/// Ranks that compute together.
#[derive(Debug)]
pub struct Group {
    ranks: Vec<Rank>,
    replies: Receiver<Reply>,
    /// Why nothing can be computed any more.
    failed: Option<String>,
}

/// A rank's thread, and where its batches go.
#[derive(Debug)]
struct Rank {
    batches: Sender<Arc<ForwardBatch>>,
    thread: JoinHandle<()>,
}

/// What a rank says, and which it is.
type Reply = (usize, Result<Result<RankOutput, OutOfMemory>, String>);

/// Why a group did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError<E> {
    /// A rank could not be made.
    #[error(transparent)]
    Build(E),
    /// A rank panicked.
    #[error("rank {rank} failed while it was made: {message}")]
    Panicked {
        /// The rank.
        rank: usize,
        /// What it said.
        message: String,
    },
    /// The system gave no thread.
    #[error("cannot start the thread of rank {rank}: {source}")]
    Thread {
        /// The rank.
        rank: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Group {
    /// Starts a rank for each of `seeds`, what it is made from. `build` makes its decoder on its own thread, so a decoder may
    /// hold what must not leave its thread, and all ranks load side by side. Returns when all are ready, or at the first that is
    /// not.
    pub fn start<S, K, E>(
        seeds: Vec<S>,
        build: impl Fn(S) -> Result<Decoder<K>, E> + Send + Sync + 'static,
    ) -> Result<Group, StartError<E>>
    where
        S: Send + 'static,
        K: Kernels + 'static,
        E: Send + 'static,
    {
        let (reply, replies) = channel();
        let (ready, all_ready) = channel();
        let build = Arc::new(build);
        let start = |(rank, seed)| {
            let (batches, inbox) = channel();
            let (reply, ready, build) = (reply.clone(), ready.clone(), Arc::clone(&build));
            let run = move || {
                let built = catch_unwind(AssertUnwindSafe(|| build(seed)));
                // The group may have given up on another rank's account.
                let decoder = match built {
                    Ok(Ok(decoder)) => ready.send(Ok(())).is_ok().then_some(decoder),
                    Ok(Err(error)) => ready.send(Err(StartError::Build(error))).ok().and(None),
                    Err(payload) => {
                        let message = said(&*payload);
                        ready.send(Err(StartError::Panicked { rank, message })).ok().and(None)
                    }
                };
                drop(build); // and what it was made with: the checkpoint's open files, say
                if let Some(decoder) = decoder {
                    serve(rank, decoder, &inbox, &reply);
                }
            };
            let thread = std::thread::Builder::new().name(format!("rank-{rank}")).spawn(run);
            let thread = thread.map_err(|source| StartError::Thread { rank, source })?;
            Ok(Rank { batches, thread })
        };
        let ranks = seeds.into_iter().enumerate().map(start).collect::<Result<Vec<_>, StartError<E>>>()?;
        all_ready.iter().take(ranks.len()).collect::<Result<(), _>>()?;
        Ok(Group { ranks, replies, failed: None })
    }

    /// Sends a batch to every rank and puts together what they give.
    fn compute(&self, batch: &Arc<ForwardBatch>) -> Result<Result<BatchOutput, OutOfMemory>, String> {
        for (rank, Rank { batches, .. }) in self.ranks.iter().enumerate() {
            batches.send(Arc::clone(batch)).map_err(|_| format!("rank {rank} has ended"))?;
        }
        let mut outputs: Vec<Option<RankOutput>> = self.ranks.iter().map(|_| None).collect();
        let mut refused = None;
        for _ in &self.ranks {
            let (rank, reply) = self.replies.recv().map_err(|_| "all ranks have ended".to_owned())?;
            match reply.map_err(|message| format!("rank {rank} failed: {message}"))? {
                Ok(output) => outputs[rank] = Some(output),
                Err(out_of_memory) => refused = Some(out_of_memory),
            }
        }
        Ok(match refused {
            Some(out_of_memory) => Err(out_of_memory),
            None => Ok(join(batch, outputs.into_iter().flatten().collect())),
        })
    }
}

impl Model for Group {
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError> {
        if let Some(message) = &self.failed {
            return Err(ModelError::Failed(message.clone()));
        }
        match self.compute(batch) {
            Ok(output) => Ok(output?),
            Err(message) => {
                self.failed = Some(message.clone());
                Err(ModelError::Failed(message))
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for Rank { batches, thread } in self.ranks.drain(..) {
            drop(batches);
            // A rank of a group that failed may hang, and nothing it does matters any more.
            if self.failed.is_none() {
                let _ = thread.join();
            }
        }
    }
}

/// Computes batches until there are no more, or until one makes the rank panic.
fn serve<K: Kernels>(
    rank: usize,
    mut decoder: Decoder<K>,
    inbox: &Receiver<Arc<ForwardBatch>>,
    reply: &Sender<Reply>,
) {
    for batch in inbox {
        let output = catch_unwind(AssertUnwindSafe(|| decoder.pass(&batch)));
        let failed = output.is_err();
        // Said before the decoder is dropped, which breaks the group: the first to fail is the first to be heard.
        let _ = reply.send((rank, output.map_err(|payload| said(&*payload))));
        if failed {
            return;
        }
    }
}

/// The message of a panic, or why the group broke.
fn said(payload: &(dyn Any + Send)) -> String {
    if let Some(broken) = payload.downcast_ref::<Broken>() {
        return broken.to_string();
    }
    panic_message(payload).to_owned()
}
