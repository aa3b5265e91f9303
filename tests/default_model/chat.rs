//! Conversations: the tokens of `apply_chat_template`, and spans of turns that interventions can name.

use mediant::spec::patch::PatchSpec;
use mediant::tokens::{Conversation, SpecialTokens};
use serde_json::{Map, Value, json};

use crate::support::{answered, golden, ids, service};

#[tokio::test(flavor = "multi_thread")]
async fn conversations_have_the_tokens_of_transformers() {
    let golden = golden("chat");
    let special = SpecialTokens::from_json(&golden["special"], &Value::Null, &Value::Null);
    let mut compared = 0;
    for (name, template) in golden["templates"].as_object().unwrap() {
        let template = vec![("default".to_owned(), template.as_str().unwrap().to_owned())];
        let words = service().served.tokenizer.clone().with_chat(template, &special);
        for case in golden["cases"].as_array().unwrap().iter().filter(|case| case["template"] == *name) {
            let mut variables = case["options"].as_object().unwrap().clone();
            let mut flag = |name: &str| variables.shift_remove(name) == Some(json!(true));
            let (add, going_on) = (flag("add_generation_prompt"), flag("continue_final_message"));
            let conversation = Conversation {
                messages: case["messages"].as_array().unwrap(),
                template: None,
                add_generation_prompt: add,
                continue_final_message: going_on,
                variables: &variables,
            };
            let Ok(rendered) = words.chat().unwrap().render(&conversation) else {
                assert!(case["error"].is_string(), "{case}");
                continue;
            };
            let own: Vec<u64> = words
                .encode(&rendered.text, Some(false))
                .unwrap()
                .ids
                .iter()
                .map(|id| u64::from(*id))
                .collect();
            assert_eq!(own, ids(&case["ids"]), "{case}");
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

/// What `/v1/tokenize` says of a conversation, as of any other prompt.
async fn tokenized(body: Value) -> Value {
    answered(service().tokenize(body).await)
}

fn hello() -> Value {
    json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Comfort Alice."}])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_s_own_template_writes_the_text_and_names_the_turns() {
    let answer = tokenized(json!({"messages": hello(), "spans": {"who": "Alice"}})).await;
    let text = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nComfort Alice.<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(answer["text"], text);
    assert_eq!(answer["lints"], json!([]));
    let tokens = answer["tokens"].as_array().unwrap();
    let said = |span: &Value| -> String {
        let ranges: Vec<Value> = match span[0] {
            Value::Array(_) => span.as_array().unwrap().clone(),
            _ => vec![span.clone()],
        };
        let range = |range: &Value| range[0].as_u64().unwrap() as usize..range[1].as_u64().unwrap() as usize;
        let texts =
            ranges.iter().flat_map(|r| &tokens[range(r)]).map(|token| token["text"].as_str().unwrap());
        texts.collect()
    };
    let spans = &answer["spans"];
    assert_eq!(said(&spans["system"]), "Be kind.");
    assert_eq!(said(&spans["turn_1"]), "Comfort Alice.");
    assert_eq!(said(&spans["user"]), "Comfort Alice.");
    assert_eq!(said(&spans["who"]).trim(), "Alice");
    assert_eq!(said(&spans["generation_prompt"]), "<|im_start|>assistant\n");
    let template = said(&spans["template"]);
    assert_eq!(template, text.replace("Be kind.", "").replace("Comfort Alice.", ""));
    // The text as a prompt has the same tokens.
    let plain = tokenized(json!({"prompt": text})).await;
    assert_eq!(plain["ids"], answer["ids"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_run_and_patched_as_its_text_is() {
    let text = tokenized(json!({"messages": hello()})).await["text"].clone();
    let of = |prompt: Map<String, Value>| {
        let mut base = prompt;
        base.insert("spans".to_owned(), json!({"asked": "Comfort"}));
        json!({"runs": {"a": base, "b": {"prompt": "Nobody is here."}}, "base": "a", "targets": {"t": [" I"]},
            "interventions": [{"site": "resid_post", "layers": [4], "positions": {"span": "asked"}, "op": "zero"}]})
    };
    let object = |value: Value| value.as_object().unwrap().clone();
    let chat = answered(service().answer::<PatchSpec>(of(object(json!({"messages": hello()})))).await);
    let plain = answered(service().answer::<PatchSpec>(of(object(json!({"prompt": text})))).await);
    assert_eq!(chat["values"], plain["values"]);
    assert!(chat["values"].is_object());
    // Steering may leave out what the template writes.
    let mut by_turn = of(object(json!({"messages": hello()})));
    by_turn["interventions"][0]["positions"] = json!({"span": "user"});
    let told = answered(service().answer::<PatchSpec>(by_turn).await);
    assert_ne!(told["values"], chat["values"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_conversation_is_told_at_its_field() {
    let wrong = async |body: Value| {
        let refusal = service().tokenize(body).await.expect_err("it is refused");
        let told = format!("{refusal:?}");
        told
    };
    let said = wrong(json!({"messages": hello(), "template": {"name": "rag"}})).await;
    assert!(said.contains("/template/name") && said.contains("it has default"), "{said}");
    let said = wrong(json!({"messages": hello(), "spans": {"user": "Alice"}})).await;
    assert!(said.contains("/spans/user"), "{said}");
    let said =
        wrong(json!({"messages": [{"role": "user"}], "template": {"continue_final_message": true}})).await;
    assert!(said.contains("/template/continue_final_message"), "{said}");
    let said = wrong(json!({"messages": [], "template": {"variables": {"messages": 1}}})).await;
    assert!(said.contains("/messages") && said.contains("/template/variables/messages"), "{said}");
    let said = wrong(json!({"prompt": "a", "template": {}})).await;
    assert!(said.contains("/template"), "{said}");
}
