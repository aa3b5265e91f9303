//! A token from its distribution: a pure function of logits, filters and one number.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::plan::draw::Choice;

/// Tokens that are put in order at once; more follow, four times as many each time.
const FIRST: usize = 256;
/// How far below the largest logit the tokens lie that are looked at first; it doubles each time. Those above it hold nearly all of
/// the probability, and are few.
const DEPTH: f64 = 8.0;
/// So many weights are added up one after the other.
const STRETCH: usize = 4096;

/// The token drawn, and the share of the probability that the filters left to draw from. `logits`: of the whole vocabulary, finite.
/// `u`: in `[0, 1)`.
pub fn draw(logits: &[f32], choice: &Choice, u: f64) -> (u32, f64) {
    Urn::new(logits, choice).draw(u)
}

/// What tokens are drawn from, as often as wanted.
///
/// In f64: the logits divided by the temperature, with the bias added, are put in order (equal ones by id); `top_k`, `top_p` and
/// `min_p` each keep tokens from the first on; and the first whose cumulative share of what is kept exceeds a number is drawn.
#[derive(Debug)]
pub struct Urn {
    order: Order,
    /// Whether the most probable token is taken.
    greedy: bool,
    /// How many tokens the filters left, and the weight of these.
    count: usize,
    kept: f64,
    /// The weight of all.
    total: f64,
}

impl Urn {
    /// Of such a distribution. `logits`: of the whole vocabulary, finite.
    pub fn new(logits: &[f32], choice: &Choice) -> Urn {
        // A temperature that takes logits beyond what f64 holds is 0 in all but name.
        let holds = |logit: &f32| (f64::from(*logit) / choice.temperature).is_finite();
        let greedy = choice.temperature == 0.0 || !logits.iter().all(holds);
        let divisor = if greedy { 1.0 } else { choice.temperature };
        let mut scaled: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) / divisor).collect();
        for (token, bias) in &choice.bias {
            if let Some(logit) = scaled.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        let all = scaled.len();
        let mut order = Order::new(scaled);
        if greedy {
            return Urn { order, greedy, count: all, kept: 1.0, total: 1.0 };
        }
        let total = order.total();
        let by_count = if choice.top_k == 0 { all } else { (choice.top_k as usize).min(all) };
        let mut count = by_count;
        let mut kept = if by_count == all { total } else { (0..by_count).map(|i| order.weight(i)).sum() };
        if choice.top_p < 1.0 || choice.min_p > 0.0 {
            let enough = choice.top_p * kept;
            let mut sum = 0.0;
            count = 0;
            while count < by_count {
                let own = order.weight(count);
                // The most probable token is always kept.
                if count > 0 && (own < choice.min_p || (choice.top_p < 1.0 && sum >= enough)) {
                    break;
                }
                sum += own;
                count += 1;
            }
            kept = sum;
        }
        Urn { order, greedy, count, kept, total }
    }

    /// The token drawn, and the share of the probability that the filters left to draw from. `u`: in `[0, 1)`.
    pub fn draw(&mut self, u: f64) -> (u32, f64) {
        if self.greedy {
            return (self.order.get(0), 1.0);
        }
        let wanted = u * self.kept;
        let mut sum = 0.0;
        for i in 0..self.count {
            sum += self.order.weight(i);
            if sum > wanted {
                return (self.order.get(i), self.kept / self.total);
            }
        }
        // Sums in another order round otherwise: what is left over is the last token's.
        (self.order.get(self.count - 1), self.kept / self.total)
    }
}

/// Tokens by their logits, the largest first, put in order as far as they are asked for.
#[derive(Debug)]
struct Order {
    logits: Vec<f64>,
    largest: f64,
    /// Those whose logits lie at most so far below the largest, the first of them in order.
    tokens: Vec<u32>,
    depth: f64,
    sorted: usize,
}

impl Order {
    fn new(logits: Vec<f64>) -> Order {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Order { logits, largest, tokens: Vec::new(), depth: 0.0, sorted: 0 }
    }

