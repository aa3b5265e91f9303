//! Results in every form: read back by other readers, and equal to the JSON.

use std::io::{Cursor, Read};

use serde_json::{Value, json};

use crate::support::{Reply, ok, post, post_accepting, tiny};

fn trace() -> Value {
    json!({"prompt": "The Tower is tall", "subject": "Tower", "target": "P", "arms": ["hidden", "mlp"],
           "corrupt": {"samples": 2}, "keep": {"per_sample": true}})
}

fn patch() -> Value {
    json!({"base": "The river is deep", "source": "The Tower is tall", "target": "P"})
}

fn run() -> Value {
    json!({"prompt": "The Tower", "target": "P", "read": {"capture": [{"site": "mlp_out", "layers": [1]}]}})
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

/// The same answer asked for by `?format` and by `Accept`.
async fn both(path: &str, body: &Value, format: &str, media: &str) -> Vec<u8> {
    let state = tiny();
    let named = post_accepting(&state, &format!("{path}?format={format}"), body, "application/json").await;
    let accepted = post_accepting(&state, path, body, media).await;
    for reply in [&named, &accepted] {
        assert_eq!(reply.status, 200, "{path} {format}: {}", reply.text());
        assert_eq!(reply.media_type().split(';').next().unwrap(), media);
    }
    assert_eq!(named.bytes.len(), accepted.bytes.len(), "{path} {format}");
    named.bytes
}

#[tokio::test]
async fn tables_hold_a_row_for_each_cell_and_metric() {
    let bytes = both("/v1/trace", &trace(), "csv", "text/csv").await;
    let answer = ok(&tiny(), "/v1/trace", &trace()).await;
    let mut reader = csv::Reader::from_reader(&bytes[..]);
    let names = reader.headers().unwrap().clone();
    let column =
        |name: &str| names.iter().position(|n| n == name).unwrap_or_else(|| panic!("{name} of {names:?}"));
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2 * 2 * 4 * 18);
    for row in rows {
        let field = |name: &str| row.get(column(name)).unwrap().to_owned();
        let arm = &answer["arms"][&field("arm")];
        let (layer, position): (usize, usize) =
            (field("layer").parse().unwrap(), field("position").parse().unwrap());
        let effects = &arm["effects"][&field("metric")];
        assert_eq!(
            field("effect").parse::<f64>().unwrap(),
            effects["mean"][layer][position].as_f64().unwrap()
        );
        assert_eq!(
            field("effect_se").parse::<f64>().unwrap(),
            effects["se"][layer][position].as_f64().unwrap()
        );
        assert_eq!(field("exact_null"), arm["masks"]["exact_null"][layer][position].to_string());
        assert_eq!(field("token"), answer["tokens"][position]["text"].as_str().unwrap());
    }
    for (path, body, least) in [("/v1/patch", patch(), 8), ("/v1/run", run(), 11)] {
        let bytes = both(path, &body, "csv", "text/csv").await;
        let count = csv::Reader::from_reader(&bytes[..]).records().map(Result::unwrap).count();
        assert!(count >= least, "{path}: {count}");
    }
}

/// Names, shapes and data of an `.npz`; the data of `<f8` arrays only.
fn npz(bytes: Vec<u8>) -> Vec<(String, String, Vec<f64>)> {
    assert_eq!(&bytes[..4], b"PK\x03\x04");
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let members = (0..archive.len()).map(|i| {
        let mut member = archive.by_index(i).unwrap();
        let name = member.name().unwrap().strip_suffix(".npy").unwrap().to_owned();
        let mut npy = Vec::new();
        member.read_to_end(&mut npy).unwrap();
        assert_eq!(&npy[..7], b"\x93NUMPY\x01", "{name}");
        let start = 10 + usize::from(u16::from_le_bytes([npy[8], npy[9]]));
        let header = String::from_utf8(npy[10..start].to_vec()).unwrap();
        let data = if header.contains("'<f8'") {
            npy[start..].chunks(8).map(|x| f64::from_le_bytes(x.try_into().unwrap())).collect()
        } else {
            Vec::new()
        };
        (name, header, data)
    });
    members.collect()
}

