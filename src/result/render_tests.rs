//! Responses made of hand-made scores, through every format.

use std::collections::BTreeMap;
use std::io::Cursor;

use ::safetensors::{Dtype, SafeTensors};
use base64::Engine as _;
use serde_json::{Value, json};

use super::common::{Envelope, Provenance};
use super::patch::PatchResponse;
use super::pictures::{PictureRequestError, of_patch, of_trace};
use super::plates::{Picture, Pictures, Plot, Show};
use super::render::{Format, Rendered};
use super::respond::{Computed, Respond as _};
use super::run::RunResponse;
use super::trace::TraceResponse;
use crate::draw::bars::Bars;
use crate::lower;
use crate::lower::testing::{Fake, id};
use crate::plan::output::PlanOutput;
use crate::plan::{Plan, RunId, Score};
use crate::spec::patch::SweepAxis;

/// This metric alone.
fn of(metric: &str) -> Show {
    Show { metric: Some(metric.to_owned()), ..Show::default() }
}

fn score(probability: f64, top: &str) -> Score {
    Score {
        log_sum_exp: 0.0,
        logits: vec![probability.ln() as f32],
        ranks: vec![2],
        top: vec![(id(top), 0.5_f32.ln()), (id(" the"), 0.25_f32.ln())],
        kl: Vec::new(),
        ..Score::default()
    }
}

fn envelope() -> Envelope {
    let provenance = Provenance { server: "9.9".into(), ..Provenance::default() };
    Envelope { id: "x_1".into(), model: "fake".into(), provenance }
}

fn output(scores: Vec<Score>) -> PlanOutput {
    PlanOutput { scores, ..PlanOutput::default() }
}

/// Every readout is its own run's.
fn resolved(plan: &Plan) -> Vec<RunId> {
    plan.readouts.iter().map(|readout| readout.run).collect()
}

