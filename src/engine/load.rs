//! From configuration to a model that computes, and what it says of itself.

use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;

use super::known_answer;
use super::ranks::{self, Ranks};
use super::row_budget::{Room, RowBudget};
use super::{Model, ModelError, Numerics, Ready};
use crate::config::Config;
use crate::load::{Checkpoint, LoadOptions, ModelRef, Wheel, default_cache_dir, open};
use crate::model::config::ModelConfig;
use crate::plan::pack::{Mode, PackError, Packing};
use crate::plan::{Plan, RunId};

/// A model that computes.
pub struct Computing {
    /// The model.
    pub model: Box<dyn Model>,
    /// What it says of itself.
    pub ready: Ready,
}

/// Opens the configured model: its words, its shape and where its weights lie. Blocks, minutes if it must be fetched.
pub fn checkpoint(config: &Config) -> anyhow::Result<Checkpoint> {
    let mut reference: ModelRef = config.model.reference.parse()?;
    if let (ModelRef::Hub { revision, .. }, Some(configured)) = (&mut reference, config.model.revision()) {
        revision.get_or_insert_with(|| configured.to_owned());
    }
    let options = LoadOptions {
        cache_dir: config.model.cache_dir().unwrap_or_else(default_cache_dir),
        progress: std::io::IsTerminal::is_terminal(&std::io::stderr()),
        wheel: Wheel {
            name: config.model.wheel.name.clone(),
            version: config.model.wheel.version.clone(),
            sha256: config.model.wheel.sha256.clone(),
        },
        ..LoadOptions::default()
    };
    Ok(open(&reference, &options)?)
}

/// Loads the weights onto the configured devices and measures how fast they compute. `progress` is told how many blocks are
/// loaded.
pub fn computing(
    config: &Config,
    checkpoint: &Checkpoint,
    progress: impl Fn(usize) + Send + Sync + 'static,
) -> anyhow::Result<Computing> {
    let started = Instant::now();
    let Checkpoint { name, config: shape, tensors, .. } = checkpoint;
    let dtype = config.model.dtype;
    tracing::info!(
        model = name,
        layers = shape.num_layers,
        parameters = shape.parameters(),
        devices = config.engine.devices().len(),
        "loading {name} in {}",
        dtype.name()
    );
    let Ranks { mut group, devices, room } = ranks::start(&config.engine, dtype, shape, tensors, progress)?;
    known_answer::check(&mut group, shape, dtype)?;
    let budget = warm_up(&mut group, shape, row_budget(config, shape, room)?)?;
    let ready = Ready { budget, numerics: Numerics::of(dtype, &devices), devices };
    tracing::info!(
        seconds = started.elapsed().as_secs_f64(),
        row_budget = budget.rows,
        key_slots = ready.key_slots(),
        gflops = (budget.flops_per_second / 1e9).round(),
        batch_invariance = ready.numerics.batch_invariance.name(),
        "{name} is ready to compute on {}",
        ready.device()
    );
    Ok(Computing { model: Box::new(group), ready })
}

fn row_budget(config: &Config, shape: &ModelConfig, room: Room) -> anyhow::Result<RowBudget> {
    let bytes = match config.engine.row_budget_bytes {
        0 => room.bytes,
        bytes => bytes.min(room.bytes),
    };
    let budget = RowBudget::new(shape, Room { bytes, ..room })
        .with_turns(config.engine.quantum_s, config.engine.step_share);
    // Two sequences of a usual length: less than that makes the server useless rather than slow.
    let least = 2 * shape.max_positions.min(128);
    if budget.rows < least {
        bail!(
            "{bytes} bytes hold {} rows of activations, and {least} are the least that is useful ({} bytes each); \
             free memory, raise engine.row_budget_bytes or divide the model over more devices",
            budget.rows,
            budget.bytes_per_row
        );
    }
    Ok(budget)
}

/// Computes a batch of the size of the budget's buffers, which proves that they fit, and measures the rate on rows enough to be
/// typical. Where there is no room after all, the budget is halved.
fn warm_up(model: &mut impl Model, shape: &ModelConfig, mut budget: RowBudget) -> anyhow::Result<RowBudget> {
    const ROWS: usize = 256;
    let length = shape.max_positions.min(32);
    let mut plan = Plan::default();
    for run in 0..ROWS.min(budget.rows) / length {
        let tokens = (0..length).map(|i| ((i * 7919 + run) % shape.vocab_size) as u32).collect();
        let root = plan.root(tokens);
        plan.read(root, length as u32 - 1);
    }
    let laid_out = |plan: &Plan| {
        Ok::<_, PackError>(
            Packing::new(plan, shape.num_layers as u32, budget.rows, Mode::Branching)?.chunk(0),
        )
    };
    let chunk = laid_out(&plan)?;
    // Every position is read, for the logits take memory, too.
    for (run, position) in
        (0..plan.runs.len() as u32).flat_map(|r| (0..length as u32 - 1).map(move |p| (r, p)))
    {
        plan.read(RunId(run), position);
    }
    let mut largest = laid_out(&plan)?.batch;
    loop {
        largest.peak_rows = budget.rows;
        match model.forward(&Arc::new(largest.clone())) {
            Ok(_) => break,
            Err(ModelError::OutOfMemory(missing)) if budget.rows > 2 * ROWS => {
                budget.rows /= 2;
                tracing::warn!(rows = budget.rows, "{missing}: batches will be smaller");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let batch = Arc::new(chunk.batch);
    model.forward(&batch)?;
    let started = Instant::now();
    model.forward(&batch)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(budget.calibrated(batch.row_layers, chunk.readouts.len() as u64, seconds))
}
