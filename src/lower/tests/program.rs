//! Programs of traced blocks: what they lower to, and that whatever a hostile worker sends is refused by its fields.

#![allow(clippy::needless_for_each, reason = "one line for each")]

use mediant_worker::program::{Op as Asked, Place, Program, Read, Run, Write};
use proptest::prelude::*;

use super::Fake;
use crate::lower::facts::Limits;
use crate::lower::program::{LoweredProgram, program};
use crate::plan::pack::{Mode, Packing};
use crate::plan::{Op, RunId, Source};
use crate::spec::site::Site;

const MOST: u64 = 1 << 20;

fn run(tokens: &[u32], parent: Option<u32>) -> Run {
    Run { tokens: tokens.to_vec(), parent }
}

fn place(site: &str, layer: impl Into<Option<u32>>) -> Place {
    Place { site: site.to_owned(), layer: layer.into() }
}

fn write(run: u32, place: Place, positions: &[u32], op: Asked) -> Write {
    Write { run, place, positions: positions.to_vec(), columns: None, op }
}

fn read(run: u32, place: Place, positions: &[u32]) -> Read {
    Read { run, place, positions: positions.to_vec() }
}

/// Two prompts, a branch of the first, each kind of write, reads before and after.
fn good() -> Program {
    Program {
        runs: vec![run(&[1, 2, 3], None), run(&[4, 5], None), run(&[1, 2, 3], Some(0))],
        writes: vec![
            write(1, place("embed", None), &[0, 1], Asked::Add(vec![0.5; 16])),
            Write { columns: Some(4..8), ..write(1, place("z", 2), &[1], Asked::Replace(vec![1.0; 4])) },
            write(2, place("resid_post", 1), &[2], Asked::ReplaceByRun { run: 1, positions: vec![0] }),
            write(2, place("mlp_act", 3), &[0], Asked::Zero),
            write(2, place("final_norm", None), &[0, 2], Asked::Scale(f32::NAN)),
            write(2, place("resid_pre", 0), &[], Asked::Zero),
        ],
        reads: vec![
            read(2, place("logits", None), &[2]),
            read(0, place("resid_post", 0), &[]),
            read(1, place("pattern", 0), &[1, 0, 1]),
        ],
    }
}

fn lowered(program: Program) -> Result<LoweredProgram, Vec<String>> {
    super::super::program::program(program, MOST, &Fake::default())
        .map_err(|found| found.0.into_iter().map(|p| format!("{} {}", p.pointer, p.code)).collect())
}

#[test]
fn a_program_is_a_plan_one_to_one() {
    let lowered = lowered(good()).unwrap();
    let plan = &lowered.plan;
    assert_eq!(plan.runs.iter().map(|run| run.parent).collect::<Vec<_>>(), [None, None, Some(RunId(0))]);
    assert_eq!(plan.runs[2].tokens[..], [1, 2, 3]);
    // Edits stand with their runs, in the order of the writes; one that writes nothing is none.
    assert_eq!(plan.runs.iter().map(|run| run.edits.len()).collect::<Vec<_>>(), [0, 2, 3]);
    let [added, replaced] = &plan.runs[1].edits[..] else { panic!("two edits") };
    assert_eq!((added.at.site, added.at.layer, &added.columns), (Site::Embed, 0, &None));
    assert!(
        matches!(&added.op, Op::Add { source: Source::Constant(numbers), coef: 1.0, norm_match: false } if numbers.len() == 16)
    );
    assert_eq!((replaced.at.site, replaced.at.layer, replaced.columns.clone()), (Site::Z, 2, Some(4..8)));
    assert!(
        matches!(&plan.runs[2].edits[0].op, Op::Replace(Source::Run { run: RunId(1), positions }) if positions[..] == [0])
    );
    assert_eq!(plan.runs[2].edits[2].at.layer, 4, "what stands after the last layer is addressed there");
    assert_eq!(plan.captures.iter().map(|capture| capture.run).collect::<Vec<_>>(), [RunId(2), RunId(1)]);
    let values = lowered.reads.values(vec![vec![1.0], vec![2.0, 3.0]]);
    assert_eq!(values, [vec![1.0], vec![], vec![2.0, 3.0]], "by read, and nothing where none was asked for");
}

