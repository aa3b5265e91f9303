//! What is measured of a CPU: its multiplication alone, where a trace's time goes, memory.

use std::time::Instant;

use serde_json::{Value, json};

use super::timed::Timed;
use mediant::kernels::Kernels;
use mediant::kernels::cpu::{Cpu, Matrix, PackedWeight};
use mediant::load::{Checkpoint, LoadError};
use mediant::model::config::ModelConfig;
use mediant::model::decoder::Decoder;
use mediant::model::shard::Shard;
use mediant::model::weights::load;
use mediant::plan::Plan;
use mediant::plan::pack::{Mode, Packing};

/// A trace through kernels with a stopwatch each: seconds by operation.
pub(super) fn profile(checkpoint: &Checkpoint, cpu: Cpu, plan: &Plan, rows: usize) -> anyhow::Result<Value> {
    let shard = Shard::whole(&checkpoint.config);
    let part = |name: &str, rows, columns| checkpoint.tensors.part(name, rows, columns);
    let weights = load::<_, LoadError>(&cpu, &shard, part, |_| ())?;
    let mut decoder = Timed::around(Decoder::new(cpu, shard, weights), &checkpoint.config);
    let packing = Packing::new(plan, checkpoint.config.num_layers as u32, rows, Mode::Branching)?;
    let mut planning = 0.0;
    for index in 0..packing.len() {
        let started = Instant::now();
        let chunk = packing.chunk(index);
        planning += started.elapsed().as_secs_f64();
        decoder.forward(&chunk.batch)?;
    }
    let seconds = decoder.kernels().seconds().into_iter().chain([("planning", planning)]);
    Ok(seconds.map(|(name, s)| (name.to_owned(), json!(s))).collect())
}

/// Rate of `[rows, d] x [d, f]` alone, in GFLOP/s by rows.
pub(super) fn multiplication(cpu: &Cpu, config: &ModelConfig) -> Value {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let numbers = |n: usize| (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect::<Vec<f32>>();
    let weight = PackedWeight::new(&numbers(d * f), f, d, cpu.dtype());
    let mut found = serde_json::Map::new();
    for rows in [12, 144, 1440] {
        let x = Matrix::from_rows(d, numbers(rows * d));
        let mut out = cpu.matrix(f);
        let mut best = f64::INFINITY;
        for _ in 0..8 {
            let started = Instant::now();
            cpu.linear(&x, &weight, &mut out);
            best = best.min(started.elapsed().as_secs_f64());
        }
        found.insert(rows.to_string(), json!(2.0 * (rows * d * f) as f64 / best / 1e9));
    }
    found.into()
}

/// Most memory that this process has had, in bytes. `None` where the system does not tell.
pub(super) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
