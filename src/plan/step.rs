//! A step of generation: one new row of each of some texts, which sees the keys that its text has kept so far.
//!
//! A step is a [`ForwardBatch`] of one row a text: no row joins and none is left out, and a row's keys are places of the store
//! instead of rows. A row's bits are those that it has in one forward over its whole text.

use std::sync::Arc;

use super::batch::{
    AskedRows, AttentionBatch, CaptureRows, ForwardBatch, LayerBatch, ReadoutBatch, RowOp, SITES, Step, Tap,
};
use super::cone::Stage;
use super::draw::{Draw, StepDraws};
use super::edits::{EditedRow, Found, TablesOf};
use super::{Address, Edit};
use crate::spec::site::Site;

/// One new row of a text.
#[derive(Debug, Clone)]
pub struct StepRow {
    /// Its token.
    pub token: u32,
    /// Its position.
    pub position: u32,
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Places of the store with the keys of its text, in the order of positions; the last is where its own are kept.
    pub slots: Vec<u32>,
    /// What is written, in this order at one address: each writes the position 0. A source that is a run is a row of the step.
    pub edits: Vec<Edit>,
    /// What is read of it.
    pub captures: Vec<Address>,
    /// Layers after which it is read through the final norm and the unembedding.
    pub lens: Vec<u32>,
}

/// A step, laid out.
#[derive(Debug, Clone)]
pub struct StepBatch {
    /// What is computed.
    pub batch: ForwardBatch,
    /// The rows edited, as the batch counts them: the run is the row.
    pub edited: Vec<EditedRow>,
    /// Of each row edited, whether it is moved from where it is, and not put in another's place.
    pub moves: Vec<bool>,
    /// Of each row its readouts through the lens, as places among the scores. Those of the rows themselves come last.
    pub lens: Vec<Vec<usize>>,
}

impl StepBatch {
    /// Lays out a step. `asked`: what is read of the rows, stretch by stretch. A capture has its number in the order of rows and
    /// of each row's list. `layers`: of the model. A lens readout returns what its row's stretch asks for, divergences left out.
    pub fn new(rows: &[StepRow], asked: Vec<AskedRows>, draws: Vec<Draw>, layers: u32) -> StepBatch {
        let keys: Vec<u32> = rows.iter().flat_map(|row| &row.slots).copied().collect();
        let starts = rows.iter().scan(0, |next, row| {
            let first = *next;
            *next += row.slots.len() as u32;
            Some(first)
        });
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        let attention = Arc::new(AttentionBatch { out: all.clone(), key_start: starts.collect(), keys });
        let mut taps = Taps::new(rows);
        let mut lens = vec![Vec::new(); rows.len()];
        let mut scores = 0;
        let embed = taps.at(Address { layer: 0, site: Site::Embed });
        let layer = |layer| {
            let sites = &Site::ALL[Site::ResidPre as usize..][..SITES];
            let taps = std::array::from_fn(|site| taps.at(Address { layer, site: sites[site] }));
            let read = lens_of(rows, &asked, layer);
            for row in &read.rows {
                lens[*row as usize].push(scores);
                scores += 1;
            }
            LayerBatch { taps, attention: Arc::clone(&attention), kept: all.clone(), lens: read }
        };
        let of_layers = (0..layers).map(layer).collect();
        let end = |site| Address { layer: layers, site };
        let (final_norm, logits) = (taps.at(end(Site::FinalNorm)), taps.at(end(Site::Logits)));
        let batch = ForwardBatch {
            tokens: rows.iter().map(|row| row.token).collect(),
            positions: rows.iter().map(|row| row.position).collect(),
            lengths: rows.iter().map(|row| row.prompt).collect(),
            embed,
            layers: of_layers,
            final_norm,
            logits,
            readout: ReadoutBatch { rows: all, asked },
            slots: rows.iter().filter_map(|row| row.slots.last()).copied().collect(),
            step: Some(StepDraws { draws }),
            keys: 0,
            edited: taps.edited.len(),
            peak_rows: rows.len(),
            row_layers: rows.len() as u64 * u64::from(layers),
        };
        StepBatch { batch, edited: taps.edited, moves: taps.moves, lens }
    }
}

/// The rows that are read after a layer.
fn lens_of(rows: &[StepRow], asked: &[AskedRows], layer: u32) -> ReadoutBatch {
    let mut read = ReadoutBatch::default();
    let mut next = 0;
    for stretch in asked {
        let of = next..next + stretch.count;
        next = of.end;
        let first = read.rows.len();
        read.rows.extend(of.filter(|row| rows[*row].lens.contains(&layer)).map(|row| row as u32));
        if read.rows.len() > first {
            let count = read.rows.len() - first;
            read.asked.push(AskedRows { count, kl_refs: Vec::new(), ..stretch.clone() });
        }
    }
    read
}

/// The taps of a step, made site by site in the order of the pass.
struct Taps<'a> {
    rows: &'a [StepRow],
    /// (depth, row): rows that others read come first.
    order: Vec<(u32, usize)>,
    edited: Vec<EditedRow>,
    moves: Vec<bool>,
}

impl<'a> Taps<'a> {
    fn new(rows: &'a [StepRow]) -> Taps<'a> {
        let mut order: Vec<(u32, usize)> =
            (0..rows.len()).map(|row| (depth(rows, row, rows.len()), row)).collect();
        order.sort_unstable();
        Taps { rows, order, edited: Vec::new(), moves: Vec::new() }
    }

    fn at(&mut self, at: Address) -> Tap {
        let mut tap = Tap::default();
        for same in self.order.chunk_by(|a, b| a.0 == b.0) {
            let mut tables = TablesOf::default();
            for &(_, row) in same {
                let here = self.rows[row].edits.iter().filter(|edit| edit.at == at);
                for (ordinal, edit) in here.enumerate() {
                    let source = edit.op.run_read().map(|(run, _)| run.0);
                    let found = Found {
                        which: vec![0],
                        rows: vec![row as u32],
                        sources: source.into_iter().collect(),
                    };
                    tables.add(row as u32, Stage::of(at), ordinal, edit, &found);
                }
            }
            for (mut table, rows) in tables.finish() {
                table.first = self.edited.len();
                let moves = matches!(table.op, RowOp::Add { .. } | RowOp::Scale(_) | RowOp::Along { .. });
                self.moves.extend(rows.iter().map(|_| moves));
                self.edited.extend(rows);
                tap.steps.push(Step::Edit(table));
            }
        }
        let captures = self.rows.iter().enumerate();
        let captures = captures.flat_map(|(row, of)| of.captures.iter().map(move |at| (row as u32, *at)));
        for (capture, (row, _)) in captures.enumerate().filter(|(_, (_, of))| *of == at) {
            tap.captures.push(CaptureRows { capture, rows: vec![row] });
        }
        tap
    }
}

/// Length of the longest chain of rows that a row reads. `most`: there is no longer one, for no row reads itself.
fn depth(rows: &[StepRow], row: usize, most: usize) -> u32 {
    let reads = rows[row].edits.iter().filter_map(|edit| Some(edit.op.run_read()?.0.0 as usize));
    if most == 0 { 0 } else { reads.map(|read| depth(rows, read, most - 1) + 1).max().unwrap_or(0) }
}
