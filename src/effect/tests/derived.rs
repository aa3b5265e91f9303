//! Derived quantities.

use crate::effect::derived::{
    Reaches, Said, SaidToken, Strength, Turn, TurnedAt, concentration, half_recovery, indices,
    reaches_source, strongest, turns,
};
use crate::lower::layout::{Axis, CellKey};

fn layers(values: &[u32]) -> Axis {
    Axis { name: "layer", values: values.to_vec() }
}

fn positions(values: &[u32]) -> Axis {
    Axis { name: "position", values: values.to_vec() }
}

/// Cells of which each says a token of its own number.
fn said(cells: usize) -> Vec<Said> {
    let token = |id: usize| Some(SaidToken { id: id as u32, text: format!("t{id}") });
    (0..cells).map(|cell| Said { token: token(cell), ..Said::default() }).collect()
}

fn turned(axes: &[Axis], turned: &[Option<bool>], trivial: &[bool]) -> Vec<Turn> {
    turns(axes, turned, &said(turned.len()), trivial)
}

fn layer(at: Option<&TurnedAt>) -> Option<u32> {
    at.map(|at| at.layer)
}

fn some(numbers: &[f64]) -> Vec<Option<f64>> {
    numbers.iter().copied().map(Some).collect()
}

const NONE_TRIVIAL: [bool; 8] = [false; 8];

#[test]
fn an_answer_turns_first_and_for_good_at_layers_in_their_own_order() {
    let turn = |order: &[u32], turned: &[bool]| {
        let turned: Vec<Option<bool>> = turned.iter().copied().map(Some).collect();
        let found = self::turned(&[layers(order)], &turned, &NONE_TRIVIAL);
        assert_eq!((found.len(), found[0].line, &found[0].reason), (1, CellKey::default(), &None));
        for at in [&found[0].first, &found[0].lasting].into_iter().flatten() {
            // Cells are in the order of the request.
            assert_eq!(order[at.token.id as usize], at.layer);
        }
        (layer(found[0].first.as_ref()), layer(found[0].lasting.as_ref()))
    };
    assert_eq!(turn(&[0, 1, 2, 3], &[false, true, false, true]), (Some(1), Some(3)));
    assert_eq!(turn(&[0, 1, 2, 3], &[false, true, true, true]), (Some(1), Some(1)));
    assert_eq!(turn(&[0, 1, 2, 3], &[true, true, false, false]), (Some(0), None));
    assert_eq!(turn(&[0, 1], &[false, false]), (None, None));
    // Layers come in the order of the request; the axis is read upwards.
    assert_eq!(turn(&[20, 10, 0], &[true, false, true]), (Some(0), Some(20)));
}

#[test]
fn a_turn_that_depends_on_a_layer_without_an_answer_is_not_known() {
    let turn = |flipped: &[Option<bool>]| {
        let found = turned(&[layers(&[0, 1, 2, 3])], flipped, &[true; 4]).remove(0);
        assert!(found.first.iter().chain(&found.lasting).all(|at| at.trivial));
        (layer(found.first.as_ref()), layer(found.lasting.as_ref()), found.reason.is_some())
    };
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(turn(&[None, no, yes, yes]), (None, Some(2), true), "it may have turned at layer 0");
    assert_eq!(turn(&[no, yes, None, yes]), (Some(1), None, true), "it may have turned back at layer 2");
    assert_eq!(turn(&[no, None, no, yes]), (None, Some(3), true));
    assert_eq!(turn(&[yes, None, no, yes]), (Some(0), Some(3), false), "neither depends on layer 1");
    assert_eq!(turn(&[no, no, no, None]), (None, None, true));
    assert_eq!(turn(&[None; 4]), (None, None, true));
}

#[test]
fn every_position_and_head_has_a_line_of_layers_and_no_layers_give_none() {
    let axes = [positions(&[4, 7]), layers(&[1, 2]), Axis { name: "head", values: vec![0, 3] }];
    // [position, layer, head]
    let flipped = [false, true, true, true, false, false, false, true].map(Some);
    let trivial = [false, false, false, false, false, false, false, true];
    let found = turned(&axes, &flipped, &trivial);
    let lines: Vec<_> = found
        .iter()
        .map(|f| {
            (
                f.line.position,
                f.line.head,
                layer(f.first.as_ref()),
                f.first.as_ref().is_some_and(|at| at.trivial),
            )
        })
        .collect();
    let expected = [
        (Some(4), Some(0), Some(2), false),
        (Some(4), Some(3), Some(1), false),
        (Some(7), Some(0), None, false),
        (Some(7), Some(3), Some(2), true),
    ];
    assert_eq!(lines, expected);
    assert!(turned(&[positions(&[4, 7])], &[Some(true); 2], &NONE_TRIVIAL).is_empty());
    assert!(turned(&[], &[Some(true)], &NONE_TRIVIAL).is_empty());
}

