//! What the engine needs of a model: that it computes forward batches, or says why not.

use std::sync::Arc;

use crate::kernels::{Kernels, OutOfMemory};
use crate::model::decoder::Decoder;
use crate::plan::batch::ForwardBatch;
use crate::plan::output::BatchOutput;

/// Whatever computes forward batches.
pub trait Model: Send {
    /// Computes a batch whose indices were checked when it was made.
    ///
    /// # Errors
    /// There is no memory for it, or the model cannot compute any more.
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError>;
}

/// Why a batch was not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A device has no room for it; smaller ones may fit.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// Nothing can be computed any more: what holds the model must go.
    #[error("{0}")]
    Failed(String),
}

impl<M: Model + ?Sized> Model for Box<M> {
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError> {
        (**self).forward(batch)
    }
}

impl<K> Model for Decoder<K>
where
    K: Kernels + Send,
    K::Matrix: Send,
    K::Weight: Send,
    K::Stack: Send,
    K::Table: Send,
    K::Vector: Send,
    K::Rope: Send,
{
    fn forward(&mut self, batch: &Arc<ForwardBatch>) -> Result<BatchOutput, ModelError> {
        Ok(Decoder::forward(self, batch)?)
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