#[tokio::test]
async fn numpy_arrays_have_the_numbers_of_the_json() {
    let arrays = npz(both("/v1/trace", &trace(), "npz", "application/x-npz").await);
    let answer = ok(&tiny(), "/v1/trace", &trace()).await;
    let find = |name: &str| arrays.iter().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("no {name}"));
    for arm in ["hidden", "mlp"] {
        for (part, json) in [("effect_mean", "effects"), ("value_mean", "values")] {
            let (_, header, data) = find(&format!("{arm}/prob:target/{part}"));
            assert!(header.contains("(4, 18)"), "{header}");
            assert_eq!(data, &numbers(&answer["arms"][arm][json]["prob:target"]["mean"]));
        }
        let (_, header, data) = find(&format!("{arm}/logprob:target/value_samples"));
        assert!(header.contains("(4, 18, 2)"), "{header}");
        assert_eq!(data, &numbers(&answer["arms"][arm]["values"]["logprob:target"]["samples"]));
    }
    for name in [
        "tokens",
        "token_texts",
        "subject",
        "metadata",
        "hidden/layers",
        "hidden/exact_null",
        "clean/prob:target",
    ] {
        find(name);
    }
    let one = post(&tiny(), "/v1/trace?format=npz&metric=prob:target", &trace()).await;
    let one = npz(one.bytes);
    assert!(
        one.iter().any(|(n, ..)| n.contains("prob:target"))
            && !one.iter().any(|(n, ..)| n.contains("logprob"))
    );

    let arrays = npz(both("/v1/patch", &patch(), "npz", "application/x-npz").await);
    let answer = ok(&tiny(), "/v1/patch", &patch()).await;
    let found = arrays.iter().any(|(name, _, data)| {
        name.contains("prob:target") && *data == numbers(&answer["effects"]["prob:target"])
    });
    assert!(found, "{:?}", arrays.iter().map(|(n, ..)| n).collect::<Vec<_>>());
    assert!(npz(both("/v1/run", &run(), "npz", "application/x-npz").await).len() > 5);
}

#[tokio::test]
async fn tensors_are_read_by_the_safetensors_crate() {
    let media = "application/vnd.safetensors";
    let bytes = both("/v1/trace", &trace(), "safetensors", media).await;
    let answer = ok(&tiny(), "/v1/trace", &trace()).await;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let texts = metadata.metadata().clone().unwrap();
    let request: Value = serde_json::from_str(&texts["request"]).unwrap();
    assert_eq!(request, answer["request"]);
    assert_eq!(texts["plan_sha256"], answer["provenance"]["plan_sha256"].as_str().unwrap());
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let effects = file.tensor("hidden/prob:target/effect_mean").unwrap();
    assert_eq!((effects.shape(), effects.dtype()), (&[4, 18][..], safetensors::Dtype::F64));
    let data: Vec<f64> =
        effects.data().chunks(8).map(|x| f64::from_le_bytes(x.try_into().unwrap())).collect();
    assert_eq!(data, numbers(&answer["arms"]["hidden"]["effects"]["prob:target"]["mean"]));

    let bytes = both("/v1/run", &run(), "safetensors", media).await;
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let answer = ok(&tiny(), "/v1/run", &run()).await;
    let captured = numbers(&answer["runs"]["run"]["captures"][0]["values"]);
    let tensor = file.tensor("run/mlp_out").unwrap();
    assert_eq!((tensor.shape(), tensor.dtype()), (&[1, 1, 64][..], safetensors::Dtype::F32));
    let data = tensor.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
    assert!(data.eq(captured.iter().map(|x| *x as f32)));
}

#[tokio::test]
async fn pictures_are_well_formed_and_of_the_metric_asked_for() {
    for (path, body) in [("/v1/trace", trace()), ("/v1/patch", patch())] {
        let svg = String::from_utf8(both(path, &body, "svg", "image/svg+xml").await).unwrap();
        let tree = resvg::usvg::Tree::from_str(&svg, &resvg::usvg::Options::default()).unwrap();
        let size = tree.size();
        let answer = ok(&tiny(), path, &body).await;
        assert_eq!(drawn(&svg), shown(&answer), "{path}: every cell and its exact value");
        let other = post(&tiny(), &format!("{path}?format=svg&metric=logprob:target"), &body).await;
        assert_eq!(other.status, 200);
        assert_ne!(other.text(), svg);

        let png = both(path, &body, "png", "image/png").await;
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        let pixels = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
        assert_eq!(pixels.width(), (2.0 * size.width()).ceil() as u32);
        // The centre of each cell or bar has the colour that the SVG gives it.
        let document = resvg::usvg::roxmltree::Document::parse(&svg).unwrap();
        let mut seen = 0;
        for mark in document.descendants().filter(|n| n.has_tag_name("rect") && n.has_children()) {
            let number = |name: &str| mark.attribute(name).unwrap().parse::<f64>().unwrap();
            let (width, height) = (number("width"), number("height"));
            // Dots and outlines lie on some cells, error bars on bars: a corner is free of them.
            if width < 8.0 || height < 8.0 {
                continue;
            }
            let at = |start: f64, extent: f64| (2.0 * (start + extent * 0.2)) as u32;
            let pixel = pixels.pixel(at(number("x"), width), at(number("y"), height)).unwrap();
            let colour = format!("#{:02x}{:02x}{:02x}", pixel.red(), pixel.green(), pixel.blue());
            assert_eq!(Some(colour.as_str()), mark.attribute("fill"), "{path}");
            seen += 1;
        }
        assert!(seen > 2, "{path}: {seen}");
    }
}

