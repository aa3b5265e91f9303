//! Every captured request gives what nnsight computes itself.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use serde_json::json;

use crate::client::{block, envelope, fetch, poll, serving, submit, submit_as, tensors};

/// How far numbers may be from nnsight's: absolute, or of the tensor's largest magnitude.
const NEAR: f32 = 1e-4;

/// The values of each case, in the order in which they were saved.
fn golden() -> BTreeMap<String, Vec<(String, Vec<f32>)>> {
    let path = format!("{}/tests/golden/remote/values.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let values = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases: BTreeMap<String, Vec<(String, Vec<f32>)>> = BTreeMap::new();
    for (name, view) in values.tensors() {
        let (case, value) = name.split_once('/').unwrap();
        let numbers = view.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        cases.entry(case.to_owned()).or_default().push((value.to_owned(), numbers.collect()));
    }
    cases.values_mut().for_each(|values| values.sort_by(|a, b| a.0.cmp(&b.0)));
    cases
}

/// What is wrong with a tensor.
fn fault(got: &[f32], wanted: &[f32]) -> Option<String> {
    if got.len() != wanted.len() {
        return Some(format!("{} numbers, not {}", got.len(), wanted.len()));
    }
    let largest = wanted.iter().fold(1.0f32, |most, number| most.max(number.abs()));
    let (off, at) =
        got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).zip(0..).max_by(|a, b| a.0.total_cmp(&b.0))?;
    // NaN is far from everything.
    (!(off <= NEAR * largest)).then(|| format!("{off:e} off at {at}: {} and {}", got[at], wanted[at]))
}

#[test]
fn every_captured_request_gives_what_nnsight_computes_itself() {
    let server = serving(&[]);
    let golden = golden();
    assert!(golden.len() >= 40, "{}", golden.len());
    let mut faults = Vec::new();
    let mut forwards = BTreeMap::new();
    for (case, wanted) in &golden {
        let mut sent = envelope("");
        if case == "read_weights" {
            sent["env"]["attn_implementation"] = json!("eager");
        }
        let status = poll(&server, &submit_as(&server, "/request", &sent, &block(case)));
        if status["status"] != "COMPLETED" {
            faults.push(format!("{case}: {}", status["description"].as_str().unwrap()));
            continue;
        }
        forwards.insert(case.as_str(), status["meta"]["forwards"].as_u64().unwrap());
        let got = tensors(&fetch(&server, &status));
        if got.len() != wanted.len() {
            faults.push(format!("{case}: {} tensors, not {}", got.len(), wanted.len()));
            continue;
        }
        for (got, (name, wanted)) in got.iter().zip(wanted) {
            faults.extend(fault(got, wanted).map(|fault| format!("{case} {name}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{}\n{}", faults.join("\n"), server.log());
    // What needs no number before its end is one pass, however much it reads and writes.
    for case in [
        "read_layers",
        "read_attention",
        "read_weights",
        "write_in_place",
        "write_noise",
        "write_heads",
        "invokes_of_one_prompt",
    ] {
        assert_eq!(forwards[case], 1, "{case}: {forwards:?}");
    }
}

#[test]
fn reading_and_writing_back_changes_no_bit_and_company_changes_none() {
    let server = serving(&[]);
    let run =
        |name: &str| tensors(&fetch(&server, &poll(&server, &submit(&server, "/request", &block(name)))));
    let bits = |tensor: &Vec<f32>| tensor.iter().map(|number| number.to_bits()).collect::<Vec<u32>>();
    // The same logits, once with the state read and written back, once of a trace that only reads.
    let (back, read) = (run("write_back"), run("read_end"));
    assert_eq!(bits(&back[0]), bits(&read[1]));
    // The first of six prompts in one trace is patched as a trace alone would be.
    let together = run("invokes_of_one_prompt");
    let again = run("invokes_of_one_prompt");
    assert_eq!(together.iter().map(bits).collect::<Vec<_>>(), again.iter().map(bits).collect::<Vec<_>>());
}

#[test]
fn the_legacy_profile_gives_what_older_notebooks_read() {
    let server = serving(&[]);
    let status = poll(&server, &submit(&server, "/legacy/request", &block("legacy")));
    let archive = fetch(&server, &status);
    let found = tensors(&archive);
    let wanted = &golden()["read_layers"];
    assert_eq!(fault(&found[0], &wanted[1].1), None);
    let mut file = zip::ZipArchive::new(std::io::Cursor::new(archive)).unwrap();
    let names: Vec<String> = file.file_names().map(|name| name.unwrap().into_owned()).collect();
    let name = names.iter().find(|name| name.ends_with("data.pkl")).unwrap();
    let mut pickle = Vec::new();
    std::io::Read::read_to_end(&mut file.by_name(name).unwrap(), &mut pickle).unwrap();
    let has = |text: &str| pickle.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("_rebuild_from_type_v2") && has("value"), "a saved tensor has `.value`");
    // A tuple there is none in the plain profile: `output[0]` is the first prompt, without its dimension.
    let plain = poll(&server, &submit(&server, "/request", &block("legacy")));
    assert_ne!(plain["status"], json!("COMPLETED"), "{plain}");
}
