//! Every way to corrupt: what is drawn, what is replaced, and what is refused.

use serde_json::{Value, json};

use super::{problems, trace};
use crate::lower;
use crate::lower::layout::{Lowered, TraceLayout};
use crate::lower::noise::{
    NoiseKey, numpy_legacy, numpy_legacy_uniform, philox_row, philox_uniform_row, stream,
};
use crate::lower::testing::{Fake, id};
use crate::plan::{EditGroup, Op, RunId, Source};

const PROMPT: &str = "The Eiffel Tower is in the city of";

fn body(corrupt: Value) -> Value {
    json!({"prompt": PROMPT, "subject": "Eiffel Tower", "target": " Paris", "layers": [0], "positions": [0],
           "corrupt": corrupt})
}

fn corrupted(corrupt: Value) -> Lowered<TraceLayout> {
    trace(&body(corrupt))
}

/// Constants of every sample, and whether they take the embeddings' place.
fn noise(lowered: &Lowered<TraceLayout>) -> Vec<(Vec<f32>, bool)> {
    let readouts = lowered.layout.case.corrupted.iter();
    let rows = readouts.map(|readout| {
        let edit = &lowered.plan.run(lowered.plan.readouts[*readout].run).edits[0];
        assert_eq!((edit.positions.as_slice(), edit.group), (&[1, 2][..], EditGroup::Corruption));
        match &edit.op {
            Op::Add { source: Source::Constant(rows), coef: 1.0, .. } => (rows.to_vec(), false),
            Op::Replace(Source::Constant(rows)) => (rows.to_vec(), true),
            other => panic!("{other:?}"),
        }
    });
    rows.collect()
}

fn scaled(values: &[f64], std: f64) -> Vec<f32> {
    values.iter().map(|x| (x * std) as f32).collect()
}

#[test]
fn uniform_noise_is_sigma_times_numbers_between_minus_one_and_one() {
    let philox =
        noise(&corrupted(json!({"method": "uniform", "sigma": {"abs": 0.5}, "samples": 2, "seed": 4})));
    for (sample, (rows, replaces)) in philox.iter().enumerate() {
        let row = |position| {
            let key = NoiseKey { seed: 4, stream: stream::UNIFORM, sample: sample as u32, position };
            scaled(&philox_uniform_row(key, 8), 0.5)
        };
        assert_eq!((rows, *replaces), (&[row(1), row(2)].concat(), false));
    }
    let numpy = noise(&corrupted(
        json!({"method": "uniform", "sigma": {"abs": 0.5}, "samples": 2, "rng": "numpy_legacy"}),
    ));
    assert_eq!(numpy[1].0, scaled(&numpy_legacy_uniform(1, 32)[16..], 0.5));
}

#[test]
fn noise_can_take_the_place_of_the_embedding() {
    for method in ["gaussian", "uniform", "student_t", "multivariate"] {
        let with = |mode: &str| noise(&corrupted(json!({"method": method, "samples": 2, "mode": mode})));
        assert!(with("replace").iter().all(|(_, replaces)| *replaces), "{method}");
        assert!(with("add").iter().all(|(_, replaces)| !replaces), "{method}");
        // The same numbers: here the mean embedding, which multivariate noise adds, is zero.
        let (replaced, added) = (with("replace"), with("add"));
        let near = replaced[0].0.iter().zip(&added[0].0).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near, "{method}");
    }
}

#[test]
fn student_noise_is_the_gaussians_rows_stretched_one_by_one() {
    let t = noise(&corrupted(json!({"method": "student_t", "df": 5, "sigma": {"abs": 0.5}, "samples": 3})));
    let gaussian = noise(&corrupted(json!({"sigma": {"abs": 0.5}, "samples": 3})));
    let mut stretches = Vec::new();
    for ((t, _), (gaussian, _)) in t.iter().zip(&gaussian) {
        for (t, gaussian) in t.chunks(8).zip(gaussian.chunks(8)) {
            let stretch = t[0] / gaussian[0];
            assert!(t.iter().zip(gaussian).all(|(t, g)| (t / g - stretch).abs() < 1e-5 * stretch));
            stretches.push(stretch);
        }
    }
    assert!(stretches.windows(2).all(|w| w[0] != w[1]), "one draw per sample and position: {stretches:?}");
    // Three degrees of freedom are what is meant if nothing is said.
    let three = noise(&corrupted(json!({"method": "student_t", "df": 3, "samples": 2})));
    assert_eq!(noise(&corrupted(json!({"method": "student_t", "samples": 2}))), three);
}

