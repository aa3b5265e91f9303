//! Numbers out of JSON responses, and their means.

use serde_json::Value;

use crate::result::scale::significant;

/// Mean and standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mean {
    pub(super) mean: f64,
    /// `None` for fewer than two values.
    pub(super) se: Option<f64>,
}

impl Mean {
    /// Of the values that are there; `None` if none is.
    pub(super) fn of(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().flatten().collect();
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        Some(Self { mean, se: (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()) })
    }
}

/// Three significant digits; a dash for what is not there.
pub(super) fn short(x: Option<f64>) -> String {
    x.map_or_else(|| "–".to_owned(), |x| significant(x, 3))
}

/// The same with a sign.
pub(super) fn signed(x: Option<f64>) -> String {
    let sign = if x.is_some_and(|x| x > 0.0) { "+" } else { "" };
    format!("{sign}{}", short(x))
}

/// Mean ± standard error, as many decimals as the error has at two digits.
pub(super) fn with_error(m: Option<Mean>) -> String {
    match m {
        Some(Mean { mean, se: Some(se) }) => format!("{} ± {}", signed(Some(mean)), significant(se, 2)),
        m => signed(m.map(|m| m.mean)),
    }
}

/// Every number of a JSON array of any depth, in order; null is `None`.
pub(super) fn flat(value: &Value) -> Vec<Option<f64>> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        other => vec![other.as_f64()],
    }
}

/// A JSON array's items; none for anything else.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
