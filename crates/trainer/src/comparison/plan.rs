//! The runs of a comparison with all their settings, checked before the first of them starts.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sparse_kernels::cpu::Cpu;

use super::definition::{Arm, BIG_SPARSE, DENSE, RUNS, SMALL_DENSE, run_name};
use super::run_folder::deciding_settings;
use super::{ComparisonError, Definition, PlannedName, RunFolder};
use crate::data::{DataError, Dataset, Split};
use crate::models::{ModelName, SequenceFamily, width};
use crate::run_dir::CONFIG;
use crate::settings::error::ConfigError;
use crate::settings::{TrainConfig, TrainOptions};
use crate::{fit, memory};

/// A run with its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRun {
    /// Its place in the comparison.
    pub place: PlannedName,
    /// Its settings.
    pub config: TrainConfig,
    /// Its length.
    pub total_steps: u64,
}

/// What there is of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Nothing.
    New,
    /// A part of it.
    Unfinished,
    /// All.
    Finished,
}

/// All runs of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is compared, with the folder of data that was found.
    pub definition: Definition,
    /// The runs, in the order in which they are made.
    pub runs: Vec<PlannedRun>,
}

impl Plan {
    /// Resolves the settings of all runs and checks them: the data is read once, networks are laid out, densities solved.
    /// `given` are the options of the command line, each of which must have an effect on some run.
    ///
    /// # Errors
    /// Whatever would stop `rigl train` before its first step; two arms that are the same.
    pub fn new(definition: Definition, given: &TrainOptions, env_data_dir: Option<PathBuf>) -> crate::Result<Self> {
        let base = TrainConfig::from_settings(definition.settings.clone(), env_data_dir.clone())?;
        let data = base.load_data(None)?;
        let plan = Self::on(&data, definition, given, env_data_dir)?;
        let cpu = Cpu::new(1, None)?;
        // Seeds need no memory.
        for run in plan.runs.iter().filter(|run| run.place.seed == plan.runs[0].place.seed) {
            let architecture = fit::architecture(&run.config.spec(&data))?;
            let batch_size = run.config.batch_size.min(epoch(&run.config, &data)?[1].max(1));
            memory::check(&cpu, &architecture, batch_size, run.config.held())?;
            if run.config.init_from.is_none() && run.config.ticket.is_none() {
                let densities = run.config.sparsification().solve(&architecture)?;
                memory::check_weights(&cpu, &architecture, &run.config, &densities, batch_size)?;
            }
        }
        Ok(plan)
    }

    /// The same on this data, whose shape and numbers alone count, on a machine with any memory.
    fn on(
        data: &Dataset,
        mut definition: Definition,
        given: &TrainOptions,
        env_data_dir: Option<PathBuf>,
    ) -> crate::Result<Self> {
        let base = TrainConfig::from_settings(definition.settings.clone(), env_data_dir.clone())?;
        let mut configs = Vec::new();
        for arm in &definition.arms {
            for density in definition.densities_of(arm) {
                let config = arm_config(&definition, arm, density, data, env_data_dir.clone())?;
                if !config.loss.is_of_classes() {
                    let (value, rule) =
                        (config.loss.to_string(), "cross-entropy in a comparison, which ranks by accuracy");
                    return Err(ConfigError::Value { option: "loss", value, rule }.into());
                }
                let total_steps = check(&config, data)?;
                configs.push((arm, density, config, total_steps));
            }
        }
        for (i, (arm, density, config, _)) in configs.iter().enumerate() {
            let same = |(_, _, other, _): &&(_, _, TrainConfig, _)| differences(config, other).is_empty();
            if let Some((other, other_density, ..)) = configs[..i].iter().find(same) {
                let first = format!("{} at density {other_density}", other.name);
                return Err(
                    ComparisonError::Same { first, second: format!("{} at density {density}", arm.name) }.into()
                );
            }
        }
        check_effect(given, configs.iter().map(|(_, _, config, _)| config))?;
        let planned = definition.runs().into_iter().map(|place| {
            let of_arm = |(arm, density, ..): &&(&Arm, f64, _, _)| {
                arm.name == definition.arms[place.arm].name && *density == place.density
            };
            let (_, _, config, total_steps) = configs.iter().find(of_arm).expect("each arm and density was resolved");
            let mut config = TrainConfig { seed: place.seed, ..config.clone() };
            if let Some(finder) = finder_of_tickets(&definition, &definition.arms[place.arm], place.density) {
                config.ticket = Some(run_name(&finder.name, place.density, place.seed).into());
            }
            PlannedRun { place, config, total_steps: *total_steps }
        });
        let runs = planned.collect();
        // So that the comparison finds its files from any folder.
        for (key, path) in [("data-dir", &base.data_dir), ("init-from", &base.init_from), ("ticket", &base.ticket)] {
            if let Some(path) = path {
                let text = path.to_str().ok_or_else(|| not_unicode(key, path))?;
                definition.settings.insert(key.to_owned(), text.into());
            }
        }
        for arm in &mut definition.arms {
            for key in ["init-from", "ticket"] {
                if let Some(toml::Value::String(path)) = arm.settings.get_mut(key) {
                    let absolute = std::path::absolute(&*path).unwrap_or_else(|_| PathBuf::from(&*path));
                    *path = absolute.to_str().ok_or_else(|| not_unicode(key, &absolute))?.to_owned();
                }
            }
        }
        Ok(Self { definition, runs })
    }
}

