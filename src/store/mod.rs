//! What outlives the process: jobs with their units, events and results, and datasets. In SQLite in the data folder, or in
//! PostgreSQL where several processes share the work.
//!
//! Every change is one transaction. A job is acknowledged only after its own is committed and synced; a unit counts only
//! once its numbers are committed with it.

pub mod job;
