//! Runs in groups: those of one arm at one density, which differ in their seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::definition::{BIG_SPARSE, COMPARISON, DENSE, RUNS, SMALL_DENSE, failure_file};
use super::run_folder::{deciding_settings, model_name};
use super::{ComparisonError, Definition, Published, RunFolder};
use crate::run_dir::CONFIG;

/// Everything that a report shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// The report's title.
    pub title: String,
    /// Where the experiment is published.
    pub source: Option<String>,
    /// Text of who made it.
    pub notes: Option<String>,
    /// Names of the arms, in order.
    pub arms: Vec<String>,
    /// Runs of one arm at one density, arm by arm.
    pub groups: Vec<Group>,
    /// What operations are relative to; none if no run has finished that says how many it took.
    pub reference: Option<Reference>,
}

/// Runs of one arm at one density.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Index of the arm.
    pub arm: usize,
    /// The method asked for, as in [`super::Arm::method`].
    pub method: String,
    /// The density asked for.
    pub density: f64,
    /// Its runs, seed by seed.
    pub runs: Vec<GroupRun>,
    /// Published numbers.
    pub published: Vec<Published>,
}

/// A run in its group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRun {
    /// Its seed.
    pub seed: u64,
    /// Its folder's path.
    pub path: PathBuf,
    /// What is there; none if it was not begun.
    pub folder: Option<RunFolder>,
    /// Why it failed, when it was tried last.
    pub failure: Option<String>,
}

/// The dense network that operations are relative to.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Its name, with the width where that is not 1.
    pub model: String,
    /// Operations of one sample's forward pass.
    pub inference_flops: f64,
    /// Operations of its training.
    pub train_flops: f64,
}

impl Group {
    /// Runs that are finished.
    pub fn finished(&self) -> impl Iterator<Item = (&GroupRun, &RunFolder)> {
        let finished = |run: &GroupRun| run.folder.as_ref().is_some_and(|folder| folder.done.is_some());
        self.runs.iter().filter(move |run| finished(run)).filter_map(|run| Some((run, run.folder.as_ref()?)))
    }

    /// Whether it is the dense network itself.
    pub fn is_dense(&self) -> bool {
        self.method == DENSE
    }

    /// Whether its network is of another width than that of the comparison.
    fn is_resized(&self) -> bool {
        [SMALL_DENSE, BIG_SPARSE].contains(&self.method.as_str())
    }
}

impl Results {
    /// Those of a comparison in `out`, of the runs that it has by now.
    ///
    /// # Errors
    /// [`ComparisonError`] if a run's files cannot be read.
    pub fn of_comparison(definition: &Definition, out: &Path) -> Result<Self, ComparisonError> {
        let mut groups: Vec<Group> = Vec::new();
        for (arm, of) in definition.arms.iter().enumerate() {
            for density in definition.densities_of(of) {
                let belongs = |p: &&Published| p.arm == of.name && p.density == density;
                let published = definition.published.iter().filter(belongs).cloned().collect();
                groups.push(Group { arm, method: of.method.clone(), density, runs: vec![], published });
            }
        }
        for place in definition.runs() {
            let path = out.join(RUNS).join(&place.name);
            let folder = if path.join(CONFIG).is_file() { Some(RunFolder::read(&path)?) } else { None };
            let group = groups.iter_mut().find(|group| group.arm == place.arm && group.density == place.density);
            let group = group.expect("every arm has a group for each of its densities");
            let failure = fs::read_to_string(failure_file(out, &place.name)).ok();
            group.runs.push(GroupRun { seed: place.seed, path, folder, failure });
        }
        let mut results = Self {
            title: String::new(),
            source: definition.source.clone(),
            notes: definition.notes.clone(),
            arms: definition.arms.iter().map(|arm| arm.name.clone()).collect(),
            groups,
            reference: None,
        };
        results.reference = results.find_reference(|group| {
            let own = &definition.arms[group.arm].settings;
            ["model", "width", "epochs", "steps", "batch-size"].iter().all(|key| !own.contains_key(*key))
        });
        results.title = definition.title.clone().unwrap_or_else(|| results.default_title());
        Ok(results)
    }

    /// Those of any folders: runs, or comparisons, which stand for all of their runs. Runs are grouped by their settings
    /// but for the seed, and named after their method (in a comparison their arm) and what else they differ in.
    ///
    /// # Errors
    /// [`ComparisonError`] if a folder is neither or its files cannot be read.
    pub fn of_folders(folders: &[PathBuf]) -> crate::Result<Self> {
        let mut named = Vec::new();
        for folder in folders {
            if folder.join(COMPARISON).is_file() {
                for (path, label) in runs_of(folder)? {
                    if path.join(CONFIG).is_file() {
                        named.push((RunFolder::read(&path)?, Some(label)));
                    }
                }
            } else {
                let run = RunFolder::read(folder)?;
                let label = label_of(folder)?;
                named.push((run, label));
            }
        }
        let labelled = named.into_iter().map(|(run, label)| {
            let method = run.config.method.to_string();
            let label = label.unwrap_or(Label { arm: method.clone(), method, density: run.config.density });
            (run, label)
        });
        let (title, arms, groups) = (String::new(), vec![], vec![]);
        let mut results = Self { title, source: None, notes: None, arms, groups, reference: None };
        for (Label { arm, method, density }, mut runs) in grouped(labelled.collect()) {
            let index = results.arms.iter().position(|name| *name == arm).unwrap_or_else(|| {
                results.arms.push(arm);
                results.arms.len() - 1
            });
            runs.sort_by_key(|run| run.seed);
            results.groups.push(Group { arm: index, method, density, runs, published: vec![] });
        }
        results.groups.sort_by(|a, b| a.arm.cmp(&b.arm).then(b.density.total_cmp(&a.density)));
        results.reference = results.find_reference(|_| true);
        results.title = results.default_title();
        Ok(results)
    }

