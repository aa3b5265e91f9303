//! `mediant demo`: a tour of the experiments, over HTTP, against a server in this process.
//!
//! It is a client like any other: what it shows came out of responses. The requests are those of a course notebook on
//! causal tracing of puns, in its order, with the settings it has and with the ones that the lints ask for.

mod averages;
pub(crate) mod client;
mod files;
mod parts;
mod requests;
mod story;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use mediant::config::{KeysUse, Loaded, Settings};
use mediant::{app, telemetry};

use crate::screen::Screen;
use client::Client;
use files::Files;
use story::Story;

/// Log filter unless another one is configured: what is shown is enough.
const QUIET: &str = "warn";

/// Flags of the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder for pictures and numbers
    #[arg(long, value_name = "DIR", default_value = "demo-output")]
    pub(crate) out: PathBuf,
    /// Folder, GGUF file, hub id, "smollm2-135m" or "dummy:tiny"
    #[arg(long, value_name = "REF")]
    pub(crate) model: Option<String>,
    /// Configuration file; see config/default.toml for every key
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Noise samples of the traces; fewer are faster, with wider error bars
    #[arg(long, value_name = "N", default_value_t = requests::USUAL_SAMPLES, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) samples: u64,
    /// Keep serving at the end, until ctrl-c
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Starts the server on a free port of the loopback, tells the story, stops the server.
///
/// # Errors
/// The server cannot start, a request fails, or a file cannot be written.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    // A folder of its own: the usual one may be in use by a server.
    let kept = tempfile::tempdir().context("cannot make a temporary folder")?;
    let settings = Settings {
        config: args.config.clone(),
        listen: Some("127.0.0.1:0".to_owned()),
        model: args.model.clone(),
        data_dir: Some(kept.path().to_owned()),
    };
    let Loaded { mut config, sources } = settings.load()?;
    if sources.of("telemetry.filter") == mediant::config::Source::Default {
        QUIET.clone_into(&mut config.telemetry.filter);
    }
    // Its own store has no keys, and only this machine reaches it.
    config.auth.keys = KeysUse::Off;
    telemetry::init(&config.telemetry)?;
    let files = Files::in_folder(&args.out)?;
    let (keep, samples, serve) = (args.keep, args.samples, serve_line(args));
    let reference = config.model.reference.clone();
    let result = app::serve_beside(config, move |mut host| {
        Box::pin(async move {
            let client = Client::new(host.address);
            let mut story = Story::new(client, Screen::stdout(), files, samples);
            tokio::select! {
                told = story.tell(&reference, &serve, keep) => told?,
                () = host.stopping() => bail!("interrupted"),
            }
            if keep {
                host.stopping().await;
            }
            Ok(())
        })
    });
    match result {
        // A reader that went away (`| head`) is not an error.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other.context("the demo ended early"),
    }
}

/// The command that serves the same model for longer: this program, as it was called.
fn serve_line(args: &DemoArgs) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "mediant".to_owned());
    let model = args.model.iter().map(|model| format!(" --model {model}"));
    let config = args.config.iter().map(|config| format!(" --config {}", config.display()));
    [program, " serve".to_owned()].into_iter().chain(model).chain(config).collect()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind =
        |cause: &(dyn std::error::Error + 'static)| Some(cause.downcast_ref::<std::io::Error>()?.kind());
    error.chain().any(|cause| kind(cause) == Some(std::io::ErrorKind::BrokenPipe))
}
