//! Folders made to harm: each is refused in words, at once, and without taking the memory that it asks for.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use mediant::load::{ModelRef, open};
use rustix::fs::{CWD, FileType, mknodat};
use serde_json::{Value, json};

use crate::made;

/// What is said of a folder after a change. A start that does not end fails the test.
fn fault(change: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    made::write(&folder, &made::config(), &made::tensors(), 1);
    change(&folder);
    refused(ModelRef::Folder(folder), dir.path())
}

fn refused(reference: ModelRef, dir: &Path) -> String {
    let (said, heard) = mpsc::channel();
    let options = made::options(dir);
    std::thread::spawn(move || said.send(open(&reference, &options).err().map(|error| error.to_string())));
    let error = heard.recv_timeout(Duration::from_secs(20)).expect("a start that does not end");
    error.expect("it should be refused")
}

fn replace(folder: &Path, file: &str, with: impl FnOnce(&Path)) {
    let path = folder.join(file);
    let _ = std::fs::remove_file(&path);
    with(&path);
}

fn with_tokenizer(change: impl FnOnce(&mut Value)) -> String {
    let mut tokenizer = serde_json::from_str(&made::tokenizer()).unwrap();
    change(&mut tokenizer);
    fault(|folder| std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap())
}

const FILES: [&str; 4] = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];

#[test]
fn what_is_no_file_is_not_waited_for() {
    let pipe = |path: &Path| mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap();
    for file in FILES {
        let error = fault(|folder| replace(folder, file, pipe));
        assert!(error.contains(file) && error.contains("is a named pipe, not a file"), "{error}");
        let error = fault(|folder| replace(folder, file, |path| symlink("/dev/zero", path).unwrap()));
        assert!(error.contains(file) && error.contains("is a device, not a file"), "{error}");
        let error = fault(|folder| replace(folder, file, |path| std::fs::create_dir(path).unwrap()));
        assert!(error.contains(file) && error.contains("is a folder, not a file"), "{error}");
        let error = fault(|folder| replace(folder, file, |path| symlink("nowhere", path).unwrap()));
        assert!(error.contains(file) && error.contains("cannot open"), "{error}");
    }
    let index = "model.safetensors.index.json";
    let error = fault(|folder| {
        std::fs::remove_file(folder.join("model.safetensors")).unwrap();
        replace(folder, index, pipe);
    });
    assert!(error.contains("index.json is a named pipe"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let gguf = dir.path().join("m.gguf");
    pipe(&gguf);
    assert!(refused(ModelRef::Gguf(gguf), dir.path()).contains("m.gguf is a named pipe"));
}

#[test]
fn a_tensor_without_numbers_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let gguf = dir.path().join("m.gguf");
    // Found by a fuzzer: an empty buffer that was taken for numbers.
    std::fs::write(&gguf, include_bytes!("../../fuzz/corpus/gguf/empty_tensor")).unwrap();
    let why = refused(ModelRef::Gguf(gguf), dir.path());
    assert!(why.contains("rope_freqs.weight") && why.contains("it has no numbers"), "{why}");
}

#[test]
fn files_of_no_sensible_size_are_not_read() {
    for file in &FILES[..3] {
        let sparse = |path: &Path| std::fs::File::create(path).unwrap().set_len(1 << 42).unwrap();
        let error = fault(|folder| replace(folder, file, sparse));
        assert!(error.contains(file) && error.contains("has 4398046511104 bytes"), "{error}");
    }
}

#[test]
fn an_id_as_large_as_ids_can_be_takes_no_table_of_that_length() {
    let error = with_tokenizer(|t| t["model"]["vocab"]["Z"] = json!(u32::MAX));
    assert!(error.contains("id of a token") && error.contains("4294967295 of Z"), "{error}");
}

#[test]
fn a_tokenizer_that_its_library_panics_on_is_not_valid() {
    let error = with_tokenizer(|t| {
        t["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x"});
    });
    assert!(error.contains("the tokenizer is not valid: the library panicked"), "{error}");
}

#[test]
fn json_as_deep_as_a_file_can_be_is_damaged() {
    let deep = |path: &Path| std::fs::write(path, "[".repeat(1 << 20)).unwrap();
    for file in &FILES[..3] {
        let error = fault(|folder| replace(folder, file, deep));
        // A tokenizer is an object; what is none is not looked into.
        let said = if *file == "tokenizer.json" { "invalid type" } else { "recursion limit" };
        assert!(error.contains(said), "{file}: {error}");
    }
    let nested = format!("{{\"added_tokens\": {}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let error = fault(|folder| std::fs::write(folder.join("tokenizer.json"), nested).unwrap());
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn headers_that_promise_what_is_not_there_are_damaged() {
    let header = |length: u64, header: &str| {
        let bytes = [&length.to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
        fault(|folder| std::fs::write(folder.join("model.safetensors"), bytes).unwrap())
    };
    let of = |text: &str| header(text.len() as u64, text);
    let tensor = |shape: &str, end: u64| {
        of(&format!("{{\"a\": {{\"dtype\": \"F32\", \"shape\": {shape}, \"data_offsets\": [0, {end}]}}}}"))
    };
    for error in [
        header(u64::MAX, "{}"),
        header(1 << 40, "{}"),
        header(7, "{}"),
        of(&"[".repeat(100_000)),
        of("{}"),
        tensor("[16]", 64 << 20),
        tensor("[18446744073709551615, 2]", 64),
        tensor("[4611686018427387904, 4]", 64),
        tensor("[-1]", 64),
        tensor("[8]", 64),
    ] {
        assert!(error.contains("model.safetensors is damaged"), "{error}");
    }
    let empty = fault(|folder| std::fs::write(folder.join("model.safetensors"), "").unwrap());
    assert!(empty.contains("too few for a header"), "{empty}");
}

#[test]
fn sizes_that_no_model_has_are_refused_by_name() {
    for (key, value) in [
        ("max_position_embeddings", json!(u64::MAX)),
        ("max_position_embeddings", json!(1_u64 << 40)),
        ("num_hidden_layers", json!(1_u64 << 40)),
        ("num_attention_heads", json!(1_u64 << 60)),
        ("num_hidden_layers", json!(1e300)),
        ("num_hidden_layers", json!(-1)),
    ] {
        let mut config = made::config();
        config[key] = value;
        let error = fault(|folder| std::fs::write(folder.join("config.json"), config.to_string()).unwrap());
        assert!(error.contains(key) || error.contains("head_dim"), "{key}: {error}");
    }
}
