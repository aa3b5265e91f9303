//! GGUF files: header, vocabulary and weights.

use std::fs;
use std::sync::LazyLock;

use mediant::load::ModelRef;
use tempfile::TempDir;

use crate::folder::{loaded, opened};
use crate::tokenizer::used;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

pub(crate) fn run(data: &[u8]) {
    let path = FOLDER.path().join("model.gguf");
    fs::write(&path, data).unwrap();
    if let Ok(checkpoint) = opened(ModelRef::Gguf(path)) {
        used(&checkpoint, "ab a\n");
        loaded(&checkpoint);
    }
}
