//! `rigl plan` against published densities, operations and sizes.

use std::process::Command;

use serde_json::Value;

/// The records of `rigl plan`: layers, then the total.
fn plan(args: &str) -> (Vec<Value>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-under-test"));
    let output = command.args(["plan", "--json"]).args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let total = records.pop().unwrap();
    assert_eq!(total["event"], "total");
    assert!(records.iter().all(|r| r["event"] == "layer"));
    (records, total)
}

/// LeNet-300-100 under ERK: sparsities from an independent implementation of the authors' solver.
#[test]
fn lenet_erk_densities() {
    for (sparsity, expected) in
        [(0.9, [0.92043, 0.76981, 0.0]), (0.95, [0.96152, 0.88867, 0.08149]), (0.98, [0.98461, 0.95547, 0.63260])]
    {
        let (layers, total) = plan(&format!("--model lenet-300-100 --sparsity {sparsity}"));
        for (layer, expected) in layers.iter().zip(expected) {
            let size: f64 = layer["shape"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).product();
            let got = 1.0 - layer["density"].as_f64().unwrap();
            // The count is rounded up to whole weights.
            assert!((got - expected).abs() < 6e-6 + 1.0 / size, "{layer}: {got} instead of {expected}");
        }
        assert_eq!(total["params"], 266_610);
        assert!((total["density"].as_f64().unwrap() - (1.0 - sparsity)).abs() < 3.0 / 266_200.0, "{total}");
    }
}

/// The same, said as density: identical counts.
#[test]
fn sparsity_is_one_minus_density() {
    let (layers, _) = plan("--sparsity 0.9");
    assert_eq!(layers, plan("--density 0.1").0);
}

/// Evci et al., appendix B, table 2: LeNet-300-100 after the removal of dead units. Operations (12.6 K and 6.2 K) and
/// bitmask sizes (31,914 and 16,113 bytes) are published rounded or for sparsities of more digits; the values here
/// follow from the shapes and the three digits given.
#[test]
fn compressed_lenet() {
    for (model, sparsity, flops, bytes, published_flops, published_bytes) in [
        ("408-100-69-10", 0.870, 12_582.0, 31_928.0, 12_600.0, 31_914.0),
        ("375-62-51-10", 0.886, 6_144.0, 16_134.0, 6_200.0, 16_113.0),
    ] {
        let (_, total) = plan(&format!("--model {model} --sparsity {sparsity} --distribution uniform"));
        let got_flops = total["inference_flops"].as_f64().unwrap();
        let got_bytes = total["paper_size_bytes"].as_f64().unwrap();
        assert!((got_flops - flops).abs() < 6.0, "{total}");
        assert!((got_bytes - bytes).abs() < 12.0, "{total}");
        assert!((got_flops / published_flops - 1.0).abs() < 0.01, "{total}");
        assert!((got_bytes / published_bytes - 1.0).abs() < 0.002, "{total}");
    }
}

/// Appendix H: RigL's training costs (3 f_S ΔT + 2 f_S + f_D) / (ΔT + 1) against 3 f_D.
#[test]
fn training_ratio_of_rigl() {
    let (_, total) = plan("--density 0.1 --update-interval 100");
    let f = total["inference_flops_ratio"].as_f64().unwrap();
    let expected = (3.0 * f * 100.0 + 2.0 * f + 1.0) / 101.0 / 3.0;
    assert!((total["train_flops_ratio"].as_f64().unwrap() - expected).abs() < 1e-12, "{total}");
    let (_, fixed) = plan("--density 0.1 --method static");
    assert_eq!(fixed["train_flops_ratio"], fixed["inference_flops_ratio"]);
}
