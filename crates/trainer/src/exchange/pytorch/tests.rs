use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::super::ExchangeError;
use super::super::layers::whole;
use super::super::testing::*;
use super::read::PARTS;
use super::write::Tensor;
use super::*;
use crate::data::Normalization;
use crate::models::{ModelInput, StoredModel, StoredWeight};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A file of another program: names, types, shapes and bytes.
fn foreign(tensors: &[(&str, Dtype, &[usize], Vec<u8>)], metadata: &[(&str, &str)]) -> Vec<u8> {
    let tensors = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let tensor = Tensor { dtype: *dtype, shape: shape.to_vec(), bytes: bytes.clone() };
        (name.to_string(), tensor)
    });
    let tensors: BTreeMap<_, _> = tensors.collect();
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    safetensors::serialize(&tensors, Some(metadata)).unwrap()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn message(tensors: &[(&str, Dtype, &[usize], Vec<u8>)], metadata: &[(&str, &str)]) -> String {
    from_bytes(&foreign(tensors, metadata)).unwrap_err().to_string()
}

fn header(bytes: &[u8]) -> Value {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(length % 8, 0);
    serde_json::from_slice(&bytes[8..8 + length]).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let model = example();
    assert_same(&from_bytes(&to_bytes(&model, false).unwrap()).unwrap(), &model);
    assert_same(&from_bytes(&to_bytes(&model, true).unwrap()).unwrap(), &all_dense(&model));
    let weight = from_bytes(&weight_to_bytes(&model.layers[0], false).unwrap()).unwrap();
    assert_eq!(weight.layers[0].weight, model.layers[0].weight);
    assert_eq!(weight.layers[0].bias, [0.0; 3]);
}

#[test]
fn names_types_and_metadata_are_pytorchs() {
    let bytes = to_bytes(&example(), false).unwrap();
    let header = header(&bytes);
    let about = r#"{"name":"5-3-2","nnz":11,"density":0.5238095238095238}"#;
    assert_eq!(header["__metadata__"], json!({ "format": "pt", "fc1.weight.shape": "[3, 5]", "model": about }));
    for (name, dtype, shape) in [
        ("fc1.weight.crow_indices", "I32", vec![4]),
        ("fc1.weight.col_indices", "I32", vec![5]),
        ("fc1.weight.values", "F32", vec![5]),
        ("fc1.bias", "F32", vec![3]),
        ("fc2.weight", "F32", vec![2, 3]),
        ("fc2.bias", "F32", vec![2]),
    ] {
        assert_eq!((&header[name]["dtype"], &header[name]["shape"]), (&dtype.into(), &shape.into()), "{name}");
    }
    assert_eq!(header.as_object().unwrap().len(), 7);
    let dense = self::header(&to_bytes(&example(), true).unwrap());
    assert_eq!(dense["__metadata__"], json!({ "format": "pt", "model": about }));
    assert_eq!(dense["fc1.weight"]["shape"], json!([3, 5]));
}

