//! Checkpoints from a model hub, through hf-hub: only the files needed, all of one commit, resumed where a download broke off.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::tokio::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::safetensors::{INDEX, Layout, SINGLE, read_index};
use super::{HubOptions, LoadError, LoadOptions, digest};

const POLICY: &str = "tokenizer_config.json";
/// Tries of one file. Every try resumes, so this bounds interruptions per file, not its size.
const ATTEMPTS: u32 = 5;

/// A checkpoint's files of one commit, on disk.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) folder: PathBuf,
    pub(super) commit: String,
}

/// Downloads what is missing of a checkpoint. A commit that is already complete in the cache costs no request if it is named by its hash;
/// a branch or tag is looked up, and the cached commit is taken if the hub cannot be reached.
pub(super) fn fetch(id: &str, revision: Option<&str>, options: &LoadOptions) -> Result<Snapshot, LoadError> {
    let hub = Hub::new(id, revision.unwrap_or("main"), options);
    let cached = hub.cached();
    match (cached, options.offline) {
        (Some(snapshot), true) => Ok(snapshot),
        // Another client may have left out the tokenizer's policy; most models have one, so it is looked for.
        (Some(snapshot), false)
            if snapshot.commit == hub.revision && snapshot.folder.join(POLICY).is_file() =>
        {
            Ok(snapshot)
        }
        (None, true) => Err(LoadError::Offline {
            what: format!("{id} at {}", hub.revision),
            cache: hub.cache.path().clone(),
        }),
        (cached, false) => match (hub.listing(), cached) {
            (Err(error @ LoadError::Hub { .. }), Some(snapshot)) => {
                tracing::warn!(%error, commit = snapshot.commit, "the hub cannot be reached; the cached commit is used");
                Ok(snapshot)
            }
            (listing, _) => hub.download(&listing?),
        },
    }
}

/// A commit and the names of its files.
struct Listing {
    commit: String,
    files: Vec<String>,
}

struct Hub<'a> {
    id: &'a str,
    revision: &'a str,
    options: &'a HubOptions,
    token: Option<String>,
    cache: Cache,
    progress: bool,
    /// Folder in which digests are remembered.
    digests: &'a Path,
}

