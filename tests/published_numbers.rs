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

fn number(record: &Value, key: &str) -> f64 {
    record[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {record}"))
}

#[track_caller]
fn assert_near(got: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((got - expected).abs() <= tolerance, "{what}: {got}, expected {expected} within {tolerance}");
}

/// ResNet-50 under ERK: sparsities of every kind of layer, from an independent implementation of the authors' solver.
#[test]
fn resnet_50_erk_sparsities() {
    // 1 × 1 of a stage's blocks but the first one's first and the shortcut; those of stage 1 (here) are its conv1 and conv3.
    type Stage = (f64, f64, f64, Option<f64>);
    let cases: [(f64, f64, [Stage; 4], f64); 2] = [
        (
            0.8,
            0.1428,
            [
                (0.0, 0.6381, 0.0, Some(0.0)),
                (0.0, 0.8231, 0.0247, Some(0.4151)),
                (0.4151, 0.9126, 0.5131, Some(0.7079)),
                (0.7079, 0.9565, 0.7567, Some(0.8541)),
            ],
            0.8518,
        ),
        (
            0.9,
            0.58,
            [
                (0.0, 0.8227, 0.0412, Some(0.0412)),
                (0.4253, 0.9133, 0.5221, Some(0.7134)),
                (0.7134, 0.9572, 0.7614, Some(0.8569)),
                (0.8569, 0.9787, 0.8808, Some(0.9285)),
            ],
            0.9274,
        ),
    ];
    for (sparsity, stem, stages, classifier) in cases {
        let (layers, total) = plan(&format!("--model resnet-50 --sparsity {sparsity}"));
        assert_eq!(layers.len(), 54);
        let sparsity_of = |name: &str| {
            let layer = layers.iter().find(|layer| layer["name"] == name).unwrap_or_else(|| panic!("no layer {name}"));
            1.0 - number(layer, "density")
        };
        // Four digits, and whole weights: conv1 has 9408.
        let near = |name: String, expected: f64| assert_near(sparsity_of(&name), expected, 1.6e-4, &name);
        near("conv1".into(), stem);
        near("fc".into(), classifier);
        for (stage, (first, square, single, shortcut)) in stages.into_iter().enumerate() {
            let blocks = [3, 4, 6, 3][stage];
            for block in 0..blocks {
                let name = |layer: &str| format!("layer{}.{block}.{layer}", stage + 1);
                near(name("conv1"), if block == 0 { first } else { single });
                near(name("conv2"), square);
                near(name("conv3"), single);
            }
            near(format!("layer{}.0.downsample.0", stage + 1), shortcut.unwrap());
        }
        let size = 25_502_912.0;
        assert_near(number(&total, "nnz"), (1.0 - sparsity) * size, 2.0 * 54.0, "weights");
    }
}

/// Operations of ResNet-50 with the true output sizes; calgaryml/condensed-sparsity, `notebooks/flops.ipynb`, agrees to
/// 1e-6.
#[test]
fn resnet_50_operations() {
    let common = "--model resnet-50 --flops-convention micronet";
    let (_, dense) = plan(&format!("{common} --method dense"));
    assert_near(number(&dense, "inference_flops") / 1e6, 8189.483, 6e-4, "dense");
    for (sparsity, megaflops, ratio, training, uniform, uniform_ratio) in [
        (0.75, 3903.735, 0.476677, 0.478404, 2232.728, 0.2726),
        (0.80, 3395.293, 0.414592, 0.416524, 1835.611, 0.2241),
        (0.90, 1988.962, 0.242868, 0.245367, 1041.377, 0.1272),
        (0.9375, 1254.966, 0.153241, 0.156036, 743.539, 0.0908),
        (0.95, 1006.218, 0.122867, 0.125762, 644.260, 0.0787),
        (0.99, 210.149, 0.025661, 0.028876, 326.566, 0.0399),
    ] {
        // Whole weights: up to one a layer more; one of conv1 is 25,088 operations.
        let (_, erk) = plan(&format!("{common} --sparsity {sparsity}"));
        assert_near(number(&erk, "inference_flops") / 1e6, megaflops, 0.1, "ERK");
        assert_near(number(&erk, "inference_flops_ratio"), ratio, 1.2e-5, "ERK");
        assert_near(number(&erk, "train_flops_ratio"), training, 1.2e-5, "ERK, training");
        let (_, flat) = plan(&format!("{common} --sparsity {sparsity} --distribution uniform"));
        assert_near(number(&flat, "inference_flops") / 1e6, uniform, 0.1, "uniform");
        assert_near(number(&flat, "inference_flops_ratio"), uniform_ratio, 6e-5, "uniform");
    }
}

/// The paper's rows: operations and sizes as its authors count them (appendix H and their notebooks).
#[test]
fn resnet_50_as_the_paper_counts() {
    let common = "--model resnet-50 --flops-convention paper";
    let (_, dense) = plan(&format!("{common} --method dense"));
    assert_near(number(&dense, "inference_flops") / 1e6, 8202.341, 6e-4, "dense");
    assert_near(number(&dense, "paper_size_bytes") / 1e6, 102.122, 1e-3, "dense");
    let (erk, er, uniform) = ("", "--distribution er", "--distribution uniform");
    let (erk_dense_stem, all) = ("--density-override conv1=1", "--distribution uniform --density-override conv1=0.1");
    // Sparsity, options, f_S / f_D, training, training five times as long, megabytes.
    for (sparsity, options, ratio, training, longer, size) in [
        (0.80, erk, 0.4153, Some(0.4172), Some(2.086), Some(23.684)),
        (0.80, uniform, 0.2254, Some(0.2279), Some(1.140), Some(23.729)),
        (0.80, er, 0.4546, None, None, None),
        (0.90, erk, 0.2431, Some(0.2456), Some(1.228), Some(13.499)),
        (0.90, uniform, 0.1285, Some(0.131), Some(0.657), Some(13.532)),
        (0.90, all, 0.1012, Some(0.104), Some(0.521), None),
        (0.90, er, 0.2593, None, None, None),
        (0.95, erk, 0.1230, Some(0.126), Some(0.63), Some(8.399)),
        (0.95, uniform, 0.0801, Some(0.083), Some(0.4157), Some(8.433)),
        (0.965, erk, 0.0865, None, Some(0.448), Some(6.869)),
        (0.965, erk_dense_stem, 0.1125, None, None, Some(6.904)),
        (0.965, uniform, 0.0656, None, Some(0.343), Some(6.904)),
        (0.99, erk_dense_stem, 0.0548, None, Some(0.2895), Some(4.354)),
        (0.99, erk, 0.0257, None, None, None),
        (0.99, uniform, 0.0414, None, None, None),
        (0.80, "--erk-power 0.2", 0.2353, None, None, None),
    ] {
        let what = format!("{sparsity} {options}");
        let (_, total) = plan(&format!("{common} --sparsity {sparsity} {options}"));
        assert_near(number(&total, "inference_flops_ratio"), ratio, 6e-5, &what);
        if let Some(training) = training {
            assert_near(number(&total, "train_flops_ratio"), training, 6e-4, &what);
        }
        if let Some(longer) = longer {
            let (_, total) = plan(&format!("{common} --sparsity {sparsity} {options} --train-length 5"));
            assert_near(number(&total, "train_flops_ratio"), longer, 1e-3, &what);
        }
        if let Some(size) = size {
            assert_near(number(&total, "paper_size_bytes") / 1e6, size, 1e-3 * size, &what);
        }
    }
}

/// Dense networks of a sparse one's size, and sparse ones of the dense one's.
#[test]
fn widths_of_resnet_50() {
    let common = "--model resnet-50 --flops-convention paper";
    for (sparsity, width, ratio) in
        [(0.8, 0.465, 0.2218), (0.9, 0.34, 0.1209), (0.95, 0.26, 0.0723), (0.965, 0.231, 0.0575)]
    {
        let (_, total) = plan(&format!("{common} --sparsity {sparsity} --width small-dense"));
        assert_eq!(number(&total, "width"), width);
        assert_near(number(&total, "inference_flops_ratio"), ratio, 6e-5, "small-dense");
        assert_near(number(&total, "train_flops_ratio"), ratio, 6e-5, "small-dense, training");
    }
    for (sparsity, width, ratio) in [(0.8, 2.1, 0.918), (0.9, 2.8, 0.8465)] {
        let (_, total) = plan(&format!("{common} --sparsity {sparsity} --width {width} --distribution uniform"));
        assert_near(number(&total, "inference_flops_ratio"), ratio, 6e-4, "big-sparse");
    }
}

/// The output cells of google-research/rigl, `MobileNet_Counting.ipynb`. With ERK, the first convolution of its networks
/// of width 1 takes part.
#[test]
fn mobilenet_v1_as_the_paper_counts() {
    let common = "--model mobilenet-v1 --flops-convention paper";
    let row = |options: &str, megaflops: f64, megabytes: f64| {
        let (_, total) = plan(&format!("{common} {options}"));
        assert_near(number(&total, "inference_flops") / 1e6, megaflops, 1e-3 * megaflops, options);
        assert_near(number(&total, "paper_size_bytes") / 1e6, megabytes, 1e-3 * megabytes, options);
        total
    };
    row("--method dense", 1141.544, 16.864);
    row("--sparsity 0.75 --density-override conv1=free", 599.144, 4.888);
    row("--sparsity 0.75 --distribution uniform", 330.769, 4.894);
    row("--sparsity 0.85 --density-override conv1=free", 439.152, 3.224);
    row("--sparsity 0.85 --distribution uniform", 222.666, 3.229);
    row("--sparsity 0.9 --density-override conv1=free", 334.134, 2.392);
    row("--sparsity 0.9 --distribution uniform", 168.614, 2.396);
    row("--sparsity 0.95 --density-override conv1=free", 205.281, 1.560);
    row("--sparsity 0.95 --distribution uniform", 114.563, 1.563);
    for (sparsity, width, megaflops, megabytes) in [
        (0.75, 0.47, 266.539, 4.789),
        (0.85, 0.353, 154.770, 3.076),
        (0.9, 0.285, 103.825, 2.236),
        (0.95, 0.204, 56.617, 1.396),
    ] {
        let total = row(&format!("--sparsity {sparsity} --width small-dense"), megaflops, megabytes);
        assert_eq!(number(&total, "width"), width);
    }
    // The wide networks have the densities of width 1, depthwise convolutions taking part, the first one not.
    let wide = "--densities-of-width-1 --density-override *depthwise=free";
    for (sparsity, width, megaflops, megabytes) in [
        (0.75, 1.98, 2180.140, 16.723),
        (0.85, 2.52, 2442.726, 16.809),
        (0.9, 3.0, 2452.785, 16.664),
        (0.95, 3.98, 2132.954, 16.812),
    ] {
        let total = row(&format!("--sparsity {sparsity} --width big-sparse {wide}"), megaflops, megabytes);
        assert_eq!(number(&total, "width"), width);
    }
    let last = "--distribution uniform --density-override classifier=0.2";
    row(&format!("--sparsity 0.75 --width 1.98 {wide} {last}"), 1122.572, 15.863);
}

/// WRN-22-2 on CIFAR-10: operations without bias and ReLU, ratios under ERK, and uniform with a dense first convolution.
#[test]
fn wrn_22_2_operations() {
    let (layers, dense) = plan("--model wrn-22-2 --flops-convention products --method dense");
    assert_eq!(layers.len(), 23);
    assert_eq!(number(&dense, "nnz"), 1_076_912.0);
    assert_near(number(&dense, "inference_flops") / 1e6, 315.042, 6e-4, "dense");
    for (sparsity, erk, uniform) in
        [(0.5, 0.7279, 0.5007), (0.8, 0.3512, 0.2012), (0.9, 0.1725, 0.1013), (0.95, 0.0869, 0.0514)]
    {
        let (_, total) = plan(&format!("--model wrn-22-2 --flops-convention products --sparsity {sparsity}"));
        assert_near(number(&total, "inference_flops_ratio"), erk, 1e-4, "ERK");
        let (_, total) =
            plan(&format!("--model wrn-22-2 --flops-convention products --sparsity {sparsity} --distribution uniform"));
        assert_near(number(&total, "inference_flops_ratio"), uniform, 1e-4, "uniform");
    }
    // What the solver gives to each kind of layer.
    let (layers, _) = plan("--model wrn-22-2 --sparsity 0.9");
    for (name, expected) in [
        ("conv1", 0.0),
        ("layer1.0.conv1", 0.5788),
        ("layer1.1.conv1", 0.7270),
        ("layer2.0.conv1", 0.8011),
        ("layer2.2.conv2", 0.8694),
        ("layer3.0.conv1", 0.9035),
        ("layer3.1.conv2", 0.9361),
        ("layer1.0.shortcut", 0.0),
        ("layer2.0.shortcut", 0.0),
        ("layer3.0.shortcut", 0.1489),
        ("fc", 0.0),
    ] {
        let layer = layers.iter().find(|layer| layer["name"] == name).unwrap_or_else(|| panic!("no layer {name}"));
        assert_near(1.0 - number(layer, "density"), expected, 4e-4, name);
    }
}
