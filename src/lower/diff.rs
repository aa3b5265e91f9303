//! What differs between two runs' tokens, and the position map that follows from it.

use std::ops::Range;

use serde::Serialize;
use similar::{Algorithm, DiffOp, capture_diff_slices};
use utoipa::ToSchema;

/// What happened to a stretch of tokens between `a` and `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The same tokens.
    Equal,
    /// Other tokens, not necessarily as many.
    Replace,
    /// Tokens that only `b` has.
    Insert,
    /// Tokens that only `a` has.
    Delete,
}

/// One stretch of a diff. Stretches follow each other without gaps in both runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What happened.
    pub change: Change,
    /// Positions in `a`.
    pub a: Range<u32>,
    /// Positions in `b`.
    pub b: Range<u32>,
}

/// The diff of two runs' tokens (Myers 1986, a shortest edit script), neighbouring changes merged.
pub fn diff(a: &[u32], b: &[u32]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, a, b) {
        let (_, a, b) = op.as_tag_tuple();
        let (a, b) = (a.start as u32..a.end as u32, b.start as u32..b.end as u32);
        let equal = matches!(op, DiffOp::Equal { .. });
        match segments.last_mut() {
            Some(last) if (last.change == Change::Equal) == equal => {
                last.a.end = a.end;
                last.b.end = b.end;
            }
            _ => segments.push(Segment { change: if equal { Change::Equal } else { Change::Replace }, a, b }),
        }
    }
    for segment in segments.iter_mut().filter(|segment| segment.change != Change::Equal) {
        segment.change = match (segment.a.is_empty(), segment.b.is_empty()) {
            (true, _) => Change::Insert,
            (_, true) => Change::Delete,
            _ => Change::Replace,
        };
    }
    segments
}

/// `[position in a, position in b]` of every token that has a counterpart: equal ones, and replaced stretches of equal
/// length one to one.
pub fn pairs(segments: &[Segment]) -> Vec<[u32; 2]> {
    let matched = segments.iter().filter(|segment| segment.a.len() == segment.b.len());
    matched.flat_map(|segment| segment.a.clone().zip(segment.b.clone())).map(|(a, b)| [a, b]).collect()
}

/// Stretches without counterparts, as ranges of `a` and of `b`.
pub fn unpaired(segments: &[Segment]) -> Vec<&Segment> {
    segments.iter().filter(|segment| segment.a.len() != segment.b.len()).collect()
}

/// Positions at which two runs of equal length hold different tokens; `None` if their lengths differ.
pub fn differing(a: &[u32], b: &[u32]) -> Option<Vec<u32>> {
    (a.len() == b.len())
        .then(|| (0..).zip(a.iter().zip(b)).filter(|(_, (a, b))| a != b).map(|(p, _)| p).collect())
}

/// Whether two runs are a minimal pair: equally long, and different in one contiguous stretch.
pub fn minimal_pair(a: &[u32], b: &[u32]) -> bool {
    let differing = differing(a, b).unwrap_or_default();
    match (differing.first(), differing.last()) {
        (Some(first), Some(last)) => (last - first) as usize + 1 == differing.len(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(a: &[u32], b: &[u32]) -> Vec<String> {
        diff(a, b).iter().map(|s| format!("{:?} {:?} {:?}", s.change, s.a, s.b)).collect()
    }

    #[test]
    fn a_diff_tells_equal_replaced_inserted_and_deleted_stretches() {
        assert_eq!(
            shown(&[1, 2, 3, 4], &[1, 9, 3, 4]),
            ["Equal 0..1 0..1", "Replace 1..2 1..2", "Equal 2..4 2..4"]
        );
        assert_eq!(shown(&[1, 2], &[1, 7, 8, 2]), ["Equal 0..1 0..1", "Insert 1..1 1..3", "Equal 1..2 3..4"]);
        assert_eq!(shown(&[1, 7, 2], &[1, 2]), ["Equal 0..1 0..1", "Delete 1..2 1..1", "Equal 2..3 1..2"]);
        assert_eq!(shown(&[5, 6], &[7, 8, 9]), ["Replace 0..2 0..3"]);
        assert_eq!(shown(&[1], &[1]), ["Equal 0..1 0..1"]);
    }

    #[test]
    fn diffs_cover_both_runs_without_gaps() {
        // All runs of up to 4 tokens over an alphabet of 3.
        let runs: Vec<Vec<u32>> = (1..=4_u32)
            .flat_map(|n| (0..3_u32.pow(n)).map(move |i| (0..n).map(|d| i / 3_u32.pow(d) % 3).collect()))
            .collect();
        for a in &runs {
            for b in &runs {
                let segments = diff(a, b);
                let (mut x, mut y) = (0, 0);
                for s in &segments {
                    assert_eq!((s.a.start, s.b.start), (x, y), "{a:?} {b:?} {segments:?}");
                    (x, y) = (s.a.end, s.b.end);
                    if s.change == Change::Equal {
                        let (i, j) =
                            (s.a.start as usize..s.a.end as usize, s.b.start as usize..s.b.end as usize);
                        assert_eq!(a[i], b[j]);
                    }
                }
                assert_eq!((x as usize, y as usize), (a.len(), b.len()));
                assert!(
                    segments
                        .windows(2)
                        .all(|w| (w[0].change == Change::Equal) != (w[1].change == Change::Equal))
                );
                let pairs = pairs(&segments);
                assert!(
                    pairs.windows(2).all(|w| w[0][0] < w[1][0] && w[0][1] < w[1][1]),
                    "pairs ascend in both"
                );
            }
        }
    }

    #[test]
    fn replaced_stretches_pair_up_only_if_they_are_equally_long() {
        assert_eq!(pairs(&diff(&[1, 5, 6, 2], &[1, 7, 8, 2])), [[0, 0], [1, 1], [2, 2], [3, 3]]);
        let segments = diff(&[1, 5, 6, 2], &[1, 7, 2]);
        assert_eq!(pairs(&segments), [[0, 0], [3, 2]]);
        assert_eq!(unpaired(&segments), [&Segment { change: Change::Replace, a: 1..3, b: 1..2 }]);
    }

    #[test]
    fn a_minimal_pair_is_equally_long_and_differs_in_one_stretch() {
        assert!(minimal_pair(&[1, 2, 3, 4], &[1, 9, 3, 4]));
        assert!(minimal_pair(&[1, 2, 3, 4], &[1, 9, 8, 4]));
        assert!(!minimal_pair(&[1, 2, 3, 4], &[9, 2, 8, 4]), "two stretches");
        assert!(!minimal_pair(&[1, 2], &[1, 2]), "no difference");
        assert!(!minimal_pair(&[1, 2], &[1, 2, 3]), "different lengths");
        assert_eq!(differing(&[1, 2, 3, 4], &[9, 2, 8, 4]), Some(vec![0, 2]));
        assert_eq!(differing(&[1], &[1, 2]), None);
    }
}
