//! From final rows to what this rank knows of their scores: unembedding a block of rows at a time, then statistics over the
//! rank's vocabulary.

use std::ops::Range;

use mediant_arithmetic::distribution::{Reference, Search};
use mediant_arithmetic::{Dtype, Matrix, PackedWeight, linear};
use rayon::prelude::*;

use crate::comm::Collective;
use crate::kernels::{KlPart, Partial};
use crate::plan::batch::{AskedRows, ReadoutBatch};

/// Rows whose logits are held at once.
const BLOCK: usize = 48;

/// Partial scores of the rows `x [n, hidden]`, which are the batch's readout rows after the final norm.
pub(super) fn score(
    x: &Matrix,
    unembed: &PackedWeight,
    own: &Range<u32>,
    readout: &ReadoutBatch,
    pool: &rayon::ThreadPool,
    ranks: &dyn Collective<[f32]>,
) -> Vec<Partial> {
    let unembed_rows = |rows: &[f32]| pool.install(|| logits(rows, x.columns(), unembed));
    // Where all rows are held at once, the references are among them, and the weights are read once.
    let mut held = (x.rows() <= BLOCK).then(|| unembed_rows(x.data()));
    let references = |(rows, asked): (Range<usize>, &AskedRows)| -> Vec<Reference> {
        let of = |r: &u32| {
            let row = rows.start + *r as usize;
            let own = held.as_ref().map(|held| held[row * unembed.outputs()..][..unembed.outputs()].to_vec());
            Reference::new(own.unwrap_or_else(|| unembed_rows(x.row(row))))
        };
        asked.kl_refs.iter().map(of).collect()
    };
    let references: Vec<Vec<Reference>> = readout.stretches().map(references).collect();
    let searches = readout.asked.iter().zip(&references);
    let searches = searches.flat_map(|(asked, references)| {
        std::iter::repeat_n(search(asked, own.start, references), asked.count)
    });
    let searches: Vec<Search<'_>> = searches.collect();
    let mut partials = Vec::with_capacity(x.rows());
    for (rows, searches) in x.data().chunks(BLOCK * x.columns()).zip(searches.chunks(BLOCK)) {
        let logits = held.take().unwrap_or_else(|| unembed_rows(rows));
        let rows = || logits.chunks_exact(unembed.outputs()).zip(searches);
        let target =
            |row: &[f32], t: u32| t.checked_sub(own.start).and_then(|t| row.get(t as usize)).copied();
        let mut targets: Vec<f32> = rows()
            .flat_map(|(row, search)| search.targets.iter().map(move |t| target(row, *t).unwrap_or(0.0)))
            .collect();
        ranks.all_reduce(&mut targets);
        let mut left = targets.as_slice();
        let mut own_targets = |search: &Search<'_>| {
            let (own, later) = left.split_at(search.targets.len());
            left = later;
            own
        };
        let rows: Vec<_> = rows().map(|(row, search)| (*search, row, own_targets(search))).collect();
        let partial = |(search, row, targets)| partial(search, row, targets);
        pool.install(|| partials.par_extend(rows.into_par_iter().map(partial)));
    }
    partials
}

/// Logits of rows of this width.
pub(super) fn logits(rows: &[f32], columns: usize, unembed: &PackedWeight) -> Vec<f32> {
    let mut logits = vec![0.0; rows.len() / columns * unembed.outputs()];
    linear(rows, unembed, None, Dtype::F32, &mut logits);
    logits
}

/// What is looked for in some rows.
fn search<'a>(asked: &'a AskedRows, first: u32, references: &'a [Reference]) -> Search<'a> {
    Search { first, targets: &asked.targets, topk: asked.topk as usize, expected: asked.entropy, references }
}

