//! Traces of many prompts over HTTP on the tiny model: one token per byte, after a BOS.

use serde_json::{Value, json};

use crate::support::{ok, post, tiny, tiny_with};

const CLASSES: [&str; 6] =
    ["first_subject", "middle_subject", "last_subject", "first_subsequent", "further", "last"];
const ARMS: [&str; 3] = ["hidden", "mlp", "attn"];
/// Prompt, subject, its token range and the number of tokens. The last subject is one token, and ends the prompt.
const PROMPTS: [(&str, &str, [usize; 2], usize); 4] = [
    ("The Tower is in", "Tower", [5, 10], 16),
    ("Rome has a", "Rome", [1, 5], 11),
    ("Ah, it is", "Ah", [1, 3], 10),
    ("to X", "X", [4, 5], 5),
];

fn body(more: &Value) -> Value {
    let cases: Vec<Value> = PROMPTS
        .iter()
        .map(|(prompt, subject, ..)| json!({"prompt": prompt, "subject": subject, "target": "P"}))
        .collect();
    let mut body = json!({"cases": cases, "corrupt": {"sigma": {"abs": 0.4}, "samples": 3, "seed": 5},
                          "layers": [0, 2, 3], "filters": {"expect_top1": false}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn class_of(position: usize, [start, end]: [usize; 2], len: usize) -> Option<usize> {
    let inside = (start..end).contains(&position);
    match position {
        p if p < start => None,
        p if p + 1 == end => Some(2),
        p if p == start => Some(0),
        _ if inside => Some(1),
        p if p + 1 == len => Some(5),
        p if p == end => Some(3),
        _ => Some(4),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn near(found: &Value, expected: f64, at: &str) {
    let found = number(found);
    assert!((found - expected).abs() <= 1e-9 + 1e-4 * expected.abs(), "{at}: {found}, expected {expected}");
}

/// The traces of each prompt by itself: total effect and, per arm, the class means `[classes][layers]`.
async fn alone(metric: &str, base: &str) -> Vec<(f64, [Vec<Vec<Option<f64>>>; 3])> {
    let state = tiny();
    let mut all = Vec::new();
    for (prompt, subject, range, len) in PROMPTS {
        let single = json!({"prompt": prompt, "subject": subject, "target": "P", "arms": ARMS, "layers": [0, 2, 3],
                            "corrupt": {"sigma": {"abs": 0.4}, "samples": 3, "seed": 5}, "base": base});
        let answer = ok(&state, "/v1/trace", &single).await;
        assert_eq!(answer["tokens"].as_array().unwrap().len(), len);
        assert_eq!(answer["subject"], json!(range));
        let arms = ARMS.map(|arm| {
            let effects = answer["arms"][arm]["effects"][metric]["mean"].as_array().unwrap();
            let mean = |class: usize, layer: usize| {
                let of_class = (0..len).filter(|p| class_of(*p, range, len) == Some(class));
                let values: Vec<f64> = of_class.map(|p| number(&effects[layer][p])).collect();
                (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
            };
            (0..6).map(|class| (0..3).map(|layer| mean(class, layer)).collect()).collect()
        });
        all.push((number(&answer["total_effect"][metric]["mean"]), arms));
    }
    all
}

#[tokio::test]
async fn averages_are_those_of_the_traces_of_each_prompt_by_itself() {
    let state = tiny();
    for base in ["corrupted", "clean"] {
        let answer = ok(&state, "/v1/trace", &body(&json!({"keep": {"per_case": true}, "base": base}))).await;
        assert_eq!((&answer["kept"], &answer["dropped"]), (&json!(4), &json!(0)));
        assert_eq!(answer["classes"], json!(CLASSES));
        let metric = "logprob:target";
        let singles = alone(metric, base).await;
        let total = singles.iter().map(|(total, _)| total).sum::<f64>() / 4.0;
        near(&answer["total_effect"][metric]["mean"], total, "total effect");
        let sign = if base == "clean" { -1.0 } else { 1.0 };
        let mut compared = 0;
        for (a, arm) in ARMS.iter().enumerate() {
            let found = &answer["arms"][arm];
            assert_eq!(found["layers"], json!([0, 2, 3]));
            let estimates = &found["effects"][metric];
            for class in 0..6 {
                for layer in 0..3 {
                    let at = format!("{base} {arm} {} layer {layer}", CLASSES[class]);
                    let having: Vec<(f64, f64)> = singles
                        .iter()
                        .filter_map(|(total, arms)| Some((arms[a][class][layer]?, sign * total)))
                        .collect();
                    for (case, (_, arms)) in answer["cases"].as_array().unwrap().iter().zip(&singles) {
                        let kept = &case["effects"][arm][metric][class][layer];
                        match arms[a][class][layer] {
                            Some(expected) => near(kept, expected, &at),
                            None => assert!(kept.is_null(), "{at}"),
                        }
                    }
                    let n = having.len() as f64;
                    assert_eq!(estimates["n"][class][layer], json!(having.len()), "{at}");
                    assert!((2..=4).contains(&having.len()), "{at}");
                    let mean = having.iter().map(|(effect, _)| effect).sum::<f64>() / n;
                    let squares = having.iter().map(|(effect, _)| (effect - mean).powi(2)).sum::<f64>();
                    near(&estimates["mean"][class][layer], mean, &at);
                    near(&estimates["se"][class][layer], (squares / (n - 1.0) / n).sqrt(), &at);
                    let whole = having.iter().map(|(_, whole)| whole).sum::<f64>() / n;
                    near(&found["recovery"][metric]["value"][class][layer], mean / whole, &at);
                    let ends = ["ci_low", "ci_high"].map(|end| number(&estimates[end][class][layer]));
                    let (least, most) = having
                        .iter()
                        .fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
                    let slack = 1e-9 + 1e-4 * mean.abs();
                    assert!(ends[0] <= mean + slack && mean - slack <= ends[1], "{at}: {ends:?} {mean}");
                    assert!(least - slack <= ends[0] && ends[1] <= most + slack, "{at}: {ends:?}");
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 54);
        // At the last layer the last token's state is the answer; where the subject ends the prompt, that is its last.
        let trivial = &answer["arms"]["hidden"]["trivial"];
        assert_eq!((&trivial[5][2], &trivial[2][2], &trivial[4][2]), (&json!(3), &json!(1), &json!(0)));
        assert_eq!(answer["arms"]["hidden"]["cells"][1], json!([5, 5, 5]));
    }
}

#[tokio::test]
async fn the_error_of_a_single_case_is_that_of_its_averages_over_samples() {
    let state = tiny();
    let (metric, [start, end], len) = ("logprob:target", PROMPTS[0].2, PROMPTS[0].3);
    let corrupt = |samples: u32| json!({"sigma": {"abs": 0.4}, "samples": samples, "seed": 5});
    let case = json!({"prompt": PROMPTS[0].0, "subject": PROMPTS[0].1, "target": "P"});
    // Means over the first one, two and three samples give the effects in each.
    let mut means = Vec::new();
    for samples in 1..=3 {
        let mut single = case.clone();
        let more = json!({"arms": ARMS, "layers": [0, 2, 3], "corrupt": corrupt(samples)});
        single.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        means.push(ok(&state, "/v1/trace", &single).await);
    }
    let in_samples = |arm: &str, layer: usize, position: usize| {
        let mean = |i: usize| number(&means[i]["arms"][arm]["effects"][metric]["mean"][layer][position]);
        [mean(0), 2.0 * mean(1) - mean(0), 3.0 * mean(2) - 2.0 * mean(1)]
    };
    let one = json!({"cases": [case], "corrupt": corrupt(3), "layers": [0, 2, 3], "filters": {"expect_top1": false}});
    let answer = ok(&state, "/v1/trace", &one).await;
    let mut less = 0;
    for arm in ARMS {
        let estimates = &answer["arms"][arm]["effects"][metric];
        for (class, layer) in (0..6).flat_map(|class| (0..3).map(move |layer| (class, layer))) {
            let at = format!("{arm} {} layer {layer}", CLASSES[class]);
            let positions: Vec<usize> =
                (0..len).filter(|p| class_of(*p, [start, end], len) == Some(class)).collect();
            let cells: Vec<[f64; 3]> = positions.iter().map(|p| in_samples(arm, layer, *p)).collect();
            let error = |samples: [f64; 3]| {
                let mean = samples.iter().sum::<f64>() / 3.0;
                (samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2.0 / 3.0).sqrt()
            };
            let n = cells.len() as f64;
            let averages = std::array::from_fn(|s| cells.iter().map(|cell| cell[s]).sum::<f64>() / n);
            assert_eq!(estimates["n"][class][layer], json!(1), "{at}");
            near(&estimates["se"][class][layer], error(averages), &at);
            let bound = cells.iter().map(|cell| error(*cell)).sum::<f64>() / n;
            less += usize::from(error(averages) < 0.95 * bound);
        }
    }
    assert!(less > 5, "only {less} averages are of cells that do not move together");
}

#[tokio::test]
async fn sigma_of_subjects_is_the_deviation_over_the_subjects_of_all_cases() {
    let state = tiny();
    let answer = ok(&state, "/v1/trace", &body(&json!({"corrupt": {"sigma": {"k": 2}, "samples": 1}}))).await;
    let mut numbers: Vec<f64> = Vec::new();
    for (prompt, _, [start, end], _) in PROMPTS {
        let positions: Vec<usize> = (start..end).collect();
        let capture = json!({"capture": [{"site": "embed", "positions": positions}]});
        let run = ok(&state, "/v1/run", &json!({"prompt": prompt, "read": capture})).await;
        let rows = run["runs"]["run"]["captures"][0]["values"].clone();
        let before = numbers.len();
        flatten(&rows, &mut numbers);
        assert_eq!((numbers.len() - before) % (end - start), 0);
    }
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let deviation = (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    near(&answer["sigma"]["reference"], deviation, "reference");
    near(&answer["sigma"]["abs"], 2.0 * deviation, "abs");
    assert_eq!((&answer["sigma"]["k"], &answer["sigma"]["of"]), (&json!(2.0), &json!("subjects")));
    assert_eq!(answer["request"]["corrupt"]["sigma"], json!({"k": 2.0, "of": "subjects"}));
}

fn flatten(value: &Value, out: &mut Vec<f64>) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| flatten(item, out)),
        single => out.push(number(single)),
    }
}

#[tokio::test]
async fn filters_drop_cases_with_the_numbers_that_they_fail_by() {
    let state = tiny();
    let all = ok(&state, "/v1/trace", &body(&json!({"layers": [1]}))).await;
    let cases = all["cases"].as_array().unwrap();
    let mut clean: Vec<f64> = cases.iter().map(|case| number(&case["clean"]["prob:target"])).collect();
    clean.sort_unstable_by(f64::total_cmp);
    // Between the second and the third: two of four are kept.
    let least = f64::midpoint(clean[1], clean[2]);
    let filters = json!({"expect_top1": false, "min_clean_prob": least});
    let answer = ok(
        &state,
        "/v1/trace",
        &body(&json!({"layers": [1], "filters": filters, "metrics": ["logprob:target"]})),
    )
    .await;
    assert_eq!((&answer["kept"], &answer["dropped"]), (&json!(2), &json!(2)));
    for (case, before) in answer["cases"].as_array().unwrap().iter().zip(cases) {
        let prob = number(&before["clean"]["prob:target"]);
        assert_eq!(case["kept"], json!(prob >= least));
        assert_eq!(case["dropped"] == json!([]), prob >= least);
        assert_eq!(case["argmax"].is_null(), prob < least);
        // The probability decides, and so is told, whether it is asked for or not.
        near(&case["clean"]["prob:target"], prob, "prob");
        if prob < least {
            assert_eq!(case["dropped"][0]["filter"], "min_clean_prob");
            let detail = case["dropped"][0]["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("{prob:.3e}")[..4]), "{detail} {prob}");
        }
    }
    let dropped_all = json!({"layers": [1], "filters": {"expect_top1": false, "min_total_effect": 1.0}});
    let answer = ok(&state, "/v1/trace", &body(&dropped_all)).await;
    assert_eq!(answer["kept"], 0);
    assert!(answer["arms"]["hidden"]["effects"]["prob:target"]["mean"][2][0].is_null());
    let codes: Vec<&str> =
        answer["lints"].as_array().unwrap().iter().map(|lint| lint["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"NO_CASE_KEPT"), "{codes:?}");
    assert!(answer["nulls"].as_array().unwrap().iter().any(|null| null["reason"] == "no case was kept"));
    let strict = post(&state, "/v1/trace", &body(&json!({"layers": [1], "strict": true}))).await;
    assert_eq!(strict.status, 422, "{}", strict.text());
}

#[tokio::test]
async fn a_case_counts_only_if_its_answer_is_the_expected_one_unless_told_otherwise() {
    let state = tiny();
    let (prompt, subject, ..) = PROMPTS[0];
    let run = ok(&state, "/v1/run", &json!({"prompt": prompt, "read": {"topk": 2}})).await;
    let ids = [0, 1].map(|i| run["runs"]["run"]["topk"][i]["id"].clone());
    let case = |id: &Value| json!({"prompt": prompt, "subject": subject, "target": id});
    let cases = json!({"cases": [case(&ids[0]), case(&ids[1])], "filters": null, "layers": 1});
    let answer = ok(&state, "/v1/trace", &body(&cases)).await;
    let kept: Vec<&Value> = answer["cases"].as_array().unwrap().iter().map(|case| &case["kept"]).collect();
    assert_eq!(kept, [true, false]);
    assert_eq!(answer["cases"][1]["dropped"][0]["filter"], "expect_top1");
    assert_eq!(answer["request"]["filters"], json!({"expect_top1": "target"}));
}

#[tokio::test]
async fn groups_are_averaged_and_two_are_compared() {
    let state = tiny();
    let mut grouped =
        body(&json!({"aggregate": {"by": ["token_class", "group"], "ci": {"resamples": 300, "seed": 9}}}));
    for (i, case) in grouped["cases"].as_array_mut().unwrap().iter_mut().enumerate() {
        case["group"] = json!(if i % 2 == 0 { "even" } else { "odd" });
    }
    let answer = ok(&state, "/v1/trace", &grouped).await;
    assert_eq!(answer, {
        let mut again = ok(&state, "/v1/trace", &grouped).await;
        for changing in ["id", "usage"] {
            again[changing] = answer[changing].clone();
        }
        again
    });
    // A group is what its cases are alone, but for other draws.
    let mut even = body(&json!({}));
    let list = even["cases"].as_array_mut().unwrap();
    *list = vec![list[0].clone(), list[2].clone()];
    let even = ok(&state, "/v1/trace", &even).await;
    let key = "logprob:target";
    let of = |answer: &Value, what: &str| number(&answer["hidden"]["effects"][key][what][2][1]);
    for what in ["mean", "se"] {
        let (found, expected) = (of(&answer["groups"]["even"]["arms"], what), of(&even["arms"], what));
        assert!((found - expected).abs() < 1e-6, "{what} {found} {expected}");
    }
    assert_eq!(answer["difference"]["of"], json!(["even", "odd"]));
    let two = &answer["difference"]["effects"]["hidden"][key];
    let parts = ["even", "odd"].map(|group| of(&answer["groups"][group]["arms"], "mean"));
    near(&two["mean"][2][1], parts[0] - parts[1], "difference");
    let errors = ["even", "odd"].map(|group| of(&answer["groups"][group]["arms"], "se"));
    near(&two["se"][2][1], errors[0].hypot(errors[1]), "its error");
    assert!(number(&two["ci_low"][2][1]) < number(&two["ci_high"][2][1]));
    assert_eq!(two["n"][2][1], 4);
}

#[tokio::test]
async fn a_plan_prices_all_cases_and_what_costs_too_much_is_not_begun() {
    let state = tiny();
    let whole = ok(&state, "/v1/plan", &json!({"trace": body(&json!({}))})).await;
    let answer = ok(&state, "/v1/trace", &body(&json!({}))).await;
    let (planned, used) = (number(&whole["cost"]["row_layers"]), number(&answer["usage"]["row_layers"]));
    assert_eq!(planned.to_bits(), used.to_bits(), "{planned} {used}");
    assert_eq!((&whole["allowed"], &whole["kind"]), (&json!(true), &json!("trace")));
    assert_eq!(whole["plan_sha256"], answer["provenance"]["plan_sha256"]);
    let small = tiny_with(&[("limits.row_layers", &(planned as u64 / 2).to_string())]);
    let reply = post(&small, "/v1/trace", &body(&json!({}))).await;
    assert_eq!(reply.status, 422, "{}", reply.text());
    assert!(number(&reply.json()["estimate"]["row_layers"]) > planned / 2.0);
    let plan = ok(&small, "/v1/plan", &json!({"trace": body(&json!({}))})).await;
    assert_eq!(plan["allowed"], false);
    assert!(plan["lints"].as_array().unwrap().iter().any(|lint| lint["code"] == "COST_INCOMPLETE"));
}

#[tokio::test]
async fn averages_come_as_tables_arrays_and_pictures() {
    let state = tiny();
    let asked =
        body(&json!({"arms": {"one": {"site": "mlp_out"}, "words": {"site": "embed"}}, "plot": ["svg"]}));
    let answer = ok(&state, "/v1/trace", &asked).await;
    assert_eq!(answer["arms"]["words"]["layers"], Value::Null);
    assert!(answer["plots"]["svg"].as_str().unwrap().contains("token class"));
    let csv = post(&state, "/v1/trace?format=csv&metric=prob:target", &asked).await;
    assert_eq!((csv.status.as_u16(), csv.media_type()), (200, "text/csv; charset=utf-8"));
    let text = csv.text();
    let lines: Vec<&str> = text.lines().collect();
    // Six classes of three layers, and six without layers.
    assert_eq!(lines.len(), 1 + 18 + 6, "{text}");
    let header: Vec<&str> = lines[0].split(',').collect();
    let field = |line: &str, name: &str| {
        line.split(',').nth(header.iter().position(|h| *h == name).unwrap()).unwrap().to_owned()
    };
    let found = lines.iter().find(|line| line.contains(",last_subject,2,")).unwrap();
    let effects = &answer["arms"]["one"]["effects"]["prob:target"];
    let effect: f64 = field(found, "effect").parse().unwrap();
    near(&effects["mean"][2][1], effect, "effect");
    assert_eq!(field(found, "n"), "4");
    for (format, media) in [
        ("npz", "application/x-npz"),
        ("safetensors", "application/vnd.safetensors"),
        ("svg", "image/svg+xml"),
        ("png", "image/png"),
    ] {
        let reply = post(&state, &format!("/v1/trace?format={format}"), &asked).await;
        assert_eq!(reply.status, 200, "{format}: {}", reply.text());
        assert!(reply.media_type().starts_with(media), "{format}: {}", reply.media_type());
        assert!(reply.bytes.len() > 500);
    }
}

#[tokio::test]
async fn everything_wrong_with_the_cases_is_told_at_once_and_where() {
    let state = tiny();
    let good = json!({"prompt": "The Tower", "subject": "Tower", "target": "P"});
    let pointers = |reply: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let errors = reply["errors"].as_array().unwrap().iter();
        errors.map(|error| (text(&error["pointer"]), text(&error["code"]))).collect()
    };
    let with = |field: &str, value: Value| {
        let mut case = good.clone();
        case[field] = value;
        case
    };
    for (request, expected) in [
        (
            json!({"cases": [good, with("subject", json!("Dome")), with("prompt", json!("")), with("subject", json!("")),
                             {"prompt": "The Tower"}, with("foo", json!(1)), with("target", json!(70_000))]}),
            vec![
                ("/cases/2/prompt", "empty"),
                ("/cases/3/subject", "empty"),
                ("/cases/4/subject", "missing_field"),
                ("/cases/4/target", "missing_field"),
                ("/cases/5/foo", "unknown_field"),
                ("/cases/1/subject", "span_absent"),
                ("/cases/6/target", "unknown_token"),
            ],
        ),
        (
            json!({"cases": [with("id", json!("a")), with("id", json!("a"))], "prompt": "The", "target": "x",
                   "positions": "all", "filters": {"min_clean_prob": 2}, "keep": {"per_sample": true},
                   "aggregate": {"by": ["group"], "ci": {"resamples": 3, "level": 1}}}),
            vec![
                ("/prompt", "conflict"),
                ("/target", "conflict"),
                ("/positions", "conflict"),
                ("/aggregate/by", "missing_field"),
                ("/aggregate/ci/resamples", "out_of_range"),
                ("/aggregate/ci/level", "out_of_range"),
                ("/cases/0/group", "missing_field"),
                ("/cases/1/group", "missing_field"),
                ("/cases/1/id", "duplicate"),
                ("/filters/min_clean_prob", "out_of_range"),
                ("/keep/per_sample", "unknown_field"),
            ],
        ),
        (
            json!({"cases": [good, good], "metrics": ["prob:other"], "model": "elsewhere"}),
            vec![("/model", "unknown_model"), ("/metrics/0", "unknown_name")],
        ),
        (
            json!({"cases": [good], "layers": [0, 9], "arms": {"x": {"site": "z", "heads": [7]}}}),
            vec![("/layers/1", "out_of_range"), ("/arms/x/heads/0", "out_of_range")],
        ),
        (
            json!({"cases": [good], "arms": {"x": {"site": "resid_post", "positions": "last"}}}),
            vec![("/arms/x/positions", "conflict")],
        ),
        (json!({"cases": [good, with("subject", json!([0, 2]))]}), vec![("/cases/1/subject", "conflict")]),
        (
            json!({"cases": [good], "corrupt": {"method": "run", "run": "other"}}),
            vec![("/corrupt/method", "not_supported")],
        ),
        (json!({"cases": []}), vec![("/cases", "empty")]),
        (json!({"cases": 3}), vec![("/cases", "wrong_type")]),
        (
            json!({"cases": [good, with("subject", json!("ow"))],
                   "corrupt": {"method": "replace_tokens", "with": "abcde"}}),
            vec![("/corrupt/with", "length_mismatch")],
        ),
    ] {
        let reply = post(&state, "/v1/trace", &request).await;
        assert_eq!(reply.status, 422, "{request}: {}", reply.text());
        let found = pointers(&reply.json());
        let expected: Vec<(String, String)> =
            expected.iter().map(|(at, code)| ((*at).to_owned(), (*code).to_owned())).collect();
        assert_eq!(found, expected, "{}", reply.text());
        let planned = post(&state, "/v1/plan", &json!({"trace": request})).await;
        let under: Vec<(String, String)> =
            expected.iter().map(|(at, code)| (format!("/trace{at}"), code.clone())).collect();
        assert_eq!(pointers(&planned.json()), under);
    }
    let wrong = json!({"cases": [good, with("subject", json!("ow"))],
                       "corrupt": {"method": "replace_tokens", "with": "abcde"}});
    let reply = post(&state, "/v1/trace", &wrong).await.json();
    assert!(reply["errors"][0]["detail"].as_str().unwrap().starts_with("case \"1\": "), "{reply}");
}
