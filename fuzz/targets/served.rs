//! A server's model, without a server: the one of four layers that the tests of the API serve.

use std::sync::LazyLock;

use mediant::config;
use mediant::owner::Owner;
use mediant::service::{ServedTo, Service, start};

/// Kept while the program runs.
pub(crate) static SERVICE: LazyLock<Service> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap().keep().display().to_string();
    let flags = [
        ("--model", "model.ref", "dummy:tiny".to_owned()),
        ("--data-dir", "store.data_dir", folder),
        ("--threads", "engine.threads", "1".to_owned()),
    ];
    start::in_process(&config::load(None, [], &flags).unwrap().config).unwrap()
});

/// The model as requests of the local owner see it.
pub(crate) fn facts() -> ServedTo {
    SERVICE.served_to(&Owner::local())
}
