//! Files of numbers. A leaf: what enters is [`array::NamedArray`]s or [`csv::Column`]s, what leaves is bytes, and the same
//! input always gives the same bytes.

pub mod array;
pub mod csv;
#[cfg(test)]
mod gallery;
pub mod jsonl;
pub mod npz;
pub mod parquet;
pub mod safetensors;
