//! Stored activations as the source of an intervention: which rows of the set go where.
//!
//! Rows are read once, after their size was checked, and cut as the cells of the sweep want them: a cell's constant is a
//! shared block, so that a sweep of any size holds each number once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::facts::Facts;
use crate::activations::{ActivationSet, StoreError, position_list, position_slot, position_slots};
use crate::spec::problem::{Problems, code};
use crate::spec::select::{Layers, PositionWord, Positions};
use crate::spec::site::Site;

/// What an intervention asks of a set.
pub(super) struct Wanted<'w> {
    /// Pointer to what names the set.
    pub at: &'w str,
    /// Site written.
    pub site: Site,
    /// Layers written.
    pub layers: &'w BTreeSet<u32>,
    /// Number of positions written; `None` where rows are not paired with positions.
    pub positions: Option<usize>,
    /// The handle.
    pub activation: &'w str,
    /// The layers read one by one, if they are the same for all.
    pub layer: Option<&'w Layers>,
    /// Positions read, if they are named.
    pub from: Option<&'w Positions>,
}

/// More layers than any model has.
const MOST_LAYERS: usize = 1 << 16;

/// Layer of the set, first column and, if positions are swept, the position written (counted) of a block.
type Key = (usize, usize, Option<usize>);

/// Rows of a set, resolved.
#[derive(Debug, Clone)]
pub(super) struct Given {
    set: Arc<ActivationSet>,
    /// Layer written -> layer of the set, counted.
    slots: BTreeMap<u32, usize>,
    /// The layers read one by one, whichever is written, and their places in the set; none if each layer has its own.
    read: (Vec<u32>, Vec<usize>),
    /// Row of the set for each position written.
    rows: Vec<usize>,
    blocks: Arc<HashMap<Key, Arc<[f32]>>>,
    chosen: Option<usize>,
}

impl Given {
    /// Finds the set and checks that it fits.
    pub(super) fn find(wanted: &Wanted<'_>, facts: &dyn Facts, out: &mut Problems) -> Option<Self> {
        let at = wanted.at.to_owned();
        let set = match facts.activation(wanted.activation) {
            Ok(set) => set,
            Err(error) => {
                refuse(&error, &at, out);
                return None;
            }
        };
        let (own, written) = (set.meta.shape[2], facts.config().site_width(wanted.site, 0));
        if own != written {
            let detail = format!(
                "rows of {own} numbers, captured at {}; site {} has {written}",
                set.meta.site, wanted.site
            );
            out.push(
                format!("{at}/activation"),
                code::LENGTH_MISMATCH,
                detail,
                "use activations of this site",
            );
            return None;
        }
        let read = read(wanted, &set, &at, out);
        let slots =
            if wanted.layer.is_some() { Some(BTreeMap::new()) } else { slots(wanted, &set, &at, out) };
        let rows = rows(wanted, &set, &at, out);
        Some(Self { slots: slots?, read: read?, rows: rows?, set, blocks: Arc::default(), chosen: None })
    }

    /// The layers read one by one, whichever is written.
    pub(super) fn layers(&self) -> &[u32] {
        &self.read.0
    }

    /// Keeps only one of them.
    pub(super) fn choose_layer(&mut self, index: usize) {
        self.read = (vec![self.read.0[index]], vec![self.read.1[index]]);
    }

    /// Layers of the set that are read, counted.
    fn layers_read(&self) -> BTreeSet<usize> {
        self.slots.values().chain(&self.read.1).copied().collect()
    }

    /// The rows of the layer of the set that is written into a layer, `[rows, width]`.
    pub(super) fn vectors(&self) -> Result<BTreeMap<usize, Vec<f32>>, StoreError> {
        let width = self.set.meta.shape[2];
        let mut reader = self.set.open()?;
        let of_layer = |slot: usize| -> Result<(usize, Vec<f32>), StoreError> {
            let layer = reader.layer(slot)?;
            let rows = self.rows.iter().flat_map(|row| &layer[row * width..(row + 1) * width]);
            Ok((slot, rows.copied().collect()))
        };
        self.layers_read().into_iter().map(of_layer).collect()
    }

    /// The layer of the set that is written into a layer, counted.
    pub(super) fn slot(&self, layer: u32) -> usize {
        let slot = self.read.1.first().or_else(|| self.slots.get(&layer));
        *slot.expect("BUG: every layer written was resolved")
    }

