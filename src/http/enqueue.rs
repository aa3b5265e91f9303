//! Requests that are answered later: because that is asked for, or because they would take too long to wait for.

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::Value;

use super::body::Posted;
use super::prefer::{Wants, accepted, take_async};
use super::{AppState, Problem, json};
use crate::capacity::{Abandoned, Lane, Share};
use crate::jobs::Asked;
use crate::service::Refusal;
use crate::store::job::Kind;

/// The way of a request into the job queue.
pub(super) struct Later<'s> {
    state: &'s AppState,
    kind: Kind,
    /// The body as it came: what was read of it is used up by the time it is wanted again.
    bytes: Bytes,
    share: Share,
    wants: Wants,
}

impl<'s> Later<'s> {
    /// Reads how a request wants to be answered; what is left is its body, and what it holds.
    pub(super) fn of(
        state: &'s AppState,
        parts: &Parts,
        kind: Kind,
        posted: Posted,
    ) -> Result<(Value, Share, Self), Problem> {
        let Posted { mut value, bytes, share } = posted;
        let wants = Wants::of(parts, &mut value)?;
        Ok((value, share.clone(), Self { state, kind, bytes, share, wants }))
    }

    /// Whether a job is asked for.
    pub(super) fn is_wanted(&self) -> bool {
        self.wants.later
    }

    /// The job of a request that was refused for the time that it takes alone; any other refusal stays one.
    pub(super) async fn instead(self, refusal: Refusal) -> Result<Response, Problem> {
        match &refusal {
            Refusal::TooLarge { cost, ceiling }
                if cost.row_layers <= ceiling.row_layers && self.state.jobs().is_ok() =>
            {
                let bytes = self.bytes.clone();
                self.share.resize(bytes.len() as u64 + json::tree_bytes(&bytes)).await?;
                let read = move |_: &Abandoned| {
                    let mut body = json::parse(&bytes, "")?;
                    take_async(&mut body, "").map(|_| body)
                };
                let body = self.share.run(Lane::Prepare, read).await?;
                self.submit(body).await
            }
            _ => Err(refusal.into()),
        }
    }

    /// Makes a job of it.
    pub(super) async fn submit(self, body: Value) -> Result<Response, Problem> {
        let (service, jobs) = (self.state.service()?, self.state.jobs()?);
        let asked = Asked { kind: self.kind, body, key: self.wants.key };
        let submitted = jobs.submit(service, asked, &self.share).await?;
        accepted(jobs, &submitted).await
    }
}
