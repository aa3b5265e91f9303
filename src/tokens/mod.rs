//! (module tokens)
