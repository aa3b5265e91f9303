//! Why a GPU cannot be used: found when it is opened. Later failures end the rank.

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The driver, NVRTC or cuBLAS is not on this machine.
    #[error(
        "the CUDA libraries (driver, NVRTC, cuBLASLt) cannot be loaded; install CUDA 13 or choose devices = [\"cpu\"]"
    )]
    NoDriver,
    /// NCCL is not on this machine.
    #[error("the NCCL library (libnccl.so, version 2.28) cannot be loaded, and several GPUs need it")]
    NoNccl,
    /// NCCL refused.
    #[error("NCCL cannot connect the GPUs: {error}")]
    Nccl {
        /// Its words.
        error: String,
    },
    /// The device does not answer.
    #[error("GPU {ordinal} cannot be opened: {source}")]
    Open {
        /// Number of the GPU.
        ordinal: usize,
        /// The driver's words.
        source: cudarc::driver::DriverError,
    },
    /// A kernel does not compile.
    #[error("the kernels do not compile: {log}")]
    Compile {
        /// The compiler's words.
        log: String,
    },
    /// cuBLASLt cannot start.
    #[error("cuBLASLt cannot start: {source}")]
    Blas {
        /// Its words.
        source: cudarc::cublaslt::result::CublasError,
    },
    /// Not even the small buffers fit.
    #[error("the GPU's memory is full before anything is loaded")]
    NoMemory,
    /// Rows must be whole 16-byte packs.
    #[error(
        "the {what} of one rank, {columns} numbers, is no multiple of {of}, which the GPU's kernels need"
    )]
    Width {
        /// Which width.
        what: &'static str,
        /// What it is.
        columns: usize,
        /// What it must be a multiple of.
        of: usize,
    },
}
