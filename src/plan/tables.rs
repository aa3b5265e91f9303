//! Lays a chunk's live rows out as the tables of a [`ForwardBatch`]: one walk forward over the moments.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::{
    AttentionBatch, CaptureRows, EditRows, ForwardBatch, LayerBatch, ReadoutBatch, RowOp, SITES, Step, Tap,
    Values,
};
use super::cone::Stage;
use super::live::{Applied, Live, Slot};
use super::{Address, Op, Source};
use crate::spec::site::Site;

const NO_ROW: u32 = u32::MAX;

/// The rows as they stand at one point of the walk.
struct Rows<'a> {
    live: &'a Live<'a>,
    /// Slot of each row.
    slots: Vec<Slot>,
    /// Row of each slot, or [`NO_ROW`].
    of_slot: Vec<u32>,
    /// Start of each row's keys, kept while rows may still join that need them.
    key_start: Option<Vec<u32>>,
    peak: usize,
}

/// Where a readout of the plan stands in the output of a batch: readouts of the lens, layer by layer, come first.
type Places = Vec<usize>;

/// The batch for a chunk, and for each readout asked for its index among the batch's scores.
pub(super) fn lay_out(live: &Live<'_>, readouts: &[usize]) -> (ForwardBatch, Places) {
    let of_slot = vec![NO_ROW; live.slots()];
    let mut rows = Rows { live, slots: Vec::new(), of_slot, key_start: None, peak: 0 };
    let (mut tokens, mut positions) = (Vec::new(), Vec::new());
    for &run in live.runs.iter().filter(|r| live.plan.run(**r).parent.is_none()) {
        for (position, &token) in (0u32..).zip(live.plan.run(run).tokens.iter()) {
            if live.created[live.slot(run, position)] {
                rows.push(live.slot(run, position));
                tokens.push(token);
                positions.push(position);
            }
        }
    }
    let mut places = BTreeMap::new();
    let embed = rows.tap(Stage::EMBED);
    let mut row_layers = 0;
    let mut scores = 0;
    let layers = (0..live.layers)
        .map(|layer| {
            let mut taps = [const { Tap { steps: Vec::new(), captures: Vec::new() } }; SITES];
            let mut attention = AttentionBatch::default();
            for (tap, site) in taps.iter_mut().zip(&Site::ALL[Site::ResidPre as usize..]) {
                match site {
                    Site::Q => attention = rows.attend(layer),
                    Site::Z => attention.key_start = rows.key_start.take().unwrap_or_default(),
                    _ => {}
                }
                *tap = rows.tap(Stage::of(Address { layer, site: *site }));
            }
            row_layers += rows.slots.len() as u64;
            let lens = rows.lens(layer, &mut scores, &mut places);
            LayerBatch { taps, attention, lens }
        })
        .collect();
    let end = |site| Stage::of(Address { layer: live.layers, site });
    let final_norm = rows.tap(end(Site::FinalNorm));
    let logits = rows.tap(end(Site::Logits));
    let readout = rows.read(readouts, scores, &mut places);
    let batch = ForwardBatch {
        tokens,
        positions,
        embed,
        layers,
        final_norm,
        logits,
        readout,
        keys: if live.plan.holds_scores() { live.plan.keys() } else { 0 },
        runs: live.runs.len(),
        peak_rows: rows.peak,
        row_layers,
    };
    (batch, readouts.iter().map(|readout| places[readout]).collect())
}

