//! The command line as a client of a server: submit, watch, result, cancel.

mod bar;
mod key;
mod server;
mod sse;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

pub(crate) use self::key::{KeyArgs, key};
use self::server::Server;

/// Which server.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// The server's address; a key's token, if it needs one, is taken from `MEDIANT_KEY`
    #[arg(long, value_name = "URL", env = "MEDIANT_SERVER", default_value = "http://127.0.0.1:8080")]
    pub(crate) server: String,
}

/// `mediant submit`
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The request, a JSON file as POST /v1/sweep takes it; `-` for standard input
    pub(crate) file: PathBuf,
    /// The endpoint that it is for
    #[arg(long, value_enum, default_value_t = Endpoint::Sweep)]
    pub(crate) to: Endpoint,
    /// Cases to upload and sweep over, as .json, .jsonl or .csv
    #[arg(long, value_name = "FILE")]
    pub(crate) dataset: Option<PathBuf>,
    /// Repeated with the same key, the request is the same job
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Watch the job until it is done
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Endpoints whose requests can be answered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Endpoint {
    /// POST /v1/sweep
    Sweep,
    /// POST /v1/trace
    Trace,
    /// POST /v1/patch
    Patch,
    /// POST /v1/run
    Run,
}

impl Endpoint {
    const fn path(self) -> &'static str {
        match self {
            Self::Sweep => "/v1/sweep",
            Self::Trace => "/v1/trace",
            Self::Patch => "/v1/patch",
            Self::Run => "/v1/run",
        }
    }
}

/// `mediant watch`, `mediant cancel`
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job, as `mediant submit` printed it
    pub(crate) job: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// `mediant result`
#[derive(Debug, Args)]
pub(crate) struct ResultArgs {
    /// The job, as `mediant submit` printed it
    pub(crate) job: String,
    /// json, jsonl, csv, npz, safetensors, parquet, svg or png; by default what the output's name ends with, else json
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Of csv, jsonl and parquet: averages, cells, cases, differences or top
    #[arg(long)]
    pub(crate) table: Option<String>,
    /// The one metric of a table, file or picture
    #[arg(long)]
    pub(crate) metric: Option<String>,
    /// What a running sweep has found so far
    #[arg(long)]
    pub(crate) partial: bool,
    /// Where it is written; standard output if left out
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Submits a request and prints the job's id.
///
/// # Errors
/// The file cannot be read, or the server refuses it.
pub(crate) fn submit(args: &SubmitArgs) -> anyhow::Result<()> {
    block_on(async {
        let server = Server::new(&args.server.server)?;
        let mut body: Value = serde_json::from_str(&text(&args.file)?)
            .with_context(|| format!("{} is not JSON", args.file.display()))?;
        if let Some(file) = &args.dataset {
            let id = server.upload(media_type(file)?, text(file)?).await?;
            let Some(map) = body.as_object_mut() else { bail!("{} is no JSON object", args.file.display()) };
            map.insert("dataset".to_owned(), serde_json::json!({ "id": id }));
        }
        let job = server.submit(args.to.path(), &body, args.idempotency_key.as_deref()).await?;
        say(job.id()?)?;
        if args.watch { bar::watch(&server, job.id()?).await } else { Ok(()) }
    })
}

/// Shows how far a job is until it is over.
///
/// # Errors
/// There is no such job, or it failed or was cancelled.
pub(crate) fn watch(args: &JobArgs) -> anyhow::Result<()> {
    block_on(async { bar::watch(&Server::new(&args.server.server)?, &args.job).await })
}

/// Fetches what a job found.
///
/// # Errors
/// There is no result, or no such form of it; the file cannot be written.
pub(crate) fn result(args: &ResultArgs) -> anyhow::Result<()> {
    block_on(async {
        let server = Server::new(&args.server.server)?;
        let ending = args.output.as_deref().and_then(Path::extension).and_then(|e| e.to_str());
        let format =
            args.format.clone().or_else(|| ending.map(str::to_owned)).unwrap_or_else(|| "json".to_owned());
        let picture = ["svg", "png"].contains(&format.as_str());
        let mut query = vec![("format", format)];
        query.extend(args.table.clone().map(|table| ("table", table)));
        query.extend(args.metric.clone().map(|metric| ("metric", metric)));
        if args.partial {
            query.push(("partial", "true".to_owned()));
        }
        let bytes = server.fetch(&args.job, if picture { "plot" } else { "result" }, &query).await?;
        match &args.output {
            Some(file) => {
                std::fs::write(file, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
                eprintln!("{} bytes in {}", bytes.len(), file.display());
                Ok(())
            }
            None => write(&bytes),
        }
    })
}

/// Calls a job off.
///
/// # Errors
/// There is no such job.
pub(crate) fn cancel(args: &JobArgs) -> anyhow::Result<()> {
    block_on(async {
        let job = Server::new(&args.server.server)?.cancel(&args.job).await?;
        say(job.state()?)
    })
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the async runtime")?.block_on(work)
}

fn text(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn media_type(file: &Path) -> anyhow::Result<&'static str> {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("json") => Ok("application/json"),
        Some("jsonl" | "ndjson") => Ok("application/x-ndjson"),
        Some("csv") => Ok("text/csv"),
        _ => bail!("{} ends with none of .json, .jsonl and .csv", file.display()),
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    write(format!("{line}\n").as_bytes())
}

/// A reader that went away (`| head`) is not an error.
fn write(bytes: &[u8]) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
