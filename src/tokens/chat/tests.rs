use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/chat.json")).unwrap()
}

fn special(golden: &Value) -> SpecialTokens {
    SpecialTokens::from_json(&golden["special"], &Value::Null, &Value::Null)
}

fn of(source: &str) -> ChatTemplates {
    let special = special(&json!({"special": {"bos_token": "<s>", "eos_token": {"content": "</s>"}}}));
    ChatTemplates::new(vec![("default".to_owned(), source.to_owned())], &special).unwrap()
}

fn plain(messages: &[Value]) -> Conversation<'_> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    Conversation {
        messages,
        template: None,
        add_generation_prompt: true,
        continue_final_message: false,
        variables: &NONE,
    }
}

fn hello() -> Vec<Value> {
    vec![json!({"role": "user", "content": "Hello"})]
}

#[test]
fn every_text_is_that_of_transformers() {
    let golden = golden();
    let special = special(&golden);
    let templates: BTreeMap<&str, ChatTemplates> = golden["templates"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, text)| {
            let template = vec![("default".to_owned(), text.as_str().unwrap().to_owned())];
            (name.as_str(), ChatTemplates::new(template, &special).unwrap())
        })
        .collect();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 100 && templates.len() >= 8);
    for case in cases {
        let mut variables = case["options"].as_object().unwrap().clone();
        let flag = |map: &mut Map<String, Value>, name: &str| map.shift_remove(name) == Some(json!(true));
        let conversation = Conversation {
            messages: case["messages"].as_array().unwrap(),
            template: None,
            add_generation_prompt: flag(&mut variables, "add_generation_prompt"),
            continue_final_message: flag(&mut variables, "continue_final_message"),
            variables: &variables,
        };
        let rendered = templates[case["template"].as_str().unwrap()].render(&conversation);
        if let Some(text) = case["text"].as_str() {
            assert_eq!(rendered.as_ref().map(|r| r.text.as_str()), Ok(text), "{case}");
        } else {
            let why = case["error"].as_str().unwrap();
            let error = rendered.expect_err("it is refused").to_string();
            assert!(error.contains(why) || !why.contains("role"), "{error} {case}");
        }
    }
}

#[test]
fn what_is_said_is_found_wherever_the_template_puts_it() {
    let golden = golden();
    let special = special(&golden);
    let mut turns = 0;
    for case in golden["cases"].as_array().unwrap().iter().filter(|case| case["text"].is_string()) {
        let text = golden["templates"][case["template"].as_str().unwrap()].as_str().unwrap();
        let templates = ChatTemplates::new(vec![("default".to_owned(), text.to_owned())], &special).unwrap();
        let mut variables = case["options"].as_object().unwrap().clone();
        let continues = variables.shift_remove("continue_final_message").is_some();
        variables.shift_remove("add_generation_prompt");
        let messages = case["messages"].as_array().unwrap();
        let conversation = Conversation {
            add_generation_prompt: !continues,
            continue_final_message: continues,
            variables: &variables,
            ..plain(messages)
        };
        let rendered = templates.render(&conversation).unwrap();
        let mut at = 0;
        for (message, turn) in messages.iter().zip(&rendered.turns) {
            let content = message["content"].as_str().unwrap();
            // A thought that the template takes out is no message as it was said, nor is a tool's answer that it writes as JSON; and some
            // leave out whom they do not know.
            let Some(turn) = turn else {
                let changed = content.contains("<think>")
                    || ["tool", "narrator"].contains(&message["role"].as_str().unwrap());
                assert!(content.is_empty() || changed || case["template"] == "mistral_nemo", "{case}");
                continue;
            };
            assert_eq!(rendered.text[turn.clone()].trim(), content.trim(), "{case}");
            // This one puts the system's words into the last message.
            assert!(turn.start >= at || case["template"] == "mistral_nemo", "{case}");
            (at, turns) = (turn.end, turns + 1);
        }
    }
    assert!(turns > 150, "{turns}");
    let golden = self::golden();
    let smollm = golden["templates"]["smollm2"].as_str().unwrap();
    let messages = hello();
    let rendered = of(smollm).render(&plain(&messages)).unwrap();
    let prompt = rendered.generation_prompt.unwrap();
    assert_eq!(&rendered.text[prompt], "<|im_start|>assistant\n");
    assert!(!rendered.is_dated);
}