#[test]
fn what_is_wrong_is_named() {
    type Spoil = fn(&mut Program);
    let cases: [(Spoil, &str); 24] = [
        (|p| p.runs[1].tokens.clear(), "/runs/1/tokens empty"),
        (|p| p.runs[1].tokens[0] = 300, "/runs/1/tokens unknown_token"),
        (|p| p.runs[1].tokens = vec![0; 8193], "/runs/1/tokens limit_exceeded"),
        (|p| p.runs[2].parent = Some(2), "/runs/2/parent out_of_range"),
        (|p| p.runs[2].parent = Some(9), "/runs/2/parent out_of_range"),
        (|p| p.runs[2].parent = Some(1), "/runs/2/parent length_mismatch"),
        (|p| p.writes[0].run = 0, "/runs/2/parent conflict"),
        (|p| p.writes[0].run = 3, "/writes/0/run out_of_range"),
        (|p| p.writes[0].place = place("logits", None), "/writes/0/place/site not_supported"),
        (|p| p.writes[0].place = place("pattern", 1), "/writes/0/place/site not_supported"),
        (|p| p.writes[0].place = place("head_out", 1), "/writes/0/place/site not_supported"),
        (|p| p.writes[0].place = place("q_norm", 1), "/writes/0/place/site not_supported"),
        (|p| p.writes[0].place = place("Embed", None), "/writes/0/place/site unknown_value"),
        (|p| p.writes[0].place.layer = Some(0), "/writes/0/place/layer conflict"),
        (|p| p.writes[1].place.layer = None, "/writes/1/place/layer missing_field"),
        (|p| p.writes[1].place.layer = Some(4), "/writes/1/place/layer out_of_range"),
        (|p| p.writes[0].positions = vec![0, 2], "/writes/0/positions out_of_range"),
        (|p| p.writes[0].positions = vec![1, 1], "/writes/0/positions duplicate"),
        (|p| p.writes[1].columns = Some(4..9), "/writes/1/columns out_of_range"),
        (|p| p.writes[1].columns = Some(4..4), "/writes/1/columns out_of_range"),
        (|p| p.writes[0].op = Asked::Replace(vec![0.0; 15]), "/writes/0/op length_mismatch"),
        (
            |p| p.writes[2].op = Asked::ReplaceByRun { run: 2, positions: vec![0] },
            "/writes/2/op/run out_of_range",
        ),
        (
            |p| p.writes[2].op = Asked::ReplaceByRun { run: 1, positions: vec![0, 1] },
            "/writes/2/op/positions length_mismatch",
        ),
        (|p| p.reads[0].positions = vec![3], "/reads/0/positions out_of_range"),
    ];
    for (spoil, wanted) in cases {
        let mut program = good();
        spoil(&mut program);
        assert_eq!(lowered(program).unwrap_err(), [wanted]);
    }
}

#[test]
fn how_much_is_asked_for_is_bounded_before_it_is_gone_through() {
    let limits = Limits { cells: 2, edit_positions: 6, ..Limits::default() };
    let facts = Fake { limits, ..Fake::default() };
    let found = program(good(), MOST, &facts).unwrap_err().0;
    let found: Vec<_> = found.iter().map(|p| (p.pointer.as_str(), p.detail.as_str())).collect();
    assert_eq!(
        found,
        [
            ("/runs", "3 prompts in one forward pass, the limit is 2"),
            ("/writes", "7 positions written in one forward pass, the limit is 6"),
        ]
    );
    // 300 logits, and three rows of two heads over three keys.
    assert!(program(good(), 318, &Fake::default()).is_ok());
    let found = program(good(), 317, &Fake::default()).unwrap_err().0;
    assert_eq!(found[0].detail, "318 numbers are read at once, the limit is 317");
}

/// A number that is mostly in range, and sometimes anything.
fn index(below: u32) -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..below, 1 => any::<u32>(), 1 => Just(below)]
}

