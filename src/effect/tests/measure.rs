//! Metrics of one score.

use crate::effect::measure::value;
use crate::lower::measure::{Measure, Member, Reads};
use crate::plan::Score;
use crate::spec::metric::{Metric, MetricKind};

/// Tokens of probability 1/2 and 1/8, texts of probability 1/4 (two tokens) and 1/64 (three tokens).
fn score() -> Score {
    Score {
        log_sum_exp: 2.0,
        logits: vec![2.0 - 2.0_f32.ln(), 2.0 - 8.0_f32.ln()],
        ranks: vec![1, 4],
        sequences: vec![-(4.0_f64.ln()), -(64.0_f64.ln())],
        written: 6.25,
        ..Score::default()
    }
}

fn read(kind: MetricKind, reads: Reads) -> f64 {
    value(&Measure { metric: Metric::new(kind, "x"), reads: vec![reads] }, &score(), None).unwrap()
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} {expected}");
}

const HALF: Member = Member::Token(0);
const EIGHTH: Member = Member::Token(1);

fn text(index: usize, per: u32) -> Member {
    Member::Sequence { index, per }
}

#[test]
fn texts_add_their_probabilities_to_those_of_tokens() {
    near(read(MetricKind::Prob, Reads::Set(vec![text(0, 1)])), 0.25);
    near(read(MetricKind::Logprob, Reads::Set(vec![text(1, 1)])), -(64.0_f64.ln()));
    near(read(MetricKind::Prob, Reads::Set(vec![HALF, text(0, 1), text(1, 1)])), 0.5 + 0.25 + 1.0 / 64.0);
    let exact = read(MetricKind::Logprob, Reads::Set(vec![text(1, 1)]));
    assert_eq!(exact, -(64.0_f64.ln()), "one text stays exact");
}

#[test]
fn per_token_the_probability_is_a_geometric_mean() {
    near(read(MetricKind::Logprob, Reads::Set(vec![text(0, 2)])), -(2.0_f64.ln()));
    near(read(MetricKind::Prob, Reads::Set(vec![text(1, 3)])), 0.25);
    near(read(MetricKind::Prob, Reads::Set(vec![HALF, text(0, 2), text(1, 3)])), 0.5 + 0.5 + 0.25);
}

#[test]
fn a_difference_of_texts_is_one_of_log_probabilities_and_agrees_with_that_of_logits() {
    let difference = |a: Vec<Member>, b| read(MetricKind::LogitDiff, Reads::Difference(a, b));
    near(difference(vec![text(0, 1)], vec![EIGHTH]), 2.0_f64.ln());
    near(difference(vec![HALF], vec![text(1, 1)]), 32.0_f64.ln());
    near(difference(vec![HALF], vec![EIGHTH]), 4.0_f64.ln());
    assert_eq!(
        difference(vec![HALF], vec![EIGHTH]),
        f64::from(2.0 - 2.0_f32.ln()) - f64::from(2.0 - 8.0_f32.ln()),
        "of tokens alone the log-sum is not needed"
    );
}

#[test]
fn a_difference_of_probabilities_is_that_of_their_sums() {
    let difference = |a: Vec<Member>, b| read(MetricKind::ProbDiff, Reads::Difference(a, b));
    near(difference(vec![HALF], vec![EIGHTH]), 0.375);
    near(difference(vec![EIGHTH, text(0, 1)], vec![HALF]), -0.125);
    near(difference(vec![text(0, 2)], vec![text(1, 3)]), 0.25);
}

#[test]
fn a_target_is_the_answer_if_any_of_its_tokens_is_the_most_probable() {
    assert_eq!(read(MetricKind::Top1, Reads::Set(vec![HALF])), 1.0);
    assert_eq!(read(MetricKind::Top1, Reads::Set(vec![EIGHTH])), 0.0);
    assert_eq!(read(MetricKind::Top1, Reads::Set(vec![EIGHTH, HALF])), 1.0);
}

#[test]
fn a_text_where_none_is_scored_has_no_value() {
    let measure =
        Measure { metric: Metric::new(MetricKind::Prob, "x"), reads: vec![Reads::Set(vec![text(0, 1)])] };
    let unscored = Score { sequences: vec![], ..score() };
    assert_eq!(value(&measure, &unscored, None), None);
}

#[test]
fn what_was_written_is_the_root_of_its_squares() {
    assert_eq!(read(MetricKind::DeltaNorm, Reads::Written), 2.5);
}
