//! Activations kept between requests: captures that are stored, uploads, and what is read of them.

use std::sync::Arc;

use super::{Refusal, ServedTo, Service};
use crate::activations::{
    Activation, ActivationId, Asked, Captured, Draft, HeadLayout, Origin, Reading, Reservation, Selection,
    Store, StoreError, TokenAt, checksum_bytes, read,
};
use crate::capacity::{Abandoned, Lane, Share};
use crate::lower;
use crate::lower::facts::Facts;
use crate::lower::generate::Generation;
use crate::lower::layout::{CaptureKey, Common};
use crate::owner::Owner;
use crate::plan::output::PlanOutput;
use crate::result::activation::{ActivationList, ActivationNumbers, Reduction};
use crate::result::generate::{GenerateResponse, KeptSteps};
use crate::result::respond::{Kept, Respond};
use crate::result::run::captured;
use crate::spec::activation::UploadSpec;
use crate::spec::dtype::Dtype;
use crate::spec::problem::{Problems, code};

/// Which numbers of a stored set are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NumbersAsked {
    /// Layers, as `0,4:8`.
    pub layers: Option<String>,
    /// Positions.
    pub positions: Option<String>,
    /// Heads.
    pub heads: Option<String>,
    /// Number format; the set's own if left out, f32 for reductions.
    pub dtype: Option<Dtype>,
    /// What is made of them.
    pub reduce: Option<Reduction>,
    /// The other set of a cosine.
    pub cosine: Option<String>,
    /// Whether they are numbers in JSON, whose count is limited.
    pub as_json: bool,
}

impl Service {
    /// Why activations can't be stored at present, if so.
    pub fn unhealthy_store(&self) -> Option<String> {
        self.served.activations.trouble().map(|error| format!("activations cannot be stored: {error}"))
    }

    /// `GET /v1/activations`: at most `limit` of an owner after one of them.
    pub fn activations(&self, owner: &Owner, after: Option<&ActivationId>, limit: usize) -> ActivationList {
        let store = &self.served.activations;
        ActivationList::new(store.list(owner, after, limit), store.usage(owner))
    }

    /// `GET /v1/activations/{id}`, without numbers.
    pub async fn activation(&self, id: String, share: &Share) -> Result<Arc<Activation>, Refusal> {
        let find =
            move |served: &ServedTo, _: &Abandoned| Ok(served.activations.find(&served.owner, &id)?.meta);
        self.off_workers(share, Lane::Prepare, find).await
    }

    /// `DELETE /v1/activations/{id}`
    pub async fn delete_activation(&self, id: String, share: &Share) -> Result<(), Refusal> {
        let delete =
            move |served: &ServedTo, _: &Abandoned| Ok(served.activations.delete(&served.owner, &id)?);
        self.off_workers(share, Lane::Prepare, delete).await
    }

    /// `POST /v1/activations`
    pub async fn upload(&self, mut spec: UploadSpec, share: &Share) -> Result<Arc<Activation>, Refusal> {
        if spec.mean_of.is_some() {
            spec = self.averaged(spec, share).await?;
        }
        let store = move |served: &ServedTo, _: &Abandoned| {
            let draft = lower::upload(spec, served)?;
            Ok(served.activations.put(&served.owner, &draft, None)?)
        };
        self.off_workers(share, Lane::Prepare, store).await
    }

    /// `GET /v1/activations/{id}`, numbers.
    pub async fn numbers(
        &self,
        id: String,
        asked: NumbersAsked,
        share: &Share,
    ) -> Result<ActivationNumbers, Refusal> {
        self.off_workers(share, Lane::Prepare, move |served, _| numbers(served, &id, &asked)).await
    }
}

