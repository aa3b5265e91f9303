//! Small models whose weights both sides compute by the formula of `tests/python/reference.py`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use mediant::comm::Threads;
use mediant::engine::Model;
use mediant::engine::group::Group;
use mediant::kernels::OutOfMemory;
use mediant::kernels::cpu::{Cpu, Dtype};
use mediant::kernels::upload::{Content, Numbers, Piece, Upload};
use mediant::load::expected_tensors;
use mediant::model::architecture::{Family, Role, TensorKind};
use mediant::model::config::ModelConfig;
use mediant::model::decoder::Decoder;
use mediant::model::shard::Shard;
use mediant::model::weights::load;
use mediant::plan::output::{EditStats, RowWritten};
use mediant::plan::pack::{Mode, Packing};
use mediant::plan::{EditGroup, Plan, Score};
use mediant::spec::site::{Needs, Site};
use serde_json::Value;

pub(crate) use crate::tiny_tensors::numbers;
pub(crate) use crate::uniform::uniform;

/// Numbers of ranks that the tiny models are divided over. They have two key/value heads: four ranks hold copies.
pub(crate) const WORLDS: [usize; 3] = [1, 2, 4];

/// Positions whose keys and values decoders keep.
pub(crate) const SLOTS: usize = 200;

/// Rows and columns of such a tensor.
fn part(config: &ModelConfig, name: &str, rows: Range<usize>, columns: Range<usize>) -> Piece<'static> {
    let (_, shape) = expected_tensors(config).into_iter().find(|(n, _)| n == name).unwrap();
    let whole = numbers(name, &shape);
    let whole = whole.chunks_exact(shape.get(1).copied().unwrap_or(1));
    let own: Vec<f32> =
        whole.take(rows.end).skip(rows.start).flat_map(|row| &row[columns.clone()]).copied().collect();
    let content = Content::Numbers(Numbers::F32(own.into()));
    Piece { rows: rows.len(), columns: columns.len(), content }
}

/// What a part of a tiny model holds, if the model has it and it is a tensor of its own.
pub(crate) fn of_part(config: &ModelConfig, role: Role, kind: TensorKind, layer: usize) -> Option<Vec<f32>> {
    Some(numbers(&config.place(role, kind, layer)?.name, &config.shape_of(role, kind)?))
}

/// The configuration that a golden file states, as of a checkpoint.
pub(crate) fn config(golden: &Value) -> ModelConfig {
    let config = golden["config"].as_object().unwrap();
    let family = Family::named(config["model_type"].as_str().unwrap()).unwrap();
    family.config(config).unwrap()
}

/// The sites of a model, and those after rotations of any: without these, they are what stands before.
pub(crate) fn sites_of(config: &ModelConfig) -> Vec<Site> {
    let stands = |site: &Site| matches!(config.absent(*site), None | Some(Needs::Rope));
    Site::ALL.into_iter().filter(stands).collect()
}

/// Reads a golden file.
pub(crate) fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A decoder on a device, for a golden's family.
pub(crate) fn on<K: Upload>(kernels: K, shard: Shard) -> Decoder<K> {
    let part = |name: &str, rows, columns| Ok::<_, OutOfMemory>(part(shard.config(), name, rows, columns));
    let weights = load(&kernels, &shard, part, |_| ()).unwrap();
    let mut decoder = Decoder::new(kernels, shard, weights);
    decoder.make_store(SLOTS).unwrap();
    decoder
}

/// A decoder that is not divided.
pub(crate) fn decoder(golden: &Value, threads: usize, dtype: Dtype) -> (Decoder<Cpu>, ModelConfig) {
    let config = config(golden);
    (on(Cpu::new(threads, dtype).unwrap(), Shard::whole(&config)), config)
}

/// A decoder divided over ranks: GPUs if there are as many as `MEDIANT_TEST_GPUS` says, else a thread each.
pub(crate) fn ranks(golden: &Value, world: usize, dtype: Dtype) -> (Group, ModelConfig) {
    let config = config(golden);
    (ranks_of(&config, world, dtype), config)
}

/// The same of any configuration.
pub(crate) fn ranks_of(config: &ModelConfig, world: usize, dtype: Dtype) -> Group {
    #[cfg(feature = "cuda")]
    if std::env::var("MEDIANT_TEST_GPUS").is_ok_and(|gpus| world <= gpus.parse().unwrap()) {
        return on_gpus(config, world, dtype);
    }
    on_threads(config, world, dtype)
}

