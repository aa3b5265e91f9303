//! Where a remote client's code and files are read: one locked process a job, without weights, files or network.
//!
//! A crate of its own, so that nothing in it can reach the engine, the store or other people's data: it knows the server by
//! [`message`]s alone. What a traced block asks of the model leaves it as a [`program::Program`], plain data that the server
//! checks in full before it becomes a plan.
//!
//! A job is two processes: the worker ([`job`]), which holds the tensors ([`tensor`], [`taps`]), and an evaluator, which runs the
//! block in a locked Python without any (`shim/`, forked by a [`zygote`]).

pub mod bulk;
pub mod evaluator;
pub mod job;
pub mod load;
pub mod message;
pub mod program;
pub mod sandbox;
pub mod save;
pub mod taps;
pub mod tensor;
pub mod wait;
pub mod zygote;

// what computes programs in the tests of this crate, inside and outside of it
#[cfg(test)]
extern crate self as mediant_worker;
#[cfg(test)]
#[path = "tests/fake/mod.rs"]
#[allow(unreachable_pub, reason = "the tests outside of the crate use it too")]
mod fake;
