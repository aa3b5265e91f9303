//! The generators against their references.

use sha2::{Digest, Sha256};

use crate::lower::noise::{NoiseKey, numpy_legacy, philox_row, philox4x32};

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
