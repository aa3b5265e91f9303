//! Tensors inside of payloads, as a worker reads them: packed bytes, storages of `torch.save`, raw numbers. What is read is
//! written again.

use mediant_worker::load::{raw, tensor_bytes, unpack};
use mediant_worker::message::Profile;
use mediant_worker::save::torch_save;
use mediant_worker::tensor::{Budget, Dtype, Heap, Value};

use crate::choose;

/// Bytes of all tensors; a server lets a job have as many times more as its memory allows.
const MOST: u64 = 16 << 20;

pub(crate) fn run(data: &[u8]) {
    let (way, bytes) = choose(data);
    let mut heap = Heap::new(Budget { bytes: MOST, operations: 1000 });
    let read = match way % 3 {
        0 => tensor_bytes(&mut heap, bytes),
        1 => {
            let Ok(bytes) = unpack(bytes, MOST) else { return };
            assert!(bytes.len() as u64 <= MOST);
            tensor_bytes(&mut heap, &bytes)
        }
        _ => {
            let (dtype, bytes) = choose(bytes);
            let (rank, bytes) = choose(bytes);
            let (shape, bytes) = bytes.split_at((rank % 5).min(bytes.len()));
            // Some axes are longer than any memory.
            let axis = |byte: &u8| if *byte < 200 { usize::from(*byte) } else { usize::MAX >> (*byte - 200) };
            let shape: Vec<usize> = shape.iter().map(axis).collect();
            let dtypes = Dtype::all();
            raw(&mut heap, bytes, dtypes[dtype % dtypes.len()], &shape)
        }
    };
    let Ok(value) = read else { return };
    assert!(heap.bytes() <= MOST);
    let Value::Tensor(id) = value else { panic!("no tensor: {value:?}") };
    let numbers = heap.array(id).expect("a tensor that was read has numbers").data.len();
    let _ = numbers;
    let saved = torch_save(&heap, &Value::List(vec![Value::Tensor(id)]), Profile::Plain);
    saved.expect("a tensor that was read can be written");
}
