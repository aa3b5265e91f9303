//! Averages of cases made by hand.

use crate::effect::aggregate::Pool;
use crate::effect::bootstrap::CaseEstimate;
use crate::effect::cases::{CLASSES, CaseArm, CaseBaselines, CaseEffects, Peak};
use crate::effect::stats::Estimate;
use crate::lower::layout::CellKey;
use crate::spec::cases::Aggregate;
use crate::spec::select::TokenClass;
use crate::spec::trace::Direction;

/// A case of one arm of two layers and one metric, with this total effect, and at the subject's last token these effects;
/// `first` likewise, if it has a first subject token.
fn case(total: f64, last: [f64; 2], first: Option<[f64; 2]>) -> CaseEffects {
    let known = |x| Estimate { mean: Some(x), se: None };
    let class = |class: TokenClass| class as usize;
    let mut positions = [0; CLASSES];
    let mut effects = vec![None; 2 * CLASSES];
    for (which, values) in [(TokenClass::LastSubject, Some(last)), (TokenClass::FirstSubject, first)] {
        let Some(values) = values else { continue };
        positions[class(which)] = 1;
        effects[2 * class(which)] = Some(values[0]);
        effects[2 * class(which) + 1] = Some(values[1]);
    }
    let cell = CellKey { layer: Some(7), position: Some(3), ..CellKey::default() };
    let peak = Peak { cell, class: TokenClass::LastSubject, effect: last[1], recovery: None };
    CaseEffects {
        baselines: CaseBaselines {
            clean: vec![Some(1.0)],
            corrupted: vec![known(1.0 - total)],
            total_effect: vec![known(total)],
            top1: None,
        },
        arms: vec![CaseArm {
            layers: 2,
            positions,
            errors: vec![effects.iter().map(|effect| effect.map(|x| x.abs() / 10.0)).collect()],
            effects: vec![effects],
            trivial: vec![1; 2 * CLASSES],
            exact_null: vec![0; 2 * CLASSES],
            argmax: vec![Some(peak)],
        }],
    }
}

fn pool(cases: &[CaseEffects], direction: Direction, set: u32) -> Pool<'_> {
    Pool::new(cases.iter().collect(), direction, &Aggregate::default(), set)
}

fn near(found: Option<f64>, expected: f64) {
    let found = found.unwrap();
    assert!((found - expected).abs() < 1e-12, "{found} {expected}");
}

// numpy: x = [.1, .3, .2, .5]; mean 0.275, std(ddof=1) / 2 = 0.08539125638299665
#[test]
fn a_class_is_averaged_over_the_cases_that_have_it() {
    let cases = [
        case(0.5, [0.1, 0.4], None),
        case(0.7, [0.3, 0.2], Some([0.6, 0.0])),
        case(0.4, [0.2, 0.1], None),
        case(0.8, [0.5, 0.3], Some([0.2, 0.0])),
    ];
    let mut pool = pool(&cases, Direction::Denoising, 0);
    let averages = pool.averages(0, 0, 2);
    let at = |class: TokenClass, layer: usize| averages[2 * class as usize + layer];
    let last = at(TokenClass::LastSubject, 0);
    near(last.effect.mean, 0.275);
    near(last.effect.se, 0.085_391_256_382_996_65);
    assert_eq!(last.effect.n, 4);
    near(last.recovery, 1.1 / 2.4);
    // Two of four have it, and the total effect is of these two.
    let first = at(TokenClass::FirstSubject, 0);
    near(first.effect.mean, 0.4);
    near(first.effect.se, 0.2);
    assert_eq!(first.effect.n, 2);
    near(first.recovery, 0.8 / 1.5);
    // Draws of two cases are either of them twice, or both: their means 0.2, 0.4 and 0.6.
    assert_eq!(first.effect.ci.map(|ci| ci.map(|x| (10.0 * x).round())), Some([2.0, 6.0]));
    let [low, high] = first.recovery_ci.unwrap();
    near(Some(low), 0.25);
    near(Some(high), 0.6 / 0.7);
    let none = at(TokenClass::Further, 1);
    assert_eq!((none.effect, none.recovery, none.recovery_ci), (CaseEstimate::default(), None, None));
    // Zeros count as they are.
    assert_eq!(at(TokenClass::FirstSubject, 1).effect.mean, Some(0.0));
    near(pool.total_effect(0).mean, 0.6);
    assert_eq!(pool.counts(2, |case| &case.arms[0].trivial), [4; 2 * CLASSES]);
    assert_eq!(pool.positions(0)[TokenClass::FirstSubject as usize], 2);
    let peaks = pool.peaks(0, 0, Some(&[5, 7]));
    assert_eq!((peaks[2 * TokenClass::LastSubject as usize + 1], peaks.iter().sum::<usize>()), (4, 4));
}

#[test]
fn noising_is_a_share_of_the_negative_total_effect() {
    let cases = [case(0.5, [-0.1, -0.4], None), case(0.5, [-0.3, -0.2], None)];
    let averages = pool(&cases, Direction::Noising, 0).averages(0, 0, 2);
    near(averages[2 * TokenClass::LastSubject as usize].recovery, 0.4);
}

#[test]
fn a_number_that_is_not_finite_makes_its_average_null_and_no_other() {
    let mut cases = [case(0.5, [0.1, 0.4], None), case(0.5, [0.3, 0.2], None)];
    cases[1].arms[0].effects[0][2 * TokenClass::LastSubject as usize] = None;
    let averages = pool(&cases, Direction::Denoising, 0).averages(0, 0, 2);
    let [broken, whole] = [0, 1].map(|layer| averages[2 * TokenClass::LastSubject as usize + layer].effect);
    assert_eq!(broken, CaseEstimate { n: 2, ..CaseEstimate::default() });
    near(whole.mean, 0.3);
}

#[test]
fn groups_differ_by_their_means_with_draws_of_their_own() {
    let a = [case(0.5, [0.1, 0.4], None), case(0.5, [0.3, 0.2], None), case(0.5, [0.5, 0.2], None)];
    let b = [case(0.5, [0.0, 0.4], None), case(0.5, [0.1, 0.2], None)];
    let (mut first, mut second) = (pool(&a, Direction::Denoising, 1), pool(&b, Direction::Denoising, 2));
    let differences = first.differences(&mut second, 0, 0, 2);
    let cell = differences[2 * TokenClass::LastSubject as usize];
    near(cell.mean, 0.25);
    // numpy.hypot(numpy.std([.1, .3, .5], ddof=1) / 3 ** .5, .05) = 0.12583057392117916
    near(cell.se, 0.125_830_573_921_179_16);
    assert_eq!(cell.n, 5);
    let [low, high] = cell.ci.unwrap();
    assert!((0.0..0.1).contains(&low) && (0.4..=0.5).contains(&high), "{low} {high}");
}
