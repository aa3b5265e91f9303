//! `mediant bench`: how fast causal traces, a sweep of heads and clean runs are on the devices at hand, against full recompute and
//! against what these devices can do at best; `mediant bench generate`: what steps of generated text cost. `benches/compare.py` runs the
//! first beside PyTorch.

mod generate;
mod host;
mod measure;
mod sweeps;
mod timed;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use measure::{Measured, Section, best, compute, floor};
use mediant::config::Settings;
use mediant::engine::row_budget::RowBudget;
use mediant::engine::{Computing, Model, Ready, load};
use mediant::kernels::cpu::Cpu;
use mediant::model::config::ModelConfig;
use mediant::plan::Plan;
use mediant::plan::pack::{Mode, Packing};
use mediant::spec::device::Device;
use mediant::spec::dtype::Dtype;

/// The prompt of the literature this project starts from.
const PUN: &str = "Why do electricians make good swimmers? Because they know the";
const TARGET: &str = " current";
/// The prompt whose heads are put into it.
const SOURCE: &str = "The river has a strong water";
/// Standard deviation of the traces' noise.
const TRACE_STD: f64 = 0.1;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Causal traces, a sweep of heads, clean runs
    Traces,
    /// Steps of generated text
    Generate,
}

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum, default_value_t = What::Traces)]
    what: What,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder, GGUF file, hub id, "smollm2-135m" or "dummy:tiny"
    #[arg(long, value_name = "REF")]
    model: Option<String>,
    /// Devices to divide the model over: "cpu", "cuda:0,cuda:1"
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    devices: Vec<Device>,
    /// Arithmetic: "f32", "bf16" or "f16"
    #[arg(long, value_name = "DTYPE", value_parser = dtype)]
    dtype: Option<Dtype>,
    /// Prompt to trace
    #[arg(long, default_value = PUN)]
    prompt: String,
    /// Lengths to which the prompt is cut or repeated, each traced; its own by default
    #[arg(long, value_name = "N", value_delimiter = ',')]
    tokens: Vec<usize>,
    /// Noise samples, each number at each length
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1])]
    samples: Vec<usize>,
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
    /// What was found of each rank's device: name, memory, ceilings, row counts from which products are invariant.
    ready: Ready,
    /// The hidden state restored at every layer and position: the first length, the first number of samples.
    trace: Section,
    /// The other lengths and numbers of samples.
    traces: Vec<Section>,
    /// `z` of every head of every layer at the last position, replaced by another prompt's.
    head_sweep: Section,
    /// The MLPs' outputs restored in windows of 10 layers, at every layer and position.
    window: Section,
    clean_runs: Vec<CleanRun>,
    checks: Checks,
    /// Most memory of this process, bytes.
    peak_host_bytes: Option<u64>,
    /// Most memory in use on each GPU, everybody's, bytes.
    peak_device_bytes: Vec<u64>,
    /// Seconds of one branching trace by operation, on one CPU.
    where_the_time_goes: Value,
    /// A CPU's multiplication alone, by rows, in GFLOP/s.
    gemm_gflops: Value,
}

/// One run of so many tokens, read at the last.
#[derive(Debug, Serialize)]
struct CleanRun {
    tokens: usize,
    ms: f64,
    /// The time that reading the weights once, or the products, would take at the device's ceilings.
    floor_ms: Option<f64>,
}

/// What must hold on every device, dtype and number of ranks.
#[derive(Debug, Serialize)]
struct Checks {
    /// Cells of a trace of a run into itself.
    self_patches: usize,
    /// Largest change of the target's log-probability among them: exactly 0.
    largest_self_patch_effect: f64,
    /// Whether a trace has the same bits in several chunks, of a quarter of its rows.
    same_bits_in_smaller_chunks: bool,
}

