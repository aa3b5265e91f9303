//! Products of matrices.

#![expect(clippy::many_single_char_names, reason = "a [m, k] times b [k, n]: a product's usual letters")]

use super::super::args::{Args, Operand};
use super::super::array::{Array, Data};
use super::super::heap::Heap;
use super::super::index::spread_into;
use super::super::value::{Stop, TorchError, Value, runtime};
use super::super::view::{broadcast, count};
use super::{Op, as_rows, both, build, op};
use mediant_arithmetic::{Dtype as Rounded, PackedWeight};

pub(super) static OPS: &[Op] = &[
    op("matmul", "input other", |heap, args| {
        let (a, b) = (args.array(heap, "input")?, args.array(heap, "other")?);
        let product = matmul(heap, a, b)?;
        heap.give(product)
    }),
    op("mm", "input mat2", |heap, args| {
        let (a, b) = (args.array(heap, "input")?, args.array(heap, "mat2")?);
        if a.shape.len() != 2 || b.shape.len() != 2 {
            let (which, wrong) = if a.shape.len() == 2 { ("mat2", &b) } else { ("self", &a) };
            return Err(
                runtime(format!("mm: {which} must be a matrix, got {}-D tensor", wrong.shape.len())).into()
            );
        }
        let product = matmul(heap, a, b)?;
        heap.give(product)
    }),
    op("bmm", "input mat2", |heap, args| {
        let (a, b) = (args.array(heap, "input")?, args.array(heap, "mat2")?);
        if a.shape.len() != 3 || b.shape.len() != 3 {
            let which = if a.shape.len() == 3 { "batch2" } else { "batch1" };
            return Err(runtime(format!("{which} must be a 3D tensor")).into());
        }
        if a.shape[0] != b.shape[0] || a.shape[2] != b.shape[1] {
            return Err(runtime(format!(
                "Expected size for first two dimensions of batch2 tensor to be: [{}, {}] but got: [{}, {}].",
                a.shape[0], a.shape[2], b.shape[0], b.shape[1]
            ))
            .into());
        }
        let product = matmul(heap, a, b)?;
        heap.give(product)
    }),
    op("mv", "input vec", |heap, args| {
        let (a, b) = (args.array(heap, "input")?, args.array(heap, "vec")?);
        if a.shape.len() != 2 || b.shape.len() != 1 {
            return Err(runtime(format!(
                "vector + matrix @ vector expected, got {}, {}, {}",
                1,
                a.shape.len(),
                b.shape.len()
            ))
            .into());
        }
        let product = matmul(heap, a, b)?;
        heap.give(product)
    }),
    op("dot", "input tensor", |heap, args| {
        let (a, b) = (args.array(heap, "input")?, args.array(heap, "tensor")?);
        if a.shape.len() != 1 || b.shape.len() != 1 {
            return Err(runtime(format!(
                "1D tensors expected, but got {}D and {}D tensors",
                a.shape.len(),
                b.shape.len()
            ))
            .into());
        }
        let product = matmul(heap, a, b)?;
        heap.give(product)
    }),
    op("outer", "input vec2", |heap, args| {
        let (a, b) = (args.tensor("input")?, args.tensor("vec2")?);
        if heap.view(a)?.shape.len() != 1 || heap.view(b)?.shape.len() != 1 {
            return Err(runtime("outer: Expected 1-D arguments").into());
        }
        let column = super::shape::reshaped(heap, a, &[heap.view(a)?.len(), 1])?;
        let product = super::call(heap, "mul", &[column.clone(), Value::Tensor(b)], &[]);
        if let Value::Tensor(column) = column {
            heap.free(column);
        }
        product
    }),
    both("addmm", "input mat1 mat2 beta alpha", |heap, args| {
        let (a, b) = (args.array(heap, "mat1")?, args.array(heap, "mat2")?);
        if a.shape.len() != 2 || b.shape.len() != 2 {
            return Err(runtime(format!(
                "mat1 and mat2 must be matrices, got {}-D and {}-D tensors",
                a.shape.len(),
                b.shape.len()
            ))
            .into());
        }
        let (beta, alpha) = (args.float_or(heap, "beta", 1.0)?, args.float_or(heap, "alpha", 1.0)?);
        let input = args.array(heap, "input")?;
        let product = matmul(heap, a, b)?;
        let input = spread_into(input, &product.shape)?;
        let sum = build(product.dtype, product.shape.clone(), product.len(), |at| {
            let own = if beta == 0.0 { 0.0 } else { beta * input.get(at) };
            own + alpha * product.get(at)
        });
        heap.give(sum)
    }),
    op("linear", "input weight bias", |heap, args| {
        let (input, weight) = (args.array(heap, "input")?, args.array(heap, "weight")?);
        let turned = match weight.shape.len() {
            2 => {
                let (array, _, n) = as_rows(weight, &[0]);
                let rows = array.len().checked_div(n).unwrap_or(0);
                array.shaped(vec![rows, n])
            }
            _ => weight,
        };
        let product = matmul(heap, input, turned)?;
        let Some(bias) = args.optional_tensor("bias")? else { return heap.give(product) };
        let bias = spread_into(heap.array(bias)?, &product.shape)?;
        let sum =
            build(product.dtype, product.shape.clone(), product.len(), |at| product.get(at) + bias.get(at));
        heap.give(sum)
    }),
    op("einsum", "equation *operands", einsum),
];

