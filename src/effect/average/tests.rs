//! Properties of averages that hold whatever the numbers.

use super::*;
use crate::effect::bootstrap::Over;
use crate::effect::cells::{ArmHead, CaseHead, Cells, MetricColumns, Sampled, Standing, standings};
use crate::effect::stats::{self, Estimate};
use crate::lower::noise::{NoiseKey, philox_row, stream};

/// Standard normal numbers.
fn normal(seed: u64, n: usize) -> Vec<f64> {
    philox_row(NoiseKey { seed, sample: 0, position: 0, stream: stream::GAUSSIAN }, n)
}

fn arm(name: &str, axes: &[&str]) -> ArmHead {
    ArmHead {
        name: name.into(),
        axes: axes.iter().map(|axis| (*axis).to_owned()).collect(),
        sites: vec![],
        base: "corrupted".into(),
        reference: Some("clean".into()),
    }
}

/// Cases whose arms have the same layers; `effect` of case, arm and layer, null where it isn't there.
fn layers(
    cases: usize,
    arms: usize,
    depth: u32,
    effect: impl Fn(usize, usize, u32) -> Option<f64>,
) -> Observed {
    let head = |i: usize| CaseHead {
        id: format!("case{i:04}"),
        group: Some(["x", "y", "z"][i % 3].to_owned()),
        kept: true,
        dropped: vec![],
        answers: None,
        runs: vec![],
        subject: None,
        total_effect: vec![vec![Estimate { mean: Some(0.5 + 0.01 * i as f64), se: None }]; arms],
    };
    let mut cells = Cells { metrics: vec![MetricColumns::default()], ..Cells::default() };
    for case in 0..cases {
        for arm in 0..arms {
            for layer in 0..depth {
                push(&mut cells, case, arm, Some(layer), effect(case, arm, layer));
            }
        }
    }
    Observed {
        metrics: vec!["prob:target".into()],
        arms: (0..arms).map(|i| arm(&format!("arm{i}"), &["layer"])).collect(),
        cases: (0..cases).map(head).collect(),
        cells,
        sampled: Vec::new(),
    }
}

fn push(cells: &mut Cells, case: usize, arm: usize, layer: Option<u32>, effect: Option<f64>) {
    cells.case.push(case as u32);
    cells.arm.push(arm as u32);
    cells.layer.push(layer);
    cells.position.push(None);
    cells.token_class.push(None);
    cells.head.push(None);
    cells.dim.push(None);
    cells.source_layer.push(None);
    cells.trivial.push(Some(false));
    cells.exact_null.push(Some(effect == Some(0.0)));
    cells.metrics[0].value.push(effect);
    cells.metrics[0].effect.push(effect);
    cells.metrics[0].effect_se.push(None);
}

fn how(by: &[Key], topk: u32) -> How {
    How {
        by: by.to_vec(),
        resamples: 400,
        seed: 3,
        level: 0.95,
        stats: vec![],
        topk: Some(topk),
        order: Order::Effect,
        compare_arms: true,
    }
}

const BY_LAYER: [Key; 2] = [Key::Arm, Key::Layer];
const BY_GROUP: [Key; 3] = [Key::Arm, Key::Layer, Key::Group];

/// The same cases in another order.
fn reversed(observed: &Observed) -> Observed {
    let n = observed.cases.len();
    let mut other = Observed { cells: Cells::default(), ..observed.clone() };
    other.cases.reverse();
    other.cells.metrics = vec![MetricColumns::default()];
    for case in (0..n).rev() {
        for i in (0..observed.cells.len()).filter(|i| observed.cells.case[*i] as usize == case) {
            let cells = &observed.cells;
            push(
                &mut other.cells,
                n - 1 - case,
                cells.arm[i] as usize,
                cells.layer[i],
                cells.metrics[0].effect[i],
            );
        }
    }
    other
}