/// As `torch.sparse_bsr_tensor` takes them; ragged ones too, whose padding a file cannot fill.
#[test]
fn blocks_are_written_and_read() {
    let model = blocks();
    let bytes = to_bytes(&model, false).unwrap();
    let header = header(&bytes);
    assert_eq!(header["__metadata__"]["fc1.weight.shape"], "[3, 5]");
    for (name, dtype, shape) in [
        ("fc1.weight.crow_indices", "I32", vec![3]),
        ("fc1.weight.col_indices", "I32", vec![3]),
        ("fc1.weight.values", "F32", vec![3, 2, 4]),
    ] {
        assert_eq!((&header[name]["dtype"], &header[name]["shape"]), (&dtype.into(), &shape.into()), "{name}");
    }
    assert_same(&from_bytes(&bytes).unwrap(), &model);
    assert_same(&from_bytes(&to_bytes(&model, true).unwrap()).unwrap(), &all_dense(&model));
    assert_same(&from_bytes(&model.to_checkpoint().to_bytes().unwrap()).unwrap(), &model);

    // Another program's: the second layer's shape follows from the first one's outputs.
    let of = |name: &str, part: &str| format!("{name}.weight.{part}");
    let names = ["a", "b"].map(|name| ["crow_indices", "col_indices", "values"].map(|part| of(name, part)));
    let [a, b] = &names;
    let ones = |n| f32s(&vec![1.0; n]);
    let tensors = |block: &'static [usize]| {
        [
            (a[0].as_str(), Dtype::I64, &[2usize][..], i64s(&[0, 1])),
            (&a[1], Dtype::I64, &[1], i64s(&[1])),
            (&a[2], Dtype::F32, block, ones(block.iter().product())),
            (&b[0], Dtype::I64, &[3], i64s(&[0, 1, 1])),
            (&b[1], Dtype::I64, &[1], i64s(&[0])),
            (&b[2], Dtype::F32, &[1, 2, 1], ones(2)),
        ]
    };
    let shape = [("a.weight.shape", "[2, 3]")];
    let model = from_bytes(&foreign(&tensors(&[1, 2, 2]), &shape)).unwrap();
    assert_eq!(model.name().to_string(), "3-2-4");
    assert_eq!(model.layers[0].weight.to_dense(), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    assert_eq!(model.layers[0].weight.values(), [1.0, 0.0, 1.0, 0.0]);
    assert!(message(&tensors(&[1, 3, 2]), &shape).contains("3"));
    assert!(message(&tensors(&[2, 2, 2]), &shape).contains("8 values for a pattern of 4 entries"));
    assert!(
        message(&tensors(&[1, 2, 2, 1]), &shape).starts_with("these tensors do not belong to a fully connected layer")
    );
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let bytes = to_bytes(&example(), false).unwrap();
    for _ in 0..10 {
        assert_eq!(to_bytes(&example(), false).unwrap(), bytes);
    }
}

#[test]
fn indices_beyond_32_bits_with_sign_are_wide() {
    let ncols = 3_000_000_000;
    let wide = layer("fc1", sparse(2, ncols, &[(0, 1), (1, 2_999_999_999)]));
    let model = StoredModel { input: None, layers: vec![wide], parts: None };
    let bytes = to_bytes(&model, false).unwrap();
    assert_eq!(header(&bytes)["fc1.weight.col_indices"]["dtype"], "I64");
    assert_eq!(header(&bytes)["fc1.weight.crow_indices"]["dtype"], "I64");
    assert_same(&from_bytes(&bytes).unwrap(), &model);
    let too_large = layer("fc1", sparse(4_000_000, 4_000_000_000, &[]));
    let error = whole(&too_large).unwrap_err();
    assert!(matches!(error, ExchangeError::Memory { nrows: 4_000_000, .. }), "{error}");
}

