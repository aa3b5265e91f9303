//! Faults made on purpose: what the tests of the supervisor inject, and whoever wants to see a server survive.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use super::{Model, ModelError};
use crate::kernels::OutOfMemory;
use crate::plan::batch::{ForwardBatch, Step};
use crate::plan::output::BatchOutput;

/// The variable of the engine process's environment that names a [`Fault`].
pub const VARIABLE: &str = "MEDIANT_FAULT";

/// A fault, as `kind@trigger=number`: `abort@batch=3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    kind: Kind,
    trigger: Trigger,
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A rank panics.
    Panic,
    /// `abort()`, as of a failed assertion in C++.
    Abort,
    /// SIGSEGV.
    Segv,
    /// SIGKILL, as by the system when memory runs out.
    Kill,
    /// The process ends as if all were well.
    Exit0,
    /// Nothing happens any more.
    Hang,
    /// SIGSTOP: as [`Kind::Hang`], with every thread.
    Stop,
    /// There is no memory for the batch.
    Oom,
    /// A bit of the output is another one, now and ever after.
    Flip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// The first process's batch of this number; 0 is the known answer's.
    Batch,
    /// Every process's batch of this number.
    Every,
    /// Batches that hold this token.
    Token,
    /// Batches that edit this block.
    Layer,
    /// Batches of more rows than this.
    Rows,
}

const KINDS: [(&str, Kind); 9] = [
    ("panic", Kind::Panic),
    ("abort", Kind::Abort),
    ("segv", Kind::Segv),
    ("kill", Kind::Kill),
    ("exit0", Kind::Exit0),
    ("hang", Kind::Hang),
    ("stop", Kind::Stop),
    ("oom", Kind::Oom),
    ("flip", Kind::Flip),
];

const TRIGGERS: [(&str, Trigger); 5] = [
    ("batch", Trigger::Batch),
    ("every", Trigger::Every),
    ("token", Trigger::Token),
    ("layer", Trigger::Layer),
    ("rows", Trigger::Rows),
];

/// A text that names no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE} is {text:?}; write kind@trigger=number, such as abort@batch=3, with one of {} and {}", names(&KINDS), names(&TRIGGERS))]
pub struct FaultError {
    text: String,
}

fn names<T>(named: &[(&str, T)]) -> String {
    named.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("|")
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Fault, FaultError> {
        let parse = || {
            let (kind, rest) = text.split_once('@')?;
            let (trigger, number) = rest.split_once('=')?;
            let kind = KINDS.iter().find(|(name, _)| *name == kind)?.1;
            let trigger = TRIGGERS.iter().find(|(name, _)| *name == trigger)?.1;
            Some(Fault { kind, trigger, number: number.parse().ok()? })
        };
        parse().ok_or_else(|| FaultError { text: text.to_owned() })
    }
}

impl Fault {
    /// The fault that the environment asks for.
    pub fn from_environment() -> Result<Option<Fault>, FaultError> {
        std::env::var(VARIABLE).ok().map(|text| text.parse()).transpose()
    }
}

/// A model with a fault.
pub struct Faulty<M> {
    model: M,
    fault: Fault,
    /// Whether this is the first engine process.
    first: bool,
    batches: u64,
    flipped: bool,
}

impl<M: Model> Faulty<M> {
    /// Puts a fault into a model of the `epoch`-th engine process.
    pub fn new(model: M, fault: Fault, epoch: u64) -> Self {
        Self { model, fault, first: epoch == 1, batches: 0, flipped: false }
    }

    fn is_due(&self, batch: &ForwardBatch) -> bool {
        let Fault { trigger, number, .. } = self.fault;
        match trigger {
            Trigger::Batch => self.first && self.batches == number,
            Trigger::Every => self.batches == number,
            Trigger::Token => batch.tokens.iter().any(|token| u64::from(*token) == number),
            Trigger::Layer => batch.layers.get(number as usize).is_some_and(|layer| {
                layer.taps.iter().flat_map(|tap| &tap.steps).any(|step| matches!(step, Step::Edit(_)))
            }),
            Trigger::Rows => batch.peak_rows as u64 > number,
        }
    }

    fn signal(signal: Signal) {
        // Nothing to do if it fails: then there is no fault.
        let _ = kill_process(getpid(), signal);
    }
}

impl<M: Model> Model for Faulty<M> {
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError> {
        let due = self.is_due(batch);
        self.batches += 1;
        if due {
            tracing::warn!(fault = ?self.fault, "a fault on purpose");
            match self.fault.kind {
                #[expect(clippy::panic, reason = "that is the fault")]
                Kind::Panic => panic!("a panic on purpose"),
                Kind::Abort => std::process::abort(),
                // The first is taken for a stack that overflows, by a handler that then lets the next one through.
                Kind::Segv => [Signal::SEGV; 2].into_iter().for_each(Self::signal),
                Kind::Kill => Self::signal(Signal::KILL),
                Kind::Exit0 => std::process::exit(0),
                Kind::Hang => loop {
                    std::thread::sleep(Duration::from_hours(1));
                },
                Kind::Stop => Self::signal(Signal::STOP),
                Kind::Oom => return Err(OutOfMemory { bytes: 0 }.into()),
                Kind::Flip => self.flipped = true,
            }
        }
        let mut output = self.model.forward(batch)?;
        if let Some(score) = output.scores.first_mut().filter(|_| self.flipped) {
            score.log_sum_exp = f64::from_bits(score.log_sum_exp.to_bits() ^ 1);
        }
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_from_its_name_and_anything_else_is_an_error_that_lists_them() {
        let fault = Fault { kind: Kind::Abort, trigger: Trigger::Batch, number: 3 };
        assert_eq!("abort@batch=3".parse(), Ok(fault));
        for wrong in ["", "abort", "abort@batch", "abort@batch=x", "abort@day=1", "burn@batch=1"] {
            let error = wrong.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains("panic|abort") && error.contains("batch|every"), "{error}");
        }
    }
}