/// `targets`: the logits of the target tokens, whoever owns them.
fn partial(search: Search<'_>, logits: &[f32], targets: &[f32]) -> Partial {
    let found = search.scan(logits, targets);
    let kl = search.references.iter().zip(found.gaps);
    let best = found.top.first().map(|(id, _)| (id - search.first) as usize);
    let of_top = |r: &Reference| best.map_or(f32::NAN, |best| r.logit(best));
    Partial {
        largest: found.largest,
        mass: found.mass,
        expected: found.expected,
        logits: targets.to_vec(),
        before: found.before,
        top: found.top,
        kl: kl.map(|(r, gap)| KlPart { largest: r.largest, mass: r.mass, gap, of_top: of_top(r) }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Single;
    use crate::kernels::merge;
    use crate::plan::Score;
    use crate::plan::output::Missing;

    /// Scores of a row whose logits are divided over ranks, `cut` being the last one's first token.
    fn score_parts(logits: &[f32], cut: usize, targets: &[u32], topk: u32) -> Score {
        let asked = AskedRows { count: 1, targets: targets.to_vec(), topk, kl_refs: vec![], entropy: true };
        let readout = ReadoutBatch { rows: vec![0], asked: vec![asked] };
        let of_targets: Vec<f32> = targets.iter().map(|t| logits[*t as usize]).collect();
        let part = |first: usize, logits: &[f32]| {
            vec![partial(search(&readout.asked[0], first as u32, &[]), logits, &of_targets)]
        };
        let whole = [part(0, logits)];
        let parts = [part(0, &logits[..cut]), part(cut, &logits[cut..])];
        merge(&readout, if cut == 0 { &whole } else { &parts }).remove(0)
    }

    fn score_row(logits: &[f32], targets: &[u32], topk: u32) -> Score {
        let whole = score_parts(logits, 0, targets, topk);
        for cut in 1..logits.len() {
            let parts = score_parts(logits, cut, targets, topk);
            assert_eq!((&parts.ranks, &parts.top, &parts.logits), (&whole.ranks, &whole.top, &whole.logits));
            assert!((parts.log_sum_exp - whole.log_sum_exp).abs() < 1e-7);
            assert!((parts.entropy.unwrap() - whole.entropy.unwrap()).abs() < 1e-7);
        }
        whole
    }

    #[test]
    fn ranks_and_top_tokens_break_ties_by_token_id() {
        let score = score_row(&[1.0, 3.0, 3.0, -2.0, 3.0], &[0, 1, 2, 4, 3], 3);
        assert_eq!(score.ranks, [4, 1, 2, 3, 5]);
        assert_eq!(score.top, [(1, 3.0), (2, 3.0), (4, 3.0)]);
    }

    #[test]
    fn a_row_with_a_logit_that_is_not_finite_has_no_score_whichever_rank_holds_it() {
        let missing = Score { missing: Some(Missing::NotFinite), ..Score::default() };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..20 {
                let mut logits: Vec<f32> = (0..20).map(|i| i as f32 / 3.0).collect();
                logits[at] = bad;
                for cut in 0..20 {
                    assert_eq!(
                        score_parts(&logits, cut, &[3, 17], 4),
                        missing,
                        "{bad} at {at}, cut at {cut}"
                    );
                }
            }
        }
        // Far apart, but numbers.
        let score = score_row(&[f32::MAX, f32::MIN, 0.0], &[1], 1);
        assert_eq!((score.missing, score.entropy, score.ranks[0]), (None, Some(0.0), 3));
    }

    #[test]
    fn nothing_diverges_from_a_reference_that_is_not_finite_and_others_are_as_without_it() {
        let weight: Vec<f32> = (0..40 * 4).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.0).collect();
        let unembed = PackedWeight::new(&weight, 40, 4, Dtype::F32);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let scores = |bad: f32| {
            let x = Matrix::from_rows(4, vec![0.5, 1.0, 0.25, bad, 1.0, -1.0, 0.5, 2.0]);
            let (rows, targets, kl_refs) = (vec![0, 1], vec![3], vec![0, 1]);
            let asked = AskedRows { count: 2, targets, topk: 2, kl_refs, entropy: true };
            let readout = ReadoutBatch { rows, asked: vec![asked] };
            merge(&readout, &[score(&x, &unembed, &(0..40), &readout, &pool, &Single)])
        };
        let (whole, broken) = (scores(3.0), scores(f32::NAN));
        assert_eq!((broken[0].missing, broken[1].missing), (Some(Missing::NotFinite), None));
        assert!(broken[1].kl[0].is_nan() && broken[1].kl[1] == 0.0);
        assert!(broken[1].top_under[0].is_nan());
        assert_eq!(broken[1].top_under[1].to_bits(), whole[1].top_under[1].to_bits());
        let without = |score: &Score| Score { kl: vec![], top_under: vec![], ..score.clone() };
        assert_eq!(without(&broken[1]), without(&whole[1]));
    }

    #[test]
    fn log_sum_exp_is_that_of_f64() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 40.0 - 12.0).collect();
        let expected = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        assert!((score_row(&logits, &[], 1).log_sum_exp - expected).abs() < 1e-7);
    }

    #[test]
    fn entropy_is_that_of_the_textbook() {
        let logits: Vec<f32> = (0..300).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
        let z: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let p = logits.iter().map(|l| f64::from(*l).exp() / z);
        let expected: f64 = p.map(|p| -p * p.ln()).sum();
        assert!((score_row(&logits, &[], 1).entropy.unwrap() - expected).abs() < 1e-6);
        assert!((score_row(&[1.0; 8], &[], 1).entropy.unwrap() - 8.0_f64.ln()).abs() < 1e-7);
        assert!(score_row(&[0.0, 200.0], &[], 1).entropy.unwrap() < 1e-12);
    }

    #[test]
    fn a_distribution_diverges_from_itself_by_exactly_zero_and_from_others_by_the_textbook_sum() {
        let weight: Vec<f32> = (0..100 * 8).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.0).collect();
        let unembed = PackedWeight::new(&weight, 100, 8, Dtype::F32);
        let x = Matrix::from_rows(8, (0..24).map(|i| ((i * 13) % 7) as f32 / 4.0).collect());
        let asked =
            AskedRows { count: 3, targets: (0..100).collect(), topk: 1, kl_refs: vec![1], entropy: true };
        let readout = ReadoutBatch { rows: vec![0, 1, 2], asked: vec![asked] };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let scores = merge(&readout, &[score(&x, &unembed, &(0..100), &readout, &pool, &Single)]);
        assert_eq!(scores[1].kl, [0.0]);
        let log_p = |s: &Score, i: usize| f64::from(s.logits[i]) - s.log_sum_exp;
        let expected: f64 = (0..100)
            .map(|i| log_p(&scores[1], i).exp() * (log_p(&scores[1], i) - log_p(&scores[0], i)))
            .sum();
        assert!((scores[0].kl[0] - expected).abs() < 1e-6, "{} {expected}", scores[0].kl[0]);
    }
}