/// Names of `torch.nn.Sequential`, several types, a missing bias, a shape told and one that follows.
#[test]
fn other_programs_files() {
    let half = |values: &[f32]| values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect::<Vec<_>>();
    let brain = |values: &[f32]| values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect::<Vec<_>>();
    let f64s = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let u32s = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let bytes = foreign(
        &[
            ("10.weight", Dtype::F16, &[1, 3], half(&[0.5, -0.0, 65504.0])),
            ("10.bias", Dtype::BF16, &[1], brain(&[3e38])),
            ("2.weight.crow_indices", Dtype::U32, &[4], u32s(&[0, 1, 1, 2])),
            ("2.weight.col_indices", Dtype::U32, &[2], u32s(&[1, 0])),
            ("2.weight.values", Dtype::F64, &[2], f64s(&[0.1, 3.0])),
            ("0.weight.crow_indices", Dtype::I64, &[3], i64s(&[0, 2, 3])),
            ("0.weight.col_indices", Dtype::U64, &[3], i64s(&[0, 3, 2])),
            ("0.weight.values", Dtype::F32, &[3], f32s(&[1.0, 2.0, 3.0])),
            ("0.bias", Dtype::F64, &[2], f64s(&[1.0 / 3.0, 1e-300])),
        ],
        &[("format", "pt"), ("0.weight.shape", "[2,4]")],
    );
    let model = from_bytes(&bytes).unwrap();
    assert_eq!(model.name().to_string(), "4-2-3-1");
    let names: Vec<_> = model.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["fc1", "fc2", "fc3"]);
    assert_eq!(model.layers[0].weight.to_dense(), [1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0]);
    assert_eq!(model.layers[0].bias, [1.0 / 3.0, 0.0]);
    assert_eq!(model.layers[1].weight.values(), [0.1, 3.0]);
    assert_eq!(model.layers[1].bias, [0.0; 3]);
    assert_eq!(model.layers[2].weight, dense(1, 3, &[0.5, -0.0, 65504.0]));
    assert_eq!(model.layers[2].bias, [bf16::from_f32(3e38).to_f32()]);

    let single = foreign(&[("weight", Dtype::F32, &[1, 2], f32s(&[1.0, 2.0]))], &[]);
    assert_eq!(from_bytes(&single).unwrap().layers[0].weight, dense(1, 2, &[1.0, 2.0]));
}