fn not_unicode(key: &str, path: &Path) -> ComparisonError {
    let (place, value) = (key.to_owned(), path.display().to_string());
    ComparisonError::Value { place, value, rule: "valid Unicode, which a TOML file can hold".to_owned() }
}

/// The arm before this one whose runs are its tickets: the first of RigL at this density. None if this one needs no tickets, or
/// has one.
fn finder_of_tickets<'d>(definition: &'d Definition, arm: &Arm, density: f64) -> Option<&'d Arm> {
    let needs = rigl::find_method(&arm.method).is_ok_and(|info| info.needs_ticket);
    let has = definition.settings_of(arm).contains_key("ticket");
    let before = definition.arms.iter().take_while(|other| other.name != arm.name);
    let finds = |other: &&Arm| other.method == "rigl" && definition.densities_of(other).contains(&density);
    before.filter(|_| needs && !has).find(finds)
}

/// Settings of an arm at a density, with the default seed.
fn arm_config(
    definition: &Definition,
    arm: &Arm,
    density: f64,
    data: &Dataset,
    env_data_dir: Option<PathBuf>,
) -> crate::Result<TrainConfig> {
    let resolve = |table: &toml::Table| TrainConfig::from_settings(table.clone(), env_data_dir.clone());
    let mut table = definition.settings_of(arm);
    let by_size = [SMALL_DENSE, BIG_SPARSE].contains(&arm.method.as_str());
    table.insert("method".to_owned(), if by_size { "rigl" } else { arm.method.as_str() }.into());
    if arm.method != DENSE {
        table.insert("density".to_owned(), density.into());
    }
    let own_ticket = table.contains_key("ticket");
    if rigl::find_method(&arm.method).is_ok_and(|info| info.needs_ticket) && !own_ticket {
        let Some(finder) = finder_of_tickets(definition, arm, density) else {
            let rule = "given a ticket, or listed after a rigl arm with the same density, whose runs are its tickets"
                .to_owned();
            return Err(ComparisonError::Value { place: "methods".to_owned(), value: arm.method.clone(), rule }.into());
        };
        table.insert("ticket".to_owned(), finder.name.clone().into());
    }
    let mut config = resolve(&table)?;
    fit::settle(&mut config, data)?;
    if config.init_from.is_some() && (by_size || definition.densities_of(arm).len() > 1) {
        let needs = "new networks (no --init-from), which have no density yet";
        return Err(ConfigError::NoEffect { option: if by_size { "methods" } else { "densities" }, needs }.into());
    }
    if !by_size {
        return Ok(config);
    }
    if config.model.is_mlp() && config.model.sizes().len() < 3 {
        let (place, rule) = ("methods".to_owned(), "a method for networks with hidden layers".to_owned());
        return Err(ComparisonError::Value { place, value: arm.method.clone(), rule }.into());
    }
    if matches!(config.model, ModelName::Own(_)) {
        let (place, rule) =
            ("methods".to_owned(), "a method for a network by name: a file's network has no width".to_owned());
        return Err(ComparisonError::Value { place, value: arm.method.clone(), rule }.into());
    }
    let (spec, sparse) = (config.spec(data), config.sparsification());
    let width = match arm.method.as_str() {
        SMALL_DENSE => width::small_dense(&spec, &sparse)?,
        _ => width::big_sparse(&spec, &sparse)?,
    };
    if config.model.is_mlp() {
        table.insert("model".to_owned(), width::scaled(&spec, width).name.to_string().into());
    } else {
        table.insert("width".to_owned(), width.into());
    }
    if arm.method == SMALL_DENSE {
        table.insert("method".to_owned(), DENSE.into());
        table.remove("density");
    }
    Ok(resolve(&table)?)
}

