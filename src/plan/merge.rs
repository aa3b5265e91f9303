//! Forward batches of several plans as one.
//!
//! The rows of a part keep their order among themselves and never meet another part's: its tables are renamed, tables that are
//! alike become one, and nothing else changes. So a part gets the bits that it gets alone.

use std::ops::Range;
use std::sync::Arc;

use super::batch::{
    AskedRows, AttentionBatch, CaptureRows, EditRows, ForwardBatch, LayerBatch, ReadoutBatch, RowOp, SITES,
    Step, Tap, Values,
};
use super::output::BatchOutput;
use crate::spec::site::Site;

/// What of a merged batch's output is each part's.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shares(pub Vec<Share>);

/// What is one part's, in the order in which it would be there alone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Share {
    /// Stretches of the scores.
    pub scores: Vec<Range<usize>>,
    /// Stretches of the rows edited.
    pub edited: Vec<Range<usize>>,
    /// (capture of the merged batch, the part's own)
    pub captures: Vec<(usize, usize)>,
}

impl Shares {
    /// Gives each part what is its own.
    ///
    /// # Panics
    /// The output is of another batch.
    pub fn deal(&self, mut output: BatchOutput) -> Vec<BatchOutput> {
        if self.0.len() == 1 {
            return vec![output];
        }
        output.captures.sort_unstable_by_key(|(capture, _)| *capture);
        self.0.iter().map(|share| share.of(&mut output)).collect()
    }
}

impl Share {
    /// Takes out what is this part's. `output`: of the merged batch, captures in order.
    fn of(&self, output: &mut BatchOutput) -> BatchOutput {
        let mut own = BatchOutput::default();
        for range in &self.scores {
            own.scores.extend(output.scores[range.clone()].iter_mut().map(std::mem::take));
        }
        for range in &self.edited {
            own.written.extend_from_slice(&output.written[range.clone()]);
        }
        for (merged, capture) in &self.captures {
            if let Ok(found) = output.captures.binary_search_by_key(merged, |(capture, _)| *capture) {
                own.captures.push((*capture, std::mem::take(&mut output.captures[found].1)));
            }
        }
        own.captures.sort_unstable_by_key(|(capture, _)| *capture);
        own
    }
}

/// One batch that computes what all of these compute, and what is whose.
///
/// # Panics
/// There is no part, or the parts hold attention scores with different numbers of columns.
pub fn merge(mut parts: Vec<ForwardBatch>) -> (ForwardBatch, Shares) {
    if parts.len() == 1 {
        return (parts.remove(0), Shares(vec![Share::default()]));
    }
    let keys = parts[0].keys;
    assert!(parts.iter().all(|part| part.keys == keys), "BUG: only parts that hold scores alike are merged");
    assert!(parts.iter().all(|part| part.step.is_none()), "BUG: a step is a batch by itself");
    let mut merging = Merging::new(&parts);
    let embed = merging.tap(&each(&parts, |part| &part.embed));
    let layers = (0..parts[0].layers.len()).map(|layer| merging.layer(&parts, layer)).collect();
    let final_norm = merging.tap(&each(&parts, |part| &part.final_norm));
    let logits = merging.tap(&each(&parts, |part| &part.logits));
    let readout = merging.readout(each(&parts, |part| &part.readout));
    let initial = |of: fn(&ForwardBatch) -> &Vec<u32>| parts.iter().flat_map(of).copied().collect();
    let batch = ForwardBatch {
        tokens: initial(|part| &part.tokens),
        positions: initial(|part| &part.positions),
        lengths: initial(|part| &part.lengths),
        embed,
        layers,
        final_norm,
        logits,
        readout,
        slots: initial(|part| &part.slots),
        step: None,
        keys,
        edited: merging.edited,
        peak_rows: merging.peak,
        row_layers: parts.iter().map(|part| part.row_layers).sum(),
    };
    (batch, Shares(merging.shares))
}

/// The same of each part.
fn each<'a, T>(parts: &'a [ForwardBatch], of: impl Fn(&'a ForwardBatch) -> &'a T) -> Vec<&'a T> {
    parts.iter().map(of).collect()
}

/// The merged rows at one point of the walk over the layers, and what is merged so far.
struct Merging {
    /// By part: where each of its rows is.
    places: Vec<Vec<u32>>,
    rows: usize,
    peak: usize,
    /// As of the layer before, and whether the rows are still those that came into it, in their order.
    attention: Arc<AttentionBatch>,
    unchanged: bool,
    scores: usize,
    edited: usize,
    captures: usize,
    shares: Vec<Share>,
}

