//! What is served: models, and what can be done with them.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::NotFound;
use super::{AppState, Kind, NoQuery, Problem};
use crate::config::Sharing;
use crate::load::Fingerprint;
use crate::lower::facts::Limits;
use crate::model::config::ModelConfig;
use crate::plan::cost::Ceiling;
use crate::result::render::Format;
use crate::service::Service;
use crate::spec::corruption::{self, MethodFacts, Rng};
use crate::spec::dtype::Dtype;
use crate::spec::metric::{METRICS, MetricFacts, Of, Unit};
use crate::spec::op::{OPS, OpFacts, Sourced};
use crate::spec::patch::{Control, SweepAxis};
use crate::spec::site::Site;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(models)).routes(routes!(model)).routes(routes!(capabilities))
}

/// The models served.
#[derive(Debug, Serialize, ToSchema)]
struct Models {
    /// One each.
    models: Vec<Model>,
}

/// A served model.
#[derive(Debug, Serialize, ToSchema)]
struct Model {
    /// Name to give as `model`.
    id: String,
    /// Shape and constants.
    config: ModelConfig,
    /// Number of weights, norms and biases left out.
    parameters: usize,
    /// Format of weights and activations.
    dtype: Dtype,
    /// Where it is computed.
    device: String,
    /// What exactly was loaded.
    fingerprint: Fingerprint,
    /// What its files leave open or contradict themselves in, and what was made of it; empty in most cases.
    warnings: Vec<String>,
    /// How prompts become tokens.
    tokenizer: TokenizerFacts,
    /// Standard deviation of all embedding entries: `sigma` of `{"k": ..., "of": "vocab"}`.
    vocab_sigma: f64,
    /// Most rows of one forward batch.
    row_budget: usize,
    /// Positions of texts that are being written whose keys and values fit on the devices: prompts and what is written after them, of all
    /// requests. `engine.key_bytes` sets it; `/metrics` says how many are free.
    text_positions: usize,
    /// Bytes that these take, of all devices.
    text_positions_bytes: u64,
    /// Speed measured at start, in floating-point operations a second.
    flops_per_second: f64,
}

/// How prompts become tokens.
#[derive(Debug, Serialize, ToSchema)]
struct TokenizerFacts {
    /// Number of tokens.
    vocab_size: usize,
    /// The BOS token, if there is one.
    bos: Option<u32>,
    /// Whether prompts get a BOS unless `bos` says otherwise.
    adds_bos: bool,
    /// Tokens at which a text ends.
    ends: Vec<u32>,
    /// Names of the chat templates; empty if the model has none, and then takes no `messages`.
    chat_templates: Vec<String>,
}

impl Model {
    fn of(service: &Service) -> Self {
        let (served, ready) = (&service.served, service.engine.ready());
        let (bos, adds_bos) = served.tokenizer.bos();
        Self {
            id: served.name.clone(),
            parameters: served.config.parameters(),
            config: served.config.clone(),
            dtype: served.dtype,
            device: ready.device(),
            fingerprint: served.fingerprint.clone(),
            warnings: served.warnings.clone(),
            tokenizer: TokenizerFacts {
                vocab_size: served.tokenizer.vocab_size(),
                bos,
                adds_bos,
                ends: served.tokenizer.ends().to_vec(),
                chat_templates: served.tokenizer.chat().map_or_else(Vec::new, |chat| chat.names().to_vec()),
            },
            vocab_sigma: served.vocab_sigma(),
            row_budget: ready.budget.rows,
            text_positions: ready.key_slots(),
            text_positions_bytes: ready.key_bytes(),
            flops_per_second: ready.budget.flops_per_second,
        }
    }
}

/// Models served
#[utoipa::path(get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "The models", body = Models), Problem))]
async fn models(state: State<AppState>, _: NoQuery) -> Result<Json<Models>, Problem> {
    Ok(Json(Models { models: vec![Model::of(state.service()?)] }))
}

/// One model
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models",
    params(("id" = String, Path, description = "Name of the model; slashes percent-encoded")),
    responses((status = 200, description = "The model", body = Model),
              NotFound, Problem))]
async fn model(state: State<AppState>, _: NoQuery, Path(id): Path<String>) -> Result<Json<Model>, Problem> {
    let service = state.service()?;
    if !service.served.answers_to(&id) {
        let detail = format!("{id:?} is not served here; served: {:?}", service.served.model());
        return Err(Problem::new(Kind::NotFound, detail));
    }
    Ok(Json(Model::of(service)))
}

