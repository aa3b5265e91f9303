//! Activations kept by the server: captured, uploaded, read in parts, used as sources, deleted.

use axum::body::Body;
use axum::http::{Request, header};
use half::{bf16, f16};
use mediant::http::AppState;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Reply, get, ok, post, queue, send, tiny, tiny_with};

const MEDIA: &str = "application/vnd.safetensors";
/// Width of the residual stream of `dummy:tiny`, and of its `z`.
async fn width(state: &AppState, site: &str) -> usize {
    let capabilities = get(state, "/v1/capabilities").await.json();
    let sites = capabilities["sites"].as_array().unwrap();
    sites.iter().find(|s| s["site"] == site).unwrap()["width"].as_u64().unwrap() as usize
}

async fn upload(state: &AppState, body: &Value) -> Value {
    let reply = post(state, "/v1/activations", body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let meta = reply.json();
    assert_eq!(reply.headers[header::LOCATION], format!("/v1/activations/{}", meta["id"].as_str().unwrap()));
    crate::schema::check_response("post", "/v1/activations", "201", &meta);
    meta
}

async fn upload_file(state: &AppState, query: &str, bytes: Vec<u8>) -> Reply {
    let request = Request::post(format!("/v1/activations{query}"))
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(Body::from(bytes))
        .unwrap();
    send(state, request).await
}

async fn delete(state: &AppState, id: &str) -> Reply {
    send(state, Request::delete(format!("/v1/activations/{id}")).body(Body::empty()).unwrap()).await
}

fn id(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Makes the checksum of a stored file's header agree with it again.
fn with_header_sum(file: &mut [u8]) {
    let data_at = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..data_at]).unwrap();
    let sums_at = data_at + header["sha256"]["data_offsets"][0].as_u64().unwrap() as usize;
    let sum = Sha256::digest(&file[..data_at]);
    file[sums_at..sums_at + sum.len()].copy_from_slice(&sum);
}

/// Problems as `pointer code`.
fn problems(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 422, "{}", reply.text());
    let document = reply.json();
    let errors = document["errors"].as_array().unwrap();
    errors
        .iter()
        .map(|e| format!("{} {}", e["pointer"].as_str().unwrap(), e["code"].as_str().unwrap()))
        .collect()
}

/// A captured handle and the same numbers inline, `[layer][position][dim]`.
async fn captured(state: &AppState, prompt: &str, capture: Value, dtype: &str) -> (Value, Value) {
    let mut kept = capture.clone();
    kept["as"] = json!("handle");
    kept["dtype"] = json!(dtype);
    let body = json!({"prompt": prompt, "read": {"capture": [capture, kept]}});
    let answer = ok(state, "/v1/run", &body).await;
    let captures = &answer["runs"]["run"]["captures"];
    assert!(captures[1]["values"].is_null() && captures[0]["activation"].is_null(), "{captures}");
    (captures[1].clone(), captures[0]["values"].clone())
}

