//! (module load)
