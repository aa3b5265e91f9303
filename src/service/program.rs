//! A traced block's forward pass: lowered, priced, computed like any plan, and its numbers handed back.

use mediant_worker::program::Program;

use super::{Refusal, Service, Turn, required_runs};
use crate::capacity::{Lane, Share};
use crate::lower;
use crate::lower::program::LoweredProgram;
use crate::plan::cost::Ceiling;
use crate::plan::output::Usage;

/// What one program may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramLimits {
    /// Rows times layers that are left of what its job may have computed.
    pub row_layers: u64,
    /// Numbers read.
    pub numbers: u64,
}

/// What a program gives.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgramOutput {
    /// Of each read `[positions, width]`, row by row.
    pub values: Vec<Vec<f32>>,
    /// What it cost.
    pub usage: Usage,
}

impl Service {
    /// Computes a program of a job of the share's owner, who takes turns with the other owners. It waits where a request would
    /// be refused: its job was let in.
    ///
    /// # Errors
    /// [`Refusal`]
    pub async fn program(
        &self,
        program: Program,
        limits: ProgramLimits,
        share: &Share,
    ) -> Result<ProgramOutput, Refusal> {
        let numbers = limits.numbers;
        let lowered = self.off_workers(share, Lane::Prepare, move |facts, _| {
            Ok(lower::program::program(program, numbers, facts)?)
        });
        let LoweredProgram { plan, reads } = lowered.await?;
        let ceiling = Ceiling { row_layers: self.ceiling.row_layers.min(limits.row_layers), ..self.ceiling };
        let priced = Self { ceiling, ..self.clone() };
        let output = priced.compute_in(Turn::Next, share, None, plan).await?.output;
        required_runs::none(&output)?;
        Ok(ProgramOutput { values: reads.values(output.captures), usage: output.usage })
    }
}