    /// All runs that are there.
    pub fn folders(&self) -> impl Iterator<Item = &RunFolder> {
        self.groups.iter().flat_map(|group| &group.runs).filter_map(|run| run.folder.as_ref())
    }

    /// The dense network's group, if it took part.
    pub fn dense(&self) -> Option<&Group> {
        self.groups.iter().find(|group| group.is_dense() && group.finished().next().is_some())
    }

    /// Runs that have finished, and all.
    pub fn progress(&self) -> [usize; 2] {
        let runs = |count: fn(&Group) -> usize| self.groups.iter().map(count).sum();
        [runs(|group| group.finished().count()), runs(|group| group.runs.len())]
    }

    /// The dense network of the first run that is of the common network: of a dense run, else of a sparse one.
    fn find_reference(&self, is_common: impl Fn(&Group) -> bool) -> Option<Reference> {
        let groups = |dense: bool| self.groups.iter().filter(move |group| group.is_dense() == dense);
        let ordered = groups(true).chain(groups(false));
        let common = |group: &&Group| !group.is_resized() && is_common(group);
        let first = ordered.clone().filter(common).chain(ordered).find_map(|group| group.finished().next());
        let (_, run) = first?;
        let done = run.done.as_ref()?;
        let inference_flops = done.dense_flops()?;
        Some(Reference {
            model: model_name(&run.config),
            inference_flops,
            train_flops: 3.0 * inference_flops * done.samples? as f64,
        })
    }

    fn default_title(&self) -> String {
        let distinct = |text: fn(&RunFolder) -> String| {
            let mut all: Vec<String> = Vec::new();
            let common = self.groups.iter().filter(|group| !group.is_resized()).flat_map(|group| &group.runs);
            for text in common.filter_map(|run| run.folder.as_ref()).map(text) {
                if !all.contains(&text) {
                    all.push(text);
                }
            }
            all.join(", ")
        };
        let (models, data) = (distinct(|run| run.config.model.to_string()), distinct(|run| run.config.data.clone()));
        if models.is_empty() { "Comparison".to_owned() } else { format!("{models} on {data}") }
    }
}

/// What a run is called.
#[derive(Debug, Clone, PartialEq)]
struct Label {
    arm: String,
    method: String,
    density: f64,
}

/// The runs of the comparison in `folder`.
fn runs_of(folder: &Path) -> crate::Result<Vec<(PathBuf, Label)>> {
    let definition = Definition::read(&folder.join(COMPARISON))?;
    let label = |place: super::PlannedName| {
        let arm = &definition.arms[place.arm];
        let label = Label { arm: arm.name.clone(), method: arm.method.clone(), density: place.density };
        (folder.join(RUNS).join(place.name), label)
    };
    Ok(definition.runs().into_iter().map(label).collect())
}

/// What a run is called in the comparison that it is of, if it is.
fn label_of(run: &Path) -> crate::Result<Option<Label>> {
    // `runs/NAME` in the comparison's folder, however the path is written.
    let Ok(run) = run.canonicalize() else { return Ok(None) };
    let Some(folder) = run.parent().and_then(Path::parent).filter(|folder| folder.join(COMPARISON).is_file()) else {
        return Ok(None);
    };
    let found = runs_of(folder)?.into_iter().find(|(path, _)| path.file_name() == run.file_name());
    Ok(found.map(|(_, label)| label))
}

