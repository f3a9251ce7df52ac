//! Drafts of graphs: operations and the tensors between them, by name instead of number, before ATB makes one operation
//! of it or they are run one by one.

use super::atb::{AtbContext, Graph, Node, Operation, reshape};
use super::shim::{aqatb_dim, aqatb_output, aqatb_reshape};
use crate::base::error::Result;
use std::ffi::CStr;

/// A tensor of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ref {
    /// One that comes in; as an output of a node: written in place.
    In(u32),
    /// One that goes out.
    Out(u32),
    /// One between nodes.
    Mid(u32),
}

/// A node of a draft.
#[derive(Debug)]
pub struct DraftNode {
    /// What it does.
    pub operation: Operation,
    /// What it reads.
    pub inputs: Vec<Ref>,
    /// What it writes.
    pub outputs: Vec<Ref>,
    /// Inputs that it sees with other dims.
    pub views: Vec<aqatb_reshape>,
}

/// A graph that is being put together.
#[derive(Debug)]
pub struct Draft {
    /// Letters, digits and underscores.
    pub name: &'static CStr,
    /// In the order of their run.
    pub nodes: Vec<DraftNode>,
    /// Tensors that come in.
    pub inputs: u32,
    /// What the tensors are that go out.
    pub outputs: Vec<aqatb_output>,
    /// Tensors between nodes.
    pub mids: u32,
}

impl Draft {
    /// One with `inputs` tensors that come in.
    pub fn new(name: &'static CStr, inputs: u32) -> Draft {
        Draft { name, nodes: Vec::new(), inputs, outputs: Vec::new(), mids: 0 }
    }

    /// Another tensor that comes in.
    pub fn input(&mut self) -> Ref {
        self.inputs += 1;
        Ref::In(self.inputs - 1)
    }

    /// Another tensor that goes out.
    pub fn output(&mut self, desc: aqatb_output) -> Ref {
        self.outputs.push(desc);
        Ref::Out(self.outputs.len() as u32 - 1)
    }

    /// Another tensor between nodes.
    pub fn mid(&mut self) -> Ref {
        self.mids += 1;
        Ref::Mid(self.mids - 1)
    }

    /// A node. `views` are its inputs that it sees with other dims: which one, and the dims.
    pub fn node(
        &mut self,
        operation: Operation,
        inputs: &[Ref],
        outputs: &[Ref],
        views: &[(u32, &[aqatb_dim])],
    ) -> Result<()> {
        let views = views.iter().map(|(input, dims)| reshape(*input, dims)).collect::<Result<_>>()?;
        self.nodes.push(DraftNode { operation, inputs: inputs.to_vec(), outputs: outputs.to_vec(), views });
        Ok(())
    }

    /// One operation of all. On an error all is given back.
    pub fn into_operation(self, context: &AtbContext) -> Result<Operation> {
        let (inputs, outputs) = (self.inputs, self.outputs.len() as u32);
        let number = |tensor: &Ref| match *tensor {
            Ref::In(n) => n,
            Ref::Out(n) => inputs + n,
            Ref::Mid(n) => inputs + outputs + n,
        };
        let nodes = self.nodes.into_iter().map(|node| Node {
            inputs: node.inputs.iter().map(number).collect(),
            outputs: node.outputs.iter().map(number).collect(),
            operation: node.operation,
            reshapes: node.views,
        });
        let graph = Graph {
            name: self.name,
            nodes: nodes.collect(),
            inputs,
            outputs,
            internals: self.mids,
            output_descs: Some(self.outputs),
        };
        Operation::graph(context, graph)
    }
}
