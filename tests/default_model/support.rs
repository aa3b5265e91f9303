//! The model, loaded once, and how far numbers may be from their goldens.

use std::sync::LazyLock;

use mediant::config;
use mediant::service::{Refusal, Service, start};
use serde::Serialize;
use serde_json::Value;

/// The service as `mediant serve` starts it, but for the limit on time: what is not optimised, on a busy machine, takes
/// long. `MEDIANT__MODEL__CACHE_DIR` names another cache.
static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let environment = std::env::vars().filter(|(name, _)| name.starts_with(config::ENV_PREFIX));
    let patient = [("--test", "limits.sync_limit_s", "86400.0".to_owned())];
    start::in_process(&config::load(None, environment, &patient).unwrap().config).unwrap()
});

pub(crate) fn service() -> &'static Service {
    &SERVICE
}

/// A golden file.
pub(crate) fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The answer as a client reads it.
pub(crate) fn answered<R: Serialize>(result: Result<R, Refusal>) -> Value {
    let response = result.unwrap_or_else(|refusal| panic!("{refusal:?}"));
    serde_json::from_slice(&serde_json::to_vec(&response).unwrap()).unwrap()
}

pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        single => vec![number(single)],
    }
}

pub(crate) fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// The largest differences seen, with where.
#[derive(Default)]
pub(crate) struct Worst {
    absolute: (f64, String),
    relative: (f64, String),
    count: usize,
    /// Bound on the relative difference.
    limit: f64,
    /// Goldens at and below this have no relative bound.
    floor: f64,
}

impl Worst {
    /// Probabilities: within 1e-4, and 1e-3 of their own size where that is above 1e-6.
    pub(crate) fn probabilities() -> Self {
        Self { limit: 1e-3, floor: 1e-6, ..Self::default() }
    }

    /// Logits and their like, of which differences count: within 1e-4, whatever their size.
    pub(crate) fn logits() -> Self {
        Self { limit: f64::INFINITY, ..Self::default() }
    }

    pub(crate) fn see(&mut self, got: f64, expected: f64, at: &str) {
        self.count += 1;
        let absolute = (got - expected).abs();
        assert!(absolute <= 1e-4, "{at}: {got}, expected {expected}");
        if absolute > self.absolute.0 {
            self.absolute = (absolute, at.to_owned());
        }
        if expected.abs() > self.floor {
            let relative = absolute / expected.abs();
            assert!(relative <= self.limit, "{at}: {got}, expected {expected}");
            if relative > self.relative.0 {
                self.relative = (relative, at.to_owned());
            }
        }
    }

    /// Says how far off it was, of how many numbers.
    pub(crate) fn tell(&self, what: &str, least: usize) {
        let (absolute, relative) = (&self.absolute, &self.relative);
        println!(
            "{what}: {} numbers, worst {:.1e} ({}), relative {:.1e} ({})",
            self.count, absolute.0, absolute.1, relative.0, relative.1
        );
        assert!(self.count >= least, "{what}: only {} numbers were compared", self.count);
    }
}
