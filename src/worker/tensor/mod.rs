//! Tensors of a job, on the host, with torch's names, views, dtypes and errors.
//!
//! A tensor is a window ([`View`]) on a storage that other tensors may show as well, so that writes through one are seen
//! through the others, as in torch. [`call`] runs an operation by its name.

#![expect(clippy::float_cmp, reason = "numbers that torch compares are compared as it does")]

mod args;
mod array;
mod dtype;
mod heap;
mod index;
mod ops;
mod print;
mod random;
mod value;
mod view;

pub use array::{Array, Data};
pub use dtype::{Dtype, Weight, result_type};
pub use heap::{Budget, Heap};
pub use index::{Written, places};
pub use ops::{call, constant, is_served, served, silu};
pub use value::{Id, Kind, Stop, TorchError, Value};
pub use view::{Places, View, broadcast, count};
