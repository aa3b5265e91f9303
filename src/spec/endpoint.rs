//! Whose body is read.

/// An endpoint with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/run`
    Run,
    /// `POST /v1/lens`
    Lens,
    /// `POST /v1/patch`
    Patch,
    /// `POST /v1/trace`
    Trace,
    /// `POST /v1/generate`
    Generate,
    /// `POST /v1/sweep`
    Sweep,
    /// `POST /v1/align`
    Align,
    /// `POST /v1/tokenize`
    Tokenize,
    /// `POST /v1/activations`
    Activations,
    /// `POST /v1/datasets`
    Datasets,
    /// None of these: another object that is read the same way.
    Other,
}

impl Endpoint {
    /// Every one whose body has a schema.
    pub const ALL: [Self; 10] = [
        Self::Run,
        Self::Lens,
        Self::Patch,
        Self::Trace,
        Self::Generate,
        Self::Sweep,
        Self::Align,
        Self::Tokenize,
        Self::Activations,
        Self::Datasets,
    ];

    /// Its path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Run => "/v1/run",
            Self::Lens => "/v1/lens",
            Self::Patch => "/v1/patch",
            Self::Trace => "/v1/trace",
            Self::Generate => "/v1/generate",
            Self::Sweep => "/v1/sweep",
            Self::Align => "/v1/align",
            Self::Tokenize => "/v1/tokenize",
            Self::Activations => "/v1/activations",
            Self::Datasets => "/v1/datasets",
            Self::Other => "",
        }
    }
}
