//! How the product reads the scales and weights of each packing.

use super::super::simd::Isa;
use super::super::simd::int8::Int8;
use super::{GROUP, PANEL_ROWS, Packing, SUBGROUP};

/// A way to read a group of a panel.
pub(super) trait Coding {
    /// Whether each 32 elements of k have a scale of their own.
    const FINE: bool;
    /// Bytes of the scales in front of a group.
    const SCALE_BYTES: usize;
    /// Bytes of the weights of 4 elements of k and all rows of a panel.
    const LINE_BYTES: usize;

    /// The scales of the rows from `row` on for a subgroup.
    ///
    /// # Safety
    /// `group` must be a whole group of such a panel; rows and subgroup must exist in it.
    unsafe fn scales<D: Int8>(d: D, group: *const u8, subgroup: usize, row: usize) -> <D::F as Isa>::V;

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
/// A panel of codes expanded to bytes in scratch, its scales f32 for each 32.
pub(super) struct Expanded;

/// f16 scales, `[subgroups, rows]`.
///
/// # Safety
/// As [`Coding::scales`].
#[inline(always)]
unsafe fn f16_scales<D: Int8>(d: D, group: *const u8, subgroup: usize, row: usize) -> <D::F as Isa>::V {
    // SAFETY: the caller's promise.
    unsafe { d.floats().load_f16(group.add(2 * (subgroup * PANEL_ROWS + row))) }
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

impl Coding for Q8 {
    const FINE: bool = false;
    const SCALE_BYTES: usize = Packing::Q8.scale_bytes();
    bytes!();
    #[inline(always)]
    unsafe fn scales<D: Int8>(d: D, group: *const u8, _subgroup: usize, row: usize) -> <D::F as Isa>::V {
        // SAFETY: the caller's promise.
        unsafe { f16_scales(d, group, 0, row) }
    }
}

impl Coding for Q8Fine {
    const FINE: bool = true;
    const SCALE_BYTES: usize = Packing::Q8Fine.scale_bytes();
    bytes!();
    #[inline(always)]
    unsafe fn scales<D: Int8>(d: D, group: *const u8, subgroup: usize, row: usize) -> <D::F as Isa>::V {
        // SAFETY: the caller's promise.
        unsafe { f16_scales(d, group, subgroup, row) }
    }
}

impl Coding for Q4 {
    const FINE: bool = true;
    const SCALE_BYTES: usize = Packing::Q4.scale_bytes();
    codes!();
    #[inline(always)]
    unsafe fn scales<D: Int8>(d: D, group: *const u8, subgroup: usize, row: usize) -> <D::F as Isa>::V {
        // SAFETY: the caller's promise. The product of 11 and 7 bits is exact in f32.
        unsafe {
            let factors = group.add(2 * PANEL_ROWS + subgroup * PANEL_ROWS + row);
            d.floats().mul(f16_scales(d, group, 0, row), d.floats().load_i8(factors))
        }
    }
}

impl Coding for Q4Fine {
    const FINE: bool = true;
    const SCALE_BYTES: usize = Packing::Q4Fine.scale_bytes();
    codes!();
    #[inline(always)]
    unsafe fn scales<D: Int8>(d: D, group: *const u8, subgroup: usize, row: usize) -> <D::F as Isa>::V {
        // SAFETY: the caller's promise.
        unsafe { f16_scales(d, group, subgroup, row) }
    }
}

impl Coding for Expanded {
    const FINE: bool = true;
    const SCALE_BYTES: usize = 4 * PANEL_ROWS * (GROUP / SUBGROUP);
    bytes!();
    #[inline(always)]
    unsafe fn scales<D: Int8>(d: D, group: *const u8, subgroup: usize, row: usize) -> <D::F as Isa>::V {
        // SAFETY: the caller's promise.
        unsafe { d.floats().load(group.add(4 * (subgroup * PANEL_ROWS + row)).cast()) }
    }
}

/// Bytes of an expanded panel of rows of `cols` elements.
pub(super) const fn expanded_bytes(cols: usize) -> usize {
    let k = cols.next_multiple_of(super::K_STEP);
    k.div_ceil(GROUP) * Expanded::SCALE_BYTES + PANEL_ROWS * k
}

/// Expands a panel of codes.
///
/// # Safety
/// `panel` must be a whole panel of `C` with `k` padded elements, `to` valid for `expanded_bytes(k)`.
#[inline(always)]
pub(super) unsafe fn expand<D: Int8, C: Coding>(
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
                    let into = to.add(4 * (subgroup * PANEL_ROWS + row)).cast();
                    d.floats().store(C::scales(d, group, subgroup, row), into);
                }
            }
            for k4 in 0..len / 4 {
                for row in (0..PANEL_ROWS).step_by(D::LANES) {
                    let (from, into) = (codes_at::<C>(group, k4, row), bytes_at::<Expanded>(to, k4, row));
                    if k4 % 16 < 8 {
                        d.expand::<false>(from, table, into.cast_mut());
                    } else {
                        d.expand::<true>(from, table, into.cast_mut());
                    }
                }
            }
            group = group.add(C::SCALE_BYTES + len / 4 * C::LINE_BYTES);
            to = to.add(Expanded::SCALE_BYTES + len / 4 * Expanded::LINE_BYTES);
        }
    }
}
