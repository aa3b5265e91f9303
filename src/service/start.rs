//! From configuration to a service: opens the model, starts the engine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::served::Served;
use super::table::Table;
use super::{JobCeiling, Service};
use crate::activations::{Quota, Store, Timestamp, watch};
use crate::config::Config;
use crate::engine::found::Found;
use crate::engine::growth::Follower;
use crate::engine::{Engine, Keeper, load};
use crate::generate::Writer;
use crate::load::Checkpoint;
use crate::lower::facts::Limits;
use crate::model::architecture::{Role, TensorKind};
use crate::model::config::ModelConfig;
use crate::plan::cost::Ceiling;
use crate::usage::Ledger;

/// Everything from the reference to a warm engine in a process of its own, which `keeper` ends. Blocks for seconds, minutes
/// if the model must be fetched.
pub fn supervised(config: &Config, keeper: &Keeper) -> anyhow::Result<Service> {
    start(config, |checkpoint| {
        let (shape, sha256) = (&checkpoint.config, &checkpoint.fingerprint.weights_sha256);
        Ok(Engine::supervise(&pinned(config, checkpoint), shape, sha256, admitted(config), keeper)?)
    })
}

/// The same with the engine in this process.
pub fn in_process(config: &Config) -> anyhow::Result<Service> {
    start(config, |checkpoint| {
        let computing = load::computing(config, checkpoint, |blocks| tracing::debug!(blocks, "loading"))?;
        let layers = checkpoint.config.num_layers as u32;
        Engine::start(computing, layers, admitted(config)).context("cannot start the engine's thread")
    })
}

/// The configuration by which the engine finds what was opened here, also after the branch it came from has moved on.
fn pinned(config: &Config, checkpoint: &Checkpoint) -> Config {
    let mut config = config.clone();
    if let Some(commit) = &checkpoint.fingerprint.revision {
        config.model.reference = format!("{}@{commit}", checkpoint.name);
    }
    config
}

/// One computes, the others wait.
fn admitted(config: &Config) -> usize {
    1 + config.limits.queue_depth
}

fn start(
    config: &Config,
    engine: impl FnOnce(&Checkpoint) -> anyhow::Result<Engine>,
) -> anyhow::Result<Service> {
    let checkpoint = load::checkpoint(config)?;
    for warning in &checkpoint.warnings {
        tracing::warn!(model = checkpoint.name, "{warning}");
    }
    let shape = &checkpoint.config;
    let table = |role: Role| {
        let [rows, columns] = shape.shape_of(role, TensorKind::Weight)?[..] else { return None };
        Some(Table::new(&checkpoint.tensors, shape.place(role, TensorKind::Weight, 0)?.name, rows, columns))
    };
    let whole = || table(Role::Embedding).context("the model has no embedding");
    let embedding = whole()?;
    // Goes through the whole table, which takes less time than the engine does to load the others.
    let (engine, vocab_sigma) = std::thread::scope(|scope| {
        let sigma = scope.spawn(|| embedding.sigma());
        let engine = engine(&checkpoint);
        (engine, sigma.join())
    });
    let engine = engine?;
    let vocab_sigma = vocab_sigma.map_err(|_| anyhow::anyhow!("reading the embedding panicked"))??;
    let unembedding = table(Role::Unembedding).map_or_else(whole, Ok)?;
    let vector = |role: Role, kind: TensorKind, layer: usize| -> anyhow::Result<Option<Vec<f32>>> {
        let Some(place) = shape.place(role, kind, layer) else { return Ok(None) };
        Ok(Some(checkpoint.tensors.part(&place.name, 0..shape.hidden_size, 0..1)?.to_f32()))
    };
    let final_norm =
        vector(Role::FinalNorm, TensorKind::Weight, 0)?.context("the model has no final norm")?;
    let attention_biases =
        (0..shape.num_layers).map(|layer| vector(Role::AttentionOutput, TensorKind::Bias, layer));
    let attention_biases: anyhow::Result<Option<Vec<_>>> = attention_biases.collect();
    let served = Served {
        name: checkpoint.name,
        activations: store(config)?,
        limits: limits(config, shape),
        tokenizer: checkpoint.tokenizer,
        fingerprint: checkpoint.fingerprint,
        warnings: checkpoint.warnings,
        published: checkpoint.published,
        dtype: config.model.dtype,
        vocab_sigma,
        unembedding,
        final_norm,
        final_bias: vector(Role::FinalNorm, TensorKind::Bias, 0)?,
        attention_biases: attention_biases?,
        positions: table(Role::Positions),
        embedding,
        config: checkpoint.config,
    };
    let sweep = Duration::from_secs(config.activations.sweep_interval_s);
    watch(&served.activations, sweep).context("cannot start the thread that deletes expired activations")?;
    let ceiling = Ceiling { row_layers: config.limits.row_layers, seconds: config.limits.sync_limit_s };
    let jobs = JobCeiling { cells: config.jobs.cells, seconds: config.jobs.longest_s };
    let found = Found::new(&config.cache);
    let step_rows = config.limits.step_rows;
    let writer = Writer::new(&engine, step_rows);
    let ledger = Ledger::default();
    let follower = Follower::patient();
    let served = Arc::new(served);
    Ok(Service { served, engine, found, ceiling, jobs, ledger, writer, step_rows, follower, tell: None })
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