fn dtype(given: &str) -> Result<Dtype, String> {
    let known = [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().find(|dtype| dtype.name() == given);
    known.ok_or_else(|| "use \"f32\", \"bf16\" or \"f16\"".to_owned())
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let numbers = [&args.samples[..], &args.tokens, &[args.repeat]];
    ensure!(numbers.iter().all(|n| !n.contains(&0)), "--tokens, --samples and --repeat must be at least 1");
    let settings = Settings { config: args.config.clone(), model: args.model.clone(), ..Settings::default() };
    let mut settings = settings.load()?.config;
    if !args.devices.is_empty() {
        settings.engine.devices.clone_from(&args.devices);
    }
    settings.model.dtype = args.dtype.unwrap_or(settings.model.dtype);
    if args.what == What::Generate {
        return generate::run(settings, &args.prompt, args.repeat, args.json);
    }
    let checkpoint = load::checkpoint(&settings)?;
    let Computing { mut model, ready } = load::computing(&settings, &checkpoint, |_| ())?;
    let (config, budget) = (&checkpoint.config, &ready.budget);
    let prompt = checkpoint.tokenizer.encode(&args.prompt, None)?.ids;
    let target = checkpoint.tokenizer.continuation(&args.prompt, TARGET)?.ids[0];
    let source = checkpoint.tokenizer.encode(SOURCE, None)?.ids;
    let of_length = |n: usize| -> Arc<[u32]> { prompt.iter().copied().cycle().take(n).collect() };
    let lengths = if args.tokens.is_empty() { vec![prompt.len()] } else { args.tokens.clone() };
    let fits = lengths.iter().all(|n| *n <= config.max_positions);
    ensure!(fits, "--tokens must be at most {}", config.max_positions);
    let mut traces: Vec<Measured> = Vec::new();
    for &n in &lengths {
        for &samples in &args.samples {
            let sweep = sweeps::trace(config, &of_length(n), target, samples);
            traces.push(Measured::new("causal trace of resid_post", n, sweep));
        }
    }
    let (first, ids) = (lengths[0], of_length(lengths[0]));
    let heads = sweeps::head_sweep(config, &ids, &source, target);
    let window = sweeps::window_trace(config, &ids, target, args.samples[0]);
    let mut heads = Measured::new("head sweep of z at the last position", first, heads);
    let what = format!("causal trace of mlp_out in windows of {} layers", sweeps::WINDOW);
    let mut window = Measured::new(what, first, window);
    for _ in 0..args.repeat {
        // In turn, so that a machine that slows down slows all.
        for measured in traces.iter_mut().chain([&mut heads, &mut window]) {
            measured.round(&mut *model, config, budget, !args.no_full_recompute)?;
        }
    }
    let clean_runs = clean_runs(&mut *model, config, &ready, &of_length, args.repeat)?;
    let checks = check(&mut *model, config, budget, &ids, target)?;
    let peak_device_bytes = used_on(&settings.engine.devices());
    let cpu = settings.engine.devices() == [Device::Cpu];
    // The profile loads the weights once more.
    drop(model);
    let (mut where_the_time_goes, mut gemm_gflops) = (Value::Null, Value::Null);
    if cpu {
        let cpu = Cpu::new(settings.engine.threads(), settings.model.dtype)?;
        gemm_gflops = host::multiplication(&cpu, config);
        where_the_time_goes = host::profile(&checkpoint, cpu, traces[0].plan(), budget.rows)?;
    }
    let mut sections = traces.iter().map(|trace| trace.section(&ready));
    let report = Report {
        trace: sections.next().context("--samples names no number")?,
        traces: sections.collect(),
        head_sweep: heads.section(&ready),
        window: window.section(&ready),
        model: checkpoint.name,
        dtype: settings.model.dtype,
        clean_runs,
        checks,
        peak_host_bytes: host::peak_bytes(),
        peak_device_bytes,
        where_the_time_goes,
        gemm_gflops,
        ready,
    };
    print(&report, args.json)
}

/// Bytes in use on each GPU.
fn used_on(devices: &[Device]) -> Vec<u64> {
    #[cfg(feature = "cuda")]
    return devices
        .iter()
        .filter_map(|device| match device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => mediant::kernels::cuda::used_bytes(*ordinal as usize),
        })
        .collect();
    #[cfg(not(feature = "cuda"))]
    {
        debug_assert!(devices.iter().all(|device| *device == Device::Cpu), "others are refused before");
        Vec::new()
    }
}

fn clean_runs(
    model: &mut dyn Model,
    config: &ModelConfig,
    ready: &Ready,
    of_length: &dyn Fn(usize) -> Arc<[u32]>,
    repeat: usize,
) -> anyhow::Result<Vec<CleanRun>> {
    let measure = |tokens: usize| {
        let mut plan = Plan::default();
        let root = plan.root(of_length(tokens));
        plan.read(root, tokens as u32 - 1);
        let once = |_| compute(model, config.num_layers, &plan, &ready.budget, Mode::Branching);
        let all = (0..5 * repeat).map(once).collect::<anyhow::Result<Vec<_>>>()?;
        let ms = best(&all.iter().map(|c| c.seconds).collect::<Vec<_>>()) * 1e3;
        let flops = ready.budget.flops(all[0].row_layers, all[0].readouts);
        Ok(CleanRun {
            tokens,
            ms,
            floor_ms: floor(ready, flops, 1, |rates| rates.square_flops).map(|s| s * 1e3),
        })
    };
    [16, 64].map(|n| n.min(config.max_positions)).into_iter().map(measure).collect()
}