impl Rows<'_> {
    fn push(&mut self, slot: Slot) {
        self.of_slot[slot] = self.slots.len() as u32;
        self.slots.push(slot);
        self.peak = self.peak.max(self.slots.len());
    }

    fn row(&self, slot: Slot) -> u32 {
        let row = self.of_slot[slot];
        assert_ne!(row, NO_ROW, "a row is read that was never computed");
        row
    }

    /// Joins, edits and captures at a site. Runs that others read come first; runs of one depth are independent of
    /// one another, so their joins and edits share tables.
    fn tap(&mut self, stage: Stage) -> Tap {
        let live = self.live;
        let Some(moment) = live.moments.get(&stage) else { return Tap::default() };
        let mut tap = Tap::default();
        let (mut births, mut edits) = (moment.births.as_slice(), moment.edits.as_slice());
        loop {
            let depth_of_birth = births.first().map(|(run, _)| live.depth(*run));
            let depth_of_edit = edits.first().map(|applied| live.depth(applied.run));
            let Some(depth) = depth_of_birth.into_iter().chain(depth_of_edit).min() else { break };
            let split = births.partition_point(|(run, _)| live.depth(*run) <= depth);
            let (now, later) = births.split_at(split);
            births = later;
            let mut sources = Vec::new();
            for &(run, position) in now.iter().filter(|(run, p)| live.created[live.slot(*run, *p)]) {
                let source = self.row(live.parent_slot(run, position, stage));
                sources.push(source);
                self.push(live.slot(run, position));
                if let Some(starts) = &mut self.key_start {
                    // Nothing before it has changed: it sees its parent's keys.
                    starts.push(starts[source as usize]);
                }
            }
            if !sources.is_empty() {
                tap.steps.push(Step::Join(sources));
            }
            let split = edits.partition_point(|applied| live.depth(applied.run) <= depth);
            let (now, later) = edits.split_at(split);
            edits = later;
            tap.steps.extend(self.edit(now, stage).into_iter().map(Step::Edit));
        }
        for &capture in &moment.captures {
            let asked = &live.plan.captures[capture];
            let rows = asked.positions.iter().map(|&p| self.row(live.resolve(asked.run, p, stage))).collect();
            tap.captures.push(CaptureRows { capture, rows });
        }
        tap
    }

    /// Tables of the edits of one depth, those alike merged. The n-th edits of all runs come before the (n+1)-th.
    fn edit(&self, edits: &[Applied<'_>], stage: Stage) -> Vec<EditRows> {
        let mut tables: Vec<(usize, EditRows)> = Vec::new();
        for applied in edits {
            let edit = applied.edit;
            let present: Vec<usize> = applied
                .which
                .iter()
                .copied()
                .filter(|&i| self.of_slot[self.live.slot(applied.run, edit.positions[i])] != NO_ROW)
                // A row that is still there but that nothing reads any more: nor was its source kept.
                .filter(|&i| self.has_source(&edit.op, i, stage))
                .collect();
            if present.is_empty() {
                continue;
            }
            let values = |source: &Source| self.values(source, edit.positions.len(), &present, stage);
            let op = match &edit.op {
                Op::Replace(source) => RowOp::Replace(values(source)),
                Op::Add { source, coef, norm_match } => {
                    RowOp::Add { values: values(source), coef: *coef, norm_match: *norm_match }
                }
                Op::Scale(factor) => RowOp::Scale(*factor),
                Op::Zero => RowOp::Zero,
                Op::Project { basis, source } => {
                    RowOp::Project { basis: Arc::clone(basis), values: source.as_ref().map(values) }
                }
            };
            let rows: Vec<u32> =
                present.iter().map(|&i| self.row(self.live.slot(applied.run, edit.positions[i]))).collect();
            let table = EditRows {
                runs: vec![self.live.place(applied.run); rows.len()],
                rows,
                columns: edit.columns.clone(),
                op,
                instead: edit.instead.as_ref().map(|rows| pick(rows, edit.positions.len(), &present)),
                group: edit.group.index(),
            };
            let alike = tables.iter_mut().find(|(n, t)| *n == applied.ordinal && mergeable(t, &table));
            match alike {
                Some((_, merged)) => merge(merged, table),
                None => tables.push((applied.ordinal, table)),
            }
        }
        tables.sort_by_key(|(ordinal, _)| *ordinal); // stable
        tables.into_iter().map(|(_, table)| table).collect()
    }

    fn has_source(&self, op: &Op, i: usize, stage: Stage) -> bool {
        op.run_read().is_none_or(|(run, positions)| {
            self.of_slot[self.live.resolve(run, positions[i], stage)] != NO_ROW
        })
    }

    fn values(&self, source: &Source, positions: usize, which: &[usize], stage: Stage) -> Values {
        match source {
            Source::Run { run, positions } => Values::Rows(
                which.iter().map(|&i| self.row(self.live.resolve(*run, positions[i], stage))).collect(),
            ),
            Source::Constant(given) => Values::Given(pick(given, positions, which)),
            Source::Captured(_) => unreachable!("BUG: a plan is filled before it is laid out"),
        }
    }

    /// Which rows leave the layer's attention, and which keys they see.
    fn attend(&mut self, layer: u32) -> AttentionBatch {
        let live = self.live;
        let stage = Stage::attention(layer);
        let before = stage.previous();
        let needed = &live.after_attention[layer as usize];
        let incoming = std::mem::take(&mut self.slots);
        let mut out = Vec::new();
        let mut slots = Vec::new();
        for (row, &slot) in (0u32..).zip(&incoming) {
            if needed[slot] {
                out.push(row);
                slots.push(slot);
            }
        }
        let births = live.moments.get(&stage).map_or(&[][..], |m| &m.births);
        let born: Vec<_> = births.iter().filter(|(run, p)| needed[live.slot(*run, *p)]).collect();
        for &&(run, position) in &born {
            out.push(self.row(live.parent_slot(run, position, before)));
            slots.push(live.slot(run, position));
        }

        let mut key_start = vec![0; live.slots()];
        let mut keys = Vec::new();
        for &run in &live.runs {
            let base = live.slot(run, 0);
            let needed = &needed[base..base + live.plan.run(run).tokens.len()];
            let Some(last) = needed.iter().rposition(|n| *n) else { continue };
            key_start[base..=base + last].fill(keys.len() as u32);
            keys.extend((0..=last as u32).map(|p| self.row(live.resolve(run, p, before))));
        }
        self.key_start = Some(slots.iter().map(|&slot| key_start[slot]).collect());

        for &slot in &incoming {
            self.of_slot[slot] = NO_ROW;
        }
        for slot in slots {
            self.push(slot);
        }
        AttentionBatch { out, key_start: Vec::new(), keys }
    }

    /// The lens readouts of a layer. `scores`: how many the batch has so far.
    fn lens(&self, layer: u32, scores: &mut usize, places: &mut BTreeMap<usize, usize>) -> ReadoutBatch {
        let stage = Stage::of(Address { layer, site: Site::ResidPost });
        let Some(moment) = self.live.moments.get(&stage) else { return ReadoutBatch::default() };
        let mut places_of = PlaceRows::new(self, *scores);
        for &readout in &moment.lenses {
            places.insert(readout, places_of.place(readout, stage));
        }
        *scores += places_of.rows.len();
        self.readout_of(places_of.rows, Vec::new())
    }

    fn read(&self, readouts: &[usize], scores: usize, places: &mut BTreeMap<usize, usize>) -> ReadoutBatch {
        let live = self.live;
        let end = Stage::end(live.layers);
        let mut places_of = PlaceRows::new(self, scores);
        let refs = live.plan.scoring.kl_refs.iter();
        let kl_refs = refs.map(|&r| (places_of.place(r as usize, end) - scores) as u32).collect();
        for &readout in readouts.iter().filter(|r| live.plan.readouts[**r].lens.is_none()) {
            places.insert(readout, places_of.place(readout, end));
        }
        self.readout_of(places_of.rows, kl_refs)
    }

    fn readout_of(&self, rows: Vec<u32>, kl_refs: Vec<u32>) -> ReadoutBatch {
        let scoring = &self.live.plan.scoring;
        ReadoutBatch {
            rows,
            targets: scoring.targets.clone(),
            topk: scoring.topk.max(1),
            kl_refs,
            entropy: scoring.entropy,
        }
    }
}

