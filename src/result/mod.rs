//! Responses, and what they look like as pictures and files.
//!
//! [`render`] answers a request in a format: [`pictures`], [`files`] and [`tables`] say what a response shows. How it is drawn
//! and written is the business of [`crate::draw`] and [`crate::export`], which know no response.

pub mod activation;
pub mod align;
mod arm;
pub mod asked_cells;
pub mod cases;
pub mod cases_render;
pub mod class_view;
pub mod common;
pub mod dry_run;
pub mod inside;
pub mod files;
pub mod format;
pub mod generate;
pub mod live;
pub mod numbers;
pub mod patch;
mod phrases;
pub mod pictures;
pub mod plates;
pub mod render;
pub mod respond;
#[cfg(test)]
mod render_tests;
mod rows;
pub mod run;
mod run_plates;
pub mod surprisal;
pub mod sweep;
pub mod tables;
pub mod texts;
pub mod trace;
