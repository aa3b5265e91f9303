//! Numbers to colours, ticks and short texts. All of it is total: no input panics, infinities included.

/// A colour in sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rgb(pub u8, pub u8, pub u8);

impl std::fmt::Display for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// The colour of zero.
pub const NEUTRAL: Rgb = Rgb(246, 246, 246);
/// The colour of a cell without a value.
pub const MISSING: Rgb = Rgb(190, 190, 190);

// Anchors at 0, 1/8, .. 1, laid out in OKLab: lightness falls linearly from 0.97 to 0.36 on both sides, so equal
// magnitudes look equally strong; hues blue and red stay apart in every common form of colour blindness.
// A table of bytes, mixed linearly, so that the bytes are the same on every machine.
const NEGATIVE: [Rgb; 9] = [
    NEUTRAL,
    Rgb(197, 225, 244),
    Rgb(151, 203, 241),
    Rgb(109, 179, 234),
    Rgb(73, 154, 222),
    Rgb(45, 129, 203),
    Rgb(28, 104, 179),
    Rgb(21, 81, 149),
    Rgb(21, 59, 115),
];
const POSITIVE: [Rgb; 9] = [
    NEUTRAL,
    Rgb(249, 212, 194),
    Rgb(248, 177, 147),
    Rgb(240, 142, 107),
    Rgb(226, 108, 74),
    Rgb(206, 77, 49),
    Rgb(179, 50, 35),
    Rgb(148, 30, 28),
    Rgb(113, 19, 25),
];

/// The diverging colour of `t` in -1 (blue) .. 0 (near white) .. 1 (red). Outside: the end's colour; NaN: neutral.
pub fn diverging(t: f64) -> Rgb {
    if t.is_nan() {
        return NEUTRAL;
    }
    let side = if t < 0.0 { &NEGATIVE } else { &POSITIVE };
    let at = t.abs().min(1.0) * 8.0;
    let below = (at.floor() as usize).min(7);
    let part = at - below as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + part * (f64::from(b) - f64::from(a))).round() as u8;
    let (Rgb(r0, g0, b0), Rgb(r1, g1, b1)) = (side[below], side[below + 1]);
    Rgb(mix(r0, r1), mix(g0, g1), mix(b0, b1))
}

/// The colour of a text that reads on `ground`.
pub fn ink(ground: Rgb) -> &'static str {
    // Rec. 709 luma of gamma-coded bytes.
    let luma = 0.2126 * f64::from(ground.0) + 0.7152 * f64::from(ground.1) + 0.0722 * f64::from(ground.2);
    if luma > 140.0 { "#111" } else { "#fff" }
}

/// `value / max` within -1 ..= 1, for a scale whose end is `max`; 0 where the scale has no extent.
pub fn relative(value: f64, max: f64) -> f64 {
    if max > 0.0 { (value / max).clamp(-1.0, 1.0) } else { 0.0 }
}

/// The largest magnitude among the finite values; `None` where there is none.
pub fn max_abs(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.filter(|value| value.is_finite()).map(f64::abs).reduce(f64::max)
}

/// Round numbers covering `lo ..= hi`: the first is at most `lo`, the last at least `hi`, about `count` in all.
/// Bounds may come in any order; non-finite ones count as 0, and an empty interval is widened to 1.
pub fn nice_ticks(lo: f64, hi: f64, count: usize) -> Vec<f64> {
    let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
    let (a, b) = (finite(lo), finite(hi));
    let (mut lo, mut hi) = (a.min(b), a.max(b));
    if lo >= hi {
        (lo, hi) = if lo == 0.0 { (0.0, 1.0) } else { (lo.min(0.0), hi.max(0.0)) };
    }
    let rough = (hi / 2.0 - lo / 2.0) / count.max(1) as f64 * 2.0;
    let power = 10f64.powi(rough.log10().floor() as i32);
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= rough * 0.999);
    // At the edges of f64 there is no round step: the bounds themselves are the ticks.
    let Some(step) = step.filter(|step| step.is_normal()) else {
        return if lo < 0.0 && hi > 0.0 { vec![lo, 0.0, hi] } else { vec![lo, hi] };
    };
    let (first, last) = ((lo / step + 1e-9).floor() as i64, (hi / step - 1e-9).ceil() as i64);
    let ticks: Vec<f64> = (first..=last).take(64).map(|i| i as f64 * step).collect();
    if ticks.iter().all(|tick| tick.is_finite()) && ticks.len() > 1 { ticks } else { vec![lo, hi] }
}

/// The ticks' texts, all with the same number of decimals, as few as tell neighbours apart.
pub fn tick_labels(ticks: &[f64]) -> Vec<String> {
    let max = max_abs(ticks.iter().copied()).unwrap_or(0.0);
    if max >= 1e6 || (max > 0.0 && max < 1e-3) {
        return ticks.iter().map(|tick| significant(*tick, 3)).collect();
    }
    let decimals = (0..=12).find(|d| {
        ticks.iter().all(|tick| {
            let rounded: f64 = format!("{tick:.d$}", d = *d).parse().unwrap_or(*tick);
            (rounded - tick).abs() <= 1e-9 * max
        })
    });
    let decimals = decimals.unwrap_or(3);
    ticks.iter().map(|tick| minus(&format!("{:.decimals$}", tick + 0.0))).collect()
}

/// The five ticks of a symmetric scale, from `-max` to `max`, with texts of three significant digits of `max`.
pub fn symmetric_ticks(max: f64) -> [(f64, String); 5] {
    let text = |value: f64| match exponent(max) {
        _ if value == 0.0 => "0".to_owned(),
        Some(exp @ -3..=4) => minus(&format!("{value:.*}", usize::try_from(2 - exp).unwrap_or(0))),
        _ => significant(value, 3),
    };
    [-1.0, -0.5, 0.0, 0.5, 1.0].map(|part| (part * max, text(part * max)))
}

