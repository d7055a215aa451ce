//! The settings of a training run.
//!
//! [`TrainOptions`] is both the options of `rigl train` and the keys of its configuration file; what they resolve to is
//! [`TrainConfig`]. A setting comes from the command line, else from the file given by `--config`, else from the defaults of
//! the table (and, for the data folder, from the environment variable `RIGL_DATA_DIR`).

pub mod error;
mod macros;
mod parts;
mod resolve;
mod table;

pub use self::error::ConfigError;
pub(crate) use self::resolve::{merge_settings, read_toml, remove_setting};
pub use self::table::{
    BatchArgs, BeginningArgs, CountArgs, DataArgs, DensityArgs, DropArgs, FormatArgs, LengthArgs, MethodArgs,
    ModelArgs, OptimizationArgs, PRECISION, PrecisionArgs, RESUMABLE, RunArgs, SequenceArgs, SpreadArgs, SvmlightArgs,
    TextArgs, TrainConfig, TrainOptions, UpdateArgs, WidthArgs,
};
pub(crate) use self::table::{DATA_IN_FOLDERS, RUN};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::train::TrainArgs;
    use crate::commands::{Cli, Command};
    use crate::data::{self, Augment, Normalize};
    use crate::device::Device;
    use crate::method::Method;
    use crate::models::{DensityOverride, ModelName};
    use crate::training::UpdateWindow;
    use clap::CommandFactory;
    use clap::Parser;
    use proptest::prelude::*;
    use std::fs;

    fn args(line: &str) -> TrainArgs {
        match Cli::try_parse_from(["rigl", "train"].into_iter().chain(line.split_whitespace())).unwrap().command {
            Command::Train(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn resolve(line: &str) -> Result<TrainConfig, ConfigError> {
        TrainConfig::resolve(None, &args(line).options, None)
    }

    /// A file beside a command line.
    fn resolve_file(file: &str, line: &str) -> Result<TrainConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        fs::write(&path, file).unwrap();
        TrainConfig::resolve(Some(&path), &args(line).options, None)
    }

    fn message(result: Result<TrainConfig, ConfigError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn without_options_the_defaults_hold() {
        assert_eq!(resolve("").unwrap(), TrainConfig::default());
        assert_eq!(resolve_file("", "").unwrap(), TrainConfig::default());
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = "density = 0.2\nlr = 1\nmodel = '784-32-10'\ndensity-override = ['fc1=0.5']\nnesterov = false";
        let config = resolve_file(file, "").unwrap();
        assert_eq!((config.density, config.lr, config.nesterov), (0.2, 1.0, false));
        assert_eq!(config.model.sizes(), [784, 32, 10]);
        assert_eq!(config.density_override, [DensityOverride { pattern: "fc1".to_owned(), density: Some(0.5) }]);
        let config = resolve_file(file, "--density 0.3 --density-override fc*=0.4 --nesterov").unwrap();
        assert_eq!((config.density, config.lr, config.nesterov), (0.3, 1.0, true));
        assert_eq!(config.density_override[0].to_string(), "fc*=0.4");
    }

    #[test]
    fn two_names_of_one_thing() {
        assert_eq!(resolve("--sparsity 0.9").unwrap().density, 0.1);
        assert_eq!(resolve_file("density = 0.2", "--sparsity 0.3").unwrap().density, 0.7);
        assert_eq!(resolve_file("sparsity = 0.2", "--density 0.3").unwrap().density, 0.3);
        let config = resolve_file("epochs = 3", "--steps 70").unwrap();
        assert_eq!((config.epochs, config.steps, config.total_steps(12)), (None, Some(70), 70));
        let config = resolve_file("steps = 70", "--epochs 3").unwrap();
        assert_eq!((config.epochs, config.steps, config.total_steps(12)), (Some(3), None, 36));
        assert!(message(resolve_file("epochs = 3\nsteps = 3", "")).starts_with("epochs and steps exclude each other"));
        assert!(message(resolve_file("density = 0.3\nsparsity = 0.7", "")).starts_with("density and sparsity"));
        for line in ["--epochs 3 --steps 3", "--density 0.1 --sparsity 0.9"] {
            assert!(Cli::try_parse_from(["rigl", "train"].into_iter().chain(line.split(' '))).is_err());
        }
    }

    #[test]
    fn impossible_values_are_named_with_what_would_be_valid() {
        for (line, option) in [
            ("--density 0", "density: 0"),
            ("--density 1.5", "density: 1.5"),
            ("--density nan", "density: NaN"),
            ("--sparsity 1", "sparsity: 1"),
            ("--sparsity=-0.1", "sparsity: -0.1"),
            ("--update-interval 0", "update-interval: 0"),
            ("--batch-size 0", "batch-size: 0"),
            ("--epochs 0", "epochs: 0"),
            ("--steps 0", "steps: 0"),
            ("--dropout 1", "dropout: 1"),
            ("--label-smoothing=-0.1", "label-smoothing: -0.1"),
            ("--val-fraction 1", "val-fraction: 1"),
            ("--momentum 1", "momentum: 1"),
            ("--lr 0", "lr: 0"),
            ("--lr inf", "lr: inf"),
            ("--weight-decay=-1", "weight-decay: -1"),
            ("--threads 0", "threads: 0"),
            ("--threads 5000", "threads: 5000"),
            ("--loader-threads 0", "loader-threads: 0"),
            ("--data image-folder --image-size 0", "image-size: 0"),
            ("--data image-folder --normalize pixels", "normalize: pixels"),
            ("--data image-folder --augment crop-flip", "augment: crop-flip"),
            ("--data cifar10 --augment random-resized-crop-flip", "augment: random-resized-crop-flip"),
            ("--model gru-64 --normalize pixels", "normalize: pixels"),
            ("--model gru-64 --augment crop-flip", "augment: crop-flip"),
            ("--model gru-64 --loss mse", "loss: mse"),
            ("--model gru-64 --precision bf16", "precision: bf16"),
            ("--data text --text a --text-valid b --val-fraction 0.1", "val-fraction: 0.1"),
            ("--drop-fraction 1.1", "drop-fraction: 1.1"),
            ("--drop-schedule inverse-power --drop-exponent 0", "drop-exponent: 0"),
            ("--erk-power=-1", "erk-power: -1"),
            ("--lr-schedule step", "lr-schedule: step"),
            ("--lr-schedule step --lr-milestones 5,5", "lr-milestones: [5, 5]"),
            ("--lr-schedule step --lr-milestones 5 --lr-gamma 0", "lr-gamma: 0"),
            ("--lr-schedule linear --lr-final 1.5", "lr-final: 1.5"),
            ("--layer-rule paper --model 784-10", "layer-rule: paper"),
        ] {
            let message = message(resolve(line));
            assert!(message.starts_with(&format!("--{option} is invalid; it must be ")), "{line}: {message}");
        }
        assert!(
            message(resolve("--begin-step 8 --end-step 8")).starts_with("begin-step: updates cannot begin at step 8")
        );
    }

    #[test]
    fn every_data_set_is_named_when_none_fits() {
        let message = message(resolve("--data imagenet"));
        assert!(data::KNOWN.iter().all(|name| message.contains(name)), "{message}");
    }

    #[test]
    fn files_are_checked_as_strictly() {
        let message = |file: &str| message(resolve_file(file, ""));
        let unknown = message("densty = 0.1");
        assert!(unknown.contains("run.toml") && unknown.contains("unknown field `densty`"), "{unknown}");
        assert!(unknown.contains("line 1") && unknown.contains("`density`"), "{unknown}");
        let wrong_type = message("seed = 1\nlr = 'fast'");
        assert!(wrong_type.contains("line 2") && wrong_type.contains("lr = 'fast'"), "{wrong_type}");
        assert!(message("optimizer = 'lion'").contains("expected one of `sgd`, `adam`, `adamw`"));
        assert!(message("format = 'bsr3x3'").contains("bsrRxC with R and C of 1, 2, 4, 8 or 16"));
        assert!(message("device = 'tpu'").contains("the devices are cpu"));
        assert!(message("model = 'resnet'").contains("784-300-100-10"));
        assert!(message("density-override = ['fc1=2']").contains("a density must be"));
        assert!(message("density = 2.0").starts_with("--density: 2 is invalid"));
        assert!(message("density = ").contains("run.toml"));
        let missing = TrainConfig::resolve(Some("no/such/file".as_ref()), &TrainOptions::default(), None)
            .unwrap_err()
            .to_string();
        assert!(missing.starts_with("config: no/such/file: "), "{missing}");
    }

    #[test]
    fn options_without_effect_are_refused_on_the_command_line_only() {
        for line in [
            "--method dense --density 0.1",
            "--method dense --init sparse-fan-in",
            "--method dense --format bsr4x4",
            "--method static --drop-fraction 0.2",
            "--drop-exponent 2",
            "--distribution uniform --erk-power 0.5",
            "--layer-rule paper --distribution er",
            "--optimizer adam --momentum 0.5",
            "--lr-gamma 0.5",
            "--lr-final 0.1",
            "--data-dir /data",
            "--data cifar10 --image-size 32",
            "--text a",
            "--model gru-64 --text-symbols characters",
            "--data text --text a --text-test b --test-fraction 0.2",
            "--model gru-64 --data-dir /data",
        ] {
            let message = message(resolve(line));
            assert!(message.contains("has no effect here: it needs "), "{line}: {message}");
        }
        let config = resolve_file("density = 0.3\ndrop-exponent = 2.0", "--method dense").unwrap();
        assert_eq!((config.density, config.drop_exponent), (1.0, 2.0));
    }

    #[test]
    fn defaults_that_depend_on_other_settings() {
        assert_eq!(resolve("--optimizer adamw").unwrap().lr, 1e-3);
        assert_eq!(resolve("--optimizer adamw --lr 0.1").unwrap().lr, 0.1);
        let window = |line: &str, steps| resolve(line).unwrap().update_window(steps);
        assert_eq!(window("", 2400).unwrap(), Some(UpdateWindow { begin: 100, end: 1800 }));
        assert_eq!(window("--begin-step 0 --end-step 7", 2400).unwrap(), Some(UpdateWindow { begin: 0, end: 7 }));
        assert_eq!(window("", 134).unwrap(), None);
        assert_eq!(window("", 135).unwrap(), Some(UpdateWindow { begin: 100, end: 101 }));
        assert!(window("--begin-step 2000", 2400).unwrap_err().to_string().contains("begin at step 2000"));
        // Of a schedule that was asked for, something must happen within the run.
        let refused = |line: &str, steps| match resolve(line).unwrap().scheduled_method(steps) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let never = refused("--begin-step 200 --end-step 300", 120);
        assert!(never.contains("first topology update would be at step 200, but the run has 120 steps"), "{never}");
        let unfinished = refused("--method gmp --density 0.1 --begin-step 20 --update-interval 20 --end-step 240", 120);
        assert!(unfinished.contains("density 0.1 at step 240, but the run has 120 steps"), "{unfinished}");
        for fine in
            ["--begin-step 119 --end-step 300", "--method gmp --begin-step 20 --end-step 120", "--method static"]
        {
            assert_eq!(refused(fine, 120), "");
        }
        // What the last update grows needs steps behind it: a twentieth of the run.
        let late = |line: &str, steps| {
            let config = resolve(line).unwrap();
            config.late_update(config.update_window(steps).unwrap(), steps)
        };
        let line = "--begin-step 120 --end-step 121 --update-interval 1";
        assert_eq!((late(line, 121), late(line, 127), late(line, 128)), (Some(120), Some(120), None));
        assert_eq!(
            (late("--end-step 2400", 2400), late("", 2400), late("--method static", 2400)),
            (Some(2300), None, None)
        );
        let data_dir =
            |line: &str| TrainConfig::resolve(None, &args(line).options, Some("/env".into())).unwrap().data_dir;
        assert_eq!(data_dir("--data mnist"), Some("/env".into()));
        assert_eq!(data_dir("--data mnist --data-dir /cli"), Some("/cli".into()));
        assert_eq!(data_dir(""), None);
        let input = |line: &str| resolve(line).map(|config| (config.normalize, config.augment)).unwrap();
        assert_eq!(input("--data image-folder"), (Normalize::Channels, Augment::RandomResizedCropFlip));
        let loaders = |line: &str| resolve(line).unwrap().loader_thread_count();
        assert_eq!([loaders(""), loaders("--data image-folder"), loaders("--loader-threads 5")], [1, 2, 5]);
        assert_eq!(input("--data mnist"), (Normalize::Pixels, Augment::None));
        assert_eq!(input("--data cifar10"), (Normalize::Channels, Augment::CropFlip));
        assert_eq!(input("--data cifar100 --augment none"), (Normalize::Channels, Augment::None));
        assert_eq!(input("--normalize per-image --augment crop-flip"), (Normalize::PerImage, Augment::CropFlip));
        let text = |line: &str| {
            let config = resolve(line).unwrap();
            let shares = [config.val_fraction, config.test_fraction];
            assert_eq!((config.normalize, config.augment, config.data_dir), (Normalize::None, Augment::None, None));
            (format!("{} {} {}", config.model, config.data, config.text_symbols), shares)
        };
        assert_eq!(text("--model gru-64"), ("gru-64 tiny-shakespeare characters".to_owned(), [0.05, 0.05]));
        assert_eq!(text("--data text --text a --val-fraction 0"), ("gru-512 text bytes".to_owned(), [0.0, 0.05]));
        assert_eq!(text("--data text --text a --text-valid b").1, [0.0, 0.05]);
        assert!(resolve("--data text --text a").unwrap().text[0].is_absolute());
    }

    /// The file written to a run's folder gives the same run.
    #[test]
    fn a_configuration_survives_its_file() {
        for line in [
            "--out somewhere",
            "--format bsr16x1 --epochs 2",
            "--steps 70 --sparsity 0.95 --optimizer adam --seed 9223372036854775807 --threads 3",
            "--data cifar10 --normalize pixels --augment none",
            "--data image-folder --image-size 64 --loader-threads 4",
            "--method dense --data mnist --data-dir /data --lr-schedule step --lr-milestones 10,20",
            "--lr-schedule linear --lr-final 0.1",
            "--model gru-64 --val-fraction 0.2",
            "--data text --text /a,/b --text-test /c --text-symbols characters",
            "--density-override fc1=0.05 --density-override *=1 --drop-schedule inverse-power --begin-step 5 --json",
        ] {
            let config = resolve(line).unwrap();
            let again = resolve_file(&config.to_toml().unwrap(), "").unwrap();
            assert_eq!(again, TrainConfig { out: None, ..config });
        }
    }

    #[test]
    fn models_and_devices_by_name() {
        assert_eq!("lenet-300-100".parse::<ModelName>().unwrap().sizes(), [784, 300, 100, 10]);
        assert_eq!("784-10".parse::<ModelName>().unwrap().to_string(), "784-10");
        for name in ["lenet", "784", "784-", "784-0-10", "-1", "4294967296-10", "784-a-10"] {
            assert!(name.parse::<ModelName>().is_err(), "{name}");
        }
        assert_eq!("cpu".parse::<Device>(), Ok(Device::Cpu));
        assert!("tpu".parse::<Device>().unwrap_err().contains("cpu"));
        #[cfg(feature = "gpu")]
        for (name, device) in
            [("gpu", Device::Gpu(None)), ("gpu:0", Device::Gpu(Some(0))), ("gpu:12", Device::Gpu(Some(12)))]
        {
            assert_eq!(name.parse::<Device>(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        assert!("gpu:x".parse::<Device>().is_err() && "gpu:-1".parse::<Device>().is_err());
        assert_eq!(format!("{:>8}", Method::named("rigl")), "    rigl");
    }

    #[test]
    fn overrides_are_pattern_and_density() {
        let parsed: DensityOverride = "a=b*=0.5".parse().unwrap();
        assert_eq!(parsed, DensityOverride { pattern: "a=b*".to_owned(), density: Some(0.5) });
        let parsed: DensityOverride = "conv1=free".parse().unwrap();
        assert_eq!((parsed.density, parsed.to_string()), (None, "conv1=free".to_owned()));
        for text in ["fc1", "=0.5", "fc1=", "fc1=0", "fc1=x"] {
            assert!(text.parse::<DensityOverride>().is_err(), "{text}");
        }
    }

    /// Every default that the help states is the one in effect, and every option says what it means.
    #[test]
    fn the_help_states_the_defaults_in_effect() {
        let defaults = toml::Table::try_from(TrainConfig::default()).unwrap();
        let command = Cli::command();
        let train = command.find_subcommand("train").unwrap();
        let mut compared = 0;
        for argument in train.get_arguments() {
            let name = argument.get_long().unwrap();
            let help = argument.get_help().unwrap_or_else(|| panic!("--{name} has no help")).to_string();
            assert!(argument.get_help_heading().is_some(), "--{name} has no heading");
            let stated = help.rsplit_once("[default: ").map(|(_, rest)| rest.trim_end_matches(']'));
            let Some(default) = defaults.get(name) else { continue };
            let default = match default {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(list) if list.is_empty() => continue,
                toml::Value::Array(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                other => other.to_string(),
            };
            let stated = stated.unwrap_or_else(|| panic!("--{name}: the default {default} is not stated"));
            assert!(stated == default || stated.starts_with(&format!("{default};")), "--{name}: {stated} {default}");
            compared += 1;
        }
        assert!(compared >= 25, "{compared}");
    }

    /// Each key of the configuration is an option, and each option but those with another meaning a key.
    #[test]
    fn options_and_keys_have_the_same_names() {
        let command = Cli::command();
        let train = command.find_subcommand("train").unwrap();
        let options: Vec<_> = train.get_arguments().filter_map(|a| a.get_long()).collect();
        for key in toml::Table::try_from(TrainConfig::default()).unwrap().keys() {
            assert!(options.contains(&key.as_str()), "{key}");
        }
        let others = ["config", "extend", "profile", "rank-timeout", "resume", "sparsity"];
        for option in options.into_iter().filter(|option| !others.contains(option)) {
            let error = toml::from_str::<TrainOptions>(&format!("{option} = {{ wrong = true }}")).unwrap_err();
            assert!(!error.to_string().contains("unknown field"), "{option}: {error}");
        }
    }

    proptest! {
        /// `--sparsity s` and `--density 1 - s`, as written in decimal, are the same number.
        #[test]
        fn sparsity_is_the_decimal_complement(thousandths in 1u32..1000) {
            let text = |n: u32| format!("0.{n:03}");
            let density = |line: String| resolve(&line).unwrap().density;
            prop_assert_eq!(
                density(format!("--sparsity {}", text(thousandths))),
                density(format!("--density {}", text(1000 - thousandths)))
            );
        }
    }
}