/// Batches of an epoch of a run, and the samples that it trains on.
fn epoch(config: &TrainConfig, data: &Dataset) -> Result<[usize; 2], DataError> {
    Ok(match data.train.text() {
        Some(text) => {
            let order = config.model.sequence().map(SequenceFamily::order);
            Split::of_text(text.cut(config.val_fraction).0.for_training()?).epoch(config.batch_size, order)
        }
        None => {
            let held_out = (config.val_fraction * data.train.len() as f64).round() as usize;
            let samples = data.train.len().saturating_sub(held_out).max(1);
            [samples.div_ceil(config.batch_size), samples]
        }
    })
}

/// What `rigl train` checks before its first step, but for the memory; returns the run's steps.
fn check(config: &TrainConfig, data: &Dataset) -> crate::Result<u64> {
    let architecture = fit::architecture(&config.spec(data))?;
    fit::check_fit(&architecture, data)?;
    if config.init_from.is_none() {
        config.sparsification().solve(&architecture)?;
    }
    let total_steps = config.total_steps(epoch(config, data)?[0] as u64);
    config.scheduled_method(total_steps)?;
    Ok(total_steps)
}

/// An option of the command line must do something for one arm at least.
fn check_effect<'c>(
    given: &TrainOptions,
    configs: impl Iterator<Item = &'c TrainConfig> + Clone,
) -> Result<(), ConfigError> {
    for (key, value) in toml::Table::try_from(given)? {
        let alone = toml::Table::from_iter([(key, value)]);
        let alone: TrainOptions = alone.try_into().expect("it was an option before");
        let mut first = None;
        if configs
            .clone()
            .all(|config| config.check_effect(&alone).map_err(|error| first.get_or_insert(error)).is_err())
        {
            return first.map_or(Ok(()), Err);
        }
    }
    Ok(())
}

/// Settings that decide a result and differ, but for the seed: key, `there`, `here`. Tickets that are runs of the comparison
/// itself are the same wherever its folder is.
fn differences(there: &TrainConfig, here: &TrainConfig) -> Vec<(String, Value, Value)> {
    let own_ticket = here.ticket.as_ref().is_none_or(|ticket| ticket.is_absolute());
    let settings = |config: &TrainConfig| {
        let mut settings = deciding_settings(config);
        if let Some(path) = config.ticket.as_ref().filter(|_| own_ticket) {
            settings.insert("ticket".to_owned(), path.to_string_lossy().into());
        }
        settings
    };
    let (there, mut here) = (settings(there), settings(here));
    let mut differences = Vec::new();
    for (key, value) in there {
        let other = here.remove(&key).unwrap_or(Value::Null);
        if value != other {
            differences.push((key, value, other));
        }
    }
    differences.extend(here.into_iter().map(|(key, value)| (key, Value::Null, value)));
    differences
}

impl PlannedRun {
    /// Its settings in the comparison's folder `out`, where other runs are its ticket.
    pub fn config_in(&self, out: &Path) -> TrainConfig {
        let ticket = self.config.ticket.as_ref().map(|ticket| {
            let path = out.join(RUNS).join(ticket);
            std::path::absolute(&path).unwrap_or(path)
        });
        TrainConfig { ticket, ..self.config.clone() }
    }

