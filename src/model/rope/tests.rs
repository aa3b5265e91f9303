use super::*;

fn scaled(scaling: RopeScaling) -> Rope {
    Rope { theta: 10_000.0, scaling: Some(scaling) }
}

#[test]
fn without_scaling_frequencies_are_a_geometric_series() {
    let frequencies = Rope::plain(10_000.0).inverse_frequencies(8, 5);
    assert_eq!(frequencies, [1.0, 0.1, 0.01, 0.001].map(|f: f64| f).to_vec());
}

#[test]
fn dynamic_scaling_begins_past_the_original_length_and_goes_by_the_prompts_own() {
    let rope = scaled(RopeScaling::Dynamic(DynamicScaling { factor: 2.0, original_max_positions: 100 }));
    let plain = Rope::plain(10_000.0).inverse_frequencies(8, 1);
    for length in [1, 99, 100] {
        assert!(!rope.is_of_length(length));
        assert_eq!(rope.inverse_frequencies(8, length), plain);
    }
    // factor * 150 / 100 - (factor - 1) = 2, to the power of 8 / 6.
    let base = 10_000.0 * 2f64.powf(8.0 / 6.0);
    assert!(rope.is_of_length(150));
    for (i, f) in rope.inverse_frequencies(8, 150).into_iter().enumerate() {
        assert!((f / base.powf(-(i as f64) / 4.0) - 1.0).abs() < 1e-14);
    }
    assert_eq!((rope.longest(100), Rope::plain(1e4).longest(100)), (200, 100));
}

#[test]
fn yarn_keeps_what_turns_fast_and_divides_what_turns_slowly() {
    let yarn = YarnScaling {
        factor: 4.0,
        original_max_positions: 4096,
        attention_factor: 1.25,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
    };
    let rope = scaled(RopeScaling::Yarn(yarn));
    let plain = Rope::plain(10_000.0).inverse_frequencies(128, 1);
    let ratios: Vec<f64> =
        plain.iter().zip(rope.inverse_frequencies(128, 1)).map(|(plain, scaled)| plain / scaled).collect();
    // 128 ln(4096 / 64 pi) / (2 ln 10000) = 20.9, and 45.0 for one turn.
    assert!(ratios[..=20].iter().all(|r| (r - 1.0).abs() < 1e-12));
    assert!(ratios[21..46].windows(2).all(|pair| pair[0] < pair[1]));
    assert!(ratios[46..].iter().all(|r| (r - 4.0).abs() < 1e-12));
    assert_eq!((rope.attention_factor(), rope.longest(4096), rope.longest(65_536)), (1.25, 16_384, 65_536));
}

#[test]
fn attention_factors_are_those_of_the_paper_or_of_both_mscales() {
    let of = YarnScaling::default_attention_factor;
    assert_eq!((of(1.0, None), of(0.5, Some((2.0, 1.0)))), (1.0, 1.0));
    assert!((of(4.0, None) - 1.138_629_436_111_989).abs() < 1e-15);
    assert!((of(40.0, Some((1.0, 1.0))) - 1.0).abs() < 1e-15);
}