    /// Numbers that [`Given::load`] is going to hold.
    pub(super) fn numbers(&self) -> u64 {
        self.layers_read().len() as u64 * self.rows.len() as u64 * self.set.meta.shape[2] as u64
    }

    /// Reads the rows of the intervention at a pointer: a block for each layer and range of columns, and for each position if
    /// `each_position`.
    pub(super) fn load(
        &mut self,
        at: &str,
        columns: &[Range<usize>],
        each_position: bool,
        out: &mut Problems,
    ) {
        match self.blocks(columns, each_position) {
            Ok(blocks) => self.blocks = Arc::new(blocks),
            Err(error) => refuse(&error, &format!("{at}/source"), out),
        }
    }

    fn blocks(
        &self,
        columns: &[Range<usize>],
        each_position: bool,
    ) -> Result<HashMap<Key, Arc<[f32]>>, StoreError> {
        let width = self.set.meta.shape[2];
        let mut reader = self.set.open()?;
        let mut blocks = HashMap::new();
        for slot in self.layers_read() {
            let layer = reader.layer(slot)?;
            let cut = |rows: &[usize], columns: &Range<usize>| -> Arc<[f32]> {
                let row = |row: &usize| &layer[row * width..(row + 1) * width][columns.clone()];
                rows.iter().flat_map(row).copied().collect()
            };
            for columns in columns {
                if each_position {
                    for (place, row) in self.rows.iter().enumerate() {
                        blocks.insert((slot, columns.start, Some(place)), cut(&[*row], columns));
                    }
                } else {
                    blocks.insert((slot, columns.start, None), cut(&self.rows, columns));
                }
            }
        }
        Ok(blocks)
    }

    /// Keeps only one position.
    pub(super) fn choose(&mut self, position: usize) {
        self.chosen = Some(position);
    }

    /// What is written into the columns from `start` of a layer, `[positions, columns]`.
    pub(super) fn block(&self, layer: u32, start: usize) -> Arc<[f32]> {
        let block = self.blocks.get(&(self.slot(layer), start, self.chosen));
        Arc::clone(block.expect("BUG: blocks were loaded as the sweep cuts them"))
    }
}

/// Says why a set can't be used.
pub(super) fn refuse(error: &StoreError, at: &str, out: &mut Problems) {
    let (code, fix) = match error {
        StoreError::Expired { .. } => {
            (code::EXPIRED, "capture or upload it again, with a longer `ttl_s` if it was uploaded")
        }
        StoreError::Foreign { .. } => {
            (code::FOREIGN_MODEL, "capture it with the model served, or send the request to its own model")
        }
        StoreError::Unknown { .. } => (code::UNKNOWN_NAME, "GET /v1/activations lists those there are"),
        StoreError::Damaged { .. } => (code::UNREADABLE, "capture or upload it again"),
        StoreError::Quota { .. }
        | StoreError::DiskFull
        | StoreError::Displaced(_)
        | StoreError::Io { .. } => {
            tracing::error!(%error, "stored activations cannot be read");
            (code::UNREADABLE, "capture or upload it again")
        }
    };
    let detail = match error {
        StoreError::Io { .. } => "the server fails to read its file".to_owned(),
        other => other.to_string(),
    };
    out.push(format!("{at}/activation"), code, detail, fix);
}

/// The layers of the set that are read whichever is written, by name and by place.
fn read(
    wanted: &Wanted<'_>,
    set: &ActivationSet,
    at: &str,
    out: &mut Problems,
) -> Option<(Vec<u32>, Vec<usize>)> {
    let Some(layers) = wanted.layer else { return Some((Vec::new(), Vec::new())) };
    let Some(names) = &set.meta.layers else {
        let detail = "the set is of no layer, and serves every one";
        out.push(format!("{at}/layer"), code::CONFLICT, detail, "leave out `layer`");
        return None;
    };
    let end = names.iter().max().map_or(0, |last| last + 1);
    let layers = match layers {
        Layers::Word(_) | Layers::Above(_) => names.clone(),
        Layers::Range { from, to, step } => {
            (*from..to.unwrap_or(end)).step_by(*step as usize).take(MOST_LAYERS).collect()
        }
        Layers::One(layer) => vec![*layer],
        Layers::List(list) => list.clone(),
    };
    let places = layers.iter().map(|layer| {
        let place = names.iter().position(|name| name == layer);
        if place.is_none() {
            let detail = format!("the set has no layer {layer}");
            out.push(format!("{at}/layer"), code::OUT_OF_RANGE, detail, format!("it has {}", list(names)));
        }
        place
    });
    let places: Vec<usize> = places.collect::<Option<_>>()?;
    if let Some((i, layer)) = layers.iter().enumerate().find(|(i, layer)| layers[..*i].contains(layer)) {
        let detail = format!("layer {layer} twice");
        out.push(format!("{at}/layer/{i}"), code::DUPLICATE, detail, "list each layer once");
        return None;
    }
    Some((layers, places))
}

