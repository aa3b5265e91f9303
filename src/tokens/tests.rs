use super::*;

fn bytes() -> Tokenizer {
    Tokenizer::bytes(512).unwrap()
}

#[test]
fn the_byte_tokenizer_gives_bytes_after_a_bos() {
    let text = "Hé 🙂";
    let encoded = bytes().encode(text, None).unwrap();
    assert_eq!(encoded.ids[0], 256);
    assert_eq!(encoded.ids[1..], text.bytes().map(u32::from).collect::<Vec<_>>());
    let places: Vec<_> = encoded.tokens.iter().map(|t| (t.start, t.end, t.byte_start, t.byte_end)).collect();
    let expected =
        [(0, 0, 0, 0), (0, 1, 0, 1), (1, 2, 1, 2), (1, 2, 2, 3), (2, 3, 3, 4), (3, 4, 4, 5), (3, 4, 5, 6)];
    assert_eq!(places[..7], expected);
    assert_eq!(encoded.tokens[2].text, "<C3>");
}

#[test]
fn an_override_beats_the_bos_policy_and_continuations_never_get_one() {
    let t = bytes();
    assert_eq!(&*t.encode("a", Some(false)).unwrap().ids, [97]);
    assert_eq!(&*t.encode("a", Some(true)).unwrap().ids, [256, 97]);
    assert_eq!(t.continuation("a", "b").unwrap().ids, [98]);
    assert_eq!(t.bos(), (Some(256), true));
}

#[test]
fn ids_described_have_the_offsets_of_their_text() {
    let t = bytes();
    let text = "né <s>x";
    let encoded = t.encode(text, None).unwrap();
    assert_eq!(t.describe(&encoded.ids).unwrap(), encoded);
    assert_eq!(t.decode(&encoded.ids).unwrap(), text);
    assert!(encoded.ids[1..].contains(&256), "a BOS written in the text is that token");
    assert_eq!(
        t.describe(&[1, 600]).unwrap_err(),
        TokenizeError::UnknownId { id: 600, index: 1, vocab_size: 512 }
    );
}

#[test]
fn a_span_is_the_tokens_that_share_a_character_with_the_text() {
    let t = bytes();
    let prompt = "aé🙂é";
    let encoded = t.encode(prompt, None).unwrap();
    assert_eq!(t.span(&encoded, prompt, "🙂").unwrap(), 4..8);
    assert_eq!(t.span(&encoded, prompt, prompt).unwrap(), 1..10);
    assert_eq!(t.span(&encoded, prompt, "a").unwrap(), 1..2);
}

#[test]
fn an_absent_or_ambiguous_span_shows_the_tokens() {
    let t = bytes();
    let encoded = t.encode("aab", None).unwrap();
    let tokens = r#"0:"<s>" 1:"a" 2:"a" 3:"b""#.to_owned();
    assert_eq!(
        t.span(&encoded, "aab", "c").unwrap_err(),
        SpanError::Absent { text: "c".into(), tokens: tokens.clone() }
    );
    assert_eq!(
        t.span(&encoded, "aab", "a").unwrap_err(),
        SpanError::Ambiguous { text: "a".into(), times: 2, tokens: tokens.clone() }
    );
    assert_eq!(t.span(&encoded, "aab", "").unwrap_err(), SpanError::Absent { text: String::new(), tokens });
    let long = "x".repeat(100);
    let error = t.span(&t.encode(&long, None).unwrap(), &long, "y").unwrap_err().to_string();
    assert!(error.ends_with("59:\"x\" ... and 41 more"), "{error}");
}

#[test]
fn every_occurrence_of_a_text_has_its_tokens() {
    let t = bytes();
    let prompt = "é a é aa é";
    let encoded = t.encode(prompt, None).unwrap();
    assert_eq!(t.occurrences(&encoded, prompt, "é").unwrap(), [1..3, 6..8, 12..14]);
    assert_eq!(t.occurrences(&encoded, prompt, "aa").unwrap(), vec![9..11]);
    assert!(matches!(t.occurrences(&encoded, prompt, "b").unwrap_err(), SpanError::Absent { .. }));
}

#[test]
fn overlapping_occurrences_are_ambiguous() {
    let t = bytes();
    let encoded = t.encode("aaa", None).unwrap();
    assert_eq!(t.occurrences(&encoded, "aaa", "aa").unwrap(), [1..3, 2..4]);
    assert!(matches!(t.span(&encoded, "aaa", "aa").unwrap_err(), SpanError::Ambiguous { times: 2, .. }));
}

