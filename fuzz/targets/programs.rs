//! What a worker says, and programs of traced blocks: lowered, laid out, and small ones computed.

use std::sync::LazyLock;

use mediant::capacity::Share;
use mediant::lower::program::program;
use mediant::owner::Owner;
use mediant::plan::pack::Mode;
use mediant::service::Refusal;
use mediant::service::program::ProgramLimits;
use mediant_worker::message::{ToServer, decode};
use tokio::runtime::{Builder, Runtime};

use crate::json::told;
use crate::served::{SERVICE, facts};

/// Small enough for hundreds a second.
const LIMITS: ProgramLimits = ProgramLimits { row_layers: 500, numbers: 1 << 20 };

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());

pub(crate) fn run(data: &[u8]) {
    let Ok(ToServer::Forward(asked)) = decode::<ToServer>(data) else { return };
    let reads = asked.reads.len();
    let widths: Vec<usize> = asked.reads.iter().map(|read| read.positions.len()).collect();
    match program(asked.clone(), LIMITS.numbers, &facts()) {
        Err(problems) => return told(problems),
        // Of the rest, what cannot be laid out is refused.
        Ok(lowered) => {
            if SERVICE.engine.prepare(&lowered.plan, Mode::Branching).is_err() {
                return;
            }
        }
    }
    match RUNTIME.block_on(SERVICE.program(asked, LIMITS, &Share::unbounded(Owner::local()))) {
        Ok(output) => {
            assert_eq!(output.values.len(), reads);
            for (values, positions) in output.values.iter().zip(widths) {
                assert!(values.is_empty() == (positions == 0));
                assert!(positions == 0 || values.len().is_multiple_of(positions));
            }
        }
        Err(Refusal::TooLarge { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
}
