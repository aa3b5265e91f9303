//! Random plans, laid out and computed on symbols, against a slow reference that computes every run whole.
//!
//! The symbolic model keeps one number per row: a digest of all that it was made from, of its token, of what stood at
//! every site, of the keys seen and of their order. Two rows are equal only if all of their tables said the same.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;

use super::batch::{AttentionBatch, EditRows, ForwardBatch, ReadoutBatch, RowOp, SITES, Step, Tap, Values};
use super::draw::{Choice, Draw};
use super::merge::merge;
use super::pack::{Chunk, Mode, Packing};
use super::step::{StepBatch, StepRow};
use super::{Address, Along, Capture, Edit, EditGroup, Kept, Op, Plan, RunId, Source};
use crate::spec::site::Site;

/// What stands at a site in one row: two columns.
type Value = [u64; 2];

fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn bits(numbers: &[f32]) -> Vec<u64> {
    numbers.iter().map(|number| u64::from(number.to_bits())).collect()
}

/// Before embed, by position.
fn token_row(token: u32, position: u32) -> u64 {
    digest((token, position))
}

fn value_at(row: u64, at: Address) -> Value {
    [0, 1].map(|column| digest((row, at, column)))
}

/// What an operation does besides copying: everything about it but its rows.
#[derive(Hash, PartialEq)]
enum Kind {
    Replace,
    Zero,
    Other(&'static str, u32, bool, Vec<u64>),
}

fn write(value: &mut Value, columns: Range<usize>, kind: &Kind, source: &[u64], instead: &[f32]) {
    for (i, column) in columns.enumerate() {
        value[column] = match kind {
            Kind::Replace if instead.is_empty() => source[i],
            Kind::Zero if instead.is_empty() => 0,
            _ => digest((value[column], kind, source, bits(instead))),
        };
    }
}

fn through(layer: Option<u32>) -> Vec<u64> {
    layer.into_iter().map(u64::from).collect()
}

fn indices(columns: Option<&Range<u32>>) -> Range<usize> {
    columns.map_or(0..2, |columns| columns.start as usize..columns.end as usize)
}

/// Sites of a block, in the order of computation.
fn sites() -> impl Iterator<Item = Site> {
    Site::ALL.into_iter().skip(Site::ResidPre as usize).take(SITES)
}

/// All addresses, in the order of computation.
fn addresses(layers: u32) -> Vec<Address> {
    let blocks = (0..layers).flat_map(|layer| sites().map(move |site| Address { layer, site }));
    let embed = Address { layer: 0, site: Site::Embed };
    let ends = [Site::FinalNorm, Site::Logits].map(|site| Address { layer: layers, site });
    [embed].into_iter().chain(blocks).chain(ends).collect()
}

/// Every run computed whole, in order, from what its sources had at each site.
struct Reference {
    values: HashMap<(RunId, Address), Vec<Value>>,
    /// Rows of each run leaving each layer, and in the end (at the number of layers).
    rows: HashMap<(RunId, u32), Vec<u64>>,
}

impl Reference {
    fn new(plan: &Plan, layers: u32) -> Reference {
        let mut reference = Reference { values: HashMap::new(), rows: HashMap::new() };
        for run in (0..plan.runs.len() as u32).map(RunId) {
            reference.compute(plan, run, layers);
        }
        reference
    }

