//! The default model against transformers and gguf: needs it in the cache or reachable (93 MB, once).

use std::collections::HashMap;
use std::sync::LazyLock;

use mediant::load::{Checkpoint, LoadOptions, ModelRef, check_fits, open, required_bytes};
use mediant::model::architecture::{LLAMA, PositionShape};
use mediant::model::rope::Rope;
use mediant::tokens::{SpanError, spelled};
use serde::Deserialize;

use crate::made;

static MODEL: LazyLock<Checkpoint> =
    LazyLock::new(|| open(&ModelRef::SmolLm2, &LoadOptions::default()).unwrap());

#[derive(Deserialize)]
struct Source {
    gguf_sha256: String,
}

#[derive(Deserialize)]
struct TokensGolden {
    source: Source,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    /// Whether the ids decode to the text: bytes without a token are dropped.
    lossless: bool,
    ids: Vec<u32>,
    offsets: Vec<(usize, usize)>,
    strings: Vec<String>,
}

fn tokens_golden() -> TokensGolden {
    serde_json::from_str(include_str!("../golden/tokens.json")).unwrap()
}

#[test]
fn ids_strings_and_offsets_are_those_of_transformers() {
    let golden = tokens_golden();
    assert_eq!(golden.source.gguf_sha256, MODEL.fingerprint.weights_sha256);
    assert!(golden.cases.len() >= 40);
    for case in golden.cases {
        let encoded = MODEL.tokenizer.encode(&case.text, None).unwrap();
        assert_eq!(*encoded.ids, case.ids[..], "{:?}", case.text);
        let offsets: Vec<_> = encoded.tokens.iter().map(|t| (t.start, t.end)).collect();
        // Behind a dropped byte the reference counts bytes of tokens as bytes of the text, which is off by one.
        if case.lossless {
            assert_eq!(offsets, case.offsets, "{:?}", case.text);
        }
        assert_eq!(encoded.tokens.len(), case.strings.len(), "{:?}", case.text);
        for (token, string) in encoded.tokens.iter().zip(&case.strings) {
            // Bytes that are no character, which Python shows as U+FFFD, are told apart.
            match string.split_once('\u{fffd}') {
                None => assert_eq!(&token.text, string, "{:?}", case.text),
                Some((before, _)) => {
                    assert!(token.text.starts_with(&format!("{before}<")), "{:?}", case.text);
                }
            }
        }
        assert_eq!(MODEL.tokenizer.continuation("", &case.text).unwrap().ids, case.ids);
    }
}

#[test]
fn byte_offsets_cut_every_text_into_its_tokens() {
    for case in tokens_golden().cases {
        let encoded = MODEL.tokenizer.encode(&case.text, None).unwrap();
        let mut at = 0;
        for token in &encoded.tokens {
            assert!(token.byte_start == at || !case.lossless && token.byte_start > at, "{:?}", case.text);
            at = token.byte_end;
            let bytes = &case.text.as_bytes()[token.byte_start..token.byte_end];
            assert_eq!(spelled(bytes), token.text, "{:?}", case.text);
            let starts = case.text.char_indices().map(|(i, _)| i);
            let chars = starts.filter(|&i| i <= token.byte_start).count() - 1;
            assert_eq!(chars, token.start, "{:?}", case.text);
        }
        if case.lossless {
            assert_eq!(at, case.text.len());
            assert_eq!(MODEL.tokenizer.decode(&encoded.ids).unwrap(), case.text);
            assert_eq!(MODEL.tokenizer.describe(&encoded.ids).unwrap(), encoded, "{:?}", case.text);
        }
    }
}

#[test]
fn prompts_get_a_bos_only_on_request() {
    let t = &MODEL.tokenizer;
    assert_eq!(t.bos(), (Some(1), false));
    let with = t.encode("The", Some(true)).unwrap();
    assert_eq!(*with.ids, [1, 504]);
    assert_eq!((with.tokens[0].start, with.tokens[0].end, with.tokens[1].end), (0, 0, 3));
}

#[test]
fn the_subject_of_a_prompt_is_found_as_a_span() {
    let t = &MODEL.tokenizer;
    let prompt = "Why do electricians make good swimmers? Because they know the";
    let encoded = t.encode(prompt, None).unwrap();
    assert_eq!(t.span(&encoded, prompt, "electricians").unwrap(), 2..4);
    assert_eq!(t.span(&encoded, prompt, "icians make g").unwrap(), 2..6);
    let error = t.span(&encoded, prompt, "plumbers").unwrap_err();
    assert!(error.to_string().contains(r#"0:"Why" 1:" do" 2:" electric" 3:"ians""#), "{error}");
    assert!(matches!(t.span(&encoded, prompt, "s").unwrap_err(), SpanError::Ambiguous { .. }));
}

#[test]
fn the_configuration_is_that_of_smollm2_135m() {
    let c = &MODEL.config;
    assert_eq!((c.num_layers, c.hidden_size, c.intermediate_size, c.vocab_size), (30, 576, 1536, 49152));
    assert_eq!((c.num_heads, c.num_kv_heads, c.head_dim, c.max_positions), (9, 3, 64, 8192));
    assert_eq!(c.family.name, "llama");
    assert!(c.tie_word_embeddings);
    assert_eq!(c.block, LLAMA.block(1e-5, PositionShape::Rope(Rope::plain(100_000.0))));
    assert_eq!(required_bytes(c, 4), 134_515_008 * 4);
    check_fits(required_bytes(c, 4)).unwrap();
}

#[derive(Deserialize)]
struct WeightsGolden {
    source: Source,
    tensors: HashMap<String, Weight>,
}

#[derive(Deserialize)]
struct Weight {
    shape: Vec<usize>,
    sha256: String,
}

#[test]
fn dequantised_weights_have_the_bits_of_ggufs_reference() {
    let golden: WeightsGolden = serde_json::from_str(include_str!("../golden/weights.json")).unwrap();
    assert_eq!(golden.source.gguf_sha256, MODEL.fingerprint.weights_sha256);
    assert!(golden.tensors.len() >= 10);
    for (name, weight) in golden.tensors {
        let tensor = MODEL.tensors.tensor(&name).unwrap();
        assert_eq!(tensor.dims(), weight.shape, "{name}");
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(made::sha256(&bytes), weight.sha256, "{name}");
    }
}
