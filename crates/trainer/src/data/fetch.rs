//! Data sets from where they are published, or from a local copy, into a folder where they are found.
//!
//! ```text
//! files → staging folder beside the goal → sums → unpacked → read as a data set → sums → renamed to the goal
//! ```
//!
//! Nothing stands under its final name before it was read and its sum found right: that of the official file, or that of
//! the content ([`content_sums`]), which knows recompressed and reordered copies. Whatever fails, the staging folder goes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::bufread::GzDecoder;
use md5::{Digest, Md5};

use super::known::{Home, names};
use super::{DataError, KnownSet, content_sums, read};
use crate::atomic_file::sync_folder;
use crate::error::{Kind, Kinded};
use crate::formats::foreign::recognize;
use crate::formats::unfold::{Allowance, is_folded};
use crate::interrupt::Interrupt;

/// Why a data set could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It is not published as files.
    #[error("data: {name} cannot be fetched: {}", why_not(name))]
    NoHome {
        /// The data set.
        name: &'static str,
    },
    /// No destination was given.
    #[error(
        "data: no folder for {name}; set --to DIR, or --data-dir DIR or the environment variable RIGL_DATA_DIR for DIR/{name}"
    )]
    NoGoal {
        /// The data set.
        name: &'static str,
    },
    /// The destination holds something else, or only a part.
    #[error("{}: exists, but the folder does not hold a complete, correct {name}; remove its files or choose another folder", file.display())]
    Occupied {
        /// The data set.
        name: &'static str,
        /// A file of it in the folder.
        file: PathBuf,
    },
    /// The local copy has neither the published files nor unpacked ones.
    #[error("data: {name}: neither {} nor {} (or .gz, .xz) in {}", published.join(", "), files.join(", "), folder.display())]
    NoCopy {
        /// The data set.
        name: &'static str,
        /// The files as published.
        published: Vec<&'static str>,
        /// The files themselves.
        files: Vec<&'static str>,
        /// The folder.
        folder: PathBuf,
    },
    /// The server does not send the file.
    #[error("{url}: {source}")]
    Http {
        /// The address.
        url: String,
        /// The answer.
        source: Box<ureq::Error>,
    },
    /// A download ended too early.
    #[error("{url}: broke off after {at} bytes{}: {source}", expected.map_or(String::new(), |expected| format!(" of {expected}")))]
    Broken {
        /// The address.
        url: String,
        /// Bytes there are.
        at: u64,
        /// Bytes there should be, if the server said.
        expected: Option<u64>,
        /// The reason.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file is not the published one and does not have its content.
    #[error(
        "{what}: its MD5 sum is {got}; that of the official file is {expected}{}",
        kind.map_or(String::new(), |kind| format!("; it is {kind}"))
    )]
    Sum {
        /// The file or address.
        what: String,
        /// Its sum.
        got: String,
        /// The sum it should have.
        expected: &'static str,
        /// What the file is, if that tells more.
        kind: Option<&'static str>,
    },
    /// Unpacked files hold something else.
    #[error(
        "data: {name}: the content sums of {from} are {}; those of the official set are {}",
        hex(got),
        hex(expected)
    )]
    Content {
        /// The data set.
        name: &'static str,
        /// Where the files are from.
        from: String,
        /// Sums of training and test samples.
        got: [u128; 2],
        /// What they should be.
        expected: [u128; 2],
    },
    /// The files make no data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It was asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Why a data set has no files to fetch.
fn why_not(name: &str) -> &'static str {
    match name {
        super::EMBEDDED => "it is built into the program",
        super::IMAGE_FOLDER => "it is a folder of your own images",
        super::text::TINY_SHAKESPEARE => "it is built into the program",
        super::table::TABLE | super::svmlight::SVMLIGHT | super::text::TEXT => "it is a file of your own",
        _ => "its publisher gives it only within an archive of all parts; unpack that into the data folder",
    }
}

impl Kinded for FetchError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoHome { .. } | Self::NoGoal { .. } | Self::Occupied { .. } | Self::NoCopy { .. } => Kind::Usage,
            Self::Data(error) => error.kind(),
            Self::Interrupted => Kind::Interrupted,
            _ => Kind::Failure,
        }
    }
}