fn check(
    model: &mut dyn Model,
    config: &ModelConfig,
    budget: &RowBudget,
    ids: &Arc<[u32]>,
    target: u32,
) -> anyhow::Result<Checks> {
    let trace = sweeps::trace(config, ids, target, 1);
    let rows = Packing::new(&trace.plan, config.num_layers as u32, budget.rows, Mode::Branching)?.size().rows;
    let mut smaller = *budget;
    smaller.rows = ((rows as usize).min(budget.rows) / 4).max(4 * ids.len());
    let mut run = |plan: &Plan, budget| {
        compute(model, config.num_layers, plan, budget, Mode::Branching).map(|computed| computed.scores)
    };
    let patches = sweeps::self_patches(config, ids, target);
    let scores = run(&patches.plan, budget)?;
    let log_p = |score: &mediant::plan::Score| f64::from(score.logits[0]) - score.log_sum_exp;
    let effect = |score| (log_p(score) - log_p(&scores[0])).abs();
    Ok(Checks {
        self_patches: patches.cells(),
        largest_self_patch_effect: scores.iter().map(effect).fold(0.0, f64::max),
        same_bits_in_smaller_chunks: run(&trace.plan, budget)? == run(&trace.plan, &smaller)?,
    })
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn print(report: &Report, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    let Report { model, dtype, ready, .. } = report;
    println!("{model}, {}, {}, at most {} rows a batch", dtype.name(), ready.device(), ready.budget.rows);
    for device in &ready.devices {
        let rates = device.rates.map_or_else(String::new, |rates| {
            format!(
                "; ceilings: products {:.0} TFLOP/s, {:.0} kept up, copy {:.2} TB/s",
                rates.square_flops / 1e12,
                rates.sustained_flops / 1e12,
                rates.copy_bytes / 1e12
            )
        });
        let sums = device.sums.map_or_else(String::new, |sums| format!("; sums by {}", sums.name()));
        println!("  {:.1} GB of weights{rates}{sums}", device.weight_bytes as f64 / 1e9);
    }
    for section in
        [&report.trace].into_iter().chain(&report.traces).chain([&report.head_sweep, &report.window])
    {
        print_section(section);
    }
    for CleanRun { tokens, ms, floor_ms } in &report.clean_runs {
        let floor =
            floor_ms.map_or_else(String::new, |f| format!(", {:.2} x the floor of {f:.2} ms", ms / f));
        println!("clean run of {tokens} tokens: {ms:.2} ms{floor}");
    }
    let Checks { self_patches, largest_self_patch_effect, same_bits_in_smaller_chunks } = report.checks;
    println!("largest effect of {self_patches} self-patches: {largest_self_patch_effect}");
    println!("the same bits in smaller chunks: {same_bits_in_smaller_chunks}");
    println!("memory at most: {}", json!([report.peak_host_bytes, report.peak_device_bytes]));
    if !report.gemm_gflops.is_null() {
        println!("multiplication alone, GFLOP/s by rows: {}", report.gemm_gflops);
        println!("where the time goes, s: {}", report.where_the_time_goes);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn print_section(section: &Section) {
    let (branching, cells) = (best(&section.branching_s), section.cells);
    println!("{}, {} tokens, {cells} cells", section.what, section.tokens);
    let share =
        |of: Option<f64>, what| of.map_or_else(String::new, |f| format!(", {:.0} % of {what}", 100.0 * f));
    let shares = share(section.of_floor, "the ceiling")
        + &share(section.of_sustained, "the rate that random numbers keep up");
    let rate = section.flops / branching / 1e12;
    println!(
        "  branching       {branching:8.4} s   {:8.0} cells/s   {rate:.2} TFLOP/s{shares}",
        cells as f64 / branching
    );
    if let Some(same_bits) = section.same_bits {
        let full = best(&section.full_recompute_s);
        let bits = if same_bits { "same bits" } else { "OTHER BITS" };
        println!("  full recompute  {full:8.4} s   {:8.2} x as long, {bits}", full / branching);
    }
}
