//! Numbers worked out by hand, and what intervals promise.

#![allow(
    clippy::float_cmp,
    clippy::panic,
    reason = "numbers that binary fractions hold are equal to the bit"
)]

mod coverage;
mod derived;
mod lints;
mod measure;
