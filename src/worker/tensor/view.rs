//! Which numbers of a storage a tensor shows: offset, sizes and strides, as torch has them.

use super::value::{TorchError, index_error, runtime};

/// A stride that is longer than any storage.
pub(crate) const FARTHEST: usize = 1 << 30;

/// A tensor's window on a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The storage.
    pub storage: u32,
    /// Place of the first number.
    pub offset: usize,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Steps in the storage, one for each dimension.
    pub strides: Vec<usize>,
}

/// Strides of numbers that stand row by row.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for dim in (1..shape.len()).rev() {
        // What overflows is empty, and no stride of it is ever taken.
        strides[dim - 1] = strides[dim].saturating_mul(shape[dim].max(1));
    }
    strides
}

/// How many numbers a shape has, if that can be counted, and what is left of it without its empty dimensions, too: parts of a shape
/// are multiplied by themselves.
pub fn count(shape: &[usize]) -> Result<usize, TorchError> {
    shape
        .iter()
        .try_fold(1_usize, |all, &n| all.checked_mul(n.max(1)))
        .filter(|&all| all <= isize::MAX as usize / 8)
        .map(|all| if shape.contains(&0) { 0 } else { all })
        .ok_or_else(|| runtime("Storage size calculation overflowed with sizes"))
}

/// A dimension as torch counts it: from the end if negative.
pub(crate) fn dim(dim: i64, dims: usize) -> Result<usize, TorchError> {
    let all = dims.max(1) as i64;
    if dim < -all || dim >= all {
        return Err(index_error(format!(
            "Dimension out of range (expected to be in range of [{}, {}], but got {dim})",
            -all,
            all - 1
        )));
    }
    Ok(if dim < 0 { dim + all } else { dim } as usize)
}

/// The shape that all of these spread to.
pub fn broadcast<'a>(shapes: impl IntoIterator<Item = &'a [usize]>) -> Result<Vec<usize>, TorchError> {
    let mut out: Vec<usize> = Vec::new();
    for shape in shapes {
        if shape.len() > out.len() {
            let mut wider = vec![1; shape.len() - out.len()];
            wider.append(&mut out);
            out = wider;
        }
        let ahead = out.len() - shape.len();
        for (at, &n) in shape.iter().enumerate() {
            let place = &mut out[ahead + at];
            if *place == n || n == 1 {
                continue;
            }
            if *place != 1 {
                return Err(runtime(format!(
                    "The size of tensor a ({place}) must match the size of tensor b ({n}) at non-singleton dimension {}",
                    ahead + at
                )));
            }
            *place = n;
        }
    }
    Ok(out)
}

impl View {
    /// All of a storage, row by row.
    pub fn whole(storage: u32, shape: Vec<usize>) -> View {
        let strides = row_major(&shape);
        View { storage, offset: 0, shape, strides }
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Whether the numbers stand row by row, without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.is_empty() || {
            let mut expected = 1;
            self.shape.iter().zip(&self.strides).rev().all(|(&n, &stride)| {
                let right = n == 1 || stride == expected;
                expected *= n;
                right
            })
        }
    }

    /// Whether two places of the tensor are one number of the storage, as after `expand`.
    pub fn overlaps_itself(&self) -> bool {
        !self.is_empty() && self.shape.iter().zip(&self.strides).any(|(&n, &stride)| n > 1 && stride == 0)
    }

    /// Whether the numbers fill one stretch of the storage, each once, in whatever order of dimensions.
    pub fn is_dense(&self) -> bool {
        let mut dims: Vec<(usize, usize)> =
            self.strides.iter().copied().zip(self.shape.iter().copied()).filter(|&(_, n)| n != 1).collect();
        dims.sort_unstable();
        let mut expected = 1;
        self.is_empty()
            || dims.into_iter().all(|(stride, n)| {
                let right = stride == expected;
                expected *= n;
                right
            })
    }

