//! Folders of pictures, one folder a class, as ImageNet is mostly kept. Nothing is read before it is needed.
//!
//! ```text
//! DIR/train/CLASS/*.jpg, *.jpeg, *.png     what is trained on
//! DIR/val/CLASS/…  or  DIR/test/CLASS/…    the test set; val counts if both are there, a share of train if neither is
//! ```
//!
//! Classes are numbered by their names' order, and so are a class's pictures. Those in subfolders, at any depth, belong to the
//! class as well; at each depth, folders and pictures are sorted by name together. Links are followed, but not to a folder that
//! holds them. A picture's link that leads nowhere is a picture that cannot be read. Files with other endings, files outside
//! of class folders and what begins with a dot are not looked at.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dataset::{Dataset, Inputs, Split};
use super::error::DataError;
use super::image_labels;
use super::known::IMAGE_FOLDER;
use super::picture::{Cut, PictureError, PictureReader};
use super::picture_files::PictureFiles;
use super::targets::Targets;

/// Pixels each way that pictures are resized to, if nothing is said.
pub const DEFAULT_IMAGE_SIZE: usize = 224;
/// The share that is the test set where there is none, if nothing is said.
pub const DEFAULT_TEST_FRACTION: f64 = 0.2;
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

/// How a folder of pictures is read.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderOptions {
    /// Pixels each way that pictures are resized to.
    pub image_size: usize,
    /// The share of the pictures that is the test set where there is no folder of it.
    pub test_fraction: f64,
    /// A table of the pictures' names and classes, of a folder without class folders.
    pub labels: Option<PathBuf>,
    /// Its column with the class; the second one if it is not given.
    pub label_column: Option<String>,
}

impl Default for FolderOptions {
    fn default() -> Self {
        let (image_size, test_fraction) = (DEFAULT_IMAGE_SIZE, DEFAULT_TEST_FRACTION);
        Self { image_size, test_fraction, labels: None, label_column: None }
    }
}

/// The pictures in `data_dir`. Without a folder of test pictures, a share of the others is the test set.
///
/// # Errors
/// [`DataError`]: a folder that is missing or has no class, a class without pictures, or other classes for testing than
/// for training.
pub fn load(data_dir: &Path, options: &FolderOptions) -> Result<Dataset, DataError> {
    let FolderOptions { image_size, test_fraction, ref labels, ref label_column } = *options;
    let (train, test, classes) = match labels {
        Some(labels) => {
            let (all, classes) = image_labels::load(data_dir, labels, label_column.as_deref(), image_size)?;
            let (train, test) = all.share(test_fraction)?;
            (train, test, classes)
        }
        None => class_folders(data_dir, image_size, test_fraction)?,
    };
    Ok(Dataset {
        numbering: None,
        name: IMAGE_FOLDER.to_owned(),
        classes: classes.len(),
        shape: [3, image_size, image_size],
        train: Arc::new(train),
        validation: None,
        test: Arc::new(test),
        table: None,
        class_names: None,
        target_scale: None,
        alphabet: None,
    })
}

fn class_folders(
    data_dir: &Path,
    image_size: usize,
    test_fraction: f64,
) -> Result<(Split, Split, Arc<[OsString]>), DataError> {
    let train = data_dir.join("train");
    let classes: Arc<[OsString]> = match train.is_dir() {
        true => classes_in(&train)?.into(),
        false => return Err(DataError::Folder { data_dir: data_dir.to_owned(), folder: "train" }),
    };
    let tests = ["val", "test"].map(|name| data_dir.join(name));
    let Some(test) = tests.iter().find(|folder| folder.is_dir()).cloned() else {
        let (kept, held) = split(train, classes.clone(), image_size)?.share(test_fraction)?;
        let (held_count, all) = (held.len(), held.len() + kept.len());
        let folder = data_dir.display();
        tracing::info!("{folder}: no folder val or test; {held_count} of the {all} images in train are the test set");
        return Ok((kept, held, classes));
    };
    let tested = classes_in(&test)?;
    let without = |these: &[OsString], those: &[OsString]| these.iter().find(|class| !those.contains(class)).cloned();
    let differ = |class: OsString, has, lacks| DataError::Classes { class, has, lacks };
    if let Some(class) = without(&classes, &tested) {
        return Err(differ(class, train, test));
    }
    if let Some(class) = without(&tested, &classes) {
        return Err(differ(class, test, train));
    }
    let (train, test) = (split(train, classes.clone(), image_size)?, split(test, classes.clone(), image_size)?);
    Ok((train, test, classes))
}