fn any_place() -> impl Strategy<Value = Place> {
    let name =
        prop_oneof![12 => (0..Site::ALL.len()).prop_map(|i| Site::ALL[i].name().to_owned()), 1 => ".{0,9}"];
    (name, prop_oneof![3 => index(4).prop_map(Some), 2 => Just(None)])
        .prop_map(|(site, layer)| Place { site, layer })
}

fn positions() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(index(3), 0..4)
}

fn any_op() -> impl Strategy<Value = Asked> {
    let numbers =
        || (0usize..4, prop::sample::select(vec![1, 4, 8, 16])).prop_map(|(n, w)| vec![f32::NAN; n * w]);
    prop_oneof![
        numbers().prop_map(Asked::Replace),
        numbers().prop_map(Asked::Add),
        any::<f32>().prop_map(Asked::Scale),
        Just(Asked::Zero),
        (index(3), positions()).prop_map(|(run, positions)| Asked::ReplaceByRun { run, positions }),
    ]
}

fn any_program() -> impl Strategy<Value = Program> {
    let columns = prop_oneof![3 => Just(None), 1 => (index(9), index(9)).prop_map(|(a, b)| Some(a..b))];
    let run = (prop::collection::vec(index(3), 0..4), prop::option::of(index(3)))
        .prop_map(|(tokens, parent)| Run { tokens, parent });
    let write = (index(4), any_place(), positions(), columns, any_op())
        .prop_map(|(run, place, positions, columns, op)| Write { run, place, positions, columns, op });
    let read = (index(4), any_place(), positions()).prop_map(|(run, place, positions)| Read {
        run,
        place,
        positions,
    });
    let lists = (
        prop::collection::vec(run, 0..5),
        prop::collection::vec(write, 0..4),
        prop::collection::vec(read, 0..4),
    );
    lists.prop_map(|(runs, writes, reads)| Program { runs, writes, reads })
}

/// The nearest program that could be of a well-meaning worker: most random ones fail on their first field.
fn mended(mut program: Program) -> Program {
    for (i, run) in program.runs.iter_mut().enumerate() {
        run.tokens = vec![i as u32 % 2, 7, 9];
        run.parent = run
            .parent
            .map(|parent| parent % 4)
            .filter(|parent| (*parent as usize) < i && (i as u32 - parent).is_multiple_of(2));
    }
    let runs = program.runs.len() as u32;
    let fix = |place: &mut Place, positions: &mut Vec<u32>| {
        let site = Site::ALL.into_iter().find(|site| site.name() == place.site).unwrap_or(Site::ResidPost);
        place.site = site.name().to_owned();
        place.layer = site.has_layer().then(|| place.layer.unwrap_or(0) % 4);
        positions.iter_mut().for_each(|position| *position %= 3);
        positions.dedup();
    };
    if runs == 0 {
        program.writes.clear();
        program.reads.clear();
    }
    for write in &mut program.writes {
        fix(&mut write.place, &mut write.positions);
        write.run %= runs;
        write.columns = None;
        let n = write.positions.len();
        match &mut write.op {
            Asked::Replace(numbers) | Asked::Add(numbers) => *numbers = vec![f32::INFINITY; n * 8],
            Asked::ReplaceByRun { run, positions } => {
                *run %= runs;
                *positions = vec![2; n];
            }
            Asked::Scale(_) | Asked::Zero => {}
        }
    }
    for read in &mut program.reads {
        fix(&mut read.place, &mut read.positions);
        read.run %= runs;
    }
    program
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_sent_is_lowered_and_laid_out_or_refused(program in any_program(), mend in any::<bool>()) {
        let program = if mend { mended(program) } else { program };
        let reads = program.reads.len();
        if let Ok(lowered) = lowered(program) {
            let packing = Packing::new(&lowered.plan, 4, 1000, Mode::Branching).unwrap();
            for chunk in 0..packing.len() {
                packing.chunk(chunk);
            }
            let captures = vec![Vec::new(); lowered.plan.captures.len()];
            prop_assert_eq!(lowered.reads.values(captures).len(), reads);
        }
    }
}
