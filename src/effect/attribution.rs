//! Direct logit attribution: what each component adds to a logit.

use super::stats::finite;
use crate::lower::layout::AttributionKey;

/// Shares of a logit (or difference of logits), all under the scale of the final norm as it is; nothing but nulls where that norm
/// is not finite. A LayerNorm also takes the mean off each share, which is linear: the shares still add up.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribution {
    /// The logit: the inner product of the direction with the normed residual stream.
    pub logit: Option<f64>,
    /// The embedding's share.
    pub embed: Option<f64>,
    /// The share of the position's embedding; 0 where positions are rotations.
    pub positions: Option<f64>,
    /// The share of the final norm's bias; 0 where it has none.
    pub bias: Option<f64>,
    /// Shares by component of [`AttributionKey::sites`]: `[layers]`, for heads `[layers * heads]`.
    pub components: Vec<Vec<Option<f64>>>,
    /// Shares of attention's biases, `[layers]`, which are no head's; where heads are told apart and there are any.
    pub attention_biases: Option<Vec<Option<f64>>>,
    /// What the shares of embeddings, attention, MLPs and the bias leave of the logit: rounding.
    pub remainder: Option<f64>,
}

/// Works out the shares. `captures`: the plan's.
pub fn attribute(key: &AttributionKey, captures: &[Vec<f32>], layers: usize) -> Attribution {
    let own = &captures[key.first..key.first + 2 + key.sites().len() * layers];
    let (embed, residual) = (&own[0], &own[1]);
    let width = key.direction.len();
    // What the norm takes off a row before it is scaled.
    let centre = |row: &[f32]| {
        if key.centred { row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64 } else { 0.0 }
    };
    let off = centre(residual);
    let squares: f64 = residual.iter().map(|x| (f64::from(*x) - off).powi(2)).sum();
    // The model's own norm adds squares up in f32: beyond that, and where a number is not finite, it has no logit to share out.
    if squares.is_nan() || squares > f64::from(f32::MAX) {
        let none = |rows: &[f32]| vec![None; rows.len() / width];
        let components =
            own[2..].chunks(layers).map(|rows| rows.iter().flat_map(|rows| none(rows)).collect());
        return Attribution {
            logit: None,
            embed: None,
            positions: None,
            bias: None,
            components: components.collect(),
            attention_biases: key.attention_biases.as_deref().map(none),
            remainder: None,
        };
    }
    let scale = 1.0 / (squares / width as f64 + key.eps).sqrt();
    let along = |row: &[f32]| -> f64 {
        let off = centre(row);
        let product = |(x, d): (&f32, &f32)| (f64::from(*x) - off) * f64::from(*d);
        row.iter().zip(key.direction.iter()).map(product).sum::<f64>() * scale
    };
    let each = |rows: &[f32]| -> Vec<f64> { rows.chunks(width).map(along).collect() };
    let components: Vec<Vec<f64>> = own[2..]
        .chunks(layers)
        .map(|component| component.iter().flat_map(|rows| each(rows)).collect())
        .collect();
    let (logit, first) = (along(residual) + key.constant, along(embed));
    let positions = key.positions.as_deref().map_or(0.0, along);
    let sum: f64 = components.iter().take(2).flatten().sum();
    let all_finite = |shares: &[f64]| shares.iter().map(|x| finite(*x)).collect();
    Attribution {
        logit: finite(logit),
        embed: finite(first),
        positions: finite(positions),
        bias: finite(key.constant),
        remainder: finite(logit - first - positions - sum - key.constant),
        components: components.iter().map(|shares| all_finite(shares)).collect(),
        attention_biases: key.attention_biases.as_deref().map(|rows| all_finite(&each(rows))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn shares_are_inner_products_under_one_scale_and_add_up() {
        let key = key(true, [2.0, 1.0].into());
        // embed + attn + mlp = residual (3, 4), of root mean square sqrt(12.5); two heads add up to attn.
        let captures = vec![
            vec![9.0],
            vec![1.0, 0.0],
            vec![3.0, 4.0],
            vec![2.0, 1.0],
            vec![0.0, 3.0],
            vec![2.0, 0.0, 0.0, 1.0],
        ];
        let found = attribute(&key, &captures, 1);
        let scale = 1.0 / 12.5_f64.sqrt();
        let near = |x: Option<f64>, y: f64| assert!((x.unwrap() - y * scale).abs() < 1e-12, "{x:?} {y}");
        near(found.logit, 10.0);
        near(found.embed, 2.0);
        near(found.components[0][0], 5.0);
        near(found.components[1][0], 3.0);
        near(found.components[2][0], 4.0);
        near(found.components[2][1], 1.0);
        near(found.remainder, 0.0);
        assert_eq!((found.positions, found.bias, found.attention_biases), (Some(0.0), Some(0.0), None));
    }

    fn key(heads: bool, direction: Arc<[f32]>) -> AttributionKey {
        AttributionKey {
            run: 0,
            heads,
            position: 0,
            direction,
            eps: 0.0,
            centred: false,
            constant: 0.0,
            positions: None,
            attention_biases: None,
            first: 1,
        }
    }

    #[test]
    fn a_layer_norm_takes_the_mean_off_each_share_and_its_bias_is_a_share_of_its_own() {
        let mut key = key(true, [2.0, 1.0, -1.0].into());
        (key.centred, key.eps) = (true, 1.0 / 3.0);
        key.constant = 0.25;
        key.positions = Some([0.5, 0.5, 2.0].into());
        key.attention_biases = Some([1.0, -1.0, 0.0].into());
        // embed + positions + attn + mlp = (3, 4, 5): mean 4, variance 2 / 3. A head and the bias add up to attn.
        let captures = vec![
            vec![9.0],
            vec![1.0, 0.0, 0.0],
            vec![3.0, 4.0, 5.0],
            vec![1.5, 0.5, 1.0],
            vec![0.0, 3.0, 2.0],
            vec![0.5, 1.5, 1.0],
        ];
        let found = attribute(&key, &captures, 1);
        let near = |x: Option<f64>, y: f64| assert!((x.unwrap() - y).abs() < 1e-12, "{x:?} {y}");
        // The scale is 1. Centred: residual (-1, 0, 1), embed (2, -1, -1) / 3, positions (-0.5, -0.5, 1).
        near(found.logit, -3.0 + 0.25);
        near(found.embed, 4.0 / 3.0);
        near(found.positions, -2.5);
        near(found.bias, 0.25);
        near(found.components[0][0], 0.5 * 2.0 - 0.5);
        near(found.components[1][0], (-5.0 * 2.0 + 4.0 - 1.0) / 3.0);
        near(found.remainder, 0.0);
        let (heads, bias) = (found.components[2][0].unwrap(), found.attention_biases.unwrap()[0].unwrap());
        near(found.components[0][0], heads + bias);
    }

    #[test]
    fn what_the_final_norm_cannot_scale_has_no_shares() {
        let key = AttributionKey { first: 0, ..key(true, [2.0, 1.0].into()) };
        for bad in [f32::NAN, f32::INFINITY, 2e19] {
            let captures =
                [vec![1.0, 0.0], vec![bad, 4.0], vec![2.0, 1.0], vec![0.0, 3.0], vec![2.0, 0.0, 0.0, 1.0]];
            let found = attribute(&key, &captures, 1);
            assert_eq!((found.logit, found.embed, found.remainder), (None, None, None), "{bad}");
            assert_eq!(found.components, [vec![None], vec![None], vec![None; 2]], "{bad}");
        }
    }
}
