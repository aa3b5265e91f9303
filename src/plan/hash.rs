//! The key of a plan: what tells it from every plan whose numbers may be other ones.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Address, Capture, CapturedRows, Edit, Op, Plan, Readout, Run, RunId, Scoring, Source};

/// Plans with more bytes of constants have no key: to read them takes its time, and they are rarely asked for twice.
const MOST_CONSTANTS: usize = 64 << 20;

/// SHA-256 of a plan, and of whatever else its numbers depend on.
pub type Key = [u8; 32];

impl Plan {
    /// The key of what the plan asks for, beside `of`: what computes it, and for whom. Floats count by their bits. `None`: it has
    /// too many constants to look it up, or leaves something on the device, which is computed each time.
    pub fn key(&self, of: &[&str]) -> Option<Key> {
        let mut writer = Writer::default();
        writer.all(of, |writer, text| writer.text(text));
        // Without `..`, so that no field can be forgotten.
        let Plan { runs, readouts, captures, kept, scoring } = self;
        if !kept.is_empty() {
            return None;
        }
        writer.all(runs, Writer::run);
        writer.all(readouts, Writer::readout);
        writer.all(captures, Writer::capture);
        writer.scoring(scoring);
        (writer.bytes <= MOST_CONSTANTS).then(|| writer.hash.finalize().into())
    }
}

/// Every value has one form, and every list says how long it is: no two plans have the same bytes.
#[derive(Default)]
struct Writer {
    hash: Sha256,
    /// Of constants met before: cells of a sweep share theirs. By place and length; they live as long as the plan does.
    constants: HashMap<(*const f32, usize), Key>,
    /// Bytes of constants. Those beyond the most are counted alone.
    bytes: usize,
}

impl Writer {
    fn number(&mut self, number: u64) {
        self.hash.update(number.to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        self.number(length as u64);
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.hash.update(text);
    }

    fn all<T>(&mut self, all: &[T], one: impl Fn(&mut Self, &T)) {
        self.length(all.len());
        for value in all {
            one(self, value);
        }
    }

    fn maybe<T>(&mut self, value: Option<&T>, one: impl Fn(&mut Self, &T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            one(self, value);
        }
    }

    fn numbers(&mut self, numbers: &[u32]) {
        self.all(numbers, |writer, number| writer.hash.update(number.to_le_bytes()));
    }

    fn range(&mut self, Range { start, end }: &Range<u32>) {
        self.number(u64::from(*start));
        self.number(u64::from(*end));
    }

    fn run_id(&mut self, RunId(run): RunId) {
        self.number(u64::from(run));
    }

    fn address(&mut self, Address { layer, site }: Address) {
        self.number(u64::from(layer));
        self.text(site.name());
    }

    fn constant(&mut self, constant: &Arc<[f32]>) {
        self.length(constant.len());
        let place = (constant.as_ptr(), constant.len());
        if !self.constants.contains_key(&place) {
            self.bytes += size_of_val(&constant[..]);
            if self.bytes > MOST_CONSTANTS {
                return;
            }
            let mut hash = Sha256::new();
            for number in &constant[..] {
                hash.update(number.to_bits().to_le_bytes());
            }
            self.constants.insert(place, hash.finalize().into());
        }
        self.hash.update(self.constants[&place]);
    }

    fn run(&mut self, run: &Run) {
        let Run { tokens, prompt, parent, edits, context } = run;
        self.numbers(tokens);
        self.number(u64::from(*prompt));
        self.maybe(parent.as_ref(), |writer, parent| writer.run_id(*parent));
        self.all(edits, Self::edit);
        self.number(u64::from(*context));
    }

    fn edit(&mut self, edit: &Edit) {
        let Edit { at, positions, columns, op, instead, through, group } = edit;
        self.address(*at);
        self.numbers(positions);
        self.maybe(columns.as_ref(), Self::range);
        self.op(op);
        self.maybe(instead.as_ref(), Self::constant);
        self.maybe(through.as_ref(), |writer, through| writer.number(u64::from(*through)));
        self.length(group.index());
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Replace(source) => {
                self.text("replace");
                self.source(source);
            }
            Op::Add { source, coef, norm_match } => {
                self.text("add");
                self.number(u64::from(coef.to_bits()));
                self.number(u64::from(*norm_match));
                self.source(source);
            }
            Op::Scale(factor) => {
                self.text("scale");
                self.number(u64::from(factor.to_bits()));
            }
            Op::Along { direction, change } => {
                self.text("along");
                self.constant(direction);
                self.numbers(&change.bits());
            }
            Op::Zero => self.text("zero"),
            Op::Cut => self.text("cut"),
            Op::Project { basis, source } => {
                self.text("project");
                self.constant(basis);
                self.maybe(source.as_ref(), Self::source);
            }
        }
    }

