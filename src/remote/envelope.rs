//! What a request of nnsight 0.8 says beside its block: for which model, to which session, how it is packed.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::names::{is_served, repo_id};
use crate::service::Served;
use crate::spec::problem::code;

/// Bytes of an envelope, at most.
pub const MOST_BYTES: usize = 64 << 10;
/// nnsight's classes for causal language models.
const CLASSES: [&str; 2] = ["LanguageModel", "TransformersModel"];
/// What transformers calls the one task.
const TASK: &str = "text-generation";

/// The form field `data`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Envelope {
    /// `import.path.Class:{"repo_id": ..., "revision": ..., "task": ...}`
    pub model_key: String,
    /// The websocket that waits; empty where none does.
    #[serde(default)]
    pub session_id: String,
    /// Whether the block is packed, and the answer is to be.
    #[serde(default)]
    pub compress: bool,
    /// What the client's model was made with.
    #[serde(default)]
    pub env: Map<String, Value>,
}

/// What is wrong with an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Where, in the form.
    pub pointer: &'static str,
    /// A code of problems.
    pub code: &'static str,
    /// What is wrong.
    pub detail: String,
    /// What to do.
    pub fix: String,
}

#[derive(Debug, Deserialize)]
struct Key {
    repo_id: String,
    revision: Option<String>,
    task: Option<String>,
    #[serde(default)]
    trust_remote_code: bool,
}

impl Envelope {
    /// Reads the form field.
    ///
    /// # Errors
    /// It is no such envelope.
    pub fn read(text: &str) -> Result<Self, Wrong> {
        serde_json::from_str(text).map_err(|error| Wrong {
            pointer: "/data",
            code: code::WRONG_TYPE,
            detail: format!("the form field `data` is no envelope of nnsight 0.8: {error}"),
            fix: "send it with nnsight 0.8.1".to_owned(),
        })
    }

    /// Whether attention gives its weights, too: transformers' eager implementation does, its others give none.
    pub fn eager(&self) -> bool {
        self.env.get("attn_implementation").is_some_and(|value| value == "eager")
    }

    /// Whether it is for the served model, as it is served. `commit`: what its hub calls the revision.
    ///
    /// # Errors
    /// What is asked for and not served.
    pub fn check(&self, served: &Served, commit: &str) -> Result<(), Wrong> {
        let wrong = |pointer, code, detail, fix: String| Err(Wrong { pointer, code, detail, fix });
        let here = repo_id(served);
        let key = self.model_key.split_once(':').and_then(|(class, key)| {
            Some((class.rsplit('.').next().unwrap_or(class), serde_json::from_str::<Key>(key).ok()?))
        });
        let Some((class, key)) = key else {
            let detail = format!("{:?} is no model key of nnsight 0.8", shown(&self.model_key));
            return wrong("/data/model_key", code::UNKNOWN_VALUE, detail, "use nnsight 0.8.1".to_owned());
        };
        if !CLASSES.contains(&class) {
            let detail = format!("models of the class {} are not served", shown(class));
            let fix = format!("use nnsight.LanguageModel({here:?})");
            return wrong("/data/model_key", code::NOT_SUPPORTED, detail, fix);
        }
        if !is_served(served, &key.repo_id) {
            let detail = format!("{:?} is not served here", shown(&key.repo_id));
            return wrong("/data/model_key", code::UNKNOWN_MODEL, detail, format!("served is {here:?}"));
        }
        if let Some(revision) = key.revision.filter(|r| r != "main" && r != commit) {
            let detail = format!("the revision {:?} is not served", shown(&revision));
            return wrong(
                "/data/model_key",
                code::UNKNOWN_VALUE,
                detail,
                "leave the revision out".to_owned(),
            );
        }
        if let Some(task) = key.task.filter(|task| task != TASK) {
            let detail = format!("the task {:?} is not served", shown(&task));
            return wrong("/data/model_key", code::NOT_SUPPORTED, detail, format!("served is {TASK:?}"));
        }
        if key.trust_remote_code {
            let detail = "trust_remote_code is not served: the model's code is this server's".to_owned();
            return wrong("/data/model_key", code::NOT_SUPPORTED, detail, "leave it out".to_owned());
        }
        if self.env.get("peft").is_some_and(|peft| !peft.is_null()) {
            let detail = "adapters are not served".to_owned();
            return wrong(
                "/data/env/peft",
                code::NOT_SUPPORTED,
                detail,
                "make the model without peft".to_owned(),
            );
        }
        Ok(())
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
