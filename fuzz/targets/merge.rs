//! Random plans, merged: each gets the bits that it gets alone. The plans and the comparison are those of the tests.

use std::cell::RefCell;

use mediant::engine::group::Group;
use mediant::kernels::cpu::Dtype;
use mediant::plan::merge::merge;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

use crate::merged::{alone, parts, plans, together};
use crate::tiny::ranks;

const MODELS: [&str; 2] =
    [include_str!("../../tests/golden/tiny_llama.json"), include_str!("../../tests/golden/tiny_gpt2.json")];

struct Loaded {
    golden: Value,
    group: Group,
}

thread_local! {
    static LOADED: RefCell<[Option<Loaded>; 2]> = const { RefCell::new([None, None]) };
}

fn load(model: usize) -> Loaded {
    let golden: Value = serde_json::from_str(MODELS[model]).unwrap();
    let (group, _) = ranks(&golden, 1, Dtype::F32);
    Loaded { golden, group }
}

pub(crate) fn run(data: &[u8]) {
    // A seed rather than the choices themselves: proptest draws until a number fits, and has no end where the bytes end.
    let Some((model, bytes)) = data.split_first() else { return };
    let mut seed = [0; 32];
    seed.iter_mut().zip(bytes).for_each(|(into, byte)| *into = *byte);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let Ok(raw) = plans().new_tree(&mut runner).map(|tree| tree.current()) else { return };
    let model = usize::from(model % 2);
    LOADED.with_borrow_mut(|loaded| {
        let Loaded { golden, group } = loaded[model].get_or_insert_with(|| load(model));
        for parts in parts(&raw, golden) {
            let merged = merge(parts.clone());
            let alone = alone(group, &parts);
            assert!(alone == together(group, merged), "{} parts", parts.len());
        }
    });
}
