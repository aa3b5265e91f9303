//! Which cosines and sines turn each row of a batch.
//!
//! Most rows are turned by the model's table, made once, in which they are looked up by their positions. Prompts that dynamic
//! scaling gives frequencies of their own are not, and a batch has prompts of many lengths, while a row's numbers must not
//! depend on what else is there. So a batch with such a prompt brings a table of its own along, with a row for each length
//! and position in it; kernels look rows up in it all the same. Making one takes as many cosines as the batch has numbers in
//! half a head: nothing beside the rest. So are positions turned that are too far out to keep a table up to them.

use std::collections::{BTreeMap, BTreeSet};

use super::config::ModelConfig;
use crate::kernels::RopeTable;

/// Positions in the model's table. Configurations state up to millions, more than a batch has rows.
const KEPT: u32 = 1 << 15;
/// A length that has no frequencies of its own, and stands for all of these.
const SHORT: u32 = 1;

/// The model's table, if it turns rows.
pub(super) fn of_all(config: &ModelConfig) -> Option<RopeTable> {
    let rope = config.rope()?;
    let frequencies = rope.inverse_frequencies(config.head_dim, SHORT as usize);
    let positions = config.max_positions.min(KEPT as usize);
    Some(RopeTable::new(&frequencies, rope.attention_factor(), positions))
}

/// A batch's own table, and its row for each initial row of the batch, given the lengths of the prompts and the positions of
/// these rows. `None`: the model's table holds for all of them, or it has none.
pub(super) fn of(lengths: &[u32], positions: &[u32], config: &ModelConfig) -> Option<(RopeTable, Vec<u32>)> {
    let rope = config.rope()?;
    let shared = |length: u32| if rope.is_of_length(length as usize) { length } else { SHORT };
    let rows = || lengths.iter().map(|length| shared(*length)).zip(positions.iter().copied());
    if rows().all(|(length, position)| length == SHORT && position < KEPT) {
        return None;
    }
    let mut places: BTreeMap<(u32, u32), u32> = rows().map(|row| (row, 0)).collect();
    for (next, place) in (0..).zip(places.values_mut()) {
        *place = next;
    }
    let frequencies = |length: u32| rope.inverse_frequencies(config.head_dim, length as usize);
    let lengths: BTreeSet<u32> = places.keys().map(|(length, _)| *length).collect();
    let of_length: BTreeMap<u32, Vec<f64>> = lengths.into_iter().map(|n| (n, frequencies(n))).collect();
    let turned = |(length, position): &(u32, u32)| (*position as usize, of_length[length].as_slice());
    let turned: Vec<_> = places.keys().map(turned).collect();
    let table = RopeTable::of(&turned, config.head_dim / 2, rope.attention_factor());
    Some((table, rows().map(|row| places[&row]).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architecture::{LLAMA, PositionShape};
    use crate::model::rope::{DynamicScaling, Rope, RopeScaling};

    fn config(scaling: Option<RopeScaling>) -> ModelConfig {
        ModelConfig {
            family: &LLAMA,
            vocab_size: 16,
            hidden_size: 8,
            intermediate_size: 8,
            num_layers: 1,
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: 8,
            max_positions: 1 << 28,
            sliding_window: None,
            tie_word_embeddings: false,
            block: LLAMA.block(1e-5, PositionShape::Rope(Rope { theta: 1e4, scaling })),
        }
    }

    fn cosines(table: &RopeTable, row: u32) -> &[f32] {
        &table.cos[row as usize * table.half..][..table.half]
    }

    #[test]
    fn positions_too_far_out_for_the_models_table_are_turned_as_they_would_be_in_it() {
        let config = config(None);
        let kept = of_all(&config).unwrap();
        assert_eq!(kept.cos.len(), 4 << 15);
        assert!(of(&[40_000; 3], &[0, 5, (1 << 15) - 1], &config).is_none());
        let (table, rows) = of(&[40_000; 4], &[5, 39_999, 5, 1 << 15], &config).unwrap();
        assert_eq!((rows.as_slice(), table.cos.len()), (&[0, 2, 0, 1][..], 3 * 4));
        assert_eq!(cosines(&table, 0), cosines(&kept, 5));
        let frequencies = config.rope().unwrap().inverse_frequencies(8, 1);
        let far: Vec<f32> = frequencies.iter().map(|f| (39_999.0 * f).cos() as f32).collect();
        assert_eq!(cosines(&table, 2), far);
    }

    #[test]
    fn lengths_in_a_batch_do_not_see_one_another() {
        let scaling = DynamicScaling { factor: 4.0, original_max_positions: 10 };
        let config = config(Some(RopeScaling::Dynamic(scaling)));
        assert!(of(&[10, 3], &[9, 2], &config).is_none());
        let (together, rows) = of(&[3, 20, 30, 20], &[2, 2, 2, 19], &config).unwrap();
        for (length, position, row) in
            [(3, 2, rows[0]), (20, 2, rows[1]), (30, 2, rows[2]), (20, 19, rows[3])]
        {
            let frequencies = config.rope().unwrap().inverse_frequencies(8, length);
            let expected: Vec<f32> =
                frequencies.iter().map(|f| (f64::from(position) * f).cos() as f32).collect();
            assert_eq!(cosines(&together, row), expected, "{length} tokens");
        }
        assert_ne!(cosines(&together, rows[1]), cosines(&together, rows[2]));
    }
}
