//! What is compared: from the command line, a file, or both.
//!
//! The file's tables are `[settings]` (as of `rigl train --config`), `[compare]`, `[[arm]]` and `[[published]]`; the help of
//! `rigl compare` shows one. The command line wins over the file, over the settings of single arms too.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ComparisonError;
use crate::error::Context;
use crate::settings::error::ConfigError;
use crate::settings::{RESUMABLE, TrainConfig, TrainOptions, merge_settings, read_toml, remove_setting};

/// Seeds of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Seeds {
    /// So many, from a first one on.
    Count(u64),
    /// These.
    List(Vec<u64>),
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = "it must be a number of seeds, such as 3, or a list of seeds, such as 0,5,7 (or 5, for one seed)";
        let number = |text: &str| text.parse::<u64>().ok().filter(|&seed| i64::try_from(seed).is_ok());
        let parsed = match text.strip_suffix(',').unwrap_or(text) {
            list if text.contains(',') => list.split(',').map(number).collect::<Option<_>>().map(Self::List),
            count => number(count).map(Self::Count),
        };
        parsed.ok_or_else(|| rule.to_owned())
    }
}

/// The file in a comparison's folder that says what is compared.
pub const COMPARISON: &str = "comparison.toml";

/// The folder of the runs in that of a comparison.
pub(super) const RUNS: &str = "runs";

/// The folder of the settings that the runs were given.
const SETTINGS: &str = "settings";

/// The settings that a run was given, in the folder of its comparison.
pub fn settings_file(out: &Path, run: &str) -> PathBuf {
    out.join(SETTINGS).join(format!("{run}.toml"))
}

/// Why a run failed, as long as it has not been tried again.
pub fn failure_file(out: &Path, run: &str) -> PathBuf {
    out.join(SETTINGS).join(format!("{run}.failure.txt"))
}

/// The dense network that is as large as the sparse one.
pub(super) const SMALL_DENSE: &str = "small-dense";
/// RigL on a network so wide that it is as large as the dense one.
pub(super) const BIG_SPARSE: &str = "big-sparse";
/// The method that all others are compared with.
pub(super) const DENSE: &str = "dense";

const DEFAULT_METHODS: [&str; 4] = [DENSE, "static", "set", "rigl"];
const DEFAULT_SEEDS: u64 = 3;

/// Settings that a comparison makes itself, and what makes them.
const INSTEAD: [(&str, &str); 3] = [
    ("method", "--methods, or [[arm]] in a file"),
    ("density", "--densities, or densities in a file"),
    ("sparsity", "--densities, or densities in a file"),
];

/// What is compared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Definition {
    /// The report's title.
    pub title: Option<String>,
    /// Where the experiment is published.
    pub source: Option<String>,
    /// Text for the report.
    pub notes: Option<String>,
    /// The settings of all runs, with the keys of [`TrainOptions`].
    pub settings: toml::Table,
    /// Densities of the arms that have none of their own.
    pub densities: Vec<f64>,
    /// Seeds of every arm.
    pub seeds: Vec<u64>,
    /// What is set against each other.
    pub arms: Vec<Arm>,
    /// Numbers to stand beside ours.
    pub published: Vec<Published>,
}

/// One of the things that are set against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Its name in table and report.
    pub name: String,
    /// A method of `rigl train`, `small-dense` or `big-sparse`.
    pub method: String,
    /// Its own densities.
    pub densities: Option<Vec<f64>>,
    /// Its own settings, which win over the common ones.
    pub settings: toml::Table,
}

/// A published number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The arm it belongs to.
    pub arm: String,
    /// The density it belongs to.
    pub density: f64,
    /// Share of right answers on the test set.
    pub accuracy: f64,
    /// Its standard deviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
    /// Where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What else to know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A run by its place in the comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedName {
    /// Index of its arm.
    pub arm: usize,
    /// The density asked for.
    pub density: f64,
    /// Its seed.
    pub seed: u64,
    /// Its folder's name.
    pub name: String,
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notes: Option<String>,
    #[serde(default)]
    settings: TrainOptions,
    #[serde(default)]
    compare: Grid,
    #[serde(default)]
    arm: Vec<toml::Table>,
    #[serde(default)]
    published: Vec<Published>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grid {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    densities: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seeds: Option<Seeds>,
}