/// `a @ b` with torch's rules for vectors, matrices and batches of them.
pub(super) fn matmul(heap: &Heap, a: Array, b: Array) -> Result<Array, Stop> {
    if a.shape.is_empty() || b.shape.is_empty() {
        return Err(runtime(format!(
            "both arguments to matmul need to be at least 1D, but they are {}D and {}D",
            a.shape.len(),
            b.shape.len()
        ))
        .into());
    }
    if a.dtype != b.dtype {
        return Err(runtime(if a.shape.len() == 1 && b.shape.len() == 1 {
            format!(
                "dot : expected both vectors to have same dtype, but found {} and {}",
                a.dtype.scalar_name(),
                b.dtype.scalar_name()
            )
        } else {
            format!(
                "expected m1 and m2 to have the same dtype, but got: {} != {}",
                a.dtype.cpp_name(),
                b.dtype.cpp_name()
            )
        })
        .into());
    }
    let (row, column) = (a.shape.len() == 1, b.shape.len() == 1);
    let mut left = a.shape.clone();
    let mut right = b.shape.clone();
    if row {
        left.insert(0, 1);
    }
    if column {
        right.push(1);
    }
    let (m, k) = (left[left.len() - 2], left[left.len() - 1]);
    let (inner, n) = (right[right.len() - 2], right[right.len() - 1]);
    if k != inner {
        return Err(mismatch(&a, &b, (m, k), (inner, n)).into());
    }
    let batch = broadcast([&left[..left.len() - 2], &right[..right.len() - 2]])?;
    let items = count(&batch)?;
    let out = [batch.as_slice(), &[m, n]].concat();
    let len = count(&out)?;
    Heap::check_work(len.saturating_mul(k.max(1)))?;
    heap.check_room(a.dtype, len)?;
    let mut shape = out;
    if column {
        shape.pop();
    }
    if row {
        shape.remove(batch.len());
    }
    // one matrix on the right for all of the left: one product of all rows
    let (items, m, a, b) = if right.len() == 2 {
        (usize::from(items > 0), items * m, a, b)
    } else {
        let a = spread_into(a.shaped(left), &[batch.as_slice(), &[m, k]].concat())?;
        let b = spread_into(b.shaped(right), &[batch.as_slice(), &[k, n]].concat())?;
        (items, m, a, b)
    };
    let dtype = a.dtype;
    Ok(match (&a.data, &b.data) {
        (Data::F32(a), Data::F32(b)) => {
            let mut numbers = vec![0.0; len];
            for item in 0..items {
                multiply(
                    &a[item * m * k..][..m * k],
                    &b[item * k * n..][..k * n],
                    (m, k, n),
                    &mut numbers[item * m * n..][..m * n],
                );
            }
            Array::of_f32s(dtype, shape, numbers)
        }
        (Data::F64(a), Data::F64(b)) => {
            let numbers = plain(a, b, items, (m, k, n), |sum, a, b| sum + a * b);
            Array::of_f64s(dtype, shape, numbers)
        }
        (Data::I64(a), Data::I64(b)) => {
            let numbers = plain(a, b, items, (m, k, n), |sum: i64, a, b| sum.wrapping_add(a.wrapping_mul(b)));
            Array::of_i64s(dtype, shape, numbers)
        }
        _ => return Err(runtime("BUG: two kinds of numbers of one dtype").into()),
    })
}

fn mismatch(a: &Array, b: &Array, (m, k): (usize, usize), (inner, n): (usize, usize)) -> TorchError {
    runtime(match (a.shape.len(), b.shape.len()) {
        (1, 1) => format!(
            "inconsistent tensor size, expected tensor [{k}] and src [{inner}] to have the same number of elements, but got {k} and {inner} elements respectively"
        ),
        (2, 1) => format!("size mismatch, got input ({m}), mat ({m}x{k}), vec ({inner})"),
        (1, 2) => format!("mm: mat1 and mat2 shapes cannot be multiplied (1x{k} and {inner}x{n})"),
        (_, 2) => {
            let rows: usize = a.shape[..a.shape.len() - 1].iter().product();
            format!("mm: mat1 and mat2 shapes cannot be multiplied ({rows}x{k} and {inner}x{n})")
        }
        _ => {
            let items =
                a.shape.iter().rev().skip(2).product::<usize>().max(b.shape.iter().rev().skip(2).product());
            format!(
                "Expected size for first two dimensions of batch2 tensor to be: [{items}, {k}] but got: [{items}, {inner}]."
            )
        }
    })
}

