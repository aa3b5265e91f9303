//! Lays a chunk's live rows out as the tables of a [`ForwardBatch`]: one walk forward over the moments.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::{
    AskedRows, AttentionBatch, CaptureRows, ForwardBatch, LayerBatch, ReadoutBatch, SITES, Step, Tap,
};
use super::cone::Stage;
use super::edits::{EditedRow, edit_tables};
use super::live::Live;
use super::members::Slot;
use super::{Address, Kept};
use crate::spec::site::Site;

const NO_ROW: u32 = u32::MAX;

/// The rows as they stand at one point of the walk.
pub(super) struct Rows<'a> {
    pub(super) live: &'a Live<'a>,
    /// Slot of each row.
    slots: Vec<Slot>,
    /// Row of each slot, or [`NO_ROW`].
    of_slot: Vec<u32>,
    /// Start of each row's keys, kept while rows may still join that need them.
    key_start: Option<Vec<u32>>,
    /// The latest table of attention, and whether the rows are still those that came into it, in their order.
    attention: Arc<AttentionBatch>,
    unchanged: bool,
    peak: usize,
    /// Rows edited so far.
    edited: Vec<EditedRow>,
}

/// Where a readout of the plan stands in the output of a batch: readouts of the lens, layer by layer, come first.
type Places = Vec<usize>;

