//! `mediant bench generate`: what steps of generated text cost, over HTTP, against clean runs and against one another. All of it is
//! measured in turn, so that a machine that slows down slows all.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::measure::best;
use crate::demo::client::Client;
use mediant::app;
use mediant::config::{Config, KeysUse};

/// Texts of a step that are measured, beside one.
const TEXTS: [usize; 3] = [4, 16, 64];
/// Tokens of the prompt.
const PROMPT: usize = 64;
/// Steps of a text.
const STEPS: u32 = 48;
/// Texts beside a trace, and noise samples of that.
const BESIDE: usize = 4;
const TRACE_SAMPLES: u32 = 8;
/// The text beside the trace takes about so much of its time, if it is alone, and not more steps.
const TEXT_OF_TRACE: f64 = 0.4;
const MOST_STEPS: f64 = 512.0;

/// Steps with so many texts.
#[derive(Debug, Serialize)]
struct Steps {
    texts: usize,
    /// The engine's time of a step, ms.
    step_ms: f64,
    /// What the server and the sockets add to it, ms: tables, drawing lots, sending.
    host_ms: f64,
    /// A clean run of as many tokens, ms.
    clean_run_ms: f64,
    /// `step_ms` by it.
    of_clean_run: f64,
    /// `step_ms` by that of one text.
    of_one_text: f64,
}

/// What it all came to.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    device: String,
    steps: Vec<Steps>,
    /// 16 branches that part at the last position of the prompt: its prefill by the clean run.
    prefill_of_clean_run: f64,
    /// The same with `compare_with`: a step by one without.
    compared_of_plain: f64,
    /// Share of the time that steps have beside a trace.
    share_beside_a_trace: f64,
    /// What the trace then takes, by itself alone.
    trace_of_alone: f64,
}

/// Measured again and again.
#[derive(Debug, Default)]
struct Found {
    steps: Vec<(Vec<f64>, Vec<f64>)>,
    runs: Vec<Vec<f64>>,
    prefill: Vec<f64>,
    prompt: Vec<f64>,
    compared: Vec<f64>,
}

/// Measures and prints.
pub(super) fn run(mut config: Config, prompt: &str, repeat: usize, as_json: bool) -> anyhow::Result<()> {
    let kept = tempfile::tempdir().context("cannot make a temporary folder")?;
    config.store.data_dir = kept.path().display().to_string();
    "127.0.0.1:0".clone_into(&mut config.http.listen);
    // Only this machine reaches it, and nothing may be found that was computed before.
    config.auth.keys = KeysUse::Off;
    config.cache.share = mediant::config::Sharing::Off;
    let prompt = prompt.to_owned();
    app::serve_beside(config, move |host| {
        Box::pin(async move {
            let client = Client::new(host.address);
            client.ready().await;
            let report = measure(&client, &prompt, repeat).await?;
            print(&report, as_json)
        })
    })
}

async fn measure(client: &Client, prompt: &str, repeat: usize) -> anyhow::Result<Report> {
    let prompted = client.post("/v1/tokenize", &json!({"prompt": prompt})).await?.body;
    let ids = prompted["ids"].as_array().filter(|ids| !ids.is_empty()).context("the prompt has no tokens")?;
    let tokens: Vec<Value> = ids.iter().cycle().take(PROMPT).cloned().collect();
    let counts: Vec<usize> = std::iter::once(1).chain(TEXTS).collect();
    let mut found = Found {
        steps: vec![(Vec::new(), Vec::new()); counts.len()],
        runs: vec![Vec::new(); counts.len()],
        ..Found::default()
    };
    for _ in 0..repeat {
        for (i, count) in counts.iter().enumerate() {
            let (step, host) = step(client, &tokens, *count, false).await?;
            found.steps[i].0.push(step);
            found.steps[i].1.push(host);
            found.runs[i].push(clean_run(client, &tokens, *count).await?);
        }
        found.compared.push(step(client, &tokens, BESIDE, true).await?.0);
        found.prefill.push(prefill(client, &tokens).await?);
        found.prompt.push(clean_run(client, &tokens, PROMPT).await?);
    }
    let four =
        counts.iter().position(|count| *count == BESIDE).context("texts are compared that are measured")?;
    let one = best(&found.steps[0].0);
    let of = |(i, texts): (usize, &usize)| {
        let ((step, host), clean) = (&found.steps[i], best(&found.runs[i]));
        let step = best(step);
        Steps {
            texts: *texts,
            step_ms: step * 1e3,
            host_ms: best(host) * 1e3,
            clean_run_ms: clean * 1e3,
            of_clean_run: step / clean,
            of_one_text: step / one,
        }
    };
    let (share, trace) = beside(client, prompt, &tokens, best(&found.steps[four].0)).await?;
    let models = client.get("/v1/models").await?;
    let said = |field: &str| models["models"][0][field].as_str().unwrap_or_default().to_owned();
    Ok(Report {
        model: said("id"),
        device: said("device"),
        steps: counts.iter().enumerate().map(of).collect(),
        prefill_of_clean_run: best(&found.prefill) / best(&found.prompt),
        compared_of_plain: best(&found.compared) / best(&found.steps[four].0),
        share_beside_a_trace: share,
        trace_of_alone: trace,
    })
}

