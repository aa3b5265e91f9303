//! How much may be stored, by whom, and for how long.

use serde::Serialize;
use utoipa::ToSchema;

use super::StoreError;

/// Limits of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Most bytes of all owners together.
    pub total_bytes: u64,
    /// Most bytes of one owner.
    pub owner_bytes: u64,
    /// Seconds that a set is kept if nothing else is asked for.
    pub ttl_default_s: u64,
    /// Most seconds that a set is kept.
    pub ttl_max_s: u64,
}

/// What an owner holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ActivationUsage)]
pub struct Usage {
    /// Bytes of files stored, and of space promised to requests in flight.
    pub used_bytes: u64,
    /// The most that may be.
    pub limit_bytes: u64,
}

impl Quota {
    /// Whether `needed` more bytes fit, where `own` and `all` are in use.
    pub(super) fn admit(&self, needed: u64, own: u64, all: u64) -> Result<(), StoreError> {
        for (used, limit) in [(own, self.owner_bytes), (all, self.total_bytes)] {
            if used.saturating_add(needed) > limit {
                return Err(StoreError::Quota { needed, used, limit });
            }
        }
        Ok(())
    }

    /// Seconds that a set is kept.
    pub(super) fn ttl(&self, asked: Option<u64>) -> u64 {
        asked.unwrap_or(self.ttl_default_s).min(self.ttl_max_s)
    }
}