/// One product in f32: small ones directly, others by the kernels of the engine.
fn multiply(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize), out: &mut [f32]) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    if m * k * n < 4096 {
        for (out, a) in out.chunks_mut(n).zip(a.chunks(k)) {
            for (&a, b) in a.iter().zip(b.chunks(n)) {
                for (out, &b) in out.iter_mut().zip(b) {
                    *out = a.mul_add(b, *out);
                }
            }
        }
        return;
    }
    let column = |column: usize, weights: &mut [f32]| {
        for (weight, row) in weights.iter_mut().zip(b.chunks(n)) {
            *weight = row[column];
        }
    };
    let weight = PackedWeight::from_rows(&column, n, k, Rounded::F32);
    mediant_arithmetic::linear(a, &weight, None, Rounded::F32, out);
}

fn plain<T: Copy + Default>(
    a: &[T],
    b: &[T],
    items: usize,
    (m, k, n): (usize, usize, usize),
    add: impl Fn(T, T, T) -> T,
) -> Vec<T> {
    let mut out = vec![T::default(); items * m * n];
    for item in 0..items {
        for row in 0..m {
            for inner in 0..k {
                let left = a[(item * m + row) * k + inner];
                for column in 0..n {
                    let place = &mut out[(item * m + row) * n + column];
                    *place = add(*place, left, b[(item * k + inner) * n + column]);
                }
            }
        }
    }
    out
}

/// `einsum` in its explicit or implicit form, two operands at a time from the left.
fn einsum(heap: &mut Heap, args: &Args<'_>) -> Result<Value, Stop> {
    let Value::Str(equation) = args.need("equation")? else {
        return Err(runtime("einsum(): the first argument must be the equation as text").into());
    };
    let operands: &[Value] = match args.rest() {
        [Value::List(items) | Value::Tuple(items)] => items,
        rest => rest,
    };
    let equation: String = equation.chars().filter(|letter| !letter.is_whitespace()).collect();
    let (inputs, output) = match equation.split_once("->") {
        Some((inputs, output)) => (inputs, Some(output)),
        None => (equation.as_str(), None),
    };
    let names: Vec<&str> = inputs.split(',').collect();
    if names.len() != operands.len() {
        return Err(runtime(format!(
            "einsum(): {} subscripts were given for {} operands",
            names.len(),
            operands.len()
        ))
        .into());
    }
    // an ellipsis becomes capital Greek letters, from the last dimension on
    let mut arrays = Vec::new();
    let mut most = 0;
    for (names, operand) in names.iter().zip(operands) {
        let Some(Operand { array, .. }) = Operand::of(heap, operand)? else {
            return Err(runtime("einsum(): operands must be tensors").into());
        };
        let letters = names.replace("...", "").chars().count();
        let hidden = array.shape.len().checked_sub(letters).filter(|&n| n == 0 || names.contains("..."));
        let Some(hidden) = hidden else {
            return Err(runtime(format!(
                "einsum(): the number of subscripts in the equation ({letters}) does not match the number of dimensions ({}) for an operand",
                array.shape.len()
            ))
            .into());
        };
        most = most.max(hidden);
        arrays.push((names.replace("...", &ellipsis(hidden)), array));
    }
    let output = if let Some(output) = output {
        output.replace("...", &ellipsis(most))
    } else {
        let all: String = arrays.iter().map(|(names, _)| names.as_str()).collect();
        let mut once: Vec<char> = all.chars().filter(|letter| all.matches(*letter).count() == 1).collect();
        once.retain(char::is_ascii);
        once.sort_unstable();
        ellipsis(most) + &once.into_iter().collect::<String>()
    };
    let mut arrays = arrays.into_iter();
    let Some((names, array)) = arrays.next() else {
        return Err(runtime("einsum(): must provide at least one operand").into());
    };
    let (mut names, mut array) = diagonals(names, array)?;
    while let Some((other, right)) = arrays.next() {
        let (other, right) = diagonals(other, right)?;
        let later: String = arrays.as_slice().iter().map(|(names, _)| names.as_str()).collect();
        let kept = |letter: char| output.contains(letter) || later.contains(letter);
        (names, array) = contract(heap, (&names, array), (&other, right), kept)?;
    }
    let summed: Vec<usize> = names
        .chars()
        .enumerate()
        .filter(|(_, letter)| !output.contains(*letter))
        .map(|(dim, _)| dim)
        .collect();
    let (rows, sizes, n) = as_rows(array, &summed);
    let rest: String = names.chars().filter(|letter| output.contains(*letter)).collect();
    let dtype = rows.dtype;
    let array = if summed.is_empty() {
        rows.shaped(sizes)
    } else {
        let len = sizes.iter().product();
        build(dtype, sizes, len, |at| (at * n..(at + 1) * n).map(|place| rows.get(place)).sum())
    };
    let order: Option<Vec<usize>> =
        output.chars().map(|letter| rest.chars().position(|other| other == letter)).collect();
    let Some(order) = order.filter(|order| order.len() == rest.chars().count()) else {
        return Err(runtime(format!(
            "einsum(): the output subscripts '{output}' are not in the inputs once each"
        ))
        .into());
    };
    let array = permuted(array, &order);
    heap.give(array)
}

