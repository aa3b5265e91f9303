//! Random numbers that are counted, not drawn one after the other: the number of a sample's step depends on nothing but the seed, the
//! sample and the step.

/// A number in `[0, 1)`.
pub fn uniform(seed: u64, sample: u32, step: u32) -> f64 {
    let place = u64::from(sample) << 32 | u64::from(step);
    let bits = mixed(mixed(seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_add(mixed(place)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// `SplitMix64`'s function.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_twin() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/draws.json")).unwrap();
        for row in golden["uniform"].as_array().unwrap() {
            let int = |i: usize| row[i].as_u64().unwrap();
            assert_eq!(Some(uniform(int(0), int(1) as u32, int(2) as u32)), row[3].as_f64(), "{row}");
        }
    }
}
