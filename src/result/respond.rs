//! How what was computed of a request becomes its answer.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::common::Envelope;
use crate::activations::{ActivationId, Timestamp};
use crate::lower::facts::Facts;
use crate::lower::layout::{ArmLayout, CaptureKey};
use crate::lower::request::Layout;
use crate::plan::RunId;
use crate::plan::output::PlanOutput;
use crate::spec::problem::Problems;

/// What a plan gave.
#[derive(Debug, Default)]
pub struct Computed {
    /// Its numbers.
    pub output: PlanOutput,
    /// For each readout the run whose row it really is.
    pub resolved: Vec<RunId>,
    /// What came of [`Respond::again`].
    pub again: Option<PlanOutput>,
}

/// Activations that the server keeps instead of returning them.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = KeptActivation)]
pub struct Kept {
    /// Their handle, for `{"source": {"activation": ..}}` and `/v1/activations`.
    #[schema(value_type = String)]
    pub activation: ActivationId,
    /// Bytes of the numbers.
    pub bytes: u64,
    /// When they are deleted.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
}

/// What a layout has to tell before it is computed whole.
#[derive(Default)]
pub struct Live<'l> {
    /// Its arms, each with what it is, by name.
    pub arms: Vec<(&'l str, Value, &'l ArmLayout)>,
    /// Readouts of the corrupted run.
    pub corrupted: &'l [usize],
    /// What only it has.
    pub more: Map<String, Value>,
}

/// A layout whose numbers have an answer.
pub trait Respond: Layout {
    /// The answer.
    type Response: Serialize + Send + 'static;

    /// Whether anything is to be computed.
    fn is_computed(&self) -> bool {
        true
    }

    /// The readouts without which there is no answer; `None`: all.
    fn required(&self) -> Option<Vec<usize>> {
        None
    }

    /// Readouts that are scored once more when the numbers are there, because it depends on these which tokens are wanted.
    fn again(&self) -> Vec<usize> {
        Vec::new()
    }

    /// The tokens that are wanted then.
    fn wanted_again(&self, _: &PlanOutput) -> Vec<u32> {
        Vec::new()
    }

    /// What is told of it before it is computed whole.
    fn live(&self) -> Live<'_> {
        Live::default()
    }

    /// Puts the answer together.
    ///
    /// # Errors
    /// What the request expected did not come about.
    fn respond(
        &self,
        computed: &Computed,
        facts: &dyn Facts,
        envelope: Envelope,
    ) -> Result<Self::Response, Problems>;

    /// What is captured, some of it to be kept.
    fn captures(&self) -> &[CaptureKey] {
        &[]
    }

    /// For each run, where an answer says of its captures how they are kept.
    fn kept(_: &mut Self::Response) -> Vec<Vec<&mut Option<Kept>>> {
        Vec::new()
    }
}