/// Rows to be unembedded, each once, and their places among the batch's scores.
struct PlaceRows<'r> {
    all: &'r Rows<'r>,
    first: usize,
    rows: Vec<u32>,
    place_of_row: Vec<usize>,
}

impl<'r> PlaceRows<'r> {
    fn new(all: &'r Rows<'r>, first: usize) -> Self {
        Self { all, first, rows: Vec::new(), place_of_row: vec![usize::MAX; all.slots.len()] }
    }

    fn place(&mut self, readout: usize, stage: Stage) -> usize {
        let live = self.all.live;
        let r = live.plan.readouts[readout];
        let row = self.all.row(live.resolve(r.run, r.position, stage));
        let place = &mut self.place_of_row[row as usize];
        if *place == usize::MAX {
            *place = self.first + self.rows.len();
            self.rows.push(row);
        }
        *place
    }
}

/// The given ones of `n` equal parts of `rows`.
fn pick(rows: &[f32], n: usize, which: &[usize]) -> Vec<f32> {
    let width = rows.len() / n;
    which.iter().flat_map(|&i| &rows[i * width..(i + 1) * width]).copied().collect()
}

fn mergeable(a: &EditRows, b: &EditRows) -> bool {
    let alike = match (&a.op, &b.op) {
        (RowOp::Replace(_), RowOp::Replace(_)) | (RowOp::Zero, RowOp::Zero) => true,
        (RowOp::Add { coef, norm_match, .. }, RowOp::Add { coef: other, norm_match: other_match, .. }) => {
            coef.to_bits() == other.to_bits() && norm_match == other_match
        }
        (RowOp::Scale(factor), RowOp::Scale(other)) => factor.to_bits() == other.to_bits(),
        (RowOp::Project { basis, .. }, RowOp::Project { basis: other, .. }) => Arc::ptr_eq(basis, other),
        _ => false,
    };
    let kind = |edit: &EditRows| edit.op.values().map(std::mem::discriminant);
    alike
        && kind(a) == kind(b)
        && a.columns == b.columns
        && a.group == b.group
        && a.instead.is_some() == b.instead.is_some()
}

fn merge(into: &mut EditRows, from: EditRows) {
    let EditRows { rows, runs, mut op, instead, .. } = from;
    into.rows.extend(rows);
    into.runs.extend(runs);
    if let (Some(into), Some(from)) = (&mut into.instead, instead) {
        into.extend(from);
    }
    match (into.op.values_mut(), op.values_mut()) {
        (Some(Values::Rows(a)), Some(Values::Rows(b))) => a.append(b),
        (Some(Values::Given(a)), Some(Values::Given(b))) => a.append(b),
        (None, None) => {}
        _ => unreachable!("BUG: only values of one kind are merged"),
    }
}