#[test]
fn hostile_templates_end() {
    let many = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let cases = [
        many,
        "{% set x = namespace(a='aaaaaaaaaaaaaaaa') %}{% for i in range(9999) %}{% set x.a = x.a ~ x.a %}{% endfor %}{{ x.a }}",
        "{{ 'a' * 99999999999 }}",
        "{{ 'aaaaaaaaaaaaaaaa' * 999999999 }}",
        "{{ ('a' * 60000).replace('a', 'a' * 60000) }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ range(999999999) | list | length }}",
        "{{ strftime_now('%Q%') }}",
        "{{ strftime_now('%Y' * 9999999) }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__ }}{{ ''.__class__.__base__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages | tojson(indent=999999999) }}",
        "{{ 1 / 0 }}",
        "{{ 9223372036854775807 + 1 }}{{ undefined.attribute }}",
        "{% if",
        "{%}{% if",
        "{{ raise_exception('no') }}",
        "{{ messages[99].content.x.y }}",
        "{{ '{0:>999999999}'.format('a') }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ 'x' | center(99999999999) }}",
        "{{ 'x' | indent(9999999999) }}",
    ];
    // A list that is twice in another one, which is twice in a third; and one that is deep.
    let [twice, deep] = ["[x.a, x.a]", "[x.a]"].map(|list| {
        let set = format!("{{% set x.a = {list} %}}");
        move |times: usize, used: &str| {
            format!(
                "{{% set x = namespace(a=[1]) %}}{{% for i in range({times}) %}}{set}{{% endfor %}}{used}"
            )
        }
    });
    let cases = cases.into_iter().map(str::to_owned).chain([
        twice(60, "{{ x.a }}"),
        twice(60, "{{ x.a | string | length }}"),
        twice(60, "{{ x.a | tojson }}"),
        twice(60, "{{ {'a': x.a} | tojson(indent=2) }}"),
        twice(60, "{{ x.a | reverse }}"),
        deep(500, "{{ x.a | tojson }}"),
    ]);
    for source in cases {
        // As small as the stacks of worker threads.
        let rendered = std::thread::scope(|scope| {
            let messages = hello();
            let source = &source;
            let job = move || {
                let begun = Instant::now();
                (of(source).render(&plain(&messages)).map(|rendered| rendered.text.len()), begun.elapsed())
            };
            std::thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, job).unwrap().join().unwrap()
        });
        let (result, took) = rendered;
        assert!(result.as_ref().map_or(true, |bytes| *bytes < 1 << 20), "{source}: {result:?}");
        // Attributes that Python would have are undefined, and so print nothing.
        let harmless = ["__class__ }}", "format", "recursive"].iter().any(|word| source.contains(word));
        assert!(result.is_err() || harmless, "{source}: {result:?}");
        assert!(took < Duration::from_secs(20), "{source}: {took:?}");
    }
}