#[test]
fn what_a_cell_says_is_compared_with_its_base_and_its_source_sample_by_sample() {
    // What each readout says: base samples 0 to 2, cell 3 to 5, source 6 to 8 or 9 for all.
    let of = |tokens: [Option<u32>; 10], goals: &[usize]| {
        let text = |id: u32| format!("t{id}");
        Said::of(&[3, 4, 5], &[0, 1, 2], goals, |readout| tokens[readout], &text)
    };
    let tokens = [1, 1, 1, 2, 2, 1, 2, 2, 3, 2].map(Some);
    let found = of(tokens, &[6, 7, 8]);
    assert_eq!(found.token, Some(SaidToken { id: 2, text: "t2".to_owned() }));
    assert_eq!((found.leaves_base, found.reaches_source), (Some(true), Reaches::Yes));
    assert_eq!(
        of([1, 1, 1, 4, 5, 1, 2, 2, 3, 2].map(Some), &[9]).reaches_source,
        Reaches::No,
        "broken, not turned"
    );
    // A tie is no majority, and of equally frequent tokens the smallest id is told.
    let tied =
        Said::of(&[3, 4], &[0], &[9], |i| tokens[[0, 0, 0, 3, 5, 0, 0, 0, 0, 9][i]], &|id| id.to_string());
    assert_eq!((tied.leaves_base, tied.reaches_source), (Some(false), Reaches::No));
    assert_eq!(tied.token.unwrap().id, 1);
    assert_eq!(of(tokens, &[]).reaches_source, Reaches::NoSource);
    assert_eq!(of([1, 1, 1, 1, 1, 1, 1, 1, 1, 1].map(Some), &[9]).reaches_source, Reaches::SameAsBase);
    let mut unknown = tokens;
    unknown[4] = None;
    let found = of(unknown, &[9]);
    assert_eq!((found.token, found.leaves_base, found.reaches_source), (None, None, Reaches::Unknown));
    for (reaches, reason) in
        [(Reaches::NoSource, "no run whose answer"), (Reaches::SameAsBase, "the unpatched run's")]
    {
        let cells = vec![Said { reaches_source: reaches, ..Said::default() }; 2];
        let turn = reaches_source(&[layers(&[0, 1])], &cells, &NONE_TRIVIAL).remove(0);
        assert!(turn.first.is_none() && turn.lasting.is_none() && turn.reason.unwrap().contains(reason));
    }
}

#[test]
fn half_is_reached_at_the_first_layer_that_has_it_and_else_a_reason_is_given() {
    let half = |normalised: &[Option<f64>], undefined| {
        let axes = [layers(&[0, 5, 10])];
        half_recovery(&axes, normalised, &[false, false, true], undefined).remove(0)
    };
    let found = half(&some(&[0.1, 0.5, 1.0]), None);
    assert_eq!((found.layer, found.value, found.trivial, found.reason), (Some(5), Some(0.5), false, None));
    let found = half(&some(&[0.1, 0.499, 1.0]), None);
    assert_eq!((found.layer, found.trivial), (Some(10), true), "nothing is interpolated");
    // It need not stay above, and need not be below 1.
    assert_eq!(half(&some(&[3.0, -1.0, 0.0]), None).layer, Some(0));
    let found = half(&some(&[0.1, 0.2, 0.25]), None);
    assert_eq!(found.layer, None);
    assert_eq!(found.reason.unwrap(), "no layer reaches 0.5; the largest is 0.250, at layer 10");
    // What is not known may be half already.
    for (normalised, layer) in [([Some(0.1), None, Some(0.75)], None), ([Some(0.5), None, None], Some(0))] {
        let found = half(&normalised, None);
        let reason = layer.is_none().then(|| "the answer at layer 5 is not known, see `nulls`".to_owned());
        assert_eq!((found.layer, found.reason), (layer, reason));
    }
    let found = half(&[None; 3], Some("the difference is 0"));
    assert_eq!((found.layer, found.reason.as_deref()), (None, Some("the difference is 0")));
}

#[test]
fn the_strongest_cell_leads_the_next_by_a_paired_difference() {
    let axes = [layers(&[3, 6, 9])];
    // Three cells, four samples. Means 2, 3, 2.5; the leads of cell 1 on cell 2 are 0, 2, -1, 1.
    let effects = some(&[2.0, 2.0, 2.0, 2.0, 1.0, 5.0, 3.0, 3.0, 1.0, 3.0, 4.0, 2.0]);
    let found = strongest(&axes, &effects, 4, &NONE_TRIVIAL, Strength::Increase).unwrap();
    assert_eq!((found.cell.layer, found.effect.mean, found.n), (Some(6), Some(3.0), 4));
    // Squares of 1 - 3, 5 - 3, 0, 0: 8 / 3 / 4.
    assert_eq!(found.effect.se, Some((8.0_f64 / 3.0 / 4.0).sqrt()));
    let wins: Vec<_> = found.wins.iter().map(|w| (w.cell.layer, w.samples, w.share)).collect();
    assert_eq!(wins, [(Some(6), 2, 0.5), (Some(3), 1, 0.25), (Some(9), 1, 0.25)]);
    let next = found.runner_up.unwrap();
    assert_eq!((next.cell.layer, next.effect.mean, next.lead.mean), (Some(9), Some(2.5), Some(0.5)));
    // 0.25 + 2.25 + 2.25 + 0.25 = 5.
    assert_eq!(next.lead.se, Some((5.0_f64 / 3.0 / 4.0).sqrt()));
}