/// Runs by name and density, in the order in which they appear.
fn grouped(runs: Vec<(RunFolder, Label)>) -> Vec<(Label, Vec<GroupRun>)> {
    let settings: Vec<BTreeMap<String, Value>> = runs.iter().map(|(run, _)| settings_of(run)).collect();
    let mut groups: Vec<(Label, Vec<GroupRun>)> = Vec::new();
    let labels: Vec<Label> = runs.iter().map(|(_, label)| label.clone()).collect();
    for (i, (run, mut label)) in runs.into_iter().enumerate() {
        // What runs of one name and density differ in, at any density, distinguishes them.
        let mut keys = BTreeSet::new();
        for (j, other) in labels.iter().enumerate().filter(|(_, other)| other.arm == label.arm) {
            for (k, _) in labels.iter().enumerate().filter(|(_, third)| *third == other) {
                let differ = |key: &&String| settings[j].get(*key) != settings[k].get(*key);
                keys.extend(settings[j].keys().filter(differ));
            }
        }
        for key in keys {
            let value = settings[i].get(key).map_or("none".to_owned(), |value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            label.arm += &format!(", {key} {value}");
        }
        let run = GroupRun { seed: run.config.seed, path: run.path.clone(), folder: Some(run), failure: None };
        let Some((_, group)) = groups.iter_mut().find(|(other, _)| *other == label) else {
            groups.push((label, vec![run]));
            continue;
        };
        // The same run twice would count as two that agree.
        match group.iter_mut().find(|other| other.seed == run.seed) {
            Some(other) => {
                tracing::warn!("{} repeats {}; only one of them counts", run.path.display(), other.path.display());
                if run.folder.as_ref().is_some_and(|folder| folder.done.is_some()) {
                    *other = run;
                }
            }
            None => group.push(run),
        }
    }
    groups
}

/// What decides a run's result, but for method, density and seed.
fn settings_of(run: &RunFolder) -> BTreeMap<String, Value> {
    let mut settings = deciding_settings(&run.config);
    ["method", "density", "seed"].iter().for_each(|&key| drop(settings.remove(key)));
    settings
}

#[cfg(test)]
mod tests {
    use super::super::testing::Made;
    use super::*;
    use crate::settings::TrainConfig;

    fn groups(results: &Results) -> Vec<(&str, f64, Vec<u64>)> {
        let group = |g: &Group| (g.arm, g.density, g.finished().map(|(run, _)| run.seed).collect());
        let groups = results.groups.iter().map(group);
        groups.map(|(arm, density, seeds)| (results.arms[arm].as_str(), density, seeds)).collect()
    }

    #[test]
    fn runs_are_grouped_by_what_their_settings_differ_in() {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        let mut add = |made: Made| {
            let path = folder.path().join(paths.len().to_string());
            paths.push(made.write(&path));
        };
        for seed in [1, 0] {
            add(Made::new("rigl", 0.1, seed, 0.8));
            let slow = Made::new("rigl", 0.1, seed, 0.7);
            add(Made { config: TrainConfig { lr: 0.02, ..slow.config.clone() }, ..slow });
        }
        add(Made::new("rigl", 0.5, 0, 0.8));
        add(Made::new("static", 0.1, 0, 0.6));
        add(Made { accuracy: None, ..Made::new("static", 0.1, 1, 0.0) });
        // The same run again does not count twice.
        add(Made::new("static", 0.1, 0, 0.6));
        // Other threads make no other run.
        let threads = Made::new("static", 0.1, 2, 0.6);
        add(Made { config: TrainConfig { threads: Some(7), ..threads.config.clone() }, ..threads });
        let results = Results::of_folders(&paths).unwrap();
        let expected = [
            ("rigl, lr 0.1", 0.5, vec![0]),
            ("rigl, lr 0.1", 0.1, vec![0, 1]),
            ("rigl, lr 0.02", 0.1, vec![0, 1]),
            ("static", 0.1, vec![0, 2]),
        ];
        assert_eq!(groups(&results), expected);
        assert_eq!((results.progress(), results.title.as_str()), ([7, 8], "lenet-300-100 on fashion-mnist-mini"));
        let error = Results::of_folders(&[folder.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains("neither a run"), "{error}");
    }

    #[test]
    fn runs_of_a_comparison_keep_its_names() {
        let out = tempfile::tempdir().unwrap();
        let text = "[compare]\nseeds = 2\n[[arm]]\nname = 'My RigL'\nmethod = 'rigl'\n[[arm]]\nname = 'plain'\nmethod = 'dense'";
        std::fs::write(out.path().join(COMPARISON), text).unwrap();
        let run = |name: &str| out.path().join(RUNS).join(name);
        std::fs::create_dir(out.path().join(RUNS)).unwrap();
        Made::new("rigl", 0.1, 0, 0.8).write(&run("my-rigl-d0.1-s0"));
        Made::new("dense", 1.0, 1, 0.9).write(&run("plain-d1-s1"));
        let definition = Definition::read(&out.path().join(COMPARISON)).unwrap();
        let results = Results::of_comparison(&definition, out.path()).unwrap();
        assert_eq!(groups(&results), [("My RigL", 0.1, vec![0]), ("plain", 1.0, vec![1])]);
        assert_eq!(results.progress(), [2, 4]);
        assert_eq!(results.reference.as_ref().unwrap().inference_flops, 532_400.0);
        // Also run by run, and as a whole beside other runs.
        let results = Results::of_folders(&[run("my-rigl-d0.1-s0")]).unwrap();
        assert_eq!(groups(&results), [("My RigL", 0.1, vec![0])]);
        let other = Made::new("set", 0.1, 0, 0.8).write(&out.path().join("other"));
        let results = Results::of_folders(&[out.path().to_owned(), other]).unwrap();
        let expected = [("My RigL", 0.1, vec![0]), ("plain", 1.0, vec![1]), ("set", 0.1, vec![0])];
        assert_eq!(groups(&results), expected);
    }
}
