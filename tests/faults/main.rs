//! Servers whose engine process dies, hangs, runs out of memory or lies, on purpose (`engine::fault`): what clients see of it.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails loudly; clippy sees only #[test] functions as tests"
)]

mod company;
mod deaths;
mod disk;
mod endings;
mod kills;
#[path = "../load/made.rs"]
mod made;
mod memory;
mod poison;
#[path = "../shared/postgres.rs"]
mod postgres;
mod protocol;
mod server;
mod several;
mod texts;
mod weights;
