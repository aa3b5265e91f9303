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
        assert!(size.width() > 200.0 && size.height() > 100.0, "{size:?}");
        let other = post(&tiny(), &format!("{path}?format=svg&metric=logprob:target"), &body).await;
        assert_eq!(other.status, 200);
        assert_ne!(other.text(), svg);

        let png = both(path, &body, "png", "image/png").await;
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        let pixels = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
        assert_eq!(pixels.width(), (2.0 * size.width()).ceil() as u32);
        let colours: std::collections::HashSet<_> =
            pixels.pixels().iter().map(|p| (p.red(), p.green(), p.blue())).collect();
        assert!(colours.len() > 10, "{path}: {} colours", colours.len());
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
    refused(&post_accepting(&state, "/v1/run", &run(), "image/png").await, 406, "");
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
