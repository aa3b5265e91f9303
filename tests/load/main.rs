//! Opening models from outside: the default model against transformers, folders, and a hub over HTTP.

mod default_model;
mod folder;
mod hub;
mod made;
