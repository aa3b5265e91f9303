//! Responses of `/v1/activations`: lists, and numbers in JSON, `.npz` and safetensors.

use std::collections::BTreeMap;
use std::sync::Arc;

use half::{bf16, f16};
use serde::Serialize;
use utoipa::ToSchema;

use super::common::NdArray;
use super::numbers::metadata_array;
use super::render::{Format, json};
use crate::activations::{Activation, ActivationId, Numbers, Page, Selection, Usage};
use crate::export::array::{ArrayData, EncodeError, NamedArray};
use crate::export::{npz, safetensors};
use crate::spec::dtype::Dtype;
use crate::spec::problem::{Problems, code};
use crate::spec::site::Site;

/// Stored sets, oldest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ActivationList {
    /// Their metadata.
    pub activations: Vec<Activation>,
    /// What to give as `after` for those that follow; null at the end.
    #[schema(value_type = Option<String>)]
    pub next: Option<ActivationId>,
    /// What their owner holds.
    pub usage: Usage,
}

impl ActivationList {
    /// A page and what its owner holds.
    pub fn new(page: Page, usage: Usage) -> Self {
        let sets = page.sets.iter().map(|set| (**set).clone()).collect();
        Self { activations: sets, next: page.next, usage }
    }
}

/// What numbers come down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Euclidean length of each row.
    Norm,
    /// Mean over the positions.
    Mean,
    /// Cosine with another set.
    Cosine,
}

impl Reduction {
    /// Those that are asked for by `reduce`.
    pub const NAMED: [(&'static str, Self); 2] = [("norm", Self::Norm), ("mean", Self::Mean)];
}

/// Numbers of a stored set, or of a part of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ActivationNumbers {
    /// Its handle.
    #[schema(value_type = String)]
    pub id: ActivationId,
    /// Its site.
    pub site: Site,
    /// Layers of the first axis; null if it is of none, or of any.
    pub layers: Option<Vec<u32>>,
    /// Positions of the second axis, or of the mean; null if it is of none in particular.
    pub positions: Option<Vec<u32>>,
    /// Heads whose columns these are, if they were chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Vec<u32>>,
    /// What was made of the numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce: Option<Reduction>,
    /// Names of the axes of `values`.
    pub axes: Vec<&'static str>,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Number format, to which values are rounded.
    pub dtype: Dtype,
    /// The numbers, nested as `shape`; null where not finite.
    #[schema(value_type = serde_json::Value)]
    pub values: NdArray<Option<f32>>,
    /// All that is known of the set.
    #[serde(skip)]
    pub meta: Arc<Activation>,
}

impl ActivationNumbers {
    /// Puts numbers and what they are together.
    ///
    /// # Errors
    /// Finite numbers that `dtype` has no place for.
    pub fn new(
        meta: Arc<Activation>,
        selection: &Selection,
        reduce: Option<Reduction>,
        dtype: Dtype,
        numbers: Numbers,
    ) -> Result<Self, Problems> {
        let rounded = |x: f32| match dtype {
            Dtype::F32 => x,
            Dtype::F16 => f16::from_f32(x).to_f32(),
            Dtype::Bf16 => bf16::from_f32(x).to_f32(),
        };
        let over = numbers.values.iter().filter(|x| x.is_finite() && rounded(**x).is_infinite()).count();
        // Nothing is computed in the set's own format: what it holds as infinite is told as it is.
        if over > 0 {
            let mut problems = Problems::default();
            let detail = format!("{over} numbers are beyond {}", dtype.name());
            problems.push("?dtype", code::OUT_OF_RANGE, detail, "ask for f32");
            return Err(problems);
        }
        let finite = |x: f32| Some(rounded(x)).filter(|x| x.is_finite());
        let values = NdArray::new(&numbers.shape, numbers.values.into_iter().map(finite).collect());
        let part = |names: &Option<Vec<u32>>, places: &[usize]| {
            names.as_ref().map(|names| places.iter().map(|place| names[*place]).collect())
        };
        Ok(Self {
            id: meta.id.clone(),
            site: meta.site,
            layers: part(&meta.layers, &selection.layers),
            positions: part(&meta.positions, &selection.positions),
            heads: selection.heads.as_ref().map(|heads| heads.iter().map(|head| *head as u32).collect()),
            reduce,
            axes: numbers.axes,
            shape: numbers.shape,
            dtype,
            values,
            meta,
        })
    }

    /// As JSON, or as a file: `values`, and `layers`, `positions`, `heads` where there are any. Metadata: `activation`, all that is
    /// known of the set, and `selection`, what these numbers are, both as JSON.
    ///
    /// # Errors
    /// bfloat16 as `.npz`.
    ///
    /// # Panics
    /// On a bug only.
    pub fn render(&self, format: Format) -> Result<Vec<u8>, EncodeError> {
        if format == Format::Json {
            return Ok(json(self));
        }
        let numbers = || self.values.data.iter().map(|x| x.unwrap_or(f32::NAN));
        let data = match self.dtype {
            Dtype::F32 => ArrayData::F32(numbers().collect()),
            Dtype::F16 => ArrayData::F16(numbers().map(f16::from_f32).collect()),
            Dtype::Bf16 => ArrayData::Bf16(numbers().map(bf16::from_f32).collect()),
        };
        let mut arrays = vec![NamedArray { name: "values".to_owned(), shape: self.shape.clone(), data }];
        let lists = [("layers", &self.layers), ("positions", &self.positions), ("heads", &self.heads)];
        for (name, list) in lists {
            let Some(list) = list else { continue };
            let data = ArrayData::I64(list.iter().map(|n| i64::from(*n)).collect());
            arrays.push(NamedArray { name: name.to_owned(), shape: vec![list.len()], data });
        }
        let selection = serde_json::json!({
            "site": self.site, "layers": self.layers, "positions": self.positions, "heads": self.heads,
            "reduce": self.reduce, "axes": self.axes, "dtype": self.dtype,
        });
        let meta = serde_json::to_string(&*self.meta).expect("BUG: metadata have string keys");
        let metadata = BTreeMap::from([
            ("activation".to_owned(), meta),
            ("selection".to_owned(), selection.to_string()),
        ]);
        if format == Format::Npz {
            arrays.push(metadata_array(&metadata));
            npz::write(&arrays)
        } else {
            safetensors::write(&arrays, &metadata)
        }
    }
}
