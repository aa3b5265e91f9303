//! `mediant jobs` and `mediant datasets`: what the server keeps.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::server::Server;
use super::{ServerArgs, ShowArgs, bar, block_on, media_type, say, text, write};
use crate::screen::Align::{Left, Right};
use crate::screen::Screen;
use crate::screen::numbers::items;

/// `mediant jobs`
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    /// Only those in this state: queued, running, succeeded, failed, cancelled
    #[arg(long)]
    state: Option<String>,
    /// Only those of this kind: sweep, trace, patch, run
    #[arg(long)]
    kind: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// `mediant datasets`
#[derive(Debug, Args)]
pub(crate) struct DatasetsArgs {
    #[command(subcommand)]
    command: Option<DatasetsCommand>,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum DatasetsCommand {
    /// Store cases; every line is checked, and the set's id is printed
    Add {
        /// A .csv, .jsonl or .json file
        file: PathBuf,
        /// A name to find it by
        #[arg(long)]
        name: Option<String>,
    },
    /// Print the cases of a set
    Show {
        /// The set
        id: String,
    },
    /// Delete a set
    Rm {
        /// The set
        id: String,
    },
}

/// Lists one's jobs, newest first.
///
/// # Errors
/// The server refuses, or does not answer.
pub(crate) fn jobs(args: &JobsArgs) -> anyhow::Result<()> {
    block_on(async {
        let mut query = vec![("limit", args.limit.to_string())];
        query.extend(args.state.clone().map(|state| ("state", state)));
        query.extend(args.kind.clone().map(|kind| ("kind", kind)));
        let list = Server::new(&args.server.server)?.list("/v1/jobs", &query).await?;
        if args.show.json {
            return say(&list.to_string());
        }
        let rows: Vec<Vec<String>> = items(&list["jobs"]).iter().map(job).collect();
        let head = [
            ("job", Left),
            ("kind", Left),
            ("state", Left),
            ("done", Right),
            ("left", Right),
            ("asked", Left),
        ];
        table(&args.show, &head, &rows)
    })
}

fn job(job: &Value) -> Vec<String> {
    let of = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
    let (done, total) = (job["progress"]["done"].as_f64(), job["progress"]["total"].as_f64());
    let share = done.zip(total).filter(|(_, total)| *total > 0.0);
    let share = share.map(|(done, total)| format!("{:.0} %", 100.0 * done / total));
    let left = job["eta_s"].as_f64().map(bar::readable);
    vec![
        of("id"),
        of("kind"),
        of("state"),
        share.unwrap_or_default(),
        left.unwrap_or_default(),
        of("created"),
    ]
}

/// Lists, stores, shows or deletes sets of cases.
///
/// # Errors
/// The file cannot be read, or the server refuses it.
pub(crate) fn datasets(args: &DatasetsArgs) -> anyhow::Result<()> {
    block_on(async {
        let server = Server::new(&args.server.server)?;
        match &args.command {
            None => {
                let list = server.list("/v1/datasets", &[]).await?;
                if args.show.json {
                    return say(&list.to_string());
                }
                let rows: Vec<Vec<String>> = items(&list["datasets"]).iter().map(set).collect();
                table(&args.show, &[("set", Left), ("cases", Right), ("stored", Left), ("name", Left)], &rows)
            }
            Some(DatasetsCommand::Add { file, name }) => {
                let set = server.upload(media_type(file)?, text(file)?, name.as_deref()).await?;
                say(&if args.show.json {
                    set.to_string()
                } else {
                    set["id"].as_str().unwrap_or_default().to_owned()
                })
            }
            Some(DatasetsCommand::Show { id }) => {
                write(&server.bytes(&format!("/v1/datasets/{id}"), &[]).await?)
            }
            Some(DatasetsCommand::Rm { id }) => {
                server.ask(Method::DELETE, &format!("/v1/datasets/{id}"), None).await.map(drop)
            }
        }
    })
}

fn set(set: &Value) -> Vec<String> {
    let of = |name: &str| set[name].as_str().unwrap_or_default().to_owned();
    vec![of("id"), set["cases"].to_string(), of("created"), of("name")]
}

fn table(show: &ShowArgs, head: &[(&str, crate::screen::Align)], rows: &[Vec<String>]) -> anyhow::Result<()> {
    match Screen::coloured(show.color).table(head, rows) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
