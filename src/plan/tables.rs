//! Lays a chunk's live rows out as the tables of a [`ForwardBatch`]: one walk forward over the moments.

use std::sync::Arc;

use super::batch::{
    AttentionBatch, CaptureRows, EditRows, ForwardBatch, LayerBatch, ReadoutBatch, RowOp, Step, Tap, Values,
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
    peak: usize,
}

/// The batch for a chunk, and for each readout asked for its index into the batch's readout rows.
pub(super) fn lay_out(live: &Live<'_>, readouts: &[usize]) -> (ForwardBatch, Vec<usize>) {
    let mut rows = Rows { live, slots: Vec::new(), of_slot: vec![NO_ROW; live.slots()], peak: 0 };
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
    let embed = rows.tap(Stage::EMBED);
    let mut row_layers = 0;
    let layers = (0..live.layers)
        .map(|layer| {
            let tap = |rows: &mut Rows<'_>, site| rows.tap(Stage::of(Address { layer, site }));
            let resid_pre = tap(&mut rows, Site::ResidPre);
            let attention = rows.attend(layer);
            let batch = LayerBatch {
                resid_pre,
                attention,
                z: tap(&mut rows, Site::Z),
                attn_out: tap(&mut rows, Site::AttnOut),
                resid_mid: tap(&mut rows, Site::ResidMid),
                mlp_out: tap(&mut rows, Site::MlpOut),
                resid_post: tap(&mut rows, Site::ResidPost),
            };
            row_layers += rows.slots.len() as u64;
            batch
        })
        .collect();
    let (readout, places) = rows.read(readouts);
    let batch = ForwardBatch { tokens, positions, embed, layers, readout, peak_rows: rows.peak, row_layers };
    (batch, places)
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
                sources.push(self.row(live.parent_slot(run, position, stage)));
                self.push(live.slot(run, position));
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
                Op::Add { source, coef } => RowOp::Add(values(source), *coef),
                Op::Scale(factor) => RowOp::Scale(*factor),
                Op::Zero => RowOp::Zero,
            };
            let rows =
                present.iter().map(|&i| self.row(self.live.slot(applied.run, edit.positions[i]))).collect();
            let table = EditRows { rows, columns: edit.columns.clone(), op, group: edit.group.index() };
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
        match op {
            Op::Replace(Source::Run { run, positions })
            | Op::Add { source: Source::Run { run, positions }, .. } => {
                self.of_slot[self.live.resolve(*run, positions[i], stage)] != NO_ROW
            }
            _ => true,
        }
    }

    fn values(&self, source: &Source, positions: usize, which: &[usize], stage: Stage) -> Values {
        match source {
            Source::Run { run, positions } => Values::Rows(
                which.iter().map(|&i| self.row(self.live.resolve(*run, positions[i], stage))).collect(),
            ),
            Source::Constant(given) => {
                let given: &Arc<[f32]> = given;
                let width = given.len() / positions;
                Values::Given(
                    which.iter().flat_map(|&i| &given[i * width..(i + 1) * width]).copied().collect(),
                )
            }
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
        let identity = out.len() == incoming.len();
        let births = live.moments.get(&stage).map_or(&[][..], |m| &m.births);
        let born: Vec<_> = births.iter().filter(|(run, p)| needed[live.slot(*run, *p)]).collect();
        for &&(run, position) in &born {
            out.push(self.row(live.parent_slot(run, position, before)));
            slots.push(live.slot(run, position));
        }
        let identity = identity && born.is_empty();

        let mut key_start = vec![0; live.slots()];
        let mut keys = Vec::new();
        for &run in &live.runs {
            let base = live.slot(run, 0);
            let needed = &needed[base..base + live.plan.run(run).tokens.len()];
            let Some(last) = needed.iter().rposition(|n| *n) else { continue };
            key_start[base..=base + last].fill(keys.len() as u32);
            keys.extend((0..=last as u32).map(|p| self.row(live.resolve(run, p, before))));
        }
        let key_start = slots.iter().map(|&slot| key_start[slot]).collect();

        for &slot in &incoming {
            self.of_slot[slot] = NO_ROW;
        }
        for slot in slots {
            self.push(slot);
        }
        AttentionBatch { out, identity, key_start, keys }
    }

    fn read(&self, readouts: &[usize]) -> (ReadoutBatch, Vec<usize>) {
        let live = self.live;
        let scoring = &live.plan.scoring;
        let mut rows: Vec<u32> = Vec::new();
        let mut place_of_row = vec![usize::MAX; self.slots.len()];
        let mut place = |readout: usize| {
            let r = live.plan.readouts[readout];
            let row = self.row(live.resolve(r.run, r.position, Stage::end(live.layers)));
            let place = &mut place_of_row[row as usize];
            if *place == usize::MAX {
                *place = rows.len();
                rows.push(row);
            }
            *place
        };
        let kl_refs = scoring.kl_refs.iter().map(|&r| place(r as usize) as u32).collect();
        let places = readouts.iter().map(|&r| place(r)).collect();
        let readout =
            ReadoutBatch { rows, targets: scoring.targets.clone(), topk: scoring.topk.max(1), kl_refs };
        (readout, places)
    }
}

fn mergeable(a: &EditRows, b: &EditRows) -> bool {
    let alike = match (&a.op, &b.op) {
        (RowOp::Replace(a), RowOp::Replace(b)) => same_kind(a, b),
        (RowOp::Add(a, c), RowOp::Add(b, d)) => same_kind(a, b) && c.to_bits() == d.to_bits(),
        (RowOp::Scale(c), RowOp::Scale(d)) => c.to_bits() == d.to_bits(),
        (RowOp::Zero, RowOp::Zero) => true,
        _ => false,
    };
    alike && a.columns == b.columns && a.group == b.group
}

fn same_kind(a: &Values, b: &Values) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

fn merge(into: &mut EditRows, from: EditRows) {
    into.rows.extend(from.rows);
    let (RowOp::Replace(a) | RowOp::Add(a, _), RowOp::Replace(b) | RowOp::Add(b, _)) =
        (&mut into.op, from.op)
    else {
        return;
    };
    match (a, b) {
        (Values::Rows(a), Values::Rows(b)) => a.extend(b),
        (Values::Given(a), Values::Given(b)) => a.extend(b),
        _ => unreachable!("BUG: only values of one kind are merged"),
    }
}