fn numbers(served: &ServedTo, id: &str, asked: &NumbersAsked) -> Result<ActivationNumbers, Refusal> {
    let set = served.activations.find(&served.owner, id)?;
    let mut out = Problems::default();
    let part = Asked {
        layers: asked.layers.as_deref(),
        positions: asked.positions.as_deref(),
        heads: asked.heads.as_deref(),
    };
    let selection = Selection::of(&set.meta, &part, &mut out);
    let other = match &asked.cosine {
        None => None,
        Some(other) => match served.activations.find(&served.owner, other) {
            Ok(other) if other.meta.shape == set.meta.shape => Some(other),
            Ok(other) => {
                let detail = format!("{:?} here, {:?} there", set.meta.shape, other.meta.shape);
                out.push("?cosine", code::LENGTH_MISMATCH, detail, "name a set of the same shape");
                None
            }
            Err(error @ (StoreError::Io { .. } | StoreError::Damaged { .. })) => return Err(error.into()),
            Err(error) => {
                let code = if matches!(error, StoreError::Expired { .. }) {
                    code::EXPIRED
                } else {
                    code::UNKNOWN_NAME
                };
                out.push("?cosine", code, error.to_string(), "GET /v1/activations lists those there are");
                None
            }
        },
    };
    if asked.reduce.is_some() && asked.cosine.is_some() {
        let detail = "`reduce` and `cosine` exclude each other";
        out.push("?reduce", code::CONFLICT, detail, "leave out one of them");
    }
    let (reading, reduce) = match (&other, asked.reduce) {
        (Some(other), _) => (Reading::Cosine(other), Some(Reduction::Cosine)),
        (None, Some(Reduction::Norm)) => (Reading::Norm, asked.reduce),
        (None, Some(Reduction::Mean)) => (Reading::Mean, asked.reduce),
        (None, _) => (Reading::Values, None),
    };
    let limit = served.limits.capture_elements;
    if let Some(selection) = selection.as_ref().filter(|_| asked.as_json && reduce.is_none())
        && selection.elements() > limit
    {
        let detail = format!("{} numbers as JSON, the limit is {limit}", selection.elements());
        out.push(
            "?format",
            code::LIMIT,
            detail,
            "ask for safetensors or npz, or for fewer layers or positions",
        );
    }
    let selection = out.or(selection)?;
    let dtype = asked.dtype.unwrap_or(if reduce.is_some() { Dtype::F32 } else { set.meta.dtype });
    let numbers = read(&set, &selection, &reading)?;
    Ok(ActivationNumbers::new(set.meta, &selection, reduce, dtype, numbers)?)
}

/// Bytes of a file beside its numbers, their checksums and tokens, at most.
const HEADER_BYTES: u64 = 4096;
/// Bytes of a token in the header, at most: few are longer than this, and they count where they are stored.
const TOKEN_BYTES: u64 = 256;

/// Promises the space that a request's handles are going to take: refused before anything is computed.
pub(super) fn reserve(
    store: &Arc<Store>,
    owner: &Owner,
    layout: &impl Respond,
) -> Result<Option<Reservation>, StoreError> {
    let kept = layout.captures().iter().filter_map(|key| Some((key, key.handle?)));
    let bytes = kept.map(|(key, dtype)| {
        let rows = (key.depth() * key.positions.len()) as u64;
        let tokens = &layout.common().runs.0[key.run].1.0.tokens;
        // Ids, escaped texts and the list of positions.
        let texts = key.positions.iter().map(|p| 64 + 12 * tokens[*p as usize].text.len() as u64);
        let layers = 16 * key.depth() as u64;
        let numbers = rows * key.width as u64 * dtype.bytes();
        numbers + checksum_bytes(numbers) + HEADER_BYTES + layers + texts.sum::<u64>()
    });
    match bytes.sum() {
        0 => Ok(None),
        bytes => store.reserve(owner, bytes).map(Some),
    }
}

/// Stores what was captured for handles, all or nothing, and puts the handles into the response.
pub(super) fn keep<L: Respond>(
    served: &ServedTo,
    layout: &L,
    output: &PlanOutput,
    promised: Option<Reservation>,
    id: &str,
    response: &mut L::Response,
) -> Result<(), StoreError> {
    let mut all = All::new(served, promised);
    for (run, places) in L::kept(response).into_iter().enumerate() {
        let keys = layout.captures().iter().filter(|key| key.run == run);
        for (key, place) in keys.zip(places) {
            let Some(dtype) = key.handle else { continue };
            *place = Some(all.put(&draft(served, layout.common(), key, dtype, output, id))?);
        }
    }
    Ok(())
}

/// Sets that are stored all or not at all.
struct All<'s> {
    served: &'s ServedTo,
    promised: Option<Reservation>,
    kept: Vec<Arc<Activation>>,
}

impl<'s> All<'s> {
    fn new(served: &'s ServedTo, promised: Option<Reservation>) -> Self {
        Self { served, promised, kept: Vec::new() }
    }

