//! Folders of tokenizers: `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`, one
//! after the other, and a text to be read by them.

use std::fs;
use std::sync::LazyLock;

use mediant::load::{Checkpoint, ModelRef};
use tempfile::TempDir;

use crate::folder::{opened, whole};

/// Between two files of an input.
const END: u8 = 0x1c;
const FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| whole(1024));

pub(crate) fn run(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == END);
    for name in FILES {
        let path = FOLDER.path().join(name);
        match parts.next() {
            Some(part) => fs::write(path, part).unwrap(),
            // One that is not there is there no more.
            None => _ = fs::remove_file(path),
        }
    }
    let text = String::from_utf8_lossy(parts.next().unwrap_or(b"ab a <s>b")).into_owned();
    if let Ok(checkpoint) = opened(ModelRef::Folder(FOLDER.path().to_owned())) {
        used(&checkpoint, &text);
    }
}

/// Texts to tokens and back.
pub(crate) fn used(checkpoint: &Checkpoint, text: &str) {
    let words = &checkpoint.tokenizer;
    for bos in [None, Some(false), Some(true)] {
        let Ok(encoded) = words.encode(text, bos) else { continue };
        assert_eq!(encoded.ids.len(), encoded.tokens.len());
        assert!(encoded.ids.iter().all(|id| (*id as usize) < checkpoint.config.vocab_size), "{encoded:?}");
        let _ = words.describe(&encoded.ids);
        let _ = words.decode(&encoded.ids);
        let _ = words.text_of(&encoded.ids, true);
        let _ = words.span(&encoded, text, "a");
        let _ = words.occurrences(&encoded, text, "a");
    }
    let _ = words.continuation(text, " ab");
    let _ = checkpoint.published.files(&checkpoint.config, words);
}
