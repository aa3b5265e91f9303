//! The served model as a model hub shows it: names of files and what is in them, weights left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::names::repo_id;
use crate::service::Served;

/// A file that is given out.
#[derive(Debug, Clone)]
pub struct File {
    /// What is in it.
    pub bytes: Arc<[u8]>,
    /// Its digest, in hex: equal tags, equal bytes.
    pub tag: String,
}

/// The files of the served model.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The name under which clients ask for it.
    pub repo_id: String,
    /// Forty digits: the commit it came from, or what stands for one.
    pub commit: String,
    files: BTreeMap<&'static str, File>,
}

impl Hub {
    /// Of a model. Takes as long as writing its tokenizer does.
    pub fn of(served: &Served) -> Self {
        let files = served.published.files(&served.config, &served.tokenizer);
        let files: BTreeMap<_, _> =
            files.into_iter().map(|(name, bytes)| (name, File { tag: digest(&[&bytes]), bytes })).collect();
        let is_commit = |text: &&String| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let commit = served.fingerprint.revision.as_ref().filter(is_commit).cloned().unwrap_or_else(|| {
            let tags: Vec<&[u8]> = files.values().map(|file| file.tag.as_bytes()).collect();
            let mut commit = digest(&[&[served.fingerprint.weights_sha256.as_bytes()], &tags[..]].concat());
            commit.truncate(40);
            commit
        });
        Self { repo_id: repo_id(served), commit, files }
    }

    /// A file by its name.
    pub fn file(&self, name: &str) -> Option<&File> {
        self.files.get(name)
    }

    /// Whether a revision is the one that is served.
    pub fn has(&self, revision: &str) -> bool {
        revision == "main" || revision == self.commit
    }

    /// What `GET /api/models/{id}` answers.
    pub fn info(&self) -> Value {
        let siblings: Vec<Value> = self.files.keys().map(|name| json!({"rfilename": name})).collect();
        json!({
            "_id": &self.commit[..24],
            "id": self.repo_id,
            "modelId": self.repo_id,
            "sha": self.commit,
            "private": false,
            "gated": false,
            "disabled": false,
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["transformers", "text-generation"],
            "siblings": siblings,
        })
    }

    /// What `GET /api/models/{id}/tree/{revision}` answers of the folder at the root.
    pub fn tree(&self) -> Value {
        let file = |(name, file): (&&str, &File)| json!({"type": "file", "path": name, "size": file.bytes.len(), "oid": &file.tag[..40]});
        Value::Array(self.files.iter().map(file).collect())
    }
}

fn digest(parts: &[&[u8]]) -> String {
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