    /// Stores one; after a failure none of them is there.
    fn put(&mut self, draft: &Draft) -> Result<Kept, StoreError> {
        let (store, owner) = (&self.served.activations, &self.served.owner);
        match store.put(owner, draft, self.promised.as_mut()) {
            Ok(meta) => {
                let kept = Kept { activation: meta.id.clone(), bytes: meta.bytes, expires: meta.expires };
                self.kept.push(meta);
                Ok(kept)
            }
            Err(error) => {
                // Nobody learns these handles.
                for meta in self.kept.drain(..) {
                    if let Err(error) = store.delete(owner, meta.id.as_str()) {
                        tracing::warn!(%error, "cannot delete what a failed request stored");
                    }
                }
                Err(error)
            }
        }
    }
}

/// Promises the space of what is read of texts for handles, at most.
pub(super) fn reserve_steps(
    store: &Arc<Store>,
    owner: &Owner,
    generation: &Generation,
) -> Result<Option<Reservation>, StoreError> {
    let spec = &generation.spec;
    let texts = spec.branches.len() as u64 * u64::from(spec.samples);
    let kept = generation.reads.captures.iter().filter_map(|key| Some((key, key.handle?)));
    let bytes = kept.map(|(key, dtype)| {
        let steps = (0..spec.max_tokens).filter(|step| key.steps.contains(*step)).count() as u64;
        let layers = key.addresses.len() as u64;
        let numbers = layers * steps * key.width as u64 * dtype.bytes();
        texts * (numbers + checksum_bytes(numbers) + HEADER_BYTES + 16 * layers + TOKEN_BYTES * steps)
    });
    match bytes.sum() {
        0 => Ok(None),
        bytes => store.reserve(owner, bytes).map(Some),
    }
}

/// Stores what was read of texts for handles, all or nothing, and puts the handles into the response.
pub(super) fn keep_steps(
    served: &ServedTo,
    generation: &Generation,
    kept: Vec<KeptSteps>,
    promised: Option<Reservation>,
    response: &mut GenerateResponse,
) -> Result<(), StoreError> {
    let mut all = All::new(served, promised);
    let run = generation.common.runs.get(&generation.spec.base).map(|(run, _)| run);
    for mut one in kept {
        let key = &generation.reads.captures[one.capture];
        let Some(dtype) = key.handle else { continue };
        let last = || run.and_then(|run| run.ids.last()).copied().unwrap_or_default();
        let token = |id: &Option<u32>| {
            let id = id.unwrap_or_else(last);
            TokenAt { id, text: served.words().text(id) }
        };
        let heads = served.config.site_heads(key.site);
        let branch = &generation.branches[one.branch].name;
        let draft = Draft {
            name: None,
            model: served.name.clone(),
            model_sha: served.fingerprint.weights_sha256.clone(),
            site: key.site,
            layers: key.layers.clone(),
            positions: Some(one.steps.iter().map(|step| generation.prompt - 1 + step).collect()),
            tokens: Some(one.tokens.iter().map(token).collect()),
            prompt_tokens: Some(generation.prompt),
            heads: heads.map(|count| HeadLayout { count, width: key.width / count }),
            shape: [key.addresses.len(), one.steps.len(), key.width],
            dtype,
            ttl_s: None,
            origin: Origin::Captured(Captured {
                result: response.id.clone(),
                run: format!("{branch}, sample {}", one.sample),
            }),
            values: std::mem::take(&mut one.values),
        };
        *response.handle_of(&one) = Some(all.put(&draft)?);
    }
    Ok(())
}

fn draft(
    served: &ServedTo,
    common: &Common,
    key: &CaptureKey,
    dtype: Dtype,
    output: &PlanOutput,
    result: &str,
) -> Draft {
    let (name, (run, _)) = &common.runs.0[key.run];
    let token = |position: &u32| {
        let token = &run.tokens[*position as usize];
        TokenAt { id: token.id, text: token.text.clone() }
    };
    let heads = served.config.site_heads(key.site);
    Draft {
        name: None,
        model: served.name.clone(),
        model_sha: served.fingerprint.weights_sha256.clone(),
        site: key.site,
        layers: key.layers.clone(),
        positions: Some(key.positions.clone()),
        tokens: Some(key.positions.iter().map(token).collect()),
        prompt_tokens: Some(run.len()),
        heads: heads.map(|count| HeadLayout { count, width: key.width / count }),
        shape: [key.depth(), key.positions.len(), key.width],
        dtype,
        ttl_s: None,
        origin: Origin::Captured(Captured { result: result.to_owned(), run: name.clone() }),
        values: captured(key, output).copied().collect(),
    }
}
