//! The tensors of one job: storages behind shared cells, windows on them, and what the job may still use.

use super::array::{Array, Data};
use super::dtype::Dtype;
use super::random::Generator;
use super::value::{Id, Stop, TorchError, Value, memory, runtime};
use super::view::{View, count};
use std::collections::HashMap;

/// What a job's tensors may use.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of all storages together.
    pub bytes: u64,
    /// Operations.
    pub operations: u64,
}

/// Arithmetic that one operation may take: some ten seconds of one core.
const WORK_OF_ONE: u64 = 1 << 36;

/// Storages and the tensors that show them.
#[derive(Debug)]
pub struct Heap {
    storages: HashMap<u32, Storage>,
    tensors: HashMap<Id, View>,
    next: u32,
    budget: Budget,
    bytes: u64,
    operations: u64,
    pub(crate) generator: Generator,
}

#[derive(Debug)]
struct Storage {
    dtype: Dtype,
    len: usize,
    /// None: the numbers are not known yet.
    data: Option<Data>,
    tensors: u32,
}

impl Heap {
    /// Nothing yet.
    pub fn new(budget: Budget) -> Heap {
        Heap {
            storages: HashMap::new(),
            tensors: HashMap::new(),
            next: 0,
            budget,
            bytes: 0,
            operations: 0,
            generator: Generator::default(),
        }
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Bytes of all storages.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts an operation.
    pub(crate) fn count_operation(&mut self) -> Result<(), TorchError> {
        self.operations += 1;
        if self.operations > self.budget.operations {
            return Err(memory(format!("more than {} tensor operations in one job", self.budget.operations)));
        }
        Ok(())
    }

    /// Refuses what would take too long, before it runs.
    pub(crate) fn check_work(work: usize) -> Result<(), TorchError> {
        if work as u64 > WORK_OF_ONE {
            return Err(memory(
                "this operation would take too long: make it smaller, or do it on your own machine",
            ));
        }
        Ok(())
    }

    /// Refuses what would take too many bytes, before it is made.
    pub(crate) fn check_room(&self, dtype: Dtype, len: usize) -> Result<(), TorchError> {
        let more = (len as u64).saturating_mul(dtype.held_bytes() as u64);
        if self.bytes.saturating_add(more) > self.budget.bytes {
            return Err(memory(format!(
                "the job's tensors would take {} bytes, more than the {} that a job may use: save less, or free what is not needed with `del`",
                self.bytes.saturating_add(more),
                self.budget.bytes
            )));
        }
        Ok(())
    }

    /// A new tensor with a storage of its own.
    pub fn put(&mut self, array: Array) -> Result<Id, TorchError> {
        let strides = super::view::row_major(&array.shape);
        self.put_strided(array, strides)
    }

    /// A new tensor with a storage of its own, whose numbers stand in the storage as `strides` say (dense).
    pub(crate) fn put_strided(&mut self, array: Array, strides: Vec<usize>) -> Result<Id, TorchError> {
        self.check_room(array.dtype, array.len())?;
        let Array { dtype, shape, data } = array;
        let view = View { storage: 0, offset: 0, shape, strides };
        let data = if view.is_contiguous() {
            data
        } else {
            let mut placed = Data::zeros(dtype, data.len());
            placed.scatter(view.places(), &data);
            placed
        };
        let storage = self.new_storage(dtype, data.len(), Some(data));
        Ok(self.show(View { storage, ..view }))
    }

    /// A new tensor as a value.
    pub(crate) fn give(&mut self, array: Array) -> Result<Value, Stop> {
        Ok(Value::Tensor(self.put(array)?))
    }

    /// A new tensor whose numbers are not known yet.
    pub fn unread(&mut self, shape: Vec<usize>, dtype: Dtype) -> Result<Id, TorchError> {
        let len = count(&shape)?;
        self.check_room(dtype, len)?;
        let storage = self.new_storage(dtype, len, None);
        Ok(self.show(View::whole(storage, shape)))
    }

    /// The numbers of a storage that was unread; one that is known stays as it is.
    pub fn fill(&mut self, storage: u32, numbers: Vec<f32>) -> Result<(), TorchError> {
        let Some(place) = self.storages.get_mut(&storage) else { return Ok(()) };
        if numbers.len() != place.len {
            return Err(runtime(format!("BUG: {} numbers for a storage of {}", numbers.len(), place.len)));
        }
        if place.data.is_none() {
            place.data = Some(Array::of_f32s(place.dtype, vec![numbers.len()], numbers).data);
        }
        Ok(())
    }

    /// Whether a storage's numbers are not known yet.
    pub fn is_unread(&self, storage: u32) -> bool {
        self.storages.get(&storage).is_some_and(|storage| storage.data.is_none())
    }

    /// All numbers of a storage, if they are known.
    pub fn numbers(&self, storage: u32) -> Option<Vec<f32>> {
        let storage = self.storages.get(&storage)?;
        let data = storage.data.clone()?;
        Some(Array { dtype: storage.dtype, shape: vec![storage.len], data }.to_f32s())
    }

    fn new_storage(&mut self, dtype: Dtype, len: usize, data: Option<Data>) -> u32 {
        self.next += 1;
        self.bytes += (len * dtype.held_bytes()) as u64;
        self.storages.insert(self.next, Storage { dtype, len, data, tensors: 0 });
        self.next
    }

    /// A tensor that shows part of a storage.
    pub(crate) fn show(&mut self, view: View) -> Id {
        if let Some(storage) = self.storages.get_mut(&view.storage) {
            debug_assert!(view.end() <= storage.len.max(view.offset), "BUG: a view beyond its storage");
            storage.tensors += 1;
        }
        self.next += 1;
        self.tensors.insert(self.next, view);
        self.next
    }

    /// A tensor that shows part of a storage, as a value.
    pub(crate) fn give_view(&mut self, view: View) -> Value {
        Value::Tensor(self.show(view))
    }

    /// Forgets a tensor, and its storage if no other tensor shows it.
    pub fn free(&mut self, id: Id) {
        let Some(view) = self.tensors.remove(&id) else { return };
        self.release(view.storage);
    }

    fn release(&mut self, storage: u32) {
        let Some(place) = self.storages.get_mut(&storage) else { return };
        place.tensors -= 1;
        if place.tensors == 0 {
            self.bytes -= (place.len * place.dtype.held_bytes()) as u64;
            self.storages.remove(&storage);
        }
    }

    /// A tensor's window.
    pub fn view(&self, id: Id) -> Result<&View, TorchError> {
        self.tensors.get(&id).ok_or_else(|| runtime("the tensor is gone: its job or its trace has ended"))
    }

    /// Shows another window under the same handle, as `unsqueeze_` does.
    pub(crate) fn set_view(&mut self, id: Id, view: View) -> Result<(), TorchError> {
        let before = self.view(id)?.storage;
        if let Some(storage) = self.storages.get_mut(&view.storage) {
            storage.tensors += 1;
        }
        self.tensors.insert(id, view);
        self.release(before);
        Ok(())
    }

    /// A tensor's dtype.
    pub fn dtype(&self, id: Id) -> Result<Dtype, TorchError> {
        let view = self.view(id)?;
        self.storages
            .get(&view.storage)
            .map(|storage| storage.dtype)
            .ok_or_else(|| runtime("the storage is gone"))
    }

    /// How many numbers a storage has.
    pub(crate) fn storage_len(&self, storage: u32) -> usize {
        self.storages.get(&storage).map_or(0, |storage| storage.len)
    }

    /// Places in the storage that a tensor shows, in its order.
    pub fn offsets(&self, id: Id) -> Result<Vec<usize>, TorchError> {
        Ok(self.view(id)?.places().collect())
    }

    /// A tensor's numbers.
    pub fn array(&self, id: Id) -> Result<Array, Stop> {
        self.array_of(self.view(id)?)
    }

    /// The numbers that a view shows; without a copy if it shows all of its storage.
    pub(crate) fn array_of(&self, view: &View) -> Result<Array, Stop> {
        let storage = self.storages.get(&view.storage).ok_or_else(|| runtime("the storage is gone"))?;
        let data = storage.data.as_ref().ok_or(Stop::Unread(view.storage))?;
        let data = if view.is_contiguous() && view.len() == storage.len {
            data.clone()
        } else {
            self.check_room(storage.dtype, view.len())?;
            if view.is_contiguous() {
                data.gather(view.offset..view.offset + view.len())
            } else {
                data.gather(view.places())
            }
        };
        Ok(Array { dtype: storage.dtype, shape: view.shape.clone(), data })
    }

    /// Refuses writes into what is not known yet; nothing has changed then.
    pub(crate) fn check_known(&self, view: &View) -> Result<(), Stop> {
        if self.is_unread(view.storage) { Err(Stop::Unread(view.storage)) } else { Ok(()) }
    }

    /// Refuses writes into what is not known yet or shows one number twice; nothing has changed then.
    pub(crate) fn check_writable(&self, view: &View) -> Result<(), Stop> {
        self.check_known(view)?;
        if view.overlaps_itself() {
            return Err(runtime(
                "unsupported operation: more than one element of the written-to tensor refers to a single memory location. \
                 Please clone() the tensor before performing the operation.",
            )
            .into());
        }
        Ok(())
    }

    /// Writes an array, as large as the view, where the view shows.
    pub(crate) fn write(&mut self, view: &View, array: Array) -> Result<(), Stop> {
        self.check_writable(view)?;
        self.write_places(view.storage, view.places(), array)
    }

    /// Writes an array to places of a storage, in their order.
    pub(crate) fn write_places(
        &mut self,
        storage: u32,
        places: impl Iterator<Item = usize>,
        array: Array,
    ) -> Result<(), Stop> {
        let place = self.storages.get_mut(&storage).ok_or_else(|| runtime("the storage is gone"))?;
        let array = array.cast(place.dtype);
        place.data.as_mut().ok_or(Stop::Unread(storage))?.scatter(places, &array.data);
        Ok(())
    }
}
