//! The generators against their references.

use sha2::{Digest, Sha256};

use crate::lower::noise::{
    NoiseKey, numpy_legacy, numpy_legacy_of, numpy_legacy_uniform, philox_chi_square, philox_row,
    philox_uniform_row, philox4x32, stream,
};

/// SHA-256 of the little-endian doubles, in hex.
fn digest(values: &[f64]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn legacy_noise_has_the_bits_of_numpy() {
    // numpy.random.RandomState(1).randn(6), NumPy 2.4.6
    let bits = [
        0x3ff9_fd51_9065_7c50_u64,
        0xbfe3_9382_2fb7_d9ad,
        0xbfe0_e6c8_7254_8fd2,
        0xbff1_2ae1_255c_b80c,
        0x3feb_b16b_5735_117d,
        0xc002_698d_1ecc_a259,
    ];
    assert_eq!(numpy_legacy(1, 6).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
    let bits = [0x3fe4_bfc3_8c48_6d8a_u64, 0x3fe5_6b19_2e50_7eee, 0xbff1_49e8_36f1_92fd];
    assert_eq!(numpy_legacy(u32::MAX, 3).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
    // Whole arrays: RandomState(1).randn(10, 7, 576) and RandomState(123456).randn(3, 4, 2048).
    let rome = digest(&numpy_legacy(1, 10 * 7 * 576));
    assert_eq!(rome, "baf58e7a8d77b7e403b98244fa80cf1911dc8e9e9c4054b04d84109533c115d6");
    let other = digest(&numpy_legacy(123_456, 3 * 4 * 2048));
    assert_eq!(other, "9aa4d9a49707a50ed7a0ad1a6e19f00a5038a5010809e1c5832635cf9c3cd703");
}

#[test]
fn legacy_noise_of_several_seeds_has_the_bits_of_numpy() {
    // numpy.random.RandomState([7, 13, 2]).randn(4) and .RandomState([0, 1, 0]).randn(3), NumPy 2.4.6
    let bits =
        [0x3fc2_4641_0bcb_dd66_u64, 0x3fe3_f0aa_a1a3_9546, 0x3ffb_dedd_ba8e_bda2, 0xbff1_3743_1a0d_a496];
    assert_eq!(numpy_legacy_of(&[7, 13, 2], 4).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
    let bits = [0x3fb9_d7d5_cb5e_53b5_u64, 0xbff5_b0a6_bb07_adf7, 0xbff1_e8bc_7214_cc45];
    assert_eq!(numpy_legacy_of(&[0, 1, 0], 3).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
    // hashlib.sha256(numpy.random.RandomState([1, 12, 29]).randn(7, 576).tobytes()).hexdigest()
    let whole = digest(&numpy_legacy_of(&[1, 12, 29], 7 * 576));
    assert_eq!(whole, "9bf6b6b3edf4deeada6c72d3980c4f940e95c31bb03ceec1c04a140fa5b28e19");
}

#[test]
fn legacy_uniform_noise_has_the_bits_of_numpy() {
    // numpy.random.RandomState(1).uniform(-1, 1, 6).view(numpy.uint64), NumPy 2.4.6
    let bits = [
        0xbfc5_3e0b_c017_0fe8_u64,
        0x3fdc_3397_ceeb_c144,
        0xbfef_fe20_46f9_99e4,
        0xbfd9_4d2a_9003_ee18,
        0xbfe6_9b8d_2e1c_7d62,
        0xbfea_171f_dcd3_cd7c,
    ];
    assert_eq!(numpy_legacy_uniform(1, 6).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
    // The same of RandomState(2**32 - 1).
    let bits = [0xbfe9_c065_971b_6df8_u64, 0x3fea_647b_0480_6562, 0x3fe2_7f8d_ec35_e7f2];
    assert_eq!(numpy_legacy_uniform(u32::MAX, 3).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
    // hashlib.sha256(numpy.random.RandomState(1).uniform(-1, 1, (10, 7, 576)).tobytes()).hexdigest()
    let rome = digest(&numpy_legacy_uniform(1, 10 * 7 * 576));
    assert_eq!(rome, "f5152f4940839e3557d24a46356847913b420cc167f49577e8e70b5222483ac8");
}

#[test]
fn philox_gives_the_known_answers_of_its_authors() {
    assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    let ones = [u32::MAX; 4];
    assert_eq!(philox4x32(ones, [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    assert_eq!(
        philox4x32(pi, [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn counter_based_noise_is_normal_and_depends_on_nothing_but_its_key() {
    let key = NoiseKey { seed: 1, stream: 0, sample: 3, position: 5 };
    assert_eq!(philox_row(key, 7), philox_row(key, 64)[..7]);
    for other in [
        NoiseKey { seed: 2, ..key },
        NoiseKey { seed: 1 << 32 | 1, ..key },
        NoiseKey { stream: 1, ..key },
        NoiseKey { sample: 4, ..key },
        NoiseKey { position: 6, ..key },
    ] {
        assert_ne!(philox_row(key, 2), philox_row(other, 2), "{other:?}");
    }
    let many: Vec<f64> =
        (0..200).flat_map(|position| philox_row(NoiseKey { position, ..key }, 500)).collect();
    let n = many.len() as f64;
    let moment = |k: i32| many.iter().map(|x| x.powi(k)).sum::<f64>() / n;
    // Four standard errors of each moment at n = 1e5.
    for (k, expected, error) in [(1, 0.0, 1.0_f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
        let limit = 4.0 * (error / n).sqrt();
        assert!((moment(k) - expected).abs() < limit, "moment {k}: {}", moment(k));
    }
}

/// Mean and variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n)
}

#[test]
fn counter_based_uniform_noise_fills_its_range_evenly() {
    let key = |position| NoiseKey { seed: 1, stream: stream::UNIFORM, sample: 0, position };
    assert_eq!(philox_uniform_row(key(3), 7), philox_uniform_row(key(3), 64)[..7]);
    let many: Vec<f64> = (0..200).flat_map(|p| philox_uniform_row(key(p), 500)).collect();
    let n = many.len() as f64;
    assert!(many.iter().all(|x| (-1.0..1.0).contains(x)));
    let (mean, variance) = moments(&many);
    // Variance 1/3, fourth moment 1/5: four standard errors.
    assert!(mean.abs() < 4.0 * (1.0 / 3.0 / n).sqrt(), "{mean}");
    assert!((variance - 1.0 / 3.0).abs() < 4.0 * ((1.0 / 5.0 - 1.0 / 9.0) / n).sqrt(), "{variance}");
    for tenth in 0..10 {
        let from = -1.0 + 0.2 * f64::from(tenth);
        let share = many.iter().filter(|x| (from..from + 0.2).contains(*x)).count() as f64 / n;
        assert!((share - 0.1).abs() < 4.0 * (0.09 / n).sqrt(), "from {from}: {share}");
    }
}

#[test]
fn chi_square_draws_have_the_mean_and_variance_of_their_degrees_of_freedom() {
    for df in [3_u32, 8, 101] {
        let draws: Vec<f64> = (0..20_000)
            .map(|position| {
                philox_chi_square(NoiseKey { seed: 9, stream: stream::CHI_SQUARE, sample: 1, position }, df)
            })
            .collect();
        let (n, k) = (draws.len() as f64, f64::from(df));
        let (mean, variance) = moments(&draws);
        // Variance 2 k, fourth central moment 12 k^2 + 48 k: four standard errors.
        assert!((mean - k).abs() < 4.0 * (2.0 * k / n).sqrt(), "{df}: {mean}");
        let error = ((12.0 * k * k + 48.0 * k - 4.0 * k * k) / n).sqrt();
        assert!((variance - 2.0 * k).abs() < 4.0 * error, "{df}: {variance}");
    }
}