fn hex(sums: &[u128; 2]) -> String {
    let [train, test] = sums;
    format!("{train:032x} and {test:032x}")
}

/// Where a data set is taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A folder of a web server.
    Url(String),
    /// A local folder.
    Folder(PathBuf),
}

/// What shows how far a download is: name, bytes there are, bytes there will be.
pub type OnProgress<'p> = &'p mut dyn FnMut(&str, u64, Option<u64>);

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Whether it was there already.
    pub present: bool,
    /// Training and test samples.
    pub samples: [usize; 2],
    /// Their sums.
    pub content: [u128; 2],
    /// Whether a known sum was found right: `None` if none is known.
    pub verified: Option<bool>,
}

/// Brings a data set to the folder `to`; does nothing but check if it is there.
///
/// # Errors
/// [`FetchError`]; nothing has changed then.
pub fn fetch(
    set: &KnownSet,
    origin: &Origin,
    to: &Path,
    interrupt: &Interrupt,
    progress: OnProgress<'_>,
) -> Result<Fetched, FetchError> {
    let home = set.home.ok_or(FetchError::NoHome { name: set.name })?;
    let present = set.files_in(to);
    if let Some(file) = present.first() {
        let occupied = || FetchError::Occupied { name: set.name, file: file.clone() };
        if present.len() < set.files.len() {
            return Err(occupied());
        }
        let fetched = verify(set, &present)?;
        return if fetched.verified == Some(false) { Err(occupied()) } else { Ok(fetched) };
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(fail_at(parent))?;
    let prefix = format!(".{}-", set.name);
    let staging = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(fail_at(parent))?;
    let files = staging.path().join("files");
    fs::create_dir(&files).map_err(fail_at(&files))?;

    let mut copy = Copy { interrupt, progress };
    // Of the published files, the first that has another sum.
    let mut wrong = None;
    let loose = match origin {
        Origin::Folder(folder) if !home.files.iter().all(|(name, _)| folder.join(name).is_file()) => {
            Some(loose_files(set, home, folder)?)
        }
        _ => None,
    };
    for file in loose.iter().flatten() {
        copy.file(file, &files)?;
    }
    for &(name, expected) in home.files.iter().filter(|_| loose.is_none()) {
        let (what, got) = match origin {
            Origin::Url(url) => copy.download(&format!("{}/{name}", url.trim_end_matches('/')), name, &files)?,
            Origin::Folder(folder) => copy.file(&folder.join(name), &files)?,
        };
        if got != expected && wrong.is_none() {
            let kind = kind_of(&files.join(name))?;
            wrong = Some(FetchError::Sum { what, got, expected, kind });
        }
    }
    let read = match &loose {
        // Read where they are, so that a message names the user's own file.
        Some(loose) => verify(set, loose),
        None => unpack(set, home, &files).and_then(|()| verify(set, &all_of(set, &files)?)),
    };
    let fetched = match (read, wrong) {
        (Ok(fetched), Some(wrong)) if fetched.verified != Some(true) => return Err(wrong),
        (Ok(fetched), None) if fetched.verified == Some(false) => {
            let (name, got, expected) = (set.name, fetched.content, set.content.unwrap_or_default());
            let from = match origin {
                Origin::Url(url) => url.clone(),
                Origin::Folder(folder) => folder.display().to_string(),
            };
            return Err(FetchError::Content { name, from, got, expected });
        }
        (Ok(fetched), _) => fetched,
        // What is not the official file need not be readable.
        (Err(_), Some(wrong)) => return Err(wrong),
        (Err(error), None) => return Err(error),
    };
    install(&files, to)?;
    // Where no sum of the content is known, those of the published files were right.
    let verified = fetched.verified.or(loose.is_none().then_some(true));
    Ok(Fetched { present: false, verified, ..fetched })
}

/// Reads the set's files and compares the sums of their content.
///
/// # Errors
/// [`DataError`] if they make no data set.
pub fn verify(set: &KnownSet, files: &[PathBuf]) -> Result<Fetched, FetchError> {
    let data = read(set, files)?;
    let content = content_sums(&data);
    let verified = set.content.map(|expected| content == expected);
    Ok(Fetched { present: true, samples: [data.train.len(), data.test.len()], content, verified })
}

/// What a downloaded file is, if it is no compressed one as all published files are.
fn kind_of(file: &Path) -> Result<Option<&'static str>, FetchError> {
    let mut beginning = Vec::new();
    let opened = File::open(file).map_err(fail_at(file))?;
    opened.take(64).read_to_end(&mut beginning).map_err(fail_at(file))?;
    Ok(if is_folded(&beginning) { None } else { recognize(&beginning) })
}

