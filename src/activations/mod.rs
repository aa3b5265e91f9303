//! Activations kept by the server: captures that need not travel, and vectors that were uploaded.
//!
//! ```text
//! capture | upload -> Draft -> Store::put -> <folder>/act_….safetensors -> Store::find -> ActivationSet -> rows, slices
//! ```
//! A set is one block of one site, `[layers, positions, width]`, with what is needed to know what it is: the model, the
//! layers, the positions and their tokens. It belongs to an owner, lives until it expires, and is never changed.

mod block;
mod file;
mod import;
mod numbers;
mod quota;
mod select;
mod store;
mod sums;
mod time;

pub use block::{Activation, ActivationId, Captured, Draft, HeadLayout, Mean, Origin, TokenAt};
pub use file::{ActivationSet, Reader};
pub use import::import;
pub use numbers::{Numbers, Reading, read};
pub use quota::{Quota, Usage};
pub use select::{Asked, Selection, indices, position_list, position_slot, position_slots};
pub use store::{Clock, Page, Reservation, Store, watch};
pub use sums::checksum_bytes;
pub use time::Timestamp;

/// Why a set was not stored, found or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none of this name, or it belongs to somebody else.
    #[error("there is no activation {id}")]
    Unknown {
        /// What was asked for.
        id: String,
    },
    /// There was one.
    #[error("activation {id} expired at {at}")]
    Expired {
        /// Its id.
        id: String,
        /// When.
        at: Timestamp,
    },
    /// It is of another model.
    #[error("activation {id} is of the model {model} with other weights")]
    Foreign {
        /// Its id.
        id: String,
        /// The model it is of.
        model: String,
    },
    /// The owner, or all owners together, hold too much.
    #[error("{needed} bytes are needed, {used} of {limit} bytes are in use")]
    Quota {
        /// Bytes of what was to be stored.
        needed: u64,
        /// Bytes stored, and promised to requests in flight.
        used: u64,
        /// The most that may be.
        limit: u64,
    },
    /// The disk is full.
    #[error("the disk that holds activations is full")]
    DiskFull,
    /// What is in the file is not what was stored. It is left as it is.
    #[error("activation {id} is damaged on the disk ({why}); capture or upload it again")]
    Damaged {
        /// Its id.
        id: String,
        /// What is wrong with the file.
        why: String,
    },
    /// The folder is no longer the one that was opened: what is stored now would be lost.
    #[error("{0}")]
    Displaced(crate::disk::Displaced),
    /// The file system failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StoreError {
    /// A failure of the file system; a full disk is told apart.
    pub(self) fn io(doing: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull,
            _ => Self::Io { doing, path: path.to_owned(), source },
        }
    }
}