    /// The `i`th token.
    fn get(&mut self, i: usize) -> u32 {
        while i >= self.sorted {
            self.extend();
        }
        self.tokens[i]
    }

    /// The weight of the `i`th token, the first of which weighs 1.
    fn weight(&mut self, i: usize) -> f64 {
        let token = self.get(i) as usize;
        (self.logits[token] - self.largest).exp()
    }

    /// The weight of all tokens. How it is added up depends on the vocabulary alone.
    fn total(&self) -> f64 {
        let stretch = |logits: &[f64]| logits.iter().map(|logit| (logit - self.largest).exp()).sum();
        self.logits.par_chunks(STRETCH).map(stretch).collect::<Vec<f64>>().iter().sum()
    }

    fn extend(&mut self) {
        while self.sorted == self.tokens.len() {
            self.deepen();
        }
        let logits = &self.logits;
        let before = |a: &u32, b: &u32| -> Ordering {
            let (x, y) = (logits[*a as usize], logits[*b as usize]);
            y.partial_cmp(&x).unwrap_or(Ordering::Equal).then(a.cmp(b))
        };
        let rest = &mut self.tokens[self.sorted..];
        let more = (self.sorted * 4).max(FIRST).min(rest.len());
        if more < rest.len() {
            rest.select_nth_unstable_by(more, before);
        }
        rest[..more].sort_unstable_by(before);
        self.sorted += more;
    }

    /// Adds the tokens that lie next below those there.
    fn deepen(&mut self) {
        let above = (self.depth > 0.0).then_some(self.largest - self.depth);
        self.depth = if above.is_none() { DEPTH } else { 2.0 * self.depth };
        // Logits may be so large that a little less of them is the same number, but not for ever.
        let floor = if self.depth.is_finite() { self.largest - self.depth } else { f64::NEG_INFINITY };
        let is_next = |logit: f64| logit >= floor && above.is_none_or(|above| logit < above);
        let found = (0..).zip(&self.logits).filter(|(_, logit)| is_next(**logit)).map(|(token, _)| token);
        self.tokens.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn plain(temperature: f64) -> Choice {
        Choice { temperature, ..Choice::GREEDY }
    }

    /// As `tests/python/make_draw_golden.py` makes them: from a multiplicative generator, a few of them equal.
    fn logits(seed: u64, n: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..n).map(|_| ((next() + next() + next() - 1.5) * 64.0).round() / 8.0).collect()
    }

