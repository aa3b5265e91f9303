//! Positions of an intervention that follow from the alignment of two runs.

use std::borrow::Cow;
use std::ops::Range;

use super::diff::{Segment, diff, pairs, unpaired};
use super::lint::Lints;
use super::place::Scope;
use super::prompts::{TokenRun, find};
use crate::spec::intervention::{Intervention, OpSpec, SourceSpec};
use crate::spec::problem::{Problems, code};
use crate::spec::select::Positions;

/// An intervention whose `align` is written out as a map; others as they are. Remarks on what the map leaves out: a map
/// that the request spells out is taken at its word, but who writes `align` may think that everything is paired.
pub(super) fn mapped<'s>(
    intervention: &'s Intervention,
    at: &str,
    scope: &Scope<'_>,
    lints: &mut Lints,
    out: &mut Problems,
) -> Option<Cow<'s, Intervention>> {
    let base = scope.run;
    if !matches!(intervention.positions, Positions::Align { .. }) {
        return Some(Cow::Borrowed(intervention));
    }
    let at_align = format!("{at}/positions/align");
    let Some(run) = source_run(&intervention.op) else {
        let detail = "an alignment needs a run to read from";
        out.push(at_align, code::CONFLICT, detail, "list the positions to be written instead");
        return None;
    };
    let source = find(run, &format!("{at}/source/run"), scope.experiment, scope.runs, out)?;
    let segments = diff(&source.ids, &base.ids);
    let map: Vec<[i64; 2]> = pairs(&segments).iter().map(|pair| pair.map(i64::from)).collect();
    if map.is_empty() {
        let detail = format!("{run:?} and {:?} have no token in common", scope.base);
        out.push(at_align, code::EMPTY, detail, "pair positions by {\"map\": [[src, dst]]}");
        return None;
    }
    let left_out = unpaired(&segments);
    if !left_out.is_empty() {
        let detail = left_out_of(&left_out, run, source, scope.base, base);
        let fix = "name positions, or write the pairs that are meant as {\"map\": [[src, dst]]}";
        lints.warn("POSITION_MAP_PARTIAL", at_align, detail, fix);
    }
    Some(Cow::Owned(Intervention { positions: Positions::Map { map }, ..intervention.clone() }))
}

/// The run that an operation reads.
fn source_run(op: &OpSpec) -> Option<&str> {
    match op.source()? {
        SourceSpec::Run { run, .. } => Some(run),
        _ => None,
    }
}

fn left_out_of(segments: &[&Segment], source: &str, a: &TokenRun, base: &str, b: &TokenRun) -> String {
    let side = |name: &str, run: &TokenRun, of: &dyn Fn(&Segment) -> Range<u32>| {
        let shown: Vec<String> = segments
            .iter()
            .map(|segment| of(segment))
            .filter(|range| !range.is_empty())
            .map(|range| {
                let text: String = run.tokens[range.start as usize..range.end as usize]
                    .iter()
                    .map(|token| token.text.as_str())
                    .collect();
                format!("[{}, {}) {text:?}", range.start, range.end)
            })
            .collect();
        (!shown.is_empty()).then(|| format!("{name:?} {}", shown.join(", ")))
    };
    let sides = [side(source, a, &|s| s.a.clone()), side(base, b, &|s| s.b.clone())];
    format!("without a counterpart: of {}", sides.into_iter().flatten().collect::<Vec<_>>().join("; of "))
}
