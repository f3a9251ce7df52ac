//! How the product reads the scales and weights of each packing.

use super::super::simd::Isa;
use super::super::simd::int8::Int8;
use super::{GROUP, PANEL_ROWS, Packing, Q4_OFFSET, Q4_UNITS, SUBGROUP};

/// What the scales and minima of a packing do to the sum of a subgroup.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scaling {
    /// Nothing: the scale is the group's.
    Group,
    /// sum × scale.
    Scale,
    /// (sum + offset × Σ activation bytes) × scale. The parenthesis is an integer below 2^24, so it does not
    /// matter whether the offset is added here or was added to each weight before.
    Offset,
    /// sum × scale + minimum × Σ activation bytes.
    Minimum,
}

/// A way to read a group of a panel.
pub(super) trait Coding {
    /// How sums are scaled.
    const SCALING: Scaling;
    /// Whether each 32 elements of k have a scale of their own.
    const FINE: bool = !matches!(Self::SCALING, Scaling::Group);
    /// Whether [`Coding::mins`] are to be added, times the sum of the activation bytes.
    const MIN: bool = matches!(Self::SCALING, Scaling::Offset | Scaling::Minimum);
    /// Bytes of the scales and minima in front of a group.
    const SCALE_BYTES: usize;
    /// Bytes of the weights of 4 elements of k and all rows of a panel.
    const LINE_BYTES: usize;

    /// The scales of the rows from `row` on for a subgroup.
    ///
    /// # Safety
    /// `group` must be a whole group of such a panel; rows and subgroup must exist in it.
    unsafe fn scales<D: Int8>(d: D, group: *const u8, subgroup: usize, row: usize) -> <D::F as Isa>::V;

    /// The offsets or minima, where [`Coding::MIN`] says that there are some.
    ///
    /// # Safety
    /// As [`Coding::scales`].
    #[inline(always)]
    unsafe fn mins<D: Int8>(d: D, _group: *const u8, _subgroup: usize, _row: usize) -> <D::F as Isa>::V {
        d.floats().zero()
    }

    /// The sum of a subgroup as it is multiplied with the activation scale. `x_sum`: the sum of the activation
    /// bytes.
    #[inline(always)]
    fn scaled<F: Isa>(f: F, sum: F::V, scale: F::V, min: F::V, x_sum: F::V) -> F::V {
        match Self::SCALING {
            Scaling::Group => sum,
            Scaling::Scale => f.mul(sum, scale),
            Scaling::Offset => f.mul(f.fma(min, x_sum, sum), scale),
            Scaling::Minimum => f.fma(min, x_sum, f.mul(sum, scale)),
        }
    }

    /// The weights of 4 elements of k from `4 × k4` on of the rows from `row` on. `HIGH` says whether the
    /// elements lie in the upper half of their `K_STEP`.
    ///
    /// # Safety
    /// `group` must be a whole group of such a panel; rows and elements must exist in it.
    unsafe fn weights<D: Int8, const HIGH: bool>(
        d: D,
        table: D::Table,
        group: *const u8,
        k4: usize,
        row: usize,
    ) -> D::W;
}

/// The address of the stored bytes of 4 elements of k.
#[inline(always)]
fn bytes_at<C: Coding>(group: *const u8, k4: usize, row: usize) -> *const u8 {
    group.wrapping_add(C::SCALE_BYTES + k4 * C::LINE_BYTES + 4 * row)
}

/// The address of the codes of 4 elements of k: 8 lines hold 16 of them, two in a byte.
#[inline(always)]
fn codes_at<C: Coding>(group: *const u8, k4: usize, row: usize) -> *const u8 {
    let line = k4 / 16 * 8 + k4 % 8;
    group.wrapping_add(C::SCALE_BYTES + line * 2 * C::LINE_BYTES + 4 * row)
}

/// [`Packing::Q8`].
pub(super) struct Q8;
/// [`Packing::Q8Fine`].
pub(super) struct Q8Fine;
/// [`Packing::Q4`].
pub(super) struct Q4;
/// [`Packing::Q4Fine`].
pub(super) struct Q4Fine;
/// [`Packing::Q4Min`].
pub(super) struct Q4Min;
/// [`Packing::Q4Super`].
pub(super) struct Q4Super;
/// A panel of codes expanded to bytes in scratch, offsets added, its scales f32 for each 32.
pub(super) struct Expanded;
/// The same with f32 minima for each 32.
pub(super) struct ExpandedMin;

/// Scales and minima in front of a group, each for 32 rows and 4 subgroups.
const EACH: usize = PANEL_ROWS * (GROUP / SUBGROUP);

