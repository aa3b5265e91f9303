//! In which form a result is answered: `?format=` first, else `Accept`.

use std::fmt;

use axum::http::{HeaderMap, header};

use super::problem::{Kind, Problem};
use crate::config::nearest;

/// Forms of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The whole answer.
    Json,
    /// Numbers as a table.
    Csv,
    /// Numbers as NumPy arrays.
    Npz,
    /// Numbers as named tensors.
    Safetensors,
    /// A table, one JSON object a line.
    Jsonl,
    /// A table by columns.
    Parquet,
    /// Picture.
    Svg,
    /// Picture.
    Png,
}

impl Encoding {
    /// All forms; an endpoint serves some of them.
    pub const ALL: [Self; 8] = [
        Self::Json,
        Self::Csv,
        Self::Npz,
        Self::Safetensors,
        Self::Jsonl,
        Self::Parquet,
        Self::Svg,
        Self::Png,
    ];

    /// Name in `?format=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Npz => "npz",
            Self::Safetensors => "safetensors",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }

    /// Value of `Content-Type`.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Npz => "application/x-npz",
            Self::Safetensors => "application/vnd.safetensors",
            Self::Jsonl => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Svg => "image/svg+xml",
            Self::Png => "image/png",
        }
    }

    /// Whether it is text, which becomes much shorter when it is compressed.
    pub(super) const fn is_text(self) -> bool {
        matches!(self, Self::Json | Self::Csv | Self::Jsonl | Self::Svg)
    }

    /// Media type without parameters, as matched against `Accept`.
    fn essence(self) -> &'static str {
        self.media_type().split(';').next().unwrap_or_default()
    }

    /// Chooses among `served`, whose order is the server's preference.
    ///
    /// # Errors
    /// 422 for a `format` that is unknown or not served here, 406 if `Accept` excludes all that is served.
    pub fn negotiate(headers: &HeaderMap, format: Option<&str>, served: &[Self]) -> Result<Self, Problem> {
        match format {
            Some(name) => Self::named(name, served),
            None => Self::accepted(headers, served),
        }
    }

    fn named(name: &str, served: &[Self]) -> Result<Self, Problem> {
        if let Some(found) = served.iter().find(|encoding| encoding.name() == name) {
            return Ok(*found);
        }
        let detail = if Self::ALL.iter().any(|encoding| encoding.name() == name) {
            format!("`{name}` is not served here")
        } else {
            format!("`{name}` is not a format")
        };
        let hint = nearest(name, served.iter().map(|encoding| encoding.name()));
        let fix = match hint {
            Some(close) => format!("did you mean `{close}`? Served: {}", Names(served)),
            None => format!("use one of {}", Names(served)),
        };
        Err(Problem::new(Kind::InvalidRequest, format!("?format: {detail}; {fix}")).error(
            "?format",
            "unknown_format",
            detail,
            fix,
        ))
    }

    /// RFC 9110 section 12.5.1: the most specific range that matches a type gives its quality; absence accepts all.
    fn accepted(headers: &HeaderMap, served: &[Self]) -> Result<Self, Problem> {
        let ranges: Vec<(String, f32)> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(range)
            .collect();
        let mut best: Option<(f32, Self)> = None;
        for &encoding in served {
            let quality = if ranges.is_empty() { 1.0 } else { quality(encoding.essence(), &ranges) };
            if quality > best.map_or(0.0, |(q, _)| q) {
                best = Some((quality, encoding));
            }
        }
        best.map(|(_, encoding)| encoding).ok_or_else(|| {
            let types: Vec<_> = served.iter().map(|encoding| encoding.essence()).collect();
            Problem::new(
                Kind::NotAcceptable,
                format!("served: {}; or choose by ?format={}", types.join(", "), Names(served)),
            )
            .with("served", types)
        })
    }
}

/// `type/subtype;q=0.5` to the range and its quality.
fn range(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.contains('/'))?.to_ascii_lowercase();
    let quality = parts.find_map(|p| p.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
    Some((range, quality.clamp(0.0, 1.0)))
}

fn quality(essence: &str, ranges: &[(String, f32)]) -> f32 {
    let major = essence.split('/').next().unwrap_or_default();
    let find = |wanted: &str| ranges.iter().find(|(range, _)| range == wanted).map(|(_, quality)| *quality);
    find(essence).or_else(|| find(&format!("{major}/*"))).or_else(|| find("*/*")).unwrap_or(0.0)
}

struct Names<'a>(&'a [Encoding]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|encoding| encoding.name()).collect();
        f.write_str(&names.join("|"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(accept: Option<&str>, format: Option<&str>) -> Result<Encoding, Problem> {
        let headers = accept.iter().map(|a| (header::ACCEPT, a.parse().unwrap())).collect();
        Encoding::negotiate(&headers, format, &[Encoding::Json, Encoding::Csv, Encoding::Svg])
    }

    #[test]
    fn the_format_parameter_wins_over_accept() {
        assert_eq!(choose(Some("text/csv"), Some("svg")), Ok(Encoding::Svg));
        assert_eq!(choose(None, None), Ok(Encoding::Json));
    }

    #[test]
    fn accept_follows_quality_and_specificity() {
        assert_eq!(choose(Some("*/*"), None), Ok(Encoding::Json));
        assert_eq!(choose(Some("image/*"), None), Ok(Encoding::Svg));
        assert_eq!(choose(Some("text/csv;q=0.5, image/svg+xml"), None), Ok(Encoding::Svg));
        assert_eq!(choose(Some("application/json;q=0, */*;q=0.1"), None), Ok(Encoding::Csv));
        assert_eq!(choose(Some("TEXT/CSV"), None), Ok(Encoding::Csv));
    }

    #[test]
    fn what_is_not_served_is_406_or_422_and_lists_what_is() {
        let problem = choose(Some("application/pdf, application/json;q=0"), None).unwrap_err();
        assert_eq!(problem.kind, Kind::NotAcceptable);
        assert!(problem.detail.contains("image/svg+xml"), "{}", problem.detail);
        let problem = choose(None, Some("png")).unwrap_err();
        assert_eq!((problem.kind, problem.errors[0].pointer.as_str()), (Kind::InvalidRequest, "?format"));
        assert!(problem.detail.contains("json|csv|svg"));
        assert!(choose(None, Some("SVG")).is_err() && choose(None, Some("")).is_err());
    }
}