/// The exact values of the marks of a picture, as its tooltips have them.
fn drawn(svg: &str) -> Vec<f64> {
    let document = resvg::usvg::roxmltree::Document::parse(svg).unwrap();
    let marks = document.descendants().filter(|n| n.has_tag_name("rect") && n.has_children());
    let tips = marks.map(|n| n.first_element_child().unwrap().text().unwrap().to_owned());
    tips.map(|tip| {
        // After the cell's text, where it has one; before what is known of it.
        let value = tip.rsplit(": ").next().unwrap().rsplit(", ").next().unwrap().split(' ').next().unwrap();
        value.parse().unwrap_or_else(|_| panic!("{tip}"))
    })
    .collect()
}

/// The numbers that the picture of an answer is of: of each arm, or of the patch.
fn shown(answer: &Value) -> Vec<f64> {
    match answer["arms"].as_object() {
        Some(arms) => arms.values().flat_map(|arm| numbers(&arm["effects"]["prob:target"]["mean"])).collect(),
        None => numbers(&answer["values"]["prob:target"]),
    }
}

#[tokio::test]
async fn what_a_run_was_read_for_has_a_picture_rows_and_arrays() {
    let body = json!({"prompt": "The Tower", "target": "P", "read": {"topk": 1, "logit_lens": {"topk": 2},
        "attention": [{"layers": [0, 2], "heads": [1]}], "attribution": {"target": "target"}}});
    let state = tiny();
    let answer = ok(&state, "/v1/run", &body).await;
    let run = &answer["runs"]["run"];
    let (lens, tokens) = (&run["logit_lens"], run["tokens"].as_array().unwrap().len());
    let layers = lens["layers"].as_array().unwrap().len();

    let svg = String::from_utf8(both("/v1/run", &body, "svg", "image/svg+xml").await).unwrap();
    let cells = lens["topk"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
    let expected: Vec<f64> = cells.map(|cell| cell[0]["prob"].as_f64().unwrap()).collect();
    assert_eq!((drawn(&svg), expected.len()), (expected.clone(), layers * tokens), "the lens comes first");
    let metric = post(&state, "/v1/run?format=svg&metric=prob:target", &body).await.text();
    assert_eq!(drawn(&metric), numbers(&lens["metrics"]["prob:target"]));
    // Queries go down, layer 0 of a lens lies at the bottom: both are drawn from the last row of the picture up.
    let head = post(&state, "/v1/run?format=svg&kind=attention&arm=L2H1", &body).await.text();
    let weights: Vec<f64> = drawn(&head);
    let mut rows: Vec<Vec<f64>> =
        run["attention"][0]["values"][1][0].as_array().unwrap().iter().map(numbers).collect();
    rows.reverse();
    for (found, expected) in weights.iter().zip(rows.concat()) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
    assert_eq!(weights.len(), tokens * tokens);
    let shares = post(&state, "/v1/run?format=svg&kind=attribution", &body).await.text();
    assert!(drawn(&shares).len() >= 2 * layers);
    refused(&post(&state, "/v1/run?format=svg&kind=attention&arm=L1H1", &body).await, 422, "?arm");
    refused(&post(&state, "/v1/run?format=svg&run=other", &body).await, 422, "?run");

    let rows = csv_rows(&both("/v1/run", &body, "csv", "text/csv").await);
    let of = |kind: &'static str| rows.iter().filter(move |row| row["kind"] == kind);
    assert_eq!(of("lens_topk").count(), 2 * layers * tokens);
    let first: Vec<f64> =
        of("lens_topk").filter(|row| row["rank"] == "1").map(|row| row["prob"].parse().unwrap()).collect();
    assert_eq!(first, expected);
    let metric = of("lens_metric").filter(|row| row["metric"] == "prob:target");
    let metric: Vec<f64> = metric.map(|row| row["value"].parse().unwrap()).collect();
    assert_eq!(metric, numbers(&lens["metrics"]["prob:target"]));
    // Keys after a query are left out.
    assert_eq!(of("attention").count(), 2 * tokens * (tokens + 1) / 2);
    let shares = of("attribution").filter(|row| row["part"] == "mlp_out");
    let shares: Vec<f64> = shares.map(|row| row["value"].parse().unwrap()).collect();
    assert_eq!(shares, numbers(&run["attribution"]["mlp_out"]));
    let lines = both("/v1/run", &body, "jsonl", "application/x-ndjson").await;
    assert_eq!(lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), rows.len());
    assert_eq!(&both("/v1/run", &body, "parquet", "application/vnd.apache.parquet").await[..4], b"PAR1");
    let npz = both("/v1/run", &body, "npz", "application/x-npz").await;
    let archive = zip::ZipArchive::new(Cursor::new(npz)).unwrap();
    let names: Vec<_> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    for name in [
        "logit_lens/topk_ids",
        "logit_lens/entropy",
        "logit_lens/topk_texts",
        "attention",
        "attribution/attn_out",
    ] {
        assert!(names.contains(&format!("run/{name}.npy")), "{name} in {names:?}");
    }
}