#[test]
fn what_counts_as_strongest_follows_the_sources_side_and_leaves_trivial_cells_out() {
    let axes = [layers(&[0, 1, 2, 3])];
    let effects = some(&[-4.0, 1.0, 3.0, 9.0]);
    let trivial = [false, false, false, true];
    let cell = |by| {
        let found = strongest(&axes, &effects, 1, &trivial, by).unwrap();
        let next = found.runner_up.unwrap();
        (found.cell.layer.unwrap(), next.cell.layer.unwrap(), next.lead.mean.unwrap(), next.lead.se)
    };
    assert_eq!(cell(Strength::Increase), (2, 1, 2.0, None));
    assert_eq!(cell(Strength::Decrease), (0, 1, 5.0, None));
    assert_eq!(cell(Strength::Magnitude), (0, 2, 1.0, None), "4 against 3, each by its own sign");
    let alone = strongest(&axes, &[None, None, Some(0.0), None], 1, &trivial, Strength::Increase).unwrap();
    assert_eq!((alone.cell.layer, alone.runner_up), (Some(2), None));
    assert_eq!(strongest(&axes, &[None; 4], 1, &trivial, Strength::Increase), None);
    assert_eq!(strongest(&axes, &some(&[1.0; 4]), 1, &[true; 4], Strength::Increase), None);
}

#[test]
fn indices_of_concentration_are_those_of_their_definitions() {
    let even = indices(vec![2.0; 5]).unwrap();
    assert_eq!((even.total, even.max_share, even.cells_for_80), (10.0, 0.2, 4));
    assert!((even.participation_ratio - 5.0).abs() < 1e-12 && even.gini.abs() < 1e-12, "{even:?}");
    let one = indices(vec![0.0, 0.0, 7.0, 0.0]).unwrap();
    assert_eq!((one.max_share, one.participation_ratio, one.cells_for_80), (1.0, 1.0, 1));
    assert_eq!(one.gini, 0.75);
    // 1, 2, 3, 4: (sum x)^2 / sum x^2 = 100 / 30; Gini = (-3 - 2 + 3 + 12) / (4 * 10); 4 + 3 = 7 < 8, + 2 = 9.
    let steps = indices(vec![3.0, 1.0, 4.0, 2.0]).unwrap();
    assert_eq!((steps.total, steps.max_share, steps.cells_for_80), (10.0, 0.4, 3));
    assert!((steps.participation_ratio - 10.0 / 3.0).abs() < 1e-12, "{steps:?}");
    assert!((steps.gini - 0.25).abs() < 1e-12, "{steps:?}");
    assert_eq!(indices(vec![4.0, 1.0]).unwrap().cells_for_80, 1, "four of five are 80 %");
    assert_eq!(indices(vec![0.0; 3]), None);
    assert_eq!(indices(vec![]), None);
    // Effects whose squares underflow are shared out all the same.
    let tiny = indices(vec![1e-200; 4]).unwrap();
    assert!((tiny.participation_ratio - 4.0).abs() < 1e-12, "{tiny:?}");
}

#[test]
fn concentration_takes_effects_towards_the_source_and_magnitudes_apart() {
    let effects = some(&[3.0, -1.0, 1.0, 100.0]);
    let trivial = [false, false, false, true];
    let found = concentration(&effects, &trivial, Strength::Increase);
    let (positive, absolute) = (found.positive.unwrap(), found.absolute.unwrap());
    assert_eq!((found.cells, positive.total, positive.max_share, absolute.max_share), (3, 4.0, 0.75, 0.6));
    let found = concentration(&effects, &trivial, Strength::Decrease);
    assert_eq!((found.positive.unwrap().total, found.absolute.unwrap().total), (1.0, 5.0));
    let found = concentration(&some(&[-1.0, -2.0]), &[false; 2], Strength::Increase);
    assert_eq!((found.positive, found.absolute.unwrap().total), (None, 3.0));
    assert_eq!(found.reason.as_deref(), Some("no effect is towards the source's value"));
    let found = concentration(&some(&[0.0, 0.0]), &[false; 2], Strength::Increase);
    assert_eq!(found.reason.as_deref(), Some("every effect is 0"));
    let found = concentration(&[Some(1.0), None], &[false; 2], Strength::Increase);
    assert_eq!(
        (found.positive, found.reason.as_deref()),
        (None, Some("an effect is not known, see `nulls`"))
    );
}