/// A byte-level `tokenizer.json` with a template that puts `<s>` first (or last), and its decoder.
fn json(template: Option<&[&str]>) -> Vec<u8> {
    let mut inner: serde_json::Value =
        serde_json::from_str(&bytes().inner.to_string(false).unwrap()).unwrap();
    if let Some(parts) = template {
        let part = |p: &&str| match *p {
            "A" => serde_json::json!({"Sequence": {"id": "A", "type_id": 0}}),
            other => serde_json::json!({"SpecialToken": {"id": other, "type_id": 0}}),
        };
        inner["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": parts.iter().map(part).collect::<Vec<_>>(),
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}},
        });
    }
    serde_json::to_vec(&inner).unwrap()
}

#[test]
fn the_post_processor_tells_the_bos_policy_whatever_the_config_says() {
    let policy = |template: Option<&[&str]>, config: Option<&str>| {
        Tokenizer::from_json(&json(template), config.map(str::as_bytes)).map(|t| t.bos())
    };
    let first: Option<&[&str]> = Some(&["<s>", "A"]);
    assert_eq!(policy(first, None), Ok((Some(256), true)));
    assert_eq!(policy(None, None), Ok((None, false)));
    assert_eq!(policy(None, Some(r#"{"bos_token":"<s>"}"#)), Ok((Some(256), false)));
    for flags in [
        r#""add_bos_token":false"#,
        r#""add_eos_token":false"#,
        r#""add_eos_token":true"#,
        r#""add_bos_token":true,"add_eos_token":true"#,
    ] {
        for bos in [r#""<s>""#, r#"{"content":"<s>"}"#] {
            let config = format!(r#"{{"bos_token":{bos},{flags}}}"#);
            assert_eq!(policy(first, Some(&config)), Ok((Some(256), true)), "{config}");
            assert_eq!(policy(None, Some(&config)), Ok((Some(256), false)), "{config}");
        }
        assert_eq!(policy(first, Some(&format!(r#"{{"bos_token":null,{flags}}}"#))), Ok((Some(256), true)));
    }
    assert!(matches!(policy(Some(&["A", "<s>"]), None), Err(BuildError::NotUnderstood { .. })));
    assert!(matches!(policy(None, Some(r#"{"bos_token":"nope"}"#)), Err(BuildError::Missing { .. })));
    assert!(matches!(policy(None, Some("{")), Err(BuildError::Config(_))));
}

#[test]
fn a_gguf_vocabulary_that_is_not_understood_is_an_error() {
    let vocabulary = |model: &str, pre: &str| GgufVocabulary {
        model: model.into(),
        pre: pre.into(),
        tokens: vec!["a".into(), "b".into(), "ab".into()],
        types: vec![1; 3],
        merges: vec!["a b".into()],
        ..GgufVocabulary::default()
    };
    let message = |v| Tokenizer::from_gguf(v).unwrap_err().to_string();
    assert!(message(vocabulary("llama", "default")).contains("tokenizer.ggml.model is \"llama\""));
    assert!(message(vocabulary("gpt2", "tekken")).contains("tokenizer.ggml.pre is \"tekken\""));
    assert!(message(GgufVocabulary { add_eos: true, ..vocabulary("gpt2", "qwen2") }).contains("BOS"));
    assert!(message(GgufVocabulary { bos: Some(9), ..vocabulary("gpt2", "qwen2") }).contains("\"9\""));
    let merged = Tokenizer::from_gguf(vocabulary("gpt2", "smollm")).unwrap();
    assert_eq!(*merged.encode("abab", None).unwrap().ids, [2, 2]);
}

#[test]
fn llama_3_and_qwen2_cut_digits_and_contractions_their_own_way() {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
    let characters = table::byte_characters();
    let cut = |pre: &str, text: &str| {
        let tokens: Vec<String> = characters.iter().map(char::to_string).collect();
        let types = vec![1; tokens.len()];
        let v = GgufVocabulary { model: "gpt2".into(), pre: pre.into(), tokens, types, ..Default::default() };
        let t = Tokenizer::from_gguf(v).unwrap();
        let mut words = PreTokenizedString::from(text);
        t.inner.get_pre_tokenizer().unwrap().pre_tokenize(&mut words).unwrap();
        let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        words.into_iter().map(|(_, (a, b), _)| text[a..b].to_owned()).collect::<Vec<_>>()
    };
    let text = "It'LL 1234\n x";
    assert_eq!(cut("llama-bpe", text), ["It", "'LL", " ", "123", "4", "\n", " x"]);
    assert_eq!(cut("qwen2", text), ["It", "'LL", " ", "1", "2", "3", "4", "\n", " x"]);
    assert_eq!(cut("gpt-2", text), ["It", "'", "LL", " 1234", "\n", " x"]);
    assert_eq!(cut("smollm", text), ["It", "'", "LL", " ", "1", "2", "3", "4", "\n", " x"]);
}

/// A tokenizer in the manner of Llama 2: `▁` for spaces, one put first, bytes for what has no piece.
fn sentencepiece() -> Tokenizer {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "▁", "h", "i", "▁hi", "▁h"].map(str::to_owned).into();
    pieces.extend((0..=255).map(|b: u8| format!("<0x{b:02X}>")));
    let vocab: serde_json::Map<_, _> =
        pieces.iter().zip(0u32..).map(|(p, id)| (p.clone(), id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": ["▁ h", "▁h i"]},
    });
    Tokenizer::from_json(&serde_json::to_vec(&json).unwrap(), None).unwrap()
}

#[test]
fn sentencepiece_tokens_have_exact_places_though_a_space_is_put_first() {
    let t = sentencepiece();
    let encoded = t.encode("hi 🙂 hi", None).unwrap();
    let seen: Vec<_> =
        encoded.tokens.iter().map(|t| (t.text.as_str(), t.start, t.end, t.byte_start, t.byte_end)).collect();
    let expected = [
        ("<s>", 0, 0, 0, 0),
        (" hi", 0, 2, 0, 2),
        (" ", 2, 3, 2, 3),
        ("<F0>", 3, 4, 3, 4),
        ("<9F>", 3, 4, 4, 5),
        ("<99>", 3, 4, 5, 6),
        ("<82>", 3, 4, 6, 7),
        (" hi", 4, 7, 7, 10),
    ];
    assert_eq!(seen, expected);
    assert_eq!(t.span(&encoded, "hi 🙂 hi", "🙂").unwrap(), 3..7);
}

#[test]
fn a_text_that_the_library_panics_on_is_refused() {
    let json = bytes().inner.to_string(false).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&json).unwrap();
    // Matches nothing, before a "z": fine for all texts that do not begin with one.
    tokenizer["normalizer"] =
        serde_json::json!({"type": "Replace", "pattern": {"Regex": "(?=z)"}, "content": "x"});
    let tokenizer = Tokenizer::from_json(tokenizer.to_string().as_bytes(), None).unwrap();
    assert_eq!(tokenizer.continuation("", "ab").unwrap().ids, [97, 98]);
    let error = tokenizer.encode("za", None).unwrap_err();
    assert!(matches!(&error, TokenizeError::Refused(_)), "{error}");
}

#[test]
fn the_space_that_is_put_first_is_no_part_of_a_span_or_of_the_text_that_ids_stand_for() {
    let t = sentencepiece();
    let encoded = t.encode("🙂 hi", None).unwrap();
    let first: Vec<_> = encoded.tokens[1..3].iter().map(|t| (t.text.as_str(), t.start, t.end)).collect();
    assert_eq!(first, [(" ", 0, 1), ("<F0>", 0, 1)], "the library's offsets");
    assert_eq!(t.span(&encoded, "🙂 hi", "🙂").unwrap(), 2..6);
    let blank = t.encode(" hi", None).unwrap();
    assert_eq!(t.span(&blank, " hi", " hi").unwrap(), 1..3, "a space of the prompt's own is one");
    for text in ["hi 🙂 hi", "🙂 hi", "x", " hi"] {
        let ids = t.encode(text, None).unwrap().ids;
        assert_eq!(t.decode(&ids).unwrap(), text);
        assert_eq!(&*t.describe(&ids).unwrap().text, text);
    }
}

#[test]
fn a_continuation_is_what_prompt_and_text_have_more_than_the_prompt() {
    let t = sentencepiece();
    let added = |prompt: &str, text: &str| t.continuation(prompt, text).unwrap();
    assert_eq!(added("hi", " hi"), Continuation { ids: vec![5], changed: None });
    assert_eq!(added("", "hi").ids, [5]);
    // Not the `▁` that the text has by itself.
    assert_eq!(added("i", "h"), Continuation { ids: vec![3], changed: None });
    assert_eq!(added("hi\n", "hi").ids, [3, 4]);
    // The prompt's last token becomes part of another: what follows it by itself is scored.
    let changed = Changed { own: vec![6], joined: vec![5] };
    assert_eq!(added("h", "i"), Continuation { ids: vec![4], changed: Some(changed) });
    let changed = Changed { own: vec![2], joined: vec![5] };
    assert_eq!(added("hi ", "hi"), Continuation { ids: vec![3, 4], changed: Some(changed) });
}

#[test]
fn a_vocabulary_says_whether_words_have_their_space() {
    assert!(sentencepiece().joins_spaces());
    assert!(!bytes().joins_spaces());
}

#[test]
fn a_span_cuts_tokens_that_reach_beyond_its_text() {
    let t = sentencepiece();
    let prompt = "hi hi🙂";
    let encoded = t.encode(prompt, None).unwrap();
    let cut = |text: &str, range: Range<usize>| is_cut(&encoded.tokens[range], prompt, text);
    assert!(!cut("hi hi", 1..3) && !cut("🙂", 3..7) && !cut(" hi🙂", 2..7));
    assert!(cut("i", 1..2) && cut("i hi", 1..3) && cut("hi h", 1..3));
}
