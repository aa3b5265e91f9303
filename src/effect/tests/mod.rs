//! Numbers worked out by hand.

#![allow(
    clippy::float_cmp,
    clippy::panic,
    reason = "numbers that binary fractions hold are equal to the bit"
)]

mod aggregate;
mod derived;
mod lints;
mod measure;