    /// Its folder in that of the comparison.
    pub fn folder(&self, out: &Path) -> PathBuf {
        out.join(RUNS).join(&self.place.name)
    }

    /// What there is of it. A run that a launcher starts has the shards that it chooses, if nothing is said.
    ///
    /// # Errors
    /// [`ComparisonError::OtherSettings`] if the folder holds another run; a file that cannot be read.
    pub fn state(&self, out: &Path, is_launched: bool) -> Result<RunState, ComparisonError> {
        let folder = self.folder(out);
        if !folder.join(CONFIG).is_file() {
            return Ok(RunState::New);
        }
        let run = RunFolder::read(&folder)?;
        let chosen = run.config.shards.filter(|_| is_launched);
        let planned = TrainConfig { shards: self.config.shards.or(chosen), ..self.config.clone() };
        let differences = differences(&run.config, &planned);
        if !differences.is_empty() {
            let text = differences.iter().map(|(key, there, here)| format!("{key} {there} there, {here} here"));
            let differences = text.collect::<Vec<_>>().join("; ");
            return Err(ComparisonError::OtherSettings { path: folder, differences });
        }
        Ok(if run.done.is_some() { RunState::Finished } else { RunState::Unfinished })
    }
}

#[cfg(test)]
mod tests {
    use crate::error::{Kind, Kinded};
    use std::sync::Arc;

    use super::*;
    use crate::commands::{Cli, Command};
    use crate::data;
    use crate::run_dir::{RunDir, RunInfo};
    use clap::Parser;

    fn plan(line: &str) -> crate::Result<Plan> {
        let cli = Cli::try_parse_from(["rigl", "compare"].into_iter().chain(line.split_whitespace())).unwrap();
        let Command::Compare(args) = cli.command else { panic!("another command") };
        let (definition, _) = Definition::resolve(&args.asked())?;
        Plan::new(definition, &args.options, None)
    }

    fn message(line: &str) -> String {
        format!("{:#}", plan(line).unwrap_err())
    }

    #[test]
    fn runs_have_the_settings_of_their_arms() {
        let plan =
            plan("--methods dense,small-dense,big-sparse,rigl --densities 0.1 --seeds 2 --steps 70 --lr 0.3").unwrap();
        let of = |name: &str| &plan.runs.iter().find(|run| run.place.name == name).unwrap().config;
        let rigl = of("rigl-d0.1-s1");
        assert_eq!((rigl.seed, rigl.density, rigl.steps, rigl.lr), (1, 0.1, Some(70), 0.3));
        assert_eq!((rigl.method.to_string(), rigl.epochs), ("rigl".to_owned(), None));
        let dense = of("dense-d1-s0");
        assert_eq!((dense.method.to_string(), dense.density), ("dense".to_owned(), 1.0));
        // As large as the sparse network, and wider than it; the first layer's inputs stay.
        let (small, big) = (of("small-dense-d0.1-s0"), of("big-sparse-d0.1-s0"));
        assert_eq!((small.method.to_string(), small.density), ("dense".to_owned(), 1.0));
        assert_eq!((big.method.to_string(), big.density), ("rigl".to_owned(), 0.1));
        let sizes = |config: &TrainConfig| (config.model.sizes()[0], config.model.sizes()[1], config.model.sizes()[3]);
        assert!(matches!(sizes(small), (784, 30..60, 10)), "{:?}", small.model);
        assert!(matches!(sizes(big), (784, 900..2000, 10)), "{:?}", big.model);
        assert!(plan.runs.iter().all(|run| run.total_steps == 70));
        let wide = Plan::new(
            Definition::read_text(
                "[settings]\nmodel = 'wrn-10-1'\naugment = 'none'\n[[arm]]\nname = 'a'\nmethod = 'small-dense'",
            ),
            &TrainOptions::default(),
            None,
        );
        let width = wide.unwrap().runs[0].config.width;
        assert!(width > 0.1 && width < 0.6, "{width}");
    }

