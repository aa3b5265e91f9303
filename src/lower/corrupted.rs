//! What a corruption corrupts: its positions, and the runs that it makes.

use super::layout::Replaced;
use super::prepare::Prepared;
use super::prompts::TokenRun;
use super::select;
use crate::plan::RunId;
use crate::spec::problem::{Problems, code};
use crate::spec::select::Positions;

/// The corrupted runs of a plan.
pub(super) struct Corrupted {
    /// Each sample's run and its readout.
    pub runs: Vec<(RunId, usize)>,
    /// Positions that got noise, or whose token differs in a sample; ascending.
    pub positions: Vec<u32>,
    /// The prompts that took the clean one's place.
    pub replaced: Vec<Replaced>,
}

/// Positions that are corrupted, ascending; BOS only if it is named and allowed.
pub(super) fn corrupted_positions(
    spec: &Positions,
    include_bos: bool,
    clean: &TokenRun,
    prepared: &mut Prepared,
    out: &mut Problems,
) -> Option<Vec<u32>> {
    const AT: &str = "/corrupt/positions";
    if let Positions::Span { span, .. } = spec
        && span == "subject"
        && clean.spans.get(span).is_none()
    {
        let detail = "the run has no span `subject` to corrupt";
        let fix = "name the subject: \"subject\": \"its text\" (long form: in the run's `spans`), or give positions";
        out.push(AT, code::MISSING, detail, fix);
        return None;
    }
    let mut positions = select::positions(spec, clean, AT, out)?;
    let bos = clean.has_bos && positions.contains(&0);
    if bos && include_bos {
        let detail = "a corrupted BOS moves every later position and can raise the answer".to_owned();
        prepared.lints.warn("BOS_CORRUPTED", AT, detail, "leave BOS out");
    } else if bos && *spec == Positions::ALL {
        positions.retain(|p| *p != 0);
    } else if bos {
        let fix = "leave out position 0, or set \"include_bos\": true";
        out.push(AT, code::CONFLICT, "position 0 is BOS", fix);
        return None;
    }
    // NumPy's stream follows positions in order, and so do the tokens of a replacement.
    positions.sort_unstable();
    if positions.is_empty() {
        out.push(AT, code::EMPTY, "no position but BOS", "name tokens of the prompt");
        return None;
    }
    Some(positions)
}
