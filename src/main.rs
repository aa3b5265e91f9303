//! The `mediant` command.

use std::process::ExitCode;

use clap::Parser;
use mediant::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Also when logging is off or not yet running.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