/// The batch for a chunk, for each readout asked for its index among the batch's scores, and the rows that are edited.
pub(super) fn lay_out(live: &Live<'_>, readouts: &[usize]) -> (ForwardBatch, Places, Vec<EditedRow>) {
    let (plan, members) = (live.plan, &live.members);
    let of_slot = vec![NO_ROW; members.slots()];
    let mut rows = Rows {
        live,
        slots: Vec::new(),
        of_slot,
        key_start: None,
        attention: Arc::default(),
        unchanged: false,
        peak: 0,
        edited: Vec::new(),
    };
    let (mut tokens, mut positions, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for (place, run) in members.runs.iter().map(|run| plan.run(*run)).enumerate() {
        let slots = if run.parent.is_none() { members.slots_of(place) } else { 0..0 };
        for ((position, &token), slot) in (0u32..).zip(run.tokens.iter()).zip(slots) {
            if live.until[slot].is_some() {
                rows.push(slot);
                tokens.push(token);
                positions.push(position);
                lengths.push(run.prompt);
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
            let (mut selected, mut kept) = (None, Vec::new());
            for (tap, site) in taps.iter_mut().zip(&Site::ALL[Site::ResidPre as usize..]) {
                match site {
                    Site::Q => {
                        kept = rows.kept(layer);
                        selected = rows.attend(layer);
                    }
                    Site::Z => rows.all_joined(selected.take()),
                    _ => {}
                }
                *tap = rows.tap(Stage::of(Address { layer, site: *site }));
            }
            row_layers += rows.slots.len() as u64;
            let lens = rows.lens(layer, &mut scores, &mut places);
            LayerBatch { taps, attention: Arc::clone(&rows.attention), kept, lens }
        })
        .collect();
    let end = |site| Stage::of(Address { layer: live.layers, site });
    let final_norm = rows.tap(end(Site::FinalNorm));
    let logits = rows.tap(end(Site::Logits));
    let readout = rows.read(readouts, scores, &mut places);
    let batch = ForwardBatch {
        tokens,
        positions,
        lengths,
        embed,
        layers,
        final_norm,
        logits,
        readout,
        slots: live.kept.iter().flat_map(|&kept| &plan.kept[kept].slots).copied().collect(),
        step: None,
        keys: if plan.holds_scores() { plan.keys() } else { 0 },
        edited: rows.edited.len(),
        peak_rows: rows.peak,
        row_layers,
    };
    (batch, readouts.iter().map(|readout| places[readout]).collect(), rows.edited)
}

impl Rows<'_> {
    fn push(&mut self, slot: Slot) {
        self.of_slot[slot] = self.slots.len() as u32;
        self.slots.push(slot);
        self.unchanged = false;
        self.peak = self.peak.max(self.slots.len());
    }

    /// The slot's row.
    ///
    /// # Panics
    /// Never: what is read is computed.
    pub(super) fn row(&self, slot: Slot) -> u32 {
        let row = self.of_slot[slot];
        assert_ne!(row, NO_ROW, "a row is read that was never computed");
        row
    }

    /// Joins, edits and captures at a site. Runs that others read come first; runs of one depth are independent of
    /// one another, so their joins and edits share tables.
    fn tap(&mut self, stage: Stage) -> Tap {
        let live = self.live;
        let members = &live.members;
        let moment = live.moments.at(stage);
        let mut tap = Tap::default();
        let (mut births, mut edits) = (moment.births.as_slice(), moment.edits.as_slice());
        loop {
            let depth_of_birth = births.first().map(|slot| members.depth(members.owner(*slot)));
            let depth_of_edit = edits.first().map(|applied| members.depth(applied.run));
            let Some(depth) = depth_of_birth.into_iter().chain(depth_of_edit).min() else { break };
            let split = births.partition_point(|slot| members.depth(members.owner(*slot)) <= depth);
            let (now, later) = births.split_at(split);
            births = later;
            let mut sources = Vec::new();
            for &slot in now.iter().filter(|slot| live.until[**slot].is_some()) {
                let source = self.row(members.copied(slot, stage));
                sources.push(source);
                self.push(slot);
                if let Some(starts) = &mut self.key_start {
                    // Nothing before it has changed: it sees its parent's keys.
                    starts.push(starts[source as usize]);
                }
            }
            if !sources.is_empty() {
                tap.steps.push(Step::Join(sources));
            }
            let split = edits.partition_point(|applied| members.depth(applied.run) <= depth);
            let (now, later) = edits.split_at(split);
            edits = later;
            for (mut table, rows) in edit_tables(self, now, stage) {
                table.first = self.edited.len();
                self.edited.extend(rows);
                tap.steps.push(Step::Edit(table));
            }
        }
        for &capture in &moment.captures {
            let asked = &live.plan.captures[capture];
            let rows = asked.positions.iter().map(|&p| self.row(members.standing(asked.run, p, stage)));
            tap.captures.push(CaptureRows { capture, rows: rows.collect() });
        }
        tap
    }

    /// The rows whose keys and values are kept.
    fn kept(&self, layer: u32) -> Vec<u32> {
        let (live, before) = (self.live, Stage::attention(layer).previous());
        let of = |kept: &Kept| -> Vec<u32> {
            let standing = |(position, _)| self.row(live.members.standing(kept.run, position, before));
            kept.places().map(standing).collect()
        };
        live.kept.iter().flat_map(|&kept| of(&live.plan.kept[kept])).collect()
    }

    /// Which rows leave the layer's attention, and which keys they see, without the starts of these. None: as in the layer
    /// before.
    fn attend(&mut self, layer: u32) -> Option<AttentionBatch> {
        let live = self.live;
        let members = &live.members;
        let attention = Stage::attention(layer);
        let before = attention.previous();
        let is_read_later = |slot: Slot| live.until[slot] > Some(attention);
        let mut out = Vec::with_capacity(self.slots.len());
        let mut left_out = Vec::new();
        let mut incoming = 0..;
        self.slots.retain(|&slot| {
            let (row, stays) = (incoming.next(), is_read_later(slot));
            if stays {
                out.extend(row);
            } else {
                left_out.push(slot);
            }
            stays
        });
        let stay = out.len();
        for &slot in live.moments.at(attention).births.iter().filter(|slot| is_read_later(**slot)) {
            out.push(self.row(members.copied(slot, before)));
            self.slots.push(slot);
        }
        let all_stay = left_out.is_empty() && out.len() == stay;
        if all_stay && self.unchanged {
            self.key_start = Some(self.attention.key_start.clone());
            return None;
        }
        self.unchanged = all_stay;

        // Each run that has rows here sees the keys up to its last.
        let mut seen = vec![0; members.runs.len()];
        for &slot in &self.slots {
            let seen = &mut seen[members.owner(slot)];
            *seen = (members.position(slot) + 1).max(*seen);
        }
        let mut keys = Vec::with_capacity(seen.iter().sum());
        let mut starts = Vec::with_capacity(seen.len());
        for (place, seen) in seen.into_iter().enumerate() {
            starts.push(keys.len() as u32);
            members.rows_seen(place, seen, before, &self.of_slot, &mut keys);
        }
        assert!(!keys.contains(&NO_ROW), "a row is read that was never computed");
        self.key_start = Some(self.slots.iter().map(|slot| starts[members.owner(*slot)]).collect());

        for slot in left_out {
            self.of_slot[slot] = NO_ROW;
        }
        for (row, &slot) in (0u32..).zip(&self.slots) {
            self.of_slot[slot] = row;
        }
        self.peak = self.peak.max(self.slots.len());
        Some(AttentionBatch { out, key_start: Vec::new(), keys })
    }

    /// No further row joins that needs the keys of the layer's attention: its table is complete.
    fn all_joined(&mut self, selected: Option<AttentionBatch>) {
        let key_start = self.key_start.take().unwrap_or_default();
        if key_start.len() == self.attention.key_start.len() && selected.is_none() {
            return;
        }
        let selected = selected.unwrap_or_else(|| AttentionBatch::clone(&self.attention));
        self.attention = Arc::new(AttentionBatch { key_start, ..selected });
    }

    /// The lens readouts of a layer. `scores`: how many the batch has so far.
    fn lens(&self, layer: u32, scores: &mut usize, places: &mut BTreeMap<usize, usize>) -> ReadoutBatch {
        let stage = Stage::of(Address { layer, site: Site::ResidPost });
        let moment = self.live.moments.at(stage);
        if moment.is_empty() {
            return ReadoutBatch::default();
        }
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
        let asked = AskedRows {
            count: rows.len(),
            targets: scoring.targets.clone(),
            topk: scoring.topk.max(1),
            kl_refs,
            entropy: scoring.entropy,
        };
        ReadoutBatch { rows, asked: vec![asked] }
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
        let row = self.all.row(live.members.standing(r.run, r.position, stage));
        let place = &mut self.place_of_row[row as usize];
        if *place == usize::MAX {
            *place = self.first + self.rows.len();
            self.rows.push(row);
        }
        *place
    }
}
