//! (module result)