impl<'a> Hub<'a> {
    fn new(id: &'a str, revision: &'a str, options: &'a LoadOptions) -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let hub = &options.hub;
        let cache =
            hub.cache_dir.clone().or_else(|| var("HF_HUB_CACHE").map(PathBuf::from)).unwrap_or_else(|| {
                let home = var("HF_HOME")
                    .map(PathBuf::from)
                    .or_else(|| Some(PathBuf::from(var("HOME")?).join(".cache/huggingface")));
                home.unwrap_or_else(|| options.cache_dir.clone()).join("hub")
            });
        let cache = Cache::new(cache);
        let token = hub.token.clone().or_else(|| var("HF_TOKEN")).or_else(|| cache.token());
        Self {
            id,
            revision,
            options: hub,
            token,
            cache,
            progress: options.progress,
            digests: &options.cache_dir,
        }
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.to_owned(), RepoType::Model, revision.to_owned())
    }

    /// The cached snapshot of the revision, if it is complete.
    fn cached(&self) -> Option<Snapshot> {
        let repo = self.cache.repo(self.repo(self.revision));
        // A commit need not have a ref of its own.
        let by_ref = repo.get("config.json").and_then(|config| Some(config.parent()?.to_owned()));
        let folder = by_ref.unwrap_or_else(|| repo.pointer_path(self.revision));
        let commit = folder.file_name()?.to_str()?.to_owned();
        let here = |name: &str| folder.join(name).is_file();
        let shards = match Layout::of(here)? {
            Layout::Single { .. } => vec![SINGLE.to_owned()],
            Layout::Sharded => read_index(&folder).ok()?.into_iter().collect(),
        };
        let needed = ["config.json", "tokenizer.json"].into_iter().chain(shards.iter().map(String::as_str));
        needed.into_iter().all(here).then_some(Snapshot { folder, commit })
    }

    /// What the revision holds.
    fn listing(&self) -> Result<Listing, LoadError> {
        let info = self.retried("the list of files", self.revision, async |repo| repo.info().await)?;
        Ok(Listing { commit: info.sha, files: info.siblings.into_iter().map(|s| s.rfilename).collect() })
    }

    fn download(&self, listing: &Listing) -> Result<Snapshot, LoadError> {
        let has = |name: &str| listing.files.iter().any(|f| f == name);
        let lacking = |file: &str, why| LoadError::NotOnHub {
            id: self.id.to_owned(),
            revision: listing.commit.clone(),
            file: file.to_owned(),
            why,
        };
        for file in ["config.json", "tokenizer.json"] {
            if !has(file) {
                return Err(lacking(file, "it is no checkpoint in the transformers format"));
            }
        }
        // The tokenizer's policy first: a snapshot counts as complete without it.
        for file in [POLICY, "chat_template.jinja", "generation_config.json"] {
            if has(file) {
                self.file(listing, file)?;
            }
        }
        let further = |file: &&String| {
            let name = file.strip_prefix("additional_chat_templates/");
            name.and_then(|name| name.strip_suffix(".jinja")).is_some_and(|name| !name.contains('/'))
        };
        for file in listing.files.iter().filter(further) {
            self.file(listing, file)?;
        }
        let weights = match Layout::of(has) {
            Some(Layout::Single { .. }) => vec![SINGLE.to_owned()],
            Some(Layout::Sharded) => {
                let index = self.file(listing, INDEX)?;
                let folder = index.parent().map(Path::to_owned).unwrap_or_default();
                read_index(&folder)?.into_iter().collect()
            }
            None => return Err(lacking(SINGLE, "other weight formats are not read")),
        };
        self.file(listing, "tokenizer.json")?;
        let config = self.file(listing, "config.json")?;
        for shard in &weights {
            if !has(shard) {
                return Err(lacking(shard, "its index names it"));
            }
            let path = self.file(listing, shard)?;
            verify(&path, self.digests)?;
        }
        let folder = config.parent().map(Path::to_owned).unwrap_or_default();
        // Downloads name the commit; this lets the branch or tag be found without the hub.
        let repo = self.cache.repo(self.repo(self.revision));
        repo.create_ref(&listing.commit).map_err(LoadError::io("write", self.cache.path()))?;
        Ok(Snapshot { folder, commit: listing.commit.clone() })
    }

    /// One file of the listing's commit, from the cache or the hub.
    fn file(&self, listing: &Listing, name: &str) -> Result<PathBuf, LoadError> {
        let cached = self.cache.repo(self.repo(&listing.commit)).pointer_path(&listing.commit).join(name);
        if cached.is_file() {
            return Ok(cached);
        }
        self.retried(name, &listing.commit, async |repo| repo.download(name).await)
    }

    /// Asks the hub, again after failures that may pass.
    fn retried<T: Send>(
        &self,
        file: &str,
        revision: &str,
        ask: impl AsyncFn(&ApiRepo) -> Result<T, ApiError> + Sync,
    ) -> Result<T, LoadError> {
        let mut attempt = 1;
        loop {
            let error = match self.once(revision, &ask) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let status = status(&error);
            match status {
                Some(401 | 403) => {
                    let (id, with_token) = (self.id.to_owned(), self.token.is_some());
                    return Err(LoadError::Gated { id, status: status.unwrap_or(401), with_token });
                }
                Some(404) => {
                    return Err(LoadError::NoSuchRevision {
                        id: self.id.to_owned(),
                        revision: self.revision.to_owned(),
                    });
                }
                _ => {}
            }
            let passing = status.is_none_or(|s| s == 408 || s == 429 || s >= 500);
            if attempt == ATTEMPTS || !passing {
                let (id, file) = (self.id.to_owned(), file.to_owned());
                return Err(LoadError::Hub { id, file, attempts: attempt, why: with_causes(&error) });
            }
            tracing::debug!(%error, file, attempt, "a request to the hub failed and is tried again");
            std::thread::sleep(Duration::from_millis(100 << attempt));
            attempt += 1;
        }
    }

    /// One try, on a runtime of its own on a thread of its own: the caller may be inside another runtime, and what a failed try
    /// leaves running ends with it.
    fn once<T: Send>(
        &self,
        revision: &str,
        ask: &(impl AsyncFn(&ApiRepo) -> Result<T, ApiError> + Sync),
    ) -> Result<T, ApiError> {
        let stated = std::env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty());
        let builder = match self.options.endpoint.clone().or(stated) {
            Some(endpoint) => ApiBuilder::from_cache(self.cache.clone())
                .with_endpoint(endpoint.trim_end_matches('/').to_owned()),
            None => ApiBuilder::from_cache(self.cache.clone()),
        };
        let builder = builder
            .with_token(self.token.clone())
            .with_progress(self.progress)
            .with_chunk_size(Some(self.options.chunk_bytes))
            .with_user_agent("mediant", env!("CARGO_PKG_VERSION"));
        let repo = self.repo(revision);
        std::thread::scope(|scope| {
            let tried = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async { ask(&builder.build()?.repo(repo)).await })
            });
            tried.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => error.status().map(|s| s.as_u16()),
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

/// An error and what caused it; the library's own text stops at "error sending request".
fn with_causes(error: &ApiError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Large files are named in the cache by their SHA-256, which tells whether what arrived (perhaps in several pieces) is what was
/// sent. Costs a read of the file once; the digest is remembered in the folder `digests`.
fn verify(path: &Path, digests: &Path) -> Result<(), LoadError> {
    let blob = path.canonicalize().map_err(LoadError::io("open", path))?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.len() != 64 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    let got = digest::remembered(&blob, digests)?;
    if got == name {
        return Ok(());
    }
    for damaged in [path, &blob] {
        std::fs::remove_file(damaged).map_err(LoadError::io("remove", damaged))?;
    }
    Err(LoadError::Hash { file: path.display().to_string(), expected: name, got })
}
