//! The programs of a rank: drafts of the decoder made ready, with the tensors that stay.

use super::acl;
use super::atb::{Desc, Tensor};
use super::comm::Comm;
use super::decoder::{Decoder, Epilogue, Shared};
use super::device::Device;
use super::draft::Draft;
use super::image::PassKind;
use super::memory::DeviceBuffer;
use super::plan::Setup;
use super::program::{Lane, Making, Program};
use super::tables::Tables;
use super::weights::RankWeights;
use crate::base::error::{Error, Result, Status};
use crate::model::spec::DecoderSpec;

/// The programs of a pass.
#[derive(Debug)]
pub struct PassPrograms {
    /// Embedding, angles and mask rows.
    pub prologue: Program,
    /// The same where tokens are taken from results of an earlier step.
    pub carried: Option<Program>,
    /// The layers, some a program.
    pub layers: Vec<Program>,
}

/// All programs of a rank.
#[derive(Debug)]
pub struct Programs {
    /// Those of each pass; none where the chip does not compute it.
    pub passes: [Option<PassPrograms>; 3],
    /// Logits, ids, hidden states, candidates; of these none where the vocabulary is too small.
    pub epilogues: [Option<Program>; 4],
    /// As what they were made.
    pub making: Making,
}

impl Programs {
    /// Graphs, and where ATB makes none of a draft its operations one by one: slower, and the same numbers.
    pub fn new(builder: &Builder<'_>, tables: &Tables) -> Result<Programs> {
        match builder.all(tables) {
            Err(error) if builder.making == Making::Graphs && is_of_atb(&error) => {
                log::warn!(
                    target: "aquila::npu",
                    "npu:{}: ATB's operations run one by one, which is slower, because it makes no graph: {error}",
                    builder.device.id()
                );
                Builder { making: Making::Singles, ..*builder }.all(tables)
            }
            result => result,
        }
    }
}

/// Whether ATB refused what it was given. Exhausted memory and a lost device are not mended by another way.
fn is_of_atb(error: &Error) -> bool {
    let memory = matches!(error.status, Status::DeviceMemory | Status::NoMemory);
    (1..=29).contains(&error.native_code) && !memory
}

/// Makes programs and gives them the tensors that stay.
#[derive(Debug)]
pub struct Builder<'a> {
    /// The device.
    pub device: &'a Device,
    /// Where they will run.
    pub lane: &'a Lane,
    /// The group, with several ranks.
    pub comm: Option<&'a Comm>,
    /// All ranks' choices.
    pub setup: &'a Setup,
    /// The decoder.
    pub spec: &'a DecoderSpec,
    /// Which rank.
    pub rank: usize,
    /// Graphs, or node by node.
    pub making: Making,
    /// Its weights.
    pub weights: &'a RankWeights,
    /// Keys and values of each layer.
    pub caches: &'a [[DeviceBuffer; 2]],
    /// The block of words: two steps' lists and results.
    pub words: &'a DeviceBuffer,
}

impl Builder<'_> {
    fn all(&self, tables: &Tables) -> Result<Programs> {
        let pass = |kind| self.pass(tables, kind, None).map(Some);
        let epilogue = |what| self.epilogue(what).map(Some);
        let chunk = if self.setup.prefill_over_cache { pass(PassKind::Chunk)? } else { None };
        Ok(Programs {
            passes: [pass(PassKind::Prompt)?, chunk, pass(PassKind::Token)?],
            epilogues: [
                epilogue(Epilogue::Logits)?,
                epilogue(Epilogue::Select)?,
                epilogue(Epilogue::Hidden)?,
                if self.setup.layout.candidates > 0 { epilogue(Epilogue::Candidates)? } else { None },
            ],
            making: self.making,
        })
    }

    fn decoder(&self) -> Decoder<'_> {
        let setup = self.setup;
        Decoder {
            context: &self.lane.context,
            facts: setup.facts,
            spec: self.spec,
            part: &setup.parts[self.rank],
            dtype: setup.dtype,
            comm: self.comm,
            holds: &setup.holds,
            candidates: setup.layout.candidates,
        }
    }

    fn program(&self, draft: Draft) -> Result<Program> {
        Program::new(&self.lane.context, self.device, draft, self.making)
    }

    /// The programs of a pass, with as many layers a graph as is usual, or `layers`.
    pub fn pass(&self, tables: &Tables, kind: PassKind, layers: Option<usize>) -> Result<PassPrograms> {
        let decoder = self.decoder();
        let setup = self.setup;
        let mut prologue = self.program(decoder.prologue(kind, false)?)?;
        let stay = [self.weights.embedding, tables.cosines, tables.sines];
        prologue.inputs()[2..5].copy_from_slice(&stay);
        if let (PassKind::Chunk, Some(mask)) = (kind, tables.chunk_mask) {
            prologue.inputs()[5] = mask;
        }
        let carried = if kind == PassKind::Token {
            let mut carried = self.program(decoder.prologue(kind, true)?)?;
            let block = [setup.layout.words() as i64, 1];
            let block = Desc::new(acl::ACL_INT32, acl::ACL_FORMAT_ND, &block)?;
            carried.inputs()[0] = Tensor::new(block, self.words.at(0)?)?;
            carried.inputs()[3..6].copy_from_slice(&stay);
            Some(carried)
        } else {
            None
        };
        let shared = Shared::count(kind) as usize;
        let mut programs = Vec::new();
        for graph in setup.graphs(kind, shared, layers.unwrap_or(usize::MAX)) {
            let mut program = self.program(decoder.layers(kind, graph.clone())?)?;
            let mut tensors = program.inputs().iter_mut().skip(shared);
            for layer in graph {
                let caches = [self.cache(layer, 0)?, self.cache(layer, 1)?];
                let weights = &self.weights.layers[layer];
                // In this order the zip takes no place beyond the layer's last.
                for (tensor, to) in weights.iter().chain(&caches).zip(&mut tensors) {
                    *to = *tensor;
                }
            }
            if kind == PassKind::Prompt {
                program.inputs()[Shared::PROMPT_MASK as usize] = tables.prompt_mask;
            }
            programs.push(program);
        }
        Ok(PassPrograms { prologue, carried, layers: programs })
    }

    fn epilogue(&self, what: Epilogue) -> Result<Program> {
        let mut program = self.program(self.decoder().epilogue(what)?)?;
        program.inputs()[2] = self.weights.final_norm;
        if what != Epilogue::Hidden {
            program.inputs()[3] = self.weights.head;
        }
        Ok(program)
    }

    /// Keys (0) or values (1) of a layer: `[blocks, tokens, heads, D]`, in tiles `[blocks, heads·D / 16, tokens, 16]`.
    fn cache(&self, layer: usize, which: usize) -> Result<Tensor> {
        let Builder { setup, spec, rank, .. } = *self;
        let part = &setup.parts[rank];
        let buffer = &self.caches[layer][which];
        let piece = setup.block_bytes(spec, rank) as usize / (2 * spec.layers);
        let (blocks, tokens) = ((buffer.len() / piece) as i64, setup.block_tokens as i64);
        let (format, dims) = if setup.facts.tiled {
            (acl::ACL_FORMAT_FRACTAL_NZ, [blocks, part.kv_width() as i64 / 16, tokens, 16])
        } else {
            (acl::ACL_FORMAT_ND, [blocks, tokens, part.kv_heads.len() as i64, spec.head_dim as i64])
        };
        Tensor::new(Desc::new(setup.dtype.acl(), format, &dims)?, buffer.at(0)?)
    }
}
