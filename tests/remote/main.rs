//! `remote=True` of nnsight: requests that the real client made, replayed byte for byte against the program, and kills of all that
//! has a part in them. `tests/python/make_remote_golden.py` made the requests and the values.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::items_after_statements,
    clippy::assigning_clones,
    clippy::double_ended_iterator_last,
    clippy::needless_for_each,
    clippy::neg_cmp_op_on_partial_ord,
    reason = "a test fails loudly; clippy sees only #[test] functions as tests"
)]

mod bits;
mod client;
mod hostile;
mod kills;
mod replay;
#[allow(dead_code, reason = "shared with the tests of faults")]
#[path = "../faults/server.rs"]
mod server;
mod wire;
