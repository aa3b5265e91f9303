//! Who the server takes the client for.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{AppState, Caller, NoQuery, Problem};
use crate::keys::{KeyView, LimitsView, Scope};
use crate::owner::{Account, Whose};
use crate::usage;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(me))
}

/// Who asks, what they may do, and what they have here.
#[derive(Debug, Serialize, ToSchema)]
struct Me {
    /// Whose the requests are; `local` where no key is needed.
    #[schema(example = "alice")]
    owner: String,
    /// The key of this request; null where none is needed.
    key: Option<KeyView>,
    /// What it may do beside reading what is the owner's.
    scopes: Vec<Scope>,
    /// Share of the engine beside others who wait, too: the key's, or its owner's.
    weight: f64,
    /// What the owner may have, by whatever key; null: any number. `key.limits` hold beside them.
    limits: LimitsView,
    /// What the owner has here, by whatever key.
    in_use: InUse,
    /// What was computed for the owner today (UTC), by whatever key; null where no key is needed, and until the model is loaded.
    today: Option<Today>,
}

/// What an owner has used today.
#[derive(Debug, Serialize, ToSchema)]
struct Today {
    /// Requests with a body.
    requests: u64,
    /// Rows times layers that were computed.
    row_layers: u64,
    /// The most of these on a day; null: any number.
    row_layers_limit: Option<u64>,
    /// Seconds of the engine.
    seconds: f64,
    /// Seconds until all of this begins at 0 again.
    resets_s: u64,
    /// What of it was with this key.
    key: KeyToday,
}

/// What was computed with a key today.
#[derive(Debug, Serialize, ToSchema)]
struct KeyToday {
    /// Requests with a body.
    requests: u64,
    /// Rows times layers that were computed.
    row_layers: u64,
    /// Seconds of the engine.
    seconds: f64,
}

/// What an owner has.
#[derive(Debug, Serialize, ToSchema)]
struct InUse {
    /// Jobs.
    jobs: JobsInUse,
    /// Data sets.
    datasets: DatasetsInUse,
    /// Activations; null until the model is loaded.
    activations: Option<crate::activations::Usage>,
}

/// Jobs that are not over.
#[derive(Debug, Serialize, ToSchema)]
struct JobsInUse {
    /// Of which nothing has been computed.
    queued: u64,
    /// The most of these.
    queued_limit: u32,
    /// That are being computed.
    running: u64,
}

/// Stored data sets.
#[derive(Debug, Serialize, ToSchema)]
struct DatasetsInUse {
    /// How many.
    count: u64,
    /// Bytes of their cases.
    bytes: u64,
}

/// Who asks
///
/// The owner and the key of this request, and what the owner has on this server.
#[utoipa::path(get, path = "/v1/me", tag = "keys",
    responses((status = 200, description = "Owner, key and what is in use", body = Me), Problem))]
async fn me(state: State<AppState>, caller: Caller, _: NoQuery) -> Result<Response, Problem> {
    let stored = state.jobs()?.store.in_use(&caller.owner).await?;
    // Without keys all can be done but making keys.
    let all =
        || Scope::ALL.into_iter().map(|(_, scope)| scope).filter(|scope| *scope != Scope::Admin).collect();
    let key = caller.key.as_deref();
    let of_owner = key.map(|key| key.owner_terms).unwrap_or_default();
    // Without keys nobody is counted.
    let limits = LimitsView {
        requests: key.map(|_| of_owner.requests.unwrap_or(state.config.limits.owner_requests)),
        jobs: Some(of_owner.jobs.unwrap_or(state.config.jobs.queued_per_owner)),
        row_layers_day: key.and(of_owner.row_layers_day.or(state.config.limits.row_layers_day())),
    };
    let Account { weight, .. } = caller.account();
    let today = state.service.get().zip(key).map(|(service, key)| {
        let used = service.ledger.used(&Whose::Owner(caller.owner.clone()));
        let with_key = service.ledger.used(&key.whose());
        Today {
            requests: used.requests,
            row_layers: used.row_layers,
            row_layers_limit: limits.row_layers_day,
            seconds: used.seconds,
            resets_s: usage::today().1,
            key: KeyToday {
                requests: with_key.requests,
                row_layers: with_key.row_layers,
                seconds: with_key.seconds,
            },
        }
    });
    let me = Me {
        today,
        weight: weight.number(),
        limits,
        owner: caller.owner.to_string(),
        key: caller.key.as_deref().map(KeyView::of),
        scopes: caller.key.as_ref().map_or_else(all, |key| key.scopes.list()),
        in_use: InUse {
            jobs: JobsInUse {
                queued: stored.queued,
                queued_limit: of_owner.jobs.unwrap_or(state.config.jobs.queued_per_owner),
                running: stored.running,
            },
            datasets: DatasetsInUse { count: stored.datasets, bytes: stored.dataset_bytes },
            activations: state.service.get().map(|service| service.served.activations.usage(&caller.owner)),
        },
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(me)).into_response())
}
