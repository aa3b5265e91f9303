//! The `mediant` command: the server, a client of servers, a tour, measurements.

mod bench;
mod cli;
mod client;
mod demo;
mod screen;

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
            code(&error)
        }
    }
}

/// Scripts tell by it what went wrong. 2 is clap's, for a wrong call.
fn code(error: &anyhow::Error) -> ExitCode {
    if error.is::<client::Refused>() {
        ExitCode::from(3)
    } else if error.is::<client::Away>() {
        ExitCode::from(4)
    } else if error.is::<client::Interrupted>() {
        ExitCode::from(130)
    } else {
        ExitCode::FAILURE
    }
}
