//! Direct logit attribution: what each component adds to a logit.

use super::stats::finite;
use crate::lower::layout::AttributionKey;

/// Shares of a logit (or difference of logits), all under the scale of the final norm as it is; nothing but nulls where that norm
/// is not finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribution {
    /// The logit: the inner product of the direction with the normed residual stream.
    pub logit: Option<f64>,
    /// The embedding's share.
    pub embed: Option<f64>,
    /// Shares by component of [`AttributionKey::sites`]: `[layers]`, for heads `[layers * heads]`.
    pub components: Vec<Vec<Option<f64>>>,
    /// What the shares of embedding, attention and MLP leave of the logit: rounding.
    pub remainder: Option<f64>,
}

/// Works out the shares. `captures`: the plan's; `eps`: of the final norm.
pub fn attribute(key: &AttributionKey, captures: &[Vec<f32>], layers: usize, eps: f64) -> Attribution {
    let own = &captures[key.first..key.first + 2 + key.sites().len() * layers];
    let (embed, residual) = (&own[0], &own[1]);
    let squares: f64 = residual.iter().map(|x| f64::from(*x).powi(2)).sum();
    // The model's own norm adds squares up in f32: beyond that, and where a number is not finite, it has no logit to share out.
    if squares.is_nan() || squares > f64::from(f32::MAX) {
        let none = |rows: &Vec<f32>| vec![None; rows.len() / key.direction.len()];
        let components = own[2..].chunks(layers).map(|rows| rows.iter().flat_map(none).collect());
        return Attribution { logit: None, embed: None, components: components.collect(), remainder: None };
    }
    let scale = 1.0 / (squares / residual.len() as f64 + eps).sqrt();
    let along = |row: &[f32]| -> f64 {
        row.iter().zip(key.direction.iter()).map(|(x, d)| f64::from(*x) * f64::from(*d)).sum::<f64>() * scale
    };
    let width = key.direction.len();
    let components: Vec<Vec<f64>> = own[2..]
        .chunks(layers)
        .map(|component| component.iter().flat_map(|rows| rows.chunks(width).map(along)).collect())
        .collect();
    let (logit, first) = (along(residual), along(embed));
    let sum: f64 = components.iter().take(2).flatten().sum();
    Attribution {
        logit: finite(logit),
        embed: finite(first),
        remainder: finite(logit - first - sum),
        components: components.iter().map(|shares| shares.iter().map(|x| finite(*x)).collect()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_inner_products_under_one_scale_and_add_up() {
        let key = AttributionKey { run: 0, heads: true, position: 0, direction: [2.0, 1.0].into(), first: 1 };
        // embed + attn + mlp = residual (3, 4), of root mean square sqrt(12.5); two heads add up to attn.
        let captures = vec![
            vec![9.0],
            vec![1.0, 0.0],
            vec![3.0, 4.0],
            vec![2.0, 1.0],
            vec![0.0, 3.0],
            vec![2.0, 0.0, 0.0, 1.0],
        ];
        let found = attribute(&key, &captures, 1, 0.0);
        let scale = 1.0 / 12.5_f64.sqrt();
        let near = |x: Option<f64>, y: f64| assert!((x.unwrap() - y * scale).abs() < 1e-12, "{x:?} {y}");
        near(found.logit, 10.0);
        near(found.embed, 2.0);
        near(found.components[0][0], 5.0);
        near(found.components[1][0], 3.0);
        near(found.components[2][0], 4.0);
        near(found.components[2][1], 1.0);
        near(found.remainder, 0.0);
    }

    #[test]
    fn what_the_final_norm_cannot_scale_has_no_shares() {
        let key = AttributionKey { run: 0, heads: true, position: 0, direction: [2.0, 1.0].into(), first: 0 };
        for bad in [f32::NAN, f32::INFINITY, 2e19] {
            let captures =
                [vec![1.0, 0.0], vec![bad, 4.0], vec![2.0, 1.0], vec![0.0, 3.0], vec![2.0, 0.0, 0.0, 1.0]];
            let found = attribute(&key, &captures, 1, 0.0);
            assert_eq!((found.logit, found.embed, found.remainder), (None, None, None), "{bad}");
            assert_eq!(found.components, [vec![None], vec![None], vec![None; 2]], "{bad}");
        }
    }
}
