//! Numbers in a row: what operations compute with.

use super::dtype::Dtype;
use std::sync::Arc;

/// Numbers of one of three kinds; which dtype they stand for is said beside them. Shared until one holder writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// float16, bfloat16 and float32.
    F32(Arc<Vec<f32>>),
    /// float64.
    F64(Arc<Vec<f64>>),
    /// Whole numbers and bool.
    I64(Arc<Vec<i64>>),
}

impl Data {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(numbers) => numbers.len(),
            Data::F64(numbers) => numbers.len(),
            Data::I64(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Zeros of a dtype.
    pub(crate) fn zeros(dtype: Dtype, len: usize) -> Data {
        match dtype {
            Dtype::Float64 => Data::F64(Arc::new(vec![0.0; len])),
            Dtype::Float16 | Dtype::BFloat16 | Dtype::Float32 => Data::F32(Arc::new(vec![0.0; len])),
            _ => Data::I64(Arc::new(vec![0; len])),
        }
    }

    /// The numbers at these places, in this order.
    pub(crate) fn gather(&self, places: impl Iterator<Item = usize>) -> Data {
        match self {
            Data::F32(numbers) => Data::F32(Arc::new(places.map(|place| numbers[place]).collect())),
            Data::F64(numbers) => Data::F64(Arc::new(places.map(|place| numbers[place]).collect())),
            Data::I64(numbers) => Data::I64(Arc::new(places.map(|place| numbers[place]).collect())),
        }
    }

    /// Writes `from` to these places, in this order. Both are of one kind.
    pub(crate) fn scatter(&mut self, places: impl Iterator<Item = usize>, from: &Data) {
        match (self, from) {
            (Data::F32(to), Data::F32(from)) => scatter(Arc::make_mut(to).as_mut_slice(), places, from),
            (Data::F64(to), Data::F64(from)) => scatter(Arc::make_mut(to).as_mut_slice(), places, from),
            (Data::I64(to), Data::I64(from)) => scatter(Arc::make_mut(to).as_mut_slice(), places, from),
            _ => debug_assert!(false, "BUG: the caller casts"),
        }
    }
}

fn scatter<T: Copy>(to: &mut [T], places: impl Iterator<Item = usize>, from: &[T]) {
    for (place, &number) in places.zip(from) {
        to[place] = number;
    }
}

/// An array of numbers, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Type of the numbers.
    pub dtype: Dtype,
    /// Sizes.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Data,
}

impl Array {
    /// Numbers of any kind as an array of `dtype`, rounded or wrapped to it.
    pub(crate) fn of_f64s(dtype: Dtype, shape: Vec<usize>, numbers: Vec<f64>) -> Array {
        let data = match dtype {
            Dtype::Float64 => Data::F64(Arc::new(numbers)),
            Dtype::Float16 | Dtype::BFloat16 | Dtype::Float32 => {
                Data::F32(Arc::new(numbers.into_iter().map(|x| dtype.round(x as f32)).collect()))
            }
            Dtype::Bool => Data::I64(Arc::new(numbers.into_iter().map(|x| i64::from(x != 0.0)).collect())),
            _ => Data::I64(Arc::new(numbers.into_iter().map(|x| dtype.wrap(x as i64)).collect())),
        };
        Array { dtype, shape, data }
    }

    /// Whole numbers as an array of `dtype`.
    pub(crate) fn of_i64s(dtype: Dtype, shape: Vec<usize>, numbers: Vec<i64>) -> Array {
        let data = match dtype {
            Dtype::Float64 => Data::F64(Arc::new(numbers.into_iter().map(|x| x as f64).collect())),
            Dtype::Float16 | Dtype::BFloat16 | Dtype::Float32 => {
                Data::F32(Arc::new(numbers.into_iter().map(|x| dtype.round(x as f32)).collect()))
            }
            _ => Data::I64(Arc::new(numbers.into_iter().map(|x| dtype.wrap(x)).collect())),
        };
        Array { dtype, shape, data }
    }

    /// f32 numbers as an array of one of the dtypes that are held as f32.
    pub(crate) fn of_f32s(dtype: Dtype, shape: Vec<usize>, mut numbers: Vec<f32>) -> Array {
        match dtype {
            Dtype::Float16 | Dtype::BFloat16 => {
                for number in &mut numbers {
                    *number = dtype.round(*number);
                }
                Array { dtype, shape, data: Data::F32(Arc::new(numbers)) }
            }
            Dtype::Float32 => Array { dtype, shape, data: Data::F32(Arc::new(numbers)) },
            _ => Array::of_f64s(dtype, shape, numbers.into_iter().map(f64::from).collect()),
        }
    }

    /// `true` and `false`.
    pub(crate) fn of_bools(shape: Vec<usize>, numbers: Vec<bool>) -> Array {
        let numbers = numbers.into_iter().map(i64::from).collect();
        Array { dtype: Dtype::Bool, shape, data: Data::I64(Arc::new(numbers)) }
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The same numbers in other sizes.
    pub(crate) fn shaped(mut self, shape: Vec<usize>) -> Array {
        debug_assert_eq!(shape.iter().product::<usize>(), self.len(), "BUG: a shape of other size");
        self.shape = shape;
        self
    }

    /// Converted to another dtype, as torch's `to`.
    pub(crate) fn cast(self, dtype: Dtype) -> Array {
        if dtype == self.dtype {
            return self;
        }
        match self.data {
            Data::F32(numbers) if dtype == Dtype::Float32 => {
                Array { dtype, shape: self.shape, data: Data::F32(numbers) }
            }
            Data::F32(numbers) => Array::of_f32s(dtype, self.shape, numbers.to_vec()),
            Data::F64(numbers) => Array::of_f64s(dtype, self.shape, numbers.to_vec()),
            Data::I64(numbers) => Array::of_i64s(dtype, self.shape, numbers.to_vec()),
        }
    }

    /// One number.
    pub(crate) fn get(&self, place: usize) -> f64 {
        match &self.data {
            Data::F32(numbers) => f64::from(numbers[place]),
            Data::F64(numbers) => numbers[place],
            Data::I64(numbers) => numbers[place] as f64,
        }
    }

    /// All numbers as f64.
    pub(crate) fn to_f64s(&self) -> Vec<f64> {
        match &self.data {
            Data::F32(numbers) => numbers.iter().map(|&x| f64::from(x)).collect(),
            Data::F64(numbers) => numbers.to_vec(),
            Data::I64(numbers) => numbers.iter().map(|&x| x as f64).collect(),
        }
    }

    /// All numbers as f32.
    pub fn to_f32s(&self) -> Vec<f32> {
        match &self.data {
            Data::F32(numbers) => numbers.to_vec(),
            Data::F64(numbers) => numbers.iter().map(|&x| x as f32).collect(),
            Data::I64(numbers) => numbers.iter().map(|&x| x as f32).collect(),
        }
    }

    /// All numbers as whole numbers.
    pub(crate) fn to_i64s(&self) -> Vec<i64> {
        match &self.data {
            Data::F32(numbers) => numbers.iter().map(|&x| x as i64).collect(),
            Data::F64(numbers) => numbers.iter().map(|&x| x as i64).collect(),
            Data::I64(numbers) => numbers.to_vec(),
        }
    }

    /// The numbers at these places, as an array of `shape`.
    pub(crate) fn gather(&self, shape: Vec<usize>, places: impl Iterator<Item = usize>) -> Array {
        Array { dtype: self.dtype, shape, data: self.data.gather(places) }
    }
}