#[test]
fn student_noise_has_the_variance_that_sigma_says() {
    let t = noise(&corrupted(json!({"method": "student_t", "df": 12, "sigma": {"abs": 2}, "samples": 1000})));
    let rows: Vec<f64> = t.iter().flat_map(|(rows, _)| rows.chunks(8)).map(|row| f64::from(row[0])).collect();
    let n = rows.len() as f64;
    let variance = rows.iter().map(|x| x * x).sum::<f64>() / n;
    // Kurtosis 3 + 6 / (df - 4): four standard errors of n = 2000 independent rows.
    let error = 4.0 * ((3.0 + 6.0 / 8.0 - 1.0) / n).sqrt();
    assert!((variance / 4.0 - 1.0).abs() < 4.0 * error / 4.0, "{variance}");
}

/// Mean and covariance (n - 1) of rows of 8 numbers.
fn covariance(rows: &[Vec<f64>]) -> (Vec<f64>, Vec<f64>) {
    let n = rows.len() as f64;
    let mean: Vec<f64> = (0..8).map(|d| rows.iter().map(|row| row[d]).sum::<f64>() / n).collect();
    let entry = |i: usize, j: usize| {
        rows.iter().map(|row| (row[i] - mean[i]) * (row[j] - mean[j])).sum::<f64>() / (n - 1.0)
    };
    let covariance = (0..64).map(|at| entry(at / 8, at % 8)).collect();
    (mean, covariance)
}

#[test]
fn multivariate_noise_has_the_covariance_of_the_embedding_matrix() {
    use crate::lower::facts::Facts;
    let facts = Fake { shift: 0.5, ..Fake::default() };
    let table = facts.embedding(&(0..300).collect::<Vec<_>>());
    let table: Vec<Vec<f64>> =
        table.chunks(8).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
    let (table_mean, expected) = covariance(&table);
    let drawn = |mode: &str, k: f64| {
        let corrupt = json!({"method": "multivariate", "k": k, "mode": mode, "samples": 1000});
        let lowered = lower::lower::<crate::spec::trace::TraceSpec>(&body(corrupt), &facts).unwrap();
        assert_eq!(lowered.layout.case.sigma, None);
        let rows = noise(&lowered);
        let rows = rows.iter().flat_map(|(rows, _)| rows.chunks(8));
        covariance(&rows.map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect::<Vec<_>>())
    };
    for (mode, k) in [("add", 1.0), ("add", 0.5), ("replace", 1.0)] {
        let (mean, found) = drawn(mode, k);
        for i in 0..8 {
            let shift = if mode == "replace" { table_mean[i] } else { 0.0 };
            // Four standard errors of 2000 gaussian rows.
            let error = 4.0 * k * (expected[i * 9] / 2000.0).sqrt();
            assert!((mean[i] - shift).abs() < error, "{mode} {k}: mean {i}: {} {shift}", mean[i]);
            for j in 0..8 {
                let wanted = k * k * expected[i * 8 + j];
                let spread = expected[i * 9] * expected[j * 9] + expected[i * 8 + j].powi(2);
                let error = 4.0 * k * k * (spread / 2000.0).sqrt();
                assert!((found[i * 8 + j] - wanted).abs() < error, "{mode} {k}: {i} {j}");
            }
        }
    }
}

#[test]
fn methods_draw_from_streams_of_their_own() {
    let gaussian = |stream| philox_row(NoiseKey { seed: 1, stream, sample: 0, position: 1 }, 8);
    let streams = [stream::GAUSSIAN, stream::UNIFORM, stream::CHI_SQUARE, stream::MULTIVARIATE];
    for (i, a) in streams.iter().enumerate() {
        assert!(streams[..i].iter().all(|b| a != b && gaussian(*a) != gaussian(*b)));
    }
    // Operation `noise` of patches, with the same seed, at the same place.
    let patch = json!({"runs": {"a": {"prompt": PROMPT}}, "base": "a", "target": " Paris",
                       "interventions": [{"site": "embed", "positions": [1, 2], "op": "noise", "sigma": {"abs": 1}}]});
    let patch = lower::lower::<crate::spec::patch::PatchSpec>(&patch, &Fake::default()).unwrap();
    let Op::Add { source: Source::Constant(rows), .. } = &patch.plan.runs[1].edits[0].op else { panic!() };
    assert_ne!(rows.to_vec(), noise(&corrupted(json!({"sigma": {"abs": 1}})))[0].0);
}