fn csv_rows(bytes: &[u8]) -> Vec<std::collections::BTreeMap<String, String>> {
    csv::Reader::from_reader(bytes).deserialize().map(Result::unwrap).collect()
}

#[tokio::test]
async fn what_is_shown_can_be_chosen_and_what_cannot_says_what_can() {
    let state = tiny();
    let path = "/v1/trace?format=svg";
    let whole = post(&state, path, &trace()).await.text();
    let one = post(&state, &format!("{path}&arm=mlp&title=Mine%20only&vmax=0.75"), &trace()).await.text();
    assert!(one.contains(">Mine only<") && one.contains(">0.750<") && one.contains(">−0.750<"), "{one}");
    assert_eq!(drawn(&one), drawn(&whole)[drawn(&one).len()..]);
    for (query, pointer) in [
        ("&arm=nobody", "?arm"),
        ("&vmax=0", "?vmax"),
        ("&vmax=NaN", "?vmax"),
        ("&vmax=wide", "?vmax"),
        ("&kind=pie", "?kind"),
        ("&kind=bars", "?kind"),
        ("&token_class=first", "?token_class"),
        ("&token_class=last", "?token_class"),
        ("&group=a", "?group"),
        ("&colour=red", "?colour"),
    ] {
        refused(&post(&state, &format!("{path}{query}"), &trace()).await, 422, pointer);
    }
    let long = "x".repeat(301);
    refused(&post(&state, &format!("{path}&title={long}"), &trace()).await, 422, "?title");
    for (format, query) in
        [("csv", "title=x"), ("json", "vmax=1"), ("json", "metric=prob:target"), ("npz", "arm=mlp")]
    {
        let pointer = format!("?{}", query.split('=').next().unwrap());
        let reply = post(&state, &format!("/v1/trace?format={format}&{query}"), &trace()).await;
        refused(&reply, 422, &pointer);
    }
}

fn refused(reply: &Reply, status: u16, pointer: &str) {
    assert_eq!(
        (reply.status.as_u16(), reply.media_type()),
        (status, "application/problem+json"),
        "{}",
        reply.text()
    );
    if !pointer.is_empty() {
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{}", reply.text());
    }
}

#[tokio::test]
async fn forms_that_a_result_does_not_have_are_refused() {
    let state = tiny();
    refused(&post(&state, "/v1/run?format=svg", &run()).await, 422, "?format");
    refused(&post_accepting(&state, "/v1/run", &run(), "image/png").await, 422, "?format");
    refused(&post_accepting(&state, "/v1/run", &run(), "application/pdf").await, 406, "");
    refused(&post(&state, "/v1/trace?format=pdf", &trace()).await, 422, "?format");
    refused(&post(&state, "/v1/trace?format=", &trace()).await, 422, "?format");
    refused(&post(&state, "/v1/trace?format=svg&format=png", &trace()).await, 422, "?format");
    refused(&post(&state, "/v1/trace?fromat=svg", &trace()).await, 422, "?fromat");
    refused(&post(&state, "/v1/trace?format=svg&metric=prob:nobody", &trace()).await, 422, "?metric");
    refused(&post(&state, "/v1/patch?format=csv&metric=nonsense", &patch()).await, 422, "?metric");
    refused(&post(&state, "/v1/plan?format=csv", &json!({"run": run()})).await, 422, "?format");
    refused(&post(&state, "/v1/tokenize?format=json", &run()).await, 422, "?format");
    let three = json!({"base": "abc", "sweep": ["layers", "positions", "heads"], "target": "P",
                       "interventions": [{"site": "z", "op": "zero", "positions": "all"}]});
    refused(&post(&state, "/v1/patch?format=svg", &three).await, 422, "?format");
    let blank = json!({"runs": {"a": "abc", "b": "abd"}, "base": "a",
                       "interventions": [{"site": "z", "op": "zero"}], "metrics": ["top1_flip"]});
    assert_eq!(post(&state, "/v1/patch?format=svg", &blank).await.status, 200);
}