    fn source(&mut self, source: &Source) {
        match source {
            Source::Run { run, positions } => {
                self.text("run");
                self.run_id(*run);
                self.numbers(positions);
            }
            Source::Constant(rows) => {
                self.text("constant");
                self.constant(rows);
            }
            Source::Captured(parts) => {
                self.text("captured");
                self.all(parts, |writer, CapturedRows { capture, rows, columns, width }| {
                    writer.length(*capture);
                    writer.numbers(rows);
                    writer.range(columns);
                    writer.length(*width);
                });
            }
        }
    }

    fn readout(&mut self, Readout { run, position, lens }: &Readout) {
        self.run_id(*run);
        self.number(u64::from(*position));
        self.maybe(lens.as_ref(), |writer, layer| writer.number(u64::from(*layer)));
    }

    fn capture(&mut self, Capture { run, at, positions }: &Capture) {
        self.run_id(*run);
        self.address(*at);
        self.numbers(positions);
    }

    fn scoring(&mut self, scoring: &Scoring) {
        let Scoring { targets, topk, kl_refs, entropy, sequences } = scoring;
        self.numbers(targets);
        self.number(u64::from(*topk));
        self.numbers(kl_refs);
        self.number(u64::from(*entropy));
        self.all(sequences, |writer, sequence| writer.numbers(sequence));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Along, EditGroup};
    use super::*;
    use crate::spec::site::Site;

    fn rows(numbers: &[f32]) -> Arc<[f32]> {
        numbers.into()
    }

    /// A plan with something in every field.
    fn plan() -> Plan {
        let at = Address { layer: 1, site: Site::Z };
        let mut plan = Plan::default();
        let a = plan.root(Arc::from([1, 2, 3]));
        let b = plan.root(Arc::from([4, 5, 6]));
        let edit = |op| Edit {
            columns: Some(0..2),
            instead: Some(rows(&[1.0, 0.0])),
            through: Some(0),
            ..Edit::new(at, vec![2], op, EditGroup::Patch)
        };
        let run = || Source::Run { run: b, positions: vec![2] };
        let captured = CapturedRows { capture: 0, rows: vec![1], columns: 0..2, width: 4 };
        let edits = vec![
            edit(Op::Replace(run())),
            edit(Op::Add { source: Source::Constant(rows(&[0.5, 0.25])), coef: 2.0, norm_match: true }),
            edit(Op::Scale(0.5)),
            edit(Op::Zero),
            edit(Op::Cut),
            edit(Op::Project { basis: rows(&[1.0, 0.0]), source: Some(Source::Captured(vec![captured])) }),
        ];
        let patched = plan.branch(a, edits);
        plan.set_context(patched, 1);
        plan.read(patched, 2);
        plan.read_lens(a, 1, 0);
        plan.captures.push(Capture { run: a, at, positions: vec![0, 1] });
        plan.scoring = Scoring {
            targets: vec![7],
            topk: 3,
            kl_refs: vec![0],
            entropy: true,
            sequences: vec![Arc::from([7, 8]), Arc::from([9])],
        };
        plan
    }

    fn along(direction: &[f32], change: Along) -> Op {
        Op::Along { direction: rows(direction), change }
    }

    /// What a change of a field makes of the plan.
    fn changed(change: impl Fn(&mut Plan)) -> Key {
        let mut plan = plan();
        change(&mut plan);
        plan.key(&["a", "b"]).unwrap()
    }

    fn of_edit(index: usize, change: impl Fn(&mut Edit)) -> Key {
        changed(|plan| change(&mut plan.runs[2].edits[index]))
    }

    fn of_source(index: usize, change: impl Fn(&mut Source)) -> Key {
        of_edit(index, |edit| change(edit.op.source_mut().unwrap()))
    }

    fn of_captured(change: impl Fn(&mut CapturedRows)) -> Key {
        of_source(5, |source| {
            if let Source::Captured(parts) = source {
                change(&mut parts[0]);
            }
        })
    }