/// The set's own files in a local copy.
fn loose_files(set: &KnownSet, home: Home, folder: &Path) -> Result<Vec<PathBuf>, FetchError> {
    set.find(Some(folder)).map_err(|_| FetchError::NoCopy {
        name: set.name,
        published: home.files.iter().map(|&(name, _)| name).collect(),
        files: set.files.to_vec(),
        folder: folder.to_owned(),
    })
}

fn all_of(set: &KnownSet, folder: &Path) -> Result<Vec<PathBuf>, FetchError> {
    let (files, searched) = (set.files_in(folder), vec![folder.to_owned()]);
    let missing = set.files.iter().find(|name| !files.iter().any(|file| is_named(file, name)));
    match missing {
        Some(file) => Err(DataError::Missing { name: set.name.to_owned(), file, searched }.into()),
        None => Ok(files),
    }
}

/// Whether a file has this name, or this name and an ending.
fn is_named(file: &Path, name: &str) -> bool {
    let is = |got: &OsStr| names(name).iter().any(|name| got == name.as_str());
    file.file_name().is_some_and(is) || file.file_stem().is_some_and(is)
}

/// Takes the set's files out of the archives in `folder`, and removes these.
fn unpack(set: &KnownSet, home: Home, folder: &Path) -> Result<(), FetchError> {
    for (name, _) in home.files.iter().filter(|(name, _)| name.ends_with(".tar.gz")) {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let fail = fail_at(&path);
        let archive = File::open(&path).map_err(&fail)?;
        let mut allowance = Allowance::new(archive.metadata().map_err(&fail)?.len());
        let unfolded = allowance.reader(GzDecoder::new(io::BufReader::new(archive)));
        let mut archive = tar::Archive::new(unfolded);
        for entry in archive.entries().map_err(&fail)? {
            let mut entry = entry.map_err(&fail)?;
            let inner = entry.path().map_err(&fail)?.into_owned();
            // Only names that are wanted, so that none leads out of the folder.
            if let Some(file) = set.files.iter().find(|file| inner.file_name().is_some_and(|name| name == **file)) {
                let to = folder.join(file);
                let mut written = File::create(&to).map_err(fail_at(&to))?;
                io::copy(&mut entry, &mut written).map_err(&fail)?;
                written.sync_all().map_err(fail_at(&to))?;
            }
        }
        fs::remove_file(&path).map_err(&fail)?;
    }
    Ok(())
}

/// Moves the folder to its place; if a folder is there, each file into it.
fn install(files: &Path, to: &Path) -> Result<(), FetchError> {
    let fail = fail_at(to);
    if to.is_dir() {
        for entry in fs::read_dir(files).map_err(&fail)? {
            let entry = entry.map_err(&fail)?;
            fs::rename(entry.path(), to.join(entry.file_name())).map_err(&fail)?;
        }
    } else {
        fs::rename(files, to).map_err(&fail)?;
    }
    sync_folder(to).map_err(&fail)
}

fn fail_at(file: &Path) -> impl Fn(io::Error) -> FetchError {
    |source| FetchError::Io { file: file.to_owned(), source }
}

/// How long a server may take to answer, and to go on.
const PATIENCE: Duration = Duration::from_secs(60);

struct Copy<'c> {
    interrupt: &'c Interrupt,
    progress: OnProgress<'c>,
}

