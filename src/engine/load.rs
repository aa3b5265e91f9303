//! From configuration to a model that computes, and what it says of itself.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};

use super::row_budget::RowBudget;
use super::{Model, Numerics, Ready};
use crate::config::Config;
use crate::kernels::cpu::Cpu;
use crate::load::{
    Checkpoint, LoadOptions, ModelRef, Wheel, available_bytes, check_fits, default_cache_dir, open,
    required_bytes,
};
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::weights::load_cpu;
use crate::plan::Plan;
use crate::plan::pack::{Mode, Packing};
use crate::spec::dtype::Dtype;

/// Share of the free memory that activations may take when the configuration leaves it open.
const ROW_SHARE: u64 = 4;

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

/// Loads the weights and measures how fast they compute. `progress` is told after each block.
pub fn computing(
    config: &Config,
    checkpoint: &Checkpoint,
    progress: impl Fn(usize),
) -> anyhow::Result<Computing> {
    let (decoder, budget) = decoder(config, checkpoint, progress)?;
    let device = format!("cpu, {} threads", decoder.kernels().threads());
    let numerics = Numerics::of(decoder.kernels().dtype());
    Ok(Computing { model: Box::new(decoder), ready: Ready { budget, device, numerics } })
}

/// The same as what it is.
pub fn decoder(
    config: &Config,
    checkpoint: &Checkpoint,
    progress: impl Fn(usize),
) -> anyhow::Result<(Decoder<Cpu>, RowBudget)> {
    let started = Instant::now();
    let Checkpoint { name, config: shape, tensors, .. } = checkpoint;
    let dtype = config.model.dtype;
    let needed = memory_of_weights(shape, dtype);
    check_fits(needed)?;
    tracing::info!(
        model = name,
        layers = shape.num_layers,
        parameters = shape.parameters(),
        bytes = needed,
        "loading {name} in {}",
        dtype.name()
    );
    let cpu =
        Cpu::new(config.engine.threads(), dtype).context("cannot start the threads of the arithmetic")?;
    let weights = load_cpu(&cpu, shape, |name| tensors.tensor(name), |layer| progress(layer + 1))?;
    let mut decoder = Decoder::new(cpu, shape, weights);
    let budget = calibrate(&mut decoder, shape, row_budget(config, shape)?)?;
    tracing::info!(
        seconds = started.elapsed().as_secs_f64(),
        row_budget = budget.rows,
        gflops = (budget.flops_per_second / 1e9).round(),
        "{name} is ready to compute"
    );
    Ok((decoder, budget))
}

/// The weights in their format, and the embedding once more as it is looked up: in f32, row by row.
fn memory_of_weights(shape: &ModelConfig, dtype: Dtype) -> u64 {
    required_bytes(shape, dtype.bytes()) + 4 * (shape.vocab_size * shape.hidden_size) as u64
}

fn row_budget(config: &Config, shape: &ModelConfig) -> anyhow::Result<RowBudget> {
    let bytes = match config.engine.row_budget_bytes {
        0 => available_bytes().map_or(1 << 30, |bytes| bytes / ROW_SHARE),
        bytes => bytes,
    };
    let budget = RowBudget::new(shape, bytes);
    // Two sequences of a usual length: less than that makes the server useless rather than slow.
    let least = 2 * shape.max_positions.min(128);
    if budget.rows < least {
        bail!(
            "{bytes} bytes hold {} rows of activations, and {least} are the least that is useful ({} bytes each); \
             free memory or raise engine.row_budget_bytes",
            budget.rows,
            budget.bytes_per_row
        );
    }
    Ok(budget)
}

/// Measures the rate on a batch large enough to be typical, which also maps the buffers.
fn calibrate(model: &mut impl Model, shape: &ModelConfig, budget: RowBudget) -> anyhow::Result<RowBudget> {
    const ROWS: usize = 256;
    let length = shape.max_positions.min(32);
    let mut plan = Plan::default();
    for run in 0..ROWS.min(budget.rows) / length {
        let tokens = (0..length).map(|i| ((i * 7919 + run) % shape.vocab_size) as u32).collect();
        let root = plan.root(tokens);
        plan.read(root, length as u32 - 1);
    }
    let packing = Packing::new(&plan, shape.num_layers as u32, budget.rows, Mode::Branching)?;
    let chunk = packing.chunk(0);
    let batch = Arc::new(chunk.batch);
    model.forward(&batch)?;
    let started = Instant::now();
    model.forward(&batch)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(budget.calibrated(batch.row_layers, chunk.readouts.len() as u64, seconds))
}
