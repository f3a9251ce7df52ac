//! What stays on a device beside weights and caches: the angles of all positions, masks, and the memory that a pass works on.

use super::acl;
use super::atb::{Desc, Tensor, element_bytes};
use super::device::Device;
use super::form::HalfType;
use super::memory::DeviceBuffer;
use super::plan::Setup;
use super::upload::Uploader;
use crate::base::error::Result;
use crate::model::spec::DecoderSpec;

/// Memory that stays: tables and what a step works on.
#[derive(Debug)]
pub struct Tables {
    /// `[C, D]`: those of all positions.
    pub cosines: Tensor,
    /// `[C, D]`.
    pub sines: Tensor,
    /// Of whole prompts.
    pub prompt_mask: Tensor,
    /// `[C, C]`: of rows over the cache, where the chip computes such.
    pub chunk_mask: Option<Tensor>,
    /// The residual stream, in turns.
    pub x: [DeviceBuffer; 2],
    /// Cosines of a pass.
    pub pass_cosines: DeviceBuffer,
    /// Sines of a pass.
    pub pass_sines: DeviceBuffer,
    /// Mask rows of a pass.
    pub pass_mask: Option<DeviceBuffer>,
    _buffers: Vec<DeviceBuffer>,
}

impl Tables {
    /// Takes the memory and brings over what stays.
    pub fn new(
        device: &Device,
        uploader: &mut Uploader<'_>,
        setup: &Setup,
        spec: &DecoderSpec,
    ) -> Result<Tables> {
        let mut buffers = Vec::new();
        let result = Self::bring(&mut buffers, device, uploader, setup, spec);
        let finished = uploader.finish();
        let (cosines, sines, prompt_mask, chunk_mask) = result?;
        finished?;
        let rows = setup.layout.rows;
        let angle = element_bytes(cosines.desc.dtype)? as usize;
        let buffer = |bytes| DeviceBuffer::new(device, bytes);
        let pass_mask = match chunk_mask {
            Some(_) => Some(buffer(rows * setup.context * 2)?),
            None => None,
        };
        Ok(Tables {
            cosines,
            sines,
            prompt_mask,
            chunk_mask,
            x: [buffer(rows * spec.hidden * 2)?, buffer(rows * spec.hidden * 2)?],
            pass_cosines: buffer(rows * spec.head_dim * angle)?,
            pass_sines: buffer(rows * spec.head_dim * angle)?,
            pass_mask,
            _buffers: buffers,
        })
    }

    #[allow(clippy::type_complexity)]
    fn bring(
        buffers: &mut Vec<DeviceBuffer>,
        device: &Device,
        uploader: &mut Uploader<'_>,
        setup: &Setup,
        spec: &DecoderSpec,
    ) -> Result<(Tensor, Tensor, Tensor, Option<Tensor>)> {
        let nd = acl::ACL_FORMAT_ND;
        let mut take = |bytes: u64| -> Result<usize> {
            buffers.push(DeviceBuffer::new(device, bytes as usize)?);
            Ok(buffers.len() - 1)
        };
        let angle = if setup.dtype == HalfType::F16 { acl::ACL_FLOAT } else { acl::ACL_BF16 };
        let angles = Desc::new(angle, nd, &[setup.context as i64, spec.head_dim as i64])?;
        let side = setup.prompt_mask_side();
        let mask = if setup.facts.tiled {
            let tiles = [1, (side / 16) as i64, side as i64, 16];
            Desc::new(setup.dtype.acl(), acl::ACL_FORMAT_FRACTAL_NZ, &tiles)?
        } else {
            Desc::new(setup.dtype.acl(), nd, &[side as i64, side as i64])?
        };
        let context = setup.context as i64;
        let over_cache = Desc::new(setup.dtype.acl(), nd, &[context, context])?;
        let places = [take(angles.bytes()?)?, take(angles.bytes()?)?, take(mask.bytes()?)?];
        let chunk = if setup.prefill_over_cache { Some(take(over_cache.bytes()?)?) } else { None };
        uploader.angles(spec, setup.context, setup.dtype, true, &buffers[places[0]])?;
        uploader.angles(spec, setup.context, setup.dtype, false, &buffers[places[1]])?;
        let binary = setup.facts.high_precision_attention;
        uploader.prompt_mask(side, setup.facts.tiled, binary, setup.dtype, &buffers[places[2]])?;
        let mut chunk_mask = None;
        if let Some(place) = chunk {
            uploader.chunk_mask(setup.context, setup.dtype, &buffers[place])?;
            chunk_mask = Some(Tensor::new(over_cache, buffers[place].at(0)?)?);
        }
        let tensor = |desc, place: usize| Tensor::new(desc, buffers[place].at(0)?);
        Ok((tensor(angles, places[0])?, tensor(angles, places[1])?, tensor(mask, places[2])?, chunk_mask))
    }
}