#[test]
fn templates_see_python_and_no_html() {
    let messages = hello();
    let text = |source: &str| of(source).render(&plain(&messages)).map(|rendered| rendered.text);
    assert_eq!(
        text("{{ true }} {{ none }} {{ missing }} {{ [1, 'a', none] }} {{ {'a': 1.5} }}").unwrap(),
        "True None  [1, 'a', None] {'a': 1.5}"
    );
    assert_eq!(text("{{ {'a': '<é>', 'b': [1, 2.0]} | tojson }}").unwrap(), r#"{"a": "<é>", "b": [1, 2.0]}"#);
    assert_eq!(
        text("{{ {'b': [1], 'a': {}} | tojson(indent=2, sort_keys=true) }}").unwrap(),
        "{\n  \"a\": {},\n  \"b\": [\n    1\n  ]\n}"
    );
    assert_eq!(
        text("{{ ['é'] | tojson(ensure_ascii=true, separators=[',', ':']) }}").unwrap(),
        r#"["\u00e9"]"#
    );
    assert_eq!(
        text("{{ 'a' is iterable }}{{ 'a' is sequence }}{{ none is iterable }}").unwrap(),
        "TrueTrueFalse"
    );
    assert_eq!(text("{{ bos_token }}{{ eos_token }}{{ tools is none }}").unwrap(), "<s></s>True");
    assert_eq!(
        text("{% generation %}a{% endgeneration %}\n{%- generation -%} b {%- endgeneration -%} c").unwrap(),
        "abc"
    );
    assert_eq!(
        text("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}y").unwrap(),
        "y"
    );
}

#[test]
fn a_template_says_why_it_refuses_and_where_it_fails() {
    let messages = hello();
    let error = |source: &str| of(source).render(&plain(&messages)).unwrap_err();
    assert_eq!(
        error("{% macro f() %}{{ raise_exception('Roles must alternate') }}{% endmacro %}{{ f() }}"),
        ChatError::Refused { why: "Roles must alternate".to_owned() }
    );
    assert!(matches!(error("\n\n{{ missing.attribute }}"), ChatError::Failed { line: Line(Some(3)), .. }));
    assert!(matches!(
        error("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        ChatError::Endless { .. }
    ));
    let ChatError::Broken { why, .. } = error("a\n{% if %}") else { panic!("a template") };
    assert!(why.contains("line 2"), "{why}");
}

#[test]
fn a_template_that_takes_too_long_is_refused_by_its_name() {
    let messages = hello();
    let slow = of("{% for a in range(90000) %}{% endfor %}");
    let expected = ChatError::TooSlow { name: "default".to_owned(), limit_ms: 0 };
    assert_eq!(slow.render_within(Duration::ZERO, &plain(&messages)), Err(expected));
    assert_eq!(slow.render(&plain(&messages)).map(|rendered| rendered.text), Ok(String::new()));
}

#[test]
fn a_template_that_asks_the_day_is_known_for_it() {
    let messages = hello();
    let templates = of(
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}",
    );
    let rendered = templates.render(&plain(&messages)).unwrap();
    assert!(rendered.is_dated && rendered.text.len() == 11, "{rendered:?}");
    let variables = json!({"date_string": "26 Jul 2024"}).as_object().unwrap().clone();
    let given = Conversation { variables: &variables, ..plain(&messages) };
    let rendered = templates.render(&given).unwrap();
    assert!(!rendered.is_dated && rendered.text == "26 Jul 2024");
}

#[test]
fn one_of_several_templates_is_chosen() {
    let named = |name: &str| (name.to_owned(), name.to_owned());
    let special = SpecialTokens::default();
    let messages = hello();
    let templates =
        ChatTemplates::new(vec![named("default"), named("tool_use"), named("rag")], &special).unwrap();
    let text = |conversation: Conversation<'_>| templates.render(&conversation).map(|rendered| rendered.text);
    let tools = json!({"tools": []}).as_object().unwrap().clone();
    assert_eq!(text(plain(&messages)).unwrap(), "default");
    assert_eq!(text(Conversation { template: Some("rag"), ..plain(&messages) }).unwrap(), "rag");
    assert_eq!(text(Conversation { variables: &tools, ..plain(&messages) }).unwrap(), "tool_use");
    assert!(matches!(
        text(Conversation { template: Some("rags"), ..plain(&messages) }),
        Err(ChatError::UnknownTemplate { .. })
    ));
    let listed =
        json!({"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]});
    let of_files = crate::tokens::templates(&listed, Some("c".to_owned()), Vec::new());
    assert_eq!(of_files, [("default", "c"), ("rag", "b")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    let further = vec![("rag".to_owned(), "d".to_owned()), ("think".to_owned(), "e".to_owned())];
    let of_folder = crate::tokens::templates(&listed, None, further);
    let expected = [("default", "a"), ("rag", "d"), ("think", "e")];
    assert_eq!(of_folder, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(ChatTemplates::new(Vec::new(), &special).map(|_| ()), None);
}

#[test]
fn a_message_is_continued_where_it_ends() {
    let messages =
        [json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": "Well, "})];
    let text = |source: &str, messages: &[Value]| {
        let going_on =
            Conversation { continue_final_message: true, add_generation_prompt: false, ..plain(messages) };
        of(source).render(&going_on)
    };
    let plainly = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    let rendered = text(plainly, &messages).unwrap();
    assert_eq!((rendered.text.as_str(), &rendered.turns[1]), ("[Hi][Well, ", &Some(5..11)));
    assert_eq!(
        text("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}", &messages).unwrap().text,
        "[Hi][Well,"
    );
    assert!(matches!(text("{{ messages[0].content }}", &messages), Err(ChatError::NoEnd { .. })));
    assert!(matches!(text(plainly, &[json!({"role": "user"})]), Err(ChatError::NoEnd { .. })));
}