fn list(names: &[u32]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Which layer of the set each layer written reads, where it has its own.
fn slots(
    wanted: &Wanted<'_>,
    set: &ActivationSet,
    at: &str,
    out: &mut Problems,
) -> Option<BTreeMap<u32, usize>> {
    let same = |slot: usize| wanted.layers.iter().map(|layer| (*layer, slot)).collect();
    let place = |names: &[u32], layer: u32| names.iter().position(|name| *name == layer);
    match &set.meta.layers {
        None => Some(same(0)),
        Some(names) if names.len() == 1 => Some(same(0)),
        Some(names) => {
            let missing: Vec<u32> =
                wanted.layers.iter().copied().filter(|layer| place(names, *layer).is_none()).collect();
            if !missing.is_empty() {
                let detail = format!("the set has no layer {}, which is written", list(&missing));
                let fix =
                    format!("write layers of {}, or name one as `layer` beside the handle", list(names));
                out.push(format!("{at}/activation"), code::OUT_OF_RANGE, detail, fix);
                return None;
            }
            Some(wanted.layers.iter().filter_map(|layer| Some((*layer, place(names, *layer)?))).collect())
        }
    }
}

/// Which row of the set each position written reads.
fn rows(wanted: &Wanted<'_>, set: &ActivationSet, at: &str, out: &mut Problems) -> Option<Vec<usize>> {
    let meta = &set.meta;
    let one = |position: i64, at: &str, out: &mut Problems| {
        let slot = position_slot(meta, position);
        if slot.is_none() {
            let detail = format!("the set has no position {position}");
            out.push(at, code::OUT_OF_RANGE, detail, format!("it has {}", position_list(meta)));
        }
        slot
    };
    let from_at = format!("{at}/positions");
    let rows: Vec<usize> = match wanted.from {
        None | Some(Positions::Word(PositionWord::All)) => (0..meta.shape[1]).collect(),
        Some(Positions::Word(PositionWord::Last)) => vec![meta.shape[1] - 1],
        Some(Positions::One(position)) => vec![one(*position, &from_at, out)?],
        Some(Positions::List(list)) => {
            let found = list.iter().enumerate();
            let found: Vec<Option<usize>> =
                found.map(|(i, position)| one(*position, &format!("{from_at}/{i}"), out)).collect();
            found.into_iter().collect::<Option<_>>()?
        }
        Some(Positions::Range { range }) => {
            let found = position_slots(meta, *range);
            if found.is_empty() {
                let detail = format!("the set has no position in [{}, {})", range[0], range[1]);
                let fix = format!("it has {}", position_list(meta));
                out.push(format!("{from_at}/range"), code::OUT_OF_RANGE, detail, fix);
                return None;
            }
            found
        }
        Some(_) => {
            let detail = "stored activations have positions, but no spans or maps";
            out.push(
                &from_at,
                code::NOT_SUPPORTED,
                detail,
                "list the positions, or write {\"range\": [a, b]}",
            );
            return None;
        }
    };
    let m = rows.len();
    let n = wanted.positions.unwrap_or(m);
    if m != n && m != 1 {
        let detail = format!("{m} positions of the set are read, {n} are written");
        let pointer = if wanted.from.is_some() { from_at } else { format!("{at}/activation") };
        let fix = format!(
            "name as many as `source.positions`, or one for all; the set has {}",
            position_list(meta)
        );
        out.push(pointer, code::LENGTH_MISMATCH, detail, fix);
        return None;
    }
    Some(if m == n { rows } else { vec![rows[0]; n] })
}
