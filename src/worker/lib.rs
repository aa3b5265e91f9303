//! Where a remote client's code and files are read: one locked process a job, without weights, files or network.
//!
//! A crate of its own, so that nothing in it can reach the engine, the store or other people's data: it knows the server by
//! [`message`]s alone. What a traced block asks of the model leaves it as a [`program::Program`], plain data that the server
//! checks in full before it becomes a plan.

pub mod load;
pub mod message;
pub mod program;
pub mod sandbox;
pub mod save;
pub mod tensor;
pub mod zygote;
