//! The most probable tokens on average over samples, of which each says its own.

use std::collections::HashMap;

use crate::plan::Score;

/// The probability of a token of a score.
pub fn probability(score: &Score, logit: f32) -> f64 {
    (f64::from(logit) - score.log_sum_exp).exp()
}

/// At most so probable is what a score does not name.
fn unnamed(score: &Score) -> f64 {
    score.top.last().map_or(1.0, |(_, logit)| probability(score, *logit))
}

/// At most so probable on average is what no sample names.
pub fn unnamed_by_all(samples: &[&Score]) -> f64 {
    samples.iter().map(|score| unnamed(score)).sum::<f64>() / samples.len() as f64
}

/// Tokens that may be among the `k` most probable on average, judged by what each sample names of its own, in order of their ids.
/// None where a sample has no numbers.
pub fn candidates(samples: &[&Score], k: usize) -> Vec<u32> {
    if samples.is_empty() || samples.iter().any(|score| score.missing.is_some()) {
        return Vec::new();
    }
    // Least and most of the sum over samples.
    let mut bounds: HashMap<u32, [f64; 2]> = HashMap::new();
    let unknown: f64 = samples.iter().map(|score| unnamed(score)).sum();
    for score in samples {
        let most = unnamed(score);
        for (id, logit) in &score.top {
            let prob = probability(score, *logit);
            let [low, high] = bounds.entry(*id).or_insert([0.0, unknown]);
            *low += prob;
            *high += prob - most;
        }
    }
    let mut lows: Vec<f64> = bounds.values().map(|[low, _]| *low).collect();
    lows.sort_by(|a, b| b.total_cmp(a));
    let needed = k.checked_sub(1).and_then(|last| lows.get(last)).copied().unwrap_or(0.0);
    // What is rounded away must not decide.
    let mut ids: Vec<u32> =
        bounds.into_iter().filter(|(_, [_, high])| high * (1.0 + 1e-9) >= needed).map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

/// Indices of the `k` largest means, the largest first, as far as nothing below `unnamed` stands among them: there another token
/// could be more probable.
pub fn ranked(means: &[Option<f64>], k: usize, unnamed: f64) -> Vec<usize> {
    let mut known: Vec<(usize, f64)> =
        means.iter().enumerate().filter_map(|(i, mean)| Some((i, (*mean)?))).collect();
    known.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    known.into_iter().take(k).take_while(|(_, mean)| *mean >= unnamed).map(|(i, _)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A score of these probabilities, of which it names the first `named`.
    fn score(probs: &[(u32, f64)], named: usize) -> Score {
        let mut top: Vec<(u32, f32)> = probs.iter().map(|(id, p)| (*id, p.ln() as f32)).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        top.truncate(named);
        Score { top, ..Score::default() }
    }

    #[test]
    fn the_best_on_average_need_not_be_the_best_of_any_sample() {
        let a = score(&[(1, 0.5), (2, 0.4), (3, 0.1)], 2);
        let b = score(&[(3, 0.55), (2, 0.4), (1, 0.05)], 2);
        let found = candidates(&[&a, &b], 1);
        assert!(found.contains(&2), "{found:?}");
        // What each names first alone would miss it.
        let mean = |id| {
            Some(if id == 2 {
                0.4
            } else if id == 1 {
                0.275
            } else {
                0.325
            })
        };
        let means: Vec<_> = found.iter().map(|id| mean(*id)).collect();
        let best = ranked(&means, 1, unnamed_by_all(&[&a, &b]));
        assert_eq!(best.iter().map(|i| found[*i]).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn what_cannot_reach_the_best_is_left_out_and_what_is_unsure_is_not_ranked() {
        let a = score(&[(1, 0.9), (2, 0.05), (3, 0.03), (4, 0.02)], 3);
        let b = score(&[(1, 0.8), (4, 0.1), (3, 0.06), (2, 0.04)], 3);
        assert_eq!(candidates(&[&a, &b], 1), [1]);
        // 5 may be as probable as the last named of each sample.
        assert!((unnamed_by_all(&[&a, &b]) - 0.045).abs() < 1e-6);
        assert_eq!(ranked(&[Some(0.85), Some(0.044), None], 3, 0.045), [0]);
        let lost = Score { missing: Some(crate::plan::output::Missing::NotFinite), ..Score::default() };
        assert_eq!(candidates(&[&a, &lost], 1), [0; 0]);
    }
}
