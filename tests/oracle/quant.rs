//! The blocked types of GGUF against ggml; made by make_quant.py.

use aquila::base::dtype::DType;
use aquila::loading::quant::to_f32;

const QUANTISED: [DType; 10] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
];

/// Every bit of every element is that of ggml's dequantiser.
#[test]
fn quantised_blocks_decode_as_in_ggml() {
    for dtype in QUANTISED {
        let path = format!("{}/tests/oracle/data/{dtype}.bin", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let count = u32::from_le_bytes(file[..4].try_into().unwrap()) as usize;
        let (blocks, expected) = file[4..].split_at(count * dtype.block_bytes());
        let mut found = vec![f32::NAN; count * dtype.block_elements()];
        assert_eq!(expected.len(), found.len() * 4);
        to_f32(dtype, blocks, &mut found);
        for (i, (value, bytes)) in found.iter().zip(expected.chunks_exact(4)).enumerate() {
            let expected = f32::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(value.to_bits(), expected.to_bits(), "{dtype}: element {i}: {value} {expected}");
        }
    }
}
