//! The command line of `rigl`: its commands, one file each.

mod bench;
mod bench_compare;
mod bench_kernel;
mod bench_step;
pub(crate) mod compare;
mod completions;
mod compress;
mod data;
mod devices;
mod eval;
mod exit;
mod export;
mod import;
mod landscape;
mod machine;
mod model_data;
mod network;
mod plan;
mod plan_ranks;
mod predict;
mod report;
mod sample;
mod summary;
pub(crate) mod train;
mod values;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

pub use self::exit::{exit_code, is_closed_output, message};

/// Trains sparse neural networks; time and memory follow density.
///
/// A weight that does not exist is not stored or multiplied and has no gradient. Density is the share of weights that
/// exist: at 0.1, one weight in ten.
#[derive(Debug, Parser)]
#[command(name = "rigl", version, max_term_width = 80, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The command line of a process. A negative number behind an option is its value, so that the option's rule answers it.
    ///
    /// # Errors
    /// Wrong use, and requests for help.
    pub fn of_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut joined: Vec<OsString> = Vec::new();
        for argument in arguments {
            let is_number =
                |text: &str| text.starts_with('-') && text.split(',').all(|part| part.parse::<f64>().is_ok());
            let takes = |option: &str| option.starts_with("--") && option != "--" && !option.contains('=');
            match joined.last_mut() {
                Some(option) if option.to_str().is_some_and(takes) && argument.to_str().is_some_and(is_number) => {
                    option.push("=");
                    option.push(argument);
                }
                _ => joined.push(argument),
            }
        }
        Self::try_parse_from(joined)
    }
}

impl Command {
    /// Whether it only tells something: nothing is lost if nobody reads on.
    pub fn only_tells(&self) -> bool {
        match self {
            Self::Bench(_) | Self::Completions(_) | Self::Compress(_) | Self::Devices(_) => true,
            Self::Eval(_) | Self::Plan(_) | Self::Predict(_) | Self::Report(_) | Self::Sample(_) => true,
            Self::Data(command) => command.only_tells(),
            Self::Compare(_) | Self::Export(_) | Self::Import(_) | Self::Landscape(_) | Self::Train(_) => false,
        }
    }
}