/// Clean 0.8, corrupted 0.1 and 0.3, and the `i`-th other readout `cell(i)`.
pub(super) fn trace(more: &Value, cell: impl Fn(usize) -> f64) -> TraceResponse {
    let mut body = json!({"prompt": "The Eiffel Tower is in the city of", "subject": "Eiffel Tower", "target": " Paris",
                          "metrics": ["prob:target", "logit:target"], "corrupt": {"samples": 2, "seed": 7}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let lowered = lower::lower::<crate::spec::trace::TraceSpec>(&body, &Fake::default()).unwrap();
    let roots = lowered.layout.case.corrupted.len() + 1;
    let (_, twin) = lowered.layout.case.common.twins.unwrap();
    let scores = (0..lowered.plan.readouts.len()).map(|i| match i {
        0 => score(0.8, " Paris"),
        i if i == twin => score(0.8, " Paris"),
        _ if i < roots => score([0.1, 0.3][(i - 1) % 2], " Rome"),
        _ => score(cell(i - roots), " Rome"),
    });
    let mut resolved = resolved(&lowered.plan);
    // The first cell of the first arm changes nothing that is read.
    for (sample, corrupted) in lowered.layout.case.corrupted.iter().enumerate() {
        resolved[lowered.layout.case.arms.0[0].1.grid.cell(0)[sample]] = resolved[*corrupted];
    }
    let output = output(scores.collect());
    lowered.layout.respond(&Computed { output, resolved, again: None }, &Fake::default(), envelope()).unwrap()
}

/// Base 0.1, source 0.7, and the `i`-th cell `cell(i)`.
fn patch(more: &Value, cell: impl Fn(usize) -> f64) -> PatchResponse {
    let mut body = json!({"base": "The river has a strong current", "source": "The Eiffel Tower is in London",
                          "target": " Paris", "metrics": ["prob:target", "top1_flip"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let lowered = lower::lower::<crate::spec::patch::PatchSpec>(&body, &Fake::default()).unwrap();
    let (_, twin) = lowered.layout.case.common.twins.unwrap();
    let scores = (0..lowered.plan.readouts.len()).map(|i| match i {
        0 => score(0.1, " Rome"),
        i if i == twin => score(0.1, " Rome"),
        1 => score(0.7, " Paris"),
        _ => score(cell(i - 2), " Paris"),
    });
    let (resolved, output) = (resolved(&lowered.plan), output(scores.collect()));
    lowered.layout.respond(&Computed { output, resolved, again: None }, &Fake::default(), envelope()).unwrap()
}

fn run(more: &Value) -> RunResponse {
    let capture = json!([{"site": "resid_post", "layers": [0, 2], "positions": [-1]}, {"site": "embed", "positions": [0]},
                         {"site": "resid_post", "layers": [1], "positions": [0, 1]}]);
    let mut body =
        json!({"prompt": "The Eiffel Tower is", "target": " Paris", "read": {"topk": 2, "capture": capture}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let lowered = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::default()).unwrap();
    let mut output = output(vec![score(0.25, " Rome")]);
    output.captures = lowered
        .plan
        .captures
        .iter()
        .enumerate()
        .map(|(i, c)| vec![i as f32; 8 * c.positions.len()])
        .collect();
    output.captures[0][3] = f32::NAN;
    lowered.layout.respond(&Computed { output, ..Computed::default() }, &Fake::default(), envelope()).unwrap()
}

fn csv(bytes: &[u8]) -> Vec<BTreeMap<String, String>> {
    ::csv::Reader::from_reader(bytes).deserialize().map(Result::unwrap).collect()
}

fn npz_names(bytes: &[u8]) -> Vec<String> {
    let zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    zip.file_names().map(|name| name.unwrap().trim_end_matches(".npy").to_owned()).collect()
}

fn f64s(tensors: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f64>) {
    let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("{name} in {:?}", tensors.names()));
    assert_eq!(tensor.dtype(), Dtype::F64, "{name}");
    let bytes = tensor.data().chunks_exact(8);
    (tensor.shape().to_vec(), bytes.map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect())
}

fn i64s(tensors: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let tensor = tensors.tensor(name).unwrap();
    tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} {expected}");
}

fn wave(i: usize) -> f64 {
    0.05 + 0.7 * ((i as f64) * 0.11).sin().powi(2)
}

fn bars(response: &PatchResponse, metric: Option<&str>) -> Bars {
    match of_patch(response, metric).unwrap() {
        Picture::Bars(bars) => bars,
        Picture::Figure(_) => panic!("a figure"),
    }
}

#[test]
fn a_trace_is_drawn_as_effects_with_layers_up_and_the_subject_marked() {
    let r = trace(&json!({"arms": ["hidden", "mlp"], "layers": [1, 3], "positions": [0, 1, 7]}), wave);
    let figure = of_trace(&r, None).unwrap();
    assert_eq!(figure.title, "Causal trace: P(\" Paris\")");
    for part in [
        "fake",
        "denoising: effect = patched − corrupted",
        "noise 3σ of subjects (",
        "2\u{a0}samples, seed\u{a0}7",
        "clean\u{a0}=\u{a0}0.8",
        "corrupted\u{a0}=\u{a0}0.2\u{a0}±\u{a0}0.1",
        "total\u{a0}effect\u{a0}=\u{a0}0.6\u{a0}±\u{a0}0.1",
    ] {
        assert!(figure.subtitle.contains(part), "{part:?} in {:?}", figure.subtitle);
    }
    assert!(figure.shared_scale);
    let [hidden, mlp] = &figure.panels[..] else { panic!("two panels") };
    assert_eq!((hidden.rows.as_slice(), hidden.y_label.as_str()), (&["1".into(), "3".into()][..], "layer"));
    let columns: Vec<_> = hidden.columns.iter().map(|c| (c.text.as_str(), c.marked)).collect();
    assert_eq!(columns, [("The", false), (" Eiffel", true), (" of", false)]);
    assert_eq!(hidden.mark_label, "subject (corrupted)");
    assert_eq!(hidden.value_label, "indirect effect on P(\"\u{a0}Paris\")");
    // The cell of layer 3, position 1 is the fifth: readouts 8 and 9, means of two samples minus 0.2.
    near(hidden.cells[1][1].value.unwrap(), f64::midpoint(wave(8), wave(9)) - 0.2);
    assert!(hidden.cells[0][0].exact_null && !hidden.cells[0][1].exact_null);
    assert!(hidden.cells[1][2].trivial && !hidden.cells[0][2].trivial);
    assert_eq!(mlp.title, "mlp: mlp_out, window 10");
    assert_eq!(mlp.y_label, "centre layer");
    assert!(!mlp.cells[1][2].trivial);
    let named = of_trace(&r, Some("logit:target")).unwrap();
    assert_eq!(named.title, "Causal trace: logit(\" Paris\")");
    near(
        named.panels[0].cells[1][1].value.unwrap(),
        (wave(8).ln() - 0.1_f64.ln() + wave(9).ln() - 0.3_f64.ln()) / 2.0,
    );
}

#[test]
fn pictures_say_how_the_corrupted_runs_were_made() {
    let subtitle = |corrupt: Value| {
        let r = trace(&json!({"layers": [1], "positions": [0], "corrupt": corrupt}), wave);
        of_trace(&r, None).unwrap().subtitle
    };
    for (corrupt, expected) in [
        (
            json!({"method": "uniform", "sigma": {"abs": 0.5}, "samples": 2}),
            "uniform noise σ = 0.5, 2\u{a0}samples",
        ),
        (json!({"method": "student_t", "samples": 2}), "student t noise 3σ of subjects ("),
        (
            json!({"method": "multivariate", "mode": "replace", "samples": 2, "seed": 7}),
            "multivariate noise in place of the embeddings, 2\u{a0}samples, seed\u{a0}7",
        ),
        (
            json!({"method": "replace_tokens", "with": [" river Tower", " strong water"]}),
            "tokens replaced by “river”, “strong water”",
        ),
    ] {
        let found = subtitle(corrupt);
        assert!(found.contains(expected), "{expected:?} in {found:?}");
    }
    let two = json!({"prompt": null, "subject": null, "layers": [1], "positions": [0],
                     "runs": {"clean": {"prompt": "The Eiffel Tower is"}, "a": {"prompt": "The river Tower is"},
                              "b": {"prompt": "The Eiffel water is"}},
                     "corrupt": {"method": "run", "run": ["a", "b"]}});
    let found = of_trace(&trace(&two, wave), None).unwrap().subtitle;
    assert!(found.contains("corrupted runs: a, b"), "{found:?}");
}

#[test]
fn noising_is_drawn_from_the_clean_run_and_an_arm_without_layers_is_one_row() {
    let body = json!({"base": "clean", "arms": {"tokens": {"site": "embed"}},
                      "corrupt": {"sigma": {"abs": 0.5}, "samples": 2}});
    let figure = of_trace(&trace(&body, wave), None).unwrap();
    assert!(figure.subtitle.contains("noising: effect = patched − clean"), "{}", figure.subtitle);
    assert!(figure.subtitle.contains("noise σ = 0.5, 2\u{a0}samples"), "{}", figure.subtitle);
    assert_eq!(
        (figure.panels[0].rows.as_slice(), figure.panels[0].columns.len()),
        (&["embed".into()][..], 8)
    );
    near(figure.panels[0].cells[0][2].value.unwrap(), f64::midpoint(wave(4), wave(5)) - 0.8);
    figure.to_svg().unwrap();
}

#[test]
fn a_sweep_is_drawn_as_values_between_the_runs_it_is_made_of() {
    let r = patch(&json!({}), |i| [0.1, 0.3, 0.5, 0.7][i]);
    let bars = bars(&r, None);
    assert_eq!(bars.title, "Patching base: P(\" Paris\")");
    assert_eq!(
        bars.subtitle,
        "fake\u{a0}·  base: “The river has a strong current”\u{a0}·  source: “The Eiffel Tower is in London”\u{a0}·  \
         resid_post from source, last position\u{a0}·  warnings: ZERO_CELLS_WRITTEN"
    );
    assert_eq!(bars.labels, ["0", "1", "2", "3"]);
    assert_eq!((bars.x_label.as_str(), bars.value_label.as_str()), ("layer", "P(\" Paris\")"));
    let heights: Vec<f64> = bars.series[0].bars.iter().map(|b| b.value.unwrap()).collect();
    for (found, expected) in heights.into_iter().zip([0.1, 0.3, 0.5, 0.7]) {
        near(found, expected);
    }
    assert_eq!(
        bars.series[0].bars.iter().map(|b| b.trivial).collect::<Vec<_>>(),
        [false, false, false, true]
    );
    let lines: Vec<_> = bars.baselines.iter().map(|b| b.label.as_str()).collect();
    assert_eq!(lines, ["base", "source"]);
    near(bars.baselines[0].value, 0.1);
    near(bars.baselines[1].value, 0.7);
    near(bars.origin, 0.1);
}

#[test]
fn controls_are_drawn_beside_the_patch_and_positions_in_reading_order() {
    let interventions =
        json!([{"site": "resid_post", "layers": 1, "positions": [3, 1, 2], "source": {"run": "source"}}]);
    let more = json!({"interventions": interventions, "sweep": ["positions"], "controls": ["random_vector"]});
    let r = patch(&more, wave);
    let drawn = bars(&r, None);
    let names: Vec<_> = drawn.series.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["patch", "control: random vector"]);
    let effects = &r.controls.others.get("random_vector").unwrap().get("prob:target").unwrap().effects.data;
    let base = r.baselines.get("base").unwrap().get("prob:target").unwrap().unwrap();
    // Sent as 3, 1, 2.
    for (bar, at) in drawn.series[1].bars.iter().zip([1, 2, 0]) {
        near(bar.value.unwrap(), base + effects[at].unwrap());
    }
    for (bar, at) in drawn.series[0].bars.iter().zip([1, 2, 0]) {
        assert_eq!(bar.value, r.values.get("prob:target").unwrap().data[at]);
    }
    let tokens = &r.runs.get("base").unwrap().tokens;
    let texts: Vec<_> = tokens[1..4].iter().map(|token| token.text.clone()).collect();
    assert_eq!(drawn.labels, texts);
    let both = json!({"controls": ["random_vector"], "sweep": ["layers", "positions"], "interventions":
        [{"site": "resid_post", "layers": [0, 1], "positions": [1, 2, 3], "source": {"run": "source"}}]});
    let Picture::Figure(maps) = of_patch(&patch(&both, wave), None).unwrap() else { panic!("bars") };
    let titles: Vec<_> = maps.panels.iter().map(|panel| panel.title.as_str()).collect();
    assert_eq!(titles, ["patch", "control: random vector"]);
    assert!(maps.panels[1].cells.iter().flatten().all(|cell| !cell.trivial && !cell.exact_null));
}

/// For each axis interventions swept along it alone, its values, and the site.
fn swept(axis: SweepAxis) -> (Value, Vec<u32>) {
    let source = json!({"run": "source"});
    let (mut one, values) = match axis {
        SweepAxis::Layers => {
            (json!({"site": "mlp_out", "layers": [0, 2], "positions": [1], "source": source}), vec![0, 2])
        }
        SweepAxis::Positions => {
            (json!({"site": "mlp_out", "layers": 1, "positions": [1, 3], "source": source}), vec![1, 3])
        }
        SweepAxis::Heads => (
            json!({"site": "z", "layers": 1, "positions": [1], "heads": [0, 1], "source": source}),
            vec![0, 1],
        ),
        SweepAxis::Dims => (
            json!({"site": "mlp_out", "layers": 1, "positions": [1], "dims": [5, 2, 7], "source": source}),
            vec![5, 2, 7],
        ),
        SweepAxis::SourceLayers => {
            let source = json!({"run": "source", "layer": [0, 3]});
            (json!({"site": "mlp_out", "layers": 1, "positions": [1], "source": source}), vec![0, 3])
        }
    };
    one["op"] = json!("replace");
    (json!({"interventions": [one], "sweep": [axis.name()], "metrics": ["prob:target"]}), values)
}

#[test]
fn every_axis_has_its_column_in_every_table_and_its_array_in_every_file() {
    for (_, axis) in SweepAxis::ALL {
        let (more, values) = swept(axis);
        let r = patch(&more, wave);
        let name = axis.singular();
        let texts: Vec<String> = values.iter().map(u32::to_string).collect();
        let rows = csv(&r.render(Format::Csv, &Show::default()).unwrap());
        assert_eq!(rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>(), texts, "{name}");
        let lines = r.render(Format::Jsonl, &Show::default()).unwrap();
        let lines: Vec<Value> = lines
            .split(|byte| *byte == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!(
            lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>(),
            json!(values).as_array().unwrap()[..]
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r.render(Format::Parquet, &Show::default()).unwrap()).unwrap();
        let reader = parquet::file::reader::SerializedFileReader::new(file.reopen().unwrap()).unwrap();
        let column = |row: parquet::record::Row| {
            row.get_column_iter().find(|(n, _)| *n == name).unwrap().1.to_string()
        };
        let read: Vec<String> = reader.into_iter().map(|row| column(row.unwrap())).collect();
        assert_eq!(read, texts, "{name}");
        let bytes = r.render(Format::Safetensors, &Show::default()).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let array = tensors.tensor(&format!("{name}s")).unwrap();
        let numbers: Vec<u32> =
            array.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
        assert_eq!(numbers, values, "{name}");
        assert!(npz_names(&r.render(Format::Npz, &Show::default()).unwrap()).contains(&format!("{name}s")));
        let drawn = bars(&r, None);
        let label = if axis == SweepAxis::Positions { "token" } else { &name.replace('_', " ") };
        assert_eq!((drawn.x_label.as_str(), drawn.labels.len()), (label, values.len()));
    }
}

#[test]
fn what_is_asked_of_a_picture_is_there_or_the_choices_are_named() {
    let pictures = trace(&json!({"arms": ["hidden", "mlp"]}), wave).pictures().unwrap();
    let Picture::Figure(all) = pictures.chosen(&Show::default()).unwrap() else { panic!("bars") };
    let names = pictures.0[0].parts.clone();
    assert_eq!((all.panels.len(), names.len()), (2, 2));
    let show = Show {
        arm: Some(names[1].clone()),
        title: Some("Mine".into()),
        vmax: Some(0.25),
        metric: Some("logit:target".into()),
        ..Show::default()
    };
    let Picture::Figure(one) = pictures.chosen(&show).unwrap() else { panic!("bars") };
    assert_eq!((one.panels.len(), one.title.as_str(), one.scale_end), (1, "Mine", Some(0.25)));
    assert!(one.panels[0].value_label.contains("logit"), "{}", one.panels[0].value_label);
    // As a job keeps them.
    let kept: Pictures = serde_json::from_slice(&serde_json::to_vec(&pictures).unwrap()).unwrap();
    assert_eq!(kept.draw(&show, Format::Svg).unwrap(), pictures.draw(&show, Format::Svg).unwrap());
    let refused = |show: &Show| pictures.draw(show, Format::Svg).unwrap_err().problem().unwrap();
    for (pointer, show, fix) in [
        ("?arm", Show { arm: Some("x".into()), ..Show::default() }, names.join(", ")),
        ("?metric", of("x"), "prob:target".to_owned()),
        ("?kind", Show { kind: Some(Plot::Lens), ..Show::default() }, "heatmap".to_owned()),
        ("?group", Show { group: Some("x".into()), ..Show::default() }, "leave `group` out".to_owned()),
        ("?run", Show { run: Some("x".into()), ..Show::default() }, "leave `run` out".to_owned()),
    ] {
        let problem = refused(&show);
        assert_eq!(problem.pointer, pointer);
        assert!(problem.fix.contains(&fix), "{pointer}: {}", problem.fix);
    }
}

#[test]
fn a_patch_without_axes_is_one_bar_with_two_a_heatmap_and_with_three_an_error() {
    let one = |sweep: Value, site: &str| {
        let interventions =
            json!([{"site": site, "layers": [0, 1], "positions": [1, 2, 3], "source": {"run": "source"}}]);
        patch(&json!({"interventions": interventions, "sweep": sweep}), wave)
    };
    let single = bars(&one(json!([]), "mlp_out"), None);
    assert_eq!((single.labels.as_slice(), single.x_label.as_str()), (&["patched".into()][..], ""));
    assert!(single.subtitle.contains("layers 0, 1, positions 1, 2, 3"), "{}", single.subtitle);
    let by_token = bars(&one(json!(["positions"]), "mlp_out"), None);
    assert_eq!((by_token.labels[0].as_str(), by_token.x_label.as_str()), (" river", "token"));
    let Picture::Figure(map) = of_patch(&one(json!(["positions", "layers"]), "mlp_out"), None).unwrap()
    else {
        panic!("bars")
    };
    let panel = &map.panels[0];
    assert_eq!((panel.y_label.as_str(), panel.cells.len(), panel.cells[0].len()), ("layer", 2, 3));
    assert_eq!(panel.columns[2].text, " a");
    // Positions come first among the axes: cell 3 is the second position's second layer. Effects, not values.
    near(panel.cells[1][1].value.unwrap(), wave(3) - 0.1);
    assert!(map.subtitle.contains("base\u{a0}=\u{a0}0.1"), "{}", map.subtitle);
    let three = of_patch(&one(json!(["layers", "positions", "heads"]), "z"), None);
    let Err(PictureRequestError::TooManyAxes { axes, .. }) = &three else { panic!("{three:?}") };
    assert_eq!(axes, &["layer", "position", "head"]);
    let heads = of_patch(&one(json!(["layers", "heads"]), "z"), None).unwrap();
    let Picture::Figure(map) = heads else { panic!("bars") };
    assert_eq!((map.panels[0].x_label.as_str(), map.panels[0].columns.len()), ("head", 2));
}

#[test]
fn a_wrong_metric_and_a_format_that_is_not_there_say_what_is() {
    let (t, p, r) = (trace(&json!({}), wave), patch(&json!({}), |_| 0.2), run(&json!({})));
    let all: [(&dyn Rendered, bool); 3] = [(&t, true), (&p, true), (&r, false)];
    for format in Format::NUMBERS.into_iter().chain([Format::Svg, Format::Png]) {
        let picture = matches!(format, Format::Svg | Format::Png);
        for (response, _) in all.iter().filter(|(_, drawn)| *drawn || !picture) {
            let error = response.render(format, &of("prob:nobody")).unwrap_err();
            let problem = error.problem().unwrap();
            assert_eq!((problem.pointer.as_str(), problem.code), ("?metric", "unknown_name"));
            assert!(problem.fix.contains("prob:target"), "{}", problem.fix);
        }
    }
    for format in [Format::Svg, Format::Png] {
        let problem = r.render(format, &Show::default()).unwrap_err().problem().unwrap();
        assert_eq!((problem.pointer.as_str(), problem.code), ("?format", "not_supported"));
        assert!(problem.fix.contains("`logit_lens`"), "{}", problem.fix);
    }
}

#[test]
fn responses_without_cells_are_not_drawn() {
    let mut r = trace(&json!({}), wave);
    r.arms.0.clear();
    assert!(matches!(of_trace(&r, None), Err(PictureRequestError::NoCells { .. })));
    let mut r = trace(&json!({}), wave);
    r.arms.0[0].1.axes[1].values.clear();
    let error = of_trace(&r, None).unwrap_err();
    assert_eq!(error.to_string(), "arm hidden has no cells, so there is nothing to draw");
    let mut r = patch(&json!({}), |_| 0.2);
    r.axes[0].values.clear();
    assert!(matches!(of_patch(&r, None), Err(PictureRequestError::NoCells { .. })));
    r.values.0.clear();
    assert_eq!(of_patch(&r, None), Err(PictureRequestError::NoMetrics));
}

#[test]
fn a_trace_in_safetensors_holds_every_number_under_its_name() {
    let r = trace(&json!({"layers": [1, 2], "positions": [0, 2, 5], "keep": {"per_sample": true}}), wave);
    let bytes = r.render(Format::Safetensors, &Show::default()).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (shape, effects) = f64s(&tensors, "hidden/prob:target/effect_mean");
    assert_eq!(shape, [2, 3]);
    assert_eq!(
        effects,
        r.arms.0[0].1.effects.0[0].1.mean.data.iter().map(|x| x.unwrap()).collect::<Vec<_>>()
    );
    let (shape, samples) = f64s(&tensors, "hidden/prob:target/value_samples");
    assert_eq!(shape, [2, 3, 2]);
    near(samples[9], wave(9));
    near(f64s(&tensors, "hidden/prob:target/value_mean").1[4], f64::midpoint(wave(8), wave(9)));
    near(f64s(&tensors, "hidden/prob:target/recovery").1[4], (f64::midpoint(wave(8), wave(9)) - 0.2) / 0.6);
    assert_eq!(i64s(&tensors, "hidden/layers"), [1, 2]);
    assert_eq!(i64s(&tensors, "hidden/positions"), [0, 2, 5]);
    assert_eq!(tensors.tensor("hidden/exact_null").unwrap().data(), [1, 0, 0, 0, 0, 0]);
    let (shape, clean) = f64s(&tensors, "clean/prob:target");
    assert!(shape.is_empty());
    near(clean[0], 0.8);
    near(f64s(&tensors, "corrupted/prob:target/samples").1[1], 0.3);
    near(f64s(&tensors, "total_effect/prob:target/mean").1[0], 0.6);
    assert_eq!(i64s(&tensors, "tokens")[1], i64::from(id(" Eiffel")));
    assert_eq!((i64s(&tensors, "token_starts")[1], i64s(&tensors, "token_ends")[1]), (3, 10));
    assert_eq!(i64s(&tensors, "subject"), [1, 3]);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!((metadata["model"].as_str(), metadata["server"].as_str()), ("fake", "9.9"));
    assert_eq!(metadata["plan_sha256"], r.provenance.plan_sha256);
    let request: Value = serde_json::from_str(&metadata["request"]).unwrap();
    assert_eq!(request, serde_json::to_value(&r.request).unwrap());
    assert!(
        lower::lower::<crate::spec::trace::TraceSpec>(&request, &Fake::default()).is_ok(),
        "the request can be sent again"
    );
    let texts: Vec<String> = serde_json::from_str(&metadata["token_texts"]).unwrap();
    assert_eq!(texts[7], " of");
}

#[test]
fn npz_holds_the_same_arrays_and_texts_and_one_metric_if_asked() {
    let r = trace(&json!({}), wave);
    let names = npz_names(&r.render(Format::Npz, &Show::default()).unwrap());
    let bytes = r.render(Format::Safetensors, &Show::default()).unwrap();
    for name in SafeTensors::deserialize(&bytes).unwrap().names() {
        assert!(names.iter().any(|n| n == name), "{name}");
    }
    assert!(names.contains(&"metadata".to_owned()) && names.contains(&"token_texts".to_owned()));
    assert!(!names.iter().any(|name| name.contains("samples") && name.starts_with("hidden")));
    let names = npz_names(&r.render(Format::Npz, &of("logit:target")).unwrap());
    assert!(names.contains(&"hidden/logit:target/recovery".to_owned()));
    assert!(!names.iter().any(|name| name.contains("prob:target")), "{names:?}");
}

#[test]
fn names_chosen_by_the_caller_are_one_part_of_a_path_each() {
    let body = json!({"runs": {"..": {"prompt": "The"}, "a/b": {"prompt": "The"}, "a": {"prompt": "The"}},
                      "targets": {"x/y": [" Paris"]}, "metrics": ["prob:x/y"]});
    let lowered = lower::lower::<crate::spec::run::RunSpec>(&body, &Fake::default()).unwrap();
    let scores = (0..3).map(|_| score(0.5, " Rome")).collect();
    let r = lowered
        .layout
        .respond(&Computed { output: output(scores), ..Computed::default() }, &Fake::default(), envelope())
        .unwrap();
    let names = npz_names(&r.render(Format::Npz, &Show::default()).unwrap());
    for name in ["~../prob:x~1y", "a~1b/tokens", "a/tokens"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    // Arms named as the baselines keep apart from them.
    let arms = json!({"corrupted": {"site": "mlp_out"}, "clean": {"site": "mlp_out"}, "total_effect": {"site": "mlp_out"},
                      "tokens": {"site": "mlp_out"}});
    let r = trace(&json!({"arms": arms, "keep": {"per_sample": true}}), wave);
    r.render(Format::Npz, &Show::default()).unwrap();
}

#[test]
fn a_patch_and_its_runs_are_arrays_too() {
    let r = patch(&json!({}), |i| [0.1, 0.3, 0.5, 0.7][i]);
    let bytes = r.render(Format::Safetensors, &Show::default()).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    near(f64s(&tensors, "effects/prob:target").1[2], 0.4);
    near(f64s(&tensors, "normalised/prob:target").1[3], 1.0);
    near(f64s(&tensors, "runs/source/prob:target").1[0], 0.7);
    assert_eq!(i64s(&tensors, "layers"), [0, 1, 2, 3]);
    assert_eq!(tensors.tensor("trivial").unwrap().data(), [0, 0, 0, 1]);
    assert_eq!(tensors.tensor("topk_ids").unwrap().shape(), [4, 2]);
    assert_eq!(i64s(&tensors, "topk_ids")[0], i64::from(id(" Paris")));
    near(f64s(&tensors, "topk_logprobs").1[1], 0.25_f64.ln());
    assert_eq!(i64s(&tensors, "runs/base/tokens")[1], i64::from(id(" river")));
}

#[test]
fn captures_keep_their_layers_and_positions() {
    let r = run(&json!({}));
    let bytes = r.render(Format::Safetensors, &Show::default()).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let capture = tensors.tensor("run/resid_post").unwrap();
    assert_eq!((capture.dtype(), capture.shape()), (Dtype::F32, &[2, 1, 8][..]));
    let values: Vec<f32> =
        capture.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert!(values[3].is_nan() && values[8].to_bits() == 1.0_f32.to_bits(), "{values:?}");
    assert_eq!(
        (i64s(&tensors, "run/resid_post/layers"), i64s(&tensors, "run/resid_post/positions")),
        (vec![0, 2], vec![3])
    );
    assert_eq!(tensors.tensor("run/embed").unwrap().shape(), [1, 8]);
    assert!(tensors.tensor("run/embed/layers").is_err());
    assert_eq!(tensors.tensor("run/resid_post.2").unwrap().shape(), [1, 2, 8]);
    assert_eq!(i64s(&tensors, "run/resid_post.2/layers"), [1]);
    assert_eq!(i64s(&tensors, "run/topk_ids"), [i64::from(id(" Rome")), i64::from(id(" the"))]);
    near(f64s(&tensors, "run/prob:target").1[0], 0.25);
}

#[test]
fn tables_have_a_row_for_each_measurement() {
    let r = trace(&json!({"arms": ["hidden", "mlp"], "layers": [1, 3], "positions": [0, 1, 7]}), wave);
    let rows = csv(&r.render(Format::Csv, &Show::default()).unwrap());
    assert_eq!(rows.len(), 2 * 6 * 2);
    let row = rows
        .iter()
        .find(|r| {
            r["arm"] == "hidden" && r["layer"] == "3" && r["position"] == "1" && r["metric"] == "prob:target"
        })
        .unwrap();
    let number = |name: &str| row[name].parse::<f64>().unwrap();
    near(number("value"), f64::midpoint(wave(8), wave(9)));
    near(number("effect"), f64::midpoint(wave(8), wave(9)) - 0.2);
    near(number("clean"), 0.8);
    near(number("corrupted"), 0.2);
    assert_eq!((row["token"].as_str(), row["head"].as_str(), row["window"].as_str()), (" Eiffel", "", "1"));
    assert_eq!((row["site"].as_str(), row["trivial"].as_str()), ("resid_post", "false"));
    assert_eq!(rows.iter().filter(|r| r["exact_null"] == "true").count(), 2);
    let header = "arm,site,window,layer,position,token,head,dim,source_layer,metric,value,value_se,effect,effect_se,recovery,exact_null,\
                  trivial,clean,corrupted\n";
    let text = r.render(Format::Csv, &of("logit:target")).unwrap();
    assert!(text.starts_with(header.as_bytes()));
    assert_eq!(csv(&text).len(), 12);

    let rows =
        csv(&patch(&json!({}), |i| [0.1, 0.3, 0.5, 0.7][i]).render(Format::Csv, &Show::default()).unwrap());
    assert_eq!(rows.len(), 8);
    for (name, expected) in
        [("value", 0.5), ("effect", 0.4), ("normalised", 2.0 / 3.0), ("base", 0.1), ("source", 0.7)]
    {
        near(rows[2][name].parse().unwrap(), expected);
    }
    assert_eq!((rows[2]["layer"].as_str(), rows[2]["position"].as_str()), ("2", ""));

    let rows = csv(&run(&json!({})).render(Format::Csv, &Show::default()).unwrap());
    let kinds: Vec<_> =
        rows.iter().map(|r| (r["kind"].as_str(), r["metric"].as_str(), r["token"].as_str())).collect();
    let expected = [
        ("metric", "prob:target", ""),
        ("metric", "logprob:target", ""),
        ("topk", "", " Rome"),
        ("topk", "", " the"),
    ];
    assert_eq!(kinds, expected);
    assert_eq!((rows[3]["rank"].as_str(), rows[3]["value"].as_str()), ("2", ""));
    near(rows[3]["prob"].parse().unwrap(), 0.25);
}

#[test]
fn plots_asked_for_are_put_into_the_response() {
    let mut r = trace(&json!({"plot": ["svg", "png", "svg"]}), wave);
    r.fill_plots();
    assert_eq!(r.plots.names(), ["svg", "png"]);
    assert_eq!(r.plots.0[0].1.as_bytes(), r.render(Format::Svg, &Show::default()).unwrap());
    let png = base64::engine::general_purpose::STANDARD.decode(&r.plots.0[1].1).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    assert_eq!(png, r.render(Format::Png, &Show::default()).unwrap());
    let mut broken = trace(&json!({"plot": ["svg"]}), wave);
    let lints = broken.lints.len();
    broken.arms.0.clear();
    broken.fill_plots();
    assert!(broken.plots.is_empty());
    assert_eq!((broken.lints.len(), broken.lints[lints].code), (lints + 1, "NO_PICTURE"));
    let mut none = trace(&json!({}), wave);
    none.fill_plots();
    assert!(none.plots.is_empty());
}

#[test]
#[ignore = "writes pictures to look at"]
fn response_gallery() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/gallery");
    std::fs::create_dir_all(&folder).unwrap();
    let sweep = json!({"sweep": ["layers", "positions"], "interventions": [{"site": "resid_post", "positions": "all", "source": {"run": "source"}}]});
    let all: [(&str, Box<dyn Rendered>); 5] = [
        ("response-trace", Box::new(trace(&json!({}), wave))),
        ("response-trace-arms", Box::new(trace(&json!({"arms": ["hidden", "mlp", "attn"]}), wave))),
        ("response-trace-embed", Box::new(trace(&json!({"arms": {"tokens": {"site": "embed"}}}), wave))),
        ("response-sweep", Box::new(patch(&json!({}), |i| [0.1, 0.3, 0.5, 0.7][i]))),
        ("response-sweep-two", Box::new(patch(&sweep, wave))),
    ];
    for (name, response) in all {
        std::fs::write(
            folder.join(format!("{name}.png")),
            response.render(Format::Png, &Show::default()).unwrap(),
        )
        .unwrap();
        std::fs::write(
            folder.join(format!("{name}.npz")),
            response.render(Format::Npz, &Show::default()).unwrap(),
        )
        .unwrap();
        std::fs::write(
            folder.join(format!("{name}.csv")),
            response.render(Format::Csv, &Show::default()).unwrap(),
        )
        .unwrap();
    }
}
