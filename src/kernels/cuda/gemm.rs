//! Products `x W^T` through cuBLASLt.
//!
//! The library chooses a kernel by the shape of a product. Choices that split the sum over the inputs, which it makes for
//! few rows, would give a row other bits in a small batch than in a large one: they are not let in
//! (`REDUCTION_SCHEME_MASK = NONE`). On an H100 with cuBLAS 13.1 all row counts from 1 to 4096 then agree to the bit, in every
//! shape of Llama 3 8B on one GPU and of 70B on two and four; what is left to choose from is now and then five times slower
//! (5120 x 8192 at 16 rows: 192 us, at 256 rows 39 us, with a split sum 36 us). So products of few rows are padded to the row
//! count that is fastest, and products of many rows take the algorithm that is. All of it is measured at start on the device at
//! hand ([`super::probe`]). In f32 the choice itself is fixed: each weight has one algorithm, that of [`FIXED`] rows.

#![expect(unsafe_code, reason = "cuBLASLt's interface is raw pointers")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::CudaStream;

use super::Fault;
use super::device::{Arg, Buffer, Device, fatal};
use crate::kernels::OutOfMemory;
use crate::spec::dtype::Dtype;

const WORKSPACE: usize = 64 << 20;
/// The row count whose algorithm all f32 products take: there the library changes the order of sums without splitting them.
const FIXED: usize = 512;
/// Shapes whose choice is remembered.
const REMEMBERED: usize = 8192;
/// Rows from which on a product takes the algorithm that was [preferred](Gemm::prefer).
pub(super) const MANY: usize = 2048;

/// How the library computes a product.
pub(super) type Algorithm = sys::cublasLtMatmulAlgo_t;

/// `[outputs, inputs]` of a product and how many rows it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    outputs: usize,
    inputs: usize,
    rows: usize,
    /// Whether the result is f32 whatever the dtype.
    wide: bool,
}

