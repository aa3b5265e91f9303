//! Requests that are answered later: because that is asked for, or because they would take too long to wait for.

use axum::http::request::Parts;
use axum::response::Response;
use serde_json::Value;

use super::wants::{Wants, accepted};
use super::{AppState, Problem};
use crate::jobs::Asked;
use crate::service::Refusal;
use crate::store::job::Kind;

/// The way of a request into the job queue.
pub(super) struct Later<'s> {
    state: &'s AppState,
    kind: Kind,
    body: Value,
    wants: Wants,
}

impl<'s> Later<'s> {
    /// Reads how a request wants to be answered; what is left is its body.
    pub(super) fn of(
        state: &'s AppState,
        parts: &Parts,
        kind: Kind,
        mut body: Value,
    ) -> Result<(Value, Self), Problem> {
        let wants = Wants::of(parts, &mut body)?;
        Ok((body.clone(), Self { state, kind, body, wants }))
    }

    /// The job, if one is asked for.
    pub(super) async fn at_once(&self) -> Result<Option<Response>, Problem> {
        if self.wants.later { self.submit().await.map(Some) } else { Ok(None) }
    }

    /// The job of a request that was refused for the time that it takes alone; any other refusal stays one.
    pub(super) async fn instead(self, refusal: Refusal) -> Result<Response, Problem> {
        match &refusal {
            Refusal::TooLarge { cost, ceiling }
                if cost.row_layers <= ceiling.row_layers && self.state.jobs().is_ok() =>
            {
                self.submit().await
            }
            _ => Err(refusal.into()),
        }
    }

    async fn submit(&self) -> Result<Response, Problem> {
        let (service, jobs) = (self.state.service()?, self.state.jobs()?);
        let asked = Asked { kind: self.kind, body: self.body.clone(), key: self.wants.key.clone() };
        let submitted = jobs.submit(service, asked).await?;
        accepted(jobs, &submitted).await
    }
}