    #[test]
    fn ten_thousand_draws_are_those_of_the_twin() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/draws.json")).unwrap();
        let mut draws = 0;
        for case in golden["cases"].as_array().unwrap() {
            let number = |name: &str| case[name].as_f64().unwrap();
            let bias = case["bias"].as_array().unwrap().iter();
            let choice = Choice {
                temperature: number("temperature"),
                top_k: case["top_k"].as_u64().unwrap() as u32,
                top_p: number("top_p"),
                min_p: number("min_p"),
                bias: bias
                    .map(|pair| (pair[0].as_u64().unwrap() as u32, pair[1].as_f64().unwrap()))
                    .collect(),
            };
            let logits =
                logits(case["logits"].as_u64().unwrap(), case["vocabulary"].as_u64().unwrap() as usize);
            let tokens = case["tokens"].as_array().unwrap();
            for (step, token) in tokens.iter().enumerate() {
                let u = case["u"][step].as_f64().unwrap();
                let (drawn, mass) = draw(&logits, &choice, u);
                assert_eq!(u64::from(drawn), token.as_u64().unwrap(), "step {step} of {choice:?}");
                assert!((mass - number("mass_kept")).abs() < 1e-12, "{mass} {choice:?}");
                draws += 1;
            }
        }
        assert!(draws >= 10_000, "{draws}");
    }

    #[test]
    fn tokens_are_put_in_order_wherever_the_logits_lie() {
        for (scale, shift) in [(1.0, 0.0), (1e-3, 5.0), (1e6, -3.0), (1e30, 0.0), (0.0, 2.0)] {
            let scaled: Vec<f64> =
                logits(11, 5000).iter().map(|logit| f64::from(*logit) * scale + shift).collect();
            let mut expected: Vec<u32> = (0..5000).collect();
            expected.sort_by(|a, b| scaled[*b as usize].total_cmp(&scaled[*a as usize]));
            let mut order = Order::new(scaled);
            let found: Vec<u32> = (0..5000).map(|i| order.get(i)).collect();
            assert!(found == expected, "{scale} {shift}");
        }
    }

    #[test]
    fn frequencies_are_the_probabilities() {
        let logits = [1.0, 0.0, -1.0, 0.5, -3.0, 1.0];
        let weights = logits.map(|logit: f32| f64::from(logit / 0.7).exp());
        let total: f64 = weights.iter().sum();
        let n = 100_000u32;
        let mut counts = [0.0; 6];
        for i in 0..n {
            // Evenly spread, if not independent: chi-square is smaller than by chance.
            let u = (u64::from(i) * 2 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
            counts[draw(&logits, &plain(0.7), u as f64 / (1u64 << 53) as f64).0 as usize] += 1.0;
        }
        let expected = weights.map(|weight| weight / total * f64::from(n));
        let chi: f64 = counts.iter().zip(expected).map(|(got, e)| (got - e) * (got - e) / e).sum();
        // Five degrees of freedom: above 20.5 once in a thousand.
        assert!(chi < 20.5, "{chi} {counts:?}");
    }

    #[test]
    fn filters_apply_in_their_order_and_equal_logits_by_id() {
        let logits = [0.0, 2.0, 2.0, 1.0];
        assert_eq!(draw(&logits, &Choice::GREEDY, 0.9), (1, 1.0));
        let biased = Choice { bias: vec![(3, 1.5), (99, 9.0)], ..Choice::GREEDY };
        assert_eq!(draw(&logits, &biased, 0.0).0, 3);
        let kept = |choice: &Choice| {
            let drawn: std::collections::BTreeSet<u32> =
                (0..1000).map(|i| draw(&logits, choice, f64::from(i) / 1000.0).0).collect();
            drawn.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(kept(&plain(1.0)), [0, 1, 2, 3]);
        assert_eq!(kept(&Choice { top_k: 2, ..plain(1.0) }), [1, 2]);
        // The two best hold 0.79, each of them 0.40: of the two best alone, each holds one half.
        assert_eq!(kept(&Choice { top_p: 0.45, ..plain(1.0) }), [1, 2]);
        assert_eq!(kept(&Choice { top_p: 0.45, top_k: 2, ..plain(1.0) }), [1]);
        assert_eq!(kept(&Choice { min_p: 0.3, ..plain(1.0) }), [1, 2, 3]);
        assert_eq!(kept(&Choice { min_p: 1.0, top_p: 1e-9, ..plain(1.0) }), [1]);
        let (_, mass) = draw(&logits, &Choice { top_k: 2, ..plain(1.0) }, 0.0);
        let e = 1f64.exp();
        assert!((mass - 2.0 * e * e / (2.0 * e * e + e + 1.0)).abs() < 1e-12, "{mass}");
    }

    #[test]
    fn every_number_has_its_token() {
        let logits = logits(3, 3000);
        let sharp = Choice { temperature: 1e-3, ..Choice::GREEDY };
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        for u in [0.0, 0.5, 1.0 - f64::EPSILON] {
            assert!(logits[draw(&logits, &sharp, u).0 as usize] >= largest - 0.25);
            assert!((draw(&logits, &plain(100.0), u).0 as usize) < 3000);
        }
        assert_eq!(draw(&logits, &plain(f64::MIN_POSITIVE / 1e15), 0.9), draw(&logits, &Choice::GREEDY, 0.9));
        // The last number is the last token's, which is the least probable.
        let last = draw(&logits, &plain(1.0), 1.0 - f64::EPSILON / 2.0).0;
        assert!(logits[last as usize] < 0.0);
    }
}