/// Whether a file is a picture that can be read.
///
/// # Errors
/// [`PictureError`].
pub fn check(file: &Path) -> Result<(), PictureError> {
    PictureReader::new(1).read(file, |picture| Cut::middle(picture, 1), &mut [0; 3])
}

/// The pictures in a folder and those below it, in the order of their names.
///
/// # Errors
/// [`DataError::Io`] if a folder cannot be read.
pub fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let (mut names, mut sizes_bytes) = (Vec::new(), Vec::new());
    add_pictures(folder, OsStr::new(""), &mut names, &mut sizes_bytes)?;
    Ok(names.iter().map(|name| folder.join(&**name)).collect())
}

/// The names of the folders in a folder, sorted.
fn classes_in(folder: &Path) -> Result<Vec<OsString>, DataError> {
    let is_folder = |(name, entry)| matches!(entry, Entry::Folder).then_some(name);
    let classes: Vec<OsString> = entries(folder)?.into_iter().filter_map(is_folder).collect();
    if classes.is_empty() {
        return Err(DataError::NoClasses { folder: folder.to_owned() });
    }
    Ok(classes)
}

fn split(folder: PathBuf, classes: Arc<[OsString]>, image_size: usize) -> Result<Split, DataError> {
    let (mut names, mut sizes_bytes, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (label, class) in classes.iter().enumerate() {
        let class = folder.join(class);
        add_pictures(&class, OsStr::new(""), &mut names, &mut sizes_bytes)?;
        if names.len() == labels.len() {
            return Err(DataError::EmptyClass { folder: class });
        }
        labels.resize(names.len(), label as u32);
    }
    let in_class_folders = true;
    let files = PictureFiles { folder, classes, in_class_folders, names, sizes_bytes, corrupt: Arc::default() };
    Ok(Split { shape: [3, image_size, image_size], inputs: Inputs::Files(files), targets: Targets::Classes(labels) })
}

/// Adds the pictures in a folder and those below it. `within` is the folder's name in its class, with a slash behind it.
fn add_pictures(
    folder: &Path,
    within: &OsStr,
    names: &mut Vec<Box<OsStr>>,
    sizes_bytes: &mut Vec<u64>,
) -> Result<(), DataError> {
    for (name, entry) in entries(folder)? {
        let mut path = within.to_owned();
        path.push(&name);
        match entry {
            Entry::Folder => {
                // On every system, as the data set's sum has it.
                path.push("/");
                add_pictures(&folder.join(name), &path, names, sizes_bytes)?;
            }
            Entry::Picture { size_bytes } => {
                names.push(path.into_boxed_os_str());
                sizes_bytes.push(size_bytes);
            }
        }
    }
    Ok(())
}

/// What counts in a folder.
enum Entry {
    Folder,
    /// A file with a picture's ending; 0 bytes if it is a link that cannot be followed.
    Picture {
        size_bytes: u64,
    },
}

/// What counts in a folder and does not begin with a dot, sorted by name.
fn entries(folder: &Path) -> Result<Vec<(OsString, Entry)>, DataError> {
    let fail = |source| DataError::Io { file: folder.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            let found = look_at(&entry).map_err(|source| DataError::Io { file: entry.path(), source })?;
            entries.extend(found.map(|found| (name, found)));
        }
    }
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

fn look_at(entry: &DirEntry) -> io::Result<Option<Entry>> {
    let path = entry.path();
    let ending = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let is_picture = ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()));
    let kind = entry.file_type()?;
    if kind.is_dir() {
        return Ok(Some(Entry::Folder));
    }
    if !kind.is_symlink() {
        // Reading a pipe would not end, whatever it is named.
        let size = (is_picture && kind.is_file()).then(|| entry.metadata()).transpose()?;
        return Ok(size.map(|file| Entry::Picture { size_bytes: file.len() }));
    }
    match fs::metadata(&path) {
        Ok(target) if target.is_dir() && leads_back(&path)? => {
            let target = fs::read_link(&path)?;
            tracing::warn!("{}: links to {}, which holds it; not followed", path.display(), target.display());
            Ok(None)
        }
        Ok(target) if target.is_dir() => Ok(Some(Entry::Folder)),
        Ok(target) => Ok((is_picture && target.is_file()).then_some(Entry::Picture { size_bytes: target.len() })),
        Err(_) if is_picture => Ok(Some(Entry::Picture { size_bytes: 0 })),
        Err(error) => {
            let target = fs::read_link(&path)?;
            // It may have been a folder of pictures.
            tracing::warn!("{}: links to {}: {error}; not followed", path.display(), target.display());
            Ok(None)
        }
    }
}

