//! Models in safetensors files, with PyTorch's names.
//!
//! | tensor | name | type |
//! | --- | --- | --- |
//! | dense weight `[outputs, inputs]` | `<layer>.weight` | F32 |
//! | sparse weight, as `torch.sparse_csr_tensor` takes it | `<layer>.weight.crow_indices`, `.col_indices`; `.values` | I32, or I64 if need be; F32 |
//! | block-sparse weight, as `torch.sparse_bsr_tensor` takes it | the same; `.values` of `[blocks, r, c]` | as above |
//! | of a convolution of more than one tap, the entries of its blocks as `torch.sparse_csr_tensor` takes them | as there | as there |
//! | bias `[outputs]` | `<layer>.bias` | F32 |
//! | dense weight of a convolution `[O, C/G, kh, kw]`; sparse, a matrix of `[O, C/G · kh · kw]` | as above | as above |
//! | batch normalisation of C channels | `<norm>.weight`, `.bias`, `.running_mean`, `.running_var` | F32 |
//! | layer normalisation, RMS norm of C features | `<norm>.weight` and `.bias`, `<norm>.weight` | F32 |
//! | recurrent layer i | `gru.weight_ih_l<i>`, `gru.weight_hh_l<i>`, `gru.bias_ih_l<i>`, `gru.bias_hh_l<i>`; `lstm` likewise | as above |
//!
//! Neither tells how many columns there are, so the metadata has `<layer>.weight.shape` with a value such as
//! `[300, 784]`, and for a sparse convolution `<layer>.weight.dimensions` with `[64, 32, 3, 3]`. Written files have `format` `pt`
//! there too, which some readers want to see, and what the model must be used with under `model`: network, normalisation,
//! size of pictures, names of classes, as JSON. The same model gives the same bytes.
//!
//! Blocks may reach beyond the matrix, by zeros; PyTorch itself takes only sizes that the block's sides divide, so such a
//! matrix is made with its sizes rounded up to that, and cut.
//!
//! Read are files of anyone: all types of floats from 16 bits on, indices of 32 and 64 bits; layers without bias; weights
//! and biases with masks (`<layer>.weight_orig` and `.weight_mask` of `torch.nn.utils.prune`), whose nonzeros are the pattern; a single
//! layer without name (`weight`, `bias`). A file does not keep its tensors' order. A layer that follows another has as many
//! columns as that one rows: layers are taken in the order in which they fit together. If there are several, numbers in the
//! names decide: `0.weight`, `2.weight`, `10.weight` of a `torch.nn.Sequential`. If they do not, the order must be given. Of a
//! sparse matrix that follows another the shape need not be told. Anything else in the file is an error, not left out. Our own
//! checkpoints are read too, and keep what is known of their inputs.
//!
//! Recurrent layers have the names and the order of gates of `torch.nn.GRU` and `torch.nn.LSTM` (`gru.weight_ih_l0`, say), and
//! such files are known by them; a Transformer's file from elsewhere needs its name, which says how many heads there are.
//!
//! Convolutional networks are known by the names of their layers: our own exports, and torchvision's ResNet-18, -34 and -50,
//! MobileNet-v2 and VGG-16 with batch normalisation.

mod network;
#[cfg(test)]
mod network_tests;
mod read;
mod sequences;
mod tensors;
#[cfg(test)]
mod tests;
mod write;

pub use network::NetworkOptions;
pub use read::{from_bytes, from_bytes_as};
pub use write::{to_bytes, weight_to_bytes};