    #[test]
    fn what_would_stop_a_run_stops_the_comparison() {
        for (line, parts) in [
            ("--model 10-20-10", &["10-20-10", "784 features"][..]),
            ("--data mnist", &["mnist", "--data-dir"]),
            ("--densities 1e-18", &["density"]),
            ("--begin-step 50 --end-step 20", &["begin-step", "50"]),
            ("--methods static,dense --update-interval 50", &["--update-interval", "topology"]),
            ("--methods small-dense --model 784-10", &["small-dense", "hidden layers"]),
            ("--epochs 0", &["epochs", "at least 1"]),
        ] {
            let message = message(line);
            assert!(parts.iter().all(|part| message.contains(part)), "{line}: {message}");
        }
        // One arm for which an option has an effect is enough.
        plan("--methods static,set --update-interval 50").unwrap();
    }

    #[test]
    fn arms_that_are_the_same_are_refused() {
        let file = "[[arm]]\nname = 'a'\nmethod = 'set'\n[[arm]]\nname = 'b'\nmethod = 'set'\nepochs = 20";
        let error = Plan::new(Definition::read_text(file), &TrainOptions::default(), None).unwrap_err().to_string();
        assert!(error.starts_with("a at density 0.1 and b at density 0.1 are the same runs"), "{error}");
    }

    #[test]
    fn tickets_tell_arms_apart() {
        let file = "[[arm]]\nname = 'a'\nmethod = 'lottery'\nticket = 'x'\n[[arm]]\nname = 'b'\nmethod = 'lottery'\nticket = 'y'";
        let tickets = Plan::new(Definition::read_text(file), &TrainOptions::default(), None).unwrap();
        let ticket = tickets.definition.arms[0].settings["ticket"].as_str().unwrap();
        assert!(Path::new(ticket).is_absolute(), "{ticket}");
        let file = file.replace("'y'", "'x'");
        let error = Plan::new(Definition::read_text(&file), &TrainOptions::default(), None).unwrap_err().to_string();
        assert!(error.contains("are the same runs"), "{error}");
        // A comparison whose folder was moved finds the tickets that it made itself.
        let plan = plan("--methods rigl,lottery --seeds 1 --steps 5").unwrap();
        let [here, there] = ["here", "there"].map(|out| plan.runs[1].config_in(Path::new(out)));
        assert!(here.ticket.as_ref().unwrap().ends_with("here/runs/rigl-d0.1-s0") && here.ticket != there.ticket);
        assert_eq!(differences(&there, &plan.runs[1].config), []);
        assert_eq!(differences(&there, &here)[0].0, "ticket");
    }

    /// A data set of the size of the real one, without pictures.
    fn outline(name: &str) -> Dataset {
        if data::text::is_text(name) {
            let text = data::text::load_tiny_shakespeare(128, 0.05, None).unwrap();
            return Dataset { name: name.to_owned(), ..text };
        }
        // Of image folders, ImageNet.
        let imagenet = ([3, 224, 224], 1000, [1_281_167, 50_000]);
        let (shape, classes, samples) =
            data::KnownSet::named(name).map_or(imagenet, |set| (set.shape, set.classes, set.samples));
        let split = |samples| {
            Arc::new(data::Split { shape, inputs: data::Inputs::Bytes(vec![]), targets: vec![0; samples].into() })
        };
        let [train, test] = samples.map(split);
        Dataset {
            name: name.to_owned(),
            classes,
            shape,
            train,
            validation: None,
            test,
            table: None,
            class_names: None,
            target_scale: None,
            alphabet: None,
            numbering: None,
        }
    }

    /// File, runs a seed, published numbers, and the sum of these in hundredths of a percent.
    const EXPERIMENTS: [(&str, usize, usize, u32); 13] = [
        ("gpt-shakespeare.toml", 6, 0, 0),
        ("gru-text-small.toml", 13, 0, 0),
        ("gru-text.toml", 13, 0, 0),
        ("half-precision.toml", 2, 0, 0),
        ("lenet-fashion-mnist.toml", 9, 6, 52_830),
        ("lenet-mnist-compression.toml", 1, 1, 9_852),
        ("mlp-99-cifar10.toml", 5, 2, 12_660),
        ("mlp-99-fashion-mnist.toml", 5, 2, 17_891),
        ("mlp-99-mnist.toml", 5, 2, 19_675),
        ("mobilenet-v1-imagenet.toml", 11, 11, 75_720),
        ("resnet-50-cifar100.toml", 23, 23, 167_380),
        ("resnet-50-imagenet.toml", 48, 46, 323_230),
        ("wrn-22-2-cifar10.toml", 33, 27, 249_990),
    ];