/// The commands: `Name(file::Arguments)`, where the file's `run` takes the arguments, and what stands behind `with`.
macro_rules! commands {
    ($($(#[$attribute:meta])* $name:ident($file:ident::$arguments:ident) $(with $more:expr)?,)+) => {
        /// The commands.
        #[derive(Debug, Subcommand)]
        pub enum Command {
            $($(#[$attribute])* $name(Box<$file::$arguments>),)+
        }

        /// Runs a command.
        ///
        /// # Errors
        /// Whatever stops it; [`exit_code`] gives the kind.
        pub fn run(command: Command) -> crate::Result<()> {
            match command {
                $(Command::$name(arguments) => $file::run(&arguments $(, $more)?),)+
            }
        }
    };
}

commands! {
    /// Train a network; by default LeNet-300-100 at density 0.1 with RigL on embedded images.
    Train(train::TrainArgs),
    /// Train with several methods, densities and seeds, and report the results side by side.
    Compare(compare::CompareArgs),
    /// Make an HTML report from existing runs.
    Report(report::ReportArgs),
    /// Show each layer's shape, density, operations and bytes, and the totals relative to the dense network.
    Plan(plan::PlanArgs),
    /// Time sparse code and dense code on this machine.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// List the processor and GPUs available to --device, and their features.
    Devices(devices::DevicesArgs),
    /// Evaluate the model of a run or checkpoint, or an imported model.
    Eval(eval::EvalArgs),
    /// Predict classes, numbers or labels of new pictures, table rows or arrays.
    Predict(predict::PredictArgs),
    /// Print text from a model that was trained on a text, symbol by symbol.
    Sample(sample::SampleArgs),
    /// Remove a perceptron's unconnected units, and show what remains.
    Compress(compress::CompressArgs),
    /// Show the loss along paths between two trained networks: a line, and curves trained for a low loss.
    Landscape(landscape::LandscapeArgs),
    /// Write a model, or one of its matrices, for other programs.
    Export(export::ExportArgs),
    /// Import a model from another program's files, optionally pruned to a density.
    Import(import::ImportArgs),
    /// List, fetch and verify data sets.
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Print a script by which a shell completes commands and options.
    Completions(completions::CompletionsArgs) with Cli::command(),
}

#[cfg(test)]
mod tests {
    use super::bench::BenchCommand;
    use super::bench_kernel::arguments::{KernelFormat, KernelOp, KernelShape, PatternSource, Shape};
    use super::*;
    use crate::landscape::{BATCH_SIZE, PathTraining};
    use crate::models::Format;
    use clap_complete::Shell;

    fn parse(line: &str) -> Result<Command, String> {
        let parsed = Cli::of_arguments(std::iter::once("rigl").chain(line.split_whitespace()).map(OsString::from));
        parsed.map(|cli| cli.command).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_80_columns() {
        fn check(command: &mut clap::Command) {
            let help = command.render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
            command.get_subcommands_mut().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&mut command);
    }

    #[test]
    fn completions_know_commands_and_options() {
        for (shell, parts) in [
            (Shell::Bash, ["complete -F _rigl", "--early-stopping"]),
            (Shell::Zsh, ["#compdef rigl", "--early-stopping"]),
            (Shell::Fish, ["complete -c rigl", "-l early-stopping"]),
        ] {
            let script = completions::script(shell, Cli::command());
            assert!(parts.iter().all(|part| script.contains(part)), "{shell}");
        }
    }

    #[test]
    fn negative_numbers_are_values() {
        for (line, option) in [
            ("--lr -1", "--lr: -1 is invalid"),
            ("--lr -1e-3 --seed 1", "--lr: -0.001 is invalid"),
            ("--erk-power -inf", "--erk-power: -inf is invalid"),
        ] {
            match parse(&format!("train {line}")).unwrap() {
                Command::Train(args) => {
                    let message =
                        crate::settings::TrainConfig::resolve(None, &args.options, None).unwrap_err().to_string();
                    assert!(message.starts_with(option), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
        for (line, value) in [
            ("train --lr-milestones -5,8", "'-5' for '--lr-milestones"),
            ("train --epochs -5", "'-5' for '--epochs"),
            ("plan --density -0.5", "-0.5"),
            ("landscape a b --steps -1", "'-1' for '--steps"),
            ("bench kernel --threads -2", "'-2' for '--threads"),
        ] {
            let result = parse(line);
            assert!(
                !matches!(&result, Err(message) if message.contains("unexpected argument") || !message.contains(value)),
                "{line}: {result:?}"
            );
        }
    }

    #[test]
    fn the_help_of_landscape_states_its_defaults() {
        let command = Cli::command();
        let landscape = command.find_subcommand("landscape").unwrap();
        let PathTraining { steps, learning_rate, weight_decay } = PathTraining::default();
        for (name, default) in [
            ("steps", steps.to_string()),
            ("lr", learning_rate.to_string()),
            ("weight-decay", weight_decay.to_string()),
            ("batch-size", BATCH_SIZE.to_string()),
        ] {
            let argument = landscape.get_arguments().find(|argument| argument.get_long() == Some(name)).unwrap();
            let help = argument.get_help().unwrap().to_string();
            assert!(help.ends_with(&format!("[default: {default}]")), "--{name}: {help}");
        }
    }

    #[test]
    fn usage_errors_list_what_is_valid() {
        for (line, parts) in [
            ("train --optimizer lion", ["--optimizer", "sgd, adam, adamw"].as_slice()),
            ("train --precision f8", &["--precision", "f32, bf16"]),
            ("train --device gpu:x", &["--device", "cpu"]),
            ("train --model resnet-51", &["--model", "784-300-100-10", "resnet-50"]),
            ("train --model wrn-21-2", &["--model", "D = 6 n + 4"]),
            ("train --seed -1", &["-1"]),
            ("train --densty 0.1", &["--densty", "--density"]),
            ("train --density-override fc1", &["PATTERN=DENSITY"]),
            (
                "bench kernel --op conv",
                &["--op", "spmm, spmm_t, sddmm, grow, conv_forward, conv_input_grad, conv_weight_grad"],
            ),
            ("bench kernel --op conv_forward --stride 0", &["--stride", "at least 1"]),
            ("bench kernel --isa sse9", &["--isa", "auto, scalar, neon, avx2, avx512, portable"]),
            ("bench kernel --format bsr3x4", &["--format", "csr", "bsr4x4", "16", "dense"]),
            ("train --format bsr3x3", &["--format", "bsr3x3", "csr", "1, 2, 4, 8 or 16"]),
            ("plan --format bsr", &["--format", "bsr4x4"]),
            ("bench step --format 8x8", &["--format", "bsr4x4"]),
            ("bench kernel --dtype f8", &["--dtype", "f32, f16, bf16"]),
            ("bench kernel --shape 3x4", &["--shape", "MxKxN", "OCxICxKxHxWxN"]),
            ("bench kernel --op conv_forward --shape 3x4x3x0x8x1", &["--shape", "at least 1"]),
            ("bench kernel --pattern diagonal", &["--pattern", "banded", ".smtx"]),
            ("bench step --density 0.1,0", &["--density", "above 0"]),
            ("landscape a", &["<B>"]),
            ("landscape a b --curves quartic", &["--curves", "linear, quadratic, cubic"]),
            ("landscape a b --points 2", &["--points", "at least 3"]),
            ("landscape a b --space dense", &["--space", "sparse, full, both"]),
            ("landscape a b --lr 0", &["--lr", "above 0"]),
            ("landscape a b --steps 0", &["--steps", "1.."]),
        ] {
            let message = parse(line).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{line}: {message}");
        }
    }

    #[test]
    fn benches_and_plans_have_their_defaults() {
        let kernel = |line: &str| match parse(line).unwrap() {
            Command::Bench(command) => match *command {
                BenchCommand::Kernel(args) => args,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let conv = kernel("bench kernel --op conv_input_grad --format dense");
        let kernel = kernel("bench kernel --op spmm_t --pattern a.smtx");
        assert_eq!((kernel.op, kernel.shape), (KernelOp::SpmmT, KernelShape::Linear(Shape { m: 512, k: 512, n: 128 })));
        assert_eq!((kernel.op.to_string(), kernel.shape.to_string()), ("spmm_t".to_owned(), "512x512x128".to_owned()));
        assert_eq!(kernel.format, KernelFormat::Sparse(Format::Csr));
        assert_eq!(
            (conv.shape.to_string(), conv.format.to_string()),
            ("64x64x3x32x32x32".to_owned(), "dense".to_owned())
        );
        for text in ["csr", "bsr4x4", "bsr16x1", "bsr1x8"] {
            assert_eq!(text.parse::<Format>().unwrap().to_string(), text);
        }
        assert!(["bsr", "bsr04x4", "bsr4", "bsr4x4x4", "csr4x4"].iter().all(|text| text.parse::<Format>().is_err()));
        assert_eq!((kernel.density, kernel.pattern), (vec![0.2, 0.1, 0.05], PatternSource::File("a.smtx".into())));
        let plan = |line: &str| match parse(line).unwrap() {
            Command::Plan(plan) => plan.config().unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!((plan("plan").density, plan("plan --sparsity 0.8").density), (0.1, 0.2));
        for (line, option) in [("plan --density 2", "--density"), ("plan --update-interval 0", "--update-interval")] {
            assert!(plan(line).check().unwrap_err().to_string().contains(option), "{line}");
        }
    }
}
