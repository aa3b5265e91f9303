//! The weight formula of `tests/python/reference.py`.

/// `u` of the weight formula: numbers in [-1, 1), exact in f32.
pub(crate) fn uniform(name: &str, count: usize) -> Vec<f32> {
    let f = name.bytes().fold(0x811C_9DC5_u32, |f, byte| (f ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (0..count as u32)
        .map(|i| {
            let mut h = f ^ i.wrapping_mul(0x9E37_79B9);
            h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
            h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
            h ^= h >> 16;
            ((h >> 8) as f32 - 8_388_608.0) / 8_388_608.0
        })
        .collect()
}