/// Whether a link leads to a folder that holds the link or one of the folders gone through to it: followed, it would never
/// end.
fn leads_back(link: &Path) -> io::Result<bool> {
    let target = fs::canonicalize(link)?;
    let link = std::path::absolute(link)?;
    // What stands before `..` was not gone through.
    let through = link.ancestors().skip(1).take_while(|folder| folder.file_name().is_some());
    Ok(through.filter_map(|folder| fs::canonicalize(folder).ok()).any(|folder| folder.starts_with(&target)))
}

#[cfg(test)]
mod tests {
    use super::super::{BatchLoader, InputForm, LoaderOptions, Normalization, Order, Part, load_sized};
    use super::*;
    use crate::data::picture::testing::{jpeg, png};
    use crate::data::{Augment, Normalize};
    use crate::error::{Kind, Kinded};
    use std::collections::BTreeSet;

    /// Pictures of several sizes whose colour tells class and number, three a class.
    fn pictures(classes: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (part, most) in [("train", 3), ("val", 2)] {
            for (label, class) in classes.iter().enumerate() {
                let class = folder.path().join(part).join(class);
                fs::create_dir_all(&class).unwrap();
                for number in 0..most {
                    let size = [9 + 5 * number, 20 - 4 * number];
                    let colour = |_, _| [50 * label as u8 + 10 * number as u8, 200, x_of(part)];
                    let ending = ["png", "JPG", "jpeg"][usize::from(number)];
                    let bytes = if number == 0 { png(size, colour) } else { jpeg(size, colour) };
                    fs::write(class.join(format!("{number}.{ending}")), bytes).unwrap();
                }
                fs::write(class.join("notes.txt"), "no picture").unwrap();
                fs::write(class.join(".hidden.png"), "no picture").unwrap();
            }
            fs::write(folder.path().join(part).join("list.csv"), "no class").unwrap();
        }
        folder
    }

    fn x_of(part: &str) -> u8 {
        if part == "train" { 100 } else { 30 }
    }

    fn message(folder: &Path) -> String {
        let error = load_8(folder).unwrap_err();
        assert!(error.kind() == Kind::Usage);
        error.to_string()
    }

    fn load_8(folder: &Path) -> Result<Dataset, DataError> {
        load(folder, &FolderOptions { image_size: 8, ..FolderOptions::default() })
    }

    fn options(batch_size: usize, threads: usize, order: Order) -> LoaderOptions {
        LoaderOptions {
            batch_size,
            form: InputForm::Images { border: 1, strip: 8 },
            order,
            drop_last: false,
            threads,
            part: Part::All,
        }
    }

    fn training(seed: u64, first_batch: usize) -> Order {
        Order::Shuffled { seed, first_epoch: 0, first_batch, augment: Augment::RandomResizedCropFlip }
    }

