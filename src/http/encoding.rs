//! In which form a result is answered: `?format=` first, else `Accept`.

use std::fmt;

use axum::http::{HeaderMap, header};

use super::problem::{Kind, Problem};
use crate::result::render::Format;
use crate::spec::words::{likely, nearest};

/// Chooses among `served`, whose order is the server's preference.
///
/// # Errors
/// 422 for a `format` that is unknown or not served here, 406 if `Accept` excludes all that is served.
pub(super) fn negotiate(
    headers: &HeaderMap,
    format: Option<&str>,
    served: &[Format],
) -> Result<Format, Problem> {
    match format {
        Some(name) => named(name, served),
        None => accepted(headers, served),
    }
}

/// Media type without parameters, as matched against `Accept`.
fn essence(format: Format) -> &'static str {
    format.media_type().split(';').next().unwrap_or_default()
}

fn named(name: &str, served: &[Format]) -> Result<Format, Problem> {
    if let Some(found) = served.iter().find(|format| format.name() == name) {
        return Ok(*found);
    }
    let detail = if Format::ALL.iter().any(|format| format.name() == name) {
        format!("`{name}` is not served here")
    } else {
        format!("`{name}` is not a format")
    };
    let hint = nearest(name, served.iter().map(|format| format.name()), likely);
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
fn accepted(headers: &HeaderMap, served: &[Format]) -> Result<Format, Problem> {
    let ranges: Vec<(String, f32)> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(range)
        .collect();
    let mut best: Option<(f32, Format)> = None;
    for &format in served {
        let quality = if ranges.is_empty() { 1.0 } else { quality(essence(format), &ranges) };
        if quality > best.map_or(0.0, |(q, _)| q) {
            best = Some((quality, format));
        }
    }
    best.map(|(_, format)| format).ok_or_else(|| {
        let types: Vec<_> = served.iter().map(|format| essence(*format)).collect();
        Problem::new(
            Kind::NotAcceptable,
            format!("served: {}; or choose by ?format={}", types.join(", "), Names(served)),
        )
        .with("served", types)
    })
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

struct Names<'a>(&'a [Format]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|format| format.name()).collect();
        f.write_str(&names.join("|"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(accept: Option<&str>, format: Option<&str>) -> Result<Format, Problem> {
        let headers = accept.iter().map(|a| (header::ACCEPT, a.parse().unwrap())).collect();
        negotiate(&headers, format, &[Format::Json, Format::Csv, Format::Svg])
    }

    #[test]
    fn the_format_parameter_wins_over_accept() {
        assert_eq!(choose(Some("text/csv"), Some("svg")), Ok(Format::Svg));
        assert_eq!(choose(None, None), Ok(Format::Json));
    }

    #[test]
    fn accept_follows_quality_and_specificity() {
        assert_eq!(choose(Some("*/*"), None), Ok(Format::Json));
        assert_eq!(choose(Some("image/*"), None), Ok(Format::Svg));
        assert_eq!(choose(Some("text/csv;q=0.5, image/svg+xml"), None), Ok(Format::Svg));
        assert_eq!(choose(Some("application/json;q=0, */*;q=0.1"), None), Ok(Format::Csv));
        assert_eq!(choose(Some("TEXT/CSV"), None), Ok(Format::Csv));
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
