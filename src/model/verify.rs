//! A look at every number of a checkpoint.

use crate::base::error::Result;
use crate::model::weights::{Weight, WeightSet};
use std::ops::ControlFlow;

/// Refuses weights that hold NaN or infinity: `Format` naming the tensor and the first such element.
/// `progress` is told the stored bytes looked at and their sum, and may abandon (`Cancelled`).
pub fn scan_finite(weights: &WeightSet, mut progress: impl FnMut(u64, u64) -> ControlFlow<()>) -> Result<()> {
    let total = weights.stored_bytes();
    let mut order: Vec<_> = weights.iter().collect();
    order.sort_by_key(|(id, _)| (id.layer, id.role as u8));
    let (mut done, mut row_values) = (0u64, Vec::new());
    for (_, weight) in weights.all_int8() {
        weight.scales()?;
        done += weight.stored_bytes();
    }
    for (_, weight) in order {
        scan(weight, &mut row_values)?;
        done += weight.stored_bytes();
        if progress(done, total).is_break() {
            crate::bail!(Cancelled, "the check of the weights was abandoned");
        }
    }
    Ok(())
}

fn scan(weight: &Weight, values: &mut Vec<f32>) -> Result<()> {
    values.resize(weight.cols, 0.0);
    for row in 0..weight.rows {
        weight.row_f32(row, values);
        if let Some(col) = values.iter().position(|value| !value.is_finite()) {
            let found = values.get(col).copied().unwrap_or_default();
            crate::bail!(
                Format,
                "tensor {}: element [{row}, {col}]: expected a finite number, found {found}",
                weight.name
            );
        }
    }
    Ok(())
}
