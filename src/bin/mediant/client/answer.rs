//! From a command to its answer: an experiment is handed in as a job and followed, so that a lost connection loses nothing.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Context;
use mediant::spec::kind::Kind;
use reqwest::Method;
use serde_json::{Value, json};

use super::ask::{Common, Experiment, GenerateArgs, LensArgs, PatchArgs, PlanArgs, RunArgs, SweepArgs};
use super::ask::{TokenizeArgs, TraceArgs};
use super::server::Server;
use super::{FileArgs, ShowArgs, bar, block_on, media_type, parsed, save, show, text, write};
use crate::screen::Screen;

/// How an answer is shown to people.
type Show = fn(&mut Screen, &Value) -> std::io::Result<()>;

/// `mediant run`
///
/// # Errors
/// The server refuses, or does not answer.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    experiment(args, show::runs)
}

/// `mediant lens`
///
/// # Errors
/// As those of [`run`].
pub(crate) fn lens(args: &LensArgs) -> anyhow::Result<()> {
    experiment(args, show::lens)
}

/// `mediant trace`
///
/// # Errors
/// As those of [`run`].
pub(crate) fn trace(args: &TraceArgs) -> anyhow::Result<()> {
    experiment(args, show::trace)
}

/// `mediant patch`
///
/// # Errors
/// As those of [`run`].
pub(crate) fn patch(args: &PatchArgs) -> anyhow::Result<()> {
    experiment(args, show::patch)
}

fn experiment<E: Experiment>(args: &E, show: Show) -> anyhow::Result<()> {
    block_on(async {
        let common = args.common();
        let server = Server::new(&common.server.server)?;
        answer(&server, E::KIND, &args.body(), common, show).await
    })
}

/// `mediant sweep`
///
/// # Errors
/// The cases cannot be read, or as those of [`run`].
pub(crate) fn sweep(args: &SweepArgs) -> anyhow::Result<()> {
    block_on(async {
        let common = args.common();
        let server = Server::new(&common.server.server)?;
        let mut body = args.body();
        let file = Path::new(&args.data);
        if !args.data.starts_with("ds_") {
            let set = server.upload(media_type(file)?, text(file)?, None).await?;
            body["dataset"]["id"] = set["id"].clone();
        }
        answer(&server, Kind::Sweep, &body, common, show::sweep).await
    })
}

/// Asks for an experiment, waits for it, and gives it out as it is wanted.
async fn answer(
    server: &Server,
    kind: Kind,
    body: &Value,
    common: &Common,
    show: Show,
) -> anyhow::Result<()> {
    if common.plan {
        let plan = server.ask(Method::POST, "/v1/plan", Some(&json!({ kind.name(): body }))).await?;
        return give(&plan, &common.show, show::plan);
    }
    let key = uuid::Uuid::now_v7().to_string();
    let job = server.submit(kind, body, Some(&key)).await?;
    let quiet = common.show.quiet || !std::io::stderr().is_terminal();
    bar::attend(server, job.id()?, if quiet { bar::Kept::Silent } else { bar::Kept::Cleared }).await?;
    let id = job.id()?;
    let FileArgs { format, output, .. } = &common.file;
    if format.is_some() || output.is_some() {
        return save(server, id, &common.file, false).await;
    }
    let bytes = server.fetch(id, "result", &[("format", "json".to_owned())]).await?;
    if common.show.json {
        return write(&bytes);
    }
    let document = serde_json::from_slice(&bytes).context("the result is not JSON")?;
    give(&document, &common.show, show)?;
    if !common.show.quiet {
        eprintln!("kept as {id}: mediant result {id} -o FILE writes it as .csv, .npz, .svg, .png, …");
    }
    Ok(())
}

/// A document as it is wanted, its lints on standard error.
fn give(document: &Value, args: &ShowArgs, show: Show) -> anyhow::Result<()> {
    if args.json {
        return write(format!("{document}\n").as_bytes());
    }
    match show(&mut Screen::coloured(args.color), document) {
        // A reader that went away (`| head`) is not an error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    if !args.quiet {
        Screen::stderr(args.color).lints(&[document])?;
    }
    Ok(())
}

/// `mediant generate`
///
/// # Errors
/// As those of [`run`].
pub(crate) fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    ask("/v1/generate", &args.server.server, &args.body(), &args.show, show::texts)
}

/// `mediant tokenize`
///
/// # Errors
/// As those of [`run`].
pub(crate) fn tokenize(args: &TokenizeArgs) -> anyhow::Result<()> {
    ask("/v1/tokenize", &args.server.server, &args.body(), &args.show, show::tokens)
}

/// `mediant plan`
///
/// # Errors
/// The file cannot be read, or as those of [`run`].
pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let body = args.body(parsed(&args.file)?)?;
    ask("/v1/plan", &args.server.server, &body, &args.show, show::plan)
}

fn ask(path: &str, server: &str, body: &Value, args: &ShowArgs, show: Show) -> anyhow::Result<()> {
    block_on(async {
        let answer = Server::new(server)?.ask(Method::POST, path, Some(body)).await?;
        give(&answer, args, show)
    })
}