#[test]
fn the_preset_of_rome_is_its_stream_and_explicit_fields_override_it() {
    let echo =
        |corrupt: Value| serde_json::to_value(corrupted(corrupt).layout.spec).unwrap()["corrupt"].clone();
    let rome = echo(json!({"preset": "rome"}));
    let expected = json!({"from": "clean", "method": "gaussian", "sigma": {"k": 3.0, "of": "subjects"},
                          "positions": {"span": "subject", "which": "all"}, "mode": "add", "samples": 10, "seed": 1,
                          "rng": "numpy_legacy", "include_bos": false});
    assert_eq!(rome, expected);
    assert_eq!(echo(rome.clone()), rome, "the echo means the same");
    let own = echo(json!({"preset": "rome", "method": "uniform", "samples": 3, "seed": 7, "rng": "philox"}));
    assert_eq!(
        (&own["method"], &own["samples"], &own["seed"], &own["rng"]),
        (&json!("uniform"), &json!(3), &json!(7), &json!("philox"))
    );
    let sigma = json!({"preset": "rome", "sigma": {"abs": 0.1}});
    // RandomState(1).randn(10, 2, 8) * 0.1
    assert_eq!(noise(&corrupted(sigma))[9].0, scaled(&numpy_legacy(1, 160)[144..], 0.1));
}