impl Merging {
    fn new(parts: &[ForwardBatch]) -> Merging {
        let mut merging = Merging {
            places: vec![Vec::new(); parts.len()],
            rows: 0,
            peak: 0,
            attention: Arc::default(),
            unchanged: false,
            scores: 0,
            edited: 0,
            captures: 0,
            shares: vec![Share::default(); parts.len()],
        };
        for (part, batch) in parts.iter().enumerate() {
            merging.join(part, batch.tokens.len());
        }
        merging
    }

    /// So many further rows of a part, behind all others.
    fn join(&mut self, part: usize, rows: usize) {
        self.places[part].extend(self.rows as u32..(self.rows + rows) as u32);
        self.rows += rows;
        self.peak = self.peak.max(self.rows);
        self.unchanged = false;
    }

    fn named(&self, part: usize, rows: &[u32]) -> impl Iterator<Item = u32> {
        rows.iter().map(move |row| self.places[part][*row as usize])
    }

    fn layer(&mut self, parts: &[ForwardBatch], layer: usize) -> LayerBatch {
        let mut taps = [const { Tap { steps: Vec::new(), captures: Vec::new() } }; SITES];
        let (mut selected, mut kept) = (None, Vec::new());
        for (tap, site) in taps.iter_mut().zip(&Site::ALL[Site::ResidPre as usize..]) {
            match site {
                Site::Q => {
                    for (part, batch) in parts.iter().enumerate() {
                        kept.extend(self.named(part, &batch.layers[layer].kept));
                    }
                    selected = self.attend(parts, layer);
                }
                Site::Z => self.all_joined(parts, layer, selected.take()),
                _ => {}
            }
            *tap = self.tap(&each(parts, |part| &part.layers[layer][*site]));
        }
        let lens = self.readout(each(parts, |part| &part.layers[layer].lens));
        LayerBatch { taps, attention: Arc::clone(&self.attention), kept, lens }
    }

    /// Steps of a part stay in their order; those of different parts have none.
    fn tap(&mut self, taps: &[&Tap]) -> Tap {
        let mut tap = Tap::default();
        let mut left: Vec<&[Step]> = taps.iter().map(|tap| tap.steps.as_slice()).collect();
        loop {
            let joined = self.joined(&mut left);
            if !joined.is_empty() {
                tap.steps.push(Step::Join(joined));
            } else if let Some(table) = self.table(&mut left) {
                tap.steps.push(Step::Edit(table));
            } else {
                break;
            }
        }
        for (part, CaptureRows { capture, rows }) in
            taps.iter().enumerate().flat_map(|(part, tap)| tap.captures.iter().map(move |of| (part, of)))
        {
            let rows = self.named(part, rows).collect();
            tap.captures.push(CaptureRows { capture: self.captures, rows });
            self.shares[part].captures.push((self.captures, *capture));
            self.captures += 1;
        }
        tap
    }

    /// The rows that join next, of all parts that are about to let rows join.
    fn joined(&mut self, left: &mut [&[Step]]) -> Vec<u32> {
        let mut joined = Vec::new();
        for (part, steps) in left.iter_mut().enumerate() {
            if let [Step::Join(parents), later @ ..] = *steps {
                *steps = later;
                joined.extend(self.named(part, parents));
                self.join(part, parents.len());
            }
        }
        joined
    }

    /// The next edit of the first part that has one, with those of other parts that are alike.
    fn table(&mut self, left: &mut [&[Step]]) -> Option<EditRows> {
        let mut merged: Option<EditRows> = None;
        for (part, steps) in left.iter_mut().enumerate() {
            let [Step::Edit(table), later @ ..] = *steps else { continue };
            if merged.as_ref().is_some_and(|merged| !are_alike(merged, table)) {
                continue;
            }
            *steps = later;
            let table = self.renamed(part, table);
            self.edited += table.rows.len();
            self.shares[part].edited.push(table.first..self.edited);
            match &mut merged {
                None => merged = Some(table),
                Some(merged) => append(merged, table),
            }
        }
        merged
    }

    fn renamed(&self, part: usize, table: &EditRows) -> EditRows {
        let mut table = EditRows { first: self.edited, ..table.clone() };
        let place = |row: &mut u32| *row = self.places[part][*row as usize];
        table.rows.iter_mut().for_each(place);
        if let Some(Values::Rows(rows)) = table.op.values_mut() {
            rows.iter_mut().for_each(place);
        }
        table
    }

