//! Networks of tokens: PyTorch's names of recurrent layers, and what a file's tensors say of such a network.
//!
//! | ours | of `torch.nn.GRU` and `torch.nn.LSTM` |
//! | --- | --- |
//! | `gru.l0.input.weight`, `.bias` | `gru.weight_ih_l0`, `gru.bias_ih_l0` |
//! | `gru.l0.state.weight`, `.bias` | `gru.weight_hh_l0`, `gru.bias_hh_l0` |
//!
//! Gates stand in the same order in both, and so do all other layers' names.

use crate::models::{Cell, ModelName, ModelSpec, Positions, SequenceNorm, SequenceSpec};

/// Parts of a recurrent layer: ours, and how PyTorch's names end.
const PARTS: [(&str, &str); 2] = [("input", "ih"), ("state", "hh")];

/// The name of a tensor of ours for PyTorch, whatever follows it (`.crow_indices`, say).
pub(super) fn to_torch(name: &str) -> Option<String> {
    [Cell::Gru, Cell::Lstm].into_iter().find_map(|cell| {
        let (layer, rest) = name.strip_prefix(cell.name())?.strip_prefix(".l")?.split_once('.')?;
        let (part, kind) = rest.split_once('.')?;
        let (_, ending) = PARTS.into_iter().find(|(ours, _)| *ours == part)?;
        let (kind, rest) = kind.split_at(kind.find('.').unwrap_or(kind.len()));
        Some(format!("{}.{kind}_{ending}_l{layer}{rest}", cell.name()))
    })
}

/// The name of a tensor of PyTorch as we have it.
pub(super) fn of_torch(name: &str) -> Option<String> {
    [Cell::Gru, Cell::Lstm].into_iter().find_map(|cell| {
        let rest = name.strip_prefix(cell.name())?.strip_prefix('.')?;
        ["weight", "bias"].into_iter().find_map(|kind| {
            let rest = rest.strip_prefix(kind)?.strip_prefix('_')?;
            let (part, rest) = PARTS
                .into_iter()
                .find_map(|(ours, ending)| Some((ours, rest.strip_prefix(ending)?.strip_prefix("_l")?)))?;
            let (layer, rest) = rest.split_at(rest.find(['.', '_']).unwrap_or(rest.len()));
            Some(format!("{}.l{layer}.{part}.{kind}{rest}", cell.name()))
        })
    })
}

/// The recurrent network that a file of these weights has, if it is one; `dimensions` finds a weight's by its layer.
pub(super) fn recurrent(dimensions: impl Fn(&str) -> Option<Vec<usize>>) -> Option<ModelName> {
    [Cell::Gru, Cell::Lstm].into_iter().find_map(|cell| {
        let width = |i: usize| dimensions(&format!("{}.l{i}.state", cell.name()))?.get(1).copied();
        let widths: Vec<_> = (0..).map_while(width).map(|width| width.to_string()).collect();
        if widths.is_empty() { None } else { format!("{}-{}", cell.name(), widths.join("-")).parse().ok() }
    })
}

/// What a network's name leaves open, as far as the weights say it; `dimensions` is as in [`recurrent`], `has` finds tensors.
pub(super) fn spec(
    base: ModelSpec,
    dimensions: impl Fn(&str) -> Option<Vec<usize>>,
    has: impl Fn(&str) -> bool,
) -> ModelSpec {
    /// No network of ours has more.
    const MOST: usize = 1 << 20;
    let size = |layer: &str, at: usize| dimensions(layer)?.get(at).copied().filter(|size| (1..=MOST).contains(size));
    let Some(family) = base.name.sequence() else { return base };
    let told = base.sequence.clone().unwrap_or_default();
    let (symbols, sequence) = match family.cell {
        Some(_) => {
            let rows: Vec<_> = (0..).map_while(|i| size(&format!("readout.{i}"), 0)).collect();
            let readout = rows.split_last().map_or(told.readout, |(_, hidden)| hidden.to_vec());
            let embedding = size("embedding", 1).unwrap_or(told.embedding);
            (size("embedding", 0), SequenceSpec { embedding, readout, ..told })
        }
        None => {
            let places = size("position_embedding", 0);
            let positions = if places.is_some() { Positions::Learned } else { Positions::Rotary };
            let norm = if has("norm.bias") { SequenceNorm::Layer } else { SequenceNorm::Rms };
            let tied = !has("token_embedding.weight");
            let length = places.unwrap_or(told.length);
            (size("head", 0), SequenceSpec { length, positions, norm, tied, ..told })
        }
    };
    let symbols = symbols.unwrap_or(base.classes);
    base.on(0, [0; 2], symbols).with_sequence(&sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (ours, torch) in [
            ("gru.l0.input.weight", "gru.weight_ih_l0"),
            ("gru.l12.state.bias", "gru.bias_hh_l12"),
            ("lstm.l1.state.weight.crow_indices", "lstm.weight_hh_l1.crow_indices"),
            ("lstm.l1.input.weight.shape", "lstm.weight_ih_l1.shape"),
        ] {
            assert_eq!(to_torch(ours).as_deref(), Some(torch));
            assert_eq!(of_torch(torch).as_deref(), Some(ours));
        }
        // As `torch.nn.utils.prune` names them.
        assert_eq!(of_torch("gru.weight_hh_l0_orig").as_deref(), Some("gru.l0.state.weight_orig"));
        for other in
            ["readout.0.weight", "gru.l0.weight", "blocks.0.attn.query.weight", "gru.weight", "grub.l0.input.weight"]
        {
            assert_eq!((to_torch(other), of_torch(other)), (None, None), "{other}");
        }
    }
}