impl Copy<'_> {
    /// Copies a local file into `folder`; its name and MD5 sum.
    fn file(&mut self, file: &Path, folder: &Path) -> Result<(String, String), FetchError> {
        let from = File::open(file).map_err(fail_at(file))?;
        let length = from.metadata().map_err(fail_at(file))?.len();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sum = self.stream(from, &folder.join(&name), &name, Some(length), |_, source| fail_at(file)(source))?;
        Ok((file.display().to_string(), sum))
    }

    /// Downloads a file into `folder`; its address and MD5 sum.
    fn download(&mut self, url: &str, name: &str, folder: &Path) -> Result<(String, String), FetchError> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("rigl/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let http = |source| FetchError::Http { url: url.to_owned(), source: Box::new(source) };
        let mut response = agent.get(url).call().map_err(http)?;
        let expected = response.body().content_length();
        let broken = |at, source| FetchError::Broken { url: url.to_owned(), at, expected, source };
        let sum = self.stream(response.body_mut().as_reader(), &folder.join(name), name, expected, broken)?;
        Ok((url.to_owned(), sum))
    }

    /// Writes all of `from` to a file and returns its MD5 sum. `failed` makes the error of a read after a number of bytes.
    fn stream(
        &mut self,
        mut from: impl Read,
        to: &Path,
        name: &str,
        expected: Option<u64>,
        failed: impl Fn(u64, io::Error) -> FetchError,
    ) -> Result<String, FetchError> {
        let mut written = File::create(to).map_err(fail_at(to))?;
        let (mut buffer, mut sum, mut at) = (vec![0; 1 << 16], Md5::new(), 0u64);
        loop {
            if self.interrupt.requested() {
                return Err(FetchError::Interrupted);
            }
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(at, error)),
            };
            sum.update(&buffer[..read]);
            written.write_all(&buffer[..read]).map_err(fail_at(to))?;
            at += read as u64;
            (self.progress)(name, at, expected);
        }
        if expected.is_some_and(|expected| at < expected) {
            return Err(failed(at, io::ErrorKind::UnexpectedEof.into()));
        }
        written.sync_all().map_err(fail_at(to))?;
        Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EMBEDDED, SETS};
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::thread;

    /// The archive of a CIFAR-10 with two records a batch.
    fn archive() -> Vec<u8> {
        let encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut builder = tar::Builder::new(encoder);
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, bytes).unwrap();
        };
        add("cifar-10-batches-bin/readme.html", b"a page");
        for (index, file) in small(b"").files.iter().enumerate() {
            add(&format!("cifar-10-batches-bin/{file}"), &batch(index));
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn batch(index: usize) -> Vec<u8> {
        (0..2 * 3073).map(|i| if i % 3073 == 0 { index as u8 } else { (i * 7 % 251 + index) as u8 }).collect()
    }

    fn md5(bytes: &[u8]) -> String {
        Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// CIFAR-10, published as these bytes.
    fn small(published: &[u8]) -> KnownSet {
        let sum: &'static str = md5(published).leak();
        let home = Home { url: "", files: vec![("cifar-10-binary.tar.gz", sum)].leak() };
        KnownSet { home: Some(home), content: None, ..*KnownSet::named("cifar10").unwrap() }
    }

    /// A server that gives one answer to one request, then closes; its address.
    fn server(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Origin::Url(format!("http://{}/~kriz", listener.local_addr().unwrap()));
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap() == 0 {
                    return;
                }
                request.push(byte[0]);
            }
            assert!(request.starts_with(b"GET /~kriz/cifar-10-binary.tar.gz HTTP/1.1\r\n"));
            answer(&mut stream);
            let _ = stream.shutdown(Shutdown::Both);
        });
        origin
    }

    fn serve(bytes: Vec<u8>) -> Origin {
        server(move |stream| {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len()).unwrap();
            stream.write_all(&bytes).unwrap();
        })
    }

    fn get(set: &KnownSet, origin: &Origin, to: &Path) -> Result<Fetched, FetchError> {
        fetch(set, origin, to, &Interrupt::default(), &mut |_, _, _| ())
    }

    /// Fails, says this, and leaves nothing in the folder.
    fn refused(set: &KnownSet, origin: &Origin, parts: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let error = get(set, origin, &folder.path().join("cifar10")).unwrap_err();
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{message}");
    }

    #[test]
    fn a_download_is_checked_unpacked_and_found() {
        let bytes = archive();
        let set = small(&bytes);
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("cifar10");
        let mut seen = Vec::new();
        let origin = serve(bytes.clone());
        let mut progress = |name: &str, at, expected| seen.push((name.to_owned(), at, expected));
        let fetched = fetch(&set, &origin, &to, &Interrupt::default(), &mut progress).unwrap();
        assert_eq!((fetched.present, fetched.samples, fetched.verified), (false, [10, 2], Some(true)));
        let length = bytes.len() as u64;
        assert_eq!(seen.last(), Some(&("cifar-10-binary.tar.gz".to_owned(), length, Some(length))));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // The batches, and nothing else of the archive.
        assert_eq!(fs::read_dir(&to).unwrap().count(), 6);
        assert_eq!(fs::read(to.join("data_batch_3.bin")).unwrap(), batch(2));
        assert_eq!(super::super::load("cifar10", Some(folder.path())).unwrap().test.len(), 2);
        // It is there: nobody is asked.
        let again = get(&set, &Origin::Url("http://127.0.0.1:1/".to_owned()), &to).unwrap();
        assert_eq!((again.present, again.content, again.verified), (true, fetched.content, None));
    }

    #[test]
    fn what_goes_wrong_is_told_and_leaves_nothing() {
        let bytes = archive();
        let set = small(&bytes);
        let status = server(|stream| {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        refused(&set, &status, &["/~kriz/cifar-10-binary.tar.gz: ", "404"]);
        let (length, half) = (bytes.len(), bytes[..bytes.len() / 2].to_vec());
        let at = format!("broke off after {} bytes of {length}: ", half.len());
        let cut_off = server(move |stream| {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").unwrap();
            stream.write_all(&half).unwrap();
        });
        refused(&set, &cut_off, &[&at]);
        let mut other = bytes.clone();
        other[length / 2] ^= 1;
        let (got, expected) = (md5(&other), md5(&bytes));
        refused(&set, &serve(other), &["cifar-10-binary.tar.gz: its MD5 sum is ", &got, &expected]);
        let page = b"<!doctype html>".to_vec();
        refused(&set, &serve(page), &["cifar-10-binary.tar.gz: its MD5 sum is ", "; it is an HTML page"]);
        // The right sum of what is no data set.
        let page = b"<html>".to_vec();
        refused(&small(&page), &serve(page.clone()), &["cifar-10-binary.tar.gz: "]);
        let nobody = Origin::Url("http://127.0.0.1:1/".to_owned());
        refused(&set, &nobody, &["http://127.0.0.1:1/cifar-10-binary.tar.gz: "]);
    }

    #[test]
    fn an_interrupted_download_leaves_nothing() {
        let set = small(b"");
        let folder = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::default();
        let flag = interrupt.clone();
        // The server never ends.
        let origin = server(|stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
            while stream.write_all(&[0; 4096]).is_ok() {}
        });
        let mut progress = |_: &str, at, _: Option<u64>| {
            if at > 100_000 {
                flag.request();
            }
        };
        let error = fetch(&set, &origin, &folder.path().join("a/cifar10"), &interrupt, &mut progress).unwrap_err();
        assert!(matches!(error, FetchError::Interrupted), "{error}");
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 0);
    }

    /// Published or unpacked, in another order and compressed otherwise.
    #[test]
    fn local_copies_are_known_by_their_content() {
        let bytes = archive();
        let folder = tempfile::tempdir().unwrap();
        let published = folder.path().join("published");
        fs::create_dir(&published).unwrap();
        fs::write(published.join("cifar-10-binary.tar.gz"), &bytes).unwrap();
        let from = Origin::Folder(published.clone());
        let content = get(&small(&bytes), &from, &folder.path().join("one")).unwrap().content;

        let set = KnownSet { content: Some(content), ..small(&bytes) };
        let loose = folder.path().join("loose");
        fs::create_dir(&loose).unwrap();
        for (index, file) in set.files.iter().enumerate() {
            let records = batch(index);
            let reordered = [&records[3073..], &records[..3073]].concat();
            let folded = super::super::compressed::tests::folded(&reordered, ".xz");
            fs::write(loose.join(format!("{file}.xz")), folded).unwrap();
        }
        let fetched = get(&set, &Origin::Folder(loose.clone()), &folder.path().join("two")).unwrap();
        assert_eq!((fetched.verified, fetched.content), (Some(true), content));
        assert!(folder.path().join("two/test_batch.bin.xz").is_file());
        // An archive that was packed anew has another sum, and the same content.
        let anew = KnownSet { content: Some(content), ..small(b"another") };
        assert_eq!(get(&anew, &from, &folder.path().join("three")).unwrap().verified, Some(true));

        let mut damaged = batch(1);
        damaged[100] ^= 1;
        fs::remove_file(loose.join("data_batch_2.bin.xz")).unwrap();
        fs::write(loose.join("data_batch_2.bin"), damaged).unwrap();
        let known = format!("{:032x}", content[0]);
        refused(&set, &Origin::Folder(loose.clone()), &["content sums of", "loose are ", &known]);
        fs::write(loose.join("data_batch_2.bin"), [1; 7]).unwrap();
        refused(&set, &Origin::Folder(loose.clone()), &["loose/data_batch_2.bin: record 0 ends after 7 of 3073 bytes"]);
        fs::remove_file(loose.join("data_batch_2.bin")).unwrap();
        refused(&set, &Origin::Folder(loose), &["neither cifar-10-binary.tar.gz nor data_batch_1.bin, "]);
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let bytes = archive();
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("goal");
        fs::create_dir(&to).unwrap();
        fs::write(to.join("notes.txt"), "mine").unwrap();
        let set = small(&bytes);
        get(&set, &serve(bytes.clone()), &to).unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 7);
        let nobody = Origin::Url("http://127.0.0.1:1/".to_owned());
        let content = get(&set, &nobody, &to).unwrap().content;
        let other = KnownSet { content: Some([content[0], !content[1]]), ..set };
        let error = get(&other, &nobody, &to).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.to_string().contains("data_batch_1.bin: exists, but"), "{error}");
        fs::remove_file(to.join("test_batch.bin")).unwrap();
        assert!(matches!(get(&set, &nobody, &to).unwrap_err(), FetchError::Occupied { .. }));
        let error = get(KnownSet::named(EMBEDDED).unwrap(), &nobody, &to).unwrap_err();
        assert_eq!(error.to_string(), "data: fashion-mnist-mini cannot be fetched: it is built into the program");
    }

    #[test]
    fn published_files_are_the_sets_own_or_archives() {
        let without: Vec<_> = SETS.iter().filter(|set| set.home.is_none()).map(|set| set.name).collect();
        assert!(without.iter().all(|name| *name == EMBEDDED || name.starts_with("emnist-")), "{without:?}");
        for (set, home) in SETS.iter().filter_map(|set| Some((set, set.home?))) {
            assert!(home.url.starts_with("http") && home.url.ends_with('/'));
            for (name, sum) in home.files {
                let own = set.files.iter().any(|file| *name == format!("{file}.gz"));
                assert!(own || name.ends_with(".tar.gz"), "{name}");
                assert!(sum.len() == 32 && sum.bytes().all(|digit| digit.is_ascii_hexdigit()));
            }
        }
    }

    /// The sums in the program are those of real files.
    #[test]
    fn known_sets_are_verified() {
        let Some(folder) = std::env::var_os("RIGL_DATA_DIR") else {
            return eprintln!("not run: RIGL_DATA_DIR is not set");
        };
        for set in SETS.iter().filter(|set| set.content.is_some() && set.name != EMBEDDED) {
            match set.find(Some(Path::new(&folder))) {
                Ok(files) => assert_eq!(verify(set, &files).unwrap().verified, Some(true), "{}", set.name),
                Err(_) => eprintln!("not run: RIGL_DATA_DIR has no {}", set.name),
            }
        }
    }
}