    #[test]
    fn whatever_is_changed_the_key_is_another() {
        let constant = |numbers: &[f32]| Source::Constant(rows(numbers));
        let keys = [
            plan().key(&["a", "b"]).unwrap(),
            plan().key(&["b", "b"]).unwrap(),
            plan().key(&["ab", ""]).unwrap(),
            plan().key(&["ab"]).unwrap(),
            changed(|plan| plan.runs[1].tokens = Arc::from([4, 5, 7])),
            changed(|plan| plan.runs[1].prompt = 2),
            changed(|plan| plan.runs[2].parent = Some(RunId(1))),
            changed(|plan| plan.runs[2].parent = None),
            changed(|plan| plan.runs[2].context = 0),
            changed(|plan| plan.runs[2].edits.swap(0, 1)),
            changed(|plan| drop(plan.runs[2].edits.pop())),
            of_edit(0, |edit| edit.at.layer = 2),
            of_edit(0, |edit| edit.at.site = Site::Q),
            of_edit(0, |edit| edit.positions = vec![1]),
            of_edit(0, |edit| edit.columns = Some(0..3)),
            of_edit(0, |edit| edit.columns = Some(1..2)),
            of_edit(0, |edit| edit.columns = None),
            of_edit(0, |edit| edit.instead = None),
            of_edit(0, |edit| edit.instead = Some(rows(&[1.0, -0.0]))),
            of_edit(0, |edit| edit.through = None),
            of_edit(0, |edit| edit.through = Some(1)),
            of_edit(0, |edit| edit.group = EditGroup::Control),
            of_edit(0, |edit| edit.group = EditGroup::Corruption),
            of_edit(0, |edit| edit.op = Op::Zero),
            of_edit(0, |edit| edit.op = Op::Cut),
            of_edit(0, |edit| edit.op = Op::Scale(2.0)),
            of_edit(0, |edit| edit.op = Op::add(Source::Run { run: RunId(1), positions: vec![2] })),
            of_edit(0, |edit| edit.op = Op::Project { basis: rows(&[1.0, 0.0]), source: None }),
            of_edit(1, |edit| {
                if let Op::Add { coef, .. } = &mut edit.op {
                    *coef = -2.0;
                }
            }),
            of_edit(1, |edit| {
                if let Op::Add { norm_match, .. } = &mut edit.op {
                    *norm_match = false;
                }
            }),
            of_edit(2, |edit| edit.op = Op::Scale(0.25)),
            of_edit(2, |edit| edit.op = along(&[1.0, 0.0], Along::Scale(0.5))),
            of_edit(2, |edit| edit.op = along(&[-1.0, 0.0], Along::Scale(0.5))),
            of_edit(2, |edit| edit.op = along(&[1.0, 0.0], Along::Clamp(0.5, 1.0))),
            of_edit(2, |edit| edit.op = along(&[1.0, 0.0], Along::Clamp(0.5, 2.0))),
            of_edit(2, |edit| edit.op = along(&[1.0, 0.0], Along::Clamp(0.25, 1.0))),
            of_edit(5, |edit| {
                if let Op::Project { basis, .. } = &mut edit.op {
                    *basis = rows(&[0.0, 1.0]);
                }
            }),
            of_edit(5, |edit| {
                if let Op::Project { source, .. } = &mut edit.op {
                    *source = None;
                }
            }),
            of_source(0, |source| *source = Source::Run { run: RunId(0), positions: vec![2] }),
            of_source(0, |source| *source = Source::Run { run: RunId(1), positions: vec![1] }),
            of_source(0, |source| *source = constant(&[0.5, 0.25])),
            of_source(1, |source| *source = constant(&[0.5, 0.125])),
            of_source(1, |source| *source = constant(&[0.25, 0.5])),
            of_source(1, |source| *source = constant(&[0.5, 0.25, 0.0])),
            of_captured(|part| part.capture = 1),
            of_captured(|part| part.rows = vec![0]),
            of_captured(|part| part.columns = 2..4),
            of_captured(|part| part.width = 5),
            changed(|plan| plan.readouts[0].run = RunId(0)),
            changed(|plan| plan.readouts[0].position = 1),
            changed(|plan| plan.readouts[1].lens = Some(1)),
            changed(|plan| plan.readouts[1].lens = None),
            changed(|plan| plan.readouts.swap(0, 1)),
            changed(|plan| plan.captures[0].run = RunId(1)),
            changed(|plan| plan.captures[0].at.site = Site::K),
            changed(|plan| plan.captures[0].positions = vec![1, 0]),
            changed(|plan| plan.captures.clear()),
            changed(|plan| plan.scoring.targets = vec![8]),
            changed(|plan| plan.scoring.topk = 4),
            changed(|plan| plan.scoring.kl_refs.clear()),
            changed(|plan| plan.scoring.entropy = false),
            changed(|plan| plan.scoring.sequences = vec![Arc::from([7]), Arc::from([8, 9])]),
            changed(|plan| plan.scoring.sequences.clear()),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|other| other == key), Some(i), "change {i}");
        }
    }

    #[test]
    fn equal_plans_have_one_key_whatever_they_share_and_huge_ones_none() {
        let constant = rows(&[0.5, 0.25]);
        let with = |constants: [Arc<[f32]>; 2]| {
            let mut plan = plan();
            for (edit, rows) in plan.runs[2].edits.iter_mut().zip(constants) {
                edit.op = Op::Replace(Source::Constant(rows));
            }
            plan.key(&[])
        };
        let apart = with([rows(&[0.5, 0.25]), rows(&[0.5, 0.25])]);
        assert_eq!(with([Arc::clone(&constant), constant]), apart);
        assert!(apart.is_some());
        let huge = rows(&vec![0.0; MOST_CONSTANTS / 4]);
        assert_eq!(with([Arc::clone(&huge), huge]), None);
    }
}
