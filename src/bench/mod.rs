//! `mediant bench`: how fast a causal trace, a sweep of heads and a windowed trace are on this machine, against full
//! recompute and the machine's own rate of multiplication. `benches/compare.py` runs it beside PyTorch.

mod sweeps;
mod timed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::cli::Settings;
use crate::engine::load;
use crate::engine::row_budget::RowBudget;
use crate::kernels::Kernels;
use crate::kernels::cpu::{Cpu, Matrix, PackedWeight};
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::plan::pack::{Mode, Packing};
use crate::plan::{Plan, Score};
use crate::spec::dtype::Dtype;
use sweeps::Sweep;
use timed::Timed;

/// The prompt of the literature this project starts from.
const PUN: &str = "Why do electricians make good swimmers? Because they know the";
const TARGET: &str = " current";
/// The prompt whose heads are put into it.
const SOURCE: &str = "The river has a strong water";
/// Standard deviation of the traces' noise.
const TRACE_STD: f64 = 0.1;

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
    /// The hidden state restored at every layer and position.
    trace: Section,
    /// `z` of every head of every layer at the last position, replaced by another prompt's.
    head_sweep: Section,
    /// The MLPs' outputs restored in windows of 10 layers, at every layer and position.
    window: Section,
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

/// One sweep, computed in both modes in turn.
#[derive(Debug, Serialize)]
struct Section {
    layers: usize,
    #[serde(flatten)]
    across: Across,
    samples: usize,
    cells: usize,
    /// Each time it was computed.
    branching_s: Vec<f64>,
    full_recompute_s: Vec<f64>,
    /// Whether both modes gave the same bits.
    same_bits: Option<bool>,
    /// P(target) by layer and position or head, mean over samples.
    values: Vec<Vec<f64>>,
}

/// What a layer's cells are.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Across {
    Positions(usize),
    Heads(usize),
}

/// A sweep with what was measured of it.
struct Measured {
    sweep: Sweep,
    /// Seconds and the last scores of each mode.
    modes: Vec<(Mode, Vec<f64>, Vec<Score>)>,
    /// Row-layers and readout rows in branching mode.
    work: (u64, u64),
}

impl Measured {
    fn new(sweep: Sweep, full_recompute: bool) -> Self {
        let mut modes = vec![(Mode::Branching, Vec::new(), Vec::new())];
        if full_recompute {
            modes.push((Mode::FullRecompute, Vec::new(), Vec::new()));
        }
        Self { sweep, modes, work: (0, 0) }
    }

    /// Computes it once in each mode.
    fn round(
        &mut self,
        decoder: &mut Decoder<Cpu>,
        config: &ModelConfig,
        budget: &RowBudget,
    ) -> anyhow::Result<()> {
        for (mode, seconds, scores) in &mut self.modes {
            let started = Instant::now();
            let (found, row_layers, readouts) = compute(decoder, config, &self.sweep.plan, budget, *mode)?;
            seconds.push(started.elapsed().as_secs_f64());
            *scores = found;
            if *mode == Mode::Branching {
                self.work = (row_layers, readouts);
            }
        }
        Ok(())
    }

    fn section(&self, across: Across) -> Section {
        let (_, branching_s, scores) = &self.modes[0];
        let full = self.modes.get(1);
        Section {
            layers: self.sweep.layers,
            across,
            samples: self.sweep.samples,
            cells: self.sweep.cells(),
            branching_s: branching_s.clone(),
            full_recompute_s: full.map(|(_, seconds, _)| seconds.clone()).unwrap_or_default(),
            same_bits: full.map(|(_, _, other)| other == scores),
            values: self.sweep.values(scores),
        }
    }
}

/// Measures and prints.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!(args.samples > 0 && args.repeat > 0, "--samples and --repeat must be at least 1");
    let settings = Settings { config: args.config.clone(), model: args.model.clone(), ..Settings::default() };
    let settings = settings.load()?.config;
    let checkpoint = load::checkpoint(&settings)?;
    let (mut decoder, budget) = load::decoder(&settings, &checkpoint, |_| ())?;
    let config = &checkpoint.config;
    let ids = checkpoint.tokenizer.encode(&args.prompt, None)?.ids;
    let length = args.tokens.unwrap_or(ids.len());
    ensure!((1..=config.max_positions).contains(&length), "--tokens must be 1 to {}", config.max_positions);
    let ids: Arc<[u32]> = ids.iter().copied().cycle().take(length).collect();
    let target = checkpoint.tokenizer.target(TARGET)?[0];
    let source = checkpoint.tokenizer.encode(SOURCE, None)?.ids;
    let [mut trace, mut heads, mut window] = [
        sweeps::trace(config, &ids, target, args.samples),
        sweeps::head_sweep(config, &ids, &source, target),
        sweeps::window_trace(config, &ids, target, args.samples),
    ]
    .map(|sweep| Measured::new(sweep, !args.no_full_recompute));
    for _ in 0..args.repeat {
        // In turn, so that a machine that slows down slows all.
        for measured in [&mut trace, &mut heads, &mut window] {
            measured.round(&mut decoder, config, &budget)?;
        }
    }
    let (row_layers, readouts) = trace.work;
    let flops = budget.flops(row_layers, readouts);
    let best = best(&trace.modes[0].1);
    let clean_run_ms = clean_runs(&mut decoder, config, &budget, &ids, args.repeat)?;
    let gemm_gflops = multiplication(decoder.kernels(), config);
    let (threads, dtype) = (decoder.kernels().threads(), decoder.kernels().dtype());
    let report = Report {
        model: checkpoint.name.clone(),
        dtype,
        threads,
        trace: trace.section(Across::Positions(length)),
        head_sweep: heads.section(Across::Heads(config.num_heads)),
        window: window.section(Across::Positions(length)),
        where_the_time_goes: profile(decoder, config, &trace.sweep.plan, &budget)?,
        gemm_gflops,
        clean_run_ms,
        flops,
        row_layers,
        achieved_gflops: flops / best / 1e9,
    };
    print(&report, args.json)
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

/// The shortest of several times.
fn best(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
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
    let Report { model, dtype, threads, .. } = report;
    println!("{model}, {}, {threads} threads", dtype.name());
    print_section("causal trace of resid_post", &report.trace);
    println!("  {:.0} GFLOP at {:.0} GFLOP/s", report.flops / 1e9, report.achieved_gflops);
    print_section("head sweep of z at the last position", &report.head_sweep);
    print_section(
        &format!("causal trace of mlp_out in windows of {} layers", sweeps::WINDOW),
        &report.window,
    );
    println!("multiplication alone, GFLOP/s by rows: {}", report.gemm_gflops);
    println!("clean run, ms by tokens: {}", report.clean_run_ms);
    println!("where the time goes, s: {}", report.where_the_time_goes);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn print_section(title: &str, section: &Section) {
    let Section { layers, samples, cells, .. } = section;
    let across = match section.across {
        Across::Positions(n) => format!("{n} positions"),
        Across::Heads(n) => format!("{n} heads"),
    };
    println!("{title}: {layers} layers x {across} x {samples} samples = {cells} cells");
    let branching = best(&section.branching_s);
    println!("  branching       {branching:8.3} s   {:8.0} cells/s", *cells as f64 / branching);
    if let Some(same_bits) = section.same_bits {
        let full = best(&section.full_recompute_s);
        let bits = if same_bits { "same bits" } else { "OTHER BITS" };
        println!("  full recompute  {full:8.3} s   {:8.2} x as long, {bits}", full / branching);
    }
}