/// A decoder divided over CPU ranks of one thread each.
pub(crate) fn on_threads(config: &ModelConfig, world: usize, dtype: Dtype) -> Group {
    let seeds = Threads::group(world).into_iter().zip(Shard::all(config, world).unwrap()).collect();
    let build = move |(rank, shard): (Threads, Shard)| {
        Ok::<_, Infallible>(on(Cpu::of_ranks(1, dtype, Box::new(rank)).unwrap(), shard))
    };
    Group::start(seeds, build).unwrap()
}

/// The llama family's decoder in f32.
pub(crate) fn llama() -> (Decoder<Cpu>, u32) {
    let (decoder, config) = decoder(&golden("tiny_llama"), 2, Dtype::F32);
    (decoder, config.num_layers as u32)
}

/// Results of a plan.
pub(crate) struct Outcome {
    pub(crate) scores: Vec<Score>,
    pub(crate) captures: Vec<Vec<f32>>,
    pub(crate) written: [EditStats; 3],
    pub(crate) changes: Vec<f64>,
    pub(crate) row_layers: u64,
}

/// Computes a plan on this thread.
pub(crate) fn run(model: &mut impl Model, layers: u32, plan: &Plan, budget: usize, mode: Mode) -> Outcome {
    let packing = Packing::new(plan, layers, budget, mode).unwrap();
    let mut scores = vec![None; plan.readouts.len()];
    let mut outcome = Outcome {
        scores: Vec::new(),
        captures: vec![Vec::new(); plan.captures.len()],
        written: [EditStats::default(); 3],
        changes: vec![0.0; plan.runs.len()],
        row_layers: 0,
    };
    let mut rows = BTreeMap::new();
    let bits = |(group, row): (EditGroup, RowWritten)| {
        (group, row.elements, row.squared.to_bits(), row.largest.to_bits())
    };
    let same = |a, b| bits(a) == bits(b);
    for index in 0..packing.len() {
        let chunk = packing.chunk(index);
        assert!(chunk.batch.peak_rows <= budget);
        outcome.row_layers += chunk.batch.row_layers;
        let output = model.forward(&Arc::new(chunk.batch)).unwrap();
        for (readout, row) in chunk.readouts {
            assert!(scores[readout].replace(output.scores[row].clone()).is_none());
        }
        for (capture, numbers) in output.captures {
            outcome.captures[capture] = numbers;
        }
        assert_eq!(chunk.edited.len(), output.written.len());
        for (row, written) in chunk.edited.into_iter().zip(output.written) {
            // A row of a run that several chunks have is written alike in each.
            let before = rows.insert((row.run, row.write), (row.group, written));
            assert!(before.is_none_or(|before| same(before, (row.group, written))), "{before:?} {written:?}");
        }
    }
    for ((run, _), (group, written)) in rows {
        let total = &mut outcome.written[group.index()];
        *total = total.and(written.into());
        if group != EditGroup::Corruption {
            outcome.changes[run.0 as usize] += written.squared;
        }
    }
    outcome.scores = scores.into_iter().map(Option::unwrap).collect();
    outcome
}

/// A decoder divided over the first GPUs.
#[cfg(feature = "cuda")]
fn on_gpus(config: &ModelConfig, world: usize, dtype: Dtype) -> Group {
    use mediant::kernels::cuda::{Cuda, GroupId, Place};
    let group = (world > 1).then(|| GroupId::new().unwrap());
    let seeds = Threads::group(world).into_iter().zip(Shard::all(config, world).unwrap()).collect();
    let build = move |(host, shard): (Threads, Shard)| {
        let place = group.map(|group| Place { group, host });
        let cuda = Cuda::open(shard.rank, dtype, shard.dimensions(), place).unwrap();
        let part =
            |name: &str, rows, columns| Ok::<_, OutOfMemory>(part(shard.config(), name, rows, columns));
        let weights = load(&cuda, &shard, part, |_| ()).unwrap();
        cuda.probe(&weights.products()).unwrap();
        let mut decoder = Decoder::new(cuda, shard, weights);
        decoder.make_store(SLOTS).unwrap();
        Ok::<_, Infallible>(decoder)
    };
    Group::start(seeds, build).unwrap()
}
