// 16-bit floating point numbers to and from f32: round to nearest, ties to even, as the device stores them.
#pragma once
#include <cstdint>
#include <cstring>

namespace sim {

inline float fromBits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t toBits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// Without branches, so that loops over it become vector code.
inline float f16ToFloat(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16;
    const uint32_t body = uint32_t(half & 0x7fff) << 13;
    const uint32_t normal = body + (112u << 23);
    const uint32_t small = toBits(fromBits(body | 0x38800000u) -
                                  6.103515625e-05f);  // exponent 0: a multiple of 2^-24
    const uint32_t large = body | 0x7f800000u;        // infinity and NaN
    uint32_t bits = (half & 0x7c00) == 0 ? small : normal;
    bits = (half & 0x7c00) == 0x7c00 ? large : bits;
    return fromBits(bits | sign);
}

inline uint16_t floatToF16(float value) {
    const uint32_t bits = toBits(value);
    const uint32_t sign = (bits >> 16) & 0x8000;
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // 65520 and above
    if (magnitude < 0x38800000) {                                 // below 2^-14: in steps of 2^-24
        const float shifted = fromBits(magnitude) + 0.5f;         // the addition rounds to the step
        return uint16_t(sign | (toBits(shifted) - 0x3f000000));
    }
    const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return uint16_t(sign | ((rounded - 0x38000000) >> 13));
}

inline float bf16ToFloat(uint16_t value) {
    return fromBits(uint32_t(value) << 16);
}

inline uint16_t floatToBf16(float value) {
    const uint32_t bits = toBits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace sim
