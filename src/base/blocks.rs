//! Small numbers that GGUF's blocks hold in pieces.

/// The 5-bit codes of elements i and i + 16: a nibble each, and a bit each of the 32-bit word `high`.
pub fn five_bits(byte: u8, high: u32, i: usize) -> (u8, u8) {
    let (low_bit, high_bit) = ((high >> i) as u8 & 1, (high >> (i + 16)) as u8 & 1);
    (byte & 15 | low_bit << 4, byte >> 4 | high_bit << 4)
}

/// Scale and minimum of group `j` of 8, six bits each, from the 12 bytes of Q4_K and Q5_K: whole for
/// the first four groups; the others are a nibble of the last four bytes and two spare bits each.
pub fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}
