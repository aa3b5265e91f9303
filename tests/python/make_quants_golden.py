"""Makes tests/golden/quants.gguf and quants.json: random blocks of every quantised type that is read, and the SHA-256 of their values
(little-endian f32) by gguf.quants in NumPy.

    pip install gguf numpy
    python tests/python/make_quants_golden.py
"""

import hashlib
import json
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
         "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"]
ROWS, COLUMNS = 4, 256


def main():
    rng = np.random.default_rng(0)
    writer = GGUFWriter(GOLDEN / "quants.gguf", "llama")
    digests = {}
    for name in TYPES:
        kind = GGMLQuantizationType[name]
        block, size = GGML_QUANT_SIZES[kind]
        blocks = []
        while len(blocks) < ROWS * COLUMNS // block:
            candidate = rng.integers(0, 256, size, dtype=np.uint8)
            # Random scales may be infinite or no number, which no file has.
            if np.isfinite(dequantize(candidate, kind)).all():
                blocks.append(candidate)
        data = np.concatenate(blocks).reshape(ROWS, -1)
        values = np.ascontiguousarray(dequantize(data, kind), dtype="<f4")
        assert values.shape == (ROWS, COLUMNS), values.shape
        digests[name] = hashlib.sha256(values.tobytes()).hexdigest()
        writer.add_tensor(name, data, raw_shape=data.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (GOLDEN / "quants.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
