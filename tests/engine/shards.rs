//! How a model is divided over ranks.

use mediant::model::config::ModelConfig;
use mediant::model::shard::Shard;
use mediant::plan::batch::{EditRows, RowOp, Values};
use mediant::spec::site::Site;

use crate::tiny::{config, golden};

/// The tiny llama with other sizes.
fn sizes(heads: usize, kv_heads: usize, intermediate: usize, vocabulary: usize) -> ModelConfig {
    ModelConfig {
        num_heads: heads,
        num_kv_heads: kv_heads,
        intermediate_size: intermediate,
        vocab_size: vocabulary,
        ..config(&golden("tiny_llama"))
    }
}

#[test]
fn ranks_hold_every_head_column_and_token_once_and_copies_of_shared_keys() {
    // 49152 tokens are 768 times 64; 1000 are no multiple.
    for (model, worlds) in [
        (sizes(64, 8, 28_672, 128_256), vec![1, 2, 4, 8, 16, 64]),
        (sizes(9, 3, 1536, 49_152), vec![1, 3]),
        (sizes(8, 2, 160, 1000), vec![1, 2, 4, 8]),
    ] {
        for world in worlds {
            let shards = Shard::all(&model, world).unwrap();
            for (site, keys) in [
                (Site::Z, 0),
                (Site::QRope, 0),
                (Site::Scores, 7),
                (Site::HeadOut, 0),
                (Site::MlpAct, 0),
                (Site::Logits, 0),
                (Site::K, 0),
                (Site::ResidMid, 0),
            ] {
                let columns = shards.iter().map(|shard| shard.columns(site, keys));
                let mut next = 0;
                for part in columns.filter(|columns| columns.primary) {
                    assert_eq!(part.own.start, next, "{site} on {world} ranks");
                    next = part.own.end;
                }
                assert_eq!(next as usize, model.site_width(site, keys), "{site} on {world} ranks");
            }
            for shard in &shards {
                // Each query head finds its keys on its own rank.
                let group = model.num_heads / model.num_kv_heads;
                for head in shard.heads.clone() {
                    assert!(shard.kv_heads.contains(&(head / group)), "head {head} of {world} ranks");
                }
                let own = shard.attention();
                assert_eq!(own.query / own.key_value * shard.kv_heads.len(), shard.heads.len());
            }
            let copies = world.saturating_sub(model.num_kv_heads).min(1) as u64;
            let numbers: u64 = shards.iter().map(Shard::parameters).sum();
            assert!(numbers >= model.parameters() as u64);
            assert!(
                copies == 1 || numbers < (model.parameters() + 65 * world * 10 * model.hidden_size) as u64
            );
        }
    }
}

#[test]
fn a_model_that_does_not_divide_says_everything_that_is_wrong_and_what_would_do() {
    let error = Shard::new(&sizes(12, 4, 160, 512), 0, 3).unwrap_err();
    assert_eq!(
        error.faults.iter().map(|f| f.key).collect::<Vec<_>>(),
        ["num_key_value_heads", "intermediate_size"]
    );
    assert_eq!(error.worlds, [1, 2, 4]);
    let message = error.to_string();
    assert!(
        message.contains("num_key_value_heads = 4") && message.contains("intermediate_size = 160"),
        "{message}"
    );
    assert!(message.contains("over 3 devices") && message.ends_with("over 1, 2, 4"), "{message}");
    let heads = Shard::new(&sizes(4, 2, 160, 512), 0, 8).unwrap_err();
    assert_eq!(heads.faults[0].key, "num_attention_heads");
    let tokens = Shard::new(&sizes(8, 2, 160, 100), 0, 4).unwrap_err();
    assert_eq!(tokens.faults.iter().map(|f| f.key).collect::<Vec<_>>(), ["vocab_size"]);
}

#[test]
fn an_edit_is_cut_to_the_columns_of_each_rank() {
    let shards = Shard::all(&sizes(4, 2, 160, 512), 4).unwrap();
    let edit = EditRows {
        rows: vec![5, 6],
        first: 0,
        columns: Some(8..24),
        op: RowOp::Replace(Values::Given((0..32).map(|i| i as f32).collect())),
        instead: None,
        through: None,
    };
    let given = |rank: usize| {
        let edit = shards[rank].columns(Site::Z, 0).localised(&edit)?.into_owned();
        match edit.op {
            RowOp::Replace(Values::Given(given)) => Some((edit.columns.unwrap(), given)),
            other => panic!("{other:?}"),
        }
    };
    let numbers = |range: std::ops::Range<u32>| range.map(|i| i as f32);
    assert_eq!(given(0), Some((8..16, numbers(0..8).chain(numbers(16..24)).collect())));
    assert_eq!(given(1), Some((0..8, numbers(8..16).chain(numbers(24..32)).collect())));
    assert_eq!((given(2), given(3)), (None, None));
    let whole = shards[3].columns(Site::ResidPre, 0);
    assert_eq!(*whole.localised(&edit).unwrap(), edit, "the residual stream is on every rank");
}
