//! Safetensors files in a model folder: header and weights.

use std::fs;
use std::sync::LazyLock;

use mediant::load::ModelRef;
use tempfile::TempDir;

use crate::folder::{loaded, opened, whole};

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| whole(8));

pub(crate) fn run(data: &[u8]) {
    fs::write(FOLDER.path().join("model.safetensors"), data).unwrap();
    if let Ok(checkpoint) = opened(ModelRef::Folder(FOLDER.path().to_owned())) {
        loaded(&checkpoint);
    }
}