    fn compute(&mut self, plan: &Plan, run: RunId, layers: u32) {
        let mut line: Vec<RunId> = std::iter::successors(Some(run), |run| plan.run(*run).parent).collect();
        line.reverse();
        let edits: Vec<&Edit> = line.iter().flat_map(|ancestor| &plan.run(*ancestor).edits).collect();
        let tokens = (0u32..).zip(plan.run(run).tokens.iter());
        let mut rows: Vec<u64> = tokens.map(|(position, token)| token_row(*token, position)).collect();
        let mut keys = Vec::new();
        for at in addresses(layers) {
            match at.site {
                Site::Q => keys.clone_from(&rows),
                Site::Z => {
                    for (position, row) in rows.iter_mut().enumerate() {
                        *row = digest((*row, &keys[..=position]));
                    }
                }
                _ => {}
            }
            let mut values: Vec<Value> = rows.iter().map(|row| value_at(*row, at)).collect();
            for edit in edits.iter().filter(|edit| edit.at == at) {
                self.apply(edit, &mut values);
            }
            for (row, value) in rows.iter_mut().zip(&values) {
                *row = digest((*row, value));
            }
            self.values.insert((run, at), values);
            if at.site == Site::ResidPost {
                self.rows.insert((run, at.layer), rows.clone());
            }
        }
        self.rows.insert((run, layers), rows);
    }

    fn apply(&self, edit: &Edit, values: &mut [Value]) {
        let columns = indices(edit.columns.as_ref());
        let kind = match &edit.op {
            Op::Replace(_) if edit.through.is_some() => {
                Kind::Other("through", 0, false, through(edit.through))
            }
            Op::Replace(_) => Kind::Replace,
            Op::Zero => Kind::Zero,
            Op::Cut => Kind::Other("cut", 0, false, vec![]),
            Op::Add { coef, norm_match, .. } => Kind::Other("add", coef.to_bits(), *norm_match, vec![]),
            Op::Scale(factor) => Kind::Other("scale", factor.to_bits(), false, vec![]),
            Op::Along { direction, change } => Kind::Other("along", change.bits()[1], false, bits(direction)),
            Op::Project { basis, .. } => Kind::Other("project", 0, false, bits(basis)),
        };
        for (i, &position) in edit.positions.iter().enumerate() {
            let part = |numbers: &Arc<[f32]>| {
                let width = numbers.len() / edit.positions.len();
                numbers[i * width..][..width].to_vec()
            };
            let source = match edit.op.source() {
                Some(Source::Run { run, positions }) => {
                    self.values[&(*run, edit.at)][positions[i] as usize][columns.clone()].to_vec()
                }
                Some(Source::Constant(given)) => bits(&part(given)),
                _ => Vec::new(),
            };
            let instead = edit.instead.as_ref().map(part).unwrap_or_default();
            write(&mut values[position as usize], columns.clone(), &kind, &source, &instead);
        }
    }
}

/// A batch on its way through the layers.
struct Machine {
    rows: Vec<u64>,
    positions: Vec<u32>,
    peak: usize,
    captures: HashMap<usize, Vec<Value>>,
    /// One row for each of the batch's scores.
    scores: Vec<u64>,
}

impl Machine {
    fn run(batch: &ForwardBatch) -> Machine {
        let rows =
            batch.tokens.iter().zip(&batch.positions).map(|(token, p)| token_row(*token, *p)).collect();
        let (positions, captures) = (batch.positions.clone(), HashMap::new());
        let mut machine = Machine { rows, positions, peak: 0, captures, scores: Vec::new() };
        let mut row_layers = 0;
        machine.tap(&batch.embed, Address { layer: 0, site: Site::Embed });
        for (layer, tables) in (0u32..).zip(&batch.layers) {
            let mut keys = Vec::new();
            for site in sites() {
                match site {
                    Site::Q => keys = machine.attend(&tables.attention),
                    Site::Z => machine.weigh(&tables.attention, &keys),
                    _ => {}
                }
                machine.tap(&tables[site], Address { layer, site });
            }
            row_layers += machine.rows.len() as u64;
            machine.score(&tables.lens.rows);
        }
        let layer = batch.layers.len() as u32;
        machine.tap(&batch.final_norm, Address { layer, site: Site::FinalNorm });
        machine.tap(&batch.logits, Address { layer, site: Site::Logits });
        machine.score(&batch.readout.rows);
        assert_eq!((machine.peak, row_layers), (batch.peak_rows, batch.row_layers));
        machine
    }