/// So many branches that write nothing: a row each at every step.
fn branches(count: usize) -> Value {
    (0..count).map(|i| (format!("b{i}"), json!([]))).collect::<serde_json::Map<_, _>>().into()
}

fn number(value: &Value, what: &str) -> anyhow::Result<f64> {
    value.as_f64().with_context(|| format!("the answer has no {what}"))
}

/// Seconds of a step with so many texts: the engine's, and what is added to them.
async fn step(client: &Client, tokens: &[Value], texts: usize, compared: bool) -> anyhow::Result<(f64, f64)> {
    let (short, long) = (8, 8 + STEPS);
    let mut of = Vec::new();
    for max_tokens in [short, long] {
        let mut body = json!({"tokens": tokens, "branches": branches(texts), "max_tokens": max_tokens});
        if compared {
            body["compare_with"] = json!("b0");
        }
        let answer = client.post("/v1/generate", &body).await?;
        let usage = &answer.body["usage"];
        let steps = number(&usage["steps"], "steps")?;
        ensure!(steps + 1.0 >= f64::from(max_tokens), "a text ended early: choose another --prompt");
        of.push((steps, number(&usage["step_seconds"], "seconds")?, answer.took.as_secs_f64()));
    }
    let steps = of[1].0 - of[0].0;
    let (engine, whole) = ((of[1].1 - of[0].1) / steps, (of[1].2 - of[0].2) / steps);
    Ok((engine, whole - engine))
}

/// Seconds of one run of so many tokens.
async fn clean_run(client: &Client, tokens: &[Value], count: usize) -> anyhow::Result<f64> {
    let tokens: Vec<&Value> = tokens.iter().cycle().take(count).collect();
    let body = json!({"tokens": tokens, "read": {"topk": 2}});
    number(&client.post("/v1/run", &body).await?.body["usage"]["seconds"], "seconds")
}

/// Seconds of reading a prompt for 16 branches that part at its last position.
async fn prefill(client: &Client, tokens: &[Value]) -> anyhow::Result<f64> {
    let branch = |i: usize| {
        let zero = json!([{"site": "resid_post", "layers": 0, "positions": "last", "op": "scale", "factor": 1.0 + 0.01 * i as f64}]);
        (format!("b{i}"), zero)
    };
    let branches: serde_json::Map<String, Value> = (1..=16).map(branch).collect();
    let body = json!({"tokens": tokens, "branches": branches, "max_tokens": 1});
    number(&client.post("/v1/generate", &body).await?.body["usage"]["prefill"]["seconds"], "seconds")
}

/// Share of the time that steps have beside a trace from the first token to the last, and what that takes by what it takes alone.
/// `step`: seconds of a step alone.
async fn beside(client: &Client, prompt: &str, tokens: &[Value], step: f64) -> anyhow::Result<(f64, f64)> {
    let trace =
        json!({"prompt": prompt, "subject": [1, 3], "target": 0, "corrupt": {"samples": TRACE_SAMPLES}});
    let alone = client.post("/v1/trace", &trace).await?.took.as_secs_f64();
    let client = *client;
    let busy = tokio::spawn(async move {
        let took = client.post("/v1/trace", &trace).await?.took;
        Ok::<_, anyhow::Error>(took.as_secs_f64())
    });
    // While the trace is being computed, the text begins and ends.
    tokio::time::sleep(Duration::from_secs_f64(alone / 10.0)).await;
    let steps = (alone * TEXT_OF_TRACE / step).clamp(8.0, MOST_STEPS) as u32;
    let text = json!({"tokens": tokens, "branches": branches(BESIDE), "max_tokens": steps});
    let answer = client.post("/v1/generate", &text).await?;
    ensure!(!busy.is_finished(), "the trace was over before the text: choose a longer --prompt");
    let usage = &answer.body["usage"];
    let prefill = |what: &str| number(&usage["prefill"][what], what);
    let writing = answer.took.as_secs_f64() - prefill("seconds")? - prefill("queue_seconds")?;
    let beside = busy.await.context("the trace was not asked for")??;
    Ok((number(&usage["step_seconds"], "seconds")? / writing, beside / alone))
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn print(report: &Report, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    println!("{}, {}", report.model, report.device);
    for Steps { texts, step_ms, host_ms, clean_run_ms, of_clean_run, of_one_text } in &report.steps {
        println!(
            "{texts:3} texts: a step {step_ms:.2} ms, {of_clean_run:.2} x a clean run of {texts} tokens ({clean_run_ms:.2} ms), \
             {of_one_text:.2} x one text; {host_ms:.2} ms of the host"
        );
    }
    println!(
        "prefill of 16 branches that part at the last of {PROMPT} positions: {:.2} x the clean run",
        report.prefill_of_clean_run
    );
    println!("{BESIDE} texts with compare_with: {:.2} x without", report.compared_of_plain);
    println!(
        "beside a trace: {:.0} % of the time goes to steps; the trace takes {:.2} x what it takes alone",
        100.0 * report.share_beside_a_trace,
        report.trace_of_alone
    );
    Ok(())
}
