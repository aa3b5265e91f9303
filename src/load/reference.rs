//! Model references as users write them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::LoadError;

/// Where a model comes from. Parsed with [`FromStr`]; [`fmt::Display`] writes what parses back to the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// `smollm2-135m`: the default model, fetched once.
    SmolLm2,
    /// A folder with `config.json`, `tokenizer.json` and safetensors.
    Folder(PathBuf),
    /// A `.gguf` file.
    Gguf(PathBuf),
    /// `org/name`, with `@revision` if pinned.
    Hub {
        /// `org/name`.
        id: String,
        /// Branch, tag or commit; `None`: `main`.
        revision: Option<String>,
    },
    /// `dummy:<preset>`: seeded random weights.
    Dummy {
        /// Whose shapes.
        preset: Preset,
        /// `?seed=N`, 0 if left out.
        seed: u64,
    },
}

/// Shapes of a dummy model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// 4 layers of width 64: for tests.
    Tiny,
    /// Llama 3 8B.
    Llama3_8b,
    /// Llama 3 70B.
    Llama3_70b,
    /// A GPT-2 of the same size as [`Preset::Tiny`].
    Gpt2Tiny,
    /// GPT-2 small.
    Gpt2,
    /// GPT-2 XL.
    Gpt2Xl,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 6] =
        [Preset::Tiny, Preset::Llama3_8b, Preset::Llama3_70b, Preset::Gpt2Tiny, Preset::Gpt2, Preset::Gpt2Xl];

    /// As written after `dummy:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Llama3_8b => "llama-3-8b",
            Self::Llama3_70b => "llama-3-70b",
            Self::Gpt2Tiny => "gpt2-tiny",
            Self::Gpt2 => "gpt2",
            Self::Gpt2Xl => "gpt2-xl",
        }
    }

    /// Whether the checkpoints that it stands for are in bf16.
    pub(super) const fn is_bf16(self) -> bool {
        matches!(self, Self::Llama3_8b | Self::Llama3_70b)
    }
}

impl FromStr for ModelRef {
    type Err = LoadError;

    /// A name that is a folder here is that folder; otherwise `org/name` is a hub id.
    fn from_str(given: &str) -> Result<Self, LoadError> {
        let fault = |why| LoadError::Reference { given: given.to_owned(), why };
        if given == "smollm2-135m" {
            return Ok(Self::SmolLm2);
        }
        if let Some(dummy) = given.strip_prefix("dummy:") {
            let (name, query) = dummy.split_once('?').map_or((dummy, None), |(n, q)| (n, Some(q)));
            let preset = Preset::ALL
                .into_iter()
                .find(|p| p.name() == name)
                .ok_or_else(|| fault("there is no such dummy"))?;
            let seed = match query {
                None => 0,
                Some(query) => query
                    .strip_prefix("seed=")
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(|| fault("after ? comes seed= and a whole number"))?,
            };
            return Ok(Self::Dummy { preset, seed });
        }
        let path = Path::new(given);
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            return Ok(Self::Gguf(path.to_owned()));
        }
        if path.is_dir() || path.is_absolute() || given.starts_with("./") || given.starts_with("../") {
            return Ok(Self::Folder(path.to_owned()));
        }
        let (id, revision) = given.split_once('@').map_or((given, None), |(id, r)| (id, Some(r)));
        let (org, name) =
            id.split_once('/').ok_or_else(|| fault("it is no folder here, and a hub id is org/name"))?;
        if !is_hub_name(org) || !is_hub_name(name) {
            return Err(fault(
                "it is no folder here, and a hub id is two names of letters, digits, '-', '_' and '.'",
            ));
        }
        let plain =
            |r: &str| r.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c)) && !r.contains("..");
        if revision.is_some_and(|r| r.is_empty() || !plain(r)) {
            return Err(fault("after @ comes a branch, tag or commit"));
        }
        Ok(Self::Hub { id: id.to_owned(), revision: revision.map(str::to_owned) })
    }
}

fn is_hub_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['.', '-'])
        && !name.contains("..")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SmolLm2 => f.write_str("smollm2-135m"),
            Self::Folder(path) | Self::Gguf(path) => write!(f, "{}", path.display()),
            Self::Hub { id, revision: None } => f.write_str(id),
            Self::Hub { id, revision: Some(revision) } => write!(f, "{id}@{revision}"),
            Self::Dummy { preset, seed: 0 } => write!(f, "dummy:{}", preset.name()),
            Self::Dummy { preset, seed } => write!(f, "dummy:{}?seed={seed}", preset.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_reference_parses_and_prints_back() {
        let hub = |id: &str, r: Option<&str>| ModelRef::Hub { id: id.into(), revision: r.map(Into::into) };
        let cases = [
            ("smollm2-135m", ModelRef::SmolLm2),
            ("/models/llama", ModelRef::Folder("/models/llama".into())),
            ("./llama", ModelRef::Folder("./llama".into())),
            ("src", ModelRef::Folder("src".into())),
            ("some/model.GGUF", ModelRef::Gguf("some/model.GGUF".into())),
            ("meta-llama/Llama-3.1-8B", hub("meta-llama/Llama-3.1-8B", None)),
            ("org/name@refs/pr/1", hub("org/name", Some("refs/pr/1"))),
            ("dummy:tiny", ModelRef::Dummy { preset: Preset::Tiny, seed: 0 }),
            ("dummy:gpt2-xl", ModelRef::Dummy { preset: Preset::Gpt2Xl, seed: 0 }),
            ("dummy:llama-3-70b?seed=7", ModelRef::Dummy { preset: Preset::Llama3_70b, seed: 7 }),
        ];
        for (text, expected) in cases {
            let parsed: ModelRef = text.parse().unwrap();
            assert_eq!(parsed, expected);
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn a_reference_to_nothing_says_what_is_understood() {
        let bad = [
            "",
            "gpt9",
            "a/b/c",
            "a/../b",
            "org/name@",
            "org/na me",
            "dummy:huge",
            "dummy:tiny?seed=x",
            "a/b@../c",
        ];
        for text in bad {
            let error = text.parse::<ModelRef>().unwrap_err().to_string();
            assert!(error.contains("is no model reference") && error.contains("dummy:tiny"), "{error}");
        }
    }
}
