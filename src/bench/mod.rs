//! `mediant bench`: how fast the causal trace is on this machine, against full recompute and the machine's own rate of
//! multiplication. `benches/compare.py` runs it beside PyTorch.

mod timed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::cli::Settings;
use crate::engine::row_budget::RowBudget;
use crate::kernels::Kernels;
use crate::kernels::cpu::{Cpu, Matrix, PackedWeight};
use crate::lower::noise::numpy_legacy;
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::plan::pack::{Mode, Packing};
use crate::plan::{Address, Edit, EditGroup, Op, Plan, Score, Source};
use crate::service::start;
use crate::spec::dtype::Dtype;
use crate::spec::site::Site;
use timed::Timed;

/// The prompt of the literature this project starts from.
const PUN: &str = "Why do electricians make good swimmers? Because they know the";
const TARGET: &str = " current";

/// What to measure.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder, GGUF file, hub id, "smollm2-135m" or "dummy:tiny"
    #[arg(long, value_name = "REF")]
    model: Option<String>,
    /// Prompt to trace
    #[arg(long, default_value = PUN)]
    prompt: String,
    /// Length to which the prompt is cut or repeated; its own by default
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Noise samples
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// Times each measurement is taken
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Leave out full recompute, which takes several times as long
    #[arg(long)]
    no_full_recompute: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Everything measured.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    dtype: Dtype,
    threads: usize,
    trace: Trace,
    /// Seconds of one branching trace by operation.
    where_the_time_goes: serde_json::Value,
    /// Multiplication alone, by rows, in GFLOP/s.
    gemm_gflops: serde_json::Value,
    /// One run of so many tokens, in milliseconds.
    clean_run_ms: serde_json::Value,
    /// Operations of the branching trace's linear layers and unembedding.
    flops: f64,
    /// Rows times layers of the branching trace.
    row_layers: u64,
    /// `flops` by the best time, in GFLOP/s.
    achieved_gflops: f64,
}

#[derive(Debug, Serialize)]
struct Trace {
    layers: usize,
    positions: usize,
    samples: usize,
    cells: usize,
    branching_s: Vec<f64>,
    full_recompute_s: Vec<f64>,
    /// Whether both modes gave the same bits.
    same_bits: Option<bool>,
    /// P(target) by layer and position, mean over samples.
    values: Vec<Vec<f64>>,
}

/// Measures and prints.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!(args.samples > 0 && args.repeat > 0, "--samples and --repeat must be at least 1");
    let settings = Settings { config: args.config.clone(), model: args.model.clone(), ..Settings::default() };
    let (mut decoder, served, budget) = start::load(&settings.load()?.config)?;
    let config = &served.config;
    let ids = served.tokenizer.encode(&args.prompt, None)?.ids;
    let length = args.tokens.unwrap_or(ids.len());
    ensure!((1..=config.max_positions).contains(&length), "--tokens must be 1 to {}", config.max_positions);
    let ids: Arc<[u32]> = ids.iter().copied().cycle().take(length).collect();
    let target = served.tokenizer.target(TARGET)?[0];
    let plan = trace_plan(config, &ids, target, args.samples);

    let mut modes = vec![(Mode::Branching, Vec::new(), Vec::new())];
    if !args.no_full_recompute {
        modes.push((Mode::FullRecompute, Vec::new(), Vec::new()));
    }
    let mut work = (0, 0);
    for _ in 0..args.repeat {
        // In turn, so that a machine that slows down slows both.
        for (mode, seconds, scores) in &mut modes {
            let started = Instant::now();
            let (found, row_layers, readouts) = compute(&mut decoder, config, &plan, &budget, *mode)?;
            seconds.push(started.elapsed().as_secs_f64());
            *scores = found;
            if *mode == Mode::Branching {
                work = (row_layers, readouts);
            }
        }
    }
    let (row_layers, readouts) = work;
    let flops = budget.flops(row_layers, readouts);
    let branching = &modes[0];
    let best = branching.1.iter().copied().fold(f64::INFINITY, f64::min);
    let clean_run_ms = clean_runs(&mut decoder, config, &budget, &ids, args.repeat)?;
    let gemm_gflops = multiplication(decoder.kernels(), config);
    let (threads, dtype) = (decoder.kernels().threads(), decoder.kernels().dtype());
    let report = Report {
        model: served.name.clone(),
        dtype,
        threads,
        trace: Trace {
            layers: config.num_layers,
            positions: length,
            samples: args.samples,
            cells: config.num_layers * length * args.samples,
            branching_s: branching.1.clone(),
            full_recompute_s: modes.get(1).map(|m| m.1.clone()).unwrap_or_default(),
            same_bits: modes.get(1).map(|m| m.2 == branching.2),
            values: values(&branching.2, config.num_layers, length, args.samples),
        },
        where_the_time_goes: profile(decoder, config, &plan, &budget)?,
        gemm_gflops,
        clean_run_ms,
        flops,
        row_layers,
        achieved_gflops: flops / best / 1e9,
    };
    print(&report, args.json)
}

