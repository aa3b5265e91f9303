//! (module effect)