/// The matrices of a product.
struct Layouts {
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

/// What the library needs to know of a shape.
struct Choice {
    layouts: Layouts,
    algorithm: Algorithm,
}

/// The library on one device.
pub(super) struct Gemm {
    handle: sys::cublasLtHandle_t,
    operation: sys::cublasLtMatmulDesc_t,
    preference: sys::cublasLtMatmulPreference_t,
    workspace: Buffer,
    stream: Arc<CudaStream>,
    element: sys::cudaDataType,
    choices: RefCell<HashMap<Shape, Choice>>,
    /// Row counts to pad to, ascending, by `(outputs, inputs)`; larger products are as they are.
    counts: RefCell<HashMap<(usize, usize), Vec<usize>>>,
    /// Algorithms for [`MANY`] rows and more, by `(outputs, inputs)`.
    preferred: RefCell<HashMap<(usize, usize), Algorithm>>,
}

impl Gemm {
    pub(super) fn new(device: &Device, dtype: Dtype) -> Result<Gemm, Fault> {
        let workspace = device.allocate(WORKSPACE).map_err(|OutOfMemory { .. }| Fault::NoMemory)?;
        let handle = std::panic::catch_unwind(result::create_handle).map_err(|_| Fault::NoDriver)?;
        let handle = handle.map_err(|source| Fault::Blas { source })?;
        let blas = |source| Fault::Blas { source };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F).map_err(blas)?;
        let preference = result::create_matmul_pref().map_err(blas)?;
        // CUBLAS_OP_T, an enumeration of cuBLAS proper.
        let (transposed, workspace_bytes, unsplit) = (1i32, WORKSPACE, 0u32);
        // SAFETY: the attributes are of the types that the library documents for them.
        unsafe {
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
            result::set_matmul_desc_attribute(operation, attribute, (&raw const transposed).cast(), 4)
                .map_err(blas)?;
            let attribute =
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference, attribute, (&raw const workspace_bytes).cast(), 8)
                .map_err(blas)?;
            let attribute =
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
            result::set_matmul_pref_attribute(preference, attribute, (&raw const unsplit).cast(), 4)
                .map_err(blas)?;
        }
        let element = match dtype {
            Dtype::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Dtype::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            Dtype::F16 => sys::cudaDataType_t::CUDA_R_16F,
        };
        Ok(Gemm {
            handle,
            operation,
            preference,
            workspace,
            stream: Arc::clone(device.stream()),
            element,
            choices: RefCell::default(),
            counts: RefCell::default(),
            preferred: RefCell::default(),
        })
    }

    /// Products with weights of this shape have one of these row counts from now on, or more rows than any.
    pub(super) fn set_counts(&self, outputs: usize, inputs: usize, counts: Vec<usize>) {
        self.counts.borrow_mut().insert((outputs, inputs), counts);
    }

    /// What the library offers for products with weights of this shape and so many rows, what it deems fastest first. Nothing
    /// in f32, whose algorithm is fixed.
    pub(super) fn offers(
        &self,
        (outputs, inputs): (usize, usize),
        rows: usize,
        most: usize,
    ) -> Vec<Algorithm> {
        if self.element == sys::cudaDataType_t::CUDA_R_32F {
            return Vec::new();
        }
        self.heuristics(&self.layouts(Shape { outputs, inputs, rows, wide: false }), most)
    }

    /// Products with weights of this shape and [`MANY`] rows or more take this algorithm from now on; `None`: what the library
    /// deems fastest.
    pub(super) fn prefer(&self, (outputs, inputs): (usize, usize), algorithm: Option<Algorithm>) {
        let mut preferred = self.preferred.borrow_mut();
        match algorithm {
            Some(algorithm) => preferred.insert((outputs, inputs), algorithm),
            None => preferred.remove(&(outputs, inputs)),
        };
        self.choices.borrow_mut().clear();
    }

    /// Rows that a product of `rows` rows reads and writes.
    fn padded(&self, outputs: usize, inputs: usize, rows: usize) -> usize {
        let counts = self.counts.borrow();
        let larger = counts.get(&(outputs, inputs)).and_then(|counts| counts.iter().find(|c| **c >= rows));
        larger.copied().unwrap_or(rows)
    }

    /// `out [rows, outputs] = x [rows, inputs] W^T`, accumulated in f32. Both matrices have room for
    /// [`super::PAD`] rows more. `wide`: `out` is f32.
    pub(super) fn multiply(
        &self,
        x: Arg,
        weight: Arg,
        (outputs, inputs): (usize, usize),
        rows: usize,
        out: Arg,
        wide: bool,
    ) {
        if rows == 0 {
            return;
        }
        let shape = Shape { outputs, inputs, rows: self.padded(outputs, inputs, rows), wide };
        let mut choices = self.choices.borrow_mut();
        if choices.len() > REMEMBERED {
            choices.clear();
        }
        let choice = choices.entry(shape).or_insert_with(|| self.choose(shape));
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the layouts describe the matrices, which are buffers of this device; scalars are f32 in host memory as the
        // operation says.
        let queued = unsafe {
            result::matmul(
                self.handle,
                self.operation,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                weight.pointer() as *const c_void,
                choice.layouts.weight,
                x.pointer() as *const c_void,
                choice.layouts.x,
                out.pointer() as *const c_void,
                choice.layouts.out,
                out.pointer() as *mut c_void,
                choice.layouts.out,
                &raw const choice.algorithm,
                self.workspace.arg().pointer() as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        };
        fatal(queued, "a product");
    }

    fn choose(&self, shape: Shape) -> Choice {
        let Shape { outputs, inputs, rows, wide } = shape;
        let layouts = self.layouts(shape);
        if self.element == sys::cudaDataType_t::CUDA_R_32F && rows != FIXED {
            let algorithm = self.choose(Shape { rows: FIXED, ..shape }).algorithm;
            return Choice { layouts, algorithm };
        }
        let preferred = self.preferred.borrow();
        let preferred = preferred.get(&(outputs, inputs)).filter(|_| rows >= MANY && !wide);
        let algorithm = preferred.copied().unwrap_or_else(|| self.heuristics(&layouts, 1)[0]);
        Choice { layouts, algorithm }
    }

    /// Row-major `out = x W^T` is `out^T = W x^T` column by column.
    fn layouts(&self, Shape { outputs, inputs, rows, wide }: Shape) -> Layouts {
        let layout = |element, lines: usize, columns: usize| {
            let made = result::create_matrix_layout(element, lines as u64, columns as u64, lines as i64);
            fatal(made, "a layout")
        };
        let element = self.element;
        Layouts {
            weight: layout(element, inputs, outputs),
            x: layout(element, inputs, rows),
            out: layout(if wide { sys::cudaDataType_t::CUDA_R_32F } else { element }, outputs, rows),
        }
    }

    /// The library's choices, best first: at least one, and no more than `most`.
    fn heuristics(&self, layouts: &Layouts, most: usize) -> Vec<Algorithm> {
        let mut found: Vec<sys::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(most);
        let mut count = 0;
        // SAFETY: the layouts and what is of `self` live, and there is room for as many results as are asked for.
        let asked = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.operation,
                layouts.weight,
                layouts.x,
                layouts.out,
                layouts.out,
                self.preference,
                most as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        fatal(asked.result(), "the choice of a product");
        // SAFETY: so many were written.
        unsafe { found.set_len(count as usize) };
        let usable = found.iter().filter(|found| found.state.result().is_ok());
        let algorithms: Vec<Algorithm> = usable.map(|found| found.algo).collect();
        assert!(!algorithms.is_empty(), "cuBLASLt has no kernel for a product");
        algorithms
    }
}

impl Drop for Layouts {
    fn drop(&mut self) {
        for layout in [self.weight, self.x, self.out] {
            // SAFETY: made by `Gemm::layouts`, destroyed once.
            let _ = unsafe { result::destroy_matrix_layout(layout) };
        }
    }
}

impl Drop for Gemm {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        unsafe {
            let _ = result::destroy_matmul_pref(self.preference);
            let _ = result::destroy_matmul_desc(self.operation);
            let _ = result::destroy_handle(self.handle);
        }
    }
}
