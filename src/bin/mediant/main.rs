//! The `mediant` command: the server, a client of its job queue, a tour, measurements.

mod bench;
mod cli;
mod client;
mod demo;

use std::process::ExitCode;

use clap::Parser;
use cli::Cli;

/// Gives memory back to the system soon after a burst: glibc's kept 97 MiB of what 64 bodies of a megabyte had taken, for as
/// long as it was watched, this one nothing.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