/// Every cell of a denoising trace of the hidden state: noise of standard deviation 0.1 on all positions, drawn as NumPy's
/// `RandomState(0).randn(samples, positions, hidden)`.
fn trace_plan(config: &ModelConfig, ids: &Arc<[u32]>, target: u32, samples: usize) -> Plan {
    let all: Vec<u32> = (0..ids.len() as u32).collect();
    let last = ids.len() as u32 - 1;
    let numbers = ids.len() * config.hidden_size;
    let noise = numpy_legacy(0, samples * numbers);
    let mut plan = Plan::default();
    plan.scoring.targets = vec![target];
    let clean = plan.root(Arc::clone(ids));
    plan.read(clean, last);
    for noise in noise.chunks(numbers) {
        let rows: Arc<[f32]> = noise.iter().map(|x| (x * 0.1) as f32).collect();
        let corrupted = plan.branch(
            clean,
            vec![Edit::new(
                Address { layer: 0, site: Site::Embed },
                all.clone(),
                Op::add(Source::Constant(rows)),
                EditGroup::Corruption,
            )],
        );
        for layer in 0..config.num_layers as u32 {
            for &position in &all {
                let restored = plan.branch(
                    corrupted,
                    vec![Edit::new(
                        Address { layer, site: Site::ResidPost },
                        vec![position],
                        Op::Replace(Source::Run { run: clean, positions: vec![position] }),
                        EditGroup::Patch,
                    )],
                );
                plan.read(restored, last);
            }
        }
    }
    plan
}

/// Scores, row-layers and readout rows of a plan.
fn compute<K: Kernels>(
    decoder: &mut Decoder<K>,
    config: &ModelConfig,
    plan: &Plan,
    budget: &RowBudget,
    mode: Mode,
) -> anyhow::Result<(Vec<Score>, u64, u64)> {
    let packing = Packing::new(plan, config.num_layers as u32, budget.rows, mode)?;
    let mut scores: Vec<Option<Score>> = vec![None; plan.readouts.len()];
    let (mut row_layers, mut readouts) = (0, 0);
    for index in 0..packing.len() {
        let chunk = packing.chunk(index);
        let output = decoder.forward(&chunk.batch);
        row_layers += chunk.batch.row_layers;
        readouts += chunk.batch.readout.rows.len() as u64;
        for (readout, row) in chunk.readouts {
            scores[readout] = Some(output.scores[row].clone());
        }
    }
    let scores = scores.into_iter().map(|s| s.expect("BUG: every readout is in one chunk")).collect();
    Ok((scores, row_layers, readouts))
}

fn values(scores: &[Score], layers: usize, positions: usize, samples: usize) -> Vec<Vec<f64>> {
    let cells = layers * positions;
    let probability = |cell: usize, sample: usize| {
        let score = &scores[1 + sample * cells + cell];
        (f64::from(score.logits[0]) - score.log_sum_exp).exp()
    };
    let mean = |cell| (0..samples).map(|s| probability(cell, s)).sum::<f64>() / samples as f64;
    (0..layers).map(|l| (0..positions).map(|p| mean(l * positions + p)).collect()).collect()
}

/// The same trace through kernels with a stopwatch each.
fn profile(
    decoder: Decoder<Cpu>,
    config: &ModelConfig,
    plan: &Plan,
    budget: &RowBudget,
) -> anyhow::Result<serde_json::Value> {
    let mut decoder = Timed::around(decoder, config);
    let started = Instant::now();
    compute(&mut decoder, config, plan, budget, Mode::Branching)?;
    let total = started.elapsed().as_secs_f64();
    let mut seconds = decoder.kernels().seconds();
    let inside: f64 = seconds.iter().map(|(_, s)| s).sum();
    seconds.push(("planning", total - inside));
    Ok(seconds.into_iter().map(|(name, s)| (name.to_owned(), json!(s))).collect())
}

fn clean_runs(
    decoder: &mut Decoder<Cpu>,
    config: &ModelConfig,
    budget: &RowBudget,
    ids: &[u32],
    repeat: usize,
) -> anyhow::Result<serde_json::Value> {
    let mut found = serde_json::Map::new();
    for length in [16, 64] {
        let mut plan = Plan::default();
        let tokens: Arc<[u32]> = ids.iter().copied().cycle().take(length.min(config.max_positions)).collect();
        let last = tokens.len() as u32 - 1;
        let root = plan.root(tokens);
        plan.read(root, last);
        let mut best = f64::INFINITY;
        for _ in 0..repeat.max(3) {
            let started = Instant::now();
            compute(decoder, config, &plan, budget, Mode::Branching)?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        found.insert(length.to_string(), json!(best * 1e3));
    }
    Ok(found.into())
}

/// Rate of `[rows, d] x [d, f]` alone.
fn multiplication(cpu: &Cpu, config: &ModelConfig) -> serde_json::Value {
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
            cpu.linear(&x, &weight, None, &mut out);
            best = best.min(started.elapsed().as_secs_f64());
        }
        found.insert(rows.to_string(), json!(2.0 * (rows * d * f) as f64 / best / 1e9));
    }
    found.into()
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn print(report: &Report, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    let Report { model, dtype, threads, trace, .. } = report;
    let best = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let branching = best(&trace.branching_s);
    println!("{model}, {}, {threads} threads", dtype.name());
    println!(
        "causal trace: {} layers x {} positions x {} samples = {} cells",
        trace.layers, trace.positions, trace.samples, trace.cells
    );
    let rate = trace.cells as f64 / branching;
    println!("  branching       {branching:8.3} s   {rate:8.0} cells/s");
    if let Some(same_bits) = trace.same_bits {
        let full = best(&trace.full_recompute_s);
        let bits = if same_bits { "same bits" } else { "OTHER BITS" };
        println!("  full recompute  {full:8.3} s   {:8.2} x as long, {bits}", full / branching);
    }
    println!("  {:.0} GFLOP at {:.0} GFLOP/s", report.flops / 1e9, report.achieved_gflops);
    println!("multiplication alone, GFLOP/s by rows: {}", report.gemm_gflops);
    println!("clean run, ms by tokens: {}", report.clean_run_ms);
    println!("where the time goes, s: {}", report.where_the_time_goes);
    Ok(())
}
