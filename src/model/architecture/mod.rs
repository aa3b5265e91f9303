//! Model families, one file each: the keys of its `config.json`, the names of its tensors, and what a block of it is made of.
//!
//! All else follows from a [`Family`]: the loaders of safetensors and GGUFs, the dummies, the division over ranks and the
//! decoder know roles ([`Role`]) and shapes ([`BlockShape`]), never a family. A new family is a file here, and kernels only for
//! arithmetic that no other family has. All families so far norm the residual stream before each sublayer and add the
//! sublayers one after the other; another order will be a further field of [`BlockShape`].

mod block;
mod gpt2;
mod keys;
mod llama;
mod mistral;
mod names;
mod qwen2;
mod qwen3;
mod rope;

pub use block::{Biases, BlockShape, MlpShape, NormKind, NormShape, PositionShape};
pub use gpt2::GPT2;
pub use keys::{KeyFault, Keys};
pub use llama::LLAMA;
pub use mistral::MISTRAL;
pub use names::{Role, StoredTensor, TensorKind, TensorName, TensorPlace};
pub use qwen2::QWEN2;
pub use qwen3::QWEN3;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::config::ModelConfig;

/// Every family that is understood.
pub static FAMILIES: [&Family; 5] = [&LLAMA, &MISTRAL, &QWEN2, &QWEN3, &GPT2];

/// What the models of a family have in common.
pub struct Family {
    /// Its `model_type` in `config.json`.
    pub name: &'static str,
    /// Its `general.architecture` in GGUFs; `None`: llama.cpp writes it as another family.
    pub gguf: Option<&'static str>,
    /// How the names of its causal language models end in `architectures`.
    pub class: &'static str,
    /// What its tensors' names begin with. Checkpoints of the model without its unembedding leave this out.
    pub base: &'static str,
    /// Keys of [`LLAMA`]'s configuration that it calls otherwise.
    pub renamed: &'static [(&'static str, &'static str)],
    /// Reads `config.json`.
    read: fn(&Keys<'_>) -> Result<ModelConfig, KeyFault>,
    /// Norm before each sublayer and at the end.
    pub norm: NormKind,
    /// Whether positions are rotations of q and k; else they are learned and added to the embeddings.
    pub rotary: bool,
    /// Linear layers with a bias.
    pub bias: Biases,
    /// Whether each head of q and k is normed before it is rotated.
    pub head_norms: bool,
    /// What its MLPs compute.
    pub mlp: MlpShape,
    /// What its tensors are called.
    pub names: &'static [TensorName],
    /// Endings of tensors that checkpoints hold and `transformers` does not read.
    pub unread: &'static [&'static str],
    /// The token that its tokenizer's class in `transformers` begins a text with on request, where the files name none.
    pub bos: Option<&'static str>,
}

impl Family {
    /// By `model_type`.
    pub fn named(name: &str) -> Option<&'static Family> {
        FAMILIES.into_iter().find(|family| family.name == name)
    }

    /// By a GGUF's `general.architecture`.
    pub fn of_gguf(architecture: &str) -> Option<&'static Family> {
        FAMILIES.into_iter().find(|family| family.gguf == Some(architecture))
    }

    /// Names of all families, as messages list them.
    pub fn list() -> String {
        listed(FAMILIES.into_iter().map(|family| family.name))
    }

    /// Architectures of GGUFs, as messages list them.
    pub fn list_of_gguf() -> String {
        listed(FAMILIES.into_iter().filter_map(|family| family.gguf))
    }

    /// Reads a `config.json` of this family, and checks that its numbers make a model.
    pub fn config(&'static self, map: &Map<String, Value>) -> Result<ModelConfig, KeyFault> {
        let keys = Keys::new(map, self.renamed);
        let config = (self.read)(&keys)?;
        config.check().map_err(|fault| KeyFault::NotUnderstood {
            key: fault.key.to_owned(),
            got: fault.got,
            why: fault.why.to_owned(),
        })?;
        Ok(config)
    }

    /// A block of this family with the numbers that a checkpoint states.
    pub fn block(&self, eps: f64, positions: PositionShape) -> BlockShape {
        let Family { norm, bias, head_norms, mlp, .. } = *self;
        BlockShape { norm: NormShape { kind: norm, eps }, positions, bias, head_norms, mlp }
    }

    /// What this family calls a key of [`LLAMA`]'s configuration.
    pub fn key(&self, key: &'static str) -> &'static str {
        self.renamed.iter().find(|(common, _)| *common == key).map_or(key, |(_, own)| own)
    }
}

/// "a, b and c"
fn listed(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Family) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}