/// What a command line asks for; see `rigl compare --help`.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Methods, or names of the file's arms.
    pub methods: Option<&'a [String]>,
    /// Densities of all arms.
    pub densities: Option<&'a [f64]>,
    /// Seeds.
    pub seeds: Option<&'a Seeds>,
    /// The file.
    pub config: Option<&'a Path>,
    /// The folder of the comparison to resume.
    pub resume: Option<&'a Path>,
    /// Settings of all runs.
    pub options: &'a TrainOptions,
}

impl Definition {
    /// What a command line asks for, and the folder it goes to.
    ///
    /// # Errors
    /// [`ComparisonError`] or [`ConfigError`]: the file, a key, a value, or an option that is not for a comparison.
    pub fn resolve(asked: &Asked<'_>) -> crate::Result<(Self, PathBuf)> {
        let mut given = table_of(asked.options)?;
        refuse("the command line", &given, &INSTEAD)?;
        ["out", "json"].iter().for_each(|&key| drop(given.remove(key)));
        let out = asked.options.out.clone();
        if let Some(folder) = asked.resume {
            let file = folder.join(COMPARISON);
            if !file.is_file() {
                return Err(ComparisonError::NoRun { path: folder.to_owned() }.into());
            }
            let other = given.keys().find(|key| !RESUMABLE.contains(&key.as_str())).cloned();
            if let Some(option) = other.or(out.map(|_| "out".to_owned())) {
                return Err(ConfigError::Resume { option, config: file }.into());
            }
            let mut definition = Self::read(&file)?;
            definition.override_settings(given);
            return Ok((definition, folder.to_owned()));
        }
        let mut definition = match asked.config {
            Some(path) => Self::read(path)?,
            None => Self::from_file(File::default())?,
        };
        match asked.methods {
            Some(names) if !definition.arms.is_empty() => definition.select(names)?,
            Some(names) => definition.arms = arms_of(names)?,
            None if definition.arms.is_empty() => definition.arms = arms_of(&DEFAULT_METHODS.map(str::to_owned))?,
            None => {}
        }
        let first = given.remove("seed").and(asked.options.seed);
        let by_file = definition.seeds.first().copied();
        match (asked.seeds, first) {
            (Some(list @ Seeds::List(_)), first) => definition.seeds = seed_list("--seeds", list, first)?,
            (Some(count), first) => definition.seeds = seed_list("--seeds", count, first.or(by_file))?,
            (None, Some(_)) => {
                let count = Seeds::Count(definition.seeds.len() as u64);
                definition.seeds = seed_list("--seed", &count, first)?;
            }
            (None, None) => {}
        }
        if let Some(densities) = asked.densities {
            check_densities("--densities", densities)?;
            definition.densities = densities.to_vec();
            definition.arms.iter_mut().filter(|arm| arm.method != DENSE).for_each(|arm| arm.densities = None);
        }
        definition.override_settings(given);
        let out = out.unwrap_or_else(|| definition.default_out(asked.config));
        Ok((definition, out))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ComparisonError`].
    pub fn read(path: &Path) -> crate::Result<Self> {
        Self::from_file(read_toml(path)?).context(|| format!("config: {}", path.display()))
    }

    fn from_file(file: File) -> crate::Result<Self> {
        let mut settings = table_of(&file.settings)?;
        refuse("[settings]", &settings, &INSTEAD)?;
        refuse("[settings]", &settings, &OF_COMMAND)?;
        check_alternatives("[settings]", &settings)?;
        settings.remove("seed");
        let arms = file.arm.into_iter().map(Arm::from_table).collect::<Result<Vec<_>, _>>()?;
        check_names(&arms)?;
        let densities = file.compare.densities.unwrap_or_else(|| vec![TrainConfig::default().density]);
        check_densities("[compare]", &densities)?;
        file.published.iter().try_for_each(|published| published.check(&arms))?;
        let seeds = file.compare.seeds.unwrap_or(Seeds::Count(DEFAULT_SEEDS));
        Ok(Self {
            title: file.title,
            source: file.source,
            notes: file.notes,
            settings,
            densities,
            seeds: seed_list("[compare]", &seeds, file.settings.seed)?,
            arms,
            published: file.published,
        })
    }

    /// As a file that `--config` reads.
    ///
    /// # Errors
    /// [`ConfigError::Encoding`] if a path is not Unicode.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let settings = self.settings.clone().try_into().expect("they were checked when they were taken");
        let file = File {
            title: self.title.clone(),
            source: self.source.clone(),
            notes: self.notes.clone(),
            settings,
            compare: Grid { densities: Some(self.densities.clone()), seeds: Some(Seeds::List(self.seeds.clone())) },
            arm: self.arms.iter().map(Arm::to_table).collect(),
            published: self.published.clone(),
        };
        Ok(toml::to_string(&file)?)
    }

    /// The densities of an arm: the dense network has one.
    pub fn densities_of(&self, arm: &Arm) -> Vec<f64> {
        match &arm.densities {
            _ if arm.method == DENSE => vec![1.0],
            Some(own) => own.clone(),
            None => self.densities.clone(),
        }
    }

    /// All runs, seed by seed, so that the first results are of all arms and a machine that slows down slows all of them.
    pub fn runs(&self) -> Vec<PlannedName> {
        let mut runs = Vec::new();
        for &seed in &self.seeds {
            for (index, arm) in self.arms.iter().enumerate() {
                for density in self.densities_of(arm) {
                    let name = run_name(&arm.name, density, seed);
                    runs.push(PlannedName { arm: index, density, seed, name });
                }
            }
        }
        runs
    }

    /// The settings of one arm, as a table of [`TrainOptions`], without method, density and seed.
    pub(super) fn settings_of(&self, arm: &Arm) -> toml::Table {
        let mut table = self.settings.clone();
        merge_settings(&mut table, arm.settings.clone());
        table
    }

    /// Keeps the arms of these names.
    fn select(&mut self, names: &[String]) -> Result<(), ComparisonError> {
        let known: Vec<_> = self.arms.iter().map(|arm| arm.name.clone()).collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            return Err(value("--methods", unknown, format!("one of the file's arms: {}", known.join(", "))));
        }
        self.arms.retain(|arm| names.contains(&arm.name));
        self.published.retain(|published| names.contains(&published.arm));
        Ok(())
    }

    /// Settings that win over those of all arms too.
    fn override_settings(&mut self, given: toml::Table) {
        for key in given.keys() {
            self.arms.iter_mut().for_each(|arm| remove_setting(&mut arm.settings, key));
        }
        merge_settings(&mut self.settings, given);
    }

    /// Found again by the same command.
    fn default_out(&self, file: Option<&Path>) -> PathBuf {
        let name = match file.and_then(Path::file_stem) {
            Some(stem) => stem.to_string_lossy().into_owned(),
            None => {
                let defaults = TrainConfig::default();
                let text = |key: &str| self.settings.get(key).and_then(toml::Value::as_str);
                let model = text("model").and_then(|model| model.parse().ok()).unwrap_or(defaults.model);
                format!("compare-{model}-{}", text("data").unwrap_or(&defaults.data))
            }
        };
        Path::new(RUNS).join(name)
    }
}

impl Arm {
    /// Name, method, densities, and settings for the rest.
    fn from_table(mut table: toml::Table) -> crate::Result<Self> {
        let mut text = |key: &str| match table.remove(key) {
            Some(toml::Value::String(text)) => Ok(text),
            Some(other) => Err(value(&format!("[[arm]], {key}"), other, "text")),
            None => Err(value("[[arm]]", format!("one without {key}"), format!("an arm with {key} = \"...\""))),
        };
        let (name, method) = (text("name")?, text("method")?);
        let place = format!("[[arm]] {name}");
        let plain = !name.contains([',', '/']) && !name.chars().any(char::is_control);
        if !plain || !name.chars().any(char::is_alphanumeric) {
            return Err(
                value("[[arm]], name", format!("{name:?}"), "text that has a letter or a digit and no , or /").into()
            );
        }
        let arm = Self::named(name, method)?;
        let densities = match table.remove("densities") {
            None => None,
            Some(list) => {
                let densities: Vec<f64> = list
                    .clone()
                    .try_into()
                    .map_err(|_| value(&place, format!("densities = {list}"), "a list of numbers"))?;
                check_densities(&place, &densities)?;
                Some(densities)
            }
        };
        if arm.method == DENSE && densities.as_ref().is_some_and(|densities| *densities != [1.0]) {
            return Err(value(&place, "densities other than 1", "[1.0], or omitted, with the method dense").into());
        }
        refuse(&place, &table, &INSTEAD)?;
        refuse(&place, &table, &OF_COMMAND)?;
        refuse(&place, &table, &OF_ALL)?;
        check_alternatives(&place, &table)?;
        let unusable = |error: toml::de::Error| {
            // The message and, on a line of its own, the key.
            let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            value(&place, text, "a setting of rigl train")
        };
        let settings = table_of(&table.try_into::<TrainOptions>().map_err(unusable)?)?;
        Ok(Self { densities, settings, ..arm })
    }

    /// An arm without settings of its own.
    fn named(name: String, method: String) -> Result<Self, ComparisonError> {
        if ![SMALL_DENSE, BIG_SPARSE].contains(&method.as_str()) {
            // Whatever `rigl train` knows.
            let table = toml::Table::from_iter([("method".to_owned(), toml::Value::from(method.as_str()))]);
            table.try_into::<TrainOptions>().map_err(|error| {
                let expected = error.message().trim().rsplit("expected ").next().unwrap_or_default().replace('`', "");
                let rule = format!("a method ({expected}), small-dense or big-sparse");
                value("method", &method, rule)
            })?;
        }
        Ok(Self { name, method, densities: None, settings: toml::Table::new() })
    }

    fn to_table(&self) -> toml::Table {
        let mut table = self.settings.clone();
        table.insert("name".to_owned(), self.name.clone().into());
        table.insert("method".to_owned(), self.method.clone().into());
        if let Some(densities) = &self.densities {
            table.insert("densities".to_owned(), densities.clone().into());
        }
        table
    }
}