#[test]
fn cases_in_another_order_give_the_same_bits() {
    let noise = normal(1, 400);
    let observed = layers(20, 2, 5, |case, arm, layer| {
        (case % 7 != layer as usize).then(|| noise[case * 10 + arm * 5 + layer as usize])
    });
    let (a, b) =
        (averages(&observed, &how(&BY_LAYER, 4)), averages(&reversed(&observed), &how(&BY_LAYER, 4)));
    assert_eq!(a, b);
    // Groups are told in the order in which cases name them, and are otherwise the same.
    let (a, b) =
        (averages(&observed, &how(&BY_GROUP, 4)), averages(&reversed(&observed), &how(&BY_GROUP, 4)));
    assert_eq!(a.top, b.top);
    for row in &a.rows {
        assert!(b.rows.contains(row), "{row:?}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let noise = normal(2, 600);
    let observed = layers(30, 2, 10, |case, arm, layer| Some(noise[case * 20 + arm * 10 + layer as usize]));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| averages(&observed, &how(&BY_GROUP, 5)))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn the_same_effect_in_every_case_has_an_interval_without_width() {
    let noise = normal(3, 100);
    let observed = layers(7, 1, 3, |case, _, layer| match layer {
        0 => Some(0.1),
        1 => Some(0.0),
        _ => Some(5.0 + 0.1 * noise[case]),
    });
    let found = averages(&observed, &how(&BY_LAYER, 3));
    let always = |x: f64| CaseEstimate {
        mean: Some(x),
        se: Some(0.0),
        ci: Some([x; 2]),
        ci_t: Some([x; 2]),
        n: 7,
        ..CaseEstimate::default()
    };
    assert_eq!([found.rows[0].effect, found.rows[1].effect], [always(0.1), always(0.0)]);
    assert_eq!((found.rows[1].recovery, found.rows[1].exact_null), (Some(0.0), 7));
    let tops: Vec<_> = found.top.iter().map(|top| (top.at.layer, top.t.is_some(), top.p_max_t)).collect();
    // Clear of chance as far as seven cases can be, though without an error, and so without t.
    assert_eq!(
        tops,
        [(Some(2), true, Some(1.0 / 64.0)), (Some(0), false, Some(1.0 / 64.0)), (Some(1), false, None)]
    );
    assert_eq!(found.top[0].stability, Some(1.0));
    // By |t| what has no error goes first.
    let by_t = averages(&observed, &How { order: Order::T, ..how(&BY_LAYER, 3) });
    assert_eq!(by_t.top.iter().map(|top| top.at.layer).collect::<Vec<_>>(), [Some(0), Some(2), Some(1)]);
}

#[test]
fn the_largest_effect_is_the_strongest_and_t_and_p_say_how_clear_it_is() {
    let noise = normal(11, 200);
    // Large and scattered, small and clear, nothing.
    let observed = layers(12, 1, 3, |case, _, layer| match layer {
        0 => Some(1.0 + 3.0 * noise[case]),
        1 => Some(0.1 + 0.01 * noise[20 + case]),
        _ => Some(0.01 * noise[40 + case]),
    });
    let found = averages(&observed, &how(&BY_LAYER, 3));
    assert_eq!(found.top.iter().map(|top| top.at.layer).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    assert!(found.top[0].t.unwrap().abs() < found.top[1].t.unwrap());
    assert!(found.top[0].p_max_t > found.top[1].p_max_t);
    assert_eq!(found.top[1].p_max_t, Some(found.test.unwrap().smallest_p));
    let by_t = averages(&observed, &How { order: Order::T, ..how(&BY_LAYER, 3) });
    assert_eq!(by_t.top[0].at.layer, Some(1));
    // The order changes no number.
    assert_eq!(by_t.top[0].p_max_t, found.top[1].p_max_t);
}

#[test]
fn a_case_is_alone_if_no_other_counts_or_none_of_its_group_where_these_are_told_apart() {
    let mut cases = layers(5, 1, 1, |_, _, _| Some(0.0)).cases;
    let groups = [Some("x"), Some("x"), Some("y"), Some("y"), None];
    for (case, group) in cases.iter_mut().zip(groups) {
        case.group = group.map(str::to_owned);
    }
    cases[1].kept = false;
    let found = |n: usize, by: &[Key]| standings(&cases[..n], by);
    let (dropped, several, alone) = (Standing::Dropped, Standing::OneOfSeveral, Standing::Alone);
    assert_eq!(found(5, &BY_LAYER), [several, dropped, several, several, several]);
    assert_eq!(found(5, &BY_GROUP), [alone, dropped, several, several, several]);
    assert_eq!(found(2, &BY_LAYER), [alone, dropped]);
}

#[test]
fn averages_of_one_case_are_that_case() {
    let observed =
        layers(1, 2, 3, |_, arm, layer| Some([0.2, -0.7, 0.1][layer as usize] * (1.0 + arm as f64)));
    let found = averages(&observed, &how(&BY_LAYER, 2));
    assert_eq!(found.test, None);
    for (row, effect) in found.rows.iter().zip(&observed.cells.metrics[0].effect) {
        assert_eq!(row.effect, CaseEstimate { mean: *effect, n: 1, ..CaseEstimate::default() });
        assert_eq!((row.recovery, row.recovery_ci), (effect.map(|e| e / 0.5), None));
    }
    let top = &found.top[0];
    assert_eq!((top.at.arm.as_str(), top.at.layer, top.mean), ("arm1", Some(1), -1.4));
    assert_eq!((top.t, top.p_max_t, top.stability), (None, None, None));
}

#[test]
fn the_error_of_one_case_is_that_over_its_samples_and_says_so() {
    let mut observed = layers(1, 1, 3, |_, _, layer| Some([0.2, -0.7, 0.1][layer as usize]));
    observed.cells.metrics[0].effect_se = vec![Some(0.01), Some(0.02), Some(0.03)];
    observed.cases[0].total_effect[0][0].se = Some(0.05);
    let found = averages(&observed, &how(&BY_LAYER, 2));
    for (row, se) in found.rows.iter().zip([0.01, 0.02, 0.03]) {
        assert_eq!((row.effect.se, row.effect.se_over), (Some(se), Over::Samples));
        assert_eq!((row.effect.ci, row.effect.ci_t), (None, None));
        assert_eq!(serde_json::to_value(row.effect).unwrap()["se_over"], "samples");
    }
    let total = found.totals[0].total_effect;
    assert_eq!((total.se, total.se_over), (Some(0.05), Over::Samples));
    // Of cells that are averaged, whose samples are the same, at most the mean of theirs.
    let all = averages(&observed, &how(&[Key::Arm], 1));
    assert!((all.rows[0].effect.se.unwrap() - 0.02).abs() < 1e-15);
    // With what they gave in each sample it is that of the mean: here one cell rises as another falls, but for 0.03.
    let opposed = [[0.1, 0.3, 0.2], [0.3, 0.1, 0.23], [0.0; 3]].map(|cell| cell.map(Some).to_vec()).to_vec();
    let sampled = vec![Sampled { case: 0, effects: opposed }];
    let all = averages(&Observed { sampled, ..observed }, &how(&[Key::Arm], 1));
    let error = stats::estimate([0.4, 0.4, 0.43].map(|sum| Some(sum / 3.0))).se.unwrap();
    assert!((all.rows[0].effect.se.unwrap() - error).abs() < 1e-15 && error < 0.006);
    // Over cases, nothing is said.
    let two = layers(2, 1, 1, |case, _, _| Some(case as f64));
    let row = averages(&two, &how(&BY_LAYER, 1)).rows[0].effect;
    assert_eq!(row.se_over, Over::Cases);
    assert!(serde_json::to_value(row).unwrap().get("se_over").is_none());
}

#[test]
fn averages_that_one_case_makes_are_named_with_it() {
    // As of function vectors on 20 prompts: one has 6.2 nats for heads at which the others have next to nothing.
    let noise = normal(12, 20 * 30);
    let effect = |case: usize, layer: u32| {
        let small = 0.01 * noise[case * 30 + layer as usize];
        small + if case == 15 && layer < 6 { 6.2 } else { 0.0 } + if layer == 7 { 0.4 } else { 0.0 }
    };
    let observed = layers(20, 1, 30, |case, _, layer| Some(effect(case, layer)));
    let (averages, dominated) = averaged(&observed, &how(&BY_LAYER, 7));
    assert_eq!(averages.top.len(), 7);
    let [one] = &dominated[..] else { panic!("{dominated:?}") };
    assert_eq!(
        (one.case.as_str(), one.averages, one.first.layer.is_some_and(|l| l < 6)),
        ("case0015", [6, 7], true)
    );
    assert!(one.mean > 0.3 && one.without.abs() < 0.01, "{one:?}");
    // Of two cases one always has the larger effect.
    let two = layers(2, 1, 3, |case, _, _| Some(case as f64));
    assert_eq!(averaged(&two, &how(&BY_LAYER, 3)).1, []);
    // The median and the trimmed mean don't follow the one case.
    let asked = How { stats: vec![Stat::Median, Stat::TrimmedMean], ..how(&BY_LAYER, 1) };
    let row = super::averages(&observed, &asked).rows[0].effect;
    let robust = row.robust.unwrap();
    assert!(row.mean.unwrap() > 0.3);
    assert!(robust.median.unwrap().abs() < 0.01 && robust.trimmed_mean.unwrap().abs() < 0.01, "{robust:?}");
    assert!(robust.median_ci.unwrap()[1] < 0.02);
    let asked = How { stats: vec![Stat::Median], ..how(&BY_LAYER, 1) };
    let told = serde_json::to_value(super::averages(&observed, &asked).rows[0].effect).unwrap();
    assert!(told["robust"]["median"].is_f64() && told["robust"].get("trimmed_mean").is_none());
}

#[test]
fn nothing_kept_gives_no_rows_and_totals_without_numbers() {
    let mut observed = layers(2, 1, 2, |_, _, _| Some(0.1));
    observed.cases.iter_mut().for_each(|case| case.kept = false);
    observed.cells = Cells { metrics: vec![MetricColumns::default()], ..Cells::default() };
    let found = averages(&observed, &how(&BY_LAYER, 2));
    assert_eq!((found.kept, found.dropped), (0, 2));
    assert!(found.rows.is_empty() && found.top.is_empty() && found.differences.is_empty());
    assert_eq!(found.totals[0].total_effect, CaseEstimate::default());
    assert_eq!(averages(&Observed::default(), &how(&BY_LAYER, 2)).kept, 0);
    assert_eq!(running(&observed, &how(&BY_LAYER, 2))["cases"], 0);
}

#[test]
fn a_number_that_is_not_finite_leaves_its_averages_null_and_is_counted() {
    let observed = layers(9, 2, 2, |case, arm, layer| {
        (!(case == 3 && arm == 0 && layer == 1)).then_some(case as f64 * 0.1 + 1.0)
    });
    let found = averages(&observed, &how(&BY_LAYER, 9));
    let null = CaseEstimate { n: 9, ..CaseEstimate::default() };
    assert_eq!(found.rows[1].effect, null);
    assert_eq!((found.rows[1].recovery, found.rows[1].cells), (None, 9));
    assert!(found.rows[0].effect.ci.is_some());
    assert_eq!(found.differences.iter().map(|d| d.difference == null).collect::<Vec<_>>(), [false, true]);
    assert_eq!(found.top.len(), 3, "what has no mean has no rank");
}

#[test]
fn cells_are_averaged_within_a_case_before_cases_are() {
    let mut observed = layers(2, 1, 1, |_, _, _| Some(0.0));
    observed.cells = Cells { metrics: vec![MetricColumns::default()], ..Cells::default() };
    // Three cells of one case weigh as much as one of the other.
    for (case, effect) in [(0, 0.1), (0, 0.2), (0, 0.3), (1, 1.0)] {
        push(&mut observed.cells, case, 0, Some(0), Some(effect));
    }
    let found = averages(&observed, &how(&BY_LAYER, 1));
    assert!((found.rows[0].effect.mean.unwrap() - 0.6).abs() < 1e-15);
    assert_eq!((found.rows[0].cells, found.rows[0].effect.n), (4, 2));
}

#[test]
fn cells_of_a_case_may_come_in_pieces() {
    let mut pieces = layers(3, 1, 1, |case, _, _| Some(case as f64));
    for (case, effect) in [(0, 0.5), (2, 3.0), (0, 1.0)] {
        push(&mut pieces.cells, case, 0, Some(0), Some(effect));
    }
    let found = averages(&pieces, &how(&BY_LAYER, 1));
    // 0, 0.5 and 1; 1; 2 and 3.
    assert_eq!((found.rows[0].effect.mean, found.rows[0].cells), (Some((0.5 + 1.0 + 2.5) / 3.0), 6));
    assert_eq!(found.rows[0].effect.n, 3);
}

#[test]
fn positions_without_a_class_are_left_out_by_class_and_axes_that_an_arm_lacks_are_null() {
    let mut observed = layers(3, 2, 1, |case, _, _| Some(case as f64));
    for i in 0..observed.cells.len() {
        if observed.cells.arm[i] == 0 {
            observed.cells.position[i] = Some(i as u32);
            observed.cells.token_class[i] = (i > 0).then_some(5);
        }
    }
    let by = [Key::Arm, Key::TokenClass, Key::Head];
    let found = averages(&observed, &how(&by, 1));
    let at = |row: &Average| (row.at.arm.clone(), row.at.token_class.clone(), row.at.head, row.effect.n);
    assert_eq!(
        found.rows.iter().map(at).collect::<Vec<_>>(),
        [("arm0".into(), Some("last".into()), None, 2), ("arm1".into(), None, None, 3)]
    );
    assert!(found.differences.is_empty(), "arms without a place in common can't be compared");
}

#[test]
fn a_case_peaks_where_its_effect_is_largest_towards_the_reference_and_averages_count_their_peaks() {
    fn of(peak: &Peak) -> (&str, Option<u32>, f64, Option<f64>) {
        (&peak.case, peak.at.layer, peak.effect, peak.recovery)
    }
    // Cases 0 and 2 peak at layer 1, case 1 at layer 0; layer 2 is trivial throughout.
    let effects = [[0.1, 0.4, 9.0], [0.3, 0.2, 9.0], [-0.8, 0.0, 9.0]];
    let mut observed = layers(3, 1, 3, |case, _, layer| Some(effects[case][layer as usize]));
    for (i, trivial) in observed.cells.trivial.iter_mut().enumerate() {
        *trivial = Some(observed.cells.layer[i] == Some(2));
    }
    let found = averages(&observed, &how(&BY_GROUP, 1));
    let all = |found: &Averages, group: Option<&str>| -> Vec<usize> {
        found.rows.iter().filter(|row| row.at.group.as_deref() == group).map(|row| row.peaks).collect()
    };
    assert_eq!(all(&found, None), [1, 2, 0]);
    assert_eq!((all(&found, Some("x")), all(&found, Some("y"))), (vec![0, 1, 0], vec![1, 0, 0]));
    assert_eq!(of(&found.peaks[0]), ("case0000", Some(1), 0.4, Some(0.8)));
    assert_eq!(of(&found.peaks[1]), ("case0001", Some(0), 0.3, Some(0.3 / 0.51)));
    // Where the reference lies below the base, the smallest effect is the strongest.
    for case in &mut observed.cases {
        case.total_effect[0][0].mean = Some(-0.5);
    }
    let found = averages(&observed, &how(&BY_LAYER, 1));
    assert_eq!(of(&found.peaks[2]), ("case0002", Some(0), -0.8, Some(1.6)));
    // Without a reference its size counts.
    for case in &mut observed.cases {
        case.total_effect[0][0].mean = None;
    }
    let found = averages(&observed, &how(&BY_LAYER, 1));
    assert_eq!(of(&found.peaks[2]), ("case0002", Some(0), -0.8, None));
    // Cells added case by case give the same, bit for bit.
    let mut averaging = Averaging::new(&observed, &how(&BY_LAYER, 1));
    for case in 0..3 {
        let mut own = Cells { metrics: vec![MetricColumns::default()], ..Cells::default() };
        for i in (0..observed.cells.len()).filter(|i| observed.cells.case[*i] == case) {
            let layer = observed.cells.layer[i];
            push(&mut own, case as usize, 0, layer, observed.cells.metrics[0].effect[i]);
            *own.trivial.last_mut().unwrap() = observed.cells.trivial[i];
        }
        averaging.add(&observed, &own, &[]);
    }
    let pieces = averaging.finish(&observed);
    assert_eq!(pieces.averages().0, found);
    let means: Vec<_> = pieces.of_cases().filter(|mean| mean.case == 1).map(|mean| mean.effect).collect();
    assert_eq!(means, effects[1].map(Some));
}

#[test]
fn few_groups_are_compared_each_with_each_and_many_with_the_first() {
    for (count, expected) in [(3, 3), (8, 28), (9, 8)] {
        let mut observed = layers(count * 2, 1, 1, |case, _, _| Some(case as f64));
        for (i, case) in observed.cases.iter_mut().enumerate() {
            case.group = Some(format!("group{}", i % count));
        }
        let found = averages(&observed, &how(&BY_GROUP, 1));
        assert_eq!(found.differences.len(), expected);
        assert_eq!((found.rows.len(), found.totals.len()), (1 + count, 1 + count));
        assert!(count < 9 || found.differences.iter().all(|one| one.a == "group0"));
    }
}

#[test]
fn adjusted_p_values_are_at_least_those_of_each_average_alone() {
    let noise = normal(4, 40 * 30);
    let effect = |case: usize, layer: u32| noise[case * 30 + layer as usize] + 0.1 * f64::from(layer % 6);
    let all = layers(40, 1, 30, |case, _, layer| Some(effect(case, layer)));
    let found = averages(&all, &how(&BY_LAYER, 30));
    assert_eq!(found.top.len(), 30);
    for top in &found.top {
        let one = layers(40, 1, 1, |case, _, _| Some(effect(case, top.at.layer.unwrap())));
        let alone = &averages(&one, &how(&BY_LAYER, 1)).top[0];
        assert_eq!(alone.t, top.t);
        assert!(alone.p_max_t <= top.p_max_t, "{alone:?} {top:?}");
    }
    assert!(
        found.top.windows(2).all(|two| two[0].rank < two[1].rank && two[0].mean.abs() >= two[1].mean.abs())
    );
}

/// The share of sweeps without any effect whose smallest p-value is at most 5 %. `heavy`: effects of a t distribution with
/// three degrees of freedom.
fn false_alarms(cases: usize, sweeps: u64, heavy: bool) -> f64 {
    let depth = 10;
    let alarm = |sweep: u64| {
        let noise = normal(1000 + sweep, cases * (depth + 4));
        // Layers go together, as they do in a model, and are of different size.
        let observed = layers(cases, 1, depth as u32, |case, _, layer| {
            let row = &noise[case * (depth + 4)..];
            let x = row[layer as usize + 4] + 0.7 * row[0];
            let chi = row[1..4].iter().map(|x| x * x).sum::<f64>() / 3.0;
            Some(x * (1.0 + f64::from(layer)) / if heavy { chi.sqrt() } else { 1.0 })
        });
        let how = How { resamples: 199, seed: sweep, ..how(&BY_LAYER, depth as u32) };
        let smallest = averages(&observed, &how).top.iter().filter_map(|top| top.p_max_t).fold(1.0, f64::min);
        smallest <= 0.05
    };
    (0..sweeps).filter(|sweep| alarm(*sweep)).count() as f64 / sweeps as f64
}

#[test]
fn where_nothing_is_there_p_values_below_five_percent_come_in_five_percent_of_sweeps() {
    // Of 6 cases p-values are multiples of 1/32: only the smallest is below 5 %, and it comes in 3.1 % of sweeps.
    let share = |cases| if cases == 6 { 1.0 / 32.0 } else { 0.05 };
    for (cases, heavy) in [(6, false), (6, true), (20, false), (20, true), (60, false)] {
        let (sweeps, expected) = (400, share(cases));
        let found = false_alarms(cases, sweeps, heavy);
        let error = (expected * (1.0 - expected) / sweeps as f64).sqrt();
        assert!((found - expected).abs() < 3.0 * error, "{cases} cases, heavy {heavy}: {found}");
    }
}

#[test]
#[ignore = "a simulation: cargo test --lib effect::average -- --ignored --nocapture"]
fn false_alarms_by_number_of_cases() {
    for cases in [5, 6, 8, 12, 20, 60] {
        let [normal, heavy] = [false, true].map(|heavy| false_alarms(cases, 4000, heavy));
        println!(
            "{cases} cases: P(p <= .05) = {normal:.3} (normal), {heavy:.3} (t with 3 degrees of freedom)"
        );
    }
}

#[test]
fn one_clear_effect_among_a_hundred_is_found_with_six_cases_and_cannot_be_with_four() {
    for (cases, patterns) in [(4, 8), (5, 16), (6, 32), (8, 128)] {
        let noise = normal(40, cases * 100);
        let observed = layers(cases, 1, 100, |case, _, layer| {
            Some(noise[case * 100 + layer as usize] + if layer == 3 { 20.0 } else { 0.0 })
        });
        let found = averages(&observed, &how(&BY_LAYER, 1));
        assert_eq!(found.top[0].at.layer, Some(3));
        let p = found.top[0].p_max_t.unwrap();
        let smallest = found.test.unwrap().smallest_p;
        assert_eq!(found.test.unwrap().patterns, patterns);
        // With so few cases one of a hundred others may be as clear by chance, though not as large.
        assert!(p >= smallest && (cases < 6 || p <= 0.05), "{cases}: {p}");
    }
}

#[test]
fn an_average_of_few_cases_is_no_clearer_than_these_can_make_it() {
    let noise = normal(6, 300);
    let mut observed = layers(60, 1, 3, |case, _, layer| Some(noise[case * 3 + layer as usize]));
    // Two cases with nearly the same large effect: t is in the hundreds, and says nothing.
    push(&mut observed.cells, 0, 0, Some(9), Some(5.0));
    push(&mut observed.cells, 1, 0, Some(9), Some(5.01));
    let found = averages(&observed, &how(&BY_LAYER, 4)).top;
    assert_eq!((found[0].at.layer, found[0].n, found[0].t.unwrap() > 100.0), (Some(9), 2, true));
    assert!(found[0].p_max_t.unwrap() > 0.2, "{found:?}");
}

#[test]
fn running_means_are_the_means_of_the_averages() {
    let noise = normal(7, 100);
    let observed = layers(5, 2, 4, |case, arm, layer| Some(noise[case * 8 + arm * 4 + layer as usize]));
    let (how, told) = (how(&BY_LAYER, 1), running(&observed, &how(&BY_LAYER, 1)));
    let found = averages(&observed, &how);
    assert_eq!((told["cases"].as_u64(), told["means"].as_array().unwrap().len()), (Some(5), 2));
    for (i, one) in told["means"].as_array().unwrap().iter().enumerate() {
        let rows = &found.rows[i * 4..(i + 1) * 4];
        let means: Vec<f64> = rows.iter().map(|row| row.effect.mean.unwrap()).collect();
        assert_eq!(one["by_layer"], serde_json::json!({"layers": [0, 1, 2, 3], "mean": means}));
        let peak =
            means.iter().copied().fold(0.0, |best: f64, x| if x.abs() > best.abs() { x } else { best });
        assert_eq!(
            (one["peak"]["mean"].as_f64(), one["arm"].as_str()),
            (Some(peak), Some(&*format!("arm{i}")))
        );
    }
}

#[test]
#[ignore = "a timing: cargo test --lib effect::average -- --ignored --nocapture"]
fn large_sweeps_are_averaged_in_seconds() {
    let noise = normal(8, 1 << 20);
    let time = |name: &str, observed: &Observed, how: &How| {
        let start = std::time::Instant::now();
        let found = averages(observed, how);
        println!(
            "{name}: {} rows, {} differences in {:?}",
            found.rows.len(),
            found.differences.len(),
            start.elapsed()
        );
        let start = std::time::Instant::now();
        running(observed, how);
        println!("  running: {:?}", start.elapsed());
    };
    let value =
        |a: usize, b: usize, c: u32| Some(noise[(a * 7919 + b * 104_729 + c as usize * 31) % noise.len()]);
    // 200 cases, 2 arms, 30 layers x 6 classes x 3 positions, 2 metrics.
    let mut observed = layers(200, 2, 30 * 18, value);
    for i in 0..observed.cells.len() {
        let cell = observed.cells.layer[i].unwrap();
        observed.cells.layer[i] = Some(cell / 18);
        observed.cells.position[i] = Some(cell % 18);
        observed.cells.token_class[i] = Some((cell % 6) as u8);
    }
    let two = observed.cells.metrics[0].clone();
    observed.cells.metrics.push(two);
    observed.metrics.push("logit:target".into());
    observed.cases.iter_mut().for_each(|case| case.total_effect.iter_mut().for_each(|t| t.push(t[0])));
    let by = [Key::Arm, Key::Layer, Key::TokenClass];
    let how = How { resamples: 2000, compare_arms: false, ..how(&by, 20) };
    time("30 layers x 6 classes x 2 arms x 2 metrics, 200 cases", &observed, &how);
    let all = How { by: [&by[..], &[Key::Group]].concat(), compare_arms: true, ..how.clone() };
    time("the same with 3 groups and arms compared", &observed, &all);
    let mut observed = layers(100, 1, 1024, value);
    for i in 0..observed.cells.len() {
        let cell = observed.cells.layer[i].unwrap();
        observed.cells.layer[i] = Some(cell / 32);
        observed.cells.head[i] = Some(cell % 32);
    }
    time("32 x 32 heads, 100 cases", &observed, &How { by: vec![Key::Arm, Key::Layer, Key::Head], ..how });
}
