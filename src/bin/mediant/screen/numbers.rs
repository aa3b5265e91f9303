//! Numbers out of JSON responses, and their means.

use serde_json::Value;

use mediant::draw::scale::significant;

/// Mean and standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mean {
    pub(crate) mean: f64,
    /// `None` for fewer than two values.
    pub(crate) se: Option<f64>,
}

impl Mean {
    /// Of the values that are there; `None` if none is.
    pub(crate) fn of(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
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

impl Mean {
    /// Whether it lies more than two standard errors from 0.
    pub(crate) fn is_clear(&self) -> bool {
        self.se.is_some_and(|se| self.mean.abs() > 2.0 * se)
    }
}

/// Three significant digits; a dash for what is not there.
pub(crate) fn short(x: Option<f64>) -> String {
    x.map_or_else(|| "–".to_owned(), |x| significant(x, 3))
}

/// The same with a sign.
pub(crate) fn signed(x: Option<f64>) -> String {
    let sign = if x.is_some_and(|x| x > 0.0) { "+" } else { "" };
    format!("{sign}{}", short(x))
}

/// Mean ± standard error, both with as many decimals as the error has at two digits.
pub(crate) fn with_error(m: Option<Mean>) -> String {
    match m {
        Some(Mean { mean, se: Some(se) }) if (1e-6..1e3).contains(&se) => {
            let decimals = (1 - se.log10().floor() as i32).max(0) as usize;
            let sign = if mean < 0.0 { '−' } else { '+' };
            format!("{sign}{:.decimals$} ± {se:.decimals$}", mean.abs())
        }
        m => signed(m.map(|m| m.mean)),
    }
}

/// Every number of a JSON array of any depth, in order; null is `None`.
pub(crate) fn flat(value: &Value) -> Vec<Option<f64>> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        other => vec![other.as_f64()],
    }
}

/// A JSON array's items; none for anything else.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mean_has_the_standard_error_of_what_is_there() {
        let mean = Mean::of([Some(1.0), None, Some(3.0)]).unwrap();
        assert!((mean.mean - 2.0).abs() < 1e-12 && (mean.se.unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(Mean::of([None]), None);
        assert_eq!(Mean::of([Some(5.0)]), Some(Mean { mean: 5.0, se: None }));
    }

    #[test]
    fn mean_and_error_have_the_same_decimals() {
        let text = |mean, se| with_error(Some(Mean { mean, se: Some(se) }));
        assert_eq!(text(0.0039, 0.0181), "+0.004 ± 0.018");
        assert_eq!(text(-0.163, 0.019), "−0.163 ± 0.019");
        assert_eq!(text(12.3, 45.6), "+12 ± 46");
        assert_eq!(with_error(Some(Mean { mean: -0.5, se: None })), "−0.5");
        assert_eq!(with_error(None), "–");
    }

    #[test]
    fn arrays_are_flattened_in_order_and_null_stays() {
        assert_eq!(flat(&json!([[1.0, null], [3.0]])), [Some(1.0), None, Some(3.0)]);
    }
}
