//! The command line.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::bench::BenchArgs;
use crate::client::{
    DatasetsArgs, GenerateArgs, JobArgs, JobsArgs, KeyArgs, LensArgs, PatchArgs, PlanArgs, ResultArgs,
    RunArgs, SubmitArgs, SweepArgs, TokenizeArgs, TraceArgs,
};
use crate::demo::DemoArgs;
use crate::{bench, client, demo};
use mediant::config::{Loaded, Settings};
use mediant::{app, engine, http, telemetry};
use mediant_worker::wait::Alert;

/// HTTP inference-and-intervention server for causal mediation analysis of Llama-family models and GPT-2.
#[derive(Debug, Parser)]
#[command(name = "mediant", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model over HTTP until SIGTERM or ctrl-c
    Serve(Settings),
    /// Start a server, send it a tour of experiments over HTTP and show what came back
    Demo(DemoArgs),
    /// Measure the causal trace on this machine
    Bench(BenchArgs),
    /// Ask what a prompt goes on with: the most probable tokens, and one token's probability
    Run(RunArgs),
    /// Show what each layer would say: the logit lens
    Lens(LensArgs),
    /// Find where an answer comes from: noise on the subject, clean states put back one at a time
    Trace(TraceArgs),
    /// Put one prompt's last state into another, layer by layer
    Patch(PatchArgs),
    /// Average traces over the cases of a file
    Sweep(SweepArgs),
    /// Continue a text
    Generate(GenerateArgs),
    /// Say what a request would do and cost, without doing it
    Plan(PlanArgs),
    /// Show the tokens of a prompt
    Tokenize(TokenizeArgs),
    /// Hand a request to a server's job queue, and print the job's id
    Submit(SubmitArgs),
    /// Follow a job with a progress bar until it is over
    Watch(JobArgs),
    /// Fetch what a job found
    Result(ResultArgs),
    /// Cancel a job; what was computed stays its result
    Cancel(JobArgs),
    /// List your jobs
    Jobs(JobsArgs),
    /// List, store, show and delete cases for sweeps
    Datasets(DatasetsArgs),
    /// Make, list, end and replace the keys that requests need on a server that others can reach
    #[command(visible_alias = "keys")]
    Key(KeyArgs),
    /// Print the configuration in force, and where each value came from; fails if it is not valid
    CheckConfig(Settings),
    /// Print the OpenAPI document
    Openapi,
    /// Print what makes a shell complete these commands: mediant completions bash > FILE
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
    /// Print the manual page of this program, or of one of its commands: mediant man trace | man -l -
    Man {
        /// The command
        command: Option<String>,
    },
    /// Hold a model for the server that started this process; ends with it
    #[command(hide = true)]
    Engine(EngineArgs),
    /// Run one job of a client of nnsight, locked, for the server that started this process
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// What a server tells a worker. Its standard input is the server's socket, its standard output that of its evaluator.
#[derive(Debug, Args)]
struct WorkerArgs {
    /// Seconds of a processor that it may use
    #[arg(long, value_name = "N", default_value_t = 20)]
    cpu_s: u64,
    /// Try what a locked process, and this Python in one, can still do, and print that
    #[arg(long, value_name = "PYTHON")]
    check: Option<PathBuf>,
}

/// What a server tells its engine process. All else comes over the socket.
#[derive(Debug, Args)]
struct EngineArgs {
    /// The server's socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Which of the server's engine processes this is
    #[arg(long, value_name = "N", default_value_t = 1)]
    epoch: u64,
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(settings) => {
                let Loaded { config, .. } = settings.load()?;
                let _traces = telemetry::init_server(&config.telemetry)?;
                app::serve(config)
            }
            Command::Demo(args) => demo::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Submit(args) => client::submit(&args),
            Command::Watch(args) => client::watch(&args),
            Command::Result(args) => client::result(&args),
            Command::Cancel(args) => client::cancel(&args),
            Command::Run(args) => client::run(&args),
            Command::Lens(args) => client::lens(&args),
            Command::Trace(args) => client::trace(&args),
            Command::Patch(args) => client::patch(&args),
            Command::Sweep(args) => client::sweep(&args),
            Command::Generate(args) => client::generate(&args),
            Command::Plan(args) => client::plan(&args),
            Command::Tokenize(args) => client::tokenize(&args),
            Command::Jobs(args) => client::jobs(&args),
            Command::Datasets(args) => client::datasets(&args),
            Command::Key(args) => client::key(&args),
            Command::CheckConfig(settings) => print(&settings.load()?.to_string()),
            Command::Openapi => print(&http::openapi()),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "mediant", &mut script);
                print(&String::from_utf8(script)?)
            }
            Command::Man { command } => print(&manual(command.as_deref())?),
            Command::Worker(WorkerArgs { check: Some(python), .. }) => {
                print(&serde_json::to_string(&mediant_worker::sandbox::check(&python))?)
            }
            Command::Worker(WorkerArgs { cpu_s, .. }) => {
                let server = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
                let evaluator = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned()?);
                mediant_worker::sandbox::lock_worker(cpu_s).context("this process cannot be locked")?;
                Ok(mediant_worker::job::serve(server, Alert::new(evaluator))?)
            }
            Command::Engine(EngineArgs { socket, epoch }) => {
                let engine = engine::process::Process::connect(&socket, epoch)
                    .with_context(|| format!("cannot serve as an engine at {}", socket.display()))?;
                telemetry::init(&engine.order.config.telemetry)?;
                Ok(engine.serve()?)
            }
        }
    }
}

/// The manual page of the program, or of a command.
fn manual(command: Option<&str>) -> anyhow::Result<String> {
    let mut program = Cli::command();
    // So that pages show flags that commands share.
    program.build();
    let page = match command {
        Some(name) => {
            let found = program.find_subcommand(name).filter(|found| !found.is_hide_set());
            let found =
                found.with_context(|| format!("there is no command {name:?}; mediant --help lists them"))?;
            clap_mangen::Man::new(found.clone()).title(format!("mediant-{name}"))
        }
        None => clap_mangen::Man::new(program),
    };
    let mut roff = Vec::new();
    page.render(&mut roff)?;
    Ok(String::from_utf8(roff)?)
}

/// Writes to standard output; a reader that went away (`| head`) is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_takes_the_documented_flags_and_they_reach_the_configuration() {
        let args = "mediant serve --listen 127.0.0.1:0 --model dummy:tiny --data-dir /var/lib/mediant";
        let cli = Cli::try_parse_from(args.split(' ')).unwrap();
        let Command::Serve(settings) = cli.command else { panic!("{cli:?}") };
        let config = settings.load().unwrap().config;
        assert_eq!(config.http.listen, "127.0.0.1:0");
        assert_eq!(config.model.reference, "dummy:tiny");
        assert_eq!(config.store.data_dir(), PathBuf::from("/var/lib/mediant"));
    }
}