#[test]
fn every_method_echoes_what_was_left_out() {
    let draws = json!({"positions": {"span": "subject", "which": "all"}, "mode": "add", "samples": 10, "seed": 1,
                       "rng": "philox", "include_bos": false});
    let sigma = json!({"k": 3.0, "of": "subjects"});
    for (corrupt, own) in [
        (json!({"method": "uniform"}), json!({"sigma": sigma})),
        (json!({"method": "student_t"}), json!({"sigma": sigma, "df": 3})),
        (json!({"method": "multivariate"}), json!({"k": 1.0})),
    ] {
        let mut expected = json!({"from": "clean", "method": corrupt["method"]});
        for part in [&own, &draws] {
            expected.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
        let echo = serde_json::to_value(corrupted(corrupt).layout.spec).unwrap();
        assert_eq!(echo["corrupt"], expected);
        let again = lower::lower::<crate::spec::trace::TraceSpec>(&echo, &Fake::default())
            .unwrap_or_else(|p| panic!("{p:#?}"));
        assert_eq!(serde_json::to_value(again.layout.spec).unwrap(), echo);
    }
    let echo = |corrupt| serde_json::to_value(corrupted(corrupt).layout.spec).unwrap()["corrupt"].clone();
    assert_eq!(
        echo(json!({"method": "replace_tokens", "with": " strong river"})),
        json!({"from": "clean", "method": "replace_tokens", "positions": {"span": "subject", "which": "all"},
               "with": " strong river", "include_bos": false})
    );
}

#[test]
fn replaced_tokens_are_a_prompt_of_their_own_per_alternative() {
    let with = json!([" river Tower", [id(" strong"), id(" water")]]);
    let lowered = corrupted(json!({"method": "replace_tokens", "with": with}));
    let layout = &lowered.layout;
    assert_eq!((layout.case.corrupted.len(), layout.case.sigma), (2, None));
    assert_eq!(layout.case.corrupted_positions, [1, 2], "of all samples together");
    let prompt = |sample: usize| {
        let readout = lowered.plan.readouts[layout.case.corrupted[sample]];
        let run = lowered.plan.run(readout.run);
        assert_eq!((run.parent, run.edits.len(), readout.position), (None, 0, 7));
        run.tokens[..4].to_vec()
    };
    assert_eq!(prompt(0), [id("The"), id(" river"), id(" Tower"), id(" is")]);
    assert_eq!(prompt(1), [id("The"), id(" strong"), id(" water"), id(" is")]);
    let differing: Vec<&[u32]> = layout.case.replaced.iter().map(|r| &r.differing_positions[..]).collect();
    assert_eq!(differing, [&[1][..], &[1, 2][..]]);
    assert_eq!(layout.case.replaced[1].tokens[2].text, " water");
    // A cell restores the clean run's state in each of them.
    let grid = layout.case.arms.get("hidden").unwrap();
    assert_eq!(grid.grid.samples, 2);
    for sample in 0..2 {
        let cell = lowered.plan.run(lowered.plan.readouts[grid.grid.cell(0)[sample]].run);
        assert_eq!(cell.parent, Some(lowered.plan.readouts[layout.case.corrupted[sample]].run));
        let Op::Replace(Source::Run { run, .. }) = &cell.edits[0].op else { panic!() };
        assert_eq!(*run, RunId(0));
    }
    assert_eq!(layout.case.common.lints.0, []);
}

#[test]
fn replacements_of_another_number_of_tokens_are_shown_beside_what_they_replace() {
    let found = lower::lower::<crate::spec::trace::TraceSpec>(
        &body(json!({"method": "replace_tokens", "with": " Rome"})),
        &Fake::default(),
    );
    let problem = &found.unwrap_err().0[0];
    assert_eq!((&*problem.pointer, problem.code), ("/corrupt/with", "length_mismatch"));
    assert_eq!(problem.detail, "tokens 1 [\" Rome\"] where 2 [\" Eiffel\", \" Tower\"] are replaced");
}

#[test]
fn a_replacement_without_the_space_of_what_it_replaces_is_remarked_on() {
    let lints = |with: &str| {
        let corrupt = json!({"method": "replace_tokens", "positions": [3], "with": with});
        let lints = corrupted(corrupt).layout.case.common.lints;
        lints.0.iter().map(|l| format!("{} {}", l.code, l.pointer)).collect::<Vec<_>>()
    };
    let outside = "DIFFERS_OUTSIDE_SUBJECT /corrupt/positions";
    assert_eq!(lints(" has"), [outside]);
    assert_eq!(lints("x"), ["NO_LEADING_SPACE /corrupt/with", outside]);
}

/// A trace whose clean run has a subject, and other runs beside it.
fn runs(run: Value) -> Value {
    json!({"runs": {"clean": {"prompt": "The Eiffel Tower is", "spans": {"subject": "Eiffel"}},
                    "river": {"prompt": "The river Tower is"}, "has": {"prompt": "The river Tower has"},
                    "long": {"prompt": "The Eiffel Tower is in"}, "same": {"prompt": "The Eiffel Tower is"}},
           "corrupt": {"method": "run", "run": run}, "target": " Paris"})
}

#[test]
fn several_runs_are_one_sample_each() {
    let lowered = trace(&runs(json!(["river", "has"])));
    let layout = &lowered.layout;
    assert_eq!(layout.case.corrupted, [1, 2], "the runs' own readouts: nothing is computed twice");
    assert_eq!(layout.case.corrupted_positions, [1, 3]);
    let replaced: Vec<(&str, &[u32])> = layout
        .case
        .replaced
        .iter()
        .map(|r| (r.run.as_deref().unwrap(), &r.differing_positions[..]))
        .collect();
    assert_eq!(replaced, [("river", &[1][..]), ("has", &[1, 3][..])]);
    let outside = layout.case.common.lints.0.iter().filter(|l| l.code == "DIFFERS_OUTSIDE_SUBJECT");
    let outside: Vec<(&str, &str)> = outside.map(|l| (l.pointer.as_str(), l.detail.as_str())).collect();
    assert_eq!(outside, [("/corrupt/run/1", "positions [3] differ too; the subject is at [1, 2)")]);
    assert!(!trace(&runs(json!("river"))).layout.case.common.lints.has("DIFFERS_OUTSIDE_SUBJECT"));
}

#[test]
fn bad_corruptions_name_their_field() {
    let facts = Fake { adds_bos: true, ..Fake::default() };
    let with = |with: Value| json!({"method": "replace_tokens", "with": with});
    for (corrupt, expected) in [
        (json!({"method": "student_t", "df": 2}), "/corrupt/df out_of_range"),
        (json!({"method": "student_t", "df": 1001}), "/corrupt/df out_of_range"),
        (json!({"method": "student_t", "df": 3.5}), "/corrupt/df wrong_type"),
        (json!({"method": "student_t", "rng": "numpy_legacy"}), "/corrupt/rng not_supported"),
        (json!({"method": "student_t", "preset": "rome"}), "/corrupt/preset unknown_field"),
        (json!({"method": "student_t", "k": 1}), "/corrupt/k unknown_field"),
        (json!({"method": "gaussian", "df": 3}), "/corrupt/df unknown_field"),
        (json!({"method": "multivariate", "rng": "numpy_legacy"}), "/corrupt/rng not_supported"),
        (json!({"method": "multivariate", "sigma": {"k": 3}}), "/corrupt/sigma unknown_field"),
        (json!({"method": "multivariate", "k": 0}), "/corrupt/k out_of_range"),
        (json!({"method": "multivariate", "k": 3e38}), "/corrupt/k out_of_range"),
        (json!({"method": "multivariate", "samples": 1001}), "/corrupt/samples limit_exceeded"),
        (json!({"preset": "memit"}), "/corrupt/preset unknown_value"),
        (json!({"preset": "rome", "seed": 4_294_967_296_u64}), "/corrupt/seed out_of_range"),
        (json!({"mode": "subtract"}), "/corrupt/mode unknown_value"),
        (json!({"method": "uniform", "mode": 1}), "/corrupt/mode wrong_type"),
        (json!({"method": "student-t"}), "/corrupt/method unknown_value"),
        (json!({"method": 3}), "/corrupt/method wrong_type"),
        (json!({"method": "replace_tokens"}), "/corrupt/with missing_field"),
        (with(json!(3)), "/corrupt/with wrong_type"),
        (with(json!("")), "/corrupt/with empty"),
        (with(json!([])), "/corrupt/with empty"),
        (with(json!([[]])), "/corrupt/with/0 empty"),
        (with(json!([3])), "/corrupt/with/0 wrong_type"),
        (with(json!([[260, "x"]])), "/corrupt/with/0/1 wrong_type"),
        (with(json!([[260, 999]])), "/corrupt/with/0/1 unknown_token"),
        (with(json!([" river Tower", " Rome"])), "/corrupt/with/1 length_mismatch"),
        (with(json!([" Eiffel Tower"])), "/corrupt/with/0 self_reference"),
        (with(json!([" river Tower", [id(" river"), id(" Tower")]])), "/corrupt/with/1 duplicate"),
        (with(json!(" x".repeat(4097))), "/corrupt/with limit_exceeded"),
        (
            json!({"method": "replace_tokens", "positions": {"range": [0, 2]}, "with": [" river Tower"]}),
            "/corrupt/positions conflict",
        ),
        (
            json!({"method": "replace_tokens", "positions": {"map": [[0, 0]]}, "with": " Rome"}),
            "/corrupt/positions/map not_supported",
        ),
        (
            json!({"method": "replace_tokens", "with": " river Tower", "seed": 1}),
            "/corrupt/seed unknown_field",
        ),
        (json!({"method": "run", "run": []}), "/corrupt/run empty"),
        (json!({"method": "run", "run": [1]}), "/corrupt/run/0 wrong_type"),
        (json!({"method": "run", "run": ["a", "a"]}), "/corrupt/run/1 duplicate"),
    ] {
        let found = problems("trace", &body(corrupt.clone()), &facts);
        assert!(found.contains(&expected.to_owned()), "{corrupt}: {found:?}");
        assert_eq!(found.iter().filter(|f| !f.ends_with("unknown_name")).count(), 1, "{corrupt}: {found:?}");
    }
    let bos =
        json!({"method": "replace_tokens", "positions": [0], "include_bos": true, "with": [[id("The")]]});
    let lowered = lower::lower::<crate::spec::trace::TraceSpec>(&body(bos), &facts).unwrap();
    assert!(lowered.layout.case.common.lints.has("BOS_CORRUPTED"));
    assert_eq!(lowered.layout.case.corrupted_positions, [0]);
    for (run, expected) in [
        (json!(["river", "clean"]), "/corrupt/run/1 self_reference"),
        (json!("same"), "/corrupt/run self_reference"),
        (json!(["long", "river"]), "/corrupt/run/0 length_mismatch"),
        (json!(["river", "revir"]), "/corrupt/run/1 unknown_name"),
    ] {
        assert_eq!(problems("trace", &runs(run.clone()), &Fake::default()), [expected], "{run}");
    }
    // Counted in numbers drawn: one per token of the vocabulary.
    let mut small = Fake::default();
    small.limits.noise_elements = 2 * 2 * 300 - 1;
    let multivariate = json!({"method": "multivariate", "samples": 2});
    assert_eq!(problems("trace", &body(multivariate), &small), ["/corrupt/samples limit_exceeded"]);
    assert_eq!(problems("trace", &body(json!({"samples": 2})), &small), [""; 0]);
    small.limits.samples = 1;
    let many = |corrupt: Value| problems("trace", &body(corrupt), &small);
    assert_eq!(many(with(json!([" river Tower", " strong water"]))), ["/corrupt/with limit_exceeded"]);
    assert_eq!(problems("trace", &runs(json!(["river", "has"])), &small), ["/corrupt/run limit_exceeded"]);
}
