//! Taking requests on: everything that is wrong with one is said before it is stored.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Jobs, outcome};
use crate::capacity::{Abandoned, Lane, Share};
use crate::service::cut::Cuts;
use crate::service::{Refusal, Service};
use crate::spec::canonical::{hex, sorted};
use crate::spec::kind::Kind;
use crate::store::job::{JobId, NewJob, Priority};
use crate::store::{Limits, StoreError, Submitted};

/// Why a request was not taken on.
#[derive(Debug)]
pub enum NotTaken {
    /// It is not valid, or would cost too much.
    Refused(Refusal),
    /// It could not be stored.
    Store(StoreError),
}

impl From<Refusal> for NotTaken {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for NotTaken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A request that is to become a job.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Kind of request.
    pub kind: Kind,
    /// Its body; a data set is written out in it.
    pub body: Value,
    /// `Idempotency-Key`
    pub key: Option<String>,
}

impl Jobs {
    /// Stores a request as a job, if it is valid and not too large.
    pub async fn submit(
        &self,
        service: &Service,
        asked: Asked,
        share: &Share,
    ) -> Result<Submitted, NotTaken> {
        let Asked { kind, body, key } = asked;
        let (priority, body) = (priority(&body), Arc::new(body));
        let ceiling = service.jobs.ceiling();
        let priced = service.price(kind, Arc::clone(&body), ceiling, self.settings.unit_s, share).await?;
        let (cost, cut) = (priced.plan.cost, priced.cut);
        if !ceiling.allows(&cost) {
            return Err(Refusal::TooLarge { cost, ceiling }.into());
        }
        let units = cut.as_ref().map_or([0, 0, 1], Cuts::units);
        let cut = cut.map_or_else(|| "{}".to_owned(), |cut| outcome::text(&cut));
        let text = move |_: &Abandoned| {
            let idempotency = key.map(|key| (key, digest(kind, &body)));
            (body.to_string(), idempotency)
        };
        let (request, idempotency) = share.run(Lane::Prepare, text).await;
        let job = NewJob {
            id: JobId::new(),
            owner: share.owner().to_string(),
            key: share.account().key,
            weight: share.account().weight.hundredths(),
            kind,
            model: service.served.name.clone(),
            model_sha: service.identity(),
            idempotency,
            request,
            cut,
            priority,
            units,
            max_attempts: self.settings.max_attempts,
            keep_s: self.settings.keep_s,
            estimate_s: cost.seconds,
        };
        let account = share.account();
        let limits = Limits {
            queued_per_owner: account.owner_jobs.unwrap_or(self.settings.queued_per_owner),
            queued_per_key: account.key_jobs,
        };
        let submitted = self.store.submit(job, limits).await?;
        if !submitted.replayed {
            tracing::info!(job.id = %submitted.job.id, estimate_s = cost.seconds, units = ?units, "job taken on");
        }
        Ok(submitted)
    }
}

/// Checked when the request was read.
fn priority(body: &Value) -> Priority {
    match body.get("priority").and_then(Value::as_str) {
        Some("low") => Priority::Low,
        Some("high") => Priority::High,
        _ => Priority::Normal,
    }
}

/// SHA-256 of what was asked, whatever the order of its fields.
fn digest(kind: Kind, body: &Value) -> String {
    let mut hash = Sha256::new();
    hash.update(kind.name());
    hash.update(sorted(body).to_string());
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_fields_makes_no_other_request_but_that_of_lists_does() {
        let of = |body| digest(Kind::Sweep, &body);
        assert_eq!(of(json!({"a": {"x": 1, "y": 2}, "b": 3})), of(json!({"b": 3, "a": {"y": 2, "x": 1}})));
        assert_ne!(of(json!({"a": [1, 2]})), of(json!({"a": [2, 1]})));
        assert_ne!(digest(Kind::Run, &json!({})), digest(Kind::Patch, &json!({})));
    }
}
