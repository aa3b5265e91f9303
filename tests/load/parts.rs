//! Parts of tensors: what a rank reads is what the whole has there.

use candle_core::{DType, Tensor};
use mediant::kernels::upload::Piece;
use mediant::load::{Checkpoint, LoadOptions, ModelRef, expected_tensors, open};
use mediant::model::shard::Shard;

use crate::made;

fn bits(piece: &Piece<'_>) -> Vec<u32> {
    piece.to_f32().into_iter().map(f32::to_bits).collect()
}

/// Every part that a rank of so many would read, against the tensor.
pub(crate) fn check(checkpoint: &Checkpoint, world: usize, names: &[String]) {
    for shard in Shard::all(&checkpoint.config, world).unwrap() {
        for (name, shape) in
            expected_tensors(&checkpoint.config).into_iter().filter(|(n, _)| names.contains(n))
        {
            let tensor = checkpoint.tensors.tensor(&name).unwrap();
            let (rows, width) = (shape[0], shape.get(1).copied().unwrap_or(1));
            let tensor = tensor.reshape((rows, width)).unwrap();
            let share = |n: usize| shard.rank * n / world..(shard.rank + 1) * n / world;
            let inputs = if width == 1 { 0..1 } else { share(width) };
            for (rows, columns) in
                [(share(rows), 0..width), (0..rows, inputs.clone()), (share(rows), inputs.clone())]
            {
                let part = checkpoint.tensors.part(&name, rows.clone(), columns.clone()).unwrap();
                assert_eq!((part.rows, part.columns), (rows.len(), columns.len()));
                let expected = tensor.narrow(0, rows.start, rows.len()).unwrap();
                let expected = expected.narrow(1, columns.start, columns.len()).unwrap();
                assert_eq!(bits(&part), made::bits(&expected), "{name} [{rows:?}, {columns:?}]");
            }
        }
    }
}

pub(crate) fn all_names(checkpoint: &Checkpoint) -> Vec<String> {
    expected_tensors(&checkpoint.config).into_iter().map(|(name, _)| name).collect()
}

fn dummy(reference: &str) -> Checkpoint {
    open(&reference.parse::<ModelRef>().unwrap(), &LoadOptions::default()).unwrap()
}

#[test]
fn parts_of_safetensors_have_the_bits_of_the_whole_in_every_format() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let dir = tempfile::tempdir().unwrap();
        let tensors = made::tensors().into_iter();
        let tensors = tensors.map(|(name, t): (String, Tensor)| (name, t.to_dtype(dtype).unwrap())).collect();
        made::write(&dir.path().join("model"), &made::config(), &tensors, 2);
        let reference = ModelRef::Folder(dir.path().join("model"));
        let checkpoint = open(&reference, &made::options(dir.path())).unwrap();
        for world in [1, 2, 4] {
            check(&checkpoint, world, &all_names(&checkpoint));
        }
    }
}

#[test]
fn parts_of_a_dummy_model_are_made_alone_with_the_bits_of_the_whole() {
    for tiny in ["dummy:tiny", "dummy:gpt2-tiny"].map(dummy) {
        for world in [1, 2, 4] {
            check(&tiny, world, &all_names(&tiny));
        }
    }
    // The large presets are rounded to bf16, as the checkpoints they stand for.
    let names = ["model.layers.7.self_attn.k_proj.weight", "model.layers.31.post_attention_layernorm.weight"];
    check(&dummy("dummy:llama-3-8b"), 8, &names.map(str::to_owned));
}
