//! The branching forward against an independent reference, against full recompute, and against itself.

mod candle_llama;
mod faulty;
mod goldens;
mod identity;
mod random;
mod tiny;