    /// Which rows leave the layer's attention, and which keys they see, without the starts of these. None: as in the layer
    /// before.
    fn attend(&mut self, parts: &[ForwardBatch], layer: usize) -> Option<AttentionBatch> {
        let repeats = |part: &ForwardBatch| {
            layer > 0 && Arc::ptr_eq(&part.layers[layer].attention, &part.layers[layer - 1].attention)
        };
        if self.unchanged && parts.iter().all(repeats) {
            return None;
        }
        let mut keys =
            Vec::with_capacity(parts.iter().map(|part| part.layers[layer].attention.keys.len()).sum());
        // (row, part, the row's number among those of the part)
        let (mut staying, mut joining) = (Vec::with_capacity(self.rows), Vec::new());
        for (part, batch) in parts.iter().enumerate() {
            let AttentionBatch { out, keys: own, .. } = &*batch.layers[layer].attention;
            keys.extend(self.named(part, own));
            // Rows that stay are in order, and those that begin here follow.
            let descent = out.windows(2).position(|two| two[0] >= two[1]);
            let mut rows = self.named(part, out).enumerate().map(|(own, row)| (row, part, own));
            staying.extend(rows.by_ref().take(descent.map_or(out.len(), |at| at + 1)));
            joining.extend(rows);
        }
        // Where every row stays, this is their order as it is.
        staying.sort_unstable();
        let incoming = self.rows;
        self.places = parts.iter().map(|part| vec![0; part.layers[layer].attention.out.len()]).collect();
        let mut out = Vec::with_capacity(staying.len() + joining.len());
        for (row, part, own) in staying.into_iter().chain(joining) {
            self.places[part][own] = out.len() as u32;
            out.push(row);
        }
        self.rows = out.len();
        self.peak = self.peak.max(self.rows);
        self.unchanged = out.iter().copied().eq(0..incoming as u32);
        Some(AttentionBatch { out, key_start: Vec::new(), keys })
    }

    /// No further row joins that needs the keys of the layer's attention: its table is complete.
    fn all_joined(&mut self, parts: &[ForwardBatch], layer: usize, selected: Option<AttentionBatch>) {
        let Some(selected) = selected else { return };
        let mut key_start = vec![0; self.rows];
        let mut first = 0;
        for (places, part) in self.places.iter().zip(parts) {
            let of_part = &part.layers[layer].attention;
            for (row, start) in places.iter().zip(&of_part.key_start) {
                key_start[*row as usize] = first + start;
            }
            first += of_part.keys.len() as u32;
        }
        self.attention = Arc::new(AttentionBatch { key_start, ..selected });
    }

    fn readout(&mut self, readouts: Vec<&ReadoutBatch>) -> ReadoutBatch {
        let mut merged = ReadoutBatch::default();
        for (part, ReadoutBatch { rows, asked }) in readouts.into_iter().enumerate() {
            merged.rows.extend(self.named(part, rows));
            merged.asked.extend(asked.iter().filter(|AskedRows { count, .. }| *count > 0).cloned());
            self.shares[part].scores.push(self.scores..self.scores + rows.len());
            self.scores += rows.len();
        }
        merged
    }
}

/// Whether two tables differ in nothing but which rows they write, and with what.
fn are_alike(a: &EditRows, b: &EditRows) -> bool {
    let alike = match (&a.op, &b.op) {
        (RowOp::Replace(_), RowOp::Replace(_)) | (RowOp::Zero, RowOp::Zero) | (RowOp::Cut, RowOp::Cut) => {
            true
        }
        (RowOp::Add { coef, norm_match, .. }, RowOp::Add { coef: other, norm_match: other_match, .. }) => {
            coef.to_bits() == other.to_bits() && norm_match == other_match
        }
        (RowOp::Scale(factor), RowOp::Scale(other)) => factor.to_bits() == other.to_bits(),
        (RowOp::Along { direction, change }, RowOp::Along { direction: other, change: other_change }) => {
            Arc::ptr_eq(direction, other) && change.bits() == other_change.bits()
        }
        (RowOp::Project { basis, .. }, RowOp::Project { basis: other, .. }) => Arc::ptr_eq(basis, other),
        _ => false,
    };
    let kind = |table: &EditRows| table.op.values().map(std::mem::discriminant);
    alike
        && kind(a) == kind(b)
        && a.columns == b.columns
        && a.through == b.through
        && a.instead.is_some() == b.instead.is_some()
}

/// Adds the rows of a table that is alike.
fn append(table: &mut EditRows, mut other: EditRows) {
    table.rows.append(&mut other.rows);
    if let (Some(into), Some(from)) = (&mut table.instead, &mut other.instead) {
        into.append(from);
    }
    match (table.op.values_mut(), other.op.values_mut()) {
        (Some(Values::Rows(into)), Some(Values::Rows(from))) => into.append(from),
        (Some(Values::Given(into)), Some(Values::Given(from))) => into.append(from),
        (None, None) => {}
        _ => unreachable!("BUG: only values of one kind are merged"),
    }
}