/// `LANES` f16 from number `at` of the group on.
///
/// # Safety
/// The group must hold them.
#[inline(always)]
unsafe fn halves<D: Int8>(d: D, group: *const u8, at: usize) -> <D::F as Isa>::V {
    // SAFETY: the caller's promise.
    unsafe { d.floats().load_f16(group.add(2 * at)) }
}

/// The f16 of [`Packing::Q4Super`] at `at`, times its bytes from number `factor` on: 11 and 6 bits, a product that
/// f32 holds exactly.
///
/// # Safety
/// `group` must be a whole group of such a panel that holds them.
#[inline(always)]
unsafe fn super_scales<D: Int8>(d: D, group: *const u8, at: usize, factor: usize) -> <D::F as Isa>::V {
    // SAFETY: the caller's promise. A factor is below 128, so it may be read as a signed byte.
    unsafe {
        let factors = d.floats().load_i8(group.add(4 * PANEL_ROWS + factor).cast());
        d.floats().mul(halves(d, group, at), factors)
    }
}

macro_rules! bytes {
    () => {
        const LINE_BYTES: usize = 4 * PANEL_ROWS;
        #[inline(always)]
        unsafe fn weights<D: Int8, const HIGH: bool>(
            d: D,
            _table: D::Table,
            group: *const u8,
            k4: usize,
            row: usize,
        ) -> D::W {
            // SAFETY: the caller's promise.
            unsafe { d.weights(bytes_at::<Self>(group, k4, row)) }
        }
    };
}

macro_rules! codes {
    () => {
        const LINE_BYTES: usize = 2 * PANEL_ROWS;
        #[inline(always)]
        unsafe fn weights<D: Int8, const HIGH: bool>(
            d: D,
            table: D::Table,
            group: *const u8,
            k4: usize,
            row: usize,
        ) -> D::W {
            // SAFETY: the caller's promise.
            unsafe { d.coded::<HIGH>(codes_at::<Self>(group, k4, row), table) }
        }
    };
}

/// Scales, and minima, as an expression of `d`, `group`, a row and the number of the row's subgroup.
macro_rules! scales {
    (|$d:ident, $group:ident, $row:ident, $each:ident| $scales:expr) => {
        scales!(fn scales |$d, $group, $row, $each| $scales);
    };
    (|$d:ident, $group:ident, $row:ident, $each:ident| $scales:expr, $mins:expr) => {
        scales!(fn scales |$d, $group, $row, $each| $scales);
        scales!(fn mins |$d, $group, $row, $each| $mins);
    };
    (fn $name:ident |$d:ident, $group:ident, $row:ident, $each:ident| $value:expr) => {
        #[inline(always)]
        unsafe fn $name<D: Int8>($d: D, $group: *const u8, subgroup: usize, $row: usize) -> <D::F as Isa>::V {
            let $each = subgroup * PANEL_ROWS + $row;
            let _ = $each;
            // SAFETY: the caller's promise.
            unsafe { $value }
        }
    };
}

impl Coding for Q8 {
    const SCALING: Scaling = Scaling::Group;
    const SCALE_BYTES: usize = Packing::Q8.scale_bytes();
    bytes!();
    scales!(|d, group, row, each| halves(d, group, row));
}

impl Coding for Q8Fine {
    const SCALING: Scaling = Scaling::Scale;
    const SCALE_BYTES: usize = Packing::Q8Fine.scale_bytes();
    bytes!();
    scales!(|d, group, row, each| halves(d, group, each));
}

impl Coding for Q4 {
    const SCALING: Scaling = Scaling::Offset;
    const SCALE_BYTES: usize = Packing::Q4.scale_bytes();
    codes!();
    scales!(
        |d, group, row, each| d.floats().mul(halves(d, group, each), d.floats().splat(1.0 / Q4_UNITS)),
        {
            // 2·n − 15, exactly.
            let (f, n) = (d.floats(), d.load_nibbles(group.add(2 * each)));
            f.fma(n, f.splat(2.0), f.splat(-f32::from(Q4_OFFSET)))
        }
    );
}

impl Coding for Q4Fine {
    const SCALING: Scaling = Scaling::Scale;
    const SCALE_BYTES: usize = Packing::Q4Fine.scale_bytes();
    codes!();
    scales!(|d, group, row, each| halves(d, group, each));
}

impl Coding for Q4Min {
    const SCALING: Scaling = Scaling::Minimum;
    const SCALE_BYTES: usize = Packing::Q4Min.scale_bytes();
    codes!();
    scales!(|d, group, row, each| halves(d, group, each), halves(d, group, EACH + each));
}

