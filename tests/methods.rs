//! Every method as a user runs it, on the embedded data.

use std::path::Path;

use serde_json::Value;

use crate::running::{output, records};

/// The last of them.
fn done(folder: &Path, args: &str) -> Value {
    records(folder, args).pop().unwrap()
}

/// Two epochs, and what is told of them: the weights asked for, and the operations of the method's rule.
#[test]
fn every_method_trains() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Density 0.1 by Erdős–Rényi–Kernel; a tenth of LeNet's 266,200 weights, to the rounding of three layers.
    let nnz = 26_621;
    let arms = rigl::methods().map(|info| (info.name, "")).chain([
        ("snip", "--method-option scope=global"),
        ("set", "--method-option form=original"),
        ("snfs", "--method-option redistribution=momentum"),
        ("gse", "--method-option sampling=uniform"),
        ("granet", "--method-option scope=layer"),
        ("chts", "--method-option selection=hard"),
        ("mest", "--method-option bound=soft"),
        ("mest", "--method-option decay=stages"),
    ]);
    done(folder, "train --json --epochs 2 --method rigl --out ticket");
    for (i, (method, options)) in arms.enumerate() {
        let ticket = if method == "lottery" { "--ticket ticket" } else { "" };
        // Of 240 steps, so that the fall has a few steps.
        let interval = if ["gmp", "granet", "mest", "chtss"].contains(&method) { "--update-interval 20" } else { "" };
        let line = format!("train --json --epochs 2 --method {method} {options} {ticket} {interval} --out run{i}");
        let records = records(folder, &line);
        let steps: Vec<_> = records.iter().filter_map(|record| record["step"].as_u64()).collect();
        // Also where a batch was used before the training.
        assert_eq!(steps, [120, 240], "{line}");
        let done = &records[2];
        assert!(done["test_accuracy"].as_f64().unwrap() > 0.77, "{line}: {done}");
        let expected = if method == "dense" { 266_200 } else { nnz };
        assert_eq!(done["nnz"], expected, "{line}");
        let ratio = done["train_flops_ratio"].as_f64().unwrap();
        let sparse = done["inference_flops_ratio"].as_f64().unwrap();
        let rule = match method {
            "snfs" | "dnw" => (2.0 * sparse + 1.0) / 3.0,
            "rigl" | "srigl" => (3.0 * sparse * 100.0 + 2.0 * sparse + 1.0) / 303.0,
            _ => sparse,
        };
        match method {
            // From 1 over steps 20 to 180 to 0.1, of which the integral is 20 + 160 · (0.1 + 0.9 / 4) + 60 · 0.1 = 78 of 240;
            // densities fall in steps, and so lie above the curve by half an interval's fall.
            "gmp" => assert!((0.325..0.4).contains(&ratio), "{line}: {ratio}"),
            // Updates 20 to 140 grow 0.3 to 0.044 on top, 1.34 in all, which stay for 20 of 240 steps each.
            "mest" if options.ends_with("soft") => assert!((0.108..0.113).contains(&ratio), "{line}: {ratio}"),
            // From 0.5 to 0.1 over steps 20 to 160, half of it before the middle: 0.1 + 0.4 · 90 / 240, and half an interval's fall.
            "chtss" => assert!((0.23..0.28).contains(&ratio), "{line}: {ratio}"),
            // From 0.5 over steps 20 to 120 of 240, of which it has the integral 0.1 · 240 + 0.4 · (20 + 100 / 4) at most, and half
            // an interval's fall more; operations of growth are the dense network's at nine updates.
            "granet" => assert!((0.15..0.25).contains(&ratio), "{line}: {ratio}"),
            // One batch of 240 is dense.
            "snip" => assert!((ratio - rule - 0.9 / 240.0).abs() < 1e-3, "{line}: {ratio}"),
            _ => assert!((ratio - rule).abs() < 1e-3 * rule, "{line}: {ratio}, by the rule {rule}"),
        }
    }
}

