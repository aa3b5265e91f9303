//! From configuration to a job queue.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Jobs, Settings};
use crate::config::Config;
use crate::service::Service;
use crate::store::{Store, StoreError};

/// Opens the configured store. Units are computed once `service` holds a model.
///
/// # Errors
/// As [`Store::open`].
pub async fn jobs(config: &Config, service: &Arc<OnceLock<Service>>) -> Result<Jobs, StoreError> {
    let place = crate::store::Settings {
        data_dir: config.store.data_dir(),
        url: config.store.url.expose().to_owned(),
    };
    Ok(Jobs::new(Store::open(&place).await?, settings(config), Arc::clone(service)))
}

fn settings(config: &Config) -> Settings {
    let jobs = &config.jobs;
    Settings {
        units_ahead: jobs.units_ahead,
        unit_s: jobs.unit_s,
        lease: Duration::from_secs_f64(jobs.lease_s),
        max_attempts: jobs.max_attempts,
        keep_s: jobs.keep_s,
        queued_per_owner: jobs.queued_per_owner,
        sync_limit: Duration::from_secs_f64(config.limits.sync_limit_s),
    }
}