    fn tap(&mut self, tap: &Tap, at: Address) {
        let mut values: Vec<Value> = self.rows.iter().map(|row| value_at(*row, at)).collect();
        for step in &tap.steps {
            match step {
                Step::Join(from) => {
                    for from in from.iter().map(|row| *row as usize) {
                        values.push(values[from]);
                        self.rows.push(self.rows[from]);
                        self.positions.push(self.positions[from]);
                    }
                }
                Step::Edit(table) => apply_table(table, &mut values),
            }
        }
        for capture in &tap.captures {
            let captured = capture.rows.iter().map(|row| values[*row as usize]).collect();
            assert!(self.captures.insert(capture.capture, captured).is_none());
        }
        for (row, value) in self.rows.iter_mut().zip(&values) {
            *row = digest((*row, value));
        }
        self.peak = self.peak.max(self.rows.len());
    }

    /// Selects the rows that leave attention; what the keys are made from.
    fn attend(&mut self, attention: &AttentionBatch) -> Vec<(u32, u64)> {
        let keys = attention.keys.iter().map(|row| (self.positions[*row as usize], self.rows[*row as usize]));
        let keys = keys.collect();
        self.rows = attention.out.iter().map(|row| self.rows[*row as usize]).collect();
        self.positions = attention.out.iter().map(|row| self.positions[*row as usize]).collect();
        self.peak = self.peak.max(self.rows.len());
        keys
    }

    fn weigh(&mut self, attention: &AttentionBatch, keys: &[(u32, u64)]) {
        assert_eq!(attention.key_start.len(), self.rows.len());
        for (i, start) in attention.key_start.iter().map(|start| *start as usize).enumerate() {
            let seen = &keys[start..=start + self.positions[i] as usize];
            assert!((0..).zip(seen).all(|(position, key)| position == key.0), "keys in order of positions");
            let seen: Vec<u64> = seen.iter().map(|key| key.1).collect();
            self.rows[i] = digest((self.rows[i], &seen[..]));
        }
    }

    fn score(&mut self, rows: &[u32]) {
        self.scores.extend(rows.iter().map(|row| self.rows[*row as usize]));
    }
}

fn apply_table(table: &EditRows, values: &mut [Value]) {
    let columns = indices(table.columns.as_ref());
    let kind = match &table.op {
        RowOp::Replace(_) if table.through.is_some() => {
            Kind::Other("through", 0, false, through(table.through))
        }
        RowOp::Replace(_) => Kind::Replace,
        RowOp::Zero => Kind::Zero,
        RowOp::Cut => Kind::Other("cut", 0, false, vec![]),
        RowOp::Add { coef, norm_match, .. } => Kind::Other("add", coef.to_bits(), *norm_match, vec![]),
        RowOp::Scale(factor) => Kind::Other("scale", factor.to_bits(), false, vec![]),
        RowOp::Along { direction, change } => Kind::Other("along", change.bits()[1], false, bits(direction)),
        RowOp::Project { basis, .. } => Kind::Other("project", 0, false, bits(basis)),
    };
    let n = table.rows.len();
    let part = |numbers: &[f32], i: usize| numbers[i * (numbers.len() / n)..][..numbers.len() / n].to_vec();
    for (i, row) in table.rows.iter().enumerate() {
        let source = match table.op.values() {
            Some(Values::Rows(rows)) => {
                assert!(!table.rows.contains(&rows[i]), "read and written by one table");
                values[rows[i] as usize][columns.clone()].to_vec()
            }
            Some(Values::Given(given)) => bits(&part(given, i)),
            None => Vec::new(),
        };
        let instead = table.instead.as_ref().map(|rows| part(rows, i)).unwrap_or_default();
        write(&mut values[*row as usize], columns.clone(), &kind, &source, &instead);
    }
}

/// Numbers to choose by; zeros when they are used up, so that shorter lists are simpler plans.
struct Choices(std::vec::IntoIter<u32>);

impl Choices {
    fn below(&mut self, n: u32) -> u32 {
        self.0.next().unwrap_or(0) % n
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == n - 1
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }

    fn address(&mut self, sites: &[Site], layers: u32) -> Address {
        let (site, layer) = (self.of(sites), self.below(layers));
        match site {
            Site::Embed => Address { layer: 0, site },
            Site::FinalNorm | Site::Logits => Address { layer: layers, site },
            _ => Address { layer, site },
        }
    }

    fn source(&mut self, positions: &[u32], plan: &Plan) -> Source {
        if self.one_in(4) {
            return Source::Constant((0..positions.len() * 2).map(|_| self.below(9) as f32).collect());
        }
        let run = RunId(self.below(plan.runs.len() as u32));
        let length = plan.run(run).tokens.len() as u32;
        let same = !self.one_in(3) && positions.iter().all(|p| *p < length);
        let of = |p: &u32| if same { *p } else { self.below(length) };
        Source::Run { run, positions: positions.iter().map(of).collect() }
    }

    fn edit(&mut self, length: u32, layers: u32, bases: &[Arc<[f32]>], plan: &Plan) -> Edit {
        let sites: Vec<Site> = Site::ALL.into_iter().filter(|site| site.is_editable()).collect();
        let mut positions: Vec<u32> = (0..=self.below(3)).map(|_| self.below(length)).collect();
        positions.sort_unstable();
        positions.dedup();
        let op = match self.below(9) {
            0..=2 => Op::Replace(self.source(&positions, plan)),
            3 => Op::Zero,
            4 => Op::Scale(self.below(3) as f32),
            7 => Op::Cut,
            8 => Op::Along {
                direction: Arc::clone(&bases[self.below(2) as usize]),
                change: Along::Scale(self.below(3) as f32),
            },
            5 => Op::Add {
                source: self.source(&positions, plan),
                coef: self.below(2) as f32,
                norm_match: self.one_in(2),
            },
            _ => {
                let basis = Arc::clone(&bases[self.below(2) as usize]);
                Op::Project { basis, source: self.one_in(2).then(|| self.source(&positions, plan)) }
            }
        };
        let group = if self.one_in(4) { EditGroup::Control } else { EditGroup::Patch };
        let mut edit = Edit::new(self.address(&sites, layers), positions, op, group);
        // Constants are two columns wide; the others may write one.
        if self.one_in(3) && !matches!(edit.op.source(), Some(Source::Constant(_))) {
            edit.columns = Some([0..1, 1..2][self.below(2) as usize].clone());
        }
        if edit.at.site == Site::HeadOut
            && matches!(edit.op, Op::Replace(Source::Constant(_)))
            && self.one_in(2)
        {
            edit.through = Some(self.below(layers));
        }
        if group == EditGroup::Control && self.one_in(3) {
            edit.instead = Some((0..edit.positions.len()).map(|_| self.below(9) as f32).collect());
        }
        edit
    }

