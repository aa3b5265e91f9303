//! What a set of activations is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;
use crate::spec::dtype::Dtype;
use crate::spec::site::Site;

/// `act_` and 32 hexadecimal digits; later ones sort after earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ActivationId(String);

impl ActivationId {
    const PREFIX: &'static str = "act_";

    /// One that nobody has.
    pub(super) fn new() -> Self {
        Self(format!("{}{}", Self::PREFIX, uuid::Uuid::now_v7().simple()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ActivationId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match text.strip_prefix(Self::PREFIX) {
            Some(rest) if rest.len() == 32 && rest.bytes().all(hex) => Ok(Self(text.to_owned())),
            _ => Err(()),
        }
    }
}

impl TryFrom<String> for ActivationId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map_err(|()| "not an activation's id")
    }
}

impl From<ActivationId> for String {
    fn from(id: ActivationId) -> Self {
        id.0
    }
}

impl fmt::Display for ActivationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stored set of activations: everything but its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Its handle.
    #[schema(value_type = String, example = "act_019aaf3c5b5f7c62a1a52a7f6f0f9a11")]
    pub id: ActivationId,
    /// A name given by its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who may use it.
    pub owner: String,
    /// The model it is of.
    pub model: String,
    /// SHA-256 of that model's weights, in hex.
    pub model_sha: String,
    /// Where in the model.
    pub site: Site,
    /// The layer of each step of the first axis; null if it is of none, or of any.
    pub layers: Option<Vec<u32>>,
    /// The position of each step of the second axis; null if it is of none in particular.
    pub positions: Option<Vec<u32>>,
    /// The token at each position, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<TokenAt>>,
    /// Number of tokens of the prompt that it was captured from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    /// How the width is divided into heads, at per-head sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<HeadLayout>,
    /// Layers, positions, width.
    pub shape: [usize; 3],
    /// Number format.
    pub dtype: Dtype,
    /// Bytes of the numbers.
    pub bytes: u64,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When it is deleted.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Whether its numbers are verified whenever they are read. Those of sets that an earlier version stored cannot be.
    #[serde(default)]
    #[schema(required = true)]
    pub verified: bool,
    /// Where it came from.
    pub origin: Origin,
}

/// A token of the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ActivationToken)]
pub struct TokenAt {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// `[heads, width]` within a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadLayout {
    /// Number of heads.
    pub count: usize,
    /// Numbers per head.
    pub width: usize,
}

/// Where a set came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// Captured from a run.
    Captured(Captured),
    /// Uploaded by its owner.
    Uploaded,
    /// A mean over prompts, computed here.
    Mean(Mean),
}

/// How many prompts a mean is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ActivationMean)]
pub struct Mean {
    /// Prompts averaged.
    pub prompts: u32,
    /// Prompts whose mean was subtracted; null if none was.
    pub minus: Option<u32>,
}

/// The run that a set was captured from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Captured {
    /// Id of the result.
    pub result: String,
    /// Name of the run in its request.
    pub run: String,
}

/// A set that is to be stored. Shapes and widths have been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// See [`Activation::name`].
    pub name: Option<String>,
    /// See [`Activation::model`].
    pub model: String,
    /// See [`Activation::model_sha`].
    pub model_sha: String,
    /// See [`Activation::site`].
    pub site: Site,
    /// See [`Activation::layers`].
    pub layers: Option<Vec<u32>>,
    /// See [`Activation::positions`].
    pub positions: Option<Vec<u32>>,
    /// See [`Activation::tokens`].
    pub tokens: Option<Vec<TokenAt>>,
    /// See [`Activation::prompt_tokens`].
    pub prompt_tokens: Option<u32>,
    /// See [`Activation::heads`].
    pub heads: Option<HeadLayout>,
    /// See [`Activation::shape`].
    pub shape: [usize; 3],
    /// Format in which it is stored.
    pub dtype: Dtype,
    /// How long it is kept; the default if left out, and never longer than the most.
    pub ttl_s: Option<u64>,
    /// See [`Activation::origin`].
    pub origin: Origin,
    /// The numbers, `[layers, positions, width]`.
    pub values: Vec<f32>,
}

impl Draft {
    /// The set that it becomes, without its numbers.
    pub(super) fn described(&self, owner: &str, created: Timestamp, expires: Timestamp) -> Activation {
        Activation {
            id: ActivationId::new(),
            name: self.name.clone(),
            owner: owner.to_owned(),
            model: self.model.clone(),
            model_sha: self.model_sha.clone(),
            site: self.site,
            layers: self.layers.clone(),
            positions: self.positions.clone(),
            tokens: self.tokens.clone(),
            prompt_tokens: self.prompt_tokens,
            heads: self.heads,
            shape: self.shape,
            dtype: self.dtype,
            bytes: self.values.len() as u64 * self.dtype.bytes(),
            created,
            expires,
            verified: true,
            origin: self.origin.clone(),
        }
    }
}

impl Activation {
    /// Whether lists and shape agree, as [`super::file`] must be sure of before it reads numbers.
    pub(super) fn is_consistent(&self) -> bool {
        let [layers, positions, width] = self.shape;
        let fits = |list: &Option<Vec<u32>>, n: usize| list.as_ref().is_none_or(|list| list.len() == n);
        let elements = layers.checked_mul(positions).and_then(|n| n.checked_mul(width));
        let bytes = elements.and_then(|n| (n as u64).checked_mul(self.dtype.bytes()));
        let tokens = self.tokens.as_ref().is_none_or(|tokens| tokens.len() == positions);
        let heads = self.heads.is_none_or(|heads| heads.count.checked_mul(heads.width) == Some(width));
        let any_layer = self.layers.is_some() || layers == 1;
        bytes == Some(self.bytes)
            && self.bytes > 0
            && fits(&self.layers, layers)
            && fits(&self.positions, positions)
            && any_layer
            && tokens
            && heads
    }
}
