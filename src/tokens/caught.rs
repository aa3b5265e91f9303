//! Libraries that panic on what a file says.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `f` returns, or what its panic said. For libraries that are given what others wrote and are not always ready for it;
/// they keep nothing that a panic could leave half done.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        format!("the library panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
    })
}