    fn plan(&mut self, layers: u32) -> Plan {
        let bases: [Arc<[f32]>; 2] = [Arc::from([1.0, 0.0]), Arc::from([0.0, 1.0])];
        let mut plan = Plan::default();
        plan.root((0..=self.below(7)).collect());
        for _ in 0..self.below(20) {
            if self.one_in(5) {
                plan.root((1..=1 + self.below(7)).collect());
                continue;
            }
            let parent = RunId(self.below(plan.runs.len() as u32));
            let length = plan.run(parent).tokens.len() as u32;
            let edits = (0..self.below(4)).map(|_| self.edit(length, layers, &bases, &plan)).collect();
            plan.branch(parent, edits);
        }
        for run in (0..plan.runs.len() as u32).map(RunId) {
            let length = plan.run(run).tokens.len() as u32;
            plan.read(run, length - 1);
            if self.one_in(3) {
                plan.read_lens(run, self.below(length), self.below(layers));
            }
            if self.one_in(3) {
                let at = self.address(&Site::ALL, layers);
                let positions = (0..=self.below(3)).map(|_| self.below(length)).collect();
                plan.captures.push(Capture { run, at, positions });
            }
        }
        plan.scoring.kl_refs = vec![0];
        plan
    }
}

/// Whether everything that a chunk gives is what the reference has; how many scores and captures these are.
fn check(chunk: &Chunk, plan: &Plan, reference: &Reference, layers: u32) -> (usize, usize) {
    let machine = Machine::run(&chunk.batch);
    for (readout, place) in &chunk.readouts {
        let asked = plan.readouts[*readout];
        let rows = &reference.rows[&(asked.run, asked.lens.unwrap_or(layers))];
        assert_eq!(machine.scores[*place], rows[asked.position as usize], "readout {readout}");
    }
    for capture in &chunk.captures {
        let asked = &plan.captures[*capture];
        let values = &reference.values[&(asked.run, asked.at)];
        let expected: Vec<Value> = asked.positions.iter().map(|p| values[*p as usize]).collect();
        assert_eq!(machine.captures[capture], expected, "capture {capture}");
    }
    (chunk.readouts.len(), chunk.captures.len())
}

#[test]
fn rows_of_one_position_join_side_by_side() {
    let mut plan = Plan::default();
    let root = plan.root((0..5).collect());
    plan.read(root, 4);
    for position in 0..5 {
        let at = Address { layer: 0, site: Site::ResidPost };
        let cell = plan.branch(root, vec![Edit::new(at, vec![position], Op::Zero, EditGroup::Patch)]);
        plan.read(cell, 4);
    }
    let batch = Packing::new(&plan, 3, usize::MAX, Mode::Branching).expect("no budget").chunk(0).batch;
    // The root's rows come first, then each branch's own; what joins are copies of the root's, by position.
    let (stay, join) = batch.layers[1].attention.out.split_at(10);
    assert!(stay.iter().copied().eq(0..10), "{stay:?}");
    assert_eq!(join, [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]);
}

/// Whether what each of several chunks gives is the same when their batches are merged.
fn check_merged(chunks: &[Chunk], layers: u32) {
    let (batch, shares) = merge(chunks.iter().map(|chunk| chunk.batch.clone()).collect());
    let merged = Machine::run(&batch);
    assert_eq!(sent(&batch).0, batch);
    let mut dealt = (0, 0, 0);
    for (chunk, share) in chunks.iter().zip(&shares.0) {
        let alone = Machine::run(&chunk.batch);
        let scores = share.scores.iter().flat_map(|range| &merged.scores[range.clone()]);
        assert!(scores.eq(&alone.scores));
        assert_eq!(share.captures.len(), alone.captures.len());
        for (place, capture) in &share.captures {
            assert_eq!(merged.captures[place], alone.captures[capture]);
        }
        let edited: usize = share.edited.iter().map(Range::len).sum();
        assert_eq!(edited, chunk.edited.len());
        dealt = (dealt.0 + alone.scores.len(), dealt.1 + alone.captures.len(), dealt.2 + edited);
    }
    // Nothing is left over, and nothing is two parts' own.
    assert_eq!(dealt, (merged.scores.len(), merged.captures.len(), batch.edited));
    let mut places: Vec<usize> =
        shares.0.iter().flat_map(|share| share.edited.iter().cloned().flatten()).collect();
    places.sort_unstable();
    assert!(places.into_iter().eq(0..batch.edited));
    assert_eq!(batch.layers.len() as u32, layers);
}

/// Whether each layer has the same table of attention as the one before, in the same place.
fn repeats(batch: &ForwardBatch) -> Vec<bool> {
    batch.layers.windows(2).map(|two| Arc::ptr_eq(&two[0].attention, &two[1].attention)).collect()
}

/// A batch as the engine process gets it.
fn sent(batch: &ForwardBatch) -> (ForwardBatch, usize) {
    let bytes = postcard::to_stdvec(batch).expect("plain data");
    (postcard::from_bytes(&bytes).expect("as it was written"), bytes.len())
}

#[test]
fn attention_is_laid_out_and_sent_once_where_layers_repeat_it() {
    let mut plan = Plan::default();
    let root = plan.root((0..100).collect());
    plan.read(root, 99);
    let cut = Edit::new(Address { layer: 3, site: Site::Q }, vec![98], Op::Zero, EditGroup::Patch);
    let cell = plan.branch(root, vec![cut]);
    plan.read(cell, 99);
    let batch = Packing::new(&plan, 8, usize::MAX, Mode::Branching).expect("no budget").chunk(0).batch;
    // Layer 3: a row joins between the selection and the values; 4: the one behind it, at the selection; 6 has them all, and
    // in 7 those are left out that nothing reads.
    assert_eq!(repeats(&batch), [true, true, false, false, false, true, false]);
    let (received, bytes) = sent(&batch);
    assert_eq!((repeats(&received), &received), (repeats(&batch), &batch));
    let mut apart = batch;
    apart
        .layers
        .iter_mut()
        .for_each(|layer| layer.attention = Arc::new(AttentionBatch::clone(&layer.attention)));
    let (received, all) = sent(&apart);
    assert!(all > bytes + 3 * 300 && received == apart, "{bytes} bytes against {all}");
}

#[test]
fn a_pass_ends_where_nothing_is_read_any_more() {
    let depth = |ask: &dyn Fn(&mut Plan, RunId)| {
        let mut plan = Plan::default();
        let run = plan.root([1, 2, 3].as_slice().into());
        ask(&mut plan, run);
        Packing::new(&plan, 8, usize::MAX, Mode::Branching).expect("no budget").chunk(0).batch.depth()
    };
    let capture = |site: Site, layer: u32| {
        depth(&|plan, run| {
            plan.captures.push(Capture { run, at: Address { layer, site }, positions: vec![1] });
        })
    };
    assert_eq!(capture(Site::Embed, 0), 0);
    assert_eq!(capture(Site::ResidPre, 0), 1);
    assert_eq!(capture(Site::ResidPost, 4), 5);
    assert_eq!((capture(Site::FinalNorm, 8), capture(Site::Logits, 8)), (8, 8));
    assert_eq!(
        depth(&|plan, run| {
            plan.read_lens(run, 2, 1);
        }),
        2
    );
    assert_eq!(
        depth(&|plan, run| {
            plan.read(run, 2);
        }),
        8
    );
    // What is written where nothing reads it is not computed, so it lets nothing be computed either.
    let unread = |plan: &mut Plan, run: RunId| {
        let at = Address { layer: 6, site: Site::ResidPost };
        let branch = plan.branch(run, vec![Edit::new(at, vec![0], Op::Zero, EditGroup::Patch)]);
        let at = Address { layer: 2, site: Site::Z };
        plan.captures.push(Capture { run: branch, at, positions: vec![0] });
    };
    assert_eq!(depth(&unread), 3);
}

#[test]
fn a_pass_goes_on_where_something_is_drawn_or_kept() {
    // Nothing of a step is captured or scored: its draws alone need the logits, and its keys every layer.
    let row = StepRow {
        token: 1,
        position: 3,
        prompt: 3,
        slots: vec![4, 5, 6, 7],
        edits: Vec::new(),
        captures: Vec::new(),
        lens: Vec::new(),
    };
    let draw = Draw { row: 0, choice: Choice::GREEDY, u: 0.5, also: Vec::new() };
    let mut step = StepBatch::new(&[row], Vec::new(), vec![draw], 8).batch;
    step.readout = ReadoutBatch::default();
    assert_eq!(step.depth(), 8, "a step keeps its keys and draws");
    step.layers.iter_mut().for_each(|layer| layer.kept.clear());
    assert_eq!(step.depth(), 8, "what is drawn needs the last layer");
    step.step = None;
    assert_eq!(step.depth(), 0, "nothing is asked of it any more");
    step.layers[4].kept.push(0);
    assert_eq!(step.depth(), 5, "keys that are kept in a layer need it");
    // And of a plan: a prompt whose keys are kept is computed to the last layer, whatever is read of it.
    let mut plan = Plan::default();
    let run = plan.root([1, 2, 3].as_slice().into());
    plan.captures.push(Capture { run, at: Address { layer: 0, site: Site::Embed }, positions: vec![1] });
    plan.kept.push(Kept { run, first: 0, slots: vec![7, 3, 9] });
    let packing = Packing::new(&plan, 8, usize::MAX, Mode::Branching).expect("no budget");
    assert_eq!(packing.chunk(0).batch.depth(), 8);
}

#[test]
fn parts_alike_share_tables_of_edits_and_of_attention() {
    let part = |length: u32| {
        let mut plan = Plan::default();
        let root = plan.root((0..length).collect());
        plan.read(root, length - 1);
        for layer in [1, 3] {
            let at = Address { layer, site: Site::MlpOut };
            let cell = plan.branch(root, vec![Edit::new(at, vec![0], Op::Zero, EditGroup::Patch)]);
            plan.read(cell, length - 1);
        }
        Packing::new(&plan, 8, usize::MAX, Mode::Branching).expect("no budget").chunk(0).batch
    };
    let parts = vec![part(3), part(70), part(5)];
    let alone: Vec<_> = parts.iter().map(repeats).collect();
    let (batch, _) = merge(parts);
    assert!(alone.iter().all(|alone| *alone == repeats(&batch)) && repeats(&batch).contains(&true));
    for layer in [1, 3] {
        let [Step::Join(parents), Step::Edit(table)] = batch.layers[layer][Site::MlpOut].steps.as_slice()
        else {
            panic!("{:?}", batch.layers[layer][Site::MlpOut])
        };
        assert_eq!((parents.len(), table.rows.len()), (3, 3));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_plan_asks_for_is_laid_out_as_if_every_run_were_computed_whole(
        layers in 1u32..5,
        choices in prop::collection::vec(any::<u32>(), 0..600),
    ) {
        let plan = Choices(choices.into_iter()).plan(layers);
        let reference = Reference::new(&plan, layers);
        for (budget, mode) in [(usize::MAX, Mode::Branching), (60, Mode::Branching), (usize::MAX, Mode::FullRecompute)] {
            let Ok(packing) = Packing::new(&plan, layers, budget, mode) else { continue };
            let mut found = (0, 0);
            for index in 0..packing.len() {
                let (readouts, captures) = check(&packing.chunk(index), &plan, &reference, layers);
                found = (found.0 + readouts, found.1 + captures);
                let [half, _] = packing.part(index).halves();
                check(&packing.lay_out(&half), &plan, &reference, layers);
            }
            prop_assert_eq!(found, (plan.readouts.len(), plan.captures.len()));
        }
    }

    #[test]
    fn parts_of_several_plans_in_one_batch_give_what_each_gives_alone(
        layers in 1u32..5,
        choices in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..200), 2..6),
    ) {
        let plans: Vec<Plan> = choices.into_iter().map(|of| Choices(of.into_iter()).plan(layers)).collect();
        let mut chunks = Vec::new();
        for plan in &plans {
            let Ok(packing) = Packing::new(plan, layers, 60, Mode::Branching) else { continue };
            chunks.extend((0..packing.len()).map(|index| packing.chunk(index)));
        }
        chunks.sort_by_key(|chunk| chunk.batch.keys);
        for alike in chunks.chunk_by(|a, b| a.batch.keys == b.batch.keys).filter(|alike| alike.len() > 1) {
            check_merged(alike, layers);
        }
    }
}