/// A ticket is the pattern of the end with the values of the beginning.
#[test]
fn tickets_begin_where_their_run_began() {
    use trainer::models::StoredModel;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let load = |file: &str| StoredModel::load(&folder.join(file)).unwrap();
    let first = "train --json --steps 120 --seed 5 --checkpoint-every 1 --keep-checkpoints 1000 --out first";
    done(folder, &format!("{first} --update-interval 20"));
    // With a learning rate that changes nothing, what a run ends with is what it began with.
    for method in ["lottery", "rigl --drop-fraction 0"] {
        let out = method.split(' ').next().unwrap();
        done(folder, &format!("train --json --steps 1 --lr 1e-30 --method {method} --ticket first --out {out}"));
        let (begun, ended, ticket) = (
            load("first/checkpoints/step-00000001.safetensors"),
            load("first/checkpoint.safetensors"),
            load(&format!("{out}/checkpoint.safetensors")),
        );
        let mut shared = 0;
        for ((begun, ended), ticket) in begun.layers.iter().zip(&ended.layers).zip(&ticket.layers) {
            assert_eq!(ended.weight.topology(), ticket.weight.topology(), "{}", ticket.name);
            assert_ne!(ended.weight.values(), ticket.weight.values(), "{}", ticket.name);
            // After one step of the first run its weights have moved, but not far: they are the same draw.
            let pairs = begun.weight.to_dense().into_iter().zip(ticket.weight.to_dense());
            for (begun, ticket) in pairs.filter(|(a, b)| *a != 0.0 && *b != 0.0) {
                shared += 1;
                assert!((begun - ticket).abs() < 0.1, "{begun} and {ticket}");
            }
        }
        assert!(shared > 10_000, "{method}: {shared}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (
            "--method riggle",
            "possible values: dense, static, snip, set, snfs, deepr, dsr, dnw, gmp, rigl, gse, granet, mest, srigl, chts, chtss, lottery",
        ),
        ("--method snfs --method-option ema=2", "parameter ema is `2`; it must be at least 0 and below 1"),
        ("--method snfs --method-option emu=2", "method snfs has no parameter `emu`; it takes ema, redistribution"),
        ("--method rigl --method-option ema=2", "method rigl has no parameter `ema`; it takes none"),
        ("--method rigl --method-option ema", "it must be NAME=VALUE"),
        ("--method lottery", "ticket: none is invalid; it must be a run folder or checkpoint with this method"),
        ("--method gmp --format bsr4x4", "format: bsr4x4 is invalid; it must be csr for this method"),
        ("--method gmp --ticket run", "ticket: "),
        ("--method granet --ticket run", "ticket: "),
        ("--method granet --steps 20", "begin-step: "),
        ("--method granet --steps 400 --end-step 500", "end-step: granet would reach density 0.1 at step 500"),
        ("--method granet --method-option start=2", "parameter start is `2`; it must be above 0 and at most 1"),
        ("--method gse --update-semantics reference --method-option gamma=0", "parameter gamma is `0`"),
        ("--method gmp --drop-fraction 0.5", "--drop-fraction has no effect here"),
        ("--method srigl --format bsr4x4", "format: bsr4x4 is invalid; it must be csr for this method"),
        ("--method srigl --growth-batches 2", "--growth-batches has no effect here"),
        ("--method mest --method-option bound=firm", "parameter bound is `firm`; it must be hard or soft"),
        ("--method chtss --method-option end-exponent=-1", "parameter end-exponent is `-1`; it must be"),
        ("--method deepr --update-interval 5", "--update-interval has no effect here"),
        ("--method gmp --init sparse-fan-in", "--init has no effect here"),
        ("--method lottery --ticket nowhere", "nowhere"),
    ] {
        let output = output(folder.path(), &format!("train {args} --out out"));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(expected), "{args}: {message}");
        assert!(!folder.path().join("out").exists(), "{args} left a folder");
        assert_eq!(output.status.code(), Some(2), "{args}: {message}");
    }
}

/// The guide names every method and parameter, with its default.
#[test]
fn the_guide_is_complete() {
    let guide = include_str!("../docs/methods.md");
    for info in rigl::methods() {
        assert!(guide.contains(&format!("| `{}` |", info.name)), "{}", info.name);
        for parameter in info.parameters {
            let row = format!("| `{}` | `{}` | `{}` |", info.name, parameter.name, parameter.default);
            assert!(guide.contains(&row), "{row}");
        }
    }
}