    /// Each file is read, all its arms are possible on data of this shape, and each published number stands beside a run.
    #[test]
    fn every_experiment_is_possible_and_its_published_numbers_are_there() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.filter(|name| name.ends_with(".toml")).collect();
        files.sort();
        assert_eq!(files, EXPERIMENTS.map(|(name, ..)| name));
        for (name, runs, published, sum) in EXPERIMENTS {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).unwrap();
            let definition = Definition::read(&path).unwrap_or_else(|error| panic!("{error:#}"));
            let data =
                definition.settings.get("data").map_or(data::text::TINY_SHAKESPEARE, |data| data.as_str().unwrap());
            // The paper's text is a file of one's own.
            let rest = match data {
                data::text::TINY_SHAKESPEARE => "\n",
                data::text::TEXT => " --text classics-train.txt.xz",
                _ => " --data-dir DIR\n",
            };
            assert!(text.contains(&format!("#   rigl compare --config experiments/{name}{rest}")), "{name}");
            let given = TrainOptions {
                text: (data == data::text::TEXT).then(|| vec![std::path::PathBuf::from("classics-train.txt.xz")]),
                ..TrainOptions::default()
            };
            let data = outline(data);
            let plan = Plan::on(&data, definition, &given, None);
            let Plan { definition, runs: planned } = plan.unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert_eq!(planned.len(), runs * definition.seeds.len(), "{name}");
            for number in &definition.published {
                let arm = definition.arms.iter().find(|arm| arm.name == number.arm).unwrap();
                assert!(definition.densities_of(arm).contains(&number.density), "{name}: {number:?}");
                assert!(number.source.is_some(), "{name}: {number:?}");
            }
            let accuracies = definition.published.iter().map(|number| (number.accuracy * 10_000.0).round() as u32);
            assert_eq!((definition.published.len(), accuracies.sum::<u32>()), (published, sum), "{name}");
        }
    }

    #[test]
    fn a_folder_with_another_run_is_told_from_one_with_this() {
        let out = tempfile::tempdir().unwrap();
        let plan = plan("--methods set --steps 5 --threads 1").unwrap();
        let run = &plan.runs[0];
        assert_eq!(run.state(out.path(), false).unwrap(), RunState::New);
        // More threads make no other run.
        let config = TrainConfig { out: Some(run.folder(out.path())), threads: Some(3), ..run.config.clone() };
        let mut folder = RunDir::create(&config, &RunInfo::new(crate::device::Place::of_cpu(1, "avx2"))).unwrap();
        assert_eq!(run.state(out.path(), false).unwrap(), RunState::Unfinished);
        let mut other = run.clone();
        (other.config.lr, other.config.steps) = (0.7, Some(6));
        let error = other.state(out.path(), false).unwrap_err();
        assert!(matches!(error, ComparisonError::OtherSettings { .. }) && error.kind() == Kind::Usage);
        let error = error.to_string();
        assert!(error.contains("lr 0.1 there, 0.7 here") && error.contains("steps 5 there, 6 here"), "{error}");
        folder.append(&serde_json::json!({ "event": "epoch", "epoch": 1, "step": 5, "train_loss": 1.5 })).unwrap();
        assert_eq!(run.state(out.path(), false).unwrap(), RunState::Unfinished);
        let done = serde_json::json!({
            "event": "done", "test_accuracy": 0.5, "test_loss": 1.0, "nnz": 3, "density": 0.1, "train_flops_ratio": 0.1,
            "inference_flops_ratio": 0.1, "train_seconds": 2.0
        });
        folder.append(&done).unwrap();
        assert_eq!(run.state(out.path(), false).unwrap(), RunState::Finished);
    }
}