fn ellipsis(dims: usize) -> String {
    ('Α'..='Ω').take(dims).collect::<Vec<char>>().into_iter().rev().collect()
}

fn permuted(array: Array, order: &[usize]) -> Array {
    if order.is_sorted() {
        return array;
    }
    let view = super::super::view::View::whole(0, array.shape.clone()).permute(order);
    array.gather(view.shape.clone(), view.places())
}

/// A name that stands twice in one operand means its diagonal.
fn diagonals(mut names: String, mut array: Array) -> Result<(String, Array), Stop> {
    while let Some((first, second)) = twice(&names) {
        if array.shape[first] != array.shape[second] {
            return Err(runtime("einsum(): repeated subscripts of different sizes").into());
        }
        let mut view = super::super::view::View::whole(0, array.shape.clone());
        view.strides[first] += view.strides[second];
        view.shape.remove(second);
        view.strides.remove(second);
        array = array.gather(view.shape.clone(), view.places());
        names = names.chars().enumerate().filter(|(at, _)| *at != second).map(|(_, letter)| letter).collect();
    }
    Ok((names, array))
}

fn twice(names: &str) -> Option<(usize, usize)> {
    let letters: Vec<char> = names.chars().collect();
    (0..letters.len()).find_map(|second| {
        (0..second).find(|&first| letters[first] == letters[second]).map(|first| (first, second))
    })
}

/// The product of two named arrays, summed over what both have and nobody keeps.
fn contract(
    heap: &Heap,
    (left, one): (&str, Array),
    (right, other): (&str, Array),
    kept: impl Fn(char) -> bool,
) -> Result<(String, Array), Stop> {
    let (wide, tall) = (one.shape.clone(), other.shape.clone());
    let size = |letter: char| {
        let of = |names: &str, shape: &[usize]| {
            names.chars().position(|other| other == letter).map(|dim| shape[dim])
        };
        of(left, &wide).unwrap_or(1).max(of(right, &tall).unwrap_or(1))
    };
    let both: Vec<char> = left.chars().filter(|&letter| right.contains(letter)).collect();
    let (batch, summed): (Vec<char>, Vec<char>) = both.iter().partition(|&&letter| kept(letter));
    let rows: Vec<char> = left.chars().filter(|letter| !right.contains(*letter)).collect();
    let columns: Vec<char> = right.chars().filter(|letter| !left.contains(*letter)).collect();
    let sizes = |letters: &[char]| letters.iter().map(|&letter| size(letter)).collect::<Vec<usize>>();
    let product = |letters: &[char]| count(&sizes(letters));
    let lay = |names: &str, array: Array, letters: &[char]| -> Result<Array, TorchError> {
        let order: Vec<usize> =
            letters.iter().filter_map(|letter| names.chars().position(|other| other == *letter)).collect();
        spread_into(permuted(array, &order), &sizes(letters)).map_err(|_| {
            runtime("einsum(): operands do not broadcast with remapped shapes [original->remapped]")
        })
    };
    let first = [batch.as_slice(), &rows, &summed].concat();
    let second = [batch.as_slice(), &summed, &columns].concat();
    heap.check_room(one.dtype, product(&first)?.saturating_add(product(&second)?))?;
    let (items, inner) = (product(&batch)?, product(&summed)?);
    let one = lay(left, one, &first)?.shaped(vec![items, product(&rows)?, inner]);
    let other = lay(right, other, &second)?.shaped(vec![items, inner, product(&columns)?]);
    let names = [batch, rows, columns].concat();
    let shape = sizes(&names);
    Ok((names.into_iter().collect(), matmul(heap, one, other)?.shaped(shape)))
}
