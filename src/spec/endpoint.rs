//! Whose body is read.

/// An endpoint with a body, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint(pub &'static str);

impl Endpoint {
    /// None: another object that is read the same way.
    pub const OTHER: Self = Self("");

    /// Its path.
    pub const fn path(self) -> &'static str {
        self.0
    }
}
