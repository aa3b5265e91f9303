//! Student's t: intervals of means whose coverage holds for few cases, too.

use statrs::distribution::{Continuous as _, ContinuousCDF as _, StudentsT};

use super::stats::finite;

/// How many standard errors on each side of a mean hold `level` of Student's t with so many degrees of freedom.
pub fn critical(level: f64, freedom: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let share = 0.5 + level / 2.0;
    // The library's inverse loses digits where there is much freedom; its distribution function does not.
    let improved = |x: f64| x - (t.cdf(x) - share) / t.pdf(x);
    finite(improved(improved(t.inverse_cdf(share))))
}

/// Degrees of freedom of the difference of two means with these standard errors (Welch 1947; Satterthwaite 1946).
pub fn welch(a: (f64, usize), b: (f64, usize)) -> f64 {
    let part = |(se, n): (f64, usize)| se.powi(4) / (n as f64 - 1.0);
    (a.0 * a.0 + b.0 * b.0).powi(2) / (part(a) + part(b))
}

/// The interval of a mean. One without any error has no width.
pub fn interval(mean: f64, se: f64, critical: impl FnOnce() -> Option<f64>) -> Option<[f64; 2]> {
    if se == 0.0 {
        return Some([mean; 2]);
    }
    let half = critical()? * se;
    Some([finite(mean - half)?, finite(mean + half)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    // scipy.stats.t.ppf(0.5 + level / 2, df)
    #[test]
    fn quantiles_are_scipys() {
        for (level, freedom, expected) in [
            (0.95, 1.0, 12.706_204_736_174_694),
            (0.95, 2.0, 4.302_652_729_749_462),
            (0.95, 5.0, 2.570_581_835_636_314_6),
            (0.95, 19.0, 2.093_024_054_408_308_3),
            (0.95, 59.0, 2.000_995_378_088_267),
            (0.9, 10.0, 1.812_461_122_811_675_6),
            (0.99, 3.7, 4.869_252_253_227_828),
            (0.5, 1.0, 1.0),
            (0.999, 1.0, 636.619_248_768_789_7),
            (0.9, 299.5, 1.649_957_206_369_223_4),
            (0.95, 1e3, 1.962_339_080_826_408_3),
            (0.95, 1e5, 1.959_987_707_534_609_5),
            (0.95, 1e6, 1.959_966_356_814_107),
        ] {
            let found = critical(level, freedom).unwrap();
            assert!((found - expected).abs() < 1e-9 * expected, "{level} {freedom}: {found} {expected}");
        }
        assert_eq!(critical(0.95, 0.0), None);
        assert_eq!(critical(0.95, f64::NAN), None);
    }
}
