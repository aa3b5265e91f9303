//! The flags that every command with a configuration has.

use std::path::PathBuf;

use clap::Args;

use super::{ConfigError, Loaded};

/// Flags that choose and override the configuration.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// Configuration file; see config/default.toml for every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Folder, GGUF file, hub id, "smollm2-135m" or "dummy:tiny"
    #[arg(long, value_name = "REF")]
    pub model: Option<String>,
    /// Folder for what must outlive the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl Settings {
    /// Defaults, file, environment and these flags, merged and checked.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let data_dir = self.data_dir.as_ref().map(|dir| dir.display().to_string());
        let flags: Vec<_> = [
            ("--listen", "http.listen", self.listen.clone()),
            ("--model", "model.ref", self.model.clone()),
            ("--data-dir", "store.data_dir", data_dir),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag, key, value?)))
        .collect();
        // Variables that are not Unicode cannot be ours.
        let env =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        super::load(self.config.as_deref(), env, &flags)
    }
}
