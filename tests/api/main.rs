//! Black-box tests of the server, in one binary: each module has one subject.

mod connections;
mod openapi;
mod process;
mod support;
