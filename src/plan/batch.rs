//! What the engine gets.
