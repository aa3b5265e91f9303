//! The command line as a client of a server: experiments, jobs, cases, keys.

mod answer;
mod ask;
mod bar;
mod key;
mod lists;
mod server;
mod show;
mod sse;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use mediant::spec::kind::Kind;
use serde_json::Value;

pub(crate) use self::answer::{generate, lens, patch, plan, run, sweep, tokenize, trace};
pub(crate) use self::ask::{
    GenerateArgs, LensArgs, PatchArgs, PlanArgs, RunArgs, SweepArgs, TokenizeArgs, TraceArgs,
};
pub(crate) use self::bar::Interrupted;
pub(crate) use self::key::{KeyArgs, key};
pub(crate) use self::lists::{DatasetsArgs, JobsArgs, datasets, jobs};
use self::server::Server;
pub(crate) use self::server::{Away, Refused};
use crate::screen::When;

/// Which server.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// The server's address; a key's token, if it needs one, is taken from `MEDIANT_KEY`
    #[arg(
        long,
        visible_alias = "url",
        value_name = "URL",
        env = "MEDIANT_SERVER",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) server: String,
}

/// `mediant submit`
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// The request, a JSON file as POST /v1/sweep takes it; `-` for standard input
    pub(crate) file: PathBuf,
    /// The endpoint that it is for
    #[arg(long, value_name = "KIND", default_value = "sweep", value_parser = ask::kind)]
    pub(crate) to: Kind,
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
    #[command(flatten)]
    file: FileArgs,
    /// What a running sweep has found so far
    #[arg(long)]
    pub(crate) partial: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// A result as a file.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// json, jsonl, csv, npz, safetensors, parquet, svg or png; by default what the output's name ends with, else json
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Of csv, jsonl and parquet of a sweep: averages, cells, cases, differences or top
    #[arg(long)]
    pub(crate) table: Option<String>,
    /// The one metric of a table, file or picture
    #[arg(long)]
    pub(crate) metric: Option<String>,
    /// Where it is written; standard output if left out
    #[arg(long, visible_alias = "save", short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// How an answer is shown.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Print the answer as the server's JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Colours of the terminal
    #[arg(long, value_enum, default_value_t)]
    pub(crate) color: When,
    /// Print no lints and no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Submits a request and prints the job's id.
///
/// # Errors
/// The file cannot be read, or the server refuses it.
pub(crate) fn submit(args: &SubmitArgs) -> anyhow::Result<()> {
    block_on(async {
        let server = Server::new(&args.server.server)?;
        let mut body = parsed(&args.file)?;
        if let Some(file) = &args.dataset {
            let set = server.upload(media_type(file)?, text(file)?, None).await?;
            let Some(map) = body.as_object_mut() else { bail!("{} is no JSON object", args.file.display()) };
            map.insert("dataset".to_owned(), serde_json::json!({ "id": set["id"] }));
        }
        let job = server.submit(args.to, &body, args.idempotency_key.as_deref()).await?;
        say(job.id()?)?;
        if args.watch {
            bar::attend(&server, job.id()?, bar::Kept::Shown).await?;
            eprintln!("mediant result {} has what it found", job.id()?);
        }
        Ok(())
    })
}

/// Shows how far a job is until it is over.
///
/// # Errors
/// There is no such job, or it failed or was cancelled.
pub(crate) fn watch(args: &JobArgs) -> anyhow::Result<()> {
    block_on(async { bar::attend(&Server::new(&args.server.server)?, &args.job, bar::Kept::Shown).await })
}

/// Fetches what a job found.
///
/// # Errors
/// There is no result, or no such form of it; the file cannot be written.
pub(crate) fn result(args: &ResultArgs) -> anyhow::Result<()> {
    block_on(async {
        let server = Server::new(&args.server.server)?;
        save(&server, &args.job, &args.file, args.partial).await
    })
}

/// Writes what a job found as the file that was asked for.
async fn save(server: &Server, job: &str, args: &FileArgs, partial: bool) -> anyhow::Result<()> {
    let ending = args.output.as_deref().and_then(Path::extension).and_then(|e| e.to_str());
    let format =
        args.format.clone().or_else(|| ending.map(str::to_owned)).unwrap_or_else(|| "json".to_owned());
    let picture = ["svg", "png"].contains(&format.as_str());
    let mut query = vec![("format", format)];
    query.extend(args.table.clone().map(|table| ("table", table)));
    query.extend(args.metric.clone().map(|metric| ("metric", metric)));
    if partial {
        query.push(("partial", "true".to_owned()));
    }
    let bytes = server.fetch(job, if picture { "plot" } else { "result" }, &query).await?;
    match &args.output {
        Some(file) => {
            std::fs::write(file, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
            eprintln!("{} bytes in {}", bytes.len(), file.display());
            Ok(())
        }
        None => write(&bytes),
    }
}

/// Cancels a job.
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

fn parsed(file: &Path) -> anyhow::Result<Value> {
    serde_json::from_str(&text(file)?).with_context(|| format!("{} is not JSON", file.display()))
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