/// `value` with `digits` significant digits, as a person would write it: `0.656`, `−12.3`, `4.1×10⁻⁶`.
/// Trailing zeros of a fraction go.
pub fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return minus(&format!("{value}"));
    }
    let digits = digits.clamp(1, 17);
    let Some(exp) = exponent_of(value, digits) else {
        return "0".to_owned();
    };
    if (-4..=5).contains(&exp) {
        let decimals = usize::try_from(digits as i32 - 1 - exp).unwrap_or(0);
        return minus(trim_zeros(&format!("{value:.decimals$}")));
    }
    let text = format!("{value:.*e}", digits - 1);
    let mantissa = text.split_once('e').map_or(text.as_str(), |(mantissa, _)| mantissa);
    let raised: String = exp.to_string().chars().map(superscript).collect();
    format!("{}×10{raised}", minus(trim_zeros(mantissa)))
}

/// Power of ten of the leading digit, after rounding to three digits; `None` for 0 and non-finite numbers.
fn exponent(value: f64) -> Option<i32> {
    exponent_of(value, 3)
}

fn exponent_of(value: f64, digits: usize) -> Option<i32> {
    if value == 0.0 || !value.is_finite() {
        return None;
    }
    format!("{value:.*e}", digits - 1).split_once('e').and_then(|(_, exp)| exp.parse().ok())
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// A typographic minus, as wide as a digit; no minus before a zero.
fn minus(text: &str) -> String {
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text.to_owned(),
    }
}

const fn superscript(c: char) -> char {
    match c {
        '-' => '⁻',
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        '9' => '⁹',
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "equality to the bit is what is promised")]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_neutral_at_zero_and_extreme_at_its_ends() {
        assert_eq!(diverging(0.0), NEUTRAL);
        assert_eq!(diverging(-0.0), NEUTRAL);
        assert_eq!(diverging(f64::NAN), NEUTRAL);
        assert_eq!(diverging(1.0), POSITIVE[8]);
        assert_eq!(diverging(-1.0), NEGATIVE[8]);
        assert_eq!(diverging(f64::INFINITY), POSITIVE[8]);
        assert_eq!(diverging(0.125), POSITIVE[1]);
        assert_eq!(diverging(0.5).to_string(), "#e26c4a");
    }

    #[test]
    fn both_sides_darken_steadily_and_equally() {
        // Rec. 709 luma of gamma-coded bytes: enough to see that the order holds in greyscale too.
        let luma = |Rgb(r, g, b): Rgb| 0.2126 * f64::from(r) + 0.7152 * f64::from(g) + 0.0722 * f64::from(b);
        for i in 0..100 {
            let t = f64::from(i) / 100.0;
            for sign in [1.0, -1.0] {
                assert!(luma(diverging(sign * t)) > luma(diverging(sign * (t + 0.01))), "{t} {sign}");
            }
            assert!((luma(diverging(t)) - luma(diverging(-t))).abs() < 24.0, "{t}");
        }
    }

    #[test]
    fn numbers_read_as_a_person_writes_them() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (0.6561, "0.656"),
            (0.0004, "0.0004"),
            (-12.345, "−12.3"),
            (0.99999, "1"),
            (123_456.0, "123456"),
            (4.1e-6, "4.1×10⁻⁶"),
            (-1.0e12, "−1×10¹²"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(significant(value, 3), expected);
        }
    }

    #[test]
    fn symmetric_ticks_reach_the_maximum_and_agree_in_decimals() {
        let texts: Vec<String> = symmetric_ticks(0.6543).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["−0.654", "−0.327", "0", "0.327", "0.654"]);
        assert_eq!(symmetric_ticks(0.6543)[4].0, 0.6543);
        assert_eq!(symmetric_ticks(2.5e-7)[3].1, "1.25×10⁻⁷");
        assert_eq!(symmetric_ticks(f64::MIN_POSITIVE * f64::EPSILON)[3].1, "0");
    }

    #[test]
    fn nice_ticks_are_round_and_cover_the_interval() {
        assert_eq!(nice_ticks(0.0, 0.97, 5), [0.0, 0.2, 0.4, 3.0 * 0.2, 0.8, 1.0]);
        assert_eq!(tick_labels(&nice_ticks(0.0, 0.97, 5)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(tick_labels(&nice_ticks(-3.0, 7.0, 5)), ["−4", "−2", "0", "2", "4", "6", "8"]);
        assert_eq!(
            tick_labels(&nice_ticks(0.0, 0.0009, 5)),
            ["0.0000", "0.0002", "0.0004", "0.0006", "0.0008", "0.0010"]
        );
    }

    #[test]
    fn no_interval_is_too_odd_for_ticks() {
        let odd = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            1e-320,
            5e-324,
            1e308,
            -1e308,
            f64::MAX,
            f64::MIN,
            f64::NAN,
            f64::INFINITY,
            1e-8,
        ];
        for lo in odd {
            for hi in odd {
                for count in [0, 1, 5] {
                    let ticks = nice_ticks(lo, hi, count);
                    assert!(ticks.len() >= 2 && ticks.len() <= 64, "{lo} {hi} {ticks:?}");
                    assert!(ticks.iter().all(|t| t.is_finite()), "{lo} {hi} {ticks:?}");
                    assert!(ticks.windows(2).all(|w| w[0] < w[1]), "{lo} {hi} {ticks:?}");
                    assert_eq!(tick_labels(&ticks).len(), ticks.len());
                }
            }
            let _ = (diverging(lo), relative(lo, lo), significant(lo, 0), symmetric_ticks(lo));
        }
    }
}