fn flat(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(list) => list.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

/// The tensor `values` of a safetensors file, as f32.
fn tensor(bytes: &[u8]) -> (Vec<usize>, safetensors::Dtype, Vec<f32>) {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let view = file.tensor("values").unwrap();
    let pairs = || view.data().chunks(2).map(|b| [b[0], b[1]]);
    let data = match view.dtype() {
        safetensors::Dtype::F32 => {
            view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        safetensors::Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        _ => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
    };
    (view.shape().to_vec(), view.dtype(), data)
}

/// A safetensors file as the reference crate writes it.
fn file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., data)| data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (*name, view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

#[tokio::test]
async fn a_capture_by_handle_has_the_bits_of_the_inline_one_in_every_form() {
    let state = tiny();
    let capture = json!({"site": "z", "layers": [0, 2, 3], "positions": [1, 4, -1]});
    let (kept, inline) = captured(&state, "The Tower is tall", capture, "f32").await;
    let id = id(&kept["activation"]);
    let path = format!("/v1/activations/{id}");
    let meta = get(&state, &path).await.json();
    crate::schema::check_response("get", "/v1/activations/{id}", "200", &meta);
    let wide = width(&state, "z").await;
    assert_eq!(meta["shape"], json!([3, 3, wide]));
    assert_eq!((&meta["layers"], &meta["positions"]), (&json!([0, 2, 3]), &json!([1, 4, 17])));
    // A BOS, then a token per byte.
    let texts: Vec<&str> =
        meta["tokens"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["T", " ", "l"]);
    assert_eq!(meta["heads"], json!({"count": 4, "width": wide / 4}));
    assert_eq!((&meta["owner"], &meta["prompt_tokens"]), (&json!("local"), &json!(18)));
    assert_eq!(meta["origin"]["captured"]["run"], "run");
    assert_eq!((&kept["bytes"], &kept["expires"]), (&json!(9 * wide * 4), &meta["expires"]));

    let numbers = get(&state, &format!("{path}?format=json")).await.json();
    crate::schema::check_response("get", "/v1/activations/{id}", "200", &numbers);
    assert_eq!(numbers["values"], inline);
    let (shape, _, data) = tensor(&get(&state, &format!("{path}?format=safetensors")).await.bytes);
    assert_eq!((shape, data), (vec![3, 3, wide], flat(&inline)));
    let accepting = Request::get(&path).header(header::ACCEPT, MEDIA).body(Body::empty()).unwrap();
    let accepted = send(&state, accepting).await;
    assert_eq!(accepted.media_type(), MEDIA);
    assert_eq!(tensor(&accepted.bytes).2, flat(&inline));
    let npz = get(&state, &format!("{path}?format=npz")).await.bytes;
    let saved = tempfile::NamedTempFile::with_suffix(".npz").unwrap();
    std::fs::write(saved.path(), npz).unwrap();
    let mut archive = zip::ZipArchive::new(std::fs::File::open(saved.path()).unwrap()).unwrap();
    let mut npy = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("values.npy").unwrap(), &mut npy).unwrap();
    let data: Vec<f32> = npy[npy.len() - 9 * wide * 4..]
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(data, flat(&inline));
}

#[tokio::test]
async fn parts_are_chosen_before_they_are_sent() {
    let state = tiny();
    let capture = json!({"site": "z", "layers": "all", "positions": {"range": [2, 8]}});
    let (kept, inline) = captured(&state, "The Tower is tall", capture, "f32").await;
    let path = format!("/v1/activations/{}", id(&kept["activation"]));
    let head = width(&state, "z").await / 4;
    let part =
        get(&state, &format!("{path}?layers=3,0:2&positions=-11,4:6&heads=2&format=json")).await.json();
    assert_eq!((&part["layers"], &part["positions"]), (&json!([3, 0, 1]), &json!([7, 4, 5])));
    assert_eq!((&part["heads"], &part["shape"]), (&json!([2]), &json!([3, 3, head])));
    for (i, layer) in [3, 0, 1].into_iter().enumerate() {
        for (j, position) in [5, 2, 3].into_iter().enumerate() {
            let whole = inline[layer][position].as_array().unwrap();
            assert_eq!(part["values"][i][j].as_array().unwrap()[..], whole[2 * head..3 * head]);
        }
    }
    // A half format halves the bytes and rounds once.
    let (shape, dtype, data) =
        tensor(&get(&state, &format!("{path}?layers=1&dtype=bf16&format=safetensors")).await.bytes);
    assert_eq!((shape, dtype), (vec![1, 6, 4 * head], safetensors::Dtype::BF16));
    let rounded: Vec<f32> = flat(&inline[1]).iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    assert_eq!(data, rounded);
    for (query, expected) in [
        ("layers=9", "?layers out_of_range"),
        ("layers=4:9", "?layers out_of_range"),
        ("layers=x", "?layers wrong_type"),
        ("layers=0,0:2", "?layers duplicate"),
        ("positions=1", "?positions out_of_range"),
        ("heads=4", "?heads out_of_range"),
        ("dtype=f64", "?dtype unknown_value"),
        ("reduce=max", "?reduce unknown_value"),
        ("cosine=act_0", "?cosine unknown_name"),
        ("layer=1", "?layer unknown_parameter"),
        ("format=csv", "?format unknown_format"),
        ("format=npz&dtype=bf16", "?dtype not_supported"),
    ] {
        assert_eq!(problems(&get(&state, &format!("{path}?{query}")).await), [expected], "{query}");
    }
}

#[tokio::test]
async fn norms_means_and_cosines_are_those_of_the_numbers() {
    let state = tiny();
    let capture = json!({"site": "resid_post", "layers": [1, 3], "positions": [0, 3, 5]});
    let (a, of_a) = captured(&state, "The Tower is tall", capture.clone(), "f32").await;
    let (b, of_b) = captured(&state, "A river runs deep", capture, "f32").await;
    let path = format!("/v1/activations/{}", id(&a["activation"]));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norm = get(&state, &format!("{path}?reduce=norm")).await.json();
    let mean = get(&state, &format!("{path}?reduce=mean&layers=3&positions=3:")).await.json();
    let cosine = get(&state, &format!("{path}?cosine={}", id(&b["activation"]))).await.json();
    let itself = get(&state, &format!("{path}?cosine={}", id(&a["activation"]))).await.json();
    for answer in [&norm, &mean, &cosine] {
        crate::schema::check_response("get", "/v1/activations/{id}", "200", answer);
    }
    assert_eq!((&norm["axes"], &norm["shape"]), (&json!(["layer", "position"]), &json!([2, 3])));
    for layer in 0..2 {
        for position in 0..3 {
            let (x, y) = (flat(&of_a[layer][position]), flat(&of_b[layer][position]));
            let near = |found: &Value, expected: f64| {
                let found = found.as_f64().unwrap();
                assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{found} {expected}");
            };
            near(&norm["values"][layer][position], dot(&x, &x).sqrt());
            near(&cosine["values"][layer][position], dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt());
            near(&itself["values"][layer][position], 1.0);
        }
    }
    let (x, y) = (flat(&of_a[1][1]), flat(&of_a[1][2]));
    let expected: Vec<f32> =
        x.iter().zip(&y).map(|(x, y)| f64::midpoint(f64::from(*x), f64::from(*y)) as f32).collect();
    assert_eq!((flat(&mean["values"]), &mean["reduce"]), (expected, &json!("mean")));
    let other = upload(&state, &json!({"site": "resid_post", "values": flat(&of_a[0][0])})).await;
    let reply = get(&state, &format!("{path}?cosine={}", id(&other["id"]))).await;
    assert_eq!(problems(&reply), ["?cosine length_mismatch"]);
    let reply = get(&state, &format!("{path}?reduce=norm&cosine={}", id(&b["activation"]))).await;
    assert_eq!(problems(&reply), ["?reduce conflict"]);
}

/// Values and effects of a patch with this source.
async fn patched(state: &AppState, mut intervention: Value, source: &Value, sweep: &Value) -> Value {
    intervention["source"] = source.clone();
    let body = json!({
        "runs": {"a": {"prompt": "The Tower is tall"}, "b": {"prompt": "A river runs deep"}},
        "base": "b", "interventions": [intervention], "sweep": sweep,
        "targets": {"p": ["P"]}, "metrics": ["prob:p", "logit:p", "kl:a"], "normalise": {"zero": "b", "one": "a"}});
    let answer = ok(state, "/v1/patch", &body).await;
    json!([answer["values"], answer["effects"], answer["topk"], answer["receipt"], answer["axes"]])
}

#[tokio::test]
async fn what_was_captured_and_is_put_back_has_the_bits_of_the_run_itself() {
    let state = tiny();
    let whole = json!({"site": "resid_post", "positions": "all"});
    let (residual, _) = captured(&state, "The Tower is tall", whole, "f32").await;
    let (heads, _) =
        captured(&state, "The Tower is tall", json!({"site": "z", "positions": "all"}), "f32").await;
    let embed = json!({"site": "embed", "positions": "all"});
    let (embedded, _) = captured(&state, "The Tower is tall", embed, "f32").await;
    let everywhere = |site: &str| json!({"site": site, "positions": "all"});
    let (normed, _) = captured(&state, "The Tower is tall", everywhere("final_norm"), "f32").await;
    let (keys, _) = captured(&state, "The Tower is tall", everywhere("k_rope"), "f32").await;
    let (neurons, _) = captured(&state, "The Tower is tall", everywhere("mlp_act"), "f32").await;
    for (handle, intervention, positions, sweep) in [
        (
            &residual,
            json!({"site": "resid_post", "layers": "all", "positions": "last"}),
            json!("last"),
            json!(["layers"]),
        ),
        (
            &residual,
            json!({"site": "resid_post", "layers": "all", "positions": "all"}),
            json!("all"),
            json!(["layers", "positions"]),
        ),
        (
            &residual,
            json!({"site": "resid_post", "layers": [1, 2], "positions": [3, 7], "window": 2}),
            json!([7, 3]),
            json!([]),
        ),
        (
            &residual,
            json!({"site": "resid_post", "layers": 1, "positions": [3, 7], "op": "add", "coef": 0.5}),
            json!({"range": [4, 6]}),
            json!(["positions"]),
        ),
        (
            &heads,
            json!({"site": "z", "layers": "all", "heads": "all", "positions": "all"}),
            json!("all"),
            json!(["layers", "heads"]),
        ),
        (
            &heads,
            json!({"site": "z", "layers": "all", "heads": [0, 2], "positions": [2, 5]}),
            json!([5, 9]),
            json!(["positions", "heads"]),
        ),
        (
            &heads,
            json!({"site": "z", "layers": [0, 3], "heads": [3, 0], "positions": [2, 5]}),
            json!(4),
            json!(["layers"]),
        ),
        (&embedded, json!({"site": "embed", "positions": [2, 5]}), json!([5, 9]), json!(["positions"])),
        (&normed, json!({"site": "final_norm", "positions": "last"}), json!(3), json!([])),
        (
            &keys,
            json!({"site": "k_rope", "layers": [0, 3], "heads": [1, 0], "positions": [2, 5]}),
            json!([5, 9]),
            json!(["layers", "heads"]),
        ),
        (
            &neurons,
            json!({"site": "mlp_act", "layers": "all", "dims": [0, 1, 159], "positions": [7, 3]}),
            json!([5, 9]),
            json!(["layers", "dims"]),
        ),
    ] {
        let run = json!({"run": "a", "positions": positions});
        let kept = json!({"activation": handle["activation"], "positions": positions});
        let expected = patched(&state, intervention.clone(), &run, &sweep).await;
        let found = patched(&state, intervention.clone(), &kept, &sweep).await;
        assert_eq!(found, expected, "{intervention} {sweep}");
        assert!(flat(&expected[1]["prob:p"]).iter().any(|x| *x != 0.0), "{intervention} does nothing");
    }
}

#[tokio::test]
async fn a_stored_vector_steers_as_the_same_vector_in_the_request_does() {
    let state = tiny();
    let wide = width(&state, "resid_mid").await;
    let vector: Vec<f32> = (0..wide).map(|i| (i as f32).cos()).collect();
    let by_json = upload(&state, &json!({"site": "resid_mid", "name": "cos", "values": vector})).await;
    assert_eq!(
        (&by_json["shape"], &by_json["layers"], &by_json["name"]),
        (&json!([1, 1, wide]), &Value::Null, &json!("cos"))
    );
    let reply =
        upload_file(&state, "?site=resid_mid&layers=2&ttl_s=60", file(&[("v", &[1, 1, wide], &vector)]))
            .await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let by_file = reply.json();
    assert_eq!(by_file["layers"], json!([2]));
    let add = json!({"site": "resid_mid", "layers": "all", "positions": "all", "op": "add", "coef": 2.0});
    let expected = patched(&state, add.clone(), &json!({"vector": vector}), &json!(["layers"])).await;
    for stored in [by_json, by_file] {
        let found =
            patched(&state, add.clone(), &json!({"activation": stored["id"]}), &json!(["layers"])).await;
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn one_layer_may_serve_all_and_a_missing_one_is_named() {
    let state = tiny();
    let (kept, _) =
        captured(&state, "The Tower is tall", json!({"site": "mlp_out", "layers": [1, 2]}), "f16").await;
    let activation = &kept["activation"];
    let patch = |source: Value, layers: Value| {
        json!({"base": "A river runs deep", "runs": Value::Null, "interventions": [
            {"site": "mlp_out", "layers": layers, "positions": "last", "source": source}]})
    };
    let body = |source: Value, layers: Value| {
        let mut body = patch(source, layers);
        body["runs"] = json!({"b": {"prompt": "A river runs deep"}});
        body["base"] = json!("b");
        body["target"] = json!("P");
        body
    };
    let swept = |source| {
        let mut body = body(source, json!("all"));
        body["sweep"] = json!(["layers"]);
        body
    };
    ok(&state, "/v1/patch", &swept(json!({"activation": activation, "layer": 2}))).await;
    ok(&state, "/v1/patch", &body(json!({"activation": activation}), json!([1, 2]))).await;
    for (source, site, expected) in [
        (json!({"activation": activation}), "mlp_out", "/interventions/0/source/activation out_of_range"),
        (
            json!({"activation": activation, "layer": 3}),
            "mlp_out",
            "/interventions/0/source/layer out_of_range",
        ),
        (
            json!({"activation": activation, "layer": 2, "positions": 3}),
            "mlp_out",
            "/interventions/0/source/positions out_of_range",
        ),
        (
            json!({"activation": activation, "layer": 2, "positions": {"span": "s"}}),
            "mlp_out",
            "/interventions/0/source/positions not_supported",
        ),
        (json!({"activation": "act_0123"}), "mlp_out", "/interventions/0/source/activation unknown_name"),
        (
            json!({"activation": format!("act_{}", "0".repeat(32))}),
            "mlp_out",
            "/interventions/0/source/activation unknown_name",
        ),
        (
            json!({"activation": activation, "layer": 2, "run": "b"}),
            "mlp_out",
            "/interventions/0/source/run conflict",
        ),
        (json!({"activation": 7}), "mlp_out", "/interventions/0/source/activation wrong_type"),
    ] {
        let mut body = swept(source.clone());
        body["interventions"][0]["site"] = json!(site);
        let reply = post(&state, "/v1/patch", &body).await;
        assert_eq!(problems(&reply), [expected], "{source}");
        if source == json!({"activation": activation}) {
            assert!(reply.text().contains("no layer 0, 3"), "{}", reply.text());
        }
    }
    // Three positions are read, two are written.
    let (kept, _) =
        captured(&state, "The Tower", json!({"site": "mlp_out", "positions": [0, 1, 2]}), "f32").await;
    let mut three = swept(json!({"activation": kept["activation"]}));
    three["interventions"][0]["positions"] = json!([0, 1]);
    let reply = post(&state, "/v1/patch", &three).await;
    assert_eq!(problems(&reply), ["/interventions/0/source/activation length_mismatch"]);
    delete(&state, &id(activation)).await;
    let reply = post(&state, "/v1/patch", &swept(json!({"activation": activation, "layer": 2}))).await;
    assert_eq!(problems(&reply), ["/interventions/0/source/activation unknown_name"]);
}

#[tokio::test]
async fn bad_uploads_are_refused_with_the_field() {
    let state = tiny();
    let wide = width(&state, "resid_post").await;
    let row = vec![0.5_f32; wide];
    let good = json!({"site": "resid_post", "layers": [0, 2], "positions": [4], "name": "n", "ttl_s": 60,
                      "dtype": "bf16", "values": [[row], [row]]});
    upload(&state, &good).await;
    for (pointer, bad, expected) in [
        ("/site", json!("resid"), "/site unknown_value"),
        ("/site", Value::Null, "/site missing_field"),
        ("/site", json!("embed"), "/layers conflict"),
        ("/site", json!("final_norm"), "/layers conflict"),
        ("/site", json!("scores"), "/site not_supported"),
        ("/site", json!("pattern"), "/site not_supported"),
        ("/layers", json!([0]), "/layers length_mismatch"),
        ("/layers", json!([0, 4]), "/layers/1 out_of_range"),
        ("/layers", json!([1, 1]), "/layers/1 duplicate"),
        ("/layers", Value::Null, "/layers missing_field"),
        ("/positions", json!([0, 1]), "/positions length_mismatch"),
        ("/positions", json!([-1]), "/positions/0 out_of_range"),
        ("/ttl_s", json!(0), "/ttl_s out_of_range"),
        ("/ttl_s", json!(99_999_999), "/ttl_s limit_exceeded"),
        ("/name", json!("x".repeat(200)), "/name out_of_range"),
        ("/dtype", json!("int8"), "/dtype unknown_value"),
        ("/model", json!("gpt"), "/model unknown_model"),
        ("/values", json!([[row], [[0.5]]]), "/values/1/0 length_mismatch"),
        ("/values", json!([[[0.5]], [[0.5]]]), "/values length_mismatch"),
        ("/values", json!([[[[0.5]]]]), "/values wrong_type"),
        ("/values", json!(0.5), "/values wrong_type"),
        ("/values", json!([]), "/values empty"),
        ("/values", json!([["a"]]), "/values/0/0 wrong_type"),
        ("/values", json!([[1e39]]), "/values/0/0 out_of_range"),
        ("/values", json!([[row]]), "/layers length_mismatch"),
        ("/vales", json!(1), "/vales unknown_field"),
    ] {
        let mut body = good.clone();
        body[&pointer[1..]] = bad.clone();
        assert_eq!(problems(&post(&state, "/v1/activations", &body).await), [expected], "{pointer} {bad}");
    }
    let logits = json!({"site": "logits", "values": vec![0.5_f32; width(&state, "logits").await]});
    assert_eq!(problems(&post(&state, "/v1/activations", &logits).await), ["/site not_supported"]);
    let mut large = good.clone();
    large["values"] = json!([[vec![1e6; wide]], [vec![1e6; wide]]]);
    large["dtype"] = json!("f16");
    assert_eq!(problems(&post(&state, "/v1/activations", &large).await), ["/dtype out_of_range"]);

    let two = file(&[("a", &[wide], &row), ("b", &[wide], &row)]);
    let nan = file(&[("a", &[wide], &vec![f32::NAN; wide])]);
    for (query, bytes, expected) in [
        ("?site=resid_post", two.clone(), "?tensor missing_field"),
        ("?site=resid_post&tensor=c", two.clone(), "?tensor unknown_name"),
        ("?site=resid_pots&tensor=a", two.clone(), "?site unknown_value"),
        ("?tensor=a", two.clone(), "?site missing_field"),
        ("?site=resid_post&tensor=a&ttl_s=soon", two.clone(), "?ttl_s wrong_type"),
        ("?site=resid_post&tensor=a&layers=4", two.clone(), "?layers out_of_range"),
        ("?site=resid_post&tensor=a&layers=0:2", two.clone(), "?layers length_mismatch"),
        ("?site=resid_post&tensor=a&layers=0:4294967295", two.clone(), "?layers limit_exceeded"),
        ("?site=resid_post&tensor=a&colour=1", two.clone(), "?colour unknown_parameter"),
        ("?site=resid_post", nan, " out_of_range"),
        ("?site=resid_post", file(&[("a", &[3], &[0.0; 3])]), " length_mismatch"),
        ("?site=resid_post", b"not safetensors at all".to_vec(), " wrong_type"),
        ("?site=resid_post", Vec::new(), " wrong_type"),
    ] {
        let reply = upload_file(&state, query, bytes).await;
        assert_eq!(problems(&reply), [expected], "{query}");
    }
    let ok = upload_file(&state, "?site=resid_post&tensor=b", two).await;
    assert_eq!(ok.status, 201, "{}", ok.text());
    let text = Request::post("/v1/activations")
        .header(header::CONTENT_TYPE, "text/csv")
        .body(Body::from("1"))
        .unwrap();
    assert_eq!(send(&state, text).await.status, 415);
    let empty = post(&state, "/v1/activations", &Value::Null).await;
    assert_eq!(empty.status, 422);
}

#[tokio::test]
async fn a_table_or_file_of_a_run_names_its_handles() {
    let state = tiny();
    let body = json!({"prompt": "The Tower", "read": {"capture": [
        {"site": "z", "layers": 0, "as": "handle"}, {"site": "embed"}]}});
    let reply = post(&state, "/v1/run?format=safetensors", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&reply.bytes).unwrap();
    let kept: Value = serde_json::from_str(&metadata.metadata().clone().unwrap()["activations"]).unwrap();
    assert_eq!(
        (kept.as_array().unwrap().len(), &kept[0]["site"], &kept[0]["run"]),
        (1, &json!("z"), &json!("run"))
    );
    let found = get(&state, &format!("/v1/activations/{}", id(&kept[0]["activation"]))).await;
    assert_eq!(found.json()["origin"]["captured"]["run"], "run");
    let file = safetensors::SafeTensors::deserialize(&reply.bytes).unwrap();
    assert!(file.tensor("run/z").is_err() && file.tensor("run/embed").is_ok());
}

#[tokio::test]
async fn lists_are_paged_and_what_is_deleted_is_gone() {
    let state = tiny_with(&[]);
    let wide = width(&state, "embed").await;
    let mut ids = Vec::new();
    for i in 0..5 {
        let values = vec![i as f32; wide];
        ids.push(upload(&state, &json!({"site": "embed", "values": values})).await["id"].clone());
    }
    ids.sort_by_key(ToString::to_string);
    let mut found = Vec::new();
    let mut path = "/v1/activations?limit=2".to_owned();
    loop {
        let page = get(&state, &path).await.json();
        crate::schema::check_response("get", "/v1/activations", "200", &page);
        found.extend(page["activations"].as_array().unwrap().iter().map(|set| set["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/activations?limit=2&after={next}");
    }
    assert_eq!(found, ids);
    let first = id(&ids[0]);
    let used = get(&state, "/v1/activations").await.json()["usage"]["used_bytes"].as_u64().unwrap();
    assert_eq!(delete(&state, &first).await.status, 204);
    for reply in [delete(&state, &first).await, get(&state, &format!("/v1/activations/{first}")).await] {
        assert_eq!((reply.status.as_u16(), reply.media_type()), (404, mediant::http::MEDIA_TYPE));
    }
    assert!(get(&state, "/v1/activations").await.json()["usage"]["used_bytes"].as_u64().unwrap() < used);
    assert_eq!(problems(&get(&state, "/v1/activations?limit=0").await), ["?limit out_of_range"]);
    assert_eq!(problems(&get(&state, "/v1/activations?after=act_").await), ["?after unknown_value"]);
    assert_eq!(get(&state, "/v1/activations/..%2F..%2Fetc%2Fpasswd").await.status, 404);
}

#[tokio::test]
async fn what_has_expired_is_answered_as_gone_and_refused_as_a_source() {
    let state = tiny_with(&[]);
    let wide = width(&state, "resid_post").await;
    let meta = upload(&state, &json!({"site": "resid_post", "ttl_s": 1, "values": vec![1.0; wide]})).await;
    let path = format!("/v1/activations/{}", id(&meta["id"]));
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    for reply in [get(&state, &path).await, delete(&state, &id(&meta["id"])).await] {
        assert_eq!(reply.status, 410, "{}", reply.text());
        assert_eq!(reply.json()["expired"], meta["expires"]);
    }
    let body = json!({"runs": {"b": {"prompt": "A river"}}, "base": "b", "target": "P", "interventions": [
        {"site": "resid_post", "layers": 1, "source": {"activation": meta["id"]}}]});
    let reply = post(&state, "/v1/patch", &body).await;
    assert_eq!(problems(&reply), ["/interventions/0/source/activation expired"]);
}

#[tokio::test]
async fn quotas_refuse_before_anything_is_computed_and_deleting_makes_room() {
    let state = tiny_with(&[
        ("activations.owner_bytes", "40000"),
        ("activations.request_bytes", "30000"),
        ("activations.upload_bytes", "20000"),
    ]);
    let wide = width(&state, "resid_post").await;
    let run = |positions: Value| {
        json!({"prompt": "The Tower is tall", "read": {"capture": [
            {"site": "resid_post", "layers": [0], "positions": positions, "as": "handle"}]}})
    };
    let mut kept = Vec::new();
    let full = loop {
        let reply = post(&state, "/v1/run", &run(json!("all"))).await;
        if reply.status != 200 {
            break reply;
        }
        kept.push(id(&reply.json()["runs"]["run"]["captures"][0]["activation"]));
        assert!(kept.len() < 20);
    };
    assert_eq!(full.status, 507, "{}", full.text());
    let document = full.json();
    assert_eq!((&document["errors"][0]["code"], &document["limit_bytes"]), (&json!("quota"), &json!(40_000)));
    crate::schema::check_response("post", "/v1/run", "507", &document);
    assert!(!kept.is_empty());
    let listed = get(&state, "/v1/activations").await.json();
    assert_eq!(listed["activations"].as_array().unwrap().len(), kept.len());
    delete(&state, &kept[0]).await;
    ok(&state, "/v1/run", &run(json!("all"))).await;
    // What one request may store is less.
    let mut large = run(json!("all"));
    large["read"]["capture"][0]["layers"] = json!("all");
    large["prompt"] = json!("The Tower is tall and the river is deep, and so on and on");
    assert!(58 * 4 * wide * 4 > 30_000);
    assert_eq!(problems(&post(&state, "/v1/run", &large).await), ["/read/capture/0 limit_exceeded"]);
    let body = file(&[("v", &[40, wide], &vec![0.0; 40 * wide])]);
    let reply = upload_file(&state, "?site=resid_post", vec![0; 20_001.max(body.len())]).await;
    assert_eq!(reply.status, 413, "{}", reply.text());
    assert!(reply.text().contains("activations.upload_bytes"));
}

#[tokio::test]
async fn handles_outlive_the_server_but_not_a_change_of_weights() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap().to_owned();
    let id = {
        let state = tiny_with(&[("store.data_dir", &data)]);
        let capture = json!({"site": "resid_post", "positions": "last"});
        let (kept, _) = captured(&state, "The Tower", capture, "f32").await;
        id(&kept["activation"])
    };
    // The same set with other weights' fingerprint in its file.
    let path = folder.path().join(format!("activations/{id}.safetensors"));
    let state = tiny_with(&[("store.data_dir", &data)]);
    let body = json!({"runs": {"b": {"prompt": "A river"}}, "base": "b", "target": "P", "sweep": ["layers"],
        "interventions": [{"site": "resid_post", "layers": "all", "source": {"activation": id}}]});
    ok(&state, "/v1/patch", &body).await;
    let sha =
        get(&state, &format!("/v1/activations/{id}")).await.json()["model_sha"].as_str().unwrap().to_owned();
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(sha.len()).position(|window| window == sha.as_bytes()).unwrap();
    let mut foreign = bytes.clone();
    foreign[at] = if foreign[at] == b'0' { b'1' } else { b'0' };
    with_header_sum(&mut foreign);
    std::fs::write(&path, foreign).unwrap();
    let state = tiny_with(&[("store.data_dir", &data)]);
    let reply = post(&state, "/v1/patch", &body).await;
    assert_eq!(problems(&reply), ["/interventions/0/source/activation foreign_model"]);
}

#[tokio::test]
async fn a_flipped_bit_is_said_and_no_number_that_depends_on_it_is_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let state = tiny_with(&[("store.data_dir", folder.path().to_str().unwrap())]);
    // 4 layers of 65 positions of 64 numbers: a layer is a little longer than what shares a checksum.
    let capture = json!({"site": "resid_post", "layers": "all", "positions": {"range": [0, 65]}});
    let (kept, inline) = captured(&state, &"x".repeat(70), capture.clone(), "f32").await;
    let (other, _) = captured(&state, &"y".repeat(70), capture, "f32").await;
    let (act, other) = (id(&kept["activation"]), id(&other["activation"]));
    let path = folder.path().join(format!("activations/{act}.safetensors"));
    let mut bytes = std::fs::read(&path).unwrap();
    let layer = 65 * 64 * 4;
    let data_at = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // A mantissa's bit of the last layer.
    bytes[data_at + 4 * layer - 2] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for state in [state, tiny_with(&[("store.data_dir", folder.path().to_str().unwrap())])] {
        for query in ["?format=json", "?format=npz", "?layers=3", "?reduce=norm"] {
            let reply = get(&state, &format!("/v1/activations/{act}{query}")).await;
            assert_eq!(reply.status, 410, "{query}: {}", reply.text());
            assert_eq!(reply.json()["type"], "urn:mediant:problem:damaged");
            assert!(reply.json()["detail"].as_str().unwrap().contains("capture or upload it again"));
            crate::schema::check_response("get", "/v1/activations/{id}", "410", &reply.json());
        }
        let cosine = get(&state, &format!("/v1/activations/{other}?cosine={act}")).await;
        assert_eq!(cosine.status, 410, "{}", cosine.text());
        // What does not depend on it is as it was.
        let sound = get(&state, &format!("/v1/activations/{act}?format=json&layers=0,1")).await.json();
        assert_eq!(sound["values"], json!([inline[0], inline[1]]));
        let body = |layer: u32| {
            json!({"runs": {"b": {"prompt": "A river"}}, "base": "b", "target": "P", "interventions": [
                {"site": "resid_post", "layers": layer, "positions": [0],
                 "source": {"activation": act, "positions": [0]}}]})
        };
        ok(&state, "/v1/patch", &body(0)).await;
        let refused = post(&state, "/v1/patch", &body(3)).await;
        assert_eq!(problems(&refused), ["/interventions/0/source/activation unreadable"]);
        assert_eq!(get(&state, &format!("/v1/activations/{act}")).await.json()["verified"], true);
    }
}

#[tokio::test]
async fn names_hold_nothing_that_breaks_lines_or_turns_the_text_around_them() {
    let state = tiny();
    let wide = width(&state, "resid_post").await;
    for (name, encoded, code) in [
        ("a\nb", "a%0ab", "U+000A"),
        ("a\0", "a%00", "U+0000"),
        ("\u{202e}a", "%e2%80%aea", "U+202E"),
        ("a\u{2028}", "a%e2%80%a8", "U+2028"),
        ("a\u{9b}", "a%c2%9b", "U+009B"),
    ] {
        let body = json!({"site": "resid_post", "name": name, "values": vec![1.0; wide]});
        let reply = post(&state, "/v1/activations", &body).await;
        assert_eq!(problems(&reply), ["/name out_of_range"], "{name:?}");
        assert!(reply.text().contains(code), "{}", reply.text());
        let body = file(&[("v", &[wide], &vec![0.0; wide])]);
        let reply = upload_file(&state, &format!("?site=resid_post&name={encoded}"), body).await;
        assert_eq!(problems(&reply), ["?name out_of_range"], "{name:?}");
        let run = json!({"runs": {name: {"prompt": "A"}}});
        let pointer = format!("/runs/{name} out_of_range");
        assert_eq!(problems(&post(&state, "/v1/run", &run).await), [pointer]);
    }
    for name in ["ünï \"code\"", "a\u{200d}b", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}", "🧪", "a/b~c"] {
        upload(&state, &json!({"site": "resid_post", "name": name, "values": vec![1.0; wide]})).await;
    }
}

#[tokio::test]
async fn a_mean_over_a_data_set_is_computed_and_serves_as_source_and_direction() {
    // So few numbers at once that the prompts go one or two at a time.
    let state = queue(tiny_with(&[("limits.response_numbers", "8192")])).await;
    let texts = ["The Tower is", "A river", "They know the current of it", "Rome", "Water falls"];
    let case = |text: &&str| json!({"prompt": text, "subject": [0, 1]});
    let cases: Vec<Value> = texts.iter().map(case).collect();
    let stored = post(&state, "/v1/datasets", &json!(cases)).await.json()["id"].clone();
    let asked = |more: Value| {
        let mut body = json!({"site": "mlp_out", "mean_of": {"dataset": {"id": stored}}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let numbers = async |id: &Value| {
        let path = format!("/v1/activations/{}?format=json", id.as_str().unwrap());
        get(&state, &path).await.json()["values"].clone()
    };
    // What plain captures give, prompt by prompt.
    let row = async |text: &str, positions: &Value| -> Vec<Vec<f64>> {
        let capture = json!([{"site": "mlp_out", "layers": [1, 3], "positions": positions}]);
        let run = ok(&tiny(), "/v1/run", &json!({"prompt": text, "read": {"capture": capture}})).await;
        let layers = run["runs"]["run"]["captures"][0]["values"].as_array().unwrap().clone();
        let mean = |rows: &Value| -> Vec<f64> {
            let rows = rows.as_array().unwrap();
            let sum = |i: usize| rows.iter().map(|row| row[i].as_f64().unwrap()).sum::<f64>();
            (0..rows[0].as_array().unwrap().len()).map(|i| sum(i) / rows.len() as f64).collect()
        };
        layers.iter().map(mean).collect()
    };
    let expected = async |texts: &[&str], positions: &Value| -> Vec<Vec<f64>> {
        let mut sum: Vec<Vec<f64>> = Vec::new();
        for text in texts {
            let rows = row(text, positions).await;
            if sum.is_empty() {
                sum = rows.iter().map(|row| vec![0.0; row.len()]).collect();
            }
            for (sum, row) in sum.iter_mut().flatten().zip(rows.iter().flatten()) {
                *sum += row / texts.len() as f64;
            }
        }
        sum
    };
    let near = |got: &Value, expected: &[Vec<f64>]| {
        for (layer, row) in expected.iter().enumerate() {
            assert_eq!(got[layer][0].as_array().unwrap().len(), row.len());
            for (i, x) in row.iter().enumerate() {
                assert!((got[layer][0][i].as_f64().unwrap() - x).abs() < 1e-6, "{layer} {i}");
            }
        }
    };
    for positions in [json!("last"), json!("all")] {
        let mean = upload(
            &state,
            &asked(json!({"layers": [1, 3], "name": "mean", "mean_of":
            {"dataset": {"id": stored}, "positions": positions}})),
        )
        .await;
        assert_eq!(
            (&mean["shape"], &mean["layers"], &mean["positions"]),
            (&json!([2, 1, 64]), &json!([1, 3]), &Value::Null)
        );
        assert_eq!(mean["origin"], json!({"mean": {"prompts": 5, "minus": null}}));
        near(&numbers(&mean["id"]).await, &expected(&texts, &positions).await);
    }
    // All layers by default; a difference of two means, one of them written out.
    let all = upload(&state, &asked(json!({}))).await;
    assert_eq!(all["shape"], json!([4, 1, 64]));
    let minus = json!([{"prompt": texts[0]}, {"prompt": texts[3]}]);
    let difference = upload(
        &state,
        &asked(json!({"layers": [1, 3],
        "mean_of": {"dataset": {"id": stored}, "minus": {"inline": minus}}})),
    )
    .await;
    assert_eq!(difference["origin"], json!({"mean": {"prompts": 5, "minus": 2}}));
    let (a, b) =
        (expected(&texts, &json!("last")).await, expected(&[texts[0], texts[3]], &json!("last")).await);
    let subtracted: Vec<Vec<f64>> =
        a.iter().zip(&b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect()).collect();
    near(&numbers(&difference["id"]).await, &subtracted);
    // Mean ablation at any positions, a direction added, a direction removed.
    let patch = |intervention: Value| {
        json!({"runs": {"a": {"prompt": "The Tower is"}}, "base": "a", "target": "P",
        "interventions": [intervention], "sweep": ["layers"]})
    };
    for more in [
        json!({"op": "replace", "source": {"activation": all["id"]}}),
        json!({"op": "add", "coef": 2.0, "source": {"activation": difference["id"]}}),
        json!({"op": "project_out", "basis": {"activation": difference["id"]}}),
    ] {
        let mut one = json!({"site": "mlp_out", "layers": [1, 3], "positions": [1, 2]});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = ok(&state, "/v1/patch", &patch(one)).await;
        assert!(answer["effects"]["prob:target"][0].as_f64().unwrap() != 0.0, "{answer}");
    }
    let inline = numbers(&all["id"]).await[1][0].clone();
    let one =
        |source: Value| json!({"site": "mlp_out", "layers": [1], "positions": [1, 2], "source": source});
    let by_handle = ok(&state, "/v1/patch", &patch(one(json!({"activation": all["id"]})))).await;
    let by_value = ok(&state, "/v1/patch", &patch(one(json!({"vector": inline})))).await;
    assert_eq!(by_handle["values"], by_value["values"]);
    // What is wrong is named where it stands.
    for (more, expected) in [
        (json!({"site": "pattern"}), "/site not_supported"),
        (json!({"mean_of": {"dataset": {"id": "ds_none"}}}), "/mean_of/dataset/id unknown_name"),
        (json!({"mean_of": {"dataset": {"inline": []}}}), "/mean_of/dataset/inline empty"),
        (
            json!({"mean_of": {"dataset": {"inline": [{"prompt": "a"}, {"prompt": "b", "subject": "c"}]}}}),
            "/mean_of/dataset/inline/1/subject span_absent",
        ),
        (
            json!({"mean_of": {"dataset": {"id": stored}, "positions": {"span": "object"}}}),
            "/mean_of/positions/span unknown_name",
        ),
        (json!({"layers": [9]}), "/layers/0 out_of_range"),
        (json!({"values": [1.0]}), "/values conflict"),
        (
            json!({"mean_of": {"dataset": {"id": stored}, "minus": {"inline": [{"runs": {"x": "a", "y": "b"}}]}}}),
            "/mean_of/minus/inline/0 missing_field",
        ),
    ] {
        let reply = post(&state, "/v1/activations", &asked(more.clone())).await;
        assert!(problems(&reply).contains(&expected.to_owned()), "{more}: {:?}", problems(&reply));
    }
    let reply = post(&state, "/v1/patch", &patch(one(json!({"mean_of": {"dataset": {"id": stored}}})))).await;
    assert_eq!(problems(&reply), ["/interventions/0/source/mean_of not_supported"]);
    assert!(reply.text().contains("POST /v1/activations"), "{}", reply.text());
}