impl Coding for Q4Super {
    const SCALING: Scaling = Scaling::Minimum;
    const SCALE_BYTES: usize = Packing::Q4Super.scale_bytes();
    codes!();
    scales!(|d, group, row, each| super_scales(d, group, row, each), {
        let f = d.floats();
        f.sub(f.zero(), super_scales(d, group, PANEL_ROWS + row, EACH + each))
    });
}

impl Coding for Expanded {
    const SCALING: Scaling = Scaling::Scale;
    const SCALE_BYTES: usize = 4 * EACH;
    bytes!();
    scales!(|d, group, row, each| d.floats().load(group.add(4 * each).cast()));
}

impl Coding for ExpandedMin {
    const SCALING: Scaling = Scaling::Minimum;
    const SCALE_BYTES: usize = 8 * EACH;
    bytes!();
    scales!(
        |d, group, row, each| d.floats().load(group.add(4 * each).cast()),
        d.floats().load(group.add(4 * (EACH + each)).cast())
    );
}

/// Bytes of an expanded panel of rows of `cols` elements.
pub(super) const fn expanded_bytes(cols: usize) -> usize {
    let k = cols.next_multiple_of(super::K_STEP);
    k.div_ceil(GROUP) * ExpandedMin::SCALE_BYTES + PANEL_ROWS * k
}

/// Expands a panel of codes of `C` to one of `E`: [`ExpandedMin`] where there are minima, else [`Expanded`].
///
/// # Safety
/// `panel` must be a whole panel of `C` with `k` padded elements, `to` valid for `expanded_bytes(k)`.
#[inline(always)]
pub(super) unsafe fn expand<D: Int8, C: Coding, E: Coding>(
    d: D,
    table: D::Table,
    panel: *const u8,
    k: usize,
    to: *mut u8,
) {
    let (mut group, mut to) = (panel, to);
    for start in (0..k).step_by(GROUP) {
        let len = GROUP.min(k - start);
        // SAFETY: the caller's promise.
        unsafe {
            for subgroup in 0..len / SUBGROUP {
                for row in (0..PANEL_ROWS).step_by(D::LANES) {
                    let into = to.add(4 * (subgroup * PANEL_ROWS + row)).cast::<f32>();
                    d.floats().store(C::scales(d, group, subgroup, row), into);
                    if E::MIN {
                        d.floats().store(C::mins(d, group, subgroup, row), into.add(EACH));
                    }
                }
            }
            for k4 in 0..len / 4 {
                for row in (0..PANEL_ROWS).step_by(D::LANES) {
                    let (from, into) = (codes_at::<C>(group, k4, row), bytes_at::<E>(to, k4, row));
                    if k4 % 16 < 8 {
                        d.expand::<false>(from, table, into.cast_mut());
                    } else {
                        d.expand::<true>(from, table, into.cast_mut());
                    }
                }
            }
            if C::SCALING == Scaling::Offset {
                for subgroup in 0..len / SUBGROUP {
                    let bytes = bytes_at::<E>(to, subgroup * SUBGROUP / 4, 0).cast_mut();
                    add_offsets(group.add(2 * subgroup * PANEL_ROWS), bytes);
                }
            }
            group = group.add(C::SCALE_BYTES + len / 4 * C::LINE_BYTES);
            to = to.add(E::SCALE_BYTES + len / 4 * E::LINE_BYTES);
        }
    }
}

/// Adds the offsets of [`Packing::Q4`], which lie in the f16 of 32 rows, to their levels: 8 lines of bytes. A plain
/// loop, which the compiler turns into the vectors of the level.
///
/// # Safety
/// `words` must hold 32 f16 and `bytes` the lines of a subgroup.
#[inline(always)]
unsafe fn add_offsets(words: *const u8, bytes: *mut u8) {
    // SAFETY: the caller's promise.
    let (words, lines) =
        unsafe { (&*words.cast::<[[u8; 2]; PANEL_ROWS]>(), &mut *bytes.cast::<[[u8; 4 * PANEL_ROWS]; 8]>()) };
    // The offset of a row, four times, for the four bytes that it has in a line.
    let mut offsets = [0u32; PANEL_ROWS];
    for (offset, word) in offsets.iter_mut().zip(words) {
        let n = u32::from(u16::from_le_bytes(*word) & 15);
        *offset = ((2 * n).wrapping_sub(Q4_OFFSET as u32) & 0xff) * 0x0101_0101;
    }
    // SAFETY: as many bytes, of any value.
    let offsets = unsafe { &*offsets.as_ptr().cast::<[u8; 4 * PANEL_ROWS]>() };
    for line in lines {
        for (byte, offset) in line.iter_mut().zip(offsets) {
            *byte = byte.wrapping_add(*offset);
        }
    }
}