    /// Places in the storage, in the tensor's order.
    pub fn places(&self) -> Places<'_> {
        Places { view: self, at: vec![0; self.shape.len()], next: self.offset, left: self.len() }
    }

    /// One past the last place.
    pub(crate) fn end(&self) -> usize {
        if self.is_empty() {
            return self.offset;
        }
        self.offset
            + self.shape.iter().zip(&self.strides).map(|(&n, &stride)| (n - 1) * stride).sum::<usize>()
            + 1
    }

    /// Spread to `shape` without a copy.
    pub(crate) fn expand(&self, shape: &[usize]) -> Option<View> {
        let ahead = shape.len().checked_sub(self.shape.len())?;
        let mut strides = vec![0; shape.len()];
        for (at, (&n, &stride)) in self.shape.iter().zip(&self.strides).enumerate() {
            if n == shape[ahead + at] {
                strides[ahead + at] = stride;
            } else if n != 1 {
                return None;
            }
        }
        Some(View { storage: self.storage, offset: self.offset, shape: shape.to_vec(), strides })
    }

    /// The same numbers in other sizes, if strides can say it without a copy.
    pub(crate) fn reshape(&self, shape: &[usize]) -> Option<View> {
        let view = |strides| Some(View { strides, shape: shape.to_vec(), ..self.clone() });
        if self.shape == shape {
            return Some(self.clone());
        }
        if self.is_empty() || self.shape.is_empty() {
            return view(row_major(shape));
        }
        // torch's computeStride: stretches of old dimensions that are one run of numbers take whole new dimensions
        let mut strides = vec![0; shape.len()];
        let mut new = shape.len();
        let mut base = *self.strides.last()?;
        let (mut old_numbers, mut new_numbers) = (1, 1);
        for old in (0..self.shape.len()).rev() {
            old_numbers *= self.shape[old];
            if old == 0 || (self.shape[old - 1] != 1 && self.strides[old - 1] != old_numbers * base) {
                while new > 0 && (new_numbers < old_numbers || shape[new - 1] == 1) {
                    new -= 1;
                    strides[new] = new_numbers * base;
                    new_numbers *= shape[new];
                }
                if new_numbers != old_numbers {
                    return None;
                }
                if old > 0 {
                    base = self.strides[old - 1];
                    old_numbers = 1;
                    new_numbers = 1;
                }
            }
        }
        (new == 0).then_some(())?;
        view(strides)
    }

    /// Dimensions in another order.
    pub(crate) fn permute(&self, order: &[usize]) -> View {
        View {
            storage: self.storage,
            offset: self.offset,
            shape: order.iter().map(|&dim| self.shape[dim]).collect(),
            strides: order.iter().map(|&dim| self.strides[dim]).collect(),
        }
    }

    /// Every `step`th place of a dimension, `n` of them from `start` on.
    pub(crate) fn slice(&self, dim: usize, start: usize, n: usize, step: usize) -> View {
        let mut view = self.clone();
        if n > 0 {
            view.offset += start * view.strides[dim];
        }
        view.shape[dim] = n;
        // a step beyond the end says nothing, and must not be too long for arithmetic
        view.strides[dim] = view.strides[dim].saturating_mul(step).min(FARTHEST);
        view
    }

    /// One place of a dimension, which goes away.
    pub(crate) fn select(&self, dim: usize, place: usize) -> View {
        let mut view = self.clone();
        view.offset += place * view.strides[dim];
        view.shape.remove(dim);
        view.strides.remove(dim);
        view
    }

    /// A new dimension of one.
    pub(crate) fn unsqueeze(&self, dim: usize) -> View {
        let mut view = self.clone();
        let stride = if dim < view.shape.len() { view.shape[dim] * view.strides[dim] } else { 1 };
        view.shape.insert(dim, 1);
        view.strides.insert(dim, stride);
        view
    }
}

/// Walks over the places of a view.
#[derive(Debug)]
pub struct Places<'a> {
    view: &'a View,
    at: Vec<usize>,
    next: usize,
    left: usize,
}

impl Iterator for Places<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let now = self.next;
        for dim in (0..self.at.len()).rev() {
            self.at[dim] += 1;
            self.next += self.view.strides[dim];
            if self.at[dim] < self.view.shape[dim] {
                break;
            }
            self.next -= self.at[dim] * self.view.strides[dim];
            self.at[dim] = 0;
        }
        Some(now)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Places<'_> {}