/// What this server can do.
#[derive(Debug, Serialize, ToSchema)]
struct Capabilities {
    /// Places to read and write in this model, in the order of computation.
    sites: Vec<SiteFacts>,
    /// What interventions can do.
    ops: Vec<Operation>,
    /// What can be measured.
    metrics: Vec<MetricOf>,
    /// How the clean run can be corrupted.
    corruptions: Vec<CorruptionMethod>,
    /// Generators of noise.
    generators: [Rng; 2],
    /// Axes that a patch can sweep.
    sweep: Vec<&'static str>,
    /// Controls.
    controls: Vec<&'static str>,
    /// Forms of results.
    formats: Vec<&'static str>,
    /// What one request may ask for.
    limits: Limits,
    /// What one request may cost.
    ceiling: Ceiling,
    /// Whose answers are found again, not computed (`usage.cached`). Where it is `all`, how long an answer takes may tell that
    /// somebody asked the same before.
    cache: Sharing,
}

/// A site of this model.
#[derive(Debug, Serialize, ToSchema)]
struct SiteFacts {
    /// Its name.
    site: Site,
    /// Numbers per position; null at `scores` and `pattern`, which have one per head and key.
    width: Option<usize>,
    /// Heads that can be named, if any.
    heads: Option<usize>,
    /// Layers it exists in; 0 outside of the layers.
    layers: usize,
    /// Whether it can be written.
    editable: bool,
    /// The number that tells its noise from that of other sites: n of op `noise`.
    stream: u32,
}

/// An operation.
#[derive(Debug, Serialize, ToSchema)]
struct Operation {
    /// Its name.
    op: &'static str,
    /// The fields of an intervention that belong to it.
    fields: &'static [&'static str],
    /// Whether it takes its values from a `source`.
    source: Sourced,
    /// What the literature calls it; empty if it has no name there.
    known_as: &'static str,
    /// What it does.
    means: &'static str,
}

/// A metric.
#[derive(Debug, Serialize, ToSchema)]
struct MetricOf {
    /// Its name.
    metric: &'static str,
    /// How it is written: `logit_diff:A-B`.
    form: String,
    /// What it is of.
    of: Of,
    /// What its numbers are.
    unit: Unit,
    /// Its least value; null where there is none.
    min: Option<f64>,
    /// Its greatest value; null where there is none.
    max: Option<f64>,
    /// What it is.
    means: &'static str,
}

/// A method of corruption.
#[derive(Debug, Serialize, ToSchema)]
struct CorruptionMethod {
    /// Its name.
    method: &'static str,
    /// The fields of a corruption that belong to it.
    fields: Vec<&'static str>,
    /// Who used it, or what it is called; empty if neither is known.
    known_as: &'static str,
    /// What it does.
    means: &'static str,
}

impl Operation {
    fn of(facts: &OpFacts) -> Self {
        let OpFacts { name, fields, source, known_as, means, .. } = *facts;
        Self { op: name, fields, source, known_as, means }
    }
}

impl MetricOf {
    fn of(facts: &MetricFacts) -> Self {
        let MetricFacts { name, of, unit, bounds: [min, max], means, .. } = *facts;
        Self { metric: name, form: facts.form(), of, unit, min, max, means }
    }
}

impl CorruptionMethod {
    fn of(facts: &MethodFacts) -> Self {
        let MethodFacts { name, known_as, means, .. } = *facts;
        Self { method: name, fields: facts.fields.to_vec(), known_as, means }
    }
}

/// What can be asked of this server
#[utoipa::path(get, path = "/v1/capabilities", tag = "models",
    responses((status = 200, description = "Sites, operations, metrics, limits", body = Capabilities), Problem))]
async fn capabilities(state: State<AppState>, _: NoQuery) -> Result<Json<Capabilities>, Problem> {
    let service = state.service()?;
    let config = &service.served.config;
    let sites = Site::ALL.into_iter().filter(|site| config.absent(*site).is_none());
    let sites = sites.map(|site| SiteFacts {
        site,
        width: (!site.is_over_keys()).then(|| config.site_width(site, 0)),
        heads: config.site_heads(site),
        layers: if site.has_layer() { config.num_layers } else { 0 },
        editable: site.is_editable(),
        stream: site.facts().stream,
    });
    Ok(Json(Capabilities {
        sites: sites.collect(),
        ops: OPS.iter().map(Operation::of).collect(),
        metrics: METRICS.iter().map(MetricOf::of).collect(),
        corruptions: corruption::METHODS.iter().map(CorruptionMethod::of).collect(),
        generators: [Rng::Philox, Rng::NumpyLegacy],
        sweep: SweepAxis::ALL.map(|(name, _)| name).to_vec(),
        controls: Control::ALL.map(|(name, _)| name).to_vec(),
        formats: Format::ALL.iter().map(|format| format.name()).collect(),
        limits: service.served.limits.clone(),
        ceiling: service.ceiling,
        cache: state.config.cache.share,
    }))
}
