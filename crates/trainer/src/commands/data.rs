//! `rigl data`: the data sets there are, where they are, how to get them, and whether they are whole.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::data::fetch::{FetchError, Fetched, Origin, fetch, verify};
use crate::data::image_folder::{self, FolderOptions};
use crate::data::svmlight::{GenerateOptions, SVMLIGHT};
use crate::data::table::TABLE;
use crate::data::text::{TEXT, TINY_SHAKESPEARE, TINY_SHAKESPEARE_CHARACTERS, is_text, tiny_shakespeare_is_published};
use crate::data::{DataError, EMBEDDED, IMAGE_FOLDER, KNOWN, KnownSet, is_in_folder};
use crate::interrupt::Interrupt;
use crate::report::{Table, print_record, print_text};

/// What `rigl data` does.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List the data sets and where they were found.
    List(DataListArgs),
    /// Fetch a data set from its publisher or from a local copy, and verify it.
    Fetch(DataFetchArgs),
    /// Generate a data set for models lists-H: lists of features, very many labels.
    Generate(DataGenerateArgs),
    /// Read a whole data set and compare its checksums with those of the official files.
    Verify(DataVerifyArgs),
}

impl DataCommand {
    /// As [`super::Command::only_tells`].
    pub fn only_tells(&self) -> bool {
        matches!(self, Self::List(_))
    }
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  rigl data generate amazon/train.txt --test amazon/test.txt
      a data set of the size of Amazon-670K
  rigl train --data svmlight --svmlight amazon/train.txt --svmlight-test \
    amazon/test.txt --format bsr16x1 --density-override fc2=0.0833
      trains on it";

/// `rigl data generate`.
#[derive(Debug, Args)]
#[command(after_long_help = GENERATE_EXAMPLES)]
pub struct DataGenerateArgs {
    /// The file of the training samples, which must not exist
    pub file: PathBuf,
    /// The file of the test samples, which must not exist
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    /// Number of labels
    #[arg(long, value_name = "N", default_value_t = 670_091, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX / 2)))]
    pub labels: u64,
    /// Number of features
    #[arg(long, value_name = "N", default_value_t = 135_909, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX / 2)))]
    pub features: u64,
    /// Number of training samples
    #[arg(long, value_name = "N", default_value_t = 490_449, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Number of test samples [default: 153025]
    #[arg(long, value_name = "N", requires = "test", value_parser = clap::value_parser!(u64).range(1..))]
    pub test_samples: Option<u64>,
    /// Seed of everything random
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
}

/// Writes a data set.
fn run_generate(args: &DataGenerateArgs) -> crate::Result<()> {
    let (labels, features, seed) = (args.labels as usize, args.features as usize, args.seed);
    let parts = [(Some(&args.file), args.samples), (args.test.as_ref(), args.test_samples.unwrap_or(153_025))];
    if let Some(file) = parts.iter().filter_map(|(file, _)| *file).find(|file| file.exists()) {
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(DataError::Io { file: file.clone(), source }.into());
    }
    for (part, (file, samples)) in parts.into_iter().enumerate() {
        let Some(file) = file else { continue };
        let options = GenerateOptions { labels, features, samples: samples as usize, seed, part: part as u64 };
        options.write(file).map_err(|source| DataError::Io { file: file.clone(), source })?;
        print_text(format_args!("{}: {samples} samples, {features} features, {labels} labels", file.display()))?;
    }
    Ok(())
}

/// `rigl data list`.
#[derive(Debug, Args)]
pub struct DataListArgs {
    /// Folder of data sets [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

const FETCH_EXAMPLES: &str = "\
Examples:
  rigl data fetch cifar10 --data-dir ~/data
      downloads CIFAR-10 to ~/data/cifar10, where --data cifar10 --data-dir
      ~/data finds it
  rigl data fetch mnist --from /mnt/mirror/mnist --to ~/data/mnist
      copies from a local mirror, published or unpacked files, plain, .gz or .xz";

/// `rigl data fetch`.
#[derive(Debug, Args)]
#[command(after_long_help = FETCH_EXAMPLES)]
pub struct DataFetchArgs {
    /// The data set: fashion-mnist, mnist, cifar10 or cifar100
    pub name: String,
    /// Copy from this folder, which holds the published files or unpacked ones, plain, .gz or .xz
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub from: Option<PathBuf>,
    /// Download the published files from this address [default: the publisher's]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The folder for its files
    #[arg(long, value_name = "DIR", conflicts_with = "data_dir")]
    pub to: Option<PathBuf>,
    /// Folder of data sets; the files go to DIR/NAME [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// `rigl data verify`.
#[derive(Debug, Args)]
pub struct DataVerifyArgs {
    /// The data set; for image-folder, every image is read
    pub name: String,
    /// Folder of data sets [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// The record of a data set in a list.
#[derive(Debug, Serialize)]
struct ListRecord {
    event: &'static str,
    action: &'static str,
    name: &'static str,
    classes: Option<usize>,
    /// Channels, height and width.
    shape: Option<[usize; 3]>,
    train: Option<usize>,
    test: Option<usize>,
    embedded: bool,
    found: Option<PathBuf>,
}

/// The record of a data set that was fetched or verified.
#[derive(Debug, Serialize)]
struct SetRecord {
    event: &'static str,
    action: &'static str,
    name: String,
    path: Option<PathBuf>,
    /// Whether it was there before.
    present: bool,
    train: usize,
    test: usize,
    /// Null if no checksum is known.
    verified: Option<bool>,
    /// Sums of the samples, whatever their order; of pictures in files, none.
    content: Option<[String; 2]>,
    /// Files that are no pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrupt: Option<Vec<PathBuf>>,
}

/// A data set is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Its content is another.
    #[error("data: {name} in {} is not the official set: its content sums differ", path.display())]
    Content {
        /// The data set.
        name: &'static str,
        /// Its folder.
        path: PathBuf,
    },
    /// Some files are no pictures.
    #[error("data: {corrupt} of {pictures} images in {} cannot be read", path.display())]
    Pictures {
        /// How many cannot be read.
        corrupt: usize,
        /// How many there are.
        pictures: usize,
        /// The folder.
        path: PathBuf,
    },
}

crate::error::kinded!(Failure: VerifyError);

/// Runs the command.
///
/// # Errors
/// If a data set is unknown, unavailable or incomplete.
pub fn run(command: &DataCommand) -> crate::Result<()> {
    match command {
        DataCommand::List(args) => run_list(args),
        DataCommand::Fetch(args) => run_fetch(args),
        DataCommand::Generate(args) => run_generate(args),
        DataCommand::Verify(args) => run_verify(args),
    }
}

/// The folder of data sets: that of the command line, else that of the environment.
fn data_dir(given: Option<&Path>) -> Option<PathBuf> {
    given.map(Path::to_owned).or_else(|| std::env::var_os("RIGL_DATA_DIR").map(Into::into))
}

fn run_list(args: &DataListArgs) -> crate::Result<()> {
    let data_dir = data_dir(args.data_dir.as_deref());
    let mut table = Table::new(["name", "classes", "train", "test", "pictures", "found"]);
    for name in KNOWN {
        let set = KnownSet::named(name).ok();
        let found = match set {
            Some(set) => set.find(data_dir.as_deref()).ok().and_then(|files| Some(files[0].parent()?.to_owned())),
            None if !is_in_folder(name) => None,
            None => data_dir.clone().filter(|folder| image_folder::load(folder, &FolderOptions::default()).is_ok()),
        };
        let embedded = name == EMBEDDED || name == TINY_SHAKESPEARE;
        let (of_text, characters) = TINY_SHAKESPEARE_CHARACTERS;
        let known = match set {
            Some(set) => Some((set.classes, set.samples)),
            None => (name == TINY_SHAKESPEARE).then_some((of_text, characters)),
        };
        let record = ListRecord {
            event: "data",
            action: "list",
            name,
            classes: known.map(|(classes, _)| classes),
            shape: set.map(|set| set.shape),
            train: known.map(|(_, [train, _])| train),
            test: known.map(|(_, [_, test])| test),
            embedded,
            found: found.filter(|_| !embedded),
        };
        if args.json {
            print_record(&record)?;
            continue;
        }
        let number = |number: Option<usize>| number.map_or("any".to_owned(), |number| number.to_string());
        let shape = match record.shape {
            Some([c, h, w]) => format!("{h}×{w}×{c}"),
            None if name == SVMLIGHT => "lists".to_owned(),
            None => if is_text(name) { "text" } else { "any" }.to_owned(),
        };
        let found = match &record.found {
            Some(folder) => folder.display().to_string(),
            None if name == TABLE => "give --table".to_owned(),
            None if name == SVMLIGHT => "give --svmlight".to_owned(),
            None if name == TEXT => "give --text".to_owned(),
            None => if embedded { "embedded" } else { "no" }.to_owned(),
        };
        table.row([name.to_owned(), number(record.classes), number(record.train), number(record.test), shape, found]);
    }
    if !args.json {
        print_text(format_args!("{table}"))?;
        if data_dir.is_none() {
            print_text("No folder to search: give --data-dir or set RIGL_DATA_DIR.")?;
        }
    }
    Ok(())
}

fn run_fetch(args: &DataFetchArgs) -> crate::Result<()> {
    let set = match KnownSet::named(&args.name) {
        Err(_) if args.name == IMAGE_FOLDER => return Err(FetchError::NoHome { name: IMAGE_FOLDER }.into()),
        Err(_) if args.name == TABLE => return Err(FetchError::NoHome { name: TABLE }.into()),
        Err(_) if args.name == SVMLIGHT => return Err(FetchError::NoHome { name: SVMLIGHT }.into()),
        Err(_) if args.name == TEXT => return Err(FetchError::NoHome { name: TEXT }.into()),
        Err(_) if args.name == TINY_SHAKESPEARE => return Err(FetchError::NoHome { name: TINY_SHAKESPEARE }.into()),
        set => set?,
    };
    let home = set.home.ok_or(FetchError::NoHome { name: set.name })?;
    let in_data_dir = || data_dir(args.data_dir.as_deref()).map(|folder| folder.join(set.name));
    let to = args.to.clone().or_else(in_data_dir).ok_or(FetchError::NoGoal { name: set.name })?;
    let origin = match (&args.from, &args.url) {
        (Some(folder), _) => Origin::Folder(folder.clone()),
        (None, url) => Origin::Url(url.clone().unwrap_or_else(|| home.url.to_owned())),
    };
    let interrupt = Interrupt::install()?;
    let bar = (!args.json && io::stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("{msg} {bar:20} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        ProgressBar::no_length().with_style(style.expect("the template is fixed"))
    });
    let mut progress = |name: &str, at: u64, expected: Option<u64>| {
        if let Some(bar) = &bar {
            bar.set_message(name.to_owned());
            bar.set_length(expected.unwrap_or(at));
            bar.set_position(at);
        }
    };
    let fetched = fetch(set, &origin, &to, &interrupt, &mut progress);
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let fetched = fetched?;
    if fetched.verified.is_none() {
        tracing::warn!("no checksum is known for this form of {}; it was only read completely", set.name);
    }
    let verb = if fetched.present { "was in" } else { "is in" };
    print(&record("fetch", set, to, &fetched), verb, args.json)
}

fn run_verify(args: &DataVerifyArgs) -> crate::Result<()> {
    let data_dir = data_dir(args.data_dir.as_deref());
    if args.name == IMAGE_FOLDER {
        return verify_folder(data_dir, args.json);
    }
    if args.name == TABLE {
        return Err("a table is verified when it is read: rigl train --data table --table FILE".to_owned().into());
    }
    if args.name == SVMLIGHT {
        return Err("such a file is verified when it is read: rigl train --data svmlight --svmlight FILE"
            .to_owned()
            .into());
    }
    if args.name == TEXT {
        return Err("a text is verified when it is read: rigl train --data text --text FILE".to_owned().into());
    }
    if args.name == TINY_SHAKESPEARE {
        return verify_tiny_shakespeare(args.json);
    }
    let set = KnownSet::named(&args.name)?;
    let (path, verified) = if set.name == EMBEDDED {
        (None, verify(set, &[])?)
    } else {
        let files = set.find(data_dir.as_deref())?;
        (files[0].parent().map(Path::to_owned), verify(set, &files)?)
    };
    let path = path.unwrap_or_else(|| PathBuf::from("the program"));
    print(&record("verify", set, path.clone(), &verified), "is in", args.json)?;
    if verified.verified == Some(false) {
        return Err(VerifyError::Content { name: set.name, path }.into());
    }
    Ok(())
}

/// The record of the embedded text.
#[derive(Debug, Serialize)]
struct TextRecord {
    event: &'static str,
    action: &'static str,
    name: &'static str,
    symbols: usize,
    classes: usize,
    verified: bool,
}

fn verify_tiny_shakespeare(json: bool) -> crate::Result<()> {
    let [symbols, classes] = tiny_shakespeare_is_published()?;
    let (event, action, name) = ("data", "verify", TINY_SHAKESPEARE);
    match json {
        true => print_record(&TextRecord { event, action, name, symbols, classes, verified: true })?,
        false => {
            print_text(format_args!(
                "{name} is in the program: {symbols} characters, {classes} different, as published"
            ))?;
        }
    }
    Ok(())
}

/// Reads every picture.
fn verify_folder(data_dir: Option<PathBuf>, json: bool) -> crate::Result<()> {
    let missing = || DataError::NoFolder { name: IMAGE_FOLDER.to_owned(), files: Vec::new() };
    let path = data_dir.ok_or_else(missing)?;
    let data = image_folder::load(&path, &FolderOptions::default())?;
    let interrupt = Interrupt::install()?;
    let mut corrupt = Vec::new();
    for split in [&data.train, &data.test] {
        for file in split.files() {
            if interrupt.requested() {
                return Err(FetchError::Interrupted.into());
            }
            if let Err(error) = image_folder::check(&file) {
                tracing::warn!("{}: {error}", file.display());
                corrupt.push(file);
            }
        }
    }
    let (broken, pictures) = (corrupt.len(), data.train.len() + data.test.len());
    let record = SetRecord {
        event: "data",
        action: "verify",
        name: data.name,
        path: Some(path.clone()),
        present: true,
        train: data.train.len(),
        test: data.test.len(),
        verified: Some(broken == 0),
        content: None,
        corrupt: Some(corrupt),
    };
    print(&record, "is in", json)?;
    if broken > 0 {
        return Err(VerifyError::Pictures { corrupt: broken, pictures, path }.into());
    }
    Ok(())
}

fn record(action: &'static str, set: &KnownSet, path: PathBuf, fetched: &Fetched) -> SetRecord {
    let Fetched { present, samples: [train, test], content, verified } = *fetched;
    SetRecord {
        event: "data",
        action,
        name: set.name.to_owned(),
        path: (set.name != EMBEDDED).then_some(path),
        present,
        train,
        test,
        verified,
        content: Some(content.map(|sum| format!("{sum:032x}"))),
        corrupt: None,
    }
}

fn print(record: &SetRecord, verb: &str, json: bool) -> crate::Result<()> {
    if json {
        print_record(record)?;
        return Ok(());
    }
    let SetRecord { name, path, train, test, verified, .. } = record;
    let path = path.as_ref().map_or("the program".to_owned(), |path| path.display().to_string());
    let official = match verified {
        Some(true) if name == IMAGE_FOLDER => "every image can be read",
        Some(true) => "as published",
        Some(false) if name == IMAGE_FOLDER => "not every image can be read",
        Some(false) => "NOT as published",
        None => "no checksum is known",
    };
    print_text(format_args!("{name} {verb} {path}: {train} training and {test} test images, {official}"))?;
    Ok(())
}
