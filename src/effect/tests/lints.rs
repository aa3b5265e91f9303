//! Remarks that need results and nothing else.

use crate::effect::lints::below_noise_floor;
use crate::lower::lint::{Lints, Severity};

#[test]
fn effects_below_the_noise_floor_are_told_but_for_exact_nulls() {
    let found = |effects: &[Option<f64>], floor: f64| {
        let mut lints = Lints::default();
        below_noise_floor("/arms/mlp", "prob:x", effects, &[false, false, true], floor, &mut lints);
        lints.0.into_iter().map(|lint| (lint.code, lint.severity, lint.detail)).collect::<Vec<_>>()
    };
    assert_eq!(found(&[Some(0.5), Some(-0.25), Some(0.0)], 0.125), []);
    assert_eq!(
        found(&[Some(0.5), Some(-0.25), Some(0.0)], 0.25),
        [],
        "an effect at the floor is none below it"
    );
    assert_eq!(
        found(&[Some(0.0), Some(0.0), Some(0.0)], 0.0),
        [],
        "identical runs that agree leave no floor"
    );
    let code = "EFFECT_BELOW_NOISE_FLOOR";
    let one = found(&[Some(0.5), Some(-0.25), Some(0.0)], 0.375);
    assert_eq!((one[0].0, one[0].1), (code, Severity::Info));
    assert_eq!(one[0].2, "prob:x: 1 of 2 effects are below the noise floor of 3.8e-1");
    let all = found(&[Some(0.5), None, Some(0.0)], 1.0);
    assert_eq!((all[0].0, all[0].1), (code, Severity::Warning), "what is not finite is in no count");
}