impl Published {
    fn check(&self, arms: &[Arm]) -> Result<(), ComparisonError> {
        let place = "[[published]]";
        let share = |key: &str, number: f64| match (0.0..=1.0).contains(&number) {
            true => Ok(()),
            false => Err(value(place, format!("{key} = {number}"), "a share, at least 0 and at most 1")),
        };
        let names: Vec<_> = arms.iter().map(|arm| arm.name.as_str()).collect();
        if !names.contains(&self.arm.as_str()) {
            return Err(value(
                place,
                format!("arm = {:?}", self.arm),
                format!("one of the file's arms: {}", names.join(", ")),
            ));
        }
        check_densities(place, &[self.density])?;
        share("accuracy", self.accuracy)?;
        self.deviation.map_or(Ok(()), |deviation| share("deviation", deviation))
    }
}

/// What only the command line says.
const OF_COMMAND: [(&str, &str); 2] = [("out", "--out on the command line"), ("json", "--json on the command line")];

/// What all arms share, or there is nothing to compare.
const OF_ALL: [(&str, &str); 3] =
    [("seed", "seeds in [compare]"), ("data", "data in [settings]"), ("val-fraction", "val-fraction in [settings]")];

fn value(place: &str, value: impl ToString, rule: impl Into<String>) -> ComparisonError {
    ComparisonError::Value { place: place.to_owned(), value: value.to_string(), rule: rule.into() }
}