    /// Red, as a byte, and label of each sample of an epoch, the samples replaced, and all inputs.
    type Epoch = (Vec<(u8, u32)>, BTreeSet<u32>, Vec<f32>);

    fn epoch(split: &Arc<Split>, options: LoaderOptions) -> Epoch {
        let plain = Normalization::Pixels { mean: 0.0, deviation: 1.0 / 255.0 };
        let mut loader = BatchLoader::new(split.clone(), &plain, options).unwrap();
        let (mut seen, mut corrupt, mut inputs) = (Vec::new(), BTreeSet::new(), Vec::new());
        while let Some(batch) = loader.next_batch().unwrap() {
            let (sparse_kernels::Layout::Images(layout), values) = batch.inputs.values() else {
                panic!("images were asked for")
            };
            assert_eq!(batch.targets.len(), layout.samples());
            let red = |n| values[layout.index(n, 0, [3, 3])].round() as u8;
            seen.extend(batch.targets.classes().iter().enumerate().map(|(n, &label)| (red(n), label)));
            corrupt.extend(&batch.corrupt);
            inputs.extend_from_slice(values);
        }
        (seen, corrupt, inputs)
    }

    fn close(a: &[(u8, u32)], b: &[(u8, u32)]) -> bool {
        // JPEG is not exact.
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0.abs_diff(b.0) <= 3 && a.1 == b.1)
    }

    #[test]
    fn classes_and_pictures_are_found_in_order() {
        let folder = pictures(&["dog", "cat", "ant"]);
        let data = load_sized(IMAGE_FOLDER, Some(folder.path()), 8).unwrap();
        assert_eq!((data.classes, data.shape, data.train.len(), data.test.len()), (3, [3, 8, 8], 9, 6));
        assert_eq!(data.train.labels(), [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        let (seen, corrupt, _) = epoch(&data.train, options(4, 2, Order::Stored));
        // The first class by name is the last that was written.
        let expected = [100, 110, 120, 50, 60, 70, 0, 10, 20].into_iter().zip(data.train.labels().to_vec());
        assert!(close(&seen, &expected.collect::<Vec<_>>()) && corrupt.is_empty(), "{seen:?}");
        assert_eq!(epoch(&data.test, options(6, 1, Order::Stored)).0.len(), 6);
        assert_eq!(data.normalization(Normalize::PerImage), Normalization::PerImage);
        assert_eq!(data.normalization(Normalize::Channels).channels(), Some(3));
        // Without val, test is read.
        fs::rename(folder.path().join("val"), folder.path().join("test")).unwrap();
        let again = load_8(folder.path()).unwrap();
        assert_eq!((again.test.len(), again.sha256()), (6, data.sha256()));
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_named() {
        let folder = pictures(&["a", "b"]);
        let path = folder.path();
        let sum = load_8(path).unwrap().sha256();
        fs::create_dir(path.join("val/c")).unwrap();
        let differ = message(path);
        assert!(differ.contains("val has the class folder \"c\", ") && differ.contains("train does not"), "{differ}");
        fs::create_dir(path.join("train/c")).unwrap();
        let none =
            "train/c: has no .jpg, .jpeg or .png file, and neither do its subfolders; each class must have at least 1";
        assert!(message(path).ends_with(none), "{}", message(path));
        fs::remove_dir(path.join("val/c")).unwrap();
        assert!(message(path).contains("train has the class folder \"c\", "));
        fs::remove_dir(path.join("train/c")).unwrap();
        fs::rename(path.join("train/a/0.png"), path.join("train/a/9.png")).unwrap();
        assert_ne!(load_8(path).unwrap().sha256(), sum);
        for class in ["a", "b"] {
            fs::remove_dir_all(path.join("val").join(class)).unwrap();
        }
        assert!(message(path).contains("val: has no folders; each class must have one"));
        fs::remove_dir_all(path.join("val")).unwrap();
        // A share of the six is the test set.
        let alone = load_8(path).unwrap();
        assert_eq!((alone.train.len(), alone.test.len()), (5, 1));
        fs::create_dir(path.join("test")).unwrap();
        fs::remove_dir_all(path.join("train")).unwrap();
        assert!(message(path).contains("no folder train in"));
        let hint = load_sized(IMAGE_FOLDER, None, 8).unwrap_err().to_string();
        assert!(hint.contains("train/CLASS/*.jpg") && hint.contains("RIGL_DATA_DIR"), "{hint}");
    }

    /// The names of all training pictures in their order, class first.
    fn order(folder: &Path) -> Vec<String> {
        let data = load_8(folder).unwrap();
        let within = |file: PathBuf| file.strip_prefix(folder.join("train")).unwrap().to_str().unwrap().to_owned();
        data.train.files().map(within).collect()
    }

    #[test]
    fn pictures_in_subfolders_belong_to_the_class() {
        let folder = pictures(&["a", "b"]);
        let path = folder.path();
        let flat = ["a/0.png", "a/1.JPG", "a/2.jpeg", "b/0.png", "b/1.JPG", "b/2.jpeg"];
        assert_eq!(order(path), flat);
        let sum = load_8(path).unwrap().sha256();
        let a = path.join("train/a");
        // A folder is one whatever its name, and may have no picture.
        for sub in ["1.png", "1/deep/er", "none", ".hidden"] {
            fs::create_dir_all(a.join(sub)).unwrap();
        }
        for file in ["1.png/z.png", "1.png/b.jpg", "1/deep/er/x.png", "1/9.png", ".hidden/0.png", "1/notes.txt"] {
            fs::copy(a.join("0.png"), a.join(file)).unwrap();
        }
        let inner = ["a/0.png", "a/1/9.png", "a/1/deep/er/x.png", "a/1.JPG", "a/1.png/b.jpg", "a/1.png/z.png"];
        assert_eq!(order(path), [&inner[..], &flat[2..]].concat());
        let data = load_8(path).unwrap();
        assert_eq!(data.train.labels(), [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_ne!(data.sha256(), sum);
        let (seen, corrupt, _) = epoch(&data.train, options(10, 1, Order::Stored));
        assert!(corrupt.is_empty() && close(&seen[..6], &[0, 0, 0, 10, 0, 0].map(|red| (red, 0))), "{seen:?}");
        // A class may have nothing but subfolders.
        fs::create_dir(path.join("train/b/only")).unwrap();
        for file in ["0.png", "1.JPG", "2.jpeg"] {
            fs::rename(path.join("train/b").join(file), path.join("train/b/only").join(file)).unwrap();
        }
        assert_eq!(order(path)[7..], ["b/only/0.png", "b/only/1.JPG", "b/only/2.jpeg"]);
    }

    /// Checkpoints hold these sums: they must not change.
    #[test]
    fn the_sums_are_as_ever() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, size_bytes: usize| {
            let file = folder.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, vec![0; size_bytes]).unwrap();
        };
        for (name, size_bytes) in [("a2.JPEG", 2), ("a10.jpg", 3), ("B.png", 3), ("a.png", 1)] {
            write(&format!("train/a/{name}"), size_bytes);
        }
        for (file, size_bytes) in [("train/b/0.png", 5), ("val/a/0.png", 4), ("val/b/0.png", 4)] {
            write(file, size_bytes);
        }
        let sum = || load_8(folder.path()).unwrap().sha256();
        assert_eq!(order(folder.path()), ["a/B.png", "a/a.png", "a/a10.jpg", "a/a2.JPEG", "b/0.png"]);
        assert_eq!(sum(), "4073b6d5797267edb709067bfbe4d8daab96b14282261fc8d2bb15e15c0a7631");
        write("train/a/a/d/e.jpg", 8);
        write("train/a/a/c.png", 7);
        assert_eq!(order(folder.path())[..4], ["a/B.png", "a/a/c.png", "a/a/d/e.jpg", "a/a.png"]);
        assert_eq!(sum(), "c6a70359d8c9dc3c1c91d370d7481a004d59d6046ab4a5b9daf18b19bd21594c");
    }

    #[cfg(unix)]
    #[test]
    fn links_to_folders_are_followed_and_have_an_end() {
        use std::os::unix::fs::symlink;

        let folder = pictures(&["a", "b"]);
        let path = folder.path();
        let flat = order(path);
        let a = path.join("train/a");
        for (link, to) in [("self", "."), ("up", "../.."), ("whole", path.to_str().unwrap()), ("gone", "nowhere")] {
            symlink(to, a.join(link)).unwrap();
        }
        assert_eq!(order(path), flat);
        // Two that lead to each other, of which one is a class that is a link itself.
        let other = tempfile::tempdir().unwrap();
        fs::copy(a.join("0.png"), other.path().join("other.png")).unwrap();
        symlink(other.path(), a.join("other")).unwrap();
        symlink(&a, other.path().join("back")).unwrap();
        fs::remove_dir_all(path.join("train/b")).unwrap();
        symlink(other.path(), path.join("train/b")).unwrap();
        let [own, linked] = [&flat[..3], &["a/other/other.png".to_owned()]];
        let back = ["b/back/0.png", "b/back/1.JPG", "b/back/2.jpeg", "b/other.png"].map(str::to_owned);
        assert_eq!(order(path), [own, linked, &back].concat());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_a_picture_that_cannot_be_read() {
        use std::os::unix::fs::symlink;

        let folder = pictures(&["a", "b"]);
        let path = folder.path();
        let a = path.join("train/a");
        symlink(path.join("gone.png"), a.join("00.png")).unwrap();
        symlink("loop.png", a.join("loop.png")).unwrap();
        symlink("0.png", a.join("good.png")).unwrap();
        let names = ["a/0.png", "a/00.png", "a/1.JPG", "a/2.jpeg", "a/good.png", "a/loop.png"];
        assert_eq!(order(path)[..6], names);
        let data = load_8(path).unwrap();
        let (seen, corrupt, _) = epoch(&data.train, options(9, 2, Order::Stored));
        assert_eq!(corrupt, BTreeSet::from([1, 5]));
        // The next ones are in their places.
        let expected = [(0, 0), (10, 0), (10, 0), (20, 0), (0, 0), (50, 1), (50, 1), (60, 1), (70, 1)];
        assert!(close(&seen, &expected), "{seen:?}");
        let error = check(&a.join("00.png")).unwrap_err().to_string();
        let target = path.join("gone.png");
        assert!(error.starts_with(&format!("links to {}: ", target.display())), "{error}");
    }

    #[test]
    fn threads_and_stops_change_nothing() {
        let folder = pictures(&["a", "b", "c", "d", "e"]);
        let mut data = load_8(folder.path()).unwrap();
        data.hold_out(0.2, 1).unwrap();
        assert_eq!((data.train.len(), data.validation.as_ref().unwrap().len()), (12, 3));
        let (_, _, inputs) = epoch(&data.train, options(5, 1, training(4, 0)));
        for threads in [2, 3, 7] {
            assert!(epoch(&data.train, options(5, threads, training(4, 0))).2 == inputs);
        }
        let second = inputs.len() / 12 * 5;
        let resumed = epoch(&data.train, options(5, 2, training(4, 1))).2;
        assert!(inputs.ends_with(&resumed) && resumed.len() + second <= inputs.len() + 2048);
        assert!(epoch(&data.train, options(5, 2, training(5, 0))).2 != inputs);
    }

    #[test]
    fn the_next_of_the_order_takes_the_place_of_a_broken_picture() {
        let folder = pictures(&["a", "b", "c"]);
        let whole = epoch(&load_8(folder.path()).unwrap().train, options(2, 1, training(7, 0))).0;
        let order =
            super::super::dataset::shuffled(9, sparse_kernels::random::Key::new(7).with_name("batches").with(0));
        let data = load_8(folder.path()).unwrap();
        // One in the middle of the order, and its last two: there the order starts over.
        let broken = [order[3], order[7], order[8]];
        for sample in broken {
            let path = data.train.pictures_path(sample);
            fs::write(path, "no picture").unwrap();
        }
        let mut expected = whole.clone();
        (expected[3], expected[7], expected[8]) = (whole[4], whole[0], whole[0]);
        for threads in [1, 3] {
            let (seen, corrupt, _) = epoch(&data.train, options(2, threads, training(7, 0)));
            assert!(close(&seen, &expected), "{seen:?} {expected:?}");
            assert_eq!(corrupt, broken.into());
        }
        for sample in 0..9 {
            fs::write(data.train.pictures_path(sample), "no picture").unwrap();
        }
        let plain = Normalization::PerImage;
        let unread = Arc::new(load_8(folder.path()).unwrap().train.select(&[0, 1, 2, 3]));
        let mut loader = BatchLoader::new(unread, &plain, options(2, 2, Order::Stored)).unwrap();
        let error = loader.next_batch().unwrap_err().to_string();
        assert!(error.starts_with("none of the 4 images can be read; ") && error.contains("0.png: "), "{error}");
    }

    #[test]
    fn changes_of_pictures_in_memory_are_refused() {
        let folder = pictures(&["a"]);
        let data = load_8(folder.path()).unwrap();
        let order = Order::Shuffled { seed: 0, first_epoch: 0, first_batch: 0, augment: Augment::CropFlip };
        let error = BatchLoader::new(data.train, &Normalization::PerImage, options(2, 1, order)).unwrap_err();
        assert_eq!(error.to_string(), "augment crop-flip is for images in memory");
        let memory = super::super::load(super::super::EMBEDDED, None).unwrap().test;
        let error = BatchLoader::new(memory, &Normalization::PerImage, options(2, 1, training(0, 0))).unwrap_err();
        assert_eq!(error.to_string(), "augment random-resized-crop-flip is for image folders");
    }

    impl Split {
        fn pictures_path(&self, sample: u32) -> PathBuf {
            match &self.inputs {
                Inputs::Files(files) => files.path(sample, self.labels()[sample as usize]),
                Inputs::Bytes(_) | Inputs::Floats(_) | Inputs::Text(_) | Inputs::Lists(_) => {
                    panic!("what is in memory has no path")
                }
            }
        }
    }

    /// `cargo test --release -p rigl-cli -- --ignored --nocapture time_per_picture`
    #[test]
    #[ignore = "a measurement"]
    fn time_per_picture() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["train", "val"] {
            fs::create_dir_all(folder.path().join(part).join("a")).unwrap();
        }
        let noise =
            |x: u16, y: u16, n: u16| ((u32::from(x) / 3 * 37 + u32::from(y) / 2 * 91 + u32::from(n) * 7) % 61) as u8;
        for n in 0..128 {
            let picture =
                jpeg([500, 375], |x, y| [(x / 2) as u8, (y / 2) as u8, 0].map(|v: u8| v / 2 + noise(x, y, n)));
            fs::write(folder.path().join(format!("train/a/{n}.jpg")), picture).unwrap();
        }
        fs::copy(folder.path().join("train/a/0.jpg"), folder.path().join("val/a/0.jpg")).unwrap();
        let data = load(folder.path(), &FolderOptions::default()).unwrap();
        for (threads, order) in [(1, Order::Stored), (1, training(0, 0)), (2, training(0, 0))] {
            let options =
                LoaderOptions { form: InputForm::Images { border: 3, strip: 32 }, ..options(32, threads, order) };
            let mut loader = BatchLoader::new(data.train.clone(), &Normalization::PerImage, options).unwrap();
            let start = std::time::Instant::now();
            for _ in 0..2 {
                while loader.next_batch().unwrap().is_some() {}
            }
            let rate = 256.0 / start.elapsed().as_secs_f64();
            let bytes = fs::metadata(folder.path().join("train/a/0.jpg")).unwrap().len();
            println!("{threads} threads, {order:?}: {rate:.0} pictures of 500×375 in {bytes} bytes a second");
        }
    }
}