#[test]
fn the_order_follows_the_sizes_or_is_given() {
    let tensors = |layers: &[(&'static str, usize, usize, f32)]| {
        let tensors = layers.iter().map(|&(name, nrows, ncols, value)| {
            let tensor = Tensor::f32s(&[nrows, ncols], &vec![value; nrows * ncols]);
            (format!("{name}.weight"), tensor)
        });
        safetensors::serialize(&tensors.collect::<BTreeMap<_, _>>(), None).unwrap()
    };
    let firsts = |model: StoredModel| model.layers.iter().map(|l| l.weight.values()[0]).collect::<Vec<_>>();
    let named = tensors(&[("input", 3, 7, 1.0), ("hidden", 4, 3, 2.0), ("output", 2, 4, 3.0)]);
    let model = from_bytes(&named).unwrap();
    assert_eq!((model.name().to_string(), firsts(model)), ("7-3-4-2".to_owned(), vec![1.0, 2.0, 3.0]));
    let equal = tensors(&[("a_in", 3, 7, 1.0), ("c_mid", 3, 3, 2.0), ("b_mid", 3, 3, 3.0), ("d_out", 2, 3, 4.0)]);
    let text = from_bytes(&equal).unwrap_err().to_string();
    assert!(text.contains("a_in 3×7, b_mid 3×3, c_mid 3×3, d_out 2×3; give the order"), "{text}");
    let wanted = ["a_in", "c_mid", "b_mid", "d_out"].map(str::to_owned);
    assert_eq!(firsts(from_bytes_as(&equal, Some(&wanted), &NetworkOptions::default()).unwrap()), [1.0, 2.0, 3.0, 4.0]);
    let text = from_bytes_as(&equal, Some(&wanted[..3]), &NetworkOptions::default()).unwrap_err().to_string();
    assert!(text.contains("\"d_out\" is missing"), "{text}");
    let wanted = ["c_mid", "a_in", "b_mid", "d_out"].map(str::to_owned);
    let text = from_bytes_as(&equal, Some(&wanted), &NetworkOptions::default()).unwrap_err().to_string();
    assert!(text.contains("in the order c_mid, a_in, b_mid, d_out: layer a_in: the number of inputs is 7"), "{text}");
    let checkpoint = example().to_checkpoint().to_bytes().unwrap();
    let text = from_bytes_as(&checkpoint, Some(&wanted), &NetworkOptions::default()).unwrap_err().to_string();
    assert!(text.contains("has an order already"), "{text}");
}

/// `weight_orig` and `weight_mask` of `torch.nn.utils.prune`: a zero that is kept stays an entry.
#[test]
fn masks_are_patterns() {
    let original = ("a.weight_orig", Dtype::F32, &[2usize, 3][..], f32s(&[1.0, 2.0, 3.0, 0.0, 5.0, 6.0]));
    let mask = ("a.weight_mask", Dtype::F32, &[2usize, 3][..], f32s(&[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]));
    let bias = ("a.bias_orig", Dtype::F32, &[2usize][..], f32s(&[7.0, 8.0]));
    let bias_mask = ("a.bias_mask", Dtype::BOOL, &[2usize][..], vec![1, 0]);
    let file = [original.clone(), mask.clone(), bias.clone(), bias_mask];
    let model = from_bytes(&foreign(&file, &[])).unwrap();
    let StoredWeight::Sparse(csr) = &model.layers[0].weight else { panic!("it is sparse") };
    assert_eq!(csr.pattern().positions().collect::<Vec<_>>(), [(0, 1), (1, 0), (1, 2)]);
    assert_eq!((csr.values(), &model.layers[0].bias[..]), (&[2.0, 0.0, 6.0][..], &[7.0, 0.0][..]));
    let bools = ("a.weight_mask", Dtype::BOOL, &[2usize, 3][..], vec![0, 1, 0, 1, 0, 1]);
    assert_eq!(from_bytes(&foreign(&[original.clone(), bools], &[])).unwrap().layers[0].weight, model.layers[0].weight);
    let broken = ("a.weight_orig", Dtype::F32, &[2usize, 3][..], f32s(&[1.0, 2.0, f32::NAN, 0.0, 5.0, 6.0]));
    let wide = ("a.weight_mask", Dtype::F32, &[3usize, 2][..], f32s(&[1.0; 6]));
    let dense = ("a.weight", Dtype::F32, &[2usize, 3][..], f32s(&[1.0; 6]));
    for (file, part) in [
        (&[broken, mask.clone()][..], "layer a: the weight at row 0, column 2 (counted from 0) is NaN"),
        (&[original.clone(), wide], "tensor a.weight_mask is 3×2; it must have the shape of what it masks, 2×3"),
        (std::slice::from_ref(&original), "tensor a.weight_mask is missing"),
        (std::slice::from_ref(&mask), "tensor a.weight_orig is missing"),
        (&[dense, original.clone(), mask.clone()], "both a.weight and a.weight_orig exist"),
        (&[original.clone(), mask.clone(), bias], "tensor a.bias_mask is missing"),
        (&[("a.bias_mask", Dtype::BOOL, &[1], vec![1])], "fully connected layer: a.bias_mask 1; a layer is"),
    ] {
        let text = message(file, &[]);
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn checkpoints_are_read_and_damaged_ones_are_not() {
    let input = ModelInput::new("mnist", Normalization::Pixels { mean: 0.5, deviation: 0.25 });
    let model = StoredModel { input: Some(input), ..example() };
    let bytes = model.to_checkpoint().to_bytes().unwrap();
    assert_same(&from_bytes(&bytes).unwrap(), &model);
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(from_bytes(&damaged).unwrap_err().to_string().starts_with("the file is damaged"));
}

#[test]
fn what_is_no_linear_layer_is_named() {
    let one = |name| (name, Dtype::F32, &[1usize][..], f32s(&[0.0]));
    let weight = ("fc.weight", Dtype::F32, &[1usize, 1][..], f32s(&[0.0]));
    let conv = ("conv1.weight", Dtype::F32, &[1usize, 1, 1, 1][..], f32s(&[0.0]));
    let text = message(&[weight.clone(), conv, one("bn.weight"), one("bn.bias"), one("bn.running_mean")], &[]);
    let expected = "no known network has these layers: bn.bias 1, bn.running_mean 1, bn.weight 1, conv1.weight 1×1×1×1, \
                    fc.weight 1×1; name the network with --model (known by their layers: lenet-5, resnet-18,";
    assert!(text.starts_with(expected), "{text}");
    let names: Vec<String> = (0..20).map(|i| format!("x{i}")).collect();
    let many: Vec<_> = names.iter().map(|name| one(name)).collect();
    let text = message(&many, &[]);
    assert!(text.contains("x4 1, x5 1, and 14 more"), "{text}");
    // A name that only ends like a part of a layer is another name.
    assert!(message(&[one("preweight.bias"), one("fcbias")], &[]).contains("fcbias 1, preweight.bias 1;"));
    assert_eq!(message(&[], &[("format", "pt")]), "the file holds no tensors");
}

#[test]
fn wrong_content_is_named() {
    let crow = |values: &[i64]| ("a.weight.crow_indices", Dtype::I64, vec![values.len()], i64s(values));
    let col = |values: &[i64]| ("a.weight.col_indices", Dtype::I64, vec![values.len()], i64s(values));
    let values = |values: &[f32]| ("a.weight.values", Dtype::F32, vec![values.len()], f32s(values));
    type Owned = (&'static str, Dtype, Vec<usize>, Vec<u8>);
    let message = |tensors: &[Owned], metadata: &[(&str, &str)]| {
        let tensors: Vec<_> = tensors.iter().map(|(n, d, shape, b)| (*n, *d, shape.as_slice(), b.clone())).collect();
        message(&tensors, metadata)
    };
    let good = [crow(&[0, 1]), col(&[1]), values(&[1.0])];
    let text = message(&good, &[]);
    assert!(text.starts_with("the number of columns of a.weight is unknown"), "{text}");
    assert!(text.contains("a.weight.shape"), "{text}");
    for (shape, part) in [
        ("[2, 3]", "a.weight: row_offsets has 2 entries; a matrix of 2 rows needs 3"),
        ("[1, 1]", "a.weight: row 0: column 1 is outside 0..1"),
        ("[18446744073709551615, 3]", "nrows is 18446744073709551615, more than"),
        ("[1, 2, 3]", "the metadata's a.weight.shape is \"[1, 2, 3]\"; write the shape as"),
        ("torch.Size([1, 3])", "write the shape as \"[outputs, inputs]\""),
        ("[-1, 3]", "write the shape as"),
    ] {
        let text = message(&good, &[("a.weight.shape", shape)]);
        assert!(text.contains(part), "{shape}: {text}");
    }
    let shape = [("a.weight.shape", "[1, 3]")];
    let bias = |n: usize| ("a.bias", Dtype::F32, vec![n], f32s(&vec![0.0; n]));
    let whole = ("a.weight", Dtype::F32, vec![1, 1], f32s(&[0.0]));
    let next = ("b.weight", Dtype::F32, vec![2, 2], f32s(&[0.0; 4]));
    let huge = ("a.weight.values", Dtype::F64, vec![1], 1e39f64.to_le_bytes().to_vec());
    let integers = ("a.weight.values", Dtype::I32, vec![1], vec![0; 4]);
    let floats = ("a.weight.col_indices", Dtype::F32, vec![1], vec![0; 4]);
    let unsigned = ("a.weight.col_indices", Dtype::U64, vec![1], u64::MAX.to_le_bytes().to_vec());
    for (tensors, part) in [
        (vec![crow(&[0, 1]), col(&[1])], "tensor a.weight.values is missing, although"),
        (vec![crow(&[0, 2]), col(&[2, 1]), values(&[1.0; 2])], "column 1 follows 2"),
        (vec![crow(&[0, 1]), col(&[-1]), values(&[1.0])], "tensor a.weight.col_indices: entry 0 is -1; it must be"),
        (vec![crow(&[0, 1 << 32]), col(&[1]), values(&[1.0])], "entry 1 is 4294967296"),
        (vec![crow(&[0, 1]), unsigned, values(&[1.0])], "entry 0 is 18446744073709551615"),
        (vec![crow(&[]), col(&[]), values(&[])], "row_offsets has 0 entries"),
        (vec![crow(&[0, 1]), col(&[1]), values(&[1.0; 2])], "2 values for a pattern of 1 entries"),
        (vec![crow(&[0, 1]), col(&[1]), huge], "tensor a.weight.values: entry 0 is 1e39, beyond f32's range"),
        (vec![crow(&[0, 1]), col(&[1]), integers], "type I32; it must be F32, F64, F16 or BF16"),
        (vec![crow(&[0, 1]), floats, values(&[1.0])], "type F32; it must be I32, I64, U32 or U64"),
        (vec![whole.clone(), col(&[1])], "both a.weight and a.weight.values exist"),
        (vec![whole.clone(), bias(2)], "layer a: the number of biases is 2, expected 1"),
        (
            vec![whole, next],
            "the layers do not fit together in the order a, b: layer b: the number of inputs is 2, expected 1",
        ),
    ] {
        let text = message(&tensors, &shape);
        assert!(text.contains(part), "{part}: {text}");
    }
    // A shape without positions costs no memory, however large its other side.
    let hollow = ("a.weight", Dtype::F32, vec![1 << 60, 0], vec![]);
    assert!(message(&[hollow], &[]).contains("the number of outputs or inputs is 0"));
}

/// A model that a hostile file gave can be written and read.
fn check(bytes: &[u8]) {
    if let Ok(model) = from_bytes(bytes) {
        let written = to_bytes(&model, false).unwrap();
        let again = from_bytes(&written).unwrap();
        assert_eq!(to_bytes(&again, false).unwrap(), written);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        check(&bytes);
    }

    #[test]
    fn damaged_files_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut: Option<prop::sample::Index>,
        in_header: bool, dense: bool,
    ) {
        let mut bytes = to_bytes(&example(), dense).unwrap();
        let reach = if in_header { 500.min(bytes.len()) } else { bytes.len() };
        for (at, byte) in damage {
            // Digits keep the header JSON, and change its sizes.
            bytes[at.index(reach)] = if in_header { b'0' + byte % 10 } else { byte };
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        check(&bytes);
    }

    /// Headers that are JSON, with names, types and sizes of a model, and no truth in them.
    #[test]
    fn hostile_headers_never_panic(
        tensors in prop::collection::vec(
            (0..PARTS.len(), 0..7usize, prop::collection::vec(prop_oneof![0..4u64, any::<u64>()], 0..3), 0..40u64), 0..5
        ),
        shape in prop::collection::vec(prop_oneof![0..4u64, any::<u64>()], 0..3),
        data in prop::collection::vec(0..3u8, 0..80),
    ) {
        let mut header = json!({ "__metadata__": { "a.weight.shape": json!(shape).to_string() } });
        let mut begin = 0;
        for (part, dtype, shape, length) in tensors {
            let dtype = ["F32", "F64", "F16", "I32", "I64", "U32", "BOOL"][dtype];
            let end = begin + length;
            header[format!("a.{}", PARTS[part].0)] = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
            begin = end;
        }
        let header = header.to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend(data);
        check(&bytes);
    }

    /// Files in good form whose indices and shape are anything.
    #[test]
    fn hostile_indices_never_panic(
        crow in prop::collection::vec(-1..5i64, 0..5), col in prop::collection::vec(-1..5i64, 0..5),
        values in prop::collection::vec(any::<f32>(), 0..5), shape in [0..5u64, 0..5u64], block in [0..5usize, 0..5usize],
    ) {
        for blocks in [false, true] {
            let count = values.len();
            let (dimensions, size) =
                if blocks { (vec![count, block[0], block[1]], block[0] * block[1]) } else { (vec![count], 1) };
            let values = values.repeat(size);
            let bytes = foreign(&[
                ("weight.crow_indices", Dtype::I64, &[crow.len()], i64s(&crow)),
                ("weight.col_indices", Dtype::I64, &[col.len()], i64s(&col)),
                ("weight.values", Dtype::F32, &dimensions, f32s(&values)),
            ], &[("weight.shape", &format!("{shape:?}"))]);
            check(&bytes);
        }
    }
}