fn table_of(options: &TrainOptions) -> Result<toml::Table, ConfigError> {
    Ok(toml::Table::try_from(options)?)
}

fn refuse(place: &str, table: &toml::Table, keys: &[(&str, &'static str)]) -> Result<(), ComparisonError> {
    match keys.iter().find(|(key, _)| table.contains_key(*key)) {
        Some(&(key, instead)) => {
            Err(ComparisonError::Instead { place: place.to_owned(), key: key.to_owned(), instead })
        }
        None => Ok(()),
    }
}

fn check_alternatives(place: &str, table: &toml::Table) -> Result<(), ComparisonError> {
    let both = ["epochs", "steps"].iter().all(|key| table.contains_key(*key));
    if both { Err(value(place, "epochs and steps", "one of the two")) } else { Ok(()) }
}

fn check_densities(place: &str, densities: &[f64]) -> Result<(), ComparisonError> {
    let impossible = densities.iter().find(|&&density| !(density > 0.0 && density <= 1.0));
    match impossible {
        Some(density) => Err(value(place, format!("density {density}"), "above 0 and at most 1")),
        None if densities.is_empty() => Err(value(place, "no density", "at least one density")),
        None => match densities.iter().enumerate().find(|(i, density)| densities[..*i].contains(density)) {
            Some((_, density)) => Err(value(place, format!("density {density} twice"), "a list without repetitions")),
            None => Ok(()),
        },
    }
}

fn seed_list(place: &str, seeds: &Seeds, first: Option<u64>) -> Result<Vec<u64>, ComparisonError> {
    let list = match seeds {
        Seeds::Count(0) => vec![],
        Seeds::Count(count) => {
            let first = first.unwrap_or(0);
            let end = first.checked_add(*count).filter(|end| i64::try_from(*end).is_ok() && *count <= MOST_SEEDS);
            (first..end.ok_or_else(|| value(place, count, "a number of seeds up to 1000"))?).collect()
        }
        Seeds::List(_) if first.is_some() => {
            return Err(value(
                place,
                "a list of seeds with seed",
                "a number of seeds, because seed is the first of them",
            ));
        }
        Seeds::List(list) => list.clone(),
    };
    if list.is_empty() {
        return Err(value(place, "no seed", "at least one seed"));
    }
    match list.iter().enumerate().find(|(i, seed)| list[..*i].contains(seed)) {
        Some((_, seed)) => Err(value(place, format!("seed {seed} twice"), "a list without repetitions")),
        None => Ok(list),
    }
}

/// More is a seed given for a number.
const MOST_SEEDS: u64 = 1000;

fn arms_of(names: &[String]) -> Result<Vec<Arm>, ComparisonError> {
    let arms = names.iter().map(|name| Arm::named(name.clone(), name.clone())).collect::<Result<Vec<_>, _>>()?;
    check_names(&arms)?;
    Ok(arms)
}

/// Names must differ, as folders too.
fn check_names(arms: &[Arm]) -> Result<(), ComparisonError> {
    for (i, arm) in arms.iter().enumerate() {
        if let Some(other) = arms[..i].iter().find(|other| folder_name(&other.name) == folder_name(&arm.name)) {
            return Err(value(
                "arms",
                format!("{} and {}", arm.name, other.name),
                "arms whose names differ in letters or digits",
            ));
        }
    }
    Ok(())
}

/// The folder of an arm's run at a density with a seed.
pub(super) fn run_name(arm: &str, density: f64, seed: u64) -> String {
    format!("{}-d{density}-s{seed}", folder_name(arm))
}

/// A name as a part of a folder's.
fn folder_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().flat_map(char::to_lowercase).map(plain).collect()
}

#[cfg(test)]
impl Definition {
    /// That of a file with this text.
    pub(super) fn read_text(text: &str) -> Self {
        Self::from_file(toml::from_str(text).unwrap()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::compare::CompareArgs;
    use crate::commands::{Cli, Command};
    use clap::Parser;
    use std::fs;

    fn args(line: &str) -> CompareArgs {
        match Cli::try_parse_from(["rigl", "compare"].into_iter().chain(line.split_whitespace())).unwrap().command {
            Command::Compare(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn resolve(line: &str) -> crate::Result<(Definition, PathBuf)> {
        Definition::resolve(&args(line).asked())
    }

    /// A file beside a command line.
    fn resolve_file(file: &str, line: &str) -> crate::Result<(Definition, PathBuf)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("night.toml");
        fs::write(&path, file).unwrap();
        Definition::resolve(&CompareArgs { config: Some(path), ..args(line) }.asked())
    }

    fn names(definition: &Definition) -> Vec<String> {
        definition.runs().into_iter().map(|run| run.name).collect()
    }

    const FILE: &str = "
        title = 'A night'
        [settings]
        epochs = 10
        lr = 0.2
        seed = 5
        [compare]
        densities = [0.2, 0.1]
        seeds = 2
        [[arm]]
        name = 'dense'
        method = 'dense'
        [[arm]]
        name = 'RigL often'
        method = 'rigl'
        densities = [0.1]
        update-interval = 50
        steps = 300
        [[published]]
        arm = 'RigL often'
        density = 0.1
        accuracy = 0.9
        source = 'a table'";

    #[test]
    fn without_options_the_main_methods_are_compared() {
        let (definition, out) = resolve("").unwrap();
        assert_eq!(out, Path::new("runs/compare-lenet-300-100-fashion-mnist-mini"));
        let expected = ["dense-d1-s0", "static-d0.1-s0", "set-d0.1-s0", "rigl-d0.1-s0", "dense-d1-s1"];
        assert_eq!(names(&definition)[..5], expected);
        assert_eq!(names(&definition).len(), 12);
    }

    #[test]
    fn grids_of_the_command_line() {
        let line =
            "--methods dense,small-dense,rigl --densities 0.1,0.02 --seeds 2 --seed 7 --lr 0.5 --model 784-20-10";
        let (definition, out) = resolve(line).unwrap();
        assert_eq!(out, Path::new("runs/compare-784-20-10-fashion-mnist-mini"));
        // The dense network has one density, whatever was asked for.
        let first = ["dense-d1-s7", "small-dense-d0.1-s7", "small-dense-d0.02-s7", "rigl-d0.1-s7", "rigl-d0.02-s7"];
        assert_eq!(names(&definition)[..5], first);
        assert_eq!(definition.seeds, [7, 8]);
        assert_eq!(definition.settings.keys().collect::<Vec<_>>(), ["lr", "model"]);
        assert_eq!(resolve("--seeds 0,5,7").unwrap().0.seeds, [0, 5, 7]);
        assert_eq!(resolve("--seeds 9,").unwrap().0.seeds, [9]);
        assert_eq!(resolve("--out here --json").unwrap().1, Path::new("here"));
    }

    #[test]
    fn files_and_what_the_command_line_changes_in_them() {
        let (definition, out) = resolve_file(FILE, "").unwrap();
        assert_eq!(out, Path::new("runs/night"));
        assert_eq!(names(&definition), ["dense-d1-s5", "rigl-often-d0.1-s5", "dense-d1-s6", "rigl-often-d0.1-s6"]);
        // An arm's length in steps takes the place of one in epochs.
        let of_arm = |definition: &Definition, arm: usize| definition.settings_of(&definition.arms[arm]).to_string();
        assert_eq!(of_arm(&definition, 1), "lr = 0.2\nsteps = 300\nupdate-interval = 50\n");
        assert_eq!(definition.published[0].source.as_deref(), Some("a table"));

        let file = FILE.replace("RigL often", "often");
        let line = "--epochs 1 --seeds 1 --densities 0.05,0.5 --methods often --lr 1";
        let (definition, _) = resolve_file(&file, line).unwrap();
        assert_eq!(names(&definition), ["often-d0.05-s5", "often-d0.5-s5"]);
        assert_eq!(of_arm(&definition, 0), "epochs = 1\nlr = 1.0\nupdate-interval = 50\n");
        let (definition, _) = resolve_file(FILE, "--seed 9").unwrap();
        assert_eq!(definition.seeds, [9, 10]);
    }

    /// What a comparison's folder holds makes the same comparison again.
    #[test]
    fn a_definition_survives_its_file() {
        for (file, line) in [(FILE, "--threads 2"), ("", "--methods dense,big-sparse --densities 0.3 --seeds 4,2")] {
            let (definition, _) = resolve_file(file, line).unwrap();
            let (again, _) = resolve_file(&definition.to_toml().unwrap(), "").unwrap();
            assert_eq!(again, definition);
        }
    }

    #[test]
    fn what_is_impossible_is_named_with_what_would_be_right() {
        let arm = |rest: &str| format!("[[arm]]\nname = 'a'\nmethod = 'set'\n{rest}");
        let published = |rest: &str| arm(&format!("[[published]]\narm = 'a'\ndensity = 0.1\naccuracy = 0.9\n{rest}"));
        for (file, parts) in [
            ("titel = 'x'".to_owned(), &["night.toml", "unknown field `titel`", "line 1"][..]),
            ("[settings]\nlearning-rate = 1".to_owned(), &["unknown field `learning-rate`", "line 2"]),
            ("[settings]\nmethod = 'set'".to_owned(), &["night.toml", "[settings]", "method", "[[arm]]"]),
            ("[settings]\nout = 'x'".to_owned(), &["[settings]", "out", "--out"]),
            ("[settings]\nepochs = 1\nsteps = 2".to_owned(), &["[settings]", "epochs and steps"]),
            ("[settings]\nseed = 1\n[compare]\nseeds = [1, 2]".to_owned(), &["[compare]", "a list of seeds with seed"]),
            ("[compare]\ndensities = []".to_owned(), &["[compare]", "no density"]),
            ("[compare]\ndensities = [0.1, 1.5]".to_owned(), &["[compare]", "density 1.5", "at most 1"]),
            ("[compare]\nseeds = [3, 3]".to_owned(), &["seed 3 twice"]),
            (arm("lernrate = 1"), &["[[arm]] a", "unknown field `lernrate`"]),
            (arm("density = 0.1"), &["[[arm]] a", "density", "densities"]),
            (arm("seed = 1"), &["[[arm]] a", "seed", "[compare]"]),
            (arm("lr = 'fast'"), &["[[arm]] a", "lr"]),
            (arm("densities = 'all'"), &["[[arm]] a", "densities", "a list of numbers"]),
            (arm("").replace("'set'", "'lottery ticket'"), &["method: lottery ticket", "rigl", "small-dense"]),
            (arm("").replace("'set'", "'dense'\ndensities = [0.1]"), &["[[arm]] a", "densities other than 1"]),
            (arm("").replace("'a'", "'../a'"), &["[[arm]], name", "../a"]),
            ("[[arm]]\nname = 'a'".to_owned(), &["[[arm]]", "one without method"]),
            (arm("").repeat(2), &["a and a", "differ"]),
            (published("year = 2020"), &["unknown field `year`"]),
            (published("").replace("arm = 'a'", "arm = 'b'"), &["[[published]]", "arm = \"b\"", "a"]),
            (published("").replace("0.9", "90.0"), &["[[published]]", "accuracy = 90", "a share"]),
        ] {
            let message = format!("{:#}", resolve_file(&file, "").unwrap_err());
            assert!(parts.iter().all(|part| message.contains(part)), "{file}\n{message}");
        }
        for (line, parts) in [
            ("--method rigl", &["the command line", "method", "--methods"][..]),
            ("--density 0.1", &["density", "--densities"]),
            ("--methods rigl,rigl", &["rigl and rigl"]),
            ("--methods rigl,prune", &["method: prune", "static", "big-sparse"]),
            ("--seeds 0,1 --seed 3", &["--seeds", "a list of seeds with seed"]),
            ("--seeds 0", &["no seed"]),
            ("--resume nowhere", &["nowhere", "comparison.toml"]),
        ] {
            let message = format!("{:#}", resolve(line).unwrap_err());
            assert!(parts.iter().all(|part| message.contains(part)), "{line}: {message}");
        }
        let message = format!("{:#}", resolve_file(FILE, "--methods rigl").unwrap_err());
        assert!(message.contains("--methods: rigl") && message.contains("dense, RigL often"), "{message}");
    }
}
