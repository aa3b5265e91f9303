//! Tokenizers of every kind against the tokenizers library and transformers: ids, offsets, what texts add to prompts, and BOS.

use mediant::tokens::Tokenizer;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    pairs: Vec<(String, String)>,
    models: Map<String, Value>,
    tokenizers: Vec<Kind>,
    post_processors: Map<String, Value>,
    policies: Vec<Policy>,
}

#[derive(Deserialize)]
struct Kind {
    name: String,
    /// Name of its vocabulary.
    model: String,
    /// Its other parts.
    rest: Map<String, Value>,
    /// Ids, and start and end of each token in characters.
    cases: Vec<(Vec<u32>, Vec<usize>)>,
    /// What each pair's text adds to its prompt; null where it changes the prompt's own tokens.
    added: Vec<Option<Vec<u32>>>,
}

/// Post-processor, `tokenizer_class`, `add_bos_token`, `add_eos_token` and `bos_token` of the config, and whether prompts get a
/// BOS.
type Policy = (String, String, Option<bool>, Option<bool>, Option<String>, bool);

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/tokenizers.json")).unwrap()
}

impl Golden {
    fn description(&self, kind: &Kind) -> Map<String, Value> {
        let mut description = kind.rest.clone();
        description.insert("model".to_owned(), self.models[&kind.model].clone());
        description
    }

    fn tokenizer(&self, kind: &Kind) -> Tokenizer {
        Tokenizer::from_json(&serde_json::to_vec(&self.description(kind)).unwrap(), None).unwrap()
    }
}

#[test]
fn ids_and_offsets_of_every_kind_of_tokenizer_are_the_librarys() {
    let golden = golden();
    assert!(golden.tokenizers.len() >= 12 && golden.texts.len() >= 24);
    for kind in &golden.tokenizers {
        let tokenizer = golden.tokenizer(kind);
        for (text, (ids, offsets)) in golden.texts.iter().zip(&kind.cases) {
            let encoded = tokenizer.encode(text, None).unwrap();
            assert_eq!(*encoded.ids, ids[..], "{} {text:?}", kind.name);
            let found: Vec<usize> = encoded.tokens.iter().flat_map(|t| [t.start, t.end]).collect();
            assert_eq!(found, *offsets, "{} {text:?}", kind.name);
        }
    }
}

#[test]
fn bytes_and_characters_of_a_token_are_the_same_place() {
    let golden = golden();
    for kind in &golden.tokenizers {
        let tokenizer = golden.tokenizer(kind);
        for text in &golden.texts {
            for token in tokenizer.encode(text, None).unwrap().tokens {
                let characters = |byte: usize| text.char_indices().take_while(|(i, _)| *i < byte).count();
                let shared = text.char_indices().position(|(i, c)| i + c.len_utf8() > token.byte_start);
                if token.byte_start < token.byte_end {
                    assert_eq!(shared, Some(token.start), "{} {text:?} {token:?}", kind.name);
                    assert_eq!(characters(token.byte_end), token.end, "{} {text:?} {token:?}", kind.name);
                } else {
                    assert_eq!(token.start, token.end, "{} {text:?} {token:?}", kind.name);
                }
            }
        }
    }
}

#[test]
fn a_text_adds_to_a_prompt_what_both_together_have_more() {
    let golden = golden();
    let (mut added, mut changed) = (0, 0);
    for kind in &golden.tokenizers {
        let tokenizer = golden.tokenizer(kind);
        for ((prompt, text), expected) in golden.pairs.iter().zip(&kind.added) {
            let found = tokenizer.continuation(prompt, text).unwrap();
            let at = format!("{} {prompt:?} {text:?}", kind.name);
            if let Some(ids) = expected {
                added += 1;
                assert_eq!((&found.ids, &found.changed), (ids, &None), "{at}");
            } else {
                changed += 1;
                let change = found.changed.expect(&at);
                let ids = |text: &str| tokenizer.encode(text, Some(false)).unwrap().ids;
                assert!(ids(prompt).ends_with(&change.own), "{at}");
                assert!(ids(&format!("{prompt}{text}")).ends_with(&change.joined), "{at}");
                assert!(!found.ids.is_empty(), "{at}");
            }
        }
    }
    assert!(added > 200 && changed > 50, "{added} {changed}");
}

#[test]
fn the_post_processor_alone_decides_on_bos_as_in_transformers() {
    let golden = golden();
    assert!(golden.policies.len() >= 64);
    let kind = golden.tokenizers.iter().find(|kind| kind.name == "gpt2").unwrap();
    for policy in &golden.policies {
        let (post_processor, class, add_bos, add_eos, stated, adds) = policy;
        let mut description = golden.description(kind);
        description.insert("post_processor".to_owned(), golden.post_processors[post_processor].clone());
        let mut config = json!({"tokenizer_class": class, "bos_token": stated, "eos_token": "</s>"});
        for (flag, value) in [("add_bos_token", add_bos), ("add_eos_token", add_eos)] {
            if let Some(value) = value {
                config[flag] = json!(value);
            }
        }
        let [description, config] =
            [json!(description), config].map(|value| serde_json::to_vec(&value).unwrap());
        let tokenizer = Tokenizer::from_json(&description, Some(&config)).unwrap();
        let encoded = tokenizer.encode("The", None).unwrap();
        assert_eq!((tokenizer.bos().1, encoded.ids.first() == Some(&1)), (*adds, *adds), "{policy:?}");
        assert_eq!(tokenizer.bos().0.is_some(), *adds || stated.is_some(), "{policy:?}");
    }
}
